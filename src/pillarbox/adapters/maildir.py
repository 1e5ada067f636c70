"""Delivery into Maildirs: the port Mailer for the lane `maildir`.

A message becomes ROOT/DOMAIN/LOCALPART/new/FILE with LF line ends, written in tmp, synced, renamed, and its directory
synced before it counts as delivered. The file's name follows from the message and the recipient alone, so a delivery
that is repeated after a crash replaces the first one. What LF line ends would spoil is converted before. Invariants: no
address leaves the tree; the event loop never waits for the disk; a body that is not in memory is held one chunk at a
time.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

from pillarbox.adapters.system import sync_directory
from pillarbox.core.address import Domain, Host, LocalPart
from pillarbox.core.mime import Target, Unconvertible
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.conversion import Body, converted, survey
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Message, Octets, Outcome, Report, Row
from pillarbox.engine.ports import SpoolError

NEXT_HOP = "maildir"
MAX_NAME = 255  # octets of a file name, as Linux has it

_HOST_IN_NAME = 128  # octets of the host name that a file's name takes: readers append their flags to it
_FRESH = 1.0  # seconds by which the kernel's time stamps may lag behind the clock
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._+-")
_FULL = EnhancedCode(4, 3, 1)
_FAULT = EnhancedCode(4, 3, 0)
_CONVERSION = EnhancedCode(5, 6, 3)
_NOT_TRIED = Report(())  # we are closing
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_log = logging.getLogger(__name__)

# --- names


@lru_cache(maxsize=4096)
def folder_name(part: LocalPart | Host) -> str:
    """A local part or a domain as the name of a folder: the same whatever the case, and never one that leads away."""
    text = part.text if isinstance(part, LocalPart) else str(part)
    name = "".join(chr(o) if o in _PLAIN else f"%{o:02x}" for o in text.casefold().encode())
    if not name:
        return "%empty"  # no other name has a % before letters that are no octet
    if name.startswith("."):
        name = f"%2e{name[1:]}"  # neither `.` nor `..`, nor hidden
    if len(name) > MAX_NAME:
        name = f"{name[:180]}%~{hashlib.sha256(name.encode()).hexdigest()}"
    return name


class LineEnds:
    """CRLF becomes LF, wherever the chunks are cut."""

    def __init__(self) -> None:
        self._held = b""  # a CR at the end of a chunk: the LF may be in the next one

    def feed(self, chunk: bytes) -> bytes:
        octets = self._held + chunk
        self._held = b"\r" if octets.endswith(b"\r") else b""
        return octets[: len(octets) - len(self._held)].replace(b"\r\n", b"\n")

    def end(self) -> bytes:
        return self._held


# --- one job on the disk; all of this runs in the pool


def _make_folder(root: str, domain: str, folder: str) -> None:
    """`tmp` comes last: whoever finds it may rely on the rest being there to stay."""
    for directory in (root, domain, folder, f"{folder}/new", f"{folder}/cur"):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        sync_directory(os.path.dirname(directory))
    with suppress(FileExistsError):
        os.mkdir(f"{folder}/tmp", 0o700)


class _Letter:
    """The file of one recipient on its way through tmp into new. The first OSError settles its outcome."""

    def __init__(self, root: str, hostname: Domain, message: Message, row: Row) -> None:
        address = row.recipient.address
        self.outcome: Outcome | None = None
        self._root = root
        self._domain = f"{root}/{folder_name(address.domain)}"
        self._folder = f"{self._domain}/{folder_name(address.local)}"
        self._base = f"{int(message.received_at)}.{message.id}_{row.number}."
        self._name = f"{self._base}{hostname.ascii[:_HOST_IN_NAME]}"
        self._tmp = f"{self._folder}/tmp/{self._name}"
        self._received_at = message.received_at
        # RFC 5321 §4.4: the return path stands in the message after final delivery.
        reverse_path = message.envelope.sender and (row.recipient.owner or message.envelope.sender)
        self._head = f"Return-Path: <{reverse_path or ''}>\nDelivered-To: {address}\n".encode()
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        with self._settling():
            if self._was_read():
                self.outcome = Delivered(self._name, NEXT_HOP)
                return
            try:
                self._file = self._open()
            except FileNotFoundError:
                _make_folder(self._root, self._domain, self._folder)
                self._file = self._open()
            self._file.write(self._head)

    def write(self, octets: bytes) -> None:
        if self._file is not None:
            with self._settling():
                self._file.write(octets)

    def end(self) -> None:
        if self._file is None:
            return
        with self._settling():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            new = f"{self._folder}/new"
            os.rename(self._tmp, f"{new}/{self._name}")
            sync_directory(new)
            self.outcome = Delivered(self._name, NEXT_HOP)

    def drop(self) -> None:
        """Leave nothing behind in tmp."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
        with suppress(OSError):
            os.unlink(self._tmp)

    def _open(self) -> BinaryIO:
        return open(self._tmp, "wb", opener=lambda path, flags: os.open(path, flags, 0o600))

    def _was_read(self) -> bool:
        """Whether an earlier attempt put the file there and a reader has moved it into cur since."""
        cur = f"{self._folder}/cur"
        try:
            if os.stat(cur).st_mtime < self._received_at - _FRESH:
                return False  # nothing was moved in since the message came; spares the listing
            with os.scandir(cur) as entries:
                found = any(entry.name.startswith(self._base) for entry in entries)
        except FileNotFoundError:
            return False
        if found:
            sync_directory(cur)
        return found

    @contextmanager
    def _settling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _log.warning("delivery to %s failed: %s", self._folder, error)
            status = _FULL if error.errno in _NO_SPACE else _FAULT
            self.outcome = Deferred(f"mailbox: {error.strerror or error}", NEXT_HOP, status)
            self.drop()


class _Batch:
    """The files of one job. The lock is for `drop`, which may come while a call of a job given up still runs."""

    def __init__(self, letters: list[_Letter]) -> None:
        self._letters = letters
        self._ends = LineEnds()
        self._lock = threading.Lock()

    def whole(self, content: bytes) -> tuple[Outcome, ...]:
        """A message that is in memory, recipient by recipient: one call for all of it."""
        try:
            octets = content.replace(b"\r\n", b"\n")
            for letter in self._letters:
                letter.begin()
                letter.write(octets)
                letter.end()
            return self._outcomes()
        except BaseException:
            self.drop()
            raise

    def begin(self) -> None:
        with self._lock:
            for letter in self._letters:
                letter.begin()

    def write(self, chunk: bytes) -> None:
        with self._lock:
            octets = self._ends.feed(chunk)
            for letter in self._letters:
                letter.write(octets)

    def end(self) -> tuple[Outcome, ...]:
        with self._lock:
            for letter in self._letters:
                letter.write(self._ends.end())
                letter.end()
            return self._outcomes()

    def drop(self) -> None:
        with self._lock:
            for letter in self._letters:
                letter.drop()

    def failed(self, outcome: Failed) -> tuple[Outcome, ...]:
        """Nothing of it was begun."""
        return (outcome,) * len(self._letters)

    def _outcomes(self) -> tuple[Outcome, ...]:
        return tuple(letter.outcome for letter in self._letters if letter.outcome is not None)


# --- the mailer


class MaildirMailer:
    """Meets the port Mailer. `chunks` gives the text of a message that is not in memory (the spool's `body`)."""

    def __init__(self, root: Path, chunks: Body, *, hostname: Domain, threads: int = 8) -> None:
        self._root = os.path.abspath(root)
        self._chunks = chunks
        self._hostname = hostname
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="maildir")
        self._under_way: set[asyncio.Future[tuple[Outcome, ...]]] = set()
        self._closed = False

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(done, job, _NOT_TRIED)
            return
        batch = _Batch([_Letter(self._root, self._hostname, job.message, row) for row in job.rows])
        content = job.message.content
        work: asyncio.Future[tuple[Outcome, ...]]
        if Octets.BINARY in job.message.octets:
            work = loop.create_task(self._fitted(batch, job.message))
        elif content is not None:
            work = loop.run_in_executor(self._pool, batch.whole, content)
        else:
            work = loop.create_task(self._stream(batch, job.message, self._chunks(job.message)))
        self._under_way.add(work)
        work.add_done_callback(partial(self._finished, job, done))

    async def close(self, grace: float) -> None:
        self._closed = True
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=grace)
            for work in late:
                work.cancel()
            if late:
                await asyncio.wait(late)
        self._pool.shutdown(wait=False)

    async def _fitted(self, batch: _Batch, message: Message) -> tuple[Outcome, ...]:
        """A message with binary parts (RFC 3030 §3): they are encoded, since line ends are not kept here."""
        try:
            plan = await survey(self._chunks, message, Target.EIGHT_BIT)
        except Unconvertible as error:
            return batch.failed(Failed(f"the message can't be kept in a Maildir: {error}", NEXT_HOP, _CONVERSION))
        return await self._stream(batch, message, converted(self._chunks, message, plan))

    async def _stream(self, batch: _Batch, message: Message, chunks: AsyncIterator[bytes]) -> tuple[Outcome, ...]:
        run = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        if not message.large:
            return await run(batch.whole, b"".join([chunk async for chunk in chunks]))
        try:
            await run(batch.begin)
            async for chunk in chunks:
                await run(batch.write, chunk)
            return await run(batch.end)
        except asyncio.CancelledError:
            run(batch.drop)  # not waited for: we are closing
            raise
        except Exception:
            await run(batch.drop)  # waited for: the next attempt uses the same names
            raise

    def _finished(
        self, job: Job, done: Callable[[Job, Report], None], work: asyncio.Future[tuple[Outcome, ...]]
    ) -> None:
        self._under_way.discard(work)
        if work.cancelled():
            report = _NOT_TRIED
        elif (error := work.exception()) is None:
            report = Report(work.result())
        elif isinstance(error, SpoolError):
            _log.warning("%s can't be read from the spool: %s", job.message.id, error)
            report = _deferred(job, "the message could not be read from the spool")
        else:
            _log.error("delivery of %s failed", job.message.id, exc_info=error)
            report = _deferred(job, "local error in processing")
        done(job, report)


def _deferred(job: Job, text: str) -> Report:
    return Report(tuple(Deferred(text, NEXT_HOP, _FAULT) for _ in job.rows))
