"""The server's driver on real sockets: order, bounds, disconnects, deadlines. The test answers for the spool."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, TypeVar, cast

import pytest
import uvloop

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.ids import IdSource
from pillarbox.engine.mail import Message
from pillarbox.engine.ports import (
    Accepted,
    NoSuchUser,
    NotLocal,
    Resolution,
    SpoolBroken,
    SpoolCallback,
    SpoolError,
    SpoolFull,
)
from pillarbox.engine.service import Service
from pillarbox.engine.session import Session
from pillarbox.net.connection import INPUT_HELD, LINGER, OUTPUT_HELD, Connection
from pillarbox.net.listener import Bounds
from pillarbox.sim.clock import VirtualClock
from tests.making import BOUNDS, Nobody, NoSpool, make_listener, make_service, turns

IDLE = BOUNDS.idle
EHLO = b"EHLO client.example\r\n"
ENVELOPE = b"MAIL FROM:<from@far.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"
TEXT = b"Subject: x\r\n\r\nbody\r\n.\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"x" * 600_000 + b"\r\n.\r\n"


class Town(Nobody):
    """Meets the port Directory: alice is here; `bug` is an address that is more than it can bear."""

    def resolve(self, address: Mailbox) -> Resolution:
        local = str(address.local)
        if local == "bug":
            raise ZeroDivisionError
        if address.domain != Domain.parse("example.test"):
            return NotLocal()
        return Accepted((address,)) if local == "alice" else NoSuchUser()

    def is_local(self, domain: Domain) -> bool:
        return domain == Domain.parse("example.test")


class Desk(NoSpool):
    """Stands for the queue and the spool: `accepted` and `spilled` wait for the test's answer unless `prompt`."""

    def __init__(self) -> None:
        self.prompt = True
        self.fault: SpoolError | None = None
        self.open: list[SpoolCallback] = []
        self.asked = asyncio.Event()  # something was put in `open`
        self.messages: list[Message] = []
        self.spilled: dict[int, bytes] = {}
        self.dropped: list[int] = []

    def accept(self, message: Message, done: SpoolCallback) -> None:
        self.messages.append(message)
        self._ask(done)

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        self.spilled[message] = self.spilled.get(message, b"") + octets
        self._ask(done)

    def unspill(self, message: MessageId) -> None:
        self.dropped.append(message)
        del self.spilled[message]

    def _ask(self, done: SpoolCallback) -> None:
        if self.prompt:
            asyncio.get_running_loop().call_soon(done, self.fault)
        else:
            self.open.append(done)
            self.asked.set()

    def answer(self, error: SpoolError | None = None) -> None:
        self.open.pop(0)(error)

    async def until_asked(self) -> None:
        await self.asked.wait()
        self.asked.clear()

    async def body(self, message: Message) -> AsyncIterator[bytes]:
        if message.content is not None:
            yield message.content


class Client(asyncio.Protocol):
    """Takes what comes, chunk by chunk."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ended = False  # the server sends no more
        self.lost = asyncio.Event()
        self.error: Exception | None = None
        self._news = asyncio.Event()
        self._read = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self._news.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._news.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()
        self._news.set()

    def send(self, octets: bytes) -> None:
        self.transport.write(octets)

    @property
    def unread(self) -> bytes:
        return b"".join(self.chunks)[self._read :]

    async def replies(self, count: int = 1) -> list[str]:
        """So many further replies."""
        found: list[str] = []
        while len(found) < count:
            line, mark, _ = self.unread.partition(b"\r\n")
            if not mark:
                assert not (self.ended or self.lost.is_set()), f"the server ended after {found} {line!r}"
                self._news.clear()
                await self._news.wait()
                continue
            self._read += len(line) + 2
            if line[3:4] == b" ":
                found.append(line.decode())
        return found

    async def line(self) -> str:
        """The next line, a reply or not."""
        while b"\r\n" not in self.unread:
            assert not (self.ended or self.lost.is_set()), f"the server ended after {self.unread!r}"
            self._news.clear()
            await self._news.wait()
        line = self.unread.partition(b"\r\n")[0]
        self._read += len(line) + 2
        return line.decode()

    async def codes(self, count: int = 1) -> list[int]:
        return [int(reply[:3]) for reply in await self.replies(count)]

    async def rest(self) -> list[str]:
        """The lines up to the end of what the server sends."""
        while not (self.ended or self.lost.is_set()):
            self._news.clear()
            await self._news.wait()
        lines = self.unread.decode().split("\r\n")
        assert lines.pop() == ""
        self._read += len(self.unread)
        return lines

    def reset(self) -> None:
        """Go away without a word."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Place:
    """A listener with all that belongs to it."""

    def __init__(self, bounds: Bounds) -> None:
        self.clock = VirtualClock()
        self.desk = Desk()
        self.ids = IdSource(self.clock)
        self.listener = make_listener(self.service(), bounds, spool=self.desk, accept=self.desk.accept)
        self.clients: list[Client] = []
        self.port = 0

    def service(self, name: str = "mx") -> Service:
        return make_service(
            listener=name,
            recipients=10,
            errors=3,
            relay_networks=(ip_network("127.0.0.0/8"),),
            directory=Town(),
            clock=self.clock,
            ids=self.ids,
        )

    async def start(self) -> None:
        bound = socket.create_server(("127.0.0.1", 0))
        bound.setblocking(False)
        self.port = bound.getsockname()[1]
        await self.listener.listen(bound)

    async def connect(self, address: str = "127.0.0.1") -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, "127.0.0.1", self.port, local_addr=(address, 0))
        self.clients.append(client)
        return client

    async def greeted(self, *, ehlo: bool = True) -> Client:
        client = await self.connect()
        assert await client.replies() == ["220 mx.example.test ESMTP"]
        if ehlo:
            client.send(EHLO)
            assert await client.codes() == [250]
        return client

    async def sending(self, text: bytes = TEXT) -> Client:
        """A client whose message has come, and whose question is open."""
        self.desk.prompt = False
        client = await self.greeted()
        client.send(ENVELOPE)
        assert await client.codes(3) == [250, 250, 354]
        client.send(text)
        await self.desk.until_asked()
        return client

    @property
    def connection(self) -> Connection:
        (connection,) = self.listener.connections
        return connection

    async def until_alone(self, left: int = 0) -> None:
        """Until so many connections are left."""
        while len(self.listener.connections) > left:
            await turns(1)


P = TypeVar("P", bound=Place)
Main = Callable[[P], Coroutine[Any, Any, None]]


def run(main: Main[Place], bounds: Bounds = BOUNDS) -> None:
    run_at(lambda: Place(bounds), main)


def run_at(made: Callable[[], P], main: Main[P]) -> None:
    async def opened() -> None:
        async with asyncio.timeout(10):
            place = made()
            await place.start()
            try:
                await main(place)
            finally:
                for client in place.clients:
                    client.transport.abort()
                draining = asyncio.create_task(place.listener.drain(0))
                await turns(3)
                place.clock.advance(0)
                await draining
                await turns(3)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(opened())


# --- order


def test_a_message_is_taken() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(ENVELOPE + TEXT)
        assert await client.codes(3) == [250, 250, 354]
        (reply,) = await client.replies()
        (message,) = here.desk.messages
        assert reply == f"250 2.0.0 queued as {message.id}"
        assert (message.content or b"").endswith(b"Subject: x\r\n\r\nbody\r\n")
        assert (message.peer, message.listener, message.large) == ("127.0.0.1", "mx", False)
        client.send(b"QUIT\r\n")
        assert await client.codes() == [221]
        assert await client.rest() == []

    run(main)


def test_it_does_not_matter_how_octets_are_cut() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted(ehlo=False)
        for octet in EHLO + ENVELOPE + TEXT + b"QUIT\r\n":
            client.send(bytes([octet]))
            await turns(1)
        assert await client.codes(6) == [250, 250, 250, 354, 250, 221]

    run(main)


def test_replies_to_pipelined_commands_leave_in_one_write() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        before = len(client.chunks)
        client.send(b"NOOP\r\n" * 20 + ENVELOPE)
        assert await client.codes(23) == [250] * 22 + [354]
        assert len(client.chunks) == before + 1

    run(main)


def test_what_comes_during_a_commit_is_answered_behind_it_and_in_order() -> None:
    async def main(here: Place) -> None:
        client = await here.sending()
        before = len(client.chunks)
        client.send(b"NOOP\r\nVRFY x\r\nMAIL FROM:<>\r\nRCPT TO:<nobody@example.test>\r\nRSET\r\nBOO\r\n")
        await turns()
        assert client.unread == b""
        here.desk.answer()
        replies = await client.replies(7)
        assert replies[0].startswith("250 2.0.0 queued as ")
        assert [int(reply[:3]) for reply in replies[1:]] == [250, 252, 250, 550, 250, 500]
        assert len(client.chunks) == before + 1

    run(main)


def test_a_second_message_waits_for_the_first() -> None:
    async def main(here: Place) -> None:
        client = await here.sending(TEXT + ENVELOPE + TEXT + ENVELOPE)
        await turns()
        assert len(here.desk.messages) == 1
        here.desk.answer()
        await here.desk.until_asked()
        assert await client.codes(4) == [250, 250, 250, 354]
        assert len(here.desk.messages) == 2 and client.unread == b""
        here.desk.answer()
        assert await client.codes(4) == [250, 250, 250, 354]

    run(main)


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        (SpoolFull("/secret/path is full"), "452 4.3.1 Insufficient system storage"),
        (SpoolBroken("/secret/path"), "451 4.3.0 Message could not be stored, try again later"),
    ],
)
@pytest.mark.parametrize("text", [TEXT, LARGE], ids=["small", "large"])
def test_a_message_that_is_not_stored_is_refused_for_now(text: bytes, fault: SpoolError, reply: str) -> None:
    async def main(here: Place) -> None:
        here.desk.fault = fault
        client = await here.greeted()
        client.send(ENVELOPE + text)
        assert await client.codes(3) == [250, 250, 354]
        assert await client.replies() == [reply]
        here.desk.fault = None
        client.send(ENVELOPE + text)
        assert await client.codes(4) == [250, 250, 354, 250]

    run(main)


# --- bounds


def test_input_during_a_commit_is_bounded() -> None:
    async def main(here: Place) -> None:
        client = await here.sending()
        count = 3_000_000
        client.send(b"NOOP\r\n" * count)
        for _ in range(200):
            await turns(1)
        assert INPUT_HELD < len(here.connection._smtp.input) <= INPUT_HELD + 1024 * 1024
        assert client.transport.get_write_buffer_size() > 0
        here.desk.prompt = True
        here.desk.answer()
        assert await client.codes(100) == [250] * 100

    run(main)


def test_a_client_that_never_reads_is_bounded_and_cut_when_idle() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.transport.pause_reading()
        connection = here.connection
        largest = 0
        for _ in range(400):
            client.send(EHLO * 2000)
            await turns(1)
            largest = max(largest, connection._transport.get_write_buffer_size())
        assert connection._output_full and client.transport.get_write_buffer_size() > 0
        assert largest <= OUTPUT_HELD + 128 * 1024
        assert len(connection._smtp.input) <= 1024 * 1024
        here.clock.advance(IDLE + 5)
        await here.until_alone()

    run(main)


def test_a_client_that_reads_late_gets_all_its_replies() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.transport.pause_reading()
        client.send(b"HELP\r\n" * 30_000)
        connection = here.connection
        while not connection._output_full:
            await turns(1)
        client.transport.resume_reading()
        client.send(b"QUIT\r\n")
        lines = await client.rest()
        assert [line[:4] for line in lines[:4]] == ["214-", "214-", "214 ", "214-"]
        assert len(lines) == 90_001 and lines[-1].startswith("221 ")

    run(main)


REFUSAL = ["421 Too many connections, try again later"]


def test_there_are_no_more_connections_than_allowed() -> None:
    async def main(here: Place) -> None:
        first, _ = await here.greeted(), await here.greeted()
        refused = await here.connect()
        assert await refused.rest() == REFUSAL
        refused.transport.close()
        await here.until_alone(2)
        first.send(b"QUIT\r\n")
        await first.rest()
        first.transport.close()
        await here.until_alone(1)
        await here.greeted()

    run(main, replace(BOUNDS, connections=2))


# --- who goes away


def test_a_client_that_goes_during_the_commit_does_not_undo_it() -> None:
    async def main(here: Place) -> None:
        client = await here.sending(TEXT + b"NOOP\r\n")
        client.reset()
        await here.until_alone()
        here.desk.answer()
        assert len(here.desk.messages) == 1 and here.desk.dropped == []

    run(main)


@pytest.mark.parametrize("fault", [None, SpoolBroken("no disk")])
def test_a_client_that_goes_during_a_spill_leaves_nothing(fault: SpoolError | None) -> None:
    async def main(here: Place) -> None:
        client = await here.sending(LARGE[:150_000])
        client.reset()
        await here.until_alone()
        assert here.desk.dropped == []  # the disk is still at it
        here.desk.answer(fault)
        assert len(here.desk.dropped) == 1 and here.desk.spilled == {} and here.desk.messages == []

    run(main)


def test_a_client_that_goes_while_its_input_waits_leaves_nothing() -> None:
    async def main(here: Place) -> None:
        client = await here.sending(LARGE[:500_000])
        client.reset()
        await turns()
        while here.listener.connections or here.desk.open:
            if here.desk.open:
                here.desk.answer()
            await turns(1)
        assert len(here.desk.dropped) == 1 and here.desk.spilled == {} and here.desk.messages == []

    run(main)


def test_a_client_that_goes_between_spills_leaves_nothing() -> None:
    async def main(here: Place) -> None:
        client = await here.sending(LARGE[:300_000])
        here.desk.answer()
        await turns()
        while here.desk.open:
            here.desk.answer()
            await turns()
        client.reset()
        await here.until_alone()
        assert len(here.desk.dropped) == 1 and here.desk.spilled == {}

    run(main)


def test_a_client_that_goes_in_the_middle_of_a_small_message_leaves_nothing() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(ENVELOPE + TEXT[:10])
        assert await client.codes(3) == [250, 250, 354]
        client.transport.write_eof()
        assert await client.rest() == []
        await here.until_alone()
        assert here.desk.messages == [] and here.desk.dropped == []

    run(main)


@pytest.mark.parametrize("end", [b"QUIT\r\n", b""])
def test_a_client_that_has_said_all_and_only_listens_gets_all_replies(end: bytes) -> None:
    async def main(here: Place) -> None:
        client = await here.greeted(ehlo=False)
        client.send(EHLO + ENVELOPE + TEXT + b"NOOP\r\n" + end)
        client.transport.write_eof()
        lines = [line[:3] for line in await client.rest() if line[3] == " "]
        assert lines == ["250", "250", "250", "354", "250", "250", *(["221"] if end else [])]
        await here.until_alone()

    run(main)


def test_a_client_that_only_listens_during_a_commit_gets_its_reply() -> None:
    async def main(here: Place) -> None:
        client = await here.sending()
        client.transport.write_eof()
        await turns()
        assert not client.ended
        here.desk.answer()
        (line,) = await client.rest()
        assert line.startswith("250 2.0.0 queued as ")
        await here.until_alone()

    run(main)


# --- deadlines


def test_an_idle_client_is_told_421() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        here.clock.advance(IDLE - 10)
        client.send(b"NOOP\r\n")
        assert await client.codes() == [250]
        here.clock.advance(IDLE - 10)
        await turns()
        assert not client.ended
        here.clock.advance(15)
        assert await client.rest() == ["421 4.4.2 Idle for too long, closing transmission channel"]

    run(main)


def test_a_client_idle_in_a_message_is_told_421() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(ENVELOPE + TEXT[:10])
        assert await client.codes(3) == [250, 250, 354]
        here.clock.advance(IDLE + 5)
        assert [line[:9] for line in await client.rest()] == ["421 4.4.2"]
        client.send(TEXT[10:])
        await turns()
        assert here.desk.messages == []

    run(main)


def test_a_client_that_waits_for_us_is_not_idle() -> None:
    async def main(here: Place) -> None:
        client = await here.sending()
        here.clock.advance(2 * IDLE)
        await turns()
        here.desk.answer()
        assert await client.codes() == [250]
        here.clock.advance(IDLE - 10)
        await turns()
        assert not client.ended

    run(main)


# --- closing


def test_the_last_reply_arrives_though_much_was_sent_behind_it() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(b"QUIT\r\n" + b"x" * 4_000_000)
        assert await client.rest() == ["221 2.0.0 Bye"]
        client.transport.close()
        await here.until_alone()

    run(main)


def test_a_client_that_makes_too_many_errors_is_told_so() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(b"BOO\r\n" * 100_000)
        lines = await client.rest()
        assert [line[:3] for line in lines] == ["500", "500", "500", "421"]

    run(main)


def test_a_closed_connection_does_not_linger_for_ever() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(b"BOO\r\n" * 4)
        assert len(await client.rest()) == 4
        await turns()
        assert len(here.listener.connections) == 1
        here.clock.advance(LINGER + 10)
        await here.until_alone()

    run(main)


def test_what_comes_behind_the_end_is_not_looked_at() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(b"QUIT\r\n" + ENVELOPE + TEXT)
        assert await client.rest() == ["221 2.0.0 Bye"]
        assert here.desk.messages == []

    run(main)


def test_a_bug_is_421_for_its_client_and_for_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main(here: Place) -> None:
        other, client = await here.greeted(), await here.greeted()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<bug@example.test>\r\nDATA\r\n")
        assert await client.rest() == [
            "250 2.1.0 Sender accepted",
            "421 4.3.0 Internal error, closing transmission channel",
        ]
        other.send(ENVELOPE + TEXT)
        assert await other.codes(4) == [250, 250, 354, 250]

    run(main)
    assert "ZeroDivisionError" in caplog.text and "bug in a session with 127.0.0.1" in caplog.text


def test_a_bug_behind_a_commit_is_421(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(here: Place) -> None:
        client = await here.sending()

        def broken(session: Session, fault: SpoolError | None) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Session, "answer", broken)
        here.desk.answer()
        assert [line[:9] for line in await client.rest()] == ["421 4.3.0"]

    run(main)
    assert "ZeroDivisionError" in caplog.text


# --- draining


async def drain(here: Place, grace: float) -> asyncio.Task[None]:
    draining = asyncio.create_task(here.listener.drain(grace))
    await turns()
    return draining


CLOSING = "421 4.3.2 Service shutting down, closing transmission channel"


def test_a_drain_of_nothing_is_over_at_once() -> None:
    async def main(here: Place) -> None:
        await here.listener.drain(30)

    run(main)


def test_a_drain_tells_who_is_idle_and_lets_a_transaction_end() -> None:
    async def main(here: Place) -> None:
        idle, busy = await here.greeted(), await here.greeted()
        busy.send(ENVELOPE)
        assert await busy.codes(3) == [250, 250, 354]
        draining = await drain(here, 30)
        assert await idle.rest() == [CLOSING]
        idle.transport.close()
        with pytest.raises(OSError):
            await here.connect()
        here.clock.advance(29)
        busy.send(TEXT + b"NOOP\r\n")
        lines = await busy.rest()
        assert lines[0].startswith("250 2.0.0 queued as ") and lines[1:] == ["250 2.0.0 OK", CLOSING]
        busy.transport.close()
        await draining

    run(main)


def test_a_drain_waits_for_a_commit() -> None:
    async def main(here: Place) -> None:
        client = await here.sending()
        draining = await drain(here, 30)
        here.clock.advance(29)
        here.desk.answer()
        lines = await client.rest()
        assert lines[0].startswith("250 2.0.0 queued as ") and lines[1:] == [CLOSING]
        client.transport.close()
        await draining

    run(main)


def test_a_drain_ends_with_its_grace() -> None:
    async def main(here: Place) -> None:
        client = await here.greeted()
        client.send(ENVELOPE + TEXT[:10])
        assert await client.codes(3) == [250, 250, 354]
        draining = await drain(here, 30)
        here.clock.advance(31)
        await draining
        assert await client.rest() == [CLOSING]
        await here.until_alone()
        assert here.desk.messages == []

    run(main)


def test_an_answer_behind_the_grace_harms_nothing() -> None:
    async def main(here: Place) -> None:
        client = await here.sending()
        here.connection.abort()
        here.desk.answer()
        lines = await client.rest()
        assert lines == [CLOSING] or lines[0].startswith("250 ")

    run(main)


def test_a_new_service_is_for_new_connections() -> None:
    async def main(here: Place) -> None:
        old = await here.greeted()
        here.listener.service = here.service("other")
        new = await here.greeted()
        for client in (old, new):
            client.send(ENVELOPE + TEXT)
            assert await client.codes(4) == [250, 250, 354, 250]
        assert [message.listener for message in here.desk.messages] == ["mx", "other"]

    run(main)
