"""A header section as MIME reads it: what the body is, how it is encoded; and the same section written anew.

Knows no body and no walk. A section is read the one way that every reader of mail agrees on: where two readers could
differ (a line that is no field, a field of ours that stands there twice) it says so in `fault`, and nothing below it is
ever rewritten. What is not replaced stays as it was to the octet. RFC 2045 §4-6, RFC 2231 §3-4, RFC 1428.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

IDENTITY = frozenset(("", "7bit", "8bit", "binary"))  # encodings that change nothing; "": none given, so 7bit
MAX_BOUNDARY = 250  # octets; RFC 2046 §5.1.1 allows 70, some write more

_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)\r\n")
_TOKEN = re.compile(rb"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]++")
_LOOSE = re.compile(rb"[^\x00-\x20\x7f-\xff;\"()\\]++")  # a value without its quotes, as `boundary=----=_Part_1`
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*+")
_COMMENT_ENDS = re.compile(rb"\\.|[()]", re.DOTALL)
_PRINTABLE = re.compile(rb"[ -~]+")

_TYPE = b"content-type"
_ENCODING = b"content-transfer-encoding"
_VERSION = b"mime-version"
_OURS = frozenset((_TYPE, _ENCODING, _VERSION))

_ADDED_VERSION = b"MIME-Version: 1.0\r\n"
_ADDED_TYPE = b"Content-Type: text/plain; charset=unknown-8bit\r\n"  # RFC 1428 §3


class Section(NamedTuple):
    """What a header section says of its body."""

    type: str  # "text/plain", in lower case; the default where none can be read (RFC 2045 §5.2)
    boundary: bytes  # b"": none, or none that can be used
    encoding: str  # in lower case; "": no such field
    has_type: bool
    has_version: bool
    fault: str = ""  # why it can't be rewritten, "" where it can


class Edit(NamedTuple):
    """What is written anew in a header section."""

    encoding: str = ""  # the new Content-Transfer-Encoding, "": stays
    charset: bool = False  # without Content-Type: say that the character set is not known


class _Place(NamedTuple):
    start: int
    end: int
    value: bytes  # unfolded


def read_section(header: bytes, default: str) -> Section:
    """`header` may end with its empty line. `default`: the type of a part that names none."""
    places, fault = _places(header)
    if any(len(found) > 1 for found in places.values()):
        fault = fault or "a MIME field stands twice in one header section"
    type_, boundary = default, b""
    if _TYPE in places:
        type_, boundary = _content_type(places[_TYPE][0].value)
    encoding = _encoding(places[_ENCODING][0].value) if _ENCODING in places else ""
    return Section(type_, boundary, encoding, _TYPE in places, _VERSION in places, fault)


def rewrite(header: bytes, edit: Edit, *, message: bool) -> bytes:
    """`header` with its empty line, edited. `message`: not the header section of a part, so it needs a MIME-Version."""
    places, _ = _places(header)
    added = b""
    if message and _VERSION not in places:
        added += _ADDED_VERSION
    if edit.charset and _TYPE not in places:
        added += _ADDED_TYPE
    if edit.encoding:
        field = b"Content-Transfer-Encoding: " + edit.encoding.encode() + b"\r\n"
        if _ENCODING in places:
            place = places[_ENCODING][0]
            header = header[: place.start] + field + header[place.end :]
        else:
            added += field
    return header[:-2] + added + b"\r\n"


def _places(header: bytes) -> tuple[dict[bytes, list[_Place]], str]:
    """Where the fields of MIME stand, and what is wrong with the section."""
    places: dict[bytes, list[_Place]] = {}
    at, end = 0, len(header)
    while at < end and not header.startswith(b"\r\n", at):
        match = _FIELD.match(header, at)
        if match is None:
            return places, "a line of a header section is no field"
        name = match[1].lower()
        if name in _OURS:
            places.setdefault(name, []).append(_Place(at, match.end(), match[2].replace(b"\r\n", b"")))
        at = match.end()
    return places, ""


def _after_space(value: bytes, at: int) -> int:
    """Behind white space and comments, which nest (RFC 5322 §3.2.2); the end where a comment has none."""
    at = _end(_SPACE, value, at)
    while value.startswith(b"(", at):
        depth = 0
        for match in _COMMENT_ENDS.finditer(value, at):
            depth += {b"(": 1, b")": -1}.get(match[0], 0)
            if not depth:
                at = _end(_SPACE, value, match.end())
                break
        else:
            return len(value)
    return at


def _end(pattern: re.Pattern[bytes], value: bytes, at: int) -> int:
    match = pattern.match(value, at)
    return match.end() if match else at


def _encoding(value: bytes) -> str:
    """The mechanism's name; a name that nobody knows for what is none."""
    start = _after_space(value, 0)
    end = _end(_TOKEN, value, start)
    whole = end > start and _after_space(value, end) == len(value)
    return (value[start:end] if whole else value.strip() or b"?").decode("ascii", "replace").lower()


def _content_type(value: bytes) -> tuple[str, bytes]:
    """Type and boundary. RFC 2045 §5.2: what can't be read is text/plain."""
    start = _after_space(value, 0)
    end = _end(_TOKEN, value, start)
    slash = _after_space(value, end)
    sub = _after_space(value, slash + 1)
    sub_end = _end(_TOKEN, value, sub)
    if end == start or value[slash : slash + 1] != b"/" or sub_end == sub:
        return "text/plain", b""
    parameters = _parameters(value, sub_end)
    boundary = b"" if parameters is None else _boundary(parameters)
    return f"{value[start:end].decode()}/{value[sub:sub_end].decode()}".lower(), boundary


def _parameters(value: bytes, at: int) -> list[tuple[bytes, bytes]] | None:
    """Names in lower case and values; None where the syntax is wrong. An empty parameter, as after a last semicolon,
    is no fault."""
    found = []
    while (at := _after_space(value, at)) < len(value):
        if value[at : at + 1] != b";":
            return None
        at = _after_space(value, at + 1)
        if at == len(value) or value[at : at + 1] == b";":
            continue
        name = _TOKEN.match(value, at)
        equals = _after_space(value, name.end()) if name else at
        if name is None or value[equals : equals + 1] != b"=":
            return None
        start = _after_space(value, equals + 1)
        if quoted := _QUOTED.match(value, start):
            found.append((name[0].lower(), _PAIR.sub(rb"\1", quoted[1])))
            at = quoted.end()
        elif loose := _LOOSE.match(value, start):
            found.append((name[0].lower(), loose[0]))
            at = loose.end()
        else:
            return None
    return found


def _boundary(parameters: list[tuple[bytes, bytes]]) -> bytes:
    """The one boundary, put together again where RFC 2231 §3 has cut it; b"" where there is none, or more than one."""
    pieces: dict[int, bytes] = {}
    whole: list[bytes] = []
    for name, value in parameters:
        base, star, number = name.partition(b"*")
        if base != b"boundary":
            continue
        digits = number.removesuffix(b"*")
        if name.endswith(b"*"):  # RFC 2231 §4: charset'language'percent-encoded, the first two in the first piece only
            value = unquote_to_bytes(value.rpartition(b"'")[2] if digits in (b"", b"0") else value)
        if not star or not digits:
            whole.append(value)
        elif not digits.isdigit() or len(digits) > 3 or int(digits) in pieces:
            return b""
        else:
            pieces[int(digits)] = value
    if pieces:
        if sorted(pieces) != list(range(len(pieces))):
            return b""
        whole.append(b"".join(pieces[number] for number in range(len(pieces))))
    boundary = whole[0].rstrip(b" \t") if len(whole) == 1 else b""  # RFC 2046 §5.1.1: no space at its end
    return boundary if len(boundary) <= MAX_BOUNDARY and _PRINTABLE.fullmatch(boundary) else b""
