"""What the queue holds and passes about: Message, Row, Job, Outcome, Change, Unit.

Values shared by the queue, the spool and the mailers. A recipient's state is changed in `queue.py` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, IntFlag
from typing import TYPE_CHECKING, NamedTuple

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Envelope, MailOptions, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import EnhancedCode
from pillarbox.core.verp import return_address
from pillarbox.engine.records import Record

if TYPE_CHECKING:
    from pillarbox.engine.refusals import Refusal


class State(IntEnum):
    """Where a recipient stands. The numbers are those in the database; from DELIVERED on they are settled."""

    HELD = -1  # on disk only, not tried before an operator releases it
    SCHEDULED = 0  # on disk only, to be tried when `due` has come
    LEASED = 1  # in the memory of this worker: ready or in flight; after a crash it counts as scheduled
    DELIVERED = 2
    FAILED = 3
    EXPIRED = 4

    def __init__(self, number: int) -> None:
        self.settled = number >= 2


class Octets(IntFlag):
    """What a text holds beyond lines of ASCII. The numbers are those in the database."""

    PLAIN = 0
    EIGHT_BIT = 1  # octets above 127, anywhere
    UTF8_HEADER = 2  # some of them in the header section (RFC 6532)
    BINARY = 4  # a bare CR, a bare LF or a NUL: no DATA can carry it


class Told(IntFlag):
    """What its sender heard of a recipient that is still under way. The numbers are those in the database."""

    NOTHING = 0
    DELAY = 1  # that it takes long: `retry.warn`
    DEADLINE = 2  # that it was not delivered in the time of DELIVERBY, by-mode N
    ASKED = 4  # that it was maybe delivered, and is sent again unless somebody says that it has arrived


@dataclass(frozen=True, slots=True)
class Claim:
    """The Idempotency-Key of a message, and by what the same message is known when it comes again."""

    scope: str  # whose key it is: a user's mailbox, or "" on this machine
    key: str
    fingerprint: bytes = field(repr=False)
    until: float  # seconds since the epoch: how long it is remembered


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
    claim: Claim | None = None  # likewise


@dataclass(slots=True)
class Row:
    """One recipient of a message in the memory of the worker."""

    number: int  # within the message, from 0
    recipient: Recipient
    attempts: int = 0
    told: Told = Told.NOTHING
    next_hop: str | None = None  # an operator's choice, as a route names it; None: as the routes say


class Waiting(NamedTuple):
    """A recipient that waits, as it is seen at the moment `now`."""

    row: Row
    state: State
    due: float
    lane: str
    reply: str
    now: float


class Seen(NamedTuple):
    """Recipients of a message that wait on the disk, and how many of it do so in all."""

    message: Message
    recipients: list[Waiting]
    waiting: int


class Key(NamedTuple):
    """Which recipient; they sort by age."""

    message: MessageId
    number: int


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
    since: float = 0.0  # monotonic seconds: when it came to a lane that something slows down
    notes: tuple[Record, ...] = ()  # what held it up, to be written with its outcome

    @property
    def sender(self) -> Mailbox | None:
        """The reverse-path: behind a list its owner, but for what must not be answered (RFC 5321 §3.9.2)."""
        sender = self.message.envelope.sender
        return sender if sender is None else self.rows[0].recipient.owner or sender

    @property
    def reverse_path(self) -> Mailbox | None:
        """What a next hop is told in MAIL: the sender, or with VERP an address of ours that tells this recipient."""
        sender, verp = self.sender, self.message.envelope.options.verp
        if sender is None or verp is None:
            return sender
        return return_address(verp, self.message.id, self.rows[0].number)

    @property
    def options(self) -> MailOptions:
        """What MAIL asked for. Behind a list it is another message, of the list's owner: what its sender wanted to be
        told ends there (RFC 3461 §5.2.7.1), and so does the time in which it was to arrive."""
        options = self.message.envelope.options
        if self.rows[0].recipient.owner is None:
            return options
        return replace(options, ret=None, envelope_id=None, deliver_by=None)

    @property
    def forwarder(self) -> Mailbox | None:
        """The address of ours that forwards the message on, None where none does."""
        recipient = self.rows[0].recipient
        return recipient.original if recipient.forwarded else None


class Reach(Enum):
    """How far a message has come that was taken, and who tells its sender of the rest (RFC 3461 §5.2)."""

    FINAL = "final"  # in a mailbox here, or given to a program
    NOTIFYING = "notifying"  # the next hop has DSN and tells of the rest
    SILENT = "silent"  # the next hop has no DSN


@dataclass(frozen=True, slots=True)
class Delivered:
    """The next hop took it. `text` is its reply, or the name of the file it became."""

    text: str
    next_hop: str
    reach: Reach = Reach.FINAL
    keeps_time: bool = True  # False: a next hop without DELIVERBY took a message that has a time (RFC 2852)
    tls: str = ""  # the version that protected it on its way


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
class Ambiguous(Deferred):
    """Maybe delivered: the connection ended between the end of the message and the reply to it (RFC 1047)."""


@dataclass(frozen=True, slots=True)
class Kept(Deferred):
    """Nothing was tried: it waits until its owner comes for it, or for too long."""


@dataclass(frozen=True, slots=True)
class Withheld(Deferred):
    """Nothing was tried: it is held until an operator releases it."""


@dataclass(frozen=True, slots=True)
class Behind(Deferred):
    """Nothing was tried: the time of DELIVERBY, by-mode N, passed while it waited for its turn, which it still does."""


@dataclass(frozen=True, slots=True)
class Overdue(Failed):
    """Nothing was tried: the time of DELIVERBY, by-mode R, has passed."""


@dataclass(frozen=True, slots=True)
class Stopped(Deferred):
    """Nothing was tried: an operator wants something else to be done."""


Outcome = Delivered | Deferred | Failed


@dataclass(frozen=True, slots=True)
class Unsent(Deferred):
    """Nothing was tried: the next hop takes no more messages on this connection (RFC 9422), so it goes by another."""


@dataclass(frozen=True, slots=True)
class Waits(Deferred):
    """Nothing was tried: its lane has no room for it, or makes no attempts for now. `due`: seconds since the epoch."""

    due: float = 0.0
    parked: bool = False  # its lane fetches it before that, as soon as there is room
    cause: str = ""  # of the slow-down; "": there was only no room, of which nothing is told


UNTRIED = (Kept, Withheld, Behind, Overdue, Unsent, Stopped, Waits)  # outcomes without an attempt


class Report(NamedTuple):
    """What came of a job: an outcome for each of its rows, in order, and what was tried on the way.

    No outcomes at all: the job was not tried, since we are closing; its recipients are due when we are back.
    """

    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()  # attempts that gave no outcome: hosts that could not be reached, DNS answers
    source: str = ""  # the address of an egress pool from which it was tried, "" where none was chosen
    transcript: str = ""  # what was said, where it explains an outcome: lines, `> ` ours and `< ` the next hop's

    @property
    def is_ambiguous(self) -> bool:
        """Some recipients may have the message."""
        return any(isinstance(outcome, Ambiguous) for outcome in self.outcomes)


class Change(NamedTuple):
    """The new state of one recipient."""

    message: MessageId
    number: int
    state: State
    due: float  # seconds since the epoch; when SCHEDULED will be tried, when the others came about
    attempts: int
    lane: str
    reply: str | None  # None: as it was
    record: Record | None  # what is told of it
    told: Told = Told.NOTHING  # what the sender has heard so far
    parked: bool = False  # SCHEDULED for lack of room in its lane, which may fetch it at any time


class Rerouted(NamedTuple):
    """The way out that an operator chose for one recipient; None: as the routes say."""

    message: MessageId
    number: int
    next_hop: str | None


class Unit(NamedTuple):
    """What must reach the disk together or not at all."""

    messages: tuple[Message, ...] = ()
    changes: tuple[Change, ...] = ()
    records: tuple[Record, ...] = ()  # that come after those of the changes
    finished: tuple[Message, ...] = ()  # all recipients are settled: the body may go
    notes: tuple[Record, ...] = ()  # records that come before those of the changes
    rerouted: tuple[Rerouted, ...] = ()
    repeats: tuple[Record, ...] = ()  # messages that came again: dropped where there are too many
    refusals: tuple[Refusal, ...] = ()  # of sessions without a message
    refusals_kept: int = 0  # the newest so many of all that there are
