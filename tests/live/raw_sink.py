"""A next hop that keeps every octet: what it was sent on each connection, and the messages that RFC 5321 finds in that.

It believes nothing and mends nothing. A script may replace what it says to a verb, octets for octets. With a context
for TLS it takes STARTTLS; what it says to EHLO inside of it may be another thing.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from time import time
from types import TracebackType

from tests.live.sequences import BARE, END
from tests.live.support import HOST

_ADDRESS = re.compile(rb"<([^>]*)>")
_HELLO = re.compile(rb"(?:EHLO|LHLO|HELO) (\S+)\r\n")
OFFERED = b"250-sink.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
SAYS: Mapping[bytes, bytes] = {
    b"EHLO": OFFERED,
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}
TAKEN = b"250 2.0.0 ok\r\n"
SECURED = b"EHLO inside TLS"  # in a script


@dataclass(slots=True)
class Letter:
    """One message: its envelope, and its text as it came: with stuffed dots, or in chunks. `mail`, `rcpt`: the lines
    that made the envelope."""

    sender: bytes
    recipients: list[bytes]
    stuffed: bytes = b""
    chunks: bytes = b""
    mail: bytes = b""
    rcpt: list[bytes] = field(default_factory=list)
    at: float = 0.0  # when it was whole
    secure: bool = False  # it came by TLS

    @property
    def text(self) -> bytes:
        return self.chunks or re.sub(rb"(\A|\r\n)\.", rb"\1", self.stuffed)


@dataclass(slots=True)
class Connection:
    """`octets`: all that came but for the octets of chunks, which may be anything (RFC 3030). `pipelined`: commands
    that came before the reply to the one in front of them. `peer`: the address from which it was made."""

    peer: str = ""
    octets: bytearray = field(default_factory=bytearray)
    pipelined: int = 0
    letters: list[Letter] = field(default_factory=list)


class RawSink:
    """Listens inside the `with` block."""

    def __init__(
        self, says: Mapping[bytes, bytes] | None = None, tls: ssl.SSLContext | None = None, *, host: str = HOST
    ) -> None:
        self.says = {**SAYS, **(says or {})}
        self.tls = tls
        self.connections: list[Connection] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> RawSink:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listening, *self._open):
            with suppress(OSError):  # ENOTCONN: the peer has gone
                each.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    @property
    def callers(self) -> list[tuple[str, str]]:
        """Of each connection from where it was made, and the name that it said by EHLO."""
        found = ((each.peer, _HELLO.search(each.octets)) for each in self.connections)
        return [(peer, match[1].decode() if match else "") for peer, match in found]

    @property
    def letters(self) -> list[Letter]:
        return [letter for connection in self.connections for letter in connection.letters]

    @property
    def bare(self) -> list[bytes]:
        """Wherever something came that no SMTP client may send: its neighbourhood."""
        found = ((bytes(each.octets), match) for each in self.connections for match in BARE.finditer(each.octets))
        return [octets[max(match.start() - 20, 0) : match.end() + 20] for octets, match in found]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, peer = self._listening.accept()
                connection = Connection(peer=peer[0])
                self.connections.append(connection)
                self._open.add(accepted)
                thread = threading.Thread(target=self._serve, args=(accepted, connection))
                self._threads.append(thread)
                thread.start()

    def _serve(self, accepted: socket.socket, connection: Connection) -> None:
        dialog = _Dialog(accepted, connection, self.says, self.tls)
        with suppress(OSError), accepted, closing(dialog):
            dialog.run()
        self._open.discard(accepted)


class _Dialog:
    def __init__(
        self, accepted: socket.socket, connection: Connection, says: Mapping[bytes, bytes], tls: ssl.SSLContext | None
    ) -> None:
        self._socket = accepted
        self._tls = tls
        self._connection = connection
        self._says = says
        self._held = b""
        self._letter = Letter(b"", [])

    def close(self) -> None:
        self._socket.close()

    def run(self) -> None:
        self._socket.sendall(self._says.get(b"", b"220 sink.example ESMTP\r\n"))
        while (line := self._until(b"\r\n")) is not None:
            verb = line[:4].upper()
            self._note(verb, line)
            self._connection.pipelined += bool(self._held) and verb != b"BDAT"
            if verb == b"STAR" and self._tls is not None:
                self._socket.sendall(b"220 go on\r\n")
                self._socket = self._tls.wrap_socket(self._socket, server_side=True)
                self._says = {**self._says, b"EHLO": self._says.get(SECURED, self._says[b"EHLO"])}
                continue
            if verb == b"BDAT":
                if not self._take_chunk(line):
                    return
                continue
            answer = self._says.get(verb, TAKEN)
            self._socket.sendall(answer)
            if verb == b"DATA" and answer.startswith(b"3"):
                if not self._take():
                    return
            elif verb == b"QUIT":
                return

    def _note(self, verb: bytes, line: bytes) -> None:
        match = _ADDRESS.search(line)
        if verb == b"MAIL" and match:
            self._letter = Letter(match[1], [], mail=line, secure=isinstance(self._socket, ssl.SSLSocket))
        elif verb == b"RCPT" and match:
            self._letter.recipients.append(match[1])
            self._letter.rcpt.append(line)

    def _take(self) -> bool:
        self._held = b"\r\n" + self._held  # that of DATA
        if (text := self._until(END)) is None:
            return False
        self._letter.stuffed = (text + b"\r\n").removeprefix(b"\r\n")
        self._keep()
        self._socket.sendall(self._says.get(b".", TAKEN))
        return True

    def _keep(self) -> None:
        self._letter.at = time()
        self._connection.letters.append(self._letter)

    def _take_chunk(self, line: bytes) -> bool:
        words = line.split()
        size, last = int(words[1]), words[2:] == [b"LAST"]
        while len(self._held) < size:
            if not (octets := self._socket.recv(65536)):
                return False
            self._connection.octets += octets
            self._held += octets
        chunk, self._held = self._held[:size], self._held[size:]
        received = self._connection.octets
        del received[len(received) - len(self._held) - size : len(received) - len(self._held)]
        self._letter.chunks += chunk
        if last:
            self._keep()
        self._socket.sendall(TAKEN)
        return True

    def _until(self, end: bytes) -> bytes | None:
        """What stands before the mark; None at the end of the connection."""
        while end not in self._held:
            if not (octets := self._socket.recv(65536)):
                return None
            self._connection.octets += octets
            self._held += octets
        found, _, self._held = self._held.partition(end)
        return found
