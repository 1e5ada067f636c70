"""The data directory: what is where in it, whose turn it is, and what a brand-new one starts with.

One process at a time works on it; the lock is an flock(2), so that it dies with its holder, and the pid in the file is
for people only. Knows paths, not what the files hold. Invariant: nobody opens a database in it without the lock, but
to read.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pillarbox.adapters.directory_sqlite import DirectoryStore
from pillarbox.adapters.system import sync_directory
from pillarbox.app.config import Config, default_hostname
from pillarbox.app.control import socket_in
from pillarbox.core.address import MAX_LOCAL_PART, AddressError, Domain, LocalPart

_LOCK_POLL = 0.05  # seconds
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_+-]+")


class DataDirError(Exception):
    """The data directory can't be used; the text says why."""


class DataDirForbidden(DataDirError):
    """This user of the system may not use it."""


class DataLocked(DataDirError):
    """Another process works on it."""


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths. `created`: nothing was in it yet, so it may be seeded."""

    root: Path
    created: bool

    @classmethod
    def prepare(cls, root: Path) -> DataDir:
        """Make the directory, for its owner only, where it is not there. Raises DataDirError."""
        try:
            missing = [folder for folder in (root, *root.parents) if not folder.exists()]
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in missing:
                sync_directory(folder.parent)
        except OSError as error:
            kind = DataDirForbidden if isinstance(error, PermissionError) else DataDirError
            raise kind(f"can't make the data directory {root}: {error.strerror}") from error
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise DataDirForbidden(f"the data directory {root} is not writable")
        return cls(root, not directory_db(root).exists())

    @property
    def directory_db(self) -> Path:
        return directory_db(self.root)

    @property
    def spool_db(self) -> Path:
        return self.root / "spool-0.db"

    @property
    def bodies(self) -> Path:
        return self.root / "bodies-0"

    @property
    def mail(self) -> Path:
        return self.root / "mail"

    @property
    def socket(self) -> Path:
        return socket_in(self.root)


def directory_db(root: Path) -> Path:
    return root / "directory.db"


class DataLock:
    """The right to work on a data directory, held inside the `with` block. The directory must be there."""

    def __init__(self, root: Path, *, patience: float = 0.0) -> None:
        """`patience`: seconds to wait for another process, such as a verb of the command line, to be done."""
        self._root = root
        self._patience = patience
        self._file: int | None = None

    def __enter__(self) -> DataLock:
        """Raises DataLocked where another process holds it, DataDirError where there can be no lock."""
        try:
            file = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            kind = DataDirForbidden if isinstance(error, PermissionError) else DataDirError
            raise kind(f"can't lock the data directory {self._root}: {error.strerror}") from error
        if not self._acquired(file):
            holder = _pid_in(file)
            os.close(file)
            who = f"another pillarbox (pid {holder})" if holder else "another pillarbox"
            raise DataLocked(f"{who} works on {self._root}")
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file
        return self

    def _acquired(self, file: int) -> bool:
        end = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(_LOCK_POLL)
            else:
                return True

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)  # and with it the lock; the file stays, or two could hold it by two names
            self._file = None


def lock_holder(root: Path) -> int | None:
    """The pid of who works on the directory; 0 where it is held by somebody unknown, None where it is free."""
    try:
        file = os.open(root / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _pid_in(file)
    else:
        return None
    finally:
        os.close(file)


def _pid_in(file: int) -> int:
    text = os.pread(file, 20, 0).strip()
    return int(text) if text.isdigit() else 0


# --- the first start


def seed_defaults(store: DirectoryStore) -> None:
    """Make a first message find a home: this machine's names are local, and all there reaches who started us."""
    localhost = Domain.parse("localhost")
    store.seed(_own_domains(localhost), LocalPart(_own_name()), now=time.time())


def wants_seed(config: Config, data: DataDir) -> bool:
    """Only who configured nothing gets the defaults."""
    return data.created and config.source is None


def _own_domains(localhost: Domain) -> list[Domain]:
    domains = [localhost]
    for name in (socket.gethostname(), default_hostname().ascii):
        try:
            domain = Domain.parse(name)
        except AddressError:
            continue
        if domain not in domains:
            domains.append(domain)
    return domains


def _own_name() -> str:
    """The login name of whoever started us, made a local part that needs no quotes."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # no such user on the system: common in containers
        name = ""
    return _NOT_PLAIN.sub("-", name).strip("-")[:MAX_LOCAL_PART] or "postmaster"
