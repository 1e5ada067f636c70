"""How data is printed: columns, times, the story of a message, or JSON.

Takes the plain data of `admin.py` and gives text; asks nobody anything. Times come as seconds since the epoch and are
shown as local ISO 8601. Whatever a peer may have written is printed with its control characters made visible.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
Data = Mapping[str, Any]


def as_json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


def visible(text: object) -> str:
    """On one line, and unable to command a terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(text))


def moment(seconds: float) -> str:
    """A point in time, local, to the second."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def span(seconds: float) -> str:
    """How long, in its two largest units: 4m, 1h30m, 2d4h."""
    left = int(max(seconds, 0))
    parts = []
    for length, unit in _UNITS:
        if left >= length:
            parts.append(f"{left // length}{unit}")
            left %= length
        elif parts:
            break
        if len(parts) == 2:
            break
    return "".join(parts) or "0s"


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


def path(address: str | None) -> str:
    """An address as a path: the null one is <>."""
    return f"<{address or ''}>"


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


def story(data: Data, now: float) -> str:
    """What `why` tells: how the message came, what happened, and what is next for each recipient."""
    message, recipients = data["message"], data["recipients"]
    lines = [*_arrival(message), *(f"  to {_recipient(row)}" for row in recipients), ""]
    names = {row["number"]: row["address"] for row in recipients}
    lines += [_event(record, names) for record in data["records"]]
    lines += ["", *(line for row in recipients for line in _outlook(row, now))]
    return "\n".join(lines)


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


def _event(record: Data, names: Mapping[int, str]) -> str:
    number = record["recipient"]
    whom = "" if number is None else f" {path(names.get(number, f'#{number}'))}"
    detail = "; ".join(_detail(name, value) for name, value in record["detail"].items())
    return f"{moment(record['at'])}  {record['kind']}{whom}{': ' if detail else ''}{detail}"


def _detail(name: str, value: Any) -> str:
    if name == "text":
        return visible(value)
    if name == "who":
        return f"by {visible(value)}"
    return f"{name} {moment(value) if name == 'due' else visible(value)}"


def _outlook(row: Data, now: float) -> list[str]:
    """A recipient's state, and what happens next and when."""
    lines = [f"{path(row['address'])}  {row['state']}"]
    if row["settled_at"] is not None:
        lines[0] += f" at {moment(row['settled_at'])}, after {_attempts(row['attempts'])}"
    elif row["state"] == "active":
        lines.append("  being delivered now")
    elif row["state"] == "held":
        lines.append(f"  held until it is released: pillarbox queue release id={row['id']}")
    else:
        wait = row["due"] - now
        when = f"in {span(wait)}" if wait > 0 else "now"
        which = "next attempt" if row["attempts"] else "first attempt"
        lines[0] += f" after {_attempts(row['attempts'])}" if row["attempts"] else ""
        lines.append(f"  {which} at {moment(row['due'])} ({when})")
    if row["reply"]:
        lines.append(f"  last reply: {visible(row['reply'])}")
    return lines


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"
