"""TCP and Unix sockets: the port Network, by which outbound connections are made, and what a connection tells of its
two ends."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

from pillarbox.engine.ports import IpAddress

_BIND_ADDRESS_NO_PORT = 24  # the port is chosen when the target is known, so that there are more of them (ip(7))


class TcpNetwork:
    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        seconds: float,
        source: IpAddress | None = None,
    ) -> None:
        """Raises OSError, of which TimeoutError is one."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            if source is None:
                await loop.create_connection(factory, host, port)
                return
            bound = bound_to(source)
            try:
                await loop.sock_connect(bound, (host, port))
                await loop.create_connection(factory, sock=bound)
            except BaseException as error:
                bound.close()
                if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
                    raise OSError(error.errno, f"no port is left at source address {source}") from error
                raise

    async def connect_unix(self, factory: Callable[[], asyncio.Protocol], path: str, *, seconds: float) -> None:
        """Raises OSError, of which TimeoutError is one."""
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_unix_connection(factory, path)


def bound_to(source: IpAddress) -> socket.socket:
    """A socket that connects from that address. Raises OSError."""
    made = socket.socket(socket.AF_INET6 if source.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        if sys.platform == "linux":
            with suppress(OSError):  # an old kernel: then two connections can't share a port
                made.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        made.bind((str(source), 0))
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise OSError(error.errno, f"source address {source} is not on this machine") from error
        raise
    return made


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
