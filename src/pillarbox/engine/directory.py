"""Who is here: users, aliases, forwards, lists, relay domains, and what RCPT, VRFY, EXPN and AUTH ask of them.

Pure: a `Snapshot` is built whole from plain values and answers from memory; who keeps them on a disk is not known here.
Everything that has a name of its own stands in one table of places, so most questions are one look-up. Invariant: an
`Accepted` names users of ours, the postmaster, or addresses elsewhere, none twice, in the order of the aliases and
lists. Local parts are compared case-folded, which a final destination may do (RFC 5321 §2.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pillarbox.core.address import AddressError, Domain, Host, LocalPart, Mailbox
from pillarbox.engine.names import Key, Names, key_of
from pillarbox.engine.ports import (
    Accepted,
    AList,
    Ambiguous,
    Audience,
    Circular,
    Disabled,
    Forwarded,
    Moved,
    NoSuchUser,
    NotLocal,
    Posting,
    Relayed,
    Resolution,
    Unverifiable,
    User,
    Verification,
    Verified,
)
from pillarbox.engine.ways import Found, Hopeless, Place, Walk, Way

_NAMED = 10  # so many of those in the way are named
_POSTMASTER = LocalPart("postmaster")
_CIRCULAR = Circular()
_DISABLED = Disabled()
_NOT_LOCAL = NotLocal()
_NO_SUCH_USER = NoSuchUser()
_RELAYED = Relayed()
_UNVERIFIABLE = Unverifiable()


# --- what stands in a directory


@dataclass(frozen=True, slots=True)
class CatchAll:
    """The address of an alias for every local part of a domain that is nothing else."""

    domain: Domain

    def __str__(self) -> str:
        return f"@{self.domain}"


AliasAddress = Mailbox | CatchAll


def parse_alias_address(source: str) -> AliasAddress:
    """From `local@domain`, or `@domain` for the catch-all. Raises AddressError."""
    return CatchAll(Domain.parse(source[1:])) if source.startswith("@") else Mailbox.parse(source)


@dataclass(frozen=True, slots=True)
class Announced:
    """A forward that the client is told of: 251."""

    targets: tuple[Mailbox, ...]


Forward = Announced | Moved


@dataclass(frozen=True, slots=True)
class MailingList:
    """A member is who stands in the list, by the address that stands there."""

    members: tuple[Mailbox, ...]
    expn: Audience = Audience.MEMBERS  # who may see the members
    post: Audience = Audience.ANYONE  # who may write to them


# --- the whole of it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The directory as it is at one moment. Meets the port Directory.

    Where there is no local domain at all, the host name stands in for one: a host has a postmaster in any case.
    """

    domains: tuple[Domain, ...] = ()
    users: tuple[User, ...] = ()
    aliases: Mapping[AliasAddress, tuple[Mailbox, ...]] = field(default_factory=dict)
    hostname: Domain | None = None
    forwards: Mapping[Mailbox, Forward] = field(default_factory=dict)
    lists: Mapping[Mailbox, MailingList] = field(default_factory=dict)
    relay_domains: tuple[Domain, ...] = ()
    _local: dict[Host, Domain] = field(init=False, repr=False, compare=False)
    _relay: frozenset[Host] = field(init=False, repr=False, compare=False)
    _kept: frozenset[Domain] = field(init=False, repr=False, compare=False)
    _names: Names = field(init=False, repr=False, compare=False)
    _places: dict[Key, Place] = field(init=False, repr=False, compare=False)
    _catch_alls: dict[Host, Way] = field(init=False, repr=False, compare=False)
    _all_have_keys: bool = field(init=False, repr=False, compare=False)
    _led: dict[Way, Resolution] = field(init=False, repr=False, compare=False)  # what was found out already

    def __post_init__(self) -> None:
        domains = self.domains
        if not domains and self.hostname is not None and self.hostname not in self.relay_domains:
            domains = (self.hostname,)
        local: dict[Host, Domain] = {domain: domain for domain in domains}
        named = (*self.aliases, *self.forwards, *self.lists)
        for address in (*(user.mailbox for user in self.users), *named):
            if address.domain not in local:
                raise ValueError(f"{address} is in no local domain")
        others = [address for address in named if isinstance(address, Mailbox)]
        keep = object.__setattr__
        keep(self, "_local", local)
        keep(self, "_relay", frozenset(self.relay_domains))
        keep(self, "_kept", frozenset(domain for user in self.users for domain in user.owns))
        keep(self, "_names", Names(domains, self.users, others))
        keep(self, "_catch_alls", dict(self._all_catch_alls()))
        keep(self, "_places", self._all_places())
        keep(self, "_all_have_keys", all(user.scram for user in self.users if user.enabled and user.password))
        keep(self, "_led", {})

    # --- how it is built

    def _all_catch_alls(self) -> Iterator[tuple[Host, Way]]:
        for address, targets in self.aliases.items():
            if isinstance(address, CatchAll):
                yield address.domain, Way(str(address), targets, _UNVERIFIABLE)

    def _all_places(self) -> dict[Key, Place]:
        places: dict[Key, Place] = {}
        for address, targets in self.aliases.items():
            if isinstance(address, Mailbox):
                places[key_of(address)] = _way(address, targets, Verified(address))
        for address, forward in self.forwards.items():
            places[key_of(address)] = _forward(address, forward)
        for address, mailing_list in self.lists.items():
            places[key_of(address)] = self._list(address, mailing_list)
        for user in self.users:
            # RFC 5321 §4.5.1: a postmaster takes mail, even one who can't log in.
            takes_mail = user.enabled or _is_postmaster(user.mailbox)
            limited = self._is_limited(user.mailbox)
            places[key_of(user.mailbox)] = Accepted((user.mailbox,), limited=limited) if takes_mail else _DISABLED
        self._add_postmasters(places)
        for address in self.lists:
            owner = key_of(list_owner(address))
            if owner not in places:  # RFC 2142 §6: it need not be made
                places[owner] = places[key_of(Mailbox(_POSTMASTER, address.domain))]
        return places

    def _list(self, address: Mailbox, mailing_list: MailingList) -> Way:
        members = tuple(map(self._verified, mailing_list.members))
        posters = frozenset((*mailing_list.members, *(member.mailbox for member in members)))
        return _way(
            address,
            mailing_list.members,
            AList(members, mailing_list.expn),
            owner=list_owner(address),
            posting=Posting(mailing_list.post, posters),
        )

    def _add_postmasters(self, places: dict[Key, Place]) -> None:
        """RFC 5321 §4.5.1: every domain has one, and so has the host itself: that of the first domain."""
        for domain in self._local:
            postmaster = Mailbox(_POSTMASTER, domain)
            if key_of(postmaster) in places:
                continue
            if (catch_all := self._catch_alls.get(domain)) is not None:
                places[key_of(postmaster)] = _way(postmaster, catch_all.targets, Verified(postmaster))
            else:
                places[key_of(postmaster)] = Accepted((postmaster,))
        host = self.hostname
        if host is not None and self.domains and host not in self._local and host not in self._relay:
            first = places[key_of(Mailbox(_POSTMASTER, self.domains[0]))]
            places[key_of(Mailbox(_POSTMASTER, host))] = first

    # --- what the port asks

    def is_local(self, domain: Domain) -> bool:
        return domain in self._local

    def keeps(self, domain: Domain) -> bool:
        return domain in self._kept

    def user(self, address: Mailbox) -> User | None:
        return self._names.user(address)

    def login(self, name: str) -> User | None:
        return self._names.login(name)

    def all_have_keys(self) -> bool:
        return self._all_have_keys

    def login_names(self, name: str) -> tuple[str, ...]:
        return self._names.login_names(name)

    def resolve(self, address: Mailbox) -> Resolution:
        found = self._places.get(key_of(address)) or self._otherwise(address)
        if not isinstance(found, Way):
            return found
        if (resolution := self._led.get(found)) is None:
            resolution = self._led[found] = self._lead(found)
        return resolution

    def verify(self, name: str) -> Verification:
        text = _without_brackets(name.strip())
        if "@" in text:
            return self._meaning(Mailbox.parse(text))
        if text.startswith('"'):  # RFC 5321 §4.1.1.6: the string may be quoted
            text = LocalPart.parse(text).text
        addresses = self._names.with_local_part(text) or [user.mailbox for user in self._names.with_full_name(text)]
        if not addresses:
            return _NO_SUCH_USER
        if len(addresses) == 1:
            return self._meaning(addresses[0])
        return Ambiguous(tuple(map(self._verified, addresses)))

    # --- what an operator asks

    def flaw(self, address: AliasAddress) -> str | None:
        """Why an alias, forward or list leads to nobody: a circle, a bound, nobody at its end."""
        way = self._catch_alls.get(address.domain) if isinstance(address, CatchAll) else self._find(address)
        if not isinstance(way, Way):
            return None
        walk = Walk(self._find)
        try:
            walk.follow(way)
        except Hopeless as fault:
            return str(fault)
        if walk.targets or walk.asleep:
            return None
        more = f" and {len(walk.nowhere) - _NAMED} more" if len(walk.nowhere) > _NAMED else ""
        return f"{address} leads nowhere: {', '.join(walk.nowhere[:_NAMED])}{more}"

    # --- the look-up

    def _find(self, address: Mailbox) -> Found:
        return self._places.get(key_of(address)) or self._otherwise(address)

    def _otherwise(self, address: Mailbox) -> Found:
        """What an address stands for that has no place of its own: that without its tag, else the catch-all."""
        domain = address.domain
        if domain not in self._local:
            return _RELAYED if domain in self._relay else _NOT_LOCAL
        base, plus, _ = address.local.text.partition("+")
        if plus and (place := self._places.get(key_of(Mailbox(LocalPart(base), domain)))) is not None:
            return place
        return self._catch_alls.get(domain, _NO_SUCH_USER)

    def _lead(self, way: Way) -> Resolution:
        walk = Walk(self._find)
        try:
            walk.follow(way)
        except Hopeless:
            walk.targets.clear()
        if walk.targets:
            announced = way.meaning.to if isinstance(way.meaning, Forwarded) else None
            targets = tuple(walk.targets)
            limited = len(targets) == 1 and self._is_limited(targets[0])
            return Accepted(targets, limited, announced, walk.owners, tuple(walk.postings))
        return _CIRCULAR if way.last_resort is None else Accepted((way.last_resort,))

    def _is_limited(self, address: Mailbox) -> bool:
        user = self._names.user(address)
        return user is not None and (user.quota is not None or user.soft_quota is not None)

    def _meaning(self, address: Mailbox) -> Verification:
        match self._find(address):
            case Way(meaning=meaning):
                return meaning
            case Accepted(targets):
                return self._verified(targets[0])
            case Relayed() | NotLocal():
                return _UNVERIFIABLE
            case found:
                return found

    def _verified(self, address: Mailbox) -> Verified:
        user = self._names.user(address)
        return Verified(address) if user is None else Verified(user.mailbox, user.full_name)


def list_owner(address: Mailbox) -> Mailbox:
    """Who gets the bounces of a list (RFC 5321 §3.9.2), after RFC 2142 §6."""
    return Mailbox(LocalPart(f"{address.local.text}-owner"), address.domain)


def _forward(address: Mailbox, forward: Forward) -> Place:
    if isinstance(forward, Moved):
        return forward
    return _way(address, forward.targets, Forwarded(forward.targets[0]))


def _way(
    address: Mailbox,
    targets: tuple[Mailbox, ...],
    meaning: Verification,
    *,
    owner: Mailbox | None = None,
    posting: Posting | None = None,
) -> Way:
    # RFC 5321 §4.5.1: mail for the postmaster is taken, whatever became of its alias.
    last_resort = Mailbox(_POSTMASTER, address.domain) if _is_postmaster(address) else None
    return Way(str(address), targets, meaning, owner, posting, last_resort)


def _is_postmaster(address: Mailbox) -> bool:
    return address.local.text.casefold() == "postmaster"


def _without_brackets(text: str) -> str:
    if not (text.startswith("<") and text.endswith(">")):
        return text
    if not (inner := text[1:-1].strip()):
        raise AddressError("path is empty")
    return inner
