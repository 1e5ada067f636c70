"""Other users of this machine, for tests that root runs: a place that they can come to, and a program they can read.

The interpreter may live in a home that is closed to others. Then the program is started in a mount namespace of its own
where that home lets everybody through; nothing outside of it changes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pillarbox.adapters.privilege import SystemUser, find_user
from tests.live.support import HOST, needs, needs_root

_OPEN = """
set -eu
mkdir -p {aside}
mount --bind {python} {aside}
mount -t tmpfs -o mode=755 tmpfs {closed}
mkdir -p {python}
mount --move {aside} {python}
exec "$@"
"""


def nobody() -> SystemUser:
    needs_root()
    if (user := find_user("nobody")) is None:
        pytest.skip("LOUD: this system has no user nobody")
    return user


@contextmanager
def open_place() -> Iterator[Path]:
    """A directory that every user can come to, as pytest's are not."""
    place = Path(tempfile.mkdtemp(prefix="pillarbox-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def readable(place: Path) -> tuple[str, ...]:
    """What to start a program with so that every user can read Python."""
    python = Path(sys.base_prefix).resolve()
    closed = next((folder for folder in reversed(python.parents) if not folder.stat().st_mode & 0o001), None)
    if closed is None:
        return ()
    words = {"python": python, "closed": closed, "aside": place / "python"}
    script = _OPEN.format(**{name: shlex.quote(str(path)) for name, path in words.items()})
    return (needs("unshare"), "--mount", "sh", "-c", script, "sh")


def as_user(user: SystemUser) -> tuple[str, ...]:
    """What to start a program with so that it runs as that user, with no group but its own."""
    return (needs("setpriv"), f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups")


def low_port() -> int:
    """A free one that only root may have."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 1024:
        pytest.skip(f"LOUD: here everybody may have ports from {first} on (ip_unprivileged_port_start)")
    for port in range(1023, 0, -1):
        with suppress(OSError), socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((HOST, port))
            return port
    raise AssertionError("no port below 1024 is free")


def status(pid: int) -> dict[str, list[str]]:
    """The fields of /proc/PID/status, as words."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def tree(root: Path) -> list[Path]:
    return [root, *(Path(folder) / name for folder, folders, files in os.walk(root) for name in (*folders, *files))]
