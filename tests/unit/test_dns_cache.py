"""For how long what DNS said is believed, and how often it is asked: the real resolver against a scripted server."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from pillarbox.adapters import dns as dns_adapter
from pillarbox.adapters.dns import MAX_ALIASES, MAX_RECORDS, RESOLUTION_DELAY, DnsResolver
from pillarbox.adapters.dns_cache import FAULT, LONGEST, LONGEST_NEGATIVE, SHORTEST, AnswerCache
from pillarbox.core.address import Domain
from pillarbox.engine.ports import DnsFault, EarlyAddresses, MxAnswer, MxRecord, NoDomain, NoRecords

FAR = Domain("far.test")
MX = (MxRecord(10, "mx.far.test"),)
NONE = Path("/nonexistent")


@dataclass
class Said:
    """One answer: records as `NAME TTL TYPE DATA`."""

    answer: tuple[str, ...] = ()
    soa: tuple[int, int] | None = None  # its TTL and its MINIMUM
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    after: float = 0.0  # seconds
    silent: bool = False

    def to(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        response.set_rcode(self.rcode)
        for record in self.answer:
            name, ttl, kind, data = record.split(maxsplit=3)
            response.answer.append(dns.rrset.from_text(f"{name}.", int(ttl), "IN", kind, *data.split(" | ")))
        if self.soa is not None:
            lasts, minimum = self.soa
            response.authority.append(
                dns.rrset.from_text("test.", lasts, "IN", "SOA", f"ns.test. root.test. 1 2 3 4 {minimum}")
            )
        return response


Script = dict[tuple[str, str], Said]


@dataclass
class Server(asyncio.DatagramProtocol):
    """A name server that says what the script says; by TCP where it doesn't fit."""

    script: Script
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        query = dns.message.from_wire(data)
        said = self._said(query)
        if said.silent:
            return
        wire = said.to(query).to_wire(max_size=65535)
        if len(wire) > 1232:
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC
            wire = short.to_wire()
        asyncio.get_running_loop().call_later(said.after, self._transport.sendto, wire, addr)

    def _said(self, query: dns.message.Message) -> Said:
        name, kind = query.question[0].name.to_text(omit_final_dot=True), query.question[0].rdtype.name
        self.asked.append(f"{kind} {name}")
        return self.script[name, kind]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        query = dns.message.from_wire(await reader.readexactly(size))
        wire = self._said(query).to(query).to_wire(max_size=65535)
        writer.write(struct.pack("!H", len(wire)) + wire)
        writer.close()
        await writer.wait_closed()


def one_port() -> tuple[socket.socket, socket.socket]:
    """Sockets for TCP and UDP on a port that is free for both."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
        else:
            return tcp, udp


@asynccontextmanager
async def name_server(script: Script) -> AsyncIterator[Server]:
    server, (for_tcp, for_udp) = Server(script), one_port()
    async with await asyncio.start_server(server.serve, sock=for_tcp):
        udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, sock=for_udp)
        server.address = f"127.0.0.1:{for_udp.getsockname()[1]}"
        try:
            yield server
        finally:
            udp.close()


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- how long


KEPT: list[tuple[str, Said, MxAnswer | type[DnsFault], float]] = [
    ("its TTL", Said(("far.test 30 MX 10 mx.far.test.",)), MX, 30),
    ("a TTL of 0", Said(("far.test 0 MX 10 mx.far.test.",)), MX, SHORTEST),
    ("a week", Said(("far.test 604800 MX 10 mx.far.test.",)), MX, LONGEST),
    (
        "the shortest TTL on the way",
        Said(("far.test 300 CNAME a.test.", "a.test 10 CNAME b.test.", "b.test 60 MX 10 mx.far.test.")),
        MX,
        10,
    ),
    ("none, by the MINIMUM of its SOA", Said(soa=(300, 60)), NoRecords(), 60),
    ("none, by the TTL of its SOA", Said(soa=(40, 3600)), NoRecords(), 40),
    ("none, for a week", Said(soa=(604800, 604800)), NoRecords(), LONGEST_NEGATIVE),
    ("none, without a SOA", Said(), NoRecords(), 300),
    ("no domain", Said(soa=(300, 60), rcode=dns.rcode.NXDOMAIN), NoDomain(), 60),
    ("no domain, for a week", Said(soa=(604800, 604800), rcode=dns.rcode.NXDOMAIN), NoDomain(), LONGEST_NEGATIVE),
    ("no domain, without a SOA", Said(rcode=dns.rcode.NXDOMAIN), NoDomain(), 300),
    ("REFUSED", Said(rcode=dns.rcode.REFUSED), DnsFault, FAULT),
    ("SERVFAIL", Said(rcode=dns.rcode.SERVFAIL), DnsFault, FAULT),
    ("silence", Said(silent=True), DnsFault, FAULT),
]


@pytest.mark.parametrize(("said", "found", "seconds"), [each[1:] for each in KEPT], ids=[each[0] for each in KEPT])
def test_what_was_said_is_believed_for(said: Said, found: MxAnswer | type[DnsFault], seconds: float) -> None:
    async def main() -> None:
        now = Time()
        async with name_server({("far.test", "MX"): said}) as server:
            resolver = DnsResolver([server.address], hosts=NONE, lifetime=0.1, monotonic=now)
            first = await resolver.mx(FAR)
            assert isinstance(first, found) if isinstance(found, type) else first == found
            asked = len(server.asked)
            now.now += seconds - 0.001
            assert await resolver.mx(Domain("FAR.test")) == first
            assert len(server.asked) == asked
            now.now += 0.002
            await resolver.mx(FAR)
            assert len(server.asked) > asked
            assert (resolver.cache.hits, resolver.cache.misses) == (1, 2)

    asyncio.run(main())


def test_the_cache_is_bounded_and_keeps_what_is_asked_for() -> None:
    now = Time()
    cache: AnswerCache[str, MxAnswer] = AnswerCache(3, now)
    for name in ("a", "b", "c"):
        cache.keep(name, MX, 60)
    assert cache.find("a") == MX
    cache.keep("d", NoRecords(), 60)
    assert [cache.find(name) for name in ("a", "b", "c", "d")] == [MX, None, MX, NoRecords()]
    assert len(cache) == 3
    now.now += 60
    assert [cache.find(name) for name in ("a", "c", "d")] == [None] * 3
    assert len(cache) == 0


# --- how often


def test_one_question_is_open_at_a_time_whoever_asks_it() -> None:
    async def main() -> None:
        script = {("far.test", "MX"): Said(("far.test 30 MX 10 mx.far.test.",), after=0.1)}
        async with name_server(script) as server:
            resolver = DnsResolver([server.address], hosts=NONE)
            many = [asyncio.create_task(resolver.mx(FAR)) for _ in range(100)]
            await asyncio.sleep(0)
            many[0].cancel()  # and the others do not suffer for it
            found = await asyncio.gather(*many, return_exceptions=True)
            assert isinstance(found[0], asyncio.CancelledError)
            assert found[1:] == [MX] * 99
            assert server.asked == ["MX far.test"]

    asyncio.run(main())


def test_a_server_that_is_down_is_left_alone_for_a_while() -> None:
    async def main() -> None:
        now = Time()
        async with name_server({("far.test", "MX"): Said(rcode=dns.rcode.SERVFAIL)}) as server:
            resolver = DnsResolver([server.address], hosts=NONE, monotonic=now)
            for _ in range(100):
                assert isinstance(await resolver.mx(FAR), DnsFault)
                now.now += 0.1
            assert len(server.asked) == 2  # in ten seconds

    asyncio.run(main())


# --- aliases, and answers that are none


def chain(length: int) -> Script:
    """Aliases of which the server tells one at a time."""
    script = {
        (f"a{number}.test", "MX"): Said((f"a{number}.test 300 CNAME a{number + 1}.test.",)) for number in range(length)
    }
    return script | {(f"a{length}.test", "MX"): Said((f"a{length}.test 20 MX 10 mx.far.test.",))}


LOOP = {
    ("a0.test", "MX"): Said(("a0.test 300 CNAME a1.test.",)),
    ("a1.test", "MX"): Said(("a1.test 300 CNAME a0.test.",)),
}
DANGLING = {
    ("a0.test", "MX"): Said(("a0.test 300 CNAME a1.test.",)),
    ("a1.test", "MX"): Said(rcode=dns.rcode.NXDOMAIN, soa=(60, 60)),
}
LEADS: list[tuple[str, Script, MxAnswer | str, int]] = [
    ("followed", chain(3), MX, 4),
    ("as long as may be", chain(MAX_ALIASES - 1), MX, MAX_ALIASES),
    ("too long", chain(MAX_ALIASES), "still an alias after 8", MAX_ALIASES),
    ("a loop over two answers", LOOP, "still an alias", MAX_ALIASES),
    (
        "a loop in one answer",
        {("a0.test", "MX"): Said(("a0.test 300 CNAME a1.test.", "a1.test 300 CNAME a0.test."))},
        "CNAME chain is too long",
        1,
    ),
    ("to nowhere", DANGLING, NoDomain(), 2),
    (
        "to a name without MX, for certain",
        {("a0.test", "MX"): Said(("a0.test 300 CNAME a1.test.",), soa=(60, 60))},
        NoRecords(),
        1,
    ),
    (
        "to a name without MX, as it turns out",
        {("a0.test", "MX"): Said(("a0.test 300 CNAME a1.test.",)), ("a1.test", "MX"): Said()},
        NoRecords(),
        2,
    ),
    ("for another name", {("a0.test", "MX"): Said(("b.test 300 MX 10 mx.b.test.",))}, "is for another name", 1),
    (
        "for another name beside the alias",
        {("a0.test", "MX"): Said(("a0.test 300 CNAME a1.test.", "b.test 300 MX 10 mx.b.test."))},
        "is for another name",
        1,
    ),
]


@pytest.mark.parametrize(("script", "found", "asked"), [each[1:] for each in LEADS], ids=[each[0] for each in LEADS])
def test_where_an_alias_leads(script: Script, found: MxAnswer | str, asked: int) -> None:
    async def main() -> None:
        async with name_server(script) as server:
            answer = await DnsResolver([server.address], hosts=NONE).mx(Domain("a0.test"))
            if isinstance(found, str):
                assert isinstance(answer, DnsFault) and found in answer.reason
            else:
                assert answer == found
            assert len(server.asked) == asked

    asyncio.run(main())


def test_of_thousands_of_records_those_preferred_are_kept() -> None:
    records = " | ".join(f"{number} m{number}.far.test." for number in range(2000, 0, -1))
    script = {
        ("far.test", "MX"): Said((f"far.test 300 MX {records}",)),
        ("far.test", "A"): Said((f"far.test 300 A {' | '.join(f'10.0.{n // 256}.{n % 256}' for n in range(3000))}",)),
        ("far.test", "AAAA"): Said(),
    }

    async def main() -> None:
        async with name_server(script) as server:
            resolver = DnsResolver([server.address], hosts=NONE)
            assert await resolver.mx(FAR) == tuple(
                MxRecord(number, f"m{number}.far.test") for number in range(1, MAX_RECORDS + 1)
            )
            assert server.asked == ["MX far.test"] * 2  # by UDP, then by TCP
            found = await resolver.addresses("far.test")
            assert isinstance(found, tuple) and len(found) == MAX_RECORDS

    asyncio.run(main())


# --- both families (RFC 8305 §3)

FOUR, SIX = ip_address("192.0.2.1"), ip_address("2001:db8::1")
LATE = 12 * RESOLUTION_DELAY


def families(four: Said, six: Said, *, lifetime: float = 5.0) -> list[object]:
    """What is known first, and then in all."""

    async def main() -> list[object]:
        async with name_server({("mx.test", "A"): four, ("mx.test", "AAAA"): six}) as server:
            resolver = DnsResolver([server.address], hosts=NONE, lifetime=lifetime)
            found: list[object] = [await resolver.first_addresses("mx.test"), await resolver.addresses("mx.test")]
            assert sorted(server.asked) == ["A mx.test", "AAAA mx.test"]
            return found

    return asyncio.run(main())


def a(after: float = 0.0) -> Said:
    return Said(("mx.test 300 A 192.0.2.1",), after=after)


def aaaa(after: float = 0.0) -> Said:
    return Said(("mx.test 300 AAAA 2001:db8::1",), after=after)


def test_ipv6_is_waited_for_a_moment_once_there_is_ipv4() -> None:
    assert families(a(), aaaa(after=LATE)) == [EarlyAddresses((FOUR,)), (SIX, FOUR)]


@pytest.mark.parametrize(
    ("four", "six", "found"),
    [
        (a(), aaaa(), (SIX, FOUR)),
        (a(after=LATE), aaaa(), (SIX, FOUR)),
        (a(after=LATE), aaaa(after=LATE + RESOLUTION_DELAY / 5), (SIX, FOUR)),
        (Said(), aaaa(after=LATE), (SIX,)),
        (Said(rcode=dns.rcode.NXDOMAIN), aaaa(after=LATE), (SIX,)),
        (a(), Said(), (FOUR,)),
        (a(), Said(rcode=dns.rcode.NXDOMAIN), (FOUR,)),
        (Said(), Said(), NoRecords()),
    ],
)
def test_else_both_are_known_at_once(four: Said, six: Said, found: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_adapter, "RESOLUTION_DELAY", 10.0)  # or a machine that stumbles changes what is found
    assert families(four, six) == [found, found]


def test_a_family_that_never_answers_takes_nothing_from_the_other() -> None:
    assert families(Said(silent=True), aaaa(), lifetime=0.2) == [(SIX,), (SIX,)]
    assert families(a(), Said(silent=True), lifetime=0.2) == [EarlyAddresses((FOUR,)), (FOUR,)]


def test_what_needs_no_dns_is_known_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        hosts = tmp_path / "hosts"
        hosts.write_text("192.0.2.1 mx.test\n")
        resolver = DnsResolver(["127.0.0.1:1"], hosts=hosts)
        assert await resolver.addresses("mx.test") == await resolver.addresses("192.0.2.1") == (FOUR,)
        assert await resolver.first_addresses("mx.test") == await resolver.first_addresses("192.0.2.1") == (FOUR,)

    asyncio.run(main())
