"""The server's driver while a session asks a port, and while the roles of a connection change: on real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.mail import State
from pillarbox.engine.ports import SpoolBroken, User
from pillarbox.engine.queue import Queue
from pillarbox.engine.service import COMMANDS, Access, Service
from pillarbox.engine.session import Session
from pillarbox.net.connection import Connection
from pillarbox.net.listener import Bounds, Census, Listener
from pillarbox.sim.presence import ImaginedPresence
from pillarbox.smtp.states import Verb
from tests.making import (
    BOUNDS,
    MemorySpool,
    Porter,
    Stored,
    Swaps,
    box,
    make_answers,
    make_listener,
    make_message,
    make_queue,
    make_service,
    turns,
)
from tests.unit.test_listener import EHLO, TEXT, Client, Main, Place, run_at

KEPT = Domain("kept.example")
ALICE = User(box("alice@example.test"), owns=(KEPT,))
BOB = User(box("bob@example.test"))
SECRET = {("alice", "secret"): ALICE, ("bob", "secret"): BOB}
EVERYTHING = {verb: Access.ON for verb in COMMANDS} | dict.fromkeys((Verb.TURN, Verb.ATRN, Verb.ETRN), Access.AUTH)
DIRECTORY = Snapshot(domains=(Domain("example.test"),), relay_domains=(KEPT,), users=(ALICE, BOB))


def auth(name: str = "alice", password: str = "secret") -> bytes:
    return b"AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode()) + b"\r\n"


class SlowPorter(Porter):
    """Answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.open = asyncio.Event()
        self.open.set()
        self.given_up = 0
        self.late_bug: Exception | None = None

    async def check(self, name: str, password: str) -> User | None:
        found = await super().check(name, password)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.late_bug is not None:
            raise self.late_bug
        return found


class SlowPresence(ImaginedPresence):
    """Shows when the test lets it."""

    def __init__(self) -> None:
        super().__init__([ALICE.mailbox])
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def show(self, user: Mailbox, text: str) -> int:
        self.asked.set()
        await self.gate.wait()
        return await super().show(user, text)


class Office(Place):
    """A place whose ports take their time."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        super().__init__(bounds)
        self.porter = SlowPorter()
        self.presence = SlowPresence()
        self.kept = MemorySpool()
        self.queue: Queue = make_queue(self.kept, self.clock, DIRECTORY)
        self.swaps = Swaps()
        self.census = Census()
        self.listener = make_listener(
            self.service(),
            bounds,
            spool=self.desk,
            accept=self.desk.accept,
            answers=make_answers(
                accounts=self.porter, presence=self.presence, spool=self.kept, queue=self.queue, clock=self.clock
            ),
            hand_over=self.swaps,
            census=self.census,
        )

    def service(self, name: str = "mx", **changes: Any) -> Service:
        presence = getattr(self, "presence", ImaginedPresence())
        usual = {"commands": EVERYTHING, "presence": presence, "directory": DIRECTORY, "errors": 3}
        return make_service(listener=name, clock=self.clock, ids=self.ids, **{**usual, **changes})

    def keep(self, count: int) -> None:
        """Messages that wait for alice."""
        for _ in range(count):
            message = make_message(self.ids.next(), "x@kept.example")
            self.kept.messages[message.id] = message
            (recipient,) = message.envelope.recipients
            self.kept.rows[message.id, 0] = Stored(recipient, State.SCHEDULED, 2e9, lane="turn:kept.example")

    async def asking(self) -> Client:
        """A client whose password is being checked."""
        self.porter.open.clear()
        client = await self.greeted()
        client.send(auth())
        while not self.porter.asked:
            await turns(1)
        return client

    async def known(self) -> Client:
        client = await self.greeted()
        client.send(auth())
        assert await client.codes() == [235]
        return client


def run(main: Main[Office], bounds: Bounds = BOUNDS) -> None:
    run_at(lambda: Office(bounds), main)


# --- a question is open


def test_what_comes_during_a_question_is_answered_behind_it_and_in_order() -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        client.send(b"NOOP\r\nVRFY bob\r\nMAIL FROM:<>\r\nRCPT TO:<x@far.example>\r\nBOO\r\n")
        await turns()
        assert client.unread == b""
        before = len(client.chunks)
        here.porter.open.set()
        assert await client.codes(6) == [235, 250, 250, 250, 250, 500]
        assert len(client.chunks) == before + 1
        assert here.porter.asked == [("alice", "secret")]

    run(main)


def test_one_client_that_waits_for_an_answer_holds_up_no_other() -> None:
    async def main(here: Office) -> None:
        waiting = await here.asking()
        other = await here.greeted()
        other.send(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n" + TEXT)
        assert await other.codes(4) == [250, 250, 354, 250]
        assert waiting.unread == b""

    run(main)


def test_a_client_that_goes_during_a_question_takes_it_along() -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        client.reset()
        await here.until_alone()
        await turns()
        assert here.porter.given_up == 1
        assert here.census.total == 0

    run(main)


def test_a_client_that_only_listens_during_a_question_gets_its_reply() -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        client.transport.write_eof()
        await turns()
        assert not client.ended
        here.porter.open.set()
        assert [line[:3] for line in await client.rest()] == ["235"]
        await here.until_alone()

    run(main)


def test_a_client_that_waits_for_an_answer_is_not_idle() -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        here.clock.advance(2 * BOUNDS.idle)
        await turns()
        assert not client.ended
        here.porter.open.set()
        assert await client.codes() == [235]
        here.clock.advance(BOUNDS.idle + 5)
        assert [line[:9] for line in await client.rest()] == ["421 4.4.2"]

    run(main)


def test_a_drain_waits_for_an_answer() -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        draining = asyncio.create_task(here.listener.drain(30))
        await turns()
        assert client.unread == b""
        here.porter.open.set()
        assert [line[:9] for line in await client.rest()] == ["235 2.7.0", "421 4.3.2"]
        client.transport.close()
        await draining

    run(main)


def test_a_drain_gives_up_a_question_with_its_grace() -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        draining = asyncio.create_task(here.listener.drain(30))
        await turns()
        here.clock.advance(31)
        await draining
        assert [line[:9] for line in await client.rest()] == ["421 4.3.2"]
        await here.until_alone()
        await turns()
        assert here.porter.given_up == 1

    run(main)


def test_a_bug_of_a_port_is_421_for_who_asked_and_for_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main(here: Office) -> None:
        here.porter.bug = ZeroDivisionError()
        client, other = await here.greeted(), await here.greeted()
        client.send(auth() + b"NOOP\r\n")
        assert await client.rest() == ["421 4.3.0 Internal error, closing transmission channel"]
        other.send(b"NOOP\r\n")
        assert await other.codes() == [250]
        client.transport.close()
        await here.until_alone(1)

    run(main)
    assert "ZeroDivisionError" in caplog.text
    assert "bug while answering a question of a session with 127.0.0.1" in caplog.text


def test_a_bug_of_a_port_behind_the_end_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        here.porter.late_bug = ZeroDivisionError()
        here.porter.open.set()
        here.connection.abort()  # as a drain does when its grace is over
        assert [line[:9] for line in await client.rest()] == ["421 4.3.2"]
        await here.until_alone()
        await turns()

    run(main)
    assert [record.name for record in caplog.records] == ["pillarbox.net.connection"]
    assert "ZeroDivisionError" in caplog.text


# --- one question behind the other


ENVELOPE = b" FROM:<bob@example.test>\r\nRCPT TO:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n"


async def showing(here: Office, verb: bytes) -> Client:
    """A client whose message has come."""
    client = await here.greeted()
    client.send(verb + ENVELOPE)
    assert await client.codes(4) == [250, 250, 250, 354]
    client.send(TEXT)
    return client


def test_soml_is_shown_and_then_stored_for_the_others() -> None:
    async def main(here: Office) -> None:
        here.desk.prompt = False
        here.presence.gate.clear()
        client = await showing(here, b"SOML")
        await here.presence.asked.wait()
        await turns()
        assert here.desk.messages == [] and client.unread == b""
        here.presence.gate.set()
        await here.desk.until_asked()
        (message,) = here.desk.messages
        assert [recipient.address for recipient in message.envelope.recipients] == [BOB.mailbox]
        await turns()
        assert client.unread == b""
        client.send(b"NOOP\r\n")
        here.desk.answer()
        assert await client.replies(2) == [f"250 2.0.0 queued as {message.id}", "250 2.0.0 OK"]

    run(main)


def test_saml_is_stored_and_then_shown() -> None:
    async def main(here: Office) -> None:
        here.desk.prompt = False
        here.presence.gate.clear()
        client = await showing(here, b"SAML")
        await here.desk.until_asked()
        assert not here.presence.asked.is_set()
        here.desk.answer()
        await here.presence.asked.wait()
        await turns()
        assert client.unread == b""
        here.presence.gate.set()
        (message,) = here.desk.messages
        assert await client.replies() == [f"250 2.0.0 queued as {message.id}"]
        assert list(here.presence.shown) == [ALICE.mailbox]

    run(main)


@pytest.mark.parametrize(("verb", "stored"), [(b"SOML", 0), (b"SAML", 1)])
def test_who_goes_while_it_is_shown_undoes_nothing(verb: bytes, stored: int) -> None:
    async def main(here: Office) -> None:
        here.presence.gate.clear()
        client = await showing(here, verb)
        await here.presence.asked.wait()
        client.reset()
        await here.until_alone()
        here.presence.gate.set()
        await turns()
        assert len(here.desk.messages) == stored and here.desk.dropped == []
        assert here.presence.shown == {}

    run(main)


def test_who_goes_between_two_questions_has_the_message_stored_and_not_shown() -> None:
    async def main(here: Office) -> None:
        here.desk.prompt = False
        client = await showing(here, b"SAML")
        await here.desk.until_asked()
        client.reset()
        await here.until_alone()
        here.desk.answer()
        await turns()
        assert len(here.desk.messages) == 1 and here.presence.shown == {}

    run(main)


def test_what_saml_can_not_store_is_not_shown() -> None:
    async def main(here: Office) -> None:
        here.desk.fault = SpoolBroken("no disk")
        client = await showing(here, b"SAML")
        assert await client.codes() == [451]
        assert here.presence.shown == {}

    run(main)


# --- the length of a session


def test_a_session_does_not_last_for_ever() -> None:
    async def main(here: Office) -> None:
        client = await here.greeted()
        for _ in range(11):
            here.clock.advance(50)
            client.send(b"NOOP\r\n")
            assert await client.codes() == [250]
        here.clock.advance(55)
        assert await client.rest() == [str(r.TOO_LONG_A_SESSION)]

    run(main, replace(BOUNDS, session_time=600.0))


def test_a_session_that_is_over_lets_a_question_be_answered() -> None:
    async def main(here: Office) -> None:
        client = await here.asking()
        here.clock.advance(700)
        await turns()
        here.porter.open.set()
        assert await client.codes() == [235]
        here.clock.advance(5)
        assert await client.rest() == [str(r.TOO_LONG_A_SESSION)]

    run(main, replace(BOUNDS, session_time=600.0))


# --- a listener that takes no mail


def test_a_listener_that_takes_no_mail() -> None:
    async def main(here: Office) -> None:
        here.listener.service = here.service(accepts_mail=False, errors=100)
        client = await here.connect()
        assert await client.replies() == ["521 mx.example.test does not accept mail"]
        client.send(EHLO + b"NOOP\r\nMAIL FROM:<>\r\nBOO\r\nQUIT now\r\nQUIT\r\n")
        assert await client.codes(6) == [521, 521, 521, 521, 501, 221]
        assert await client.rest() == []

    run(main)


# --- the roles change


class Peer(asyncio.Protocol):
    """Has a connection that was handed over."""

    def __init__(self) -> None:
        self.octets = b""
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.octets += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@pytest.mark.parametrize("command", [b"TURN\r\n", b"ATRN\r\n", b"ATRN kept.example\r\n"])
def test_a_connection_is_handed_over(command: bytes) -> None:
    async def main(here: Office) -> None:
        here.keep(2)
        client = await here.known()
        client.send(command)
        assert await client.replies() == ["250 2.0.0 OK now reversing the connection"]
        ((transport, domains, peer),) = here.swaps.taken
        assert (domains, peer) == ((KEPT,), "127.0.0.1")
        assert not here.listener.connections  # neither a sweep nor a drain looks at it any more
        assert here.census.total == 1  # but it is one of those that are counted
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
        here.swaps.ended[0]()
        assert here.census.total == 0

    run(main)


@pytest.mark.parametrize("behind", [b"220 too early\r\n", b"2", b"\r\n", b"NOOP\r\n" * 30_000])
def test_octets_behind_the_swap_close_the_connection(behind: bytes) -> None:
    async def main(here: Office) -> None:
        here.keep(1)
        client = await here.known()
        client.send(b"TURN\r\n" + behind)
        assert await client.rest() in ([], [str(r.TURN_OK)])  # the reply may be lost with the connection
        assert here.swaps.taken == []
        await here.until_alone()
        assert here.census.total == 0
        assert {row.state for row in here.kept.rows.values()} == {State.SCHEDULED}

    run(main)


def test_a_client_that_sends_no_more_gets_no_other_role() -> None:
    async def main(here: Office) -> None:
        here.keep(1)
        client = await here.known()
        client.send(b"TURN\r\n")
        client.transport.write_eof()
        assert await client.rest() in ([], [str(r.TURN_OK)])
        await here.until_alone()
        assert here.swaps.taken == [] and here.census.total == 0

    run(main)


def test_a_client_that_goes_during_the_question_is_not_handed_over() -> None:
    async def main(here: Office) -> None:
        here.keep(1)
        client = await here.known()
        client.send(b"TURN\r\n")
        client.reset()
        await here.until_alone()
        await turns()
        assert here.swaps.taken == [] and here.census.total == 0

    run(main)


def test_a_turn_that_is_refused_leaves_the_session_as_it_was() -> None:
    async def main(here: Office) -> None:
        client = await here.known()
        client.send(b"TURN\r\nATRN\r\nETRN kept.example\r\nMAIL FROM:<>\r\nTURN\r\nRSET\r\n")
        assert await client.codes(6) == [502, 453, 458, 250, 503, 250]
        here.kept.lease_fault = SpoolBroken("no disk")
        client.send(b"TURN\r\nATRN\r\nNOOP\r\n")
        assert await client.codes(3) == [451, 451, 250]
        assert here.swaps.taken == []

    run(main)


def test_a_drain_does_not_wait_for_what_was_handed_over() -> None:
    async def main(here: Office) -> None:
        here.keep(1)
        client = await here.known()
        client.send(b"TURN\r\n")
        assert await client.codes() == [250]
        await here.listener.drain(30)
        assert not client.lost.is_set()
        here.swaps.taken[0][0].abort()

    run(main)


# --- a connection that we made


async def adopted(here: Office, listener: Listener | None = None) -> Client:
    """A peer that was connected to by us, and has become the client."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Client] = loop.create_future()

    def arrived() -> Client:
        client = Client()
        accepted.set_result(client)
        return client

    bound = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(arrived, sock=bound)
    transport, _ = await loop.create_connection(asyncio.Protocol, *bound.getsockname())
    client = await accepted
    while not hasattr(client, "transport"):
        await turns(1)
    here.clients.append(client)
    (listener or here.listener).adopt(transport)
    server.close()
    return client


def test_we_are_the_server_on_a_connection_that_we_made() -> None:
    async def main(here: Office) -> None:
        client = await adopted(here)
        assert await client.replies() == ["220 mx.example.test ESMTP"]
        emptied = asyncio.create_task(here.listener.emptied())
        client.send(EHLO + b"MAIL FROM:<>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n" + TEXT)
        assert await client.codes(5) == [250, 250, 250, 354, 250]
        await turns()
        assert not emptied.done()
        client.send(b"QUIT\r\n")
        assert await client.codes() == [221]
        await emptied
        assert len(here.desk.messages) == 1 and here.census.total == 0

    run(main)


def test_an_adopted_connection_that_is_silent_is_told_421() -> None:
    """Also by a listener that has no socket of its own."""

    async def main(here: Office) -> None:
        listener = make_listener(here.service())
        client = await adopted(here, listener)
        assert await client.codes() == [220]
        here.clock.advance(BOUNDS.idle + 5)
        assert [line[:9] for line in await client.rest()] == ["421 4.4.2"]
        client.transport.close()
        await listener.emptied()
        await listener.drain(0)

    run(main)


def test_an_adopted_connection_counts_like_any_other() -> None:
    async def main(here: Office) -> None:
        await here.greeted()
        client = await adopted(here)
        assert await client.rest() == ["421 Too many connections, try again later"]
        client.transport.close()
        await here.until_alone(1)

    run(main, replace(BOUNDS, connections=1))


def test_an_adopted_connection_that_is_gone_already_ends_at_once() -> None:
    async def main(here: Office) -> None:
        client = await adopted(here)
        client.reset()
        await here.listener.emptied()
        assert here.census.total == 0

    run(main)


# --- a reply that the table does not know


def test_a_reply_outside_the_table_is_sent_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, replies_outside_the_table: list[str]
) -> None:
    async def main(here: Office) -> None:
        client = await here.greeted()
        handle = Session.handle
        monkeypatch.setattr(Session, "handle", lambda session, event: r.MAILBOX_FULL)
        client.send(b"NOOP\r\n")
        assert await client.replies() == [str(r.MAILBOX_FULL)]
        monkeypatch.setattr(Session, "handle", handle)
        client.send(b"NOOP\r\n")
        assert await client.codes() == [250]

    run(main)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert replies_outside_the_table == [
        f"defect: a reply that the reply table does not know: {r.MAILBOX_FULL} to NOOP"
    ]
    replies_outside_the_table.clear()


def test_a_connection_without_an_address_is_one_too() -> None:
    """As over a Unix socket: nobody to count by, nobody to trust."""

    class Nameless(asyncio.Transport):
        def write(self, data: Any) -> None:
            self.written = bytes(data)

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

    async def main(here: Office) -> None:
        connection = Connection(here.listener)
        transport = Nameless()
        connection.connection_made(transport)
        assert (connection.peer, transport.written) == ("", b"220 mx.example.test ESMTP\r\n")
        connection.connection_lost(None)
        assert here.census.total == 0

    run(main)
