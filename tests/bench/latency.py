"""The latency client: a program of its own, so that it shares neither our interpreter nor our garbage.

Keeps N sessions busy on one epoll, each session: connect, EHLO, MAIL, RCPT, DATA, message, QUIT, one command at a
time as smtp-source does it. A latency runs from before connect() to the moment the reply to the final dot could be
read (the return of epoll, not the turn of that session). Prints one JSON object: seconds, latencies_ms.
Arguments: HOST PORT SESSIONS MESSAGES SIZE.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from dataclasses import dataclass

from tests.bench.values import CLIENT_NAME, RECIPIENT, SENDER

QUIET_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Step:
    """What is sent once the reply before it began with `after`; `timed`: that reply ends the latency."""

    after: bytes
    send: bytes
    timed: bool = False


def script(size: int) -> tuple[Step, ...]:
    return (
        Step(b"220", b"EHLO %s\r\n" % CLIENT_NAME.encode()),
        Step(b"250", b"MAIL FROM:<%s>\r\n" % SENDER.encode()),
        Step(b"250", b"RCPT TO:<%s>\r\n" % RECIPIENT.encode()),
        Step(b"250", b"DATA\r\n"),
        Step(b"354", message(size) + b".\r\n"),
        Step(b"250", b"QUIT\r\n", timed=True),
        Step(b"221", b""),
    )


def message(size: int) -> bytes:
    head = b"From: <%s>\r\nTo: <%s>\r\nSubject: latency\r\n\r\n" % (SENDER.encode(), RECIPIENT.encode())
    line = b"X" * 78 + b"\r\n"
    return head + line * max(1, (size - len(head)) // len(line))


class Session:
    """One session: `advance` reads what is there and sends the next command; true when it is over."""

    def __init__(self, address: tuple[str, int], steps: tuple[Step, ...]) -> None:
        self._steps = iter(steps)
        self._step = next(self._steps)
        self._received = b""
        self.latency: float | None = None
        self._begun = time.perf_counter()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)  # an error shows at the first read

    def advance(self, now: float) -> bool:
        data = self.socket.recv(4096)
        if not data:
            raise ConnectionError(f"closed while waiting for {self._step.after.decode()}")
        self._received += data
        if not self._complete():
            return False
        reply, self._received = self._received, b""
        if not reply.startswith(self._step.after):
            raise ConnectionError(f"waiting for {self._step.after.decode()}, got {reply[:200]!r}")
        if self._step.timed:
            self.latency = now - self._begun
        if not self._step.send:
            self.socket.close()
            return True
        self.socket.sendall(self._step.send)
        self._step = next(self._steps)
        return False

    def _complete(self) -> bool:
        if not self._received.endswith(b"\r\n"):
            return False
        last = self._received.rfind(b"\n", 0, -1) + 1
        return self._received[last + 3 : last + 4] in b" \r"


def run(address: tuple[str, int], sessions: int, messages: int, size: int) -> dict[str, object]:
    steps = script(size)
    poll = select.epoll()
    living: dict[int, Session] = {}
    latencies: list[float] = []

    def open_session() -> None:
        session = Session(address, steps)
        living[session.socket.fileno()] = session
        poll.register(session.socket, select.EPOLLIN)

    begun = time.perf_counter()
    left = messages - min(sessions, messages)
    for _ in range(min(sessions, messages)):
        open_session()
    while living:
        ready = poll.poll(QUIET_SECONDS)
        now = time.perf_counter()
        if not ready:
            raise TimeoutError(f"no reply for {QUIET_SECONDS:.0f} s")
        for descriptor, _ in ready:
            session = living[descriptor]
            if not session.advance(now):  # closing takes the descriptor out of the epoll
                continue
            del living[descriptor]
            latencies.append(1000 * (session.latency or 0.0))
            if left:
                left -= 1
                open_session()
    return {"seconds": time.perf_counter() - begun, "latencies_ms": latencies}


def main(arguments: list[str]) -> None:
    host, port, sessions, messages, size = arguments
    gc.disable()
    try:
        result = run((host, int(port)), int(sessions), int(messages), int(size))
    except OSError as error:
        sys.exit(f"latency client: {error}")
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
