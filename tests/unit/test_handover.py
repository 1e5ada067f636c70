"""Connections whose roles have changed, on real sockets and a real spool: what leaves, and what stays when it breaks.

The peer connects to us and becomes the server: it plays a script as in `test_sender.py`, or it is a listener of ours.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from pillarbox.adapters.instant import KEPT, InstantMailer
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.address import Domain
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.ids import IdSource
from pillarbox.engine.mail import Message, State
from pillarbox.engine.ports import SpoolBroken, SpoolCallback, User
from pillarbox.engine.queue import Lane
from pillarbox.engine.routing import Route
from pillarbox.net import handover
from pillarbox.net.handover import HandOvers
from pillarbox.net.network import TcpNetwork
from pillarbox.net.pool import Ways
from pillarbox.net.timeouts import Deadlines
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from tests.making import HOSTNAME, NoSpool, box, make_listener, make_message, make_queue, make_service, turns
from tests.unit.test_sender import Conversation, in_order

AWAY, OTHER = Domain("away.example"), Domain("other.example")
OWNER = User(box("owner@example.test"), owns=(AWAY, OTHER))
DIRECTORY = Snapshot(domains=(Domain("example.test"),), relay_domains=(AWAY, OTHER), users=(OWNER,))
TEXT = b"Subject: x\r\n\r\n.dot\r\nlast\r\n"
DELIVERED, WAITS, FAILED = State.DELIVERED, State.SCHEDULED, State.FAILED


class Exchange:
    """A queue with mail that waits for its owner, and the hand-overs."""

    def __init__(self, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        self.clock = VirtualClock()
        self.spool = SqliteSpool(folder / "spool.db", folder / "bodies", loop)
        self.ids = IdSource(self.clock, self.spool.last_id)
        self.queue = make_queue(self.spool, self.clock, DIRECTORY, open_lane=self._open_lane, ids=self.ids)
        ways = Ways(TcpNetwork(), ScriptedResolver(), self.clock, self.spool, HOSTNAME, in_order)
        self.hand_overs = HandOvers(self.queue, lambda: ways)
        self.ended = asyncio.Event()
        self.ends = 0
        self.peers: list[Conversation] = []

    def _open_lane(self, name: str, route: Route) -> Lane:
        return Lane(InstantMailer(KEPT, asyncio.get_running_loop()), 100)

    # --- the mail

    async def keep(self, *recipients: str, content: bytes = TEXT) -> Message:
        message = make_message(self.ids.next(), *(recipients or ("x@away.example",)), content=content)
        safe = asyncio.Event()
        self.queue.accept(message, lambda error: safe.set())
        await safe.wait()
        while State.LEASED in await self.states():
            await turns(1)
        return message

    async def rows(self) -> list[tuple[State, int]]:
        """State and attempts of every recipient of what was kept."""
        found = await self.spool.query(
            "SELECT state, attempts FROM recipient JOIN message ON id = message WHERE listener = 'mx'"
            " ORDER BY message, number"
        )
        return [(State(state), attempts) for state, attempts in found]

    async def states(self) -> list[State]:
        return [state for state, _ in await self.rows()]

    async def settled(self) -> list[tuple[State, int]]:
        """The same, once the hand-over is over and every outcome is written."""
        await self.ended.wait()
        while State.LEASED in await self.states() or self.queue._tasks:
            await turns(1)
        return await self.rows()

    # --- the connection

    async def transport(self) -> tuple[asyncio.Transport, socket.socket]:
        """Our end, and the socket of the peer that has connected."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[asyncio.Transport] = loop.create_future()

        class Arrived(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                arrived.set_result(cast(asyncio.Transport, transport))

        bound = socket.create_server(("127.0.0.1", 0))
        server = await loop.create_server(Arrived, sock=bound)
        peer = socket.create_connection(bound.getsockname())
        peer.setblocking(False)
        transport = await arrived
        server.close()
        return transport, peer

    async def hand_over(self, script: str, *domains: Domain) -> Conversation:
        """A peer that plays the script has said TURN."""
        transport, peer = await self.transport()
        conversation = Conversation(script, *await asyncio.open_connection(sock=peer))
        self.peers.append(conversation)
        self.take(transport, *domains)
        self._playing = asyncio.create_task(conversation.play())
        return conversation

    def take(self, transport: asyncio.Transport, *domains: Domain) -> None:
        self.ended.clear()
        self.hand_overs.take(transport, domains or (AWAY,), peer="127.0.0.1", ended=self._ended)

    def _ended(self) -> None:
        self.ends += 1
        self.ended.set()

    async def close(self) -> None:
        for peer in self.peers:
            peer.left.set()
            for held in peer.go_on:
                held.set()
        closing = asyncio.create_task(self.hand_overs.close(0))
        await closing
        await self.queue.close(0)
        await self.spool.close()
        for peer in self.peers:
            await peer.gone.wait()


def run(folder: Path, main: Callable[[Exchange], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        async with asyncio.timeout(20):
            here = Exchange(folder)
            try:
                await main(here)
            finally:
                await here.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(opened())


# --- scripts of a peer that is the server now

PLAIN = "S 220 away.example\nC EHLO mx.example.test\nS 250 away.example\n"
TOGETHER = "S 220 away.example\nC EHLO mx.example.test\nS 250-away.example\nS 250-PIPELINING\nS 250 8BITMIME\n"
MAIL, RCPT = "C MAIL FROM:.*\nS 250 Ok\n", "C RCPT TO:.*\nS 250 Ok\n"
DATA, END = "C DATA\nS 354 Go\nB\n", "S 250 2.0.0 Taken\n"
ONE = MAIL + RCPT + DATA + END
BYE = "C QUIT\nS 221 Bye\n"
ONE_TOGETHER = "C MAIL FROM:.*\nC RCPT TO:.*\nC DATA\nS 250 Ok\nS 250 Ok\nS 354 Go\nB\nS 250 Taken\n"


# --- all goes well


@pytest.mark.parametrize(
    "script", [PLAIN + ONE * 3 + BYE, TOGETHER + ONE_TOGETHER * 3 + BYE], ids=["plain", "together"]
)
def test_everything_that_waits_leaves_over_one_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    caplog.set_level(logging.INFO, "pillarbox.net.handover")

    async def main(here: Exchange) -> None:
        for number in range(3):
            await here.keep(f"u{number}@away.example", content=b"Subject: %d\r\n\r\n.dot\r\n" % number)
        peer = await here.hand_over(script)
        assert await here.settled() == [(DELIVERED, 1)] * 3
        await peer.gone.wait()
        assert peer.error is None and here.ends == 1
        assert peer.messages == [b"Subject: %d\r\n\r\n.dot\r\n" % number for number in range(3)]
        recipients = [line for line in peer.commands if line.startswith("RCPT")]
        assert recipients == [f"RCPT TO:<u{number}@away.example>" for number in range(3)]
        assert await here.spool.query("SELECT 1 FROM body") == []

    run(tmp_path, main)
    assert caplog.messages == ["mail of away.example: 3 messages handed over to [127.0.0.1]"]


def test_nothing_leaves_but_the_mail_of_the_domains(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        await here.keep("a@away.example", "b@other.example", "c@away.example")
        await here.keep("d@other.example")
        await here.hand_over(PLAIN + MAIL + RCPT * 2 + DATA + END + BYE)
        assert await here.settled() == [(DELIVERED, 1), (WAITS, 0), (DELIVERED, 1), (WAITS, 0)]
        await here.hand_over(PLAIN + ONE * 2 + BYE, AWAY, OTHER)
        assert await here.settled() == [(DELIVERED, 1)] * 4

    run(tmp_path, main)


def test_what_comes_meanwhile_leaves_too(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        await here.keep()
        peer = await here.hand_over(PLAIN + MAIL + RCPT + "C DATA\nS 354 Go\nB\nH 0\n" + END + ONE + BYE)
        await peer.held[0].wait()
        late = make_message(here.ids.next(), "late@away.example")
        here.queue.accept(late, lambda error: None)
        while (await here.states())[1:] != [WAITS]:
            await turns(1)
        peer.go_on[0].set()
        assert await here.settled() == [(DELIVERED, 1)] * 2

    run(tmp_path, main)


def test_a_peer_that_knows_no_extensions_is_greeted_by_helo(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        await here.keep()
        greeting = "S 220 away.example\nC EHLO .*\nS 502 what?\nC HELO mx.example.test\nS 250 away.example\n"
        await here.hand_over(greeting + ONE + BYE)
        assert await here.settled() == [(DELIVERED, 1)]

    run(tmp_path, main)


# --- both of them ours


class Desk(NoSpool):
    """Takes what a listener accepts, and puts large texts together."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.spilled: dict[int, bytes] = {}

    def accept(self, message: Message, done: SpoolCallback) -> None:
        self.messages.append(message)
        asyncio.get_running_loop().call_soon(done, None)

    def spill(self, message: int, octets: bytes, done: SpoolCallback) -> None:
        self.spilled[message] = self.spilled.get(message, b"") + octets
        asyncio.get_running_loop().call_soon(done, None)

    def text(self, number: int) -> bytes:
        """Without the Received field of the one who took it."""
        message = self.messages[number]
        whole = self.spilled.get(message.id, b"") + (message.content or b"")
        return whole.partition(b";\r\n\t")[2].partition(b"\r\n")[2]


async def accept_from_us(here: Exchange) -> tuple[Desk, asyncio.Event]:
    """A listener of ours at the other end."""
    desk, over = Desk(), asyncio.Event()
    away = Snapshot(domains=(AWAY,), users=tuple(User(box(f"u{number}@away.example")) for number in range(9)))
    service = make_service(hostname=AWAY, directory=away, clock=here.clock)
    listener = make_listener(service, spool=desk, accept=desk.accept)
    transport, peer = await here.transport()
    theirs, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=peer)
    here.take(transport)
    listener.adopt(theirs)

    async def until_over() -> None:
        await listener.emptied()
        over.set()

    here._playing = asyncio.create_task(until_over())
    return desk, over


def test_from_one_of_us_to_another(tmp_path: Path) -> None:
    texts = [
        TEXT,
        b"Subject: 8-bit\r\n\r\n\xff\xfe\r\n",
        b"Subject: large\r\n\r\n" + b"." * 70_000 + b"\r\n" + b"x" * 300_000 + b"\r\n",
        b"",
        b"\r\n.\r\n..\r\n",
    ]

    async def main(here: Exchange) -> None:
        for number, text in enumerate(texts):
            await here.keep(f"u{number}@away.example", content=text)
        desk, over = await accept_from_us(here)
        assert await here.settled() == [(DELIVERED, 1)] * len(texts)
        await over.wait()
        assert [desk.text(number) for number in range(len(texts))] == texts
        assert [str(message.envelope.recipients[0].address) for message in desk.messages] == [
            f"u{number}@away.example" for number in range(len(texts))
        ]

    run(tmp_path, main)


def test_who_is_not_known_there_is_settled_as_in_any_delivery(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        await here.keep("u1@away.example", "nobody@away.example")
        await here.keep("ghost@away.example")
        desk, over = await accept_from_us(here)
        assert await here.settled() == [(DELIVERED, 1), (FAILED, 1), (FAILED, 1)]
        await over.wait()
        assert len(desk.messages) == 1
        notices = await here.spool.query(
            "SELECT address FROM message JOIN recipient ON message = id WHERE listener='notice'"
        )
        assert notices == [("from@far.example",)] * 2

    run(tmp_path, main)


# --- something breaks


BROKEN_BEFORE = [
    "X",
    "!",
    "S 554 no SMTP here\nW",
    "S 421 later\nX",
    "S 450 later",
    "R hello\\r\\n",
    "S 220 away.example\nX",
    "S 220 away.example\nC EHLO .*\n!",
    "S 220 away.example\nC EHLO .*\nS 421 later\nX",
    "S 220 away.example\nC EHLO .*\nS 450 later",
    "S 220 away.example\nC EHLO .*\nS 502 what?\nC HELO .*\nS 502 what?",
    "S 220 away.example\nC EHLO .*\nR 250 a\\n250 b\\r\\n",
]


@pytest.mark.parametrize("script", BROKEN_BEFORE)
def test_a_peer_that_is_no_server_gets_nothing_and_all_waits_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    async def main(here: Exchange) -> None:
        await here.keep()
        await here.keep()
        await here.hand_over(script)
        assert await here.settled() == [(WAITS, 0)] * 2
        assert here.ends == 1

    run(tmp_path, main)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "mail of away.example is still here: [127.0.0.1]: " in caplog.text


# What one recipient of the first message has come to, and how many messages the peer has taken.
BROKEN_AT: list[tuple[str, State, int]] = [
    (PLAIN + "C MAIL .*\nX", WAITS, 1),
    (PLAIN + "C MAIL .*\n!", WAITS, 1),
    (PLAIN + "C MAIL .*\nS 421 bye\nX", WAITS, 1),
    (PLAIN + MAIL + "C RCPT .*\n!", WAITS, 1),
    (PLAIN + MAIL + RCPT + "C DATA\nX", WAITS, 1),
    (PLAIN + MAIL + RCPT + "C DATA\nS 354 Go\n!", WAITS, 1),
    (PLAIN + MAIL + RCPT + "C DATA\nS 354 Go\nP 9\n!", WAITS, 1),
    (PLAIN + MAIL + RCPT + DATA + "X", WAITS, 1),  # RFC 1047: it may have it, and gets it again
    (PLAIN + MAIL + RCPT + DATA + "S 421 bye\nX", WAITS, 1),
    (PLAIN + MAIL + RCPT + DATA + "R what?\\r\\n", WAITS, 1),
    (PLAIN + ONE + "X", DELIVERED, 1),
    (PLAIN + ONE + "C MAIL .*\n!", DELIVERED, 1),  # nothing was tried on the second
    (TOGETHER + "C MAIL .*\nC RCPT .*\n!", WAITS, 1),
    (TOGETHER + "C MAIL .*\nC RCPT .*\nC DATA\nS 250 Ok\nS 250 Ok\nX", WAITS, 1),
]


@pytest.mark.parametrize(("script", "first", "attempts"), BROKEN_AT)
def test_a_peer_that_goes_in_the_middle(tmp_path: Path, script: str, first: State, attempts: int) -> None:
    """What was in flight is settled or waits, the rest waits untouched; the next time all of it leaves."""

    async def main(here: Exchange) -> None:
        for number in range(3):
            await here.keep(f"u{number}@away.example")
        await here.hand_over(script)
        assert await here.settled() == [(first, attempts), (WAITS, 0), (WAITS, 0)]
        left = 2 if first is DELIVERED else 3
        peer = await here.hand_over(PLAIN + ONE * left + BYE)
        assert {state for state, _ in await here.settled()} == {DELIVERED}
        await peer.gone.wait()
        assert peer.error is None and here.ends == 2
        taken = [line for line in peer.commands if line.startswith("RCPT")]
        assert taken == [f"RCPT TO:<u{number}@away.example>" for number in range(3 - left, 3)]

    run(tmp_path, main)


def test_killed_in_the_middle_nothing_is_lost(tmp_path: Path) -> None:
    """The process ends while a message is in flight: what the disk knows is enough."""

    async def main(here: Exchange) -> None:
        for _ in range(3):
            await here.keep()
        peer = await here.hand_over(PLAIN + ONE + MAIL + "H 0\n")
        await peer.held[0].wait()
        await here.spool.errand(lambda connection: None)  # what was settled is written
        assert await here.states() == [DELIVERED, State.LEASED, State.LEASED]

    run(tmp_path, main)  # the end of it cuts the connection, and nothing is told of what was in flight

    async def again(here: Exchange) -> None:
        assert [state for state, _ in await here.rows()] == [DELIVERED, WAITS, WAITS]
        await here.hand_over(PLAIN + ONE * 2 + BYE)
        assert [state for state, _ in await here.settled()] == [DELIVERED] * 3

    run(tmp_path, again)


def test_a_recipient_put_off_is_not_tried_again_by_the_same_connection(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        await here.keep("u0@away.example", "u1@away.example")
        await here.keep("u2@away.example")
        rcpts = "C RCPT TO:.*\nS 450 later\n" + RCPT
        peer = await here.hand_over(PLAIN + MAIL + rcpts + DATA + END + ONE + BYE)
        assert await here.settled() == [(WAITS, 1), (DELIVERED, 1), (DELIVERED, 1)]
        await peer.gone.wait()
        assert peer.error is None

    run(tmp_path, main)


def test_a_message_with_more_recipients_than_are_taken_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is tried once, though all are put off."""
    monkeypatch.setattr(handover, "BATCH", 3)

    async def main(here: Exchange) -> None:
        await here.keep(*(f"u{number}@away.example" for number in range(8)))
        await here.keep("last@away.example")
        rcpts = "C RCPT TO:.*\nS 450 later\n" * 8
        peer = await here.hand_over(PLAIN + MAIL + rcpts + "C RSET\nS 250 Ok\n" + ONE + BYE)
        assert await here.settled() == [(WAITS, 1)] * 8 + [(DELIVERED, 1)]
        await peer.gone.wait()
        assert peer.error is None

    run(tmp_path, main)


def test_a_silent_peer_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main(here: Exchange) -> None:
        await here.keep()
        peer = await here.hand_over("H 0\n")
        await peer.held[0].wait()
        here.clock.advance(Deadlines().greeting - 2)
        await turns()
        assert not here.ended.is_set()
        here.clock.advance(4)
        assert await here.settled() == [(WAITS, 0)]
        peer = await here.hand_over(PLAIN + "C MAIL .*\nH 0\n")
        await peer.held[0].wait()
        here.clock.advance(Deadlines().mail + 2)
        assert await here.settled() == [(WAITS, 1)]

    run(tmp_path, main)
    assert "no answer in time" in caplog.text


# --- our own disk breaks


def test_a_disk_that_cannot_be_read_ends_it_politely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(here: Exchange) -> None:
        await here.keep()

        async def broken(*_: object) -> None:
            raise SpoolBroken("no disk")

        with monkeypatch.context() as patch:
            patch.setattr(here.spool, "lease_at", broken)
            peer = await here.hand_over(PLAIN + BYE)
            await here.ended.wait()
        assert await here.settled() == [(WAITS, 0)]
        await peer.gone.wait()
        assert peer.commands[-1] == "QUIT"

    run(tmp_path, main)
    assert "mail of away.example is still here: [127.0.0.1]: no disk" in caplog.text


def test_a_text_that_cannot_be_read_breaks_the_connection_and_loses_nothing(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        for _ in range(2):
            await here.keep()

        def lose(connection: Any) -> None:
            connection.execute("DELETE FROM body WHERE message = (SELECT min(message) FROM body)")

        await here.spool.errand(lose)
        await here.hand_over(PLAIN + MAIL + RCPT + "C DATA\nS 354 Go\nW")
        assert await here.settled() == [(WAITS, 1), (WAITS, 0)]

    run(tmp_path, main)


def test_a_bug_is_logged_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(here: Exchange) -> None:
        await here.keep()

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(here.queue, "take", broken)
            await here.hand_over(PLAIN + BYE)
            await here.ended.wait()
        assert await here.settled() == [(WAITS, 0)] and here.ends == 1

    run(tmp_path, main)
    assert "bug in a connection with changed roles" in caplog.text and "ZeroDivisionError" in caplog.text


# --- the end


def test_close_lets_a_message_end_and_keeps_the_rest(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        for _ in range(3):
            await here.keep()
        peer = await here.hand_over(PLAIN + MAIL + RCPT + "C DATA\nS 354 Go\nB\nH 0\n" + END + BYE)
        await peer.held[0].wait()
        closing = asyncio.create_task(here.hand_overs.close(30))
        await turns()
        assert not closing.done()
        peer.go_on[0].set()
        await closing
        assert await here.settled() == [(DELIVERED, 1), (WAITS, 0), (WAITS, 0)]
        await peer.gone.wait()
        assert peer.commands[-1] == "QUIT"

    run(tmp_path, main)


@pytest.mark.parametrize(
    ("script", "rows"),
    [
        ("H 0\n", [(WAITS, 0), (WAITS, 0)]),
        (PLAIN + MAIL + "H 0\n", [(WAITS, 1), (WAITS, 0)]),
        (PLAIN + ONE + MAIL + "H 0\n", [(DELIVERED, 1), (WAITS, 1)]),
    ],
)
def test_close_cuts_what_takes_too_long(tmp_path: Path, script: str, rows: list[tuple[State, int]]) -> None:
    async def main(here: Exchange) -> None:
        for _ in range(2):
            await here.keep()
        peer = await here.hand_over(script)
        await peer.held[0].wait()
        await here.hand_overs.close(0)
        assert await here.settled() == rows and here.ends == 1

    run(tmp_path, main)


def test_what_comes_behind_the_close_is_let_go(tmp_path: Path) -> None:
    async def main(here: Exchange) -> None:
        await here.keep()
        await here.hand_overs.close(0)
        peer = await here.hand_over("S 220 away.example\nW")
        assert here.ends == 1
        await peer.gone.wait()
        assert await here.settled() == [(WAITS, 0)]
        assert peer.commands == []

    run(tmp_path, main)


def test_several_at_a_time(tmp_path: Path) -> None:
    """Two connections for one domain: each message leaves by one of them."""

    async def main(here: Exchange) -> None:
        for number in range(6):
            await here.keep(f"u{number}@away.example")
        peers = [
            await here.hand_over(PLAIN + "H 0\n" + "C (MAIL|QUIT).*\nS 250 Ok\n" + RCPT + DATA + END + ONE * 5 + BYE)
        ]
        peers.append(await here.hand_over(PLAIN + BYE))
        await peers[1].gone.wait()
        peers[0].go_on[0].set()
        while set(await here.states()) != {DELIVERED}:
            await turns(1)
        assert peers[1].error is None and len(peers[0].messages) == 6

    run(tmp_path, main)
