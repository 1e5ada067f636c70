"""Hooks on real connections: those that take their time, clients that go meanwhile, and input that comes too early."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.engine.hooks import Close, Connect, EndOfData, Greet, Hook, Mail, Refuse, Verdict
from pillarbox.engine.hooks_limits import Limits, Tallies, limit_hooks
from pillarbox.engine.hooks_pipelining import pipelining_hooks
from pillarbox.engine.service import TlsMode
from pillarbox.net.network import has_unread
from pillarbox.net.proxied import Proxied
from pillarbox.net.tls import TlsLayer
from tests.making import BOUNDS, turns
from tests.unit.test_listener import ENVELOPE, TEXT, Client, Place, run_at
from tests.unit.test_starttls import CLIENT, NAME, TlsOffice, shake

EARLY = "Sent before it was time: wait for the reply"


class Gate:
    """A hook that answers when it is told to."""

    def __init__(self, stage: type[Any]) -> None:
        self.asked = asyncio.Event()
        self.verdict: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        self.hook: Hook[Any] = Hook("gate", stage, self._check)

    def _check(self, occasion: Any) -> asyncio.Future[Verdict | None]:
        self.asked.set()
        return self.verdict


def run(main: Callable[[Place], Any], *hooks: Hook[Any], strangers: bool = False) -> None:
    """Clients are of this machine, and no strangers, but where they are to count as such."""

    def made() -> Place:
        place = Place(BOUNDS)
        serve(place, *hooks)
        if strangers:
            count_as_strangers(place)
        return place

    run_at(made, main)


def count_as_strangers(place: Place) -> None:
    """Let the clients of this machine be asked about as others are."""
    service = place.listener.service
    object.__setattr__(service, "chains", dict.fromkeys((False, True), service.chains[False]))


def serve(place: Place, *hooks: Hook[Any]) -> None:
    place.listener.service = replace(place.listener.service, hooks=hooks, relay_networks=())


def test_the_greeting_waits_for_a_hook_and_so_does_what_comes_early() -> None:
    async def main(here: Place) -> None:
        gate, seen = Gate(Connect), list[object]()
        serve(here, gate.hook, Hook("log", Close, seen.append))
        client = await here.connect()
        await gate.asked.wait()
        client.send(b"EHLO a\r\n")
        await turns()
        assert client.unread == b"" and seen == []
        gate.verdict.set_result(None)
        assert await client.codes(2) == [220, 250]
        client.reset()
        await here.until_alone()
        assert len(seen) == 1

    run(main)


@pytest.mark.parametrize("stage", [Connect, Greet])
def test_a_client_that_a_slow_hook_refuses(stage: type[Any]) -> None:
    async def main(here: Place) -> None:
        gate = Gate(stage)
        serve(here, gate.hook)
        client = await here.connect()
        await gate.asked.wait()
        gate.verdict.set_result(Refuse(r.UNAUTHORISED_PIPELINING, "no"))
        assert await client.rest() == [f"554 {EARLY}"]

    run(main)


@pytest.mark.parametrize("stage", [Connect, Greet, Mail, EndOfData])
def test_a_client_that_goes_while_a_hook_runs_takes_it_along(stage: type[Any]) -> None:
    async def main(here: Place) -> None:
        gate, seen = Gate(stage), list[object]()
        serve(here, gate.hook, Hook("log", Close, seen.append))
        client = await here.connect()
        if stage in (Mail, EndOfData):
            await client.codes()
            client.send(b"EHLO a\r\n" + ENVELOPE + TEXT)
        await gate.asked.wait()
        await turns()
        client.reset()
        await here.until_alone()
        await turns()
        assert gate.verdict.cancelled() and len(seen) == 1 and here.desk.messages == []

    run(main)


def test_one_client_that_waits_for_a_hook_holds_up_no_other() -> None:
    async def main(here: Place) -> None:
        gate = Gate(Mail)
        serve(here, gate.hook)
        waiting = await here.greeted()
        waiting.send(b"MAIL FROM:<>\r\n")
        await gate.asked.wait()
        serve(here)
        other = await here.greeted()
        other.send(ENVELOPE + TEXT)
        assert await other.codes(4) == [250, 250, 354, 250] and waiting.unread == b""
        gate.verdict.set_result(None)
        assert await waiting.codes() == [250]

    run(main)


def test_a_place_is_free_again_when_a_connection_ends() -> None:
    async def main(here: Place) -> None:
        serve(here, *limit_hooks(Limits(connections_per_address=1), Tallies(), here.clock))
        first = await here.connect("127.0.0.2")
        assert await first.codes() == [220]
        second = await here.connect("127.0.0.2")
        assert await second.rest() == ["421 Too many connections, try again later"]
        other = await here.connect("127.0.0.3")
        assert await other.codes() == [220]
        for client in (first, second):
            client.reset()
        await here.until_alone(1)
        again = await here.connect("127.0.0.2")
        assert await again.codes() == [220]

    run(main)


# --- unauthorised pipelining

BARE_ENVELOPE = (b"HELO a\r\n", b"MAIL FROM:<a@far.example>\r\n", b"RCPT TO:<alice@example.test>\r\n", b"DATA\r\n")


async def said(client: Client, *pieces: bytes) -> list[int]:
    """The codes of the replies to the pieces, each sent once the one before is answered."""
    codes = []
    for piece in pieces:
        client.send(piece)
        codes += await client.codes()
    return codes


@pytest.mark.parametrize(
    ("pieces", "last"),
    [
        ((b"EHLO a\r\nMAIL FROM:<>\r\n",), f"554 {EARLY}"),
        ((b"HELO a\r\nQ",), f"554 {EARLY}"),
        ((b"HELO a\r\n", b"MAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.test>\r\n"), f"554 5.5.0 {EARLY}"),
        ((*BARE_ENVELOPE[:2], b"RCPT TO:<alice@example.test>\r\nDATA\r\n"), f"554 5.5.0 {EARLY}"),
        ((*BARE_ENVELOPE[:3], b"DATA\r\n" + TEXT), f"554 5.5.0 {EARLY}"),
        ((b"EHLO a\r\n", *BARE_ENVELOPE[1:3], b"DATA\r\n" + TEXT), f"554 5.5.0 {EARLY}"),
        ((*BARE_ENVELOPE, TEXT + b"MAIL FROM:<smuggled@b.example>\r\n"), f"554 5.5.0 {EARLY}"),
    ],
    ids=["EHLO", "HELO", "MAIL", "RCPT", "DATA after HELO", "DATA after EHLO", "end of data"],
)
def test_who_sends_too_early_is_ended(pieces: tuple[bytes, ...], last: str) -> None:
    async def main(here: Place) -> None:
        client = await here.connect()
        await client.codes()
        await said(client, *pieces[:-1])
        client.send(pieces[-1])
        assert await client.rest() == [last] and here.desk.messages == []

    run(main, *pipelining_hooks(), strangers=True)


def test_who_speaks_before_the_greeting_is_ended() -> None:
    async def main(here: Place) -> None:
        gate = Gate(Connect)  # what a slow client of the network is: its octets have come before we look
        serve(here, gate.hook, *pipelining_hooks())
        count_as_strangers(here)
        client = await here.connect()
        await gate.asked.wait()
        client.send(b"EHLO a\r\n")
        await turns()
        gate.verdict.set_result(None)
        assert await client.rest() == [f"554 {EARLY}"]

    run(main)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"EHLO a\r\n", ENVELOPE[:-6], b"DATA\r\n"),
        (b"EHLO a\r\n", b"NOOP\r\nRSET\r\nVRFY alice\r\n"),
        (b"HELO a\r\n", *BARE_ENVELOPE[1:]),
    ],
)
def test_who_may_send_ahead_or_waits_is_served(pieces: tuple[bytes, ...]) -> None:
    async def main(here: Place) -> None:
        client = await here.connect()
        await client.codes()
        for piece in pieces:
            client.send(piece)
            assert {code // 100 for code in await client.codes(piece.count(b"\r\n"))} <= {2, 3}
        if pieces[-1] == b"DATA\r\n":
            behind = b"MAIL FROM:<>\r\n" if pieces[0].startswith(b"EHLO") else b""
            client.send(TEXT + behind)
            assert await client.codes(1 + bool(behind)) == [250] * (1 + bool(behind))

    run(main, *pipelining_hooks(), strangers=True)


def test_clients_of_this_machine_may_send_as_they_like() -> None:
    async def main(here: Place) -> None:
        client = await here.connect()
        client.send(b"HELO a\r\n" + ENVELOPE + TEXT + b"QUIT\r\n")
        assert await client.codes(7) == [220, 250, 250, 250, 354, 250, 221]

    run(main, *pipelining_hooks())


def test_octets_in_the_kernel_are_seen() -> None:
    class Ends:
        def __init__(self, sock: object) -> None:
            self.sock = sock

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return self.sock

    ours, theirs = socket.socketpair()
    transport: Any = Ends(ours)
    assert not has_unread(transport) and not has_unread(Ends(None))  # type: ignore[arg-type]
    theirs.send(b"x")
    assert has_unread(transport)
    ours.close()
    theirs.close()
    assert not has_unread(transport)


# --- under TLS, and behind a proxy


def test_the_handshake_waits_for_a_hook_and_the_refusal_comes_behind_it() -> None:
    async def main(here: TlsOffice) -> None:
        gate = Gate(Connect)
        serve(here, gate.hook)
        client = await here.connect()
        await gate.asked.wait()
        shaking = asyncio.create_task(shake(client))
        await turns()
        assert client.unread == b"" and not shaking.done()
        gate.verdict.set_result(Refuse(r.UNAUTHORISED_PIPELINING, "no"))
        await shaking
        assert await client.rest() == [f"554 {EARLY}"]

    run_at(lambda: TlsOffice(TlsMode.IMPLICIT), main)


@pytest.mark.parametrize("early", [False, True])
def test_what_comes_with_the_end_of_the_handshake_is_before_the_greeting(early: bool) -> None:
    async def main(here: TlsOffice) -> None:
        serve(here, *pipelining_hooks())
        count_as_strangers(here)
        client = await here.connect()
        layer = TlsLayer(CLIENT, server_side=False, server_hostname=NAME)
        client.send(layer.start())
        while not layer.ready:
            await turns(1)
            received = b"".join(client.chunks)
            client.chunks.clear()
            _, answer = layer.receive(received) if received else (b"", b"")
            if answer:
                client.send(answer + (layer.send(b"EHLO a\r\n") if early and layer.ready else b""))
        said = b""
        while b"\r\n" not in said:
            await turns(1)
            received = b"".join(client.chunks)
            client.chunks.clear()
            said += layer.receive(received)[0] if received else b""
        assert said.startswith(b"554 " if early else b"220 ")

    run_at(lambda: TlsOffice(TlsMode.IMPLICIT), main)


@pytest.mark.parametrize(("behind", "code"), [(b"", 220), (b"EHLO a\r\n", 554)])
def test_what_comes_with_the_proxy_header_is_before_the_greeting(behind: bytes, code: int) -> None:
    async def main(here: Place) -> None:
        serve(here, *pipelining_hooks())
        service = replace(here.listener.service, proxies=(ip_network("127.0.0.0/8"),))
        here.listener.service, here.listener.protocol = service, Proxied
        client = await here.connect()
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n" + behind)
        assert await client.codes() == [code]

    run(main)


def test_a_handshake_may_begin_in_the_segment_of_the_proxy_header() -> None:
    async def main(here: TlsOffice) -> None:
        here.listener.service = replace(here.listener.service, proxies=(ip_network("127.0.0.0/8"),))
        here.listener.protocol = Proxied
        client = await here.connect()
        layer = TlsLayer(CLIENT, server_side=False, server_hostname=NAME)
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n" + layer.start())
        while not client.chunks:
            await turns(1)
        layer.receive(b"".join(client.chunks))
        assert layer.ready

    run_at(lambda: TlsOffice(TlsMode.IMPLICIT), main)
