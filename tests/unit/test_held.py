"""What is held without an operator: by a route, and where a message was maybe delivered. On a virtual clock."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.message import Message as Parsed

import pytest

from pillarbox.adapters.instant import withheld
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import Notify, RcptOptions, Recipient
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Ambiguous, Job, Message, Outcome, Row, State, Told
from pillarbox.engine.orders import Action, Bounce, Done, Drop, Hold, Order, Release, Reroute, Retry
from pillarbox.engine.predicate_parser import parse_predicate
from pillarbox.engine.records import Kind
from pillarbox.engine.retry import DEFAULT, Ambiguity, RetrySchedule
from pillarbox.engine.routing import HoldHop, Route, SmartHost
from tests.making import Stored, turns
from tests.queue_rig import HERE, LATER, OK, Rig, run

HOUR = 3600.0
BOB, CAROL = "bob@far.example", "carol@far.example"
LOST = "maybe delivered: connection lost, after the end of the message and before the reply to it"
MAYBE = Ambiguous(LOST, "mx.far.example [192.0.2.1]", EnhancedCode(4, 4, 2))
ROUTES = (
    Route("far.example", HoldHop()),
    Route("*.example", HoldHop()),
    Route("*", SmartHost("smart.test")),
)
SMART = "smtp:smart.test:25"


async def order(rig: Rig, action: Action, where: str = "") -> Done:
    done = await rig.queue.order(parse_predicate(where), Order(action, "alice"))
    await rig.pass_time(1)
    return done


def row(rig: Rig, message: Message, number: int = 0) -> Stored:
    return rig.spool.rows[message.id, number]


def notices(rig: Rig) -> list[Parsed]:
    return [
        message_from_bytes(rig.spool.bodies[message.id])
        for message in rig.spool.messages.values()
        if message.listener == "notice"
    ]


def explanation(notice: Parsed) -> str:
    part = notice.get_payload(0)
    assert isinstance(part, Parsed)
    return " ".join(str(part.get_payload()).split())


def status(notice: Parsed) -> Parsed:
    """The fields about the first recipient."""
    part = notice.get_payload(1)
    assert isinstance(part, Parsed)
    groups = part.get_payload()
    assert isinstance(groups, list) and isinstance(groups[1], Parsed)
    return groups[1]


# --- by a route


def by_route(job: Job, row: Row) -> Outcome:
    return withheld("far.example") if job.lane.startswith("hold:") else OK


def test_a_route_holds_until_it_is_released_and_then_another_one_leads_on() -> None:
    async def main() -> None:
        rig = Rig(answer=by_route, routes=ROUTES, retry=schedule(Ambiguity.RETRY))
        message = await rig.accept(BOB, "dave@elsewhere.test")
        held, sent = row(rig, message), row(rig, message, 1)
        assert (held.state, held.attempts, held.lane) == (State.HELD, 0, "hold:far.example")
        assert sent.state is State.DELIVERED
        (record,) = [each for each in rig.spool.records if each.kind is Kind.HELD]
        assert dict(record.detail)["text"] == "held by the route for far.example until it is released"
        await rig.pass_time(7 * HOUR)
        assert held.state is State.HELD, "it does not expire"
        assert await order(rig, Retry()) == Done(0, 0, 0)
        assert await order(rig, Release(), f"recipient={BOB}") == Done(1, 1, 0)
        assert (held.state, held.lane) == (State.DELIVERED, SMART), "past each route that holds, not only the first"
        assert [job.lane for mailer in rig.mailers.values() for job in mailer.jobs] == [
            "hold:far.example",
            SMART,
            SMART,
        ]
        assert notices(rig) == []
        rig.assert_empty()

    run(main())


def test_what_was_released_is_not_held_again_when_it_is_tried_again_or_after_a_restart() -> None:
    async def main() -> None:
        rig = Rig(routes=ROUTES)
        message = await rig.accept(BOB)
        rig.mailer("hold:far.example").end(withheld("far.example"))
        await turns()
        await order(rig, Release())
        rig.mailer(SMART).end(LATER)
        await turns()
        assert row(rig, message).state is State.SCHEDULED
        await rig.queue.close(0)
        rig.spool.restarted()
        again = Rig(routes=ROUTES, spool=rig.spool, clock=rig.clock, answer=by_route)
        again.queue.start()
        await again.pass_time(HOUR)
        assert row(again, message).state is State.DELIVERED and list(again.mailers) == [SMART]

    run(main())


def test_by_the_routes_again_is_held_again() -> None:
    async def main() -> None:
        rig = Rig(routes=ROUTES)
        message = await rig.accept(BOB)
        rig.mailer("hold:far.example").end(withheld("far.example"))
        await turns()
        await order(rig, Release())
        rig.mailer(SMART).end(LATER)
        await turns()
        await order(rig, Reroute(None))
        rig.mailer("hold:far.example").end(withheld("far.example"))
        await turns()
        assert row(rig, message).state is State.HELD

    run(main())


def test_without_another_route_what_is_released_goes_as_if_there_were_none() -> None:
    async def main() -> None:
        rig = Rig(
            routes=(Route("*", HoldHop()),), answer=lambda job, row: withheld("*") if job.lane == "hold:*" else OK
        )
        message = await rig.accept(BOB, f"alice@{HERE}")
        assert rig.spool.states(message.id) == [State.HELD, State.HELD]
        await order(rig, Release())
        assert [row(rig, message, number).lane for number in (0, 1)] == ["mx:far.example", "maildir"]
        assert rig.spool.states(message.id) == [State.DELIVERED, State.DELIVERED]

    run(main())


def test_what_an_operator_holds_is_released_to_the_way_it_had() -> None:
    async def main() -> None:
        rig = Rig()
        message = await rig.accept(BOB)
        rig.mailer().end(LATER)
        await turns()
        await order(rig, Hold())
        await order(rig, Release())
        assert row(rig, message).next_hop is None and len(rig.mailer().open) == 1

    run(main())


# --- maybe delivered


def schedule(ambiguous: Ambiguity) -> RetrySchedule:
    return replace(DEFAULT, ambiguous=ambiguous, ask_for=2 * HOUR, give_up=6 * HOUR)


async def maybe(ambiguous: Ambiguity, *recipients: str | Recipient, sender: str | None = "from@far.example") -> Rig:
    """A queue with one message, whose first attempt ended so."""
    rig = Rig(retry=schedule(ambiguous))
    await rig.accept(*recipients or (BOB,), sender=sender)
    rig.mailer().end(MAYBE)
    await turns()
    return rig


def only(rig: Rig) -> Message:
    (message,) = [message for message in rig.spool.messages.values() if message.listener != "notice"]
    return message


def test_by_default_it_is_tried_again_by_the_schedule() -> None:
    async def main() -> None:
        rig = await maybe(Ambiguity.RETRY)
        assert row(rig, only(rig)).state is State.SCHEDULED
        await rig.pass_time(DEFAULT.intervals[0] + 1)
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.kinds(only(rig).id) == [Kind.AMBIGUOUS, Kind.DELIVERED] and notices(rig) == []
        rig.assert_empty()

    run(main())


def test_hold_keeps_it_until_it_is_released_whatever_its_age() -> None:
    async def main() -> None:
        rig = await maybe(Ambiguity.HOLD)
        message = only(rig)
        held = row(rig, message)
        assert rig.spool.states(message.id) == [State.HELD] and (held.attempts, held.reply) == (1, LOST)
        assert rig.spool.kinds(message.id) == [Kind.AMBIGUOUS]
        await rig.pass_time(7 * HOUR)
        assert rig.spool.states(message.id) == [State.HELD]
        assert notices(rig) == [], "nobody hears of a failure that may be none"
        await order(rig, Release())
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED]
        rig.assert_empty()

    run(main())


def test_hold_is_in_the_place_of_giving_up() -> None:
    async def main() -> None:
        rig = Rig(retry=schedule(Ambiguity.HOLD))
        message = await rig.accept(BOB)
        while rig.clock.now() - message.received_at < 6 * HOUR:
            if rig.mailer().open:
                rig.mailer().end(LATER)
            await rig.pass_time(HOUR)
        rig.mailer().end(MAYBE)
        await turns()
        assert row(rig, message).state is State.HELD
        assert not any("Undelivered" in str(notice["Subject"]) for notice in notices(rig))

    run(main())


@pytest.mark.parametrize(
    ("action", "told"), [(Drop(), 0), (Bounce(), 1)], ids=lambda value: type(value).__name__.lower()
)
def test_an_operator_ends_what_is_held(action: Action, told: int) -> None:
    async def main() -> None:
        rig = await maybe(Ambiguity.HOLD)
        assert await order(rig, action) == Done(1, 1, 0)
        assert row(rig, only(rig)).state is State.FAILED and len(notices(rig)) == told

    run(main())


def test_an_order_given_in_flight_is_obeyed_when_it_comes_back_to_be_held() -> None:
    async def main() -> None:
        rig = Rig(retry=schedule(Ambiguity.HOLD))
        message = await rig.accept(BOB)
        assert (await order(rig, Drop())).standing == 1
        rig.mailer().end(MAYBE)
        await turns()
        assert row(rig, message).state is State.FAILED
        assert rig.spool.kinds(message.id) == [Kind.AMBIGUOUS, Kind.CHANGED]
        rig.assert_empty()

    run(main())


def test_ask_asks_its_sender_and_sends_it_again_when_the_time_is_up() -> None:
    async def main() -> None:
        rig = await maybe(Ambiguity.ASK)
        message = only(rig)
        waits = row(rig, message)
        assert (waits.state, waits.told) == (State.SCHEDULED, Told.ASKED | Told.DELAY)
        assert waits.due == pytest.approx(message.received_at + 2 * HOUR)
        (notice,) = notices(rig)
        assert notice["Subject"] == "Has your message arrived? It may have been delivered"
        said = explanation(notice)
        assert "may have reached the recipients below, or not" in said and f"known here as {message.id}" in said
        assert "It will be sent once more on" in said and "may then arrive twice" in said
        fields = status(notice)
        assert (fields["Action"], fields["Status"]) == ("delayed", "4.4.2") and fields["Will-Retry-Until"]
        rig.mailer().end(OK)  # the notice
        await rig.pass_time(2 * HOUR - 60)
        assert not rig.mailer().open
        await rig.pass_time(120)
        rig.mailer().end(MAYBE)
        await turns()
        assert len(rig.spool.messages) == 2, "it is asked once"
        assert waits.due == pytest.approx(rig.clock.now() + DEFAULT.intervals[1], abs=60)

    run(main())


def test_an_answer_is_an_order_of_the_operator() -> None:
    async def main() -> None:
        rig = await maybe(Ambiguity.ASK)
        assert await order(rig, Drop(), f"id={only(rig).id}") == Done(1, 1, 0)
        assert row(rig, only(rig)).state is State.FAILED

    run(main())


@pytest.mark.parametrize(
    ("recipient", "sender"),
    [
        (BOB, None),
        (Recipient(Mailbox.parse(BOB), Mailbox.parse(BOB), None, RcptOptions(notify=frozenset())), "from@far.example"),
        (
            Recipient(Mailbox.parse(BOB), Mailbox.parse(BOB), None, RcptOptions(notify=frozenset((Notify.FAILURE,)))),
            "from@far.example",
        ),
    ],
    ids=["null", "never", "failure"],
)
def test_who_must_not_be_told_of_a_delay_is_not_asked(recipient: str | Recipient, sender: str | None) -> None:
    async def main() -> None:
        rig = await maybe(Ambiguity.ASK, recipient, sender=sender)
        waits = row(rig, only(rig))
        assert waits.due == pytest.approx(rig.clock.now() + DEFAULT.intervals[0]) and notices(rig) == []

    run(main())


def test_a_question_and_a_delay_are_told_apart() -> None:
    """Of one job, in which one recipient was deferred and is late, and another may have it."""

    async def main() -> None:
        rig = Rig(retry=replace(schedule(Ambiguity.ASK), intervals=(HOUR,), warn=HOUR))
        await rig.accept(BOB, CAROL)
        rig.mailer().end(LATER)
        await rig.pass_time(HOUR + 30)
        rig.mailer().end(LATER, MAYBE)
        await turns()
        subjects = sorted(str(notice["Subject"]) for notice in notices(rig))
        assert subjects == [
            "Delayed mail: your message is still on its way",
            "Has your message arrived? It may have been delivered",
        ]
        assert len({str(notice["Message-ID"]) for notice in notices(rig)}) == 2

    run(main())
