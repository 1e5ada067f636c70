"""The kinds of value that the configuration knows: sizes, durations, counts, addresses, choices.

A Kind turns one TOML value into one typed value, or raises ValueError with the reason; what is allowed is said once, in
`allowed`, for the reader of an error and of the reference page alike. Knows no key, no file, no default.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from pillarbox.adapters.privilege import SystemUser, find_user, user_names
from pillarbox.core.address import Domain
from pillarbox.engine.command import PLACEHOLDERS, check_word
from pillarbox.engine.limits import PERIODS, Limit
from pillarbox.engine.patterns import HeaderPattern, sender_key
from pillarbox.engine.routing import Discard, NextHop, Route, parse_next_hop

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_SIZE = re.compile(r"(\d{1,12})([KMGT])?")
_SIZE_UNITS = {None: 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_DURATION = re.compile(r"(\d{1,9})([smhd])")
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_DURATION = 1000 * 86400
MAX_COUNT = 1_000_000
MAX_WEIGHT = 1000
_RATE = re.compile(r"(\d{1,9})\s*/\s*([smhd])")
OFF = "off"
_MODE = re.compile(r"0?[0-7]{3}")
MAX_URL = 250  # characters: a challenge of OAUTHBEARER has it in one line
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_LABEL = re.compile(r"[a-z0-9-]{1,32}")
_ENVIRONMENT = "env:"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WITH_PORT = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<four>[^:\[\]]*)):(?P<port>\d{1,5})")


class Complete(ValueError):
    """A complaint that says what is allowed, too."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How a value is written (`allowed`, for people) and read (`read`, which raises ValueError). `words` may be meant
    where another one stands."""

    allowed: str
    read: Callable[[object], T]
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a port."""

    ip: IpAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A Unix socket. Its path is still relative to where the file is, until that is known."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment."""

    name: str

    def __str__(self) -> str:
        return f"{_ENVIRONMENT}{self.name}"


SecretSource = Path | Variable  # where a secret stands


def shown(value: object) -> str:
    """A value as the file would have it, near enough for an error text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string in quotes")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("not a whole number")
    return value


def _within(number: int, least: int, most: int) -> int:
    if number < least:
        raise ValueError("too small")
    if number > most:
        raise ValueError("too large")
    return number


# --- numbers


def size(*, most: str = "2G") -> Kind[int]:
    """Octets."""

    def read(value: object) -> int:
        octets = _octets(value) if isinstance(value, str) else _integer(value)
        return _within(octets, 1, _octets(most))

    return Kind(f'1 to {most} octets, as a number or with a unit: 26214400, "10K", "25M", "1G"', read)


def _octets(text: str) -> int:
    if not (match := _SIZE.fullmatch(text.strip())):
        raise ValueError("not a size")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def duration(*, least: int = 1) -> Kind[float]:
    """Seconds."""

    def read(value: object) -> float:
        if not isinstance(value, str):
            return float(_within(_integer(value), least, MAX_DURATION))
        if not (match := _DURATION.fullmatch(value.strip())):
            raise ValueError("the unit is missing" if value.strip().isdigit() else "not a duration")
        return float(_within(int(match[1]) * _DURATION_UNITS[match[2]], least, MAX_DURATION))

    return Kind(f'{least}s to 1000d, with its unit: "30s", "5m", "4h", "5d"; a number without quotes is seconds', read)


def count() -> Kind[int]:
    """How many of something, at least one."""
    return Kind(f"a whole number from 1 to {MAX_COUNT}", lambda value: _within(_integer(value), 1, MAX_COUNT))


def bound() -> Kind[int]:
    """How many of something; 0: any number."""
    return Kind(
        f"a whole number from 1 to {MAX_COUNT}; 0 for no limit", lambda value: _within(_integer(value), 0, MAX_COUNT)
    )


def weight() -> Kind[int]:
    """A share, beside those of others."""
    return Kind(f"a whole number from 0 to {MAX_WEIGHT}", lambda value: _within(_integer(value), 0, MAX_WEIGHT))


def count_or_none() -> Kind[int]:
    """How many of something, or 0."""
    return Kind(f"a whole number from 0 to {MAX_COUNT}", lambda value: _within(_integer(value), 0, MAX_COUNT))


def count_or_off() -> Kind[int | None]:
    """How many of something; None: any number."""

    def read(value: object) -> int | None:
        return None if value == OFF else _within(_not_nought(_integer(value)), 1, MAX_COUNT)

    return Kind(f'a whole number from 1 to {MAX_COUNT}, or "off" for no limit', read, (OFF,))


def rate() -> Kind[Limit | None]:
    """So many in a time; None: any number."""

    def read(value: object) -> Limit | None:
        text = _string(value).strip()
        if text == OFF:
            return None
        if not (match := _RATE.fullmatch(text)):
            raise ValueError("the period is missing" if text.isdigit() else "not a rate")
        return Limit(_within(_not_nought(int(match[1])), 1, MAX_COUNT), PERIODS[match[2]])

    allowed = f'a number from 1 to {MAX_COUNT} and a period (s, m, h or d): "30/m", "1000/h"; or "off" for no limit'
    return Kind(allowed, read, (OFF,))


def _not_nought(number: int) -> int:
    if not number:
        raise ValueError("would let nobody in")
    return number


def prefix(*, bits: int) -> Kind[int]:
    """How many bits of an IP address name its network."""
    return Kind(f"a whole number from 1 to {bits}", lambda value: _within(_integer(value), 1, bits))


# --- words


def choice(values: type[E], *, among: Sequence[E] = ()) -> Kind[E]:
    """One of an enumeration's values, or of those `among` them."""
    words = {member.value: member for member in among or values}

    def read(value: object) -> E:
        word = _string(value)
        if word in words:
            return words[word]
        raise ValueError("no such value")

    return Kind(", ".join(f'"{word}"' for word in words), read, tuple(words))


def switch() -> Kind[bool]:
    """Yes or no."""

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("neither true nor false")
        return value

    return Kind("true or false", read)


def name() -> Kind[str]:
    """A short name given by the operator."""

    def read(value: object) -> str:
        if not _NAME.fullmatch(text := _string(value)):
            raise ValueError("not a name")
        return text

    return Kind("1 to 32 letters, digits, _ and -, the first none of _ and -", read)


def label() -> Kind[str]:
    """A word that becomes part of the name of a lane."""

    def read(value: object) -> str:
        if not _LABEL.fullmatch(text := _string(value)):
            raise ValueError("not a word")
        return text

    return Kind("1 to 32 small letters, digits and -", read)


def domain() -> Kind[Domain]:
    return Kind('a domain name: "mx.example.test"', lambda value: Domain.parse(_string(value)))


def text() -> Kind[str]:
    """Words that mean something to somebody else."""

    def read(value: object) -> str:
        text = _string(value)
        if not text or not text.isprintable():
            raise ValueError("empty, or not printable")
        return text

    return Kind("a text in quotes", read)


def url() -> Kind[str]:
    """Of a server that is asked over HTTP."""

    def read(value: object) -> str:
        text = _string(value)
        if len(text) > MAX_URL or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("not a URL, or too long")
        parts = urlsplit(text)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.fragment or "@" in parts.netloc:
            raise ValueError("not a URL of HTTP")
        if parts.scheme == "http" and not _is_here(parts.hostname):
            raise ValueError("who can change what crosses the network in clear could let anybody in")
        return text

    return Kind('"https://…" with a host name; "http://…" on this machine only', read)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def path() -> Kind[Path]:
    """A path of the file system, still relative to where the file is."""

    def read(value: object) -> Path:
        text = _string(value)
        if not text or "\0" in text:
            raise ValueError("not a path")
        return Path(text)

    return Kind("a path; a relative one starts at this file's directory", read)


def secret() -> Kind[SecretSource]:
    """Where a secret stands; a file's path is still relative to where the configuration is."""
    of_path = path()

    def read(value: object) -> SecretSource:
        text = _string(value)
        if not text.startswith(_ENVIRONMENT):
            return of_path.read(value)
        name = text.removeprefix(_ENVIRONMENT)
        if not _VARIABLE.fullmatch(name):
            raise ValueError("not the name of a variable")
        return Variable(name)

    return Kind(f'{of_path.allowed}; or "env:NAME", a variable of the environment', read)


def system_user() -> Kind[SystemUser]:
    """Looked up at once, so that a slip is found before anything is started."""

    def read(value: object) -> SystemUser:
        name = _string(value)
        if (user := find_user(name)) is not None:
            return user
        close = difflib.get_close_matches(name, user_names(), n=1)
        guess = f', did you mean "{close[0]}"?' if close else ""
        raise ValueError(f"this system has no such user{guess}; `useradd --system NAME` makes one")

    return Kind('the name of a user of this system: "pillarbox"', read)


# --- where mail goes


def recipient_pattern() -> Kind[str]:
    """What a route matches; kept as text, for it is the router that compares."""

    def read(value: object) -> str:
        return Route(_string(value), Discard()).match

    return Kind('a domain "example.org", all below it "*.example.org", everything "*", or "user@example.org"', read)


def sender_pattern() -> Kind[str]:
    """As `recipient_pattern`, of a reverse-path."""

    def read(value: object) -> str:
        sender_key(text := _string(value))
        return text

    return Kind(
        'a domain "example.org", all below it "*.example.org", any address "*", "user@example.org", or "" for the null '
        "reverse-path",
        read,
    )


def header_pattern() -> Kind[HeaderPattern]:
    return Kind(
        '"Name: value", in whose value * stands for anything and ? for one character: "X-Campaign: spring-*"',
        lambda value: HeaderPattern.parse(_string(value)),
    )


def next_hop() -> Kind[NextHop]:
    def read(value: object) -> NextHop:
        text = _string(value)
        try:
            return parse_next_hop(text)
        except ValueError as error:
            raise Complete(str(error)) from error

    words = ("mx", "maildir", "pipe", "discard", "turn", "hold")
    return Kind(
        '"mx", "smtp://HOST:PORT", "smtps://HOST:PORT", "lmtp://HOST:PORT", "lmtp:unix:PATH", "maildir", "pipe", '
        '"discard", "turn", "hold"',
        read,
        words,
    )


def command_word() -> Kind[str]:
    """A word of the command of a pipe."""

    def read(value: object) -> str:
        word = check_word(_string(value))
        if "\0" in word:
            raise ValueError("holds a NUL")
        return word

    return Kind(f"a word of the command; in it may stand {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}", read)


# --- the network


def listen_address() -> Kind[Endpoint | UnixSocket]:
    def read(value: object) -> Endpoint | UnixSocket:
        text = _string(value)
        if not text.startswith("unix:"):
            return _endpoint(text)
        return UnixSocket(path().read(text.removeprefix("unix:")))

    return Kind(
        'IP address and port: "127.0.0.1:2525", "[::1]:25", port 0 for any free one; or "unix:" and a path', read
    )


def source_address() -> Kind[IpAddress]:
    """From where a connection is made."""

    def read(value: object) -> IpAddress:
        ip = ipaddress.ip_address(_string(value))
        if ip.is_unspecified or ip.is_multicast:
            raise ValueError("no single machine has it")
        if isinstance(ip, ipaddress.IPv6Address) and (ip.scope_id or ip.ipv4_mapped):
            raise ValueError("it must have neither a zone nor an IPv4 address in it")
        return ip

    return Kind('an IP address of this machine: "192.0.2.25", "2001:db8::25"', read)


def mode() -> Kind[int]:
    """The permissions of a socket."""

    def read(value: object) -> int:
        if not _MODE.fullmatch(text := _string(value)):
            raise ValueError("no permissions in octal digits")
        return int(text, 8)

    return Kind('permissions as chmod has them: "0600", "0660", "0666"', read)


def server_address(port: int) -> Kind[Endpoint]:
    """The address of a server elsewhere, with a default port."""

    def read(value: object) -> Endpoint:
        text = _string(value)
        try:
            return Endpoint(ipaddress.ip_address(text), port)
        except ValueError:
            endpoint = _endpoint(text)
        if not endpoint.port:
            raise ValueError("port 0 can't be asked")
        return endpoint

    return Kind(f'IP address, with a port where it is not {port}: "192.0.2.53", "127.0.0.1:5353", "[::1]:5353"', read)


def _endpoint(text: str) -> Endpoint:
    if not (match := _WITH_PORT.fullmatch(text)):
        raise ValueError("not an IP address and a port")
    if (port := int(match["port"])) > 65535:
        raise ValueError("port above 65535")
    if match["six"] is not None:
        return Endpoint(ipaddress.IPv6Address(match["six"]), port)
    return Endpoint(ipaddress.IPv4Address(match["four"]), port)


def network() -> Kind[IpNetwork]:
    def read(value: object) -> IpNetwork:
        text = _string(value)
        try:
            return ipaddress.ip_network(text)
        except ValueError:
            pass
        try:
            wider = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("not a network") from None
        raise ValueError(f"has bits set behind its prefix; the network is {wider}")

    return Kind('a network or one IP address: "192.0.2.0/24", "2001:db8::/32", "127.0.0.1"', read)
