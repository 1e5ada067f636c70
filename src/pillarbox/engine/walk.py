"""The walk over the hosts of a next hop: MX order, null MX, address families by turns.

Pure: DNS is asked and connections are made by whoever drives an `MxWalk`, a question/answer machine; randomness is
handed in. The addresses of one host are given out together, in the order in which they are to be tried, for whoever
connects may begin with the next before it knows of the one before (RFC 8305); hosts are never mixed. Invariant: a fault
of DNS never ends a message for good, nor does it ever stand for "no such record" (RFC 5321 §5.1, RFC 7505).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from pillarbox.core.address import AddressLiteral, Domain, Host
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.ports import (
    AddressAnswer,
    DnsFault,
    EarlyAddresses,
    IpAddress,
    MxAnswer,
    MxRecord,
    NoDomain,
    NoRecords,
)
from pillarbox.engine.routing import LmtpSocket, Mx, SmartHost, as_ip

MAX_HOSTS = 20  # of one MX set
MAX_TRIES = 40  # addresses of all of them


@dataclass(frozen=True, slots=True)
class AskMx:
    """Ask the resolver for the MX records."""

    domain: Domain


@dataclass(frozen=True, slots=True)
class AskAddresses:
    """Ask the resolver for the addresses: those that are known first, or, when they were of no use, every one."""

    host: str
    every: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Try:
    """One address of a host."""

    host: str
    ip: IpAddress
    port: int

    def __str__(self) -> str:
        return f"{self.host} [{self.ip}]"


@dataclass(frozen=True, slots=True)
class Race:
    """Connect to one of them; say `failed` for each that came to nothing. With one that is of use the walk is over."""

    tries: tuple[Try, ...]


@dataclass(frozen=True, slots=True)
class TrySocket:
    """Connect to a Unix socket; on a fault say `failed`, else the walk is over."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class Exhausted:
    """There is nothing left to try."""

    status: EnhancedCode
    text: str
    permanent: bool


Question = AskMx | AskAddresses | Race | TrySocket | Exhausted
Found = MxAnswer | AddressAnswer | EarlyAddresses
Shuffle = Callable[[list[MxRecord]], object]

_BAD_DOMAIN = EnhancedCode(5, 1, 2)
_NULL_MX = EnhancedCode(5, 1, 10)
_LOOP = EnhancedCode(5, 4, 6)
_UNREACHABLE = EnhancedCode(4, 4, 1)
_DNS_FAULT = EnhancedCode(4, 4, 3)


class MxWalk:
    """Goes through the hosts of a next hop, one question at a time. `notes` tells what was found on the way."""

    def __init__(self, next_hop: Mx | SmartHost | LmtpSocket, domain: Host, hostname: Domain, shuffle: Shuffle) -> None:
        self.notes: list[str] = []
        self.lacks_tls = False  # a host was there, and was of no use for its TLS alone
        self._port = 0 if isinstance(next_hop, LmtpSocket) else next_hop.port
        self._hostname = hostname.ascii
        self._shuffle = shuffle
        self._hosts: deque[str] = deque()
        self._host = ""
        self._implicit = False  # the domain has no MX record and stands for itself
        self._addresses: tuple[IpAddress, ...] = ()  # of the host, that are left to try
        self._tried: set[IpAddress] = set()  # of the host
        self._is_early = False  # IPv6 addresses of the host may be missing
        self._tries = 0  # in all
        self._failure = ""
        self._fault = ""
        self._target = next_hop.host if isinstance(next_hop, SmartHost) else str(domain)
        self._question: Question
        if isinstance(next_hop, LmtpSocket):
            self._question = TrySocket(next_hop.path)
            return
        if isinstance(next_hop, Mx) and isinstance(domain, Domain):
            self._question = AskMx(domain)
            return
        # A host that a route names is not subject to MX, nor is an address literal (RFC 5321 §5.1, §4.1.3).
        ip = domain.ip if isinstance(next_hop, Mx) and isinstance(domain, AddressLiteral) else as_ip(self._target)
        if ip is None:
            self._hosts.append(self._target)
        else:
            self._host, self._addresses = self._target, (ip,)
        self._go_on()

    def next_question(self) -> Question:
        """What is to be done now; the same until it is answered."""
        return self._question

    def answer(self, found: Found) -> None:
        """What the resolver said to the AskMx or AskAddresses that is open."""
        match self._question:
            case AskMx(domain=domain):
                self._take_mx(domain.ascii, found)
            case AskAddresses(host=host, every=True):
                self._take_rest(host, found)
            case AskAddresses(host=host):
                self._take_addresses(host, found)
            case _:
                raise RuntimeError(f"nothing was asked of the resolver: {self._question}")

    def failed(self, target: Try | TrySocket, text: str) -> None:
        """It came to nothing: no connection, or 4yz as greeting."""
        question = self._question
        if target != question and not (isinstance(question, Race) and target in question.tries):
            raise RuntimeError(f"{target} is not to be tried: {question}")
        self._failure = f"{target}: {text}"
        self.notes.append(self._failure)
        if isinstance(target, Try):
            self._tries += 1
            self._tried.add(target.ip)
            self._addresses = tuple(ip for ip in self._addresses if ip != target.ip)
        self._go_on()

    def _take_mx(self, domain: str, found: Found) -> None:
        match found:
            case DnsFault(reason=reason):
                self._end(_DNS_FAULT, f"MX of {domain}: {reason}")
            case NoDomain():
                self._end(_BAD_DOMAIN, f"domain {domain} does not exist")
            case NoRecords() | ():
                self.notes.append(f"MX of {domain}: none, so the domain itself")
                self._implicit = True  # RFC 5321 §5.1: an MX of preference 0 that points to the host itself
                self._visit([MxRecord(0, domain)])
            case EarlyAddresses():
                raise RuntimeError(f"addresses are no answer to {self._question}")
            case _:
                records = [record for record in found if isinstance(record, MxRecord)]
                self._shuffle(records)  # RFC 5321 §5.1: equal preferences in random order
                records.sort(key=lambda record: record.preference)
                listed = _listed([f"{record.preference} {record.host or '.'}" for record in records])
                self.notes.append(f"MX of {domain}: {listed}")
                self._visit(records)

    def _visit(self, records: list[MxRecord]) -> None:
        if not any(record.host for record in records):
            self._end(_NULL_MX, f"{self._target} accepts no mail (null MX)")  # RFC 7505 §3: and never its address
            return
        own = min((r.preference for r in records if r.host.lower() == self._hostname), default=None)
        if own is not None:  # RFC 5321 §5.1: only hosts better than ourselves, or mail would circle
            self.notes.append(f"{self._hostname} is this host: only what is preferred to it is tried")
            records = [record for record in records if record.preference < own]
        named = list(dict.fromkeys(record.host.lower() for record in records if record.host))
        hosts = [host for host in named if as_ip(host) is None]
        if len(hosts) < len(named):  # RFC 5321 §5.1: the data field MUST contain a domain name
            addresses = ", ".join(host for host in named if host not in hosts)
            self.notes.append(f"MX of {self._target}: {addresses} is an address, not a name, and is not tried")
        if not named:
            self._end(_LOOP, f"mail for {self._target} leads back to this host, where the domain is not known")
            return
        self._hosts.extend(hosts[:MAX_HOSTS])
        self._go_on()

    def _take_addresses(self, host: str, found: Found) -> None:
        self._tried.clear()
        self._is_early = isinstance(found, EarlyAddresses)
        match found:
            case DnsFault(reason=reason):
                self._fault = f"addresses of {host}: {reason}"
                self.notes.append(self._fault)
            case NoRecords() if self._implicit:
                self._end(_BAD_DOMAIN, f"domain {host} has neither MX nor address records")
                return
            case NoRecords() | NoDomain():
                self.notes.append(f"addresses of {host}: none")
            case EarlyAddresses(found=early):
                self._take_known(host, early)
            case _:
                self._take_known(host, found)
        self._go_on()

    def _take_rest(self, host: str, found: Found) -> None:
        """What was too late at first; the host has failed as far as it was known."""
        self._is_early = False
        if isinstance(found, tuple):
            self._take_known(host, [each for each in found if each not in self._tried])
        self._go_on()

    def _take_known(self, host: str, found: Sequence[MxRecord | IpAddress]) -> None:
        self._addresses = _alternating(found)
        if self._addresses:
            self.notes.append(f"addresses of {host}: {_listed(list(map(str, self._addresses)))}")

    def _go_on(self) -> None:
        if self._addresses and self._tries < MAX_TRIES:
            left = self._addresses[: MAX_TRIES - self._tries]
            self._question = Race(tuple(Try(self._host, ip, self._port) for ip in left))
        elif self._is_early and self._tries < MAX_TRIES:
            self._question = AskAddresses(self._host, every=True)
        elif self._hosts and self._tries < MAX_TRIES:
            self._host, self._is_early = self._hosts.popleft(), False
            self._question = AskAddresses(self._host)
        elif self._failure:
            self._end(_UNREACHABLE, f"no host for {self._target} could be reached, the last one {self._failure}")
        elif self._fault:
            self._end(_DNS_FAULT, self._fault)
        else:
            self._end(_UNREACHABLE, f"no host for {self._target} has an address")

    def _end(self, status: EnhancedCode, text: str) -> None:
        self.notes.append(text)
        self._question = Exhausted(status, text, permanent=status.klass == 5)


def _listed(found: list[str]) -> str:
    """For a record: as many as may be tried, and how many there are beyond them."""
    more = f", and {len(found) - MAX_TRIES} more" if len(found) > MAX_TRIES else ""
    return ", ".join(found[:MAX_TRIES]) + more


def _alternating(found: Sequence[MxRecord | IpAddress]) -> tuple[IpAddress, ...]:
    """The addresses, IPv6 and IPv4 by turns, so that one family's fault costs one try (RFC 8305 §4)."""
    addresses = dict.fromkeys(address for address in found if not isinstance(address, MxRecord))
    by_turns = zip_longest((a for a in addresses if a.version == 6), (a for a in addresses if a.version == 4))
    return tuple(address for pair in by_turns for address in pair if address is not None)
