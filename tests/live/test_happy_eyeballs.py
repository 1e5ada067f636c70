"""A host of which one address answers nobody: the other one takes the mail a moment later (RFC 8305)."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import pytest

from tests.live.corpus import simple
from tests.live.names import NameServer
from tests.live.raw_sink import RawSink
from tests.live.support import Client, Server, until

V6 = "::1"
RELAY = "relay.far.test"
FAR = "x@far.test"


@contextmanager
def silence(port: int) -> Iterator[None]:
    """On that port of ::1 a SYN gets no answer: the line of those who wait to be accepted is full."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
        try:
            listening.bind((V6, port))
        except OSError as error:
            pytest.skip(f"LOUD: no port {port} on {V6}: {error}")
        listening.listen(0)
        for _ in range(4):
            last = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
            last.setblocking(False)
            last.connect_ex((V6, port))
        if select.select([], [last], [], 0.5)[1]:
            pytest.skip("LOUD: the kernel completes connections beyond the backlog")
        yield


def test_an_address_that_answers_nobody_costs_a_moment(tmp_path: Path) -> None:
    zone = {(RELAY, "AAAA"): [V6], (RELAY, "A"): ["127.0.0.1"]}
    with RawSink() as sink, silence(sink.port), NameServer(zone) as names:
        route = {"match": "far.test", "next_hop": f"smtp://{RELAY}:{sink.port}"}
        with Server(tmp_path, settings={"route": [route], "dns": {"servers": [names.address]}}) as server:
            server.call("domain_add", domain="far.test", relay=True)
            begun = monotonic()
            with Client(server.port) as client:
                assert client.send(simple("eyeballs"), (FAR,)).startswith("250")
            until(lambda: [letter for each in sink.connections for letter in each.letters])
            assert 0.25 <= monotonic() - begun < 10  # and not the 30 seconds of timeouts.connect
            server.drained()
