"""Proxied: a connection on a listener that believes proxies, until it is known for whom it speaks.

A peer in the listed networks must begin with a PROXY header; its client's address becomes that of the connection, and
TLS, limits and mail come behind it. Anybody else is a client like any other, and a header from them is a bad command.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from pillarbox.net.connection import Connection
from pillarbox.net.listener import Listener
from pillarbox.net.network import peer_of
from pillarbox.smtp.proxy import ProxyFault, ProxyHeader, ProxyReader

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for the header


class Proxied(asyncio.Protocol):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._reader = ProxyReader()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(self._transport)
        if self._listener.service.believes(self._peer):
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._end, "no PROXY header in time")
        else:
            self._hand_over(ProxyHeader(self._peer))

    def data_received(self, data: bytes) -> None:
        try:
            header = self._reader.feed(data)
        except ProxyFault as fault:
            self._end(f"no PROXY header: {fault}")
            return
        if header is not None:
            self._hand_over(header)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _hand_over(self, header: ProxyHeader) -> None:
        assert self._transport is not None
        if self._timer is not None:
            self._timer.cancel()
        connection = Connection(self._listener, header.source or self._peer, self._reader.rest)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)

    def _end(self, reason: str) -> None:
        log.warning("connection of %s ended: %s", self._peer, reason)
        if self._transport is not None:
            self._transport.abort()
