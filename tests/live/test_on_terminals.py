"""SEND, SOML and SAML: `pillarbox watch` in a real terminal, and what becomes of a message with nobody there."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.support import HOST, PILLARBOX, Client, Server, arrived, letters, needs, until

ALICE, BOB = "alice@example.test", "bob@example.test"
TO_TERMINALS = ("SEND", "SOML", "SAML")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    commands = {f"commands.{verb}": "on" for verb in TO_TERMINALS}
    settings = {
        "listener": [{"name": "mx", "address": f"{HOST}:0", **commands}],
        "limits": {"terminal_messages": 1000},
        "relay": {"networks": ["127.0.0.0/8"]},
    }
    with Server(tmp_path, settings=settings) as started:
        started.local(ALICE, BOB)
        started.call("alias_add", address="both@example.test", targets=[ALICE, BOB, "away@else.example"])
        started.call("alias_add", address="away@example.test", targets=["away@else.example"])
        started.call("list_add", address="staff@example.test", members=[ALICE, BOB])
        yield started


Screen = Callable[[], str]


@contextmanager
def terminal(place: Path, command: list[str]) -> Iterator[Screen]:
    """A command in a terminal of its own, by tmux; gives what is on its screen."""
    tmux = [needs("tmux"), "-f", "/dev/null", "-S", str(place / "tmux.sock")]

    def run(*words: str) -> str:
        done = subprocess.run([*tmux, *words], capture_output=True, check=True, timeout=20, env=environment)
        return done.stdout.decode()

    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm"}
    run("new-session", "-d", "-x", "160", "-y", "50", f"{shlex.join(command)}; cat")
    try:
        yield lambda: run("capture-pane", "-p", "-J")
    finally:
        run("kill-server")


@contextmanager
def watching(server: Server, user: str) -> Iterator[Screen]:
    with terminal(server.place, [str(PILLARBOX), "watch", user, "--config", str(server.config)]) as screen:
        until(lambda: "watching alice@example.test" in screen(), what="it watches")
        yield screen


def say(server: Server, verb: str, recipient: str, text: str, sender: str = "carol@else.example") -> list[str]:
    """The replies to the opening, to RCPT and to the message, as far as it came."""
    with Client(server.port) as client:
        replies = [client.say(f"{verb} FROM:<{sender}>"), client.say(f"RCPT TO:<{recipient}>")]
        if replies[-1].startswith("250"):
            assert client.say("DATA").startswith("354")
            client.write(f"Subject: {text}\r\n\r\n{text} to the terminal\r\n.\r\n".encode())
            replies.append(client.reply())
    return replies


@pytest.mark.parametrize("name", ["alice", ALICE])
def test_somebody_watches(server: Server, name: str) -> None:
    with watching(server, name) as screen:
        for verb in TO_TERMINALS:
            assert say(server, verb, ALICE, f"hello by {verb}")[-1].startswith("250 2.0.0"), verb
            assert f"hello by {verb} to the terminal" in until(lambda: screen(), what="a screen")
        assert "carol@else.example" in screen()
    saml = arrived(server, 1, ALICE)
    assert b"hello by SAML" in saml[0]


def test_nobody_watches(server: Server) -> None:
    assert say(server, "SEND", ALICE, "lost")[-1].startswith("450 4.2.1")
    assert say(server, "SOML", ALICE, "kept by SOML")[-1].startswith("250 2.0.0 queued as ")
    assert say(server, "SAML", ALICE, "kept by SAML")[-1].startswith("250 2.0.0 queued as ")
    found = b"".join(arrived(server, 2, ALICE))
    assert b"kept by SOML" in found and b"kept by SAML" in found and b"lost" not in found
    assert server.call("queue_count", where="state=failed")["count"] == 0


def test_behind_aliases_and_lists(server: Server) -> None:
    """Users of this host are reached, also behind an alias or a list; nobody else is."""
    assert say(server, "SEND", "staff@example.test", "x")[-1].startswith("450 4.2.1")
    assert say(server, "SEND", "away@example.test", "x")[-1].startswith("550 5.3.3")
    assert say(server, "SEND", "away@else.example", "x")[-1].startswith("550 5.3.3")
    with watching(server, "alice") as screen:
        for address in ("staff@example.test", "both@example.test"):
            assert say(server, "SEND", address, f"for {address}")[-1].startswith("250 2.0.0 Shown")
            assert f"for {address} to the terminal" in screen()
        assert say(server, "SOML", "staff@example.test", "for staff")[-1].startswith("250 2.0.0 queued")
        assert "for staff to the terminal" in screen()
    assert not letters(server, ALICE)
    assert b"for staff" in arrived(server, 1, BOB)[0]


def test_a_terminal_that_goes_before_the_dot(server: Server) -> None:
    with Client(server.port) as client:
        with watching(server, "alice"):
            assert client.say("SEND FROM:<carol@else.example>").startswith("250")
            assert client.say(f"RCPT TO:<{ALICE}>").startswith("250")
            assert client.say("DATA").startswith("354")
        until(lambda: say(server, "SEND", ALICE, "x")[-1].startswith("450 4.2.1"), what="the terminal is gone")
        client.write(b"too late\r\n.\r\n")
        assert client.reply().startswith("450 4.2.1")
    assert not letters(server, ALICE)


def test_a_terminal_that_stands_still_holds_nobody_up(server: Server) -> None:
    """A watcher that is stopped: SEND gets 450 within the bound, SOML lands in the mailbox, others go on meanwhile."""
    command = [str(PILLARBOX), "watch", "alice", "--config", str(server.config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as watcher:
        try:
            assert watcher.stderr is not None and b"watching" in watcher.stderr.readline()
            watcher.send_signal(19)
            with Client(server.port) as client:
                assert client.say("SEND FROM:<carol@else.example>").startswith("250")
                assert client.say(f"RCPT TO:<{ALICE}>").startswith("250")
                assert client.say("DATA").startswith("354")
                client.write(b"nobody reads this\r\n.\r\n")
                with Client(server.port) as other:
                    assert other.send(b"Subject: other\r\n\r\n", (BOB,)).startswith("250")
                assert client.reply().startswith("450 4.2.1")
            assert say(server, "SOML", ALICE, "kept")[-1].startswith("250 2.0.0 queued")
            arrived(server, 1, ALICE)
        finally:
            watcher.send_signal(18)
            watcher.terminate()


def test_what_could_command_a_terminal_is_made_visible(server: Server) -> None:
    with watching(server, "alice") as screen:
        with Client(server.port) as client:
            client.say("SEND FROM:<carol@else.example>")
            client.say(f"RCPT TO:<{ALICE}>")
            client.say("DATA")
            client.write(b"Subject: \x1b]0;owned\x07\r\n\r\n\x1b[2J\x1b[31mred\x9b31m\x08\x08\r\n.\r\n")
            assert client.reply().startswith("250")
        shown = screen()
    assert "^[[2J^[[31mred" in shown and "^[]0;owned^G" in shown


def test_limits(server: Server) -> None:
    with watching(server, "alice"), Client(server.port) as client:
        assert client.say("SEND FROM:<c@else.example> SIZE=70000").startswith("552 5.3.4")
        client.say("SEND FROM:<c@else.example>")
        assert client.say("SAML FROM:<c@else.example>").startswith("503 5.5.1")
        client.say(f"RCPT TO:<{ALICE}>")
        client.say("DATA")
        client.write(b"x" * 70_000 + b"\r\n.\r\n")
        assert client.reply().startswith("552 5.3.4")
