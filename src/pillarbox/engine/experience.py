"""What the history says of a next hop: how long an attempt takes, and what comes of it; with defaults where it is mute.

Pure. A lane with few attempts is taken for one of its kind (`mx`, `smtp`, `maildir` …); a kind with few, too, is
expected to take everything. First attempts are counted apart from later ones: who greylists refuses the first and takes
the second. No record says how long an attempt took; what was delivered at once without having to wait shows it, so the
tenth part of the first deliveries that was the quickest tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pillarbox.engine.forecast import Habit, Past, Shares
from pillarbox.engine.mail import State

ENOUGH = 20  # attempts, or deliveries, from which on they say something
REMOTE_SECONDS = 0.5  # that an attempt at another host is expected to take
LOCAL_SECONDS = 0.01  # and one at a mailbox here
_LOCAL = frozenset(("maildir", "lmtp"))
_INSTANT = frozenset(("discard", "turn", "hold"))
_SAMPLES = 1000  # durations kept of a lane
_QUICKEST = 10  # one in so many
_LEAST_SECONDS = 0.001


@dataclass(slots=True)
class _Attempts:
    tries: int = 0
    delivered: int = 0
    failed: int = 0

    def add(self, tries: int, state: State | None) -> None:
        """`state`: what the last of them came to; None: they were all deferred."""
        self.tries += tries
        if tries:
            self.delivered += state is State.DELIVERED
            self.failed += state is State.FAILED

    def shares(self) -> Shares:
        return Shares(self.delivered / self.tries, self.failed / self.tries)


@dataclass(slots=True)
class _Seen:
    """Of one lane, or of all of a kind."""

    first: _Attempts = field(default_factory=_Attempts)
    later: _Attempts = field(default_factory=_Attempts)
    seconds: list[float] = field(default_factory=list)

    def add(self, attempts: int, state: State | None, seconds: float | None) -> None:
        if attempts == 1:
            self.first.add(1, state)
        elif attempts:
            self.first.add(1, None)
            self.later.add(attempts - 1, state)
        if attempts == 1 and state is State.DELIVERED and seconds is not None and len(self.seconds) < _SAMPLES:
            self.seconds.append(seconds)

    @property
    def tries(self) -> int:
        return self.first.tries + self.later.tries


class Experience:
    """Learns from recipients, and says what to expect of a lane."""

    def __init__(self, *, success: float | None = None, seconds: float | None = None) -> None:
        """Whatever the history says: the share of attempts that end in a delivery, and the seconds that one takes."""
        self._success = success
        self._seconds = seconds
        self._seen: dict[str, _Seen] = {}

    def learn(self, past: Past) -> None:
        self._add(past.lane, past.attempts, past.state, past.seconds)

    def learn_deferred(self, lane: str, attempts: int) -> None:
        """From one that waits for its next attempt."""
        self._add(lane, attempts, None, None)

    def _add(self, lane: str, attempts: int, state: State | None, seconds: float | None) -> None:
        if lane and attempts:
            for name in {lane, _kind(lane)}:
                self._seen.setdefault(name, _Seen()).add(attempts, state, seconds)

    def habit(self, lane: str) -> Habit:
        kind = _kind(lane)
        known = [seen for name in (lane, kind) if (seen := self._seen.get(name)) is not None]
        seconds, measured = self._duration(kind, known)
        if self._success is not None:
            chosen = Shares(self._success)
            return Habit(seconds, chosen, chosen, measured, 0)
        first = next((seen.first.shares() for seen in known if seen.first.tries >= ENOUGH), Shares())
        later = next((seen.later.shares() for seen in known if seen.later.tries >= ENOUGH), first)
        tries = next((seen.tries for seen in known if max(seen.first.tries, seen.later.tries) >= ENOUGH), 0)
        return Habit(seconds, first, later, measured, tries)

    def _duration(self, kind: str, known: list[_Seen]) -> tuple[float, bool]:
        if kind in _INSTANT:
            return 0.0, False
        if self._seconds is not None:
            return self._seconds, False
        for seen in known:
            if len(seen.seconds) >= ENOUGH:
                quick = sorted(seen.seconds)[len(seen.seconds) // _QUICKEST]
                return max(quick, _LEAST_SECONDS), True
        return (LOCAL_SECONDS if kind in _LOCAL else REMOTE_SECONDS), False


def _kind(lane: str) -> str:
    """The word in front: all ways out of one kind."""
    return lane.partition(":")[0]
