"""Values as people read them: times, spans, sizes, paths, and texts of strangers made harmless. Pure."""

from __future__ import annotations

import re
from datetime import datetime

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def visible(text: object) -> str:
    """On one line, and unable to command a terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(text))


def moment(seconds: float) -> str:
    """A point in time, local, to the second."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def clock_time(seconds: float, near: float) -> str:
    """As `moment`, without the date where that is the one of `near`."""
    there, here = datetime.fromtimestamp(seconds), datetime.fromtimestamp(near)
    return there.strftime("%H:%M:%S" if there.date() == here.date() else "%Y-%m-%d %H:%M:%S")


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
        return f"{size} octets"
    return f"{size / 1024:.1f}K" if size < 1024**2 else f"{size / 1024**2:.1f}M"


def path(address: str | None) -> str:
    """An address as a path: the null one is <>."""
    return f"<{visible(address or '')}>"


def plural(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
