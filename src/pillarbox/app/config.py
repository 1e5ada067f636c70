"""The whole configuration as one value, Config, and those of its tables that have no module of their own.

A Config can be built in a test without any file. A key of a later version that this one can't obey is in LATER, with
the only value it may have.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from pillarbox.adapters.privilege import SystemUser
from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.app.config_delivery import RetryConfig, RouteConfig
from pillarbox.app.config_keys import DOCUMENTED, Setting
from pillarbox.app.config_lanes import LaneConfig
from pillarbox.app.config_limits import LimitsConfig
from pillarbox.app.config_listener import ListenerConfig
from pillarbox.app.config_oauth import OAuthConfig
from pillarbox.app.config_timeouts import TimeoutsConfig
from pillarbox.app.config_values import Endpoint, IpNetwork
from pillarbox.core.address import AddressError, Domain

FILE_NAME = "pillarbox.toml"


class LogFormat(Enum):
    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"


@dataclass(frozen=True)
class RelayConfig:
    """Who may send through this server to anywhere."""

    networks: tuple[IpNetwork, ...] = keys.list(
        "networks", kinds.network(), (), "Clients in these networks may relay: mail of theirs is taken for any domain."
    )


@dataclass(frozen=True)
class TlsConfig:
    """A certificate."""

    certificate: Path = keys.one(
        "certificate",
        kinds.path(),
        keys.REQUIRED,
        "The certificate with its chain, as PEM; read again when it changes.",
    )
    key: Path = keys.one("key", kinds.path(), keys.REQUIRED, "Its private key, as PEM, without a passphrase.")


@dataclass(frozen=True)
class LogConfig:
    """The log, on standard error."""

    format: LogFormat = keys.one(
        "format",
        kinds.choice(LogFormat),
        "auto",
        "`human`: lines for people. `json`: one object a line. `auto`: the first on a terminal, the second elsewhere.",
    )


@dataclass(frozen=True)
class DnsConfig:
    """Whom to ask for MX and address records."""

    servers: tuple[Endpoint, ...] = keys.list(
        "servers", kinds.server_address(53), (), "The DNS servers to ask; none: those of the system."
    )


@dataclass(frozen=True)
class HistoryConfig:
    """What is kept of messages that are done with."""

    keep: float = keys.one(
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
    data: Path = keys.one(
        "data", kinds.path(), "data", "The directory that holds all that the server keeps: queue, directory, mailboxes."
    )
    user: SystemUser | None = keys.one(
        "user",
        kinds.system_user(),
        None,
        "Whom the server becomes when it is started as root, once its ports are bound. That user owns `data`, and must "
        "be able to read this file, the files of [[tls]] and those of `credentials`, which are read again later. "
        "Default: the server stays who started it.",
    )
    listeners: tuple[ListenerConfig, ...] = keys.tables(
        "listener",
        ListenerConfig,
        (ListenerConfig(),),
        "One for each socket that takes mail. With none, there is one with the defaults below.",
    )
    tls: tuple[TlsConfig, ...] = keys.tables(
        "tls",
        TlsConfig,
        (),
        "A certificate for the listeners that have TLS. With several, the host name that a client asks for picks one; "
        "the first is for all others.",
    )
    relay: RelayConfig = keys.table("relay", RelayConfig, "Who may send through this server to anywhere.")
    oauth: OAuthConfig = keys.table(
        "oauth", OAuthConfig, "Whose tokens let in, by OAUTHBEARER and XOAUTH2. Without `issuer` none do."
    )
    routes: tuple[RouteConfig, ...] = keys.tables(
        "route",
        RouteConfig,
        (),
        "Where mail for some recipients goes. The first route that matches wins; with none that does, mail for local "
        "domains goes to `maildir`, all else to `mx`.",
    )
    lanes: tuple[LaneConfig, ...] = keys.tables(
        "lane",
        LaneConfig,
        (),
        "Limits of what goes one way. Each key of a lane comes from the first entry that matches and has it.",
    )
    retry: RetryConfig = keys.table(
        "retry", RetryConfig, "When what could not be delivered is tried again, and for how long."
    )
    timeouts: TimeoutsConfig = keys.table(
        "timeouts",
        TimeoutsConfig,
        "How long another server may take when mail is sent to it or fetched from it (RFC 5321 section 4.5.3.2). What "
        "takes longer is tried again later.",
    )
    limits: LimitsConfig = keys.table("limits", LimitsConfig, "Every bound that the server keeps.")
    log: LogConfig = keys.table("log", LogConfig, "The log, on standard error.")
    dns: DnsConfig = keys.table("dns", DnsConfig, "Whom to ask for MX and address records.")
    history: HistoryConfig = keys.table("history", HistoryConfig, "What is kept of messages that are done with.")
    hostname_configured: bool = False
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class LaterKey:
    """A key of a feature that this version lacks. `only` is the one value it may have; keys.REQUIRED: none at all."""

    only: object
    feature: str


LATER: dict[str, LaterKey] = {}
