"""The queue with an imagined disk, imagined ways out and a clock that stands still: states, notices, bounds, faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from pillarbox.adapters.instant import KEPT
from pillarbox.core.address import Domain
from pillarbox.core.envelope import MessageId, Recipient
from pillarbox.engine import queue as queue_module
from pillarbox.engine.mail import Job, Message, Outcome, Report, Row, State, Unit
from pillarbox.engine.ports import (
    SpoolBroken,
    SpoolError,
    SpoolFull,
)
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.retry import DEFAULT, RetrySchedule
from pillarbox.engine.routing import Route, SmartHost
from tests.making import TEXT, box, turns
from tests.queue_rig import DAY, KEPT_DOMAIN, KEPT_LANE, LATER, NEVER, OK, RELAYED, SENDER, Rig, run

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


def test_a_lane_is_opened_anew_once_it_has_nothing_to_do() -> None:
    """After a reload: an idle one at once, a busy one behind the jobs that it has."""

    async def main() -> None:
        rig = Rig(limit=1)
        await rig.accept("a@idle.example")
        rig.mailer("mx:idle.example").end(OK)
        for _ in range(2):
            await rig.accept()
        idle, busy = rig.mailer("mx:idle.example"), rig.mailer()
        rig.queue.renew_lanes()
        await turns()
        assert [idle.closed, busy.closed] == [0, None]
        busy.end(OK)
        await turns()
        assert [busy.closed] == [None]
        busy.end(OK)
        await turns()
        assert [busy.closed] == [0] and len(busy.jobs) == 2
        for recipient, before in (("a@far.example", busy), ("a@idle.example", idle)):
            await rig.accept(recipient)
            fresh = rig.mailer(f"mx:{recipient[2:]}")
            assert fresh is not before and len(fresh.jobs) == 1
            fresh.end(OK)
        await turns()
        rig.assert_empty()

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

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(rig.queue.notices, "make", broken)
        message = await rig.accept()
        rig.mailer().end(NEVER)
        await turns()
        assert rig.spool.states(message.id) == [State.FAILED]
        assert rig.spool.kinds(message.id) == [Kind.FAILED, Kind.NOTICE]

    run(main())
    assert "ZeroDivisionError" in caplog.text


# --- forwards and lists


def test_recipients_that_get_another_text_or_sender_have_jobs_of_their_own() -> None:
    """RFC 9228 §3, RFC 5321 §3.9.2: what stands in front of the text, and the reverse-path, are those of one job."""

    async def main() -> None:
        rig = Rig()
        sales, team, owner = map(box, ("sales@example.test", "team@example.test", "team-owner@example.test"))
        one, two, three, four, five = (box(f"{name}@far.example") for name in ("one", "two", "three", "four", "five"))
        await rig.accept(
            Recipient(one, one),
            Recipient(two, sales),
            Recipient(three, team, owner),
            Recipient(four, four),
            Recipient(five, team, owner),
        )
        jobs = {tuple(row.number for row in job.rows): (job.sender, job.forwarder) for job in rig.mailer().jobs}
        sender = box(SENDER)
        assert jobs == {(0, 3): (sender, None), (1,): (sender, sales), (2, 4): (owner, team)}
        for _ in jobs:
            rig.mailer().end(OK)
        await turns()
        rig.assert_empty()

    run(main())


def test_the_owner_of_a_list_gets_its_bounces() -> None:
    """RFC 5321 §3.9.2."""

    async def main() -> None:
        rig = Rig()
        member, team, owner = map(box, ("member@far.example", "team@example.test", "alice@example.test"))
        await rig.accept(Recipient(member, team, owner), "direct@far.example")
        rig.mailer().end(NEVER)
        rig.mailer().end(NEVER)
        await turns()
        told = [(unit.messages[0].envelope.recipients[0].address, unit.changes) for unit in notice_units(rig)]
        assert {(to, tuple(change.number for change in changes)) for to, changes in told} == {
            (owner, (0,)),
            (box(SENDER), (1,)),
        }

    run(main())


def test_what_came_without_a_sender_has_none_behind_a_list_either() -> None:
    """RFC 5321 §4.5.5: a notice must not be answered, whoever passes it on."""

    async def main() -> None:
        rig = Rig()
        member, team, owner = map(box, ("member@far.example", "team@example.test", "alice@example.test"))
        await rig.accept(Recipient(member, team, owner), sender=None)
        assert rig.mailer().jobs[0].sender is None
        rig.mailer().end(NEVER)
        await turns()
        assert notice_units(rig) == []

    run(main())


def test_a_sender_in_a_relay_domain_is_told_like_anybody_elsewhere() -> None:
    async def main() -> None:
        rig = Rig()
        await rig.accept(sender="user@relayed.example")
        rig.mailer().end(NEVER)
        await turns()
        (unit,) = notice_units(rig)
        assert [str(each.address) for each in unit.messages[0].envelope.recipients] == ["user@relayed.example"]

    run(main())


# --- what is kept for its owner


def at_home(job: Job, row: Row) -> Outcome:
    """What is to be kept is; all else is deferred."""
    return KEPT if job.lane == KEPT_LANE else LATER


async def keeping(*counts: int, **more: Any) -> tuple[Rig, list[Message]]:
    """A rig with kept messages of so many recipients each."""
    rig = Rig(answer=at_home, **more)
    messages = [await rig.accept(*(f"u{number}@kept.example" for number in range(count))) for count in counts]
    return rig, messages


def taken(jobs: list[Job]) -> list[tuple[int, list[int]]]:
    return [(int(job.message.id), [row.number for row in job.rows]) for job in jobs]


START = MessageId(0)


def test_what_is_kept_waits_without_attempts_until_it_is_given_up() -> None:
    async def main() -> None:
        retry = RetrySchedule((300.0,), 7200.0)
        rig, (message,) = await keeping(2, retry=retry)
        stored = rig.spool.rows[message.id, 1]
        assert (stored.state, stored.due, stored.attempts) == (
            State.SCHEDULED,
            message.received_at + retry.give_up,
            0,
        )
        assert (stored.lane, stored.reply) == (KEPT_LANE, KEPT.text)
        assert rig.spool.kinds(message.id) == [Kind.KEPT] * 2
        rig.assert_empty()
        await rig.pass_time(retry.give_up - 60)
        assert rig.spool.states(message.id) == [State.SCHEDULED] * 2
        await rig.pass_time(120)
        assert rig.spool.states(message.id) == [State.EXPIRED] * 2
        assert rig.spool.kinds(message.id)[2:] == [Kind.EXPIRED, Kind.EXPIRED, Kind.NOTICE]
        (unit,) = notice_units(rig)
        assert b"u0@kept.example" in (unit.messages[0].content or b"")

    run(main())


def test_what_waits_is_counted_by_its_place() -> None:
    async def main() -> None:
        rig, _ = await keeping(2, 1)
        await rig.accept("x@far.example", "y@kept.example", "z@relayed.example")
        far, else_ = Domain("far.example"), Domain("else.example")
        assert await rig.queue.waiting([KEPT_DOMAIN]) == 4
        assert await rig.queue.waiting([far]) == 1
        assert await rig.queue.waiting([KEPT_DOMAIN, RELAYED, else_]) == 5
        assert await rig.queue.waiting([else_]) == 0
        rig.spool.lease_fault = SpoolBroken("no disk")
        with pytest.raises(SpoolBroken):
            await rig.queue.waiting([far])

    run(main())


def test_a_route_names_the_place() -> None:
    async def main() -> None:
        rig = Rig(answer=lambda job, row: LATER, routes=(Route("kept.example", SmartHost("host.example", 2600)),))
        await rig.accept("a@kept.example", "b@elsewhere.example")
        assert await rig.queue.waiting([KEPT_DOMAIN]) == 1
        assert set(rig.mailers) == {"smtp:host.example:2600", "mx:elsewhere.example"}

    run(main())


def test_what_has_a_host_is_tried_at_once_when_somebody_asks() -> None:
    """ETRN."""

    async def main() -> None:
        rig = Rig(answer=lambda job, row: LATER, routes=(Route("kept.example", SmartHost("host.example")),))
        message = await rig.accept("a@kept.example", "b@far.example")
        assert await rig.queue.release([KEPT_DOMAIN]) == 1
        await turns()
        assert len(rig.mailer("smtp:host.example:25").jobs) == 2 and len(rig.mailer().jobs) == 1
        assert rig.spool.rows[message.id, 0].attempts == 2
        assert await rig.queue.release([Domain("else.example")]) == 0
        rig.spool.lease_fault = SpoolBroken("no disk")
        with pytest.raises(SpoolBroken):
            await rig.queue.release([KEPT_DOMAIN])

    run(main())


def test_what_has_no_host_is_not_tried() -> None:
    async def main() -> None:
        rig, _ = await keeping(1)
        assert await rig.queue.release([KEPT_DOMAIN]) is None
        assert await rig.queue.release([KEPT_DOMAIN, RELAYED]) == 0
        await turns()
        assert len(rig.mailer(KEPT_LANE).jobs) == 1

    run(main())


@pytest.mark.parametrize(
    ("outcome", "state", "attempts"),
    [(OK, State.DELIVERED, 1), (NEVER, State.FAILED, 1), (LATER, State.SCHEDULED, 1), (KEPT, State.SCHEDULED, 0)],
)
def test_the_owner_takes_it(outcome: Outcome, state: State, attempts: int) -> None:
    async def main() -> None:
        rig, (message,) = await keeping(2)
        (job,) = await rig.queue.take([KEPT_DOMAIN], START, 10)
        assert taken([job]) == [(message.id, [0, 1])] and (job.lane, job.message.content) == (KEPT_LANE, None)
        assert rig.spool.states(message.id) == [State.LEASED] * 2 and rig.in_memory == 1
        assert await rig.queue.take([KEPT_DOMAIN], START, 10) == []
        assert await rig.queue.waiting([KEPT_DOMAIN]) == 0
        rig.queue.settle(job, Report((outcome,) * 2))
        await turns()
        assert rig.spool.states(message.id) == [state] * 2
        assert [rig.spool.rows[message.id, number].attempts for number in (0, 1)] == [attempts] * 2
        assert (message.id in rig.spool.bodies) is (state is State.SCHEDULED)
        if state is State.SCHEDULED:
            assert await rig.queue.waiting([KEPT_DOMAIN]) == 2
        rig.assert_empty()

    run(main())


def test_a_deferred_recipient_that_was_taken_is_kept_again_and_nothing_is_connected_to() -> None:
    async def main() -> None:
        rig, (message,) = await keeping(1)
        (job,) = await rig.queue.take([KEPT_DOMAIN], START, 10)
        rig.queue.settle(job, Report((LATER,)))
        await rig.pass_time(400)
        stored = rig.spool.rows[message.id, 0]
        assert (stored.state, stored.due, stored.attempts) == (
            State.SCHEDULED,
            message.received_at + DEFAULT.give_up,
            1,
        )
        assert list(rig.mailers) == [KEPT_LANE]

    run(main())


def test_it_is_taken_message_by_message_and_no_message_in_part() -> None:
    async def main() -> None:
        rig, messages = await keeping(1, 3, 2, 1)
        ids = [int(message.id) for message in messages]
        first = await rig.queue.take([KEPT_DOMAIN], START, 2)
        assert taken(first) == [(ids[0], [0]), (ids[1], [0, 1, 2])]
        for job in first:
            rig.queue.settle(job, Report((LATER,) * len(job.rows)))  # waits again, and is not to be taken again
        second = await rig.queue.take([KEPT_DOMAIN], messages[1].id, 2)
        assert taken(second) == [(ids[2], [0, 1])]
        third = await rig.queue.take([KEPT_DOMAIN], messages[2].id, 2)
        assert taken(third) == [(ids[3], [0])]
        assert await rig.queue.take([KEPT_DOMAIN], messages[3].id, 2) == []

    run(main())


def test_it_is_taken_while_others_of_the_message_are_under_way() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept("a@far.example", "b@kept.example")
        rig.mailer(KEPT_LANE).end(KEPT)
        await turns()
        (job,) = await rig.queue.take([KEPT_DOMAIN], START, 10)
        assert job.message is message and taken([job]) == [(message.id, [1])]
        rig.queue.settle(job, Report((OK,)))
        await turns()
        assert message.id in rig.spool.bodies
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED] * 2 and rig.spool.bodies == {}
        rig.assert_empty()

    run(main())


def test_nothing_is_taken_beyond_the_room_in_memory_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig, messages = await keeping(1, 1, 1, 1)
        small_window(monkeypatch, 2)
        jobs = await rig.queue.take([KEPT_DOMAIN], START, 10)
        assert taken(jobs) == [(messages[0].id, [0]), (messages[1].id, [0])]
        await turns()
        for job in jobs:
            rig.queue.settle(job, Report((OK,)))
        await turns(50)
        assert [rig.spool.states(message.id) for message in messages] == [[State.DELIVERED]] * 2 + [
            [State.SCHEDULED]
        ] * 2
        assert await rig.queue.waiting([KEPT_DOMAIN]) == 2
        rig.assert_empty()

    run(main())


def test_a_close_while_something_is_taken_leaves_it_due_at_the_next_start() -> None:
    async def main() -> None:
        rig, (message, other) = await keeping(1, 1)
        (job, more) = await rig.queue.take([KEPT_DOMAIN], START, 10)
        await rig.queue.close(0)
        assert await rig.queue.take([KEPT_DOMAIN], START, 10) == []
        rig.queue.settle(job, Report(()))
        rig.queue.settle(more, Report((OK,)))
        await turns()
        assert [rig.spool.states(each.id) for each in (message, other)] == [[State.LEASED], [State.DELIVERED]]

    run(main())


def test_a_disk_that_cannot_be_read_takes_nothing() -> None:
    async def main() -> None:
        rig, (message,) = await keeping(1)
        rig.spool.lease_fault = SpoolBroken("no disk")
        with pytest.raises(SpoolBroken):
            await rig.queue.take([KEPT_DOMAIN], START, 10)
        assert rig.spool.states(message.id) == [State.SCHEDULED]

    run(main())


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
        while not all(row.state.settled for row in rig.spool.rows.values()):
            for mailer in rig.mailers.values():
                if mailer.open:
                    mailer.end(OK)
            await turns(50)
            assert rig.in_memory <= 6
            await rig.pass_time(1.0)
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
    """Random outcomes, a small window, commits that fail, clocks that jump, an owner that comes and goes: nothing is
    lost, nothing is doubled."""
    dice = random.Random(seed)
    delivered: dict[tuple[int, int], int] = {}

    def outcome(job: Job, row: Row) -> Outcome:
        if job.lane == KEPT_LANE:
            return KEPT
        return at_last(job, row)

    def at_last(job: Job, row: Row) -> Outcome:
        result = dice.choices((OK, LATER, NEVER), (5, 4, 1))[0]
        if result is OK:
            delivered[job.message.id, row.number] = delivered.get((job.message.id, row.number), 0) + 1
        return result

    async def owner_comes(rig: Rig) -> None:
        for job in await rig.queue.take([KEPT_DOMAIN], START, dice.randint(1, 5)):
            await turns(dice.randint(0, 3))
            gone = dice.random() < 0.3
            rig.queue.settle(job, Report(tuple(KEPT if gone else at_last(job, row) for row in job.rows)))

    async def main() -> None:
        small_window(monkeypatch, 5)
        rig = Rig(limit=2, answer=outcome, retry=RetrySchedule((60.0, 120.0), 7 * DAY))
        rig.spool.fault = lambda unit: SpoolFull("no room") if unit.changes and dice.random() < 0.2 else None
        for _ in range(30):
            wanted = [f"u{n}@{dice.choice(['a', 'b', 'kept', 'kept'])}.example" for n in range(dice.randint(1, 4))]
            await rig.accept(*wanted)
            await owner_comes(rig)
            if dice.random() < 0.2:
                rig.clock.jump(dice.uniform(-3600, 3600))
            rig.clock.advance(dice.uniform(0, 40))
        for _ in range(40):
            await rig.pass_time(2 * DAY / 400)
            await owner_comes(rig)
        await rig.pass_time(600)
        states = {row.state for row in rig.spool.rows.values()}
        assert states <= {State.DELIVERED, State.FAILED}
        assert set(delivered.values()) == {1}
        assert {key for key, row in rig.spool.rows.items() if row.state is State.DELIVERED} == set(delivered)
        assert rig.spool.bodies == {}
        rig.assert_empty()

    run(main())
