"""What an operator may do to the queue, on a running server and on the data at rest: submit, give orders, back up.

Meets `admin.QueueControl`. The two differ in one thing: with a server running the queue takes a new message over at
once; at rest it is only made durable, and the next start finds it.
"""

from __future__ import annotations

import asyncio
import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pillarbox.adapters.system import sync_directory
from pillarbox.app.admin import Data as Json
from pillarbox.app.admin import Submitted
from pillarbox.app.data import Data
from pillarbox.app.submission import UnfitText
from pillarbox.app.ways_out import make_queue, no_lane
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import (
    NO_MAIL_OPTIONS,
    NO_RCPT_OPTIONS,
    Envelope,
    MailOptions,
    RcptOptions,
    Recipient,
)
from pillarbox.core.header_edit import Edit
from pillarbox.core.message import Hop, received_field
from pillarbox.engine.intake import Intake
from pillarbox.engine.lanes import Load
from pillarbox.engine.mail import Message, Unit
from pillarbox.engine.once import MACHINE, Once, claim, reply_to_repeat
from pillarbox.engine.orders import Done, Order
from pillarbox.engine.ports import Accepted, Fate, FateCallback, Repeated, SpoolCallback, SpoolError, Taken
from pillarbox.engine.predicate import Predicate
from pillarbox.engine.queue import Queue

LISTENER = "local"
PROTOCOL = "LOCAL"


class DataControl:
    """Without a queue the data is at rest."""

    def __init__(self, data: Data, queue: Queue | None = None, once: Once | None = None) -> None:
        """`once` stands in front of the queue."""
        self._data = data
        self._queue = queue
        accept = self._keep if queue is None else queue.accept
        self._once = once or Once(accept=accept, spool=data.spool, clock=data.clock)

    async def submit(
        self,
        sender: Mailbox | None,
        recipients: list[Mailbox],
        octets: bytes,
        *,
        edit: Edit | None = None,
        mail: MailOptions = NO_MAIL_OPTIONS,
        rcpt: RcptOptions = NO_RCPT_OPTIONS,
    ) -> Submitted:
        """Accept a message; it is durable when this returns. Raises SpoolError, UnfitText."""
        data = self._data
        message_id, hostname = data.ids.next(), str(data.config.hostname)
        hop = Hop(hostname, "", hostname, PROTOCOL)
        trace = received_field(hop, str(message_id), data.clock.now(), None)
        intake = Intake(message_id, trace, data.config.limits.message_size, edit, asked=data.config.fields_asked)
        rest = intake.finish(octets, bare=False)
        if intake.fault is not None:
            raise UnfitText(f"not accepted: {intake.fault}")
        if (verp := data.verp) is not None and sender is not None and not verp.has(sender):
            mail = replace(mail, verp=verp.verp(message_id))
        envelope = Envelope(sender, self._expanded(recipients, rcpt), options=mail)
        message = intake.message(rest, envelope, hop=hop, listener=LISTENER, received_at=data.clock.now())
        if intake.fingerprint is not None:
            window = data.config.limits.idempotency
            message.claim = claim(intake.fingerprint, message, scope=MACHINE, window=window)
        fate = await _answered(lambda done: self._once.accept(message, done))
        if isinstance(fate, Taken):
            raise UnfitText(f"not accepted: {reply_to_repeat(fate)}")
        return Submitted(message_id) if fate is None else Submitted(fate.first, repeated=True)

    def _expanded(self, recipients: list[Mailbox], options: RcptOptions) -> tuple[Recipient, ...]:
        found: dict[Mailbox, Recipient] = {}
        for mailbox in recipients:
            resolution = self._data.directory.resolve(mailbox)
            accepted = resolution if isinstance(resolution, Accepted) else Accepted((mailbox,))
            for target in accepted.targets:
                found.setdefault(target, Recipient(target, mailbox, accepted.owners.get(target), options))
        return tuple(found.values())

    def _keep(self, message: Message, done: SpoolCallback) -> None:
        self._data.spool.write(Unit(messages=(message,)), done)

    async def order(self, wanted: Predicate, order: Order) -> Done:
        """Carry it out. A notice that is made at rest is found by the next start."""
        queue = self._queue
        if queue is None:
            queue = make_queue(self._data, no_lane)
            await queue.close(0)  # it tries nothing
        return await queue.order(wanted, order)

    def loads(self) -> list[Load]:
        return [] if self._queue is None else self._queue.loads()

    async def backup(self, target: Path) -> Json:
        """A tar archive of directory, queue and the bodies that are still needed; mailboxes are not in it."""
        data = self._data
        with tempfile.TemporaryDirectory(dir=data.folder.root, prefix="backup-") as name:
            folder = Path(name)
            bodies = await data.spool.copy_to(folder / "spool-0.db", folder / "bodies-0")
            data.store.copy_to(folder / "directory.db")
            octets = await asyncio.to_thread(_archive, folder, target)
        return {"file": str(target), "octets": octets, "large_bodies": bodies}


def _archive(folder: Path, target: Path) -> int:
    """The archive is whole and durable under its name, or not there. Gives its size."""
    partial = target.with_name(target.name + ".partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                for entry in sorted(folder.iterdir()):
                    archive.add(entry, entry.name)
            file.flush()
            os.fsync(file.fileno())
            octets = file.tell()
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(target.parent)
    return octets


async def _answered(ask: Callable[[FateCallback], None]) -> Repeated | Taken | None:
    """Wait for the answer. Raises SpoolError."""
    future: asyncio.Future[Repeated | Taken | None] = asyncio.get_running_loop().create_future()

    def done(fate: Fate) -> None:
        if isinstance(fate, SpoolError):
            future.set_exception(fate)
        else:
            future.set_result(fate)

    ask(done)
    return await future
