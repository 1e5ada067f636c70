"""AUTH (RFC 4954): who a client is. The octets of a mechanism are read in `smtp/sasl.py`, passwords are checked by a
port.

Unknown user, wrong password and disabled user get the same reply, in the same time: the port sees to the time.
"""

from __future__ import annotations

from functools import partial

from pillarbox.core import reply as r
from pillarbox.core.reply import Reply
from pillarbox.engine.ports import AccountsFault, User
from pillarbox.engine.questions import Ask, Login, Step
from pillarbox.engine.service import MECHANISMS, Client
from pillarbox.smtp.events import Authenticate, AuthResponse
from pillarbox.smtp.sasl import parse_plain


def authenticate(client: Client, event: Authenticate) -> Step:
    """RFC 4954 §4."""
    if client.user is not None:
        return r.AUTH_DONE
    if event.mechanism not in MECHANISMS:
        return client.erred(r.AUTH_MECHANISM)
    if not client.may_authenticate:
        return r.AUTH_NEEDS_TLS
    return r.AUTH_CONTINUE if event.initial is None else _check(client, event.initial)


def respond(client: Client, event: AuthResponse) -> Step:
    """The line behind the 334."""
    return client.erred(r.AUTH_CANCELLED) if event.octets is None else _check(client, event.octets)


def _check(client: Client, octets: bytes) -> Step:
    credentials = parse_plain(octets)
    if credentials is None:
        return client.erred(r.AUTH_MALFORMED)
    return Ask(Login(credentials), partial(_checked, client))


def _checked(client: Client, user: User | AccountsFault | None) -> Reply:
    if isinstance(user, AccountsFault):
        return r.AUTH_FAULT
    if user is None:
        return client.erred(r.AUTH_FAILED)
    client.user = user
    return r.AUTHENTICATED
