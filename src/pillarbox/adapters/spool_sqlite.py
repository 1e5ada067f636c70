"""SqliteSpool: the port Spool on one SQLite file and a folder of large bodies.

The face of the spool on the event loop's thread: hands units to the writer thread, large bodies to a few threads of
their own, and brings the answers back, one wake-up of the loop for a whole batch. Decides nothing about mail.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from pillarbox.adapters.predicate_sql import condition
from pillarbox.adapters.spool_bodies import BodyFiles, translated
from pillarbox.adapters.spool_rows import (
    PARKED_LANES,
    at_places,
    lease,
    lease_at,
    lease_parked,
    see,
    unit_values,
)
from pillarbox.adapters.spool_schema import VERSION, open_reader
from pillarbox.adapters.spool_writer import Errand, Pending, Writer
from pillarbox.core.envelope import MessageId
from pillarbox.engine.ids import id_at
from pillarbox.engine.mail import Key, Leased, Message, Place, Seen, State, Unit
from pillarbox.engine.ports import SpoolBroken, SpoolCallback, SpoolError, SpoolFull
from pillarbox.engine.predicate import Predicate

log = logging.getLogger(__name__)

BODY_THREADS = 4
PATIENCE = 0.005  # seconds that a unit nobody waits for may wait for company
READ_SIZE = 256 * 1024  # octets of a large body in memory at a time
LOOK_AT_DISK = 0.5  # seconds for which the count of free octets holds
TRY_AGAIN = 1.0  # seconds between attempts to write to a disk that failed
FORGET_AT_ONCE = 500  # messages removed from the history in one commit
_VACUUM_PAGES = 1000
T = TypeVar("T")


class SqliteSpool:
    """Made on the loop's thread; every callback comes back there."""

    def __init__(self, path: Path, bodies: Path, loop: asyncio.AbstractEventLoop, *, reserve: int = 0) -> None:
        """Opens or makes the files and takes back what a dead worker had leased. `reserve`: octets of the disk that
        are to stay free. Raises SpoolVersion, apsw.Error."""
        self.reserve = reserve
        self._room = (float("-inf"), 0)  # when the free octets were counted, and how many there were
        self._broken: SpoolBroken | None = None  # the disk takes nothing
        self._probing = False
        self.path = path
        self._loop = loop
        self._bodies = BodyFiles(bodies)
        self._outbox: list[Pending] = []  # for the writer, at the end of this turn of the loop
        self._flushing = False
        self._patience: asyncio.TimerHandle | None = None
        self._writer = Writer(path, self._bodies, self._report)
        self._threads = ThreadPoolExecutor(BODY_THREADS, thread_name_prefix="spool-body")
        self._reader = open_reader(path)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
        self._closing = False
        self._removals_held = 0
        self._held_removals: list[MessageId] = []
        self.last_id = self._recover()

    def _recover(self) -> int:
        """What was leased is scheduled again, leftover bodies go. Gives the greatest message id."""
        known, last = self._errand(_recover).result()
        leftovers = self._bodies.remove_all_but(known)
        if leftovers:
            log.info("spool: removed %d bodies of messages that were never accepted or are settled", leftovers)
        return last

    # --- the port

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        pending = Pending(unit, unit_values(unit), done)
        for message in unit.messages:
            if message.large:
                self._threads.submit(self._sync_then_write, message, pending)
                return
        self._outbox.append(pending)
        if urgent and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        elif not urgent and self._patience is None:
            self._patience = self._loop.call_later(PATIENCE, self._flush)

    def _flush(self) -> None:
        """Hand all of this turn of the loop to the writer at once: each waking of its thread costs both of them."""
        self._flushing = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            self._writer.submit(outbox)

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        self._threads.submit(self._append, message, octets, done)

    def unspill(self, message: MessageId) -> None:
        self._threads.submit(self._bodies.remove, message)

    async def lease(self, now: float, limit: int) -> list[Leased]:
        return await self.errand(lambda connection: lease(connection, now, limit))

    async def lease_at(self, places: Sequence[Place], after: MessageId, limit: int) -> list[Leased]:
        return await self.errand(lambda connection: lease_at(connection, places, after, limit))

    async def lease_parked(self, lane: str, limit: int) -> list[Leased]:
        return await self.errand(lambda connection: lease_parked(connection, lane, limit))

    async def parked_lanes(self) -> list[str]:
        return [lane for (lane,) in await self.query(PARKED_LANES)]

    async def waiting_at(self, places: Sequence[Place]) -> int:
        where, arguments = at_places(places)
        found = await self.query(f"SELECT count(*) FROM recipient WHERE {where}", arguments)
        return int(found[0][0])

    async def make_due_at(self, places: Sequence[Place], now: float) -> int:
        return await self.errand(partial(_make_due_at, places=places, now=now))

    async def find(self, wanted: Predicate, now: float, after: Key, limit: int) -> list[Key]:
        asked = condition(wanted, now)
        found = await self.query(
            f"SELECT recipient.message, number FROM {asked.source} WHERE {asked.where}"
            " AND (recipient.message, number) > (?, ?) ORDER BY recipient.message, number LIMIT ?",
            (*asked.arguments, *after, limit),
        )
        return [Key(MessageId(message), number) for message, number in found]

    async def see(self, keys: Sequence[Key], now: float) -> list[Seen]:
        await self.errand(_nothing)  # what was handed in before is to be seen
        try:
            return await self._in_thread(self._reading, see, self._reader, keys, now)
        except apsw.Error as error:
            raise SpoolBroken(str(error)) from error

    async def depth(self) -> tuple[int, float | None]:
        found = await self.query(f"SELECT count(*), min(message) FROM recipient WHERE state < {State.DELIVERED:d}")
        count, oldest = found[0]
        if oldest is None:
            return 0, None
        came = await self.query("SELECT received_at FROM message WHERE id = ?", (oldest,))
        return int(count), float(came[0][0]) if came else None

    def refuses(self, octets: int) -> SpoolError | None:
        if self._broken is not None:
            return self._broken
        now = self._loop.time()
        counted, free = self._room
        if now - counted >= LOOK_AT_DISK:
            try:
                disk = os.statvfs(self.path.parent)
            except OSError as error:
                return translated(error)
            free = disk.f_bavail * disk.f_frsize
            self._room = (now, free)
        if octets + self.reserve > free:
            return SpoolFull(f"{free} octets free, {self.reserve} are to stay so")
        return None

    async def next_due(self) -> float | None:
        found = await self.query("SELECT min(due) FROM recipient WHERE state = 0")
        due: float | None = found[0][0]
        return due

    async def body(self, message: Message) -> AsyncIterator[bytes]:
        if message.content is not None:
            yield message.content
            return
        async for octets in self.stored(message.id, message.size, large=message.large):
            yield octets

    # --- for the operations, which are no business of the engine

    async def stored(self, message: MessageId, size: int, *, large: bool) -> AsyncIterator[bytes]:
        """A text as it is on the disk. Raises SpoolError."""
        if not large:
            yield await self._small_body(message)
            return
        offset = 0
        while offset < size:
            octets = await self._in_thread(self._threads, self._bodies.read, message, offset, READ_SIZE)
            if not octets:
                raise SpoolBroken(f"body of {message} ends at {offset} of {size} octets")
            offset += len(octets)
            yield octets

    async def query(self, statement: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
        """A short question to the tables. Raises SpoolError."""
        return await self._in_thread(self._reading, self._query, statement, arguments)

    async def errand(self, run: Callable[[apsw.Connection], T]) -> T:
        """Do something in a transaction of the writer. Raises SpoolError."""
        try:
            return await asyncio.wrap_future(self._errand(run))
        except apsw.Error as error:
            raise SpoolBroken(str(error)) from error

    async def forget(self, before: float) -> int:
        """Remove messages settled before that moment, and their records; gives how many went this time."""
        return await self.errand(partial(_forget, before=before))

    async def copy_to(self, database: Path, bodies: Path) -> int:
        """A consistent copy of the spool while it works on. Gives the number of large bodies. Raises SpoolError."""
        self._removals_held += 1
        try:
            await self._in_thread(self._reading, self._copy_database, database)
            return await self._in_thread(self._threads, self._copy_bodies, database, bodies)
        finally:
            self._removals_held -= 1
            if not self._removals_held:
                held, self._held_removals = self._held_removals, []
                for message in held:
                    self._threads.submit(self._bodies.remove, message)

    async def close(self) -> None:
        """Commit what was handed in, then close the files."""
        self._flush()
        self._closing = True
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._reading.shutdown)
        self._reader.close()  # before the writer's connection: the last one to close empties the log
        await asyncio.to_thread(self._writer.stop)
        self._bodies.close()

    # --- on other threads

    def _append(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        error: SpoolError | None = None
        try:
            self._bodies.append(message, octets)
        except SpoolError as fault:
            error = fault
        self._loop.call_soon_threadsafe(done, error)

    def _sync_then_write(self, message: Message, pending: Pending) -> None:
        """The last piece of a large body and its sync, then the unit: the file is durable before its row is."""
        try:
            self._bodies.append(message.id, message.content or b"", sync=True)
        except SpoolError as fault:
            pending.error = fault
            self._loop.call_soon_threadsafe(self._completed, [pending])
            return
        message.content = None
        self._writer.submit([pending])

    def _report(self, batch: list[Pending]) -> None:
        self._loop.call_soon_threadsafe(self._completed, batch)

    def _copy_database(self, target: Path) -> None:
        destination = apsw.Connection(str(target))
        with destination.backup("main", self._reader, "main") as backup:
            backup.step()
        destination.close()

    def _copy_bodies(self, database: Path, target: Path) -> int:
        target.mkdir(mode=0o700)
        copy = apsw.Connection(f"file:{database}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        unsettled: list[Any] = copy.execute(_LARGE_UNSETTLED).fetchall()
        copy.close()
        for (number,) in unsettled:
            source = self._bodies.path(MessageId(number))
            (target / source.name).hardlink_to(source)
        return len(unsettled)

    def _query(self, statement: str, arguments: tuple[Any, ...]) -> list[Any]:
        try:
            return self._reader.execute(statement, arguments).fetchall()
        except apsw.Error as error:
            raise SpoolBroken(str(error)) from error

    # --- on the loop's thread

    def _completed(self, batch: list[Pending]) -> None:
        self._look_after(batch[-1].error)
        for pending in batch:
            gone = pending.unit.finished if pending.error is None else pending.unit.messages
            for message in gone:
                if message.large and not pending.in_doubt:
                    self._remove_body(message.id)
            try:
                pending.done(pending.error)
            except Exception:
                log.exception("spool: after a commit")

    def _look_after(self, error: SpoolError | None) -> None:
        """Behind a fault of the disk we try by ourselves: if that fails, too, nothing is taken until it succeeds."""
        if error is None:
            self._broken = None
        elif isinstance(error, SpoolBroken) and not self._probing:
            self._probe()

    def _probe(self) -> None:
        self._probing = not self._closing
        if self._probing:
            done = self._errand(_nothing).add_done_callback
            done(lambda tried: self._loop.call_soon_threadsafe(self._probed, tried.exception()))

    def _probed(self, error: BaseException | None) -> None:
        if error is None:
            self._probing, self._broken = False, None
        else:
            self._broken = SpoolBroken(str(error))
            self._loop.call_later(TRY_AGAIN, self._probe)

    def _remove_body(self, message: MessageId) -> None:
        if self._removals_held:
            self._held_removals.append(message)
        elif self._closing:
            self._bodies.remove(message)
        else:
            self._threads.submit(self._bodies.remove, message)

    async def _small_body(self, message: MessageId) -> bytes:
        found = await self.query("SELECT octets FROM body WHERE message = ?", (int(message),))
        if not found:
            raise SpoolBroken(f"body of {message} is not there")
        octets: bytes = found[0][0]
        return octets

    def _errand(self, run: Callable[[apsw.Connection], T]) -> Future[T]:
        future: Future[T] = Future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.set_running_or_notify_cancel():
                return  # who asked has gone
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._flush()  # an errand must find what was handed in before it
        self._writer.submit(Errand(run, settle))
        return future

    async def _in_thread(self, pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(pool, function, *arguments)


_LARGE_UNSETTLED = f"""
    SELECT id FROM message WHERE large AND EXISTS (
        SELECT 1 FROM recipient WHERE message = message.id AND state < {int(State.DELIVERED)})
"""


def _recover(connection: apsw.Connection) -> tuple[set[str], int]:
    connection.execute(f"UPDATE recipient SET state = {State.SCHEDULED:d} WHERE state = {State.LEASED:d}")
    unsettled: list[Any] = connection.execute(_LARGE_UNSETTLED).fetchall()
    known = {str(MessageId(number)) for (number,) in unsettled}
    last: Any = connection.execute("SELECT ifnull(max(id), 0) FROM message").fetchone()
    return known, int(last[0])


def _forget(connection: apsw.Connection, before: float) -> int:
    rows: list[Any] = connection.execute(
        "SELECT id FROM message WHERE id < ? AND NOT EXISTS (SELECT 1 FROM recipient WHERE message = message.id"
        f" AND (state < {State.DELIVERED:d} OR due >= ?)) ORDER BY id LIMIT {FORGET_AT_ONCE}",
        (id_at(before), before),
    ).fetchall()
    for table, column in (("message", "id"), ("recipient", "message"), ("record", "message"), ("body", "message")):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)
    connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    return len(rows)


def _nothing(connection: apsw.Connection) -> None:
    """Writes, and changes nothing: whether the disk takes it is what one wants to know."""
    connection.pragma("user_version", VERSION)


def _make_due_at(connection: apsw.Connection, places: Sequence[Place], now: float) -> int:
    where, arguments = at_places(places)
    connection.execute(f"UPDATE recipient SET due = min(due, ?) WHERE {where}", (now, *arguments))
    return connection.changes()
