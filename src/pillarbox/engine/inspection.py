"""What an operator asks of the spool: RecipientRow, Extent, MessageRow, and SpoolReader, who answers.

Values and one Protocol; knows neither SQL nor how they are printed. Times are seconds since the epoch, sizes octets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import State
from pillarbox.engine.predicate import Predicate
from pillarbox.engine.records import Record
from pillarbox.engine.refusals import Refusal


@dataclass(frozen=True, slots=True)
class RecipientRow:
    """One recipient with what is asked of its message."""

    message: MessageId
    number: int  # within the message, from 0
    address: str
    original: str  # what RCPT said; the same as `address` where no alias was in between
    sender: Mailbox | None
    state: State
    due: float  # when SCHEDULED will be tried, when the others came about
    attempts: int
    lane: str  # "" until it was routed
    reply: str  # the last one, "" for none
    size: int
    received_at: float


@dataclass(frozen=True, slots=True)
class Extent:
    """How many are meant: of how many messages, and how many of them are in the server's memory, to be tried or being
    tried."""

    recipients: int
    messages: int
    active: int


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message with its records, in the order in which they were written."""

    id: MessageId
    received_at: float
    listener: str
    peer: str
    helo: str
    protocol: str
    sender: Mailbox | None
    size: int
    subject: str
    message_id: str
    eight_bit: bool
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class LaneRow:
    """What waits on the disk for one lane."""

    lane: str  # "" for what was never tried
    waiting: int
    oldest: float  # when its oldest message was received
    reply: str  # the last one that the youngest got, "" for none


class SpoolReader(Protocol):
    """Short questions to the tables. All raise SpoolError."""

    async def recipients(self, wanted: Predicate, limit: int, now: float) -> list[RecipientRow]:
        """The first `limit` of them, by message and number: the oldest message first. `now`: what ages are counted
        from."""

    async def count(self, wanted: Predicate, now: float) -> int:
        """How many there are."""

    async def extent(self, wanted: Predicate, now: float) -> Extent:
        """As `count`, and of what they are."""

    async def lanes(self, wanted: Predicate, limit: int, now: float) -> tuple[list[LaneRow], int]:
        """The fullest lanes of what waits and is meant, and how many there are in all."""

    async def message(self, message: MessageId) -> MessageRow | None:
        """The message, settled or not, or None where it is not known."""

    async def sought(self, word: str, *, since: float, until: float, limit: int) -> list[MessageId]:
        """The messages of that time that a word leads to, the newest first: the address of a recipient, before or
        behind an alias, a Message-ID, or `=` and what a next hop calls it."""

    async def refusals(self, session: MessageId, limit: int) -> list[Refusal]:
        """What was refused in that session, in order."""

    async def refused(self, recipient: str, *, since: float, until: float, limit: int) -> list[Refusal]:
        """What was refused to that recipient in that time, the newest first."""

    async def body(self, message: MessageId) -> bytes | None:
        """The whole text, header section first; None once the last recipient was settled."""
