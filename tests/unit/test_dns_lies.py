"""A name server that lies about sizes, over UDP and TCP: a fault that passes, in time, and nothing else."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import dns.flags
import dns.message
import dns.rrset
import pytest

from pillarbox.adapters.dns import DnsResolver
from pillarbox.core.address import Domain
from pillarbox.engine.ports import DnsFault, MxRecord
from tests.unit.test_dns_cache import one_port

LIFETIME = 0.4
NAME = "far.test."


def good(query: dns.message.Message, *, most: int = 2) -> dns.message.Message:
    response = dns.message.make_response(query)
    records = [f"{number} mx{number}.far.test." for number in range(most)]
    response.answer.append(dns.rrset.from_text(NAME, 300, "IN", "MX", *records))
    return response


def counts(query: dns.message.Message) -> bytes:
    """65535 records of each kind, of which two are there."""
    octets = good(query).to_wire()
    return octets[:6] + b"\xff" * 6 + octets[12:]


def record_size(query: dns.message.Message) -> bytes:
    """The last record says that it is larger than the message."""
    octets = good(query, most=1).to_wire()
    at = octets.rindex(struct.pack("!H", 0), 0, len(octets) - 6)
    return octets[: at - 2] + b"\xff\xff" + octets[at:]


def pointer_loop(query: dns.message.Message) -> bytes:
    """A name that is compressed to itself."""
    octets = good(query).to_wire()
    end = len(query.to_wire())
    return octets[:end] + struct.pack("!H", 0xC000 | end) + octets[end + 2 :]


def cut(query: dns.message.Message) -> bytes:
    return good(query).to_wire()[:-7]


def longer(query: dns.message.Message) -> bytes:
    return good(query).to_wire() + bytes(500)


def truncated(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return response.to_wire()


def framed(size: int) -> Callable[[bytes], bytes]:
    """By TCP, with a length of its own."""
    return lambda octets: struct.pack("!H", size) + octets


Lie = Callable[[dns.message.Message], bytes]
LIES: list[tuple[str, Lie, Callable[[bytes], bytes] | None, bool]] = [  # and whether the client closes TCP
    ("counts", counts, None, False),
    ("record size", record_size, None, False),
    ("pointer loop", pointer_loop, None, False),
    ("cut", cut, None, False),
    ("longer", longer, None, False),
    ("empty", lambda query: b"", None, False),
    ("header alone", lambda query: good(query).to_wire()[:12], None, False),
    ("truncated, no TCP", truncated, None, False),
    ("truncated, TCP says more", truncated, framed(65535), True),
    ("truncated, TCP says more and waits", truncated, framed(65535), False),
    ("truncated, TCP says nothing", truncated, framed(0), True),
    ("truncated, TCP says less", truncated, framed(20), True),
]


class Liar(asyncio.DatagramProtocol):
    def __init__(self, lie: Lie) -> None:
        self._lie = lie

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._transport.sendto(self._lie(dns.message.from_wire(data)), addr)


async def ask(lie: Lie, frame: Callable[[bytes], bytes] | None, *, closes: bool) -> object:
    faults: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        query = dns.message.from_wire(await reader.readexactly(size))
        assert frame is not None
        writer.write(frame(good(query, most=5).to_wire()))
        if not closes:
            await reader.read()
        writer.close()
        gone.set()

    for_tcp, for_udp = one_port()
    port = for_udp.getsockname()[1]
    async with await asyncio.start_server(serve, sock=for_tcp) as server:
        if frame is None:
            server.close()
        udp, _ = await loop.create_datagram_endpoint(lambda: Liar(lie), sock=for_udp)
        try:
            resolver = DnsResolver([f"127.0.0.1:{port}"], hosts=Path("/nonexistent"), lifetime=LIFETIME)
            async with asyncio.timeout(LIFETIME + 2):
                found = await resolver.mx(Domain.parse("far.test"))
        finally:
            udp.close()
        if frame is not None:
            await gone.wait()
    assert faults == []
    return found


@pytest.mark.parametrize(("lie", "frame", "closes"), [each[1:] for each in LIES], ids=[each[0] for each in LIES])
def test_a_lie_is_a_fault_that_passes(lie: Lie, frame: Callable[[bytes], bytes] | None, closes: bool) -> None:
    found = asyncio.run(ask(lie, frame, closes=closes))
    assert isinstance(found, DnsFault)
    assert found.reason and len(found.reason) < 2000


def test_a_long_answer_that_tells_the_truth_comes_by_tcp() -> None:
    found = asyncio.run(ask(truncated, lambda octets: struct.pack("!H", len(octets)) + octets, closes=True))
    assert isinstance(found, tuple)
    assert set(found) == {MxRecord(number, f"mx{number}.far.test") for number in range(5)}
