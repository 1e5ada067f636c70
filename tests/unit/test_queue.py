"""The queue with an imagined disk, imagined ways out and a clock that stands still: states, notices, bounds, faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine import queue as queue_module
from pillarbox.engine.ids import IdSource
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Leased, Message, Outcome, Report, Row, State, Unit
from pillarbox.engine.notices import Notices
from pillarbox.engine.ports import (
    Accepted,
    Mailer,
    NoSuchUser,
    NotLocal,
    Resolution,
    Spool,
    SpoolBroken,
    SpoolCallback,
    SpoolError,
    SpoolFull,
)
from pillarbox.engine.queue import Lane, Queue
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.retry import DEFAULT, RetrySchedule
from pillarbox.engine.routing import Route, Router
from pillarbox.sim.clock import VirtualClock

HOSTNAME = Domain.parse("mx.example.test")
HERE = Domain.parse("example.test")
TEXT = b"Received: trace\r\nSubject: x\r\n\r\nbody\r\n"
DAY = 86400.0

OK = Delivered("250 2.0.0 Ok", "mx.far.example [192.0.2.1]")
LATER = Deferred("450 4.2.0 Later", "mx.far.example [192.0.2.1]", EnhancedCode(4, 2, 0), remote=True)
NEVER = Failed("550 5.1.1 No such user", "mx.far.example [192.0.2.1]", EnhancedCode(5, 1, 1), remote=True)


async def turns(count: int = 20) -> None:
    """Let everything run that can run without time passing."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


class Town:
    """Meets the port Directory: one local domain, with alice, who has an alias."""

    def resolve(self, address: Mailbox) -> Resolution:
        if address.domain != HERE:
            return NotLocal()
        if str(address.local) == "sales":
            return Accepted((Mailbox.parse("alice@example.test"), Mailbox.parse("bob@far.example")))
        return Accepted((address,)) if str(address.local) != "nobody" else NoSuchUser()

    def is_local(self, domain: Domain) -> bool:
        return domain == HERE


@dataclass
class Stored:
    """A recipient on the imagined disk."""

    recipient: Recipient
    state: State
    due: float
    attempts: int = 0
    lane: str = ""
    reply: str = ""


class MemorySpool:
    """Meets the port Spool. `held`: commits wait for `release`; `fault`: what they end with."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.bodies: dict[int, bytes] = {}
        self.rows: dict[tuple[int, int], Stored] = {}
        self.records: list[Record] = []
        self.units: list[Unit] = []  # that were committed
        self.held = False
        self.fault: Callable[[Unit], SpoolError | None] = lambda unit: None
        self.lease_fault: SpoolError | None = None
        self.body_fault: SpoolError | None = None
        self.before_next_due: Callable[[], None] | None = None
        self._waiting: list[tuple[Unit, SpoolCallback]] = []

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        assert urgent == bool(unit.messages and not unit.changes)
        if self.held:
            self._waiting.append((unit, done))
        else:
            asyncio.get_running_loop().call_soon(self._commit, unit, done)

    def release(self) -> None:
        self.held = False
        for unit, done in self._waiting:
            self._commit(unit, done)
        self._waiting = []

    def _commit(self, unit: Unit, done: SpoolCallback) -> None:
        error = self.fault(unit)
        if error is None:
            self._apply(unit)
        done(error)

    def _apply(self, unit: Unit) -> None:
        self.units.append(unit)
        for message in unit.messages:
            assert message.id not in self.messages
            self.messages[message.id] = replace(message)
            assert message.content is not None
            self.bodies[message.id] = message.content
            for number, recipient in enumerate(message.envelope.recipients):
                self.rows[message.id, number] = Stored(recipient, State.LEASED, message.received_at)
        self.records.extend(unit.notes)
        for change in unit.changes:
            row = self.rows[change.message, change.number]
            assert not row.state.settled, f"{row} was settled before"
            row.state, row.due, row.attempts = change.state, change.due, change.attempts
            row.lane, row.reply = change.lane, change.reply
            if change.record is not None:
                self.records.append(change.record)
        self.records.extend(unit.records)
        for message in unit.finished:
            del self.bodies[message.id]

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        raise AssertionError("the queue spills nothing")

    def unspill(self, message: MessageId) -> None:
        raise AssertionError("the queue spills nothing")

    async def lease(self, now: float, limit: int) -> list[Leased]:
        await turns(1)
        if self.lease_fault is not None:
            raise self.lease_fault
        due = sorted((row.due, key) for key, row in self.rows.items() if row.state is State.SCHEDULED)
        taken: dict[int, list[Row]] = {}
        for _, (message, number) in [one for one in due if one[0] <= now][:limit]:
            row = self.rows[message, number]
            row.state = State.LEASED
            taken.setdefault(message, []).append(Row(number, row.recipient, row.attempts))
        return [
            Leased(replace(self.messages[message], content=None), rows, self._scheduled(message))
            for message, rows in taken.items()
        ]

    def _scheduled(self, message: int) -> int:
        return sum(key[0] == message and row.state is State.SCHEDULED for key, row in self.rows.items())

    async def next_due(self) -> float | None:
        due = min((row.due for row in self.rows.values() if row.state is State.SCHEDULED), default=None)
        if self.before_next_due is not None:
            self.before_next_due()
        await turns(1)
        return due

    async def body(self, message: Message) -> AsyncIterator[bytes]:
        if message.content is not None:
            yield message.content
            return
        await turns(1)
        if message.id not in self.bodies:
            raise SpoolBroken(f"body of {message.id} is not there")
        if self.body_fault is not None:
            raise self.body_fault
        yield self.bodies[message.id]

    def restarted(self) -> None:
        """As after a crash: what was leased is scheduled."""
        for row in self.rows.values():
            if row.state is State.LEASED:
                row.state = State.SCHEDULED

    # --- for assertions

    def states(self, message: int) -> list[State]:
        return [row.state for key, row in sorted(self.rows.items()) if key[0] == message]

    def kinds(self, message: int) -> list[Kind]:
        return [record.kind for record in self.records if record.message == message]


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
    ) -> None:
        self.clock = clock or VirtualClock()
        self.spool = spool or MemorySpool()
        self.mailers: dict[str, FakeMailer] = {}
        self.limit = limit
        self.answer = answer
        self.answers: list[SpoolError | None] = []
        self.ids = IdSource(self.clock, max(self.spool.messages, default=0))
        spool_port: Spool = self.spool
        self.queue = Queue(
            spool=spool_port,
            clock=self.clock,
            router=Router((), Town()),
            open_lane=self._open_lane,
            retry=retry,
            notices=Notices(spool=spool_port, clock=self.clock, ids=self.ids, directory=Town(), hostname=HOSTNAME),
        )

    def _open_lane(self, name: str, route: Route) -> Lane:
        self.mailers[name] = FakeMailer(self.answer)
        mailer: Mailer = self.mailers[name]
        return Lane(mailer, self.limit)

    def message(self, *recipients: str, sender: str | None = "from@far.example", content: bytes = TEXT) -> Message:
        boxes = [Mailbox.parse(address) for address in recipients or ("to@far.example",)]
        return Message(
            id=self.ids.next(),
            received_at=self.clock.now(),
            envelope=Envelope(
                None if sender is None else Mailbox.parse(sender), tuple(Recipient(box, box) for box in boxes)
            ),
            listener="mx",
            peer="192.0.2.9",
            helo="client.example",
            protocol="ESMTP",
            size=len(content),
            header=HeaderView(1, "", "x", "", ""),
            eight_bit=False,
            large=False,
            content=content,
        )

    async def accept(self, *recipients: str, sender: str | None = "from@far.example", content: bytes = TEXT) -> Message:
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
        assert self.queue._held == {} and self.queue._octets == 0
        assert all(lane.active == 0 and not lane.ready for lane in self.queue._lanes.values())


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


# --- in


def test_a_message_is_tried_only_once_it_is_durable() -> None:
    async def main() -> None:
        rig = Rig()
        rig.spool.held = True
        await rig.accept()
        assert (rig.answers, rig.mailers, rig.in_memory) == ([], {}, 0)
        rig.spool.release()
        assert rig.answers == [None]
        assert [job.rows[0].number for job in rig.mailer().jobs] == [0]

    run(main())


@pytest.mark.parametrize("fault", [SpoolFull("no room"), SpoolBroken("no disk")])
def test_a_message_that_is_not_durable_is_not_tried(fault: SpoolError) -> None:
    async def main() -> None:
        rig = Rig()
        rig.spool.fault = lambda unit: fault
        await rig.accept()
        assert rig.answers == [fault]
        assert rig.mailers == {}
        rig.assert_empty()
        await rig.pass_time(DAY)
        assert rig.mailers == {} and rig.spool.rows == {}

    run(main())


def test_recipients_of_one_lane_share_a_job() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "alice@example.test", "b@far.example", "c@else.example")
        lanes = {
            name: [[row.number for row in job.rows] for job in mailer.jobs] for name, mailer in rig.mailers.items()
        }
        assert lanes == {"mx:far.example": [[0, 2]], "maildir": [[1]], "mx:else.example": [[3]]}
        for mailer in rig.mailers.values():
            mailer.end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED] * 4
        rig.assert_empty()

    run(main())


def test_a_lane_has_no_more_jobs_in_flight_than_its_limit() -> None:
    async def main() -> None:
        rig = Rig(limit=2)
        messages = [await rig.accept() for _ in range(5)]
        await rig.accept("a@else.example")
        mailer = rig.mailer()
        for ended in range(5):
            assert [job.message.id for job in mailer.jobs] == [one.id for one in messages[: ended + 2]]
            assert len(mailer.open) == min(2, 5 - ended)
            mailer.end(OK)
        assert len(rig.mailer("mx:else.example").jobs) == 1  # another lane waits for none of this

    run(main())


# --- through


def test_what_was_deferred_is_tried_by_the_schedule() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        for attempt, pause in enumerate((300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 14400.0), start=1):
            assert [row.attempts for row in rig.mailer().open[0][0].rows] == [attempt - 1]
            rig.mailer().end(LATER)
            await turns()
            stored = rig.spool.rows[message.id, 0]
            assert (stored.state, stored.due) == (State.SCHEDULED, rig.clock.now() + pause)
            assert (stored.attempts, stored.lane, stored.reply) == (attempt, "mx:far.example", LATER.text)
            rig.assert_empty()
            await rig.pass_time(pause - 1)
            assert rig.mailer().open == []
            await rig.pass_time(1)
            assert rig.spool.rows[message.id, 0].state is State.LEASED
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED]
        assert rig.spool.kinds(message.id) == [Kind.DEFERRED] * 7 + [Kind.DELIVERED]
        assert rig.spool.bodies == {}

    run(main())


def test_records_say_what_happened() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "b@far.example")
        now = rig.clock.now()
        rig.mailer().end(OK, LATER, notes=("MX of far.example: 10 mx.far.example", "mx.far.example: refused"))
        await turns()
        assert rig.spool.records == [
            Record(message.id, now, Kind.ATTEMPT, None, (("text", "MX of far.example: 10 mx.far.example"),)),
            Record(message.id, now, Kind.ATTEMPT, None, (("text", "mx.far.example: refused"),)),
            Record(message.id, now, Kind.DELIVERED, 0, (("text", OK.text), ("next_hop", OK.next_hop))),
            Record(
                message.id,
                now,
                Kind.DEFERRED,
                1,
                (("text", LATER.text), ("next_hop", LATER.next_hop), ("status", "4.2.0"), ("due", now + 300)),
            ),
        ]

    run(main())


def test_every_recipient_has_a_fate_of_its_own() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "b@far.example", "c@far.example")
        rig.mailer().end(OK, LATER, NEVER)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED, State.SCHEDULED, State.FAILED]
        assert message.id in rig.spool.bodies
        notice = rig.mailer().jobs[1].message
        text = notice.content or b""
        assert b"<c@far.example>" in text and b"<a@far.example>" not in text and b"<b@far.example>" not in text
        await rig.pass_time(300)
        assert [[row.number for row in job.rows] for job in rig.mailer().jobs] == [[0, 1, 2], [0], [1]]
        rig.mailer().end(OK)  # the notice
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED, State.DELIVERED, State.FAILED]
        assert rig.spool.bodies == {}
        rig.assert_empty()

    run(main())


def finished(rig: Rig, message: Message) -> bool:
    return any(one.id == message.id for unit in rig.spool.units for one in unit.finished)


def test_a_message_is_finished_when_its_last_recipient_in_memory_is_settled() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "a@else.example")
        rig.mailer().end(OK)
        await turns()
        assert not finished(rig, message)
        rig.mailer("mx:else.example").end(OK)
        await turns()
        assert finished(rig, message)

    run(main())


def test_a_message_is_finished_when_its_last_recipient_on_the_disk_is_settled() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "a@else.example")
        rig.mailer().end(LATER)
        await rig.pass_time(200)
        rig.mailer("mx:else.example").end(LATER)
        await rig.pass_time(100)
        rig.mailer().end(OK)  # while the other one waits on the disk
        await turns()
        assert not finished(rig, message)
        await rig.pass_time(200)
        rig.mailer("mx:else.example").end(OK)
        await turns()
        assert finished(rig, message)
        rig.assert_empty()

    run(main())


def test_a_recipient_that_comes_back_finds_its_message_in_memory() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "a@else.example")
        rig.mailer().end(LATER)
        await rig.pass_time(300)
        assert rig.mailer().open[0][0].message is message  # the other recipient holds it there
        rig.mailer("mx:else.example").end(OK)
        await turns()
        assert not finished(rig, message)
        rig.mailer().end(OK)
        await turns()
        assert finished(rig, message)
        rig.assert_empty()

    run(main())


# --- notices


def notice_units(rig: Rig) -> list[Unit]:
    return [unit for unit in rig.spool.units if unit.messages and unit.messages[0].listener == "notice"]


def test_a_failure_and_its_notice_are_one_unit() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "b@far.example")
        rig.mailer().end(NEVER)
        await turns()
        (unit,) = notice_units(rig)
        (notice,) = unit.messages
        assert [(change.message, change.state) for change in unit.changes] == [(message.id, State.FAILED)] * 2
        assert unit.finished == (message,)
        assert (notice.envelope.sender, notice.listener) == (None, "notice")
        assert [str(each.address) for each in notice.envelope.recipients] == ["from@far.example"]
        assert rig.spool.kinds(message.id) == [Kind.FAILED, Kind.FAILED, Kind.NOTICE]
        assert b"Subject: x" in (notice.content or b"")  # the header section of the original
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(notice.id) == [State.DELIVERED]
        assert len(notice_units(rig)) == 1
        rig.assert_empty()

    run(main())


def test_what_was_tried_for_too_long_expires_with_a_notice() -> None:
    async def main() -> None:
        rig = Rig(retry=RetrySchedule((300.0, 900.0), 2000.0))
        message = await rig.accept()
        attempts = []
        for pause in (300, 900, 800):  # the last attempt is at the very end of the time
            attempts.append(rig.clock.monotonic())
            rig.mailer().end(LATER)
            await turns()
            assert rig.spool.states(message.id) == [State.SCHEDULED]
            await rig.pass_time(pause)
        rig.mailer().end(LATER)
        await turns()
        assert attempts == [0.0, 300.0, 1200.0]
        assert rig.spool.states(message.id) == [State.EXPIRED]
        assert rig.spool.kinds(message.id)[-2:] == [Kind.EXPIRED, Kind.NOTICE]
        (unit,) = notice_units(rig)
        assert b"Given up after 4 attempts in 33 minutes" in (unit.messages[0].content or b"").replace(b"\r\n", b" ")
        assert rig.spool.rows[message.id, 0].reply == LATER.text

    run(main())


def test_a_local_sender_gets_the_notice_where_the_directory_says() -> None:
    async def main() -> None:
        rig = Rig()
        await rig.accept(sender="sales@example.test")
        rig.mailer().end(NEVER)
        await turns()
        recipients = notice_units(rig)[0].messages[0].envelope.recipients
        assert [str(each.address) for each in recipients] == ["alice@example.test", "bob@far.example"]
        assert {str(each.original) for each in recipients} == {"sales@example.test"}

    run(main())


@pytest.mark.parametrize("sender", [None, "nobody@example.test"])
def test_nobody_is_told_where_nobody_is_there(sender: str | None) -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept(sender=sender)
        rig.mailer().end(NEVER)
        await turns()
        assert notice_units(rig) == []
        assert rig.spool.states(message.id) == [State.FAILED]
        (record,) = [record for record in rig.spool.records if record.kind is Kind.NOTICE]
        assert str(dict(record.detail)["text"]).startswith("none: ")
        assert rig.spool.bodies == {}
        rig.assert_empty()

    run(main())


def test_nothing_bounces_a_bounce() -> None:
    async def main() -> None:
        rig = Rig()
        await rig.accept()
        rig.mailer().end(NEVER)
        await turns()
        rig.mailer().end(NEVER)  # the notice itself
        await turns()
        assert len(notice_units(rig)) == 1
        assert len(rig.mailer().jobs) == 2
        assert [record.kind for record in rig.spool.records][-2:] == [Kind.FAILED, Kind.NOTICE]
        rig.assert_empty()

    run(main())


def test_a_notice_does_without_a_header_section_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(queue_module, "CONTENT_BUDGET", 0)
        rig = Rig()
        message = await rig.accept()
        rig.spool.bodies[message.id] = b""
        rig.spool.body_fault = SpoolBroken("no disk")
        rig.mailer().end(NEVER)
        await turns()
        (unit,) = notice_units(rig)
        assert b"Subject: x" not in (unit.messages[0].content or b"")
        assert rig.spool.states(message.id) == [State.FAILED]

    run(main())


def test_a_bug_in_making_a_notice_loses_no_outcome(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        rig = Rig()

        async def broken(*_: object) -> tuple[Message | None, Record]:
            raise ZeroDivisionError

        monkeypatch.setattr(rig.queue.notices, "make", broken)
        message = await rig.accept()
        rig.mailer().end(NEVER)
        await turns()
        assert rig.spool.states(message.id) == [State.FAILED]
        assert rig.spool.kinds(message.id) == [Kind.FAILED, Kind.NOTICE]

    run(main())
    assert "ZeroDivisionError" in caplog.text


# --- bounds


def small_window(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(queue_module, "WINDOW", window)
    monkeypatch.setattr(queue_module, "LEASE_AT_ONCE", 3)


def test_what_has_no_room_in_memory_waits_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        small_window(monkeypatch, 4)
        rig = Rig(limit=1)
        messages = [await rig.accept() for _ in range(20)]
        assert rig.answers == [None] * 20
        mailer = rig.mailer()
        for _ in range(20):
            assert rig.in_memory <= 4
            mailer.end(OK)
            await turns()
        assert sorted(job.message.id for job in mailer.jobs) == [message.id for message in messages]
        assert {row.state for row in rig.spool.rows.values()} == {State.DELIVERED}
        assert {row.attempts for row in rig.spool.rows.values()} == {1}
        rig.assert_empty()

    run(main())


def test_a_restart_fetches_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        before = Rig(limit=0)
        messages = [await before.accept("a@far.example", "b@else.example") for _ in range(20)]
        before.spool.restarted()
        small_window(monkeypatch, 6)
        rig = Rig(limit=1, spool=before.spool, clock=before.clock)
        rig.queue.start()
        await turns(200)
        assert 0 < rig.in_memory <= 6
        while rig.in_memory:
            for mailer in rig.mailers.values():
                if mailer.open:
                    mailer.end(OK)
            await turns(50)
            assert rig.in_memory <= 6
        jobs = [
            (job.message.id, row.number) for mailer in rig.mailers.values() for job in mailer.jobs for row in job.rows
        ]
        assert sorted(jobs) == [(message.id, number) for message in messages for number in (0, 1)]
        assert rig.spool.bodies == {}
        rig.assert_empty()

    run(main())


def test_texts_beyond_the_budget_are_read_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(queue_module, "CONTENT_BUDGET", 2 * len(TEXT))
        rig = Rig()
        messages = [await rig.accept() for _ in range(4)]
        assert [message.content for message in messages] == [TEXT, TEXT, None, None]
        rig.mailer().end(OK)
        messages.append(await rig.accept())
        assert messages[-1].content == TEXT
        for _ in range(4):
            rig.mailer().end(OK)
        await turns()
        rig.assert_empty()

    run(main())


def test_lanes_without_work_are_closed_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(queue_module, "MAX_LANES", 3)
        rig = Rig()
        for name in "abc":
            await rig.accept(f"x@{name}.example")
        first = rig.mailer("mx:a.example")
        first.end(OK)
        await rig.accept("x@d.example")
        assert first.closed == 0 and rig.mailer("mx:b.example").closed is None
        await rig.accept("x@a.example")
        assert rig.mailer("mx:a.example") is not first
        for name in "bcda":
            rig.mailer(f"mx:{name}.example").end(OK)
        await turns()
        assert {row.state for row in rig.spool.rows.values()} == {State.DELIVERED}

    run(main())


# --- the disk fails


def once(*faults: SpoolError | None) -> Callable[[Unit], SpoolError | None]:
    """Faults for the outcomes that are written from now on, one after the other; then all is well."""
    left = list(faults)
    return lambda unit: left.pop(0) if left and unit.changes else None


def test_an_outcome_that_was_not_written_is_written_again() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        rig.spool.fault = once(SpoolBroken("no disk"), SpoolFull("no room"))
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.LEASED]
        await rig.pass_time(queue_module.WRITE_AGAIN)
        assert rig.spool.states(message.id) == [State.LEASED]
        await rig.pass_time(queue_module.WRITE_AGAIN)
        assert rig.spool.states(message.id) == [State.DELIVERED]
        assert len(rig.mailer().jobs) == 1 and rig.spool.bodies == {}

    run(main())


def test_a_notice_that_was_not_written_is_written_again_and_tried_once() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        rig.spool.fault = once(SpoolBroken("no disk"))
        rig.mailer().end(NEVER)
        await turns()
        assert len(rig.mailer().jobs) == 1
        await rig.pass_time(5)
        assert rig.spool.states(message.id) == [State.FAILED]
        assert len(notice_units(rig)) == 1 and len(rig.mailer().jobs) == 2

    run(main())


def test_a_retry_is_not_forgotten_when_its_outcome_was_written_after_it_was_due() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        rig.spool.fault = lambda unit: SpoolFull("no room") if unit.changes else None
        rig.mailer().end(LATER)
        await rig.pass_time(600)  # longer than the pause of 300 s
        rig.spool.fault = lambda unit: None
        await rig.pass_time(5)
        assert rig.spool.rows[message.id, 0].attempts == 1
        await rig.pass_time(120)
        assert len(rig.mailer().jobs) == 2

    run(main())


def test_a_text_stays_while_a_recipient_needs_it_though_an_outcome_was_written_late() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "b@else.example")
        rig.mailer("mx:else.example").end(LATER)
        await rig.pass_time(299.5)
        rig.spool.fault = once(SpoolFull("no room"))
        rig.mailer().end(LATER)  # out of the memory, and still leased on the disk for another second
        await rig.pass_time(0.5)
        rig.mailer("mx:else.example").end(OK)
        await rig.pass_time(1)
        assert rig.spool.states(message.id) == [State.SCHEDULED, State.DELIVERED]
        assert message.id in rig.spool.bodies

    run(main())


def test_a_text_stays_until_every_outcome_is_written() -> None:
    """The notice of one recipient takes its time; a crash meanwhile must not leave it without a text."""

    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "a@else.example")
        rig.mailer().end(NEVER)
        rig.mailer("mx:else.example").end(OK)
        await turns()
        assert rig.spool.bodies.keys() == {rig.mailer().jobs[1].message.id}  # the notice
        rows = {key[1]: State.LEASED for key in rig.spool.rows if key[0] == message.id}
        for unit in rig.spool.units:
            rows.update({change.number: change.state for change in unit.changes if change.message == message.id})
            if unit.finished:
                assert all(state.settled for state in rows.values())

    run(main())


def test_a_text_stays_though_half_of_its_message_was_put_back_late(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        before = Rig(limit=0)
        message = await before.accept("a@far.example", "b@far.example")
        before.spool.restarted()
        small_window(monkeypatch, 2)
        monkeypatch.setattr(queue_module, "LEASE_AT_ONCE", 1)
        rig = Rig(spool=before.spool, clock=before.clock)
        rig.spool.fault = once(SpoolFull("no room"))
        rig.queue.start()
        for _ in range(2):  # they fill the window while the first recipient is on its way from the disk
            rig.queue.accept(rig.message("c@else.example"), rig.answers.append)
        await turns()
        for _ in range(2):
            rig.mailer("mx:else.example").end(OK)
            await turns()
        assert "mx:far.example" not in rig.mailers  # the second one waits until the disk knows of the first
        await rig.pass_time(queue_module.WRITE_AGAIN)  # the first one is put back
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id).count(State.DELIVERED) == 1
        assert message.id in rig.spool.bodies
        await rig.pass_time(120)
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED] * 2
        assert rig.spool.bodies == {}
        rig.assert_empty()

    run(main())


def test_a_spool_that_cannot_be_read_is_asked_again() -> None:
    async def main() -> None:
        before = Rig(limit=0)
        await before.accept()
        before.spool.restarted()
        rig = Rig(spool=before.spool, clock=before.clock)
        rig.spool.lease_fault = SpoolBroken("no disk")
        rig.queue.start()
        await rig.pass_time(120)
        assert rig.mailers == {}
        rig.spool.lease_fault = None
        await rig.pass_time(queue_module.LOOK_AGAIN)
        assert len(rig.mailer().jobs) == 1

    run(main())


# --- the clock and the operator


def test_a_wall_clock_set_forward_makes_due_what_is_due_by_it() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        rig.mailer().end(LATER)
        await turns()
        rig.clock.jump(DAY)
        await rig.pass_time(queue_module.LOOK_AGAIN)
        assert len(rig.mailer().jobs) == 2
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED]

    run(main())


def test_a_wall_clock_set_back_delays_by_no_more_than_that_and_stops_nothing_new() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        rig.mailer().end(LATER)
        await turns()
        rig.clock.jump(-DAY)
        other = await rig.accept()
        assert other.id > message.id
        rig.mailer().end(LATER)
        await rig.pass_time(300)
        assert [job.message.id for job in rig.mailer().jobs] == [message.id, other.id, other.id]
        rig.mailer().end(OK)
        await rig.pass_time(DAY)
        assert [job.message.id for job in rig.mailer().jobs][3:] == [message.id]
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED]

    run(main())


def test_an_operator_may_have_it_tried_now() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        rig.mailer().end(LATER)
        await turns()
        rig.spool.rows[message.id, 0].due = rig.clock.now()
        rig.queue.wake()
        await turns()
        assert len(rig.mailer().jobs) == 2
        rig.mailer().end(LATER)
        await turns()
        assert rig.spool.rows[message.id, 0].due == rig.clock.now() + 900

    run(main())


def test_a_wake_is_heard_at_any_moment_of_a_look_at_the_disk() -> None:
    async def main() -> None:
        rig = Rig()
        first, second = await rig.accept("a@far.example"), await rig.accept("a@else.example")
        for mailer in rig.mailers.values():
            mailer.end(LATER)
        await turns()

        def meanwhile() -> None:
            rig.spool.before_next_due = None
            rig.spool.rows[first.id, 0].due = rig.clock.now()
            rig.queue.wake()

        rig.spool.before_next_due = meanwhile
        rig.spool.rows[second.id, 0].due = rig.clock.now()
        rig.queue.wake()
        await turns()
        assert [len(mailer.jobs) for mailer in rig.mailers.values()] == [2, 2]

    run(main())


# --- the end


def test_close_lets_end_what_is_in_flight_and_starts_nothing() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        messages = [await rig.accept() for _ in range(3)]
        mailer = rig.mailer()
        job, done = mailer.open.pop()
        closing = asyncio.create_task(rig.queue.close(5.0))
        await turns()
        done(job, Report((NEVER,)))
        await closing
        await turns()
        assert mailer.closed == 5.0 and len(mailer.jobs) == 1
        assert [rig.spool.states(one.id) for one in messages] == [[State.FAILED], [State.LEASED], [State.LEASED]]
        assert len(notice_units(rig)) == 1  # tried at the next start
        assert rig.spool.states(notice_units(rig)[0].messages[0].id) == [State.LEASED]

    run(main())


def test_what_was_not_tried_stays_leased_and_is_due_at_the_next_start() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept()
        await rig.queue.close(0)
        await turns()
        assert rig.spool.states(message.id) == [State.LEASED] and rig.spool.records == []
        late = rig.message()
        rig.queue.accept(late, rig.answers.append)
        await turns()
        assert rig.answers == [None, None] and rig.spool.states(late.id) == [State.LEASED]
        rig.queue.wake()
        await rig.pass_time(DAY)
        assert len(rig.mailer().jobs) == 1
        rig.spool.restarted()
        again = Rig(spool=rig.spool, clock=rig.clock, answer=lambda job, row: OK)
        again.queue.start()
        await turns(50)
        assert {row.state for row in rig.spool.rows.values()} == {State.DELIVERED}
        assert {row.attempts for row in rig.spool.rows.values()} == {1}

    run(main())


# --- all at once


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_every_recipient_is_settled_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random outcomes, a small window, commits that fail, clocks that jump: nothing is lost, nothing is doubled."""
    dice = random.Random(seed)
    taken: dict[tuple[int, int], int] = {}

    def outcome(job: Job, row: Row) -> Outcome:
        result = dice.choices((OK, LATER, NEVER), (5, 4, 1))[0]
        if result is OK:
            taken[job.message.id, row.number] = taken.get((job.message.id, row.number), 0) + 1
        return result

    async def main() -> None:
        small_window(monkeypatch, 5)
        rig = Rig(limit=2, answer=outcome, retry=RetrySchedule((60.0, 120.0), 7 * DAY))
        rig.spool.fault = lambda unit: SpoolFull("no room") if unit.changes and dice.random() < 0.2 else None
        for _ in range(30):
            wanted = [f"u{n}@{dice.choice('abcd')}.example" for n in range(dice.randint(1, 4))]
            await rig.accept(*wanted)
            if dice.random() < 0.2:
                rig.clock.jump(dice.uniform(-3600, 3600))
            rig.clock.advance(dice.uniform(0, 40))
        await rig.pass_time(2 * DAY / 10)
        states = {row.state for row in rig.spool.rows.values()}
        assert states <= {State.DELIVERED, State.FAILED}
        assert set(taken.values()) == {1}
        assert {key for key, row in rig.spool.rows.items() if row.state is State.DELIVERED} == set(taken)
        assert rig.spool.bodies == {}
        rig.assert_empty()

    run(main())
