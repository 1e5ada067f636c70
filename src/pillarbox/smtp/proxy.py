"""The PROXY protocol, versions 1 and 2: what a load balancer says of the client before the client's own octets.

Octets in, a header out, strictly: whatever is no header ends the connection. Who may send one is not known here.
Specification: The PROXY protocol, versions 1 and 2 (HAProxy), sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

MAX_V1 = 107  # octets with CRLF, section 2.1
MAX_V2 = 16 + 2048  # octets: addresses and what may follow them, of which nothing is used
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1_START = b"PROXY "
_V1 = re.compile(rb"PROXY (?:(TCP[46]) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) (\d{1,5}) (\d{1,5})|UNKNOWN[ -~]*)")
_LENGTHS = {0x11: 4, 0x21: 16}  # octets of an address: TCP over IPv4 and IPv6
_LOCAL, _PROXY = 0x20, 0x21


class ProxyFault(Exception):
    """What came is no header."""


class ProxyHeader(NamedTuple):
    """`source`: the client's IP address, "" where the proxy speaks for itself or can't tell."""

    source: str


class ProxyReader:
    """`feed` until it gives the header; then `rest` is what came behind it."""

    def __init__(self) -> None:
        self.rest = b""
        self._held = b""

    def feed(self, octets: bytes) -> ProxyHeader | None:
        """None: more is needed. Raises ProxyFault."""
        self._held += octets
        if self._held.startswith(_SIGNATURE):
            return self._version_2()
        if self._held.startswith(_V1_START):
            return self._version_1()
        if _SIGNATURE.startswith(self._held) or _V1_START.startswith(self._held):
            return None
        raise ProxyFault("neither version of the PROXY protocol")

    def _version_1(self) -> ProxyHeader | None:
        end = self._held.find(b"\r\n", 0, MAX_V1)
        if end < 0:
            if len(self._held) >= MAX_V1:
                raise ProxyFault("line longer than 107 octets")
            return None
        match = _V1.fullmatch(self._held[:end])
        if match is None:
            raise ProxyFault("malformed line")
        self.rest = self._held[end + 2 :]
        if match[1] is None:
            return ProxyHeader("")
        version = 6 if match[1] == b"TCP6" else 4
        source, target = (_address(text.decode(), version) for text in match.group(2, 3))
        if not target or max(int(port) for port in match.group(4, 5)) > 65535:
            raise ProxyFault("malformed line")
        return ProxyHeader(source)

    def _version_2(self) -> ProxyHeader | None:
        if len(self._held) < 16:
            return None
        command, family = self._held[12], self._held[13]
        end = 16 + int.from_bytes(self._held[14:16], "big")
        if command not in (_LOCAL, _PROXY) or end > MAX_V2:
            raise ProxyFault("unknown version or command, or too long")
        if len(self._held) < end:
            return None
        self.rest = self._held[end:]
        length = _LENGTHS.get(family)
        if command == _LOCAL or length is None:
            return ProxyHeader("")
        if end < 16 + 2 * length + 4:
            raise ProxyFault("shorter than its addresses")
        return ProxyHeader(str(ipaddress.ip_address(self._held[16 : 16 + length])))


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ProxyFault("malformed address") from error
    if address.version != version:
        raise ProxyFault("address of another family")
    return str(address)
