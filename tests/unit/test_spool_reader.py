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
from pillarbox.engine.inspection import UNSETTLED, RecipientFilter, RecipientRow, SpoolReader
from pillarbox.engine.mail import Change, Message, Octets, State, Unit
from pillarbox.engine.ports import SpoolBroken, SpoolError
from pillarbox.engine.records import Kind, Record

NOW = 1_700_000_000.0
TEXT = b"Subject: x\r\n\r\nbody\r\n"
ALL = frozenset(State)


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


FILTERS: list[tuple[RecipientFilter, list[tuple[int, int]]]] = [
    (RecipientFilter(), [(1, 0), (1, 1), (2, 0)]),
    (RecipientFilter(states=ALL), [(1, 0), (1, 1), (2, 0), (3, 0)]),
    (RecipientFilter(states=frozenset({State.LEASED})), [(1, 1)]),
    (RecipientFilter(states=frozenset({State.FAILED, State.EXPIRED})), [(3, 0)]),
    (RecipientFilter(states=frozenset()), []),
    (RecipientFilter(states=ALL, least_attempts=1), [(1, 0), (3, 0)]),
    (RecipientFilter(states=ALL, least_attempts=2), [(1, 0)]),
    (RecipientFilter(message=MessageId(1)), [(1, 0), (1, 1)]),
    (RecipientFilter(message=MessageId(9)), []),
    (RecipientFilter(states=ALL, sender="ANN@ONE.test"), [(1, 0), (1, 1), (3, 0)]),
    (RecipientFilter(sender=""), [(2, 0)]),
    (RecipientFilter(sender="ann"), []),
    (RecipientFilter(recipient="bob@far.EXAMPLE"), [(1, 0)]),
    (RecipientFilter(recipient="Team@here.test"), [(1, 1)]),
    (RecipientFilter(recipient="carol@sub.far.example"), [(1, 1)]),
    (RecipientFilter(states=ALL, domain="FAR.example"), [(1, 0), (3, 0)]),
    (RecipientFilter(domain="here.test"), []),  # of the address, not of what RCPT said
    (RecipientFilter(domain="ar.example"), []),
    (RecipientFilter(states=ALL, lane="MX:far.example"), [(1, 0), (3, 0)]),
    (RecipientFilter(lane=""), [(1, 1), (2, 0)]),
    (RecipientFilter(states=ALL, domain="far.example", sender="ann@one.test", least_attempts=2), [(1, 0)]),
    (RecipientFilter(sender="x' OR '1'='1"), []),
    (RecipientFilter(domain="%"), []),
]


@pytest.mark.parametrize(("wanted", "found"), FILTERS)
def test_filters(tmp_path: Path, wanted: RecipientFilter, found: list[tuple[int, int]]) -> None:
    async def main(spool: SqliteSpool, reader: SpoolReader) -> None:
        rows = await reader.recipients(wanted, 100)
        assert [(int(row.message), row.number) for row in rows] == found
        assert await reader.count(wanted) == len(found)
        assert [(int(row.message), row.number) for row in await reader.recipients(wanted, 1)] == found[:1]

    ask(tmp_path, main)


def test_what_a_row_says(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool, reader: SpoolReader) -> None:
        first, second, third = await reader.recipients(RecipientFilter(states=UNSETTLED), 100)
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
