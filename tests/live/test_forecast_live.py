"""`pillarbox forecast` through the command line, on a running server and on the data at rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backlog import make
from tests.live.support import BOB, HOST, Server, until

ROUTES = [{"match": "far.test", "next_hop": f"smtp://{HOST}:1"}, {"match": "kept.test", "next_hop": f"smtp://{HOST}:2"}]
LANE, OTHER = f"smtp:{HOST}:1", f"smtp:{HOST}:2"


@pytest.fixture(params=["running", "resting"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Three messages that nobody took so far, one of them held."""
    with Server(tmp_path, settings={"route": ROUTES}) as server:
        server.local(BOB)
        for address in ("x@far.test", "y@far.test", "z@kept.test"):
            server.ask("send", "--from", BOB, "--to", address, text=b"Subject: x\n\nhi\n")
        until(lambda: server.call("queue_count", where="state=deferred")["count"] == 3, what="all deferred")
        server.ask("queue", "hold", "--yes", "domain=kept.test")
        if request.param == "resting":
            server.stop()
        yield server
        if not server.running:
            server.start()


def test_it_tells_when_the_queue_is_drained(either: Server) -> None:
    before = either.ask("queue", "list")
    data: dict[str, Any] = either.ask("forecast")
    (lane,) = data["lanes"]
    assert (data["waiting"], data["held"], data["delivered"], data["left"]) == (2, 1, 2, 0)
    assert (lane["lane"], lane["waiting"], lane["connections"], lane["seconds"]) == (LANE, 2, 20, 0.5)
    assert 200 < data["last"] - data["at"] <= 301, "when the next attempt is due"
    assert either.ask("queue", "list") == before, "nothing was disturbed"


def test_other_limits_and_shares(either: Server) -> None:
    data = either.ask("forecast", "--limit", "smtp:*=messages=1/h,connections=1", "--seconds", "10")
    (lane,) = data["lanes"]
    assert (lane["connections"], lane["messages"], lane["seconds"]) == (1, {"most": 1, "seconds": 3600}, 10.0)
    assert data["last"] - data["at"] > 3600
    assert either.ask("forecast", "--success", "0")["expired"] == 2


def test_in_words(either: Server) -> None:
    said = either.cli("forecast", "domain=far.test", "--limit", "smtp:*=messages=1/h")
    assert said.startswith("2 recipients wait, 0 are held\nthe last is settled in 1h")
    assert "2 are delivered" in said and "20 at a time, 1/h" in said and LANE in said
    assert "This rests on:" in said and "no new mail comes" in said
    held = either.cli("forecast", "domain=kept.test")
    assert held.startswith("0 recipients wait, 1 are held\n") and "1 remain held until they are released" in held
    assert either.cli("forecast", "domain=nobody.test") == "nothing is queued\n"


BAD = [
    (("--limit", "lmtp:*=messages=5/m"), "no lane in the queue fits 'lmtp:*'; there are mx:d0.example.org"),
    (("--limit", "smtp:*=messages=often"), "messages: not a rate; allowed: a number from 1 to 1000000 and a period"),
    (("--limit", "smtp:*=messages=0/m"), "messages: would let nobody in"),
    (("--limit", "smtp:*=connections=0"), "connections: too small; allowed: a whole number from 1"),
    (("--limit", "smtp:*"), "not read; allowed: LANES=connections=N"),
    (("--limit", "smtp:*=connections=1,pace=3"), "no limit is called 'pace'"),
    (("stat=held",), "column 1"),
    (("--success", "101"), "a percentage from 0 to 100 is wanted"),
    (("--seconds", "-1"), "a number of seconds from 0 to 86400 is wanted"),
    (("--most", "0"), "a whole number from 1 is wanted"),
]


def test_what_can_not_be_read(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.data.mkdir(mode=0o700)
    make(server.data / "spool-0.db", 100, 20)
    for words, text in BAD:
        assert text in server.cli("forecast", *words, status=2)


def test_nothing_is_queued(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.cli("forecast") == "nothing is queued\n"
    with server:
        assert server.cli("forecast") == "nothing is queued\n"
        assert server.ask("forecast")["waiting"] == 0


def test_limits_of_today_are_those_of_the_configuration(tmp_path: Path) -> None:
    limits = [{"match": "mx:d1.*", "messages": "5/m", "connections": 3}, {"match": "mx:*", "messages": "600/m"}]
    server = Server(tmp_path, settings={"lane": limits})
    server.data.mkdir(mode=0o700)
    make(server.data / "spool-0.db", 100, 2)
    data = server.ask("forecast", "--success", "100")
    found = {lane["lane"]: (lane["connections"], lane["messages"]["most"]) for lane in data["lanes"]}
    assert found == {"mx:d0.example.org": (20, 600), "mx:d1.example.org": (3, 5)}
    assert data["last"] - data["at"] == pytest.approx(600, rel=0.05)
    data = server.ask("forecast", "--success", "100", "--limit", "mx:d1.*=messages=off")
    assert data["last"] - data["at"] < 15


def test_a_long_queue_is_sampled_and_comes_to_the_same_each_time(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.data.mkdir(mode=0o700)
    make(server.data / "spool-0.db", 8000, 200)
    found = [
        json.loads(server.cli("forecast", "--json", "--success", "90", "--most", "2000", "--lanes", "300"))
        for _ in range(2)
    ]
    for data in found:
        assert data["waiting"] == data["queue"] == 8000 and data["sampled"] == 2000 and data["count"] == 200
        assert {lane["waiting"] for lane in data["lanes"]} == {40}
        assert data["delivered"] + data["expired"] == pytest.approx(8000, abs=2)
    first, again = ({key: data[key] for key in ("delivered", "expired", "failed", "timeline")} for data in found)
    assert first == again and 0.85 * 8000 < first["delivered"] < 0.95 * 8000
    assert "a sample: 2000 recipients stand for 8000 in the queue" in server.cli("forecast", "--most", "2000")
