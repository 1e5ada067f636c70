"""When to try again: a pure schedule of intervals with an end (RFC 5321 §4.5.4.1).

Knows neither the clock nor why an attempt failed. Invariant: a recipient is tried once more when its time is up, and
given up only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

GRAIN = 0.001  # seconds: an age this near the end has reached it, so that rounding never makes one attempt too many


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again in so many seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The time is up."""


class Ambiguity(Enum):
    """What is done with a message that was maybe delivered (RFC 1047)."""

    RETRY = "retry"  # by the schedule: rather twice than lost
    HOLD = "hold"  # not sent again before an operator says so
    ASK = "ask"  # its sender is asked, and has time to answer before it is sent again


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Seconds to wait after each failed attempt, the last repeated; `give_up` is the age that ends it, `warn` that at
    which its sender is told that it takes long, None for never."""

    intervals: tuple[float, ...]
    give_up: float
    warn: float | None = None
    ambiguous: Ambiguity = Ambiguity.RETRY
    ask_for: float = 4 * 3600.0  # that a sender has time who is asked whether the message has arrived

    def __post_init__(self) -> None:
        if not self.intervals or min(self.intervals) <= 0:
            raise ValueError("a retry schedule needs intervals, each longer than nothing")
        if self.give_up <= 0:
            raise ValueError("the time after which mail is given up must be longer than nothing")

    def decide(self, age: float, attempts: int) -> RetryAt | GiveUp:
        """What follows the n-th failed attempt of a message that was accepted `age` seconds ago."""
        left = self.give_up - age
        if left <= GRAIN:
            return GiveUp()
        nth = min(max(attempts, 1), len(self.intervals))
        return RetryAt(min(self.intervals[nth - 1], left))


# RFC 5321 §4.5.4.1: give up after 4-5 days; two attempts in the first hour or so, then every few hours.
DEFAULT = RetrySchedule(intervals=(300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0), give_up=5 * 86400.0)
