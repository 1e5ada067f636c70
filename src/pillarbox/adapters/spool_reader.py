"""The operator's questions to a spool: predicates become SQL with parameters, rows become values.

Meets the port SpoolReader on the reading connection of a SqliteSpool. Changes nothing.
"""

from __future__ import annotations

import json
from typing import Any

from pillarbox.adapters.predicate_sql import JOINED, condition
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.adapters.spool_why import FIND, REFUSALS_OF_RECIPIENT, REFUSALS_OF_SESSION, lower, span
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.inspection import Extent, LaneRow, MessageRow, RecipientRow
from pillarbox.engine.mail import State
from pillarbox.engine.ports import SpoolError
from pillarbox.engine.predicate import STATES, UNSETTLED, And, OfMessage, Predicate, Standing
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.refusals import Refusal

_OF_LANE = """SELECT (SELECT received_at FROM message WHERE id = ?3),
    (SELECT reply FROM recipient WHERE message = ?1 AND lane = ?2 AND state = 0 LIMIT 1)"""
_UNSETTLED = Standing(UNSETTLED)
_COLUMNS = "recipient.message, number, address, original, sender, state, due, attempts, lane, reply, size, received_at"


class SqliteSpoolReader:
    def __init__(self, spool: SqliteSpool) -> None:
        self._spool = spool

    async def recipients(self, wanted: Predicate, limit: int, now: float) -> list[RecipientRow]:
        found = condition(wanted, now)
        rows = await self._spool.query(
            f"SELECT {_COLUMNS} FROM {JOINED} WHERE {found.where} ORDER BY recipient.message, number LIMIT ?",
            (*found.arguments, limit),
        )
        return [_recipient_row(row) for row in rows]

    async def count(self, wanted: Predicate, now: float) -> int:
        found = condition(wanted, now)
        rows = await self._spool.query(f"SELECT count(*) FROM {found.source} WHERE {found.where}", found.arguments)
        number: int = rows[0][0]
        return number

    async def extent(self, wanted: Predicate, now: float) -> Extent:
        found = condition(wanted, now)
        rows = await self._spool.query(
            f"SELECT count(*), count(DISTINCT recipient.message), ifnull(sum(state = {State.LEASED:d}), 0)"
            f" FROM {found.source} WHERE {found.where}",
            found.arguments,
        )
        return Extent(*rows[0])

    async def lanes(self, wanted: Predicate, limit: int, now: float) -> tuple[list[LaneRow], int]:
        found = condition(And((STATES["scheduled"], wanted)), now)
        rows = await self._spool.query(
            "SELECT lane, count(*) AS waiting, min(recipient.message), max(recipient.message), count(*) OVER ()"
            f" FROM {found.source} WHERE {found.where} GROUP BY lane ORDER BY waiting DESC, lane LIMIT ?",
            (*found.arguments, limit),
        )
        lanes = []
        for lane, waiting, oldest, youngest, _ in rows:
            more = await self._spool.query(_OF_LANE, (youngest, lane, oldest))
            received_at, reply = more[0]
            lanes.append(LaneRow(lane, waiting, received_at or now, reply or ""))
        return lanes, rows[0][4] if rows else 0

    async def message(self, message: MessageId) -> MessageRow | None:
        found = await self._spool.query(
            "SELECT received_at, listener, peer, helo, protocol, sender, size, header_subject, header_message_id,"
            " octets FROM message WHERE id = ?",
            (int(message),),
        )
        if not found:
            return None
        received_at, listener, peer, helo, protocol, sender, size, subject, message_id, octets = found[0]
        return MessageRow(
            id=message,
            received_at=received_at,
            listener=listener,
            peer=peer,
            helo=helo,
            protocol=protocol,
            sender=_mailbox(sender),
            size=size,
            subject=subject,
            message_id=message_id,
            eight_bit=bool(octets),
            records=await self._records(message),
        )

    async def _records(self, message: MessageId) -> tuple[Record, ...]:
        rows = await self._spool.query(
            "SELECT at, kind, recipient, detail FROM record WHERE message = ? ORDER BY serial", (int(message),)
        )
        return tuple(
            Record(message, at, Kind(kind), recipient, tuple(json.loads(detail).items()))
            for at, kind, recipient, detail in rows
        )

    async def sought(self, word: str, *, since: float, until: float, limit: int) -> list[MessageId]:
        rows = await self._spool.query(FIND, (lower(word), *span(since, until), limit))
        return [MessageId(number) for (number,) in rows]

    async def refusals(self, session: MessageId, limit: int) -> list[Refusal]:
        return [_refusal(row) for row in await self._spool.query(REFUSALS_OF_SESSION, (int(session), limit))]

    async def refused(self, recipient: str, *, since: float, until: float, limit: int) -> list[Refusal]:
        rows = await self._spool.query(REFUSALS_OF_RECIPIENT, (lower(recipient), since, until, limit))
        return [_refusal(row) for row in rows]

    async def _unsettled(self, message: MessageId) -> int:
        return await self.count(And((OfMessage(message), _UNSETTLED)), 0.0)

    async def body(self, message: MessageId) -> bytes | None:
        if not await self._unsettled(message):
            return None
        found = await self._spool.query("SELECT size, large FROM message WHERE id = ?", (int(message),))
        size, large = found[0]
        chunks = []
        try:
            async for chunk in self._spool.stored(message, size, large=bool(large)):
                chunks.append(chunk)
        except SpoolError:
            if await self._unsettled(message):
                raise
            return None  # settled meanwhile
        return b"".join(chunks)


def _refusal(row: tuple[Any, ...]) -> Refusal:
    session, at, sender, recipient, detail = row
    return Refusal(MessageId(session), at, sender, recipient, tuple(json.loads(detail).items()))


def _mailbox(text: str | None) -> Mailbox | None:
    return None if text is None else Mailbox.parse(text)


def _recipient_row(row: tuple[Any, ...]) -> RecipientRow:
    message, number, address, original, sender, state, due, attempts, lane, reply, size, received_at = row
    return RecipientRow(
        message=MessageId(message),
        number=number,
        address=address,
        original=original or address,
        sender=_mailbox(sender),
        state=State(state),
        due=due,
        attempts=attempts,
        lane=lane,
        reply=reply,
        size=size,
        received_at=received_at,
    )
