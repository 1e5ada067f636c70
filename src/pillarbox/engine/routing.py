"""Where mail goes next: routes and lanes.

Pure. Invariant: the first route that matches wins. Which hosts a next hop comes to is found by `walk.py`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address

from pillarbox.core.address import Domain, Host, LocalPart, Mailbox, parse_host
from pillarbox.engine.mail import Place
from pillarbox.engine.ports import (
    Directory,
    IpAddress,
)

SMTP_PORT = 25
_REMEMBERED = 4096  # recipients whose route is known without a look-up

# --- routes


class LineEnd(Enum):
    """How the lines of a message end for a program; the value is the word in the configuration."""

    LF = "lf"
    CRLF = "crlf"


@dataclass(frozen=True, slots=True)
class Mx:
    """The hosts that the recipient's domain names in DNS."""

    port: int = SMTP_PORT


@dataclass(frozen=True, slots=True)
class SmartHost:
    """One host, by name or IP address, for whatever domain."""

    host: str
    port: int = SMTP_PORT
    implicit_tls: bool = False  # smtps: the handshake comes first
    lmtp: bool = False  # it speaks LMTP (RFC 2033)


@dataclass(frozen=True, slots=True)
class LmtpSocket:
    """A server on this machine that speaks LMTP on a Unix socket."""

    path: str


@dataclass(frozen=True, slots=True)
class Pipe:
    """A program on this machine, run once for each recipient. `command` is its argv, with placeholders (command.py)."""

    command: tuple[str, ...] = ()
    seconds: float = 60.0  # that a run may take
    line_end: LineEnd = LineEnd.LF


@dataclass(frozen=True, slots=True)
class MaildirHop:
    """A mailbox on this machine."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Nowhere."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Nowhere by ourselves: who owns the domain comes for its mail, by TURN, ATRN or ETRN."""


NextHop = Mx | SmartHost | LmtpSocket | Pipe | MaildirHop | Discard | Turn

_WORDS: dict[str, NextHop] = {
    "mx": Mx(),
    "maildir": MaildirHop(),
    "pipe": Pipe(),
    "discard": Discard(),
    "turn": Turn(),
}
PORTS = {"smtp": SMTP_PORT, "smtps": 465, "lmtp": 24}  # lmtp has none of its own; 24 is what other servers take
_URL = re.compile(r"(smtps?|lmtp)://(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?/?")
_SOCKET = re.compile(r"lmtp:unix:([^\0]+)")
_NOT_BUILT = frozenset(("hold",))
_ALLOWED = (
    "mx, smtp://HOST, smtp://HOST:PORT, smtps://HOST, smtps://HOST:PORT, lmtp://HOST:PORT, lmtp:unix:PATH, maildir, "
    "pipe, discard, turn"
)


def parse_next_hop(source: str) -> NextHop:
    """From what stands in a route. Raises ValueError, whose text names what is allowed."""
    if source in _WORDS:
        return _WORDS[source]
    if source in _NOT_BUILT:
        raise ValueError(f"next hop {source!r} is not built yet; allowed are {_ALLOWED}")
    if match := _SOCKET.fullmatch(source):
        return LmtpSocket(match[1])
    if not (match := _URL.fullmatch(source)):
        raise ValueError(f"next hop {source!r} is none of {_ALLOWED}")
    scheme = match[1]
    port = int(match[4] or PORTS[scheme])
    if not 1 <= port <= 65535:
        raise ValueError(f"next hop {source!r} has no port between 1 and 65535")
    if scheme == "lmtp" and port == SMTP_PORT:
        raise ValueError(f"next hop {source!r}: LMTP must not be on port 25 (RFC 2033 section 5)")
    try:
        host = _host_text(match[2] or match[3], bracketed=match[2] is not None)
        return SmartHost(host, port, implicit_tls=scheme == "smtps", lmtp=scheme == "lmtp")
    except ValueError as error:
        raise ValueError(f"next hop {source!r} has no valid host ({error}); allowed are {_ALLOWED}") from error


def _host_text(host: str, *, bracketed: bool) -> str:
    if bracketed or as_ip(host) is not None:
        return str(ip_address(host))
    return Domain.parse(host).ascii


def as_ip(host: str) -> IpAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


class TlsPolicy(Enum):
    """How much TLS a next hop must have; the value is the word in the configuration."""

    OFF = "off"  # never asked for
    OPPORTUNISTIC = "opportunistic"  # used where offered, whatever the certificate
    REQUIRED = "required"  # no mail without it, whatever the certificate
    VERIFIED = "verified"  # no mail without it and a certificate that is good for the host


@dataclass(frozen=True, slots=True)
class Route:
    """Which recipients go where, and how. `match` is `*`, a domain, `*.` and a domain, or an address."""

    match: str
    next_hop: NextHop
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    credentials: str | None = None  # a file with user and password

    def __post_init__(self) -> None:
        _match_key(self.match)


def _match_key(pattern: str) -> str:
    """The pattern in the one spelling that a look-up finds. Raises ValueError."""
    try:
        if pattern == "*":
            return pattern
        if pattern.startswith("*."):
            return f"*.{Domain.parse(pattern[2:])}"
        return str(Mailbox.parse(pattern) if "@" in pattern else parse_host(pattern)).casefold()
    except ValueError as error:
        raise ValueError(f"{pattern!r} is neither *, a domain, *.DOMAIN nor an address: {error}") from error


def _keys_for(mailbox: Mailbox) -> Iterator[str]:
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


_HERE = Route("*", MaildirHop())
_ELSEWHERE = Route("*", Mx())
_KEPT = Route("*", Turn())
_ANYBODY = LocalPart("postmaster")


class Router:
    """Finds the route of a recipient by a few look-ups, whatever the number of routes."""

    def __init__(self, routes: Sequence[Route], directory: Directory) -> None:
        self._directory = directory
        self._routes = tuple(routes)
        self._positions: dict[str, int] = {}
        for position, route in enumerate(self._routes):
            self._positions.setdefault(_match_key(route.match), position)
        self._matched = lru_cache(maxsize=_REMEMBERED)(self._match)

    def route(self, mailbox: Mailbox) -> tuple[str, Route]:
        """The lane of the recipient, and the route that says how it is driven."""
        found = self._matched(mailbox)
        if found is not None:
            return found
        route = self._unmatched(mailbox.domain)
        return _lane(route, mailbox.domain), route

    def _unmatched(self, domain: Host) -> Route:
        if not isinstance(domain, Domain):
            return _ELSEWHERE
        if self._directory.is_local(domain):
            return _HERE
        return _KEPT if self._directory.keeps(domain) else _ELSEWHERE

    def by_hand(self, next_hop: str, mailbox: Mailbox) -> tuple[str, Route]:
        """As `route`, by a next hop that an operator chose; TLS and credentials as the first route to it has them.
        Where this version knows no such next hop: by the routes."""
        try:
            hop = parse_next_hop(next_hop)
        except ValueError:
            return self.route(mailbox)
        route = next((route for route in self._routes if route.next_hop == hop), Route("*", hop))
        return _lane(route, mailbox.domain), route

    def place(self, domain: Domain) -> tuple[Place, Route]:
        """Where mail for a whole domain waits, and by which route it would go."""
        lane, route = self.route(Mailbox(_ANYBODY, domain))
        return Place(lane, domain), route

    def _match(self, mailbox: Mailbox) -> tuple[str, Route] | None:
        if not (positions := self._positions):
            return None
        first = min((positions[key] for key in _keys_for(mailbox) if key in positions), default=None)
        return None if first is None else (_lane(self._routes[first], mailbox.domain), self._routes[first])


def at_site(route: Route, site: str) -> str:
    """The lane of a route by MX to that site (`sites.py`)."""
    return _lane(route, site)


def _lane(route: Route, destination: Host | str) -> str:
    """Jobs of one lane may share a connection, so all that makes connections differ stands in its name. `destination`:
    the domain, or the site at which its mail arrives."""
    hop = route.next_hop
    match hop:
        case MaildirHop():
            return "maildir"
        case Discard():
            return "discard"
        case Turn():
            return f"turn:{destination}"
        case Pipe():
            return f"pipe:{shlex.join(hop.command)};timeout={hop.seconds:g};line_end={hop.line_end.value}"
        case LmtpSocket():
            lane = f"lmtp:unix:{hop.path}"
        case Mx():
            lane = f"mx:{destination}" if hop.port == SMTP_PORT else f"mx:{destination}:{hop.port}"
        case SmartHost():
            host = f"[{hop.host}]" if ":" in hop.host else hop.host
            lane = f"{_scheme(hop)}:{host}:{hop.port}"
    if route.tls is not TlsPolicy.OPPORTUNISTIC:
        lane += f";tls={route.tls.value}"
    return lane if route.credentials is None else f"{lane};auth={route.credentials}"


def _scheme(hop: SmartHost) -> str:
    if hop.lmtp:
        return "lmtp"
    return "smtps" if hop.implicit_tls else "smtp"


def verified(lane: str, route: Route, domain: Host) -> tuple[str, Route]:
    """The same way for a message that asks for TLS all along it: the certificate must be good (RFC 8689 §4.2.1)."""
    if not isinstance(route.next_hop, Mx | SmartHost):
        return lane, route
    route = replace(route, tls=TlsPolicy.VERIFIED)
    return _lane(route, domain), route
