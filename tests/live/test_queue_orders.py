"""The verbs that change the queue, through the command line: on a running server, and on the data at rest."""

from __future__ import annotations

import getpass
import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import BOB, HOST, PILLARBOX, Server, arrived, letters, until

FAR = ("x@far.test", "y@far.test", "z@other.test")
WHO = os.environ.get("SUDO_USER") if os.getuid() == 0 and "SUDO_USER" in os.environ else getpass.getuser()


@pytest.fixture(params=["running", "resting"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """With a message of bob's to each of FAR, which nobody takes: deferred."""
    routes = [{"match": match, "next_hop": f"smtp://{HOST}:1"} for match in ("far.test", "other.test")]
    with Server(tmp_path, settings={"route": routes}) as server:
        server.local(BOB)
        for address in FAR:
            text = b"Subject: to " + address.encode() + b"\n\nhi\n"
            server.call_with(text, "send", sender=BOB, recipients=[address])
        until(lambda: count(server, "state=deferred") == len(FAR), what="all deferred")
        if request.param == "resting":
            server.stop()
        yield server
        if not server.running:
            server.start()


def count(server: Server, *where: str) -> int:
    if server.running:
        return int(server.call("queue_count", where=" ".join(where))["count"])
    return int(server.ask("queue", "count", *where)["count"])


def told(server: Server, message: str) -> str:
    """Its story, on one line."""
    return " ".join(server.cli("why", message).split())


def states(server: Server) -> dict[str, str]:
    if server.running:
        rows = server.call("queue_list", where="state=any", limit=50)
    else:
        rows = server.ask("queue", "list", "state=any")
    return {row["address"]: row["state"] for row in rows if row["address"] in FAR}


def test_without_a_terminal_nothing_is_changed_unless_yes_is_said(either: Server) -> None:
    said = either.cli("queue", "drop", "domain=far.test", status=2)
    assert "queue drop: 2 recipients of 2 messages; nobody is there to be asked: say --yes to do it" in said
    assert set(states(either).values()) == {"deferred"}


def test_drop(either: Server) -> None:
    done = either.cli("queue", "drop", "--yes", "domain=far.test")
    assert done == "2 recipients have failed, and nobody is told\n"
    assert states(either) == {"x@far.test": "failed", "y@far.test": "failed", "z@other.test": "deferred"}
    (row,) = either.ask("queue", "list", "state=failed", "recipient=x@far.test")
    assert f"Changed by hand, by {WHO}: dropped by the operator of this server." in told(either, row["id"])
    assert "Its text is gone" in either.cli("show", row["id"])
    assert either.ask("queue", "drop", "--yes", "domain=far.test") == {"count": 0, "messages": 0, "standing": 0}
    assert letters(either) == []


def test_bounce(either: Server) -> None:
    words = ("--status", "5.1.1", "--text", "gone away", "recipient=x@far.test")
    assert either.ask("queue", "bounce", "--yes", *words) == {"count": 1, "messages": 1, "standing": 0}
    if not either.running:
        either.start()
    (letter,) = arrived(either, 1)
    assert b"Status: 5.1.1\n" in letter and b"gone away" in letter and b"Return-Path: <>\n" in letter
    assert states(either)["x@far.test"] == "failed"


def test_hold_and_release_and_reroute(either: Server) -> None:
    assert either.ask("queue", "hold", "--yes", "domain=far.test or domain=other.test")["count"] == 3
    assert set(states(either).values()) == {"held"} and count(either, "state=held") == 3
    if either.running:
        either.stop()
    either.start()
    assert either.ask("queue", "retry", "--yes")["count"] == 0
    assert either.ask("queue", "reroute", "--yes", "--next-hop", "discard", "domain=far.test")["count"] == 2
    (row, _) = either.ask("queue", "list", "domain=far.test")
    assert row["state"] == "held" and "held until it is released" in told(either, row["id"])
    either.kill()
    either.start()
    assert states(either)["x@far.test"] == "held", "through a crash, too"
    assert either.ask("queue", "release", "--yes", "domain=far.test")["count"] == 2
    until(lambda: states(either)["x@far.test"] == states(either)["y@far.test"] == "delivered", what="discarded")
    assert states(either)["z@other.test"] == "held"
    story = told(either, row["id"])
    for text in ("held until it is released", "to go by discard", "released"):
        assert f"Changed by hand, by {WHO}: {text}." in story


def test_a_predicate_that_is_none_shows_where(either: Server) -> None:
    said = either.cli("queue", "drop", "--yes", "domain=far.test and stat=held", status=2)
    assert said.splitlines()[1:] == [
        "pillarbox:   domain=far.test and stat=held",
        "pillarbox:                       ^ column 21",
    ]
    either.cli("queue", "drop", "--yes", 'reply="\'; DROP TABLE recipient; --"')
    assert set(states(either).values()) == {"deferred"}


def test_list_says_that_there_are_more(either: Server) -> None:
    run = subprocess.run(
        [str(PILLARBOX), "queue", "list", "--limit", "2", "--config", str(either.config)],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert len(run.stdout.splitlines()) == 2
    assert b"the oldest 2; there are more, see --limit and count" in run.stderr


def test_top_as_data(either: Server) -> None:
    top: dict[str, Any] = either.ask("queue", "top")
    (lane,) = top["lanes"]
    assert (top["running"], top["queued"], top["held"], top["count"]) == (either.running, 3, 0, 1)
    assert (lane["lane"], lane["queued"], lane["in_flight"]) == (f"smtp:{HOST}:1", 3, 0)
    assert "refused" in lane["reply"] and lane["oldest"] <= top["at"]
    assert json.loads(either.cli("queue", "top"))["queued"] == 3, "no terminal: JSON"


# --- on a terminal


class Terminal:
    """A verb on a pseudo-terminal."""

    def __init__(self, server: Server, *words: str) -> None:
        self.seen = b""
        self.main, side = pty.openpty()
        self.process = subprocess.Popen(
            [str(PILLARBOX), *words, "--config", str(server.config)],
            stdin=side,
            stdout=side,
            stderr=side,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "24"},
        )
        os.close(side)

    def until(self, text: bytes) -> None:
        def said() -> bool:
            if select.select([self.main], [], [], 0)[0]:
                self.seen += os.read(self.main, 65536)
            return text in self.seen

        until(said, what=f"{text!r} in {self.seen!r}")

    def ended(self) -> int:
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            os.close(self.main)


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", 1, 3), (b"\n", 1, 3), (b"y\n", 0, 1)])
def test_on_a_terminal_it_asks(either: Server, answer: bytes, status: int, left: int) -> None:
    terminal = Terminal(either, "queue", "drop", "domain=far.test")
    terminal.until(b"drop: 2 recipients of 2 messages. Do it? [y/N] ")
    os.write(terminal.main, answer)
    terminal.until(b"have failed, and nobody is told" if status == 0 else b"nothing was changed")
    assert terminal.ended() == status
    assert count(either) == left


def test_top_is_live_on_a_terminal(either: Server) -> None:
    terminal = Terminal(either, "queue", "top")
    terminal.until(b"smtp:127.0.0.1:1")
    if either.running:
        either.call("queue_order", action="drop")
        terminal.until(b"0 wait")
        terminal.process.send_signal(signal.SIGINT)
    else:
        terminal.until(b"no server runs on this data")
    assert terminal.ended() == 0
