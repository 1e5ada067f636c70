"""A way out that takes imagined time: the port Mailer for a forecast. It delivers a share, fails one, defers the rest.

Which attempts are of which share is decided by a number made of message, recipient and attempt: the same queue comes to
the same end each time, and one recipient's fate hangs on nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import blake2b

from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.forecast import Habit, Shares
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Kept, Outcome, Report, Row
from pillarbox.engine.ports import Clock, Timer

_DELIVERED = Delivered("delivered, as is expected", "")
_DEFERRED = Deferred("deferred, as is expected", "", EnhancedCode(4, 0, 0))
_FAILED = Failed("failed, as is expected", "", EnhancedCode(5, 0, 0))
_KEPT = Kept("waits until its owner comes for it", "", EnhancedCode(4, 4, 7))
_OCTETS = 4
_ALL = 256**_OCTETS


class ImaginedMailer:
    """Meets the port Mailer. `keeps`: nothing is tried here, for its owner comes for it."""

    def __init__(self, clock: Clock, habit: Habit, *, seconds: float, keeps: bool = False) -> None:
        """`seconds` may be other than those of the habit, where one attempt stands for several."""
        self._clock = clock
        self._habit = habit
        self._seconds = seconds
        self._keeps = keeps
        self._open: dict[int, tuple[Job, Callable[[Job, Report], None], Timer]] = {}

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        timer = self._clock.call_later(self._seconds, partial(self._end, id(job)))
        self._open[id(job)] = job, done, timer

    def _end(self, key: int) -> None:
        job, done, _ = self._open.pop(key)
        done(job, Report(tuple(self._outcome(job, row) for row in job.rows)))

    def _outcome(self, job: Job, row: Row) -> Outcome:
        if self._keeps:
            return _KEPT
        shares = self._habit.later if row.attempts else self._habit.first
        mixed = blake2b(b"%d.%d.%d" % (job.message.id, row.number, row.attempts), digest_size=_OCTETS).digest()
        return _drawn(shares, int.from_bytes(mixed, "big") / _ALL)

    async def close(self, grace: float) -> None:
        for job, done, timer in list(self._open.values()):
            timer.cancel()
            done(job, Report(()))
        self._open.clear()


def _drawn(shares: Shares, number: float) -> Outcome:
    """By a number from 0 to 1."""
    if number < shares.success:
        return _DELIVERED
    return _FAILED if number < shares.success + shares.failure else _DEFERRED
