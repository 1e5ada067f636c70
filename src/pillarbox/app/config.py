"""The configuration as values: every key with its kind, its default and its documentation.

The text on a field is the reference: `reference.py` prints it, `config_load.py` reads files by it, and neither repeats
it. Defaults stand as they would in the file. Knows nothing of TOML, files or lines; a Config can be built in a test
without any. A key of DESIGN's whole that this version can't obey is in LATER, with the only value it may have.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pillarbox.app import config_values as kinds
from pillarbox.app.config_values import Endpoint, IpNetwork, Kind
from pillarbox.core.address import AddressError, Domain
from pillarbox.engine.retry import RetrySchedule
from pillarbox.engine.routing import NextHop, Route, TlsPolicy
from pillarbox.engine.service import COMMANDS, Access, AuthOffer, TlsMode
from pillarbox.smtp.states import Verb

T = TypeVar("T")
FILE_NAME = "pillarbox.toml"
DOCUMENTED = "documented"  # the key in a field's metadata


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one key. `default` is written as in the file; REQUIRED where there is none."""

    key: str
    kind: Kind[Any]
    doc: str
    default: object
    many: bool = False
    least: int = 0  # elements, where there are many


@dataclass(frozen=True, slots=True)
class Section:
    """What is known of one table, or array of tables (`many`)."""

    key: str
    table: type[Any]
    doc: str
    many: bool = False


REQUIRED = object()


def documented(table: type[Any]) -> Iterator[tuple[str, Setting | Section]]:
    """The fields of a table that are keys of the file: the field's name and what is known of the key."""
    for item in fields(table):
        if known := item.metadata.get(DOCUMENTED):
            yield item.name, known


def _one(key: str, kind: Kind[T], default: object, doc: str) -> T:
    known = {DOCUMENTED: Setting(key, kind, doc, default)}
    if default is REQUIRED:
        return field(metadata=known)  # type: ignore[no-any-return]
    if default is None:
        return field(default=None, metadata=known)  # type: ignore[return-value]
    return field(default=kind.read(default), metadata=known)


def _list(key: str, kind: Kind[T], default: tuple[object, ...], doc: str, *, least: int = 0) -> tuple[T, ...]:
    known = {DOCUMENTED: Setting(key, kind, doc, default, many=True, least=least)}
    return field(default=tuple(kind.read(item) for item in default), metadata=known)


def _table(key: str, table: type[T], doc: str) -> T:
    return field(default_factory=table, metadata={DOCUMENTED: Section(key, table, doc)})


def _tables(key: str, table: type[T], default: tuple[T, ...], doc: str) -> tuple[T, ...]:
    return field(default=default, metadata={DOCUMENTED: Section(key, table, doc, many=True)})


class Service(Enum):
    """What a listener is for."""

    MX = "mx"
    SUBMISSION = "submission"
    LMTP = "lmtp"
    ODMR = "odmr"


class LogFormat(Enum):
    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"


class Compat(Enum):
    STRICT = "strict"
    CLASSIC = "classic"


_LATER_SERVICES = {
    "submission": "message submission",
    "lmtp": "the LMTP service",
}


_ON_DEMAND = (Access.OFF, Access.AUTH)


def _command(verb: Verb, doc: str, *, among: tuple[Access, ...] = tuple(Access)) -> Access:
    return _one(verb.value, kinds.choice(Access, among=among), COMMANDS[verb].value, doc)


@dataclass(frozen=True)
class CommandsConfig:
    """Who may use which command."""

    vrfy: Access = _command(
        Verb.VRFY, "VRFY: whether an address or a name is known. `off` deviates from RFC 5321, which asks for 252."
    )
    expn: Access = _command(Verb.EXPN, "EXPN: who is on a list, as far as the list's own rule allows it.")
    help: Access = _command(Verb.HELP, "HELP. The live status (211) is for operators in any case.")
    send: Access = _command(Verb.SEND, "SEND: a message to the terminal of a user, never stored.")
    soml: Access = _command(Verb.SOML, "SOML: a message to the terminal, or the mailbox where there is none.")
    saml: Access = _command(Verb.SAML, "SAML: a message to the mailbox, and the terminal where there is one.")
    turn: Access = _command(
        Verb.TURN, "TURN: the client gets the mail of its domains on the same connection.", among=_ON_DEMAND
    )
    atrn: Access = _command(
        Verb.ATRN,
        "ATRN: as TURN, for the domains that are named. A listener for `odmr` has it always.",
        among=_ON_DEMAND,
    )
    etrn: Access = _command(
        Verb.ETRN, "ETRN: starts a delivery of the mail of the client's domains, by their routes.", among=_ON_DEMAND
    )

    def by_verb(self) -> Mapping[Verb, Access]:
        return {Verb[name.upper()]: getattr(self, name) for name, _ in documented(CommandsConfig)}


@dataclass(frozen=True)
class ListenerConfig:
    """A socket that takes mail."""

    name: str = _one(
        "name",
        kinds.name(),
        "mx",
        "What the listener is called: in the line printed at the start, in the log, in `why`.",
    )
    address: Endpoint = _one(
        "address",
        kinds.listen_address(),
        "127.0.0.1:2525",
        "Where it listens. With port 0 the system picks a free port; the line printed at the start says which.",
    )
    service: Service = _one(
        "service",
        kinds.choice(Service, later=_LATER_SERVICES),
        "mx",
        "What it is for. `mx` takes mail for local domains from anyone, and for others from `relay.networks` and from "
        "those who have authenticated. `odmr` is on-demand mail relay: ATRN and nothing else, usually on port 366.",
    )
    tls: TlsMode = _one(
        "tls",
        kinds.choice(TlsMode),
        "off",
        "`starttls`: the client may begin TLS by STARTTLS. `implicit`: the handshake comes first, usually on port 465. "
        "Without a `[[tls]]` a self-signed certificate is made.",
    )
    auth: AuthOffer = _one(
        "auth",
        kinds.choice(AuthOffer),
        "tls",
        "Where AUTH is offered. `tls`: under TLS, and to clients on this machine. `clear`: always, so that passwords "
        "may cross the network unprotected. `off`: nowhere.",
    )
    accepts_mail: bool = _one(
        "accepts_mail",
        kinds.switch(),
        True,
        "With false it takes no mail at all: the greeting and every command but QUIT get 521.",
    )
    compat: Compat = _one(
        "compat",
        kinds.choice(Compat),
        "strict",
        "`classic` gives the odd pairs of the classical reply table, too: 200 to NOOP and RSET, 504 to a parameter of "
        "RSET. For testing what clients bear.",
    )
    check_sender_domain: bool = _one(
        "check_sender_domain",
        kinds.switch(),
        False,
        "Ask DNS for the domain of the sender of each message from somebody who may not relay. 550: it does not exist "
        "or takes no mail; 451: no answer now.",
    )
    proxy_protocol: tuple[IpNetwork, ...] = _list(
        "proxy_protocol",
        kinds.network(),
        (),
        "Load balancers in these networks must begin with a PROXY header (version 1 or 2), whose client is taken for "
        "the peer. A header from anybody else is a bad command.",
    )
    commands: CommandsConfig = _table(
        "commands",
        CommandsConfig,
        "Who may use which command of the `[[listener]]` above it. `off`: nobody, the reply is 502. `auth`: who has "
        "authenticated. `trusted`: those, and clients in `relay.networks`. `on`: everybody. Those who may not get 252 "
        "for VRFY and EXPN, 530 for the others.",
    )


@dataclass(frozen=True)
class RelayConfig:
    """Who may send through this server to anywhere."""

    networks: tuple[IpNetwork, ...] = _list(
        "networks", kinds.network(), (), "Clients in these networks may relay: mail of theirs is taken for any domain."
    )


@dataclass(frozen=True)
class RouteConfig:
    """Where mail for some recipients goes. The first route that matches wins; with none that does, mail for local
    domains goes to `maildir`, all else to `mx`."""

    match: str = _one(
        "match",
        kinds.recipient_pattern(),
        REQUIRED,
        "The recipients it is for: a domain, a pattern of domains, or one address.",
    )
    next_hop: NextHop = _one(
        "next_hop",
        kinds.next_hop(),
        REQUIRED,
        "`mx`: the mail exchangers that DNS names. `smtp://HOST:PORT`: that host, whatever DNS says. "
        "`maildir`: a mailbox below `data`. `discard`: taken and thrown away, with a record. `turn`: kept until who "
        "owns the domain comes for it, by TURN or ATRN; the default of a relay domain that a user owns.",
    )
    tls: TlsPolicy = _one(
        "tls",
        kinds.choice(TlsPolicy),
        "opportunistic",
        "How the connection to the next hop is protected. `opportunistic`: by TLS where it is offered, whatever the "
        "certificate. `required`: by TLS, whatever the certificate, or not at all. `verified`: the certificate must be "
        "good for the host, too. `off`: never.",
    )
    credentials: Path | None = _one(
        "credentials",
        kinds.path(),
        None,
        "A file with the user and, on the second line, the password for AUTH at the next hop. They are sent under TLS "
        "and to this machine only.",
    )

    def route(self) -> Route:
        credentials = None if self.credentials is None else str(self.credentials)
        return Route(match=self.match, next_hop=self.next_hop, tls=self.tls, credentials=credentials)


@dataclass(frozen=True)
class TlsConfig:
    """A certificate."""

    certificate: Path = _one(
        "certificate", kinds.path(), REQUIRED, "The certificate with its chain, as PEM; read again when it changes."
    )
    key: Path = _one("key", kinds.path(), REQUIRED, "Its private key, as PEM, without a passphrase.")


@dataclass(frozen=True)
class RetryConfig:
    """When a message that could not be delivered is tried again, and for how long."""

    schedule: tuple[float, ...] = _list(
        "schedule",
        kinds.duration(),
        ("5m", "15m", "30m", "1h", "2h", "4h"),
        "The pause after each failed attempt; the last one repeats.",
        least=1,
    )
    give_up: float = _one(
        "give_up",
        kinds.duration(),
        "5d",
        "How long after it was accepted a message is given up; its sender gets a notice.",
    )

    def policy(self) -> RetrySchedule:
        return RetrySchedule(intervals=self.schedule, give_up=self.give_up)


@dataclass(frozen=True)
class LimitsConfig:
    """Every bound that the server keeps."""

    message_size: int = _one(
        "message_size",
        kinds.size(),
        "25M",
        "The largest message taken; announced by the SIZE extension. What is larger is refused with 552.",
    )
    recipients: int = _one(
        "recipients",
        kinds.count(),
        1000,
        "Recipients of one message; each further one is refused with 452, so that the client sends the message again.",
    )
    connections: int = _one(
        "connections", kinds.count(), 10000, "Connections at a time, over all listeners; further ones get 421."
    )
    connections_per_address: int = _one(
        "connections_per_address",
        kinds.count(),
        100,
        "Connections at a time from one client address; further ones get 421.",
    )
    session_time: float = _one(
        "session_time", kinds.duration(), "1h", "How long a session may last before it is closed with 421."
    )
    transactions: int = _one("transactions", kinds.count(), 10000, "Messages of one session; a further MAIL gets 421.")
    probes: int = _one(
        "probes",
        kinds.count(),
        100,
        "Addresses that a client which may not relay can ask for in one session, by VRFY, EXPN, and RCPT without a "
        "message or for an unknown address; then 421.",
    )
    terminal_messages: int = _one(
        "terminal_messages",
        kinds.count(),
        20,
        "SEND, SOML and SAML a minute from one sender; further ones get 451.",
    )
    disk_reserve: int = _one(
        "disk_reserve",
        kinds.size(),
        "10M",
        "Octets of the disk that are to stay free; a message for which there would be less gets 452.",
    )
    errors: int = _one(
        "errors", kinds.count(), 20, "Refused commands in one session, after which it is closed with 421."
    )
    idle: float = _one(
        "idle", kinds.duration(), "5m", "How long a client may be silent before the connection is closed with 421."
    )
    connections_per_next_hop: int = _one(
        "connections_per_next_hop", kinds.count(), 20, "Connections at a time that this server opens to one next hop."
    )
    drain: float = _one(
        "drain",
        kinds.duration(least=0),
        "30s",
        "How long a stop waits for transactions that are under way before it closes their connections.",
    )


@dataclass(frozen=True)
class LogConfig:
    """The log, on standard error."""

    format: LogFormat = _one(
        "format",
        kinds.choice(LogFormat),
        "auto",
        "`human`: lines for people. `json`: one object a line. `auto`: the first on a terminal, the second elsewhere.",
    )


@dataclass(frozen=True)
class DnsConfig:
    """Whom to ask for MX and address records."""

    servers: tuple[Endpoint, ...] = _list(
        "servers", kinds.server_address(53), (), "The DNS servers to ask; none: those of the system."
    )


@dataclass(frozen=True)
class HistoryConfig:
    """What is kept of messages that are done with."""

    keep: float = _one(
        "keep",
        kinds.duration(least=0),
        "7d",
        "How long envelope and records of a message stay after its last recipient was settled. Its text goes at once.",
    )


def default_hostname() -> Domain:
    """The machine's full name where it has one, else its short name, else localhost."""
    for name in (socket.getfqdn(), socket.gethostname()):
        try:
            found = Domain.parse(name.rstrip("."))
        except AddressError:
            continue
        if found.ascii.partition(".")[0] != "localhost":  # what a resolver says for lack of a better name
            return found
    return Domain.parse("localhost")


_HOSTNAME = Setting(
    "hostname",
    kinds.domain(),
    "The name by which this server calls itself: in its greeting, in HELO and EHLO to others, in Received fields. "
    "Default: the machine's name.",
    None,
)


@dataclass(frozen=True)
class Config:
    """All of it. `source` is the file it came from; `hostname_configured` tells a chosen name from a found one."""

    hostname: Domain = field(default_factory=default_hostname, metadata={DOCUMENTED: _HOSTNAME})
    data: Path = _one(
        "data", kinds.path(), "data", "The directory that holds all that the server keeps: queue, directory, mailboxes."
    )
    listeners: tuple[ListenerConfig, ...] = _tables(
        "listener",
        ListenerConfig,
        (ListenerConfig(),),
        "One for each socket that takes mail. With none, there is one with the defaults below.",
    )
    tls: tuple[TlsConfig, ...] = _tables(
        "tls",
        TlsConfig,
        (),
        "A certificate for the listeners that have TLS. With several, the host name that a client asks for picks one; "
        "the first is for all others.",
    )
    relay: RelayConfig = _table("relay", RelayConfig, "Who may send through this server to anywhere.")
    routes: tuple[RouteConfig, ...] = _tables(
        "route",
        RouteConfig,
        (),
        "Where mail for some recipients goes. The first route that matches wins; with none that does, mail for local "
        "domains goes to `maildir`, all else to `mx`.",
    )
    retry: RetryConfig = _table(
        "retry", RetryConfig, "When what could not be delivered is tried again, and for how long."
    )
    limits: LimitsConfig = _table("limits", LimitsConfig, "Every bound that the server keeps.")
    log: LogConfig = _table("log", LogConfig, "The log, on standard error.")
    dns: DnsConfig = _table("dns", DnsConfig, "Whom to ask for MX and address records.")
    history: HistoryConfig = _table("history", HistoryConfig, "What is kept of messages that are done with.")
    hostname_configured: bool = False
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class LaterKey:
    """A key of a feature that this version lacks. `only` is the one value it may have; REQUIRED: none at all."""

    only: object
    feature: str


LATER: dict[str, LaterKey] = {
    "retry.warn": LaterKey("4h", "a warning of delay"),
}
