"""TCP and Unix sockets: the port Network, by which outbound connections are made, and what a connection tells of its
two ends."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import termios
from collections.abc import Callable
from ipaddress import ip_address


class TcpNetwork:
    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int, *, seconds: float) -> None:
        """Raises OSError, of which TimeoutError is one."""
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_connection(factory, host, port)

    async def connect_unix(self, factory: Callable[[], asyncio.Protocol], path: str, *, seconds: float) -> None:
        """Raises OSError, of which TimeoutError is one."""
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_unix_connection(factory, path)


def address_of(transport: asyncio.BaseTransport, end: str) -> str:
    """The IP address of an end, `peername` or `sockname`, without its zone; "" where the transport has none."""
    name = transport.get_extra_info(end)
    return name[0].partition("%")[0] if isinstance(name, tuple) else ""


def peer_of(transport: asyncio.BaseTransport) -> str:
    return address_of(transport, "peername")


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether the kernel holds octets from the peer that nobody has read; False where that can't be known."""
    sock = transport.get_extra_info("socket")
    try:
        return sock is not None and any(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
    except (OSError, ValueError):
        return False  # it has just gone


def is_loopback(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer is on this machine."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        return True
    peer = peer_of(transport)
    return peer != "" and ip_address(peer).is_loopback
