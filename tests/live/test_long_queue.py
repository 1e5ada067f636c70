"""A queue of a million recipients over 20,000 domains and 1,000 sites, under a server that runs.

Made by `tests/backlog.py`, found by DNS, delivered to smtp-sink on port 25 of loopback addresses; one site in ten takes
connections and never says a word. Only root may bind that port.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic, time
from typing import Any

import apsw
import pytest

from tests.backlog import DOMAINS, RECIPIENTS, make
from tests.live.corpus import simple
from tests.live.names import NameServer
from tests.live.support import HOST, Client, Server, needs_root, until
from tests.peers.postfix import OWNER, Tools, find_tools
from tests.peers.process import CannotRun

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]
SITES, DEAD = 1_000, 100
GOOD, SILENT, PROBED = "127.2.0.1", "127.3.0.1", "127.4.0.1"
START = 10.0  # seconds from the start of the process to the first 250
MOST_KIB = 400 * 1024
SHARE = 0.8  # of the rate of an empty queue
PROBES = 200
SEVERAL = 3  # times the delay without any other mail; below FLOOR it doesn't matter
FLOOR = 1.0  # seconds


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    needs_root()
    try:
        return find_tools(tmp_path_factory.mktemp("postfix"))
    except CannotRun as error:
        pytest.skip(f"LOUD: {error}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("made")
    make(folder / "spool-0.db", begin=time() - 0.1 * RECIPIENTS - 3600)
    yield folder / "spool-0.db"
    shutil.rmtree(folder)


def zone(dead: int) -> Mapping[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {("quiet.example.net", "MX"): ["10 mx.quiet.example.net."]}
    found["mx.quiet.example.net", "A"] = [PROBED]
    for number in range(DOMAINS):
        found[f"d{number}.example.org", "MX"] = [f"10 mx{number % SITES}.provider.test."]
    for number in range(SITES):
        found[f"mx{number}.provider.test", "A"] = [SILENT if number < dead else GOOD]
    return found


def settings(names: NameServer, **more: Any) -> dict[str, Any]:
    limits = {"connections_per_address": 10_000}
    retry = {"warn": "0s"}
    return {
        "dns": {"servers": [names.address]},
        "limits": limits,
        "retry": retry,
        "relay": {"networks": [HOST]},
        **more,
    }


@contextmanager
def sink(tools: Tools, address: str) -> Iterator[None]:
    """Takes all mail and throws it away."""
    process = subprocess.Popen(
        [str(tools.sink), "-u", OWNER, "-m", "5000", f"{address}:25", "4000"], env=environ(tools)
    )
    try:
        until(lambda: _answers(address), what=f"smtp-sink on {address}")
        yield
    finally:
        process.kill()
        process.wait(20)


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 25), 1):
            return True
    except OSError:
        return False


class Arrivals:
    """A site that nobody else writes to: when each message came, by its subject."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self._listening = socket.create_server((PROBED, 25), backlog=100)

    def __enter__(self) -> Arrivals:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with suppress(ConnectionError), accepted, accepted.makefile("rwb", buffering=0) as lines:
            lines.write(b"220 probed.example\r\n")
            while line := lines.readline():
                if line.upper().startswith(b"DATA"):
                    lines.write(b"354 go on\r\n")
                    text = b"".join(iter(lines.readline, b".\r\n"))
                    self.at[text.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()] = monotonic()
                lines.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")


@contextmanager
def silent_site() -> Iterator[None]:
    """Takes connections and never says a word."""
    held: list[socket.socket] = []
    listening = socket.create_server((SILENT, 25), backlog=1000)

    def accept() -> None:
        while True:
            try:
                held.append(listening.accept()[0])
            except OSError:
                return

    Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        for each in (listening, *held):
            each.close()


def probe(port: int, arrivals: Arrivals, label: str) -> list[float]:
    """How long each of some messages to the quiet site took from its 250 to its arrival there, in seconds."""
    accepted: dict[str, float] = {}
    pause = Event()
    with Client(port) as client:
        for number in range(PROBES):
            name = f"{label}-{number}"
            reply = client.send(simple(name), [f"u{number}@quiet.example.net"])
            assert reply.startswith("250 "), reply
            accepted[name] = monotonic()
            pause.wait(0.05)
    until(lambda: accepted.keys() <= arrivals.at.keys(), 120, "all of them have come")
    return [max(arrivals.at[name] - moment, 0.0) for name, moment in accepted.items()]


def p99(found: list[float]) -> float:
    return statistics.quantiles(found, n=100)[98]


@dataclass(frozen=True, slots=True)
class Drain:
    """What was seen of a server that had the whole queue to deliver."""

    first: float  # seconds from the start to the first 250
    delay: float  # p99 in seconds, of messages to the quiet site
    peak: int  # KiB


def drain(tools: Tools, made: Path, place: Path, arrivals: Arrivals, *, dead: int) -> Drain:
    """`dead`: how many of the sites never say a word."""
    with NameServer(zone(dead)) as names:
        server = Server(place, f"dead-{dead}", settings=settings(names))
        with server:  # makes its data
            pass
        shutil.copy(made, server.data / "spool-0.db")
        begun = monotonic()
        with server:
            with Client(server.port) as client:
                assert client.send(simple("first"), ["u@quiet.example.net"]).startswith("250 ")
            first = monotonic() - begun
            delay = p99(probe(server.port, arrivals, f"among-{dead}"))
            left = int(server.call("queue_count", where="")["count"])
            peak = server.memory("VmHWM")
            log.warning(
                "%d dead sites: first 250 after %.1f s; p99 %.3f s among %d; %d delivered in %.0f s; VmHWM %d MiB",
                *(dead, first, delay, RECIPIENTS, RECIPIENTS - left, monotonic() - begun, peak >> 10),
            )
            assert left < RECIPIENTS, "the rest flows"
            server.kill()
    (server.data / "spool-0.db").unlink()
    return Drain(first, delay, peak)


def test_it_starts_stays_small_and_delays_no_other_lane(tools: Tools, made: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(silent_site())
        stack.enter_context(sink(tools, GOOD))
        arrivals = stack.enter_context(Arrivals())
        with NameServer(zone(0)) as names, Server(tmp_path, "alone", settings=settings(names)) as server:
            alone = p99(probe(server.port, arrivals, "alone"))
        log.warning("p99 %.3f s with nothing else to deliver", alone)
        healthy = drain(tools, made, tmp_path, arrivals, dead=0)
        sick = drain(tools, made, tmp_path, arrivals, dead=DEAD)
    assert max(healthy.first, sick.first) <= START
    assert max(healthy.peak, sick.peak) <= MOST_KIB
    assert healthy.delay <= max(SEVERAL * alone, FLOOR)
    assert sick.delay <= SEVERAL * max(alone, healthy.delay), "the dead sites delay nobody else"


def environ(tools: Tools) -> dict[str, str]:
    return {**os.environ, **tools.environ()}


def rate(tools: Tools, port: int) -> float:
    """Messages a second that are accepted."""
    words = ["-s", "20", "-m", "4000", "-l", "1024", "-f", "a@b.example", "-t", "gone@here.test"]
    begun = monotonic()
    subprocess.run([str(tools.source), *words, f"{HOST}:{port}"], check=True, env=environ(tools), timeout=120)
    return 4000 / (monotonic() - begun)


def test_it_accepts_as_ever(tools: Tools, made: Path, tmp_path: Path) -> None:
    """All of the queue waits for later attempts; what comes in is thrown away."""
    with NameServer(zone(DEAD)) as names:
        route = [{"match": "here.test", "next_hop": "discard"}]
        servers = [Server(tmp_path, name, settings=settings(names, route=route)) for name in ("empty", "full")]
        with servers[1]:
            pass
        full = servers[1].data / "spool-0.db"
        shutil.copy(made, full)
        connection = apsw.Connection(str(full))
        connection.execute("UPDATE recipient SET due = unixepoch() + 3600 + message % 3600 WHERE state = 0")
        connection.close()
        rates: dict[str, list[float]] = {"empty": [], "full": []}
        with servers[0], servers[1]:
            for _ in range(5):
                for server in servers:
                    rates[server.name].append(rate(tools, server.port))
            peak = servers[1].memory("VmHWM")
        share = statistics.median(rates["full"]) / statistics.median(rates["empty"])
        log.warning("accepts %s; share %.2f; VmHWM %d MiB", rates, share, peak >> 10)
        assert share >= SHARE
        assert peak <= MOST_KIB
