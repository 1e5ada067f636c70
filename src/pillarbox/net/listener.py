"""A listening socket: which connections it admits, how long they may last, and how they end when we stop.

Deadlines come from one coarse sweep for each listener. What a connection does is in `connection.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pillarbox.adapters.tls_contexts import Context
from pillarbox.core import reply as r
from pillarbox.core.address import Domain
from pillarbox.core.reply import Reply
from pillarbox.engine.answers import Answers
from pillarbox.engine.mail import Message
from pillarbox.engine.ports import FateCallback, Spool, Timer
from pillarbox.engine.service import Service
from pillarbox.net.connection import Connection
from pillarbox.net.unix import SocketFile

BACKLOG = 4096  # connections the kernel holds until we take them


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a listener bears."""

    connections: int
    idle: float  # seconds without an octet from the client
    session_time: float  # seconds from connect to close


class Census:
    """How many connections there are, of all listeners together."""

    def __init__(self) -> None:
        self.total = 0

    def enter(self) -> None:
        self.total += 1

    def leave(self) -> None:
        self.total -= 1


class HandOver(Protocol):
    """Takes a connection whose roles have changed: we are the client on it now."""

    def __call__(
        self, transport: asyncio.Transport, domains: tuple[Domain, ...], *, peer: str, ended: Callable[[], None]
    ) -> None: ...


class Listener:
    """One listening socket and its connections."""

    def __init__(
        self,
        service: Service,
        bounds: Bounds,
        *,
        spool: Spool,
        accept: Callable[[Message, FateCallback], None],
        answers: Answers,
        hand_over: HandOver,
        tls: Callable[[], Context],
        census: Census,
    ) -> None:
        self.service = service  # of the connections that come from now on
        self.answers = answers
        self.hand_over = hand_over
        self.tls = tls  # the context for a new connection
        self.protocol: Callable[[Listener], asyncio.Protocol] = Connection  # of a new connection
        self.bounds = bounds
        self.spool = spool
        self.accept = accept
        self.clock = service.clock
        self.connections: set[Connection] = set()
        self.census = census
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None
        self._sweep: Timer | None = None
        self._emptied = asyncio.Event()
        self.closing = False

    async def listen(self, sock: socket.socket) -> None:
        """Accept on a bound socket."""
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._file = SocketFile.of(sock)
        self._server = await create(lambda: self.protocol(self), sock=sock, backlog=BACKLOG)
        self._schedule_sweep()

    def adopt(self, transport: asyncio.Transport) -> None:
        """Be the server on a connection that we made, once its roles have changed (RFC 821 §3.8)."""
        connection = Connection(self)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._emptied.clear()
        if self._sweep is None:
            self._schedule_sweep()

    async def emptied(self) -> None:
        """Until an adopted connection has ended."""
        await self._emptied.wait()

    def admit(self, connection: Connection) -> Reply | None:
        """Count the connection in; the refusal, if any."""
        self.connections.add(connection)
        self.census.enter()
        if self.closing:
            return r.CONNECT_CLOSING
        return None if self.census.total <= self.bounds.connections else r.CONNECT_TOO_MANY

    def dismiss(self, connection: Connection) -> None:
        self.census.leave()
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """It is no connection of this listener any more, though it may be one still."""
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()

    def _schedule_sweep(self) -> None:
        self._sweep = self.clock.call_later(min(max(self.bounds.idle / 10, 0.05), 5.0), self._swept)

    def _swept(self) -> None:
        now = self.clock.monotonic()
        for connection in list(self.connections):
            connection.check(now)
        self._schedule_sweep()

    async def drain(self, grace: float) -> None:
        """Take no more connections, send 421 to the idle ones, let transactions end within so many seconds."""
        self.closing = True
        if self._file is not None:
            self._file.remove()
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.drain()
        if self.connections:
            self._emptied.clear()
            timer = self.clock.call_later(grace, self._emptied.set)
            await self._emptied.wait()
            timer.cancel()
        for connection in list(self.connections):
            connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()
