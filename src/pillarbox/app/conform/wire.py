"""A client's end of one SMTP connection, that survives anything a server may send.

Gives octets and takes them, and knows nothing of what they are for. Never waits beyond its deadlines, whatever the
peer does: a reply has `timeout` seconds in all, of which a peer that trickles gets no more; what is held of a reply is
bounded. No reply is repaired: what can't be read as one (RFC 5321 section 4.2) is Lost, with the octets that came.
"""

from __future__ import annotations

import re
import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from time import monotonic

MAX_LINE = 64 * 1024  # octets of a line of a reply
MAX_LINES = 1000  # of a reply
MAX_REPLY = 1024 * 1024  # octets
_KEPT = 512  # octets of what could not be read, for the report
_ALMOST_NOTHING = 0.001  # seconds; 0 would mean a socket that never waits
_LINE = re.compile(rb"\d{3}(?:[ -]|$)")


class Loss(Enum):
    """Why there is no reply."""

    CLOSED = "the connection was closed"
    SILENT = "no reply came in time"
    ENDLESS = f"a reply line has more than {MAX_LINE} octets"
    FLOOD = f"a reply has more than {MAX_LINES} lines or {MAX_REPLY} octets"
    GARBAGE = "what came is no SMTP reply"

    @property
    def text(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: its lines without their ends, and whether one of them ended in a bare LF."""

    lines: tuple[bytes, ...]
    bare: bool = False

    @property
    def code(self) -> int:
        return int(self.lines[0][:3])

    @property
    def codes(self) -> frozenset[int]:
        """Of all lines: one, if all is well."""
        return frozenset(int(line[:3]) for line in self.lines)

    @property
    def texts(self) -> tuple[str, ...]:
        """The lines behind code and separator; an octet is a character."""
        return tuple(line[4:].decode("latin-1") for line in self.lines)


@dataclass(frozen=True, slots=True)
class Lost:
    """No reply; `octets` are the first of what came instead."""

    loss: Loss
    octets: bytes = b""


Outcome = Answer | Lost


class Wire:
    """One connection. Raises OSError when it can't be made; afterwards nothing is raised."""

    def __init__(self, host: str, port: int, *, timeout: float, deadline: float) -> None:
        """`timeout`: seconds for each reply; `deadline`: when all must be over, by the monotonic clock."""
        self._timeout = timeout
        self._deadline = deadline
        self._held = bytearray()
        self._over = False
        try:
            self._socket = socket.create_connection((host, port), self._left(monotonic() + timeout))
        except UnicodeError as error:  # a name that no host can have
            raise OSError(f"not a host name: {host}") from error
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ours, self.theirs = (str(end()[0]) for end in (self._socket.getsockname, self._socket.getpeername))
        except OSError:
            self._socket.close()
            raise

    def _left(self, end: float) -> float:
        return max(min(end, self._deadline) - monotonic(), _ALMOST_NOTHING)

    def write(self, octets: bytes) -> None:
        """What a peer does not take in time is not sent; the reply that is missing then tells of it."""
        with suppress(OSError):
            self._socket.settimeout(self._left(monotonic() + self._timeout))
            self._socket.sendall(octets)

    def read(self) -> Outcome:
        """The next reply."""
        end = monotonic() + self._timeout
        lines: list[bytes] = []
        bare = False
        size = 0
        while True:
            line = self._line(end)
            if isinstance(line, Loss):
                return Lost(line, (b"".join(part + b"\r\n" for part in lines) + bytes(self._held))[:_KEPT])
            bare = bare or not line.endswith(b"\r\n")
            size += len(line)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not _LINE.match(line):
                return Lost(Loss.GARBAGE, line[:_KEPT])
            lines.append(line)
            if line[3:4] != b"-":
                return Answer(tuple(lines), bare)
            if len(lines) >= MAX_LINES or size >= MAX_REPLY:
                return Lost(Loss.FLOOD, lines[0][:_KEPT])

    def _line(self, end: float) -> bytes | Loss:
        """With its end."""
        while (at := self._held.find(b"\n")) < 0:
            if len(self._held) > MAX_LINE:
                return Loss.ENDLESS
            if (loss := self._receive(end)) is not None:
                return loss
        line = bytes(self._held[: at + 1])
        del self._held[: at + 1]
        return line if len(line) <= MAX_LINE else Loss.ENDLESS

    def _receive(self, end: float) -> Loss | None:
        if self._over:
            return Loss.CLOSED
        if monotonic() >= min(end, self._deadline):
            return Loss.SILENT
        try:
            self._socket.settimeout(self._left(end))
            octets = self._socket.recv(65536)
        except TimeoutError:
            return Loss.SILENT
        except OSError:
            octets = b""
        self._over = not octets
        self._held += octets
        return Loss.CLOSED if self._over else None

    def has_spoken(self, within: float = 0) -> bool:
        """Whether something waits to be read, or comes in so many seconds: octets, not the mere end of it all."""
        if not self._held and not self._over:
            with suppress(OSError, ValueError):
                if select.select([self._socket], [], [], within)[0]:
                    self._receive(monotonic() + self._timeout)
        return bool(self._held)

    def ends(self) -> bool:
        """Whether the peer closes the connection in time, whatever it sends before that."""
        end = monotonic() + self._timeout
        taken = 0
        while (loss := self._receive(end)) is None and taken <= MAX_REPLY:
            taken += len(self._held)
            self._held.clear()
        return loss is Loss.CLOSED

    def close(self) -> None:
        self._over = True
        with suppress(OSError):
            self._socket.close()
