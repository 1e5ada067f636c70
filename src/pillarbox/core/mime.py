"""A message made fit for a next hop that can't take it as it is: 8-bit parts for one without 8BITMIME, binary ones for
one without BINARYMIME.

Two passes over the same octets: `Survey` finds what has to be encoded and how large the message will be, `Converter`
does it. Only the parts that hold what the target can't carry are encoded; all else stays as it was to the octet, and so
does a whole message that needs nothing. Memory is bounded whatever the size. What can't be converted by the rules is
never sent broken: `Unconvertible` says why. Knows no hop, no signature and no storage: a conversion breaks the DKIM
signatures over the body (RFC 6376 §5.3). RFC 6152 §3, RFC 3030 §4, RFC 2045 §6, RFC 2046 §5, RFC 2049 §4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pillarbox.core.mime_encoders import Base64, Encoder, QuotedPrintable, base64_size
from pillarbox.core.mime_fields import Edit, rewrite
from pillarbox.core.mime_walk import Entity, Walk


class Target(Enum):
    """What the next hop takes."""

    SEVEN_BIT = "7bit"  # lines of ASCII, and no line that we encode is longer than 76
    EIGHT_BIT = "8bit"  # lines of any octets: no bare CR, no bare LF, no NUL


class Unconvertible(Exception):
    """The message can't be made fit for the target; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the first pass found."""

    target: Target
    size: int  # octets of the converted message
    converts: bool  # False: it is fit as it is
    edits: Mapping[int, Edit]  # by the number of the entity


class Survey:
    """The first pass: `feed` all octets, in any pieces."""

    __slots__ = ("_findings", "_walk")

    def __init__(self, target: Target) -> None:
        self._findings = _Findings(target)
        self._walk = Walk(self._findings)

    def feed(self, octets: bytes) -> None:
        self._findings.size += len(octets)
        self._walk.feed(octets)

    def finish(self) -> Plan:
        """Raises Unconvertible."""
        self._walk.finish()
        found = self._findings
        if found.fault:
            raise Unconvertible(found.fault)
        return Plan(found.target, found.size, found.converts, found.edits)


class Converter:
    """The second pass, over the octets that were surveyed."""

    __slots__ = ("_changes", "_walk")

    def __init__(self, plan: Plan) -> None:
        self._changes = _Changes(plan)
        self._walk = Walk(self._changes) if plan.converts else None

    def feed(self, octets: bytes) -> bytes:
        if self._walk is None:
            return octets
        self._walk.feed(octets)
        return self._changes.take()

    def finish(self) -> bytes:
        if self._walk is None:
            return b""
        self._walk.finish()
        return self._changes.take()


# --- what a target can't carry

_NON_ASCII_HEADER = (
    "a header section holds octets above 127: it needs a next hop with SMTPUTF8 and can't be downgraded (RFC 6530)"
)
_BARE_IN_HEADER = "a header section holds a bare CR, a bare LF or a NUL, and no encoding covers a header section"
# Within a line: what can't be carried becomes a question mark.
_QUESTIONED = {
    Target.SEVEN_BIT: bytes(ord("?") if octet in b"\r\n\0" or octet > 127 else octet for octet in range(256)),
    Target.EIGHT_BIT: bytes(ord("?") if octet in b"\r\n\0" else octet for octet in range(256)),
}
# The labels of what is around an encoded part, as they have to be where they say more than the target takes.
_LABELS = {
    Target.SEVEN_BIT: {"8bit": "7bit", "binary": "7bit"},
    Target.EIGHT_BIT: {"binary": "8bit"},
}


def _is_fit(target: Target, octets: bytes) -> bool:
    return (target is Target.EIGHT_BIT or octets.isascii()) and not _has_bare(octets)


def _has_bare(octets: bytes) -> bool:
    """Whether a CR, LF or NUL is in there that is not of a CRLF."""
    ends = octets.count(b"\r\n")
    return octets.count(b"\n") != ends or octets.count(b"\r") != ends or 0 in octets


# --- the two visitors


class _Findings:
    """Counts, leaf by leaf. A fault is kept only when something would have to be changed where it stands."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.size = 0
        self.fault = ""  # the first
        self.converts = False
        self.edits: dict[int, Edit] = {}
        self._bare = self._eight_bit = False  # of this leaf, as the next three
        self._octets = 0
        self._quoted: QuotedPrintable | None = None
        self._quoted_size = 0

    def open(self, entity: Entity) -> None:
        header = entity.header
        if _has_bare(header):
            self._fail(_BARE_IN_HEADER)
        elif self.target is Target.SEVEN_BIT and not header.isascii():
            self._fail(_NON_ASCII_HEADER)
        self._bare = self._eight_bit = False
        self._octets = self._quoted_size = 0
        seven = self.target is Target.SEVEN_BIT
        self._quoted = QuotedPrintable() if seven and not entity.fault and _is_text(entity) else None

    def content(self, leaf: Entity, octets: bytes) -> None:
        self._octets += len(octets)
        self._eight_bit = self._eight_bit or not octets.isascii()
        self._bare = self._bare or _has_bare(octets)
        if self._bare:
            self._quoted = None
        elif self._quoted is not None:
            self._quoted_size += len(self._quoted.feed(octets))

    def close(self, leaf: Entity) -> None:
        if not self._bare and not (self._eight_bit and self.target is Target.SEVEN_BIT):
            return
        if leaf.fault:
            self._fail(leaf.fault)
            return
        encoding, size = "base64", base64_size(self._octets)
        if self._quoted is not None:
            quoted = self._quoted_size + len(self._quoted.finish())
            if 2 * quoted <= 3 * size:  # text that stays readable may be half as long again
                encoding, size = "quoted-printable", quoted
        self.size += size - self._octets
        self._edit(leaf, Edit(encoding, charset=self._eight_bit))
        self._relabel(leaf.parent)

    def outside(self, multipart: Entity, octets: bytes) -> None:
        if _is_fit(self.target, octets):
            return
        if multipart.fault:
            self._fail(multipart.fault)
        else:
            self.converts = True
            self._relabel(multipart)

    def delimiter(self, octets: bytes) -> None:
        """Fit for any target."""

    def _relabel(self, entity: Entity | None) -> None:
        """What is around a change: its encoding remains true (RFC 2045 §6.4), and a message is one of MIME."""
        while entity is not None and entity.number not in self.edits:
            label = _LABELS[self.target].get(entity.section.encoding, "")
            if label or (entity.message and not entity.section.has_version):
                self._edit(entity, Edit(label))
            entity = entity.parent

    def _edit(self, entity: Entity, edit: Edit) -> None:
        self.converts = True
        self.edits[entity.number] = edit
        self.size += len(rewrite(entity.header, edit, message=entity.message)) - len(entity.header)

    def _fail(self, fault: str) -> None:
        self.fault = self.fault or fault


class _Changes:
    """Writes the message anew."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._out: list[bytes] = []
        self._encoder: Encoder | None = None

    def take(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)

    def open(self, entity: Entity) -> None:
        edit = self._plan.edits.get(entity.number)
        self._out.append(entity.header if edit is None else rewrite(entity.header, edit, message=entity.message))
        self._encoder = _ENCODERS[edit.encoding]() if edit is not None and edit.encoding in _ENCODERS else None

    def content(self, leaf: Entity, octets: bytes) -> None:
        self._out.append(octets if self._encoder is None else self._encoder.feed(octets))

    def close(self, leaf: Entity) -> None:
        if self._encoder is not None:
            self._out.append(self._encoder.finish())
            self._encoder = None

    def outside(self, multipart: Entity, octets: bytes) -> None:
        """RFC 2046 §5.1.1: no content, readers ignore it."""
        table = _QUESTIONED[self._plan.target]
        self._out.append(b"\r\n".join([line.translate(table) for line in octets.split(b"\r\n")]))

    def delimiter(self, octets: bytes) -> None:
        self._out.append(octets)


_ENCODERS: dict[str, type[Base64] | type[QuotedPrintable]] = {"base64": Base64, "quoted-printable": QuotedPrintable}


def _is_text(entity: Entity) -> bool:
    return entity.section.type.startswith("text/")
