"""The queue: the only owner of a recipient's state. scheduled → ready → in flight → settled, or scheduled again.

What was accepted here is leased from birth: it goes from memory to its lane, and comes back to the disk only as a
changed state. What waits for a later attempt is on the disk alone, and is fetched when it is due (`fetching.py`), by
the same path as after a restart. Memory is bounded: beyond WINDOW messages the disk keeps them, beyond CONTENT_BUDGET
octets of text their text (`holding.py`), and each lane has a part of it (`dispatch.py`). What follows from an outcome
is decided in `outcomes.py`. Knows nothing of SQL, sockets or SMTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

from pillarbox.core.address import Domain
from pillarbox.core.envelope import MessageId
from pillarbox.engine.deadlines import Deadlines
from pillarbox.engine.dispatch import Dispatch
from pillarbox.engine.dsn import Telling
from pillarbox.engine.expansion import concerns, expanded
from pillarbox.engine.fetching import Fetching
from pillarbox.engine.holding import Held, Holding
from pillarbox.engine.jumps import Jumps
from pillarbox.engine.lanes import Lane as Lane
from pillarbox.engine.lanes import LaneLimits, Load
from pillarbox.engine.lanes import LaneOpener as LaneOpener
from pillarbox.engine.mail import Change, Job, Message, Place, Report, Row, Seen, State, Unit, Waits
from pillarbox.engine.notices import Made, Notices
from pillarbox.engine.operating import Operating
from pillarbox.engine.orders import Done, Order, stopped
from pillarbox.engine.outcomes import behind, held_back, overdue, watched_until
from pillarbox.engine.placing import Placing
from pillarbox.engine.ports import Clock, Spool, SpoolBroken, SpoolCallback, SpoolError
from pillarbox.engine.predicate import Predicate
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.retry import RetrySchedule
from pillarbox.engine.routing import Router, Turn
from pillarbox.engine.settling import settled
from pillarbox.engine.sites import Sites

log = logging.getLogger(__name__)

WINDOW = 20_000  # messages in memory
CONTENT_BUDGET = 64 * 1024 * 1024  # octets of small texts in memory
MAX_LANES = 1000  # lanes after which those without work are closed
LEASE_AT_ONCE = 500  # recipients fetched from the disk at a time
LOOK_AGAIN = 60.0  # seconds after which a wall clock that jumped is noticed
WRITE_AGAIN = 1.0  # seconds between attempts to write the outcome of deliveries to a disk that fails


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
        sites: Sites | None = None,
    ) -> None:
        """Without `sites` each domain has a lane of its own."""
        self._spool = spool
        self._clock = clock
        self.retry = retry
        self.notices = notices
        self._jumps = jumps
        self._holding = Holding(window=lambda: WINDOW, budget=CONTENT_BUDGET)
        self._held = self._holding.held
        self._placing = Placing(router, sites)
        self._deadlines = Deadlines(clock, self._late)
        self._operating = Operating(
            spool=spool, clock=clock, make=self._make, store=self._store, in_memory=self._in_memory
        )
        self._standing = self._operating.standing  # orders for what is in memory
        self._fetching = Fetching(
            spool=spool,
            clock=clock,
            jumps=jumps,
            leasing=self._operating.leasing,
            admit=self._admit,
            room=self._room,
            task=self._task,
            bounds=(LEASE_AT_ONCE, LOOK_AGAIN),
        )
        self._dispatch = Dispatch(
            clock=clock,
            open_lane=open_lane,
            most=MAX_LANES,
            settle=self._settle,
            may_try=self._may_try,
            room=self._room,
            fetching=self._fetching,
            task=self._task,
        )
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
        try:
            done(error)
        finally:
            if error is None:
                if unit.changes:
                    self._fetching.wake_at(unit.changes[0].due)
                for message in unit.messages[1:] if unit.changes else unit.messages:
                    self._admit(message, _rows(message), 0)

    @property
    def router(self) -> Router:
        return self._placing.router

    @router.setter
    def router(self, router: Router) -> None:
        self._placing.router = router

    @property
    def sites(self) -> Sites | None:
        return self._placing.sites

    @sites.setter
    def sites(self, sites: Sites) -> None:
        self._placing.sites = sites

    def start(self) -> None:
        """Fetch what earlier runs left."""
        self._task(self._start())

    async def _start(self) -> None:
        try:
            for lane in await self._spool.parked_lanes():
                self._dispatch.parked.setdefault(lane, 1)
        except SpoolError as error:
            log.error("queue: can't read the spool: %s", error)
        self.wake()

    def wake(self) -> None:
        """Look for due recipients on the disk now."""
        self._fetching.wake()

    def _room(self) -> int:
        return self._holding.room

    # --- on demand: who owns a domain comes for its mail

    async def waiting(self, domains: Sequence[Domain]) -> int:
        """How many recipients of these domains wait. Raises SpoolError."""
        return await self._spool.waiting_at([place for place, _ in await self._placing.places(domains)])

    async def release(self, domains: Sequence[Domain]) -> int | None:
        """Try the recipients of these domains now, by their routes; None where no route leads to a host: ETRN."""
        found = await self._placing.places(domains)
        places = [place for place, route in found if not isinstance(route.next_hop, Turn)]
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
        places: list[Place] = [place for place, _ in await self._placing.places(domains)]
        jobs: list[Job] = []
        async with self._operating.leasing:
            for message, rows, waiting in await self._spool.lease_at(places, after, limit):
                held = self._hold(message, rows, waiting)
                if held is not None:
                    jobs += [Job(held, mine, name) for name, _, mine in self._placing.jobs(held, rows, asks=False)]
        return jobs

    def settle(self, job: Job, report: Report) -> None:
        """What came of a job that was taken; without outcomes it stays leased, since we are closing."""
        if report.outcomes:
            self._settle(job, report)

    # --- through

    def _admit(self, message: Message, rows: list[Row], waiting: int) -> None:
        """Take recipients into memory and to their lanes; `waiting` others of the message are on the disk."""
        held = self._hold(message, rows, waiting)
        if held is not None:
            self._route(held, rows)

    def _route(self, message: Message, rows: list[Row]) -> None:
        """To their lanes; those whose site must be asked for first come here again."""
        for name, route, mine in self._placing.jobs(message, rows):
            job = Job(message, mine, name)
            if message.envelope.options.deliver_by is not None and not self._has_time(job):
                continue
            if name:
                self._dispatch.put(job, route)
            else:
                self._ask_site(job)

    def _ask_site(self, job: Job) -> None:
        crowded = self._placing.ask(job, self._sited, self._clock.now())
        if crowded is not None:
            self._settle(job, crowded)

    def _sited(self, job: Job) -> None:
        self._deadlines.forget(job)
        if not self._closing and self._may_try(job):
            self._route(job.message, job.rows)

    def _hold(self, message: Message, rows: list[Row], waiting: int) -> Message | None:
        """Take recipients into memory; None where there is no room. Gives the message as it is known here."""
        held = self._holding.take(message, len(rows), waiting, anew=not self._closing)
        if held is None:
            self._put_back(message, rows, waiting)
        return held

    def renew_lanes(self, limits: Callable[[str], LaneLimits] | None = None) -> None:
        """Let every lane be opened anew, by the present configuration, for the job after those it has. `limits`, by
        name, hold at once."""
        self._dispatch.renew(limits)

    def _put_back(self, message: Message, rows: list[Row], waiting: int) -> None:
        """No room in memory: the disk keeps it, due at once."""
        if self._closing:
            return  # it stays leased, and is due when we are back
        self._fetching.starved = True
        self._held[message.id] = Held(message, 0, waiting + len(rows), 1)
        message.content = None
        now = self._clock.now()
        changes = tuple(
            Change(message.id, row.number, State.SCHEDULED, now, row.attempts, "", None, None, row.told) for row in rows
        )
        self._write(Unit(changes=changes))

    # --- orders of an operator

    async def order(self, wanted: Predicate, order: Order) -> Done:
        """Carry it out, some recipients at a time. What is in memory is changed when its turn comes, or when it comes
        back from an attempt and is not settled. Raises SpoolError; what was done before stays done."""
        return await self._operating.order(wanted, order)

    def loads(self) -> list[Load]:
        return self._dispatch.loads()

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

    def _may_try(self, job: Job) -> bool:
        """Whether anything of a job is to be tried; what an operator wants otherwise leaves it."""
        if not self._standing.orders:
            return True
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
        waits = self._dispatch.withdraw(job) if job.lane else self._placing.withdraw(job)
        if waits and not self._closing:
            self._settle(job, overdue(job, self._clock.now()) or behind(job))
            self._dispatch.close_if_stale(job.lane)

    # --- out

    def _settle(self, job: Job, report: Report) -> None:
        message = job.message
        self._deadlines.forget(job)
        self._fetching.back += isinstance(report.outcomes[0], Waits)
        instead = self._operating.instead if self._standing.orders else None
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
        if unit.changes:  # all of one message
            self._agreed(unit.changes[0].message)
        self._follow(unit)

    def _follow(self, unit: Unit) -> None:
        """What is to be done next, now that it is on the disk."""
        for change in unit.changes:
            if change.state is State.SCHEDULED:
                self._fetching.wake_at(change.due)
        for notice in unit.messages:
            self._admit(notice, _rows(notice), 0)
        if self._fetching.starved and self._holding.half_empty:
            self.wake()

    def _agreed(self, message: MessageId) -> None:
        """The disk has what was decided about a message; with nothing left to decide it leaves the memory."""
        held = self._holding.agreed(message)
        if held is None:
            return
        if self._standing.orders:
            self._standing.forget(message)
        if not held.waiting and not held.finished:
            self._write(Unit(finished=(held.message,)))

    # --- the end

    async def close(self, grace: float) -> None:
        """Start nothing more; let what is in flight end within so many seconds, and its outcomes be written."""
        self._closing = True
        self._deadlines.close()
        self._fetching.close()
        if self.sites is not None:
            await self.sites.close()
        await self._dispatch.close(grace)
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
