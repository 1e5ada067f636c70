"""The PROXY protocol: headers of both versions, what is none, and octets cut anywhere."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.smtp.proxy import MAX_V1, MAX_V2, ProxyFault, ProxyHeader, ProxyReader

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REST = b"EHLO client.example\r\n"


def version_2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(block)) + block


def addresses(source: str, target: str) -> bytes:
    return ip_address(source).packed + ip_address(target).packed + struct.pack("!HH", 40000, 25)


FOUR, SIX = addresses("192.0.2.7", "198.51.100.1"), addresses("2001:db8::7", "2001:db8::1")
GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n", "192.0.2.7"),
    (b"PROXY TCP6 2001:DB8::7 2001:db8::1 40000 25\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff::f 65535 65535\r\n", ""),
    (version_2(0x21, 0x11, FOUR), "192.0.2.7"),
    (version_2(0x21, 0x21, SIX), "2001:db8::7"),
    (version_2(0x21, 0x11, FOUR + b"\x03\x00\x04abcd"), "192.0.2.7"),
    (version_2(0x20, 0x00, b""), ""),
    (version_2(0x20, 0x11, FOUR), ""),  # LOCAL: the addresses are to be ignored
    (version_2(0x21, 0x00, b""), ""),
    (version_2(0x21, 0x31, b"\0" * 216), ""),  # Unix sockets
]


@pytest.mark.parametrize(("octets", "source"), GOOD)
def test_headers_cut_anywhere(octets: bytes, source: str) -> None:
    for cut in range(len(octets) + 1):
        reader = ProxyReader()
        first = reader.feed(octets[:cut]) if cut else None
        assert first is None or cut == len(octets)
        assert (first or reader.feed(octets[cut:] + REST)) == ProxyHeader(source)
        assert reader.rest == (b"" if first else REST)


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO client.example\r\n",
        b"PROXY\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 65536\r\n",
        b"PROXY TCP4 192.0.2.777 198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 192.0.2.7  198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\n" + b"x" * MAX_V1,
        b"PROXY UNKNOWN" + b"x" * MAX_V1,
        b"PROXY UNKNOWN \x80\r\n",
        b"proxy UNKNOWN\r\n",
        version_2(0x11, 0x11, FOUR),
        version_2(0x22, 0x11, FOUR),
        version_2(0x21, 0x11, FOUR[:-1]),
        version_2(0x21, 0x21, FOUR),
        version_2(0x21, 0x11, FOUR + b"x" * MAX_V2),
        b"\r\n\r\n\0\r\nQUIX\n",
        b"\r\n\r\nX",
    ],
)
def test_what_is_no_header(octets: bytes) -> None:
    with pytest.raises(ProxyFault):
        ProxyReader().feed(octets)


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([SIGNATURE, b"PROXY ", b"TCP4 ", b"\r\n", FOUR]))))
def test_nothing_but_its_own_fault_comes_out(pieces: list[bytes]) -> None:
    reader, whole = ProxyReader(), ProxyReader()
    found: object = None
    try:
        for piece in pieces:
            if piece and found is None:
                found = reader.feed(piece)
    except ProxyFault:
        found = ProxyFault
    try:
        expected: object = whole.feed(b"".join(pieces)) if any(pieces) else None
    except ProxyFault:
        expected = ProxyFault
    if found is ProxyFault or isinstance(found, ProxyHeader):
        assert found == expected
