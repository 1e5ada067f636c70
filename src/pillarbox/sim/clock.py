"""A clock that stands still until it is told to go on: the port Clock for tests, no sleeping.

Invariant: timers fire in the order of their time, at exactly their time, those of one time in the order they were set.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class VirtualTimer:
    """A callback that waits for its time."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if self._callback is not None:
            callback, self._callback = self._callback, None
            callback()


class VirtualClock:
    """Meets the port Clock; time passes in `advance` only."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._offset = now  # of the wall clock from the monotonic one
        self._monotonic = 0.0
        self._order = count()
        self._timers: list[tuple[float, int, VirtualTimer]] = []

    def now(self) -> float:
        return self._offset + self._monotonic

    def monotonic(self) -> float:
        return self._monotonic

    def call_later(self, delay: float, callback: Callable[[], None]) -> VirtualTimer:
        timer = VirtualTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + max(delay, 0.0), next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass and fire what falls due, also what is set on the way."""
        end = self._monotonic + seconds
        while self._timers and self._timers[0][0] <= end:
            self._monotonic, _, timer = heapq.heappop(self._timers)
            timer.fire()
        self._monotonic = end

    def step(self, most: float | None = None) -> bool:
        """Go to the next moment for which there is a timer, or `most` seconds on where there is none before; False
        where nothing will ever happen."""
        if self._timers and (most is None or self._timers[0][0] <= self._monotonic + most):
            self._monotonic = max(self._monotonic, self._timers[0][0])
            self.advance(0.0)
        elif most is None:
            return False
        else:
            self._monotonic += most
        return True

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; timers don't notice."""
        self._offset += seconds
