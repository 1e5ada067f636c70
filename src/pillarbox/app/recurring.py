"""Recurring: work on the spool that is done in steps, some of them every so often, until nothing is left.

Knows nothing of the work. A fault of the spool is logged, and the work goes on the next time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pillarbox.engine.ports import Clock, SpoolError

log = logging.getLogger(__name__)


class Recurring:
    """`step` gives how much it has done."""

    def __init__(self, clock: Clock, step: Callable[[], Awaitable[int]], *, every: float) -> None:
        self._clock = clock
        self._step = step
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._timer = clock.call_later(every, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while not self._closing and await self._step():
                pass
        except SpoolError as error:
            log.error("spool: %s", error)
        if not self._closing:
            self._timer = self._clock.call_later(self._every, self._begin)

    async def close(self) -> None:
        self._closing = True
        self._timer.cancel()
        if self._task is not None:
            await self._task
