"""The line of one lane: jobs that wait for their turn, in fair shares between tenants, by priority within a share.

Deficit round robin (Shreedhar and Varghese): a job costs its recipients, each share may spend one more in each round.
With one share it is a deque, and costs that. Knows neither lanes nor time. Invariant: a job is given out once, or
withdrawn. A job without MT-PRIORITY (RFC 6710) costs what it would cost without the extension.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import chain

from pillarbox.engine.mail import Job, Message


class Fairness(Enum):
    """Between whom a lane is shared out; the value is the word in the configuration."""

    TENANT = "tenant"
    SENDER = "sender"
    SUBMITTER = "submitter"
    NONE = "none"


def tenant(message: Message) -> str:
    """Whose mail it is: of who authenticated to submit it, else of the domain of the reverse-path."""
    envelope = message.envelope
    if envelope.options.submitter is not None:
        return envelope.options.submitter
    return "" if envelope.sender is None else str(envelope.sender.domain)


def _sender(message: Message) -> str:
    return "" if message.envelope.sender is None else str(message.envelope.sender)


_SHARES: dict[Fairness, Callable[[Message], str]] = {
    Fairness.TENANT: tenant,
    Fairness.SENDER: _sender,
    Fairness.SUBMITTER: lambda message: message.envelope.options.submitter or "",
    Fairness.NONE: lambda message: "",
}


class _Share:
    """What waits of one tenant, by priority and then in the order in which it came."""

    __slots__ = ("count", "credit", "name", "ranked", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[Job] = deque()  # of the usual priority, 0
        self.ranked: dict[int, deque[Job]] = {}  # of other priorities; no line is empty
        self.count = 0
        self.credit = 0  # recipients that it may still send in this round

    def put(self, job: Job) -> None:
        self.count += 1
        if priority := job.message.envelope.options.priority:
            self.ranked.setdefault(priority, deque()).append(job)
        else:
            self.ready.append(job)

    @property
    def _best(self) -> int:
        """The priority that is next."""
        if not self.ranked:
            return 0
        best = max(self.ranked)
        return 0 if self.ready and best < 0 else best

    def next(self) -> Job:
        best = self._best
        return self.ranked[best][0] if best else self.ready[0]

    def take(self) -> Job:
        self.count -= 1
        if not (best := self._best):
            return self.ready.popleft()
        line = self.ranked[best]
        job = line.popleft()
        if not line:
            del self.ranked[best]
        return job

    def withdraw(self, job: Job) -> bool:
        priority = job.message.envelope.options.priority
        line = self.ranked.get(priority, deque()) if priority else self.ready
        for place, waiting in enumerate(line):
            if waiting is job:
                del line[place]
                self.count -= 1
                if priority and not line:
                    del self.ranked[priority]
                return True
        return False


class Line:
    """`shares`: how many have something in it."""

    __slots__ = ("_by_name", "_name", "_ring", "count")

    def __init__(self, fair: Fairness = Fairness.TENANT) -> None:
        self._name = _SHARES[fair]
        self._by_name: dict[str, _Share] = {}
        self._ring: deque[_Share] = deque()  # whose turn it is first
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def put(self, job: Job) -> None:
        """Behind those of its share and priority."""
        name = self._name(job.message)
        share = self._by_name.get(name)
        if share is None:
            share = self._by_name[name] = _Share(name)
            self._ring.append(share)
        share.put(job)
        self.count += 1

    @property
    def shares(self) -> int:
        return len(self._ring)

    def waiting_beside(self, job: Job) -> int:
        """How many jobs of its share wait."""
        share = self._by_name.get(self._name(job.message))
        return 0 if share is None else share.count

    def take(self) -> Job:
        """The next one; one at least must wait."""
        ring = self._ring
        share = ring[0]
        if len(ring) > 1:
            share = self._turn()
        job = share.take()
        self.count -= 1
        if not share.count:
            self._leave(share)
        return job

    def _turn(self) -> _Share:
        """Whose turn it is; what its next job costs is taken off."""
        ring = self._ring
        for _ in range(len(ring) + 1):
            share = ring[0]
            cost = len(share.next().rows)
            if share.credit >= cost:
                share.credit -= cost
                return share
            share.credit += 1
            ring.rotate(-1)
        rounds = min(len(share.next().rows) - share.credit for share in ring)
        for share in ring:  # as many rounds at once as pass without anybody
            share.credit += max(rounds, 0)
        return self._turn()

    def _leave(self, share: _Share) -> None:
        del self._by_name[share.name]
        if self._ring[0] is share:
            self._ring.popleft()
        else:
            self._ring.remove(share)
        if len(self._ring) == 1:
            self._ring[0].credit = 0

    def withdraw(self, job: Job) -> bool:
        """Take that very job out; False where it waits here no more."""
        share = self._by_name.get(self._name(job.message))
        if share is None or not share.withdraw(job):
            return False
        self.count -= 1
        if not share.count:
            self._leave(share)
        return True

    def __iter__(self) -> Iterator[Job]:
        """All of them, share by share."""
        for share in self._ring:
            yield from chain(*(share.ranked[rank] for rank in sorted(share.ranked, reverse=True)), share.ready)
