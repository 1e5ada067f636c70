"""The life of a server: the drain behind SIGTERM, SIGHUP with good and bad configurations, what a restart finds."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.live.corpus import simple
from tests.live.ledger import Ledger, token_of
from tests.live.support import BOB, DOMAIN, HOST, Client, Server, arrived, letters, original, stuffed, until

AWAY = "x@host.away.test"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, settings={"retry": {"schedule": ["1s"]}}) as running:
        running.local(BOB)
        yield running


def _refused(port: int) -> bool:
    """Whether nobody takes connections there."""
    try:
        socket.create_connection((HOST, port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


# --- SIGTERM


_UNDER_WAY = {"small": 300, **{f"large-{number}": 4_000_000 for number in range(4)}}  # octets


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_drains(server: Server, number: signal.Signals) -> None:
    """421 to idle clients, no new ones, what is under way ends well, and then exit status 0."""
    texts = {token: simple(token, size) for token, size in _UNDER_WAY.items()}
    fresh, idle, begun = Client(server.port, hello=False), Client(server.port), Client(server.port)
    busy = {token: Client(server.port) for token in texts}
    for token, client in busy.items():
        client.envelope()
        client.write(stuffed(texts[token])[: len(texts[token]) // 2])
    assert begun.say(f"MAIL FROM:<alice@{DOMAIN}>").startswith("250 ")
    hopeless = Client(server.port)
    assert hopeless.say(f"MAIL FROM:<alice@{DOMAIN}>").startswith("250 ")
    assert hopeless.say(f"RCPT TO:<nobody@{DOMAIN}>").startswith("550 ")

    server.signal(number)
    for client in (fresh, idle, hopeless):
        assert client.reply().startswith("421 4.3.2")
        _ends(client)
    until(lambda: _refused(server.port), what="no new connections")
    for token, client in busy.items():
        client.write(stuffed(texts[token])[len(texts[token]) // 2 :])
        assert client.reply().startswith("250 2.0.0 queued as ")
        assert client.reply().startswith("421 4.3.2")
        _ends(client)
    assert begun.say(f"RCPT TO:<{BOB}>").startswith("250 ") and begun.say("DATA").startswith("354 ")
    begun.write(stuffed(simple("begun")))
    assert begun.reply().startswith("250 ")
    assert begun.reply().startswith("421 4.3.2")
    _ends(begun)
    server.ended()
    assert not (server.data / "control.sock").exists()

    server.start()
    server.drained()
    found = {token_of(letter): original(letter) for letter in arrived(server, len(texts) + 1)}
    texts["begun"] = simple("begun")
    assert found == {token: text.replace(b"\r\n", b"\n") for token, text in texts.items()}


def _ends(client: Client) -> None:
    assert client.closed()
    client.socket.close()


def test_a_stop_waits_no_longer_than_it_may(server: Server) -> None:
    server.configure(limits={"drain": "1s"})
    reloads = server.log.count("reload: done")
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count("reload: done") > reloads, what="reload")
    with Client(server.port) as slow:
        slow.envelope()
        slow.write(simple("never-ended", 300_000))
        until(lambda: server.bodies, what="spilled")
        begun = monotonic()
        server.signal(signal.SIGTERM)
        assert slow.reply().startswith("421 ")
        assert slow.closed()
        server.ended()
        assert 0.9 < monotonic() - begun < 10
    server.start()
    assert not server.bodies
    server.drained()
    assert not letters(server)


def test_a_stop_under_load_loses_nothing(server: Server) -> None:
    ledger = Ledger("stopped", server.port, 100_000).start()
    until(lambda: len(ledger.acknowledged) > 100, what="100 messages")
    server.stop()
    ledger.join()
    assert not ledger.refused
    server.start()
    server.drained()
    found = {token_of(letter): original(letter) for letter in letters(server)}
    assert set(found) == set(ledger.acknowledged), "a drain leaves nobody in doubt"
    for token, text in found.items():
        assert text == ledger.sent[token].replace(b"\r\n", b"\n")


def test_a_second_signal_changes_nothing(server: Server) -> None:
    with Client(server.port) as busy:
        busy.envelope()
        server.signal(signal.SIGTERM)
        until(lambda: "draining" in server.log, what="draining")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGHUP)
        busy.write(stuffed(simple("in-spite-of-it")))
        assert busy.reply().startswith("250 ")
    server.ended()


def test_the_command_line_waits_for_a_server_that_drains(server: Server) -> None:
    """The control socket is gone by then, the data still held: the verb gets its answer all the same."""
    server.signal(signal.SIGTERM)
    assert server.ask("queue", "count") == {"count": 0}
    server.ended()


# --- SIGHUP


def _reload(server: Server, said: str) -> None:
    seen = server.log.count(said)
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count(said) > seen, what=said)


def test_a_reload_takes_over_a_good_configuration(server: Server) -> None:
    listeners = server.settings["listener"]
    with Client(server.port) as before:
        server.configure(
            limits={"message_size": 5_000},
            listener=[*listeners, {"name": "second", "address": f"{HOST}:0"}],
            route=[{"match": DOMAIN, "next_hop": "discard"}],
        )
        _reload(server, "reload: done")
        ports = until(lambda: len(found := server.printed_ports()) == 2 and found, what="the new listener's line")
        assert isinstance(ports, dict) and ports["mx"] == server.port, "the old listener stays"
        for port in ports.values():
            with Client(port) as after:
                assert "SIZE 5000" in after.say("EHLO x.example")
                assert after.send(simple("discarded")).startswith("250 ")
        assert before.send(simple("by-the-old", 9_000)).startswith("250 "), "a session goes on as it began"
    server.drained()
    assert not letters(server)

    server.configure(listener=[{"name": "second", "address": f"{HOST}:0"}], route=[], limits={})
    _reload(server, "reload: done")
    assert _refused(server.port)
    with Client(ports["second"]) as left:
        assert left.send(simple("by-the-second")).startswith("250 ")
    arrived(server)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limits": {"recipient": 3}}, "limits.recipient"),
        ({"data": "elsewhere"}, "data can't be changed"),
        ({"listener": [{"name": "mx", "address": f"{HOST}:0"}, {"name": "x", "address": "192.0.2.1:0"}]}, "192.0.2.1"),
    ],
)
def test_a_reload_keeps_the_old_configuration_when_the_new_one_is_wrong(
    server: Server, settings: dict[str, object], words: str
) -> None:
    with Client(server.port) as session:
        server.configure(**settings)
        _reload(server, "the old configuration stays")
        assert words in server.log and '"level": "error"' in server.log
        assert session.send(simple("old-session")).startswith("250 ")
    with Client(server.port) as session:
        assert session.send(simple("new-session")).startswith("250 ")
    arrived(server, 2)


def test_a_reload_does_not_wait_for_the_sessions_of_a_listener_that_goes(server: Server) -> None:
    """They may take as long as they may at a stop; the new listener, and a stop, come at once."""
    with Client(server.port) as old:
        old.envelope()
        server.configure(listener=[{"name": "new", "address": f"{HOST}:0"}])
        server.signal(signal.SIGHUP)
        port = until(lambda: server.printed_ports().get("new"), 5, what="the new listener")
        assert port is not None
        with Client(port) as client:
            assert client.send(simple("by-the-new")).startswith("250 ")
        old.write(stuffed(simple("by-the-old")))
        assert old.reply().startswith("250 ")
    arrived(server, 2)


def test_a_reload_gives_deferred_mail_its_new_route(server: Server) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        route = {"match": "*.away.test", "next_hop": f"smtp://{HOST}:{taken.getsockname()[1]}"}
        server.configure(route=[route])
        _reload(server, "reload: done")
        server.cli("send", "--from", BOB, "--to", AWAY, text=b"Subject: x\n\n")
        until(lambda: server.call("queue_count", where="state=deferred")["count"] == 1)
    server.configure(route=[{"match": "*.away.test", "next_hop": "maildir"}])
    _reload(server, "reload: done")
    arrived(server, 1, AWAY)


# --- restarts


def test_a_restart_delivers_what_was_queued(tmp_path: Path) -> None:
    """To a next hop that was away: small and large ones, in one go when it is back."""
    texts = {f"queued-{number}-": simple(f"queued-{number}-", (300, 300_000)[number % 2]) for number in range(10)}
    with Server(tmp_path, "b") as last, Server(tmp_path, "a") as first:
        last.local(BOB)
        first.local(BOB)
        first.configure(route=[{"match": DOMAIN, "next_hop": f"smtp://{HOST}:{last.port}"}])
        _reload(first, "reload: done")
        last.stop()
        with Client(first.port) as client:
            for text in texts.values():
                assert client.send(text).startswith("250 ")
        waiting = "state=scheduled"  # after some faults in a row no more is tried for a while
        until(lambda: first.call("queue_count", where=waiting)["count"] == 10, what="all wait")
        first.stop()
        last.start()
        first.configure(route=[{"match": DOMAIN, "next_hop": f"smtp://{HOST}:{last.port}"}])
        first.start()
        assert first.call("queue_count", where=waiting)["count"] == 10, "the schedule holds over a restart"
        assert first.call("queue_order", action="retry", where="")["count"] == 10
        first.drained()
        found = {token_of(letter): original(letter, 2) for letter in arrived(last, 10)}
        assert found == {token: text.replace(b"\r\n", b"\n") for token, text in texts.items()}


def test_a_clean_stop_leaves_files_that_can_be_copied(server: Server) -> None:
    """Nothing of value is left in a write-ahead log: who copies the data of a stopped server copies all of it."""
    with Client(server.port) as client:
        assert client.send(simple("kept")).startswith("250 ")
    arrived(server)
    server.stop()
    left = {file.name: file.stat().st_size for file in server.data.glob("*-wal") if file.stat().st_size}
    assert not left, left
