"""A queue with an imagined disk, imagined ways out and a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Recipient
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.ids import IdSource
from pillarbox.engine.lanes import Lane, LaneLimits, LaneShaper, NoShaper
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Message, Outcome, Report, Row
from pillarbox.engine.pacing import LaneTerms
from pillarbox.engine.ports import (
    Accepted,
    Mailer,
    NoSuchUser,
    NotLocal,
    Relayed,
    Resolution,
    Resolver,
    SpoolError,
)
from pillarbox.engine.retry import DEFAULT, RetrySchedule
from pillarbox.engine.routing import Route
from pillarbox.engine.sites import Sites
from pillarbox.sim.clock import VirtualClock
from tests.making import TEXT, MemorySpool, Nobody, make_message, make_queue, turns

HERE = Domain.parse("example.test")
RELAYED = Domain.parse("relayed.example")
KEPT_DOMAIN = Domain.parse("kept.example")
KEPT_LANE = "turn:kept.example"
SENDER = "from@far.example"
DAY = 86400.0

OK = Delivered("250 2.0.0 Ok", "mx.far.example [192.0.2.1]")
LATER = Deferred("450 4.2.0 Later", "mx.far.example [192.0.2.1]", EnhancedCode(4, 2, 0), remote=True)
NEVER = Failed("550 5.1.1 No such user", "mx.far.example [192.0.2.1]", EnhancedCode(5, 1, 1), remote=True)


class Town(Nobody):
    """One local domain, with alice, who has an alias, and two others that are relayed; one of them is kept."""

    def resolve(self, address: Mailbox) -> Resolution:
        if address.domain in (RELAYED, KEPT_DOMAIN):
            return Relayed()
        if address.domain != HERE:
            return NotLocal()
        if str(address.local) == "sales":
            return Accepted((Mailbox.parse("alice@example.test"), Mailbox.parse("bob@far.example")))
        return Accepted((address,)) if str(address.local) != "nobody" else NoSuchUser()

    def is_local(self, domain: Domain) -> bool:
        return domain == HERE

    def keeps(self, domain: Domain) -> bool:
        return domain == KEPT_DOMAIN


class FakeMailer:
    """Meets the port Mailer. `answer` gives the outcome of a row at once; without it jobs wait for `end`."""

    def __init__(self, answer: Callable[[Job, Row], Outcome] | None = None) -> None:
        self.answer = answer
        self.jobs: list[Job] = []  # every job so far
        self.open: list[tuple[Job, Callable[[Job, Report], None]]] = []
        self.closed: float | None = None

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        self.jobs.append(job)
        if self.answer is None:
            self.open.append((job, done))
            return
        report = Report(tuple(self.answer(job, row) for row in job.rows))
        asyncio.get_running_loop().call_soon(done, job, report)

    def end(self, *outcomes: Outcome, notes: tuple[str, ...] = ()) -> None:
        job, done = self.open.pop(0)
        done(job, Report(outcomes * len(job.rows) if len(outcomes) == 1 else outcomes, notes))

    async def close(self, grace: float) -> None:
        self.closed = grace
        for job, done in self.open:
            done(job, Report(()))
        self.open = []


class TimedMailer:
    """Meets the port Mailer: each job takes so long, and is delivered."""

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        self._clock.call_later(self._seconds, lambda: done(job, Report((OK,) * len(job.rows))))

    async def close(self, grace: float) -> None:
        """Nothing is open."""


class Rig:
    """A queue and what it touches."""

    def __init__(
        self,
        *,
        limit: int = 10,
        answer: Callable[[Job, Row], Outcome] | None = None,
        retry: RetrySchedule = DEFAULT,
        spool: MemorySpool | None = None,
        clock: VirtualClock | None = None,
        routes: tuple[Route, ...] = (),
        resolver: Resolver | None = None,
        limits: Callable[[str], LaneLimits] = lambda lane: LaneLimits(),
    ) -> None:
        self.clock = clock or VirtualClock()
        self.spool = spool or MemorySpool()
        self.mailers: dict[str, FakeMailer] = {}
        self.limit = limit
        self.answer = answer
        self.limits = limits
        self.shaper: Callable[[], LaneShaper] = NoShaper
        self.seconds: float | None = None  # that each job takes; None: as FakeMailer has it
        self.answers: list[SpoolError | None] = []
        self.ids = IdSource(self.clock, max(self.spool.messages, default=0))
        self.queue = make_queue(
            self.spool, self.clock, Town(), open_lane=self._open_lane, retry=retry, ids=self.ids, routes=routes
        )
        if resolver is not None:
            self.queue.sites = Sites(resolver, self.clock)

    def _open_lane(self, name: str, route: Route) -> Lane:
        self.mailers[name] = FakeMailer(self.answer)
        mailer: Mailer = self.mailers[name] if self.seconds is None else TimedMailer(self.clock, self.seconds)
        return Lane(mailer, self.limit, LaneTerms(self.limits(name), self.clock.monotonic), self.shaper())

    def message(self, *recipients: str | Recipient, sender: str | None = SENDER, content: bytes = TEXT) -> Message:
        return make_message(self.ids.next(), *recipients, sender=sender, content=content, at=self.clock.now())

    async def accept(self, *recipients: str | Recipient, sender: str | None = SENDER, content: bytes = TEXT) -> Message:
        message = self.message(*recipients, sender=sender, content=content)
        self.queue.accept(message, self.answers.append)
        await turns()
        return message

    async def pass_time(self, seconds: float) -> None:
        """In steps, so that what a timer starts comes to its end before the next is due."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.clock.advance(min(30.0, end - self.clock.monotonic()))
            await turns()

    def mailer(self, lane: str = "mx:far.example") -> FakeMailer:
        return self.mailers[lane]

    @property
    def in_memory(self) -> int:
        return len(self.queue._held)

    def assert_empty(self) -> None:
        assert self.queue._held == {} and self.queue._holding.octets == 0
        assert all(lane.active == 0 and not lane.ready for lane in self.queue._dispatch.lanes.values())


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())
