"""The operator's questions: each filter alone, together, and what a row and a message say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pillarbox.adapters.spool_reader import SqliteSpoolReader
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.inspection import Extent, RecipientRow, SpoolReader
from pillarbox.engine.mail import Change, Message, Octets, State, Unit
from pillarbox.engine.ports import SpoolBroken, SpoolError
from pillarbox.engine.predicate_parser import parse_predicate
from pillarbox.engine.records import Kind, Record

NOW = 1_700_000_000.0
TEXT = b"Subject: x\r\n\r\nbody\r\n"
LATER = NOW + 100


def message(number: int, sender: str | None, *recipients: tuple[str, str]) -> Message:
    return Message(
        id=MessageId(number),
        received_at=NOW + number,
        envelope=Envelope(
            Mailbox.parse(sender) if sender else None,
            tuple(Recipient(Mailbox.parse(address), Mailbox.parse(original)) for address, original in recipients),
        ),
        listener="mx",
        peer="192.0.2.9",
        helo="client.example",
        protocol="ESMTP",
        size=len(TEXT),
        header=HeaderView(0, "", "Grüße", "<id@x>", ""),
        octets=Octets.EIGHT_BIT,
        large=False,
        content=TEXT,
    )


MESSAGES = (
    message(1, "Ann@one.test", ("Bob@Far.example", "Bob@Far.example"), ("carol@sub.far.example", "team@here.test")),
    message(2, None, ("bob@other.example", "bob@other.example")),
    message(3, "ann@one.test", ("eve@far.example", "eve@far.example")),
)
CHANGES = (
    Change(MessageId(1), 0, State.SCHEDULED, NOW + 50, 2, "mx:far.example", "450 Later", None),
    Change(MessageId(2), 0, State.SCHEDULED, NOW + 60, 0, "", "", None),
    Change(MessageId(3), 0, State.FAILED, NOW + 70, 1, "mx:far.example", "550 No", None),
)


async def fill(spool: SqliteSpool, *units: Unit) -> None:
    for unit in units:
        answer: asyncio.Future[SpoolError | None] = asyncio.get_running_loop().create_future()
        spool.write(unit, answer.set_result)
        assert await answer is None


def ask(root: Path, main: Callable[[SqliteSpool, SpoolReader], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        async with asyncio.timeout(30):
            spool = SqliteSpool(root / "spool-0.db", root / "bodies-0", asyncio.get_running_loop())
            try:
                await fill(spool, *(Unit(messages=(one,)) for one in MESSAGES), Unit(changes=CHANGES))
                await main(spool, SqliteSpoolReader(spool))
            finally:
                await spool.close()

    asyncio.run(opened())


FOUND: list[tuple[str, list[tuple[int, int]]]] = [
    ("", [(1, 0), (1, 1), (2, 0)]),
    ("state=any", [(1, 0), (1, 1), (2, 0), (3, 0)]),
    ("state=active", [(1, 1)]),
    ("state=failed or state=expired", [(3, 0)]),
    ("not state=any", []),
    ("state=any attempts>=1", [(1, 0), (3, 0)]),
    ("state=deferred", [(1, 0)]),
    ("state=any attempts=2", [(1, 0)]),
    (f"id={MessageId(1)}", [(1, 0), (1, 1)]),
    (f"id={MessageId(9)}", []),
    ("state=any sender=ANN@ONE.test", [(1, 0), (1, 1), (3, 0)]),
    ("sender=<>", [(2, 0)]),
    ("sender=ann@two.test", []),
    ("sender=ann@*", [(1, 0), (1, 1)]),
    ("recipient=bob@far.EXAMPLE", [(1, 0)]),
    ("recipient=Team@here.test", [(1, 1)]),
    ("recipient=carol@sub.far.example", [(1, 1)]),
    ("recipient=b?b@*", [(1, 0), (2, 0)]),
    ("state=any domain=FAR.example", [(1, 0), (3, 0)]),
    ("state=any domain=*far.example", [(1, 0), (1, 1), (3, 0)]),
    ("domain=here.test", []),  # of the address, not of what RCPT said
    ("domain=ar.example", []),
    ("state=any lane=MX:far.example", [(1, 0), (3, 0)]),
    ("lane=", [(1, 1), (2, 0)]),
    ("state=any domain=far.example sender=ann@one.test attempts>=2", [(1, 0)]),
    ("reply~later", [(1, 0)]),
    ("""reply="x' OR '1'='1" """, []),
    ("reply='%'", []),
    ("subject=gr*", [(1, 0), (1, 1), (2, 0)]),
    ("message-id=<id@x> not listener=mx", []),
    ("peer=192.0.2.9 size<1K", [(1, 0), (1, 1), (2, 0)]),
    ("age<=98s", [(2, 0)]),
    ("due<=now", [(1, 0), (2, 0)]),
    ("due<2023-11-14T22:14:15+00:00", [(1, 0)]),
]


@pytest.mark.parametrize(("where", "found"), FOUND)
def test_predicates(tmp_path: Path, where: str, found: list[tuple[int, int]]) -> None:
    wanted = parse_predicate(where)

    async def main(spool: SqliteSpool, reader: SpoolReader) -> None:
        rows = await reader.recipients(wanted, 100, LATER)
        assert [(int(row.message), row.number) for row in rows] == found
        assert await reader.count(wanted, LATER) == len(found)
        assert [(int(row.message), row.number) for row in await reader.recipients(wanted, 1, LATER)] == found[:1]
        active = sum(row.state is State.LEASED for row in rows)
        assert await reader.extent(wanted, LATER) == Extent(len(found), len({key for key, _ in found}), active)

    ask(tmp_path, main)


def test_what_a_row_says(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool, reader: SpoolReader) -> None:
        first, second, third = await reader.recipients(parse_predicate("state=queued"), 100, LATER)
        assert first == RecipientRow(
            message=MessageId(1),
            number=0,
            address="Bob@far.example",
            original="Bob@far.example",
            sender=Mailbox.parse("Ann@one.test"),
            state=State.SCHEDULED,
            due=NOW + 50,
            attempts=2,
            lane="mx:far.example",
            reply="450 Later",
            size=len(TEXT),
            received_at=NOW + 1,
        )
        assert (second.original, second.state, second.due, second.lane) == ("team@here.test", State.LEASED, NOW + 1, "")
        assert third.sender is None

    ask(tmp_path, main)


def test_what_a_message_says(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool, reader: SpoolReader) -> None:
        records = (
            Record(MessageId(1), NOW + 9, Kind.ATTEMPT, None, (("text", "ü"), ("size", 3))),
            Record(MessageId(1), NOW + 8, Kind.DEFERRED, 0, (("text", "450"), ("due", 1.25))),
        )
        await fill(spool, Unit(records=records))
        found = await reader.message(MessageId(1))
        assert found is not None
        assert (found.id, found.received_at, found.listener, found.peer) == (MessageId(1), NOW + 1, "mx", "192.0.2.9")
        assert (found.helo, found.protocol, str(found.sender)) == ("client.example", "ESMTP", "Ann@one.test")
        assert (found.size, found.subject, found.message_id, found.eight_bit) == (len(TEXT), "Grüße", "<id@x>", True)
        assert found.records == records  # as they were written, whatever the clock said
        null = await reader.message(MessageId(2))
        assert null is not None and null.sender is None and null.records == ()
        assert await reader.message(MessageId(9)) is None

    ask(tmp_path, main)


def test_a_text_is_there_until_the_last_recipient_is_settled(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool, reader: SpoolReader) -> None:
        assert await reader.body(MessageId(2)) == TEXT
        assert await reader.body(MessageId(3)) is None
        assert await reader.body(MessageId(9)) is None
        done = CHANGES[1]._replace(state=State.DELIVERED)
        await fill(spool, Unit(changes=(done,), finished=(MESSAGES[1],)))
        assert await reader.body(MessageId(2)) is None

    ask(tmp_path, main)


def test_a_text_that_should_be_there_and_is_not_is_a_fault(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool, reader: SpoolReader) -> None:
        await spool.errand(lambda connection: connection.execute("DELETE FROM body WHERE message = 1"))
        with pytest.raises(SpoolBroken):
            await reader.body(MessageId(1))

    ask(tmp_path, main)
