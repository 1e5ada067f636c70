"""A program under our control: started in a session of its own, ended by the ids of its own tree.

Output goes to files, never to a pipe that could fill up. Ending it signals only processes that were seen below
the one started here, each checked by its start time, so that a reused id is never hit.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

HOST = "127.0.0.1"
STOP_SECONDS = 30.0
TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAUSE = 0.05  # seconds between two looks


class CannotRun(Exception):
    """Something that could not be had, started or ended; the text says what and why."""


def pause() -> None:
    Event().wait(_PAUSE)


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that are used. Seconds of the process, and of its children waited for."""

    pid: int
    parent: int
    own_cpu: float
    waited_cpu: float
    started: int


def read_stat(pid: int) -> Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    utime, stime, cutime, cstime = (int(field) * TICK for field in fields[11:15])
    return Stat(pid, int(fields[1]), own_cpu=utime + stime, waited_cpu=cutime + cstime, started=int(fields[19]))


def tree(root: int) -> list[Stat]:
    """The process and all that descend from it."""
    stats = [stat for name in os.listdir("/proc") if name.isdecimal() and (stat := read_stat(int(name)))]
    children: dict[int, list[Stat]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
    found = [stat for stat in stats if stat.pid == root]
    for stat in found:  # grows while it is walked
        found.extend(children.get(stat.pid, ()))
    return found


class Program:
    """A running program with its output in `place`/NAME.out and NAME.err."""

    def __init__(
        self, name: str, command: Sequence[str | Path], *, place: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.out = place / f"{name}.out"
        self.err = place / f"{name}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            try:
                self._popen = subprocess.Popen(
                    [str(word) for word in command],
                    cwd=place,
                    env={**os.environ, **(environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as error:
                raise CannotRun(f"{name} can't be started: {error}") from error

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def check(self) -> None:
        if not self.alive:
            raise CannotRun(f"{self.name} ended with status {self._popen.returncode}: {self.complaint()}")

    def complaint(self) -> str:
        """The last words of the program, for an error message."""
        text = self.err.read_text(errors="replace").strip() or self.out.read_text(errors="replace").strip()
        return " | ".join(text.splitlines()[-3:])[-600:] or "(no output)"

    def wait_line(self, prefix: str, seconds: float = 30.0) -> str:
        """The first line on standard output that begins with `prefix`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in self.out.read_text(errors="replace").splitlines(keepends=True):
                if line.startswith(prefix) and line.endswith("\n"):
                    return line.strip()
            self.check()
            pause()
        raise CannotRun(f"{self.name} printed no line '{prefix} ...' within {seconds:.0f} s: {self.complaint()}")

    def stop(self) -> None:
        members = tree(self.pid)
        if self.alive:
            self._popen.terminate()
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            members = tree(self.pid)
            self._popen.kill()
            self._popen.wait()
        _end([stat for stat in members if stat.pid != self.pid])


def _end(members: Sequence[Stat]) -> None:
    """Ends what outlived its parent, after a moment to leave on its own."""
    until = time.monotonic() + 2.0
    left = list(members)
    while left and time.monotonic() < until:
        pause()
        left = [stat for stat in left if _same(stat)]
    for stat in left:
        with suppress(ProcessLookupError):
            os.kill(stat.pid, signal.SIGKILL)


def _same(stat: Stat) -> bool:
    now = read_stat(stat.pid)
    return now is not None and now.started == stat.started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_port(port: int, program: Program, seconds: float = 15.0) -> None:
    """Until something greets on `port`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        program.check()
        try:
            with socket.create_connection((HOST, port), timeout=5) as connection:
                if connection.recv(512).startswith(b"220"):
                    connection.sendall(b"QUIT\r\n")
                    connection.recv(512)
                    return
        except OSError:
            pause()
    raise CannotRun(f"{program.name} did not greet within {seconds:.0f} s: {program.complaint()}")
