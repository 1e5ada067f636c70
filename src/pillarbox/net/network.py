"""TCP: the port Network, by which outbound connections are made, and what a connection tells of its two ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address


class TcpNetwork:
    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int, *, seconds: float) -> None:
        """Raises OSError, of which TimeoutError is one."""
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_connection(factory, host, port)


def address_of(transport: asyncio.BaseTransport, end: str) -> str:
    """The IP address of an end, `peername` or `sockname`, without its zone; "" where the transport has none."""
    name = transport.get_extra_info(end)
    return name[0].partition("%")[0] if isinstance(name, tuple) else ""


def peer_of(transport: asyncio.BaseTransport) -> str:
    return address_of(transport, "peername")


def is_loopback(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer is on this machine."""
    peer = peer_of(transport)
    return peer != "" and ip_address(peer).is_loopback
