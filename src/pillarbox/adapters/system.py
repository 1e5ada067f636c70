"""The clock of the machine and of the event loop, as the port Clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class SystemClock:
    """Meets the port Clock. `monotonic` is the loop's own time, so that timers and measurements agree."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = time.time
        self.monotonic = loop.time

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)
