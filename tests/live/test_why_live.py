"""`why` asked of a real server: by every kind of word, for mail that was relayed and for what was refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.support import BOB, HOST, Client, Server, arrived, until

TEXT = b"Message-ID: <lunch@elsewhere.example>\r\nSubject: Lunch\r\n\r\nShall we?\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, "target") as server:
        server.local(BOB)
        yield server


def story(server: Server, *words: str) -> str:
    """On one line."""
    return " ".join(server.cli("why", *words).split())


def session(reply: str) -> str:
    return reply.rpartition("(")[2].rstrip(")\r\n")


def test_what_was_relayed_is_found_at_both_ends(server: Server, tmp_path: Path) -> None:
    """By the queue id of the other server at ours, and by the Message-ID and the recipient at either."""
    route = {"match": "*", "next_hop": f"smtp://{HOST}:{server.port}"}
    with Server(tmp_path, "source", settings={"route": [route]}) as source:
        sent = source.ask("send", "--from", "alice@elsewhere.example", "--to", BOB, text=TEXT)["id"]
        arrived(server)
        there = server.ask("why", "lunch@elsewhere.example")["message"]["id"]
        until(lambda: "Delivered to" in story(source, sent), what="the record of it is written")
        for word in (sent, BOB, "<lunch@elsewhere.example>", there):
            assert source.ask("why", word, *(["--since", "1h"] if word == BOB else []))["message"]["id"] == sent
        assert f"queued as {there}" in story(source, sent) and "over TLS" not in story(source, sent)


def test_who_was_refused_can_quote_the_id(server: Server) -> None:
    with Client(server.port) as client:
        assert client.say("MAIL FROM:<news@shop.example>").startswith("250")
        reply = client.say("RCPT TO:<nobody@example.test>")
        assert reply.startswith("550 5.1.1 No such user here (S-")
    told = until(lambda: _found(server, session(reply)), what="it is written within a second or so")
    assert "Refused RCPT TO:<nobody@example.test> (from <news@shop.example>): 550 5.1.1 No such user here" in told
    assert "no user, alias or list has that name" in told
    assert server.ask("why", "nobody@example.test")["session"]["id"] == session(reply)
    server.kill()
    server.start()
    assert _found(server, session(reply)) == told, "through a crash, too"


def _found(server: Server, word: str) -> str:
    try:
        return story(server, word)
    except AssertionError:
        return ""


@pytest.mark.parametrize("word", ["' OR 1=1 --", "x" * 400, "S-000000000000", "nobody@nowhere.example"])
def test_a_word_that_leads_nowhere_says_so(server: Server, word: str) -> None:
    assert "nothing is known of" in server.cli("why", word, status=1)


@pytest.mark.parametrize("words", [["bob@*"], ["x" * 10_000], [BOB, "--since", "soon"], [BOB, "--around", "25:00"]])
def test_wrong_usage_is_said_to_be_that(server: Server, words: list[str]) -> None:
    assert server.cli("why", *words, status=2)
