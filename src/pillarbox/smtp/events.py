"""What a connection reports: frozen values, one class for each thing that can happen.

The server's side first, then the client's. An event that needs a reply gets exactly one, before the next event comes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import NO_MAIL_OPTIONS, NO_RCPT_OPTIONS, BodyType, MailOptions, Mode, RcptOptions
from pillarbox.core.reply import EnhancedCode, Reply
from pillarbox.smtp.states import Verb


class Wait(Enum):
    """Why there is no event."""

    NEED_DATA = "nothing more can be read from what has come"
    PAUSED = "the last event has not been answered"


@dataclass(frozen=True, slots=True)
class Hello:
    """HELO, EHLO or LHLO. `name` is the client's, checked for its syntax only."""

    name: str
    extended: bool


@dataclass(frozen=True, slots=True)
class Within:
    """BY: in how many seconds from now the message is to be delivered (RFC 2852 §4)."""

    seconds: int  # by-mode N: may be 0 or less, for a message that is late already
    returns: bool
    trace: bool


@dataclass(frozen=True, slots=True)
class MailFrom:
    """MAIL, SEND, SOML or SAML. `size` is what the client declared, 0 where it declared none."""

    sender: Mailbox | None
    size: int
    body_type: BodyType
    mode: Mode = Mode.MAIL
    options: MailOptions = NO_MAIL_OPTIONS  # but for what depends on the clock: the next two
    within: Within | None = None
    hold_for: int | None = None  # seconds (RFC 4865)


@dataclass(frozen=True, slots=True)
class RcptTo:
    recipient: Mailbox
    options: RcptOptions = NO_RCPT_OPTIONS
    international: bool = False  # the command was not ASCII


@dataclass(frozen=True, slots=True)
class DataCommand:
    """DATA, in its place: answer 354 to let the message come."""


class BodyChunk(NamedTuple):
    """A piece of the message, dots unstuffed. Needs no reply."""

    octets: bytes


class BodyEnd(NamedTuple):
    """The last piece and the end mark. `bare`: there was a bare CR, LF or NUL somewhere in the message."""

    octets: bytes
    bare: bool


class ChunkEnd(NamedTuple):
    """The last octets of a BDAT's chunk (RFC 3030 §2). `last`: and of the message; then `bare` tells whether there was
    a bare CR, LF or NUL somewhere in it, which is allowed here. BodyChunk may have come before, from the first BDAT on.
    """

    octets: bytes
    last: bool
    bare: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """RSET."""


@dataclass(frozen=True, slots=True)
class Noop:
    """NOOP."""


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT."""


@dataclass(frozen=True, slots=True)
class Verify:
    """VRFY. `utf8`: the reply may be other than ASCII (RFC 6531 §3.7.4.2)."""

    argument: str
    utf8: bool = False


@dataclass(frozen=True, slots=True)
class Expand:
    """EXPN. `utf8` as with VRFY."""

    argument: str
    utf8: bool = False


@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTH. `initial` is the decoded initial response, None where there is none."""

    mechanism: str  # upper case
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """The line behind a 334, decoded; None: the client cancels."""

    octets: bytes | None


@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS."""


@dataclass(frozen=True, slots=True)
class Turn:
    """TURN."""


@dataclass(frozen=True, slots=True)
class Atrn:
    """ATRN for these domains, or all of the client's where none is named (RFC 2645 §5.2)."""

    domains: tuple[Domain, ...]


@dataclass(frozen=True, slots=True)
class Etrn:
    """ETRN for a domain, with all below it or alone; None stands for a queue of that server's own, which we have not
    (RFC 1985 §5.3)."""

    domain: Domain | None
    below: bool


@dataclass(frozen=True, slots=True)
class Help:
    """HELP."""

    argument: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that can't be carried out, for its syntax or its place; `reply` is what the protocol says to it."""

    verb: Verb
    reply: Reply
    classic: Reply | None = None  # what a listener says instead that gives the odd pairs of the classical table


ServerEvent = (
    Hello
    | MailFrom
    | RcptTo
    | DataCommand
    | BodyChunk
    | BodyEnd
    | ChunkEnd
    | Reset
    | Noop
    | Quit
    | Verify
    | Expand
    | Authenticate
    | AuthResponse
    | StartTls
    | Turn
    | Atrn
    | Etrn
    | Help
    | Refused
)


_ENCODED = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_TEXT = 2000  # characters of a reply in logs, records and notices


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """A reply of the server, and the command it answers. Only the first digit of `code` is to be relied on."""

    verb: Verb
    code: int
    enhanced: EnhancedCode | None
    lines: tuple[str, ...]  # without code and enhanced code

    @property
    def klass(self) -> int:
        return self.code // 100

    def __str__(self) -> str:
        prefix = f"{self.enhanced} " if self.enhanced is not None else ""
        text = " / ".join(self.lines)
        if self.verb is Verb.AUTH:  # some servers repeat what they were told, and this goes to logs and records
            text = _ENCODED.sub("[hidden]", text)
        if len(text) > MAX_TEXT:
            text = f"{text[:MAX_TEXT]} …"
        return f"{self.code} {prefix}{_CONTROL.sub('?', text)}"


class ProtocolError(Exception):
    """Base of what the connections raise."""


class LocalProtocolError(ProtocolError):
    """We used the connection wrongly; nothing was sent."""


class Unsendable(LocalProtocolError):
    """An argument holds what no command can carry."""


class RemoteProtocolError(ProtocolError):
    """The peer does not speak SMTP; the connection is of no more use."""
