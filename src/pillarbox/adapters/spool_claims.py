"""Idempotency keys on the disk: which message has one, and when it is forgotten.

They are written by `spool_rows`, in the same commit as their message. Knows SQL; what a key means is the engine's.
"""

from __future__ import annotations

from typing import Any

import apsw

from pillarbox.core.envelope import MessageId
from pillarbox.engine.ports import Claimed

FIND = "SELECT message, fingerprint FROM idempotency WHERE scope = ? AND key = ? AND until > ?"
FORGET_AT_ONCE = 5000  # keys in one commit


def find_claim(connection: apsw.Connection, scope: str, key: str, now: float) -> Claimed | None:
    found: Any = connection.execute(FIND, (scope, key, now)).fetchone()
    return None if found is None else Claimed(MessageId(found[0]), found[1])


def forget_claims(connection: apsw.Connection, now: float) -> int:
    """Remove those whose time has passed, within the caller's transaction; gives how many went this time."""
    connection.execute(
        "DELETE FROM idempotency WHERE (scope, key) IN"
        f" (SELECT scope, key FROM idempotency WHERE until <= ? LIMIT {FORGET_AT_ONCE})",
        (now,),
    )
    return connection.changes()
