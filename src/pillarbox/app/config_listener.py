"""What a `[[listener]]` says: the socket, its service, its protection, and who may use which command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.app.config_values import Endpoint, IpNetwork, UnixSocket
from pillarbox.engine.service import COMMANDS, Access, AuthOffer, TlsMode
from pillarbox.smtp.states import Verb


class Service(Enum):
    """What a listener is for."""

    MX = "mx"
    SUBMISSION = "submission"
    LMTP = "lmtp"
    ODMR = "odmr"


class Compat(Enum):
    STRICT = "strict"
    CLASSIC = "classic"


_ON_DEMAND = (Access.OFF, Access.AUTH)


def _command(verb: Verb, doc: str, *, among: tuple[Access, ...] = tuple(Access)) -> Access:
    return keys.one(verb.value, kinds.choice(Access, among=among), COMMANDS[verb].value, doc)


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
        return {Verb[name.upper()]: getattr(self, name) for name, _ in keys.documented(CommandsConfig)}


@dataclass(frozen=True)
class ListenerConfig:
    """A socket that takes mail."""

    name: str = keys.one(
        "name",
        kinds.name(),
        "mx",
        "What the listener is called: in the line printed at the start, in the log, in `why`.",
    )
    address: Endpoint | UnixSocket = keys.one(
        "address",
        kinds.listen_address(),
        "127.0.0.1:2525",
        "Where it listens. With port 0 the system picks a free port; the line printed at the start says which. "
        "`unix:PATH`: a Unix socket, for programs on this machine; a relative path starts at this file's directory.",
    )
    socket_mode: int = keys.one(
        "socket_mode",
        kinds.mode(),
        "0600",
        "The permissions of a Unix socket: who may write to it may send. Programs of other users reach it only where "
        "the directories above it let them through, too.",
    )
    service: Service = keys.one(
        "service",
        kinds.choice(Service),
        "mx",
        "What it is for. `mx` takes mail for local domains from anyone, and for others from `relay.networks` and from "
        "those who have authenticated. `submission` takes mail for anywhere from people, who must authenticate first, "
        "under their own addresses; usually on port 465 with implicit TLS, and on 587. `lmtp` speaks LMTP and takes "
        "mail for local users; for other hosts from `relay.networks` only. `odmr` is on-demand mail relay: ATRN and "
        "nothing else, usually on port 366.",
    )
    tls: TlsMode = keys.one(
        "tls",
        kinds.choice(TlsMode),
        "off",
        "`starttls`: the client may begin TLS by STARTTLS. `implicit`: the handshake comes first, usually on port 465. "
        "Without a `[[tls]]` a self-signed certificate is made.",
    )
    client_certificates: Path | None = keys.one(
        "client_certificates",
        kinds.path(),
        None,
        "A PEM file of authorities: clients are asked, under TLS, for a certificate that one of them has issued. "
        "Nobody needs one, and one that does not hold counts as none.",
    )
    auth: AuthOffer = keys.one(
        "auth",
        kinds.choice(AuthOffer),
        "tls",
        "Where AUTH is offered. `tls`: under TLS, and to clients on this machine. `clear`: always, so that passwords "
        "may cross the network unprotected. `off`: nowhere.",
    )
    accepts_mail: bool = keys.one(
        "accepts_mail",
        kinds.switch(),
        True,
        "With false it takes no mail at all: the greeting and every command but QUIT get 521.",
    )
    compat: Compat = keys.one(
        "compat",
        kinds.choice(Compat),
        "strict",
        "`classic` gives the odd pairs of the classical reply table, too: 200 to NOOP and RSET, 504 to a parameter of "
        "RSET. For testing what clients bear.",
    )
    check_sender_domain: bool = keys.one(
        "check_sender_domain",
        kinds.switch(),
        False,
        "Ask DNS for the domain of the sender of each message from somebody who may not relay. 550: it does not exist "
        "or takes no mail; 451: no answer now.",
    )
    check_recipient_domain: bool = keys.one(
        "check_recipient_domain",
        kinds.switch(),
        False,
        "Ask DNS for the domain of each recipient elsewhere, unless it stands in the directory. 556: it takes no mail "
        "(null MX), which its sender would else be told by a notice. For a server that delivers by MX itself.",
    )
    proxy_protocol: tuple[IpNetwork, ...] = keys.list(
        "proxy_protocol",
        kinds.network(),
        (),
        "Load balancers in these networks must begin with a PROXY header (version 1 or 2), whose client is taken for "
        "the peer. A header from anybody else is a bad command.",
    )
    forbid_unauth_pipelining: bool = keys.one(
        "forbid_unauth_pipelining",
        kinds.switch(),
        True,
        "End a connection with 554 whose client sends before it may: before the greeting, behind EHLO or DATA without "
        "waiting for the reply, and behind any command once it has said HELO. Not for clients on this machine or in "
        "`relay.networks`, nor for those who have authenticated.",
    )
    commands: CommandsConfig = keys.table(
        "commands",
        CommandsConfig,
        "Who may use which command of the `[[listener]]` above it. `off`: nobody, the reply is 502. `auth`: who has "
        "authenticated. `trusted`: those, and clients in `relay.networks`. `on`: everybody. Those who may not get 252 "
        "for VRFY and EXPN, 530 for the others.",
    )
