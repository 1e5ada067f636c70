"""What an operator orders, on a virtual clock: each order, on what waits, on what is in memory, and through faults."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MailOptions, MessageId, Notify, RcptOptions, Recipient
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine import operating
from pillarbox.engine.mail import Message, State
from pillarbox.engine.orders import Action, Bounce, Done, Drop, Hold, Order, Release, Reroute, Retry
from pillarbox.engine.ports import SpoolBroken, SpoolError
from pillarbox.engine.predicate_parser import parse_predicate
from pillarbox.engine.records import Kind
from pillarbox.engine.retry import RetrySchedule
from tests.making import Stored, turns
from tests.queue_rig import DAY, LATER, NEVER, OK, Rig, run

WHO = "alice"
BOB, CAROL = "bob@far.example", "carol@far.example"


async def order(rig: Rig, action: Action, where: str = "") -> Done:
    done = await rig.queue.order(parse_predicate(where), Order(action, WHO))
    await rig.pass_time(1)  # a timer fetches what is due now
    return done


def row(rig: Rig, message: Message, number: int = 0) -> Stored:
    return rig.spool.rows[message.id, number]


def changed(rig: Rig) -> list[tuple[int, int | None, str]]:
    records = [record for record in rig.spool.records if record.kind is Kind.CHANGED]
    assert all(dict(record.detail)["who"] == WHO for record in records)
    return [(record.message, record.recipient, str(dict(record.detail)["text"])) for record in records]


async def deferred(rig: Rig, *recipients: str | Recipient, sender: str | None = "from@far.example") -> Message:
    """A message whose recipients were tried once."""
    message = await rig.accept(*recipients or (BOB,), sender=sender)
    rig.mailer().end(LATER)
    await turns()
    assert row(rig, message).state is State.SCHEDULED
    return message


def notices(rig: Rig) -> list[Message]:
    return [message for message in rig.spool.messages.values() if message.listener == "notice"]


def settled(rig: Rig, message: Message) -> None:
    """It is finished with: on the disk and in memory."""
    assert message.id not in rig.spool.bodies and message.id not in rig.queue._held
    assert not rig.queue._standing.orders


# --- on what waits


def test_retry_makes_due_now_what_waits() -> None:
    async def main() -> None:
        rig = Rig()
        one, two = await deferred(rig), await deferred(rig, CAROL)
        assert await order(rig, Retry(), f"recipient={BOB}") == Done(1, 1, 0)
        assert len(rig.mailer().open) == 1 and row(rig, two).state is State.SCHEDULED
        rig.mailer().end(OK)
        await turns()
        assert row(rig, one).attempts == 2
        assert changed(rig) == [(one.id, 0, "to be tried now")]
        settled(rig, one)

    run(main())


def test_retry_leaves_what_is_due_and_what_its_sender_wants_held() -> None:
    async def main() -> None:
        rig = Rig()
        message, until = rig.message(BOB), rig.clock.now() + DAY
        message.envelope = message.envelope.__class__(
            message.envelope.sender, message.envelope.recipients, options=MailOptions(hold_until=until)
        )
        rig.queue.accept(message, rig.answers.append)
        await turns()
        assert await order(rig, Retry()) == Done(0, 0, 0)
        assert await order(rig, Hold()) == Done(1, 1, 0)
        assert await order(rig, Release()) == Done(1, 1, 0)
        assert row(rig, message).due == until, "released, it waits as its sender wants"
        assert await order(rig, Drop()) == Done(1, 1, 0), "which is how it is cancelled"
        assert row(rig, message).state is State.FAILED and notices(rig) == []
        settled(rig, message)

    run(main())


def test_drop_settles_and_tells_nobody() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig, BOB, CAROL)
        assert await order(rig, Drop()) == Done(2, 1, 0)
        assert {row(rig, message, number).state for number in (0, 1)} == {State.FAILED}
        assert row(rig, message).reply == "dropped by the operator of this server" and notices(rig) == []
        settled(rig, message)
        await rig.pass_time(DAY)
        assert rig.mailer().jobs[1:] == []

    run(main())


def test_bounce_tells_the_sender_once_with_what_the_operator_says() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig, BOB, CAROL)
        assert await order(rig, Bounce(EnhancedCode(5, 1, 1), "no such user any more")) == Done(2, 1, 0)
        (notice,) = notices(rig)
        text = rig.spool.bodies[notice.id]
        assert text.count(b"Status: 5.1.1\r\n") == 2 and b"no such user any more" in text
        assert notice.envelope.sender is None and str(notice.envelope.recipients[0].address) == "from@far.example"
        assert rig.mailer().open[-1][0].message.id == notice.id, "it goes out"
        assert changed(rig) == [(message.id, number, "no such user any more") for number in (0, 1)]
        assert row(rig, message).state is State.FAILED
        settled(rig, message)

    run(main())


def test_a_sender_who_wants_to_hear_nothing_hears_nothing_of_a_bounce() -> None:
    async def main() -> None:
        rig = Rig()
        box = Mailbox.parse(BOB)
        never = await deferred(rig, Recipient(box, box, None, RcptOptions(notify=frozenset[Notify]())))
        nobody = await deferred(rig, CAROL, sender=None)
        assert await order(rig, Bounce()) == Done(2, 2, 0)
        assert notices(rig) == []
        why = {
            record.message: dict(record.detail)["text"] for record in rig.spool.records if record.kind is Kind.NOTICE
        }
        assert "NOTIFY" in str(why[never.id]) and "null reverse-path" in str(why[nobody.id])

    run(main())


def test_what_is_held_is_not_tried_and_does_not_expire_before_it_is_released() -> None:
    async def main() -> None:
        rig = Rig(retry=RetrySchedule((300.0,), give_up=2 * DAY))
        message = await deferred(rig)
        assert await order(rig, Hold()) == Done(1, 1, 0)
        await rig.pass_time(DAY / 2)
        rig.clock.advance(9 * DAY)
        rig.queue.wake()
        await turns()
        assert row(rig, message).state is State.HELD and rig.mailer().open == [] and notices(rig) == []
        assert await order(rig, Hold()) == await order(rig, Retry()) == Done(0, 0, 0)
        assert await order(rig, Release(), "state=held") == Done(1, 1, 0)
        rig.mailer().end(OK)
        await turns()
        assert row(rig, message).state is State.DELIVERED
        assert [text for _, _, text in changed(rig)] == ["held until it is released", "released"]
        settled(rig, message)

    run(main())


def test_what_is_held_is_held_after_a_restart_and_can_be_dropped_then() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig, BOB, CAROL)
        assert await order(rig, Hold(), f"recipient={BOB}") == Done(1, 1, 0)
        await rig.queue.close(0)
        again = Rig(spool=rig.spool, clock=rig.clock)
        again.queue.start()
        await again.pass_time(400)
        again.mailer().end(OK)
        await turns()
        assert row(again, message).state is State.HELD and row(again, message, 1).state is State.DELIVERED
        assert message.id in again.spool.bodies, "the text is still needed"
        assert await order(again, Drop()) == Done(1, 1, 0)
        settled(again, message)

    run(main())


def test_reroute_takes_another_way_and_that_survives_a_restart() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig)
        assert await order(rig, Reroute("smtp://relay.test:2600")) == Done(1, 1, 0)
        lane = "smtp:relay.test:2600"
        rig.mailer(lane).end(LATER)
        await turns()
        assert row(rig, message).lane == lane and row(rig, message).next_hop == "smtp://relay.test:2600"
        await rig.queue.close(0)
        again = Rig(spool=rig.spool, clock=rig.clock)
        again.queue.start()
        await again.pass_time(1000)
        again.mailer(lane).end(LATER)
        await turns()
        assert await order(again, Reroute(None), f"lane={lane}") == Done(1, 1, 0)
        again.mailer().end(OK)
        await turns()
        assert row(again, message).next_hop is None and row(again, message).state is State.DELIVERED
        settled(again, message)

    run(main())


def test_what_is_held_is_rerouted_and_stays_held() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig)
        await order(rig, Hold())
        assert await order(rig, Reroute("discard")) == Done(1, 1, 0)
        assert row(rig, message).state is State.HELD
        await order(rig, Release())
        assert len(rig.mailer("discard").open) == 1

    run(main())


def test_nothing_that_is_settled_is_changed() -> None:
    async def main() -> None:
        rig = Rig(answer=lambda job, it: OK)
        message = await rig.accept(BOB)
        for action in (Retry(), Hold(), Release(), Drop(), Bounce(), Reroute("discard")):
            assert await order(rig, action, "state=any") == Done(0, 0, 0)
        assert row(rig, message).state is State.DELIVERED and changed(rig) == []

    run(main())


# --- on what is in memory

AFTER = [
    (Hold(), State.HELD, 0),
    (Drop(), State.FAILED, 0),
    (Bounce(), State.FAILED, 1),
]


@pytest.mark.parametrize(("action", "state", "told"), AFTER)
def test_what_is_in_flight_is_changed_when_it_comes_back(action: Action, state: State, told: int) -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept(BOB)
        assert await order(rig, action) == Done(0, 0, 1)
        assert row(rig, message).state is State.LEASED and rig.queue._standing.orders
        rig.mailer().end(LATER)
        await turns()
        assert (row(rig, message).state, row(rig, message).attempts) == (state, 1)
        assert len(notices(rig)) == told and len(changed(rig)) == 1
        assert [record.kind for record in rig.spool.records][:2] == [Kind.DEFERRED, Kind.CHANGED]
        assert not rig.queue._standing.orders

    run(main())


@pytest.mark.parametrize("outcome", [OK, NEVER])
@pytest.mark.parametrize("action", [Hold(), Drop(), Bounce(), Reroute("discard")])
def test_what_comes_back_settled_is_not_changed(action: Action, outcome: Any) -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept(BOB, sender=None)
        assert await order(rig, action) == Done(0, 0, 1)
        rig.mailer().end(outcome)
        await turns()
        assert row(rig, message).state.settled and changed(rig) == []
        settled(rig, message)

    run(main())


@pytest.mark.parametrize(("action", "state", "told"), AFTER)
def test_what_waits_in_a_lane_is_not_tried_when_its_turn_comes(action: Action, state: State, told: int) -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        first, second = await rig.accept(BOB), await rig.accept(CAROL)
        assert await order(rig, action, f"recipient={CAROL}") == Done(0, 0, 1)
        rig.mailer().end(OK)
        await turns()
        assert row(rig, first).state is State.DELIVERED
        assert (row(rig, second).state, row(rig, second).attempts) == (state, 0)
        assert second.id not in [job.message.id for job in rig.mailer().jobs]
        assert len(notices(rig)) == told and len(changed(rig)) == 1

    run(main())


def test_of_a_job_only_what_is_ordered_otherwise_is_left_out() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        await rig.accept(BOB)
        both = await rig.accept(BOB, CAROL)
        assert await order(rig, Reroute("smtp://relay.test"), f"recipient={CAROL}") == Done(0, 0, 1)
        rig.mailer().end(OK)
        await turns()
        await rig.pass_time(1)
        assert [len(job.rows) for job in rig.mailer().jobs] == [1, 1]
        (relayed,) = rig.mailer("smtp:relay.test:25").jobs
        assert str(relayed.rows[0].recipient.address) == CAROL and relayed.message.id == both.id
        rig.mailer().end(OK)
        rig.mailer("smtp:relay.test:25").end(OK)
        await turns()
        assert {row(rig, both, number).state for number in (0, 1)} == {State.DELIVERED}
        settled(rig, both)
        rig.assert_empty()

    run(main())


def test_a_release_takes_back_what_was_ordered_in_memory() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept(BOB)
        assert await order(rig, Hold()) == Done(0, 0, 1)
        assert await order(rig, Release()) == Done(0, 0, 0) and not rig.queue._standing.orders
        assert await order(rig, Drop()) == Done(0, 0, 1)
        assert await order(rig, Release()) == Done(0, 0, 0), "which takes back no other order"
        rig.mailer().end(LATER)
        await turns()
        assert row(rig, message).state is State.FAILED

    run(main())


def test_one_recipient_in_memory_and_another_on_the_disk() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept(BOB, "dave@other.example")
        rig.mailer().end(LATER)
        await turns()
        assert await order(rig, Drop()) == Done(1, 1, 1)
        assert message.id in rig.spool.bodies
        rig.mailer("mx:other.example").end(LATER)
        await turns()
        assert {row(rig, message, number).state for number in (0, 1)} == {State.FAILED}
        settled(rig, message)

    run(main())


# --- in steps, and through faults


def test_a_long_queue_is_changed_in_steps_while_mail_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(operating, "AT_ONCE", 7)
        rig = Rig(limit=1000)
        waiting = [await deferred(rig, BOB, CAROL) for _ in range(16)]
        fresh: list[Message] = []

        async def flow() -> None:
            for _ in range(10):
                fresh.append(await rig.accept("dave@other.example"))
                rig.mailer("mx:other.example").end(OK)

        before = len(rig.spool.units)
        done, _ = await asyncio.gather(order(rig, Drop(), "domain=far.example"), flow())
        assert done == Done(32, 16, 0)
        steps = [len(unit.changes) for unit in rig.spool.units[before:] if len(unit.changes) > 1]
        assert steps == [7, 7, 7, 7, 4]
        assert {row(rig, message).state for message in fresh} == {State.DELIVERED}
        for message in waiting:
            settled(rig, message)
        rig.assert_empty()

    run(main())


def test_a_step_that_can_not_be_written_changes_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig)
        rig.spool.fault = lambda unit: SpoolBroken("no disk")
        with pytest.raises(SpoolError, match="no disk"):
            await order(rig, Drop())
        rig.spool.fault = lambda unit: None
        assert row(rig, message).state is State.SCHEDULED and message.id in rig.spool.bodies
        assert rig.in_memory == 0
        await rig.pass_time(1000)
        rig.mailer().end(OK)
        await turns()
        settled(rig, message)

    run(main())


def test_nothing_is_leased_while_a_step_is_written() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig)
        rig.spool.held = True
        ordered = asyncio.create_task(order(rig, Drop()))
        await turns()
        await rig.pass_time(1000)  # it is due
        assert row(rig, message).state is State.SCHEDULED and rig.mailer().open == []
        rig.spool.release()
        assert await ordered == Done(1, 1, 0)
        await rig.pass_time(1000)
        assert row(rig, message).state is State.FAILED and rig.mailer().open == []
        settled(rig, message)

    run(main())


def test_who_asked_may_go_before_the_end() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig)
        rig.spool.held = True
        ordered = asyncio.create_task(order(rig, Drop()))
        await turns()
        ordered.cancel()
        await turns()
        rig.spool.release()
        await turns()
        assert row(rig, message).state is State.FAILED
        settled(rig, message)
        await rig.accept(CAROL)
        assert await order(rig, Hold()) == Done(0, 0, 1)

    run(main())


def test_a_closed_queue_changes_what_waits_and_tries_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        message = await deferred(rig)
        await rig.queue.close(0)
        at_rest = Rig(spool=rig.spool, clock=rig.clock)
        await at_rest.queue.close(0)
        assert await order(at_rest, Bounce()) == Done(1, 1, 0)
        (notice,) = notices(at_rest)
        assert row(at_rest, notice).state is State.LEASED, "the next start finds it"
        assert at_rest.mailers == {} and MessageId(message.id) not in at_rest.spool.bodies

    run(main())
