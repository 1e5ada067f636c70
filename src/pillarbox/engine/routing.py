"""Where mail goes next: routes and lanes.

Pure. Invariant: the first route that matches wins, be it by the recipient alone or by the message, too. Which hosts a
next hop comes to is found by `walk.py`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from pillarbox.core.address import Domain, Host, LocalPart, Mailbox
from pillarbox.core.verp import ReturnAddresses
from pillarbox.engine.mail import Message, Place, Row
from pillarbox.engine.patterns import HeaderPattern, address_key, keys_for, sender_key, sender_keys
from pillarbox.engine.ports import (
    Directory,
    IpAddress,
)

SMTP_PORT = 25
_REMEMBERED = 4096  # recipients whose route is known without a look-up
AWAY = ""  # as the `match` of a route: whoever's mail would go to `mx` if there were no routes

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


@dataclass(frozen=True, slots=True)
class HoldHop:
    """Nowhere before an operator releases it; then by the routes, but past all that hold."""


@dataclass(frozen=True, slots=True)
class Bounces:
    """In this server: what comes to a return address is read, and recorded where it belongs. Never in a route."""


NextHop = Mx | SmartHost | LmtpSocket | Pipe | MaildirHop | Discard | Turn | HoldHop | Bounces

_WORDS: dict[str, NextHop] = {
    "mx": Mx(),
    "maildir": MaildirHop(),
    "pipe": Pipe(),
    "discard": Discard(),
    "turn": Turn(),
    "hold": HoldHop(),
}
PORTS = {"smtp": SMTP_PORT, "smtps": 465, "lmtp": 24}  # lmtp has none of its own; 24 is what other servers take
_URL = re.compile(r"(smtps?|lmtp)://(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?/?")
_SOCKET = re.compile(r"lmtp:unix:([^\0]+)")
_ALLOWED = (
    "mx, smtp://HOST, smtp://HOST:PORT, smtps://HOST, smtps://HOST:PORT, lmtp://HOST:PORT, lmtp:unix:PATH, maildir, "
    "pipe, discard, turn, hold"
)
RELEASED = "released"  # in the place of a next hop that an operator chose: by the routes, but past all that hold
_HOLDS = "hold:"  # what the name of a lane on which nothing is tried begins with


def parse_next_hop(source: str) -> NextHop:
    """From what stands in a route. Raises ValueError, whose text names what is allowed."""
    if source in _WORDS:
        return _WORDS[source]
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
    """Which recipients of which messages go where, and how. `match` is `*`, a domain, `*.` and a domain, or an address;
    AWAY only beside a condition on the message. All that is asked must hold."""

    match: str
    next_hop: NextHop
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    credentials: str | None = None  # a file with user and password
    sender: str | None = None  # a pattern as `match`, "" for the null reverse-path; None: whoever sends it
    header: HeaderPattern | None = None
    pool: str | None = None  # from whose source addresses; None: as the system chooses
    traffic: str | None = None  # the class, which parts the lanes of a next hop

    def __post_init__(self) -> None:
        if self.match != AWAY or not self.is_conditional:
            address_key(self.match)
        if self.sender is not None:
            sender_key(self.sender)

    @property
    def is_conditional(self) -> bool:
        """Whether it depends on more than the recipient."""
        return self.sender is not None or self.header is not None


class _Mail(NamedTuple):
    """What the conditions of routes ask of a message."""

    senders: frozenset[str]  # every pattern that its reverse-path could match
    fields: Mapping[str, str]

    def meets(self, route: Route) -> bool:
        if route.sender is not None and sender_key(route.sender) not in self.senders:
            return False
        if route.header is None:
            return True
        value = self.fields.get(route.header.name)
        return value is not None and route.header.holds(value)


def _facts(message: Message, row: Row | None) -> _Mail:
    """The reverse-path is the one that the next hop sees: behind a list, its owner (RFC 5321 §3.9.2)."""
    sender = message.envelope.sender
    if sender is not None and row is not None:
        sender = row.recipient.owner or sender
    return _Mail(sender_keys(sender), dict(message.envelope.options.fields))


_HERE = Route("*", MaildirHop())
_ELSEWHERE = Route("*", Mx())
_KEPT = Route("*", Turn())
_READ_HERE = Route("*", Bounces())
_ANYBODY = LocalPart("postmaster")


class _Matched(NamedTuple):
    """What is known of a recipient by its address alone: routes that may be its, in order, and where it goes when none
    of them is."""

    maybe: tuple[Route, ...]
    surely: tuple[str, Route] | None  # None: by what the directory says now


class Router:
    """Finds the route of a recipient by a few look-ups, whatever the number of routes that ask for no more than it."""

    def __init__(
        self, routes: Sequence[Route], directory: Directory, *, returns: ReturnAddresses | None = None
    ) -> None:
        """`returns`: the return addresses, which no route leads elsewhere."""
        self._directory = directory
        self._returns = returns
        self._routes = tuple(routes)
        self._positions: dict[str, list[int]] = {}
        for position, route in enumerate(self._routes):
            self._positions.setdefault(_key(route), []).append(position)
        self._matched = lru_cache(maxsize=_REMEMBERED)(self._match)
        self._chosen = lru_cache(maxsize=_REMEMBERED)(self._choose)
        going = [route for route in self._routes if not isinstance(route.next_hop, HoldHop)]
        self._past_hold = self if len(going) == len(self._routes) else Router(going, directory, returns=returns)

    def way(self, message: Message, row: Row) -> tuple[str, Route]:
        """As `route`, of a recipient of the message, or as an operator chose."""
        address = row.recipient.address
        if row.next_hop is not None:
            return self.by_hand(row.next_hop, address, message, row)
        return self.route(address, message, row)

    def route(self, mailbox: Mailbox, message: Message | None = None, row: Row | None = None) -> tuple[str, Route]:
        """The lane of the recipient, and the route that says how it is driven. Without a message: by the routes that
        ask for none."""
        if self._returns is not None and self._returns.has(mailbox):
            return _lane(_READ_HERE, mailbox.domain), _READ_HERE
        maybe, surely = self._matched(mailbox)
        if maybe and message is not None:
            mail = _facts(message, row)
            for route in maybe:
                if mail.meets(route) and (route.match != AWAY or self._unmatched(mailbox.domain) is _ELSEWHERE):
                    return _lane(route, mailbox.domain), route
        if surely is not None:
            return surely
        route = self._unmatched(mailbox.domain)
        return _lane(route, mailbox.domain), route

    def _unmatched(self, domain: Host) -> Route:
        if not isinstance(domain, Domain):
            return _ELSEWHERE
        if self._directory.is_local(domain):
            return _HERE
        return _KEPT if self._directory.keeps(domain) else _ELSEWHERE

    def by_hand(
        self, next_hop: str, mailbox: Mailbox, message: Message | None = None, row: Row | None = None
    ) -> tuple[str, Route]:
        """As `route`, by a next hop that an operator chose; the rest as the first route to it has it that is for such
        messages, or else TLS and credentials as the first one has them. Where this version knows no such next hop: by
        the routes."""
        if next_hop == RELEASED:
            return self._past_hold.route(mailbox, message, row)
        try:
            hop = parse_next_hop(next_hop)
        except ValueError:
            return self.route(mailbox, message, row)
        ways = [route for route in self._routes if route.next_hop == hop] or [Route("*", hop)]
        mail = None if message is None else _facts(message, row)
        fit = (way for way in ways if not way.is_conditional or (mail is not None and mail.meets(way)))
        route = next(fit, None) or Route("*", hop, ways[0].tls, ways[0].credentials)
        return _lane(route, mailbox.domain), route

    def place(self, domain: Domain) -> tuple[Place, Route]:
        """Where mail for a whole domain waits, and by which route it would go."""
        lane, route = self.route(Mailbox(_ANYBODY, domain))
        return Place(lane, domain), route

    def _match(self, mailbox: Mailbox) -> _Matched:
        if not self._positions:
            return _NOTHING
        maybe, sure = self._chosen(tuple(key for key in (*keys_for(mailbox), AWAY) if key in self._positions))
        return _Matched(maybe, None if sure is None else (_lane(sure, mailbox.domain), sure))

    def _choose(self, keys: tuple[str, ...]) -> tuple[tuple[Route, ...], Route | None]:
        """The routes with a condition that stand before the first one without, and that one. Many recipients share
        them."""
        maybe: list[Route] = []
        for position in sorted(position for key in keys for position in self._positions[key]):
            route = self._routes[position]
            if not route.is_conditional:
                return tuple(maybe), route
            maybe.append(route)
        return tuple(maybe), None


def _key(route: Route) -> str:
    return AWAY if route.match == AWAY else address_key(route.match)


_NOTHING = _Matched((), None)


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
        case Bounces():
            return "bounces"
        case Turn():
            return f"turn:{destination}"
        case HoldHop():
            return f"{_HOLDS}{route.match}"
        case Pipe():
            return f"pipe:{shlex.join(hop.command)};timeout={hop.seconds:g};line_end={hop.line_end.value}"
        case LmtpSocket():
            lane = f"lmtp:unix:{hop.path}"
        case Mx():
            lane = f"mx:{destination}" if hop.port == SMTP_PORT else f"mx:{destination}:{hop.port}"
        case SmartHost():
            host = f"[{hop.host}]" if ":" in hop.host else hop.host
            lane = f"{_scheme(hop)}:{host}:{hop.port}"
    return lane + _apart(route)


def _apart(route: Route) -> str:
    """What keeps a lane apart from others to the same place."""
    words = ""
    if route.tls is not TlsPolicy.OPPORTUNISTIC:
        words += f";tls={route.tls.value}"
    if route.credentials is not None:
        words += f";auth={route.credentials}"
    if route.pool is not None:
        words += f";pool={route.pool}"
    return words if route.traffic is None else f"{words};class={route.traffic}"


def is_held_by_route(lane: str) -> bool:
    """Whether a route keeps what waits in that lane from being tried."""
    return lane.startswith(_HOLDS)


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
