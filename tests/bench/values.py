"""Values of the benchmark: what is measured, one measurement, what went wrong.

Knows nothing of how anything is measured. A cell is named `KIND-SIZE-SESSIONS`, so that a pattern such as
`accept-1k-*` selects several.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SESSIONS = 20
HOSTNAME = "bench.example.test"
CLIENT_NAME = "client.example.test"
SENDER = "from@example.test"
RECIPIENT = "to@example.test"


class Kind(StrEnum):
    ACCEPT = "accept"  # smtp-source to the server, which disposes of the messages itself
    LATENCY = "latency"  # our own client to the server, each message timed
    TLS = "tls"  # our own TLS client to the server, which disposes of the messages itself
    RELAY = "relay"  # smtp-source to the server to smtp-sink


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load. `probe` messages warm the server up, `most` bounds a measurement."""

    name: str
    kind: Kind
    size: int
    reuse: bool
    probe: int = 100
    most: int = 20_000


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator reports: seconds from its start to its end, and latencies where it takes them."""

    seconds: float
    latencies_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. CPU is that of all processes of the server, until it was idle again."""

    server: str
    cell: str
    round: int
    position: int
    messages: int
    seconds: float
    seconds_to_idle: float
    cpu_seconds: float
    p50_ms: float | None = None
    p99_ms: float | None = None

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_seconds / self.messages


@dataclass(frozen=True, slots=True)
class IdleSample:
    """Memory (PSS of the process tree) before and while `connections` greeted sessions lie idle."""

    server: str
    connections: int
    base_kib: int
    full_kib: int

    @property
    def kib_each(self) -> float:
        return (self.full_kib - self.base_kib) / self.connections


@dataclass(frozen=True, slots=True)
class Failure:
    server: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Options:
    servers: tuple[str, ...]
    cells: tuple[Cell, ...]
    rounds: int
    seconds: float
    pause: float
    work: Path | None
    keep: bool
    json: Path | None
    idle: int | None
    tls: bool  # the idle connections are under TLS
    pillarbox: Path
    tools: Path


@dataclass(frozen=True, slots=True)
class Results:
    samples: tuple[Sample, ...]
    idle: tuple[IdleSample, ...]
    failures: tuple[Failure, ...]


def _cells() -> tuple[Cell, ...]:
    kib, mib = 1024, 1024 * 1024
    sizes = (("1k", kib, 100, 20_000), ("10k", 10 * kib, 100, 10_000), ("1m", mib, 20, 1_000))
    accept = [
        Cell(f"accept-{label}-{sessions}", Kind.ACCEPT, size, sessions == "reuse", probe, most)
        for label, size, probe, most in sizes
        for sessions in ("new", "reuse")
    ]
    latency = [Cell("latency-1k-new", Kind.LATENCY, kib, reuse=False)]
    relay = [Cell(f"relay-1k-{sessions}", Kind.RELAY, kib, sessions == "reuse") for sessions in ("new", "reuse")]
    tls = [Cell(f"tls-1k-{sessions}", Kind.TLS, kib, sessions == "reuse") for sessions in ("new", "reuse")]
    return (*accept, *latency, *tls, *relay)


CELLS = _cells()
