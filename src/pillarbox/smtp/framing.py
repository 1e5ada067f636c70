"""How octets become lines and messages, strictly: only CRLF ends a line, only CRLF.CRLF ends a message.

Knows no command. Nothing here is lenient (RFC 5321 §2.3.8, §4.1.1.4): a bare CR, LF or NUL never ends anything, and
whoever reads a message is told that it held one. Memory is bounded whatever the peer sends. Bodies are handled at the
speed of `bytes.find` and `bytes.replace`, never line by line.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from io import IncrementalNewlineDecoder
from typing import final

END_OF_DATA = b"\r\n.\r\n"
_DOT = ord(".")
_NUL = 0
_ONLY_CRLF = (None, "\r\n")
HEAD = 16  # octets kept of a line that is too long: enough for any verb
MAX_SWALLOWED = 1024 * 1024  # octets of one over-long line that are read and thrown away before we give up on the peer


class LineFault(Enum):
    """Why there is no line where one should be."""

    TOO_LONG = "longer than the limit; thrown away up to its CRLF"
    ENDLESS = "more than MAX_SWALLOWED octets without a CRLF"


class LineReader:
    """Octets in, lines out. A line comes without its CRLF; it may hold bare CR, LF and NUL, which the caller judges."""

    __slots__ = ("_buffer", "_limit", "_start", "_swallowed", "empty", "head")

    def __init__(self, limit: int) -> None:
        """`limit`: octets of a line with its CRLF."""
        self.empty = True  # nothing waits
        self.head = b""  # how the last line began that was too long
        self._buffer = b""
        self._start = 0
        self._limit = limit
        self._swallowed = 0

    def feed(self, octets: bytes) -> None:
        self._buffer = octets if self.empty else self._buffer[self._start :] + octets
        self._start = 0
        self.empty = not self._buffer

    def next_line(self) -> bytes | LineFault | None:
        """The next line, or a fault in its place; None: more octets are needed."""
        start, buffer = self._start, self._buffer
        end = buffer.find(b"\r\n", start)
        if end < 0:
            return self._unfinished()
        self._start = after = end + 2
        self.empty = after == len(buffer)
        if self._swallowed:
            self._swallowed = 0
            return LineFault.TOO_LONG
        if after - start > self._limit:
            self.head = buffer[start : start + HEAD]
            return LineFault.TOO_LONG
        return buffer[start:end]

    def _unfinished(self) -> LineFault | None:
        held = len(self._buffer) - self._start
        if held >= self._limit or self._swallowed:
            if not self._swallowed:
                self.head = self._buffer[self._start : self._start + HEAD]
            kept = 1 if self._buffer.endswith(b"\r") else 0
            self._swallowed += held - kept
            self._start = len(self._buffer) - kept
            self.empty = not kept
            if self._swallowed > MAX_SWALLOWED:
                return LineFault.ENDLESS
        return None

    def take_all(self) -> bytes:
        """Everything not read yet: a message follows, or another protocol."""
        rest = self._buffer[self._start :] if self._start else self._buffer
        self._buffer = b""
        self._start = 0
        self.empty = True
        return rest

    def __len__(self) -> int:
        return len(self._buffer) - self._start


class DataReader:
    """The octets behind a 354, up to CRLF.CRLF: takes the stuffed dots out (RFC 5321 §4.5.2) and looks for bare octets.

    Whatever may be the beginning of the end mark is held back until more has come, so a mark may be cut anywhere. The
    CRLF before the first line is that of the DATA command: it is put in front at the start and taken off again.
    """

    __slots__ = ("_first", "_held", "bare", "done", "rest")

    def __init__(self) -> None:
        self._held = b"\r\n"
        self._first = True
        self.bare = False  # a bare CR, bare LF or NUL was seen
        self.done = False
        self.rest = b""  # what came behind the end mark

    def feed(self, octets: bytes) -> bytes:
        """The next piece of the message, as its sender meant it; may be empty."""
        octets = self._held + octets
        # There is no dot in base64, so most of what is large is spared the slower search.
        dotted = octets.find(b"\r\n.") if _DOT in octets else -1
        end = octets.find(END_OF_DATA, dotted) if dotted >= 0 else -1
        if end >= 0:
            self.done = True
            self.rest = octets[end + 5 :]
            piece = octets[: end + 2]
        else:
            cut = _held_back(octets)
            piece = octets[:cut]
            self._held = octets[cut:]
        if dotted != end:  # before the end mark
            piece = piece.replace(b"\r\n.", b"\r\n")
        if self._first and piece:
            self._first = False
            piece = piece[2:]
        if not self.bare:
            self.bare = has_bare_octet(piece)
        return piece


@final
@dataclass(frozen=True, slots=True)
class Chunk:
    """What a BDAT announces: so many octets of any kind, and whether they end the message (RFC 3030 §2)."""

    size: int
    last: bool


class ChunkReader:
    """The octets of one message that comes by BDAT: exactly as many as each chunk announced, whatever they are."""

    __slots__ = ("_due", "_tail", "bare", "last", "rest")

    def __init__(self) -> None:
        self._due = 0
        self._tail = b""  # a CR at the end of what has been looked at
        self.bare = False  # a bare CR, bare LF or NUL was seen
        self.last = False  # the chunk that is coming in ends the message
        self.rest = b""  # what came behind the chunk

    def begin(self, chunk: Chunk) -> None:
        self._due = chunk.size
        self.last = chunk.last

    @property
    def done(self) -> bool:
        """The chunk is whole."""
        return not self._due

    def feed(self, octets: bytes) -> bytes:
        """The next piece of the chunk; may be empty."""
        piece, self.rest = octets[: self._due], octets[self._due :]
        self._due -= len(piece)
        if not self.bare:
            looked_at = self._tail + piece
            end_of_message = self.last and not self._due
            self._tail = b"\r" if looked_at.endswith(b"\r") and not end_of_message else b""
            self.bare = has_bare_octet(looked_at[: len(looked_at) - len(self._tail)])
        return piece


def _held_back(octets: bytes) -> int:
    """Where the longest tail begins that may be the beginning of the end mark."""
    for length in (4, 3, 2, 1):
        if octets.endswith(END_OF_DATA[:length]):
            return len(octets) - length
    return len(octets)


def has_bare_octet(octets: bytes) -> bool:
    """Whether a NUL, a CR without its LF or an LF without its CR is in there; no CRLF may be cut at either end."""
    ends = IncrementalNewlineDecoder(None, translate=False)  # names the kinds of line ends that it saw, at C speed
    ends.decode(octets.decode("latin-1"), final=True)
    return ends.newlines not in _ONLY_CRLF or _NUL in octets


class UnsafeOctets(ValueError):
    """What would go over the wire could end where it shouldn't: a bare CR, a bare LF or a NUL for DATA, or another
    number of octets than a BDAT announced."""


class ChunkWriter:
    """The octets of a BDAT, as many as it announced and not one more (RFC 3030 §2)."""

    __slots__ = ("_due",)

    def __init__(self, size: int) -> None:
        self._due = size

    def write(self, octets: bytes) -> bytes:
        """The octets as they go over the wire. Raises UnsafeOctets."""
        self._due -= len(octets)
        if self._due < 0:
            raise UnsafeOctets("more octets than the chunk has")
        return octets

    def end(self) -> bytes:
        """Nothing: the count ends a chunk. Raises UnsafeOctets."""
        if self._due:
            raise UnsafeOctets("fewer octets than the chunk has")
        return b""


class DataWriter:
    """The one writer of message octets on a DATA stream: stuffs dots, ends with CRLF.CRLF, emits no bare CR or LF."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b"\r\n"  # the last octets that went out, as far as they matter: CRLF, CR, or nothing

    def write(self, octets: bytes) -> bytes:
        """The octets as they go over the wire. Raises UnsafeOctets."""
        if not octets:
            return b""
        before = self._held
        joined = before + octets
        tail = b"\r" if joined.endswith(b"\r") else b""
        if has_bare_octet(joined[: len(joined) - len(tail)]):
            raise UnsafeOctets("bare CR, bare LF or NUL in a message for DATA")
        self._held = tail or (b"\r\n" if joined.endswith(b"\r\n") else b"")
        joined = joined[: len(joined) - len(tail)]
        if _DOT in joined and joined.find(b"\r\n.") >= 0:
            joined = joined.replace(b"\r\n.", b"\r\n..")
        return joined if before == b"\r" else joined[len(before) :]

    def end(self) -> bytes:
        """The end mark; a message without a CRLF at its end gets one. Raises UnsafeOctets."""
        if self._held == b"\r":
            raise UnsafeOctets("message ends with a bare CR")
        return b".\r\n" if self._held == b"\r\n" else b"\r\n.\r\n"
