"""All that waits in a spool file, read beside a running server: in short steps, so that its log can be emptied between.

Never writes, takes no lock and reads no text. What changes while it reads may be seen as it was or as it is then, but
no recipient twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from pillarbox.adapters.predicate_sql import DOMAIN, JOINED, condition
from pillarbox.adapters.spool_options import read_mail_options
from pillarbox.adapters.spool_schema import VERSION, SpoolVersion, open_reader
from pillarbox.core.envelope import NO_MAIL_OPTIONS
from pillarbox.engine.forecast import Letter, Past, Waiter
from pillarbox.engine.mail import State
from pillarbox.engine.predicate import Predicate

AT_ONCE = 5000  # recipients in one step
_UNSETTLED = f"state < {State.DELIVERED:d}"


class BacklogReader:
    def __init__(self, path: Path) -> None:
        """Raises SpoolVersion, apsw.Error."""
        self._connection = open_reader(path)
        version = self._connection.pragma("user_version")
        if version != VERSION:
            self._connection.close()
            raise SpoolVersion(f"{path} has schema version {version}, this program reads {VERSION}")

    def close(self) -> None:
        self._connection.close()

    def count(self) -> int:
        """Recipients that are not settled."""
        found: Any = self._connection.execute(f"SELECT count(*) FROM recipient WHERE {_UNSETTLED}").fetchone()
        return int(found[0])

    def sites(self) -> dict[str, str]:
        """The lane in which mail for a domain was tried last, of what waits."""
        found: Any = self._connection.execute(
            f"SELECT {DOMAIN} AS domain, lane, max(message) FROM recipient"
            f" WHERE state = {State.SCHEDULED:d} AND attempts > 0 AND next_hop IS NULL GROUP BY domain"
        ).fetchall()
        return {domain: lane for domain, lane, _ in found}

    def past(self, most: int) -> Iterator[Past]:
        """The youngest that are settled."""
        found: Any = self._connection.execute(
            f"SELECT {DOMAIN}, lane, state, attempts, due - received_at FROM {JOINED}"
            f" WHERE state >= {State.DELIVERED:d} ORDER BY recipient.message DESC LIMIT ?",
            (most,),
        ).fetchall()
        for domain, lane, state, attempts, seconds in found:
            yield Past(domain, lane, State(state), attempts, seconds)

    def letters(self, wanted: Predicate, now: float) -> Iterator[Letter]:
        """Every message with what waits of it, the oldest first; `wanted` says which recipients are meant."""
        options: dict[str | None, Any] = {None: NO_MAIL_OPTIONS}
        for message, rows in groupby(self._rows(wanted, now), key=lambda row: row[0]):
            waiters = []
            for row in rows:
                _, number, address, lane, state, due, attempts, told, next_hop, meant, *of_message = row
                waiters.append(Waiter(number, address, lane, State(state), due, attempts, told, next_hop, bool(meant)))
            received_at, size, sender, asked = of_message
            if asked not in options:
                if len(options) > AT_ONCE:
                    options = {None: NO_MAIL_OPTIONS}
                options[asked] = read_mail_options(asked)
            yield Letter(message, received_at, size, sender, tuple(waiters), options[asked])

    def _rows(self, wanted: Predicate, now: float) -> Iterator[Any]:
        meant = condition(wanted, now)
        statement = (
            "SELECT recipient.message, number, address, lane, state, due, attempts, told, next_hop,"
            f" {meant.where}, received_at, size, sender, message.options FROM {JOINED}"
            f" WHERE {_UNSETTLED} AND (recipient.message, number) > (?, ?)"
            " ORDER BY recipient.message, number LIMIT ?"
        )
        after = (0, -1)
        found: Any = True
        while found:
            found = self._connection.execute(statement, (*meant.arguments, *after, AT_ONCE)).fetchall()
            yield from found
            if found:
                after = found[-1][:2]
