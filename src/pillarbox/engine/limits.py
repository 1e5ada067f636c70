"""Limits: so much in a time (Limit, Rate) and so much at a time (Tally), by name, in bounded memory.

Knows no clock and nothing of what it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MAX_NAMES = 10_000  # buckets kept; the one unused for longest goes first
PERIODS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NAMES: Mapping[int, str] = {1: "a second", 60: "a minute", 3600: "an hour", 86400: "a day"}


class Limit(NamedTuple):
    """So many in a period of so many seconds, one of PERIODS."""

    most: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.most} {self.period}"

    @property
    def period(self) -> str:
        """As in "30 a minute"."""
        return _NAMES[self.seconds]


MAX_DEBT = 10  # periods to wait for the next token, at most, whatever was charged


class Rate:
    """A token bucket for each name: so many in a period, and as many at once after a quiet one."""

    def __init__(self, most: int, seconds: float = 60.0) -> None:
        self._limit = float(most)
        self._seconds = seconds
        self._buckets: dict[str, tuple[float, float, int]] = {}  # tokens, when they were counted, refused since

    def allows(self, name: str, now: float) -> bool:
        """Take a token; False: there is none. `now`: seconds of any clock that doesn't jump."""
        return not self.excess(name, now)

    def excess(self, name: str, now: float) -> int:
        """Take a token: 0. Where there is none: how many have been asked for by now, this one among them."""
        tokens, at, refused = self._bucket(name, now)
        filled = self._filled(tokens, now - at)
        if filled < 1:
            self._buckets[name] = (tokens, at, refused + 1)
            return int(self._limit) + refused + 1
        self._keep(name, filled - 1, now)
        return 0

    def spent(self, name: str, now: float) -> bool:
        """Whether there is no token; takes none."""
        tokens, at, _ = self._bucket(name, now)
        return self._filled(tokens, now - at) < 1

    def charge(self, name: str, now: float) -> None:
        """Take a token for what has happened already, with debts where there is none."""
        tokens, at, _ = self._bucket(name, now)
        self._keep(name, max(self._filled(tokens, now - at) - 1, -MAX_DEBT * self._limit), now)

    def _bucket(self, name: str, now: float) -> tuple[float, float, int]:
        return self._buckets.get(name, (self._limit, now, 0))

    def _filled(self, tokens: float, seconds: float) -> float:
        return min(self._limit, tokens + seconds * self._limit / self._seconds)

    def _keep(self, name: str, tokens: float, now: float) -> None:
        self._buckets.pop(name, None)  # so that the dict stays in the order of use
        if len(self._buckets) >= MAX_NAMES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[name] = (tokens, now, 0)


class Tally:
    """How many there are of each name now."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def __len__(self) -> int:
        return len(self._counts)

    def enter(self, name: str) -> int:
        """How many there are now, this one among them."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return count

    def leave(self, name: str) -> None:
        if (count := self._counts[name] - 1) > 0:
            self._counts[name] = count
        else:
            del self._counts[name]
