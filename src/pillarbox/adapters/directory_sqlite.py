"""The directory on the disk: who is here, in one SQLite file, and the live copy that a server asks.

Typed values go in and come out; what is refused is a `DirectoryError` whose text helps. Every change is one
transaction and survives a power cut. Invariants: whoever has an address stands in a local domain that is there; an
address is one thing only (user, alias, forward or list), whatever the case; what is added leads somewhere and never in
a circle; a relay domain has one owner at most. The calls block: they are for operators.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from pillarbox.adapters.directory_schema import UPGRADES as UPGRADES
from pillarbox.adapters.directory_schema import DirectoryError as DirectoryError
from pillarbox.adapters.directory_schema import DirectoryFile
from pillarbox.adapters.directory_schema import DirectoryVersion as DirectoryVersion
from pillarbox.core.address import MAX_LOCAL_PART, Domain, LocalPart, Mailbox
from pillarbox.core.verp import ReturnAddresses
from pillarbox.engine.directory import (
    AliasAddress,
    Announced,
    CatchAll,
    Forward,
    MailingList,
    Snapshot,
    list_owner,
    parse_alias_address,
)
from pillarbox.engine.ports import Accepted, Audience, Moved, NoSuchUser, Resolution, User, Verification
from pillarbox.smtp.scram import ScramKeys

_SECRET = 32  # octets
_NAMED = 10  # so many of those in the way are named
_KINDS = {"silent": "alias", "announced": "forward", "moved": "forward"}  # of rows of the table alias

# All that has an address, and what it is, as people say it.
_ADDRESSES = """
    SELECT 1 AS rank, id, key, address, domain, 'user' AS kind FROM user UNION ALL
    SELECT 2, min(id), key, address, domain, iif(kind = 'silent', 'alias', 'forward') FROM alias GROUP BY key UNION ALL
    SELECT 3, id, key, address, domain, 'list' FROM list
"""


class DirectoryStore:
    """The file `directory.db`. `created` says that it was not there before."""

    def __init__(self, path: Path) -> None:
        self._file = DirectoryFile(path)
        self.created = self._file.created

    def close(self) -> None:
        self._file.close()

    def copy_to(self, path: Path) -> None:
        """A consistent copy in a new file, for a backup."""
        self._file.copy_to(path)

    # --- domains

    def domains(self) -> tuple[Domain, ...]:
        """The local ones, in the order in which they were added."""
        return tuple(Domain(name) for (name,) in self._file.rows("SELECT name FROM domain WHERE NOT relay ORDER BY id"))

    def relay_domains(self) -> tuple[Domain, ...]:
        return tuple(Domain(name) for (name,) in self._file.rows("SELECT name FROM domain WHERE relay ORDER BY id"))

    def owners(self) -> dict[Domain, Mailbox]:
        """Of the relay domains that have one."""
        rows = self._file.rows("SELECT owns.domain, address FROM owns JOIN user ON key = owns.user ORDER BY owns.id")
        return {Domain(domain): Mailbox.parse(address) for domain, address in rows}

    def add_domain(self, domain: Domain, *, relay: bool = False) -> None:
        with self._file.transaction():
            self._add_domain(domain, relay=relay)

    def remove_domain(self, domain: Domain) -> None:
        with self._file.transaction():
            self._need_domain(domain)
            if inside := self._inside(domain):
                more = f" and {len(inside) - _NAMED} more" if len(inside) > _NAMED else ""
                raise DirectoryError(f"domain {domain} still has {', '.join(inside[:_NAMED])}{more}: remove them first")
            self._file.change("DELETE FROM domain WHERE name = ?", domain.ascii)

    def _add_domain(self, domain: Domain, *, relay: bool) -> None:
        if self._relays(domain) is not None:
            raise DirectoryError(f"domain {domain} is here already")
        self._file.change("INSERT INTO domain (name, relay) VALUES (?, ?)", domain.ascii, int(relay))

    def _relays(self, domain: Domain) -> bool | None:
        """Whether it is a relay domain or a local one; None where it is not there."""
        found = self._file.rows("SELECT relay FROM domain WHERE name = ?", domain.ascii)
        return bool(found[0][0]) if found else None

    def _need_domain(self, domain: Domain) -> None:
        if self._relays(domain) is None:
            raise DirectoryError(f"domain {domain} is not here yet: pillarbox domain add {domain}")

    def _inside(self, domain: Domain) -> list[str]:
        query = f"SELECT kind, address FROM ({_ADDRESSES}) WHERE domain = ? ORDER BY rank, id"
        rows = self._file.rows(query, domain.ascii)
        return [f"{kind} {address}" for kind, address in rows]

    # --- users

    def users(self) -> tuple[User, ...]:
        """In the order in which they were added."""
        return self._users("")

    def user(self, mailbox: Mailbox) -> User:
        if not (found := self._users("WHERE key = ?", _key(mailbox))):
            raise DirectoryError(self._unknown("user", mailbox))
        return found[0]

    def add_user(self, user: User) -> None:
        with self._file.transaction():
            self._add_user(user)

    def remove_user(self, mailbox: Mailbox) -> tuple[str, ...]:
        """Gives what still has it as a target, such as `alias sales@example.test`."""
        with self._file.transaction():
            if not self._file.change("DELETE FROM user WHERE key = ?", _key(mailbox)):
                raise DirectoryError(self._unknown("user", mailbox))
            return self._with_target(mailbox)

    def set_enabled(self, mailbox: Mailbox, *, enabled: bool) -> None:
        self._change_user(mailbox, enabled=int(enabled))

    def set_password(self, mailbox: Mailbox, password: str | None, scram: ScramKeys | None = None) -> None:
        """Its hash, and what SCRAM keeps of it; None: nobody can log in."""
        self._change_user(mailbox, password=password, scram=_text(scram))

    def secret(self, name: str) -> bytes:
        """Octets that nobody else knows, always the same under that name."""
        with self._file.transaction():
            made = secrets.token_bytes(_SECRET)
            self._file.change("INSERT OR IGNORE INTO secret (name, octets) VALUES (?, ?)", name, made)
            return bytes(self._file.rows("SELECT octets FROM secret WHERE name = ?", name)[0][0])

    def _users(self, condition: str, *values: str) -> tuple[User, ...]:
        owned: dict[str, list[Domain]] = {}
        for key, domain in self._file.rows("SELECT user, domain FROM owns ORDER BY id"):
            owned.setdefault(key, []).append(Domain(domain))
        columns = "key, address, full_name, password, quota, soft_quota, enabled, operator, scram, created_at"
        return tuple(
            User(
                Mailbox.parse(address),
                full_name,
                password,
                quota,
                soft_quota,
                enabled=bool(enabled),
                operator=bool(operator),
                owns=tuple(owned.get(key, ())),
                scram=None if scram is None else ScramKeys.parse(scram),
                created_at=created_at,
            )
            for (
                key,
                address,
                full_name,
                password,
                quota,
                soft_quota,
                enabled,
                operator,
                scram,
                created_at,
            ) in self._file.rows(f"SELECT {columns} FROM user {condition} ORDER BY id", *values)
        )

    def _add_user(self, user: User) -> None:
        domain = self._free_place(user.mailbox)
        self._file.change(
            "INSERT INTO user (key, address, domain, full_name, password, quota, soft_quota, enabled, operator, scram,"
            " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(_key(user.mailbox), str(user.mailbox), domain.ascii, user.full_name, user.password),
            *(user.quota, user.soft_quota, int(user.enabled), int(user.operator), _text(user.scram), user.created_at),
        )
        for owned in dict.fromkeys(user.owns):
            self._need_unowned(owned)
            self._file.change("INSERT INTO owns (domain, user) VALUES (?, ?)", owned.ascii, _key(user.mailbox))

    def _need_unowned(self, domain: Domain) -> None:
        match self._relays(domain):
            case None:
                raise DirectoryError(f"domain {domain} is not here yet: pillarbox domain add {domain} --relay")
            case False:
                raise DirectoryError(f"domain {domain} is local: only a relay domain can be owned")
        if (owner := self.owners().get(domain)) is not None:
            raise DirectoryError(f"domain {domain} is owned by {owner} already")

    def _change_user(self, mailbox: Mailbox, **values: str | int | None) -> None:
        columns = ", ".join(f"{column} = ?" for column in values)
        with self._file.transaction():
            if not self._file.change(f"UPDATE user SET {columns} WHERE key = ?", *values.values(), _key(mailbox)):
                raise DirectoryError(self._unknown("user", mailbox))

    def _with_target(self, mailbox: Mailbox) -> tuple[str, ...]:
        """Addresses are ASCII, so SQLite folds their case as well as Python does."""
        aliases = self._file.rows("SELECT kind, address FROM alias WHERE lower(target) = ?", _key(mailbox))
        lists = self._file.rows(
            "SELECT list.address FROM list JOIN list_member ON list.key = list WHERE list_member.key = ?", _key(mailbox)
        )
        return (*(f"{_KINDS[kind]} {address}" for kind, address in aliases), *(f"list {name}" for (name,) in lists))

    # --- aliases and forwards

    def aliases(self) -> dict[AliasAddress, tuple[Mailbox, ...]]:
        """Each with its targets, in the order in which they were added."""
        found: dict[AliasAddress, list[Mailbox]] = {}
        for source, target in self._file.rows("SELECT address, target FROM alias WHERE kind = 'silent' ORDER BY id"):
            found.setdefault(parse_alias_address(source), []).append(Mailbox.parse(target))
        return {address: tuple(targets) for address, targets in found.items()}

    def forwards(self) -> dict[Mailbox, Forward]:
        """In the order in which they were added."""
        found: dict[Mailbox, Forward] = {}
        rows = self._file.rows("SELECT address, kind, target FROM alias WHERE kind != 'silent' ORDER BY id")
        for source, kind, text in rows:
            address, target = Mailbox.parse(source), Mailbox.parse(text)
            before = found.get(address)
            if kind == "moved":
                found[address] = Moved(target)
            else:
                found[address] = Announced((*(before.targets if isinstance(before, Announced) else ()), target))
        return found

    def add_alias(self, address: AliasAddress, targets: Sequence[Mailbox]) -> None:
        with self._file.transaction():
            self._add_targets("silent", address, targets)
            self._need_somebody(address)

    def remove_alias(self, address: AliasAddress) -> None:
        self._remove_targets("alias", "kind = 'silent'", address)

    def add_forward(self, address: Mailbox, forward: Forward) -> None:
        with self._file.transaction():
            if isinstance(forward, Announced):
                self._add_targets("announced", address, forward.targets)
                self._need_somebody(address)
                return
            if _key(address) == _key(forward.to):
                raise DirectoryError(f"{address} can't move to itself")
            if address.local.text.casefold() == "postmaster":
                raise DirectoryError(f"{address} must take mail (RFC 5321, 4.5.1): forward it with --announce")
            self._add_targets("moved", address, (forward.to,))

    def remove_forward(self, address: Mailbox) -> None:
        self._remove_targets("forward", "kind != 'silent'", address)

    def _add_targets(self, kind: str, address: AliasAddress, targets: Sequence[Mailbox]) -> None:
        domain = self._free_place(address)
        if not targets:
            raise DirectoryError(f"{_KINDS[kind]} {address} needs a target")
        self._file.change_all(
            "INSERT INTO alias (key, address, domain, target, kind) VALUES (?, ?, ?, ?, ?)",
            [(_key(address), str(address), domain.ascii, str(target), kind) for target in dict.fromkeys(targets)],
        )

    def _remove_targets(self, name: str, condition: str, address: AliasAddress) -> None:
        with self._file.transaction():
            if not self._file.change(f"DELETE FROM alias WHERE key = ? AND {condition}", _key(address)):
                raise DirectoryError(self._unknown(name, address))

    # --- lists

    def lists(self) -> dict[Mailbox, MailingList]:
        """In the order in which they were added, and so are their members."""
        members: dict[str, list[Mailbox]] = {}
        for key, member in self._file.rows("SELECT list, address FROM list_member ORDER BY id"):
            members.setdefault(key, []).append(Mailbox.parse(member))
        rows = self._file.rows("SELECT key, address, expn, post FROM list ORDER BY id")
        return {
            Mailbox.parse(address): MailingList(tuple(members.get(key, ())), Audience(expn), Audience(post))
            for key, address, expn, post in rows
        }

    def list_at(self, address: Mailbox) -> tuple[Mailbox, MailingList]:
        """Its address as it was added, and the list."""
        for found, mailing_list in self.lists().items():
            if _key(found) == _key(address):
                return found, mailing_list
        raise DirectoryError(self._unknown("list", address))

    def add_list(self, address: Mailbox, mailing_list: MailingList) -> None:
        with self._file.transaction():
            domain = self._free_place(address)
            if len(str(list_owner(address).local)) > MAX_LOCAL_PART:
                raise DirectoryError(f"list {address} has too long a name: its owner's is longer and has a bound, too")
            if not mailing_list.members:
                raise DirectoryError(f"list {address} needs a member")
            self._file.change(
                "INSERT INTO list (key, address, domain, expn, post) VALUES (?, ?, ?, ?, ?)",
                *(_key(address), str(address), domain.ascii, mailing_list.expn.value, mailing_list.post.value),
            )
            self._add_members(address, {_key(member): member for member in mailing_list.members}.values())
            self._need_somebody(address)

    def remove_list(self, address: Mailbox) -> None:
        with self._file.transaction():
            if not self._file.change("DELETE FROM list WHERE key = ?", _key(address)):
                raise DirectoryError(self._unknown("list", address))

    def join(self, address: Mailbox, members: Sequence[Mailbox]) -> None:
        """Put members at the end of a list."""
        with self._file.transaction():
            there = {_key(member) for member in self.list_at(address)[1].members}
            for member in members:
                if _key(member) in there:
                    raise DirectoryError(f"{member} is a member of {address} already")
            self._add_members(address, {_key(member): member for member in members}.values())
            self._need_somebody(address)

    def leave(self, address: Mailbox, members: Sequence[Mailbox]) -> None:
        with self._file.transaction():
            self.list_at(address)
            for member in {_key(member): member for member in members}.values():
                statement = "DELETE FROM list_member WHERE list = ? AND key = ?"
                if not self._file.change(statement, _key(address), _key(member)):
                    raise DirectoryError(f"{member} is no member of {address}")
            if not self.list_at(address)[1].members:
                raise DirectoryError(f"list {address} needs a member: pillarbox list remove {address}")

    def _add_members(self, address: Mailbox, members: Iterable[Mailbox]) -> None:
        self._file.change_all(
            "INSERT INTO list_member (list, key, address) VALUES (?, ?, ?)",
            [(_key(address), _key(member), str(member)) for member in members],
        )

    # --- what holds for all addresses

    def _free_place(self, address: AliasAddress) -> Domain:
        """The domain of an address that may be added."""
        domain = address.domain
        if not isinstance(domain, Domain):
            raise DirectoryError(f"{address} has no domain name: whoever is here needs one")
        self._need_domain(domain)
        if self._relays(domain):
            raise DirectoryError(f"domain {domain} is a relay domain: its mail is passed on, nobody is in it")
        if (kind := self._kind(address)) is not None:
            mend = "" if kind == "user" else f": pillarbox {kind} remove {address}"
            raise DirectoryError(f"{kind} {address} is here already{mend}")
        return domain

    def _kind(self, address: AliasAddress) -> str | None:
        found = self._file.rows(f"SELECT kind FROM ({_ADDRESSES}) WHERE key = ?", _key(address))
        return str(found[0][0]) if found else None

    def _unknown(self, wanted: str, address: AliasAddress) -> str:
        kind = self._kind(address)
        known = "" if kind is None else f"; it is {'an' if kind == 'alias' else 'a'} {kind}"
        return f"there is no {wanted} {address}{known}"

    def _need_somebody(self, address: AliasAddress) -> None:
        if flaw := self._snapshot(None).flaw(address):
            raise DirectoryError(flaw)

    # --- all of it

    def snapshot(self, hostname: Domain | None) -> Snapshot:
        """The directory as it is now."""
        with self._file.transaction("DEFERRED"):
            return self._snapshot(hostname)

    def _snapshot(self, hostname: Domain | None) -> Snapshot:
        return Snapshot(
            self.domains(),
            self.users(),
            self.aliases(),
            hostname,
            forwards=self.forwards(),
            lists=self.lists(),
            relay_domains=self.relay_domains(),
        )

    def seed(self, domains: Sequence[Domain], user: LocalPart, *, now: float | None = None) -> None:
        """What a brand-new directory holds: the domains, one user in the first of them who gets the mail of all."""
        everyone = Mailbox(user, domains[0])
        with self._file.transaction():
            for domain in domains:
                self._add_domain(domain, relay=False)
            self._add_user(User(everyone, created_at=now))
            for domain in domains:
                self._add_targets("silent", CatchAll(domain), (everyone,))


def _text(keys: ScramKeys | None) -> str | None:
    return None if keys is None else keys.text


def _key(address: AliasAddress) -> str:
    return str(address).casefold()


class LiveDirectory:
    """Meets the port Directory with the latest snapshot; `reload` takes a new one after a change."""

    def __init__(self, store: DirectoryStore, hostname: Domain | None) -> None:
        self._store = store
        self._hostname = hostname
        self.returns: ReturnAddresses | None = None  # addresses for which mail is taken, too: bounces come to them
        self.snapshot = store.snapshot(hostname)

    def reload(self) -> None:
        self.snapshot = self._store.snapshot(self._hostname)

    def resolve(self, address: Mailbox) -> Resolution:
        if self.returns is not None and self.returns.has(address):
            return NoSuchUser() if self.returns.read(address) is None else Accepted((address,))
        return self.snapshot.resolve(address)

    def is_local(self, domain: Domain) -> bool:
        return self.snapshot.is_local(domain)

    def keeps(self, domain: Domain) -> bool:
        return self.snapshot.keeps(domain)

    def user(self, address: Mailbox) -> User | None:
        return self.snapshot.user(address)

    def login(self, name: str) -> User | None:
        return self.snapshot.login(name)

    def all_have_keys(self) -> bool:
        return self.snapshot.all_have_keys()

    def login_names(self, name: str) -> tuple[str, ...]:
        return self.snapshot.login_names(name)

    def verify(self, name: str) -> Verification:
        return self.snapshot.verify(name)
