"""The real queue on an imagined clock, disk and ways out, until what is meant of a backlog is settled.

Nothing here decides about mail: lanes, their order and the retries are those of `engine/queue.py`. No host is asked for
anything, DNS neither: a domain's mail goes by the lane in which it went before. Invariant: the same backlog and the
same terms come to the same forecast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MailOptions
from pillarbox.engine.dsn import Telling
from pillarbox.engine.experience import Experience
from pillarbox.engine.forecast import Forecast, Letter, Lookout, Terms, Waiter
from pillarbox.engine.ids import IdSource
from pillarbox.engine.jumps import Jumps
from pillarbox.engine.lanes import Lane
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import Change, Message, Row, State
from pillarbox.engine.notices import Made, Notices
from pillarbox.engine.pacing import LaneLimits, LaneTerms
from pillarbox.engine.ports import Directory
from pillarbox.engine.queue import Queue
from pillarbox.engine.retry import RetrySchedule
from pillarbox.engine.routing import Mx, Route, Router, Turn, verified
from pillarbox.engine.sampling import Sample
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.loop import VirtualLoop
from pillarbox.sim.mailer import ImaginedMailer
from pillarbox.sim.spool import ImaginedSpool

HORIZON = 30 * 86400.0  # seconds that are looked ahead at most
MOMENTS = (60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 2 * 86400.0, 5 * 86400.0, 10 * 86400.0, HORIZON)
_FINELY = 1000  # so many times its period is a rate counted over, to be divided
_TELL_EVERY = 1000  # settled recipients between two calls of `progress`

Progress = Callable[[int, int], None]  # so many of so many recipients are settled
_NAMES = {State.DELIVERED: "delivered", State.FAILED: "failed", State.EXPIRED: "expired"}


class KnownSites(Router):
    """A router that knows by which lanes the mail for domains went that DNS leads elsewhere."""

    def __init__(self, routes: Sequence[Route], directory: Directory, sites: Mapping[str, str]) -> None:
        """`sites`: lanes by domain."""
        super().__init__(routes, directory)
        self._sites = sites

    def route(self, mailbox: Mailbox, message: Message | None = None, row: Row | None = None) -> tuple[str, Route]:
        name, route = super().route(mailbox, message, row)
        if isinstance(route.next_hop, Mx):
            site = self._sites.get(str(mailbox.domain), name)
            if site.startswith("mx:") and site.partition(";")[2] == name.partition(";")[2]:  # the terms are the same
                return site, route
        return name, route


class _Way(NamedTuple):
    """All that the lane of a recipient hangs on."""

    whose: str  # its domain, or its address where that has a route of its own
    by_hand: str | None
    secured: bool


class Lanes:
    """In which lane a recipient will wait, as the queue finds it; and which there are."""

    def __init__(self, router: Router, named: frozenset[str] = frozenset()) -> None:
        """`named`: addresses, case-folded, that have routes of their own; all others of a domain go one way."""
        self._router = router
        self._named = named
        self._known: dict[_Way, str] = {}
        self.routes: dict[str, Route] = {}

    def __call__(self, letter: Letter, waiter: Waiter) -> str:
        address = waiter.address
        whose = address if self._named and address.casefold() in self._named else address.rpartition("@")[2]
        way = _Way(whose, waiter.next_hop, letter.options.require_tls and letter.sender is not None)
        lane = self._known.get(way)
        return lane if lane is not None else self._found(way, Mailbox.parse(address))

    def _found(self, way: _Way, mailbox: Mailbox) -> str:
        by_hand = way.by_hand
        lane, route = self._router.route(mailbox) if by_hand is None else self._router.by_hand(by_hand, mailbox)
        if way.secured:
            lane, route = verified(lane, route, mailbox.domain)
        self._known[way] = lane
        self.routes[lane] = route
        return lane


class _Share(Limit):
    """A part of a limit, of a period that has no name."""

    __slots__ = ()

    @property
    def period(self) -> str:
        return f"in {self.seconds} s"


def _shared(messages: Limit | None, weight: float) -> Limit | None:
    """What is left of a rate for one in so many."""
    if messages is None or weight == 1:
        return messages
    return _Share(max(round(messages.most * _FINELY / weight), 1), messages.seconds * _FINELY)


class _Silence(Notices):
    """Tells no sender anything: what the queue would send because of the backlog is no part of it."""

    def __init__(self) -> None:
        pass

    async def make(
        self, message: Message, tellings: Sequence[Telling], *, sender: Mailbox | None, options: MailOptions
    ) -> Made:
        return Made((), ())


@dataclass(frozen=True, slots=True)
class World:
    """All that a forecast is made from. `terms` says what a lane is allowed."""

    now: float
    sample: Sample
    lanes: Lanes
    router: Router
    experience: Experience
    terms: Callable[[str, Route], Terms]
    retry: RetrySchedule


def foretell(world: World, progress: Progress = lambda settled, of: None) -> Forecast:
    """Runs a loop of its own, on this thread, until all that is meant is settled, or HORIZON is reached."""
    clock = VirtualClock(world.now)
    with asyncio.Runner(loop_factory=partial(VirtualLoop, clock), debug=False) as runner:
        return runner.run(_Run(world, clock, progress).run())


class _Run:
    def __init__(self, world: World, clock: VirtualClock, progress: Progress) -> None:
        self._world = world
        self._clock = clock
        self._progress = progress
        self._lookouts = {lane: self._lookout(lane, count) for lane, count in world.sample.meant()}
        self._rest = sum(waiter.meant for letter in world.sample.letters for waiter in letter.waiters)
        self._count = self._rest
        self._left = sum(each.waiting for each in self._lookouts.values())
        self._timeline: list[tuple[float, float]] = []
        self._spool = ImaginedSpool(world.sample.letters, self._settled)

    def _lookout(self, lane: str, count: int) -> Lookout:
        world = self._world
        return Lookout(lane, world.terms(lane, world.lanes.routes[lane]), world.experience.habit(lane), count)

    async def run(self) -> Forecast:
        clock, world, sample = self._clock, self._world, self._world.sample
        self._end = asyncio.get_running_loop().create_future()
        queue = Queue(
            spool=self._spool,
            clock=clock,
            router=world.router,
            open_lane=self._open_lane,
            retry=world.retry,
            notices=_Silence(),
            jumps=Jumps(clock, IdSource(clock)),
        )
        horizon = clock.call_later(HORIZON, self._over)
        if self._rest:
            queue.start()
            await self._end
        horizon.cancel()
        self._pass_moments(clock.monotonic())
        await queue.close(0)
        return Forecast(
            begins=world.now,
            lanes=list(self._lookouts.values()),
            held=sample.held,
            timeline=self._timeline,
            sampled=None if sample.is_whole else sample.kept,
            total=sample.total,
            ends=clock.now(),
        )

    def _over(self) -> None:
        if not self._end.done():
            self._end.set_result(None)

    def _open_lane(self, name: str, route: Route) -> Lane:
        """Where one recipient stands for several, there are the fewer at a time, and each takes the longer."""
        world = self._world
        terms, habit, weight = world.terms(name, route), world.experience.habit(name), world.sample.weight_in(name)
        at_a_time = max(round(terms.connections / weight), 1)
        mailer = ImaginedMailer(
            self._clock,
            habit,
            seconds=habit.seconds * weight * at_a_time / terms.connections,
            keeps=isinstance(route.next_hop, Turn),
        )
        limits = LaneLimits(
            connections=at_a_time, messages=_shared(terms.messages, weight), priority=terms.priority, fair=terms.fair
        )
        return Lane(mailer, at_a_time, LaneTerms(limits, self._clock.monotonic))

    def _settled(self, waiter: Waiter, change: Change) -> None:
        if not waiter.meant or self._end.done():
            return
        self._pass_moments(self._clock.monotonic())
        weight = self._world.sample.weight(waiter)
        lookout, name = self._lookouts[waiter.lane], _NAMES[change.state]
        setattr(lookout, name, getattr(lookout, name) + weight)
        lookout.last = change.due
        self._left -= weight
        self._rest -= 1
        if not self._rest % _TELL_EVERY:
            self._progress(self._count - self._rest, self._count)
        if not self._rest:
            self._over()

    def _pass_moments(self, now: float) -> None:
        while len(self._timeline) < len(MOMENTS) and MOMENTS[len(self._timeline)] <= now:
            self._timeline.append((MOMENTS[len(self._timeline)], max(self._left, 0.0)))
