"""A queue, a router and an SmtpMailer against an imagined remote that does one odd thing; no sockets, a virtual clock.

The remote is naive: it accepts whatever it is not told to treat otherwise, and goes on after its oddity as if nothing
had been. A step has the name of the command that it answers; RCPT and the replies of LMTP to the end are numbered.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pillarbox.core.envelope import MessageId
from pillarbox.engine.lanes import Lane
from pillarbox.engine.mail import Message, Octets, State
from pillarbox.engine.ports import IpAddress, Network
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.routing import Mx, Route, SmartHost, TlsPolicy
from pillarbox.net.pool import SmtpMailer, Ways
from pillarbox.net.timeouts import Deadlines
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from pillarbox.smtp.sasl import Credentials
from tests.making import HOSTNAME, TEXT, MemorySpool, Nobody, make_message, make_queue, turns
from tests.unit.test_sender import in_order

HOST = "127.0.0.1"  # so that a password may be said in clear
HIGH_WATER = 64 * 1024
USUAL = {"greeting": "220 mx", "STARTTLS": "220 Go", "AUTH": "235 Ok", "DATA": "354 Go", "QUIT": "221 Bye"}
SETTLED = {Kind.DELIVERED, Kind.DEFERRED, Kind.AMBIGUOUS, Kind.FAILED, Kind.EXPIRED}

Oddity = Callable[["Talk", bytes], None]  # with the octets that the reply would usually be


class Pipe(asyncio.Transport):
    """Our side of a connection in memory."""

    def __init__(self, protocol: asyncio.Protocol, remote: Remote) -> None:
        super().__init__()
        self.protocol = protocol
        self.talk = Talk(self, remote)
        self._is_closing = False
        self._unread = 0
        self.reads = True  # the remote takes what is written

    def write(self, data: Any) -> None:
        if self._is_closing:
            return
        if self.reads:
            asyncio.get_running_loop().call_soon(self.talk.receive, bytes(data))
        else:
            self._unread += len(data)
            if self._unread > HIGH_WATER:
                self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._unread

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self.lose(None)

    def abort(self) -> None:
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        self._unread = 0
        self.protocol.connection_lost(error)

    def hear(self, octets: bytes) -> None:
        if not self._is_closing:
            self.protocol.data_received(octets)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (HOST, 25) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol


class Talk:
    """The remote's side."""

    def __init__(self, pipe: Pipe, remote: Remote) -> None:
        self.pipe = pipe
        self.remote = remote
        self.is_mute = False
        self._in_data = False
        self._chunk: int | None = None  # octets of a BDAT that is coming in
        self._octets = b""
        self._rcpts = 0
        self._accepted = 0

    # --- what an oddity does

    def say(self, octets: bytes) -> None:
        """In one segment."""
        asyncio.get_running_loop().call_soon(self._say, octets)

    def _say(self, octets: bytes) -> None:
        if (left := self.remote.cut_at) is not None:
            octets, self.remote.cut_at = octets[:left], left - len(octets[:left])
        self.remote.said += octets
        self.pipe.hear(octets)
        if self.remote.cut_at == 0:
            self.pipe.lose(None)

    def close(self, error: Exception | None = None) -> None:
        self.is_mute = True
        asyncio.get_running_loop().call_soon(self.pipe.lose, error)

    # ---

    def greet(self) -> None:
        self._reply("greeting")

    def receive(self, octets: bytes) -> None:
        self._octets += octets
        while not self.is_mute and self._take():
            pass

    def _take(self) -> bool:
        if self._chunk is not None:
            return self._take_chunk(self._chunk)
        return self._take_text() if self._in_data else self._take_command()

    def _take_chunk(self, size: int) -> bool:
        if len(self._octets) < size:
            return False
        self.remote.texts.append(self._octets[:size])
        self._octets, self._chunk = self._octets[size:], None
        self._reply("end")
        return True

    def _take_text(self) -> bool:
        text, mark, rest = (b"\r\n" + self._octets).partition(b"\r\n.\r\n")
        if not mark:
            return False
        self._in_data, self._octets = False, rest
        self.remote.texts.append(text[2:] + b"\r\n" if len(text) > 2 else b"")
        if self.remote.lmtp:
            for number in range(1, self._accepted + 1):
                self._reply(f"end {number}")
        else:
            self._reply("end")
        self._rcpts = self._accepted = 0
        return True

    def _take_command(self) -> bool:
        line, mark, rest = self._octets.partition(b"\r\n")
        if not mark:
            return False
        self._octets = rest
        word = line.partition(b" ")[0].decode("latin-1").upper()
        self.remote.commands.append(line.decode("latin-1"))
        if word == "BDAT":
            self._chunk = int(line.split()[1])
            return True
        if word == "MAIL" or word == "RSET":
            self._rcpts = self._accepted = 0
        if word == "RCPT":
            self._rcpts += 1
            word = f"RCPT {self._rcpts}"
        self._reply(word)
        if word == "QUIT":
            self.close()
        return True

    def _reply(self, step: str) -> None:
        if self.is_mute:
            return
        remote = self.remote
        usual = remote.answers.get(step) or USUAL.get(step, "250 Ok")
        octets = remote.hello() if step in ("EHLO", "LHLO") and usual[0] == "2" else f"{usual}\r\n".encode()
        if step in remote.at_first:
            octets = f"{remote.at_first.pop(step)}\r\n".encode()
        if step.startswith("RCPT"):
            self._accepted += octets[:1] == b"2"
        oddity = remote.oddities.get(step)
        if oddity is None:
            self._in_data = step == "DATA" and octets[:1] == b"3"
            self.say(octets)
            return
        if step == remote.body_step:
            self.say(octets)
            self.pipe.reads = False
            octets = b""
        remote.played += 1
        oddity(self, octets)

    def invite(self) -> None:
        """An oddity that says a 354 all the same."""
        self._in_data = True


class Remote:
    """Meets the port Network: whoever connects comes to this host."""

    def __init__(
        self,
        clock: VirtualClock,
        *,
        keywords: tuple[str, ...] = (),
        oddities: Mapping[str, Oddity] | None = None,
        answers: Mapping[str, str] | None = None,
        lmtp: bool = False,
        at_first: Mapping[str, str] | None = None,
    ) -> None:
        self.clock = clock
        self.keywords = keywords
        self.oddities = dict(oddities or {})
        self.answers = dict(answers or {})
        self.lmtp = lmtp
        self.at_first = dict(at_first or {})  # answers that are given once
        self.body_step = ""  # the step behind which the remote stops reading
        self.cut_at: int | None = None  # octets after which the connection is closed
        self.connects: Callable[[float], Exception | None] = lambda seconds: None
        self.commands: list[str] = []
        self.texts: list[bytes] = []
        self.said = b""
        self.played = 0  # oddities
        self.pipes: list[Pipe] = []

    def hello(self) -> bytes:
        return "".join(f"250-{each}\r\n" for each in ("mx", *self.keywords)).encode() + b"250 HELP\r\n"

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        seconds: float,
        source: IpAddress | None = None,
    ) -> None:
        if (error := self.connects(seconds)) is not None:
            if isinstance(error, TimeoutError):
                late = asyncio.Event()
                self.clock.call_later(seconds, late.set)
                await late.wait()
            raise error
        protocol = factory()
        pipe = Pipe(protocol, self)
        self.pipes.append(pipe)
        protocol.connection_made(pipe)
        pipe.talk.greet()

    async def connect_unix(self, factory: Callable[[], asyncio.Protocol], path: str, *, seconds: float) -> None:
        await self.connect(factory, path, 0, seconds=seconds)


@dataclass
class Found:
    """What is known of one recipient."""

    state: State
    reply: str
    kind: Kind
    status: str
    after: float  # seconds after it was accepted

    def __str__(self) -> str:
        return f"{self.kind.value} {self.status}".strip()


class House:
    """Our side: what is real of it, and the world around it."""

    def __init__(
        self,
        *,
        tls: TlsPolicy = TlsPolicy.OFF,
        credentials: Credentials | None = None,
        deadlines: Deadlines | None = None,
        resolver: ScriptedResolver | None = None,
        **remote: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.remote = Remote(self.clock, **remote)
        network: Network = self.remote
        self.spool = MemorySpool()
        smart = SmartHost(HOST, 24, lmtp=self.remote.lmtp)
        next_hop = Mx() if resolver is not None else smart
        self.ways = Ways(
            network,
            resolver or ScriptedResolver(),
            self.clock,
            self.spool,
            HOSTNAME,
            in_order,
            deadlines=deadlines or Deadlines(),
            tls=lambda policy: _context(),
        )
        self._tls = tls
        self._credentials = credentials
        routes = (Route(match="*", next_hop=next_hop),)
        self.queue = make_queue(self.spool, self.clock, Nobody(), open_lane=self._open_lane, routes=routes)
        self._ids = iter(range(1, 100))
        self.faults: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.faults.append(str(context)))

    def _open_lane(self, name: str, route: Route) -> Lane:
        assert isinstance(route.next_hop, Mx | SmartHost)
        return Lane(SmtpMailer(route.next_hop, self.ways, tls=self._tls, credentials=self._credentials), 10)

    async def accept(self, *recipients: str, content: bytes = TEXT, octets: Octets = Octets.PLAIN) -> Message:
        message = make_message(
            MessageId(next(self._ids)), *recipients, sender=None, content=content, at=self.clock.now()
        )
        message.octets = octets
        self.queue.accept(message, lambda error: None)
        await turns(20)
        return message

    def of(self, message: Message) -> list[Record]:
        return [record for record in self.spool.records if record.message == message.id]

    async def settled(self, message: Message, *, within: float) -> list[Found]:
        """What is known of each recipient as soon as it is; fails when it takes longer."""
        wanted = set(range(len(message.envelope.recipients)))
        start = self.clock.monotonic()
        while True:
            await turns(10)
            told = {r.recipient: r for r in reversed(self.of(message)) if r.kind in SETTLED}
            if wanted <= told.keys():
                return [self._found(message, number, told[number]) for number in sorted(wanted)]
            assert self.clock.monotonic() - start <= within, f"nothing known after {within} s: {self.remote.commands}"
            self.clock.advance(1.0)

    def _found(self, message: Message, number: int, record: Record) -> Found:
        row, detail = self.spool.rows[message.id, number], dict(record.detail)
        assert row.reply == detail["text"]
        return Found(row.state, row.reply, record.kind, str(detail.get("status", "")), record.at - message.received_at)

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            await turns(4)

    async def close(self) -> None:
        closing = asyncio.create_task(self.queue.close(0))
        await turns(10)
        self.clock.advance(1)
        await closing
        await turns(10)
        assert self.faults == [], self.faults
        assert asyncio.all_tasks() == {asyncio.current_task()}, asyncio.all_tasks()
        assert all(pipe.is_closing() for pipe in self.remote.pipes)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def assert_no_faults(records: list[logging.LogRecord]) -> None:
    assert [record.getMessage() for record in records if record.levelno >= logging.ERROR] == []
