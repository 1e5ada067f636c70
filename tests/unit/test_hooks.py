"""Hooks in a session: each stage, the order, each verdict and what is kept of it, and hooks that give no answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.envelope import Mode
from pillarbox.core.reply import EnhancedCode, Reply
from pillarbox.engine import hooks
from pillarbox.engine.hooks import (
    Abort,
    Answer,
    Auth,
    Body,
    Close,
    Connect,
    Data,
    Defer,
    EndOfData,
    Greet,
    Hello,
    Hook,
    HookFailure,
    Mail,
    Note,
    OnFailure,
    Rcpt,
    Refuse,
    Verdict,
)
from pillarbox.engine.mail import Octets
from pillarbox.engine.questions import Accept, Consult, Drop, Spill
from pillarbox.engine.records import Kind
from pillarbox.engine.service import AuthOffer
from pillarbox.engine.session import Session
from pillarbox.sim.clock import VirtualClock
from pillarbox.smtp.events import Authenticate, BodyChunk, BodyEnd, ChunkEnd, DataCommand, MailFrom, Quit, RcptTo, Reset
from tests.making import NOW, turns
from tests.unit.test_session import ALICE, BOB, CLIENT, TRUSTED, hello, mail, play, service

NO = Reply(550, EnhancedCode(5, 7, 1), ("Not from you",))
NO_AT_DATA = Reply(554, EnhancedCode(5, 7, 1), ("Not that",))
LATER = Reply(451, EnhancedCode(4, 7, 1), ("Not yet",))
STAGES: tuple[type[Any], ...] = (Connect, Greet, Hello, Auth, Mail, Rcpt, Data, Body, EndOfData, Abort, Close)
REFUSED_BY: dict[type, Reply] = {
    Connect: Reply(554, None, ("No",)),
    Greet: Reply(554, None, ("No",)),
    Hello: Reply(550, None, ("No",)),
    Auth: Reply(535, EnhancedCode(5, 7, 8), ("No",)),
    Mail: NO,
    Rcpt: NO,
    Data: NO_AT_DATA,
    Body: NO,
    EndOfData: NO,
}
END = BodyEnd(b"Subject: x\r\n\r\nhello\r\n", False)
TO_DATA = (hello(), mail(), RcptTo(ALICE), DataCommand())


@dataclass
class Log:
    """Hooks that keep what they are told, and answer what they were given for the stage."""

    answers: dict[type, Answer] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)

    def hook(self, stage: type[Any], name: str = "log", **changes: Any) -> Hook[Any]:
        def check(occasion: Any) -> Answer:
            self.seen.append(occasion)
            return self.answers.get(stage)

        return Hook(name, stage, check, **changes)

    def everywhere(self) -> tuple[Hook[Any], ...]:
        return tuple(self.hook(stage) for stage in STAGES)

    @property
    def stages(self) -> list[type]:
        return [type(each) for each in self.seen]


def says(stage: type[Any], answer: Answer, name: str = "judge", **changes: Any) -> Hook[Any]:
    return Hook(name, stage, lambda occasion: answer, **changes)


def fails(stage: type[Any], **changes: Any) -> Hook[Any]:
    def check(occasion: Any) -> Answer:
        raise RuntimeError("a bug in it")

    return Hook("broken", stage, check, **changes)


def met(*given: Hook[Any], peer: str = CLIENT, **changes: Any) -> Session:
    return Session(service(hooks=given, auth=AuthOffer.CLEAR, **changes), peer)


def accepted(session: Session, *events: Any) -> Accept:
    answer = play(session, *events)
    assert isinstance(answer, Accept)
    return answer


def told(accept: Accept) -> list[dict[str, str | int | float]]:
    """What the records of the message say."""
    notes = accept.message.notes
    assert all(note.message == accept.message.id and note.kind is Kind.HOOK for note in notes)
    return [dict(note.detail) for note in notes]


# --- the stages


def test_every_stage_is_asked_once_and_told_what_happens() -> None:
    log = Log()
    session = met(*log.everywhere())
    assert session.connect() is None and session.greet() == r.greeting("mx.example.test")
    assert play(session, hello(), Authenticate("PLAIN", None)) == r.AUTH_CONTINUE
    accepted(session, mail(BOB, size=7), RcptTo(ALICE), DataCommand(), BodyChunk(b"Subject: x\r\n"), END)
    assert str(session.answer(None)).startswith("250")
    session.closed()
    assert log.stages == [Connect, Greet, Hello, Auth, Mail, Rcpt, Data, Body, Body, EndOfData, Close]
    assert log.seen[2][1:] == ("client.example", True)
    assert log.seen[3].mechanism == "PLAIN"
    assert (log.seen[4].mail.sender, log.seen[4].mail.size) == (BOB, 7)
    assert (log.seen[5].recipient, log.seen[5].taken) == (ALICE, 0)
    assert [each.address for each in log.seen[6].recipients] == [ALICE]
    assert [each.octets for each in log.seen[7:9]] == [b"Subject: x\r\n", END.octets]
    whole = log.seen[9]
    assert whole.text == b"Subject: x\r\n" + END.octets and whole.size == len(whole.text)
    assert whole.header.subject == "x" and whole.message == log.seen[7].message
    client = log.seen[0].client
    assert all(each.client is client for each in log.seen)
    assert (client.peer, client.listener, client.helo, client.extended) == (CLIENT, "mx", "client.example", True)


def test_by_bdat_the_same_stages_are_asked() -> None:
    """RFC 3030: no policy is passed by for the command that the text came by."""
    log = Log()
    session = met(*log.everywhere())
    play(session, hello(), mail(BOB), RcptTo(ALICE))
    log.seen.clear()
    first = ChunkEnd(b"Subject: x\r\n", last=False, bare=False)
    assert play(session, BodyChunk(b"X: y\r\n"), first) == r.CHUNK_OK
    accepted(session, ChunkEnd(b"\r\nx\r\n", last=True, bare=False))
    assert log.stages == [Data, Body, Body, Body, EndOfData]
    assert [each.address for each in log.seen[0].recipients] == [ALICE]
    assert log.seen[-1].text == b"X: y\r\nSubject: x\r\n\r\nx\r\n"


@pytest.mark.parametrize("last", [True, False])
def test_a_refusal_before_the_first_chunk_is_told_behind_it(last: bool) -> None:
    session = met(says(Data, Defer(LATER, "x")))
    play(session, hello(), mail(BOB), RcptTo(ALICE))
    assert session.handle(ChunkEnd(b"Subject: x\r\n\r\n", last, bare=False)) == LATER


def test_a_large_message_is_seen_in_pieces_only() -> None:
    log = Log()
    session = met(*log.everywhere())
    play(session, *TO_DATA)
    piece = b"Subject: x\r\n\r\n" + b"x" * 300_000 + b"\r\n"
    assert isinstance(session.handle(BodyChunk(piece)), Spill)
    assert session.answer(None) is None
    accepted(session, BodyEnd(b"end\r\n", False))
    assert [each.octets for each in log.seen if type(each) is Body] == [piece, b"end\r\n"]
    assert log.seen[-1].text is None and log.seen[-1].size == len(piece) + 5


@pytest.mark.parametrize(
    ("events", "stages"),
    [
        ((Reset(),), [Mail, Abort]),
        ((hello(),), [Mail, Hello, Abort]),
        ((RcptTo(ALICE), Quit()), [Mail, Rcpt]),
        ((RcptTo(ALICE), DataCommand(), BodyEnd(b"a\nb", True)), [Mail, Rcpt, Data, Body, Abort]),
    ],
)
def test_a_transaction_that_leads_to_no_message_is_aborted(events: tuple[Any, ...], stages: list[type]) -> None:
    log = Log()
    session = met(*log.everywhere())
    play(session, hello())
    log.seen.clear()
    play(session, mail(), *events)
    assert log.stages == stages


@pytest.mark.parametrize("reply", [LATER, NO])
def test_a_message_that_is_refused_ends_in_an_abort(reply: Reply) -> None:
    verdict: Verdict = Defer(reply, "x") if reply is LATER else Refuse(reply, "x")
    log = Log({EndOfData: verdict})
    session = met(*log.everywhere())
    assert play(session, *TO_DATA, END) == reply
    assert log.stages[-2:] == [EndOfData, Abort] and session.between_transactions


def test_the_end_of_the_connection_aborts_what_was_open_and_is_told_once() -> None:
    log = Log()
    session = met(*log.everywhere())
    play(session, hello(), mail())
    session.closed()
    session.closed()
    assert log.stages == [Hello, Mail, Abort, Close]


# --- verdicts


@pytest.mark.parametrize("stage", REFUSED_BY)
def test_a_refusal_is_the_reply_and_later_hooks_are_not_asked(
    stage: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = Log()
    session = met(says(stage, Refuse(REFUSED_BY[stage], "on a list", {"score": 7})), log.hook(stage))
    steps: dict[type, Callable[[], object]] = {
        Connect: session.connect,
        Greet: session.greet,
        Hello: lambda: play(session, hello()),
        Auth: lambda: play(session, hello(), Authenticate("PLAIN", b"secret")),
        Mail: lambda: play(session, hello(), mail()),
        Rcpt: lambda: play(session, hello(), mail(), RcptTo(ALICE)),
        Data: lambda: play(session, *TO_DATA),
    }
    answer = steps[stage]() if stage in steps else play(session, *TO_DATA, END)
    assert answer == REFUSED_BY[stage] and log.seen == []
    (line,) = [record for record in caplog.records if record.name == hooks.__name__]
    assert line.getMessage() == "refuse by hook judge: on a list"
    fields: dict[str, object] = vars(line)["fields"]
    named = {"hook": "judge", "verdict": "refuse", "reason": "on a list", "score": 7, "peer": CLIENT, "listener": "mx"}
    assert named.items() <= fields.items() and fields["reply"] == str(REFUSED_BY[stage])
    assert ("to" in fields) is (stage is Rcpt)
    assert "secret" not in repr(fields)


def test_hooks_are_asked_in_their_order() -> None:
    order: list[str] = []

    def named(name: str) -> Hook[Any]:
        return Hook(name, Mail, lambda occasion: order.append(name))

    assert play(met(named("b"), named("a"), named("c")), hello(), mail()) == r.SENDER_OK
    assert order == ["b", "a", "c"]


def test_what_was_said_is_written_with_the_message() -> None:
    late = says(Rcpt, None)
    session = met(
        says(Connect, Note("on a list", {"score": 3}), "dnsbl"),
        Hook("grey", Rcpt, lambda at: Defer(LATER, "not seen before") if at.recipient == BOB else None),
        says(EndOfData, Note("signed"), "dkim"),
        late,
    )
    session.connect()
    assert play(session, hello(), mail(), RcptTo(BOB)) == LATER
    accept = accepted(session, RcptTo(ALICE), DataCommand(), END)
    assert told(accept) == [
        {"hook": "dnsbl", "stage": "connect", "verdict": "note", "reason": "on a list", "score": 3},
        {
            "hook": "grey",
            "stage": "rcpt",
            "verdict": "defer",
            "reason": "not seen before",
            "to": str(BOB),
            "reply": str(LATER),
        },
        {"hook": "dkim", "stage": "end_of_data", "verdict": "note", "reason": "signed"},
    ]
    assert {note.at for note in accept.message.notes} == {NOW}


def test_what_was_said_of_one_transaction_is_not_told_of_the_next() -> None:
    session = met(says(Mail, Note("mail")), says(Hello, Note("hello")))
    play(session, hello(), mail(), Reset())
    assert [each["reason"] for each in told(accepted(session, *TO_DATA[1:], END))] == ["hello", "mail"]


def test_with_nothing_said_there_is_nothing_to_tell() -> None:
    assert accepted(met(*Log().everywhere()), *TO_DATA, END).message.notes == ()


def test_what_is_kept_of_a_transaction_is_bounded() -> None:
    session = met(Hook("grey", Rcpt, lambda at: Defer(LATER, "x") if at.recipient == BOB else None))
    play(session, hello(), mail(), *[RcptTo(BOB)] * 1000)
    assert len(accepted(session, RcptTo(ALICE), DataCommand(), END).message.notes) == hooks.MOST_NOTES


def test_a_refusal_of_a_piece_is_told_at_the_end_of_the_message() -> None:
    log = Log()
    session = met(says(Body, Refuse(NO, "a virus")), *log.everywhere())
    assert play(session, *TO_DATA, BodyChunk(b"Subject: x\r\n\r\n")) is None
    assert play(session, BodyChunk(b"more")) is None
    assert play(session, END) == NO
    assert EndOfData not in log.stages and Body not in log.stages


def test_a_spilled_message_that_is_refused_is_dropped() -> None:
    session = met(says(EndOfData, Refuse(NO, "no")))
    play(session, *TO_DATA)
    assert isinstance(session.handle(BodyChunk(b"Subject: x\r\n\r\n" + b"x" * 300_000)), Spill)
    session.answer(None)
    assert isinstance(session.handle(BodyEnd(b"\r\n", False)), Drop)
    assert session.answer(None) == NO


def test_a_message_for_terminals_is_asked_about_too() -> None:
    answer = play(met(says(Mail, Refuse(NO, "no"))), hello(), MailFrom(BOB, 0, mail().body_type, Mode.MAIL))
    assert answer == NO


@pytest.mark.parametrize(("verdict", "reply"), [(Refuse, LATER), (Defer, NO), (Refuse, r.BYE)])
def test_a_verdict_and_its_reply_agree(verdict: type[Any], reply: Reply) -> None:
    with pytest.raises(ValueError, match=str(reply.code)):
        verdict(reply, "x")


def test_trusted_clients_are_not_asked_what_is_for_strangers() -> None:
    log = Log()
    given = (log.hook(Mail, strangers_only=True), log.hook(Rcpt))
    for peer in ("127.0.0.1", "::1", TRUSTED, ""):
        play(met(*given, peer=peer), hello(), mail(), RcptTo(ALICE))
    assert log.stages == [Rcpt] * 4
    play(met(*given), hello(), mail(), RcptTo(ALICE))
    assert log.stages == [Rcpt] * 4 + [Mail, Rcpt]


# --- no answer

FAULTS = {
    Connect: r.OUR_FAULT,
    Greet: r.OUR_FAULT,
    Hello: r.OUR_FAULT,
    Auth: r.AUTH_FAULT,
    **dict.fromkeys((Mail, Rcpt, Data, Body, EndOfData), r.LOCAL_FAULT),
}


def reached(stage: type[Any], session: Session) -> object:
    if stage is Connect:
        return session.connect()
    if stage is Greet:
        return session.greet()
    events = {Hello: TO_DATA[:1], Auth: (hello(), Authenticate("PLAIN", None)), Mail: TO_DATA[:2], Rcpt: TO_DATA[:3]}
    return play(session, *events.get(stage, TO_DATA if stage is Data else (*TO_DATA, END)))


@pytest.mark.parametrize("stage", FAULTS)
def test_a_hook_that_raises_is_a_temporary_fault_unless_it_is_open(
    stage: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert reached(stage, met(fails(stage))) == FAULTS[stage]
    assert "a bug in it" in caplog.text and "hook broken" in caplog.text
    log = Log()
    session = met(fails(stage, on_failure=OnFailure.OPEN), log.hook(stage))
    assert reached(stage, session) not in FAULTS.values() and log.stages[:1] == [stage]


def test_a_failure_leaves_a_record() -> None:
    session = met(fails(Mail, on_failure=OnFailure.OPEN))
    (record,) = told(accepted(session, *TO_DATA, END))
    assert record == {
        "hook": "broken",
        "stage": "mail",
        "verdict": "note",
        "reason": "raised RuntimeError; open on failure",
    }


@pytest.mark.parametrize("answer", [Refuse(Reply(556, EnhancedCode(5, 1, 10), ("x",)), "x"), "no verdict", False])
def test_an_answer_that_may_not_be_given_counts_as_none(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert play(met(says(Mail, answer)), hello(), mail()) == r.LOCAL_FAULT
    assert play(met(says(Mail, answer, on_failure=OnFailure.OPEN)), hello(), mail()) == r.SENDER_OK
    assert "hook judge" in caplog.text


@pytest.mark.parametrize("stage", [Abort, Close])
def test_a_fault_where_nothing_can_be_refused_is_logged(stage: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    async def slow(occasion: Any) -> None: ...

    log = Log()
    session = met(fails(stage), Hook("slow", stage, slow), log.hook(stage))
    play(session, hello(), mail())
    session.closed()
    assert log.stages == [stage]
    assert "a bug in it" in caplog.text and "hook slow needs time" in caplog.text


def test_a_deadline_must_be_possible() -> None:
    with pytest.raises(ValueError, match="hook x"):
        Hook("x", Mail, lambda occasion: None, deadline=0)


# --- hooks that need time


def slow(stage: type[Any], awaitable: Callable[[], Awaitable[Verdict | None]], **changes: Any) -> Hook[Any]:
    return Hook("slow", stage, lambda occasion: awaitable(), **changes)


async def nothing() -> None:
    await turns(1)


async def refusal() -> Verdict:
    await turns(1)
    return Refuse(NO, "thought of it")


def asked(session: Session, *events: Any) -> Consult:
    question = play(session, *events)
    assert isinstance(question, Consult)
    return question


def test_a_hook_that_needs_time_is_a_question_and_the_rest_come_behind_it() -> None:
    async def main() -> None:
        clock, log = VirtualClock(NOW), Log()
        session = met(log.hook(Mail, "first"), slow(Mail, nothing), log.hook(Mail, "last"), slow(Mail, refusal))
        question = asked(session, hello(), mail())
        assert len(log.seen) == 1
        then = session.answer(await hooks.outcome(question, clock))
        assert isinstance(then, Consult) and len(log.seen) == 2
        assert session.answer(await hooks.outcome(then, clock)) == NO
        assert session.between_transactions

    asyncio.run(main())


@pytest.mark.parametrize("stage", [Connect, Greet, Hello, Auth, Mail, Rcpt, Data, Body, EndOfData])
def test_each_stage_can_wait(stage: type[Any]) -> None:
    async def main() -> None:
        clock = VirtualClock(NOW)
        for awaitable, expected in ((nothing, Log()), (refusal, None)):
            if expected is None and stage in (Connect, Greet, Hello, Auth, Data):
                continue  # 550 is no reply to these
            session = met(slow(stage, awaitable))
            question = reached(stage, session)
            assert isinstance(question, Consult)
            answer = session.answer(await hooks.outcome(question, clock))
            if expected is None:
                assert answer == NO
            else:
                assert (
                    answer is None
                    if stage is Connect
                    else answer == reached(stage, met()) or stage in (Body, EndOfData)
                )
                assert stage not in (Body, EndOfData) or isinstance(answer, Accept)

    asyncio.run(main())


@pytest.mark.parametrize("on_failure", OnFailure)
def test_a_late_hook(on_failure: OnFailure, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        clock = VirtualClock(NOW)
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session = met(slow(Mail, lambda: never, deadline=3, on_failure=on_failure))
        waiting = asyncio.create_task(hooks.outcome(asked(session, hello(), mail()), clock))
        await turns()
        clock.advance(2.9)
        await turns()
        assert not waiting.done()
        clock.advance(0.1)
        found = await waiting
        assert found == HookFailure("no answer within 3 s")
        assert session.answer(found) == (r.SENDER_OK if on_failure is OnFailure.OPEN else r.LOCAL_FAULT)
        await turns()
        assert never.cancelled()

    asyncio.run(main())
    assert "hook slow at mail gave no answer within 3 s" in caplog.text


def test_a_late_hook_that_will_not_be_stopped_holds_up_nobody() -> None:
    async def main() -> None:
        clock, gate = VirtualClock(NOW), asyncio.Event()

        async def stubborn() -> None:
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue
            raise RuntimeError("too late for anybody")

        waiting = asyncio.create_task(hooks.outcome(asked(met(slow(Mail, stubborn)), hello(), mail()), clock))
        await turns()
        clock.advance(hooks.DEADLINE)
        assert await waiting == HookFailure("no answer within 10 s")
        gate.set()
        await turns()

    asyncio.run(main())


def test_a_hook_that_raises_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        await turns(1)
        raise RuntimeError("a bug in it")

    async def main() -> None:
        session = met(slow(Mail, broken))
        found = await hooks.outcome(asked(session, hello(), mail()), VirtualClock(NOW))
        assert session.answer(found) == r.LOCAL_FAULT

    asyncio.run(main())
    assert "a bug in it" in caplog.text


def test_a_hook_is_stopped_when_nobody_waits_for_it_any_more() -> None:
    async def main() -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session = met(slow(Mail, lambda: never))
        waiting = asyncio.create_task(hooks.outcome(asked(session, hello(), mail()), VirtualClock(NOW)))
        await turns()
        waiting.cancel()
        session.abandon()
        session.closed()
        await turns()
        assert never.cancelled() and waiting.cancelled()

    asyncio.run(main())


def test_a_hook_that_was_never_begun_is_given_up() -> None:
    session = met(slow(Mail, nothing))
    question = asked(session, hello(), mail())
    session.abandon()
    assert not question.started
    del question, session  # a coroutine that nobody awaited would be a warning, and that an error


def test_octets_of_a_message_are_the_same_with_and_without_hooks() -> None:
    with_hooks = accepted(met(*Log().everywhere()), *TO_DATA, END).message
    without = accepted(met(), *TO_DATA, END).message
    assert with_hooks.content == without.content and with_hooks.octets is without.octets is Octets.PLAIN
