"""A lane: one way out, the jobs that wait for it, and what slows it down.

A lane is named by next-hop site, and by all else that makes connections differ. Knows neither what a job says nor when
it is due, nor how it is driven (`dispatch.py`). Replies are judged by its shaper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple, Protocol

from pillarbox.engine.fair import Line
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import Job, Report
from pillarbox.engine.pacing import LaneLimits as LaneLimits
from pillarbox.engine.pacing import LaneTerms, Pacer
from pillarbox.engine.ports import Mailer, Timer
from pillarbox.engine.routing import Route
from pillarbox.engine.slowdown import SlowDown


class LaneShaper(Protocol):
    """What the replies of a next hop make of the limits of its lane. Times are monotonic seconds."""

    def heard(self, report: Report, job: Job, now: float) -> Sequence[SlowDown]:
        """A job has come back; gives the slow-downs that begin or end by it."""

    def is_open(self, limit: int) -> bool:
        """Nothing is slowed down, where the configuration allows so many jobs in flight."""

    def opens_at(self, now: float) -> float:
        """No attempt before that: the breaker. In the past where it is closed."""

    def most(self, limit: int) -> int:
        """Jobs in flight at present, where the configuration allows so many."""

    def pace(self) -> Limit | None:
        """A rate that replies asked for. A job that was tried before is not kept to it."""

    def present(self, now: float) -> SlowDown | None:
        """What slows the lane down."""


class NoShaper:
    """Nothing that is said slows a lane down."""

    def heard(self, report: Report, job: Job, now: float) -> Sequence[SlowDown]:
        return ()

    def is_open(self, limit: int) -> bool:
        return True

    def opens_at(self, now: float) -> float:
        return now

    def most(self, limit: int) -> int:
        return limit

    def pace(self) -> Limit | None:
        return None

    def present(self, now: float) -> SlowDown | None:
        return None


FIRST = 5  # jobs in flight at first, where replies are judged; one more for each that the next hop answers


@dataclass(slots=True)
class Lane:
    """One way out and what waits for it. `usual`: jobs in flight where the configuration says nothing."""

    mailer: Mailer
    usual: int
    terms: LaneTerms = field(default_factory=LaneTerms)
    shaper: LaneShaper = field(default_factory=NoShaper)
    limit: int = 0  # jobs in flight
    first: float = inf  # of them, before the next hop has answered one
    answers: int = 0  # jobs to which it had something to say
    plain: bool = True  # neither a rate nor a shaper: nothing but `limit` holds a job back
    line: Line = field(default_factory=Line)
    name: str = ""
    tried: Line = field(default_factory=Line)  # while a pace is asked for: those tried before, which go first
    paced: Pacer | None = None  # that pace
    active: int = 0
    stale: bool = False  # made by a configuration of before: closed as soon as it has nothing to do
    last: str = ""  # what the next hop said last
    timer: Timer | None = None
    slowed: SlowDown | None = None  # what held jobs back that wait now
    shut: float = 0.0  # the end of the breaker's time by which jobs were put off last
    put_off: int = 0  # how many were
    ended: int = 0  # jobs that came back
    pace: float = 0.0  # jobs a second, as measured; 0 before that
    measured: tuple[float, int] = (0.0, 0)  # when that was, and how many had ended

    def __post_init__(self) -> None:
        self.adopt(self.terms.limits)
        if not isinstance(self.shaper, NoShaper):
            self.first = FIRST
        self.line, self.tried = Line(self.terms.limits.fair), Line(self.terms.limits.fair)

    def adopt(self, limits: LaneLimits) -> None:
        """From now on by these limits; shares are of the line's beginning."""
        self.terms.renew(limits)
        self.limit = self.usual if limits.connections is None else limits.connections
        self.plain = isinstance(self.shaper, NoShaper) and limits.messages is None
        if not self.line and self.active == 0:
            self.line, self.tried = Line(limits.fair), Line(limits.fair)

    @property
    def ready(self) -> int:
        """Jobs that wait for their turn."""
        return self.line.count + self.tried.count

    @property
    def is_open(self) -> bool:
        """A job that comes now may be given out at once: none waits, and nothing slows the lane down."""
        if self.active >= self.limit or self.ready:
            return False
        if self.plain:
            return True
        if self.active >= self.first + self.answers or self.slowed is not None or self.paced is not None:
            return False
        return self.terms.messages is None and self.shaper.is_open(self.limit)

    @property
    def idle(self) -> bool:
        return not (self.active or self.ready)

    def withdraw(self, job: Job) -> bool:
        """Take that very job out of its line; False where it waits here no more."""
        return self.line.withdraw(job) or self.tried.withdraw(job)


class Load(NamedTuple):
    """What a lane has to do: jobs that wait for their turn, and jobs in flight; what its next hop said last; what slows
    it down, and until when (seconds since the epoch)."""

    lane: str
    ready: int
    in_flight: int
    last: str
    slowed: str = ""
    until: float | None = None


LaneOpener = Callable[[str, Route], Lane]
