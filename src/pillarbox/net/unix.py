"""Unix sockets to listen on: how one is made, how one that a dead server left is told from a living one, and removed.

Invariants: nothing is removed but a socket, and only one on which nobody listens, or our own; a socket never has wider
permissions than asked for, not even for a moment.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_PATH = 107  # octets that the address of a Unix socket holds on Linux
_PATIENCE = 1.0  # seconds for somebody who listens with a full line


class SocketTaken(OSError):
    """The path can't be had; `strerror` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(None, why)


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A socket that listens at the path. Raises OSError, whose `strerror` is for people."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise SocketTaken(f"the path has more than {MAX_PATH} octets")
    remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(OSError):  # not every system can do it before the socket has a name
            os.fchmod(bound.fileno(), 0o600)
        bound.bind(str(path))
        os.chmod(path, mode)
        bound.listen(socket.SOMAXCONN)
    except BaseException:
        bound.close()
        raise
    return bound


def remove_stale(path: Path) -> None:
    """Remove a socket on which nobody listens. Raises SocketTaken where there is anything else."""
    if (found := identity(path)) is None:
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise SocketTaken("there is a file that is no socket, and it is left alone")
    if somebody_listens(path):
        raise SocketTaken("another process listens there")
    if identity(path) == found:  # nobody has put another one there meanwhile
        path.unlink(missing_ok=True)


def somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(_PATIENCE)
        try:
            trial.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its line is full, or it is not for us: it is alive, for all that we know
            return True
    return True


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a socket that we listen on."""

    path: Path
    identity: tuple[int, int] | None

    @classmethod
    def of(cls, bound: socket.socket) -> SocketFile | None:
        """None where it is no Unix socket."""
        if bound.family != socket.AF_UNIX:
            return None
        path = Path(bound.getsockname())
        return cls(path, identity(path))

    def remove(self) -> None:
        """Unless another one stands there by now, or it is gone."""
        with suppress(OSError):
            if self.identity is not None and identity(self.path) == self.identity:
                self.path.unlink()
