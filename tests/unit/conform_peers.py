"""SMTP servers for the tests of `conform`: one that keeps every rule, to be spoilt in a single place; and its socket.

`Host` is one session of the well-behaved server. A test subclasses it and overrides the one method that is to be wrong.
`Peer` listens on a free port of this machine and hands each connection to a function, in a thread of its own.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

HOST = "127.0.0.1"
MAILBOX = "bob@example.test"
LIMIT = 1_000_000  # octets of a message
KEYWORDS = ("PIPELINING", f"SIZE {LIMIT}", "8BITMIME", "ENHANCEDSTATUSCODES", "HELP", "EXPN")
_PATH = re.compile(rb"(?:FROM|TO):<((?:@[^:>]*:)?[^<> ]*|[^<>]*\"[^\"]*\"@[^<> ]*)>(?: (.*))?", re.IGNORECASE)
_HELLO = re.compile(rb"[A-Za-z0-9.-]+|\[(?:\d{1,2}|1\d\d|2[0-4]\d|25[0-5])(?:\.\d{1,3}){3}\]|\[IPv6:[0-9a-f:]+\]")
_MAX_LINE = 512
_PAUSE = 20.0  # seconds that a thread waits for its client, at most


class Host:
    """A session of a server that keeps the rules. A reply is octets; `over` ends the session behind it."""

    END = b"\r\n"
    END_OF_DATA: tuple[bytes, ...] = (b"\r\n.\r\n",)

    def __init__(self, messages: list[tuple[bytes, bytes]]) -> None:
        self.messages = messages  # recipient and text of what was accepted
        self.hello = False
        self.mail = False
        self.recipients: list[bytes] = []
        self.data = False
        self.over = False

    # --- octets

    def serve(self, client: socket.socket) -> None:
        client.sendall(self.greeting())
        held = b""
        while not self.over and (octets := client.recv(65536)):
            held = self.take(held + octets, client)

    def take(self, held: bytes, client: socket.socket) -> bytes:
        """Answer what has come; what is left."""
        while not self.over:
            ends = self.END_OF_DATA if self.data else (self.END,)
            found = [(at, end) for end in ends if (at := held.find(end)) >= 0]
            if not found:
                break
            at, end = min(found)
            line, held = held[:at], held[at + len(end) :]
            client.sendall(self.finished(line) if self.data else self.answer(line))
        return held

    # --- replies

    def greeting(self) -> bytes:
        return b"220 mx.example.test ESMTP\r\n"

    def answer(self, line: bytes) -> bytes:
        verb, _, argument = line.partition(b" ")
        if len(line) + 2 > _MAX_LINE or b"\n" in line or b"\r" in line or not line.isascii():
            return self.unreadable(line)
        command = getattr(self, f"do_{verb.decode('ascii').upper()}", None)
        return command(argument) if command else self.unknown(line)

    def unreadable(self, line: bytes) -> bytes:
        return b"500 5.5.2 can't be read\r\n"

    def unknown(self, line: bytes) -> bytes:
        return b"500 5.5.2 what?\r\n"

    def do_EHLO(self, argument: bytes) -> bytes:
        if not _HELLO.fullmatch(argument):
            return b"501 name?\r\n"
        self.do_HELO(argument)
        lines = ("mx.example.test", *self.keywords())
        return b"".join(f"250{' ' if line == lines[-1] else '-'}{line}\r\n".encode() for line in lines)

    def keywords(self) -> tuple[str, ...]:
        return KEYWORDS

    def do_HELO(self, argument: bytes) -> bytes:
        if not _HELLO.fullmatch(argument):
            return b"501 name?\r\n"
        self.hello = True
        self.clear()
        return b"250 mx.example.test\r\n"

    def clear(self) -> None:
        self.mail = False
        self.recipients = []

    def do_MAIL(self, argument: bytes) -> bytes:
        if not self.hello or self.mail:
            return b"503 5.5.1 not now\r\n"
        path = _PATH.fullmatch(argument)
        if path is None or b"$" in path[1]:
            return b"501 5.1.7 path?\r\n"
        parameter = (path[2] or b"").upper()
        if parameter.startswith(b"SIZE="):
            return self.sized(parameter[5:])
        if parameter not in (b"", b"BODY=8BITMIME"):
            return b"501 5.5.4 value?\r\n" if parameter.startswith(b"BODY=") else b"555 5.5.4 unknown\r\n"
        self.mail = True
        return b"250 2.1.0 ok\r\n"

    def sized(self, size: bytes) -> bytes:
        if not size.isdigit():
            return b"501 5.5.4 number?\r\n"
        if int(size) > LIMIT:
            return b"552 5.3.4 too large\r\n"
        self.mail = True
        return b"250 2.1.0 ok\r\n"

    def do_RCPT(self, argument: bytes) -> bytes:
        if not self.mail:
            return b"503 5.5.1 MAIL first\r\n"
        path = _PATH.fullmatch(argument)
        if path is None or not path[1]:
            return b"501 5.1.3 path?\r\n"
        if path[2]:
            return b"555 5.5.4 unknown\r\n"
        mailbox = path[1].rpartition(b":")[2].lower()
        if mailbox not in (b"postmaster", b"postmaster@[127.0.0.1]", MAILBOX.encode()):
            return b"550 5.7.1 not here\r\n"
        self.recipients.append(mailbox)
        return b"250 2.1.5 ok\r\n"

    def do_DATA(self, argument: bytes) -> bytes:
        if argument.strip():
            return b"501 5.5.4 no argument\r\n"
        if not self.recipients:
            return b"503 5.5.1 RCPT first\r\n"
        self.data = True
        return b"354 go on\r\n"

    def finished(self, text: bytes) -> bytes:
        self.data = False
        recipients = self.recipients
        self.clear()
        if b"\n" in text.replace(b"\r\n", b"") or b"\r" in text.replace(b"\r\n", b""):
            return b"554 5.6.0 bare\r\n"
        self.messages += ((recipient, text) for recipient in recipients)
        return b"250 2.0.0 taken\r\n"

    def do_RSET(self, argument: bytes) -> bytes:
        if argument.strip():
            return b"501 5.5.4 no argument\r\n"
        self.clear()
        return b"250 2.0.0 ok\r\n"

    def do_NOOP(self, argument: bytes) -> bytes:
        return b"250 2.0.0 ok\r\n"

    def do_VRFY(self, argument: bytes) -> bytes:
        return b"252 2.5.0 can't tell\r\n" if argument else b"501 5.5.4 whom?\r\n"

    def do_EXPN(self, argument: bytes) -> bytes:
        return b"252 2.5.0 can't tell\r\n" if argument else b"501 5.5.4 what?\r\n"

    def do_HELP(self, argument: bytes) -> bytes:
        return b"214-2.0.0 one\r\n214 2.0.0 two\r\n"

    def do_SEND(self, argument: bytes) -> bytes:
        return b"502 5.5.1 not here\r\n"

    do_SOML = do_SAML = do_TURN = do_SEND

    def do_QUIT(self, argument: bytes) -> bytes:
        if argument:
            return b"501 5.5.4 no argument\r\n"
        self.over = True
        return b"221 2.0.0 bye\r\n"


class Peer:
    """Listens for as long as the block lasts."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self.closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []

    @classmethod
    def hosting(cls, host: Callable[[list[tuple[bytes, bytes]]], Host], messages: list[tuple[bytes, bytes]]) -> Peer:
        return cls(lambda client: host(messages).serve(client))

    def __enter__(self) -> Peer:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PAUSE)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self.closing.is_set():
                client, _ = self._listening.accept()
                client.settimeout(_PAUSE)
                self.connections += 1
                self._clients.append(client)
                self._start(self._one, client)

    def _one(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self._handle(client)
