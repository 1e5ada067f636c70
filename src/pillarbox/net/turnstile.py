"""Where jobs of one lane wait that need a new connection, while no more may be opened: `new_connections` of [[lane]].

Each connection that is opened is counted, those to further hosts of a walk, too. A job that waits takes a connection
that becomes free before that. Costs a look-up where there is no such limit. Knows nothing of hosts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from pillarbox.engine.mail import Job, Report
from pillarbox.engine.ports import Clock, ConnectionTerms, Timer

Done = Callable[[Job, Report], None]


class Turnstile:
    def __init__(self, terms: ConnectionTerms, clock: Clock, start: Callable[[Job, Done], None]) -> None:
        """`start` opens a connection for a job."""
        self._terms = terms
        self._clock = clock
        self._start = start
        self._waiting: deque[tuple[Job, Done]] = deque()
        self._timer: Timer | None = None
        self._counted = 0  # connections that are counted and not yet begun

    def enter(self, job: Job, done: Done) -> None:
        """Start as soon as a connection may be opened."""
        self._waiting.append((job, done))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._timer is None:
            if wait := self._terms.may_open():
                self._timer = self._clock.call_later(wait, self._moment)
            else:
                self._counted += 1
                self._start(*self._waiting.popleft())

    def _moment(self) -> None:
        self._timer = None
        self._go_on()

    def instead(self) -> tuple[Job, Done] | None:
        """A job that may have a connection that has become free."""
        return self._waiting.popleft() if self._waiting else None

    async def permit(self) -> None:
        """Before a connection is begun: the first for a job is counted already, others wait for their turn."""
        if self._counted:
            self._counted -= 1
            return
        while wait := self._terms.may_open():
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(wait, partial(_end, over))
            try:
                await over
            finally:
                timer.cancel()

    def left(self, opening: int) -> None:
        """So many jobs are having a connection opened: no more can have been counted in advance."""
        self._counted = min(self._counted, opening)

    def close(self) -> list[tuple[Job, Done]]:
        """Start nothing more; gives what waited."""
        if self._timer is not None:
            self._timer.cancel()
        left, self._waiting = list(self._waiting), deque()
        return left


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
