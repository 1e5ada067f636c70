"""The queue: the only owner of a recipient's state. scheduled → ready → in flight → settled, or scheduled again.

What was accepted here is leased from birth: it goes from memory to its lane, and comes back to the disk only as a
changed state. What waits for a later attempt is on the disk alone; a timer for the earliest fetches it when it is due,
by the same path as after a restart. Memory is bounded: beyond WINDOW messages the disk keeps them, beyond
CONTENT_BUDGET octets of text their text. What follows from an outcome is decided in `outcomes.py`. Knows nothing of
SQL, sockets or SMTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from pillarbox.core.address import Domain
from pillarbox.core.envelope import MessageId
from pillarbox.engine.deadlines import Deadlines
from pillarbox.engine.dsn import Telling
from pillarbox.engine.expansion import concerns, expanded
from pillarbox.engine.jumps import Jumps
from pillarbox.engine.lanes import Lane as Lane
from pillarbox.engine.lanes import LaneOpener as LaneOpener
from pillarbox.engine.lanes import Load, loads
from pillarbox.engine.mail import (
    Change,
    Job,
    Message,
    Place,
    Report,
    Row,
    Seen,
    State,
    Unit,
)
from pillarbox.engine.notices import Made, Notices
from pillarbox.engine.operating import Operating
from pillarbox.engine.orders import Done, Order, stopped
from pillarbox.engine.outcomes import behind, held_back, overdue, watched_until
from pillarbox.engine.ports import Clock, Spool, SpoolBroken, SpoolCallback, SpoolError, Timer
from pillarbox.engine.predicate import Predicate
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.retry import RetrySchedule
from pillarbox.engine.routing import Route, Router, Turn, verified
from pillarbox.engine.settling import settled

log = logging.getLogger(__name__)

WINDOW = 20_000  # messages in memory
CONTENT_BUDGET = 64 * 1024 * 1024  # octets of small texts in memory
MAX_LANES = 1000  # lanes after which those without work are closed
LEASE_AT_ONCE = 500  # recipients fetched from the disk at a time
LOOK_AGAIN = 60.0  # seconds after which a wall clock that jumped is noticed
WRITE_AGAIN = 1.0  # seconds between attempts to write the outcome of deliveries to a disk that fails


@dataclass(slots=True)
class Held:
    """A message in memory: how many of its recipients are here, and how many wait on the disk.

    It stays until the disk agrees with what was decided here, so that nothing is fetched by a state of yesterday.
    """

    message: Message
    here: int
    waiting: int
    unwritten: int = 0  # units about it that are not on the disk yet
    finished: bool = False  # the disk was told that all of its recipients are settled


class Queue:
    """Accepts messages and sees each recipient through to a settled state."""

    def __init__(
        self,
        *,
        spool: Spool,
        clock: Clock,
        router: Router,
        open_lane: LaneOpener,
        retry: RetrySchedule,
        notices: Notices,
        jumps: Jumps,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._open_lane = open_lane
        self.router = router
        self.retry = retry
        self.notices = notices
        self._jumps = jumps
        self._lanes: dict[str, Lane] = {}
        self._held: dict[int, Held] = {}
        self._deadlines = Deadlines(clock, self._late)
        self._operating = Operating(
            spool=spool, clock=clock, make=self._make, store=self._store, in_memory=self._in_memory
        )
        self._standing = self._operating.standing  # orders for what is in memory
        self._octets = 0
        self._timer: Timer | None = None
        self._timer_due = float("inf")
        self._starved = False  # the disk has due recipients for which there was no room
        self._fetching = False
        self._fetch_again = False
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    # --- in

    def accept(self, message: Message, done: SpoolCallback) -> None:
        """Make the message durable; `done(None)` says that it is, and that the queue answers for it."""
        if message.envelope.options.hold_until is None and not concerns(message.envelope):
            unit = Unit(messages=(message,), notes=message.notes)
            self._spool.write(unit, partial(self._accepted, unit, done))
        else:
            self._task(self._accept_specially(message, done))

    async def _accept_specially(self, message: Message, done: SpoolCallback) -> None:
        """What is told at acceptance, and until when a message is held, reaches the disk together with it."""
        try:
            message.envelope, tellings = expanded(message.envelope)
            made = await self._make(Job(message, [tellings[0].row], ""), tellings) if tellings else Made((), ())
            held = held_back(message, self._clock.now())
            unit = Unit((message, *made.messages), held, made.records, notes=message.notes)
        except Exception:
            log.exception("queue: bug while accepting %s", message.id)
            done(SpoolBroken("our fault"))
            return
        self._spool.write(unit, partial(self._accepted, unit, done))

    def _accepted(self, unit: Unit, done: SpoolCallback, error: SpoolError | None) -> None:
        message, *notices = unit.messages
        try:
            done(error)
        finally:
            if error is None:
                if unit.changes:
                    self._wake_at(unit.changes[0].due)
                else:
                    self._admit(message, _rows(message), 0)
                for notice in notices:
                    self._admit(notice, _rows(notice), 0)

    def start(self) -> None:
        """Fetch what earlier runs left."""
        self.wake()

    def wake(self) -> None:
        """Look for due recipients on the disk now."""
        if self._closing:
            return
        if self._fetching:
            self._fetch_again = True
            return
        self._fetching = True
        self._task(self._fetch())

    async def _fetch(self) -> None:
        try:
            due: float | None = None
            while not self._closing:
                self._fetch_again = False
                room = WINDOW - len(self._held)
                self._starved = room <= 0
                if self._starved:
                    return
                async with self._operating.leasing:
                    found = await self._spool.lease(self._clock.now(), min(room, LEASE_AT_ONCE))
                    for leased in found:
                        self._admit(*leased)
                due = None if found else await self._spool.next_due()
                if not found and not self._fetch_again:
                    break
            if due is not None:
                self._wake_at(due)
        except SpoolError as error:
            log.error("queue: can't read the spool: %s", error)
            self._wake_at(self._clock.now() + LOOK_AGAIN)
        except Exception:
            log.exception("queue: bug while looking for due recipients")
            self._wake_at(self._clock.now() + LOOK_AGAIN)
        finally:
            self._fetching = False

    def _wake_at(self, due: float) -> None:
        """A timer for the earliest due recipient; never far ahead, so that a jump of the clock is noticed."""
        if due >= self._timer_due or self._closing:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.call_later(min(max(due - self._clock.now(), 0.0), LOOK_AGAIN), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_due = float("inf")
        self._jumps.look()
        self.wake()

    # --- on demand: who owns a domain comes for its mail

    def _places(self, domains: Sequence[Domain]) -> list[tuple[Place, Route]]:
        return [self.router.place(domain) for domain in domains]

    async def waiting(self, domains: Sequence[Domain]) -> int:
        """How many recipients of these domains wait. Raises SpoolError."""
        return await self._spool.waiting_at([place for place, _ in self._places(domains)])

    async def release(self, domains: Sequence[Domain]) -> int | None:
        """Try the recipients of these domains now, by their routes; None where no route leads to a host: ETRN."""
        places = [place for place, route in self._places(domains) if not isinstance(route.next_hop, Turn)]
        if not places:
            return None
        count = await self._spool.make_due_at(places, self._clock.now())
        self.wake()
        return count

    async def take(self, domains: Sequence[Domain], after: MessageId, limit: int) -> list[Job]:
        """Recipients of these domains that wait, of messages behind `after`, for somebody who has the connection to
        their owner and says by `settle` what came of each job. Raises SpoolError."""
        if self._closing:
            return []
        places = [place for place, _ in self._places(domains)]
        jobs: list[Job] = []
        async with self._operating.leasing:
            for message, rows, waiting in await self._spool.lease_at(places, after, limit):
                held = self._hold(message, rows, waiting)
                if held is not None:
                    jobs += [Job(held, mine, name) for name, _, mine in self._routed(held, rows)]
        return jobs

    def settle(self, job: Job, report: Report) -> None:
        """What came of a job that was taken; without outcomes it stays leased, since we are closing."""
        if report.outcomes:
            self._settle(job, report)

    # --- through

    def _admit(self, message: Message, rows: list[Row], waiting: int) -> None:
        """Take recipients into memory and to their lanes; `waiting` others of the message are on the disk."""
        held = self._hold(message, rows, waiting)
        if held is None:
            return
        for name, route, mine in self._routed(held, rows):
            job = Job(held, mine, name)
            if held.envelope.options.deliver_by is not None and not self._has_time(job):
                continue
            lane = self._lanes.get(name) or self._new_lane(name, route)
            lane.put(job)
            self._pump(lane)

    def _hold(self, message: Message, rows: list[Row], waiting: int) -> Message | None:
        """Take recipients into memory; None where there is no room. Gives the message as it is known here."""
        held = self._held.get(message.id)
        if held is not None:
            held.here += len(rows)
            held.waiting -= len(rows)
            return held.message
        if len(self._held) >= WINDOW or self._closing:
            self._put_back(message, rows, waiting)
            return None
        self._held[message.id] = Held(message, len(rows), waiting)
        if message.content is not None:
            self._octets += len(message.content)
            if self._octets > CONTENT_BUDGET:
                self._let_go_of_content(message)
        return message

    def _route(self, message: Message, row: Row) -> tuple[str, Route]:
        address = row.recipient.address
        by_hand = row.next_hop
        name, route = self.router.route(address) if by_hand is None else self.router.by_hand(by_hand, address)
        if message.envelope.options.require_tls and message.envelope.sender is not None:  # RFC 8689 §5
            return verified(name, route, address.domain)
        return name, route

    def _routed(self, message: Message, rows: list[Row]) -> Iterable[tuple[str, Route, list[Row]]]:
        """The rows of each job: those of one lane that get the same text with the same reverse-path."""
        if len(rows) == 1:
            name, route = self._route(message, rows[0])
            return ((name, route, rows),)
        jobs: dict[tuple[object, ...], tuple[str, Route, list[Row]]] = {}
        for row in rows:
            recipient = row.recipient
            name, route = self._route(message, row)
            forwarder = recipient.original if recipient.forwarded else None
            alone = row.number if message.envelope.options.verp else None
            jobs.setdefault((name, recipient.owner, forwarder, alone), (name, route, []))[2].append(row)
        return jobs.values()

    def _new_lane(self, name: str, route: Route) -> Lane:
        if len(self._lanes) >= MAX_LANES:
            for idle in [key for key, lane in self._lanes.items() if lane.idle]:
                self._task(self._lanes.pop(idle).mailer.close(0))
        lane = self._lanes[name] = self._open_lane(name, route)
        return lane

    def renew_lanes(self) -> None:
        """Let every lane be opened anew, by the present configuration, for the job after those it has."""
        for name, lane in list(self._lanes.items()):
            lane.stale = True
            self._close_if_stale(name, lane)

    def _close_if_stale(self, name: str, lane: Lane) -> None:
        if lane.stale and lane.idle:
            del self._lanes[name]
            self._task(lane.mailer.close(0))

    def _put_back(self, message: Message, rows: list[Row], waiting: int) -> None:
        """No room in memory: the disk keeps it, due at once."""
        if self._closing:
            return  # it stays leased, and is due when we are back
        self._starved = True
        self._held[message.id] = Held(message, 0, waiting + len(rows), 1)
        message.content = None
        now = self._clock.now()
        changes = tuple(
            Change(message.id, row.number, State.SCHEDULED, now, row.attempts, "", "", None, row.told) for row in rows
        )
        self._write(Unit(changes=changes))

    def _pump(self, lane: Lane) -> None:
        while (lane.ready or lane.ranked) and lane.active < lane.limit and not self._closing:
            job = lane.take()
            if self._standing and not self._is_to_be_tried(job):
                continue
            lane.active += 1
            lane.mailer.deliver(job, self._done)

    def _done(self, job: Job, report: Report) -> None:
        lane = self._lanes[job.lane]
        lane.active -= 1
        if report.outcomes:
            lane.last = report.outcomes[0].text
            self._settle(job, report)
        self._pump(lane)
        if lane.stale:
            self._close_if_stale(job.lane, lane)

    # --- orders of an operator

    async def order(self, wanted: Predicate, order: Order) -> Done:
        """Carry it out, some recipients at a time. What is in memory is changed when its turn comes, or when it comes
        back from an attempt and is not settled. Raises SpoolError; what was done before stays done."""
        return await self._operating.order(wanted, order)

    def loads(self) -> list[Load]:
        return loads(self._lanes)

    def _in_memory(self, message: MessageId) -> bool:
        held = self._held.get(message)
        return held is not None and held.here > 0

    def _store(self, unit: Unit, seen: Sequence[Seen], done: SpoolCallback) -> None:
        """Write changes of what waits on the disk; until that is done its messages count as in memory."""
        for message, _, waiting in seen:
            self._held.setdefault(message.id, Held(message, 0, waiting)).unwritten += 1
        self._spool.write(unit, partial(self._stored, unit, [each.message for each in seen], done), urgent=False)

    def _stored(self, unit: Unit, messages: list[Message], done: SpoolCallback, error: SpoolError | None) -> None:
        if error is None:
            for change in unit.changes:
                self._held[change.message].waiting -= change.state.settled
        for message in messages:
            self._agreed(message.id)
        if error is None:
            self._follow(unit)
        done(error)

    def _is_to_be_tried(self, job: Job) -> bool:
        """Whether anything of a job is; what an operator wants otherwise leaves it."""
        withdrawn = self._operating.withdrawn(job)
        if withdrawn is not None:
            if not job.rows:
                self._deadlines.forget(job)
            self._settle(withdrawn, Report(stopped(withdrawn.rows)))
        return bool(job.rows)

    # --- the time of DELIVERBY

    def _has_time(self, job: Job) -> bool:
        """Whether the job may still be tried; its end is watched while it waits."""
        report = overdue(job, self._clock.now())
        if report is not None:
            self._settle(job, report)
            return False
        until = watched_until(job)
        if until is not None:
            self._deadlines.watch(job, until)
        return True

    def _late(self, job: Job) -> None:
        """Its time has passed: while it waits that is seen to now, in flight its outcome will be judged by it."""
        lane = self._lanes.get(job.lane)
        if lane is not None and not self._closing and lane.withdraw(job):
            self._settle(job, overdue(job, self._clock.now()) or behind(job))
            self._close_if_stale(job.lane, lane)

    # --- out

    def _settle(self, job: Job, report: Report) -> None:
        message = job.message
        self._deadlines.forget(job)
        instead = self._operating.instead if self._standing else None
        now, jumped = self._clock.now(), self._jumps.since
        found = settled(job, report, retry=self.retry, now=now, jumped=jumped, instead=instead)
        held = self._held[message.id]
        held.here -= len(job.rows)
        held.waiting += found.waiting
        held.unwritten += 1
        held.finished = held.unwritten == 1 and not held.here and not held.waiting
        unit = found.unit((message,) if held.finished else ())
        if found.tellings:
            self._task(self._notify(job, found.tellings, unit))
        else:
            self._write(unit)

    async def _notify(self, job: Job, tellings: list[Telling], unit: Unit) -> None:
        """A state and the notice of it reach the disk together: exactly one notice for each failed recipient."""
        made = await self._make(job, tellings)
        self._write(unit._replace(messages=made.messages, records=unit.records + made.records))

    async def _make(self, job: Job, tellings: list[Telling]) -> Made:
        message = job.message
        try:
            return await self.notices.make(message, tellings, sender=job.sender, options=job.options)
        except Exception:
            log.exception("queue: no notice could be made for %s", message.id)
            return Made((), (Record(message.id, self._clock.now(), Kind.NOTICE, None, (("text", "our fault"),)),))

    def _write(self, unit: Unit) -> None:
        self._spool.write(unit, partial(self._written, unit), urgent=False)

    def _written(self, unit: Unit, error: SpoolError | None) -> None:
        if error is not None:
            log.error("queue: the outcome of a delivery is not on the disk yet: %s", error)
            self._clock.call_later(WRITE_AGAIN, partial(self._write, unit))
            return
        for message in {change.message for change in unit.changes}:
            self._agreed(message)
        self._follow(unit)

    def _follow(self, unit: Unit) -> None:
        """What is to be done next, now that it is on the disk."""
        for change in unit.changes:
            if change.state is State.SCHEDULED:
                self._wake_at(change.due)
        for notice in unit.messages:
            self._admit(notice, _rows(notice), 0)
        if self._starved and len(self._held) < WINDOW // 2:
            self.wake()

    def _agreed(self, message: MessageId) -> None:
        """The disk has what was decided about a message; with nothing left to decide it leaves the memory."""
        held = self._held.get(message)
        if held is None:
            return
        held.unwritten -= 1
        if held.here or held.unwritten:
            return
        del self._held[message]
        if self._standing:
            self._standing.forget(message)
        if held.message.content is not None:
            self._octets -= len(held.message.content)
        if not held.waiting and not held.finished:
            self._write(Unit(finished=(held.message,)))

    def _let_go_of_content(self, message: Message) -> None:
        assert message.content is not None
        self._octets -= len(message.content)
        message.content = None

    # --- the end

    async def close(self, grace: float) -> None:
        """Start nothing more; let what is in flight end within so many seconds, and its outcomes be written."""
        self._closing = True
        self._deadlines.close()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(lane.mailer.close(grace) for lane in self._lanes.values()))
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("queue: a task failed", exc_info=error)


def _rows(message: Message) -> list[Row]:
    return [Row(number, recipient) for number, recipient in enumerate(message.envelope.recipients)]
