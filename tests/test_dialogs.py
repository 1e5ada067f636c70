r"""Conversations in plain files, `dialogs/*.smtp`, played in memory and over a socket.

A file is read line by line:

    # ...         a comment
    @ KEY VALUE   a setting, before the first line of the conversation; those that there are stand in SETTINGS
    C: TEXT       the client sends a line, with CRLF
    C~ OCTETS     the client sends octets as Python writes them, with no CRLF of its own
    C+ N TEXT     the client sends a line of N octets with its CRLF: the text, and `x` up to there
    S: TEXT       the server's next line, to the letter
    S~ REGEX      the server's next line, as a regular expression
    S* CODE       the server's next reply, of however many lines
    A: NUMBER     so many messages have been accepted by now
    T: OCTETS     the text of the last of them, without our Received field, as Python writes it
    W: USER N     so many texts have been shown on the terminal of that user of example.test
    closed        the server has closed the channel

What the client sends between two lines of the server leaves in one write; no line of the server may be left over.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

import pytest

from pillarbox.adapters.instant import DISCARDED, InstantMailer
from pillarbox.core.address import Domain
from pillarbox.core.envelope import MessageId
from pillarbox.engine.directory import Announced, MailingList, Snapshot, parse_alias_address
from pillarbox.engine.ids import IdSource
from pillarbox.engine.limits import Rate
from pillarbox.engine.mail import Message, State
from pillarbox.engine.ports import Audience, Moved, NoRecords, SpoolBroken, SpoolCallback, SpoolError, SpoolFull, User
from pillarbox.engine.queue import Lane
from pillarbox.engine.routing import Route, SmartHost
from pillarbox.engine.service import COMMANDS, Access, AuthOffer, Service, Submitters
from pillarbox.net.connection import Connection
from pillarbox.net.listener import Bounds, Listener
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from pillarbox.sim.presence import ImaginedPresence
from pillarbox.smtp.states import Verb
from tests.making import (
    MemorySpool,
    NoSpool,
    Porter,
    Scales,
    Stored,
    box,
    make_answers,
    make_listener,
    make_message,
    make_queue,
    make_service,
    turns,
)

DIALOGS = sorted(Path(__file__).parent.joinpath("dialogs").glob("*.smtp"))
ANYWHERE = (ip_network("0.0.0.0/0"),)
PATIENCE = 10.0  # seconds for a reply over the socket

# --- who is there


def at_home(local: str) -> str:
    return f"{local}@example.test"


ALICE, BOB, CAROL = box(at_home("alice")), box(at_home("bob")), box("carol@elsewhere.example")
KEPT = Domain("kept.example")
DIRECTORY = Snapshot(
    domains=(Domain("example.test"),),
    relay_domains=(Domain("relayed.example"), KEPT),
    users=(
        User(ALICE, "Alice Liddell"),
        User(BOB, "Bob Smith"),
        User(box(at_home("agnes")), "Agnes Smith"),
        User(box(at_home("dave")), enabled=False),
        User(box(at_home("full")), quota=1000),
        User(box(at_home("soft")), quota=1000, soft_quota=500),
        User(box(at_home("lost")), quota=1000),
        User(box(at_home("near")), quota=500, soft_quota=400),
        User(box(at_home("op")), "The Operator", operator=True),
        User(box(at_home("owner")), owns=(KEPT, Domain("sent.example"))),
    ),
    aliases={
        parse_alias_address(at_home("staff")): (ALICE, BOB),
        parse_alias_address(at_home("round")): (box(at_home("round")),),
        parse_alias_address(at_home("away")): (CAROL,),
    },
    forwards={
        box(at_home("told")): Announced((CAROL,)),
        box(at_home("moved")): Moved(CAROL),
    },
    lists={
        box(at_home("team")): MailingList((ALICE, CAROL), post=Audience.MEMBERS),
        box(at_home("open")): MailingList((BOB, CAROL), expn=Audience.ANYONE),
        box(at_home("secret")): MailingList((BOB,), expn=Audience.NOBODY, post=Audience.AUTHENTICATED),
    },
    hostname=Domain("mx.example.test"),
)
PASSWORDS = {(user.mailbox.local.text, "secret"): user for user in DIRECTORY.users if user.enabled}
WEIGHTS = {box(at_home("full")): 1001, box(at_home("soft")): 600, box(at_home("near")): 300, box(at_home("lost")): None}
DNS = ScriptedResolver(
    mx={"good.example": [(10, "mx.good.example")], "null.example": [(0, "")], "empty.example": NoRecords()},
    addresses={"host.example": ["192.0.2.1"]},
)
DNS.fail("broken.example")

# --- the files

Kind = Literal["C", "S:", "S~", "S*", "A", "T", "W", "closed"]


EXPECTATIONS: dict[str, Kind] = {"S:": "S:", "S~": "S~", "S*": "S*", "A:": "A", "T:": "T", "W:": "W"}

LINES = ("S:", "S~", "S*")  # kinds that take what the server says


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


def lengthened(text: str) -> bytes:
    """A line of so many octets."""
    length, _, start = text.partition(" ")
    return start.encode("ascii").ljust(int(length) - 2, b"x") + b"\r\n"


SENT: dict[str, Callable[[str], bytes]] = {
    "C:": lambda text: text.encode("ascii") + b"\r\n",
    "C~": unescaped,
    "C+": lengthened,
}


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
        elif sign in SENT:
            octets = SENT[sign](rest)
            if dialog.steps and dialog.steps[-1].kind == "C":
                octets = dialog.steps.pop().octets + octets
            dialog.steps.append(Step("C", "", octets, number))
        elif kind := EXPECTATIONS.get(sign):
            dialog.steps.append(Step(kind, rest, b"", number))
        else:
            raise ValueError(f"line {number}: {line!r}")
    return dialog


# --- the server they are played against

SETTINGS = {
    "errors": "20",
    "message_size": "100000",
    "recipients": "1000",
    "transactions": "100",
    "probes": "100",
    "terminal_messages": "100",
    "spool": "",  # full, broken: no message can be stored
    "disk": "",  # full, broken: and that is known before
    "trusted": "false",  # whether the client may relay
    "auth": "off",
    "commands": "",  # `SEND=on TURN=auth`
    "accepts_mail": "true",
    "compat": "strict",
    "service": "mx",
    "check_sender_domain": "false",
    "check_recipient_domain": "false",
    "terminals": "",  # users of example.test with one
    "blocked": "",  # users whose terminal takes nothing
    "kept": "0",  # messages that wait for kept.example
    "sent": "0",  # messages that wait for sent.example, which has a host
}
FAULTS: dict[str, SpoolError | None] = {"": None, "full": SpoolFull("full"), "broken": SpoolBroken("EIO")}
Later = Callable[[Callable[[], None]], object]


class FakeSpool(NoSpool):
    """Meets the port Spool as far as a listener asks it; `later` runs a callback once the call has returned."""

    def __init__(self, fault: SpoolError | None, later: Later) -> None:
        self.accepted: list[Message] = []
        self._later = later
        self._fault = fault

    def accept(self, message: Message, done: SpoolCallback) -> None:
        if self._fault is None:
            self.accepted.append(message)
        self._later(lambda: done(self._fault))

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        self._later(lambda: done(self._fault))

    def unspill(self, message: MessageId) -> None:
        pass


@dataclass
class Server:
    """A listener, and what is looked at behind it."""

    listener: Listener
    spool: FakeSpool
    presence: ImaginedPresence


def make_server(given: Mapping[str, str], later: Later) -> Server:
    assert not set(given) - set(SETTINGS), f"unknown settings: {set(given) - set(SETTINGS)}"
    settings = {**SETTINGS, **given}
    clock = VirtualClock()
    presence = ImaginedPresence(
        [box(at_home(user)) for user in settings["terminals"].split()],
        blocked=[box(at_home(user)) for user in settings["blocked"].split()],
    )
    service = make_dialog_service(settings, clock, presence)
    spool = FakeSpool(FAULTS[settings["spool"]], later)
    kept = waiting({"kept.example": int(settings["kept"]), "sent.example": int(settings["sent"])}, service.ids)
    queue = make_queue(kept, clock, DIRECTORY, open_lane=open_lane, routes=(Route("sent.example", SmartHost("host")),))
    answers = make_answers(
        accounts=Porter(PASSWORDS),
        mailboxes=Scales(WEIGHTS),
        presence=presence,
        resolver=DNS,
        spool=kept,
        queue=queue,
        clock=clock,
        connections=lambda: 1,
    )
    bounds = Bounds(connections=10, idle=300.0, session_time=3600.0)
    listener = make_listener(service, bounds, spool=spool, accept=spool.accept, answers=answers, hand_over=hang_up)
    return Server(listener, spool, presence)


def make_dialog_service(settings: Mapping[str, str], clock: VirtualClock, presence: ImaginedPresence) -> Service:
    changed = [word.partition("=") for word in settings["commands"].split()]
    return make_service(
        message_size=int(settings["message_size"]),
        recipients=int(settings["recipients"]),
        errors=int(settings["errors"]),
        transactions=int(settings["transactions"]),
        probes=int(settings["probes"]),
        terminal_rate=Rate(int(settings["terminal_messages"])),
        spool_fault=lambda octets: FAULTS[settings["disk"]],
        relay_networks=ANYWHERE if settings["trusted"] == "true" else (),
        auth=AuthOffer(settings["auth"]),
        commands={**COMMANDS, **{Verb[verb]: Access(access) for verb, _, access in changed}},
        accepts_mail=settings["accepts_mail"] == "true",
        classic=settings["compat"] == "classic",
        odmr=settings["service"] == "odmr",
        submitters=Submitters.USERS if settings["service"] == "submission" else None,
        lmtp=settings["service"] == "lmtp",
        checks_sender_domain=settings["check_sender_domain"] == "true",
        checks_recipient_domain=settings["check_recipient_domain"] == "true",
        presence=presence,
        directory=DIRECTORY,
        clock=clock,
        ids=IdSource(clock),
    )


def waiting(counts: Mapping[str, int], ids: IdSource) -> MemorySpool:
    """A spool in which so many messages wait for a domain."""
    spool = MemorySpool()
    for domain, count in counts.items():
        lane = "smtp:host:25" if domain == "sent.example" else f"turn:{domain}"
        for _ in range(count):
            message = make_message(ids.next(), f"x@{domain}")
            spool.messages[message.id] = message
            spool.bodies[message.id] = message.content or b""
            spool.rows[message.id, 0] = Stored(message.envelope.recipients[0], State.SCHEDULED, 3e9, lane=lane)
    return spool


def open_lane(name: str, route: Route) -> Lane:
    return Lane(InstantMailer(DISCARDED, asyncio.get_running_loop()), 10)


def hang_up(transport: asyncio.Transport, domains: tuple[Domain, ...], *, peer: str, ended: Callable[[], None]) -> None:
    """Whoever gets a connection whose roles have changed does nothing with it."""
    transport.close()
    ended()


def check_step(step: Step, line: bytes, server: Server) -> None:
    """Everything but what is sent and `closed`."""
    text, spool = line.decode("ascii"), server.spool
    if step.kind == "S:":
        assert text == f"{step.text}\r\n", f"line {step.line}"
    elif step.kind == "S~":
        assert re.fullmatch(step.text, text.removesuffix("\r\n")), f"line {step.line}: {text!r}"
    elif step.kind == "S*":
        assert text.startswith(f"{step.text} "), f"line {step.line}: {text!r}"
    elif step.kind == "A":
        assert len(spool.accepted) == int(step.text), f"line {step.line}"
    elif step.kind == "W":
        user, _, count = step.text.partition(" ")
        assert len(server.presence.shown.get(box(at_home(user)), ())) == int(count), f"line {step.line}"
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


async def play_in_memory(dialog: Dialog, piece: int) -> None:
    """`piece`: how many octets come at a time."""
    waiting: list[Callable[[], None]] = []
    server = make_server(dialog.settings, waiting.append)
    connection = Connection(server.listener)
    transport = FakeTransport()
    connection.connection_made(transport)
    for step in dialog.steps:
        if step.kind == "C":
            assert not transport.written, f"line {step.line}: not expected: {bytes(transport.written)!r}"
            for start in range(0, len(step.octets), piece):
                connection.data_received(step.octets[start : start + piece])
                while waiting or connection._task is not None:
                    waiting.pop(0)() if waiting else await turns(1)
        elif step.kind == "closed":
            assert not transport.written
            assert transport.ended
        else:
            line = transport.take_line() if step.kind in LINES else b""
            while step.kind == "S*" and line[3:4] == b"-":
                line = transport.take_line()
            check_step(step, line, server)
    assert not transport.written
    if server.listener.connections:
        connection.eof_received()
        connection.connection_lost(None)
    assert not server.listener.connections and not server.listener.census.total


# --- over a socket


async def play_over_a_socket(dialog: Dialog) -> None:
    loop = asyncio.get_running_loop()
    server = make_server(dialog.settings, loop.call_soon)
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind(("127.0.0.1", 0))
    await server.listener.listen(bound)
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    try:
        async with asyncio.timeout(PATIENCE):
            for step in dialog.steps:
                if step.kind == "C":
                    writer.write(step.octets)
                elif step.kind == "closed":
                    assert await reader.read() == b""
                else:
                    line = await reader.readline() if step.kind in LINES else b""
                    while step.kind == "S*" and line[3:4] == b"-":
                        line = await reader.readline()
                    check_step(step, line, server)
            if writer.can_write_eof():
                writer.write_eof()
            assert await reader.read() == b"", "lines left over"
    finally:
        writer.close()
        await server.listener.drain(0.0)


@pytest.mark.parametrize("piece", [1 << 20, 7, 1])
@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_in_memory(path: Path, piece: int) -> None:
    asyncio.run(play_in_memory(read(path.read_text("utf-8")), piece))


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_over_a_socket(path: Path) -> None:
    asyncio.run(play_over_a_socket(read(path.read_text("utf-8"))))


# --- the player itself


def test_there_are_dialogs() -> None:
    assert len(DIALOGS) >= 60


@pytest.mark.parametrize(
    "source",
    [
        "S: 220 mx.example.test\n",
        "S: 220 mx.example.test ESMTP\nC: NOOP\nC: NOOP\nS: 250 2.0.0 OK\n",
        "S: 220 mx.example.test ESMTP\nC: NOOP\nS: 250 2.0.0 OK\nclosed\n",
        "S: 220 mx.example.test ESMTP\nC: NOOP\nS~ 250 OK\n",
        "S: 220 mx.example.test ESMTP\nA: 1\n",
        "@ terminals alice\nS: 220 mx.example.test ESMTP\nW: alice 1\n",
        "@ bogus 1\nS: 220 mx.example.test ESMTP\n",
        "C: NOOP\nS: 250 2.0.0 OK\n",
    ],
)
def test_a_dialog_that_is_wrong_fails(source: str) -> None:
    with pytest.raises(AssertionError):
        asyncio.run(play_in_memory(read(source), 1 << 20))


@pytest.mark.parametrize("source", ["X: y\n", "hello\n", "S: 220 x\n@ errors 3\n"])
def test_a_file_that_is_no_dialog(source: str) -> None:
    with pytest.raises(ValueError, match="line"):
        read(source)


def test_what_the_client_sends_leaves_in_one_write() -> None:
    sent = [step.octets for step in read("C: a\nC~ b\\x00\nC:\nS: x\nC: c\nC+ 9 d \n").steps]
    assert sent == [b"a\r\nb\0\r\n", b"", b"c\r\nd xxxxx\r\n"]
