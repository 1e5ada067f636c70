"""`pillarbox turn`, `atrn`, `etrn` in the running server: what is wrong with what was asked, and what came of it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from pillarbox.app.admin import Fetch
from pillarbox.app.control import Refused
from pillarbox.app.fetching import Fetching
from pillarbox.core.address import Domain
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.mail import Message
from pillarbox.engine.ports import SpoolBroken, SpoolCallback, SpoolError, User
from pillarbox.net.listener import Listener
from pillarbox.net.pool import Ways
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from tests.making import HOSTNAME, NoSpool, box, make_listener, make_service, turns
from tests.unit.test_sender import ScriptedServer, Wires, in_order

LOGIN = "AUTH PLAIN " + b64encode(b"\0alice\0secret").decode()
HELLO = "S 220 host ESMTP\nC EHLO .*\nS 250-host\nS 250 AUTH PLAIN\n"
KNOWN = f"{HELLO}C {LOGIN}\nS 235 Welcome\n"
SWAPPED = "S 250 OK\nC 220 .*\nS HELO host\nC 250 .*\n"
MAIL = "R MAIL FROM:<>\\r\\nRCPT TO:<alice@a.example>\\r\\nDATA\\r\\n\nC 250 .*\nC 250 .*\nC 354 .*\nS .\nC .*\n"
BYE = "S QUIT\nC 221 .*\n"


class Desk:
    """Fetching, and what comes of it. Every address leads to the one host."""

    def __init__(self, *scripts: str) -> None:
        self.server = ScriptedServer(scripts)
        loopback: dict[str, ScriptedServer | OSError] = {"127.0.0.1": self.server, "::1": self.server}
        self.wires = Wires({**loopback, "192.0.2.1": self.server})
        self.resolver = ScriptedResolver(
            addresses={
                "near.example": ["127.0.0.1"],
                "far.example": ["192.0.2.1"],
                "both.example": ["::1", "192.0.2.1"],
            }
        )
        self.fault: SpoolError | None = None
        self.listeners: list[Listener] = []
        self.clock = VirtualClock()
        ways = Ways(self.wires, self.resolver, self.clock, NoSpool(), HOSTNAME, in_order)
        self.fetching = Fetching(self._listener, lambda: ways)

    def _listener(self, name: str) -> Listener:
        away = Snapshot(domains=(Domain("a.example"),), users=(User(box("alice@a.example")),))
        service = make_service(listener=name, directory=away, clock=self.clock)
        self.listeners.append(make_listener(service, accept=self._accept))
        return self.listeners[-1]

    def _accept(self, message: Message, done: SpoolCallback) -> None:
        asyncio.get_running_loop().call_soon(done, self.fault)

    async def refused(self, wanted: Fetch) -> Refused:
        with pytest.raises(Refused) as caught:
            await self.fetching.fetch(wanted)
        return caught.value


def fetch(verb: str, host: str, *domains: str, user: str | None = "alice", password: str | None = "secret") -> Fetch:
    return Fetch(verb=verb, host=host, domains=list(domains), user=user, password=password)


def run(main: Callable[[Desk], Coroutine[Any, Any, None]], *scripts: str) -> None:
    async def opened() -> None:
        async with asyncio.timeout(10):
            here = Desk(*scripts)
            await here.server.start()
            try:
                await main(here)
            finally:
                for listener in here.listeners:
                    closing = asyncio.create_task(listener.drain(0))
                    await turns(3)
                    here.clock.advance(0)
                    await closing
                await here.server.stop()
            assert not here.server.scripts, "scripts that were not played"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(opened())


# --- what came of it


@pytest.mark.parametrize(("verb", "port"), [("turn", 25), ("atrn", 366)])
def test_mail_is_fetched_and_counted(verb: str, port: int) -> None:
    async def main(here: Desk) -> None:
        told = await here.fetching.fetch(fetch(verb, "near.example"))
        assert told == {"host": "near.example", "port": port, "reply": "250 OK", "messages": 2}
        assert here.wires.asked == [("127.0.0.1", port)]
        (listener,) = here.listeners
        assert listener.service.listener == verb and not listener.connections

    run(main, f"{KNOWN}C {verb.upper()}\n{SWAPPED}{MAIL * 2}{BYE}")


def test_what_was_not_stored_does_not_count() -> None:
    async def main(here: Desk) -> None:
        here.fault = SpoolBroken("no disk")
        assert (await here.fetching.fetch(fetch("turn", "127.0.0.1:2525")))["messages"] == 0

    run(main, f"{KNOWN}C TURN\n{SWAPPED}{MAIL}{BYE}")


def test_etrn_tells_what_was_started() -> None:
    async def main(here: Desk) -> None:
        told = await here.fetching.fetch(fetch("etrn", "[::1]:2525", "A.example", "b.example"))
        assert told == {"host": "::1", "port": 2525, "reply": "253 2 pending\n251 none", "messages": 0}

    run(main, f"{KNOWN}C ETRN a.example\nS 253 2 pending\nC ETRN b.example\nS 251 none\nC QUIT\n")


def test_what_the_host_says_is_passed_on() -> None:
    async def main(here: Desk) -> None:
        refused = await here.refused(fetch("turn", "near.example"))
        assert str(refused) == "the host says to TURN: 502 5.5.1 Nothing is queued for you" and not refused.usage

    run(main, f"{KNOWN}C TURN\nS 502 5.5.1 Nothing is queued for you\n")


def test_a_stop_of_the_server_ends_it() -> None:
    async def main(here: Desk) -> None:
        fetching = asyncio.create_task(here.fetching.fetch(fetch("turn", "near.example")))
        conversation = await here.server.conversation()
        await conversation.held[0].wait()
        closing = asyncio.create_task(here.fetching.close(30))
        await turns()
        conversation.go_on[0].set()
        assert (await fetching)["messages"] == 1
        await closing

    run(main, f"{KNOWN}C TURN\n{SWAPPED}{MAIL}H 0\nC 421 .*\nX")


# --- passwords


@pytest.mark.parametrize("host", ["far.example", "192.0.2.1"])
def test_a_password_goes_nowhere_in_clear_text_but_to_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillarbox.net.fetcher._Talk.is_loopback", False)

    async def main(here: Desk) -> None:
        refused = await here.refused(fetch("turn", host))
        assert "the password would cross the network in clear: the server offers no TLS" in str(refused)
        (talked,) = here.server.conversations
        await talked.gone.wait()
        assert [command[:4] for command in talked.commands] == ["EHLO"]

    run(main, HELLO)


def test_without_a_password_any_host_is_asked() -> None:
    async def main(here: Desk) -> None:
        await here.refused(fetch("turn", "far.example", user=None, password=None))
        assert here.wires.asked == [("192.0.2.1", 25)]

    run(main, f"{HELLO}C TURN\nS 530 5.7.0 Authentication required\n")


# --- what is wrong with what was asked


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (fetch("turn", "near.example", "a.example"), "TURN can't name domains"),
        (fetch("etrn", "near.example"), "ETRN needs the domains"),
        (fetch("etrn", "near.example", "a..example"), "a..example: "),
        (fetch("atrn", "near.example", "a.example", "-"), "a.example, -: "),
        (fetch("turn", "near.example", password=None), "--user needs a password"),
        (fetch("turn", "near.example", password=""), "--user needs a password"),
        (fetch("turn", "near.example:0"), "near.example:0: port must be a number from 1 to 65535"),
        (fetch("turn", "near.example:65536"), "near.example:65536: port must be"),
        (fetch("turn", "near.example:smtp"), "near.example:smtp: port must be"),
        (fetch("turn", "near.example:"), "near.example:: port must be"),
        (fetch("turn", "a b"), "a b: no host: "),
        (fetch("turn", ""), ": no host: "),
        (fetch("turn", "[::1"), "[::1: "),
        (fetch("turn", "[::1]:"), "[::1]:: port must be"),
        (fetch("vrfy", "near.example"), "unknown verb 'vrfy'; known: turn, etrn, atrn"),
    ],
)
def test_usage(wanted: Fetch, said: str) -> None:
    async def main(here: Desk) -> None:
        refused = await here.refused(wanted)
        assert str(refused).startswith(said) and refused.usage
        assert here.wires.asked == [] and here.listeners == []

    run(main)


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", ("127.0.0.1", 25)),
        ("127.0.0.1:2525", ("127.0.0.1", 2525)),
        ("[::1]", ("::1", 25)),
        ("[0::1]:2525", ("::1", 2525)),
        ("NEAR.example:2525", ("127.0.0.1", 2525)),
    ],
)
def test_hosts(host: str, asked: tuple[str, int]) -> None:
    async def main(here: Desk) -> None:
        await here.refused(fetch("turn", host))
        assert here.wires.asked == [asked]

    run(main, "S 554 no")


@pytest.mark.parametrize(
    ("fault", "said"),
    [(False, "nowhere.example has no address"), (True, "nowhere.example can't be looked up now: SERVFAIL")],
)
def test_a_host_that_has_no_address(fault: bool, said: str) -> None:
    async def main(here: Desk) -> None:
        if fault:
            here.resolver.fail("nowhere.example")
        refused = await here.refused(fetch("turn", "nowhere.example"))
        assert str(refused) == said and not refused.usage

    run(main)
