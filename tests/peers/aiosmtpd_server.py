"""The program behind the `aiosmtpd` server: durable receipt and nothing else, as its users would write it.

Each message goes to a file of its own in the stock thread pool: write, fsync, rename, fsync of the folder; only
then 250. It neither delivers nor deletes. Arguments: the folder to store in, the name of the host, the port.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from pathlib import Path

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.peers.process import HOST


class DurableHandler:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        name = f"{next(self._numbers):08d}"
        content = envelope.content
        assert isinstance(content, bytes)
        await asyncio.get_running_loop().run_in_executor(None, store, self._folder, name, content)
        return f"250 2.0.0 stored as {name}"


def store(folder: Path, name: str, content: bytes) -> None:
    temporary, final = folder / f"{name}.tmp", folder / name
    with temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(final)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def main(folder: Path, hostname: str, port: int, protocol: type[SMTP] = SMTP) -> None:
    loop = asyncio.get_running_loop()
    handler = DurableHandler(folder)
    server = await loop.create_server(lambda: protocol(handler, hostname=hostname, loop=loop), HOST, port, backlog=1024)
    sys.stdout.write(f"listening mx {HOST}:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), LMTP if sys.argv[4:] == ["LMTP"] else SMTP))
