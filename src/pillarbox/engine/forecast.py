"""What a forecast of the queue is made from, and what it comes to: Letter, Waiter, Past, Terms, Lookout, Forecast.

Pure values. What is assumed of a next hop is learnt in `experience.py`, from the history; whoever runs the queue on
imagined time fills in the rest. Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pillarbox.core.envelope import NO_MAIL_OPTIONS, MailOptions
from pillarbox.engine.fair import Fairness
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import State


class Waiter(NamedTuple):
    """A recipient that is not settled."""

    number: int  # within its message
    address: str
    lane: str  # of its last attempt, "" before the first
    state: State
    due: float
    attempts: int = 0
    told: int = 0
    next_hop: str | None = None
    meant: bool = True  # of those that were asked for; the others wait in the same lanes


class Letter(NamedTuple):
    """A message without its text, and its recipients that are not settled."""

    id: int
    received_at: float
    size: int
    sender: str | None  # None: the null reverse-path
    waiters: tuple[Waiter, ...]
    options: MailOptions = NO_MAIL_OPTIONS


class Past(NamedTuple):
    """A recipient that is settled. `seconds`: from the acceptance to the end."""

    domain: str
    lane: str
    state: State
    attempts: int
    seconds: float


class Shares(NamedTuple):
    """Of the attempts: how many end in a delivery, and how many in a failure for good. The rest is deferred."""

    success: float = 1.0
    failure: float = 0.0


@dataclass(frozen=True, slots=True)
class Habit:
    """How a next hop is expected to behave."""

    seconds: float  # that an attempt takes
    first: Shares  # of first attempts
    later: Shares
    measured: bool  # the seconds are from the history
    seen: int  # attempts of the history that the shares are from, 0: assumed


@dataclass(frozen=True, slots=True)
class Terms:
    """What a lane is allowed: jobs at a time, and messages in a time (None: any number); and how it is shared out."""

    connections: int
    messages: Limit | None = None
    priority: int = 0
    fair: Fairness = Fairness.TENANT


@dataclass(slots=True)
class Lookout:
    """What is expected of a lane. Counts are of the recipients that are meant."""

    lane: str
    terms: Terms
    habit: Habit
    waiting: float = 0.0
    delivered: float = 0.0
    failed: float = 0.0
    expired: float = 0.0
    last: float | None = None  # when the last one was settled

    @property
    def left(self) -> float:
        return max(self.waiting - self.delivered - self.failed - self.expired, 0.0)

    @property
    def per_second(self) -> float | None:
        """Attempts a second at most; None: as many as there are."""
        by_connections = self.terms.connections / self.habit.seconds if self.habit.seconds else None
        messages = self.terms.messages
        by_rate = None if messages is None else messages.most / messages.seconds
        return min((each for each in (by_connections, by_rate) if each is not None), default=None)


@dataclass(slots=True)
class Forecast:
    """The whole. `lanes` are the fullest first; `sampled` is how many recipients stand for all, None: each is there."""

    begins: float
    lanes: list[Lookout]
    held: int
    timeline: list[tuple[float, float]] = field(default_factory=list)  # so many seconds on, so many left
    sampled: int | None = None
    total: int = 0  # recipients in the queue, meant or not
    ends: float = 0.0  # where it was broken off, or all was settled

    @property
    def waiting(self) -> int:
        return round(sum(lane.waiting for lane in self.lanes))

    @property
    def delivered(self) -> int:
        return round(sum(lane.delivered for lane in self.lanes))

    @property
    def failed(self) -> int:
        return round(sum(lane.failed for lane in self.lanes))

    @property
    def expired(self) -> int:
        return round(sum(lane.expired for lane in self.lanes))

    @property
    def left(self) -> int:
        return round(sum(lane.left for lane in self.lanes))

    @property
    def last(self) -> float | None:
        """When the last one is settled; None where there is none, or where some are left."""
        if self.left:
            return None
        return max((lane.last for lane in self.lanes if lane.last is not None), default=None)
