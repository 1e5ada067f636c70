"""Where mail to a return address ends: read, recorded at the message it is about, and passed on to who sent that.

Meets the port Mailer. The address proves which recipient of which message it is about (core/verp.py); what the text
says only tells why. Invariant: one bounce is recorded and passed on once, by one commit, also where a crash has it
delivered again. What can't be read is recorded as such and passed on all the same: nobody loses a bounce by it.
Decision 29.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pillarbox.core.address import Mailbox
from pillarbox.core.bounce import BounceClass, Nature, Returned, Said
from pillarbox.core.bounce_class import classify
from pillarbox.core.bounce_mime import MAX_READ
from pillarbox.core.bounce_parser import parse
from pillarbox.core.reply import EnhancedCode
from pillarbox.core.verp import ReturnAddresses, Returning
from pillarbox.engine.callbacks import answered
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Message, Outcome, Report, Row, Unit
from pillarbox.engine.ports import Clock, Spool, SpoolError
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.suppression import BY_BOUNCE, Lesson, Suppression

log = logging.getLogger(__name__)

NEXT_HOP = "bounces"  # as records name it
JOBS = 8  # at a time
_GONE = EnhancedCode(5, 1, 1)
_FAULT = EnhancedCode(4, 3, 0)
_BOUNCES = (Nature.BOUNCE,)
_NO_CLASS = {Nature.AUTO_REPLY: BounceClass.AUTO_REPLY, Nature.CHALLENGE: BounceClass.AUTO_REPLY}


@dataclass(frozen=True, slots=True)
class Original:
    """The recipient that something came back for."""

    sender: Mailbox | None  # who gets it: the reverse-path, behind a list its owner
    address: Mailbox
    seen: frozenset[str] = frozenset()  # ids of the bounces that are recorded already


class Originals(Protocol):
    async def original(self, about: Returning) -> Original | None:
        """The recipient, settled or not; None where its message is not known any more. Raises SpoolError."""


class PassOn(Protocol):
    """How a bounce goes on to who sent the message. Raises SpoolError."""

    async def __call__(self, bounce: Message, text: bytes, sender: Mailbox, record: Record) -> str:
        """Durable together with the record when this returns. Gives why it was not passed on, "" when it was; then
        the record is still to be written."""


class BounceMailer:
    """`pass_on` and `learn` are None where the configuration wants neither."""

    def __init__(
        self,
        *,
        returns: ReturnAddresses,
        originals: Originals,
        spool: Spool,
        clock: Clock,
        pass_on: PassOn | None = None,
        learn: Callable[[Lesson], Suppression] | None = None,
    ) -> None:
        self._returns = returns
        self._originals = originals
        self._spool = spool
        self._clock = clock
        self._pass_on = pass_on
        self._learn = learn
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the port

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(job, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, grace: float) -> None:
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        report = Report(())
        try:
            report = Report(tuple([await self._outcome(job.message, row) for row in job.rows]))
        finally:
            done(job, report)

    async def _outcome(self, message: Message, row: Row) -> Outcome:
        try:
            return await self._recorded(message, row.recipient.address)
        except SpoolError as error:
            return Deferred(f"the spool failed: {error}", NEXT_HOP, _FAULT)
        except Exception:
            log.exception("bounces: bug at %s", message.id)
            return Deferred("our fault", NEXT_HOP, _FAULT)

    # --- one return address

    async def _recorded(self, message: Message, address: Mailbox) -> Outcome:
        about = self._returns.read(address)
        if about is None:
            return Failed("not a return address of ours, or too old", NEXT_HOP, _GONE)
        original = await self._originals.original(about)
        if original is None:
            return Failed(f"message {about.message} is no longer known", NEXT_HOP, _GONE)
        if str(message.id) in original.seen:
            return Delivered(f"recorded at {about.message} before", NEXT_HOP)
        text = await self._text(message)
        null = message.envelope.sender is None
        returned = await asyncio.to_thread(partial(parse, text[:MAX_READ], null_sender=null))
        said = returned.about(str(original.address)) or Said(returned.nature)
        klass = _klass(returned, said)
        suppressed = self._suppressed(about, original, said, klass)
        record = self._record(message, about, said, klass, suppressed)
        unsent = await self._passed_on(message, text, original, record)
        return Delivered(f"recorded at {about.message}: {_words(said, klass)}{unsent}", NEXT_HOP)

    async def _text(self, message: Message) -> bytes:
        """Its beginning suffices where nothing is passed on."""
        octets = bytearray()
        async for chunk in self._spool.body(message):
            octets += chunk
            if self._pass_on is None and len(octets) >= MAX_READ:
                break
        return bytes(octets)

    def _suppressed(self, about: Returning, original: Original, said: Said, klass: BounceClass) -> str:
        """What became of the address: a word for the record."""
        if self._learn is None or said.nature is not Nature.BOUNCE or klass is not BounceClass.HARD:
            return ""
        lesson = Lesson(original.address, klass, said.text, about.message, BY_BOUNCE)
        return "for good" if self._learn(lesson).until is None else "yes"

    def _record(self, message: Message, about: Returning, said: Said, klass: BounceClass, suppressed: str) -> Record:
        detail: list[tuple[str, str | int | float]] = [("text", said.text or said.nature.value)]
        detail += [("class", klass.value), ("nature", said.nature.value)]
        for name, value in (("status", str(said.status or "")), ("remote", said.remote), ("suppressed", suppressed)):
            if value:
                detail.append((name, value))
        detail.append(("bounce", str(message.id)))
        kind = Kind.BOUNCED_BACK if said.nature in _BOUNCES else Kind.ANSWERED
        return Record(about.message, self._clock.now(), kind, about.number, tuple(detail))

    async def _passed_on(self, message: Message, text: bytes, original: Original, record: Record) -> str:
        """Write the record, with the letter that goes on where one does. Gives what to say of it."""
        if self._pass_on is not None and original.sender is not None:
            unsent = await self._pass_on(message, text, original.sender, record)
            if not unsent:
                return f"; passed on to {original.sender}"
            await written(self._spool, record)
            return f"; not passed on: {unsent}"
        await written(self._spool, record)
        return ""


async def written(spool: Spool, record: Record) -> None:
    """Raises SpoolError."""
    await answered(lambda done: spool.write(Unit(records=(record,)), done, urgent=False))


def _klass(returned: Returned, said: Said) -> BounceClass:
    if said.nature in (Nature.BOUNCE, Nature.DELAY):
        return classify(said.status, said.text)
    return _NO_CLASS.get(returned.nature, BounceClass.UNKNOWN)


def _words(said: Said, klass: BounceClass) -> str:
    status = f", {said.status}" if said.status is not None else ""
    return f"{said.nature.value}, {klass.value}{status}"
