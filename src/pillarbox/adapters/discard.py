"""The way out to nowhere: a Mailer that takes everything and keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pillarbox.engine.mail import Delivered, Job, Report

_TAKEN = Delivered("discarded", "discard")


class DiscardMailer:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        self._loop.call_soon(done, job, Report((_TAKEN,) * len(job.rows)))

    async def close(self, grace: float) -> None:
        """Nothing is ever under way."""
