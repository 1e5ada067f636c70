"""A message on its way in, from the 354 to the final dot: collects it, judges it, bounds the memory it takes.

A small message stays in memory; a large one is handed on in pieces to be spilled to the disk. What is wrong with a
message is remembered and told at its true end, since a client hears nothing before (standards: read on, then refuse).
Knows neither sockets nor storage.
"""

from __future__ import annotations

from dataclasses import replace

from pillarbox.core import reply as r
from pillarbox.core.envelope import Envelope, MessageId
from pillarbox.core.header_edit import Edit, Edited
from pillarbox.core.idempotency import BadKey, Fingerprint, only_key
from pillarbox.core.message import HeaderView, Hop, header_end, pick_fields, view_header
from pillarbox.core.reply import Reply
from pillarbox.engine.mail import Message, Octets
from pillarbox.smtp.framing import has_bare_octet

MAX_HEADER = 128 * 1024  # octets of a header section
SMALL = MAX_HEADER  # octets of text up to which a message stays in memory until it is whole
PIECE = 256 * 1024  # octets that go to the disk at a time, at least
MAX_HOPS = 100  # Received fields, RFC 5321 §6.3


class Intake:
    """The message with our trace field in front of it."""

    __slots__ = (
        "_asked",
        "_chunks",
        "_edit",
        "_fields",
        "_held",
        "_limit",
        "by_chunks",
        "fault",
        "fingerprint",
        "header",
        "id",
        "octets",
        "size",
        "spilled",
        "trace_size",
    )

    def __init__(
        self,
        message_id: MessageId,
        trace: bytes,
        limit: int,
        edit: Edit | None = None,
        *,
        asked: frozenset[str] = frozenset(),
    ) -> None:
        """`limit`: octets of the message as it comes, without our trace field (RFC 1870 §4 counts without stuffed
        dots). `edit`: what is done to its header section. `asked`: the fields that are kept for its routing, in lower
        case."""
        self.by_chunks = False  # it comes by BDAT, and so may hold any octets
        self.id = message_id
        self.fault: Reply | None = None
        self.fingerprint: Fingerprint | None = None  # where it has an Idempotency-Key
        self.header: HeaderView | None = None
        self.octets = Octets.PLAIN
        self.spilled = False
        self.size = len(trace)
        self.trace_size = len(trace)
        self._limit = limit + len(trace)
        self._chunks = [trace]
        self._held = len(trace)
        self._edit = edit
        self._asked = asked
        self._fields: tuple[tuple[str, str], ...] = ()

    def add(self, octets: bytes) -> bytes | None:
        """The next piece. Gives what must be spilled before more is added, None while memory suffices."""
        if self.fault is not None:
            return None
        self.size += len(octets)
        if self.size > self._limit:
            self.fail(r.TOO_BIG)
            return None
        self._chunks.append(octets)
        self._held += len(octets)
        if not self.octets and not octets.isascii():
            self.octets |= Octets.EIGHT_BIT
        if self._held < (PIECE if self.spilled else SMALL):
            return None
        return self._spill()

    def _spill(self) -> bytes | None:
        piece = self._take()
        if self.header is None:
            piece = self._read_header(piece)
        if self.fault is not None:
            return None
        self.spilled = True
        return piece

    def finish(self, octets: bytes, *, bare: bool) -> bytes:
        """The last piece. Gives what was not spilled, with the header read; look at `fault` before using it."""
        if bare and not self.by_chunks:
            self.fail(r.BARE_OCTET_IN_DATA)
            self.fault = r.BARE_OCTET_IN_DATA  # whatever else is wrong: this one closes the channel
            return b""
        spill = self.add(octets)
        rest = spill if spill is not None else self._take()
        if self.fault is None and self.header is None:
            rest = self._read_header(rest, whole=True)
        if bare:  # RFC 3030 §3
            self.octets |= Octets.BINARY
        return rest

    def message(self, rest: bytes, envelope: Envelope, *, hop: Hop, listener: str, received_at: float) -> Message:
        """The message as the queue takes it, without a fault; `rest` is what `finish` gave."""
        assert self.header is not None
        if self._fields:
            envelope = envelope._replace(options=replace(envelope.options, fields=self._fields))
        return Message(
            id=self.id,
            received_at=received_at,
            envelope=envelope,
            listener=listener,
            peer=hop.peer,
            helo=hop.helo,
            protocol=hop.protocol,
            size=self.size,
            header=self.header,
            octets=self.octets,
            large=self.spilled,
            content=rest,
        )

    def fail(self, fault: Reply) -> None:
        """Refuse the message with that reply; the rest of it is thrown away."""
        self.fault = self.fault or fault
        self._chunks = []
        self._held = 0

    def _take(self) -> bytes:
        octets = b"".join(self._chunks)
        self._chunks = []
        self._held = 0
        if self.fingerprint is not None:
            self.fingerprint.add(octets)
        return octets

    def _read_header(self, octets: bytes, *, whole: bool = False) -> bytes:
        """The same octets, with the header section as it is to be; a fault where they hold no whole one, or a larger
        one than is taken."""
        start = self.trace_size
        end = header_end(octets)
        if end is None and whole:
            end = len(octets)
        if end is None or end - start > MAX_HEADER:
            self.fail(r.HEADER_TOO_BIG)
            return b""
        section = octets[start:end]
        if self.by_chunks and has_bare_octet(section):  # no encoding could carry it on
            self.fail(r.BARE_OCTET_IN_HEADER)
            return b""
        if self._edit is not None:
            edited = self._edit(section)
            if edited.keys and not self._keyed(edited, octets[end:]):
                return b""
            came, section = section, edited.section
            octets = b"".join((octets[:start], section, octets[end:]))
            self.size += len(section) - len(came)
            self._limit += len(section) - len(came)  # it counts what came
        self.header = view_header(section)
        if self._asked:
            self._fields = pick_fields(section, self._asked)
        if not section.isascii():
            self.octets |= Octets.UTF8_HEADER
        if self.header.received >= MAX_HOPS:
            self.fail(r.LOOP)
        return octets

    def _keyed(self, edited: Edited, body: bytes) -> bool:
        """Begin the fingerprint, with what there is of the body; False where the key is none."""
        try:
            self.fingerprint = Fingerprint(only_key(edited.keys), edited.kept)
        except BadKey:
            self.fail(r.BAD_KEY)
            return False
        self.fingerprint.add(body)
        return True
