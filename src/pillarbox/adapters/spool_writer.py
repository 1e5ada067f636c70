"""The one thread that writes to a spool file: group commit, checkpoints, faults.

All that arrived while the last commit ran goes into the next one; only then is anybody told. The invariant: `report`
is called with no error only for what a completed sync covers. One message's fault must not fail its neighbours: a
batch that fails for another reason than the disk is tried again one by one. After a failed sync nothing is known of
what is on the disk, so the connection is closed and opened anew; the batch is then there whole or not at all, and
whoever was told 451 may see a duplicate, never a loss. Knows rows only through `spool_rows`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import apsw

from pillarbox.adapters.spool_bodies import BodyFiles
from pillarbox.adapters.spool_rows import MOST_ROWS, Values, disown, write_values
from pillarbox.adapters.spool_schema import VERSION, WORK_COLUMNS, open_spool
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import Unit
from pillarbox.engine.ports import SpoolBroken, SpoolCallback, SpoolError, SpoolFull
from pillarbox.engine.records import Record

log = logging.getLogger(__name__)

MAX_BATCH = 512  # units in one commit
_MOST_VALUES = MOST_ROWS * WORK_COLUMNS
CHECKPOINT_OCTETS = 16 * 1024 * 1024  # of the write-ahead log, after which it is copied to its place
COMMIT_OCTETS = 48 * 1024  # that a commit adds to the log beside the texts, at a guess


@dataclass(slots=True)
class Pending:
    """A unit on its way to the disk."""

    unit: Unit
    values: Values
    done: SpoolCallback
    error: SpoolError | None = None
    in_doubt: bool = False  # may be on the disk in spite of the error


@dataclass(slots=True)
class Errand:
    """Something else to be done with the connection between two commits, in a transaction of its own."""

    run: Callable[[apsw.Connection], Any]
    result: Callable[[Any, BaseException | None], None]


_Item = list[Pending] | Errand | None  # None: stop


class Writer:
    """`report(batch)` is called on the writer's thread after each commit."""

    def __init__(self, path: Path, bodies: BodyFiles, report: Callable[[list[Pending]], None]) -> None:
        """Opens the file. Raises SpoolVersion, apsw.Error."""
        self._path = path
        self._bodies = bodies
        self._report = report
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._logged = 0  # octets in the write-ahead log, at a guess
        self._disowned: list[int] = []  # refused after a fault of the disk, yet perhaps on it
        self._untold: list[Record] = []  # what came with them, of other messages
        self._connection: apsw.Connection | None = open_spool(path)
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def submit(self, item: list[Pending] | Errand) -> None:
        self._queue.put(item)

    def stop(self) -> None:
        """Commit what was submitted, then end. Blocks."""
        self._queue.put(None)
        self._thread.join()

    # --- on the writer's thread

    def _run(self) -> None:
        item = self._queue.get()
        while item is not None:
            if isinstance(item, Errand):
                self._do(item)
                item = self._queue.get()
            else:
                item = self._write_all(item)
            self._checkpoint()
        if self._connection is not None:
            self._connection.close()

    def _write_all(self, batch: list[Pending]) -> _Item:
        """Commit the batch with all that has come meanwhile; gives what comes next and is something else."""
        following: _Item = []
        while len(batch) < MAX_BATCH and not self._queue.empty():
            following = self._queue.get()
            if not isinstance(following, list):
                break
            batch += following
        self._commit(batch)
        self._report(batch)
        return following if not isinstance(following, list) else self._queue.get()

    def _commit(self, batch: list[Pending]) -> None:
        try:
            if any(message.large for pending in batch for message in pending.unit.messages):
                self._bodies.sync_names()
            values: Values = []
            for pending in batch:
                values += pending.values
                for message in pending.unit.messages:
                    self._logged += 0 if message.large else message.size
            if values:
                self._write(values)
        except SpoolError as error:
            for pending in batch:
                pending.error = error
                pending.in_doubt = self._connection is None  # else it was rolled back
                if pending.in_doubt and pending.unit.messages:
                    self._disowned.extend(int(message.id) for message in pending.unit.messages)
                    self._untold.extend(pending.unit.notes)
            log.error("spool: %d units not stored: %s", len(batch), error)
        except Exception as error:
            if len(batch) > 1:
                for pending in batch:
                    self._commit([pending])
            else:
                log.exception("spool: a unit could not be stored")
                batch[0].error = SpoolBroken(str(error))

    def _write(self, values: Values) -> None:
        """One statement is a transaction of its own; what is too much for one gets a transaction around it."""
        if len(values) <= _MOST_VALUES:
            self._guarded(lambda connection: write_values(connection, values))
        else:
            pieces = [values[start : start + _MOST_VALUES] for start in range(0, len(values), _MOST_VALUES)]
            self._transaction(lambda connection: _write_pieces(connection, pieces))
        self._logged += COMMIT_OCTETS

    def _transaction(self, work: Callable[[apsw.Connection], Any]) -> Any:
        """Raises as `_guarded` does."""

        def enclosed(connection: apsw.Connection) -> Any:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
            return result

        return self._guarded(enclosed)

    def _guarded(self, work: Callable[[apsw.Connection], Any]) -> Any:
        """Raises SpoolError for faults of the disk, anything else for faults of the work; nothing is half done."""
        connection = self._connection or self._reopen()
        try:
            return work(connection)
        except apsw.FullError as error:
            self._roll_back(connection)
            raise SpoolFull(str(error)) from error
        except (apsw.IOError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError) as error:
            self._abandon(connection)
            raise SpoolBroken(str(error)) from error
        except BaseException:
            self._roll_back(connection)
            raise

    def _roll_back(self, connection: apsw.Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except apsw.Error:
                self._abandon(connection)

    def _abandon(self, connection: apsw.Connection) -> None:
        """After a failed sync the kernel's pages are not to be trusted: start again from what is on the disk."""
        self._connection = None
        try:
            connection.close(True)
        except apsw.Error:
            log.exception("spool: closing after a fault")

    def _reopen(self) -> apsw.Connection:
        try:
            connection = open_spool(self._path)
            with connection:
                disown(connection, self._disowned, self._untold)
                connection.pragma("user_version", VERSION)  # writes behind what is in doubt even with nothing to remove
        except apsw.Error as error:
            raise SpoolBroken(f"spool can't be opened again: {error}") from error
        for message in self._disowned:
            self._bodies.remove(MessageId(message))
        self._disowned, self._untold = [], []
        self._connection = connection
        return connection

    def _do(self, errand: Errand) -> None:
        try:
            result = self._transaction(errand.run)
        except BaseException as error:
            errand.result(None, error)
        else:
            errand.result(result, None)

    def _checkpoint(self) -> None:
        """Between commits, when nobody waits for it, and only here: readers never do."""
        if self._logged < CHECKPOINT_OCTETS or self._connection is None:
            return
        self._logged = 0
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            log.warning("spool: checkpoint: %s", error)
            self._abandon(self._connection)


def _write_pieces(connection: apsw.Connection, pieces: list[Values]) -> None:
    for piece in pieces:
        write_values(connection, piece)
