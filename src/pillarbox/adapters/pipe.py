"""Delivery to a program: the port Mailer for the lanes `pipe:`.

One run for each recipient: an argv, never a shell; the message on standard input, Return-Path and Delivered-To in
front; a small environment; a session of its own, so that all of it can be killed. Invariants: the program sees the
whole message or does not run, for its input is a file that was complete before, even if we die; a run ends in time; no
more of its output is kept than fits into a record. Runs and files are in threads: the event loop waits for neither.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import pwd
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from pillarbox.adapters.maildir import LineEnds
from pillarbox.core.address import Mailbox
from pillarbox.core.mime import Plan, Target, Unconvertible
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine import exits
from pillarbox.engine.command import Delivery, WouldBeAnOption, filled
from pillarbox.engine.conversion import converted, survey
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Message, Octets, Outcome, Report, Row
from pillarbox.engine.ports import SpoolError
from pillarbox.engine.routing import LineEnd, Pipe

NEXT_HOP = "pipe"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_KEPT = 4096  # octets
_LOOK = 0.1  # seconds between looks at a program that is silent
_STRAGGLERS = 1.0  # seconds for what outlives the program and holds its output open
_FULL = EnhancedCode(4, 3, 1)
_FAULT = EnhancedCode(4, 3, 0)
_CONVERSION = EnhancedCode(5, 6, 3)
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_TRIED = Report(())  # we are closing
_log = logging.getLogger(__name__)


def environment() -> Mapping[str, str]:
    """All that a program gets of our environment, and no more."""
    least = {"PATH": PATH, "LANG": "C"}
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:  # a number without an account, as in containers
        return least
    return least | {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}


def head(sender: Mailbox | None, row: Row, line_end: str) -> bytes:
    """RFC 5321 §4.4: the return path stands in the message after final delivery. RFC 9228: so does for whom it was."""
    return f"Return-Path: <{sender or ''}>{line_end}Delivered-To: {row.recipient.address}{line_end}".encode()


# --- one run; all of this is in a thread


class Run:
    """A program on its way. `kill` may come from another thread, and before it has begun."""

    def __init__(self, words: list[str], env: Mapping[str, str], seconds: float) -> None:
        self._words = words
        self._env = env
        self._seconds = seconds
        self._lock = threading.Lock()
        self._killed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, message: BinaryIO) -> Outcome:
        """Run it on a message from its beginning to its end."""
        try:
            os.lseek(message.fileno(), 0, os.SEEK_SET)
            with self._lock:
                if self._killed.is_set():
                    return Deferred("not run", NEXT_HOP, _FAULT)
                process = self._process = self._start(message)
        except (OSError, ValueError) as error:
            return Deferred(f"{self._words[0]} can't be started: {error}", NEXT_HOP, exits.CANT_START)
        with process:
            output, late = self._watch(process)
        found = exits.late(self._seconds) if late else exits.meaning(process.returncode)
        return self._outcome(found, exits.first_line(output))

    def _start(self, message: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [word.encode() for word in self._words],
            stdin=message,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self._env),
            cwd="/",
            start_new_session=True,
        )

    def _watch(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bool]:
        """Its output, the beginning of it; and whether it had to be killed for being late."""
        deadline = monotonic() + self._seconds
        output = self._read(process, deadline)
        while self._status(process) is None:  # it has closed its output, and runs on
            if monotonic() >= deadline or self._killed.wait(_LOOK / 5):
                self.kill()
                process.wait()
                return output, True
        return output, False

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """Up to the end of the output; to that of the program where others hold it open; or to the deadline."""
        assert process.stdout is not None
        descriptor, kept, ended = process.stdout.fileno(), bytearray(), deadline
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while (now := monotonic()) < min(deadline, ended):
            if poll.poll(1000 * _LOOK):
                octets = os.read(descriptor, 65536)
                if not octets:
                    break
                kept += octets[: OUTPUT_KEPT - len(kept)]
            if ended == deadline and self._status(process) is not None:
                ended = now + _STRAGGLERS
        return bytes(kept)

    def _status(self, process: subprocess.Popen[bytes]) -> int | None:
        with self._lock:
            return process.poll()

    def kill(self) -> None:
        """It, and all of its group; while it has not been waited for, that number can't be anybody else's."""
        with self._lock:
            self._killed.set()
            if self._process is not None and self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _outcome(self, found: exits.Exit | None, said: str) -> Outcome:
        if found is None:
            return Delivered(f"{self._words[0]}: {said or 'done'}", NEXT_HOP)
        text = f"{self._words[0]}: {found.why}{f': {said}' if said else ''}"
        return (Deferred if found.status.klass == 4 else Failed)(text, NEXT_HOP, found.status)


# --- the mailer


class PipeMailer:
    """Meets the port Mailer. `chunks` gives the text of a message (the spool's `body`); `scratch` is a directory for
    files without a name."""

    def __init__(
        self, hop: Pipe, chunks: Callable[[Message], AsyncIterator[bytes]], *, scratch: Path, runs: int
    ) -> None:
        """`runs`: how many there are at a time."""
        self._hop = hop
        self._chunks = chunks
        self._scratch = scratch
        self._line_end = "\n" if hop.line_end is LineEnd.LF else "\r\n"
        self._env = environment()
        self._pool = ThreadPoolExecutor(runs, thread_name_prefix="pipe")
        self._places = asyncio.Semaphore(runs)  # so that none waits for a thread with its file open
        self._runs: set[Run] = set()
        self._jobs: set[asyncio.Task[tuple[Outcome, ...]]] = set()
        self._closed = False

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(done, job, _NOT_TRIED)
            return
        task = loop.create_task(self._carry(job))
        self._jobs.add(task)
        task.add_done_callback(partial(self._finished, job, done))

    async def _carry(self, job: Job) -> tuple[Outcome, ...]:
        return tuple(await asyncio.gather(*(self._carry_one(job, row) for row in job.rows)))

    async def _carry_one(self, job: Job, row: Row) -> Outcome:
        try:
            words = filled(self._hop.command, Delivery(row.recipient, job.sender))
        except WouldBeAnOption as word:
            text = f"the address would be an option to {self._hop.command[0]}: {word}"
            return Failed(text, NEXT_HOP, exits.AN_OPTION)
        async with self._places:
            try:
                return await self._run(Run(words, self._env, self._hop.seconds), job, row)
            except OSError as error:
                _log.error("%s can't be piped: %s", job.message.id, error)
                text = f"no file for the message: {error.strerror or error}"
                return Deferred(text, NEXT_HOP, _FULL if error.errno in _NO_SPACE else _FAULT)
            except SpoolError as error:
                _log.error("%s can't be read from the spool: %s", job.message.id, error)
                return Deferred("the message could not be read from the spool", NEXT_HOP, _FAULT)
            except Exception:  # of this one, while the others go on
                _log.exception("delivery of %s failed", job.message.id)
                return Deferred("local error in processing", NEXT_HOP, _FAULT)

    def _text(self, message: Message, plan: Plan | None) -> AsyncIterator[bytes]:
        return self._chunks(message) if plan is None else converted(self._chunks, message, plan)

    async def _run(self, run: Run, job: Job, row: Row) -> Outcome:
        plan = None
        if Octets.BINARY in job.message.octets and self._hop.line_end is LineEnd.LF:  # LF would spoil what is binary
            try:
                plan = await survey(self._chunks, job.message, Target.EIGHT_BIT)
            except Unconvertible as error:
                return Failed(f"a message with LF line ends can't hold it: {error}", NEXT_HOP, _CONVERSION)
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        self._runs.add(run)
        file = await in_thread(self._file)
        try:
            await in_thread(file.write, head(job.sender, row, self._line_end))
            ends = LineEnds()
            async for chunk in self._text(job.message, plan):
                await in_thread(file.write, chunk if self._hop.line_end is LineEnd.CRLF else ends.feed(chunk))
            await in_thread(file.write, ends.end())
            await in_thread(file.flush)
            return await in_thread(run.run, file)
        finally:
            self._runs.discard(run)
            self._pool.submit(file.close)

    def _file(self) -> BinaryIO:
        return tempfile.TemporaryFile(dir=self._scratch)

    async def close(self, grace: float) -> None:
        self._closed = True
        if self._jobs:
            _, late = await asyncio.wait(self._jobs, timeout=grace)
            for job in late:
                job.cancel()
            for run in self._runs:
                run.kill()
            if late:
                await asyncio.wait(late)
        self._pool.shutdown(wait=False)

    def _finished(self, job: Job, done: Callable[[Job, Report], None], task: asyncio.Task[tuple[Outcome, ...]]) -> None:
        self._jobs.discard(task)
        if task.cancelled():
            report = _NOT_TRIED
        else:
            report = Report(task.result())
        done(job, report)
