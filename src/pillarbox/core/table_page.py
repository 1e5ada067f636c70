"""What the pages of the command -> reply table are made of: Page, Case, and the cases that many commands have.

Data alone; what is looked up in it stands in `table.py`. Knows no session and no configuration: a condition names the
key of the configuration that decides it. A condition is one sentence in ASCII, for it is sent in replies to HELP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

SEQUENCES = "RFC 5321 section 4.3.2"
EXTENSIONS = "RFC 5321 section 4.1.1.11"
ORDER = "RFC 5321 section 4.1.4"


@dataclass(frozen=True, slots=True)
class Case:
    """Why a command gets a code. `enhanced`: the codes that may go with it, with spaces between them."""

    enhanced: str
    condition: str
    source: str = SEQUENCES
    _: KW_ONLY
    classic_only: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A command and its replies by code: those of the classical table in its order, and those that came later."""

    name: str
    syntax: str
    summary: str
    source: str
    classical: Mapping[int, Case]
    later: Mapping[int, Case]


# --- cases that many commands have

_LINE = "The line has more than 512 octets, or holds a bare CR, a bare LF or a NUL."
TOO_LONG = Case("5.5.2", _LINE)
TOO_LONG_MAIL = Case(
    "5.5.2",
    "The line has more than 512 octets and those that the offered extensions add, or holds a bare CR, a bare LF or "
    "a NUL.",
)
CLOSING = Case(
    "4.3.0 4.3.2 4.4.2 4.7.0",
    "The server must close: it stops or the session has lasted too long (4.3.2), the client made too many errors "
    "(4.7.0) or was silent for too long (4.4.2), or the server has a fault (4.3.0).",
)
CLOSING_MAIL = Case(
    "4.3.0 4.3.2 4.4.2 4.7.0",
    "The server must close: it stops or the session has lasted too long (4.3.2), the client made too many errors or "
    "transactions (4.7.0) or was silent for too long (4.4.2), or the server has a fault (4.3.0).",
)
CLOSING_PROBED = Case(
    "4.3.0 4.3.2 4.4.2 4.7.0",
    "The server must close: it stops or the session has lasted too long (4.3.2), the client made too many errors or "
    "asked for too many addresses (4.7.0) or was silent for too long (4.4.2), or the server has a fault (4.3.0).",
)
CLOSING_HELLO = Case(
    "",
    "The server must close: it stops, the session has lasted too long, the client made too many errors, asked for too "
    "many addresses or was silent for too long, or the server has a fault.",
)
NO_MAIL = Case("5.3.2", "The listener takes no mail (accepts_mail = false) and obeys QUIT only.", "RFC 7504 section 3")
NO_MAIL_HELLO = Case("", NO_MAIL.condition, NO_MAIL.source)
ARGUMENT = Case("5.5.4", "There is an argument, and the command takes none.")
NOT_OFFERED = Case(
    "5.5.1",
    "The listener does not offer the command: its commands say off, or it is for on-demand mail relay alone.",
    "RFC 5321 section 4.2.4",
)
NOT_ON_ODMR = Case("5.5.1", 'The listener is for on-demand mail relay alone (service = "odmr").', "RFC 2645 section 5")
OUTSIDE = Case("5.5.1", "HELO or EHLO has not been said, or a mail transaction is open.", ORDER)
NOT_ENTITLED = Case(
    "5.7.0",
    "The listener keeps the command for those who have authenticated, or for its relay networks too (its commands say "
    "auth or trusted), and the client is none of them.",
    "RFC 4954 section 6",
)
PIPELINED = Case(
    "5.5.0",
    "The client, a stranger, has said HELO and sends commands without waiting for replies, and the listener has "
    "forbid_unauth_pipelining.",
    "RFC 2920 section 3.1",
)
PIPELINED_HELLO = Case(
    "",
    "The client, a stranger, has sent more behind the command without waiting for its reply, and the listener has "
    "forbid_unauth_pipelining.",
    "RFC 2920 section 3.1",
)
CLASSIC = Case(
    "2.0.0",
    'The listener has compat = "classic": said in place of 250, so that a client can be tried out on it.',
    "RFC 876",
    classic_only=True,
)
UNKNOWN_PARAMETER = Case("5.5.4", "A parameter belongs to no extension that is offered.", EXTENSIONS)
NOT_ASCII = Case("5.6.7", "The path is not ASCII, and MAIL has not asked for SMTPUTF8.", "RFC 6531 section 3.5")
