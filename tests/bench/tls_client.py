"""The load under TLS: a program of its own, since smtp-source has no TLS; the same for every server.

Keeps N sessions busy, each as smtp-source does it: one command at a time, TLS from the first octet. With `reuse` a
session carries one message after the other, else it is opened anew for each: a whole handshake, no session resumed.
TLS 1.3, any certificate. Prints one JSON object: seconds, from the first connection to the last farewell. Arguments:
HOST PORT SESSIONS MESSAGES SIZE new|reuse.
"""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
import sys
import time
from dataclasses import dataclass
from typing import cast

import uvloop

from tests.bench.latency import message
from tests.bench.values import CLIENT_NAME, RECIPIENT, SENDER

QUIET_SECONDS = 60.0


@dataclass
class Work:
    """What is to be done, and how far it is."""

    steps: tuple[tuple[bytes, bytes], ...]  # of one message: the code that is waited for, what is sent then
    reuse: bool
    left: int  # messages nobody has begun
    living: int  # sessions
    done: asyncio.Future[None]

    def take(self) -> bool:
        if not self.left:
            return False
        self.left -= 1
        return True

    def failed(self, text: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(text))


class Session(asyncio.Protocol):
    """One session after another."""

    def __init__(self, work: Work, host: str, port: int, context: ssl.SSLContext) -> None:
        self._work = work
        self._address = host, port
        self._context = context
        self._begin()

    def _begin(self) -> None:
        self._received = b""
        self._waits = b"220"
        self._script = iter(((b"250", b"EHLO %s\r\n" % CLIENT_NAME.encode()), *self._work.steps))
        self._ended = False

    async def open(self) -> None:
        host, port = self._address
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, host, port, ssl=self._context)
        except OSError as error:
            self._work.failed(f"can't connect: {error}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        last = self._received.rfind(b"\n", 0, -1) + 1
        if not self._received.endswith(b"\r\n") or self._received[last + 3 : last + 4] not in b" \r":
            return
        if not self._received.startswith(self._waits):
            self._work.failed(f"waiting for {self._waits.decode()}, got {self._received[:200]!r}")
            return
        self._received = b""
        if self._ended:
            self._transport.close()
            return
        self._say(next(self._script, None) or self._next_message())

    def _next_message(self) -> tuple[bytes, bytes]:
        if self._work.reuse and self._work.take():
            self._script = iter(self._work.steps)
            return next(self._script)
        self._ended = True
        return b"221", b"QUIT\r\n"

    def _say(self, step: tuple[bytes, bytes]) -> None:
        self._waits, octets = step
        self._transport.write(octets)

    def connection_lost(self, exc: Exception | None) -> None:
        work = self._work
        if not self._ended:
            work.failed(f"the connection was lost: {exc}")
        elif work.take():
            self._begin()
            self._opening = asyncio.get_running_loop().create_task(self.open())
        else:
            work.living -= 1
            if not work.living and not work.done.done():
                work.done.set_result(None)


def steps(size: int) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"250", b"MAIL FROM:<%s>\r\n" % SENDER.encode()),
        (b"250", b"RCPT TO:<%s>\r\n" % RECIPIENT.encode()),
        (b"354", b"DATA\r\n"),
        (b"250", message(size) + b".\r\n"),
    )


async def run(address: tuple[str, int], sessions: int, messages: int, *, size: int, reuse: bool) -> float:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    living = min(sessions, messages)
    work = Work(steps(size), reuse, messages - living, living, asyncio.get_running_loop().create_future())
    begun = time.perf_counter()
    clients = [Session(work, *address, context) for _ in range(living)]
    await asyncio.gather(*(client.open() for client in clients))
    async with asyncio.timeout(QUIET_SECONDS):
        await work.done
    return time.perf_counter() - begun


def main(arguments: list[str]) -> None:
    host, port, sessions, messages, size, kind = arguments
    gc.disable()
    try:
        seconds = uvloop.run(
            run((host, int(port)), int(sessions), int(messages), size=int(size), reuse=kind == "reuse")
        )
    except (OSError, TimeoutError) as error:
        sys.exit(f"TLS client: {error or type(error).__name__}")
    sys.stdout.write(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1:])
