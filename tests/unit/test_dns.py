"""DNS: the real resolver against a small server of ours, the hosts file, and the scripted one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from pillarbox.adapters.dns import DnsResolver, Hosts, parse_server
from pillarbox.core.address import Domain
from pillarbox.engine.ports import (
    AddressAnswer,
    DnsFault,
    IpAddress,
    MxAnswer,
    MxRecord,
    NoDomain,
    NoRecords,
    Resolver,
)
from pillarbox.sim.dns import ScriptedResolver

ZONE = {
    ("mail.test", "MX"): ["10 MX1.mail.test.", "20 mx2.mail.test."],
    ("null.test", "MX"): ["0 ."],
    ("both.test", "A"): ["192.0.2.1"],
    ("both.test", "AAAA"): ["2001:db8::1"],
    ("four.test", "A"): ["192.0.2.4", "192.0.2.5"],
    ("mail.test", "TXT"): ['"x"'],
    ("target.test", "A"): ["192.0.2.6"],
    ("target.test", "MX"): ["5 target.test."],
}
ALIASES = {"alias.test": "target.test", "dangling.test": "missing.test", "loop.test": "loop.test"}
REFUSING = {("servfail.test", "*"): dns.rcode.SERVFAIL, ("halffail.test", "AAAA"): dns.rcode.SERVFAIL}
ZONE["halffail.test", "A"] = ["192.0.2.7"]
ZONE["nofour.test", "TXT"] = ['"x"']
REFUSING["nofour.test", "A"] = dns.rcode.SERVFAIL


def reply_to(query: dns.message.Message) -> dns.message.Message | None:
    """What the little server says; None for silence."""
    question = query.question[0]
    name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    if name == "silent.test":
        return None
    if rcode := REFUSING.get((name, kind)) or REFUSING.get((name, "*")):
        response.set_rcode(rcode)
        return response
    if name in ALIASES:
        response.answer.append(dns.rrset.from_text(question.name, 300, "IN", "CNAME", f"{ALIASES[name]}."))
        name = ALIASES[name]
    if records := ZONE.get((name, kind)):
        response.answer.append(dns.rrset.from_text(f"{name}.", 300, "IN", kind, *records))
        return response
    response.authority.append(dns.rrset.from_text("test.", 300, "IN", "SOA", "ns.test. root.test. 1 2 3 4 300"))
    if not any(listed == name for listed, _ in ZONE) and name not in ALIASES:
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response


class LittleServer(asyncio.DatagramProtocol):
    """A name server on a UDP port, with a log."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        query = dns.message.from_wire(data)
        self.asked.append((query.question[0].name.to_text(omit_final_dot=True), query.question[0].rdtype.name))
        assert self._transport is not None
        if self.asked[-1][0] == "garbage.test":
            self._transport.sendto(data[:2] + b"\xff" * 9, addr)
        elif response := reply_to(query):
            self._transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def little_server() -> AsyncIterator[tuple[LittleServer, str]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(LittleServer, local_addr=("127.0.0.1", 0))
    try:
        yield server, f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()


def ask_mx(name: str, hosts: Path, lifetime: float = 5.0) -> MxAnswer:
    async def run() -> MxAnswer:
        async with little_server() as (_, address):
            resolver: Resolver = DnsResolver([address], hosts=hosts, lifetime=lifetime)
            return await resolver.mx(Domain(name))

    return asyncio.run(run())


def ask_addresses(name: str, hosts: Path, lifetime: float = 5.0) -> AddressAnswer:
    async def run() -> AddressAnswer:
        async with little_server() as (_, address):
            resolver: Resolver = DnsResolver([address], hosts=hosts, lifetime=lifetime)
            return await resolver.addresses(name)

    return asyncio.run(run())


def ips(*texts: str) -> tuple[IpAddress, ...]:
    return tuple(map(ip_address, texts))


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(
        "127.0.0.1 localhost\n192.0.2.80 Relay relay.test # a smart host\n2001:db8::80 relay\nnonsense x\n\n"
    )
    return path


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("mail.test", (MxRecord(10, "mx1.mail.test"), MxRecord(20, "mx2.mail.test"))),
        ("null.test", (MxRecord(0, ""),)),
        ("alias.test", (MxRecord(5, "target.test"),)),
        ("both.test", NoRecords()),
        ("missing.test", NoDomain()),
        ("dangling.test", NoDomain()),
        ("x" * 64 + ".test", NoDomain()),
        (".".join(["x" * 60] * 5), NoDomain()),
        ("a..test", NoDomain()),
    ],
)
def test_mx(name: str, answer: MxAnswer, hosts: Path) -> None:
    found = ask_mx(name, hosts)
    assert (sorted(found, key=lambda r: r.preference) if isinstance(found, tuple) else found) == (
        list(answer) if isinstance(answer, tuple) else answer
    )


@pytest.mark.parametrize(
    ("name", "lifetime", "reason"),
    [
        ("servfail.test", 5.0, "SERVFAIL"),
        ("silent.test", 0.05, "no answer within 0.05 seconds"),
        ("garbage.test", 0.2, ""),
        ("loop.test", 5.0, ""),
    ],
)
def test_faults_are_never_silence(name: str, lifetime: float, reason: str, hosts: Path) -> None:
    for found in (ask_mx(name, hosts, lifetime), ask_addresses(name, hosts, lifetime)):
        assert isinstance(found, DnsFault)
        assert found.reason and reason in found.reason


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("both.test", ips("192.0.2.1", "2001:db8::1")),
        ("four.test", ips("192.0.2.4", "192.0.2.5")),
        ("alias.test", ips("192.0.2.6")),
        ("halffail.test", ips("192.0.2.7")),
        ("nofour.test", DnsFault),
        ("mail.test", NoRecords),
        ("missing.test", NoDomain),
        ("192.0.2.200", ips("192.0.2.200")),
        ("2001:db8::200", ips("2001:db8::200")),
        ("relay", ips("192.0.2.80", "2001:db8::80")),
        ("RELAY.test", ips("192.0.2.80")),
        ("localhost", ips("127.0.0.1")),
        ("x", NoDomain),
        ("a..test", NoDomain),
    ],
)
def test_addresses(name: str, answer: tuple[IpAddress, ...] | type, hosts: Path) -> None:
    found = ask_addresses(name, hosts)
    if isinstance(answer, type):
        assert isinstance(found, answer)
    else:
        assert isinstance(found, tuple)
        assert set(found) == set(answer)


def test_answers_are_kept_the_good_and_the_empty_ones(hosts: Path) -> None:
    async def run() -> list[tuple[str, str]]:
        async with little_server() as (server, address):
            resolver = DnsResolver([address], hosts=hosts)
            for name in ("mail.test", "both.test", "missing.test") * 3:
                await resolver.mx(Domain(name))
            return server.asked

    assert asyncio.run(run()) == [("mail.test", "MX"), ("both.test", "MX"), ("missing.test", "MX")]


def test_the_next_server_is_asked_when_one_fails(hosts: Path) -> None:
    async def run() -> MxAnswer:
        async with little_server() as (_, good), little_server() as (_, address):
            resolver = DnsResolver([address, good], hosts=hosts)
            return await resolver.mx(Domain("null.test"))

    assert asyncio.run(run()) == (MxRecord(0, ""),)


def test_the_hosts_file_is_read_again_when_it_changes(hosts: Path) -> None:
    known = Hosts(hosts)
    assert known.find("late.test") == ()
    assert known.find("relay.test") == ips("192.0.2.80")
    hosts.write_text("192.0.2.90 late.test\n")
    os.utime(hosts, ns=(1, 1))
    assert known.find("late.test") == ips("192.0.2.90")
    hosts.unlink()
    assert known.find("late.test") == ()
    assert known.find("LocalHost") == ips("::1", "127.0.0.1")  # RFC 6761 §6.3


@pytest.mark.parametrize(
    ("source", "server"),
    [
        ("9.9.9.9", ("9.9.9.9", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("[::1]:53", ("::1", 53)),
        ("[2620:fe::fe]", ("2620:fe::fe", 53)),
        ("2620:fe::fe", ("2620:fe::fe", 53)),
    ],
)
def test_servers(source: str, server: tuple[str, int]) -> None:
    assert parse_server(source) == server


@pytest.mark.parametrize(
    "source", ["", "dns.example", "300.1.1.1", "9.9.9.9:0", "9.9.9.9:70000", "[::1", "::1:x", "[]"]
)
def test_what_is_no_server(source: str) -> None:
    with pytest.raises(ValueError, match="is no DNS server"):
        DnsResolver([source])


def test_without_servers_those_of_the_system_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    real = dns.asyncresolver.Resolver

    def resolver(configure: bool = True) -> object:
        made.append(configure)
        if configure:
            raise dns.resolver.NoResolverConfiguration
        return real(configure=False)

    DnsResolver()
    monkeypatch.setattr(dns.asyncresolver, "Resolver", resolver)
    DnsResolver()
    assert made == [True, False]


# --- the scripted resolver


def test_the_scripted_resolver_says_what_the_script_says() -> None:
    script = ScriptedResolver(
        mx={"a.test": [(10, "mx.a.test")], "null.test": [(0, "")], "odd.test": DnsFault("odd")},
        addresses={"mx.a.test": ["192.0.2.1", "2001:db8::1"], "bare.test": NoRecords()},
    )
    resolver: Resolver = script

    async def run() -> None:
        a = Domain("a.test")
        assert await resolver.mx(a) == (MxRecord(10, "mx.a.test"),)
        assert await resolver.mx(Domain("null.test")) == (MxRecord(0, ""),)
        assert await resolver.mx(Domain("odd.test")) == DnsFault("odd")
        assert await resolver.mx(Domain("mx.a.test")) == NoRecords()
        assert await resolver.mx(Domain("other.test")) == NoDomain()
        assert await resolver.addresses("mx.a.test") == ips("192.0.2.1", "2001:db8::1")
        assert await resolver.addresses("bare.test") == NoRecords()
        assert await resolver.addresses("a.test") == NoRecords()
        assert await resolver.addresses("192.0.2.9") == ips("192.0.2.9")
        script.fail("a.test")
        assert await resolver.mx(a) == DnsFault("SERVFAIL")
        assert await resolver.addresses("a.test") == DnsFault("SERVFAIL")
        script.heal("a.test")
        script.set_mx("a.test", NoDomain())
        assert await resolver.mx(a) == NoDomain()

    asyncio.run(run())
    assert script.asked[:2] == [("MX", "a.test"), ("MX", "null.test")]
    assert ("A", "192.0.2.9") in script.asked
