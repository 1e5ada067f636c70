"""The names by which people are looked for: local parts without a domain, words of full names, login names.

Indexes made once from plain values, so that no look-up walks all users. Knows nothing of where an address leads.
Names are compared case-folded, a word without the punctuation around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from pillarbox.core.address import AddressError, Domain, Host, Mailbox
from pillarbox.engine.ports import User

Key = tuple[str, str]
MAX_FOUND = 1000  # people of one name
_PUNCTUATION = ".,;:'\"()<>"


def key_of(address: Mailbox) -> Key:
    """Equal for addresses that are the same here: a final destination may fold the case (RFC 5321 §2.4)."""
    domain = address.domain
    return address.local.text.casefold(), domain.ascii if isinstance(domain, Domain) else str(domain)


class Names:
    """The indexes of one snapshot."""

    __slots__ = ("_by_local", "_by_login", "_by_word", "_domains", "_users")

    def __init__(self, domains: Sequence[Domain], users: Iterable[User], others: Iterable[Mailbox]) -> None:
        """`others`: addresses that are no users. All in the order in which answers are to be given."""
        self._domains = tuple(domains)
        self._users: dict[Key, User] = {}
        self._by_local: dict[str, list[Mailbox]] = {}
        self._by_login: dict[str, User] = {}
        self._by_word: dict[str, list[User]] = {}
        ranks: dict[Host, int] = {domain: rank for rank, domain in enumerate(domains)}
        for user in users:
            self._add_user(user, ranks)
        for address in others:
            self._by_local.setdefault(address.local.text.casefold(), []).append(address)

    def _add_user(self, user: User, ranks: dict[Host, int]) -> None:
        key = key_of(user.mailbox)
        local = key[0]
        self._users[key] = user
        self._by_local.setdefault(local, []).append(user.mailbox)
        first = self._by_login.setdefault(local, user)
        if first is not user and ranks[user.mailbox.domain] < ranks[first.mailbox.domain]:
            self._by_login[local] = user
        if user.full_name:
            for word in dict.fromkeys(_words(user.full_name)):
                self._by_word.setdefault(word, []).append(user)

    def user(self, address: Mailbox) -> User | None:
        return self._users.get(key_of(address))

    def login(self, name: str) -> User | None:
        """By an address, or by a local part: in the first domain that has such a user."""
        if "@" not in name:
            return self._by_login.get(name.casefold())
        try:
            return self.user(Mailbox.parse(name))
        except AddressError:
            return None

    def login_names(self, name: str) -> tuple[str, ...]:
        """The addresses among which `login` looks: one, or that local part in every domain."""
        folded = name.casefold()
        if "@" not in name and self._domains:
            return tuple(f"{folded}@{domain.ascii}" for domain in self._domains)
        try:
            return ("@".join(key_of(Mailbox.parse(name))),)
        except AddressError:
            return (folded,)

    def with_local_part(self, local: str) -> Sequence[Mailbox]:
        """Addresses of any domain and kind, users first."""
        return self._by_local.get(local.casefold(), ())

    def with_full_name(self, words: str) -> Sequence[User]:
        """Users with all these words in their full name, in their order; MAX_FOUND of them at most."""
        wanted = _words(words)
        if not wanted:
            return ()
        found = [self._by_word.get(word, []) for word in wanted]
        fewest = min(found, key=len)
        named_so = (user for user in fewest if set(wanted) <= set(_words(user.full_name)))
        return list(islice(fewest if len(wanted) == 1 else named_so, MAX_FOUND))


def _words(text: str) -> list[str]:
    return [word for part in text.casefold().split() if (word := part.strip(_PUNCTUATION))]
