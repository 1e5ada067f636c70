"""Ways out on which nothing is tried: a Mailer with the same outcome for every recipient, at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Delivered, Job, Kept, Outcome, Report, Withheld

DISCARDED = Delivered("discarded", "discard")
KEPT = Kept("waits until its owner comes for it, by TURN, ATRN or ETRN", "turn", EnhancedCode(4, 4, 7))


def withheld(match: str) -> Withheld:
    """What comes of mail that is held by the route with that `match`."""
    return Withheld(f"held by the route for {match} until it is released", "hold", EnhancedCode(4, 7, 0))


class InstantMailer:
    def __init__(self, outcome: Outcome, loop: asyncio.AbstractEventLoop) -> None:
        self._outcome = outcome
        self._loop = loop

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        self._loop.call_soon(done, job, Report((self._outcome,) * len(job.rows)))

    async def close(self, grace: float) -> None:
        """Nothing is ever under way."""
