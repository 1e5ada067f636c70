"""What the options of an envelope mean in the queue: held mail, its time, its priority, what is told at acceptance."""

from __future__ import annotations

import email
import email.policy
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest

from pillarbox.adapters.instant import KEPT
from pillarbox.core.envelope import NO_RCPT_OPTIONS, DeliverBy, MailOptions, Notify, RcptOptions, Recipient, Ret
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.lanes import Lane
from pillarbox.engine.mail import Deferred, Delivered, Job, Message, Octets, Reach, Row, State, Told, Unsent
from pillarbox.engine.notices import MAX_RETURNED
from pillarbox.engine.ports import SpoolBroken, SpoolFull
from pillarbox.engine.records import Kind
from pillarbox.engine.retry import RetrySchedule
from tests.making import TEXT, box, turns
from tests.queue_rig import DAY, LATER, NEVER, OK, SENDER, FakeMailer, Rig, run

HOUR = 3600.0
ASKS_ALL = RcptOptions(notify=frozenset(Notify))
SLOW = RetrySchedule((4 * HOUR,), 2 * DAY)


async def accept(
    rig: Rig, *recipients: str | Recipient, sender: str | None = SENDER, content: bytes = TEXT, **options: Any
) -> Message:
    """A message whose MAIL had options."""
    message = rig.message(*recipients, sender=sender, content=content)
    return await given(rig, replace(message, envelope=message.envelope._replace(options=MailOptions(**options))))


async def given(rig: Rig, message: Message) -> Message:
    rig.queue.accept(message, rig.answers.append)
    await turns()
    return message


def asking(address: str, *what: Notify, original: str | None = None) -> Recipient:
    return Recipient(box(address), box(address), None, RcptOptions(frozenset(what), original))


def notices(rig: Rig) -> list[Message]:
    return [message for unit in rig.spool.units for message in unit.messages if message.listener == "notice"]


def news(rig: Rig) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each notice: to whom it goes, and action and status of each recipient."""
    return [
        (str(each.envelope.recipients[0].address), [(group["Action"], group["Status"]) for group in groups(each)])
        for each in notices(rig)
    ]


def parts(notice: Message) -> list[EmailMessage]:
    assert notice.content is not None
    found = email.message_from_bytes(notice.content, policy=email.policy.default)
    return [part for part in found.iter_parts() if isinstance(part, EmailMessage)]


def groups(notice: Message) -> list[Any]:
    """Those of recipients."""
    return list(parts(notice)[1].get_payload())[1:]


def of_message(notice: Message) -> Any:
    """The group about the whole message."""
    return next(iter(parts(notice)[1].get_payload()))


def told(rig: Rig, message: Message) -> list[str]:
    records = [record for record in rig.spool.records if record.message == message.id and record.kind is Kind.NOTICE]
    return [str(dict(record.detail)["text"]) for record in records]


# --- FUTURERELEASE (RFC 4865)


def test_held_mail_is_not_tried_before_its_time() -> None:
    async def main() -> None:
        rig = Rig()
        release = rig.clock.now() + 2 * HOUR
        message = await accept(rig, "a@far.example", "b@far.example", hold_until=release)
        assert rig.answers == [None] and rig.mailers == {} and rig.in_memory == 0
        (unit,) = rig.spool.units
        assert unit.messages == (message,)
        assert [(change.state, change.due, change.attempts) for change in unit.changes] == [
            (State.SCHEDULED, release, 0)
        ] * 2, "in the commit that stores it"
        assert rig.spool.kinds(message.id) == [Kind.HELD] * 2
        assert "held until" in rig.spool.rows[message.id, 0].reply
        await rig.pass_time(2 * HOUR - 30)
        assert rig.mailers == {}
        await rig.pass_time(30)
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED] * 2
        rig.assert_empty()

    run(main())


def test_held_mail_outlives_a_crash() -> None:
    async def main() -> None:
        rig = Rig()
        message = await accept(rig, hold_until=rig.clock.now() + HOUR)
        await rig.queue.close(0)
        rig.spool.restarted()
        again = Rig(spool=rig.spool, clock=rig.clock)
        again.queue.start()
        await again.pass_time(HOUR - 60)
        assert again.mailers == {}
        await again.pass_time(60)
        assert [job.message.id for job in again.mailer().jobs] == [message.id]

    run(main())


def test_the_age_of_held_mail_counts_from_its_release() -> None:
    async def main() -> None:
        rig = Rig(retry=RetrySchedule((HOUR,), 2 * HOUR, warn=HOUR))
        message = await accept(rig, hold_until=rig.clock.now() + 3 * HOUR)
        await rig.pass_time(3 * HOUR)
        rig.mailer().end(LATER)
        await turns()
        assert rig.spool.states(message.id) == [State.SCHEDULED] and notices(rig) == []
        await rig.pass_time(HOUR)
        rig.mailer().end(LATER)
        await turns()
        assert news(rig) == [(SENDER, [("delayed", "4.2.0")])]
        rig.mailer().end(OK)  # the notice
        await rig.pass_time(HOUR)
        rig.mailer().end(LATER)
        await turns()
        assert rig.spool.states(message.id) == [State.EXPIRED]

    run(main())


def test_a_time_to_hold_that_is_past_holds_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        await accept(rig, hold_until=rig.clock.now() - 1)
        assert len(rig.mailer().jobs) == 1

    run(main())


def test_held_mail_whose_time_ends_before_is_never_tried() -> None:
    async def main() -> None:
        rig = Rig()
        now = rig.clock.now()
        message = await accept(rig, hold_until=now + DAY, deliver_by=DeliverBy(now + HOUR, returns=True))
        await rig.pass_time(HOUR)
        assert rig.spool.states(message.id) == [State.EXPIRED]
        assert news(rig) == [(SENDER, [("failed", "5.4.7")])]
        assert [job.message.listener for job in rig.mailer().jobs] == ["notice"]

    run(main())


def test_held_mail_that_is_not_durable_is_refused() -> None:
    async def main() -> None:
        rig = Rig()
        rig.spool.fault = lambda unit: SpoolFull("no room")
        await accept(rig, hold_until=rig.clock.now() + HOUR)
        assert [type(answer) for answer in rig.answers] == [SpoolFull]
        await rig.pass_time(2 * HOUR)
        assert rig.mailers == {}

    run(main())


# --- DELIVERBY (RFC 2852)


def test_mail_that_must_arrive_in_time_fails_when_the_time_is_over() -> None:
    """§4.1.3, by-mode R: at that moment, not at the next attempt, and without one."""

    async def main() -> None:
        rig = Rig(retry=SLOW)
        until = rig.clock.now() + HOUR
        message = await accept(rig, deliver_by=DeliverBy(until, returns=True))
        rig.mailer().end(LATER)
        await turns()
        assert rig.spool.rows[message.id, 0].due == until
        await rig.pass_time(HOUR - 30)
        assert notices(rig) == []
        await rig.pass_time(30)
        assert rig.spool.states(message.id) == [State.EXPIRED]
        assert rig.spool.rows[message.id, 0].attempts == 1
        assert news(rig) == [(SENDER, [("failed", "5.4.7")])]
        assert "Deliver-By-Date" in of_message(notices(rig)[0])
        assert rig.spool.bodies.keys() == {notices(rig)[0].id}
        rig.mailer().end(OK)
        await turns()
        rig.assert_empty()

    run(main())


@pytest.mark.parametrize("priority", [None, 3])
def test_mail_whose_time_ends_in_the_line_of_a_lane_fails_there(priority: int | None) -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        first = await rig.accept()
        late = await accept(rig, deliver_by=DeliverBy(rig.clock.now() + 60, returns=True), priority=priority)
        third = await rig.accept()
        await rig.pass_time(60)
        assert rig.spool.states(late.id) == [State.EXPIRED]
        assert news(rig) == [(SENDER, [("failed", "5.4.7")])]
        for _ in range(3):
            rig.mailer().end(OK)
            await turns()
        tried = [job.message.id for job in rig.mailer().jobs]
        assert late.id not in tried and {first.id, third.id} < set(tried)
        rig.assert_empty()

    run(main())


def test_an_attempt_that_ends_behind_the_time_decides() -> None:
    async def main() -> None:
        rig = Rig(retry=SLOW)
        late = DeliverBy(rig.clock.now() + 60, returns=True)
        taken, deferred = await accept(rig, deliver_by=late), await accept(rig, "a@else.example", deliver_by=late)
        await rig.pass_time(90)
        rig.mailer().end(OK)
        rig.mailer("mx:else.example").end(LATER)
        await turns()
        assert rig.spool.states(taken.id) == [State.DELIVERED]
        assert rig.spool.states(deferred.id) == [State.EXPIRED]
        assert news(rig) == [(SENDER, [("failed", "5.4.7")])]
        assert LATER.text in rig.spool.rows[deferred.id, 0].reply

    run(main())


def test_mail_that_should_arrive_in_time_is_told_of_and_tried_on() -> None:
    """§4.1.3, by-mode N."""

    async def main() -> None:
        rig = Rig(retry=replace(SLOW, warn=8 * HOUR))
        until = rig.clock.now() + HOUR
        message = await accept(rig, deliver_by=DeliverBy(until, returns=False))
        rig.mailer().end(LATER)
        await rig.pass_time(HOUR)
        rig.mailer().end(LATER)  # the attempt of the last moment
        await turns()
        assert news(rig) == [(SENDER, [("delayed", "4.4.7")])]
        stored = rig.spool.rows[message.id, 0]
        assert (stored.state, stored.due, stored.told) == (
            State.SCHEDULED,
            rig.clock.now() + 4 * HOUR,
            Told.DEADLINE | Told.DELAY,
        )
        rig.mailer().end(OK)
        for _ in range(3):
            await rig.pass_time(4 * HOUR)
            rig.mailer().end(LATER)
            await turns()
        assert len(notices(rig)) == 1, "told once, and not of the delay as well"
        await rig.pass_time(4 * HOUR)
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED]

    run(main())


def test_mail_that_waits_in_a_lane_is_told_of_when_its_time_has_passed() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        await rig.accept()
        late = await accept(rig, deliver_by=DeliverBy(rig.clock.now() + 60, returns=False))
        await rig.pass_time(90)
        assert news(rig) == [(SENDER, [("delayed", "4.4.7")])]
        assert rig.spool.rows[late.id, 0].attempts == 0
        for _ in range(3):
            rig.mailer().end(OK)
            await turns()
        assert rig.spool.states(late.id) == [State.DELIVERED] and len(notices(rig)) == 1
        rig.assert_empty()

    run(main())


def test_a_clock_that_is_set_back_gives_more_time() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        await rig.accept()
        late = await accept(rig, deliver_by=DeliverBy(rig.clock.now() + 60, returns=True))
        rig.clock.jump(-HOUR)
        await rig.pass_time(HOUR)
        assert rig.spool.states(late.id) == [State.LEASED]
        await rig.pass_time(60)
        assert rig.spool.states(late.id) == [State.EXPIRED]

    run(main())


@pytest.mark.parametrize(
    ("late", "outcome", "notify", "action"),
    [
        (DeliverBy(9e9, returns=False), Delivered("250 Ok", "x", Reach.NOTIFYING, keeps_time=False), None, "relayed"),
        (DeliverBy(9e9, returns=False), Delivered("250 Ok", "x", Reach.SILENT, keeps_time=False), None, "relayed"),
        (DeliverBy(9e9, returns=False), Delivered("250 Ok", "x", Reach.SILENT, keeps_time=True), None, None),
        (DeliverBy(9e9, returns=False), Delivered("250 Ok", "x", Reach.SILENT, keeps_time=False), frozenset(), None),
        (DeliverBy(9e9, returns=True), Delivered("250 Ok", "x", Reach.NOTIFYING, keeps_time=True), None, None),
        (DeliverBy(9e9, True, True), Delivered("250 Ok", "x", Reach.NOTIFYING, keeps_time=True), None, "relayed"),
        (DeliverBy(9e9, True, True), Delivered("250 Ok", "x", Reach.NOTIFYING), frozenset(), None),
        (DeliverBy(9e9, True, True), Delivered("new/1", "maildir"), None, None),
    ],
)
def test_a_relay_is_told_of_where_the_time_is_traced_or_lost(
    late: DeliverBy, outcome: Delivered, notify: frozenset[Notify] | None, action: str | None
) -> None:
    """§4.1.4, §4.1.4.2."""

    async def main() -> None:
        rig = Rig()
        to = box("to@far.example")
        await accept(rig, Recipient(to, to, None, RcptOptions(notify)), deliver_by=late)
        rig.mailer().end(outcome)
        await turns()
        assert news(rig) == ([] if action is None else [(SENDER, [(action, "2.0.0")])])

    run(main())


# --- the warning of delay


def test_a_sender_is_warned_once_of_each_recipient_that_waits() -> None:
    async def main() -> None:
        rig = Rig(retry=RetrySchedule((HOUR, 3 * HOUR), 6 * HOUR, warn=2 * HOUR))
        message = await rig.accept("a@far.example", "b@far.example")
        rig.mailer().end(LATER)
        await rig.pass_time(HOUR)
        rig.mailer().end(LATER, LATER)
        await turns()
        assert rig.spool.rows[message.id, 0].due == message.received_at + 2 * HOUR, "an attempt before it is told"
        await rig.pass_time(HOUR)
        rig.mailer().end(OK, LATER)
        await turns()
        assert news(rig) == [(SENDER, [("delayed", "4.2.0")])]
        (group,) = groups(notices(rig)[0])
        assert group["Final-Recipient"] == "rfc822; b@far.example"
        await rig.queue.close(0)
        rig.spool.restarted()
        again = Rig(spool=rig.spool, clock=rig.clock, retry=rig.queue.retry, answer=lambda job, row: LATER)
        again.queue.start()
        await again.pass_time(5 * HOUR)
        assert [action for _, (*_, (action, _)) in news(again)] == ["delayed", "failed"]

    run(main())


@pytest.mark.parametrize(("notify", "count"), [(None, 0), (frozenset((Notify.DELAY,)), 1)])
def test_mail_that_is_kept_for_its_owner_is_not_late_by_itself(notify: frozenset[Notify] | None, count: int) -> None:
    async def main() -> None:
        rig = Rig(retry=RetrySchedule((HOUR,), 9 * HOUR, warn=2 * HOUR), answer=lambda job, row: kept_or_done(job))
        to = box("u@kept.example")
        message = await rig.accept(Recipient(to, to, None, RcptOptions(notify)))
        await rig.pass_time(4 * HOUR)
        assert len(notices(rig)) == count
        assert rig.spool.rows[message.id, 0].due == message.received_at + 9 * HOUR

    run(main())


def kept_or_done(job: Job) -> Delivered | Deferred:
    return KEPT if job.lane.startswith("turn:") else OK


# --- MT-PRIORITY (RFC 6710)


def test_what_a_full_connection_left_goes_at_once() -> None:
    """RFC 9422: it is no attempt, and nobody waits for it."""

    async def main() -> None:
        rig = Rig(retry=SLOW)
        message = await accept(rig)
        rig.mailer().end(Unsent("full", "far.example", EnhancedCode(4, 5, 3)))
        await turns()
        stored = rig.spool.rows[message.id, 0]
        assert (stored.state, stored.due, stored.attempts) == (State.SCHEDULED, rig.clock.now(), 0)
        await rig.pass_time(1)
        rig.mailer().end(OK)
        await turns()
        assert rig.spool.states(message.id) == [State.DELIVERED]

    run(main())


def test_the_higher_priority_goes_first_in_a_lane() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        await rig.accept()
        order = (0, -3, 9, None, 2, 9, -9, 2)
        messages = [await accept(rig, priority=priority) for priority in order]
        for _ in range(len(order) + 1):
            rig.mailer().end(OK)
        tried = [job.message.id for job in rig.mailer().jobs][1:]
        assert [messages.index(next(m for m in messages if m.id == one)) for one in tried] == [2, 5, 4, 7, 0, 3, 1, 6]
        await turns()
        rig.assert_empty()

    run(main())


def test_the_higher_priority_comes_from_the_disk_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        before = Rig(limit=0)
        messages = [await accept(before, priority=priority) for priority in (-1, None, 4)]
        before.spool.restarted()
        monkeypatch.setattr("pillarbox.engine.queue.LEASE_AT_ONCE", 1)
        rig = Rig(spool=before.spool, clock=before.clock)
        rig.queue.start()
        await turns(50)
        assert [job.message.id for job in rig.mailer().jobs] == [messages[n].id for n in (2, 1, 0)]

    run(main())


def test_a_job_is_withdrawn_once() -> None:
    messages = [Rig().message() for _ in range(3)]
    jobs = [Job(message, [Row(0, message.envelope.recipients[0])], "x") for message in messages]
    jobs[2].message.envelope = jobs[2].message.envelope._replace(options=MailOptions(priority=5))
    lane = Lane(FakeMailer(), 1)
    for job in jobs:
        lane.line.put(job)
    assert lane.withdraw(jobs[1]) and not lane.withdraw(jobs[1])
    assert lane.withdraw(jobs[2]) and not lane.withdraw(jobs[2])
    assert lane.line.take() is jobs[0] and lane.idle


# --- aliases and lists (RFC 3461 §5.2.7)


def behind(target: str, original: str, owner: str | None = None, options: RcptOptions = ASKS_ALL) -> Recipient:
    return Recipient(box(target), box(original), None if owner is None else box(owner), options)


def test_a_list_is_where_the_message_was_to_go() -> None:
    """§5.2.7.1."""

    async def main() -> None:
        rig = Rig()
        members = [
            behind(f"{name}@far.example", "team@example.test", "team-owner@example.test", ASKS_ALL) for name in "ab"
        ]
        message = await accept(rig, *members, envelope_id="E1", ret=Ret.FULL, deliver_by=DeliverBy(9e9, True))
        assert news(rig) == [(SENDER, [("delivered", "2.0.0")])]
        assert [unit.messages[0] for unit in rig.spool.units] == [message], "with the message, in one commit"
        (group,) = groups(notices(rig)[0])
        assert group["Final-Recipient"] == "rfc822; team@example.test"
        (job,) = [job for job in rig.mailer().jobs if job.message.id == message.id]
        assert [row.recipient.options for row in job.rows] == [NO_RCPT_OPTIONS] * 2
        assert job.options == MailOptions()
        assert job.sender == box("team-owner@example.test")
        rig.mailer().end(NEVER)
        await turns()
        _, (to, failures) = news(rig)
        assert (to, failures) == ("team-owner@example.test", [("failed", "5.1.1")] * 2)
        assert "Original-Envelope-Id" not in of_message(notices(rig)[1])
        assert [group["Final-Recipient"] for group in groups(notices(rig)[1])] == [
            "rfc822; a@far.example",
            "rfc822; b@far.example",
        ], "the owner must know which member"

    run(main())


def test_an_alias_of_several_is_expanded() -> None:
    """§5.2.7.3: SUCCESS is answered, the rest goes on."""

    async def main() -> None:
        rig = Rig()
        options = RcptOptions(frozenset((Notify.SUCCESS, Notify.FAILURE)), "rfc822;Sales@first.example")
        targets = [behind(f"{name}@far.example", "sales@example.test", None, options) for name in "ab"]
        message = await accept(rig, *targets, envelope_id="E1")
        assert news(rig) == [(SENDER, [("expanded", "2.0.0")])]
        (group,) = groups(notices(rig)[0])
        assert group["Original-Recipient"] == "rfc822;Sales@first.example"
        assert told(rig, message) == [f"{notices(rig)[0].id} to {SENDER}"]
        passed = RcptOptions(frozenset((Notify.FAILURE,)), "rfc822;Sales@first.example")
        job = rig.mailer().jobs[0]
        assert [row.recipient.options for row in job.rows] == [passed] * 2
        rig.mailer().end(OK, NEVER)
        await turns()
        assert [actions for _, actions in news(rig)][1:] == [[("failed", "5.1.1")]]

    run(main())


@pytest.mark.parametrize("options", [ASKS_ALL, RcptOptions(frozenset())])
def test_an_alias_of_one_changes_nothing(options: RcptOptions) -> None:
    """§5.2.7.2."""

    async def main() -> None:
        rig = Rig()
        await accept(rig, behind("a@far.example", "anna@example.test", None, options))
        assert notices(rig) == []
        assert rig.mailer().jobs[0].rows[0].recipient.options == options
        rig.mailer().end(Delivered("new/1", "maildir"))
        await turns()
        assert len(notices(rig)) == (1 if options is ASKS_ALL else 0)

    run(main())


@pytest.mark.parametrize("sender", [SENDER, None])
def test_who_did_not_ask_hears_nothing_of_an_expansion(sender: str | None) -> None:
    async def main() -> None:
        rig = Rig()
        options = RcptOptions(frozenset((Notify.FAILURE,))) if sender else ASKS_ALL
        targets = [behind(f"{name}@far.example", "sales@example.test", None, options) for name in "ab"]
        await accept(rig, *targets, sender=sender)
        assert notices(rig) == [] and len(rig.mailer().jobs) == 1

    run(main())


def test_what_is_told_at_acceptance_of_a_large_message_shows_its_header() -> None:
    async def main() -> None:
        rig = Rig()
        message = rig.message(*[behind(f"{name}@far.example", "sales@example.test") for name in "ab"])
        rig.spool.bodies[message.id] = b"Subject: from the file\r\n\r\nbegin"
        await given(rig, replace(message, large=True, content=b"the end"))
        assert b"Subject: from the file" in (notices(rig)[0].content or b"")

    run(main())


def test_a_bug_at_acceptance_refuses_the_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("pillarbox.engine.queue.held_back", broken)
        rig = Rig()
        await accept(rig, hold_until=rig.clock.now() + 9)
        assert [type(answer) for answer in rig.answers] == [SpoolBroken]
        assert rig.spool.units == []

    run(main())
    assert "ZeroDivisionError" in caplog.text


# --- how much comes back


EIGHT_BIT = b"Subject: x\r\n\r\ncaf\xe9\r\n"


@pytest.mark.parametrize(
    ("content", "changes", "options", "kind"),
    [
        (TEXT, {}, {}, "message/rfc822"),
        (EIGHT_BIT, {"octets": Octets.EIGHT_BIT}, {}, "message/rfc822"),
        (TEXT + b"x" * 70 + b"\r\n", {"size": MAX_RETURNED + 1}, {}, "text/rfc822-headers"),
        (TEXT, {"octets": Octets.BINARY}, {}, "text/rfc822-headers"),
        (TEXT + b"x" * 999 + b"\r\n", {}, {}, "text/rfc822-headers"),
        (TEXT, {}, {"require_tls": True}, "text/rfc822-headers"),
        (b"Subject: M\xc3\xa4use\r\n\r\nx\r\n", {"octets": Octets(3)}, {}, "message/rfc822"),
        (b"Subject: M\xc3\xa4use\r\n\r\nx\r\n", {"octets": Octets(3)}, {"smtputf8": True}, "message/global"),
    ],
)
def test_a_failed_message_comes_back_whole_where_that_is_fit(
    content: bytes, changes: dict[str, Any], options: dict[str, Any], kind: str
) -> None:
    async def main() -> None:
        rig = Rig()
        message = rig.message(content=content)
        envelope = message.envelope._replace(options=MailOptions(ret=Ret.FULL, **options))
        await given(rig, replace(message, envelope=envelope, **changes))
        way = "mx:far.example;tls=verified" if "require_tls" in options else "mx:far.example"
        rig.mailer(way).end(NEVER)
        await turns()
        (notice,) = notices(rig)
        assert parts(notice)[2].get_content_type() == kind
        text = content.partition(b"\r\n\r\n")[2]
        assert (b"\r\n\r\n" + text in (notice.content or b"")) is kind.startswith("message/")
        assert bool(notice.octets & Octets.EIGHT_BIT) is not (notice.content or b"").isascii()
        assert notice.envelope.options.require_tls is options.get("require_tls", False)  # RFC 8689 §5
        assert notice.envelope.options.smtputf8 is False, "its own header section is ASCII"

    run(main())


def test_what_a_client_said_starts_no_field() -> None:
    async def main() -> None:
        rig = Rig()
        orcpt = "rfc822;a\r\nX-Injected: 1"
        await accept(rig, asking("to@far.example", Notify.FAILURE, original=orcpt), envelope_id="a+b\r\nX-Injected: 2")
        rig.mailer().end(NEVER)
        await turns()
        (group,) = groups(notices(rig)[0])
        assert of_message(notices(rig)[0])["Original-Envelope-Id"] == "a+2Bb+0D+0AX-Injected:+202"
        assert group["Original-Recipient"] == "rfc822;a+0D+0AX-Injected:+201"
        assert b"\nX-Injected" not in (notices(rig)[0].content or b"")

    run(main())


@pytest.mark.parametrize("orcpt", ["", "no type", ";x", "a b;x", "utf-8;" + "ö" * 2000])
def test_an_original_recipient_that_is_none_is_left_out(orcpt: str) -> None:
    async def main() -> None:
        rig = Rig()
        await accept(rig, asking("to@far.example", Notify.FAILURE, original=orcpt), smtputf8=False)
        rig.mailer().end(NEVER)
        await turns()
        (group,) = groups(notices(rig)[0])
        assert "Original-Recipient" not in group

    run(main())


def test_one_notice_tells_of_all_who_share_a_fate() -> None:
    async def main() -> None:
        rig = Rig()
        everything = tuple(Notify)
        await accept(rig, *(asking(f"{name}@far.example", *everything) for name in "abcd"))
        relayed = Delivered("250 Ok", "mx.far.example [192.0.2.1]", Reach.SILENT)
        rig.mailer().end(relayed, NEVER, relayed, NEVER)
        await turns()
        assert sorted(news(rig)) == [
            (SENDER, [("failed", "5.1.1")] * 2),
            (SENDER, [("relayed", "2.0.0")] * 2),
        ]

    run(main())
