"""The recipient that something came back for, as the spool has it. Meets the port Originals; changes nothing."""

from __future__ import annotations

import json

from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.address import Mailbox
from pillarbox.core.verp import Returning
from pillarbox.engine.bounces import Original
from pillarbox.engine.records import Kind

_FOUND = """SELECT recipient.owner, message.sender, recipient.address FROM recipient JOIN message ON id = message
    WHERE message = ? AND number = ?"""
_SEEN = "SELECT detail FROM record WHERE message = ? AND recipient = ? AND kind IN (?, ?)"


class SqliteOriginals:
    def __init__(self, spool: SqliteSpool) -> None:
        self._spool = spool

    async def original(self, about: Returning) -> Original | None:
        place = (int(about.message), about.number)
        found = await self._spool.query(_FOUND, place)
        if not found:
            return None
        owner, sender, address = found[0]
        whom = None if sender is None else owner or sender
        kinds = (Kind.BOUNCED_BACK.value, Kind.ANSWERED.value)
        records = await self._spool.query(_SEEN, (*place, *kinds))
        seen = frozenset(str(json.loads(detail).get("bounce", "")) for (detail,) in records)
        return Original(None if whom is None else Mailbox.parse(whom), Mailbox.parse(address), seen)
