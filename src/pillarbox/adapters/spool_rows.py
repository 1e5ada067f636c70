"""Units as rows of the spool, and rows as messages.

A unit becomes rows of the view `work` (see `spool_schema.py`) on the thread that hands it in; all rows of a commit go
to the disk by one statement, since each statement drops the interpreter's lock and waits to have it back. Knows SQL,
but no transactions and no threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import apsw

from pillarbox.adapters.spool_schema import WORK_COLUMNS, WORK_KINDS
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import BodyType, Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.mail import Leased, Message, Row, State, Unit

MOST_ROWS = 512  # in one statement
_STEP = 8  # a statement has a multiple of so many rows, so that few have to be prepared
_LEASED = int(State.LEASED)
_MESSAGE, _RECIPIENT = WORK_KINDS["message"], WORK_KINDS["recipient"]
_CHANGE, _RECORD, _FINISHED = WORK_KINDS["change"], WORK_KINDS["record"], WORK_KINDS["finished"]
_PADDING = (None,) * WORK_COLUMNS
_AFTER_RECIPIENT, _AFTER_CHANGE = (None,) * (WORK_COLUMNS - 10), (None,) * (WORK_COLUMNS - 8)
_AFTER_RECORD, _AFTER_FINISHED = (None,) * (WORK_COLUMNS - 6), (None,) * (WORK_COLUMNS - 2)

WorkRow = tuple[Any, ...]


def unit_rows(unit: Unit) -> list[WorkRow]:
    """Everything that a unit asks for."""
    rows: list[WorkRow] = []
    for message in unit.messages:
        rows.append(_message_row(message))
        rows.extend(_recipient_rows(message))
    for change in unit.changes:
        rows.append((_CHANGE, *change, *_AFTER_CHANGE))
    for record in unit.records:
        row = (_RECORD, record.message, record.at, record.kind._value_, record.recipient, record.detail_json())
        rows.append(row + _AFTER_RECORD)
    for message in unit.finished:
        if not message.large:
            rows.append((_FINISHED, message.id, *_AFTER_FINISHED))
    return rows


def write_rows(connection: apsw.Connection, rows: Sequence[WorkRow]) -> None:
    """Write up to MOST_ROWS rows by one statement, which is a transaction of its own outside of one."""
    missing = -len(rows) % _STEP
    connection.execute(_insert(len(rows) + missing), list(chain(*rows, *(_PADDING,) * missing)))


@cache
def _insert(rows: int) -> str:
    row = "(" + ",".join("?" * WORK_COLUMNS) + ")"
    return "INSERT INTO work VALUES " + ",".join((row,) * rows)


def _message_row(message: Message) -> WorkRow:
    envelope, header = message.envelope, message.header
    return (
        _MESSAGE,
        message.id,
        message.received_at,
        None if envelope.sender is None else str(envelope.sender),
        envelope.body_type._value_,
        message.listener,
        message.peer,
        message.helo,
        message.protocol,
        message.size,
        message.eight_bit,
        message.large,
        header.sender,
        header.subject,
        header.message_id,
        header.date,
        None if message.large else message.content,
    )


def _recipient_rows(message: Message) -> list[WorkRow]:
    """Leased at birth: whoever accepted the message delivers it, without a second write that says so."""
    return [
        (
            _RECIPIENT,
            message.id,
            number,
            str(recipient.address),
            None if recipient.original is recipient.address else str(recipient.original),
            "",
            _LEASED,
            message.received_at,
            0,
            "",
            *_AFTER_RECIPIENT,
        )
        for number, recipient in enumerate(message.envelope.recipients)
    ]


def lease(connection: apsw.Connection, now: float, limit: int) -> list[Leased]:
    """Take what is due, within the caller's transaction: earliest first, at most so many recipients."""
    due: list[Any] = connection.execute(
        "SELECT message, number FROM recipient WHERE state = 0 AND due <= ? ORDER BY due LIMIT ?", (now, limit)
    ).fetchall()
    numbers: dict[int, list[int]] = {}
    for message, number in due:
        numbers.setdefault(message, []).append(number)
    leased = []
    for message_id, mine in numbers.items():
        marks = ",".join("?" * len(mine))
        connection.execute(
            f"UPDATE recipient SET state = {_LEASED} WHERE message = ? AND number IN ({marks})", (message_id, *mine)
        )
        message, rows = read_message(connection, message_id)
        waiting: Any = connection.execute(
            "SELECT count(*) FROM recipient WHERE message = ? AND state = 0", (message_id,)
        ).fetchone()
        leased.append(Leased(message, [row for row in rows if row.number in mine], waiting[0]))
    return leased


def read_message(connection: apsw.Connection, message_id: int) -> tuple[Message, list[Row]]:
    """One message with all of its recipients, without its text."""
    found: Any = connection.execute("SELECT * FROM message WHERE id = ?", (message_id,)).fetchone()
    recipients: Any = connection.execute(
        "SELECT number, address, original, attempts FROM recipient WHERE message = ? ORDER BY number", (message_id,)
    )
    rows = [
        Row(number, Recipient(address := Mailbox.parse(text), Mailbox.parse(original) if original else address), tries)
        for number, text, original, tries in recipients
    ]
    sender = Mailbox.parse(found[2]) if found[2] is not None else None
    envelope = Envelope(sender, tuple(row.recipient for row in rows), BodyType(found[3]))
    message = Message(
        id=MessageId(found[0]),
        received_at=found[1],
        envelope=envelope,
        listener=found[4],
        peer=found[5],
        helo=found[6],
        protocol=found[7],
        size=found[8],
        eight_bit=bool(found[9]),
        large=bool(found[10]),
        header=HeaderView(0, *found[11:15]),
    )
    return message, rows


def disown(connection: apsw.Connection, messages: Sequence[int]) -> None:
    """Remove messages whose clients were told that they are not stored, within the caller's transaction."""
    for table, column in (("message", "id"), ("body", "message"), ("recipient", "message"), ("record", "message")):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(message,) for message in messages])
