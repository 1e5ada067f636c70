"""Every verb, in every state, without an argument, with wrong ones, with one that is too long: through all of a server.

The reply is one that the reply table knows for the verb, and the connection lives on or closes as the code says. All in
memory, on the port of the dialogs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from pillarbox.core.table import KNOWN
from pillarbox.net.connection import Connection
from pillarbox.smtp.server import MAX_AUTH, MAX_LINE, MAX_LINES
from pillarbox.smtp.states import ServerState, Verb
from tests.making import turns
from tests.test_dialogs import FakeTransport, Server, make_server

HELLO = b"HELO client.example"
LOGIN = b"AUTH PLAIN AG93bmVyAHNlY3JldA=="  # owner, who owns a domain with mail
MAIL, RCPT = b"MAIL FROM:<>", b"RCPT TO:<alice@example.test>"
WAYS: dict[str, list[bytes]] = {
    "greeted": [],
    "said hello": [HELLO],
    "known": [HELLO, LOGIN],
    "sender": [HELLO, MAIL],
    "sender, known": [HELLO, LOGIN, MAIL],
    "refused": [HELLO, MAIL, b"RCPT TO:<nobody@example.test>"],
    "recipient": [HELLO, MAIL, RCPT],
    "to terminals": [HELLO, LOGIN, b"SEND FROM:<>", RCPT],
    "asked for a password": [HELLO, b"AUTH PLAIN"],
}
ALL = "SEND=on SOML=auth SAML=trusted TURN=auth ATRN=auth ETRN=auth EXPN=on VRFY=on"
KINDS: dict[str, dict[str, str]] = {
    "everything": {"commands": ALL, "kept": "1", "sent": "1", "terminals": "alice"},
    "the usual": {},
    "nothing": {"commands": "HELP=off VRFY=off EXPN=off", "auth": "off"},
    "classic": {"commands": ALL, "compat": "classic"},
    "on demand": {"service": "odmr", "kept": "1"},
    "no mail": {"accepts_mail": "false"},
    "no disk": {"commands": ALL, "disk": "broken", "spool": "broken"},
}
PATIENT = {"errors": "100000", "probes": "100000", "transactions": "100000", "terminal_messages": "100000"}

VERBS = [verb for verb in Verb if verb not in (Verb.CONNECT, Verb.END_OF_DATA)]
ARGUMENTS = [
    b"",
    b" ",
    b" x",
    b" \xff\xfe",
    b" FROM:<",
    b" FROM:<a@b> TO:<c@d>",
    b" FROM:<> SIZE=x",
    b" TO:<@>",
    b" TO:<alice@example.test> X=Y",
    b" KEY=VALUE",
    b" , ,",
    b" #@",
    b' "',
    b" <>",
    b" PLAIN \0",
    b" PLAIN !",
    b" \r",
    b" \n.",
]


def lines(verb: Verb) -> Iterator[bytes]:
    word = verb.value.encode() if verb is not Verb.UNKNOWN else b"WIZ"
    for argument in ARGUMENTS:
        yield word + argument
    yield word + b" " + b"x" * MAX_LINES.get(verb, MAX_LINE)
    yield word + b" " + b"x" * (2 * MAX_AUTH)


class Wire:
    """One connection to a server, in memory."""

    def __init__(self, server: Server, waiting: list[Callable[[], None]]) -> None:
        self.waiting = waiting
        self.transport = FakeTransport()
        self.connection = Connection(server.listener)
        self.connection.connection_made(self.transport)
        self.transport.written.clear()

    @property
    def state(self) -> ServerState:
        return self.connection._smtp.state

    async def say(self, line: bytes) -> int | None:
        """The code of the one reply; None where there is none."""
        self.connection.data_received(line + b"\r\n")
        while self.waiting or self.connection._task is not None:
            self.waiting.pop(0)() if self.waiting else await turns(1)
        replies = bytes(self.transport.written).split(b"\r\n")[:-1]
        self.transport.written.clear()
        last = [reply for reply in replies if reply[3:4] == b" "]
        assert len(last) <= 1, replies
        return int(last[0][:3]) if last else None

    def end(self) -> None:
        if self.state is not ServerState.SWAPPED:
            self.connection.connection_lost(None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_commands(kind: str, way: str) -> None:
    async def main() -> None:
        waiting: list[Callable[[], None]] = []
        server = make_server({"auth": "clear", **PATIENT, **KINDS[kind]}, waiting.append)
        for verb in VERBS:
            for line in lines(verb):
                wire = Wire(server, waiting)
                for before in WAYS[way]:
                    await wire.say(before)
                await check(wire, verb, line)
                wire.end()
        assert not server.listener.connections

    asyncio.run(main())


def test_the_ways_lead_where_they_say() -> None:
    async def main() -> None:
        waiting: list[Callable[[], None]] = []
        server = make_server({"auth": "clear", **PATIENT, **KINDS["everything"]}, waiting.append)
        reached = {}
        for way, before in WAYS.items():
            wire = Wire(server, waiting)
            codes = [await wire.say(line) for line in before]
            reached[way] = wire.state
            assert codes[-1:] in ([], [250], [235], [334]) or way == "refused"
            wire.end()
        assert set(reached.values()) == {
            ServerState.START,
            ServerState.READY,
            ServerState.MAIL,
            ServerState.REFUSED,
            ServerState.RCPT,
            ServerState.AUTH,
        }
        wire = Wire(server, waiting)
        assert [await wire.say(line) for line in (*WAYS["known"], b"TURN")] == [250, 235, 250]
        assert wire.state is ServerState.SWAPPED and wire.transport.ended

    asyncio.run(main())


async def check(wire: Wire, verb: Verb, line: bytes) -> None:
    before = wire.state
    code = await wire.say(line)
    asked = Verb.AUTH if before is ServerState.AUTH else verb
    assert code in KNOWN[asked.value], (before, line[:60], code)
    unreadable_chunk = asked is Verb.BDAT and code == 501  # nobody knows where the next command begins
    assert wire.transport.ended is (code in (221, 421) or unreadable_chunk or wire.state is ServerState.SWAPPED), line
    if wire.transport.ended:
        return
    if code == 354:
        assert await wire.say(b".") in KNOWN["."]
    elif code == 334:
        assert await wire.say(b"*") == 501
    elif code >= 400 and (before, verb) != (ServerState.MAIL, Verb.RCPT):
        assert wire.state is (ServerState.READY if before is ServerState.AUTH else before), line[:60]
    assert await wire.say(b"NOOP") in (200, 250, 521), line[:60]


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_in_a_message_a_command_is_text(verb: Verb) -> None:
    async def main() -> None:
        waiting: list[Callable[[], None]] = []
        server = make_server(PATIENT, waiting.append)
        wire = Wire(server, waiting)
        for before in (*WAYS["recipient"], b"DATA"):
            await wire.say(before)
        said = [line for line in lines(verb) if not {0, 10, 13} & set(line)]
        for line in said:
            assert await wire.say(line) is None
        assert await wire.say(b".") == 250
        (message,) = server.spool.accepted
        assert (message.content or b"").endswith(b"".join(line + b"\r\n" for line in said))
        wire.end()

    asyncio.run(main())
