"""Every port of the engine in one reading: what it asks of the world, as Protocols.

The real ones are in `adapters` and `net`, the imagined ones in `sim`. Callbacks run on the event loop's thread and
never before the call that took them has returned. Times are seconds; `now` is since the epoch, `monotonic` since any
moment. No port lets an exception of its technique through: faults are the values and the errors named here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import Job, Leased, Message, Report, Unit

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

    async def next_due(self) -> float | None:
        """When the earliest scheduled recipient is due; None when there is none. Raises SpoolError."""

    def body(self, message: Message) -> AsyncIterator[bytes]:
        """The whole text in chunks, from memory or from the disk. Raises SpoolError."""


# --- who is here


@dataclass(frozen=True, slots=True)
class Accepted:
    """Mail for the address is taken; `targets` are where it goes, at least one: users here or addresses elsewhere."""

    targets: tuple[Mailbox, ...]


@dataclass(frozen=True, slots=True)
class NotLocal:
    """The domain is none of ours."""


@dataclass(frozen=True, slots=True)
class NoSuchUser:
    """The domain is ours, the local part is not known."""


@dataclass(frozen=True, slots=True)
class Circular:
    """The aliases lead in a circle, too deep, or to too many addresses."""


Resolution = Accepted | NotLocal | NoSuchUser | Circular


class Directory(Protocol):
    """Answers from memory, so it may be asked on the hot path."""

    def resolve(self, address: Mailbox) -> Resolution: ...

    def is_local(self, domain: Domain) -> bool: ...


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


class Mailer(Protocol):
    """A way out: SMTP, a Maildir, nowhere."""

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        """Try the job once. `done` is called exactly once, whatever happens."""

    async def close(self, grace: float) -> None:
        """End what is under way within `grace` seconds; jobs not ended by then are reported as not tried."""
