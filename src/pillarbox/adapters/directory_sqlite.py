"""The directory on the disk: domains, users and aliases in one SQLite file, and the live copy that a server asks.

Typed values go in and come out; what is refused is a `DirectoryError` whose text helps. Every change is one
transaction and survives a power cut. Invariants: a user or an alias stands in a domain that is there; no address
stands there twice, whatever the case, nor as both a user and an alias. The calls block: they are for operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.engine.directory import AliasAddress, CatchAll, Snapshot, User, parse_alias_address
from pillarbox.engine.ports import Resolution

_BUSY_MS = 5000  # another process may be changing the file
_NAMED = 10  # so many of those in the way are named

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
)


class DirectoryError(Exception):
    """The change was not made, or the file can't be used. The text says why, and what to do."""


class DirectoryVersion(DirectoryError):
    """The file was written by a newer Pillarbox."""


class DirectoryStore:
    """The file `directory.db`. `created` says that it was not there before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = apsw.Connection(str(path))
        except apsw.Error as error:
            raise DirectoryError(f"{path} can't be opened: {error}") from error
        try:
            self._db.set_busy_timeout(_BUSY_MS)
            self._db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON")
            self.created = self._upgrade()
        except apsw.Error as error:
            self._db.close()
            raise DirectoryError(f"{path} can't be used: {error}") from error
        except DirectoryError:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def copy_to(self, path: Path) -> None:
        """A consistent copy in a new file, for a backup."""
        self._rows("VACUUM INTO ?", str(path))

    def _upgrade(self) -> bool:
        with self._transaction():
            version = int(self._db.pragma("user_version"))
            if version > len(UPGRADES):
                raise DirectoryVersion(
                    f"{self._path} has schema version {version}, this Pillarbox knows {len(UPGRADES)}: use a newer one"
                )
            for step in UPGRADES[version:]:
                self._db.execute(step)
            self._db.pragma("user_version", len(UPGRADES))
        return version == 0

    @contextmanager
    def _transaction(self, mode: str = "IMMEDIATE") -> Iterator[None]:
        try:
            self._db.execute(f"BEGIN {mode}")
            yield
            self._db.execute("COMMIT")
        except apsw.Error as error:
            raise DirectoryError(f"{self._path}: {error}") from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _rows(self, query: str, *values: str) -> list[tuple[str, ...]]:
        try:
            return list(self._db.execute(query, values))
        except apsw.Error as error:
            raise DirectoryError(f"{self._path}: {error}") from error

    # --- domains

    def domains(self) -> tuple[Domain, ...]:
        """In the order in which they were added."""
        return tuple(Domain(name) for (name,) in self._rows("SELECT name FROM domain ORDER BY id"))

    def add_domain(self, domain: Domain) -> None:
        with self._transaction():
            self._add_domain(domain)

    def remove_domain(self, domain: Domain) -> None:
        with self._transaction():
            self._need_domain(domain)
            if inside := self._inside(domain):
                more = f" and {len(inside) - _NAMED} more" if len(inside) > _NAMED else ""
                raise DirectoryError(f"domain {domain} still has {', '.join(inside[:_NAMED])}{more}: remove them first")
            self._db.execute("DELETE FROM domain WHERE name = ?", (domain.ascii,))

    def _add_domain(self, domain: Domain) -> None:
        if self._has_domain(domain):
            raise DirectoryError(f"domain {domain} is here already")
        self._db.execute("INSERT INTO domain (name) VALUES (?)", (domain.ascii,))

    def _has_domain(self, domain: Domain) -> bool:
        return bool(self._rows("SELECT 1 FROM domain WHERE name = ?", domain.ascii))

    def _need_domain(self, domain: Domain) -> None:
        if not self._has_domain(domain):
            raise DirectoryError(f"domain {domain} is not here yet: pillarbox domain add {domain}")

    def _inside(self, domain: Domain) -> list[str]:
        users = self._rows("SELECT 'user ' || address FROM user WHERE domain = ? ORDER BY id", domain.ascii)
        aliases = self._rows("SELECT DISTINCT 'alias ' || address FROM alias WHERE domain = ?", domain.ascii)
        return [text for (text,) in (*users, *aliases)]

    # --- users

    def users(self) -> tuple[User, ...]:
        """In the order in which they were added."""
        rows = self._rows("SELECT address, full_name FROM user ORDER BY id")
        return tuple(User(Mailbox.parse(address), full_name) for address, full_name in rows)

    def add_user(self, user: User) -> None:
        with self._transaction():
            self._add_user(user)

    def remove_user(self, mailbox: Mailbox) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM user WHERE key = ?", (_key(mailbox),))
            if not self._db.changes():
                raise DirectoryError(f"there is no user {mailbox}")

    def _add_user(self, user: User) -> None:
        domain = self._free_place(user.mailbox)
        self._db.execute(
            "INSERT INTO user (key, address, domain, full_name) VALUES (?, ?, ?, ?)",
            (_key(user.mailbox), str(user.mailbox), domain.ascii, user.full_name),
        )

    # --- aliases

    def aliases(self) -> dict[AliasAddress, tuple[Mailbox, ...]]:
        """Each with its targets, in the order in which they were added."""
        found: dict[AliasAddress, tuple[Mailbox, ...]] = {}
        for source, target in self._rows("SELECT address, target FROM alias ORDER BY id"):
            address = parse_alias_address(source)
            found[address] = (*found.get(address, ()), Mailbox.parse(target))
        return found

    def add_alias(self, address: AliasAddress, targets: Sequence[Mailbox]) -> None:
        with self._transaction():
            self._add_alias(address, targets)

    def remove_alias(self, address: AliasAddress) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM alias WHERE key = ?", (_key(address),))
            if not self._db.changes():
                raise DirectoryError(f"there is no alias {address}")

    def _add_alias(self, address: AliasAddress, targets: Sequence[Mailbox]) -> None:
        domain = self._free_place(address)
        if not targets:
            raise DirectoryError(f"alias {address} needs a target")
        self._db.executemany(
            "INSERT INTO alias (key, address, domain, target) VALUES (?, ?, ?, ?)",
            [(_key(address), str(address), domain.ascii, target) for target in dict.fromkeys(map(str, targets))],
        )

    def _free_place(self, address: AliasAddress) -> Domain:
        """The domain of an address that may be added."""
        if not isinstance(address.domain, Domain):
            raise DirectoryError(f"{address} has no domain name: users and aliases need one")
        self._need_domain(address.domain)
        if self._rows("SELECT 1 FROM user WHERE key = ?", _key(address)):
            raise DirectoryError(f"user {address} is here already")
        if self._rows("SELECT 1 FROM alias WHERE key = ?", _key(address)):
            raise DirectoryError(f"alias {address} is here already: pillarbox alias remove {address}")
        return address.domain

    # --- all of it

    def snapshot(self, hostname: Domain | None) -> Snapshot:
        """The directory as it is now."""
        with self._transaction("DEFERRED"):
            return Snapshot(self.domains(), self.users(), self.aliases(), hostname)

    def seed(self, domains: Sequence[Domain], user: LocalPart) -> None:
        """What a brand-new directory holds: the domains, one user in the first of them who gets the mail of all."""
        everyone = Mailbox(user, domains[0])
        with self._transaction():
            for domain in domains:
                self._add_domain(domain)
            self._add_user(User(everyone))
            for domain in domains:
                self._add_alias(CatchAll(domain), (everyone,))


def _key(address: AliasAddress) -> str:
    return str(address).casefold()


class LiveDirectory:
    """Meets the port Directory with the latest snapshot; `reload` takes a new one after a change."""

    def __init__(self, store: DirectoryStore, hostname: Domain | None) -> None:
        self._store = store
        self._hostname = hostname
        self.snapshot = store.snapshot(hostname)

    def reload(self) -> None:
        self.snapshot = self._store.snapshot(self._hostname)

    def resolve(self, address: Mailbox) -> Resolution:
        return self.snapshot.resolve(address)

    def is_local(self, domain: Domain) -> bool:
        return self.snapshot.is_local(domain)
