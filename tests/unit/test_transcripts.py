"""What is recorded of a conversation with a next hop: when, how much, and what never."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Job, Row
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.transcripts import MOST_LINES, MOST_OCTETS, transcript
from pillarbox.smtp.events import ReplyReceived
from pillarbox.smtp.sasl import Credentials
from pillarbox.smtp.states import Verb
from tests.making import box, make_message, turns
from tests.remote_rig import House
from tests.why_rig import Stage

BODY = b"Received: trace\r\nSubject: secret-subject\r\n\r\nsecret-body\r\n"


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def job(*to: str) -> Job:
    message = make_message(MessageId(1), *to)
    return Job(message, [Row(number, each) for number, each in enumerate(message.envelope.recipients)], "lane")


def told(records: list[Record]) -> list[str]:
    return [str(value) for record in records for name, value in record.detail if name == "transcript"]


def test_a_delivery_that_succeeds_records_no_conversation_and_one_record() -> None:
    async def main() -> None:
        stage = Stage(answers={"end": "250 2.0.0 Ok: queued as 4F1B"})
        message = await stage.receive("bob@far.example")
        records = [record for record in stage.spool.records if record.message == message.id]
        assert [record.kind for record in records] == [Kind.DELIVERED]
        assert dict(records[0].detail)["queued_as"] == "4F1B"
        assert sum(len(record.detail_json()) for record in records) < 130
        await stage.close()

    run(main())


@pytest.mark.parametrize("step", ["MAIL", "RCPT 1", "DATA", "end"])
@pytest.mark.parametrize("code", ["450", "550"])
def test_what_was_refused_shows_the_command_that_was(step: str, code: str) -> None:
    async def main() -> None:
        house = House(answers={step: f"{code} no"})
        message = await house.accept("bob@far.example", content=BODY)
        await house.settled(message, within=5)
        (text,) = told(house.of(message))
        lines = text.split("\n")
        said = {"MAIL": "> MAIL FROM:<>", "RCPT 1": "> RCPT TO:<bob@far.example>", "DATA": "> DATA"}
        before = lines[lines.index(f"< {code} no") - 1]
        assert before.startswith(said.get(step, "> (the message, "))
        assert "secret" not in text
        await house.close()

    run(main())


@pytest.mark.parametrize("answer", ["235 ok c2VjcmV0LXBhc3N3b3Jk", "535 no AGJvYgBzZWNyZXQtcGFzc3dvcmQ="])
def test_no_password_is_told_even_by_a_server_that_repeats_it(answer: str) -> None:
    async def main() -> None:
        credentials = Credentials("bob", "secret-password")
        house = House(
            keywords=("AUTH PLAIN",), credentials=credentials, answers={"AUTH": answer, "RCPT 1": "550 5.1.1 no"}
        )
        message = await house.accept("bob@far.example")
        await turns(40)
        await house.settled(message, within=5)
        for record in house.of(message):
            assert "secret" not in record.detail_json() and "c2Vj" not in record.detail_json()
            assert "AGJv" not in record.detail_json() and "PLAIN A" not in record.detail_json()
        await house.close()

    run(main())


def test_a_recipient_that_was_not_named_is_not_shown_as_named() -> None:
    """One whose address this server can't take is refused before anything is said of it."""

    async def main() -> None:
        house = House(answers={"RCPT 1": "550 no"})
        message = await house.accept("größe@far.example", "bob@far.example")
        await house.settled(message, within=5)
        text = "\n".join(told(house.of(message)))
        assert "> RCPT TO:<bob@far.example>\n< 550 no" in text and "größe" not in text
        await house.close()

    run(main())


def test_many_lines_are_cut_in_the_middle_and_long_ones_at_the_end() -> None:
    refusals = [ReplyReceived(Verb.RCPT, 550, EnhancedCode(5, 1, 1), ("x" * 1000,)) for _ in range(1000)]
    named = [box(f"u{number}@far.example") for number in range(1000)]
    lines = transcript(job("a@far.example"), "mx", refusals, rcpts=named, fault="lost").split("\n")
    assert len(lines) == MOST_LINES and max(map(len, lines)) == MOST_OCTETS + 1
    assert lines[0] == "> RCPT TO:<u0@far.example>" and lines[-1] == "(lost)"
    assert any("lines left out" in line for line in lines)


def test_a_reply_of_many_lines_is_cut() -> None:
    reply = ReplyReceived(Verb.MAIL, 550, None, tuple(map(str, range(500))))
    lines = transcript(job("a@far.example"), "mx", [reply], rcpts=[]).split("\n")
    assert lines[:3] == ["> MAIL FROM:<from@far.example>", "< 550-0", "< 550-1"]
    assert lines[-1] == "(… 500 lines)" and len(lines) < 15


def test_the_capabilities_are_one_line() -> None:
    reply = ReplyReceived(Verb.EHLO, 250, None, ("mx", "PIPELINING", "SIZE 10"))
    assert transcript(job("a@far.example"), "me", [reply], rcpts=[]) == "> EHLO me\n< 250 mx; PIPELINING; SIZE 10"


def test_the_message_is_told_once_however_many_replies_it_gets() -> None:
    """By LMTP (RFC 2033 §4.2)."""
    replies = [ReplyReceived(Verb.RCPT, 250, None, ("ok",)) for _ in range(2)]
    replies += [ReplyReceived(Verb.END_OF_DATA, 450, None, ("no",)) for _ in range(2)]
    named = [box("a@far.example"), box("b@far.example")]
    lines = transcript(job("a@far.example", "b@far.example"), "mx", replies, rcpts=named).split("\n")
    assert [line[:14] for line in lines[-3:]] == ["> (the message", "< 450 no", "< 450 no"]
