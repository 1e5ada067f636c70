"""Messages, recipients and records as rows of the spool, both ways, many rows to a statement.

A statement is what costs in a commit: each drops the interpreter's lock and takes it back. So rows go in by one
statement for up to `_MOST` of them. Knows SQL, but no transactions and no threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any

import apsw

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import BodyType, Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.mail import Change, Leased, Message, Row, State, Unit
from pillarbox.engine.records import Record

_MOST = 64  # rows in one statement
_MESSAGE_COLUMNS = (
    "id, received_at, sender, body_type, listener, peer, helo, protocol, size, eight_bit, large,"
    " header_from, header_subject, header_message_id, header_date"
)
_RECIPIENT_COLUMNS = "message, number, address, original, lane, state, due, attempts, reply"
_LEASED = int(State.LEASED)


@cache
def _insert(table: str, columns: str, rows: int) -> str:
    row = "(" + ",".join("?" * (columns.count(",") + 1)) + ")"
    return f"INSERT INTO {table} ({columns}) VALUES " + ",".join((row,) * rows)


@cache
def _update(rows: int) -> str:
    return (
        "WITH new (message, number, state, due, attempts, lane, reply) AS (VALUES "
        + ",".join(("(?,?,?,?,?,?,?)",) * rows)
        + ") UPDATE recipient SET state = new.state, due = new.due, attempts = new.attempts, lane = new.lane,"
        " reply = new.reply FROM new WHERE recipient.message = new.message AND recipient.number = new.number"
    )


@cache
def _delete_bodies(rows: int) -> str:
    return f"DELETE FROM body WHERE message IN ({','.join('?' * rows)})"


def _in_pieces(rows: Sequence[tuple[Any, ...]]) -> Iterable[Sequence[tuple[Any, ...]]]:
    return (rows[start : start + _MOST] for start in range(0, len(rows), _MOST)) if len(rows) > _MOST else (rows,)


def _flat(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    return list(chain.from_iterable(rows))


def write_units(connection: apsw.Connection, units: Sequence[Unit]) -> None:
    """All that the units ask for, within the caller's transaction. Raises apsw.Error."""
    messages = [message for unit in units for message in unit.messages]
    changes = [change for unit in units for change in unit.changes]
    records = [_record_row(record) for unit in units for record in unit.records]
    finished = [(int(message.id),) for unit in units for message in unit.finished if not message.large]
    execute = connection.execute
    if messages:
        _write_messages(connection, messages)
    for rows in _in_pieces(changes) if changes else ():
        execute(_update(len(rows)), _flat(rows))
    for rows in _in_pieces(records) if records else ():
        execute(_insert("record", "message, at, kind, recipient, detail", len(rows)), _flat(rows))
    for rows in _in_pieces(finished) if finished else ():
        execute(_delete_bodies(len(rows)), _flat(rows))


def _write_messages(connection: apsw.Connection, messages: list[Message]) -> None:
    execute = connection.execute
    for rows in _in_pieces([_message_row(message) for message in messages]):
        execute(_insert("message", _MESSAGE_COLUMNS, len(rows)), _flat(rows))
    for rows in _in_pieces(list(chain.from_iterable(map(_recipient_rows, messages)))):
        execute(_insert("recipient", _RECIPIENT_COLUMNS, len(rows)), _flat(rows))
    bodies = [(int(message.id), message.content) for message in messages if not message.large]
    for rows in _in_pieces(bodies) if bodies else ():
        execute(_insert("body", "message, octets", len(rows)), _flat(rows))


def _message_row(message: Message) -> tuple[Any, ...]:
    envelope, header = message.envelope, message.header
    return (
        int(message.id),
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
    )


def _recipient_rows(message: Message) -> list[tuple[Any, ...]]:
    """Leased at birth: whoever accepted the message delivers it, without a second write that says so."""
    number = int(message.id)
    due = message.received_at
    return [
        (
            number,
            n,
            str(recipient.address),
            None if recipient.original is recipient.address else str(recipient.original),
            "",
            _LEASED,
            due,
            0,
            "",
        )
        for n, recipient in enumerate(message.envelope.recipients)
    ]


def _record_row(record: Record) -> tuple[Any, ...]:
    return (int(record.message), record.at, record.kind.value, record.recipient, record.detail_json())


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
    found: Any = connection.execute(f"SELECT {_MESSAGE_COLUMNS} FROM message WHERE id = ?", (message_id,)).fetchone()
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
