"""VRFY, EXPN and HELP: what a client asks without a transaction.

Who may not ask gets the same text for known and unknown, before anything is looked up, so neither words nor time tell
them apart (RFC 5321 §7.3). What the names mean is known in `verification.py`, the help in `core/table.py`.
"""

from __future__ import annotations

from functools import partial

from pillarbox.core import reply as r
from pillarbox.core.reply import Reply
from pillarbox.core.table import describe, overview
from pillarbox.engine.ports import SpoolError
from pillarbox.engine.questions import Ask, AskStatus, Status, Step
from pillarbox.engine.service import Client, Service
from pillarbox.engine.verification import expn, parameter_fault, vrfy
from pillarbox.smtp.events import Expand, Help, Verify
from pillarbox.smtp.states import Verb

_STATUS = "STATUS"


def verify(service: Service, client: Client, event: Verify) -> Step:
    """RFC 5321 §3.5."""
    if parameter_fault(event.argument):
        return client.erred(r.UNKNOWN_PARAMETER_OF_COMMAND)
    if not client.may(Verb.VRFY):
        return client.probed(r.CANNOT_VERIFY)
    reply = vrfy(service.directory, event.argument, hostname=service.hostname)
    return reply if event.utf8 or reply.is_ascii else r.VERIFY_NEEDS_UTF8


def expand(service: Service, client: Client, event: Expand) -> Step:
    """RFC 5321 §3.5."""
    if parameter_fault(event.argument):
        return client.erred(r.UNKNOWN_PARAMETER_OF_COMMAND)
    if not client.may(Verb.EXPN):
        return client.probed(r.CANNOT_EXPAND)
    user = client.user.mailbox if client.user is not None else None
    reply = expn(service.directory, event.argument, user=user)
    return reply if event.utf8 or reply.is_ascii else r.EXPAND_NEEDS_UTF8


def help_on(service: Service, client: Client, event: Help) -> Step:
    """RFC 5321 §4.1.1.8; the live status is for operators."""
    if not client.may(Verb.HELP):
        return r.AUTH_NEEDED
    topic = event.argument.upper()
    if topic in ("", _STATUS) and client.user is not None and client.user.operator:
        return Ask(AskStatus(), partial(_status, service))
    lines = describe(topic) if topic else overview()
    return r.help_text(lines) if lines else r.NO_SUCH_TOPIC


def _status(service: Service, status: Status | SpoolError) -> Reply:
    if isinstance(status, SpoolError):
        return r.OUR_FAULT
    oldest = "none" if status.oldest is None else f"{int(status.oldest)} s"
    return r.status(
        (
            f"{service.hostname} up {int(status.uptime)} s",
            f"connections: {status.connections}",
            f"queued recipients: {status.queued}",
            f"oldest message: {oldest}",
        )
    )
