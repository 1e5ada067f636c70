"""The sockets of the listeners: bound all or none, before root is given up, and let go again.

What is bound stays bound over a reload, by the listener's name and address. Knows no service.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pillarbox.app.config_listener import ListenerConfig
from pillarbox.app.config_values import UnixSocket
from pillarbox.net.unix import SocketFile, bind_unix

FilesAs = Callable[[], AbstractContextManager[None]]
ListenerKey = tuple[str, str]  # name and address: what makes a listener the same one after a reload


def key(listener: ListenerConfig) -> ListenerKey:
    return listener.name, str(listener.address)


def printed(bound: socket.socket) -> str:
    """As in the line that says where we listen."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


PRIVILEGED = (
    "; a port below 1024 needs CAP_NET_BIND_SERVICE, or root at the start: where `user` made the server give root up, "
    "restart it instead of a reload"
)


class PortInUse(Exception):
    """A listener's address can't be had; the text says which and why."""


def bind(listener: ListenerConfig, files_as: FilesAs = nullcontext) -> socket.socket:
    """The listener's socket, bound. `files_as`: in it the file of a Unix socket is made. Raises PortInUse."""
    endpoint = listener.address
    if isinstance(endpoint, UnixSocket):
        with files_as():
            return _bind_unix(listener, endpoint)
    family = socket.AF_INET6 if endpoint.ip.version == 6 else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        bound.bind((str(endpoint.ip), endpoint.port))
        bound.listen(socket.SOMAXCONN)
    except OSError as error:
        bound.close()
        mend = PRIVILEGED if isinstance(error, PermissionError) else ""
        raise PortInUse(f"listener {listener.name}: can't listen on {endpoint}: {error.strerror}{mend}") from error
    bound.setblocking(False)
    return bound


def _bind_unix(listener: ListenerConfig, address: UnixSocket) -> socket.socket:
    try:
        bound = bind_unix(address.path, listener.socket_mode)
    except OSError as error:
        raise PortInUse(f"listener {listener.name}: can't listen on {address}: {error.strerror or error}") from error
    bound.setblocking(False)
    return bound


def bind_all(
    listeners: tuple[ListenerConfig, ...], but: set[ListenerKey], *, files_as: FilesAs = nullcontext
) -> dict[ListenerKey, socket.socket]:
    """The sockets of all listeners that are not open yet; of all of them or of none. Raises PortInUse."""
    sockets: dict[ListenerKey, socket.socket] = {}
    try:
        for listener in listeners:
            if key(listener) not in but:
                sockets[key(listener)] = bind(listener, files_as)
    except PortInUse:
        release(sockets)
        raise
    return sockets


def release(sockets: dict[ListenerKey, socket.socket]) -> None:
    """Let sockets go that nobody listens on, and their files."""
    for bound in sockets.values():
        if (file := SocketFile.of(bound)) is not None:
            file.remove()
        bound.close()
