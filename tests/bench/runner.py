"""The order of things: rounds, and in each round every cell for one server after the other.

The servers of a round run side by side but only one is under load; each cell begins when its server is idle. The
order of the servers is turned round after each round, and all dirty pages are written before each pause: creating
and deleting files slows ext4 down for a while, and whoever comes second would pay for it. Nothing is deleted
before the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cpu import Settled, settle
from tests.bench.idle import measure_idle, raise_descriptor_limit
from tests.bench.load import Sink, run_load
from tests.bench.pair import write_pair
from tests.bench.servers import SERVERS, Server, Site
from tests.bench.values import Cell, Failure, IdleSample, Kind, Load, Options, Results, Sample
from tests.peers.postfix import Tools
from tests.peers.process import CannotRun

WARM_SECONDS = 0.5
LONGEST_PAUSE = 3.0
RELAY_LIMIT = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server in one cell of one round; with `sink`, a message counts when it has arrived there."""

    round: int
    position: int
    cell: Cell
    server: Server
    sink: Sink | None

    @property
    def port(self) -> int:
        return self.server.tls_port if self.cell.kind is Kind.TLS else self.server.port

    def settle(self) -> Settled:
        return settle(self.server.pid, self.server.pending)


class Runner:
    """One run. What fails is noted and left out from then on; the others go on."""

    def __init__(self, options: Options, tools: Tools, work: Path, say: Say) -> None:
        self._options = options
        self._tools = tools
        self._work = work
        self._pair = write_pair(work)
        self._say = say
        self._samples: list[Sample] = []
        self._idle: list[IdleSample] = []
        self._failures: list[Failure] = []
        self._rates: dict[tuple[str, str], float] = {}
        self._dropped: set[tuple[str, str]] = set()

    def run(self) -> Results:
        most = raise_descriptor_limit()
        self._say(f"waiting {self._options.pause:g} s for a quiet disk")
        self._rest(self._options.pause)
        if self._options.idle is not None:
            self._idle_connections(min(self._options.idle, most))
        else:
            for number in range(self._options.rounds):
                self._round(number)
        return Results(tuple(self._samples), tuple(self._idle), tuple(self._failures))

    def _round(self, number: int) -> None:
        order = self._options.servers[:: 1 if number % 2 == 0 else -1]
        relay = [cell for cell in self._options.cells if cell.kind is Kind.RELAY]
        accept = [cell for cell in self._options.cells if cell.kind is not Kind.RELAY]
        if accept:
            with ExitStack() as stack:
                self._cells(number, accept, self._start(stack, order, f"accept-{number}", None), None)
        if relay:
            with ExitStack() as stack:
                sink = self._start_sink(stack, number)
                if sink is not None:
                    self._cells(number, relay, self._start(stack, order, f"relay-{number}", sink), sink)

    def _start_sink(self, stack: ExitStack, number: int) -> Sink | None:
        place = self._work / f"sink-{number}"
        place.mkdir()
        try:
            sink = Sink(self._tools, place)
        except CannotRun as error:
            self._fail("smtp-sink", "start", error)
            return None
        stack.callback(sink.stop)
        return sink

    def _start(self, stack: ExitStack, names: Sequence[str], label: str, sink: Sink | None) -> list[Server]:
        """Starts what can be started, in this order; the stack stops it again."""
        started = []
        for name in names:
            place = self._work / f"{name}-{label}"
            place.mkdir()
            server = SERVERS[name](Site(place, sink.port if sink else None, self._options, self._tools, self._pair))
            if (sink and not server.relays) or (name, "start") in self._dropped:
                continue
            stack.callback(server.stop)
            try:
                server.start()
                started.append(server)
            except CannotRun as error:
                self._fail(name, "start", error)
        return started

    def _cells(self, number: int, cells: Sequence[Cell], servers: Sequence[Server], sink: Sink | None) -> None:
        for cell in cells:
            for position, server in enumerate(servers):
                if (server.name, cell.name) in self._dropped or (cell.kind is Kind.TLS and not server.has_tls):
                    continue
                self._rest(min(LONGEST_PAUSE, self._options.pause / 10))
                try:
                    sample = self._measure(Measurement(number, position, cell, server, sink))
                except CannotRun as error:
                    self._fail(server.name, cell.name, error, server)
                    continue
                self._samples.append(sample)
                done = f"{sample.rate:7.0f} msgs/s {sample.cpu_ms:6.2f} ms CPU each, {sample.messages} messages"
                self._say(f"round {number + 1}  {cell.name:16} {server.name:10} {done}")

    def _measure(self, what: Measurement) -> Sample:
        what.server.program.check()
        key = (what.server.name, what.cell.name)
        rate = self._warm_up(what, self._rates.get(key))
        messages = max(what.cell.probe, min(what.cell.most, int(rate * self._options.seconds)))
        before = what.settle()
        arrived = what.sink.count() + messages if what.sink else 0
        begun = time.monotonic()
        load = run_load(self._tools, what.cell, what.port, messages)
        seconds = what.sink.wait(arrived, RELAY_LIMIT) - begun if what.sink else load.seconds
        settled = what.settle()
        self._rates[key] = messages / seconds
        return Sample(
            server=what.server.name,
            cell=what.cell.name,
            round=what.round,
            position=what.position,
            messages=messages,
            seconds=seconds,
            seconds_to_idle=max(load.seconds, settled.moment - begun),
            cpu_seconds=settled.cpu_seconds - before.cpu_seconds,
            p50_ms=_percentile(load, 50),
            p99_ms=_percentile(load, 99),
        )

    def _warm_up(self, what: Measurement, known: float | None) -> float:
        """Load that is not counted, until it takes long enough to tell a rate by."""
        messages = what.cell.probe if known is None else max(what.cell.probe, int(known * WARM_SECONDS))
        while True:
            begun = time.monotonic()
            arrived = what.sink.count() + messages if what.sink else 0
            load = run_load(self._tools, what.cell, what.port, messages)
            seconds = what.sink.wait(arrived, RELAY_LIMIT) - begun if what.sink else load.seconds
            if known is not None or seconds >= WARM_SECONDS or messages * 3 > what.cell.most:
                return known or messages / seconds
            messages *= 3

    def _idle_connections(self, connections: int) -> None:
        for name in self._options.servers:
            if SERVERS[name].process_per_session:
                self._say(f"{name} has a process for each session and is left out")
                continue
            with ExitStack() as stack:
                for server in self._start(stack, [name], "idle", None):
                    self._say(f"opening {connections} connections to {name}")
                    try:
                        self._idle.append(measure_idle(server, connections, tls=self._options.tls))
                    except CannotRun as error:
                        self._fail(name, "idle", error, server)

    def _rest(self, seconds: float) -> None:
        os.sync()
        time.sleep(seconds)

    def _fail(self, name: str, what: str, error: CannotRun, server: Server | None = None) -> None:
        why = str(error)
        if server is not None and (words := server.program.complaint()) not in why:
            why += f"; {name}: {words}"
        self._failures.append(Failure(name, what, why))
        self._dropped.add((name, what))
        self._say(f"FAILED  {what} {name}: {why}")


def _percentile(load: Load, percent: int) -> float | None:
    """Nearest rank; None where the load takes no latencies."""
    ordered = sorted(load.latencies_ms)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
