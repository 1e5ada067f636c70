"""The suppression list: a table of directory.db, and all of it in memory, from where it is asked.

Meets the port Suppressions. What is learned counts at once and is written behind, on a thread with a connection of its
own, so no delivery waits for the disk; a crash may lose the last of it, which the next failure brings back. What an
operator changes is on the disk when the call returns. The number of addresses is bounded: beyond it nothing is learned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pillarbox.adapters.directory_schema import DirectoryError, DirectoryFile
from pillarbox.core.address import Mailbox
from pillarbox.engine.ports import Clock
from pillarbox.engine.suppression import Lesson, Suppression

log = logging.getLogger(__name__)

MOST = 200_000  # addresses
_COLUMNS = "address, since, until, class, text, message, who"


class SuppressionList:
    """`keep`: seconds for which what is learned stays."""

    def __init__(self, path: Path, clock: Clock, *, keep: float) -> None:
        """Raises DirectoryError."""
        self._clock = clock
        self.keep = keep
        self._file = DirectoryFile(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="suppression")
        self._known: dict[str, Suppression] = {}
        now = clock.now()
        for address, *rest in self._file.rows(
            f"SELECT {_COLUMNS} FROM suppression WHERE until IS NULL OR until > ?", now
        ):
            found = Suppression(Mailbox.parse(address), *rest)
            self._known[_key(found.address)] = found

    async def close(self) -> None:
        """Behind all that is to be written."""
        await asyncio.to_thread(self._thread.shutdown)
        self._file.close()

    # --- the port

    def find(self, address: Mailbox) -> Suppression | None:
        if not self._known:
            return None
        key = _key(address)
        found = self._known.get(key)
        if found is None or found.until is None or found.until > self._clock.now():
            return found
        del self._known[key]
        return None

    def learn(self, lesson: Lesson) -> Suppression:
        """What an operator put there stays as it is, and so does since when."""
        now = self._clock.now()
        before = self.find(lesson.address)
        if before is not None and before.until is None:
            return before
        since = now if before is None else before.since
        made = Suppression(
            lesson.address, since, now + self.keep, lesson.klass.value, lesson.text, str(lesson.message), lesson.who
        )
        if before is None and len(self._known) >= MOST:
            log.warning("suppression: %d addresses are on the list, %s is not added", MOST, lesson.address)
            return made
        self._known[_key(lesson.address)] = made
        self._thread.submit(self._put, made).add_done_callback(_logged)
        return made

    # --- for operators

    def all(self) -> list[Suppression]:
        """Those that hold, the oldest first."""
        now = self._clock.now()
        found = [each for each in self._known.values() if each.until is None or each.until > now]
        return sorted(found, key=lambda each: each.since)

    async def put(self, suppression: Suppression) -> None:
        """In place of what there is of that address. Raises DirectoryError."""
        await self._wait(partial(self._put, suppression))
        self._known[_key(suppression.address)] = suppression

    async def remove(self, addresses: Iterable[Mailbox]) -> None:
        """Raises DirectoryError."""
        keys = [_key(address) for address in addresses]
        await self._wait(partial(self._drop, keys))
        for key in keys:
            self._known.pop(key, None)

    async def _wait(self, work: Callable[[], None]) -> None:
        await asyncio.wrap_future(self._thread.submit(work))

    # --- on the thread

    def _put(self, suppression: Suppression) -> None:
        it = suppression
        values = (str(it.address), it.since, it.until, it.klass, it.text, it.message, it.who)
        with self._file.transaction():
            self._file.change("DELETE FROM suppression WHERE until <= ?", self._clock.now())
            self._file.change(
                f"INSERT OR REPLACE INTO suppression (key, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                _key(it.address),
                *values,
            )

    def _drop(self, keys: list[str]) -> None:
        with self._file.transaction():
            for key in keys:
                self._file.change("DELETE FROM suppression WHERE key = ?", key)


def _key(address: Mailbox) -> str:
    return str(address).casefold()


def _logged(done: Future[None]) -> None:
    if isinstance(error := done.exception(), DirectoryError):
        log.error("suppression: %s", error)
    elif error is not None:
        log.error("suppression: bug while writing", exc_info=error)
