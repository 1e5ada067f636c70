"""Message ids: time-ordered, never given twice, whatever the clock does."""

from __future__ import annotations

from pillarbox.core.envelope import MessageId
from pillarbox.engine.ports import Clock

_COUNTER_BITS = 18  # 262,144 ids a millisecond before the next one is borrowed; 42 bits of milliseconds last until 2109


class IdSource:
    """`last` is the greatest id known from earlier runs: a clock that was set back goes on counting from there."""

    def __init__(self, clock: Clock, last: int = 0) -> None:
        self._clock = clock
        self._last = last

    def next(self) -> MessageId:
        earliest = int(self._clock.now() * 1000) << _COUNTER_BITS
        self._last = earliest if earliest > self._last else self._last + 1
        return MessageId(self._last)


def id_at(moment: float) -> MessageId:
    """The least id that could be given at that moment, in seconds since the epoch."""
    return MessageId(max(int(moment * 1000), 0) << _COUNTER_BITS)
