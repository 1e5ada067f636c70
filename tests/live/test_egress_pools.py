"""Egress pools and routes by sender and header, on a real server, with next hops that note who calls."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.raw_sink import RawSink
from tests.live.support import BOB, HOST, Client, Server, arrived, until

TO = "x@far.test"
BULK = "news@shop.example"
LETTER = b"Subject: s\r\n\r\nhi\r\n"
CAMPAIGN = b"Subject: s\r\nX-Campaign: Spring\r\n 2026\r\n\r\nhi\r\n"
LATER = {b"RCPT": b"451 4.2.0 later\r\n"}


def pools(**weights: int) -> list[dict[str, Any]]:
    sources = [
        {"address": "127.0.0.2", "hostname": "two.out.test", "weight": weights.get("two", 1)},
        {"address": "127.0.0.3", "hostname": "three.out.test", "weight": weights.get("three", 1)},
    ]
    return [
        {"name": "bulk", "connections": 4, "source": sources},
        {"name": "own", "source": [{"address": "127.0.0.4"}, {"address": "::1", "hostname": "six.out.test"}]},
    ]


def routes(port: int) -> list[dict[str, Any]]:
    hop = f"smtp://{HOST}:{port}"
    return [
        {"header": "X-Campaign: spring ????", "next_hop": hop, "pool": "own", "class": "campaign"},
        {"sender": "shop.example", "next_hop": hop, "pool": "bulk", "class": "bulk"},
        {"match": "far.test", "next_hop": hop},
    ]


def settings(port: int) -> dict[str, Any]:
    return {"pool": pools(), "route": routes(port), "relay": {"networks": ["127.0.0.0/8"]}}


@pytest.fixture
def sink() -> Iterator[RawSink]:
    with RawSink() as sink:
        yield sink


def send(server: Server, sender: str = "alice@elsewhere.example", text: bytes = LETTER, *to: str) -> None:
    with Client(server.port) as client:
        assert client.send(text, to or (TO,), sender).startswith("250")


def lanes(server: Server) -> list[str]:
    return sorted(row["lane"] for row in server.ask("queue", "list", "state=any"))


def test_who_sends_what_decides_from_where_it_leaves(tmp_path: Path, sink: RawSink) -> None:
    with Server(tmp_path, settings=settings(sink.port)) as server:
        server.local(BOB)
        send(server)
        send(server, BULK)
        send(server, BULK, CAMPAIGN)
        send(server, BULK, CAMPAIGN, BOB)  # for somebody here
        server.drained()
        hop = f"smtp:{HOST}:{sink.port}"
        assert lanes(server) == sorted(
            ["maildir", hop, f"{hop};pool=bulk;class=bulk", f"{hop};pool=own;class=campaign"]
        )
        assert Counter(sink.callers) == {
            (HOST, "a.mx.test"): 1,
            ("127.0.0.2", "two.out.test"): 1,
            ("127.0.0.4", "a.mx.test"): 1,
        }
        assert len(arrived(server, 1)) == 1
        (row,) = [row for row in server.ask("queue", "list", "state=any") if "bulk" in row["lane"]]
        story = server.ask("why", row["id"])
        assert '"source": "127.0.0.2"' in json.dumps(story)


def test_it_is_the_same_after_a_restart_and_on_a_retry(tmp_path: Path) -> None:
    """Also of a large message, whose text is a file."""
    large = CAMPAIGN.replace(b"\r\n\r\n", b"\r\n\r\n" + b"z" * 70 + b"\r\n") + (b"y" * 70 + b"\r\n") * 5000
    with RawSink(LATER) as busy, Server(tmp_path, settings=settings(busy.port)) as server:
        for text in (LETTER, CAMPAIGN, large):
            send(server, "alice@elsewhere.example", text)
        send(server, BULK)
        until(lambda: server.call("queue_count", where="state=deferred")["count"] == 4, what="all deferred")
        before = Counter(lanes(server))
        server.stop()
        busy.says[b"RCPT"] = b"250 ok\r\n"
        seen = len(busy.connections)
        server.start()
        assert Counter(lanes(server)) == before
        server.ask("queue", "retry", "--yes", "state=deferred")
        server.drained()
        assert Counter(lanes(server)) == before
        assert {peer for peer, _ in busy.callers[seen:]} == {HOST, "127.0.0.4", "127.0.0.2"}
        assert len([letter for letter in busy.letters if letter.text]) == 4


def test_sent_by_the_command_line_with_and_without_a_server(tmp_path: Path, sink: RawSink) -> None:
    with Server(tmp_path, settings=settings(sink.port)) as server:
        words = ("send", "--from", "alice@elsewhere.example", "--to", TO)
        server.ask(*words, text=CAMPAIGN)
        server.stop()
        server.ask(*words, text=CAMPAIGN)
        server.start()
        server.drained()
        assert [peer for peer, _ in sink.callers] == ["127.0.0.4"] * 2


def test_weights_and_a_reload_that_drains(tmp_path: Path, sink: RawSink) -> None:
    sink.says[b"EHLO"] = b"250-sink.example\r\n250 LIMITS MAILMAX=1\r\n"  # each message has its connection
    with Server(tmp_path, settings={**settings(sink.port), "pool": pools(two=3)}) as server:
        for _ in range(8):
            send(server, BULK)
        server.drained()
        assert Counter(peer for peer, _ in sink.callers) == {"127.0.0.2": 6, "127.0.0.3": 2}
        sink.says[b"EHLO"] = b"250 sink.example\r\n"
        server.configure(pool=pools(two=0))
        server.signal(signal.SIGHUP)
        until(lambda: "reload: done" in server.log, what="reload")
        seen = len(sink.connections)
        for _ in range(4):
            send(server, BULK)
        server.drained()
        assert {peer for peer, _ in sink.callers[seen:]} == {"127.0.0.3"}


def test_an_address_that_this_machine_has_not_waits_and_says_so(tmp_path: Path, sink: RawSink) -> None:
    absent = [{"name": "bulk", "source": [{"address": "192.0.2.77"}]}, *pools()[1:]]
    with Server(tmp_path, settings={**settings(sink.port), "pool": absent}) as server:
        send(server, BULK)
        until(lambda: server.call("queue_count", where="state=deferred")["count"] == 1, what="deferred")
        (row,) = server.ask("queue", "list")
        assert "source address 192.0.2.77 is not on this machine" in row["reply"]
        server.ask("queue", "drop", "--yes", "state=deferred")


def test_ipv6(tmp_path: Path) -> None:
    with RawSink(host="::1") as sink:
        route = [{"match": "far.test", "next_hop": f"smtp://[::1]:{sink.port}", "pool": "own"}]
        with Server(tmp_path, settings={**settings(sink.port), "route": route}) as server:
            send(server)
            server.drained()
            assert sink.callers == [("::1", "six.out.test")]


def test_a_bound_on_a_pool_holds_over_its_lanes(tmp_path: Path) -> None:
    with RawSink() as one, RawSink() as two:
        narrow = [{"name": "p", "connections": 1, "source": [{"address": "127.0.0.2"}]}]
        ways = [
            {"match": f"{name}.test", "next_hop": f"smtp://{HOST}:{sink.port}", "pool": "p"}
            for name, sink in (("one", one), ("two", two))
        ]
        with Server(tmp_path, settings={**settings(0), "pool": narrow, "route": ways}) as server:
            with Client(server.port) as client:
                for number in range(20):
                    assert client.send(LETTER, (f"{number}@one.test", f"{number}@two.test")).startswith("250")
            server.drained()
            assert len(one.letters) == len(two.letters) == 20
            assert {peer for peer, _ in one.callers + two.callers} == {"127.0.0.2"}
