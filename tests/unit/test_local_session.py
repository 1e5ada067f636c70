"""A session of SMTP over the control socket: octets both ways, its end from either side, and a client that errs."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable

import pytest

from pillarbox.app.control import Line, Refused
from pillarbox.app.local_session import LocalSession
from pillarbox.engine.mail import Message
from pillarbox.engine.ports import SpoolCallback
from pillarbox.engine.service import AuthOffer, Submitters
from tests.making import make_listener, make_service


class Peer:
    """The client's end of the conversation; `None` in `lines` is its going away."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[Line | None] = asyncio.Queue()
        self.said = b""
        self.closed = False
        self.accepted: list[Message] = []
        self._heard = asyncio.Event()

    def put(self, octets: bytes) -> None:
        self.lines.put_nowait({"octets": b64encode(octets).decode()})

    async def send(self, line: Line) -> None:
        assert not self.closed
        self.closed = "closed" in line
        self.said += b64decode(line.get("octets", ""))
        self._heard.set()

    async def hears(self, octets: bytes) -> None:
        while not self.said.endswith(octets):
            self._heard.clear()
            await self._heard.wait()

    def accept(self, message: Message, done: SpoolCallback) -> None:
        self.accepted.append(message)
        asyncio.get_running_loop().call_soon(done, None)


def converse(play: Callable[[Peer], Awaitable[None]]) -> Peer:
    """One conversation, from its beginning to its end."""

    async def main() -> Peer:
        peer = Peer()
        service = make_service(auth=AuthOffer.OFF, submitters=Submitters.MACHINE)
        listener = make_listener(service, accept=peer.accept)
        session = LocalSession(listener)
        assert session.begin(peer.send) == {}
        async with asyncio.timeout(20):
            playing = asyncio.create_task(_play(play, peer))
            try:
                await session.run(peer.lines.get)
            finally:
                session.end()
                playing.cancel()
        assert not listener.connections and listener.census.total == 0
        return peer

    return asyncio.run(main())


async def _play(play: Callable[[Peer], Awaitable[None]], peer: Peer) -> None:
    await play(peer)


def test_a_message() -> None:
    async def play(peer: Peer) -> None:
        await peer.hears(b"220 mx.example.test ESMTP\r\n")
        peer.put(b"EHLO here\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@far.example>\r\nDA")
        peer.put(b"TA\r\n")
        await peer.hears(b"<CRLF>.<CRLF>\r\n")
        peer.put(b"Subject: x\r\n\r\n.\r\nQUIT\r\n")

    peer = converse(play)
    assert peer.closed and peer.said.endswith(b"221 2.0.0 Bye\r\n")
    (message,) = peer.accepted
    assert (message.peer, message.listener, str(message.envelope.sender)) == ("", "mx", "a@b.example")


@pytest.mark.parametrize("end", [{"eof": True}, None], ids=["end of input", "gone"])
def test_a_client_that_says_no_more(end: Line | None) -> None:
    async def play(peer: Peer) -> None:
        peer.put(b"EHLO here\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@far.example>\r\nDATA\r\nhalf")
        peer.lines.put_nowait(end)

    peer = converse(play)
    assert peer.closed and peer.said.endswith(b"<CRLF>.<CRLF>\r\n") and not peer.accepted


@pytest.mark.parametrize("line", [{}, {"octets": "?"}, {"octets": 5}])
def test_a_client_of_another_kind(line: Line) -> None:
    async def play(peer: Peer) -> None:
        await peer.hears(b"ESMTP\r\n")
        peer.lines.put_nowait(line)

    peers: list[Peer] = []

    async def watched(peer: Peer) -> None:
        peers.append(peer)
        await play(peer)

    with pytest.raises(Refused, match="no client of SMTP"):
        converse(watched)
    assert not peers[0].closed
