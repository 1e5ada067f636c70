"""The parts of a message that came back, read with bounds: a flat list, the outer part before those inside.

Reads loosely, since what machines write about failed mail is often broken: line ends of any kind, a missing end
boundary, an encoding that is not one. Never raises, whatever the octets are; depth, parts and octets have bounds, and
what is beyond them is not looked at. RFC 2046. Knows nothing of bounces.
"""

from __future__ import annotations

import binascii
import html
import re
from collections.abc import Mapping
from typing import NamedTuple

from pillarbox.core.mime_fields import read_section

MAX_READ = 256 * 1024  # octets of a message that are looked at
MAX_PARTS = 64
MAX_DEPTH = 6
MAX_TEXT = 32 * 1024  # characters of one text
MAX_FIELDS = 200  # of one header section
MAX_VALUE = 2000  # characters of one field

_TAG = re.compile(r"<[^<>]{0,2000}>")
_SCRIPT = re.compile(r"<(style|script|head)\b.{0,20000}?</\1\s*>", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(r"</?(?:br|p|div|tr|td|li|h\d)\b[^<>]{0,500}>", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\xa0]+")
_INSIDE = ("message/rfc822", "message/global")
Fields = Mapping[str, str]  # by name in lower case; of several of one name the first


class Part(NamedTuple):
    """`body` is decoded; of a multipart it is empty."""

    type: str
    fields: Fields
    body: bytes
    depth: int

    @property
    def text(self) -> str:
        """As characters, with LF line ends; of HTML what is to be read."""
        text = _characters(self.body[: 4 * MAX_TEXT]).replace("\r\n", "\n").replace("\r", "\n")[:MAX_TEXT]
        return _of_html(text) if self.type == "text/html" else text


def parts(octets: bytes) -> list[Part]:
    """All that is in the message, itself first. The messages inside, too: their header section is a part's."""
    octets = crlf(octets[:MAX_READ])
    if octets.startswith(b"From "):  # as a mailbox file has it
        octets = octets.partition(b"\r\n")[2]
    found: list[Part] = []
    _collect(octets, "text/plain", 0, found)
    return found


def crlf(octets: bytes) -> bytes:
    """With the line ends of mail, whatever they were."""
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _collect(octets: bytes, default: str, depth: int, found: list[Part]) -> None:
    if len(found) >= MAX_PARTS or depth > MAX_DEPTH:
        return
    header, body = _split(octets)
    section = read_section(header, default)
    fields = read_fields(header)
    if section.type.startswith("multipart/") and section.boundary:
        found.append(Part(section.type, fields, b"", depth))
        inner = "message/rfc822" if section.type == "multipart/digest" else "text/plain"
        for piece in _pieces(body, section.boundary):
            _collect(piece, inner, depth + 1, found)
        return
    body = _decoded(body, section.encoding)
    found.append(Part(section.type, fields, body, depth))
    if section.type in _INSIDE:
        _collect(crlf(body), "text/plain", depth + 1, found)


def _split(octets: bytes) -> tuple[bytes, bytes]:
    """Header section and body; a part may begin with its empty line."""
    if octets.startswith(b"\r\n"):
        return b"", octets[2:]
    head, empty, body = octets.partition(b"\r\n\r\n")
    return (head + b"\r\n", body) if empty else (octets, b"")


def _pieces(body: bytes, boundary: bytes) -> list[bytes]:
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_PARTS + 1)[1:]
    inside = []
    for piece in pieces:
        if piece.startswith(b"--"):
            break
        inside.append(piece.partition(b"\r\n")[2])
    return inside


def _decoded(body: bytes, encoding: str) -> bytes:
    if encoding == "quoted-printable":
        return binascii.a2b_qp(body)
    if encoding == "base64":
        try:
            return binascii.a2b_base64(body)
        except binascii.Error:
            return b""
    return body


def read_fields(header: bytes) -> dict[str, str]:
    """The fields of a header section, or of a group of a delivery report: unfolded, bounded."""
    found: dict[str, str] = {}
    name = ""
    for line in crlf(header).split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            if name:
                found[name] = f"{found[name]} {_characters(line).strip()}"[:MAX_VALUE]
            continue
        key, colon, value = line.partition(b":")
        name = _characters(key).strip().lower()
        if not colon or not name or name in found or len(found) >= MAX_FIELDS:
            name = ""
            continue
        found[name] = _characters(value).strip()[:MAX_VALUE]
    return found


def _characters(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _of_html(text: str) -> str:
    text = _BREAK.sub("\n", _SCRIPT.sub("", text))
    return _SPACES.sub(" ", html.unescape(_TAG.sub("", text)))
