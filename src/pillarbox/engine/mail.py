"""What the queue holds and passes about: Message, Row, Job, Outcome, Change, Unit.

Values shared by the queue, the spool and the mailers. A recipient's state is changed in `queue.py` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import NamedTuple

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.records import Record


class State(IntEnum):
    """Where a recipient stands. The numbers are those in the database; the last three are settled."""

    SCHEDULED = 0  # on disk only, to be tried when `due` has come
    LEASED = 1  # in the memory of this worker: ready or in flight; after a crash it counts as scheduled
    DELIVERED = 2
    FAILED = 3
    EXPIRED = 4

    @property
    def settled(self) -> bool:
        return self >= State.DELIVERED


class Octets(IntFlag):
    """What a text holds beyond lines of ASCII. The numbers are those in the database."""

    PLAIN = 0
    EIGHT_BIT = 1  # octets above 127, anywhere
    UTF8_HEADER = 2  # some of them in the header section (RFC 6532)
    BINARY = 4  # a bare CR, a bare LF or a NUL: no DATA can carry it


@dataclass(slots=True)
class Message:
    """A message and its envelope. `content` is the whole text, our Received field first, while it is kept in memory."""

    id: MessageId
    received_at: float  # seconds since the epoch
    envelope: Envelope
    listener: str  # the listener's name; "local" for `pillarbox send`, "notice" for our own notices
    peer: str  # IP address of the client, "" where there was none
    helo: str
    protocol: str  # the `with` keyword of its Received field
    size: int  # octets of the whole text
    header: HeaderView
    octets: Octets
    large: bool  # the text is a file beside the database, not a row
    content: bytes | None = field(default=None, repr=False)
    notes: tuple[Record, ...] = ()  # what hooks said of it on its way in; written with it, and not read back


@dataclass(slots=True)
class Row:
    """One recipient of a message in the memory of the worker."""

    number: int  # within the message, from 0
    recipient: Recipient
    attempts: int = 0


class Place(NamedTuple):
    """Where the recipients of a domain wait."""

    lane: str
    domain: Domain


class Leased(NamedTuple):
    """What was taken from the disk: some recipients of a message, and how many of it still wait there."""

    message: Message
    rows: list[Row]
    waiting: int


@dataclass(slots=True)
class Job:
    """One transaction to be tried: some recipients of one message that share a lane, and get the same text with the
    same reverse-path."""

    message: Message
    rows: list[Row]
    lane: str

    @property
    def sender(self) -> Mailbox | None:
        """The reverse-path: behind a list its owner, but for what must not be answered (RFC 5321 §3.9.2)."""
        sender = self.message.envelope.sender
        return sender if sender is None else self.rows[0].recipient.owner or sender

    @property
    def forwarder(self) -> Mailbox | None:
        """The address of ours that forwards the message on, None where none does."""
        recipient = self.rows[0].recipient
        return recipient.original if recipient.forwarded else None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The next hop took it. `text` is its reply, or the name of the file it became."""

    text: str
    next_hop: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now: 4yz, a connection or DNS fault, or our own. `status` is what a notice would say if it were the end."""

    text: str
    next_hop: str
    status: EnhancedCode
    remote: bool = False  # `text` is an SMTP reply of the next hop


@dataclass(frozen=True, slots=True)
class Failed:
    """Never: 5yz, or a rule of ours."""

    text: str
    next_hop: str
    status: EnhancedCode
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Kept(Deferred):
    """Nothing was tried: it waits until its owner comes for it, or for too long."""


Outcome = Delivered | Deferred | Failed


class Report(NamedTuple):
    """What came of a job: an outcome for each of its rows, in order, and what was tried on the way.

    No outcomes at all: the job was not tried, since we are closing; its recipients are due when we are back.
    """

    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()  # attempts that gave no outcome: hosts that could not be reached, DNS answers


class Change(NamedTuple):
    """The new state of one recipient."""

    message: MessageId
    number: int
    state: State
    due: float  # seconds since the epoch; when SCHEDULED will be tried, when the others came about
    attempts: int
    lane: str
    reply: str
    record: Record | None  # what is told of it


class Unit(NamedTuple):
    """What must reach the disk together or not at all."""

    messages: tuple[Message, ...] = ()
    changes: tuple[Change, ...] = ()
    records: tuple[Record, ...] = ()  # that come after those of the changes
    finished: tuple[Message, ...] = ()  # all recipients are settled: the body may go
    notes: tuple[Record, ...] = ()  # records that come before those of the changes
