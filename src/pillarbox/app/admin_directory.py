"""What an operator may do with the directory: domains, users, aliases, forwards, lists. A part of `admin.Admin`.

Gives plain JSON-able data, in which sizes are octets and hashes of passwords never stand; a key that would say nothing
is left out. Raises Refused, prints nothing. A change holds at once: the live directory is read again behind each. Text
of arguments becomes values here, at the edge.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pillarbox.adapters.directory_sqlite import DirectoryError, DirectoryStore, LiveDirectory
from pillarbox.adapters.passwords import kept_of
from pillarbox.app.config_values import size
from pillarbox.app.control import Refused
from pillarbox.app.words import ANNOUNCE, MAY_POST, MAY_SEE, MOVED
from pillarbox.core.address import AddressError, Domain, Mailbox
from pillarbox.engine.directory import (
    AliasAddress,
    Announced,
    Forward,
    MailingList,
    parse_alias_address,
)
from pillarbox.engine.ports import Audience, Moved, User
from pillarbox.smtp.scram import ScramKeys

Data = dict[str, Any]
MAX_PASSWORD = 1024  # octets


@contextmanager
def refusals() -> Iterator[None]:
    """What can't be done becomes Refused; a bug stays what it is."""
    try:
        yield
    except AddressError as error:
        raise Refused(str(error), usage=True) from error
    except DirectoryError as error:
        raise Refused(str(error)) from error


@dataclass(frozen=True, slots=True)
class NewUser:
    """What `user add` was given; sizes as text, "" for none."""

    address: str
    name: str = ""
    quota: str = ""
    soft_quota: str = ""
    operator: bool = False
    owns: tuple[str, ...] = ()


class DirectoryAdmin:
    """The operations. Every argument is text as the operator gave it."""

    def __init__(self, *, store: DirectoryStore, directory: LiveDirectory) -> None:
        self._store = store
        self._directory = directory

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with refusals():
            yield
            self._directory.reload()

    # --- domains

    async def domain_add(self, domain: str, *, relay: bool = False) -> Data:
        with self._changing():
            added = parsed_domain(domain)
            self._store.add_domain(added, relay=relay)
        return {"domain": str(added), **({"relay": True} if relay else {})}

    async def domain_remove(self, domain: str) -> Data:
        with self._changing():
            removed = parsed_domain(domain)
            self._store.remove_domain(removed)
        return {"domain": str(removed)}

    async def domain_list(self) -> list[Data]:
        """The relay domains behind the local ones."""
        owners = self._store.owners()
        rows: list[Data] = [{"domain": str(domain)} for domain in self._store.domains()]
        for domain in self._store.relay_domains():
            owner = owners.get(domain)
            rows.append({"domain": str(domain), "relay": True, **({"owner": str(owner)} if owner else {})})
        return rows

    # --- users

    async def user_add(self, new: NewUser, password: bytes = b"") -> Data:
        """Without a password nobody can log in."""
        if not new.name.isprintable():
            raise Refused(f"name {new.name!r}: has a control character, such as a line end", usage=True)
        with refusals():
            hashed, scram = await _kept(password) if password else (None, None)
            user = User(
                parsed_mailbox(new.address),
                new.name,
                password=hashed,
                quota=_size("quota", new.quota),
                soft_quota=_size("soft-quota", new.soft_quota),
                operator=new.operator,
                owns=tuple(map(parsed_domain, new.owns)),
                scram=scram,
                created_at=time.time(),
            )
            _check_quotas(user)
        with self._changing():
            self._store.add_user(user)
        return {"address": str(user.mailbox), "name": user.full_name}

    async def user_remove(self, address: str) -> Data:
        """`targets_of`: what had the user as a target, and leads there no longer."""
        with self._changing():
            mailbox = parsed_mailbox(address)
            left = self._store.remove_user(mailbox)
        return {"address": str(mailbox), **({"targets_of": list(left)} if left else {})}

    async def user_list(self) -> list[Data]:
        return [
            {
                "address": str(user.mailbox),
                "name": user.full_name,
                **({} if user.enabled else {"enabled": False}),
            }
            for user in self._store.users()
        ]

    async def user_show(self, address: str) -> Data:
        with refusals():
            user = self._store.user(parsed_mailbox(address))
        return {
            "address": str(user.mailbox),
            "name": user.full_name,
            "password": "set" if user.password else "not set",
            "quota": user.quota,
            "soft_quota": user.soft_quota,
            "enabled": user.enabled,
            "operator": user.operator,
            "owns": [str(domain) for domain in user.owns],
        }

    async def user_enable(self, address: str, *, enabled: bool) -> Data:
        with self._changing():
            mailbox = parsed_mailbox(address)
            self._store.set_enabled(mailbox, enabled=enabled)
        return {"address": str(mailbox), "enabled": enabled}

    async def user_passwd(self, address: str, password: bytes) -> Data:
        with refusals():
            mailbox = self._store.user(parsed_mailbox(address)).mailbox
            hashed, scram = await _kept(password)
        with self._changing():
            self._store.set_password(mailbox, hashed, scram)
        return {"address": str(mailbox)}

    # --- aliases

    async def alias_add(self, address: str, targets: list[str]) -> Data:
        with self._changing():
            alias = _alias(address)
            mailboxes = [parsed_mailbox(target) for target in targets]
            self._store.add_alias(alias, mailboxes)
        return {"address": str(alias), "targets": [str(mailbox) for mailbox in mailboxes]}

    async def alias_remove(self, address: str) -> Data:
        with self._changing():
            alias = _alias(address)
            self._store.remove_alias(alias)
        return {"address": str(alias)}

    async def alias_list(self) -> list[Data]:
        return [
            {"address": str(address), "targets": [str(target) for target in targets]}
            for address, targets in self._store.aliases().items()
        ]

    # --- forwards

    async def forward_add(self, address: str, targets: list[str], how: str) -> Data:
        """`how`: announce or moved."""
        with self._changing():
            mailbox = parsed_mailbox(address)
            forward = _forward(how, tuple(map(parsed_mailbox, targets)))
            self._store.add_forward(mailbox, forward)
        return _forward_data(mailbox, forward)

    async def forward_remove(self, address: str) -> Data:
        with self._changing():
            mailbox = parsed_mailbox(address)
            self._store.remove_forward(mailbox)
        return {"address": str(mailbox)}

    async def forward_list(self) -> list[Data]:
        return [_forward_data(address, forward) for address, forward in self._store.forwards().items()]

    # --- lists

    async def list_add(self, address: str, members: list[str], expn: str, post: str) -> Data:
        """`expn`, `post`: who may see the members, who may write to them."""
        with self._changing():
            mailbox = parsed_mailbox(address)
            mailing_list = MailingList(
                tuple(map(parsed_mailbox, members)),
                _audience("expn", expn, MAY_SEE),
                _audience("post", post, MAY_POST),
            )
            self._store.add_list(mailbox, mailing_list)
        return await self.list_show(address)

    async def list_remove(self, address: str) -> Data:
        with self._changing():
            mailbox = parsed_mailbox(address)
            self._store.remove_list(mailbox)
        return {"address": str(mailbox)}

    async def list_join(self, address: str, members: list[str]) -> Data:
        with self._changing():
            self._store.join(parsed_mailbox(address), list(map(parsed_mailbox, members)))
        return await self.list_show(address)

    async def list_leave(self, address: str, members: list[str]) -> Data:
        with self._changing():
            self._store.leave(parsed_mailbox(address), list(map(parsed_mailbox, members)))
        return await self.list_show(address)

    async def list_list(self) -> list[Data]:
        return [_list_data(address, found) for address, found in self._store.lists().items()]

    async def list_show(self, address: str) -> Data:
        with refusals():
            return _list_data(*self._store.list_at(parsed_mailbox(address)))


# --- text to values


@contextmanager
def _naming(text: str) -> Iterator[None]:
    """A complaint about an address names it."""
    try:
        yield
    except AddressError as error:
        raise AddressError(f"{text}: {error}") from error


def parsed_domain(text: str) -> Domain:
    with _naming(text):
        return Domain.parse(text)


def parsed_mailbox(text: str) -> Mailbox:
    with _naming(text):
        return Mailbox.parse(text.removeprefix("<").removesuffix(">"))


def _alias(text: str) -> AliasAddress:
    with _naming(text):
        return parse_alias_address(text)


def _size(name: str, text: str) -> int | None:
    if not text:
        return None
    kind = size(most="100T")
    try:
        return kind.read(text)
    except ValueError as error:
        raise Refused(f"{name} {text}: {error}; allowed: {kind.allowed}", usage=True) from error


def _check_quotas(user: User) -> None:
    if user.quota is not None and user.soft_quota is not None and user.soft_quota > user.quota:
        raise Refused("the soft quota must not exceed the quota: mail is put off from the one, refused from the other")


async def _kept(password: bytes) -> tuple[str, ScramKeys | None]:
    if not password:
        raise Refused("the password is empty", usage=True)
    if len(password) > MAX_PASSWORD:
        raise Refused(f"the password has {len(password)} octets; at most {MAX_PASSWORD} are taken", usage=True)
    try:
        text = password.decode()
    except UnicodeDecodeError:
        raise Refused("the password is not UTF-8", usage=True) from None  # the fault's text has the octets
    if "\0" in text:
        raise Refused("the password has a NUL, which no client can send", usage=True)
    return await asyncio.to_thread(kept_of, text)


def _forward(how: str, targets: tuple[Mailbox, ...]) -> Forward:
    match how, targets:
        case _, ():
            raise Refused("a forward needs a target", usage=True)
        case "announce", _:
            return Announced(targets)
        case "moved", (to,):
            return Moved(to)
        case "moved", _:
            raise Refused("who has moved is at one address: give one target", usage=True)
    raise Refused(f"a forward is made with {ANNOUNCE} or {MOVED}, not {how!r}", usage=True)


def _audience(name: str, word: str, allowed: tuple[str, ...]) -> Audience:
    if word not in allowed:
        raise Refused(f"{name} {word!r}: allowed are {', '.join(allowed)}", usage=True)
    return Audience(word)


# --- values to data


def _forward_data(address: Mailbox, forward: Forward) -> Data:
    if isinstance(forward, Moved):
        return {"address": str(address), "how": MOVED, "targets": [str(forward.to)]}
    return {"address": str(address), "how": ANNOUNCE, "targets": [str(target) for target in forward.targets]}


def _list_data(address: Mailbox, mailing_list: MailingList) -> Data:
    return {
        "address": str(address),
        "expn": mailing_list.expn.value,
        "post": mailing_list.post.value,
        "members": [str(member) for member in mailing_list.members],
    }
