"""What the spool keeps so that `why` finds things: the words that messages are sought by, and refusals.

`sought` leads from a word to messages: an address, a Message-ID, or what a next hop calls the message. An index that
every commit would have to keep costs a page of the log for each word, since words come in no order; so new messages
are looked at in order of their ids only, up to `sought_upto` they stand in `sought`, and `index` brings it forward by
some thousands at a time. What is committed late, behind that mark, is entered with the commit. Knows SQL, no threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from pillarbox.engine.ids import id_at

INDEX_AT_ONCE = 2000  # messages
FORGET_AT_ONCE = 2000  # refusals

TABLES_OF_WHY = """
CREATE TABLE sought (
    word TEXT NOT NULL,                 -- lower case; "=" before what a next hop calls the message
    message INTEGER NOT NULL,
    PRIMARY KEY (word, message)
) STRICT, WITHOUT ROWID;
CREATE TABLE sought_upto (
    message INTEGER NOT NULL            -- the last message whose words are there; one row
) STRICT;
INSERT INTO sought_upto VALUES (0);
CREATE TABLE refusal (
    serial INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,           -- its id, of the same kind as those of messages
    at REAL NOT NULL,
    sender TEXT,                        -- NULL: no MAIL was accepted
    recipient TEXT,                     -- as RCPT named them; NULL: no RCPT was refused
    detail TEXT NOT NULL                -- a JSON object
) STRICT;
CREATE INDEX refusal_session ON refusal (session, serial);
CREATE INDEX refusal_recipient ON refusal (lower(recipient), at) WHERE recipient IS NOT NULL;
"""

LATE_MESSAGE = """
        INSERT OR IGNORE INTO sought SELECT word, NEW.a FROM (
            SELECT lower(NEW.r) AS word UNION SELECT lower(NEW.s) UNION SELECT lower(trim(NEW.n)))
            WHERE word <> '' AND NEW.a <= (SELECT message FROM sought_upto);"""
LATE_CHANGE = """
        INSERT OR IGNORE INTO sought SELECT '=' || lower(NEW.n), NEW.a
            WHERE NEW.n IS NOT NULL AND NEW.a <= (SELECT message FROM sought_upto);"""
TRIGGERS_OF_WHY = {
    # a to e the refusal, f how many are kept
    "refusal": """
        INSERT INTO refusal (session, at, sender, recipient, detail) VALUES (NEW.a, NEW.b, NEW.c, NEW.d, NEW.e);
        DELETE FROM refusal WHERE serial <= last_insert_rowid() - NEW.f;""",
}

_WORDS = """
    SELECT lower(trim(header_message_id)) AS word, id AS message FROM message
        WHERE id {range} AND header_message_id <> ''
    UNION SELECT lower(address), message FROM recipient WHERE message {range}
    UNION SELECT lower(original), message FROM recipient WHERE message {range} AND original IS NOT NULL
    UNION SELECT '=' || lower(detail ->> 'queued_as'), message FROM record
        WHERE message {range} AND kind = 'delivered' AND detail ->> 'queued_as' IS NOT NULL"""
_ALL_WORDS = _WORDS.format(range="> 0")
_NEW_WORDS = _WORDS.format(range="BETWEEN ?1 AND ?2")
_OF_ONE = _WORDS.format(range="= ?1")

UPGRADE_OF_WHY = f"""{TABLES_OF_WHY}
INSERT INTO sought SELECT word, message FROM ({_ALL_WORDS}) ORDER BY word, message;
UPDATE sought_upto SET message = (SELECT ifnull(max(id), 0) FROM message);
"""

# The newest first. What stands behind the mark is looked through: it is what came within the last minute or so.
FIND = """
SELECT message FROM (
    SELECT message FROM sought WHERE word = ?1 AND message BETWEEN ?2 AND ?3
    UNION SELECT id FROM message WHERE id > max(?2 - 1, (SELECT message FROM sought_upto)) AND id <= ?3
        AND lower(trim(header_message_id)) = ?1
    UNION SELECT message FROM recipient WHERE message > max(?2 - 1, (SELECT message FROM sought_upto)) AND message <= ?3
        AND ?1 IN (lower(address), lower(original))
    UNION SELECT message FROM record WHERE message > max(?2 - 1, (SELECT message FROM sought_upto)) AND message <= ?3
        AND kind = 'delivered' AND '=' || lower(detail ->> 'queued_as') = ?1
) ORDER BY message DESC LIMIT ?4"""
REFUSALS_OF_SESSION = (
    "SELECT session, at, sender, recipient, detail FROM refusal WHERE session = ?1 ORDER BY serial LIMIT ?2"
)
REFUSALS_OF_RECIPIENT = """
SELECT session, at, sender, recipient, detail FROM refusal
WHERE lower(recipient) = ?1 AND recipient IS NOT NULL AND at BETWEEN ?2 AND ?3 ORDER BY at DESC LIMIT ?4"""


_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def index(connection: apsw.Connection) -> int:
    """Bring `sought` forward by some messages, within the caller's transaction; gives by how many. One statement does
    most of it, since each one drops the interpreter's lock."""
    done = _one(connection, "SELECT message FROM sought_upto")
    found: Any = connection.execute(
        f"SELECT count(*), max(id) FROM (SELECT id FROM message WHERE id > ? ORDER BY id LIMIT {INDEX_AT_ONCE})",
        (done,),
    ).fetchone()
    count, last = found
    if count:
        connection.execute(
            f"INSERT OR IGNORE INTO sought SELECT word, message FROM ({_NEW_WORDS}) ORDER BY word, message",
            (done + 1, last),
        )
        connection.execute("UPDATE sought_upto SET message = ?", (last,))
    return int(count)


def forget_words(connection: apsw.Connection, messages: Sequence[tuple[int]]) -> None:
    """Before the messages themselves go."""
    connection.executemany(f"DELETE FROM sought WHERE (word, message) IN ({_OF_ONE})", messages)


def forget_refusals(connection: apsw.Connection, before: float) -> int:
    """Some of those of sessions from before that moment; gives how many."""
    connection.execute(
        "DELETE FROM refusal WHERE serial IN"
        f" (SELECT serial FROM refusal WHERE session < ? ORDER BY session LIMIT {FORGET_AT_ONCE})",
        (int(id_at(before)),),
    )
    return connection.changes()


def span(since: float, until: float) -> tuple[int, int]:
    """The ids of messages that came in that time."""
    return int(id_at(since)), min(int(id_at(until)), (1 << 60) - 1)


def lower(text: str) -> str:
    """As SQLite's own: of ASCII alone."""
    return text.translate(_LOWER)


def _one(connection: apsw.Connection, statement: str) -> int:
    found: Any = connection.execute(statement).fetchone()
    return int(found[0])
