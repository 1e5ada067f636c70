"""An event loop on a VirtualClock: when nothing is left to run, time goes on to the next timer, at once.

For what is made of tasks and timers and talks to nobody: with it a day passes as fast as its work is done. The timers
of asyncio itself, such as those of `asyncio.sleep`, run by the same clock. It waits for no socket and no other thread.
Invariant: no time passes while anything is ready to run.
"""

from __future__ import annotations

import asyncio
import selectors

from pillarbox.sim.clock import VirtualClock


class Stalled(Exception):
    """Nothing is ready, and nothing ever will be."""


class _Idle(selectors.SelectSelector):
    """Where a real loop would sleep."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if (timeout is None or timeout > 0) and not self._clock.step(timeout):
            raise Stalled("nothing is ready, and no timer is set")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`asyncio.Runner(loop_factory=lambda: VirtualLoop(clock))`."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Idle(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.monotonic()
