"""DNS by dnspython: the port Resolver.

Whatever dnspython raises becomes a value of the port here, and a name that no DNS name can be is one that does not
exist. For addresses the hosts file is asked first, as every other program on the machine does, so that a smart host
named there is found. Every question has an end: `LIFETIME` seconds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from pillarbox.core.address import Domain
from pillarbox.engine.ports import AddressAnswer, DnsFault, IpAddress, MxAnswer, MxRecord, NoDomain, NoRecords

LIFETIME = 10.0  # seconds for one question, all servers and attempts together
CACHE_SIZE = 10_000  # answers
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


class DnsResolver:
    """Meets the port Resolver. Without servers those of the system are asked."""

    def __init__(self, servers: Sequence[str] = (), *, hosts: Path = HOSTS, lifetime: float = LIFETIME) -> None:
        self._resolver = _configured(servers)
        self._resolver.cache = dns.resolver.LRUCache(CACHE_SIZE)
        self._resolver.lifetime = lifetime
        self._hosts = Hosts(hosts)

    async def mx(self, domain: Domain) -> MxAnswer:
        found = await self._ask(domain.ascii, dns.rdatatype.MX)
        if not isinstance(found, dns.resolver.Answer):
            return found
        return tuple(MxRecord(record.preference, _host_text(record.exchange)) for record in found)

    async def addresses(self, host: str) -> AddressAnswer:
        try:
            return (ip_address(host),)
        except ValueError:
            pass
        if listed := self._hosts.find(host):
            return listed
        answers = await asyncio.gather(self._ask(host, dns.rdatatype.AAAA), self._ask(host, dns.rdatatype.A))
        found = [ip_address(r.address) for answer in answers if isinstance(answer, dns.resolver.Answer) for r in answer]
        if found:
            return tuple(found)
        silent = [answer for answer in answers if not isinstance(answer, dns.resolver.Answer)]
        return min(silent, key=lambda answer: _RANK[type(answer)], default=NoRecords())

    async def _ask(
        self, name: str, kind: dns.rdatatype.RdataType
    ) -> dns.resolver.Answer | NoRecords | NoDomain | DnsFault:
        try:
            absolute = dns.name.from_text(name)
        except dns.exception.DNSException:
            return NoDomain()
        try:
            return await self._resolver.resolve(
                absolute, kind, search=False, backend=dns.asyncbackend.get_backend("asyncio")
            )
        except dns.resolver.NXDOMAIN:
            return NoDomain()
        except dns.resolver.NoAnswer:
            return NoRecords()
        except dns.resolver.LifetimeTimeout:
            return DnsFault(f"no answer within {self._resolver.lifetime:g} seconds")
        except (dns.exception.DNSException, OSError) as error:
            return DnsFault(str(error) or type(error).__name__)


_RANK: dict[type, int] = {DnsFault: 0, NoDomain: 1, NoRecords: 2}


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
