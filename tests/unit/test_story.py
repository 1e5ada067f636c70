"""The story: what is live, what is new to it, what strangers wrote. The usual lives stand in test_why_golden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pillarbox.app.story import codes_of, story
from pillarbox.core.queue_ids import queue_id
from pillarbox.core.status_codes import ENHANCED, REPLIES, codes_in, meaning
from pillarbox.core.table import TABLE
from tests.why_rig import local_time

MESSAGE = {
    "id": "01hzzzzzzzz0",
    "received_at": 0.0,
    "sender": "ann@one.test",
    "listener": "mx",
    "peer": "192.0.2.1",
    "helo": "client.test",
    "protocol": "ESMTP",
    "size": 2048,
    "subject": "Hello",
    "message_id": "",
    "eight_bit": False,
}


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with local_time("UTC0"):
        yield


def row(**changes: Any) -> dict[str, Any]:
    usual = {
        "id": "01hzzzzzzzz0",
        "number": 0,
        "address": "bob@far.example",
        "original": "bob@far.example",
        "state": "active",
        "due": None,
        "settled_at": None,
        "attempts": 0,
        "lane": "mx:far.example",
        "reply": "",
    }
    return {**usual, **changes}


def data(*records: dict[str, Any], rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    usual = {
        "kind": "message",
        "now": 100.0,
        "running": True,
        "gives_up_at": None,
        "message": MESSAGE,
        "recipients": rows or [row()],
        "records": list(records),
        "codes": {},
        "lanes": {},
    }
    return {**usual, **changes}


def record(kind: str, at: float = 1.0, recipient: int | None = None, **detail: Any) -> dict[str, Any]:
    return {"at": at, "kind": kind, "recipient": recipient, "detail": detail}


def ending(lines: list[str]) -> str:
    return " ".join(" ".join(lines[lines.index("What happens next") + 1 :]).split())


def test_a_kind_that_is_new_is_told_by_its_text() -> None:
    lines = story(data(record("suppressed", text="bob@far.example bounced before", until="next week")))
    assert any("Suppressed: bob@far.example bounced before; until next week." in line for line in lines)


def test_control_characters_are_made_visible_wherever_they_stand() -> None:
    evil = "450 \x1b[2J\r\nX"
    lines = story(
        data(
            record("deferred", 1.0, 0, text=evil, next_hop="mx\x1b"),
            record("attempt", 1.0, None, transcript=f"< {evil}"),
            message={**MESSAGE, "subject": evil, "helo": evil},
        )
    )
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2J" in line for line in lines)


def test_what_is_in_flight_is_said() -> None:
    assert ending(story(data())) == "bob@far.example: in flight: it is being delivered now."


def test_before_the_first_attempt_nothing_is_said_to_be_in_flight_for_certain() -> None:
    assert ending(story(data(rows=[row(lane="")]))) == (
        "bob@far.example: waits for its turn, or is in flight: pillarbox queue top shows what slows its lane down."
    )


def test_what_waits_for_its_turn_names_the_lane_and_what_slows_it_down() -> None:
    slowed = {"cause": "421 Too many connections", "since": 50.0, "until": 160.0}
    lanes = {"mx:far.example": {"ready": 12, "in_flight": 2, "slowed": slowed}}
    assert ending(story(data(lanes=lanes))) == (
        "bob@far.example: waits for its turn, or is in flight: lane mx:far.example has 12 jobs waiting and 2 in flight."
        " The lane mx:far.example is slowed down until 00:02:40. The cause: 421 Too many connections."
    )


def test_without_a_server_nothing_is_said_to_be_in_flight() -> None:
    assert "as soon as a server runs" in ending(story(data(running=False)))


def test_what_is_due_is_due_now() -> None:
    assert ending(story(data(rows=[row(state="deferred", due=50.0, attempts=1)]))) == (
        "bob@far.example: waiting. The 2nd attempt is due now."
    )


def test_an_alias_is_named() -> None:
    assert "to   <bob@far.example> (it was sent to <team@one.test>), by the lane mx:far.example" in story(
        data(rows=[row(original="team@one.test")])
    )


def test_a_thousand_recipients_of_one_fate_are_a_few_lines() -> None:
    rows = [
        row(number=number, address=f"u{number}@far.example", settled_at=1.0, state="failed") for number in range(99)
    ]
    records = [record("failed", 1.0, number, text="550 no", next_hop="mx") for number in range(99)]
    lines = story(data(*records, rows=rows))
    assert sum("Refused for good" in line for line in lines) == 1
    assert any("All 99 recipients: Refused for good by mx" in line for line in lines)
    assert "and 79 more recipients" in lines and len(lines) < 40
    assert any("u3@far.example and 95 more: failed for good" in line for line in lines)


def test_two_of_a_kind_are_told_both_and_three_once() -> None:
    same = [record("deferred", float(at), 0, text="450 later", next_hop="mx", due=at + 5.0) for at in (1, 2, 3)]
    assert sum("Put off" in line for line in story(data(*same[:2]))) == 2
    told = story(data(*same))
    assert sum("Put off" in line for line in told) == 1
    assert any("The same, 2 more times until now." in line for line in told)


# --- codes


def test_each_code_of_our_own_table_has_a_meaning() -> None:
    for entry in TABLE:
        assert entry.code in REPLIES or entry.code < 220, entry
        for code in entry.enhanced:
            assert meaning(code) is not None, entry


def test_meanings_are_one_sentence() -> None:
    for told in (*REPLIES.values(), *ENHANCED.values()):
        assert told.endswith(".") and "\n" not in told and len(told) <= 98


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("550 5.1.1 no such user", ("550", "5.1.1")),
        ("450 later", ("450",)),
        ("no host could be reached, the last one mx [192.0.2.1]: 421 4.7.0 busy", ("421", "4.7.0")),
        ("connection refused", ()),
        ("550", ()),
        ("550-5.7.26 not authenticated", ("550", "5.7.26")),
        ("999 5.1.1", ()),
    ],
)
def test_codes_are_found_in_a_text(text: str, codes: tuple[str, ...]) -> None:
    assert codes_in(text) == codes


def test_an_unknown_detail_is_explained_by_its_subject() -> None:
    assert meaning("5.7.999") == meaning("5.7.0")
    assert codes_of(["599 5.99.1 x"]) == {}


# --- queue ids


@pytest.mark.parametrize(
    ("reply", "known"),
    [
        ("250 2.0.0 Ok: queued as 4F1B22A03", "4F1B22A03"),
        ("250 2.0.0 queued as cbszjpg00000", "cbszjpg00000"),
        ("250 OK id=1rXyzA-000AbC-2D", "1rXyzA-000AbC-2D"),
        ("250 2.0.0 3ABCdef012345 Message accepted for delivery", "3ABCdef012345"),
        ("250 2.0.0 OK  1700000000 d2e1a72fcca58-6be1234567csi123.45 - gsmtp", "d2e1a72fcca58-6be1234567csi123.45"),
        ("250 2.6.0 <a@b> [InternalId=1234567, Hostname=X.prod.outlook.com] Queued mail for delivery", "1234567"),
        ("250 ok 1700000000 qp 12345", "12345"),
        ("250 Ok 0100018bd1a2b3c4-11111111-2222-000000", "0100018bd1a2b3c4-11111111-2222-000000"),
        ("250 2.0.0: 5d8e4b3a Message accepted for delivery", "5d8e4b3a"),
        ("250 Message Queued (11AA22BB-33CC.1)", "11AA22BB-33CC.1"),
        ("250 2.0.0 Message queued with id 1a2b3c.", "1a2b3c"),
        ("250 Ok", None),
        ("250 2.0.0 Message accepted", None),
        ("250 " + "x" * 5000, None),
    ],
)
def test_what_a_next_hop_calls_it_is_read(reply: str, known: str | None) -> None:
    assert queue_id(reply) == known
