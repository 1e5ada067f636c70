"""What all sessions of a listener share: Service; and who a client is to it: Client.

Values, and the rules of entitlement: which command is offered to whom. Knows no command's meaning and no state of a
session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import product
from typing import Any

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.reply import Reply
from pillarbox.core.verp import ReturnAddresses
from pillarbox.engine.hooks import Chains, Hook, Trail
from pillarbox.engine.ids import IdSource
from pillarbox.engine.limits import Rate
from pillarbox.engine.ports import Clock, Directory, Presence, SpoolError, User
from pillarbox.engine.refusals import Refusals
from pillarbox.engine.suppression import Suppression
from pillarbox.smtp.lmtp import LmtpConnection
from pillarbox.smtp.mechanisms import ALL_MEANS, Means
from pillarbox.smtp.sasl import Channel, Claim, ServerMechanism
from pillarbox.smtp.server import Offer, ServerConnection
from pillarbox.smtp.states import Verb

IpNetwork = IPv4Network | IPv6Network


class Access(Enum):
    """Who may use a command; the value is the word in the configuration."""

    OFF = "off"  # nobody: 502
    AUTH = "auth"  # who has authenticated
    TRUSTED = "trusted"  # those, and clients in the relay networks
    ON = "on"  # everybody


class AuthOffer(Enum):
    """Where AUTH is offered; the value is the word in the configuration."""

    OFF = "off"
    TLS = "tls"  # under TLS, and on loopback
    CLEAR = "clear"  # always


class Submitters(Enum):
    """Whose messages a listener for submission takes."""

    USERS = "who has authenticated, under addresses of theirs"
    MACHINE = "whoever reaches it, which is somebody on this machine"


class TlsMode(Enum):
    """How a listener is protected; the value is the word in the configuration."""

    OFF = "off"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


COMMANDS: Mapping[Verb, Access] = {
    Verb.VRFY: Access.AUTH,
    Verb.EXPN: Access.AUTH,
    Verb.HELP: Access.ON,
    Verb.SEND: Access.OFF,
    Verb.SOML: Access.OFF,
    Verb.SAML: Access.OFF,
    Verb.TURN: Access.OFF,
    Verb.ATRN: Access.OFF,
    Verb.ETRN: Access.OFF,
}
TO_TERMINALS = (Verb.SEND, Verb.SOML, Verb.SAML)
_MAIL_KEYWORDS = (
    "8BITMIME",
    "SMTPUTF8",
    "CHUNKING",
    "BINARYMIME",
    "DSN",
    "DELIVERBY",
    "MT-PRIORITY",
    "RRVS",
)
_ODMR_ONLY = frozenset(
    (Verb.EHLO, Verb.HELO, Verb.STARTTLS, Verb.AUTH, Verb.ATRN, Verb.NOOP, Verb.RSET, Verb.QUIT)
)  # RFC 2645 §5
_FAILED_LOGINS = 20  # a minute, from one address and for one name
_FAILED_LOGINS_HERE = 5  # in one session; RFC 4954 §4 asks for 3 at least
_KEYWORDS = (Verb.EXPN, Verb.HELP, Verb.SEND, Verb.SOML, Verb.SAML, Verb.TURN, Verb.ATRN, Verb.ETRN)


@dataclass(frozen=True, slots=True)
class Service:
    """What all sessions of a listener share."""

    listener: str
    hostname: Domain
    hostname_configured: bool
    message_size: int  # octets
    recipients: int  # a message
    errors: int  # a session
    relay_networks: tuple[IpNetwork, ...]
    directory: Directory
    clock: Clock
    ids: IdSource
    presence: Presence
    terminal_rate: Rate  # of messages to terminals, by sender
    transactions: int  # a session
    probes: int  # a session, of clients who may not ask
    spool_fault: Callable[[int], SpoolError | None]  # why a message of so many octets can't be stored now
    commands: Mapping[Verb, Access] = field(default_factory=lambda: COMMANDS)
    tls: TlsMode = TlsMode.OFF
    auth: AuthOffer = AuthOffer.TLS
    accepts_mail: bool = True
    odmr: bool = False  # on-demand mail relay and nothing else
    submitters: Submitters | None = None  # it is for message submission
    lmtp: bool = False  # speaks LMTP, and takes mail for local users only
    classic: bool = False  # gives the odd pairs of the classical table, too
    checks_sender_domain: bool = False
    checks_recipient_domain: bool = False
    proxies: tuple[IpNetwork, ...] = ()  # whose PROXY header is believed
    future_release: int = 0  # seconds that a message may be held for at its sender's wish (RFC 4865); 0: not offered
    auth_rate: Rate = field(default_factory=lambda: Rate(_FAILED_LOGINS))  # of failed logins, by address and by name
    auth_failures: int = _FAILED_LOGINS_HERE  # a session
    key_window: float = 86400.0  # seconds for which an Idempotency-Key is remembered
    discovery: str | None = None  # who gives the tokens of OAuth that are taken; None: none are
    returns: ReturnAddresses | None = None  # VERP: where bounces of what our clients send come back to
    suppressed: Callable[[Mailbox], Suppression | None] | None = None  # whether an address gets no mail of our clients
    hooks: tuple[Hook[Any], ...] = ()  # asked in this order
    fields_asked: frozenset[str] = frozenset()  # header fields that routes depend on, in lower case
    refusals: Refusals | None = None  # keeps what is refused; None: nobody does, and replies tell no id
    greeting: Reply = field(init=False, repr=False, compare=False)
    chains: Mapping[bool, Chains] = field(init=False, repr=False, compare=False)  # by whether the client is exempt
    offer: Offer = field(init=False, repr=False, compare=False)
    mechanisms: Mapping[Means, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    # by TLS, by STARTTLS, and by what there is to log in by, None where AUTH is not offered
    _ehlo: Mapping[tuple[bool, bool, Means | None], Reply] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        withheld = {verb for verb, access in self.commands.items() if access is Access.OFF}
        if self.odmr:
            withheld = set(Verb) - _ODMR_ONLY
        withheld |= {Verb.HELO, Verb.EHLO} if self.lmtp else {Verb.LHLO}
        if self.auth is AuthOffer.OFF:
            withheld.add(Verb.AUTH)
        if self.tls is not TlsMode.STARTTLS:
            withheld.add(Verb.STARTTLS)
        chains = {False: Chains.of(self.hooks), True: Chains.of_no_strangers(self.hooks)}
        object.__setattr__(self, "greeting", self._greeting())
        object.__setattr__(self, "chains", chains)
        object.__setattr__(self, "offer", Offer(frozenset(withheld)))
        object.__setattr__(self, "mechanisms", {means: means.mechanisms for means in ALL_MEANS})
        object.__setattr__(self, "_ehlo", dict(self._replies()))

    def _replies(self) -> Iterator[tuple[tuple[bool, bool, Means | None], Reply]]:
        for secure, starttls, means in product((False, True), (False, True), (None, *ALL_MEANS)):
            keywords = self._keywords(secure=secure, starttls=starttls, means=means)
            yield (secure, starttls, means), r.ehlo(str(self.hostname), keywords)

    def _keywords(self, *, secure: bool, starttls: bool, means: Means | None) -> tuple[str, ...]:
        """Only what is not answered 500 or 502 later (RFC 5321 §4.1.1.1)."""
        limits = f"LIMITS RCPTMAX={self.recipients} MAILMAX={self.transactions}"  # RFC 9422 §3
        mail = () if self.odmr else ("PIPELINING", f"SIZE {self.message_size}", *_MAIL_KEYWORDS, limits)
        verbs = [verb.value for verb in _KEYWORDS if self.offer.has(verb)]
        return (
            *mail,
            "ENHANCEDSTATUSCODES",
            *verbs,
            *("REQUIRETLS",) * (secure and not self.odmr),  # RFC 8689 §2
            *("STARTTLS",) * starttls,
            *(() if means is None else (f"AUTH {' '.join(self.mechanisms[means])}",)),
        )

    def _greeting(self) -> Reply:
        name = str(self.hostname)
        if not self.accepts_mail:
            return r.no_mail_greeting(name)
        return r.lmtp_greeting(name) if self.lmtp else r.greeting(name)

    @property
    def protocol(self) -> str:
        """The `with` keyword of a Received field, without its marks for TLS and AUTH (RFC 3848)."""
        return "LMTP" if self.lmtp else "ESMTP"

    def connection(self) -> ServerConnection:
        """The protocol of a new connection."""
        return (LmtpConnection if self.lmtp else ServerConnection)(self.hostname, self.offer)

    def believes(self, peer: str) -> bool:
        """Whether a PROXY header of that peer is believed."""
        return _is_within(peer, self.proxies)

    def ehlo(self, client: Client) -> Reply:
        starttls = self.tls is TlsMode.STARTTLS and not client.secure
        means = client.means if client.may_authenticate else None
        if not self.future_release:
            return self._ehlo[client.secure, starttls, means]
        keywords = self._keywords(secure=client.secure, starttls=starttls, means=means)
        latest = datetime.fromtimestamp(self.clock.now() + self.future_release, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        future = f"FUTURERELEASE {self.future_release} {latest}"  # RFC 4865 §3
        return r.ehlo(str(self.hostname), (*keywords, future))

    def access(self, verb: Verb) -> Access:
        return Access.AUTH if self.odmr else self.commands[verb]


@lru_cache(maxsize=4096)
def _is_within(peer: str, networks: tuple[IpNetwork, ...]) -> bool:
    if not peer:
        return False  # it did not come over a network
    address = ip_address(peer)
    return any(address in network for network in networks)


@lru_cache(maxsize=4096)
def _is_loopback(peer: str) -> bool:
    return peer != "" and ip_address(peer).is_loopback


class Exchange:
    """AUTH under way: its machine, what was claimed, and which user that is."""

    __slots__ = ("claim", "counted", "machine", "user")

    def __init__(self, machine: ServerMechanism) -> None:
        self.machine = machine
        self.claim: Claim | None = None
        self.user: User | None = None
        self.counted = False  # as a failed login


class Client:
    """Who is at the other end, and what they may do."""

    __slots__ = (
        "_service",
        "at_hand",
        "chains",
        "channel",
        "errors",
        "exchange",
        "exempt",
        "extended",
        "failed_logins",
        "helo",
        "here",
        "peer",
        "probes",
        "secure",
        "trail",
        "trusted",
        "unread",
        "user",
    )

    def __init__(
        self, service: Service, peer: str, here: Callable[[], str] = str, *, unread: Callable[[], bool] = bool
    ) -> None:
        """`peer`: IP address, "" on a Unix socket; `here` tells ours on this connection; `unread`: whether more has
        come from the client than what is being answered."""
        self._service = service
        self.peer = peer
        self.here = here
        self.unread = unread
        self.helo = ""  # how it called itself
        self.extended = False  # it said EHLO, so it was told of PIPELINING
        self.trail: Trail | None = None  # what hooks said of it
        self.at_hand = not peer or _is_loopback(peer)  # on this machine
        self.trusted = (
            bool(service.relay_networks) and _is_within(peer, service.relay_networks)
        ) or service.submitters is Submitters.MACHINE
        self.exempt = self.trusted or self.at_hand
        self.chains = service.chains[self.exempt]
        self.user: User | None = None  # once authenticated
        self.secure = False  # TLS protects the connection
        self.channel: Channel | None = None  # what TLS knows of it
        self.exchange: Exchange | None = None  # AUTH is under way
        self.failed_logins = 0  # so far
        self.errors = 0  # refused commands so far
        self.probes = 0  # addresses asked for so far

    @property
    def may_relay(self) -> bool:
        """Whether mail for anywhere is taken."""
        return self.trusted or self.user is not None

    @property
    def may_authenticate(self) -> bool:
        offer = self._service.auth
        if offer is AuthOffer.TLS:
            return self.secure or self.at_hand
        return offer is AuthOffer.CLEAR

    @property
    def listener(self) -> str:
        """The name of the listener that it has come to."""
        return self._service.listener

    @property
    def clock(self) -> Clock:
        return self._service.clock

    @property
    def binds(self) -> bool:
        """Whether a login can be bound to the channel: by the exporter, which is what clients choose."""
        return self.channel is not None and self.channel.binding("tls-exporter") is not None

    @property
    def certified(self) -> User | None:
        """The user whom the client's certificate names."""
        subject = None if self.channel is None else self.channel.subject
        found = None if subject is None else self._service.directory.login(subject)
        return found if found is not None and found.enabled else None

    @property
    def means(self) -> Means:
        """What this client can log in by, if it may."""
        service = self._service
        tokens, scram = service.discovery is not None, service.directory.all_have_keys()
        if self.channel is None:
            return Means(scram=scram, binds=False, tokens=tokens, external=False)
        return Means(scram=scram, binds=self.binds, tokens=tokens, external=self.certified is not None)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Those of SASL that are offered to this client, if any are."""
        return self._service.mechanisms[self.means]

    @property
    def name(self) -> str:
        """By which limits are kept."""
        return self.peer if self.user is None else str(self.user.mailbox)

    def may(self, verb: Verb) -> bool:
        """Whether a command that is offered is for this client."""
        match self._service.access(verb):
            case Access.OFF:
                return False
            case Access.AUTH:
                return self.user is not None
            case Access.TRUSTED:
                return self.may_relay
            case Access.ON:
                return True

    def erred(self, reply: Reply) -> Reply:
        """The reply to a refused command, or the end after too many (RFC 5321 §4.3.2)."""
        self.errors += 1
        return reply if self.errors <= self._service.errors else r.TOO_MANY_ERRORS

    def probed(self, reply: Reply, count: int = 1) -> Reply:
        """The reply to a question about an address, or the end after too many; entitled clients may ask on."""
        if self.may_relay:
            return reply
        self.probes += count
        return reply if self.probes <= self._service.probes else r.TOO_MANY_PROBES
