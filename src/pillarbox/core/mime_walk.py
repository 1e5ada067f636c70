"""The walk over a message's structure: which octets are a header section, a leaf's content, a delimiter, or neither.

Octets in, in any pieces; out to a `Visitor` comes every octet once, in order, named. Nothing is changed or decoded
here. The walk is strict: only CRLF ends a line, a delimiter line is the delimiter and white space and no more. What
could be read in two ways is not walked into: it becomes a leaf whose `fault` says why nobody may rewrite it. Held are
one header section or one line, both bounded; time is linear in the octets. RFC 2046 §5.1.1, §5.1.2, §5.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pillarbox.core.mime_fields import IDENTITY, Section, read_section

MAX_HEADER = 256 * 1024  # octets of a header section; a whole message's is held to half of it when it comes in
MAX_DEPTH = 64  # multiparts and messages around a part
MAX_PARTS = 10_000  # what comes behind is one leaf that can't be rewritten
MAX_LINE = 998  # octets of a line that may be a delimiter line (RFC 5322 §2.1.1)

_LWSP = b" \t"
_OPAQUE = Section("application/octet-stream", b"", "", has_type=True, has_version=True)
_SIGNED = "it stands in a multipart/signed, which must not be changed on its way (RFC 1847 §2.1)"
_NOT_BASE64 = "a {} part has the Content-Transfer-Encoding {}, which must be 7bit, 8bit or binary (RFC 2045 §6.4)"
_NO_BOUNDARY = "a multipart has no usable boundary"
_SAME_BOUNDARY = "a multipart has the boundary of one around it"
_TOO_DEEP = f"parts are nested more than {MAX_DEPTH} deep"
_LONG_HEADER = f"a header section of a part has more than {MAX_HEADER} octets"
_TOO_MANY = f"there are more than {MAX_PARTS} parts"
_ENCODED = "a part has the Content-Transfer-Encoding {} and yet holds octets that the next hop can't take"
_SEVEN_BIT_TYPE = "a part of type {} must not be encoded (RFC 2045 §6.4)"
# RFC 6532 §3.5, RFC 6533: these alone of all message types may have any encoding.
_GLOBAL = frozenset(
    f"message/global{kind}" for kind in ("", "-headers", "-delivery-status", "-disposition-notification")
)


@dataclass(frozen=True, slots=True)
class Entity:
    """A message or a part of one."""

    number: int  # in the order of their header sections, from 0
    header: bytes  # with the empty line, where there is one
    section: Section
    message: bool  # a whole message: the outermost, or what a message/rfc822 holds
    parent: Entity | None
    fault: str  # why its content can't be rewritten, "" where it can


class Visitor(Protocol):
    def open(self, entity: Entity) -> None:
        """Its header section."""

    def content(self, leaf: Entity, octets: bytes) -> None:
        """A piece of a leaf's content; no CRLF is cut."""

    def close(self, leaf: Entity) -> None: ...

    def outside(self, multipart: Entity, octets: bytes) -> None:
        """A piece of a preamble or an epilogue; no CRLF is cut."""

    def delimiter(self, octets: bytes) -> None:
        """A delimiter line, with the CRLF before it where that is its own."""


@dataclass(slots=True)
class _Frame:
    """A multipart, or a message/rfc822, that the walk is in."""

    entity: Entity
    boundary: bytes  # b"": a message, or a multipart whose end was seen


class _Key(NamedTuple):
    frame: int
    ends: bool


class Walk:
    __slots__ = (
        "_at", "_buffer", "_collected", "_count", "_frames", "_fresh", "_in_header", "_keys", "_leaf", "_needle",
        "_visitor",
    )  # fmt: skip

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._buffer = b""
        self._at = 0  # what of the buffer has been told
        self._frames: list[_Frame] = []
        self._keys: dict[bytes, _Key] = {}  # the delimiter lines that mean something here
        self._needle = b""  # what all of them begin with, their CRLF before it
        self._in_header = True
        self._collected = bytearray()  # lines of a header section that is not whole
        self._leaf: Entity | None = None  # None: in a header section, a preamble or an epilogue
        self._fresh = False  # a body's first line: the CRLF before it is not the body's
        self._count = 0

    def feed(self, octets: bytes) -> None:
        self._buffer = self._buffer[self._at :] + octets
        self._at = 0
        while self._read_header() if self._in_header else self._read_body():
            pass

    def finish(self) -> None:
        rest = self._buffer[self._at :]
        at_line = self._in_header or self._fresh
        key = self._key(rest if at_line else rest[2:]) if at_line or rest.startswith(b"\r\n") else None
        if key is None and not self._in_header:
            self._tell(rest)
        elif key is None:
            self._collected += rest
        else:
            if self._in_header:
                self._open_without_body()
            self._cross(rest, key)
        if self._in_header:
            self._open_without_body()
        self._close_leaf()

    # --- header sections

    def _read_header(self) -> bool:
        """Line by line, up to the empty one; a delimiter ends it too. False: more octets are needed."""
        buffer = self._buffer
        while len(self._collected) <= MAX_HEADER and (end := buffer.find(b"\r\n", at := self._at)) >= 0:
            self._at = end + 2
            if end == at:
                self._open_whole()
                return True
            if buffer.startswith(b"--", at) and (key := self._key(buffer[at:end])) is not None:
                self._open_without_body()
                self._cross(buffer[at : end + 2], key)
                return True
            self._collected += buffer[at : end + 2]
        rest = len(buffer) - self._at
        size = len(self._collected)
        if size > MAX_HEADER or (rest > MAX_LINE + 2 and size + rest > MAX_HEADER):
            self._give_up_header()
            return True
        return False

    def _take_header(self) -> bytes:
        header = bytes(self._collected)
        self._collected.clear()
        self._in_header = False
        return header

    def _open_whole(self) -> None:
        header = self._take_header() + b"\r\n"
        entity, frame = self._judge(header)
        self._visitor.open(entity)
        self._fresh = True
        if frame is None:
            self._leaf = entity
            return
        self._frames.append(frame)
        if frame.boundary:
            self._look_for()
        else:
            self._in_header = True

    def _open_without_body(self) -> None:
        header = self._take_header()
        section = read_section(header, "text/plain")
        self._leaf = self._entity(header, section, section.fault)
        self._visitor.open(self._leaf)

    def _give_up_header(self) -> None:
        """It is content like any other, of a leaf of which nothing is known."""
        self._buffer = self._take_header() + self._buffer[self._at :]
        self._at = 0
        self._open_opaque(_LONG_HEADER)

    def _open_opaque(self, fault: str) -> None:
        self._leaf = self._entity(b"", _OPAQUE, fault)
        self._visitor.open(self._leaf)
        self._in_header = False
        self._fresh = False

    # --- what a header section makes of its body

    def _sealed(self) -> str:
        """Why nothing here may be changed."""
        return self._frames[-1].entity.fault if self._frames else ""

    def _entity(self, header: bytes, section: Section, fault: str) -> Entity:
        parent = self._frames[-1] if self._frames else None
        message = parent is None or parent.entity.section.type == "message/rfc822"
        self._count += 1
        return Entity(self._count - 1, header, section, message, parent.entity if parent else None, fault)

    def _judge(self, header: bytes) -> tuple[Entity, _Frame | None]:
        digest = bool(self._frames) and self._frames[-1].entity.section.type == "multipart/digest"
        section = read_section(header, "message/rfc822" if digest else "text/plain")  # RFC 2046 §5.1.5
        composite = section.type == "message/rfc822" or section.type.startswith("multipart/")
        fault = self._composite_fault(section) if composite else _leaf_fault(section)
        if fault or not composite:
            return self._entity(header, section, self._sealed() or section.fault or fault), None
        seal = self._sealed() or (_SIGNED if section.type == "multipart/signed" else "")
        entity = self._entity(header, section, seal)
        return entity, _Frame(entity, section.boundary if section.type != "message/rfc822" else b"")

    def _composite_fault(self, section: Section) -> str:
        """Why it is not walked into, "" where it is."""
        if section.fault:
            return section.fault
        if section.encoding not in IDENTITY:
            return _NOT_BASE64.format(section.type, section.encoding)
        if len(self._frames) >= MAX_DEPTH:
            return _TOO_DEEP
        if section.type == "message/rfc822":
            return ""
        if not section.boundary:
            return _NO_BOUNDARY
        return _SAME_BOUNDARY if any(line in self._keys for line in _lines_of(section.boundary)) else ""

    # --- bodies

    def _read_body(self) -> bool:
        """Tell the content up to the next delimiter, and cross it. False: more octets are needed."""
        buffer, lead, start = self._buffer, -1, 0
        searched = self._at
        while self._keys:
            if self._fresh:
                lead = start = self._at
                head = buffer[start : start + len(self._needle) - 2]
                self._fresh = self._needle.startswith(head, 2)
                if not self._fresh:
                    continue
                if len(head) < len(self._needle) - 2:
                    return False
            else:
                lead = buffer.find(self._needle, searched)
                if lead < 0:
                    break
                start = lead + 2
            end = buffer.find(b"\r\n", start, start + MAX_LINE + 2)
            if end < 0 and len(buffer) - start < MAX_LINE + 2:
                self._tell_up_to(lead)
                return False
            if end >= 0 and (key := self._key(buffer[start:end])) is not None:
                self._tell_up_to(lead)
                self._at = end + 2
                self._cross(buffer[lead : end + 2], key)
                return True
            self._fresh = False
            searched = start if end < 0 else end
        self._tell_up_to(self._last_sure())
        return False

    def _last_sure(self) -> int:
        """Where the tail begins that may turn out to be the beginning of a delimiter, or half a CRLF."""
        buffer, needle = self._buffer, self._needle or b"\r"
        tail = buffer.rfind(b"\r", max(self._at, len(buffer) - len(needle)))
        return tail if tail >= 0 and needle.startswith(buffer[tail:]) else len(buffer)

    def _tell_up_to(self, end: int) -> None:
        start, self._at = self._at, end
        self._tell(self._buffer[start:end])

    def _tell(self, octets: bytes) -> None:
        if not octets:
            return
        self._fresh = False
        if self._leaf is not None:
            self._visitor.content(self._leaf, octets)
        else:
            self._visitor.outside(self._frames[-1].entity, octets)

    # --- delimiters

    def _key(self, line: bytes) -> _Key | None:
        """Which delimiter the line is. RFC 2046 §5.1.1: white space may follow it."""
        return self._keys.get(line.rstrip(_LWSP)) if len(line) <= MAX_LINE else None

    def _cross(self, octets: bytes, key: _Key) -> None:
        """A delimiter: what was in the frame ends, also frames that have lost theirs (RFC 2046 §5.1.2)."""
        self._close_leaf()
        self._visitor.delimiter(octets)
        frame = self._frames[key.frame]
        if key.ends:
            frame.boundary = b""
        if key.ends or len(self._frames) > key.frame + 1:
            del self._frames[key.frame + 1 :]
            self._look_for()
        self._in_header = not key.ends
        self._fresh = key.ends
        if self._in_header and self._count >= MAX_PARTS:
            self._frames = []
            self._look_for()
            self._open_opaque(_TOO_MANY)

    def _close_leaf(self) -> None:
        if self._leaf is not None:
            self._visitor.close(self._leaf)
            self._leaf = None

    def _look_for(self) -> None:
        """The frames have changed: set up what is searched."""
        self._keys = {}
        for index, frame in enumerate(self._frames):
            if frame.boundary:
                begins, ends = _lines_of(frame.boundary)
                self._keys[begins] = _Key(index, ends=False)
                self._keys[ends] = _Key(index, ends=True)
        self._needle = b"\r\n" + _common(list(self._keys)) if self._keys else b""


def _lines_of(boundary: bytes) -> tuple[bytes, bytes]:
    return b"--" + boundary, b"--" + boundary + b"--"


def _common(lines: list[bytes]) -> bytes:
    """What all begin with: what the first and the last in order have in common."""
    first, last = min(lines), max(lines)
    same = next((index for index, octet in enumerate(first) if octet != last[index]), len(first))
    return first[:same]


def _leaf_fault(section: Section) -> str:
    if section.encoding not in IDENTITY:
        return _ENCODED.format(section.encoding)
    if section.type.startswith("message/") and section.type not in _GLOBAL:
        return _SEVEN_BIT_TYPE.format(section.type)
    return ""
