"""What the operating system gives: the clock as the port Clock, and names of files made durable."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path


class SystemClock:
    """Meets the port Clock. `monotonic` is the loop's own time, so that timers and measurements agree."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = time.time
        self.monotonic = loop.time

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)


def sync_directory(path: str | Path) -> None:
    """Make names that were made, moved or removed in a directory durable. Blocks; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
