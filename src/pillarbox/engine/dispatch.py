"""The lanes kept and driven: which job is given to which mailer, and when.

A lane is opened when there is something for it and closed when there are many. Its jobs are given out as its limits
let them: so many in flight, so many in a time, as its shaper says. It keeps a window of them in memory; what is beyond
goes back to the disk, due when the lane will plausibly have room, and is fetched as soon as it has. Changes no state:
what goes back is reported to the queue, with an outcome that says that nothing was tried. Invariants: one timer for a
lane that waits for a moment, none for a lane without rate and shaper; no lane's jobs hold up another's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial

from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.fair import Line
from pillarbox.engine.fetching import Fetching
from pillarbox.engine.lanes import FIRST, Lane, LaneLimits, LaneOpener, Load
from pillarbox.engine.mail import Delivered, Job, Report, Waits
from pillarbox.engine.pacing import Pacer
from pillarbox.engine.ports import Clock
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.routing import Route
from pillarbox.engine.shaping import in_the_log
from pillarbox.engine.slowdown import SlowDown

log = logging.getLogger(__name__)

LANE_WINDOW = 1000  # jobs of one lane that wait in memory
UNPROVEN_WINDOW = 50  # of one whose next hop has not answered so far
LOW = 4  # with such a part of its window a lane fetches more
PART_OF_ROOM = 4  # one lane takes no more than such a part of the room that there is left
SOONEST, LATEST = 5.0, 900.0  # seconds until what went back is due
SLOWEST_TURN = 10.0  # seconds that a job is taken to need as long as nothing is measured
MEASURE = 5.0  # seconds at least over which the pace is measured
SPREAD = 0.05  # seconds between those that are due behind a breaker
AFTER_PROBE = 5.0  # seconds behind the first of them
TOLD = 1.0  # seconds of waiting that are worth a record
_GOLDEN = 0.618033988749895  # multiples of it, less their whole part, are evenly spread
_CONGESTED = EnhancedCode(4, 4, 5)

Task = Callable[[Coroutine[None, None, None]], None]


class Dispatch:
    def __init__(
        self,
        *,
        clock: Clock,
        open_lane: LaneOpener,
        most: int,
        settle: Callable[[Job, Report], None],
        may_try: Callable[[Job], bool],
        room: Callable[[], int],
        fetching: Fetching,
        task: Task,
    ) -> None:
        """`most`: lanes after which those without work are closed; `may_try` asks whether anything of a job whose turn
        has come is to be tried; `room`: messages that memory would hold beside those it does."""
        self.lanes: dict[str, Lane] = {}
        self.parked: dict[str, int] = {}  # recipients on the disk that wait for room, at a guess from above; by lane
        self._clock = clock
        self._open_lane = open_lane
        self._most = self._look_at = most  # lanes at which those without work are closed
        self._settle = settle
        self._may_try = may_try
        self._room = room
        self._fetching = fetching
        self._task = task
        self._closing = False

    # --- in

    def put(self, job: Job, route: Route) -> None:
        lane = self.lanes.get(job.lane) or self._new(job.lane, route)
        if lane.is_open and not self._closing:
            if self._may_try(job):
                lane.active += 1
                lane.mailer.deliver(job, self.done)
            return
        if not self._takes(lane, job):
            self._park(lane, job)
            return
        if lane.plain:
            lane.line.put(job)
        else:
            job.since = self._clock.monotonic()
            (lane.tried if lane.paced is not None and _was_tried(job) else lane.line).put(job)
        self.pump(lane)

    def _takes(self, lane: Lane, job: Job) -> bool:
        """Whether the window has room. Once it is full, who has little in it is still let in, so that nobody's mail
        waits on the disk behind all of somebody else's."""
        if self._closing:
            return True
        window = self._window(lane)
        behind = job.lane in self.parked and self._fetching.filling != job.lane  # of those on the disk
        if lane.ready < (window // LOW if behind else window):
            return True
        share = window // (2 * (lane.line.shares + 1))
        return lane.ready < 2 * window and lane.line.waiting_beside(job) < share

    def _window(self, lane: Lane) -> int:
        most = UNPROVEN_WINDOW if lane.first == FIRST and not lane.answers else LANE_WINDOW
        return min(most, max(self._room() // PART_OF_ROOM, 1))

    def _new(self, name: str, route: Route) -> Lane:
        if len(self.lanes) >= self._look_at:
            for idle in [key for key, lane in self.lanes.items() if lane.idle]:
                self._close(idle)
            self._look_at = max(self._most, len(self.lanes) * 5 // 4)  # not at all lanes for each one that is new
        lane = self.lanes[name] = self._open_lane(name, route)
        lane.name = name
        return lane

    def _close(self, name: str) -> None:
        lane = self.lanes.pop(name)
        if lane.timer is not None:
            lane.timer.cancel()
        self._task(lane.mailer.close(0))

    def _park(self, lane: Lane, job: Job) -> None:
        ahead = self.parked.get(job.lane, 0) + lane.ready
        self.parked[job.lane] = self.parked.get(job.lane, 0) + len(job.rows)
        due = self._clock.now() + self._turn(lane, ahead)
        text = f"waits for its turn: there is much mail for {job.lane}"
        self._settle(job, Report((Waits(text, "", _CONGESTED, due=due, parked=True),) * len(job.rows)))

    def _turn(self, lane: Lane, ahead: int) -> float:
        """Seconds until the lane will have done with so many."""
        now = self._clock.monotonic()
        since, ended = lane.measured
        if now - since >= MEASURE:
            lane.pace = (lane.ended - ended) / (now - since) if since else 0.0
            lane.measured = (now, lane.ended)
        pace = max(lane.pace, lane.limit / SLOWEST_TURN / 10, 0.01) if lane.pace else max(lane.limit, 1) / SLOWEST_TURN
        seconds = max(ahead / pace, SOONEST)
        if seconds < LATEST:
            return seconds
        return LATEST * (0.5 + 0.5 * (ahead * _GOLDEN % 1.0))

    # --- out

    def pump(self, lane: Lane) -> None:
        """Give out what may be given out now."""
        if not lane.plain:
            self._pump_slowed(lane)
            return
        line = lane.line
        while line.count and lane.active < lane.limit and not self._closing:
            job = line.take()
            if self._may_try(job):
                lane.active += 1
                lane.mailer.deliver(job, self.done)

    def _pump_slowed(self, lane: Lane) -> None:
        now = self._clock.monotonic()
        if lane.ready and (opens := lane.shaper.opens_at(now)) > now and not self._closing:
            self._shut(lane, now, opens)
            return
        self._set_pace(lane)
        while lane.ready and not self._closing:
            limit = min(lane.shaper.most(lane.limit), lane.limit)
            if lane.active >= min(limit, lane.first + lane.answers):
                lane.slowed = lane.shaper.present(now) or lane.slowed if limit < lane.limit else None
                return
            line, wait = self._next(lane, now)
            if line is None:
                lane.slowed = self._why(lane, now, wait)
                self._later(lane, wait)
                return
            job = line.take()
            if self._may_try(job):
                self._give(lane, job, now, fresh=line is lane.line)
        lane.slowed = None

    def _next(self, lane: Lane, now: float) -> tuple[Line | None, float]:
        """The line whose turn it is, or the seconds until that is known."""
        wait = 0.0 if lane.terms.messages is None else lane.terms.messages.wait(now)
        if wait:
            return None, wait
        if lane.tried.count:
            return lane.tried, 0.0
        wait = 0.0 if lane.paced is None else lane.paced.wait(now)
        return (None, wait) if wait else (lane.line, 0.0)

    def _give(self, lane: Lane, job: Job, now: float, *, fresh: bool) -> None:
        if lane.terms.messages is not None:
            lane.terms.messages.take(now)
        if fresh and lane.paced is not None:
            lane.paced.take(now)
        slowed = lane.slowed
        if slowed is not None and (waited := now - max(job.since, slowed.since)) > TOLD:
            job.notes += (self._told(job, slowed, waited),)
        lane.active += 1
        lane.mailer.deliver(job, self.done)

    def _told(self, job: Job, slowed: SlowDown, waited: float) -> Record:
        now = self._clock.now()
        number = job.rows[0].number if len(job.rows) == 1 else None
        text = f"waited {waited:.0f} s: {slowed.what}"
        detail = (("text", text), ("cause", slowed.cause), ("lane", job.lane), ("since", now - waited))
        return Record(job.message.id, now, Kind.THROTTLED, number, (*detail, ("seconds", round(waited, 3))))

    def _set_pace(self, lane: Lane) -> None:
        """A pace that replies asked for begins, changes or ends. What was tried before is not kept to it."""
        pace = lane.shaper.pace()
        if pace == (None if lane.paced is None else lane.paced.limit):
            return
        begins = lane.paced is None
        lane.paced = None if pace is None else Pacer(pace)
        if begins and lane.line.count:
            for job in [job for job in lane.line if _was_tried(job)]:
                lane.line.withdraw(job)
                lane.tried.put(job)

    def _why(self, lane: Lane, now: float, wait: float) -> SlowDown:
        """What holds back those that wait, since it began to."""
        before = lane.slowed
        messages = lane.terms.messages
        if messages is not None and messages.wait(now):
            cause, what = "limit", f"the configuration lets {messages.limit} go this way"
        elif (present := lane.shaper.present(now)) is not None:
            return present
        else:
            cause, what = "pace", f"replies asked for no more than {lane.shaper.pace()}"
        since = before.since if before is not None and before.cause == cause else now
        return SlowDown(cause, what, since, now + wait, lane.name)

    def _later(self, lane: Lane, wait: float) -> None:
        if lane.timer is None:
            lane.timer = self._clock.call_later(wait, partial(self._moment, lane))

    def _moment(self, lane: Lane) -> None:
        lane.timer = None
        self.pump(lane)

    def _shut(self, lane: Lane, now: float, opens: float) -> None:
        """The breaker is open: what waits goes back to the disk, the first due when it closes, as a probe; the others
        behind it."""
        present = lane.shaper.present(now)
        cause, what = ("breaker", "no attempts for now") if present is None else (present.cause, present.what)
        if lane.shut != opens:
            lane.shut, lane.put_off = opens, 0
        closes = self._clock.now() + opens - now
        for line in (lane.tried, lane.line):
            while line.count:
                job = line.take()
                due = closes + (AFTER_PROBE + SPREAD * lane.put_off if lane.put_off else 0.0)
                lane.put_off += 1
                self._settle(job, Report((Waits(what, "", _CONGESTED, due=due, cause=cause),) * len(job.rows)))

    # --- back

    def done(self, job: Job, report: Report) -> None:
        """What came of a job that was given out."""
        lane = self.lanes[job.lane]
        lane.active -= 1
        lane.ended += 1
        if report.outcomes:
            lane.last = report.outcomes[0].text
            if not lane.plain:
                self._heard(lane, report, job)
            self._settle(job, report)
        if lane.ready:
            self.pump(lane)
        if self.parked and job.lane in self.parked and not self._closing:
            self._fill(job.lane, lane)
        if lane.stale:
            self.close_if_stale(job.lane, lane)

    def _heard(self, lane: Lane, report: Report, job: Job) -> None:
        now = self._clock.monotonic()
        lane.answers += _is_answered(report)
        for slow in lane.shaper.heard(report, job, now):
            log.info("lane %s: %s", job.lane, in_the_log(slow, now))

    def _fill(self, name: str, lane: Lane) -> None:
        window = self._window(lane)
        if lane.ready <= window // LOW:
            emptied = partial(self._emptied, name, self.parked[name])
            self._fetching.refill(name, lane.terms.limits.priority, window - lane.ready, emptied)

    def _emptied(self, name: str, known: int) -> None:
        """All that waited for room was fetched; `known`: how many that were thought to be."""
        left = self.parked.get(name, 0) - known
        if left <= 0:
            self.parked.pop(name, None)
        else:
            self.parked[name] = left

    # --- other

    def withdraw(self, job: Job) -> bool:
        """Take a job out that waits for its turn; False where it does so no more."""
        lane = self.lanes.get(job.lane)
        return lane is not None and not self._closing and lane.withdraw(job)

    def renew(self, limits: Callable[[str], LaneLimits] | None) -> None:
        """Limits hold at once; else every lane is opened anew, for the job after those it has."""
        for name, lane in list(self.lanes.items()):
            lane.stale = True
            if limits is not None:
                lane.adopt(limits(name))
                self.pump(lane)
            self.close_if_stale(name, lane)

    def close_if_stale(self, name: str, lane: Lane | None = None) -> None:
        lane = lane or self.lanes.get(name)
        if lane is not None and lane.stale and lane.idle and self.lanes.get(name) is lane:
            self._close(name)

    def loads(self) -> list[Load]:
        """Of those that have something to do, or that something slows down."""
        return [load for name, lane in self.lanes.items() if (load := self._load(name, lane)) is not None]

    def _load(self, name: str, lane: Lane) -> Load | None:
        slowed, until = "", None
        if not lane.plain:
            now = self._clock.monotonic()
            present = lane.shaper.present(now) or (lane.slowed if lane.ready else None)
            if present is not None:
                slowed = f"{present.cause}: {present.what}"
                until = None if present.until is None else self._clock.now() + present.until - now
        if lane.idle and not slowed:
            return None
        return Load(name, lane.ready, lane.active, lane.last, slowed, until)

    async def close(self, grace: float) -> None:
        """Give out nothing more; let what is in flight end within so many seconds."""
        self._closing = True
        for lane in self.lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()
        await asyncio.gather(*(lane.mailer.close(grace) for lane in self.lanes.values()))


def _is_answered(report: Report) -> bool:
    """The next hop has said something of it."""
    for outcome in report.outcomes:
        if isinstance(outcome, Delivered) or outcome.remote:
            return True
    return False


def _was_tried(job: Job) -> bool:
    return any(row.attempts for row in job.rows)
