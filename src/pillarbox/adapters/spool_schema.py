"""The tables of a spool file, and how it is opened: WAL, synchronous=FULL, version checked.

A spool file belongs to one worker. Bodies stand in a table of their own, so that questions to the queue never read
them; `recipient` is narrow, the only table that changes often. Sizes are octets, times seconds since the epoch.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import apsw

from pillarbox.adapters.spool_why import (
    LATE_CHANGE,
    LATE_MESSAGE,
    TABLES_OF_WHY,
    TRIGGERS_OF_WHY,
    UPGRADE_OF_WHY,
)
from pillarbox.adapters.system import sync_directory

log = logging.getLogger(__name__)

VERSION = 4
_TABLES = """
CREATE TABLE message (
    id INTEGER PRIMARY KEY,             -- 60 bits, time-ordered
    received_at REAL NOT NULL,
    sender TEXT,                        -- NULL: the null reverse-path
    body_type TEXT NOT NULL,
    listener TEXT NOT NULL,
    peer TEXT NOT NULL,
    helo TEXT NOT NULL,
    protocol TEXT NOT NULL,
    size INTEGER NOT NULL,
    octets INTEGER NOT NULL,            -- engine.mail.Octets
    large INTEGER NOT NULL,             -- the text is a file beside this one
    header_from TEXT NOT NULL,
    header_subject TEXT NOT NULL,
    header_message_id TEXT NOT NULL,
    header_date TEXT NOT NULL,
    options TEXT                        -- core.envelope.MailOptions as a JSON object, NULL for none
) STRICT;
CREATE TABLE body (
    message INTEGER PRIMARY KEY,
    octets BLOB NOT NULL
) STRICT;
CREATE TABLE recipient (
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- within the message, from 0
    address TEXT NOT NULL,
    original TEXT,                      -- what RCPT said, where that was another address
    lane TEXT NOT NULL,                 -- "" until it was routed
    state INTEGER NOT NULL,             -- engine.mail.State
    due REAL NOT NULL,
    attempts INTEGER NOT NULL,
    reply TEXT NOT NULL,                -- the last one
    owner TEXT,                         -- behind a list: the reverse-path in place of the sender's
    options TEXT,                       -- core.envelope.RcptOptions as a JSON object, NULL for none
    priority INTEGER NOT NULL DEFAULT 0,  -- MT-PRIORITY of the message, -9 to 9
    told INTEGER NOT NULL DEFAULT 0,    -- engine.mail.Told
    next_hop TEXT,                      -- chosen by an operator, as a route names it
    parked INTEGER NOT NULL DEFAULT 0,  -- scheduled for lack of room in its lane, which may fetch it before it is due
    PRIMARY KEY (message, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (due) WHERE state = 0;
CREATE INDEX recipient_waiting ON recipient (lane, message) WHERE state = 0;
CREATE INDEX recipient_ranked ON recipient (priority, due) WHERE state = 0 AND priority <> 0;
CREATE INDEX recipient_parked ON recipient (lane, priority DESC, message) WHERE state = 0 AND parked;
CREATE TABLE record (
    message INTEGER NOT NULL,
    serial INTEGER NOT NULL,            -- within the message, from 1
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    recipient INTEGER,                  -- NULL: about the whole message
    detail TEXT NOT NULL,               -- a JSON object
    PRIMARY KEY (message, serial)
) STRICT, WITHOUT ROWID;
CREATE TABLE idempotency (
    scope TEXT NOT NULL,                -- whose key it is, "" for this machine
    key TEXT NOT NULL,
    message INTEGER NOT NULL,           -- the first with that key
    fingerprint BLOB NOT NULL,
    until REAL NOT NULL,                -- when it is forgotten
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_until ON idempotency (until);
"""

# What reaches the disk together is one INSERT into this view, whatever it changes: a commit is a single statement, and
# so gives up the interpreter's lock once. `kind` says which trigger a row is for; a row without one is padding.
MOST_REPEATS = 20  # records of a message that it was submitted again
_LETTERS = "abcdefghijklmnopqrstu"
WORK_COLUMNS = 1 + len(_LETTERS)
_SERIAL = "(SELECT ifnull(max(serial), 0) + 1 FROM record WHERE message = NEW.a)"
_ALL_SETTLED = "NOT EXISTS (SELECT 1 FROM recipient WHERE message = NEW.a AND state < 2)"
_TRIGGERS = {
    # a to p the message, q its text if small, r to u its first recipient: leased at birth, so that whoever accepted
    # the message delivers it without a second write that says so
    "message": """
        INSERT INTO message VALUES (NEW.a, NEW.b, NEW.c, NEW.d, NEW.e, NEW.f, NEW.g, NEW.h, NEW.i, NEW.j, NEW.k,
            NEW.l, NEW.m, NEW.n, NEW.o, NEW.p);
        INSERT INTO body SELECT NEW.a, NEW.q WHERE NEW.q IS NOT NULL;
        INSERT INTO recipient VALUES (NEW.a, 0, NEW.r, NEW.s, '', 1, NEW.b, 0, '', NEW.t, NEW.u,
            ifnull(NEW.p ->> 'priority', 0), 0, NULL, 0);"""
    + LATE_MESSAGE,
    # a to c message, number, when it came, d its priority if any, r to u the recipient
    "recipient": """
        INSERT INTO recipient VALUES (NEW.a, NEW.b, NEW.r, NEW.s, '', 1, NEW.c, 0, '', NEW.t, NEW.u,
            ifnull(NEW.d, 0), 0, NULL, 0);"""
    + LATE_MESSAGE,
    # a to g the recipient's new state (g NULL: the reply stands), h to j the record of it if any, k whether the message
    # is finished with, l what its sender was told, m whether it waits for room in its lane, n what a next hop calls it
    "change": f"""
        UPDATE recipient SET state = NEW.c, due = NEW.d, attempts = NEW.e, lane = NEW.f,
            reply = ifnull(NEW.g, reply), told = NEW.l, parked = NEW.m WHERE message = NEW.a AND number = NEW.b;
        INSERT INTO record SELECT NEW.a, {_SERIAL}, NEW.h, NEW.i, NEW.b, NEW.j WHERE NEW.h IS NOT NULL;
        DELETE FROM body WHERE NEW.k AND message = NEW.a AND {_ALL_SETTLED};"""
    + LATE_CHANGE,
    "record": f"""
        INSERT INTO record VALUES (NEW.a, {_SERIAL}, NEW.h, NEW.i, NEW.b, NEW.j);""",
    # a and b the recipient, c the next hop that an operator chose for it
    "rerouted": """
        UPDATE recipient SET next_hop = NEW.c WHERE message = NEW.a AND number = NEW.b;""",
    "finished": f"""
        DELETE FROM body WHERE message = NEW.a AND {_ALL_SETTLED};""",
    # a message, b to e its Idempotency-Key: scope, key, fingerprint, until; in the place of one whose time has passed
    "claim": """
        INSERT OR REPLACE INTO idempotency VALUES (NEW.b, NEW.c, NEW.a, NEW.d, NEW.e);""",
    # a message, h to j a record of which a message that is still known has so many at most
    "repeated": f"""
        INSERT INTO record SELECT NEW.a, {_SERIAL}, NEW.h, NEW.i, NULL, NEW.j
            WHERE EXISTS (SELECT 1 FROM message WHERE id = NEW.a)
            AND (SELECT count(*) FROM record WHERE message = NEW.a AND kind = NEW.i) < {MOST_REPEATS};""",
    **TRIGGERS_OF_WHY,
}
WORK_KINDS = {name: number for number, name in enumerate(_TRIGGERS, start=1)}


_OFTEN = 4  # the first so many kinds come often


def _work() -> str:
    """Each row runs every trigger of its view, if only to find that it is not for it: what comes seldom goes through a
    view of its own."""
    columns = ", ".join(f"NULL AS {letter}" for letter in _LETTERS)
    views = [f"CREATE VIEW {view} AS SELECT 0 AS kind, {columns};" for view in ("work", "seldom")]
    triggers = [_trigger("work" if kind <= _OFTEN else "seldom", name) for name, kind in WORK_KINDS.items()]
    passed_on = ", ".join(f"NEW.{letter}" for letter in _LETTERS)
    body = f"INSERT INTO seldom VALUES (NEW.kind, {passed_on});"
    triggers.append(f"CREATE TRIGGER work_seldom INSTEAD OF INSERT ON work WHEN NEW.kind > {_OFTEN} BEGIN {body} END;")
    return "\n".join([*views, *triggers])


def _trigger(view: str, name: str) -> str:
    when = f"NEW.kind = {WORK_KINDS[name]}"
    return f"CREATE TRIGGER {view}_{name} INSTEAD OF INSERT ON {view} WHEN {when} BEGIN {_TRIGGERS[name]} END;"


# From each version to the next; the view is made anew behind the last of them. Never edited once released.
_UPGRADES = {
    1: """
    ALTER TABLE recipient ADD COLUMN owner TEXT;
    CREATE INDEX recipient_waiting ON recipient (lane, message) WHERE state = 0;
    """,
    2: """
    ALTER TABLE message RENAME COLUMN eight_bit TO octets;
    ALTER TABLE message ADD COLUMN options TEXT;
    ALTER TABLE recipient ADD COLUMN options TEXT;
    ALTER TABLE recipient ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE recipient ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE recipient ADD COLUMN next_hop TEXT;
    CREATE INDEX recipient_ranked ON recipient (priority, due) WHERE state = 0 AND priority <> 0;
    """,
    3: f"""
    ALTER TABLE recipient ADD COLUMN parked INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX recipient_parked ON recipient (lane, priority DESC, message) WHERE state = 0 AND parked;
    CREATE TABLE idempotency (
        scope TEXT NOT NULL,
        key TEXT NOT NULL,
        message INTEGER NOT NULL,
        fingerprint BLOB NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (scope, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX idempotency_until ON idempotency (until);
    {UPGRADE_OF_WHY}
    """,
}


# Only one thread at a time uses the connection, so SQLite need not lock against others.
_FOR_ONE_THREAD = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX


class SpoolVersion(Exception):
    """The file is of a version that this program can't work on; the message says which."""


def open_spool(path: Path) -> apsw.Connection:
    """Open for writing, made new where there is none. Raises SpoolVersion, apsw.Error, OSError."""
    connection = apsw.Connection(str(path), flags=_FOR_ONE_THREAD, statementcachesize=600)
    connection.set_busy_timeout(5000)
    version = connection.pragma("user_version")
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
        _create(connection)
    elif version in _UPGRADES:
        _upgrade(connection, path, version)
    elif version != VERSION:
        connection.close()
        raise SpoolVersion(
            f"{path} has schema version {version}, this program knows {VERSION}:"
            " it belongs to another version of Pillarbox"
        )
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("cache_size", -8192)  # KiB
    connection.wal_autocheckpoint(0)  # the writer checkpoints, between commits
    return connection


def _create(connection: apsw.Connection) -> None:
    connection.pragma("auto_vacuum", 2)  # incremental; only settable before the first table
    connection.pragma("journal_mode", "wal")
    with connection:
        connection.execute(_TABLES + TABLES_OF_WHY + _work())
        connection.pragma("user_version", VERSION)


def _upgrade(connection: apsw.Connection, path: Path, version: int) -> None:
    """From an older version, behind a copy of the file as it was."""
    copy = _keep_copy(connection, path, version)
    with connection:
        connection.execute("DROP VIEW work; DROP VIEW IF EXISTS seldom")
        for step in range(version, VERSION):
            connection.execute(_UPGRADES[step])
        connection.execute(_work())
        connection.pragma("user_version", VERSION)
    log.info("spool: %s upgraded from version %d to %d; the old one is %s", path, version, VERSION, copy)


def _keep_copy(connection: apsw.Connection, path: Path, version: int) -> Path:
    """A durable copy in a file that was not there: one that was may be half of a copy."""
    first = path.with_name(f"{path.name}.v{version}")
    copy, count = first, 1
    while copy.exists():
        count += 1
        copy = first.with_name(f"{first.name}-{count}")
    connection.execute("VACUUM INTO ?", (str(copy),))
    with open(copy, "rb") as file:
        os.fsync(file.fileno())
    sync_directory(copy.parent)
    return copy


def open_reader(path: Path) -> apsw.Connection:
    """Open for short questions."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(5000)
    return connection
