"""How full a Maildir is: the port Mailboxes.

The octets of the files in `cur` and `new`, also of Maildir++ folders (`.Name` within the Maildir). The disk is asked in
threads of its own. A Maildir changes the time of a directory whenever a file comes or goes, and no file once it is
there; so the sum of a directory is remembered until its time changes, and never of one that changed just now: another
file could come in the same tick. Writes nothing.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pillarbox.adapters.maildir import folder_name
from pillarbox.core.address import Mailbox
from pillarbox.engine.ports import MailboxFault

MAX_REMEMBERED = 10_000  # directories
SETTLED = 2.0  # seconds; the coarsest time stamps of a file system, and more than the lag of any
_PARTS = ("cur", "new")  # in this order: what a reader moves in between is missed once, not counted twice


class _Stamp(NamedTuple):
    device: int
    inode: int
    changed: int  # ns


class _Sums:
    """What is remembered of directories, in the order of use. Shared by the threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._sums: dict[str, tuple[_Stamp, int]] = {}

    def get(self, directory: str, stamp: _Stamp) -> int | None:
        with self._lock:
            known = self._sums.pop(directory, None)
            if known is None or known[0] != stamp:
                return None
            self._sums[directory] = known
            return known[1]

    def put(self, directory: str, stamp: _Stamp, total: int) -> None:
        with self._lock:
            self._sums[directory] = (stamp, total)
            if len(self._sums) > self._limit:
                del self._sums[next(iter(self._sums))]


class MaildirUsage:
    """Meets the port Mailboxes. `root` is that of MaildirMailer; `now` the clock by which the kernel stamps files."""

    def __init__(
        self, root: Path, *, now: Callable[[], float] = time.time, threads: int = 2, remember: int = MAX_REMEMBERED
    ) -> None:
        self._root = os.path.abspath(root)
        self._now = now
        self._sums = _Sums(remember)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="usage")
        self._asked: dict[str, asyncio.Future[int]] = {}  # under way: who asks meanwhile gets the same answer
        self._closed = False

    async def usage(self, user: Mailbox) -> int:
        if self._closed:
            raise MailboxFault("closed")
        folder = f"{self._root}/{folder_name(user.domain)}/{folder_name(user.local)}"
        asked = self._asked.get(folder)
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._pool, self._of_maildir, folder)
            self._asked[folder] = asked
            asked.add_done_callback(lambda _: self._asked.pop(folder))
        return await asyncio.shield(asked)

    def close(self) -> None:
        """What is under way comes to its end; nothing new begins."""
        self._closed = True
        self._pool.shutdown(wait=False)

    # --- in the threads

    def _of_maildir(self, folder: str) -> int:
        try:
            folders = [folder, *_subfolders(folder)]
            return sum(self._of_directory(f"{each}/{part}") for each in folders for part in _PARTS)
        except OSError as error:
            raise MailboxFault(f"{error.filename or folder}: {error.strerror or error}") from error

    def _of_directory(self, directory: str) -> int:
        """0 where there is none. Raises OSError."""
        began = self._now()
        try:
            status = os.stat(directory)
        except FileNotFoundError:
            return 0
        stamp = _Stamp(status.st_dev, status.st_ino, status.st_mtime_ns)
        if (known := self._sums.get(directory, stamp)) is not None:
            return known
        total = _sum_of_files(directory)
        if began - status.st_mtime >= SETTLED:
            self._sums.put(directory, stamp, total)
        return total


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry.path for entry in entries if entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []


def _sum_of_files(directory: str) -> int:
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                total += _size(entry)
    except FileNotFoundError:  # gone since
        return 0
    return total


def _size(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # moved or removed since
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
