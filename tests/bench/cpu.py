"""Processor time and memory of a process tree, and the moment at which it is idle again.

Processor time is read from /proc, for every server alike: what the living used, and cutime and cstime, by which a
parent carries its dead. For the living, schedstat of their threads counts nanoseconds; utime and stime are cut to
ticks of 10 ms, which for a server of sixty processes was a fifth too little, but they hold threads that have ended,
so the larger counts. A control group would be exact, but whether one may be made differs from machine to machine.
A process that outlives its parent would be missed: none of the servers has such.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import TICK, CannotRun, tree

POLL_SECONDS = 0.1
QUIET_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Settled:
    """Processor seconds of the tree since it began, and when (monotonic) it last used any."""

    cpu_seconds: float
    moment: float


def cpu_seconds(root: int) -> float:
    return sum(max(stat.own_cpu, _thread_seconds(stat.pid)) + stat.waited_cpu for stat in tree(root))


def _thread_seconds(pid: int) -> float:
    """Of the living threads; 0 where the kernel keeps no schedstat."""
    nanoseconds = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            nanoseconds += int(file.read_text().split()[0])
    return nanoseconds / 1e9


def pss_kib(root: int) -> int:
    """Proportional set size of the tree: shared pages are divided among those who share them."""
    total = 0
    for stat in tree(root):
        try:
            text = Path(f"/proc/{stat.pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total


def settle(root: int, pending: Callable[[], int | None], *, limit: float = 60.0) -> Settled:
    """Waits until the tree uses no more processor time and nothing is pending (None: it can't be asked).

    `pending` is asked only once the processor time stands still, and what answering it costs is not counted.
    """
    begun = time.monotonic()
    last = Settled(cpu_seconds(root), begun)
    while time.monotonic() - begun < limit:
        time.sleep(POLL_SECONDS)
        now = Settled(cpu_seconds(root), time.monotonic())
        if now.cpu_seconds - last.cpu_seconds > 1.5 * TICK:  # one tick may be housekeeping
            last = now
        elif now.moment - last.moment >= QUIET_SECONDS:
            if not pending():
                return Settled(now.cpu_seconds, last.moment)
            last = Settled(cpu_seconds(root), time.monotonic())
    raise CannotRun(f"was not idle {limit:.0f} s after the load ended ({pending()} pending)")
