"""What a session asks of the world before it can reply, and how it goes on with the answer.

A step of a session is a Reply, or an Ask: a question with the step that follows from its answer. Who drives the session
puts the question to a port. The type of each answer stands beside its question; any question may be answered by a
SpoolError where it needs the spool. Knows no port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, NamedTuple, final

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import Reply
from pillarbox.engine.mail import Message
from pillarbox.smtp.sasl import BearerToken, Credentials

if TYPE_CHECKING:
    from pillarbox.engine.hooks import Hook


@dataclass(frozen=True, slots=True)
class Spill:
    """Append this to the body of a large message. Answer: SpoolError or None."""

    message: MessageId
    octets: bytes


@dataclass(frozen=True, slots=True)
class Accept:
    """Make this message durable and take the responsibility for it. Answer: ports.Fate."""

    message: Message


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget what was spilled of this message; it is not accepted. Answer: None, at once."""

    message: MessageId


@dataclass(frozen=True, slots=True)
class Login:
    """Whether the password is right. Answer: ports.User, or None, or AccountsFault."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class AskKeys:
    """The SCRAM keys of that name. Answer: ports.ScramAccount."""

    name: str


@dataclass(frozen=True, slots=True)
class AskToken:
    """Who the token is for. Answer: a name, or None, or AccountsFault."""

    bearer: BearerToken


class SenderDomain(Enum):
    """What DNS says of the domain of a reverse-path."""

    GOOD = "it has a host that may take mail"
    NONE = "it does not exist, or has no host"
    NULL_MX = "it takes no mail (RFC 7505)"
    UNKNOWN = "no answer now"


@dataclass(frozen=True, slots=True)
class AskSenderDomain:
    """Answer: SenderDomain."""

    domain: Domain


@dataclass(frozen=True, slots=True)
class AskNullMx:
    """Whether the domain says that it takes no mail (RFC 7505). Answer: bool; False where DNS does not know."""

    domain: Domain


@dataclass(frozen=True, slots=True)
class AskUsage:
    """How full a mailbox is. Answer: octets, or None where it can't be looked at."""

    user: Mailbox


@dataclass(frozen=True, slots=True)
class Show:
    """Show a text on the terminals of users. Answer: the set of those who have it on one."""

    users: tuple[Mailbox, ...]
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskWaiting:
    """How many recipients of these domains wait. Answer: int or SpoolError."""

    domains: tuple[Domain, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Try the recipients of these domains now. Answer: how many there are, or SpoolError; None: none has a next hop."""

    domains: tuple[Domain, ...]


@dataclass(frozen=True, slots=True)
class AskStatus:
    """How the server is. Answer: Status or SpoolError."""


@dataclass(frozen=True, slots=True)
class Status:
    """`oldest`: seconds since the oldest message that is not settled came; None where there is none."""

    uptime: float  # seconds
    connections: int
    queued: int  # recipients not settled
    oldest: float | None


@dataclass(slots=True, eq=False)
class Consult:
    """Wait for a hook. Answer: hooks.Verdict, or None, or hooks.HookFailure."""

    hook: Hook[Any]
    awaitable: Awaitable[object] = field(repr=False)
    started: bool = False  # somebody waits for it

    def give_up(self) -> None:
        """Nobody is going to wait for it."""
        if not self.started and iscoroutine(self.awaitable):
            self.awaitable.close()


Logins = Login | AskKeys | AskToken
Question = (
    Spill
    | Accept
    | Drop
    | Logins
    | AskSenderDomain
    | AskNullMx
    | AskUsage
    | Show
    | AskWaiting
    | Release
    | AskStatus
    | Consult
)


@final
class Ask(NamedTuple):
    """Put the question; `then` takes its answer."""

    question: Question
    then: Callable[[Any], Step]


Step = Reply | Ask | None
