"""What routes ask of a recipient and of a message: patterns of addresses, and of header fields.

Pure. A pattern of addresses is `*`, a domain, `*.` and a domain, or an address; it is found by a look-up, since all
patterns that an address could match are few. A header field is compared as it stands: unfolded, encoded words and all,
without regard to case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from pillarbox.core.address import Domain, Mailbox, parse_host

NULL_SENDER = ""  # stands for the null reverse-path
_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 §3.6.8, on one line
MAX_VALUE = 200  # characters of a pattern
_REMEMBERED = 4096


def address_key(pattern: str) -> str:
    """The pattern in the one spelling that a look-up finds. Raises ValueError."""
    try:
        if pattern == "*":
            return pattern
        if pattern.startswith("*."):
            return f"*.{Domain.parse(pattern[2:])}"
        return str(Mailbox.parse(pattern) if "@" in pattern else parse_host(pattern)).casefold()
    except ValueError as error:
        raise ValueError(f"{pattern!r} is neither *, a domain, *.DOMAIN nor an address: {error}") from error


def keys_for(mailbox: Mailbox) -> Iterator[str]:
    """Every pattern that could match the mailbox."""
    domain = str(mailbox.domain).casefold()
    yield f"{mailbox.local}@{domain}".casefold()
    yield domain
    if isinstance(mailbox.domain, Domain):
        _, dot, parent = domain.partition(".")
        while dot:
            yield f"*.{parent}"
            _, dot, parent = parent.partition(".")
    yield "*"


@lru_cache(maxsize=_REMEMBERED)
def sender_key(pattern: str) -> str:
    """As `address_key`, of a reverse-path. Raises ValueError."""
    return NULL_SENDER if pattern == NULL_SENDER else address_key(pattern)


@lru_cache(maxsize=_REMEMBERED)
def sender_keys(sender: Mailbox | None) -> frozenset[str]:
    """Every pattern that could match the reverse-path."""
    return frozenset((NULL_SENDER,)) if sender is None else frozenset(keys_for(sender))


@dataclass(frozen=True, slots=True)
class HeaderPattern:
    """A field that a message must have. `name` is in lower case; in `value` stand * and ?."""

    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> HeaderPattern:
        """From `Name: value`. Raises ValueError."""
        name, colon, value = text.partition(":")
        if not colon:
            raise ValueError("there is no colon behind the name of the field")
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError("not the name of a header field")
        value = value.strip(" \t")
        if len(value) > MAX_VALUE or not value.isprintable():
            raise ValueError(f"the value is not printable, or has more than {MAX_VALUE} characters")
        return cls(name.lower(), value)

    def holds(self, value: str) -> bool:
        """Whether a field with that value is meant."""
        return _compiled(self.value).fullmatch(value) is not None


@lru_cache(maxsize=_REMEMBERED)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Many stars cost no backtracking: `translate` sees to that."""
    return re.compile(translate(pattern.replace("[", "[[]")), re.IGNORECASE)
