"""What the command line prints: columns, times, sizes, the story of a message."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pillarbox.app.cli import output, queue


@pytest.fixture(autouse=True)
def utc_plus_two(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_columns_are_aligned() -> None:
    assert output.table([("a", 1, ""), ("bcd", 22, "x")]) == "a    1\nbcd  22  x"
    assert output.table([]) == ""


def test_nothing_that_a_peer_wrote_commands_the_terminal() -> None:
    assert output.table([("\x1b[31m", "a\r\nb", "\x9b")]) == "\\x1b[31m  a\\x0d\\x0ab  \\x9b"


def test_moments_are_local() -> None:
    assert output.moment(0) == "1970-01-01 02:00:00+02:00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.4, "0s"), (59, "59s"), (240, "4m"), (249, "4m9s"), (3605, "1h"), (5400, "1h30m"), (187200, "2d4h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert output.span(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0"), (1023, "1023"), (1536, "1.5K"), (26214400, "25.0M")])
def test_sizes(size: int, text: str) -> None:
    assert output.octets(size) == text


def recipient(**changes: Any) -> dict[str, Any]:
    return {
        "id": "01hzzzzzzzz0",
        "number": 0,
        "address": "bob@example.org",
        "original": "bob@example.org",
        "sender": "",
        "state": "deferred",
        "due": 1000.0,
        "settled_at": None,
        "attempts": 1,
        "lane": "mx:example.org",
        "reply": "450 4.2.0 later",
        "size": 2048,
        "received_at": 0.0,
        **changes,
    }


MESSAGE = {
    "id": "01hzzzzzzzz0",
    "received_at": 0.0,
    "sender": "",
    "listener": "mx",
    "peer": "192.0.2.1",
    "helo": "client.test",
    "protocol": "ESMTP",
    "size": 2048,
    "subject": "Hello",
    "message_id": "<a@b>",
    "eight_bit": False,
}


def test_the_queue_has_a_line_for_each_recipient() -> None:
    rows = [
        recipient(),
        recipient(number=1, state="active", due=None, attempts=0, lane="", reply="", sender="a@b.test"),
    ]
    assert output.queue(rows).splitlines() == [
        "01hzzzzzzzz0  deferred  1970-01-01 02:16:40+02:00  1  2.0K  <>          <bob@example.org>  mx:example.org"
        "  450 4.2.0 later",
        "01hzzzzzzzz0  active    1970-01-01 02:00:00+02:00  0  2.0K  <a@b.test>  <bob@example.org>  -",
    ]


def test_show_names_the_envelope() -> None:
    text = output.envelope({"message": {**MESSAGE, "peer": "", "subject": ""}, "recipients": [recipient()]})
    assert text.splitlines() == [
        "01hzzzzzzzz0",
        "1970-01-01 02:00:00+02:00  received from this machine (mx, ESMTP, 2048 octets)",
        "  from <>",
        "  to <bob@example.org>  deferred",
    ]


def test_json_is_one_line_and_keeps_letters() -> None:
    assert output.as_json({"count": 1, "name": "ä"}) == '{"count": 1, "name": "ä"}'


def test_an_order_for_one_recipient_speaks_of_one() -> None:
    assert queue._told("drop", {"count": 1, "standing": 0}) == "1 recipient has failed, and nobody is told"
    assert queue._told("drop", {"count": 2, "standing": 0}) == "2 recipients have failed, and nobody is told"
