"""The operator's questions to a spool: filters become SQL with parameters, rows become values.

Meets the port SpoolReader on the reading connection of a SqliteSpool. Changes nothing.
"""

from __future__ import annotations

import json
from typing import Any

from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.inspection import MessageRow, RecipientFilter, RecipientRow
from pillarbox.engine.mail import State
from pillarbox.engine.ports import SpoolError
from pillarbox.engine.records import Kind, Record

_FROM = "FROM recipient JOIN message ON message.id = recipient.message"
_COLUMNS = "recipient.message, number, address, original, sender, state, due, attempts, lane, reply, size, received_at"


class SqliteSpoolReader:
    def __init__(self, spool: SqliteSpool) -> None:
        self._spool = spool

    async def recipients(self, wanted: RecipientFilter, limit: int) -> list[RecipientRow]:
        where, arguments = _where(wanted)
        rows = await self._spool.query(
            f"SELECT {_COLUMNS} {_FROM} WHERE {where} ORDER BY recipient.message, number LIMIT ?", (*arguments, limit)
        )
        return [_recipient_row(row) for row in rows]

    async def count(self, wanted: RecipientFilter) -> int:
        where, arguments = _where(wanted)
        source = _FROM if wanted.sender is not None else "FROM recipient"
        found = await self._spool.query(f"SELECT count(*) {source} WHERE {where}", arguments)
        number: int = found[0][0]
        return number

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

    async def body(self, message: MessageId) -> bytes | None:
        if not await self.count(RecipientFilter(message=message)):
            return None
        found = await self._spool.query("SELECT size, large FROM message WHERE id = ?", (int(message),))
        size, large = found[0]
        chunks = []
        try:
            async for chunk in self._spool.stored(message, size, large=bool(large)):
                chunks.append(chunk)
        except SpoolError:
            if await self.count(RecipientFilter(message=message)):
                raise
            return None  # settled meanwhile
        return b"".join(chunks)


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


def _where(wanted: RecipientFilter) -> tuple[str, tuple[Any, ...]]:
    terms = [f"state IN ({','.join(str(int(state)) for state in sorted(wanted.states))})"]
    arguments: list[Any] = []

    def term(sql: str, *values: Any) -> None:
        terms.append(sql)
        arguments.extend(values)

    if wanted.least_attempts:
        term("attempts >= ?", wanted.least_attempts)
    if wanted.message is not None:
        term("recipient.message = ?", int(wanted.message))
    if wanted.sender is not None:
        term("lower(ifnull(sender, '')) = ?", wanted.sender.lower())
    if wanted.recipient is not None:
        lowered = wanted.recipient.lower()
        term("(lower(address) = ? OR lower(ifnull(original, '')) = ?)", lowered, lowered)
    if wanted.domain is not None:
        suffix = "@" + wanted.domain.lower()
        term("lower(substr(address, ?)) = ?", -len(suffix), suffix)
    if wanted.lane is not None:
        term("lower(lane) = ?", wanted.lane.lower())
    return " AND ".join(terms), tuple(arguments)
