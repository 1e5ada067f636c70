"""What an operator asks of the spool: RecipientFilter, RecipientRow, MessageRow, and SpoolReader, who answers.

Values and one Protocol; knows neither SQL nor how they are printed. Times are seconds since the epoch, sizes octets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import State
from pillarbox.engine.records import Record

UNSETTLED = frozenset(state for state in State if not state.settled)


@dataclass(frozen=True, slots=True)
class RecipientFilter:
    """Which recipients are meant: those that meet every term that is not None. Texts compare without regard to case."""

    states: frozenset[State] = UNSETTLED
    least_attempts: int = 0
    message: MessageId | None = None
    sender: str | None = None  # the reverse-path, "" for the null one
    recipient: str | None = None  # the address or the original one
    domain: str | None = None  # of the address, as A-labels
    lane: str | None = None


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


class SpoolReader(Protocol):
    """Short questions to the tables. All raise SpoolError."""

    async def recipients(self, wanted: RecipientFilter, limit: int) -> list[RecipientRow]:
        """The first `limit` of them, by message and number: the oldest message first."""

    async def count(self, wanted: RecipientFilter) -> int:
        """How many there are."""

    async def message(self, message: MessageId) -> MessageRow | None:
        """The message, settled or not, or None where it is not known."""

    async def body(self, message: MessageId) -> bytes | None:
        """The whole text, header section first; None once the last recipient was settled."""
