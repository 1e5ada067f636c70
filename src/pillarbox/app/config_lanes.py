"""What `[[lane]]` says: the limits of lanes, by their names.

Each key of a lane comes from the first entry that matches its name and has the key. Knows how names are compared, and
no lane.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from functools import lru_cache
from typing import TypeVar

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.app.config_values import Kind
from pillarbox.engine.fair import Fairness
from pillarbox.engine.lanes import LaneLimits
from pillarbox.engine.limits import Limit

T = TypeVar("T")


class Off(Enum):
    """No limit, where a later entry may have one."""

    OFF = "off"


def _or_off(kind: Kind[T | None]) -> Kind[T | Off | None]:
    def read(value: object) -> T | Off:
        found = kind.read(value)
        return Off.OFF if found is None else found

    return Kind(kind.allowed, read, kind.words)


def _pattern() -> Kind[str]:
    return Kind('a lane\'s name, in which * stands for any characters and ? for one: "mx:*.example.net*"', _text)


def _text(value: object) -> str:
    return kinds.text().read(value)


def _priority() -> Kind[int | None]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("not a whole number")
        if not -9 <= value <= 9:
            raise ValueError("too small" if value < 0 else "too large")
        return value

    return Kind("a whole number from -9 to 9", read)


def _fairness() -> Kind[Fairness | None]:
    kind = kinds.choice(Fairness)
    return Kind(kind.allowed, kind.read, kind.words)


@dataclass(frozen=True)
class LaneConfig:
    """Limits of what goes one way. A lane's name is what `pillarbox queue top` shows; for mail by MX it is the site:
    the hosts of the MX set. Each key of a lane comes from the first entry that matches and has it."""

    match: str = keys.one("match", _pattern(), keys.REQUIRED, "The lanes it is for, by name.")
    connections: int | None = keys.one(
        "connections",
        Kind(kinds.count().allowed, kinds.count().read),
        None,
        "Connections at a time, and so messages under way. Default: `limits.connections_per_next_hop`.",
    )
    messages: Limit | Off | None = keys.one(
        "messages", _or_off(kinds.rate()), None, "Messages in a time, evenly spread over it. Default: no limit."
    )
    new_connections: Limit | Off | None = keys.one(
        "new_connections",
        _or_off(kinds.rate()),
        None,
        "New connections in a time, evenly spread over it; each attempt to open one counts. Default: no limit.",
    )
    messages_per_connection: int | Off | None = keys.one(
        "messages_per_connection",
        _or_off(kinds.count_or_off()),
        None,
        "Messages over one connection before it is closed. What the server says by LIMITS is kept to, too. Default: "
        "no limit.",
    )
    recipients_per_transaction: int | Off | None = keys.one(
        "recipients_per_transaction",
        _or_off(kinds.count_or_off()),
        None,
        "Recipients of a message that are named to the server at a time; a message with more is sent several times. "
        "What the server says by LIMITS is kept to, too. Default: 100, which every server takes.",
    )
    priority: int | None = keys.one(
        "priority",
        _priority(),
        None,
        "Which lane comes first where something is scarce, as the room in memory is: 9 before 0, 0 before -9. "
        "Default: 0.",
    )
    fair: Fairness | None = keys.one(
        "fair",
        _fairness(),
        None,
        "Between whom the lane is shared out, so that much mail of one does not hold up a little of another. `tenant`: "
        "who authenticated to submit a message, else the domain of its reverse-path. `submitter`: who authenticated. "
        "`sender`: the reverse-path. `none`: first come, first served. Default: `tenant`.",
    )


def limits_of(lane: str, entries: Sequence[LaneConfig]) -> LaneLimits:
    """What the entries say of a lane."""
    found: dict[str, object] = {}
    for entry in entries:
        if _expression(entry.match).fullmatch(lane):
            for each in fields(LaneConfig):
                value = getattr(entry, each.name)
                if each.name != "match" and value is not None:
                    found.setdefault(each.name, value)
    return LaneLimits(**{key: None if value is Off.OFF else value for key, value in found.items()})  # type: ignore[arg-type]


@lru_cache(maxsize=1000)
def _expression(pattern: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(each) or re.escape(each) for each in pattern), re.IGNORECASE | re.DOTALL)
