"""Every port of the engine in one reading: what it asks of the world, as Protocols.

The real ones are in `adapters` and `net`, the imagined ones in `sim`. Callbacks run on the event loop's thread and
never before the call that took them has returned. Times are seconds; `now` is since the epoch, `monotonic` since any
moment. No port lets an exception of its technique through: faults are the values and the errors named here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import Job, Key, Leased, Message, Place, Report, Seen, Unit
from pillarbox.engine.predicate import Predicate
from pillarbox.smtp.scram import ScramKeys

# --- time


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer: ...


# --- the spool


class SpoolError(Exception):
    """The unit is not on the disk. Its text is for the log."""


class SpoolFull(SpoolError):
    """There is no room on the disk: 452."""


class SpoolBroken(SpoolError):
    """The disk failed, or the spool is closed: 451."""


SpoolCallback = Callable[[SpoolError | None], None]


class Spool(Protocol):
    """Durable storage of one worker. What `done(None)` was called for would survive a power cut."""

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        """Commit the unit together with others. A peer waits for an urgent one; the others may ride along later.

        From here on a spilled body is the spool's: with the message refused it goes, too.
        """

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        """Append to the body of a large message that is still coming in."""

    def unspill(self, message: MessageId) -> None:
        """Forget a spilled body: its message was not accepted."""

    async def lease(self, now: float, limit: int) -> list[Leased]:
        """Take messages with recipients that are due, earliest first. Raises SpoolError."""

    async def lease_at(self, places: Sequence[Place], after: MessageId, limit: int) -> list[Leased]:
        """Take what waits in those places, due or not, of messages behind `after`: oldest first. Raises SpoolError."""

    async def lease_parked(self, lane: str, limit: int) -> list[Leased]:
        """Take what waits for room in that lane, by priority, then oldest first. Raises SpoolError."""

    async def parked_lanes(self) -> list[str]:
        """The lanes for which something waits for room. Raises SpoolError."""

    async def waiting_at(self, places: Sequence[Place]) -> int:
        """How many recipients wait there. Raises SpoolError."""

    async def make_due_at(self, places: Sequence[Place], now: float) -> int:
        """Let what waits there be tried now; gives how many. Raises SpoolError."""

    async def find(self, wanted: Predicate, now: float, after: Key, limit: int) -> list[Key]:
        """Recipients that are meant, behind `after`: oldest first, as the last commit left them. Raises SpoolError."""

    async def see(self, keys: Sequence[Key], now: float) -> list[Seen]:
        """Those of them that wait, with their messages; nothing is taken. Raises SpoolError."""

    async def depth(self) -> tuple[int, float | None]:
        """How many recipients are not settled, and when the oldest message of them came. Raises SpoolError."""

    def refuses(self, octets: int) -> SpoolError | None:
        """Why a message of so many octets can't be stored now, as far as it is known without trying."""

    async def next_due(self) -> float | None:
        """When the earliest scheduled recipient is due; None when there is none. Raises SpoolError."""

    def body(self, message: Message) -> AsyncIterator[bytes]:
        """The whole text in chunks, from memory or from the disk. Raises SpoolError."""


# --- who is here


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a mailbox here."""

    mailbox: Mailbox
    full_name: str = ""
    password: str | None = None  # its hash, as argon2 writes it; None: nobody can log in
    quota: int | None = None  # octets that the mailbox may hold: more is 552
    soft_quota: int | None = None  # octets from which mail is put off: 450
    enabled: bool = True
    operator: bool = False  # may ask for the live status
    owns: tuple[Domain, ...] = ()  # relay domains whose mail waits for TURN, ATRN or ETRN
    scram: ScramKeys | None = None  # of the same password; None: no login by SCRAM
    created_at: float | None = None  # since the epoch; None: before that was kept


class Audience(Enum):
    """Whom a list trusts with something; the value is the word of the command line."""

    NOBODY = "nobody"
    MEMBERS = "members"
    AUTHENTICATED = "authenticated"
    ANYONE = "anyone"


@dataclass(frozen=True, slots=True)
class Posting:
    """Who may send to a list."""

    audience: Audience
    members: frozenset[Mailbox]

    def permits(self, sender: Mailbox | None, user: Mailbox | None) -> bool:
        """Whether mail of that reverse-path, from a session of that user (None: not authenticated), is taken."""
        match self.audience:
            case Audience.ANYONE:
                return True
            case Audience.AUTHENTICATED:
                return user is not None
            case Audience.MEMBERS:
                return sender in self.members or user in self.members
            case Audience.NOBODY:
                return False


@dataclass(frozen=True, slots=True)
class Accepted:
    """Mail for the address is taken; `targets` are where it goes, at least one: users here or addresses elsewhere."""

    targets: tuple[Mailbox, ...]
    limited: bool = False  # the only target is a user with a quota
    announced: Mailbox | None = None  # a forward that is told to the client: 251 (RFC 5321 §3.4)
    owners: Mapping[Mailbox, Mailbox] = field(default_factory=dict)  # of targets behind a list: who gets its bounces
    postings: tuple[Posting, ...] = ()  # of the lists on the way: all must permit the sender


@dataclass(frozen=True, slots=True)
class Relayed:
    """The domain is not ours, but we take its mail from anyone and pass it on, or keep it for its owner."""


@dataclass(frozen=True, slots=True)
class NotLocal:
    """The domain is none of ours."""


@dataclass(frozen=True, slots=True)
class NoSuchUser:
    """The domain is ours, the local part is not known."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The user is gone; `to` is told, nothing is forwarded: 551 (RFC 5321 §3.4)."""

    to: Mailbox


@dataclass(frozen=True, slots=True)
class Disabled:
    """The user is known and takes no mail for now."""


@dataclass(frozen=True, slots=True)
class Circular:
    """The aliases lead in a circle, nowhere, too deep, or to too many addresses."""


Resolution = Accepted | Relayed | NotLocal | NoSuchUser | Moved | Disabled | Circular


@dataclass(frozen=True, slots=True)
class Verified:
    """VRFY: somebody of that address and, where known, full name."""

    mailbox: Mailbox
    full_name: str = ""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """VRFY: more than one is meant by that name."""

    candidates: tuple[Verified, ...]


@dataclass(frozen=True, slots=True)
class Forwarded:
    """VRFY: not here, will be forwarded to that address."""

    to: Mailbox


@dataclass(frozen=True, slots=True)
class AList:
    """The address is that of a list. `members` in their order; `audience` may have them."""

    members: tuple[Verified, ...]
    audience: Audience


@dataclass(frozen=True, slots=True)
class Unverifiable:
    """The address may be good, but that can't be known here: another host's, or caught by a catch-all."""


Verification = Verified | Ambiguous | Forwarded | Moved | Disabled | AList | Unverifiable | NoSuchUser


class Directory(Protocol):
    """Answers from memory, so it may be asked on the hot path."""

    def resolve(self, address: Mailbox) -> Resolution: ...

    def is_local(self, domain: Domain) -> bool: ...

    def keeps(self, domain: Domain) -> bool:
        """Whether mail for this relay domain waits for its owner, where no route says otherwise."""

    def user(self, address: Mailbox) -> User | None:
        """The user of exactly that address, enabled or not."""

    def login(self, name: str) -> User | None:
        """The user who logs in by that name: an address, or a local part that is of one domain only, else of the first
        domain that has it. Also for the login name of a terminal."""

    def all_have_keys(self) -> bool:
        """Whether whoever may log in by a password may by SCRAM, too."""

    def login_names(self, name: str) -> tuple[str, ...]:
        """The addresses of which `login` may find a user by that name, in one case; at least one."""

    def verify(self, name: str) -> Verification:
        """What a name of VRFY or EXPN means: an address, else a local part, else words of a full name.

        Raises AddressError where it is meant as an address and is none.
        """


class AccountsFault(Exception):
    """Nobody can be checked now. Its text is for the log."""


@dataclass(frozen=True, slots=True)
class ScramAccount:
    """The keys of somebody, with a nonce of this login. Of who has none, keys that are always the same and that nobody
    can tell from real ones; `user` is None then, and where the user is disabled."""

    keys: ScramKeys
    nonce: str
    user: User | None


class Accounts(Protocol):
    """Who somebody is."""

    async def check(self, name: str, password: str) -> User | None:
        """The user who logs in so; None for a wrong password, an unknown or a disabled user, in the same time.

        Raises AccountsFault.
        """

    def scram(self, name: str) -> ScramAccount:
        """What a login by SCRAM needs, at once and in the same time for all."""


class Tokens(Protocol):
    """Who a token of OAuth is for."""

    async def subject(self, token: str) -> str | None:
        """The name of a user, as the authority that gave the token has it; None where it is not good here.

        Raises AccountsFault.
        """


class MailboxFault(Exception):
    """A mailbox can't be looked at. Its text is for the log."""


class Mailboxes(Protocol):
    """The mailboxes on this machine."""

    async def usage(self, user: Mailbox) -> int:
        """Octets in it, 0 where there is none yet. Raises MailboxFault."""


class Presence(Protocol):
    """The terminals that users have open."""

    def active(self, user: Mailbox) -> bool:
        """Whether a terminal of the user takes messages now."""

    async def show(self, user: Mailbox, text: str) -> int:
        """Show a text on every terminal of the user; on how many it stands, known within a few seconds at most."""


# --- DNS


@dataclass(frozen=True, slots=True)
class MxRecord:
    preference: int
    host: str  # lower case, no trailing dot; "" is the root, as in a null MX (RFC 7505)


@dataclass(frozen=True, slots=True)
class NoRecords:
    """The name exists and has none of that type."""


@dataclass(frozen=True, slots=True)
class NoDomain:
    """The name does not exist (NXDOMAIN)."""


@dataclass(frozen=True, slots=True)
class DnsFault:
    """No answer worth the name: time-out, SERVFAIL, a broken answer. Never to be taken for NoRecords."""

    reason: str


IpAddress = IPv4Address | IPv6Address
MxAnswer = tuple[MxRecord, ...] | NoRecords | NoDomain | DnsFault
AddressAnswer = tuple[IpAddress, ...] | NoRecords | NoDomain | DnsFault


class Resolver(Protocol):
    async def mx(self, domain: Domain) -> MxAnswer:
        """The MX records in no particular order."""

    async def addresses(self, host: str) -> AddressAnswer:
        """A and AAAA records together; a fault only where neither query gave an address."""


# --- the ways out


class Network(Protocol):
    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int, *, seconds: float) -> None:
        """Connect to an IP address within so many seconds, with a protocol made by the factory. Raises OSError."""

    async def connect_unix(self, factory: Callable[[], asyncio.Protocol], path: str, *, seconds: float) -> None:
        """As `connect`, to a Unix socket. Raises OSError."""


class ConnectionTerms(Protocol):
    """What the limits of a lane say of its connections; they may change at any time."""

    @property
    def messages_per_connection(self) -> int | None: ...

    @property
    def recipients_per_transaction(self) -> int | None: ...

    def may_open(self) -> float:
        """0: open one connection now, which is counted. Else the seconds to wait before asking again."""


class Mailer(Protocol):
    """A way out: SMTP, a Maildir, nowhere."""

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        """Try the job once. `done` is called exactly once, whatever happens."""

    async def close(self, grace: float) -> None:
        """End what is under way within `grace` seconds; jobs not ended by then are reported as not tried."""
