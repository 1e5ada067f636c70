"""Who is here: users, aliases, and what RCPT asks of them.

Pure: a `Snapshot` is built whole from plain values and answers from memory; who keeps them on a disk is not known here.
Invariant: an `Accepted` names users of ours, the postmaster, or addresses elsewhere, none twice, in the order of the
aliases. Local parts are compared case-folded, which a final destination may do (RFC 5321 §2.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pillarbox.core.address import Domain, Host, LocalPart, Mailbox
from pillarbox.engine.ports import Accepted, Circular, NoSuchUser, NotLocal, Resolution, User

MAX_DEPTH = 10  # aliases of aliases
MAX_TARGETS = 1000  # addresses one alias may lead to in the end

_POSTMASTER = LocalPart("postmaster")
_Key = tuple[str, str]
_CIRCULAR = Circular()
_NOT_LOCAL = NotLocal()
_NO_SUCH_USER = NoSuchUser()


@dataclass(frozen=True, slots=True)
class CatchAll:
    """The address of an alias for every local part of a domain that is neither a user nor an alias."""

    domain: Domain

    def __str__(self) -> str:
        return f"@{self.domain}"


AliasAddress = Mailbox | CatchAll


def parse_alias_address(source: str) -> AliasAddress:
    """From `local@domain`, or `@domain` for the catch-all. Raises AddressError."""
    return CatchAll(Domain.parse(source[1:])) if source.startswith("@") else Mailbox.parse(source)


class _Hopeless(Exception):
    """The aliases lead in a circle, too deep, or to too many addresses."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The directory as it is at one moment. Meets the port Directory.

    Where there is no local domain at all, the host name stands in for one: a host has a postmaster in any case.
    """

    domains: tuple[Domain, ...] = ()
    users: tuple[User, ...] = ()
    aliases: Mapping[AliasAddress, tuple[Mailbox, ...]] = field(default_factory=dict)
    hostname: Domain | None = None
    _local: dict[Host, Domain] = field(init=False, repr=False, compare=False)
    _users: dict[_Key, Accepted] = field(init=False, repr=False, compare=False)
    _aliases: dict[_Key, tuple[Mailbox, ...]] = field(init=False, repr=False, compare=False)
    _catch_alls: dict[Host, tuple[Mailbox, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        local = self.domains or ((self.hostname,) if self.hostname is not None else ())
        for address in (*(user.mailbox for user in self.users), *self.aliases):
            if address.domain not in local:
                raise ValueError(f"{address} is in no local domain")
        users = {_key(user.mailbox): Accepted((user.mailbox,)) for user in self.users}
        aliases = {_key(name): to for name, to in self.aliases.items() if isinstance(name, Mailbox)}
        catch_alls: dict[Host, tuple[Mailbox, ...]] = {
            name.domain: to for name, to in self.aliases.items() if isinstance(name, CatchAll)
        }
        object.__setattr__(self, "_local", {domain: domain for domain in local})
        object.__setattr__(self, "_users", users)
        object.__setattr__(self, "_aliases", aliases)
        object.__setattr__(self, "_catch_alls", catch_alls)

    def is_local(self, domain: Domain) -> bool:
        return domain in self._local

    def resolve(self, address: Mailbox) -> Resolution:
        if user := self._users.get(_key(address)):
            return user
        address = self._settled(address)
        if address.domain not in self._local:
            return _NOT_LOCAL
        if (leaves := self._leaves(address)) is None:
            return self._expanded(address)
        return Accepted(leaves) if leaves else _NO_SUCH_USER

    def _settled(self, address: Mailbox) -> Mailbox:
        """The same address, but for a postmaster: in one spelling, and that of the host name in our first domain."""
        if not _is_postmaster(address):
            return address
        if address.domain == self.hostname and self.hostname not in self._local:
            return Mailbox(_POSTMASTER, self.domains[0])
        return Mailbox(_POSTMASTER, address.domain)

    def _alias(self, address: Mailbox) -> tuple[Mailbox, ...] | None:
        found = self._aliases.get(_key(address))
        return found if found is not None else self._catch_alls.get(address.domain)

    def _expanded(self, address: Mailbox) -> Resolution:
        targets: dict[Mailbox, None] = {}
        try:
            self._expand(address, targets, open_=(), done=set())
        except _Hopeless:
            targets.clear()
        if targets:
            return Accepted(tuple(targets))
        # RFC 5321 §4.5.1: mail for the postmaster is taken, whatever became of its alias.
        return Accepted((address,)) if _is_postmaster(address) else _CIRCULAR

    def _expand(
        self, address: Mailbox, targets: dict[Mailbox, None], *, open_: tuple[_Key, ...], done: set[_Key]
    ) -> None:
        """Add to `targets` where the address leads; `open_` are the addresses on the way to it."""
        key = _key(address)
        if key in open_ or len(open_) > MAX_DEPTH:
            raise _Hopeless
        if key in done:
            return
        done.add(key)
        if (leaves := self._leaves(address)) is None:
            for target in self._alias(address) or ():
                self._expand(self._settled(target), targets, open_=(*open_, key), done=done)
            return
        targets.update(dict.fromkeys(leaves))
        if len(targets) > MAX_TARGETS:
            raise _Hopeless

    def _leaves(self, address: Mailbox) -> tuple[Mailbox, ...] | None:
        """Where the address ends, () for nowhere; None when an alias leads on from it."""
        if user := self._users.get(_key(address)):
            return user.targets
        if address.domain not in self._local:
            return (address,)
        if self._alias(address) is not None:
            return None
        return (address,) if _is_postmaster(address) else ()  # RFC 5321 §4.5.1


def _key(address: Mailbox) -> _Key:
    domain = address.domain
    return address.local.text.casefold(), domain.ascii if isinstance(domain, Domain) else str(domain)


def _is_postmaster(address: Mailbox) -> bool:
    return address.local.text.casefold() == "postmaster"
