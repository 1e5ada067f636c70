r"""Conversations in plain files, `dialogs/*.smtp`, played in memory and over a socket.

A file is read line by line:

    # ...         a comment
    @ KEY VALUE   a setting, before the first line of the conversation: errors, message_size, recipients,
                  spool (full or broken), trusted (the client may relay)
    C: TEXT       the client sends a line, with CRLF
    C~ OCTETS     the client sends octets as Python writes them, with no CRLF of its own
    S: TEXT       the server's next line, to the letter
    S~ REGEX      the server's next line, as a regular expression
    A: NUMBER     so many messages have been accepted by now
    T: OCTETS     the text of the last of them, without our Received field, as Python writes it
    closed        the server has closed the channel

What the client sends between two lines of the server leaves in one write; no line of the server may be left over.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

import pytest

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.directory import Snapshot, User, parse_alias_address
from pillarbox.engine.ids import IdSource
from pillarbox.engine.mail import Leased, Message, Unit
from pillarbox.engine.ports import SpoolBroken, SpoolCallback, SpoolError, SpoolFull
from pillarbox.engine.session import Service
from pillarbox.net.listener import Bounds, Census, Connection, Listener
from pillarbox.sim.clock import VirtualClock

DIALOGS = sorted(Path(__file__).parent.joinpath("dialogs").glob("*.smtp"))
HOST = Domain.parse("mx.example.test")
ANYWHERE = (ip_network("0.0.0.0/0"),)
PATIENCE = 10.0  # seconds for a reply over the socket

DIRECTORY = Snapshot(
    domains=(Domain.parse("example.test"),),
    users=(User(Mailbox.parse("alice@example.test"), "Alice Liddell"), User(Mailbox.parse("bob@example.test"))),
    aliases={
        parse_alias_address("staff@example.test"): (
            Mailbox.parse("alice@example.test"),
            Mailbox.parse("bob@example.test"),
        ),
        parse_alias_address("round@example.test"): (Mailbox.parse("round@example.test"),),
    },
    hostname=HOST,
)

# --- the files

Kind = Literal["C", "S:", "S~", "A", "T", "closed"]


EXPECTATIONS: dict[str, Kind] = {"S:": "S:", "S~": "S~", "A:": "A", "T:": "T"}


@dataclass(frozen=True)
class Step:
    kind: Kind
    text: str
    octets: bytes
    line: int


@dataclass
class Dialog:
    settings: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def unescaped(text: str) -> bytes:
    """Octets as Python writes them."""
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def read(source: str) -> Dialog:
    dialog = Dialog()
    for number, line in enumerate(source.splitlines(), 1):
        sign, rest = line[:2], line[2:].removeprefix(" ")
        if not line or line.startswith("#"):
            continue
        if line == "closed":
            dialog.steps.append(Step("closed", "", b"", number))
        elif sign == "@ " and not dialog.steps:
            key, _, value = rest.partition(" ")
            dialog.settings[key] = value
        elif sign in ("C:", "C~"):
            octets = rest.encode("ascii") + b"\r\n" if sign == "C:" else unescaped(rest)
            if dialog.steps and dialog.steps[-1].kind == "C":
                octets = dialog.steps.pop().octets + octets
            dialog.steps.append(Step("C", "", octets, number))
        elif kind := EXPECTATIONS.get(sign):
            dialog.steps.append(Step(kind, rest, b"", number))
        else:
            raise ValueError(f"line {number}: {line!r}")
    return dialog


# --- the server they are played against


class FakeSpool:
    """Meets the port Spool as far as a listener asks it; `later` runs a callback once the call has returned."""

    def __init__(self, fault: str, later: Callable[[Callable[[], None]], object]) -> None:
        self.accepted: list[Message] = []
        self._later = later
        self._fault: SpoolError | None = {"full": SpoolFull("full"), "broken": SpoolBroken("EIO")}.get(fault)

    def accept(self, message: Message, done: SpoolCallback) -> None:
        if self._fault is None:
            self.accepted.append(message)
        self._later(lambda: done(self._fault))

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        raise NotImplementedError

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        self._later(lambda: done(self._fault))

    def unspill(self, message: MessageId) -> None:
        pass

    async def lease(self, now: float, limit: int) -> list[Leased]:
        raise NotImplementedError

    async def next_due(self) -> float | None:
        raise NotImplementedError

    def body(self, message: Message) -> AsyncIterator[bytes]:
        raise NotImplementedError


def make_listener(
    settings: dict[str, str], later: Callable[[Callable[[], None]], object]
) -> tuple[Listener, FakeSpool]:
    unknown = set(settings) - {"errors", "message_size", "recipients", "spool", "trusted"}
    assert not unknown, f"unknown settings: {unknown}"
    clock = VirtualClock()
    spool = FakeSpool(settings.get("spool", ""), later)
    service = Service(
        listener="mx",
        hostname=HOST,
        hostname_configured=True,
        message_size=int(settings.get("message_size", "100000")),
        recipients=int(settings.get("recipients", "1000")),
        errors=int(settings.get("errors", "20")),
        relay_networks=ANYWHERE if "trusted" in settings else (),
        directory=DIRECTORY,
        clock=clock,
        ids=IdSource(clock),
    )
    bounds = Bounds(connections=10, connections_per_address=10, idle=300.0)
    return Listener(service, bounds, spool=spool, accept=spool.accept, clock=clock, census=Census()), spool


def check_step(step: Step, line: bytes, spool: FakeSpool) -> None:
    """Everything but what is sent and `closed`."""
    text = line.decode("ascii")
    if step.kind == "S:":
        assert text == f"{step.text}\r\n", f"line {step.line}"
    elif step.kind == "S~":
        assert re.fullmatch(step.text, text.removesuffix("\r\n")), f"line {step.line}: {text!r}"
    elif step.kind == "A":
        assert len(spool.accepted) == int(step.text), f"line {step.line}"
    else:
        content = spool.accepted[-1].content
        assert content is not None
        _, _, own = content.partition(b";\r\n\t")
        assert own.partition(b"\r\n")[2] == unescaped(step.text), f"line {step.line}"


# --- in memory


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `ended` once no more can come."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.7", 12345)})
        self.written = bytearray()
        self.ended = False

    def write(self, data: Any) -> None:
        assert not self.ended, "written behind the end"
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def take_line(self) -> bytes:
        line, mark, rest = bytes(self.written).partition(b"\r\n")
        assert mark, f"no reply; left: {line!r}"
        self.written = bytearray(rest)
        return line + mark


def play_in_memory(dialog: Dialog, piece: int) -> None:
    """`piece`: how many octets come at a time."""
    waiting: list[Callable[[], None]] = []
    listener, spool = make_listener(dialog.settings, waiting.append)
    connection = Connection(listener)
    transport = FakeTransport()
    connection.connection_made(transport)
    for step in dialog.steps:
        if step.kind == "C":
            assert not transport.written, f"line {step.line}: not expected: {bytes(transport.written)!r}"
            for start in range(0, len(step.octets), piece):
                connection.data_received(step.octets[start : start + piece])
                while waiting:
                    waiting.pop(0)()
        elif step.kind == "closed":
            assert not transport.written
            assert transport.ended
        else:
            check_step(step, transport.take_line() if step.kind in ("S:", "S~") else b"", spool)
    assert not transport.written
    connection.eof_received()
    connection.connection_lost(None)
    assert not listener.connections


# --- over a socket


async def play_over_a_socket(dialog: Dialog) -> None:
    loop = asyncio.get_running_loop()
    listener, spool = make_listener(dialog.settings, loop.call_soon)
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind(("127.0.0.1", 0))
    await listener.listen(bound)
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    try:
        async with asyncio.timeout(PATIENCE):
            for step in dialog.steps:
                if step.kind == "C":
                    writer.write(step.octets)
                elif step.kind == "closed":
                    assert await reader.read() == b""
                else:
                    line = await reader.readline() if step.kind in ("S:", "S~") else b""
                    check_step(step, line, spool)
            if writer.can_write_eof():
                writer.write_eof()
            assert await reader.read() == b"", "lines left over"
    finally:
        writer.close()
        await listener.drain(0.0)


@pytest.mark.parametrize("piece", [1 << 20, 7, 1])
@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_in_memory(path: Path, piece: int) -> None:
    play_in_memory(read(path.read_text("utf-8")), piece)


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_over_a_socket(path: Path) -> None:
    asyncio.run(play_over_a_socket(read(path.read_text("utf-8"))))


# --- the player itself


def test_there_are_dialogs() -> None:
    assert len(DIALOGS) >= 20


@pytest.mark.parametrize(
    "source",
    [
        "S: 220 mx.example.test\n",
        "S: 220 mx.example.test ESMTP\nC: NOOP\nC: NOOP\nS: 250 2.0.0 OK\n",
        "S: 220 mx.example.test ESMTP\nC: NOOP\nS: 250 2.0.0 OK\nclosed\n",
        "S: 220 mx.example.test ESMTP\nC: NOOP\nS~ 250 OK\n",
        "S: 220 mx.example.test ESMTP\nA: 1\n",
        "@ bogus 1\nS: 220 mx.example.test ESMTP\n",
        "C: NOOP\nS: 250 2.0.0 OK\n",
    ],
)
def test_a_dialog_that_is_wrong_fails(source: str) -> None:
    with pytest.raises(AssertionError):
        play_in_memory(read(source), 1 << 20)


@pytest.mark.parametrize("source", ["X: y\n", "hello\n", "S: 220 x\n@ errors 3\n"])
def test_a_file_that_is_no_dialog(source: str) -> None:
    with pytest.raises(ValueError, match="line"):
        read(source)


def test_what_the_client_sends_leaves_in_one_write() -> None:
    assert [step.octets for step in read("C: a\nC~ b\\x00\nC:\nS: x\nC: c\n").steps] == [b"a\r\nb\0\r\n", b"", b"c\r\n"]
