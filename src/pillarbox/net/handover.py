"""HandOvers: connections whose roles have changed by TURN or ATRN, on which the mail of their domains leaves.

The peer connected to us and is the server now: it greets, we say EHLO and send what waits, message by message, until
nothing is left; then QUIT. Each recipient is settled by the queue as in any delivery; what could not be tried stays
kept. RFC 821 §3.8, RFC 2645 §5.3. Decides nothing about mail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pillarbox.core.address import Domain
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Job, Kept, Report
from pillarbox.engine.ports import SpoolError, Timer
from pillarbox.engine.queue import Queue
from pillarbox.net.pool import Ways
from pillarbox.net.sender import Outgoing, Unusable

log = logging.getLogger(__name__)

BATCH = 100  # recipients taken from the disk at a time
SWEEP = 1.0  # seconds between looks at the deadlines
_NOT_TRIED = EnhancedCode(4, 4, 2)


class HandOvers:
    """`ways` gives the ports and our name as they are now."""

    def __init__(self, queue: Queue, ways: Callable[[], Ways]) -> None:
        self._queue = queue
        self._ways = ways
        self._tasks: dict[asyncio.Task[None], Outgoing] = {}
        self._sweep: Timer | None = None
        self._closing = False

    def take(
        self, transport: asyncio.Transport, domains: tuple[Domain, ...], *, peer: str, ended: Callable[[], None]
    ) -> None:
        """Be the client on this connection from now on; `ended` is called when it is over."""
        if self._closing:
            transport.abort()
            ended()
            return
        ways = self._ways()
        outgoing = Outgoing(str(ways.hostname), f"[{peer}]", deadlines=ways.deadlines, clock=ways.clock)
        transport.set_protocol(outgoing)
        outgoing.connection_made(transport)
        task = asyncio.get_running_loop().create_task(self._run(outgoing, domains))
        self._tasks[task] = outgoing
        task.add_done_callback(lambda task: self._ended(task, ended))
        self._watch()

    def _ended(self, task: asyncio.Task[None], ended: Callable[[], None]) -> None:
        del self._tasks[task]
        ended()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug in a connection with changed roles", exc_info=error)

    async def _run(self, outgoing: Outgoing, domains: Sequence[Domain]) -> None:
        names = ", ".join(map(str, domains))
        try:
            await outgoing.opened
            sent = await self._send_all(outgoing, domains)
            log.info("mail of %s: %d messages handed over to %s", names, sent, outgoing.next_hop)
        except (Unusable, SpoolError) as error:
            log.warning("mail of %s is still here: %s: %s", names, outgoing.next_hop, error)
        finally:
            outgoing.quit()

    async def _send_all(self, outgoing: Outgoing, domains: Sequence[Domain]) -> int:
        after, sent = MessageId(0), 0
        while outgoing.usable and not self._closing:
            jobs = await self._queue.take(domains, after, BATCH)
            if not jobs:
                break
            after = max(job.message.id for job in jobs)
            sent += await self._send(outgoing, jobs)
        return sent

    async def _send(self, outgoing: Outgoing, jobs: list[Job]) -> int:
        """Each of the jobs is settled in any case. Gives how many were carried."""
        carried = 0
        try:
            while jobs and outgoing.usable and not self._closing:
                job = jobs.pop(0)
                self._queue.settle(job, await self._carry(outgoing, job))
                carried += 1
        finally:
            for job in jobs:
                self._queue.settle(job, _kept(job, outgoing))
        return carried

    async def _carry(self, outgoing: Outgoing, job: Job) -> Report:
        carried: asyncio.Future[Report | None] = asyncio.get_running_loop().create_future()
        outgoing.run(job, self._ways().spool.body, lambda _, __, report: carried.set_result(report))
        report = await carried
        return _kept(job, outgoing) if report is None else report

    # --- deadlines

    def _watch(self) -> None:
        if self._sweep is None:
            self._sweep = self._ways().clock.call_later(SWEEP, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        now = self._ways().clock.monotonic()
        for outgoing in list(self._tasks.values()):
            outgoing.check(now)
        if self._tasks:
            self._watch()

    async def close(self, grace: float) -> None:
        """What is under way ends within so many seconds; the rest stays kept."""
        self._closing = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                self._tasks[task].cut()
            if late:
                await asyncio.wait(late)
        if self._sweep is not None:
            self._sweep.cancel()


def _kept(job: Job, outgoing: Outgoing) -> Report:
    kept = Kept(f"not handed over to {outgoing.next_hop}: the connection ended before", job.lane, _NOT_TRIED)
    return Report((kept,) * len(job.rows))
