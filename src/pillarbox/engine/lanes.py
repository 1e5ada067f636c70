"""A lane: one way out, and the jobs that wait for it, by priority and then in the order in which they came.

Knows neither what a job says nor when it is due. Invariant: a job is given out once, or withdrawn. A job without
MT-PRIORITY (RFC 6710) costs what it would cost without the extension: all such jobs stand in one line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pillarbox.engine.mail import Job
from pillarbox.engine.ports import Mailer
from pillarbox.engine.routing import Route


@dataclass(slots=True)
class Lane:
    """One way out and what waits for it. `limit`: jobs in flight."""

    mailer: Mailer
    limit: int
    ready: deque[Job] = field(default_factory=deque)  # of the usual priority, 0
    active: int = 0
    stale: bool = False  # made by a configuration of before: closed as soon as it has nothing to do
    ranked: dict[int, deque[Job]] = field(default_factory=dict)  # of other priorities; no line is empty
    last: str = ""  # what the next hop said last

    @property
    def idle(self) -> bool:
        return not (self.active or self.ready or self.ranked)

    def put(self, job: Job) -> None:
        """Behind those of its priority."""
        if priority := job.message.envelope.options.priority:
            self.ranked.setdefault(priority, deque()).append(job)
        else:
            self.ready.append(job)

    def take(self) -> Job:
        """The next one; one at least must wait."""
        if not self.ranked:
            return self.ready.popleft()
        best = max(self.ranked)
        return self.ready.popleft() if self.ready and best < 0 else self._take_ranked(best)

    def _take_ranked(self, priority: int) -> Job:
        line = self.ranked[priority]
        job = line.popleft()
        if not line:
            del self.ranked[priority]
        return job

    def withdraw(self, job: Job) -> bool:
        """Take that very job out of its line; False where it waits here no more."""
        priority = job.message.envelope.options.priority
        line = self.ranked.get(priority, deque()) if priority else self.ready
        for place, waiting in enumerate(line):
            if waiting is job:
                del line[place]
                if priority and not line:
                    del self.ranked[priority]
                return True
        return False


class Load(NamedTuple):
    """What a lane has to do: jobs that wait for their turn, and jobs in flight; and what its next hop said last."""

    lane: str
    ready: int
    in_flight: int
    last: str


def loads(lanes: Mapping[str, Lane]) -> list[Load]:
    """Of those that have something to do."""
    return [
        Load(name, len(lane.ready) + sum(map(len, lane.ranked.values())), lane.active, lane.last)
        for name, lane in lanes.items()
        if not lane.idle
    ]


LaneOpener = Callable[[str, Route], Lane]
