"""Units as rows of the spool, and rows as messages.

A unit becomes rows of the view `work` (see `spool_schema.py`) on the thread that hands it in; all rows of a commit go
to the disk by one statement, since each statement drops the interpreter's lock and waits to have it back. Knows SQL,
but no transactions and no threads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import apsw

from pillarbox.adapters.spool_options import (
    mail_options_text,
    rcpt_options_text,
    read_mail_options,
    read_rcpt_options,
)
from pillarbox.adapters.spool_schema import WORK_COLUMNS, WORK_KINDS
from pillarbox.adapters.spool_why import forget_words
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import NO_MAIL_OPTIONS, NO_RCPT_OPTIONS, BodyType, Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.mail import Key, Leased, Message, Octets, Place, Row, Seen, State, Told, Unit, Waiting
from pillarbox.engine.records import Kind, Record, queued_as

log = logging.getLogger(__name__)

MOST_ROWS = 512  # in one statement
_STEP = 8  # a statement has a multiple of so many rows, so that few have to be prepared
_MESSAGE, _RECIPIENT = WORK_KINDS["message"], WORK_KINDS["recipient"]
_CHANGE, _RECORD, _FINISHED = WORK_KINDS["change"], WORK_KINDS["record"], WORK_KINDS["finished"]
_REROUTED, _REFUSAL = WORK_KINDS["rerouted"], WORK_KINDS["refusal"]
_CLAIM, _REPEATED = WORK_KINDS["claim"], WORK_KINDS["repeated"]
_PADDING = (None,) * WORK_COLUMNS
_BETWEEN = (None,) * 13  # from e to q in the row of a further recipient
_AFTER_FINISHED = (None,) * (WORK_COLUMNS - 2)
_AFTER_REROUTED = (None,) * (WORK_COLUMNS - 4)
_NO_RECORD = (None,) * 3
_AFTER_CLAIM = (None,) * (WORK_COLUMNS - 6)
_BEFORE_REPEAT = (None,) * 6
_AFTER_CHANGE = (None,) * (WORK_COLUMNS - 15)
_AFTER_REFUSAL = (None,) * (WORK_COLUMNS - 7)
_BEFORE_RECORD, _AFTER_RECORD = (None,) * 5, (None,) * (WORK_COLUMNS - 11)

Values = list[Any]  # of rows of the view, one behind the other


def unit_values(unit: Unit) -> Values:
    """Everything that a unit asks for."""
    values: Values = []
    for message in unit.messages:
        values += _message_row(message)
        priority = message.envelope.options.priority
        for number, recipient in enumerate(message.envelope.recipients[1:], start=1):
            values += (_RECIPIENT, message.id, number, message.received_at, priority, *_BETWEEN, *_recipient(recipient))
        if (claim := message.claim) is not None:
            values += (_CLAIM, message.id, claim.scope, claim.key, claim.fingerprint, claim.until, *_AFTER_CLAIM)
    for note in unit.notes:
        values += _record_row(note)
    finished = [message.id for message in unit.finished if not message.large] if unit.finished else ()
    for change in unit.changes:
        record = change.record
        told = _NO_RECORD if record is None else _told(record)
        alias = None if record is None or record.kind is not Kind.DELIVERED else queued_as(record)
        ends = change.message in finished
        values += (_CHANGE, *change[:7], *told, ends, change.told, change.parked, alias, *_AFTER_CHANGE)
    for choice in unit.rerouted:
        values += (_REROUTED, *choice, *_AFTER_REROUTED)
    for record in unit.records:
        values += _record_row(record)
    for record in unit.repeats:
        values += (_REPEATED, record.message, *_BEFORE_REPEAT, *_told(record), *_AFTER_RECORD)
    if not unit.changes:
        for message_id in finished:
            values += (_FINISHED, message_id, *_AFTER_FINISHED)
    for refusal in unit.refusals:
        values += (_REFUSAL, *refusal[:4], refusal.detail_json(), unit.refusals_kept, *_AFTER_REFUSAL)
    return values


def write_values(connection: apsw.Connection, values: Values) -> None:
    """Write up to MOST_ROWS rows by one statement, which is a transaction of its own outside of one."""
    rows = len(values) // WORK_COLUMNS
    missing = -rows % _STEP
    connection.execute(_insert(rows + missing), values + [*_PADDING] * missing)


@cache
def _insert(rows: int) -> str:
    row = "(" + ",".join("?" * WORK_COLUMNS) + ")"
    return "INSERT INTO work VALUES " + ",".join((row,) * rows)


def _record_row(record: Record) -> tuple[Any, ...]:
    return (_RECORD, record.message, record.recipient, *_BEFORE_RECORD, *_told(record), *_AFTER_RECORD)


def _told(record: Record) -> tuple[float, str, str]:
    return record.at, record.kind._value_, record.detail_json()


def _message_row(message: Message) -> tuple[Any, ...]:
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
        message.octets,
        message.large,
        header.sender,
        header.subject,
        header.message_id,
        header.date,
        None if envelope.options is NO_MAIL_OPTIONS else mail_options_text(envelope.options),
        None if message.large else message.content,
        *_recipient(envelope.recipients[0]),
    )


def _recipient(recipient: Recipient) -> tuple[str, str | None, str | None, str | None]:
    address, original, owner = recipient.address, recipient.original, recipient.owner
    return (
        str(address),
        None if original is address else str(original),
        None if owner is None else str(owner),
        None if recipient.options is NO_RCPT_OPTIONS else rcpt_options_text(recipient.options),
    )


# RFC 6710: the higher priority first, of one priority the earliest. Most have none, and are found by their own index.
_RANKS = (
    "priority <> 0 AND priority > 0 AND due <= ? ORDER BY priority DESC, due",
    "priority = 0 AND due <= ? ORDER BY due",
    "priority <> 0 AND priority < 0 AND due <= ? ORDER BY priority DESC, due",
)


def lease(connection: apsw.Connection, now: float, limit: int) -> list[Leased]:
    """Take what is due, within the caller's transaction: by priority, then earliest first, at most so many
    recipients."""
    found: list[Any] = []
    for rank in _RANKS:
        if len(found) < limit:
            statement = f"SELECT message, number FROM recipient WHERE state = 0 AND {rank} LIMIT ?"
            found += connection.execute(statement, (now, limit - len(found))).fetchall()
    return _leased(connection, found)


def lease_at(connection: apsw.Connection, places: Sequence[Place], after: MessageId, limit: int) -> list[Leased]:
    """Take what waits in those places, within the caller's transaction: oldest first, at most so many recipients, but
    of the last message all, so that whoever goes on behind it has missed none."""
    where, arguments = at_places(places)
    found = connection.execute(
        f"SELECT message, number FROM recipient WHERE {where} AND message > ? ORDER BY message, number LIMIT ?",
        (*arguments, int(after), limit),
    ).fetchall()
    if len(found) == limit:
        found += connection.execute(
            f"SELECT message, number FROM recipient WHERE {where} AND message = ? AND number > ? ORDER BY number",
            (*arguments, *found[-1]),
        ).fetchall()
    return _leased(connection, found)


def lease_parked(connection: apsw.Connection, lane: str, limit: int) -> list[Leased]:
    """Take what waits for room in that lane, within the caller's transaction: by priority, then oldest first."""
    found = connection.execute(
        "SELECT message, number FROM recipient INDEXED BY recipient_parked WHERE state = 0 AND parked AND lane = ?"
        " ORDER BY priority DESC, message LIMIT ?",
        (lane, limit),
    ).fetchall()
    return _leased(connection, found)


PARKED_LANES = """
    WITH RECURSIVE found(lane) AS (
        SELECT min(lane) FROM recipient INDEXED BY recipient_parked WHERE state = 0 AND parked
        UNION ALL
        SELECT (SELECT min(lane) FROM recipient INDEXED BY recipient_parked
            WHERE state = 0 AND parked AND recipient.lane > found.lane) FROM found WHERE lane IS NOT NULL
    ) SELECT lane FROM found WHERE lane IS NOT NULL"""  # from one lane to the next: whatever waits in each


def at_places(places: Sequence[Place]) -> tuple[str, tuple[Any, ...]]:
    """The condition for what waits in those places, one at least."""
    terms, arguments = [], []
    for lane, domain in places:
        suffix = f"@{domain}"
        terms.append("(lane = ? AND lower(substr(address, ?)) = ?)")
        arguments += [lane, -len(suffix), suffix]
    return f"state = 0 AND ({' OR '.join(terms)})", tuple(arguments)


def _leased(connection: apsw.Connection, due: list[Any]) -> list[Leased]:
    numbers: dict[int, list[int]] = {}
    for message, number in due:
        numbers.setdefault(message, []).append(number)
    leased = []
    for message_id, mine in numbers.items():
        marks = ",".join("?" * len(mine))
        connection.execute(
            f"UPDATE recipient SET state = {State.LEASED:d}, due = iif(parked, 0, due), parked = 0"
            f" WHERE message = ? AND number IN ({marks})",  # what had its turn is due at once after a crash
            (message_id, *mine),
        )
        try:
            message, rows = read_message(connection, message_id)
        except (ValueError, TypeError):  # it stays leased, and is looked at again after a restart
            log.exception("spool: message %s can't be read back", MessageId(message_id))
            continue
        waiting: Any = connection.execute(_WAIT, (message_id,)).fetchone()
        leased.append(Leased(message, [row for row in rows if row.number in mine], waiting[0]))
    return leased


_WAIT = f"SELECT count(*) FROM recipient WHERE message = ? AND state <= {State.SCHEDULED:d}"


def see(connection: apsw.Connection, keys: Sequence[Key], now: float) -> list[Seen]:
    """Those of the recipients that wait, in the order of their keys."""
    numbers: dict[int, set[int]] = {}
    for key in keys:
        numbers.setdefault(key.message, set()).add(key.number)
    seen = []
    for message_id, mine in numbers.items():
        waits: Any = connection.execute(
            f"SELECT number, state, due, lane, reply FROM recipient WHERE message = ? AND state <= {State.SCHEDULED:d}",
            (message_id,),
        ).fetchall()
        if not any(number in mine for number, *_ in waits):
            continue
        try:
            message, rows = read_message(connection, message_id)
        except (ValueError, TypeError):
            log.exception("spool: message %s can't be read back", MessageId(message_id))
            continue
        known = {row.number: row for row in rows}
        recipients = [
            Waiting(known[number], State(state), due, lane, reply, now)
            for number, state, due, lane, reply in waits
            if number in mine
        ]
        seen.append(Seen(message, recipients, len(waits)))
    return seen


def read_message(connection: apsw.Connection, message_id: int) -> tuple[Message, list[Row]]:
    """One message with all of its recipients, without its text."""
    found: Any = connection.execute("SELECT * FROM message WHERE id = ?", (message_id,)).fetchone()
    recipients: Any = connection.execute(
        "SELECT number, attempts, told, next_hop, address, original, owner, options FROM recipient"
        " WHERE message = ? ORDER BY number",
        (message_id,),
    )
    rows = [
        Row(number, _read_recipient(*texts), attempts, Told(told), next_hop)
        for number, attempts, told, next_hop, *texts in recipients
    ]
    sender = Mailbox.parse(found[2]) if found[2] is not None else None
    envelope = Envelope(sender, tuple(row.recipient for row in rows), BodyType(found[3]), read_mail_options(found[15]))
    message = Message(
        id=MessageId(found[0]),
        received_at=found[1],
        envelope=envelope,
        listener=found[4],
        peer=found[5],
        helo=found[6],
        protocol=found[7],
        size=found[8],
        octets=Octets(found[9]),
        large=bool(found[10]),
        header=HeaderView(0, *found[11:15]),
    )
    return message, rows


def _read_recipient(address: str, original: str | None, owner: str | None, options: str | None) -> Recipient:
    mailbox = Mailbox.parse(address)
    return Recipient(
        mailbox,
        Mailbox.parse(original) if original else mailbox,
        Mailbox.parse(owner) if owner else None,
        read_rcpt_options(options),
    )


def disown(connection: apsw.Connection, messages: Sequence[int], records: Sequence[Record] = ()) -> None:
    """Remove messages whose clients were told that they are not stored, and records of others that came with them,
    within the caller's transaction."""
    connection.executemany(
        "DELETE FROM record WHERE message = ? AND at = ? AND kind = ? AND detail = ?",
        [(record.message, *_told(record)) for record in records],
    )
    forget_words(connection, [(message,) for message in messages])
    for table in ("message", "body", "recipient", "record", "idempotency"):
        column = "id" if table == "message" else "message"
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(message,) for message in messages])
