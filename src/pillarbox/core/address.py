"""Mail addresses as values: LocalPart, Domain, AddressLiteral, Mailbox.

What is built here is valid and in one canonical form; nothing above this floor handles an address as a bare string.
Knows the grammar of RFC 5321 §4.1.2 and RFC 6531 §3.3 for addresses, not of commands: where a local part may be other
than ASCII is decided by whoever reads one. A reverse-path is `Mailbox | None`: None is `<>`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache

import idna

MAX_LOCAL_PART = 64  # octets, RFC 5321 §4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 §4.5.3.1.2

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010FFFF-]+"
_DOT_STRING = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_QUOTED_STRING = re.compile(r'"(?:[ !#-\[\]-~\u0080-\U0010FFFF]|\\[ -~])*"')
_LDH_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LDH_DOMAIN = re.compile(rf"{_LDH_LABEL}(?:\.{_LDH_LABEL})*")
_GENERAL_LITERAL = re.compile(r"\[([A-Za-z0-9-]*[A-Za-z0-9]):[!-Z^-~]+\]")


class AddressError(ValueError):
    """The text is no address; the message says what is wrong with it, in words fit for a reply."""


class UnknownLiteral(AddressError):
    """A well-formed General-address-literal whose tag is not implemented (RFC 5321 §4.1.3): reply 504, not 501."""


@dataclass(frozen=True, slots=True)
class LocalPart:
    """The part before the @: case is kept, quoting is not (`text` is what the quotes meant)."""

    text: str

    @classmethod
    def parse(cls, source: str) -> LocalPart:
        """From Dot-string or Quoted-string (RFC 5321 §4.1.2, RFC 6531 §3.3). Raises AddressError."""
        if len(source) > MAX_LOCAL_PART or (not source.isascii() and len(source.encode()) > MAX_LOCAL_PART):
            raise AddressError(f"local part longer than {MAX_LOCAL_PART} octets")
        if not source.isascii() and not source.isprintable():  # controls, line ends and marks that turn a text around
            raise AddressError("local part holds characters that can't be seen")
        if _DOT_STRING.fullmatch(source):
            return cls(source)
        if _QUOTED_STRING.fullmatch(source):
            return cls(re.sub(r"\\(.)", r"\1", source[1:-1]))
        raise AddressError("local part is neither a dot-string nor a quoted string")

    def __str__(self) -> str:
        if _DOT_STRING.fullmatch(self.text):
            return self.text
        return '"' + re.sub(r'(["\\])', r"\\\1", self.text) + '"'


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain name, kept as lower-case A-labels."""

    ascii: str

    @classmethod
    def parse(cls, source: str) -> Domain:
        """From A-labels or U-labels (RFC 5890). Raises AddressError."""
        return _parse_domain(source)

    @property
    def unicode(self) -> str:
        """The name in U-labels, as a person reads it."""
        try:
            return idna.decode(self.ascii) if "xn--" in self.ascii else self.ascii
        except idna.IDNAError:  # A-labels that nobody could have made from a name
            return self.ascii

    def __str__(self) -> str:
        return self.ascii


@lru_cache(maxsize=4096)
def _parse_domain(source: str) -> Domain:
    text = source
    if not source.isascii():
        try:
            text = idna.encode(source, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise AddressError(f"domain is not a valid internationalised name: {error}") from error
    if len(text) > MAX_DOMAIN:
        raise AddressError(f"domain longer than {MAX_DOMAIN} octets")
    if not _LDH_DOMAIN.fullmatch(text):
        raise AddressError("domain has an illegal label")
    return Domain(text.lower())


@dataclass(frozen=True, slots=True)
class AddressLiteral:
    """An IP address in brackets where a domain may stand (RFC 5321 §4.1.3)."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address

    @classmethod
    def parse(cls, source: str) -> AddressLiteral:
        """From `[192.0.2.1]` or `[IPv6:2001:db8::1]`. Raises AddressError, UnknownLiteral."""
        inner = source[1:-1]
        try:
            if "%" in inner:
                raise ValueError("a zone has no place in mail")  # and ipaddress lets any octets stand in one
            if inner[:5].lower() == "ipv6:":
                return cls(ipaddress.IPv6Address(inner[5:]))
            return cls(ipaddress.IPv4Address(inner))
        except ValueError as error:
            if (tag := _GENERAL_LITERAL.fullmatch(source)) and tag[1].lower() != "ipv6":
                raise UnknownLiteral(f"address literals of type {tag[1]} are not implemented") from error
            raise AddressError("malformed address literal") from error

    def __str__(self) -> str:
        return f"[IPv6:{self.ip}]" if self.ip.version == 6 else f"[{self.ip}]"


Host = Domain | AddressLiteral


def parse_host(source: str) -> Host:
    """A domain or an address literal. Raises AddressError, UnknownLiteral."""
    if source.startswith("[") and source.endswith("]"):
        return AddressLiteral.parse(source)
    return _parse_domain(source)


@dataclass(frozen=True, slots=True, eq=False)
class Mailbox:
    """local-part@domain. Two mailboxes are equal when the local parts are equal to the letter."""

    local: LocalPart
    domain: Host
    _text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", f"{self.local}@{self.domain}")

    @classmethod
    def parse(cls, source: str) -> Mailbox:
        """From `local@domain` without angle brackets. Raises AddressError, UnknownLiteral."""
        return _parse_mailbox(source)

    @property
    def is_ascii(self) -> bool:
        """Whether it can stand where SMTPUTF8 is not offered; a domain always can, as A-labels (RFC 6531 §3.2)."""
        return self._text.isascii()

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Mailbox) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text


@lru_cache(maxsize=4096)
def _parse_mailbox(source: str) -> Mailbox:
    local, at, domain = source.rpartition("@")
    if not at:
        raise AddressError("address has no @domain")
    return Mailbox(LocalPart.parse(local), parse_host(domain))
