"""An operator's order carried out while mail flows: some recipients at a time, each step in one commit.

What waits on the disk is changed there. While a step is under way nothing is leased, so that what was seen to wait does
so until the commit; what is in memory keeps the order until its turn comes, or until it comes back. Owns no recipient:
all that changes goes through the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.callbacks import answered
from pillarbox.engine.dsn import Telling
from pillarbox.engine.mail import Job, Key, Message, Row, Seen, Stopped, Unit, Waiting
from pillarbox.engine.notices import Made
from pillarbox.engine.orders import Done, Obeyed, Order, StandingOrders, obey, reach
from pillarbox.engine.outcomes import Verdict
from pillarbox.engine.ports import Clock, Spool, SpoolCallback
from pillarbox.engine.predicate import Predicate

AT_ONCE = 500  # recipients in one step
_BEGINNING = Key(MessageId(0), -1)

Make = Callable[[Job, list[Telling]], Awaitable[Made]]
Store = Callable[[Unit, Sequence[Seen], SpoolCallback], None]


class Operating:
    def __init__(
        self, *, spool: Spool, clock: Clock, make: Make, store: Store, in_memory: Callable[[MessageId], bool]
    ) -> None:
        """`make` gives notices; `store` writes what was seen to wait and is changed; `in_memory` says whether some
        recipient of a message is."""
        self._spool = spool
        self._clock = clock
        self._make = make
        self._store = store
        self._in_memory = in_memory
        self.leasing = asyncio.Lock()  # held by whoever leases, too
        self.standing = StandingOrders()

    async def order(self, wanted: Predicate, order: Order) -> Done:
        """Raises SpoolError; what was done before stays done."""
        meant, now = reach(order.action, wanted), self._clock.now()
        recipients = messages = standing = 0
        last: MessageId | None = None
        after, found = _BEGINNING, AT_ONCE
        while found == AT_ONCE:
            keys = await self._spool.find(meant, now, after, AT_ONCE)
            found = len(keys)
            if keys:
                after = keys[-1]
                changed, stands = await self._carry_out(keys, order)
                standing += stands
                recipients += len(changed)
                for message in changed:
                    messages += message != last
                    last = message
        return Done(recipients, messages, standing)

    async def _carry_out(self, keys: list[Key], order: Order) -> tuple[list[MessageId], int]:
        """One step. Gives the messages of the recipients that are changed, and for how many it stands."""
        kept = {key for key in keys if self._in_memory(key.message) and self.standing.give(*key, order)}
        async with self.leasing:
            now = self._clock.now()
            seen = await self._spool.see(keys, now)
            obeyed: list[tuple[Message, Row, Obeyed]] = []
            for message, recipients, _ in seen:
                for waiting in recipients:
                    self.standing.take(message.id, waiting.row.number)
                    kept.discard(Key(message.id, waiting.row.number))
                    done = obey(order, message, waiting, now)
                    if done is not None:
                        obeyed.append((message, waiting.row, done))
            if obeyed:
                await self._commit(await self._unit(obeyed), seen)
        return [message.id for message, _, _ in obeyed], len(kept)

    async def _unit(self, obeyed: list[tuple[Message, Row, Obeyed]]) -> Unit:
        tellings: dict[tuple[MessageId, Mailbox | None], tuple[Job, list[Telling]]] = {}
        for message, row, done in obeyed:
            if done.telling is not None:
                job = Job(message, [row], done.change.lane)
                tellings.setdefault((message.id, row.recipient.owner), (job, []))[1].append(done.telling)
        made = [await self._make(job, told) for job, told in tellings.values()]
        return Unit(
            messages=tuple(notice for each in made for notice in each.messages),
            changes=tuple(done.change for _, _, done in obeyed),
            records=(
                *(note for _, _, done in obeyed for note in done.notes),
                *(r for each in made for r in each.records),
            ),
            rerouted=tuple(done.rerouted for _, _, done in obeyed if done.rerouted is not None),
        )

    async def _commit(self, unit: Unit, seen: Sequence[Seen]) -> None:
        await answered(lambda done: self._store(unit, seen, done))

    # --- what is in memory

    def withdrawn(self, job: Job) -> Job | None:
        """What of a job whose turn has come must not be tried; it is taken out of it."""
        rows = self.standing.withdrawn(job)
        if not rows:
            return None
        numbers = {row.number for row in rows}
        job.rows = [row for row in job.rows if row.number not in numbers]
        return Job(job.message, rows, job.lane)

    def instead(self, job: Job, row: Row, verdict: Verdict, now: float) -> Obeyed | None:
        """What becomes of a recipient that comes back, in the place of that verdict."""
        order = self.standing.take(job.message.id, row.number)
        if order is None or verdict.state.settled:
            return None
        waiting = Waiting(row, verdict.state, verdict.due, job.lane, verdict.outcome.text, now)
        obeyed = obey(order, job.message, waiting, now)
        if obeyed is None or obeyed.change.state.settled:
            return obeyed
        return obeyed if isinstance(verdict.outcome, Stopped) else obeyed._replace(telling=verdict.telling)
