"""TURN, ATRN and ETRN as their client, against scripted hosts on real sockets: what is said, what comes of answers."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from pillarbox.core.address import Domain
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.mail import Message
from pillarbox.engine.ports import SpoolCallback, User
from pillarbox.net.fetcher import Errand, Fetcher, FetchError
from pillarbox.net.timeouts import Deadlines
from pillarbox.smtp.sasl import Credentials
from pillarbox.smtp.states import Verb
from tests.making import HOSTNAME, box, make_listener, make_service, turns
from tests.unit.test_sender import ScriptedServer, Wires

HOST = "192.0.2.1"
A, B = Domain("a.example"), Domain("b.example")
ALICE = Credentials("alice", "secret")
LOGIN = "AUTH PLAIN " + b64encode(b"\0alice\0secret").decode()
GREETED = "S 220 host.example ESMTP\nC EHLO mx.example.test\n"
HELLO = f"{GREETED}S 250-host.example\nS 250-ATRN\nS 250 AUTH LOGIN PLAIN\n"
KNOWN = HELLO + f"C {LOGIN}\nS 235 2.7.0 Welcome\n"
NOTHING_OFFERED = "the server offers {}: none of SCRAM-SHA-256, PLAIN, LOGIN"
SWAP = "S 250 2.0.0 OK now reversing the connection\n"


def errand(verb: Verb, *domains: Domain, credentials: Credentials | None = ALICE) -> Errand:
    return Errand("host.example", 2525, verb, domains, credentials)


class Desk:
    """Adopts connections with a listener of its own."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.adopted: list[asyncio.Transport] = []
        away = Snapshot(domains=(A,), users=(User(box("alice@a.example")),))
        self.listener = make_listener(make_service(directory=away), accept=self.accept)

    def accept(self, message: Message, done: SpoolCallback) -> None:
        self.messages.append(message)
        asyncio.get_running_loop().call_soon(done, None)

    def adopt(self, transport: asyncio.Transport) -> None:
        self.adopted.append(transport)
        self.listener.adopt(transport)


class Place:
    """A host that plays scripts, and somebody who asks it."""

    def __init__(self, *scripts: str, deadlines: Deadlines) -> None:
        self.server = ScriptedServer(scripts)
        self.wires = Wires({HOST: self.server, "192.0.2.9": ConnectionRefusedError(111, "Connection refused")})
        self.desk = Desk()
        self.fetcher = Fetcher(self.wires, hostname=HOSTNAME, deadlines=deadlines)

    async def fetch(self, wanted: Errand, *addresses: str) -> str:
        return await self.fetcher.fetch(wanted, addresses or (HOST,), self.desk.adopt)

    async def refused(self, wanted: Errand, *addresses: str) -> str:
        with pytest.raises(FetchError) as caught:
            await self.fetch(wanted, *addresses)
        assert self.desk.adopted == []
        return str(caught.value)


def run(main: Callable[[Place], Coroutine[Any, Any, None]], *scripts: str, deadlines: Deadlines | None = None) -> None:
    async def opened() -> None:
        async with asyncio.timeout(10):
            here = Place(*scripts, deadlines=deadlines or Deadlines())
            await here.server.start()
            try:
                await main(here)
            finally:
                for transport in here.desk.adopted:
                    transport.abort()
                await here.server.stop()
                await turns()
            assert not here.server.scripts, "scripts that were not played"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(opened())


# --- what is said


@pytest.mark.parametrize(
    ("wanted", "command"),
    [
        (errand(Verb.TURN), "TURN"),
        (errand(Verb.ATRN), "ATRN"),
        (errand(Verb.ATRN, A), "ATRN a.example"),
        (errand(Verb.ATRN, A, B), "ATRN a.example,b.example"),
    ],
)
def test_the_roles_change_and_mail_comes_in(wanted: Errand, command: str) -> None:
    script = (
        KNOWN
        + f"C {command}\n{SWAP}C 220 mx.example.test ESMTP\nS HELO host.example\nC 250 mx.example.test\n"
        + "R MAIL FROM:<>\\r\\nRCPT TO:<alice@a.example>\\r\\nDATA\\r\\n\nC 250 .*\nC 250 .*\nC 354 .*\n"
        + "R Subject: x\\r\\n.\\r\\nQUIT\\r\\n\nC 250 .*\nC 221 .*\n"
    )

    async def main(here: Place) -> None:
        assert await here.fetch(wanted) == "250 2.0.0 OK now reversing the connection"
        await here.desk.listener.emptied()
        conversation = await here.server.conversation()
        await conversation.gone.wait()
        assert conversation.error is None
        (message,) = here.desk.messages
        assert (message.content or b"").endswith(b"Subject: x\r\n")
        assert here.wires.asked == [(HOST, 2525)]

    run(main, script)


def test_etrn_is_said_for_each_domain_and_ends_politely() -> None:
    async def main(here: Place) -> None:
        said = await here.fetch(errand(Verb.ETRN, A, B))
        assert said == "253 2.0.0 7 pending messages for node started\n251 2.0.0 No messages waiting for node"
        conversation = await here.server.conversation()
        await conversation.gone.wait()
        assert conversation.commands[-1] == "QUIT" and here.desk.adopted == []

    started = "S 253 2.0.0 7 pending messages for node started\n"
    nothing = "S 251 2.0.0 No messages waiting for node\n"
    run(main, f"{KNOWN}C ETRN a.example\n{started}C ETRN b.example\n{nothing}C QUIT\nS 221 Bye\n")


def test_without_credentials_nobody_logs_in() -> None:
    async def main(here: Place) -> None:
        assert (await here.fetch(errand(Verb.TURN, credentials=None))).startswith("250 ")
        assert len(here.desk.adopted) == 1

    run(main, f"{HELLO}C TURN\n{SWAP}C 220 .*\nX")


# --- what each answer comes to


@pytest.mark.parametrize(
    ("script", "wanted", "said"),
    [
        ("S 554 no SMTP here", errand(Verb.TURN), "the host says to connect: 554 no SMTP here"),
        ("S 421 later\nX", errand(Verb.TURN), "the host says to connect: 421 later"),
        (f"{GREETED}S 451 later", errand(Verb.TURN), "the host says to EHLO: 451 later"),
        (f"{GREETED}S 550 no\nC HELO .*\nS 550 go away", errand(Verb.TURN), "the host says to HELO: 550 go away"),
        (f"{GREETED}S 502 what?\nC HELO .*\nS 250 host", errand(Verb.TURN), NOTHING_OFFERED.format("no AUTH")),
        (f"{GREETED}S 250 host.example", errand(Verb.TURN), NOTHING_OFFERED.format("no AUTH")),
        (
            f"{GREETED}S 250-host\nS 250 AUTH GSSAPI PLAINER",
            errand(Verb.TURN),
            NOTHING_OFFERED.format("only GSSAPI PLAINER"),
        ),
        (f"{HELLO}C AUTH .*\nS 535 5.7.8 no", errand(Verb.TURN), "the host says to AUTH: 535 5.7.8 no"),
        (f"{HELLO}C AUTH .*\nS 334 ", errand(Verb.TURN), "AUTH PLAIN: the server asks for more than PLAIN has"),
        (f"{KNOWN}C TURN\nS 502 5.5.1 no", errand(Verb.TURN), "the host says to TURN: 502 5.5.1 no"),
        (f"{KNOWN}C ATRN\nS 453 You have no mail", errand(Verb.ATRN), "the host says to ATRN: 453 You have no mail"),
        (f"{KNOWN}C ATRN\nS 421 bye\nX", errand(Verb.ATRN), "the host says to ATRN: 421 bye"),
        (f"{KNOWN}C ETRN .*\nS 459 no", errand(Verb.ETRN, A, B), "the host says to ETRN: 459 no"),
        (
            f"{KNOWN}C ETRN .*\nS 250 ok\nC ETRN .*\nS 458 no",
            errand(Verb.ETRN, A, B),
            "the host says to ETRN: 458 no",
        ),
    ],
)
def test_refusals_are_told(script: str, wanted: Errand, said: str) -> None:
    async def main(here: Place) -> None:
        assert await here.refused(wanted) == said
        conversation = await here.server.conversation()
        await conversation.gone.wait()

    run(main, script)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("X", "the connection was lost: closed by the host"),
        ("S 220 host\nX", "the connection was lost: closed by the host"),
        (f"{HELLO}C AUTH .*\nS 334 more?", "the host makes no sense: a challenge that is not base64: 'more?'"),
        (f"{HELLO}C AUTH .*\nX", "the connection was lost: closed by the host"),
        (f"{KNOWN}C TURN\nX", "the connection was lost: closed by the host"),
        (f"{KNOWN}C TURN\n!", "the connection was lost: "),
        ("R SSH-2.0-OpenSSH\\r\\n", "the host makes no sense: not a reply"),
        ("R 220 a\\n\\r\\n", "the host makes no sense: not a reply"),
        (f"{KNOWN}C TURN\nR 250-a\\r\\n251 b\\r\\n", "the host makes no sense: lines of one reply"),
        (f"{KNOWN}C TURN\nR 250 ok\\r\\nEHLO host\\r\\n", "the host sent octets behind its reply"),
        (f"{KNOWN}C TURN\nR 250 ok\\r\\n2", "the host sent octets behind its reply"),
    ],
)
def test_hosts_that_make_no_sense(script: str, said: str) -> None:
    async def main(here: Place) -> None:
        assert (await here.refused(errand(Verb.TURN))).startswith(said)

    run(main, script)


SOON = Deadlines(connect=5.0, greeting=0.02, hello=0.02, command=0.02)


@pytest.mark.parametrize(
    "script", ["W", "R 220 ho", "S 220 host\nW", f"{HELLO}C AUTH .*\nW", f"{KNOWN}C TURN\nR 250-a\\r\\n"]
)
def test_a_silent_host_is_given_up(script: str) -> None:
    async def main(here: Place) -> None:
        assert await here.refused(errand(Verb.TURN)) == "no answer within 0.02 s"
        conversation = await here.server.conversation()
        await conversation.gone.wait()  # the connection was closed

    run(main, script, deadlines=SOON)


# --- where the host is


def test_the_first_address_that_answers_is_taken() -> None:
    async def main(here: Place) -> None:
        assert (await here.fetch(errand(Verb.TURN), "192.0.2.9", HOST)).startswith("250 ")
        assert [address for address, _ in here.wires.asked] == ["192.0.2.9", HOST]

    run(main, f"{KNOWN}C TURN\n{SWAP}C 220 .*\nX")


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (("192.0.2.9",), "can't connect to 192.0.2.9 port 2525: [Errno 111] Connection refused"),
        (("192.0.2.9", "192.0.2.9"), "can't connect to 192.0.2.9 port 2525: [Errno 111] Connection refused"),
    ],
)
def test_where_nobody_answers(addresses: tuple[str, ...], said: str) -> None:
    async def main(here: Place) -> None:
        assert await here.refused(errand(Verb.TURN), *addresses) == said

    run(main)


def test_a_host_without_an_address() -> None:
    async def main(here: Place) -> None:
        with pytest.raises(FetchError, match="host.example has no address"):
            await here.fetcher.fetch(errand(Verb.TURN), (), here.desk.adopt)

    run(main)


def test_who_gives_up_asking_closes_the_connection() -> None:
    async def main(here: Place) -> None:
        asking = asyncio.create_task(here.fetch(errand(Verb.TURN)))
        conversation = await here.server.conversation()
        await conversation.held[0].wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        conversation.go_on[0].set()
        await conversation.gone.wait()
        assert here.desk.adopted == []

    run(main, f"{KNOWN}C TURN\nH 0\nW")
