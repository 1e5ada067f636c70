"""AUTH (RFC 4954): who a client is. The machines of SASL stand in `smtp/mechanisms.py`; what they claim is put to ports
here, and what comes of it becomes a reply.

Unknown user, wrong password and disabled user get the same reply, in the same time: the ports see to the time.
Invariant: once too many logins from an address or for a name have failed, nothing secret is looked at. Names count as
they were typed: to know that two of them are one user would tell that there is one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from ipaddress import ip_network
from typing import Any

from pillarbox.core import reply as r
from pillarbox.core.reply import Reply
from pillarbox.engine.ports import AccountsFault, ScramAccount, User
from pillarbox.engine.questions import Ask, AskKeys, AskToken, Login, Step
from pillarbox.engine.service import Client, Exchange, Service
from pillarbox.smtp.events import Authenticate, AuthResponse
from pillarbox.smtp.mechanisms import SERVER, Setting
from pillarbox.smtp.sasl import BearerToken, Certified, Challenge, Claim, Credentials, KeysWanted, ServerStep, Verdict
from pillarbox.smtp.scram import ScramServer, Verifier

_SITE = 64  # bits of an IPv6 address that somebody has as a whole


def authenticate(service: Service, client: Client, event: Authenticate) -> Step:
    """RFC 4954 §4."""
    if client.user is not None:
        return r.AUTH_DONE
    if event.mechanism not in SERVER:
        return client.erred(r.AUTH_MECHANISM)
    if not client.may_authenticate:
        return r.AUTH_NEEDS_TLS
    if event.mechanism not in client.mechanisms:
        return client.erred(r.AUTH_MECHANISM)
    setting = Setting(client.channel, client.binds, service.discovery or "")
    client.exchange = exchange = Exchange(SERVER[event.mechanism](setting))
    return _step(service, client, exchange.machine.begin(event.initial))


def respond(service: Service, client: Client, event: AuthResponse) -> Step:
    """The line behind a 334."""
    if event.octets is None:
        return client.erred(r.AUTH_CANCELLED)
    assert client.exchange is not None
    return _step(service, client, client.exchange.machine.respond(event.octets))


def _step(service: Service, client: Client, step: ServerStep) -> Step:
    """What the machine wants next, as a reply or a question."""
    exchange = client.exchange
    assert exchange is not None
    if isinstance(step, Challenge):
        return r.challenge(b64encode(step.octets).decode("ascii")) if step.octets else r.AUTH_CONTINUE
    if isinstance(step, Verdict):
        client.exchange = None
        return _END[step](service, client, exchange)
    exchange.claim = step
    if any(service.auth_rate.spent(name, service.clock.monotonic()) for name in _counted(client, step)):
        client.exchange = None
        return client.erred(r.AUTH_THROTTLED)
    return _QUESTIONS[type(step)](service, client, step)


# --- the claims


def _password(service: Service, client: Client, claim: Credentials) -> Step:
    return Ask(Login(claim), partial(_checked, service, client))


def _keys(service: Service, client: Client, claim: KeysWanted) -> Step:
    return Ask(AskKeys(claim.name), partial(_verify, service, client))


def _token(service: Service, client: Client, claim: BearerToken) -> Step:
    if not claim.token:
        return _found(service, client, None)
    return Ask(AskToken(claim), partial(_named, service, client))


def _certificate(service: Service, client: Client, claim: Certified) -> Step:
    return _found(service, client, client.certified)


_QUESTIONS: Mapping[type, Callable[[Service, Client, Any], Step]] = {
    Credentials: _password,
    KeysWanted: _keys,
    BearerToken: _token,
    Certified: _certificate,
}


def _checked(service: Service, client: Client, user: User | AccountsFault | None) -> Step:
    if isinstance(user, AccountsFault):
        client.exchange = None
        return r.AUTH_FAULT
    return _found(service, client, user)


def _named(service: Service, client: Client, subject: str | AccountsFault | None) -> Step:
    if isinstance(subject, AccountsFault):
        return _checked(service, client, subject)
    user = None if subject is None else service.directory.login(subject)
    return _found(service, client, user if user is not None and user.enabled else None)


def _found(service: Service, client: Client, user: User | None) -> Step:
    """The claim is that user's; None: it is nobody's."""
    exchange = client.exchange
    assert exchange is not None and exchange.claim is not None
    exchange.user = user if _may_act(service, user, exchange.claim) else None
    if exchange.user is None:
        _count(service, client, exchange)
    return _step(service, client, exchange.machine.answer(good=exchange.user is not None))


def _verify(service: Service, client: Client, account: ScramAccount) -> Step:
    exchange = client.exchange
    assert exchange is not None and isinstance(exchange.machine, ScramServer) and exchange.claim is not None
    exchange.user = account.user if _may_act(service, account.user, exchange.claim) else None
    verifier = Verifier(account.keys, account.nonce, usable=exchange.user is not None)
    return _step(service, client, exchange.machine.challenge(verifier))


def _may_act(service: Service, user: User | None, claim: Claim) -> bool:
    """Only as oneself, whatever name one has for that (RFC 4422 §3.4.1)."""
    return not claim.acting_as or (user is not None and service.directory.login(claim.acting_as) == user)


# --- the end


def _granted(service: Service, client: Client, exchange: Exchange) -> Reply:
    assert exchange.user is not None
    client.user = exchange.user
    return r.AUTHENTICATED


def _denied(service: Service, client: Client, exchange: Exchange) -> Reply:
    _count(service, client, exchange)
    if client.failed_logins > service.auth_failures:
        return r.TOO_MANY_FAILED_LOGINS
    return client.erred(r.AUTH_FAILED)


def _malformed(service: Service, client: Client, exchange: Exchange) -> Reply:
    return client.erred(r.AUTH_MALFORMED)


_END: Mapping[Verdict, Callable[[Service, Client, Exchange], Reply]] = {
    Verdict.GRANTED: _granted,
    Verdict.DENIED: _denied,
    Verdict.MALFORMED: _malformed,
}

# --- how many have failed


def _count(service: Service, client: Client, exchange: Exchange) -> None:
    """Once for each login, as soon as it is known: who then says no more learns no more cheaply."""
    if exchange.counted:
        return
    exchange.counted = True
    client.failed_logins += 1
    now = service.clock.monotonic()
    for name in _counted(client, exchange.claim):
        service.auth_rate.charge(name, now)


def _counted(client: Client, claim: Claim | None) -> list[str]:
    """By what logins are limited. Behind an address of a relay network are many who are trusted with each other."""
    names = [] if client.trusted or not client.peer else [_site(client.peer)]
    if claim is not None and claim.name:
        names.append(f"user {claim.name.casefold()}")
    return names


@lru_cache(maxsize=4096)
def _site(peer: str) -> str:
    return str(ip_network((peer, _SITE), strict=False)) if ":" in peer else peer
