"""How data is printed: columns, times, an envelope, or JSON. The story of `why` is told in `app/story.py`.

Takes the plain data of `admin.py` and gives text; asks nobody anything. Times come as seconds since the epoch and are
shown as local ISO 8601. Whatever a peer may have written is printed with its control characters made visible.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pillarbox.app.texts import moment as moment
from pillarbox.app.texts import path as path
from pillarbox.app.texts import span as span
from pillarbox.app.texts import visible as visible

Data = Mapping[str, Any]


def as_json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


def octets(size: int) -> str:
    """A size as people say it."""
    if size < 1024:
        return str(size)
    return f"{size / 1024:.1f}K" if size < 1024**2 else f"{size / 1024**2:.1f}M"


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows as aligned columns, two spaces apart; "" for no rows."""
    texts = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)


def queue(rows: Sequence[Data]) -> str:
    """What `queue list` shows: a line for each recipient."""
    return table(
        (
            row["id"],
            row["state"],
            moment(row["due"] or row["settled_at"] or row["received_at"]),
            row["attempts"],
            octets(row["size"]),
            path(row["sender"]),
            path(row["address"]),
            row["lane"] or "-",
            row["reply"],
        )
        for row in rows
    )


def envelope(data: Data) -> str:
    """What `show` tells above the text."""
    recipients = (f"to {_recipient(row)}  {row['state']}" for row in data["recipients"])
    return "\n".join([*_arrival(data["message"]), *(f"  {line}" for line in recipients)])


def _arrival(message: Data) -> list[str]:
    origin = f"{visible(message['helo'])} [{message['peer']}]" if message["peer"] else "this machine"
    how = f"{message['listener']}, {message['protocol']}, {message['size']} octets"
    subject = f"  subject {visible(message['subject'])}" if message["subject"] else None
    lines = [f"{message['id']}", f"{moment(message['received_at'])}  received from {origin} ({how})"]
    lines.append(f"  from {path(message['sender'])}")
    return [*lines, subject] if subject else lines


def _recipient(row: Data) -> str:
    behind = f" (sent to {path(row['original'])})" if row["original"] != row["address"] else ""
    return f"{path(row['address'])}{behind}"
