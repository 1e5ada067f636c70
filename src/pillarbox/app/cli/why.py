"""`pillarbox why`: the life of a message, or what was refused and by which rule.

Status 0 where something was found, be it a list of candidates; 1 where nothing was.
"""

from __future__ import annotations

import re
import time
from argparse import Namespace
from datetime import datetime, timedelta

from pillarbox.app import story
from pillarbox.app.cli import output
from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.control import Refused

_SPAN = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?")
_AROUND = 1800.0  # seconds before and after a moment that is only about right


def register(verbs: Group) -> None:
    why = add_verb(verbs, "why", _why, "tell the life of a message, or why something was refused")
    why.add_argument(
        "word",
        metavar="ID",
        help="a message id, a session id (S-...), a <Message-ID>, the address of a recipient, or the queue id that a"
        " next hop gave it",
    )
    when = why.add_mutually_exclusive_group()
    when.add_argument("--since", metavar="SPAN", help="only what came within that time, such as 2h or 3d")
    when.add_argument("--around", metavar="TIME", help="only what came within half an hour of it: 14:30")


def _why(options: Namespace) -> int:
    since, until = _bounds(options.since, options.around, time.time())
    data = ask(options.config, "why", {"message": options.word, "since": since, "until": until})
    print(output.as_json(data) if options.json else "\n".join(story.story(data)))
    return 0


def _bounds(since: str | None, around: str | None, now: float) -> tuple[float | None, float | None]:
    if since is not None:
        if (match := _SPAN.fullmatch(since)) is None:
            raise Refused(f"--since {since}: not a span of time; write 30m, 2h or 3d", usage=True)
        return now - int(match[1]) * _SECONDS[match[2]], None
    if around is not None:
        at = _moment(around, now)
        return at - _AROUND, at + _AROUND
    return None, None


def _moment(text: str, now: float) -> float:
    """A time of day is the last one that was."""
    try:
        if (match := _CLOCK.fullmatch(text)) is not None:
            hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
            today = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=second, microsecond=0)
            at = today.timestamp()
            return at if at <= now else (today - timedelta(days=1)).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise Refused(
            f"--around {text}: not a time; write 14:30, 2024-05-01 or 2024-05-01 14:30", usage=True
        ) from error
