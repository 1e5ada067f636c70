"""What clients, operators and disks may do wrong: each gets the right reply or message, and nobody else is harmed.

After each of them another client, that does everything right, is served by the same server.
"""

from __future__ import annotations

import os
import select
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.live.corpus import simple
from tests.live.ledger import token_of
from tests.live.strace import Strace
from tests.live.support import (
    BOB,
    HOST,
    SENDER,
    Client,
    Server,
    arrived,
    letters,
    original,
    raise_descriptor_limit,
    stuffed,
    until,
)

IDLE = 2.0  # seconds
MOST = 1024 * 1024  # octets of a message
LARGE = 400_000  # octets: a body of that size becomes a file
GROWTH = 16 * 1024  # KiB of memory that one bad client may cost, at most
IDLE_CLIENTS = [pytest.param(1_000, id="1000"), pytest.param(5_000, id="5000", marks=pytest.mark.matrix)]
LIMITS = {
    "idle": f"{IDLE:.0f}s",
    "message_size": MOST,
    "connections": 20_000,
    "connections_per_address": 20_000,
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    raise_descriptor_limit()
    with Server(tmp_path_factory.mktemp("bad"), settings={"limits": LIMITS}) as running:
        running.local(BOB)
        yield running


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The shared one; behind each test a well-behaved client is served, and nothing is left of the bad one."""
    yield shared
    shared.drained()
    before = len(letters(shared))
    with Client(shared.port) as client:
        token = f"behind-{before}"
        assert client.send(simple(token)).startswith("250 2.0.0 queued as ")
        assert client.say("QUIT").startswith("221") and client.closed()
    assert token in {token_of(letter) for letter in arrived(shared, before + 1)}
    until(lambda: not shared.bodies, what="no body is left over")
    assert "Traceback" not in shared.log, shared.log


# --- commands


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"NOOP " + b"x" * 600, "500 5.5.2"),
        (b"x" * 5_000, "500 5.5.2"),
        (b"EHLO " + b"a" * 510, "500 "),
        (b"MAIL FROM:<" + b"a" * 1400 + b"@x.example>", "500 5.5.2"),
        (b"RCPT TO:<" + b"a" * 1200 + b"@x.example>", "500 5.5.2"),
        (b"\xff\xfe\xfd", "500 5.5.2"),
        (b"NO\xc3\xb6P", "500 5.5.2"),
        (b"MAIL FROM:<\xc3\xbc@x.example>", "553 5.6.7"),
        (b"NOOP \0", "500 5.5.2"),
        (b"NO\0OP", "500 5.5.2"),
        (b"MAIL FROM:<a\0b@x.example>", "500 5.5.2"),
        (b"NOOP\n", "500 5.5.2"),
        (b"NOOP\r", "500 5.5.2"),
        (b"MAIL FROM:alice@x.example", "501 5.1.7"),
        (b"MAIL FROM: alice@x.example", "501 5.1.7"),
        (b"MAIL FROM:<alice@x.example", "501 5.1.7"),
        (b"MAIL FROM:alice@x.example>", "501 5.1.7"),
        (b"MAIL alice@x.example", "501 5.1.7"),
        (b"MAIL", "501 5."),
        (b"MAIL FROM:", "501 5.1.7"),
    ],
)
def test_a_bad_command_is_refused_and_the_session_goes_on(server: Server, line: bytes, reply: str) -> None:
    with Client(server.port) as client:
        assert client.say(line).startswith(reply)
        assert client.send(simple("after-a-bad-command")).startswith("250 ")


@pytest.mark.parametrize("octet", [b"\0", b"\n", b"\r"], ids=["NUL", "LF", "CR"])
def test_a_bare_octet_in_a_second_command_ends_the_session(server: Server, octet: bytes) -> None:
    with Client(server.port) as client:
        client.write(b"NOOP x%sx\r\nNOOP x%sx\r\nNOOP\r\n" % (octet, octet))
        assert client.reply().startswith("500 5.5.2")
        assert client.reply().startswith("421 4.7.0")
        assert client.closed()


def test_a_line_without_end_ends_the_session(server: Server) -> None:
    before = server.memory()
    with Client(server.port) as client:
        for _ in range(20):
            client.write(b"x" * 65_536)
        assert client.reply().startswith("421 ")
        assert client.closed()
    assert server.memory() - before < GROWTH


def test_twenty_errors_are_enough(server: Server) -> None:
    with Client(server.port) as client:
        for _ in range(20):
            assert client.say("WHAT").startswith("500 ")
        assert client.say("WHAT").startswith("421 4.7.0")
        assert client.closed()


# --- clients that stop, do not read, or go


def test_a_client_that_stops_in_the_middle_of_its_message(server: Server) -> None:
    """At any octet: after some time it is told 421 and nothing is kept."""
    wire = stuffed(b"Subject: stopped\r\n\r\nline\r\n..dots\r\n.\r\nend\r\n")
    large = stuffed(simple("stopped-large", LARGE))
    cuts = [wire[:cut] for cut in range(len(wire))] + [large[:cut] for cut in (130_000, 300_000, len(large) - 1)]
    before = len(letters(server))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in cuts]
        for client, octets in zip(clients, cuts, strict=True):
            client.envelope()
            client.write(octets)
        for client in clients:
            assert client.reply().startswith("421 4.4.2")
            assert client.closed()
    until(lambda: not server.bodies, what="what was spilled is gone")
    server.drained()
    assert len(letters(server)) == before


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_in_the_middle_of_its_message(server: Server, how: str) -> None:
    before = len(letters(server))
    for size in (100, 100_000, LARGE):
        wire = stuffed(simple("gone", size))
        for cut in (0, 1, 50, len(wire) - 5, len(wire) - 3, len(wire) - 1):
            with Client(server.port) as client:
                client.envelope()
                client.write(wire[:cut])
                if how == "reset":
                    client.reset()
    until(lambda: not server.bodies, what="what was spilled is gone")
    server.drained()
    assert len(letters(server)) == before


@pytest.mark.parametrize("command", [b"NOOP\r\n", b"HELP\r\n", b"EHLO x.example\r\n"])
def test_a_client_that_never_reads(server: Server, command: bytes) -> None:
    before = server.memory()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0.5)
        deaf.connect((HOST, server.port))
        with pytest.raises((TimeoutError, ConnectionError)):
            for _ in range(1_000):
                deaf.sendall(command * 2_000)
        with Client(server.port) as other:
            assert other.say("NOOP").startswith("250")
        assert server.memory() - before < GROWTH, "what it does not read is not kept"
        poll = select.poll()
        poll.register(deaf, select.POLLHUP | select.POLLERR)
        assert poll.poll(1000 * IDLE * 5), "it is cut off in the end"


@pytest.mark.parametrize("count", IDLE_CLIENTS)
def test_many_idle_clients(server: Server, count: int) -> None:
    if raise_descriptor_limit() < count + 200:
        pytest.skip(f"LOUD: the limit of descriptors allows no {count} clients")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port, hello=False)) for _ in range(count)]
        with Client(server.port) as other:
            assert other.send(simple("among-many")).startswith("250 ")
        for client in clients:
            assert client.reply().startswith("421 4.4.2")
            assert client.closed()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_while_its_message_is_committed(server: Server, tmp_path: Path, how: str) -> None:
    """It can't know what became of it: each message arrives once and whole, or not at all."""
    messages = {f"commit-{how}-{number}-": (400, 60_000, LARGE)[number % 3] for number in range(9)}
    before = len(letters(server))
    slow = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=200000")  # µs
    with Strace(server.pid, tmp_path / "trace", *slow) as trace:
        for token, size in messages.items():
            syncs = trace.file.read_bytes().count(b"fdatasync")
            client = Client(server.port)
            client.envelope()
            client.write(stuffed(simple(token, size)))
            until(lambda seen=syncs: trace.file.read_bytes().count(b"fdatasync") > seen)  # type: ignore[misc]
            client.reset() if how == "reset" else client.socket.close()
    server.drained()
    found = [letter for letter in letters(server)[before:] if f"commit-{how}" in token_of(letter)]
    tokens = [token_of(letter) for letter in found]
    assert len(set(tokens)) == len(tokens) and set(tokens) <= set(messages)
    for letter in found:
        assert original(letter) == simple(token_of(letter), messages[token_of(letter)]).replace(b"\r\n", b"\n")


# --- messages


def test_a_message_over_the_limit(server: Server) -> None:
    before = len(letters(server))
    with Client(server.port) as client:
        assert client.say(f"MAIL FROM:<{SENDER}> SIZE={MOST + 1}").startswith("552 5.3.4")
        assert client.send(simple("too-big", MOST + 5_000)).startswith("552 5.3.4")
        assert client.send(simple("just-right", MOST - 5_000)).startswith("250 ")
        assert client.say(f"MAIL FROM:<{SENDER}> SIZE={MOST}").startswith("250 ")
    found = arrived(server, before + 1)
    assert "too-big" not in {token_of(letter) for letter in found}


def test_an_endless_message_costs_no_memory_and_no_disk(server: Server) -> None:
    before = server.memory()
    with Client(server.port) as client:
        client.envelope()
        client.write(simple("endless"))
        chunk = b"x" * 65_534 + b"\r\n"
        for _ in range(64 * MOST // len(chunk)):
            client.write(chunk)
        assert sum((server.data / "bodies-0" / name).stat().st_size for name in server.bodies) <= MOST + 65_536
        client.write(b".\r\n")
        assert client.reply().startswith("552 5.3.4")
    assert server.memory() - before < GROWTH


@pytest.mark.parametrize("octets", [b"a\0b", b"a\nb", b"a\rb", b"\n.\r\n", b"\r\n.\n", b"\n.\nMAIL FROM:<x@y.example>"])
@pytest.mark.parametrize("size", [200, LARGE])
def test_a_bare_octet_in_a_message(server: Server, octets: bytes, size: int) -> None:
    """It is read up to its true end, refused, and the connection is closed: nothing of it was taken for a command."""
    before = len(letters(server))
    with Client(server.port) as client:
        client.envelope()
        client.write(simple("bare", size) + octets + b"\r\nrest\r\n.\r\nQUIT\r\n")
        assert client.reply().startswith("554 5.6.0")
        assert client.closed()
    server.drained()
    assert len(letters(server)) == before


# --- what an operator does wrong


@pytest.fixture
def stopped(tmp_path: Path) -> Server:
    """Has data, and does not run."""
    with Server(tmp_path) as server:
        server.local(BOB)
    return server


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('hostnam = "x.example"\n', ["hostnam", "hostname", ":1"]),
        ("[limits]\nrecipient = 5\n", ["limits.recipient", "recipients", ":2"]),
        ('[limits]\nrecipients = "many"\n', ["limits.recipients", '"many"', ":2"]),
        ("[[listener]]\naddress = 25\n", ["listener", "address", ":2"]),
        ('[limits]\nidle = "1 fortnight"\n', ["limits.idle", "5m", ":2"]),
        ("limits = 3\n", ["limits"]),
        ("[limits\n", [":1"]),
        ('[[route]]\nmatch = "*"\nnext_hop = "smtp:/x"\n', ["route", "next_hop", ":3"]),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, words: list[str]) -> None:
    server = Server(tmp_path)
    server.config.write_text(text)
    said = server.cli("serve", status=1)
    assert all(word in said for word in [*words, server.config.name]), said
    assert "Traceback" not in said and not server.data.exists(), "nothing was started"


def test_no_configuration_where_one_was_named(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.config.unlink()
    assert server.config.name in server.cli("serve", status=1)


def test_a_port_in_use(stopped: Server) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        address = f"{HOST}:{taken.getsockname()[1]}"
        stopped.configure(listener=[{"name": "other", "address": f"{HOST}:0"}, {"name": "mine", "address": address}])
        said = stopped.cli("serve", status=1)
    assert "mine" in said and address in said and "in use" in said


@pytest.mark.parametrize("name", ["spool-0.db", "directory.db"])
def test_data_of_another_version(stopped: Server, name: str) -> None:
    version = _user_version(stopped.data / name, 99)
    for verb in ("serve", "queue"):
        said = stopped.cli(verb, status=1)
        assert name in said and "99" in said and "version" in said and "Traceback" not in said, said
    assert _user_version(stopped.data / name, version) == 99, "it was left as it is"
    with stopped, Client(stopped.port) as client:
        assert client.send(simple("as-before")).startswith("250 ")


def _user_version(file: Path, version: int) -> int:
    """Set it; gives what it was."""
    with closing(sqlite3.connect(file)) as connection:
        (before,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    return int(before)


@pytest.mark.parametrize("name", ["spool-0.db", "directory.db"])
def test_data_that_is_no_database(stopped: Server, name: str) -> None:
    for suffix in ("-wal", "-shm"):
        (stopped.data / f"{name}{suffix}").unlink(missing_ok=True)
    (stopped.data / name).write_bytes(b"no database at all, but long enough to be looked at\n" * 100)
    said = stopped.cli("serve", status=1)
    assert "not a database" in said and "Traceback" not in said, said


def test_a_second_server_on_the_same_data(server: Server, tmp_path: Path) -> None:
    second = Server(tmp_path, "second")
    second.configure(data=str(server.data))
    said = second.cli("serve", status=1)
    assert str(server.pid) in said and str(server.data) in said, said


def test_a_data_directory_that_can_not_be_made(tmp_path: Path) -> None:
    server = Server(tmp_path)
    (tmp_path / "file").write_text("in the way")
    server.configure(data=str(tmp_path / "file" / "data"))
    assert str(tmp_path / "file") in server.cli("serve", status=1)
    assert os.listdir(tmp_path).count("a-data") == 0
