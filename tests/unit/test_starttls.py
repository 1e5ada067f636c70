"""A listener with TLS on real sockets: STARTTLS, and the handshake that comes first; the client's TLS is not ours."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest

from pillarbox.core import reply as r
from pillarbox.engine.service import AuthOffer, Service, TlsMode
from pillarbox.net.connection import INPUT_HELD, LINGER, OUTPUT_HELD, Connection
from pillarbox.net.listener import Bounds
from pillarbox.net.tls import Secured, TlsLayer
from pillarbox.net.tls_exporting import ExportingLayer
from tests.making import BOUNDS, turns
from tests.unit.test_listener import EHLO, IDLE, Client, Main, run_at
from tests.unit.test_listener_questions import KEPT, Office, Peer, auth
from tests.unit.test_tls_layer import AUTHORITY, KINDS, LARGE, client_context, server_context

NAME = "mx.example.test"
CERTIFICATE = AUTHORITY.issue_cert(NAME)
SERVERS = {kind: make(CERTIFICATE) for kind, make in KINDS.items()}
CLIENT = client_context()
GREETING = "220 mx.example.test ESMTP"
STARTTLS = b"STARTTLS\r\n"
START_TLS = "220 2.0.0 Ready to start TLS"
MAIL = b"MAIL FROM:<from@far.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"
TEXT = b"Subject: x\r\n\r\nbody\r\n.\r\n"


class TlsOffice(Office):
    """An office with a certificate. `kind`: by what its listener has TLS."""

    kind = "ssl"

    def __init__(self, mode: TlsMode = TlsMode.STARTTLS, bounds: Bounds = BOUNDS, **changes: Any) -> None:
        self.mode = mode
        self.changes = changes
        super().__init__(bounds)
        self.listener.tls = lambda: SERVERS[self.kind]

    def service(self, name: str = "mx", **changes: Any) -> Service:
        return super().service(name, **{"tls": self.mode, **self.changes, **changes})

    async def started(self) -> Client:
        """A client who has been told to begin the handshake."""
        client = await self.greeted()
        client.send(STARTTLS)
        assert await client.replies() == [START_TLS]
        return client

    async def secured(self, *, ehlo: bool = True) -> Client:
        """A client under TLS, whichever way it comes there."""
        client = await (self.connect() if self.mode is TlsMode.IMPLICIT else self.started())
        await shake(client)
        if self.mode is TlsMode.IMPLICIT:
            assert await client.replies() == [GREETING]
        if ehlo:
            client.send(EHLO)
            assert await client.codes() == [250]
        return client


async def shake(client: Client) -> None:
    loop = asyncio.get_running_loop()
    transport = await loop.start_tls(client.transport, client, CLIENT, server_hostname=NAME)
    client.transport = cast(asyncio.Transport, transport)


async def offered(client: Client) -> list[str]:
    """The keywords of the reply to EHLO."""
    client.send(EHLO)
    lines = [await client.line()]
    while lines[-1][3] == "-":
        lines.append(await client.line())
    return [line[4:].partition(" ")[0] for line in lines[1:]]


P = TypeVar("P")


def run(main: Main[TlsOffice], mode: TlsMode = TlsMode.STARTTLS, bounds: Bounds = BOUNDS, **changes: Any) -> None:
    run_at(lambda: TlsOffice(mode, bounds, **changes), faultless(main))


def faultless(main: Callable[[P], Coroutine[Any, Any, None]]) -> Callable[[P], Coroutine[Any, Any, None]]:
    """With nothing raised into the event loop."""

    async def watched(here: P) -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        await main(here)
        await turns()
        assert faults == []

    return watched


@pytest.fixture(params=KINDS, autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All with each of the two layers that a server may have."""
    monkeypatch.setattr(TlsOffice, "kind", request.param)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are on no loopback address."""
    monkeypatch.setattr("pillarbox.engine.service._is_loopback", lambda peer: False)


both = pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT], ids=lambda mode: mode.value)


# --- STARTTLS


def test_all_begins_again_behind_the_handshake() -> None:
    """RFC 3207 §4.2."""

    async def main(here: TlsOffice) -> None:
        client = await here.greeted(ehlo=False)
        assert "STARTTLS" in await offered(client)
        client.send(STARTTLS)
        assert await client.replies() == [START_TLS]
        await shake(client)
        client.send(b"MAIL FROM:<>\r\n")
        assert await client.replies() == [str(r.NEED_HELO)]
        assert "STARTTLS" not in await offered(client)
        client.send(STARTTLS)
        assert await client.replies() == [str(r.TLS_ACTIVE)]
        client.send(MAIL + TEXT)
        assert await client.codes(4) == [250, 250, 354, 250]
        (message,) = here.desk.messages
        assert (message.protocol, message.helo) == ("ESMTPS", "client.example")

    run(main)


@both
def test_the_session_is_given_the_channel(mode: TlsMode) -> None:
    async def main(here: TlsOffice) -> None:
        await here.secured()
        secured = here.connection._transport
        assert isinstance(secured, Secured)
        assert here.connection._session._client.channel is secured.layer

    run(main, mode)


def test_who_was_known_is_known_no_more() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.known()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<x@far.example>\r\nRSET\r\n" + STARTTLS)
        assert await client.codes(4) == [250, 250, 250, 220]
        await shake(client)
        client.send(EHLO + b"MAIL FROM:<>\r\nRCPT TO:<x@far.example>\r\nRSET\r\n" + auth())
        assert await client.codes(5) == [250, 250, 550, 250, 235]
        client.send(MAIL + TEXT)
        assert await client.codes(4) == [250, 250, 354, 250]
        assert here.desk.messages[0].protocol == "ESMTPSA"

    run(main)


@pytest.mark.usefixtures("far")
@both
def test_passwords_are_taken_under_tls_only(mode: TlsMode) -> None:
    async def main(here: TlsOffice) -> None:
        if mode is TlsMode.STARTTLS:
            client = await here.greeted(ehlo=False)
            assert "AUTH" not in await offered(client)
            client.send(auth())
            assert await client.replies() == [str(r.AUTH_NEEDS_TLS)]
            assert here.porter.asked == []
        client = await here.secured(ehlo=False)
        assert "AUTH" in await offered(client)
        client.send(auth())
        assert await client.codes() == [235]

    run(main, mode, auth=AuthOffer.TLS)


@pytest.mark.parametrize("behind", [b"EHLO injected\r\n", b"\r\n", b"\x16\x03\x01", b"NOOP\r\n" * 30_000])
def test_octets_behind_the_command_close_the_connection(behind: bytes) -> None:
    """RFC 3207 §4.2, the command injection of 2011 and after."""

    async def main(here: TlsOffice) -> None:
        client = await here.greeted()
        client.send(STARTTLS + behind)
        assert await client.rest() in ([], [START_TLS])  # the reply may be lost with the connection
        await here.until_alone()

    run(main)


def test_commands_before_it_in_one_write_are_answered() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.greeted()
        client.send(b"NOOP\r\nRSET\r\n" + STARTTLS)
        assert await client.codes(3) == [250, 250, 220]
        await shake(client)
        assert "STARTTLS" not in await offered(client)

    run(main)


def test_a_client_that_was_not_read_from_meanwhile() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.asking()
        count = INPUT_HELD // 6 + 1000
        client.send(b"NOOP\r\n" * count + STARTTLS)
        while here.connection._reading:
            await turns(1)
        here.porter.open.set()
        assert await client.codes(count + 2) == [235, *[250] * count, 220]
        await shake(client)
        assert "STARTTLS" not in await offered(client)

    run(main)


def test_a_client_that_reads_slowly_in_the_handshake() -> None:
    """What the event loop says when the reply has filled the output."""

    async def main(here: TlsOffice) -> None:
        client = await here.started()
        here.connection.pause_writing()
        here.connection.resume_writing()
        await shake(client)
        assert "STARTTLS" not in await offered(client)

    run(main)


@pytest.mark.parametrize(
    ("before", "command", "reply"),
    [
        (b"", STARTTLS, r.NEED_HELO),
        (EHLO, b"STARTTLS now\r\n", r.NO_ARGUMENT_ALLOWED),
        (EHLO + b"MAIL FROM:<>\r\n", STARTTLS, r.IN_TRANSACTION),
    ],
    ids=["before EHLO", "argument", "transaction"],
)
def test_where_it_has_no_place(before: bytes, command: bytes, reply: r.Reply) -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.greeted(ehlo=False)
        client.send(before + command + b"NOOP\r\n")
        assert (await client.replies(before.count(b"\n") + 2))[-2:] == [str(reply), str(r.NOOP_OK)]

    run(main)


@pytest.mark.parametrize("mode", [TlsMode.OFF, TlsMode.IMPLICIT], ids=lambda mode: mode.value)
def test_where_it_is_not_offered(mode: TlsMode) -> None:
    async def main(here: TlsOffice) -> None:
        client = await (here.greeted(ehlo=False) if mode is TlsMode.OFF else here.secured(ehlo=False))
        assert "STARTTLS" not in await offered(client)
        client.send(STARTTLS)
        assert await client.replies() == [str(r.NOT_IMPLEMENTED)]

    run(main, mode)


# --- the handshake comes first


def test_the_greeting_comes_behind_the_handshake() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.connect()
        await turns()
        assert client.unread == b""
        await shake(client)
        assert await client.replies() == [GREETING]
        client.send(EHLO + MAIL + TEXT)
        assert await client.codes(5) == [250, 250, 250, 354, 250]
        assert here.desk.messages[0].protocol == "ESMTPS"

    run(main, TlsMode.IMPLICIT)


@both
def test_plain_text_instead_of_a_handshake(mode: TlsMode) -> None:
    async def main(here: TlsOffice) -> None:
        client = await (here.connect() if mode is TlsMode.IMPLICIT else here.started())
        client.send(EHLO + MAIL)
        await ended(client)
        assert b"250" not in client.unread
        await here.until_alone()
        await here.secured()

    run(main, mode)


async def ended(client: Client) -> None:
    while not (client.ended or client.lost.is_set()):
        await turns(1)


def test_a_refused_connection_is_told_so_behind_the_handshake() -> None:
    async def main(here: TlsOffice) -> None:
        await here.secured()
        client = await here.connect()
        await shake(client)
        assert await client.rest() == [str(r.CONNECT_TOO_MANY)]

    run(main, TlsMode.IMPLICIT, Bounds(connections=1, idle=300.0, session_time=3600.0))


def half_a_hello(client: Client) -> None:
    layer = TlsLayer(CLIENT, server_side=False, server_hostname=NAME)
    client.send(layer.start()[:20])


@pytest.mark.parametrize("begin", [lambda client: None, half_a_hello], ids=["silent", "half a hello"])
@both
def test_a_client_that_stalls_in_the_handshake(mode: TlsMode, begin: Callable[[Client], None]) -> None:
    async def main(here: TlsOffice) -> None:
        client = await (here.connect() if mode is TlsMode.IMPLICIT else here.started())
        begin(client)
        await turns()
        here.clock.advance(IDLE + 1)
        await ended(client)
        assert client.unread == b""  # nothing can be said
        here.clock.advance(LINGER + 5)
        await here.until_alone()
        await here.secured()

    run(main, mode)


def test_a_handshake_that_ends_too_late() -> None:
    """While the connection lingers already."""

    async def main(here: TlsOffice) -> None:
        client = await here.started()
        layer = TlsLayer(CLIENT, server_side=False, server_hostname=NAME)
        client.send(layer.start())
        while not client.unread:
            await turns(1)
        _, finished = layer.receive(client.unread)
        here.clock.advance(IDLE + 1)
        await ended(client)
        client.send(finished + layer.send(EHLO))
        await turns()
        here.clock.advance(LINGER + 5)
        await here.until_alone()

    run(main)


def test_a_drain_in_the_handshake() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.started()
        half_a_hello(client)
        await turns()
        draining = asyncio.create_task(here.listener.drain(5.0))
        await ended(client)
        await turns(3)
        here.clock.advance(5.0)
        await draining
        await here.until_alone()

    run(main)


# --- the end


@both
def test_an_idle_client_is_told_421(mode: TlsMode) -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.secured()
        here.clock.advance(IDLE + 1)
        assert await client.rest() == [str(r.IDLE)]

    run(main, mode)


@both
def test_a_drain_tells_421(mode: TlsMode) -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.secured()
        draining = asyncio.create_task(here.listener.drain(5.0))
        assert await client.rest() == [str(r.CLOSING)]
        await turns(3)
        here.clock.advance(5.0)
        await draining

    run(main, mode)


def living() -> int:
    return sum(type(found) in (Connection, TlsLayer, ExportingLayer) for found in gc.get_objects())


def test_what_a_connection_took_is_free_at_once() -> None:
    """No cycle is left, so that nobody has to search for garbage."""

    async def main(here: TlsOffice) -> None:
        gc.collect()
        gc.disable()
        try:
            client = await here.secured()
            assert living() == 2  # a connection and its layer
            client.send(MAIL + TEXT + b"QUIT\r\n")
            assert (await client.rest())[-1] == str(r.BYE)
            await here.until_alone()
            await turns()
            assert living() == 0
        finally:
            gc.enable()

    run(main)


def test_a_drain_of_connections_that_linger() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.secured()
        here.clock.advance(IDLE + 1)
        assert await client.rest() == [str(r.IDLE)]
        draining = asyncio.create_task(here.listener.drain(0))
        await turns(3)
        here.clock.advance(0)
        await draining
        await here.until_alone()

    run(main)


class ByHand:
    """TLS above a client, octet by octet where need be."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.layer = TlsLayer(CLIENT, server_side=False, server_hostname=NAME)
        self.taken = len(client.chunks)

    async def shake(self) -> None:
        self.client.send(self.layer.start())
        while not self.layer.ready:
            await self.read()

    async def read(self) -> bytes:
        while len(self.client.chunks) == self.taken:
            assert not (self.client.ended or self.client.lost.is_set())
            await turns(1)
        chunks, self.taken = self.client.chunks[self.taken :], len(self.client.chunks)
        plain, answer = self.layer.receive(b"".join(chunks))
        if answer:
            self.client.send(answer)
        return plain

    async def until(self, mark: bytes) -> bytes:
        found = b""
        while mark not in found:
            found += await self.read()
        return found


def test_the_farewell_of_a_client_behind_quit_does_not_reset_the_connection() -> None:
    """A reset would take the last reply from a client that has not read it yet."""

    async def main(here: TlsOffice) -> None:
        client = await here.started()
        by_hand = ByHand(client)
        await by_hand.shake()
        client.send(by_hand.layer.send(EHLO + b"QUIT\r\n"))
        assert (await by_hand.until(b"221")).endswith(f"{r.BYE}\r\n".encode())
        await ended(client)
        client.send(by_hand.layer.close())
        await here.until_alone()  # at once
        assert by_hand.layer.ended
        sock = client.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    run(main)


def test_a_farewell_ends_the_connection_though_no_fin_comes() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.started()
        by_hand = ByHand(client)
        await by_hand.shake()
        client.send(by_hand.layer.send(EHLO + b"NOOP\r\n") + by_hand.layer.close())
        assert (await by_hand.until(b"250 2.0.0")).endswith(f"{r.NOOP_OK}\r\n".encode())
        await here.until_alone()

    run(main)


def test_what_was_sent_before_the_farewell_is_still_answered() -> None:
    async def main(here: TlsOffice) -> None:
        here.porter.open.clear()
        client = await here.started()
        by_hand = ByHand(client)
        await by_hand.shake()
        client.send(by_hand.layer.send(EHLO + auth()) + by_hand.layer.close())
        while not here.porter.asked:
            await turns(1)
        await turns()
        here.porter.open.set()
        assert b"235 " in await by_hand.until(b"235 ")
        await here.until_alone()

    run(main)


def test_it_does_not_matter_how_octets_are_cut() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.started()
        by_hand = ByHand(client)
        for octet in by_hand.layer.start():
            client.send(bytes([octet]))
            await turns(1)
        while not by_hand.layer.ready:
            await by_hand.read()
        for octet in by_hand.layer.send(EHLO + MAIL + TEXT):
            client.send(bytes([octet]))
            await turns(1)
        await by_hand.until(b"queued as")
        assert [message.protocol for message in here.desk.messages] == ["ESMTPS"]

    run(main)


def test_octets_that_were_tampered_with_end_the_connection() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.started()
        by_hand = ByHand(client)
        await by_hand.shake()
        client.send(by_hand.layer.send(EHLO + MAIL)[:-1] + b"!")
        with pytest.raises(Exception, match="bad record mac"):
            await by_hand.until(b"250 ")
        await here.until_alone()
        assert here.desk.messages == []

    run(main)


def test_a_large_message() -> None:
    text = b"Subject: x\r\n\r\n" + b"".join(b"%08d\r\n" % number for number in range(len(LARGE) // 12))

    async def main(here: TlsOffice) -> None:
        client = await here.secured()
        client.send(MAIL)
        assert await client.codes(3) == [250, 250, 354]
        client.send(text + b".\r\n")
        assert await client.codes() == [250]
        (message,) = here.desk.messages
        whole = b"".join(here.desk.spilled.values()) + (message.content or b"")
        assert whole.endswith(text)

    run(main)


def test_a_client_that_never_reads_is_bounded_and_cut_when_idle() -> None:
    async def main(here: TlsOffice) -> None:
        client = await here.secured()
        connection = here.connection
        client.transport.pause_reading()
        largest = 0
        for _ in range(400):
            client.send(EHLO * 2000)
            await turns(1)
            largest = max(largest, connection._transport.get_write_buffer_size())
        assert connection._output_full
        assert largest <= OUTPUT_HELD + 128 * 1024
        assert len(connection._smtp.input) <= 1024 * 1024
        here.clock.advance(IDLE + 1)
        await here.until_alone()

    run(main)


# --- a change of roles


def test_a_change_of_roles_keeps_the_layer() -> None:
    async def main(here: TlsOffice) -> None:
        here.keep(1)
        client = await here.secured()
        client.send(auth() + b"TURN\r\n")
        assert await client.codes(2) == [235, 250]
        ((transport, domains, peer),) = here.swaps.taken
        assert isinstance(transport, Secured) and (domains, peer) == ((KEPT,), "127.0.0.1")
        protocol = Peer()
        transport.set_protocol(protocol)
        client.send(b"220 client.example\r\n")
        while not protocol.octets:
            await turns(1)
        assert protocol.octets == b"220 client.example\r\n"
        transport.write(b"EHLO mx.example.test\r\n")
        assert await client.line() == "EHLO mx.example.test"
        transport.close()
        await protocol.lost.wait()
        assert await client.rest() == []
        here.swaps.ended[0]()

    run(main)


def test_mail_that_comes_behind_a_change_of_roles_is_marked() -> None:
    """The connection was made by us, with TLS, and a listener has adopted it."""

    async def main(here: TlsOffice) -> None:
        here.keep(1)
        client = await here.secured()
        client.send(auth() + b"TURN\r\n")
        assert await client.codes(2) == [235, 250]
        here.listener.service = here.service(tls=TlsMode.OFF)
        here.listener.adopt(here.swaps.taken[0][0])
        assert await client.replies() == [GREETING]
        client.send(EHLO + MAIL + TEXT)
        assert await client.codes(5) == [250, 250, 250, 354, 250]
        assert here.desk.messages[0].protocol == "ESMTPS"
        here.swaps.ended[0]()

    run(main)


def test_a_new_certificate_is_for_new_connections() -> None:
    """The context is asked for at each handshake."""
    other = server_context(AUTHORITY.issue_cert("other.example"))

    async def main(here: TlsOffice) -> None:
        open_one = await here.secured()
        here.listener.tls = lambda: other
        client = await here.started()
        with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example|mismatch"):
            await shake(client)
        open_one.send(b"NOOP\r\n")
        assert await open_one.codes() == [250]

    run(main)
