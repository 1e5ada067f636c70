"""A spool that answers by a callback, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pillarbox.engine.ports import SpoolCallback, SpoolError


async def answered(ask: Callable[[SpoolCallback], None]) -> None:
    """Wait for the spool's answer. Raises SpoolError."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: SpoolError | None) -> None:
        if future.done():
            return  # who asked has gone
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    ask(done)
    await future
