"""Idempotency keys on a real disk: written with their message, kept through a restart, forgotten in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest

from pillarbox.adapters import spool_claims, spool_writer
from pillarbox.adapters.spool_rows import write_values
from pillarbox.adapters.spool_schema import MOST_REPEATS
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import Change, Claim, Message, State, Unit
from pillarbox.engine.ports import Claimed, SpoolBroken, SpoolError
from pillarbox.engine.records import Kind, Record
from tests.making import NOW, make_message

ALICE = "alice@example.test"
UNTIL = NOW + 100


def keyed(
    number: int, key: str = "k", *, scope: str = ALICE, print: bytes = b"\0same", until: float = UNTIL
) -> Message:
    message = make_message(MessageId(number))
    message.claim = Claim(scope, key, print, until)
    return message


class Disk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = self._opened()

    def _opened(self) -> SqliteSpool:
        return SqliteSpool(self.folder / "spool-0.db", self.folder / "bodies-0", asyncio.get_running_loop())

    async def write(self, unit: Unit) -> SpoolError | None:
        answer: asyncio.Future[SpoolError | None] = asyncio.get_running_loop().create_future()
        self.spool.write(unit, answer.set_result)
        return await answer

    async def keep(self, *messages: Message) -> None:
        assert await self.write(Unit(messages=messages)) is None

    async def who(self, key: str = "k", scope: str = ALICE, now: float = NOW) -> int | None:
        found = await self.spool.claimed(scope, key, now)
        return None if found is None else int(found.first)

    async def restart(self) -> None:
        await self.spool.close()
        self.spool = self._opened()


def run(folder: Path, main: Callable[[Disk], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        async with asyncio.timeout(30):
            disk = Disk(folder)
            try:
                await main(disk)
            finally:
                await disk.spool.close()

    asyncio.run(opened())


def test_a_key_is_there_with_its_message_and_after_a_restart(tmp_path: Path) -> None:
    async def main(disk: Disk) -> None:
        assert await disk.who() is None
        await disk.keep(keyed(1), keyed(2, "other"), keyed(3, scope=""), make_message(MessageId(4)))
        for _ in range(2):
            assert [await disk.who(), await disk.who("other"), await disk.who(scope="")] == [1, 2, 3]
            assert await disk.spool.claimed(ALICE, "k", NOW) == Claimed(MessageId(1), b"\0same")
            assert [await disk.who("K"), await disk.who(scope="bob@example.test")] == [None, None]
            await disk.restart()
        assert len(await disk.spool.query("SELECT * FROM idempotency")) == 3

    run(tmp_path, main)


def test_after_its_time_another_message_may_have_it(tmp_path: Path) -> None:
    async def main(disk: Disk) -> None:
        await disk.keep(keyed(1))
        assert [await disk.who(now=UNTIL - 1), await disk.who(now=UNTIL)] == [1, None]
        await disk.keep(keyed(2, until=UNTIL + 100))
        assert await disk.who(now=UNTIL) == 2

    run(tmp_path, main)


def test_keys_are_forgotten_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_claims, "FORGET_AT_ONCE", 2)

    async def main(disk: Disk) -> None:
        await disk.keep(*(keyed(number, f"k{number}", until=UNTIL + (number > 3)) for number in range(1, 6)))
        assert [await disk.spool.forget_claims(UNTIL) for _ in range(3)] == [2, 1, 0]
        assert await disk.spool.query("SELECT key FROM idempotency ORDER BY key") == [("k4",), ("k5",)]

    run(tmp_path, main)


def test_a_key_outlives_the_history_of_its_message(tmp_path: Path) -> None:
    async def main(disk: Disk) -> None:
        await disk.keep(keyed(1))
        await disk.write(Unit(changes=(Change(MessageId(1), 0, State.DELIVERED, NOW, 1, "", "", None),)))
        assert await disk.spool.forget(NOW + 1e9) == 1
        assert await disk.who() == 1
        await disk.write(Unit(repeats=(repeat(1, 0),)))
        assert await disk.spool.query("SELECT * FROM record") == [], "nobody would forget it"

    run(tmp_path, main)


def repeat(message: int, at: int) -> Record:
    return Record(MessageId(message), NOW + at, Kind.REPEATED, None, (("text", f"again {at}"),))


def test_repeats_are_recorded_up_to_a_bound(tmp_path: Path) -> None:
    async def main(disk: Disk) -> None:
        await disk.keep(keyed(1), keyed(2, "other"))
        for at in range(MOST_REPEATS + 5):
            assert await disk.write(Unit(repeats=(repeat(1, at),))) is None
        assert await disk.write(Unit(repeats=(repeat(2, 0), repeat(2, 1)))) is None
        records = await disk.spool.query("SELECT message, serial, kind, detail FROM record ORDER BY message, serial")
        assert [row[:3] for row in records if row[0] == 1] == [
            (1, serial, "repeated") for serial in range(1, MOST_REPEATS + 1)
        ]
        assert records[0][3] == '{"text": "again 0"}' and [row[1] for row in records if row[0] == 2] == [1, 2]

    run(tmp_path, main)


def test_a_key_of_what_was_refused_in_doubt_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has it, but its client was told 451: who asks for the key gets none, and may be the first again."""

    async def main(disk: Disk) -> None:
        def written_and_failed(connection: apsw.Connection, values: list[Any]) -> None:
            write_values(connection, values)
            raise apsw.IOError("sync")

        monkeypatch.setattr(spool_writer, "write_values", written_and_failed)
        monkeypatch.setattr(SqliteSpool, "_probe", lambda self: None)  # else it mends itself at once
        assert isinstance(await disk.write(Unit(messages=(keyed(1),))), SpoolBroken)
        assert await disk.spool.query("SELECT message FROM idempotency") == [(1,)]
        monkeypatch.setattr(spool_writer, "write_values", write_values)
        assert await disk.who() is None
        await disk.keep(keyed(2))
        assert await disk.who() == 2
        assert await disk.spool.query("SELECT id FROM message") == [(2,)]

    run(tmp_path, main)


def test_what_was_told_of_another_message_goes_with_what_was_refused_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounce that is passed on, and the record of it, come again: as long as it is not on record."""

    async def main(disk: Disk) -> None:
        def written_and_failed(connection: apsw.Connection, values: list[Any]) -> None:
            write_values(connection, values)
            raise apsw.IOError("sync")

        monkeypatch.setattr(SqliteSpool, "_probe", lambda self: None)  # else it mends itself at once
        first, letter = make_message(MessageId(1)), make_message(MessageId(2))
        first.notes = (Record(first.id, NOW, Kind.HOOK, None, (("text", "its own"),)),)
        letter.notes = (Record(first.id, NOW, Kind.BOUNCED_BACK, 0, (("bounce", "x"),)),)
        assert await disk.write(Unit(messages=(first,), notes=first.notes)) is None
        monkeypatch.setattr(spool_writer, "write_values", written_and_failed)
        assert isinstance(await disk.write(Unit(messages=(letter,), notes=letter.notes)), SpoolBroken)
        asked = "SELECT message, kind FROM record"
        assert await disk.spool.query(asked) == [(1, "hook"), (1, "bounced_back")]
        monkeypatch.setattr(spool_writer, "write_values", write_values)
        await disk.keep(make_message(MessageId(3)))
        assert await disk.spool.query(asked) == [(1, "hook")]

    run(tmp_path, main)
