"""The server's side of `pillarbox sendmail -bs`: a client of the control socket as a client of SMTP on this machine.

Octets go both ways as `{"octets": BASE64}`; the client says `{"eof": true}` when it has no more, the server
`{"closed": true}` when the session is over. Between them and the session stands a pair of sockets, so that the session
is one like any other, of a listener of its own. Knows no command and no reply. Invariant: what is read from one side is
written to the other before more is read, so nothing piles up.
"""

from __future__ import annotations

import asyncio
import socket
from base64 import b64decode, b64encode
from binascii import Error
from contextlib import suppress

from pillarbox.app.control import Receive, Refused, Send
from pillarbox.net.listener import Listener

PIECE = 64 * 1024  # octets that go to the client at a time


class LocalSession:
    """Meets Conversation."""

    def __init__(self, listener: Listener) -> None:
        """`listener`: for this session alone."""
        self._listener = listener
        self._send: Send | None = None

    def begin(self, send: Send) -> object:
        self._send = send
        return {}

    async def run(self, receive: Receive) -> None:
        near, far = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=far)
        reader, writer = await asyncio.open_unix_connection(sock=near, limit=PIECE)
        self._listener.adopt(transport)
        saying = asyncio.create_task(self._say(receive, writer))
        try:
            await self._hear(reader)
        finally:
            saying.cancel()
            (said,) = await asyncio.gather(saying, return_exceptions=True)
            writer.close()
            await self._listener.drain(0)
        if isinstance(said, Exception):
            raise said
        assert self._send is not None
        await self._send({"closed": True})

    def end(self) -> None:
        self._send = None

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """Until the session is over."""
        assert self._send is not None
        with suppress(ConnectionResetError):
            while octets := await reader.read(PIECE):
                await self._send({"octets": b64encode(octets).decode()})

    async def _say(self, receive: Receive, writer: asyncio.StreamWriter) -> None:
        """Until the client has no more, or is gone."""
        try:
            while (line := await receive()) is not None and "eof" not in line:
                writer.write(_octets(line))
                await writer.drain()
            writer.write_eof()
        except Refused:
            writer.close()
            raise
        except OSError:
            pass  # the session is over


def _octets(line: dict[str, object]) -> bytes:
    try:
        return b64decode(str(line["octets"]), validate=True)
    except (KeyError, Error) as error:
        raise Refused("the client says what no client of SMTP says; it may be of another version") from error
