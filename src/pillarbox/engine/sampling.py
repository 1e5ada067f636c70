"""A part of a queue that stands for the whole: of each lane every n-th message, with what it weighs.

Pure. A message is kept or left out as a whole, so that jobs stay what they are; of each lane at least one is kept, of
those that are meant and of those that are not. Invariant: the weights of what is kept add up to all there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pillarbox.engine.forecast import Letter, Waiter
from pillarbox.engine.mail import State


class Stratum(NamedTuple):
    """What is counted apart."""

    lane: str
    meant: bool


class Sample:
    """`take` all letters in order, then ask."""

    def __init__(self, every: int, lane_of: Callable[[Letter, Waiter], str]) -> None:
        """`every`: one message in so many is kept; 1: all."""
        self._every = every
        self._lane_of = lane_of
        self._passed: Counter[Stratum] = Counter()  # messages
        self._all: Counter[Stratum] = Counter()  # recipients
        self._kept: Counter[Stratum] = Counter()
        self._in_lane: Counter[str] = Counter()
        self._kept_in_lane: Counter[str] = Counter()
        self.letters: list[Letter] = []  # what is kept, its recipients by the lanes in which they will wait
        self.held = 0  # of those that are meant
        self.total = 0

    def take(self, letter: Letter) -> None:
        waiters = []
        self.total += len(letter.waiters)
        for waiter in letter.waiters:
            if waiter.state is State.HELD:
                self.held += waiter.meant
            else:
                waiters.append(waiter._replace(lane=self._lane_of(letter, waiter)))
        if not waiters:
            return
        strata = [Stratum(waiter.lane, waiter.meant) for waiter in waiters]
        self._count(strata, self._all, self._in_lane)
        if self._passed[strata[0]] % self._every == 0 or any(each not in self._kept for each in strata):
            self._count(strata, self._kept, self._kept_in_lane)
            self.letters.append(letter._replace(waiters=tuple(waiters)))
        self._passed[strata[0]] += 1

    def _count(self, strata: list[Stratum], each: Counter[Stratum], lanes: Counter[str]) -> None:
        for stratum in strata:
            each[stratum] += 1
            lanes[stratum.lane] += 1

    @property
    def kept(self) -> int:
        return sum(self._kept.values())

    @property
    def is_whole(self) -> bool:
        return self._kept == self._all

    def meant(self) -> Iterator[tuple[str, int]]:
        """How many are meant in each lane that has some, the fullest first."""
        found = [(stratum.lane, count) for stratum, count in self._all.items() if stratum.meant]
        yield from sorted(found, key=lambda each: (-each[1], each[0]))

    def weight(self, waiter: Waiter) -> float:
        """How many a kept recipient stands for."""
        stratum = Stratum(waiter.lane, waiter.meant)
        return self._all[stratum] / self._kept[stratum]

    def weight_in(self, lane: str) -> float:
        """As `weight`, on the average of the lane."""
        kept = self._kept_in_lane[lane]
        return self._in_lane[lane] / kept if kept else 1.0
