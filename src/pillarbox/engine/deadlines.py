"""Jobs that wait for their turn while the time of DELIVERBY runs out (RFC 2852): who is told when it has.

What is on the disk is due at its time; this is about what has left it. Decides nothing about recipients. Invariant: a
job that is watched is either forgotten or reported once, not before its time by the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pillarbox.engine.mail import Job
from pillarbox.engine.ports import Clock, Timer
from pillarbox.engine.retry import GRAIN


class Deadlines:
    def __init__(self, clock: Clock, late: Callable[[Job], None]) -> None:
        self._clock = clock
        self._late = late
        self._timers: dict[int, Timer] = {}  # by the identity of the job, which the timer keeps alive

    def watch(self, job: Job, until: float) -> None:
        """Say so when the time has come, wherever the job is by then."""
        delay = max(until - self._clock.now(), 0.0)
        self._timers[id(job)] = self._clock.call_later(delay, partial(self._fired, job, until))

    def forget(self, job: Job) -> None:
        if self._timers and (timer := self._timers.pop(id(job), None)) is not None:
            timer.cancel()

    def _fired(self, job: Job, until: float) -> None:
        del self._timers[id(job)]
        if self._clock.now() < until - GRAIN:  # the clock was set back
            self.watch(job, until)
        else:
            self._late(job)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
