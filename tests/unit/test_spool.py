"""The spool on a real disk: what it keeps, in which order, and what it says and does when the disk fails."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from pillarbox.adapters import spool_rows, spool_schema, spool_sqlite, spool_writer
from pillarbox.adapters.spool_reader import SqliteSpoolReader
from pillarbox.adapters.spool_rows import MOST_ROWS, unit_values
from pillarbox.adapters.spool_schema import VERSION, WORK_COLUMNS, SpoolVersion, open_spool
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import (
    BodyType,
    DeliverBy,
    Envelope,
    MailOptions,
    MessageId,
    Notify,
    RcptOptions,
    Recipient,
    Ret,
    ValidSince,
)
from pillarbox.core.message import HeaderView
from pillarbox.engine.mail import Change, Key, Leased, Message, Octets, Place, Rerouted, State, Told, Unit
from pillarbox.engine.ports import Spool, SpoolBroken, SpoolError, SpoolFull
from pillarbox.engine.predicate_parser import parse_predicate
from pillarbox.engine.records import Kind, Record
from tests.making import turns

NOW = 1_700_000_000.0
TEXT = b"Subject: x\r\n\r\nbody\r\n"
FULL = SpoolFull
BROKEN = SpoolBroken


def recipients(*addresses: str) -> tuple[Recipient, ...]:
    return tuple(Recipient(box, box) for box in map(Mailbox.parse, addresses))


def message(number: int = 1, *addresses: str, content: bytes | None = TEXT, large: bool = False) -> Message:
    return Message(
        id=MessageId(number),
        received_at=NOW,
        envelope=Envelope(Mailbox.parse("from@far.example"), recipients(*(addresses or ("to@example.test",)))),
        listener="mx",
        peer="192.0.2.9",
        helo="client.example",
        protocol="ESMTP",
        size=len(content or b""),
        header=HeaderView(3, "From", "Subject", "<id@x>", "a date"),
        octets=Octets.PLAIN,
        large=large,
        content=content,
    )


def change(
    number: int, recipient: int = 0, state: State = State.DELIVERED, *, due: float = NOW, tries: int = 1
) -> Change:
    return Change(MessageId(number), recipient, state, due, tries, "mx:example.test", "250 Ok", None)


def scheduled(number: int, due: float, *, recipient: int = 0) -> Unit:
    return Unit(changes=(change(number, recipient, State.SCHEDULED, due=due),))


class Disk:
    """A folder with a spool in it, opened as often as a test likes."""

    def __init__(self, root: Path) -> None:
        self.database = root / "spool-0.db"
        self.bodies = root / "bodies-0"
        self.spool: SqliteSpool

    async def open(self) -> SqliteSpool:
        self.spool = SqliteSpool(self.database, self.bodies, asyncio.get_running_loop())
        _: Spool = self.spool
        return self.spool

    async def restart(self) -> SqliteSpool:
        await self.spool.close()
        return await self.open()

    def write(self, unit: Unit, *, urgent: bool = True) -> asyncio.Future[SpoolError | None]:
        """Hand in; the future is the answer."""
        answer: asyncio.Future[SpoolError | None] = asyncio.get_running_loop().create_future()
        here = threading.get_ident()

        def done(error: SpoolError | None) -> None:
            assert threading.get_ident() == here
            answer.set_result(error)

        self.spool.write(unit, done, urgent=urgent)
        assert not answer.done()
        return answer

    async def keep(self, *messages: Message) -> None:
        for one in messages:
            assert await self.write(Unit(messages=(one,))) is None

    async def spill(self, number: int, octets: bytes) -> SpoolError | None:
        answer: asyncio.Future[SpoolError | None] = asyncio.get_running_loop().create_future()
        self.spool.spill(MessageId(number), octets, answer.set_result)
        return await answer

    async def text(self, of: Message) -> bytes:
        return b"".join([chunk async for chunk in self.spool.body(of)])

    async def rows(self, statement: str) -> list[Any]:
        return await self.spool.query(statement)

    async def ids(self) -> list[int]:
        return [number for (number,) in await self.rows("SELECT id FROM message ORDER BY id")]

    def logged(self) -> int:
        """Octets in the write-ahead log."""
        return Path(f"{self.database}-wal").stat().st_size

    def files(self) -> list[str]:
        return sorted(entry.name for entry in self.bodies.iterdir())


def name(number: int) -> str:
    return str(MessageId(number))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def run(disk: Disk, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """With a spool open."""

    async def opened() -> None:
        async with asyncio.timeout(30):
            await disk.open()
            try:
                await main()
            finally:
                await disk.spool.close()

    asyncio.run(opened())


# --- what goes in comes out


NEVER: frozenset[Notify] = frozenset()
FULL_RCPT_OPTIONS = RcptOptions(
    frozenset((Notify.SUCCESS, Notify.DELAY)), "utf-8;ö@x", ValidSince("2020-01-02T03:04:05Z", reject=True)
)
ODD = replace(
    message(7),
    received_at=NOW + 0.123456,
    envelope=Envelope(
        Mailbox.parse('"a \\"b\\"@c"@[IPv6:2001:db8::1]'),
        (
            Recipient(Mailbox.parse("Bob@far.example"), Mailbox.parse("alias@example.test")),
            Recipient(Mailbox.parse("x@[192.0.2.1]"), Mailbox.parse("x@[192.0.2.1]")),
            Recipient(
                Mailbox.parse("y@far.example"),
                Mailbox.parse("team@example.test"),
                Mailbox.parse('"the owner"@example.test'),
            ),
            *(recipient._replace(options=RcptOptions(notify=NEVER)) for recipient in recipients("z@far.example")),
            *(recipient._replace(options=FULL_RCPT_OPTIONS) for recipient in recipients("w@far.example")),
        ),
        BodyType.BINARY_MIME,
        MailOptions(Ret.HEADERS, "ünlucky id", True, True, DeliverBy(NOW + 9.5, True, True), -9, NOW + 5, "a@b.test"),
    ),
    header=HeaderView(5, "Ünïcode <x@y>", "", "<m@d>", "today"),
    octets=Octets.EIGHT_BIT | Octets.UTF8_HEADER | Octets.BINARY,
    protocol="SMTP",
    peer="2001:db8::2",
)
NULL_SENDER = replace(message(8), envelope=Envelope(None, recipients("to@example.test")), peer="", listener="local")


@pytest.mark.parametrize("given", [message(), ODD, NULL_SENDER], ids=["plain", "odd", "null"])
def test_a_message_comes_back_as_it_was(disk: Disk, given: Message) -> None:
    async def main() -> None:
        await disk.keep(given)
        spool = await disk.restart()
        ((found, rows, waiting),) = await spool.lease(NOW + 1, 10)
        assert waiting == 0
        assert [(row.number, row.recipient, row.attempts) for row in rows] == [
            (number, recipient, 0) for number, recipient in enumerate(given.envelope.recipients)
        ]
        assert found.content is None and await disk.text(found) == given.content
        for field in fields(Message):
            if field.name not in ("content", "header"):
                assert getattr(found, field.name) == getattr(given, field.name), field.name
        assert type(found.id) is MessageId and type(found.octets) is Octets and type(found.large) is bool
        assert found.header == given.header._replace(received=0)

    run(disk, main)


def test_a_text_in_memory_is_not_read_from_the_disk(disk: Disk) -> None:
    async def main() -> None:
        assert await disk.text(message(9)) == TEXT

    run(disk, main)


def test_what_was_accepted_is_leased_from_birth(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message())
        assert await disk.spool.lease(NOW + 1, 10) == []
        assert await disk.spool.next_due() is None

    run(disk, main)


def test_what_was_leased_is_due_after_a_restart(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message(1), message(2))
        spool = await disk.restart()
        assert len(await spool.lease(NOW + 1, 10)) == 2
        assert await spool.lease(NOW + 1, 10) == []
        spool = await disk.restart()
        assert len(await spool.lease(NOW + 1, 10)) == 2

    run(disk, main)


def numbers(leased: Sequence[Leased]) -> list[tuple[int, list[int], int]]:
    return [(int(one.message.id), [row.number for row in one.rows], one.waiting) for one in leased]


def test_leases_are_the_earliest_due_and_no_more_than_wanted(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message(1), message(2), message(3, "a@x.test", "b@x.test", "c@x.test"))
        for unit in (scheduled(1, NOW + 30), scheduled(2, NOW + 10)):
            assert await disk.write(unit) is None
        for recipient, due in enumerate((20.0, 5.0, 40.0)):
            assert await disk.write(scheduled(3, NOW + due, recipient=recipient)) is None
        spool = disk.spool
        assert await spool.next_due() == NOW + 5
        assert await spool.lease(NOW + 4, 10) == []
        assert numbers(await spool.lease(NOW + 30, 2)) == [(3, [1], 2), (2, [0], 0)]
        assert await spool.next_due() == NOW + 20
        assert numbers(await spool.lease(NOW + 30, 10)) == [(3, [0], 1), (1, [0], 0)]
        assert await spool.next_due() == NOW + 40
        ((_, (row,), waiting),) = await spool.lease(NOW + 40, 10)
        assert (row.number, row.attempts, waiting) == (2, 1, 0)

    run(disk, main)


def ranked(number: int, priority: int | None, *to: str, hold_until: float | None = None) -> Message:
    one = message(number, *(to or ("a@x.test",)))
    options = MailOptions(priority=priority, hold_until=hold_until)
    return replace(one, envelope=one.envelope._replace(options=options))


def test_leases_are_of_the_highest_priority_first(disk: Disk) -> None:
    """RFC 6710; of one priority the earliest, and none before it is due."""

    async def main() -> None:
        await disk.keep(
            ranked(1, None), ranked(2, -2), ranked(3, 5), ranked(4, 5), ranked(5, None), ranked(6, 9), ranked(7, -9)
        )
        dues = {1: 9, 2: 1, 3: 8, 4: 7, 5: 6, 6: 50, 7: 2}
        for number, due in dues.items():
            assert await disk.write(scheduled(number, NOW + due)) is None
        assert numbers(await disk.spool.lease(NOW + 10, 3)) == [(4, [0], 0), (3, [0], 0), (5, [0], 0)]
        assert await disk.spool.next_due() == NOW + 1
        assert numbers(await disk.spool.lease(NOW + 10, 10)) == [(1, [0], 0), (2, [0], 0), (7, [0], 0)]
        assert await disk.spool.next_due() == NOW + 50

    run(disk, main)


def test_every_recipient_has_the_priority_of_its_message(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(ranked(1, 4, "a@x.test", "b@x.test"), message(2, "a@x.test", "b@x.test"))
        found = await disk.rows("SELECT message, number, priority FROM recipient ORDER BY message, number")
        assert found == [(1, 0, 4), (1, 1, 4), (2, 0, 0), (2, 1, 0)]

    run(disk, main)


@pytest.mark.parametrize("rank", spool_rows._RANKS)
def test_leases_look_at_an_index_only_for_what_is_due(disk: Disk, rank: str) -> None:
    async def main() -> None:
        statement = f"SELECT message, number FROM recipient WHERE state = 0 AND {rank} LIMIT 500"
        plan = await disk.spool.query(f"EXPLAIN QUERY PLAN {statement}", (NOW,))
        index = "recipient_ranked" if "<>" in rank else "recipient_due"
        assert any(f"SEARCH recipient USING INDEX {index}" in row[-1].replace("COVERING ", "") for row in plan), plan

    run(disk, main)


def test_what_a_sender_was_told_comes_back(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message(1, "a@x.test", "b@x.test"))
        told = change(1, 1, State.SCHEDULED)._replace(told=Told.DELAY | Told.DEADLINE)
        assert await disk.write(Unit(changes=(change(1, 0, State.SCHEDULED), told))) is None
        spool = await disk.restart()
        ((_, rows, _),) = await spool.lease(NOW, 10)
        assert [row.told for row in rows] == [Told.NOTHING, Told.DELAY | Told.DEADLINE]
        assert type(rows[1].told) is Told

    run(disk, main)


def test_held_mail_is_stored_as_held_and_only_its_time_releases_it(disk: Disk) -> None:
    """RFC 4865: in one commit, through a restart, and not by an operator who wants all tried now."""

    async def main() -> None:
        held, usual = ranked(1, None, hold_until=NOW + 500), message(2)
        unit = Unit(messages=(held,), changes=(change(1, 0, State.SCHEDULED, due=NOW + 500, tries=0),))
        assert await disk.write(unit) is None
        await disk.keep(usual)
        assert await disk.write(scheduled(2, NOW + 600)) is None
        spool = await disk.restart()
        assert await spool.next_due() == NOW + 500
        assert numbers(await spool.lease(NOW + 499, 10)) == []
        assert numbers(await spool.lease(NOW + 500, 10)) == [(1, [0], 0)]

    run(disk, main)


def test_a_lease_sees_what_was_handed_in_before(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message(1))
        answer = disk.write(scheduled(1, NOW), urgent=False)
        assert numbers(await disk.spool.lease(NOW, 10)) == [(1, [0], 0)]
        assert await answer is None

    run(disk, main)


def test_a_change_and_its_records_are_written(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message(1, "a@x.test", "b@x.test"), message(2))
        records = (
            Record(MessageId(1), NOW, Kind.ATTEMPT, None, (("text", "MX of x.test: 10 mx"),)),
            Record(MessageId(1), NOW, Kind.DELIVERED, 0, (("text", "250 Ok"), ("due", 1.5))),
        )
        assert await disk.write(Unit(changes=(change(1), change(1, 1, State.FAILED)), records=records)) is None
        later = Record(MessageId(1), NOW + 1, Kind.NOTICE, None, (("text", "ö"),))
        assert await disk.write(Unit(records=(later, later._replace(message=MessageId(2))))) is None
        found = await SqliteSpoolReader(disk.spool).message(MessageId(1))
        assert found is not None and found.records == (*records, later)
        assert await disk.rows("SELECT number, state, due, attempts, lane, reply FROM recipient WHERE message = 1") == [
            (0, int(State.DELIVERED), NOW, 1, "mx:example.test", "250 Ok"),
            (1, int(State.FAILED), NOW, 1, "mx:example.test", "250 Ok"),
        ]

    run(disk, main)


def test_a_unit_may_hold_a_notice_a_change_and_an_end(disk: Disk) -> None:
    async def main() -> None:
        first = message(1)
        await disk.keep(first)
        unit = Unit((message(2),), (change(1, 0, State.FAILED),), (), (first,))
        assert await disk.write(unit, urgent=False) is None
        assert await disk.rows("SELECT message FROM body") == [(2,)]
        assert await disk.rows("SELECT message, state FROM recipient") == [(1, State.FAILED), (2, State.LEASED)]
        with pytest.raises(SpoolBroken):
            await disk.text(replace(first, content=None))

    run(disk, main)


def test_settled_messages_are_forgotten_by_their_age(disk: Disk) -> None:
    async def main() -> None:
        messages = [message(number, "a@x.test", "b@x.test") for number in (1, 2, 3, 4)]
        await disk.keep(*messages)
        for number in (1, 2, 4):
            record = Record(MessageId(number), NOW, Kind.DELIVERED, 0, ())
            last = change(number, 1, State.SCHEDULED if number == 2 else State.EXPIRED, due=NOW + number)
            both = (change(number), last)
            assert await disk.write(Unit((), both, (record,), (messages[number - 1],))) is None
        assert await disk.spool.forget(NOW + 4) == 1  # 2 and 3 are not settled, 4 was settled too late
        assert await disk.ids() == [2, 3, 4]
        for table in ("recipient", "record"):
            assert await disk.rows(f"SELECT 1 FROM {table} WHERE message = 1") == []
        assert await disk.spool.forget(NOW + 5) == 1
        assert await disk.spool.forget(NOW + 5) == 0

    run(disk, main)


def test_the_greatest_id_is_known_after_a_restart(disk: Disk) -> None:
    async def main() -> None:
        assert disk.spool.last_id == 0
        await disk.keep(message(9), message(1 << 59), message(5))
        assert (await disk.restart()).last_id == 1 << 59

    run(disk, main)


def test_what_waits_is_found_and_seen_without_being_taken(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(*(message(number, "a@x.test", "b@y.test", "c@x.test") for number in (1, 2)))
        held = Change(MessageId(2), 0, State.HELD, NOW, 4, "mx:x.test", "450 Later", None, Told.DELAY)
        way = Rerouted(MessageId(2), 0, "smtp://relay.test:25")
        assert await disk.write(scheduled(1, NOW + 50)) is None
        assert await disk.write(scheduled(2, NOW + 60, recipient=2)) is None
        assert await disk.write(Unit(changes=(held,), rerouted=(way,))) is None
        spool, wanted = disk.spool, parse_predicate("domain=x.test")
        first, second, third, fourth = await spool.find(wanted, NOW, Key(MessageId(0), -1), 9)
        assert (first, second, third, fourth) == ((1, 0), (1, 2), (2, 0), (2, 2))
        assert await spool.find(wanted, NOW, first, 2) == [second, third]
        assert await spool.find(wanted, NOW, fourth, 2) == []
        for _ in range(2):
            one, two = await spool.see([first, second, third], NOW)
            assert (one.message.id, one.waiting, [each.row.number for each in one.recipients]) == (1, 1, [0])
            (seen,) = two.recipients
            assert (two.message.id, two.waiting, seen.row.number, seen.row.next_hop) == (2, 2, 0, way.next_hop)
            assert (seen.state, seen.due, seen.row.attempts, seen.lane) == (State.HELD, NOW, 4, "mx:x.test")
            assert (seen.reply, seen.row.told, two.message.content) == ("450 Later", Told.DELAY, None)
        assert numbers(await spool.lease(NOW + 99, 10)) == [(1, [0], 0), (2, [2], 1)], "what is held stays"
        again = await disk.restart()
        assert numbers(await again.lease(NOW + 99, 10)) == [(1, [0, 1, 2], 0), (2, [1, 2], 1)]
        assert await disk.rows("SELECT message, number FROM recipient WHERE state = -1") == [(2, 0)]

    run(disk, main)


def test_a_recipient_is_leased_with_the_way_chosen_for_it(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message(1, "a@x.test", "b@x.test"))
        way = Rerouted(MessageId(1), 1, "discard")
        waits = tuple(change(1, number, State.SCHEDULED, due=NOW, tries=0) for number in (0, 1))
        assert await disk.write(Unit(changes=waits, rerouted=(way,))) is None
        ((_, rows, _),) = await disk.spool.lease(NOW, 10)
        assert [row.next_hop for row in rows] == [None, "discard"]

    run(disk, main)


# --- what waits in a place

A, B = Domain("a.example"), Domain("b.example")
TURN_A, TURN_B, SMTP_A = Place("turn:a.example", A), Place("turn:b.example", B), Place("smtp:host:25", A)
START = MessageId(0)


def waits(number: int, recipient: int, lane: str, due: float = NOW + 1000) -> Unit:
    return Unit(changes=(Change(MessageId(number), recipient, State.SCHEDULED, due, 0, lane, "kept", None),))


async def fill(disk: Disk) -> None:
    """1 and 3 wait for a, 2 and a part of 3 for b, 4 for a on another lane, 5 for others."""
    await disk.keep(
        message(1, "x@a.example"),
        message(2, "x@b.example"),
        message(3, "x@A.Example", "y@b.example", "z@a.example", "done@a.example"),
        message(4, "x@a.example"),
        message(5, "x@sub.a.example", "x@nota.example", "leased@a.example"),
    )
    for number, recipient, lane in (
        (1, 0, TURN_A.lane),
        (2, 0, TURN_B.lane),
        (3, 0, TURN_A.lane),
        (3, 1, TURN_B.lane),
        (3, 2, TURN_A.lane),
        (4, 0, SMTP_A.lane),
        (5, 0, TURN_A.lane),
        (5, 1, TURN_A.lane),
    ):
        assert await disk.write(waits(number, recipient, lane)) is None
    assert await disk.write(Unit(changes=(change(3, 3),))) is None


@pytest.mark.parametrize(
    ("places", "count"),
    [([TURN_A], 3), ([TURN_B], 2), ([SMTP_A], 1), ([TURN_A, TURN_B, SMTP_A], 6), ([Place("turn:c.example", A)], 0)],
)
def test_what_waits_is_counted(disk: Disk, places: list[Place], count: int) -> None:
    async def main() -> None:
        await fill(disk)
        assert await disk.spool.waiting_at(places) == count

    run(disk, main)


def test_what_waits_is_leased_oldest_first_due_or_not(disk: Disk) -> None:
    async def main() -> None:
        await fill(disk)
        spool = disk.spool
        assert numbers(await spool.lease_at([TURN_A, TURN_B], START, 100)) == [
            (1, [0], 0),
            (2, [0], 0),
            (3, [0, 1, 2], 0),
        ]
        assert await spool.lease_at([TURN_A, TURN_B], START, 100) == []
        assert await spool.waiting_at([TURN_A, TURN_B]) == 0
        assert numbers(await spool.lease_at([SMTP_A], START, 100)) == [(4, [0], 0)]
        spool = await disk.restart()
        assert await spool.waiting_at([TURN_A, TURN_B]) == 5  # what was taken waits again, in its place

    run(disk, main)


def test_a_lease_leaves_alone_what_waits_elsewhere(disk: Disk) -> None:
    async def main() -> None:
        await fill(disk)
        assert numbers(await disk.spool.lease_at([TURN_A], START, 100)) == [(1, [0], 0), (3, [0, 2], 1)]
        assert numbers(await disk.spool.lease_at([TURN_B], MessageId(2), 100)) == [(3, [1], 0)]

    run(disk, main)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_a_message_is_not_leased_in_part(disk: Disk, limit: int) -> None:
    """So whoever goes on behind the last message has missed nobody, and comes to an end."""

    async def main() -> None:
        addresses = [f"u{number}@a.example" for number in range(4)]
        await disk.keep(message(1, "x@a.example"), message(2, *addresses), message(3, "y@a.example"))
        for number, count in ((1, 1), (2, 4), (3, 1)):
            for recipient in range(count):
                assert await disk.write(waits(number, recipient, TURN_A.lane)) is None
        seen, after = [], START
        while leased := numbers(await disk.spool.lease_at([TURN_A], after, limit)):
            assert sum(len(mine) for _, mine, _ in leased) <= limit + 3
            seen += leased
            after = MessageId(leased[-1][0])
            for number, mine, _ in leased:  # none of them is delivered
                for recipient in mine:
                    assert await disk.write(waits(number, recipient, TURN_A.lane), urgent=False) is None
        assert seen == [(1, [0], 0), (2, [0, 1, 2, 3], 0), (3, [0], 0)]

    run(disk, main)


def test_what_waits_is_made_due_and_never_later_than_it_was(disk: Disk) -> None:
    async def main() -> None:
        await fill(disk)
        assert await disk.write(waits(1, 0, TURN_A.lane, NOW - 7)) is None
        assert await disk.spool.make_due_at([TURN_A], NOW) == 3
        dues = await disk.rows("SELECT message, number, due FROM recipient WHERE due <= 1700000000.0 AND state = 0")
        assert sorted(dues) == [(1, 0, NOW - 7), (3, 0, NOW), (3, 2, NOW)]
        assert await disk.spool.make_due_at([Place("turn:c.example", A)], NOW) == 0

    run(disk, main)


def test_how_deep_the_queue_is(disk: Disk) -> None:
    async def main() -> None:
        spool = disk.spool
        assert await spool.depth() == (0, None)
        await disk.keep(
            replace(message(1), received_at=NOW - 100), replace(message(2, "a@x.test", "b@x.test"), received_at=NOW)
        )
        assert await spool.depth() == (3, NOW - 100)
        assert await disk.write(Unit(changes=(change(1),))) is None
        assert await disk.write(scheduled(2, NOW + 5)) is None
        assert await spool.depth() == (2, NOW)
        assert await disk.write(Unit(changes=(change(2), change(2, 1, State.FAILED)))) is None
        assert await spool.depth() == (0, None)

    run(disk, main)


# --- large bodies


PIECES = (b"Subject: large\r\n\r\n", b"a" * 70_000 + b"\r\n", b"b" * 500_000 + b"\r\n")


async def keep_large(disk: Disk, number: int = 1) -> Message:
    for piece in PIECES:
        assert await disk.spill(number, piece) is None
    large = replace(message(number, content=b"the end\r\n", large=True), size=len(b"".join(PIECES)) + 9)
    await disk.keep(large)
    return large


def test_a_large_text_is_a_file_and_comes_back_in_pieces(disk: Disk) -> None:
    async def main() -> None:
        large = await keep_large(disk)
        assert large.content is None
        assert await disk.rows("SELECT 1 FROM body") == []
        chunks = [chunk async for chunk in disk.spool.body(large)]
        assert b"".join(chunks) == b"".join(PIECES) + b"the end\r\n"
        assert max(map(len, chunks)) <= spool_sqlite.READ_SIZE and len(chunks) > 1
        spool = await disk.restart()
        ((found, _, _),) = await spool.lease(NOW, 1)
        assert found.large and await disk.text(found) == b"".join(chunks)

    run(disk, main)


def test_the_file_goes_with_the_last_recipient(disk: Disk) -> None:
    async def main() -> None:
        large = await keep_large(disk)
        assert await disk.write(Unit(changes=(change(1),), finished=(large,))) is None
        await disk.restart()
        assert disk.files() == []

    run(disk, main)


def test_a_text_that_was_not_accepted_goes(disk: Disk) -> None:
    async def main() -> None:
        assert await disk.spill(1, b"x") is None
        assert disk.files() == [name(1)]
        disk.spool.unspill(MessageId(1))
        disk.spool.unspill(MessageId(2))  # nothing was spilled of it
        await disk.restart()
        assert disk.files() == []

    run(disk, main)


def test_leftovers_are_removed_at_the_start_and_nothing_else(disk: Disk) -> None:
    async def main() -> None:
        await keep_large(disk, 1)
        await keep_large(disk, 2)
        assert await disk.write(Unit(changes=(change(2),))) is None  # settled; a crash came before the file went
        assert await disk.spill(3, b"x") is None  # a crash came before its message was accepted
        (disk.bodies / "something").touch()
        await disk.restart()
        assert disk.files() == [name(1)]

    run(disk, main)


def test_a_file_that_is_not_whole_is_a_fault(disk: Disk) -> None:
    async def main() -> None:
        large = await keep_large(disk)
        os.truncate(disk.bodies / name(1), 100)
        with pytest.raises(SpoolBroken, match="ends at 100 of"):
            await disk.text(large)
        (disk.bodies / name(1)).unlink()
        with pytest.raises(SpoolBroken):
            await disk.text(large)

    run(disk, main)


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


FAULTS = [(errno.ENOSPC, SpoolFull), (errno.EDQUOT, SpoolFull), (errno.EIO, SpoolBroken)]


@pytest.mark.parametrize(("number", "kind"), FAULTS)
@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync"])
def test_a_large_text_meets_a_fault(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[SpoolError]
) -> None:
    async def main() -> None:
        if call == "write":
            with monkeypatch.context() as patch:
                patch.setattr(os, call, failing(number))
                assert type(await disk.spill(1, b"x")) is kind
        assert await disk.spill(1, b"x") is None
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(number))
            answer = await disk.write(Unit(messages=(message(1, large=True),)))
        assert type(answer) is kind
        assert await disk.ids() == []
        await disk.keep(message(2))

    run(disk, main)


# --- commits


class Gate:
    """Stands between the writer and its file: counts the statements of commits, holds them up, makes them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[int] = []  # the rows of each
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.faults: list[Exception | None] = []  # of the statements to come
        self.fault_behind = False  # the next commit is done, and yet reported as a fault
        monkeypatch.setattr(spool_writer, "open_spool", self._opened)

    def _opened(self, path: Path) -> apsw.Connection:
        connection = open_spool(path)
        connection.set_exec_trace(self._before)
        connection.set_wal_hook(self._behind)
        return connection

    def _before(self, cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        if sql.startswith("INSERT INTO work"):
            self.statements.append(sum(kind is not None for kind in values[::WORK_COLUMNS]))
            self.reached.set()
            assert self.open.wait(30)
            if self.faults and (fault := self.faults.pop(0)) is not None:
                raise fault
        return True

    def _behind(self, connection: apsw.Connection, database: str, pages: int) -> int:
        fault, self.fault_behind = self.fault_behind, False
        return apsw.SQLITE_IOERR if fault else apsw.SQLITE_OK

    async def hold(self, disk: Disk, number: int = 900) -> asyncio.Future[SpoolError | None]:
        """Let the writer begin a commit and hold it there."""
        self.open.clear()
        self.reached.clear()
        answer = disk.write(Unit(messages=(message(number),)))
        await asyncio.to_thread(self.reached.wait, 30)
        self.statements.clear()
        return answer


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_what_comes_during_a_commit_goes_into_the_next_one(disk: Disk, gate: Gate) -> None:
    async def main() -> None:
        first = await gate.hold(disk)
        order: list[int] = []
        answers = [disk.write(Unit(messages=(message(number),))) for number in range(1, 101)]
        for number, answer in enumerate(answers):
            answer.add_done_callback(_noting(order, number))
        await asyncio.to_thread(lambda: None)  # a turn of the loop hands them in
        assert not first.done()
        gate.open.set()
        assert await first is None
        assert set(await asyncio.gather(*answers)) == {None}
        assert gate.statements == [100]
        assert order == list(range(100))
        assert len(await disk.ids()) == 101

    run(disk, main)


def _noting(order: list[int], number: int) -> Callable[[object], None]:
    return lambda _: order.append(number)


def test_units_that_nobody_waits_for_go_together(disk: Disk, gate: Gate) -> None:
    async def main() -> None:
        await disk.keep(*(message(number) for number in range(1, 11)))
        gate.statements.clear()
        answers = [disk.write(Unit(changes=(change(number),)), urgent=False) for number in range(1, 11)]
        assert set(await asyncio.gather(*answers)) == {None}
        assert gate.statements == [10]

    run(disk, main)


def test_a_unit_with_a_fault_of_its_own_fails_alone(disk: Disk, gate: Gate) -> None:
    async def main() -> None:
        units = [message(1), message(2), message(1), message(3), replace(message(4), content="no octets")]  # type: ignore[arg-type]
        answers = [disk.write(Unit(messages=(one,))) for one in units]
        found = await asyncio.gather(*answers)
        assert [type(one) for one in found] == [type(None), type(None), SpoolBroken, type(None), SpoolBroken]
        assert gate.statements[0] == 5  # together first, then one by one
        assert await disk.ids() == [1, 2, 3]
        assert await disk.rows("SELECT count(*) FROM recipient") == [(3,)]

    run(disk, main)


@pytest.mark.parametrize("count", [1, 6, 7, 8, 9, 15, 16, 17, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS])
def test_any_number_of_rows_is_written(disk: Disk, gate: Gate, count: int) -> None:
    async def main() -> None:
        addresses = [f"u{number}@example.test" for number in range(count)]
        await disk.keep(message(1, *addresses))
        assert sum(gate.statements) == count and max(gate.statements) <= MOST_ROWS
        assert await disk.rows("SELECT address FROM recipient ORDER BY number") == [(one,) for one in addresses]
        assert await disk.rows("SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM body)") == [(1, 1)]

    run(disk, main)


def test_every_row_has_all_columns() -> None:
    large = message(2, large=True)
    unit = Unit(
        (message(1), ODD), (change(1),), (Record(MessageId(1), NOW, Kind.ROUTED, None, ()),), (message(3), large)
    )
    kinds = unit_values(unit)[::WORK_COLUMNS]
    assert len(unit_values(unit)) % WORK_COLUMNS == 0
    assert all(isinstance(kind, int) and kind > 0 for kind in kinds)


def test_a_message_of_many_rows_is_there_whole_or_not_at_all(disk: Disk, gate: Gate) -> None:
    async def main() -> None:
        gate.faults = [None, apsw.FullError("full")]
        many = message(1, *(f"u{number}@example.test" for number in range(2 * MOST_ROWS)))
        assert type(await disk.write(Unit(messages=(many,)))) is SpoolFull
        assert await disk.rows("SELECT 1 FROM message UNION SELECT 1 FROM recipient UNION SELECT 1 FROM body") == []
        await disk.keep(many)

    run(disk, main)


def test_what_was_answered_survives_a_power_cut(disk: Disk, tmp_path: Path) -> None:
    """A copy of the files at that moment, without what is in memory only, stands for the disk after it."""

    async def main() -> None:
        await disk.keep(message(1))
        large = await keep_large(disk, 2)
        after = tmp_path / "after"
        after.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{disk.database}{suffix}", after)
        shutil.copytree(disk.bodies, after / "bodies-0")
        other = Disk(after)
        await other.open()
        try:
            assert numbers(await other.spool.lease(NOW, 10)) == [(1, [0], 0), (2, [0], 0)]
            assert len(await other.text(large)) == large.size
        finally:
            await other.spool.close()

    run(disk, main)


def test_close_commits_what_was_handed_in(disk: Disk) -> None:
    async def main() -> None:
        answers = [disk.write(Unit(messages=(message(number),)), urgent=number % 2 == 0) for number in (1, 2, 3)]
        assert await disk.spill(4, b"x") is None
        answers.append(disk.write(Unit(messages=(replace(message(4), large=True),))))
        await disk.spool.close()
        assert [answer.result() for answer in answers] == [None] * 4
        await disk.open()
        assert await disk.ids() == [1, 2, 3, 4]

    run(disk, main)


def test_close_tells_everybody_also_behind_the_end_of_a_large_message(disk: Disk) -> None:
    async def main() -> None:
        large = await keep_large(disk)
        await disk.keep(message(2))
        answers = [
            disk.write(Unit(changes=(change(1),), finished=(large,))),
            disk.write(Unit(changes=(change(2),))),
        ]
        await disk.spool.close()
        assert [answer.done() for answer in answers] == [True, True]
        await disk.open()
        assert disk.files() == []

    run(disk, main)


def test_the_log_of_the_database_is_bounded(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(spool_writer, "CHECKPOINT_OCTETS", 1024 * 1024)
        for start in range(1, 201, 20):
            texts = [message(number, content=b"x" * 100_000) for number in range(start, start + 20)]
            answers = [disk.write(Unit(messages=(one,))) for one in texts]
            assert set(await asyncio.gather(*answers)) == {None}
        assert disk.logged() < 8 * 1024 * 1024

    run(disk, main)


def test_a_callback_that_fails_harms_no_other(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        def broken(error: SpoolError | None) -> None:
            raise ZeroDivisionError

        disk.spool.write(Unit(messages=(message(1),)), broken)
        assert await disk.write(Unit(messages=(message(2),))) is None

    run(disk, main)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_errand_that_is_given_up_harms_nothing(disk: Disk, gate: Gate) -> None:
    async def main() -> None:
        first = await gate.hold(disk)
        errand = asyncio.create_task(disk.spool.errand(lambda connection: None))
        await asyncio.to_thread(lambda: None)
        errand.cancel()
        with pytest.raises(asyncio.CancelledError):
            await errand
        gate.open.set()
        assert await first is None
        async with asyncio.timeout(2):
            await disk.keep(message(1))

    run(disk, main)


def test_an_errand_that_fails_changes_nothing(disk: Disk) -> None:
    async def main() -> None:
        def fail(connection: apsw.Connection) -> None:
            connection.execute("INSERT INTO body VALUES (1, x'00')")
            connection.execute("INSERT INTO body VALUES (1, x'00')")

        with pytest.raises(SpoolBroken):
            await disk.spool.errand(fail)
        assert await disk.rows("SELECT 1 FROM body") == []
        with pytest.raises(SpoolBroken):
            await disk.rows("SELECT 1 FROM nothing")
        await disk.keep(message(1))

    run(disk, main)


# --- the disk fails


BREAKING = [apsw.IOError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError]


@pytest.mark.parametrize(("fault", "kind"), [(apsw.FullError, FULL), *((fault, BROKEN) for fault in BREAKING)])
def test_a_commit_that_meets_a_fault_of_the_disk_is_refused_as_a_whole(
    disk: Disk, gate: Gate, fault: type[Exception], kind: type[SpoolError]
) -> None:
    async def main() -> None:
        first = await gate.hold(disk)
        answers = [disk.write(Unit(messages=(message(number),))) for number in (1, 2, 3)]
        await asyncio.to_thread(lambda: None)
        gate.faults = [None, fault("no")]
        gate.open.set()
        assert await first is None
        assert [type(answer) for answer in await asyncio.gather(*answers)] == [kind] * 3
        await disk.keep(message(4))
        assert await disk.ids() == [4, 900]

    run(disk, main)


def test_what_was_refused_though_it_reached_the_disk_is_not_there_afterwards(
    disk: Disk, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await disk.keep(message(1))
        gate.fault_behind = True
        unit = Unit((message(2),), (change(1, 0, State.SCHEDULED, due=NOW + 5),))
        with monkeypatch.context() as patch:
            patch.setattr(spool_writer, "open_spool", _cannot_open)
            assert type(await disk.write(unit)) is SpoolBroken
            assert await disk.ids() == [1, 2]  # as a reader sees it, until the writer has opened the file again
        await disk.keep(message(3))
        assert await disk.ids() == [1, 3]
        for table in ("body", "recipient"):
            assert await disk.rows(f"SELECT message FROM {table} ORDER BY 1") == [(1,), (3,)]

    run(disk, main)


def test_a_restart_before_the_file_was_opened_again_gives_a_duplicate_and_no_loss(
    disk: Disk, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate.fault_behind = True
        with monkeypatch.context() as patch:
            patch.setattr(spool_writer, "open_spool", _cannot_open)
            assert type(await disk.write(Unit(messages=(message(1),)))) is SpoolBroken
            await disk.spool.close()
        spool = await disk.open()
        assert numbers(await spool.lease(NOW, 10)) == [(1, [0], 0)]

    run(disk, main)


def test_a_file_that_cannot_be_opened_again_is_tried_at_each_commit(
    disk: Disk, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate.faults = [apsw.IOError("gone")]
        with monkeypatch.context() as patch:
            patch.setattr(spool_writer, "open_spool", _cannot_open)
            for number in (1, 2, 3):
                assert type(await disk.write(Unit(messages=(message(number),)))) is SpoolBroken
            with pytest.raises(SpoolBroken):
                await disk.spool.lease(NOW, 10)
        await disk.keep(message(4))
        assert await disk.ids() == [4]

    run(disk, main)


def _cannot_open(path: Path) -> apsw.Connection:
    raise apsw.CantOpenError("still gone")


def test_what_is_written_at_a_second_try_stays(disk: Disk, gate: Gate) -> None:
    """A notice is written again with the id it has; a fault that comes later must not take it away."""

    async def main() -> None:
        notice = message(1)
        gate.faults = [apsw.FullError("full")]
        assert type(await disk.write(Unit(messages=(notice,)), urgent=False)) is SpoolFull
        assert await disk.write(Unit(messages=(notice,)), urgent=False) is None
        gate.faults = [apsw.IOError("fsync")]
        assert type(await disk.write(Unit(messages=(message(2),)))) is SpoolBroken
        await disk.keep(message(3))
        assert await disk.ids() == [1, 3]

    run(disk, main)


# --- what is known of the disk before anything is written


class Statvfs:
    """So many octets free, or a fault; counts how often it was looked at."""

    def __init__(self, free: int | OSError) -> None:
        self.free = free
        self.looked = 0

    def __call__(self, path: object) -> Any:
        self.looked += 1
        if isinstance(self.free, OSError):
            raise self.free
        return SimpleNamespace(f_bavail=self.free // 512, f_frsize=512)


@pytest.mark.parametrize(
    ("free", "octets", "kind"),
    [
        (10_240, 0, None),
        (10_240, 9216, None),
        (10_240, 9217, FULL),
        (1024, 0, None),
        (512, 0, FULL),
        (0, 0, FULL),
        (10_240, 10**20, FULL),
        (OSError(errno.EIO, "Input/output error"), 0, BROKEN),
        (OSError(errno.ENOENT, "No such file or directory"), 0, BROKEN),
    ],
)
def test_a_message_for_which_there_is_no_room_is_refused_before_it_comes(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, free: int | OSError, octets: int, kind: type[SpoolError] | None
) -> None:
    async def main() -> None:
        disk.spool.reserve = 1024
        monkeypatch.setattr(os, "statvfs", Statvfs(free))
        refusal = disk.spool.refuses(octets)
        assert refusal is None if kind is None else type(refusal) is kind

    run(disk, main)


def test_the_disk_is_not_looked_at_for_each_message(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        look = Statvfs(10_240)
        monkeypatch.setattr(os, "statvfs", look)
        assert [disk.spool.refuses(octets) is None for octets in (0, 10_000, 20_000, 0)] == [True, True, False, True]
        assert look.looked == 1
        monkeypatch.setattr(spool_sqlite, "LOOK_AT_DISK", 0.0)
        assert disk.spool.refuses(0) is None and look.looked == 2

    run(disk, main)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await turns(1)


def is_broken(disk: Disk) -> bool:
    return type(disk.spool.refuses(0)) is SpoolBroken


def test_a_disk_that_failed_once_refuses_nothing(disk: Disk, gate: Gate) -> None:
    async def main() -> None:
        gate.faults = [apsw.IOError("EIO")]
        assert type(await disk.write(Unit(messages=(message(1),)))) is SpoolBroken
        await disk.spool.next_due()
        assert not is_broken(disk)
        await disk.keep(message(2))

    run(disk, main)


def test_a_disk_that_goes_on_failing_refuses_until_it_is_mended(
    disk: Disk, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(spool_sqlite, "TRY_AGAIN", 0.001)
        tries: list[Path] = []

        def cannot_open(path: Path) -> apsw.Connection:
            tries.append(path)
            return _cannot_open(path)

        with monkeypatch.context() as patch:
            patch.setattr(spool_writer, "open_spool", cannot_open)
            gate.faults = [apsw.IOError("EIO")]
            assert type(await disk.write(Unit(messages=(message(1),)))) is SpoolBroken
            await until(lambda: is_broken(disk))
            await until(lambda: len(tries) > 3)
            assert is_broken(disk)
        await until(lambda: not is_broken(disk))  # by its own tries: nobody else writes
        assert await disk.ids() == []

    run(disk, main)


def test_a_commit_that_succeeds_mends_it_at_once(disk: Disk, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(spool_sqlite, "TRY_AGAIN", 3600.0)
        with monkeypatch.context() as patch:
            patch.setattr(spool_writer, "open_spool", _cannot_open)
            gate.faults = [apsw.IOError("EIO")]
            assert type(await disk.write(Unit(messages=(message(1),)))) is SpoolBroken
            await until(lambda: is_broken(disk))
        await disk.keep(message(2))
        assert not is_broken(disk)

    run(disk, main)


def test_a_unit_with_a_fault_of_its_own_breaks_no_disk(disk: Disk) -> None:
    async def main() -> None:
        await disk.keep(message(1))
        assert type(await disk.write(Unit(messages=(message(1),)))) is SpoolBroken  # an id that is taken
        await disk.spool.next_due()
        assert not is_broken(disk)

    run(disk, main)


def test_a_full_disk_is_not_a_broken_one(disk: Disk, gate: Gate) -> None:
    async def main() -> None:
        gate.faults = [apsw.FullError("full")]
        assert type(await disk.write(Unit(messages=(message(1),)))) is SpoolFull
        assert disk.spool.refuses(0) is None  # as far as statvfs tells

    run(disk, main)


def test_a_close_of_a_broken_disk_ends(disk: Disk, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(spool_sqlite, "TRY_AGAIN", 0.0)
        monkeypatch.setattr(spool_writer, "open_spool", _cannot_open)
        gate.faults = [apsw.IOError("EIO")]
        assert type(await disk.write(Unit(messages=(message(1),)))) is SpoolBroken

    run(disk, main)


# --- copies


def test_a_copy_can_be_used_though_the_spool_works_on(disk: Disk, tmp_path: Path) -> None:
    async def main() -> None:
        await disk.keep(message(1))
        large = await keep_large(disk, 2)
        await keep_large(disk, 3)
        assert await disk.write(Unit(changes=(change(3),))) is None
        target = tmp_path / "copy"
        target.mkdir()
        answers = []

        async def copying() -> int:
            return await disk.spool.copy_to(target / "spool-0.db", target / "bodies-0")

        task = asyncio.create_task(copying())
        for number in range(10, 40):
            answers.append(disk.write(Unit(messages=(message(number),))))
            await answers[-1]
        answers.append(disk.write(Unit(changes=(change(2),), finished=(large,))))
        assert await task == 1
        assert set(await asyncio.gather(*answers)) == {None}
        copied = Disk(target)
        await copied.open()
        try:
            assert {1, 2, 3} <= set(await copied.ids())
            assert copied.files() == [name(2)]
            assert len(await copied.text(replace(large, content=None))) == large.size
        finally:
            await copied.spool.close()

    run(disk, main)


def test_a_text_that_ends_during_a_copy_goes_behind_it(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        large = await keep_large(disk)
        target = tmp_path / "copy"
        target.mkdir()
        copied = threading.Event()
        going_on = threading.Event()
        copy_database = disk.spool._copy_database

        def slow(path: Path) -> None:
            copy_database(path)
            copied.set()
            assert going_on.wait(30)

        monkeypatch.setattr(disk.spool, "_copy_database", slow)
        task = asyncio.create_task(disk.spool.copy_to(target / "spool-0.db", target / "bodies-0"))
        await asyncio.to_thread(copied.wait, 30)
        assert await disk.write(Unit(changes=(change(1),), finished=(large,))) is None
        going_on.set()
        assert await task == 1
        assert (target / "bodies-0" / name(1)).stat().st_size == large.size
        await disk.restart()
        assert disk.files() == []

    run(disk, main)


# --- versions


@pytest.mark.parametrize("version", [VERSION + 1, 99])
def test_a_file_of_another_version_is_refused(disk: Disk, version: int) -> None:
    run(disk, _nothing)
    connection = apsw.Connection(str(disk.database))
    connection.pragma("user_version", version)
    connection.close()
    with pytest.raises(SpoolVersion, match=f"schema version {version}"):
        run(disk, _nothing)


def test_a_database_of_somebody_else_is_refused(disk: Disk) -> None:
    connection = apsw.Connection(str(disk.database))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(SpoolVersion):
        run(disk, _nothing)


async def _nothing() -> None:
    pass


def test_the_file_is_opened_safely(disk: Disk) -> None:
    async def main() -> None:
        found: dict[str, Any] = {}

        def look(connection: apsw.Connection) -> None:
            for pragma in ("journal_mode", "synchronous", "auto_vacuum", "user_version", "wal_autocheckpoint"):
                found[pragma] = connection.pragma(pragma)

        await disk.spool.errand(look)
        assert found == {
            "journal_mode": "wal",
            "synchronous": 2,
            "auto_vacuum": 2,
            "user_version": VERSION,
            "wal_autocheckpoint": 0,
        }
        assert spool_rows.MOST_ROWS % spool_rows._STEP == 0

    run(disk, main)


# --- the first version

FIRST = """
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    received_at REAL NOT NULL,
    sender TEXT,
    body_type TEXT NOT NULL,
    listener TEXT NOT NULL,
    peer TEXT NOT NULL,
    helo TEXT NOT NULL,
    protocol TEXT NOT NULL,
    size INTEGER NOT NULL,
    eight_bit INTEGER NOT NULL,
    large INTEGER NOT NULL,
    header_from TEXT NOT NULL,
    header_subject TEXT NOT NULL,
    header_message_id TEXT NOT NULL,
    header_date TEXT NOT NULL
) STRICT;
CREATE TABLE body (message INTEGER PRIMARY KEY, octets BLOB NOT NULL) STRICT;
CREATE TABLE recipient (
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,
    address TEXT NOT NULL,
    original TEXT,
    lane TEXT NOT NULL,
    state INTEGER NOT NULL,
    due REAL NOT NULL,
    attempts INTEGER NOT NULL,
    reply TEXT NOT NULL,
    PRIMARY KEY (message, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (due) WHERE state = 0;
CREATE TABLE record (
    message INTEGER NOT NULL,
    serial INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    recipient INTEGER,
    detail TEXT NOT NULL,
    PRIMARY KEY (message, serial)
) STRICT, WITHOUT ROWID;
CREATE VIEW work AS SELECT 0 AS kind, NULL AS a, NULL AS b, NULL AS c, NULL AS d, NULL AS e, NULL AS f, NULL AS g,
    NULL AS h, NULL AS i, NULL AS j, NULL AS k, NULL AS l, NULL AS m, NULL AS n, NULL AS o, NULL AS p, NULL AS q,
    NULL AS r;
CREATE TRIGGER work_message INSTEAD OF INSERT ON work WHEN NEW.kind = 1 BEGIN
    INSERT INTO message VALUES (NEW.a, NEW.b, NEW.c, NEW.d, NEW.e, NEW.f, NEW.g, NEW.h, NEW.i, NEW.j, NEW.k, NEW.l,
        NEW.m, NEW.n, NEW.o);
    INSERT INTO body SELECT NEW.a, NEW.p WHERE NEW.p IS NOT NULL;
    INSERT INTO recipient VALUES (NEW.a, 0, NEW.q, NEW.r, '', 1, NEW.b, 0, '');
END;
"""
WHAT_WAS = """
INSERT INTO message VALUES (7, 1700000000.5, 'from@far.example', '7BIT', 'mx', '192.0.2.9', 'client.example', 'ESMTP',
    24, 0, 0, 'From', 'Subject', '<id@x>', 'a date');
INSERT INTO body VALUES (7, CAST('Subject: old' AS BLOB));
INSERT INTO recipient VALUES (7, 0, 'alice@example.test', 'staff@example.test', 'mx:example.test', 0, 1700000009.0, 3,
    'later');
INSERT INTO recipient VALUES (7, 1, 'bob@example.test', NULL, '', 1, 1700000000.5, 0, '');
INSERT INTO record VALUES (7, 1, 1700000001.0, 'deferred', 0, '{"text": "later"}');
"""


def make_first(path: Path) -> bytes:
    """A file of the first version; gives its octets."""
    connection = apsw.Connection(str(path))
    connection.pragma("auto_vacuum", 2)
    connection.pragma("journal_mode", "wal")
    connection.execute(FIRST + WHAT_WAS)
    connection.pragma("user_version", 1)
    connection.close()
    return path.read_bytes()


def schema(path: Path) -> list[tuple[str, str]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found: list[Any] = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    connection.close()
    return [(name, re.sub(r"--[^\n]*|\s+", " ", sql or "").replace(" ", "")) for name, sql in found]


def test_a_file_of_the_first_version_is_upgraded_behind_a_copy(disk: Disk) -> None:
    make_first(disk.database)

    async def main() -> None:
        ((found, rows, waiting),) = await disk.spool.lease(NOW + 10, 10)
        alice, staff, bob = map(Mailbox.parse, ("alice@example.test", "staff@example.test", "bob@example.test"))
        assert [(row.number, row.recipient, row.attempts) for row in rows] == [
            (0, Recipient(alice, staff), 3),
            (1, Recipient(bob, bob), 0),
        ]
        assert (found.id, found.received_at, waiting) == (7, NOW + 0.5, 0)
        assert await disk.text(found) == b"Subject: old"
        records = await SqliteSpoolReader(disk.spool).message(MessageId(7))
        assert records is not None and [record.kind for record in records.records] == [Kind.DEFERRED]
        owner = Mailbox.parse("team-owner@example.test")
        new = replace(message(8), envelope=Envelope(None, (Recipient(alice, staff, owner),)))
        await disk.keep(new)
        spool = await disk.restart()
        leased = await spool.lease(NOW + 10, 10)
        owners = {int(each.message.id): [row.recipient.owner for row in each.rows] for each in leased}
        assert owners == {7: [None, None], 8: [owner]}

    run(disk, main)
    copy = apsw.Connection(f"{disk.database}.v1", flags=apsw.SQLITE_OPEN_READONLY)
    assert copy.pragma("user_version") == 1
    assert copy.execute("SELECT count(*) FROM recipient").fetchall() == [(2,)]
    copy.close()


def test_an_upgraded_file_is_as_a_new_one(disk: Disk, tmp_path: Path) -> None:
    make_first(disk.database)
    open_spool(disk.database).close()
    open_spool(tmp_path / "new.db").close()
    upgraded, new = dict(schema(disk.database)), dict(schema(tmp_path / "new.db"))
    table = upgraded.pop("recipient"), new.pop("recipient")
    assert upgraded == new
    assert "ownerTEXT" in table[0] and "ownerTEXT" in table[1]
    with closing(apsw.Connection(str(disk.database))) as one, closing(apsw.Connection(str(tmp_path / "new.db"))) as two:
        columns = [[row[1:6] for row in each.execute("PRAGMA table_info(recipient)")] for each in (one, two)]
        assert columns[0] == columns[1]
        assert one.pragma("user_version") == two.pragma("user_version") == VERSION


def test_half_a_copy_of_an_upgrade_that_was_cut_off_does_not_count(disk: Disk) -> None:
    make_first(disk.database)
    half = disk.database.with_name(f"{disk.database.name}.v1")
    half.write_bytes(b"SQLite format 3\0 and no more")
    open_spool(disk.database).close()
    with closing(apsw.Connection(f"{half}-2", flags=apsw.SQLITE_OPEN_READONLY)) as copy:
        assert copy.execute("SELECT count(*) FROM recipient").fetchall() == [(2,)]


def test_an_upgrade_that_fails_changes_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    make_first(disk.database)
    with monkeypatch.context() as patch:
        patch.setitem(spool_schema._UPGRADES, 1, spool_schema._UPGRADES[1] + "INSERT INTO nowhere VALUES (1);")
        with pytest.raises(apsw.SQLError):
            open_spool(disk.database)
    with closing(apsw.Connection(str(disk.database))) as connection:
        assert connection.pragma("user_version") == 1
        assert "owner" not in [row[1] for row in connection.execute("PRAGMA table_info(recipient)")]
    open_spool(disk.database).close()
    with closing(apsw.Connection(str(disk.database))) as connection:
        assert connection.pragma("user_version") == VERSION
