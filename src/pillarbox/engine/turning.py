"""TURN, ATRN and ETRN: one engine with three doors (RFC 821 §3.8, RFC 2645, RFC 1985).

Only for domains that the authenticated user owns. TURN and ATRN end in a change of roles on the same connection: the
250 is given only when there is something to be sent. Knows neither connections nor the queue.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pillarbox.core import reply as r
from pillarbox.core.address import Domain
from pillarbox.core.reply import Reply
from pillarbox.engine.ports import SpoolError
from pillarbox.engine.questions import Ask, AskWaiting, Release, Step
from pillarbox.engine.service import Client
from pillarbox.smtp.events import Atrn, Etrn, Turn
from pillarbox.smtp.states import Verb

Swap = Callable[[tuple[Domain, ...]], None]  # called with the domains when the roles are to change


def turn(client: Client, event: Turn, swap: Swap) -> Step:
    """RFC 821 §3.8: to refuse is to say 502."""
    if not client.may(Verb.TURN) or client.user is None:
        return r.AUTH_NEEDED
    domains = client.user.owns
    if not domains:
        return r.TURN_NOTHING_OWNED
    return Ask(AskWaiting(domains), partial(_waiting, swap, domains, r.TURN_NOTHING_QUEUED))


def atrn(client: Client, event: Atrn, swap: Swap) -> Step:
    """RFC 2645 §5.2."""
    if not client.may(Verb.ATRN) or client.user is None:
        return r.AUTH_NEEDED
    domains = event.domains or client.user.owns
    if not domains or not set(domains) <= set(client.user.owns):
        return r.ATRN_NOT_OWNED
    return Ask(AskWaiting(domains), partial(_waiting, swap, domains, r.ATRN_NO_MAIL))


def _waiting(swap: Swap, domains: tuple[Domain, ...], nothing: Reply, count: int | SpoolError) -> Reply:
    if isinstance(count, SpoolError):
        return r.TURN_FAULT
    if not count:
        return nothing
    swap(domains)
    return r.TURN_OK


def etrn(client: Client, event: Etrn) -> Step:
    """RFC 1985 §5: starts a delivery to the host that a route names for the domain."""
    if not client.may(Verb.ETRN) or client.user is None:
        return r.AUTH_NEEDED
    wanted = event.domain
    if wanted is None:
        return r.ETRN_NOT_ALLOWED
    domains = tuple(
        domain
        for domain in client.user.owns
        if domain == wanted or (event.below and domain.ascii.endswith(f".{wanted.ascii}"))
    )
    return Ask(Release(domains), _released) if domains else r.ETRN_NOT_ALLOWED


def _released(count: int | SpoolError | None) -> Reply:
    if isinstance(count, SpoolError):
        return r.ETRN_FAULT
    if count is None:
        return r.ETRN_NO_HOST
    return r.etrn_started(count) if count else r.ETRN_NOTHING_QUEUED
