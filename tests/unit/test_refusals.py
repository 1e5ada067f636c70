"""Refusals of sessions: which replies tell an id, what is recorded, and what a flood costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import MAX_TEXT, Reply
from pillarbox.engine import refusals
from pillarbox.engine.mail import Unit
from pillarbox.engine.refusals import Refusal, Refusals, concerns, marked, parse_session
from pillarbox.sim.clock import VirtualClock
from tests.making import NoSpool
from tests.why_rig import Stage, session_in

HELLO, MAIL = "EHLO shop.example", "MAIL FROM:<a@shop.example>"


class Shelf(NoSpool):
    """Meets the port Spool: keeps units."""

    def __init__(self) -> None:
        self.units: list[Unit] = []

    def write(self, unit: Unit, done: Any, *, urgent: bool = True) -> None:
        assert not urgent
        self.units.append(unit)
        done(None)


def told(*commands: str, **service: Any) -> tuple[list[Reply], list[Refusal]]:
    async def main() -> tuple[list[Reply], list[Refusal]]:
        stage = Stage(**service)
        replies = stage.talk(*commands)
        return replies, stage.refusals._found

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("commands", "command"),
    [
        ((HELLO, MAIL, "RCPT TO:<nobody@example.test>"), "RCPT TO:<nobody@example.test>"),
        ((HELLO, MAIL, "RCPT TO:<b@else.example>"), "RCPT TO:<b@else.example>"),
        ((HELLO, f"{MAIL} SIZE=99999999999"), "MAIL FROM:<a@shop.example>"),
        (("EHLO mx.example.test",), "EHLO mx.example.test"),
    ],
)
def test_a_refusal_tells_the_id_under_which_it_is_recorded(commands: tuple[str, ...], command: str) -> None:
    replies, found = told(*commands)
    assert [dict(each.detail)["command"] for each in found] == [command]
    assert parse_session(session_in(replies[-1])) == found[0].session
    assert str(dict(found[0].detail)["reply"]) in str(replies[-1])


@pytest.mark.parametrize(
    "command",
    ["WHAT", "MAIL", "MAIL FROM:<a", "RCPT TO:<b@c.example>", "DATA", "VRFY x", f"{MAIL} FOO=1", "AUTH PLAIN"],
)
def test_what_is_no_mail_yet_tells_no_id(command: str) -> None:
    replies, found = told(HELLO, command)
    assert replies[-1].code >= 250 and "(S-" not in str(replies[-1]) and found == []


def test_a_session_has_one_id_for_all_its_refusals() -> None:
    replies, found = told(HELLO, MAIL, "RCPT TO:<x@else.example>", "RCPT TO:<y@else.example>")
    assert session_in(replies[-1]) == session_in(replies[-2])
    assert [each.recipient for each in found] == ["x@else.example", "y@else.example"]
    assert {each.sender for each in found} == {"a@shop.example"}


def test_a_message_that_is_refused_is_recorded_for_each_recipient() -> None:
    text = "\r\n".join(
        ["Subject: x"] + ["Received: from a by b; Tue, 14 Nov 2023 22:13:20 +0000"] * 200 + ["", "x", "."]
    )
    to = ("RCPT TO:<alice@example.test>", "RCPT TO:<bob@example.test>")
    replies, found = told(HELLO, MAIL, *to, "DATA", text)
    assert replies[-1].code == 554
    assert [each.recipient for each in found] == ["alice@example.test", "bob@example.test"]
    assert {dict(each.detail)["command"] for each in found} == {"the message"}
    assert {dict(each.detail)["recipients"] for each in found} == {2}


def test_who_finds_no_place_is_told_an_id() -> None:
    async def main() -> None:
        from pillarbox.engine.session import Session

        stage = Stage()
        reply = Session(stage.service, "198.51.100.7").turned_away(r.CONNECT_TOO_MANY)
        assert reply.closes and parse_session(session_in(reply)) is not None
        assert len(stage.refusals._found) == 1

    asyncio.run(main())


def test_without_a_book_replies_are_as_they_are() -> None:
    async def main() -> None:
        stage = Stage()
        object.__setattr__(stage.service, "refusals", None)
        assert stage.talk(HELLO, MAIL, "RCPT TO:<b@else.example>")[-1] is r.RELAY_DENIED

    asyncio.run(main())


def test_arguments_are_bounded() -> None:
    local = "x" * 60
    domain = ".".join(["y" * 60] * 4)
    _, found = told(HELLO, f"MAIL FROM:<{local}@{domain[:180]}> SIZE=99999999999")
    detail = dict(found[0].detail)
    assert len(str(detail["command"])) <= refusals.MOST_OCTETS + 1


@pytest.mark.parametrize(
    "reply", [r.UNRECOGNISED, r.BAD_ARGUMENT, r.NOT_IMPLEMENTED, r.BAD_SEQUENCE, r.UNKNOWN_PARAMETER]
)
def test_syntax_is_no_refusal(reply: Reply) -> None:
    assert not concerns(reply)


def test_a_long_text_gets_the_id_on_a_line_of_its_own() -> None:
    full = Reply(550, None, ("x" * MAX_TEXT,))
    got = marked(full, MessageId(5))
    assert got.lines == ("x" * MAX_TEXT, "(S-000000000005)")
    assert marked(r.NO_SUCH_USER, MessageId(5)).lines == ("No such user here (S-000000000005)",)


@pytest.mark.parametrize("word", ["", "S-", "S-xyz", "S-00000000000u", "000000000005", "S-0000000000055"])
def test_other_words_are_no_session(word: str) -> None:
    assert parse_session(word) is None


def test_an_id_is_read_in_any_case() -> None:
    assert parse_session("s-00000000000A") == MessageId(10)


# --- the book


def refusal(number: int = 1) -> Refusal:
    return Refusal(MessageId(number), 0.0, None, None, ())


def test_a_flood_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock, shelf = VirtualClock(), Shelf()
    book = Refusals(shelf, clock, 50)
    for number in range(refusals.MOST_AT_ONCE + 7):
        book.add(refusal(number))
    assert shelf.units == []
    clock.advance(refusals.EVERY)
    assert [len(unit.refusals) for unit in shelf.units] == [refusals.MOST_AT_ONCE]
    assert shelf.units[0].refusals_kept == 50
    assert "7 refusals were not recorded" in caplog.text
    book.add(refusal())
    clock.advance(refusals.EVERY)
    assert [len(unit.refusals) for unit in shelf.units[1:]] == [1]


def test_a_book_of_no_pages_keeps_nothing() -> None:
    clock, shelf = VirtualClock(), Shelf()
    book = Refusals(shelf, clock, 0)
    book.add(refusal())
    clock.advance(10)
    assert shelf.units == []
