"""What DNS has said, for as long as it may be believed.

Bounded in number: what was not asked for longest goes first. A negative answer is kept as a positive one is, for a
time of its own (RFC 2308 §5), and a fault for a few seconds, so that a name server that is down is not asked for each
message (RFC 9520 §3.2). Knows nothing of DNS but the kinds of its answers.

Invariant: nothing is believed beyond the TTL it came with, but for `SHORTEST`; and time is the monotonic one, so that a
wall clock that is set makes no answer older or younger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from pillarbox.engine.ports import DnsFault, NoDomain, NoRecords

SHORTEST = 1.0  # seconds: a TTL of 0 holds for the burst that asked
LONGEST = 86_400.0
LONGEST_NEGATIVE = 3_600.0  # RFC 2308 §5: one to three hours work well
FAULT = 5.0  # RFC 9520 §3.2: at least one second, at most five minutes

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class AnswerCache(Generic[Key, Value]):
    """`size` answers at most; `hits` and `misses` count what was asked of it."""

    def __init__(self, size: int, monotonic: Callable[[], float]) -> None:
        self.hits = 0
        self.misses = 0
        self._size = size
        self._monotonic = monotonic
        self._kept: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key) -> Value | None:
        """What is known and has not run out."""
        kept = self._kept.get(key)
        if kept is not None:
            end, value = kept
            if self._monotonic() < end:
                self._kept.move_to_end(key)
                self.hits += 1
                return value
            del self._kept[key]
        self.misses += 1
        return None

    def keep(self, key: Key, value: Value, ttl: float) -> None:
        """Believe the answer for so many seconds, within the bounds of its kind."""
        longest = _LONGEST.get(type(value), LONGEST)
        self._kept[key] = self._monotonic() + max(SHORTEST, min(ttl, longest)), value
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)


_LONGEST: dict[type, float] = {NoRecords: LONGEST_NEGATIVE, NoDomain: LONGEST_NEGATIVE, DnsFault: FAULT}
