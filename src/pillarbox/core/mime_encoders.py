"""Octets to base64 and quoted-printable, piece by piece (RFC 2045 §6.7, §6.8).

Knows nothing of messages. How the octets are cut never changes what comes out; what is held is less than a line of
output, or `LONG_LINE` octets of a line that has no end yet. Neither puts a CRLF behind its last line: inside a
multipart that CRLF belongs to the delimiter.
"""

from __future__ import annotations

import re
from binascii import a2b_qp, b2a_base64, b2a_qp
from typing import Protocol

LONG_LINE = 4096  # octets of one line that are held before the soft line breaks in it are settled
_SOURCE = 57  # octets that make a line of base64
_LINE = 76
_SOFT = b"=\r\n"
_SPACE_AT_END = re.compile(rb"=(?:20|09)\r\n")
_DOT = re.compile(rb"^\.(?=\r\n)", re.MULTILINE)
_TOO_LONG = re.compile(rb"^([^\r\n]{74})(=(?:20|09)\r\n)", re.MULTILINE)


class Encoder(Protocol):
    def feed(self, octets: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Base64:
    __slots__ = ("_held", "_joint")

    def __init__(self) -> None:
        self._held = b""
        self._joint = b""  # what stands before the next line

    def feed(self, octets: bytes) -> bytes:
        octets = self._held + octets
        whole = len(octets) - len(octets) % _SOURCE
        self._held = octets[whole:]
        return self._lines(octets[:whole])

    def finish(self) -> bytes:
        return self._lines(self._held)

    def _lines(self, octets: bytes) -> bytes:
        if not octets:
            return b""
        encoded = b2a_base64(octets, newline=False)
        lines = b"\r\n".join([encoded[start : start + _LINE] for start in range(0, len(encoded), _LINE)])
        joint, self._joint = self._joint, b"\r\n"
        return joint + lines


def base64_size(octets: int) -> int:
    """How many octets `Base64` makes of so many."""
    lines = -(-octets // _SOURCE)
    return -(-octets // 3) * 4 + 2 * max(lines - 1, 0)


class QuotedPrintable:
    """For text whose only line ends are CRLF; they stay line ends."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, octets: bytes) -> bytes:
        octets = self._held + octets
        end = octets.rfind(b"\r\n")
        whole = 0 if end < 0 else end + 2
        encoded = _quoted(octets[:whole]) if whole else b""
        self._held = octets[whole:]
        if len(self._held) >= LONG_LINE:
            encoded += self._begin_line()
        return encoded

    def _begin_line(self) -> bytes:
        """Encode what is held but its last line of output, which may still change when more comes."""
        encoded = b2a_qp(self._held + b"\r\n")
        settled = encoded[: encoded.rfind(_SOFT) + len(_SOFT)]
        self._held = self._held[len(a2b_qp(settled)) :]
        return settled

    def finish(self) -> bytes:
        return _quoted(self._held + b"\r\n")[:-2] if self._held else b""


def _quoted(lines: bytes) -> bytes:
    """RFC 2045 §6.7 (5): 76 characters at most. binascii makes 77 of a line of 75 whose last is a space or a tab, and
    encodes a dot that is alone on a line in some places only."""
    encoded = _DOT.sub(b"=2E", b2a_qp(lines))
    return _TOO_LONG.sub(rb"\1=\r\n\2", encoded) if _SPACE_AT_END.search(encoded) else encoded
