"""The bodies of large messages: a file each, in a folder beside the spool file, named by the message's id.

A large body in the database would be written twice, once to the log and once to its place, and would delay the small
ones of its neighbours. A file without a message in the database is a leftover of a crash or of a client that went
away, and is removed at the start. Blocking; called from the threads of the spool.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path

from pillarbox.core.envelope import MessageId
from pillarbox.engine.ports import SpoolBroken, SpoolError, SpoolFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def translated(error: OSError) -> SpoolError:
    """The port's error for one of the operating system."""
    return SpoolFull(str(error)) if error.errno in _NO_ROOM else SpoolBroken(str(error))


class BodyFiles:
    def __init__(self, folder: Path) -> None:
        """Make the folder where it is not there yet. Raises OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def path(self, message: MessageId) -> Path:
        return self._folder / str(message)

    def append(self, message: MessageId, octets: bytes, *, sync: bool = False) -> None:
        """Add to the end of the file; with `sync` the whole file is on the disk afterwards. Raises SpoolError."""
        try:
            handle = os.open(self.path(message), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(octets)
                while view:
                    view = view[os.write(handle, view) :]
                if sync:
                    os.fdatasync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise translated(error) from error

    def sync_names(self) -> None:
        """Make the names of new files durable; the files were synced before. Raises SpoolError."""
        try:
            os.fsync(self._directory)
        except OSError as error:
            raise translated(error) from error

    def read(self, message: MessageId, offset: int, size: int) -> bytes:
        """Raises SpoolError."""
        try:
            with self.path(message).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise translated(error) from error

    def remove(self, message: MessageId) -> None:
        """A file that can't be removed now is removed at the next start."""
        try:
            self.path(message).unlink(missing_ok=True)
        except OSError:
            return

    def remove_all_but(self, known: Collection[str]) -> int:
        """Remove leftovers; gives their number."""
        leftovers = [entry for entry in self._folder.iterdir() if entry.name not in known]
        for entry in leftovers:
            entry.unlink(missing_ok=True)
        return len(leftovers)

    def close(self) -> None:
        os.close(self._directory)
