"""Accepted once: a message that is submitted again with the same Idempotency-Key is not queued again.

Stands in front of the queue; a message without a key passes at once. Whoever comes with a key that is on its way waits
for what comes of the first: accepted, and all others are told its id; refused by the disk, and the next in line is the
first. Knows neither SMTP nor SQL. Invariant: of the messages with one key and scope at most one is durable within the
window, since the key is in the same commit as its message, and nobody else decides about that key meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from pillarbox.core import reply as r
from pillarbox.core.idempotency import Fingerprint
from pillarbox.core.reply import Reply
from pillarbox.engine.mail import Claim, Message, Unit
from pillarbox.engine.ports import (
    Claimed,
    Clock,
    Fate,
    FateCallback,
    Repeated,
    Spool,
    SpoolBroken,
    SpoolCallback,
    SpoolError,
    Taken,
)
from pillarbox.engine.records import Kind, Record

log = logging.getLogger(__name__)

WINDOW = 86400.0  # seconds for which a key is remembered
MACHINE = ""  # the scope of all that is submitted on this machine

_Waiting = tuple[Message, Claim, FateCallback]


def claim(print: Fingerprint, message: Message, *, scope: str, window: float) -> Claim:
    """What a message with a key claims. `scope`: whose key it is; those of others are others."""
    return Claim(scope, print.key, print.of(message.envelope), message.received_at + window)


def reply_to_repeat(fate: Repeated | Taken) -> Reply:
    if isinstance(fate, Repeated):
        return r.queued_before(str(fate.first))
    return r.key_taken(str(fate.first))


class Once:
    """`accept` makes a message durable, as the queue does."""

    def __init__(self, *, accept: Callable[[Message, SpoolCallback], None], spool: Spool, clock: Clock) -> None:
        self._accept = accept
        self._spool = spool
        self._clock = clock
        self._lines: dict[tuple[str, str], deque[_Waiting]] = {}  # by scope and key, of those that are on their way
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, message: Message, done: FateCallback) -> None:
        """As the queue accepts; `done` may be told that it was accepted before, or that the key is another's."""
        claim = message.claim
        if claim is None:
            self._accept(message, done)
            return
        line = self._lines.get((claim.scope, claim.key))
        if line is not None:
            line.append((message, claim, done))
            return
        self._lines[claim.scope, claim.key] = deque()
        self._begin((message, claim, done))

    def _begin(self, first: _Waiting) -> None:
        task = asyncio.get_running_loop().create_task(self._decide(first))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _decide(self, first: _Waiting) -> None:
        message, claim, done = first
        try:
            found = await self._spool.claimed(claim.scope, claim.key, self._clock.now())
            if found is None:
                self._accept(message, partial(self._accepted, first))
                return
        except SpoolError as error:
            self._accepted(first, error)
        except Exception:
            log.exception("queue: bug while accepting %s", message.id)
            self._accepted(first, SpoolBroken("our fault"))
        else:
            self._answer(first, found)
            self._answer_line(claim, found)

    def _accepted(self, first: _Waiting, error: SpoolError | None) -> None:
        """What has come of it; with the disk at fault the key is as unused as before."""
        message, claim, done = first
        line = self._lines[claim.scope, claim.key]
        try:
            done(error)
        finally:
            if error is None:
                self._answer_line(claim, Claimed(message.id, claim.fingerprint))
            elif line:
                self._begin(line.popleft())
            else:
                del self._lines[claim.scope, claim.key]

    def _answer_line(self, claim: Claim, found: Claimed) -> None:
        for waiting in self._lines.pop((claim.scope, claim.key)):
            self._answer(waiting, found)

    def _answer(self, waiting: _Waiting, found: Claimed) -> None:
        message, claim, done = waiting
        fate: Fate = Repeated(found.first)
        text = "submitted again with the same Idempotency-Key"
        if claim.fingerprint != found.fingerprint:
            fate, text = Taken(found.first), "refused: another message with the same Idempotency-Key"
        if message.large:
            self._spool.unspill(message.id)
        who = claim.scope or "this machine"
        detail = (("text", text), ("from", f"{who} [{message.peer}]" if message.peer else who))
        told = Record(found.first, self._clock.now(), Kind.REPEATED, None, detail)
        self._spool.write(Unit(repeats=(told,)), self._recorded, urgent=False)
        asyncio.get_running_loop().call_soon(done, fate)

    def _recorded(self, error: SpoolError | None) -> None:
        if error is not None:
            log.warning("queue: a record is lost: %s", error)

    async def close(self) -> None:
        """What is being decided is decided."""
        while self._tasks:
            await asyncio.wait(self._tasks)
