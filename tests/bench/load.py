"""The load: smtp-source and smtp-sink of Postfix, our latency client and our TLS client, each a process of its own.

smtp-source reports no rate, so it is timed from its start to its exit. It exits with an error at the first reply
it does not like, so a run that ends well has sent every message.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.values import CLIENT_NAME, RECIPIENT, SENDER, SESSIONS, Cell, Kind, Load
from tests.peers.debian import ROOT
from tests.peers.postfix import OWNER, Tools
from tests.peers.process import HOST, TICK, CannotRun, Program, free_port, wait_port

LOAD_LIMIT = 120.0


def run_load(tools: Tools, cell: Cell, port: int, messages: int) -> Load:
    if cell.kind is Kind.LATENCY:
        return _latency(cell, port, messages)
    if cell.kind is Kind.TLS:
        return _tls(cell, port, messages)
    return _smtp_source(tools, cell, port, messages)


def _smtp_source(tools: Tools, cell: Cell, port: int, messages: int) -> Load:
    command: list[str | Path] = [tools.source, "-M", CLIENT_NAME, "-f", SENDER, "-t", RECIPIENT]
    command += ["-s", str(min(SESSIONS, messages)), "-m", str(messages), "-l", str(cell.size)]
    command += ["-d"] if cell.reuse else []
    begun = time.monotonic()
    _call("smtp-source", [*command, f"{HOST}:{port}"], tools.environ())
    return Load(time.monotonic() - begun)


def _tls(cell: Cell, port: int, messages: int) -> Load:
    words = [str(port), str(SESSIONS), str(messages), str(cell.size), "reuse" if cell.reuse else "new"]
    return Load(float(_client("tls_client", words)["seconds"]))


def _client(name: str, words: Sequence[str]) -> dict[str, Any]:
    """What a client of ours reports."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", f"tests.bench.{name}", HOST, *words]
    result: dict[str, Any] = json.loads(_call(name, command, {"PYTHONPATH": path}))
    return result


def _latency(cell: Cell, port: int, messages: int) -> Load:
    result = _client("latency", [str(port), str(SESSIONS), str(messages), str(cell.size)])
    return Load(float(result["seconds"]), tuple(float(latency) for latency in result["latencies_ms"]))


def _call(name: str, command: Sequence[str | Path], environ: Mapping[str, str]) -> str:
    """Standard output of a command that must end well in time."""
    try:
        run = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LOAD_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotRun(f"{name} was not done after {LOAD_LIMIT:.0f} s") from error
    if run.returncode:
        raise CannotRun(f"{name} ended with status {run.returncode}: {run.stderr.strip()[-400:]}")
    return run.stdout


class Sink:
    """smtp-sink, the place relayed mail goes to, and how many messages it has seen.

    It rewrites a line of counters at every event. They are read at intervals: a reader that woke for each would
    take processor time from the server.
    """

    def __init__(self, tools: Tools, place: Path) -> None:
        self.port = free_port()
        command: list[str | Path] = [tools.sink, "-c", f"{HOST}:{self.port}", "1024"]
        if os.geteuid() == 0:
            command[1:1] = ["-u", OWNER]
        self._program = Program("smtp-sink", command, place=place, environ=tools.environ())
        wait_port(self.port, self._program)

    def count(self) -> int:
        self._program.check()
        with self._program.out.open("rb") as counters:
            counters.seek(max(0, counters.seek(0, os.SEEK_END) - 200))
            found = re.findall(rb"mesg=(\d+)\r", counters.read())
        return int(found[-1]) if found else 0

    def wait(self, target: int, seconds: float) -> float:
        """The moment (monotonic) at which the sink has `target` messages, to two ticks."""
        until = time.monotonic() + seconds
        while (seen := self.count()) < target:
            if time.monotonic() > until:
                raise CannotRun(f"{target - seen} messages had not arrived after {seconds:.0f} s")
            time.sleep(2 * TICK)
        return time.monotonic()

    def stop(self) -> None:
        self._program.stop()
