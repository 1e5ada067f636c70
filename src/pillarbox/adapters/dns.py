"""DNS by dnspython: the port Resolver.

Whatever dnspython raises becomes a value of the port here, and a name that no DNS name can be is one that does not
exist. For addresses the hosts file is asked first, as every other program on the machine does, so that a smart host
named there is found. Every question has an end: `LIFETIME` seconds. Answers are kept (`dns_cache.py`), and who asks
what is being asked already waits for the same answer.

Invariant: an answer that is broken, or of which it is not certain that it says "none", is a fault: a domain is never
taken for one without records by mistake (RFC 5321 §5.1).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import dns.rrset
from dns.rdatatype import RdataType

from pillarbox.adapters.dns_cache import FAULT, LONGEST, LONGEST_NEGATIVE, AnswerCache
from pillarbox.core.address import Domain
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

LIFETIME = 10.0  # seconds for one question, all servers, attempts and aliases together
CACHE_SIZE = 10_000  # answers
MAX_RECORDS = 100  # of an answer; more can be sent than anybody would ever try
MAX_ALIASES = 8  # that are followed here, beyond those that the server has followed
RESOLUTION_DELAY = 0.05  # seconds that AAAA is waited for when A has come (RFC 8305 §3)
HOSTS = Path("/etc/hosts")
DNS_PORT = 53

_SERVER = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?|(\d+\.\d+\.\d+\.\d+)(?::(\d{1,5}))?|([0-9A-Fa-f:.]+)")
_LOOPBACK: tuple[IpAddress, ...] = (ip_address("::1"), ip_address("127.0.0.1"))


def parse_server(source: str) -> tuple[str, int]:
    """Address and port from `9.9.9.9`, `127.0.0.1:5353`, `::1` or `[::1]:53`. Raises ValueError."""
    match = _SERVER.fullmatch(source)
    try:
        ip = str(ip_address(match[1] or match[3] or match[5] if match else source))
        port = int((match[2] or match[4] if match else None) or DNS_PORT)
        if not 1 <= port <= 65535:
            raise ValueError(port)
    except ValueError as error:
        raise ValueError(f"{source!r} is no DNS server: an IP address, or IP:PORT, or [IPv6]:PORT") from error
    return ip, port


class Hosts:
    """The hosts file (hosts(5)), read again when it changes; without one there is still `localhost` (RFC 6761 §6.3)."""

    def __init__(self, path: Path = HOSTS) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._names: dict[str, tuple[IpAddress, ...]] = {}

    def find(self, host: str) -> tuple[IpAddress, ...]:
        """The addresses of a name, () when it does not stand there."""
        try:
            status = self._path.stat()
            if (stamp := (status.st_mtime_ns, status.st_size)) != self._stamp:
                self._names = _parse_hosts(self._path.read_text("utf-8", "replace"))
                self._stamp = stamp
        except OSError:
            self._names, self._stamp = {}, None
        return self._names.get(host.lower()) or (_LOOPBACK if host.lower() == "localhost" else ())


def _parse_hosts(text: str) -> dict[str, tuple[IpAddress, ...]]:
    found: dict[str, dict[IpAddress, None]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            ip = ip_address(address)
        except ValueError:
            continue
        for name in names:
            found.setdefault(name.lower().rstrip("."), {})[ip] = None
    return {name: tuple(ips) for name, ips in found.items()}


_Answer = tuple[MxRecord, ...] | tuple[IpAddress, ...] | NoRecords | NoDomain | DnsFault
_Question = tuple[str, RdataType]


class DnsResolver:
    """Meets the port Resolver. Without servers those of the system are asked."""

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        hosts: Path = HOSTS,
        lifetime: float = LIFETIME,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = _configured(servers)
        self._lifetime = lifetime
        self._hosts = Hosts(hosts)
        self._open: dict[_Question, asyncio.Task[_Answer]] = {}
        self.cache: AnswerCache[_Question, _Answer] = AnswerCache(CACHE_SIZE, monotonic)

    async def mx(self, domain: Domain) -> MxAnswer:
        found = await _settled(self._ask(domain.ascii, RdataType.MX))
        if isinstance(found, tuple):
            return tuple(record for record in found if isinstance(record, MxRecord))
        return found

    async def addresses(self, host: str) -> AddressAnswer:
        if listed := self._without_dns(host):
            return listed
        six, four = self._ask(host, RdataType.AAAA), self._ask(host, RdataType.A)
        return _together(await _settled(six), await _settled(four))

    async def first_addresses(self, host: str) -> AddressAnswer | EarlyAddresses:
        if listed := self._without_dns(host):
            return listed
        six, four = self._ask(host, RdataType.AAAA), self._ask(host, RdataType.A)
        found = await _settled(four)
        if isinstance(six, asyncio.Task) and isinstance(found, tuple):
            await asyncio.wait((six,), timeout=RESOLUTION_DELAY)
            if not six.done():
                return EarlyAddresses(_addresses(found))
        return _together(await _settled(six), found)

    def _without_dns(self, host: str) -> tuple[IpAddress, ...]:
        try:
            return (ip_address(host),)
        except ValueError:
            return self._hosts.find(host)

    def _ask(self, name: str, kind: RdataType) -> _Answer | asyncio.Task[_Answer]:
        """What is known, or the question that is open."""
        question = name.lower(), kind
        if (known := self.cache.find(question)) is not None:
            return known
        if (task := self._open.get(question)) is None:
            task = self._open[question] = asyncio.get_running_loop().create_task(self._fetch(question))
            task.add_done_callback(lambda _: self._open.pop(question, None))
        return task

    async def _fetch(self, question: _Question) -> _Answer:
        try:
            name = dns.name.from_text(question[0])
        except dns.exception.DNSException:
            return NoDomain()
        try:
            found, ttl = await self._resolve(name, question[1])
        except dns.resolver.LifetimeTimeout:
            found, ttl = DnsFault(f"no answer within {self._lifetime:g} seconds"), FAULT
        except (dns.exception.DNSException, OSError) as error:
            found, ttl = DnsFault(str(error) or type(error).__name__), FAULT
        self.cache.keep(question, found, ttl)
        return found

    async def _resolve(self, name: dns.name.Name, kind: RdataType) -> tuple[_Answer, float]:
        """The answer and its TTL. Raises DNSException, OSError."""
        backend, end = dns.asyncbackend.get_backend("asyncio"), time.monotonic() + self._lifetime
        ttl: float = LONGEST
        for _ in range(MAX_ALIASES):
            try:
                answer = await self._resolver.resolve(
                    name,
                    kind,
                    search=False,
                    backend=backend,
                    raise_on_no_answer=False,
                    lifetime=max(end - time.monotonic(), 0.001),
                )
            except dns.resolver.NXDOMAIN as error:
                return NoDomain(), min(ttl, _negative_ttl(error, name))
            ttl = min(ttl, answer.chaining_result.minimum_ttl)
            if answer.rrset is not None:
                return _values(answer.rrset), ttl
            if any(rrset.rdtype == kind for rrset in answer.response.answer):
                return DnsFault(f"the answer to {kind.name} of {name} is for another name"), FAULT
            if not answer.chaining_result.cnames or _tells_of_none(answer.response):
                return NoRecords(), ttl
            name = answer.canonical_name
        return DnsFault(f"{name} is still an alias after {MAX_ALIASES} of them"), FAULT


async def _settled(found: _Answer | asyncio.Task[_Answer]) -> _Answer:
    """Whoever waits may be cancelled; the question goes on, for others wait for it, too."""
    return await asyncio.shield(found) if isinstance(found, asyncio.Task) else found


def _addresses(found: _Answer) -> tuple[IpAddress, ...]:
    return tuple(each for each in found if not isinstance(each, MxRecord)) if isinstance(found, tuple) else ()


def _together(*answers: _Answer) -> AddressAnswer:
    if found := tuple(address for answer in answers for address in _addresses(answer)):
        return found
    silent = [answer for answer in answers if not isinstance(answer, tuple)]
    return min(silent, key=lambda answer: _RANK[type(answer)], default=NoRecords())


_RANK: dict[type, int] = {DnsFault: 0, NoDomain: 1, NoRecords: 2}


def _values(records: dns.rrset.RRset) -> tuple[MxRecord, ...] | tuple[IpAddress, ...]:
    if records.rdtype == RdataType.MX:
        found = (MxRecord(record.preference, _host_text(record.exchange)) for record in records)
        return tuple(sorted(found, key=lambda record: record.preference)[:MAX_RECORDS])
    return tuple(ip_address(record.address) for record in list(records)[:MAX_RECORDS])


def _negative_ttl(error: dns.resolver.NXDOMAIN, name: dns.name.Name) -> float:
    """RFC 2308 §5: the lesser of the SOA's TTL and its MINIMUM."""
    response = cast(Any, error).response(name)
    assert isinstance(response, dns.message.QueryMessage)
    return min(response.resolve_chaining().minimum_ttl, LONGEST_NEGATIVE)


def _tells_of_none(response: dns.message.Message) -> bool:
    """RFC 2308 §2.2: with a SOA it is certain that the name at the end of the aliases has no such record."""
    return any(rrset.rdtype == RdataType.SOA for rrset in response.authority)


def _configured(servers: Sequence[str]) -> dns.asyncresolver.Resolver:
    if not servers:
        try:
            return dns.asyncresolver.Resolver()
        except dns.resolver.NoResolverConfiguration:
            servers = ["127.0.0.1"]  # resolv.conf(5): without one the server on this machine is meant
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver(*parse_server(server)) for server in servers]
    return resolver


def _host_text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""
