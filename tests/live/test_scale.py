"""Memory at scale: many idle connections, and many large messages at the same time."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.ledger import token_of
from tests.live.support import BOB, Client, Server, maildir, raise_descriptor_limit, until

log = logging.getLogger(__name__)
pytestmark = pytest.mark.matrix
IDLE = 10_000
SPARE_DESCRIPTORS = 1_000
KIB_EACH = 6
CLIENTS = 100
MESSAGE = 20 * 1024 * 1024  # octets
CHUNK = 64 * 1024
MOST_KIB = 400 * 1024


@pytest.mark.timeout(300)
def test_idle_connections_cost_six_kib_each_at_most(tmp_path: Path) -> None:
    count = min(IDLE, raise_descriptor_limit() - SPARE_DESCRIPTORS)
    limits = {"connections": 20_000, "connections_per_address": 20_000, "idle": "1h"}
    with Server(tmp_path, settings={"limits": limits}) as server, ExitStack() as stack:
        server.local(BOB)
        for _ in range(20):  # what the first sessions load is not theirs
            with Client(server.port) as client:
                assert client.say("NOOP").startswith("250")
        before = server.memory()
        clients = [stack.enter_context(Client(server.port)) for _ in range(count)]
        growth = server.memory() - before
        log.info("%d idle connections: %d KiB, %.2f KiB each", count, growth, growth / count)
        for client in clients[:: count // 100]:
            assert client.say("NOOP").startswith("250 ")
        assert growth <= KIB_EACH * count


@pytest.mark.timeout(600)
def test_a_hundred_large_messages_at_the_same_time(tmp_path: Path) -> None:
    with Server(tmp_path, settings={"limits": {"idle": "10m"}}) as server:
        server.local(BOB)
        with ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as pool:
            clients = [stack.enter_context(Client(server.port, seconds=300)) for _ in range(CLIENTS)]
            for client in clients:
                client.envelope()
            replies = list(pool.map(_send, clients, range(CLIENTS)))
        peak = server.memory("VmHWM")
        assert all(reply.startswith("250 2.0.0 queued as ") for reply in replies), replies
        server.drained(300)
        log.info("%d clients of %d MiB: VmHWM %d MiB", CLIENTS, MESSAGE >> 20, server.memory("VmHWM") >> 10)
        found = {}
        for file in (maildir(server) / "new").iterdir():
            head, _, text = file.read_bytes().partition(b"\n\n")
            found[token_of(head + b"\n")] = hashlib.sha256(text).hexdigest()
        assert found == {f"large-{number}": _wanted(number) for number in range(CLIENTS)}
        until(lambda: not server.bodies, what="no body is left")
        assert max(peak, server.memory("VmHWM")) < MOST_KIB
        shutil.rmtree(server.data / "mail")  # pytest keeps what is left for some runs, and this is much


def _chunks(number: int) -> Iterator[bytes]:
    """The text of one message: each client's differs."""
    line = f"{number:04d} the same at all times, and of no interest to anybody".encode().ljust(62, b".") + b"\r\n"
    for _ in range(MESSAGE // CHUNK):
        yield line * (CHUNK // len(line))


def _send(client: Client, number: int) -> str:
    client.write(f"Subject: large-{number}\r\n\r\n".encode())
    for chunk in _chunks(number):
        client.write(chunk)
    client.write(b".\r\n")
    return client.reply()


def _wanted(number: int) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(number):
        digest.update(chunk.replace(b"\r\n", b"\n"))
    return digest.hexdigest()
