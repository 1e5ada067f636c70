"""The file of the directory: its tables, how it is opened and upgraded, transactions on it.

Knows SQLite and the tables, not what may stand in them. Every fault is a `DirectoryError` whose text names the file.
Invariant: a file of an older schema version is changed only once a copy of it is on the disk beside it; one of a newer
version is left alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from pillarbox.adapters.system import sync_directory

log = logging.getLogger(__name__)

_BUSY_MS = 5000  # another process may be changing the file
Value = str | int | float | bytes | None

# From each schema version to the next; never edited once released. `key` is the address in one case.
UPGRADES = (
    """
    CREATE TABLE domain (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE user (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, address TEXT NOT NULL,
        domain TEXT NOT NULL REFERENCES domain (name), full_name TEXT NOT NULL
    ) STRICT;
    CREATE TABLE alias (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, address TEXT NOT NULL,
        domain TEXT NOT NULL REFERENCES domain (name), target TEXT NOT NULL, UNIQUE (key, target)
    ) STRICT;
    """,
    """
    ALTER TABLE domain ADD COLUMN relay INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE user ADD COLUMN password TEXT;      -- as argon2 writes it
    ALTER TABLE user ADD COLUMN quota INTEGER;      -- octets
    ALTER TABLE user ADD COLUMN soft_quota INTEGER;
    ALTER TABLE user ADD COLUMN enabled INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE user ADD COLUMN operator INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE owns (                             -- relay domains whose mail waits for a user
        id INTEGER PRIMARY KEY,
        domain TEXT NOT NULL UNIQUE REFERENCES domain (name) ON DELETE CASCADE,
        user TEXT NOT NULL REFERENCES user (key) ON DELETE CASCADE
    ) STRICT;
    ALTER TABLE alias ADD COLUMN kind TEXT NOT NULL DEFAULT 'silent' CHECK (kind IN ('silent', 'announced', 'moved'));
    CREATE TABLE list (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, address TEXT NOT NULL,
        domain TEXT NOT NULL REFERENCES domain (name), expn TEXT NOT NULL, post TEXT NOT NULL
    ) STRICT;
    CREATE TABLE list_member (
        id INTEGER PRIMARY KEY, list TEXT NOT NULL REFERENCES list (key) ON DELETE CASCADE,
        key TEXT NOT NULL, address TEXT NOT NULL, UNIQUE (list, key)
    ) STRICT;
    """,
    """
    ALTER TABLE user ADD COLUMN scram TEXT;         -- the keys of the same password, as RFC 5803 writes them
    ALTER TABLE user ADD COLUMN created_at REAL;    -- seconds since the epoch; NULL: before version 3
    CREATE TABLE secret (name TEXT PRIMARY KEY, octets BLOB NOT NULL) STRICT;  -- made once, by chance
    """,
    """
    CREATE TABLE suppression (                      -- addresses that get no mail of our clients
        key TEXT PRIMARY KEY, address TEXT NOT NULL,
        since REAL NOT NULL, until REAL,            -- seconds since the epoch; NULL: for good
        class TEXT NOT NULL, text TEXT NOT NULL,
        message TEXT NOT NULL,                      -- the id of the one that failed, "" for none
        who TEXT NOT NULL
    ) STRICT;
    """,
)


class DirectoryError(Exception):
    """The change was not made, or the file can't be used. The text says why, and what to do."""


class DirectoryVersion(DirectoryError):
    """The file was written by a newer Pillarbox."""


class DirectoryFile:
    """The open file. `created` says that it was not there before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = apsw.Connection(str(path))
        except apsw.Error as error:
            raise DirectoryError(f"{path} can't be opened: {error}") from error
        try:
            self._db.set_busy_timeout(_BUSY_MS)
            self._db.pragma("journal_mode", "wal")
            self._db.pragma("synchronous", "full")
            self._db.pragma("foreign_keys", True)
            self.created = self._upgrade()
        except (apsw.Error, OSError) as error:
            self._db.close()
            raise DirectoryError(f"{path} can't be used: {error}") from error
        except DirectoryError:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def copy_to(self, path: Path) -> None:
        """A consistent copy in a new file, for a backup."""
        self.rows("VACUUM INTO ?", str(path))

    def _upgrade(self) -> bool:
        if (version := self._version()) and version < len(UPGRADES):
            copy = self._keep_copy(version)
            log.info("%s has schema version %d, upgrading; a copy of it is %s", self._path, version, copy)
        with self.transaction():
            version = self._version()
            for step in UPGRADES[version:]:
                self._db.execute(step)
            self._db.pragma("user_version", len(UPGRADES))
        return version == 0

    def _version(self) -> int:
        version = int(self._db.pragma("user_version"))
        if version > len(UPGRADES):
            raise DirectoryVersion(
                f"{self._path} has schema version {version}, this Pillarbox knows {len(UPGRADES)}: use a newer one"
            )
        return version

    def _keep_copy(self, version: int) -> Path:
        """A durable copy in a file that was not there, for who wants to go back."""
        first = self._path.with_name(f"{self._path.name}.v{version}")
        copy, count = first, 1
        while copy.exists():
            count += 1
            copy = first.with_name(f"{first.name}-{count}")
        self.copy_to(copy)
        with open(copy, "rb") as file:
            os.fsync(file.fileno())
        sync_directory(copy.parent)
        return copy

    # --- for those who know what stands in it

    @contextmanager
    def transaction(self, mode: str = "IMMEDIATE") -> Iterator[None]:
        """All of it or nothing; on the disk when it ends."""
        try:
            self._db.execute(f"BEGIN {mode}")
            yield
            self._db.execute("COMMIT")
        except apsw.Error as error:
            raise DirectoryError(f"{self._path}: {error}") from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def rows(self, query: str, *values: Value) -> list[tuple[Any, ...]]:
        try:
            return list(self._db.execute(query, values))
        except apsw.Error as error:
            raise DirectoryError(f"{self._path}: {error}") from error

    def change(self, statement: str, *values: Value) -> int:
        """How many rows it changed."""
        self.rows(statement, *values)
        return self._db.changes()

    def change_all(self, statement: str, values: Iterable[tuple[Value, ...]]) -> None:
        try:
            self._db.executemany(statement, values)
        except apsw.Error as error:
            raise DirectoryError(f"{self._path}: {error}") from error
