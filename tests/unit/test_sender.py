"""One outbound connection against scripted servers on real sockets: what each reply, and each silence, comes to.

A script is what one connection of the server does, a step a line:
`S text` says a line, `D text` the same octet by octet, `R text` raw octets with escapes, `C pattern` expects a command,
`N` expects that none has come with the last one, `B` takes a message up to its dot, `P octets` reads so many and no
more, `H n` waits for the test to let it go on, `X` closes, `!` resets, `L` reads no more until the test is over, `W`
waits for the client to go; so does the end of the script.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import BodyType, Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.mail import Delivered, Failed, Job, Message, Octets, Outcome, Report, Row
from pillarbox.engine.ports import IpAddress, Mailer, MxRecord, Network, Spool, SpoolBroken
from pillarbox.engine.routing import Mx, SmartHost
from pillarbox.net.pool import SmtpMailer, Ways
from pillarbox.net.timeouts import Deadlines
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedMx, ScriptedResolver
from tests.making import HOSTNAME, NoSpool, turns

IP = "192.0.2.1"
TEXT = b"Subject: x\r\n\r\n.dot\r\nlast\r\n"
DOT = b"\r\n.\r\n"
AFTER = "after the end of the message and before the reply to it"


# --- the server


class Conversation:
    """One connection of a scripted server."""

    def __init__(self, script: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.script = script
        self.commands: list[str] = []
        self.messages: list[bytes] = []
        self.silent = asyncio.Event()  # it has come to a W, or to the end
        self.gone = asyncio.Event()
        self.left = asyncio.Event()  # the test has no more need of it
        self.held = [asyncio.Event() for _ in range(9)]
        self.go_on = [asyncio.Event() for _ in range(9)]
        self.error: BaseException | None = None
        self._reader = reader
        self._writer = writer
        self._octets = b""

    async def play(self) -> None:
        try:
            for line in self.script.split("\n"):
                if line := line.strip():
                    await self._step(line[0], line[2:])
            await self._step("W", "")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.error = error
        except AssertionError as error:
            self.error = error
        finally:
            self._writer.close()
            self.silent.set()
            self.gone.set()

    async def _step(self, kind: str, text: str) -> None:
        if kind in "SDR":
            await self._say(kind, text)
        elif kind in "CNBP":
            await self._hear(kind, text)
        elif kind == "H":
            self.held[int(text)].set()
            await self.go_on[int(text)].wait()
        else:
            await self._end(kind)

    async def _say(self, kind: str, text: str) -> None:
        if kind == "R":
            self._writer.write(text.encode().decode("unicode_escape").encode("latin-1"))
            return
        octets = text.encode() + b"\r\n"
        for piece in (octets,) if kind == "S" else map(bytes, zip(octets, strict=True)):
            self._writer.write(piece)
            await self._writer.drain()

    async def _hear(self, kind: str, text: str) -> None:
        if kind == "C":
            command = (await self._until(b"\r\n")).decode()
            self.commands.append(command)
            assert re.fullmatch(text, command), f"{command!r} is not {text!r}"
        elif kind == "N":
            assert not self._octets, f"{self._octets!r} came without being asked for"
        elif kind == "B":
            self.messages.append(await self._message())
        else:
            await self._reader.readexactly(int(text))

    async def _end(self, kind: str) -> None:
        if kind == "X":
            self._writer.close()
            await self._writer.wait_closed()
        elif kind == "!":
            self._reset()
        elif kind == "L":
            self.silent.set()
            await self.left.wait()
        else:
            self.silent.set()
            while octets := await self._reader.read(65536):
                self._octets += octets
            self.commands += self._octets.decode("latin-1").split("\r\n")[:-1]

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._octets:
            octets = await self._reader.read(65536)
            if not octets:
                raise asyncio.IncompleteReadError(self._octets, None)
            self._octets += octets
        found, _, self._octets = self._octets.partition(mark)
        return found

    async def _message(self) -> bytes:
        self._octets = b"\r\n" + self._octets
        octets = await self._until(DOT)
        return octets[2:].replace(b"\r\n.", b"\r\n").removeprefix(b".") + (b"\r\n" if len(octets) > 2 else b"")

    def _reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class ScriptedServer:
    """Plays one script after the other, one for each connection."""

    def __init__(self, scripts: Sequence[str]) -> None:
        self.conversations: list[Conversation] = []
        self.port = 0
        self.scripts = list(scripts)
        self._server: asyncio.Server | None = None
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts.pop(0) if self.scripts else "R one connection too many"
        conversation = Conversation(script, reader, writer)
        self.conversations.append(conversation)
        self._arrived.set()
        await conversation.play()

    async def conversation(self, number: int = 0) -> Conversation:
        while len(self.conversations) <= number:
            self._arrived.clear()
            await self._arrived.wait()
        return self.conversations[number]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for conversation in self.conversations:
            conversation.left.set()
            await conversation.gone.wait()


class Wires:
    """Meets the port Network: any address leads to the scripted server that stands for it, or to nothing."""

    def __init__(self, servers: Mapping[str, ScriptedServer | OSError]) -> None:
        self.servers = servers
        self.asked: list[tuple[str, int]] = []
        self.held: asyncio.Event | None = None

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        seconds: float,
        source: IpAddress | None = None,
    ) -> None:
        self.asked.append((host, port))
        if self.held is not None:
            await self.held.wait()
        server = self.servers[host]
        if isinstance(server, OSError):
            raise server
        await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", server.port)

    async def connect_unix(self, factory: Callable[[], asyncio.Protocol], path: str, *, seconds: float) -> None:
        await self.connect(factory, path, 0, seconds=seconds)


class Bodies(NoSpool):
    """Meets the port Spool as far as a mailer asks it; `chunks` is the text of messages that are not in memory."""

    def __init__(self) -> None:
        self.chunks: Sequence[bytes | Exception] = ()
        self.given = 0

    async def body(self, message: Message) -> AsyncIterator[bytes]:
        for chunk in self.chunks if message.content is None else (message.content,):
            if isinstance(chunk, Exception):
                raise chunk
            self.given += 1
            yield chunk


# --- the client


def in_order(records: list[MxRecord]) -> None:
    """Instead of chance."""


def message(
    content: bytes | None = TEXT,
    *,
    size: int | None = None,
    eight_bit: bool = False,
    sender: str | None = "from@here.test",
    body_type: BodyType = BodyType.SEVEN_BIT,
) -> Message:
    return Message(
        id=MessageId(1),
        received_at=1.7e9,
        envelope=Envelope(None if sender is None else Mailbox.parse(sender), (), body_type),
        listener="mx",
        peer="",
        helo="",
        protocol="SMTP",
        size=len(content or b"") if size is None else size,
        header=HeaderView(0, "", "", "", ""),
        octets=Octets.EIGHT_BIT if eight_bit else Octets.PLAIN,
        large=content is None,
        content=content,
    )


def job(*addresses: str, of: Message | None = None) -> Job:
    boxes = [Mailbox.parse(address) for address in addresses or ("a@far.example",)]
    return Job(of or message(), [Row(n, Recipient(box, box)) for n, box in enumerate(boxes)], "mx:far.example")


@dataclass
class Office:
    """A mailer and what it touches."""

    servers: dict[str, ScriptedServer | OSError]
    resolver: ScriptedResolver
    next_hop: Mx | SmartHost = field(default_factory=Mx)

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.bodies = Bodies()
        self.wires = Wires(self.servers)
        network: Network = self.wires
        spool: Spool = self.bodies
        ways = Ways(network, self.resolver, self.clock, spool, HOSTNAME, in_order)
        self.mailer = SmtpMailer(self.next_hop, ways)
        _: Mailer = self.mailer

    @property
    def server(self) -> ScriptedServer:
        server = self.servers[IP]
        assert isinstance(server, ScriptedServer)
        return server

    def deliver(self, work: Job) -> asyncio.Future[Report]:
        report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()

        def done(of: Job, result: Report) -> None:
            assert of is work
            report.set_result(result)  # a second call would raise

        self.mailer.deliver(work, done)
        assert not report.done()
        return report

    async def close(self, grace: float) -> None:
        closing = asyncio.create_task(self.mailer.close(grace))
        await turns(10)
        self.clock.advance(grace)
        await closing

    async def carry(self, work: Job) -> list[str]:
        return told(await self.deliver(work))


def told(report: Report) -> list[str]:
    return [_told(outcome) for outcome in report.outcomes]


def _told(outcome: Outcome) -> str:
    if isinstance(outcome, Delivered):
        return f"delivered {outcome.text}"
    kind = "failed" if isinstance(outcome, Failed) else "deferred"
    return f"{kind} {outcome.status} {outcome.text}"


FAR: dict[str, ScriptedMx] = {"far.example": [(10, "mx.far.example")]}


def office(*scripts: str) -> Office:
    """One that knows one server, which plays the scripts."""
    return Office({IP: ScriptedServer(scripts)}, ScriptedResolver(mx=FAR, addresses={"mx.far.example": [IP]}))


def run(made: Callable[[], Office], main: Callable[[Office], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        async with asyncio.timeout(10):
            place = made()
            servers = [server for server in place.servers.values() if isinstance(server, ScriptedServer)]
            for server in servers:
                await server.start()
            try:
                await main(place)
            finally:
                await place.close(0)
                for server in servers:
                    await server.stop()
            assert not any(server.scripts for server in servers), "scripts that were not played"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(opened())


# --- scripts


def hello(*keywords: str) -> str:
    lines = ["250-mx.far.example", *(f"250-{keyword}" for keyword in keywords), "250 HELP"]
    return "S 220 mx.far.example ESMTP\nC EHLO mx.example.test\n" + "".join(f"S {line}\n" for line in lines)


ONE_BY_ONE = hello("SIZE 100000", "8BITMIME", "ENHANCEDSTATUSCODES")
TOGETHER = hello("PIPELINING", "SIZE 100000", "8BITMIME")
OPENING = {False: ONE_BY_ONE, True: TOGETHER}
TAKEN = "250 2.0.0 Taken"


def talk(
    *, together: bool, mail: str = "250 Ok", rcpt: Sequence[str] = ("250 Ok",), data: str = "354 Go", end: str = TAKEN
) -> str:
    """A transaction that a client should have with a server that replies so."""
    if together:
        steps = ["C MAIL FROM:.*", *["C RCPT TO:.*"] * len(rcpt), "C DATA", f"S {mail}"]
        steps += [f"S {each}" for each in rcpt]
        return "\n".join([*steps, f"S {data}", *(["B", f"S {end}"] if data[0] == "3" else [])]) + "\n"
    steps = ["C MAIL FROM:.*", "N", f"S {mail}"]
    if mail[0] == "2":
        for each in rcpt:
            steps += ["C RCPT TO:.*", "N", f"S {each}"]
        if any(each[0] == "2" for each in rcpt):
            steps += ["C DATA", "N", f"S {data}"]
            if data[0] == "3":
                steps += ["B", f"S {end}"]
    return "\n".join(steps) + "\n"


both = pytest.mark.parametrize("together", [False, True], ids=["one by one", "pipelined"])


# --- a message goes out


@both
def test_a_message_is_delivered_as_it_is(together: bool) -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job("a@far.example", "b@far.example")) == [f"delivered {TAKEN}"] * 2
        talked = here.server.conversations[0]
        assert talked.messages == [TEXT]
        assert talked.commands == [
            "EHLO mx.example.test",
            f"MAIL FROM:<from@here.test> SIZE={len(TEXT)}",
            "RCPT TO:<a@far.example>",
            "RCPT TO:<b@far.example>",
            "DATA",
        ]

    run(lambda: office(OPENING[together] + talk(together=together, rcpt=("250 Ok", "251 Ok"))), main)


@pytest.mark.parametrize("kept", [True, False], ids=["in memory", "on the disk"])
@both
def test_a_message_that_is_forwarded_is_marked_by_who_forwards_it(together: bool, kept: bool) -> None:
    """RFC 9228 §3; behind a list the reverse-path is its owner's (RFC 5321 §3.9.2)."""
    mark = b"Delivered-To: team@example.test\r\n"
    team, owner, far = map(Mailbox.parse, ("team@example.test", "team-owner@example.test", "a@far.example"))

    async def main(here: Office) -> None:
        here.bodies.chunks = (TEXT[:5], TEXT[5:])
        given = message() if kept else message(None, size=len(TEXT))
        work = Job(given, [Row(0, Recipient(far, team, owner))], "mx:far.example")
        assert await here.carry(work) == [f"delivered {TAKEN}"]
        talked = here.server.conversations[0]
        assert talked.messages == [mark + TEXT]
        assert talked.commands[1] == f"MAIL FROM:<team-owner@example.test> SIZE={len(mark) + len(TEXT)}"

    run(lambda: office(OPENING[together] + talk(together=together)), main)


def test_the_report_names_the_next_hop() -> None:
    async def main(here: Office) -> None:
        report = await here.deliver(job())
        assert [outcome.next_hop for outcome in report.outcomes] == [f"mx.far.example [{IP}]"]

    run(lambda: office(TOGETHER + talk(together=True)), main)


@pytest.mark.parametrize(
    ("keywords", "given", "command"),
    [
        ((), message(), "MAIL FROM:<from@here.test>"),
        ((), message(sender=None), "MAIL FROM:<>"),
        (("SIZE",), message(b"x\r\n"), "MAIL FROM:<from@here.test> SIZE=3"),
        (("SIZE 0",), message(b"x\r\n"), "MAIL FROM:<from@here.test> SIZE=3"),
        (("8BITMIME",), message(), "MAIL FROM:<from@here.test>"),
        (("8BITMIME",), message(eight_bit=True), "MAIL FROM:<from@here.test> BODY=8BITMIME"),
        (("8BITMIME",), message(body_type=BodyType.EIGHT_BIT_MIME), "MAIL FROM:<from@here.test> BODY=8BITMIME"),
        ((), message(body_type=BodyType.EIGHT_BIT_MIME), "MAIL FROM:<from@here.test>"),
        (("size 99", "8bitmime"), message(sender='"a b"@x.test', eight_bit=True), None),
    ],
)
def test_parameters_are_those_the_server_knows(keywords: tuple[str, ...], given: Message, command: str | None) -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job(of=given)) == [f"delivered {TAKEN}"]
        wanted = command or f'MAIL FROM:<"a b"@x.test> SIZE={len(TEXT)} BODY=8BITMIME'
        assert here.server.conversations[0].commands[1] == wanted

    run(lambda: office(hello(*keywords) + talk(together=False)), main)


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (message(b"x" * 100 + b"\r\n"), "failed 5.3.4 message of 102 octets is larger than the 101"),
        (
            message(b"X: \xe4\r\n\r\n", eight_bit=True),
            "failed 5.6.3 next hop can't take the message, nor can it be converted",
        ),
    ],
)
def test_what_the_server_cannot_take_is_not_offered(given: Message, outcome: str) -> None:
    async def main(here: Office) -> None:
        (found,) = await here.carry(job(of=given))
        assert found.startswith(outcome)
        assert await here.carry(job(of=message(b"x\r\n"))) == [f"delivered {TAKEN}"]  # the connection is still good

    run(lambda: office(hello("SIZE 101") + talk(together=False)), main)


@pytest.mark.parametrize("text", [b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n", b"ends with\r"])
def test_octets_that_could_end_a_message_elsewhere_are_not_sent(text: bytes) -> None:
    async def main(here: Office) -> None:
        (found,) = await here.carry(job(of=message(text)))
        assert found.startswith("failed 5.6.3 ")
        talked = here.server.conversations[0]
        await talked.gone.wait()
        assert talked.commands[-1] == "DATA"

    run(lambda: office(TOGETHER + "C MAIL.*\nC RCPT.*\nC DATA\nS 250 Ok\nS 250 Ok\nS 354 Go\n"), main)


# --- the opening of the channel


def test_a_server_that_knows_no_ehlo_is_told_helo() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job("a@far.example", "b@far.example")) == [f"delivered {TAKEN}"] * 2
        assert here.server.conversations[0].commands[1:3] == ["HELO mx.example.test", "MAIL FROM:<from@here.test>"]

    script = "S 220 mx\nC EHLO .*\nS 502 What?\nC HELO .*\nS 250-mx\nS 250 PIPELINING\n"
    run(lambda: office(script + talk(together=False, rcpt=("250 Ok", "250 Ok"))), main)


GONE = "connection closed by the server"
OPENINGS = [
    ("a busy greeting", "S 421 Busy\n", "421 Busy"),
    ("a refusing greeting", "S 554 5.7.1 Go away\n", "554 5.7.1 Go away"),
    ("a greeting of several lines", "S 554-No\nS 554 mail\n", "554 No / mail"),
    ("an odd greeting", "S 354 Go\n", "354 Go"),
    ("another protocol", "S SSH-2.0-OpenSSH_9.2\n", "not a reply: b'SSH-2.0-OpenSSH_9.2'"),
    ("an HTTP server", "S HTTP/1.1 400 Bad Request\n", "not a reply: b'HTTP/1.1 400 Bad Request'"),
    ("a line too long", f"S 220 {'x' * 5000}\n", "reply line too long"),
    ("a line without end", f"R {'x' * 1_100_000}\n", "reply line too long"),
    ("a bare LF", r"R 220 mx\n250 x\r\n" + "\n", "not a reply"),
    ("a close", "X\n", GONE),
    ("EHLO deferred", "S 220 mx\nC EHLO .*\nS 451 Not now\n", "451 Not now"),
    ("EHLO, 421", "S 220 mx\nC EHLO .*\nS 421 Closing\n", "421 Closing"),
    ("HELO refused", "S 220 mx\nC EHLO .*\nS 500 What?\nC HELO .*\nS 550 No\n", "550 No"),
    ("EHLO, then a close", "S 220 mx\nC EHLO .*\nX\n", GONE),
    ("HELO, then a close", "S 220 mx\nC EHLO .*\nS 500 What?\nC HELO .*\nX\n", GONE),
    ("EHLO, then garbage", "S 220 mx\nC EHLO .*\nS hello yourself\n", "not a reply"),
    ("two codes in a reply", "S 220 mx\nC EHLO .*\nS 250-mx\nS 220 x\n", "lines of one reply with different codes"),
]


@pytest.mark.parametrize(("script", "text"), [case[1:] for case in OPENINGS], ids=[case[0] for case in OPENINGS])
def test_a_server_that_cannot_be_used_is_a_host_that_was_tried(script: str, text: str) -> None:
    async def main(here: Office) -> None:
        report = await here.deliver(job("a@far.example", "b@far.example"))
        (found,) = set(told(report))
        tried = f"mx.far.example [{IP}]: "
        assert found.startswith(f"deferred 4.4.1 no host for far.example could be reached, the last one {tried}{text}")
        assert [note for note in report.notes if note.startswith(tried)]
        await (await here.server.conversation()).gone.wait()

    run(lambda: office(script), main)


# --- replies


REPLIES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("MAIL 4yz", {"mail": "451 4.3.0 Later"}, ["deferred 4.3.0 451 4.3.0 Later"] * 2),
    ("MAIL 5yz", {"mail": "550 5.7.1 No"}, ["failed 5.7.1 550 5.7.1 No"] * 2),
    ("MAIL 5yz, no enhanced code", {"mail": "550 No"}, ["failed 5.0.0 550 No"] * 2),
    ("MAIL 4yz, no enhanced code", {"mail": "450 No"}, ["deferred 4.0.0 450 No"] * 2),
    ("MAIL, enhanced code of another class", {"mail": "450 5.1.1 No"}, ["deferred 4.0.0 450 5.1.1 No"] * 2),
    ("MAIL 3yz", {"mail": "354 Go"}, ["deferred 4.5.0 354 Go"] * 2),
    ("MAIL 552", {"mail": "552 5.3.4 Big"}, ["failed 5.3.4 552 5.3.4 Big"] * 2),
    ("RCPT 4yz", {"rcpt": ("450 4.2.0 Grey", "250 Ok")}, ["deferred 4.2.0 450 4.2.0 Grey", f"delivered {TAKEN}"]),
    ("RCPT 5yz", {"rcpt": ("250 Ok", "550 5.1.1 Who")}, [f"delivered {TAKEN}", "failed 5.1.1 550 5.1.1 Who"]),
    ("RCPT 3yz", {"rcpt": ("550 5.1.1 Who", "354 Go")}, ["failed 5.1.1", "deferred 4.5.0 354 Go"]),
    ("RCPT 552", {"rcpt": ("250 Ok", "552 Many")}, [f"delivered {TAKEN}", "deferred 4.5.3 552 Many"]),
    ("RCPT 452", {"rcpt": ("250 Ok", "452 4.5.3 Many")}, [f"delivered {TAKEN}", "deferred 4.5.3 452 4.5.3 Many"]),
    ("RCPT 252", {"rcpt": ("252 Perhaps", "251 Else")}, [f"delivered {TAKEN}"] * 2),
    (
        "RCPT of several lines",
        {"rcpt": ("250-a\nS 250 b", "550-5.1.1 a\nS 550 5.1.1 b")},
        ["delivered", "failed 5.1.1 "],
    ),
    ("DATA 4yz", {"data": "451 4.3.0 Later"}, ["deferred 4.3.0 451 4.3.0 Later"] * 2),
    ("DATA 5yz", {"data": "554 5.5.1 No"}, ["failed 5.5.1 554 5.5.1 No"] * 2),
    ("DATA 2yz", {"data": "250 Ok"}, ["deferred 4.5.0 250 Ok"] * 2),
    ("DATA 4yz, RCPT 5yz", {"rcpt": ("550 5.1.1 Who", "250 Ok"), "data": "451 No"}, ["failed 5.1.1", "deferred 4.0.0"]),
    ("dot 4yz", {"end": "452 4.3.1 Full"}, ["deferred 4.3.1 452 4.3.1 Full"] * 2),
    ("dot 5yz", {"end": "554 5.6.0 Spam"}, ["failed 5.6.0 554 5.6.0 Spam"] * 2),
    ("dot 3yz", {"end": "354 Go"}, ["deferred 4.5.0 354 Go"] * 2),
    ("dot 5yz, RCPT 4yz", {"rcpt": ("450 No", "250 Ok"), "end": "554 No"}, ["deferred 4.0.0", "failed 5.0.0"]),
    ("dot, a code not known", {"end": "299 Fine"}, ["delivered 299 Fine"] * 2),
]
CASES = pytest.mark.parametrize(("replies", "outcomes"), [c[1:] for c in REPLIES], ids=[c[0] for c in REPLIES])


@both
@CASES
def test_each_recipient_has_the_outcome_that_was_said(
    replies: dict[str, Any], outcomes: list[str], together: bool
) -> None:
    """And the connection is good for another message afterwards, unless the two no longer agree on what comes next."""
    misplaced = any(outcome in ("deferred 4.5.0 354 Go", "deferred 4.5.0 250 Ok") for outcome in outcomes)
    replies = {"rcpt": ("250 Ok", "250 Ok"), **replies}
    if together and replies.get("mail", "2")[0] != "2":
        replies = {**replies, "rcpt": ("503 Mail?", "503 Mail?"), "data": "503 Mail?"}

    async def main(here: Office) -> None:
        found = await here.carry(job("a@far.example", "b@far.example"))
        assert len(found) == 2
        for one, wanted in zip(found, outcomes, strict=True):
            assert one.startswith(wanted)
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 1 + misplaced

    ended = replies.get("mail", "2")[0] == "2" and replies.get("data", "3")[0] == "3"
    again = ("" if ended else "C RSET\nS 250 Ok\n") + talk(together=together)
    if together and not ended:
        again = talk(together=True).replace("C MAIL", "C RSET\nC MAIL", 1).replace("S 250 Ok", "S 250 Ok\nS 250 Ok", 1)
    first = OPENING[together] + talk(together=together, **replies)
    if misplaced:
        first = first.partition("S 354 Go\nC DATA")[0] if "354 Go" in replies["rcpt"] and not together else first
        run(lambda: office(first, OPENING[together] + talk(together=together)), main)
    else:
        run(lambda: office(first + again), main)


@pytest.mark.parametrize("end", ["554 No recipients", "250 Ok", "451 Hm"])
@pytest.mark.parametrize(
    ("mail", "rcpt"), [("250 Ok", ("550 5.1.1 Who", "450 4.2.0 Grey")), ("550 5.7.1 No", ("503 x", "503 x"))]
)
def test_an_invitation_without_recipients_is_answered_by_an_empty_message(
    mail: str, rcpt: tuple[str, str], end: str
) -> None:
    """RFC 2920 §3.1"""

    async def main(here: Office) -> None:
        found = await here.carry(job("a@far.example", "b@far.example"))
        if mail[0] == "2":
            assert found == ["failed 5.1.1 550 5.1.1 Who", "deferred 4.2.0 450 4.2.0 Grey"]
        else:
            assert found == ["failed 5.7.1 550 5.7.1 No"] * 2
        assert here.server.conversations[0].messages == [b""]

    run(lambda: office(TOGETHER + talk(together=True, mail=mail, rcpt=rcpt, end=end)), main)


def test_refused_recipients_alone_need_no_message_and_no_new_connection() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job()) == ["failed 5.1.1 550 5.1.1 Who"]
        assert await here.carry(job()) == [f"delivered {TAKEN}"]

    first = talk(together=False, rcpt=("550 5.1.1 Who",))
    run(lambda: office(ONE_BY_ONE + first + "C RSET\nS 250 Ok\n" + talk(together=False)), main)


def test_commands_are_sent_one_by_one_where_the_server_does_not_offer_more() -> None:
    """RFC 2920 §3: also RSET and the MAIL behind it."""

    async def main(here: Office) -> None:
        assert await here.carry(job()) == ["failed 5.1.1 550 5.1.1 Who"]
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert here.server.conversations[0].error is None

    first = talk(together=False, rcpt=("550 5.1.1 Who",))
    run(lambda: office(ONE_BY_ONE + first + "C RSET\nN\nS 250 Ok\n" + talk(together=False)), main)


def test_replies_may_come_octet_by_octet() -> None:
    async def main(here: Office) -> None:
        assert await here.carry(job("a@far.example", "b@far.example")) == ["failed 5.0.0 550 No", f"delivered {TAKEN}"]

    script = TOGETHER + talk(together=True, rcpt=("550 No", "250 Ok"))
    run(lambda: office(script.replace("S ", "D ")), main)


# --- 421, closes, resets, garbage


STEPS = {
    "MAIL": ("C MAIL.*", 0),
    "first RCPT": ("C MAIL.*\nS 250 Ok\nC RCPT.*", 0),
    "second RCPT": ("C MAIL.*\nS 250 Ok\nC RCPT.*\nS 550 5.1.1 Who\nC RCPT.*", 1),
    "DATA": ("C MAIL.*\nS 250 Ok\nC RCPT.*\nS 550 5.1.1 Who\nC RCPT.*\nS 250 Ok\nC DATA", 1),
    "dot": ("C MAIL.*\nS 250 Ok\nC RCPT.*\nS 550 5.1.1 Who\nC RCPT.*\nS 250 Ok\nC DATA\nS 354 Go\nB", 1),
}
ENDS = {
    "421": ("S 421 4.3.2 Closing", "deferred 4.3.2 421 4.3.2 Closing"),
    "421 and close": ("S 421 4.3.2 Closing\nX", "deferred 4.3.2 421 4.3.2 Closing"),
    "close": ("X", "deferred 4.4.2 connection closed by the server"),
    "reset": ("!", "deferred 4.4.2 connection lost"),
    "half a reply": ("R 250-Perhaps\\r\\n250 an\nX", "deferred 4.4.2 connection closed by the server"),
    "garbage": ("S Perhaps", "deferred 4.4.2 not a reply"),
    "a code below 200": ("S 150 Hm", "deferred 4.4.2 not a reply"),
    "NUL": (r"R 250 a\x00b\r\n", "deferred 4.4.2 not a reply"),
}


@both
@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.parametrize("step", STEPS)
def test_a_connection_that_ends_defers_who_has_no_outcome_yet(step: str, ending: str, together: bool) -> None:
    script, refused = STEPS[step]
    end, outcome = ENDS[ending]
    if together:  # all commands before the first reply
        replies = [line for line in script.split("\n") if line[0] in "SB"]
        script = "\n".join(["C MAIL.*", "C RCPT.*", "C RCPT.*", "C DATA", *replies])

    async def main(here: Office) -> None:
        found = await here.carry(job("a@far.example", "b@far.example"))
        assert found[:refused] == ["failed 5.1.1 550 5.1.1 Who"] * refused
        for one in found[refused:]:
            if step == "dot" and ending not in ("421", "421 and close"):
                assert re.match(r"deferred 4\.4\.2 maybe delivered: .*, after the end of the message and before", one)
                one = one.replace("maybe delivered: ", "")
            assert one.startswith(outcome) or (ending == "reset" and one.startswith("deferred 4.4.2 connection "))
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 2

    run(lambda: office(OPENING[together] + script + "\n" + end, TOGETHER + talk(together=True)), main)


@both
def test_a_reply_that_is_lost_behind_the_dot_defers(together: bool) -> None:
    """RFC 1047: the server may have the message; it is sent again rather than lost."""

    async def main(here: Office) -> None:
        assert await here.carry(job()) == [f"deferred 4.4.2 maybe delivered: connection closed by the server, {AFTER}"]
        assert here.server.conversations[0].messages == [TEXT]

    run(lambda: office(OPENING[together] + talk(together=together).removesuffix(f"S {TAKEN}\n") + "X"), main)


# --- silence


SILENCES: list[tuple[str, str, float]] = [
    ("greeting", "", 300),
    ("EHLO", "S 220 mx\nC EHLO .*", 300),
    ("HELO", "S 220 mx\nC EHLO .*\nS 500 What?\nC HELO .*", 300),
    ("MAIL", ONE_BY_ONE + "C MAIL.*", 300),
    ("RCPT", ONE_BY_ONE + "C MAIL.*\nS 250 Ok\nC RCPT.*", 300),
    ("DATA", ONE_BY_ONE + "C MAIL.*\nS 250 Ok\nC RCPT.*\nS 250 Ok\nC DATA", 120),
    ("dot", ONE_BY_ONE + "C MAIL.*\nS 250 Ok\nC RCPT.*\nS 250 Ok\nC DATA\nS 354 Go\nB", 600),
    ("pipelined MAIL", TOGETHER + "C MAIL.*\nC RCPT.*\nC DATA", 300),
    ("half a reply", ONE_BY_ONE + "C MAIL.*\nR 250-Ok\\r\\n2", 300),
]


@pytest.mark.parametrize(("script", "seconds"), [case[1:] for case in SILENCES], ids=[case[0] for case in SILENCES])
def test_a_silent_server_is_waited_for_so_long_and_no_longer(script: str, seconds: float) -> None:
    """RFC 5321 §4.5.3.2"""

    async def main(here: Office) -> None:
        report = here.deliver(job())
        talked = await here.server.conversation()
        await talked.silent.wait()
        await turns()
        here.clock.advance(seconds - 3)
        await turns()
        assert not report.done()
        here.clock.advance(5)
        (found,) = told(await report)
        assert re.match(r"deferred 4\.4\.[12] .*no answer in time", found)
        await talked.gone.wait()

    run(lambda: office(script + "\nW"), main)


def test_each_reply_begins_the_waiting_anew() -> None:
    async def main(here: Office) -> None:
        report = here.deliver(job("a@far.example", "b@far.example"))
        talked = await here.server.conversation()
        for number in range(4):
            await talked.held[number].wait()
            await turns()
            here.clock.advance(100 if number == 2 else 200)
            await turns()
            assert not report.done()
            talked.go_on[number].set()
        assert told(await report) == [f"delivered {TAKEN}"] * 2

    script = "H 0\n" + ONE_BY_ONE + talk(together=False, rcpt=("250 Ok", "250 Ok"))
    for number, step in enumerate(("C MAIL", "C DATA", "B"), start=1):
        before, _, behind = script.partition(f"\n{step}")
        line, _, rest = behind.partition("\n")
        script = f"{before}\n{step}{line}\nH {number}\n{rest}"
    run(lambda: office(script), main)


# --- large messages


PIECE = b"Subject: large\r\n\r\n" + b"." * 99_980 + b"\r\n"


@both
def test_a_large_message_is_streamed_from_the_disk(together: bool) -> None:
    async def main(here: Office) -> None:
        here.bodies.chunks = [PIECE[:5], PIECE[5:], b"\r", b"\n.", b".\r\n", b"", b"end"]
        assert await here.carry(job(of=message(None, size=99999))) == [f"delivered {TAKEN}"]
        assert here.server.conversations[0].messages == [PIECE + b"\r\n..\r\nend\r\n"]

    run(lambda: office(OPENING[together] + talk(together=together)), main)


def test_a_slow_server_is_not_sent_more_than_it_takes() -> None:
    async def main(here: Office) -> None:
        here.bodies.chunks = [PIECE] * 400  # 40 MB: more than any socket holds
        report = here.deliver(job(of=message(None, size=400 * len(PIECE))))
        talked = await here.server.conversation()
        await talked.silent.wait()
        await turns(200)
        assert 0 < here.bodies.given < 350
        here.clock.advance(200)
        (found,) = told(await report)
        assert found.startswith("deferred 4.4.2 no answer in time")

    run(lambda: office(hello("PIPELINING") + "C MAIL.*\nC RCPT.*\nC DATA\nS 250 Ok\nS 250 Ok\nS 354 Go\nP 1\nL"), main)


@pytest.mark.parametrize("before", [(), (PIECE,)])
def test_a_text_that_cannot_be_read_defers_and_is_never_ended_by_a_dot(before: tuple[bytes, ...]) -> None:
    async def main(here: Office) -> None:
        here.bodies.chunks = [*before, SpoolBroken("disk: no")]
        (found,) = await here.carry(job(of=message(None, size=10)))
        assert found.startswith("deferred ") and "disk: no" in found
        talked = here.server.conversations[0]
        await talked.gone.wait()
        assert talked.messages == []

    run(lambda: office(TOGETHER + talk(together=True)), main)


def test_a_bug_in_reading_a_text_defers(caplog: pytest.LogCaptureFixture) -> None:
    async def main(here: Office) -> None:
        here.bodies.chunks = [ZeroDivisionError()]
        assert await here.carry(job(of=message(None, size=10))) == ["deferred 4.4.2 internal error"]

    run(lambda: office(TOGETHER + talk(together=True)), main)
    assert "ZeroDivisionError" in caplog.text


def test_a_bare_octet_in_a_streamed_text_fails_it() -> None:
    async def main(here: Office) -> None:
        here.bodies.chunks = [PIECE, b"a\nb"]
        (found,) = await here.carry(job(of=message(None, size=10)))
        assert found.startswith("failed 5.6.3 ")
        talked = here.server.conversations[0]
        await talked.gone.wait()
        assert talked.messages == []

    run(lambda: office(TOGETHER + talk(together=True)), main)


@pytest.mark.parametrize("end", ["X", "!", "S 421 4.3.2 Closing\nX", "S 552 5.3.4 Big\nX"])
def test_a_server_that_goes_in_the_middle_of_a_message_defers(end: str) -> None:
    async def main(here: Office) -> None:
        here.bodies.chunks = [PIECE] * 400
        (found,) = await here.carry(job(of=message(None, size=10)))
        assert found.startswith("deferred 4.4.2 ")

    script = TOGETHER + "C MAIL.*\nC RCPT.*\nC DATA\nS 250 Ok\nS 250 Ok\nS 354 Go\nP 100000\n"
    run(lambda: office(script + end), main)


def test_the_deadlines_are_those_of_the_standard() -> None:
    assert Deadlines() == Deadlines(
        connect=30, greeting=300, hello=300, mail=300, rcpt=300, data=120, block=180, end=600, command=300, handshake=30
    )
