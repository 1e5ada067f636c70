"""`pillarbox queue`, `why` and `show`: what is under way, and what became of a message."""

from __future__ import annotations

import base64
import sys
import time
from argparse import Namespace

from pillarbox.app.cli import output
from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.control import Refused

_LIMIT = 1000  # rows that `queue list` shows unless told otherwise


def register(verbs: Group) -> None:
    queue = add_verb(verbs, "queue", _queue, "show the queue, count what is in it, or try it again now")
    queue.add_argument("action", nargs="?", default="list", metavar="ACTION", help="list (the default), count or retry")
    queue.add_argument(
        "where",
        nargs="*",
        metavar="WHERE",
        help="terms such as domain=example.org state=deferred; default: all that is not settled",
    )
    queue.add_argument("--limit", type=_count, default=_LIMIT, metavar="N", help=f"rows to list (default {_LIMIT})")
    add_verb(verbs, "why", _why, "tell the life of a message").add_argument("message", metavar="ID")
    add_verb(verbs, "show", _show, "show a message: envelope, header section, body").add_argument(
        "message", metavar="ID"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _queue(options: Namespace) -> int:
    action, where = options.action, options.where
    if "=" in action:  # the action was left out
        action, where = "list", [action, *where]
    if action not in _ACTIONS:
        raise Refused(f"queue {action}: no such action; allowed: {', '.join(_ACTIONS)}", usage=True)
    return _ACTIONS[action](options, " ".join(where))


def _list(options: Namespace, where: str) -> int:
    rows = ask(options.config, "queue_list", {"where": where, "limit": options.limit})
    if options.json:
        print(output.as_json(rows))
    elif rows:
        print(output.queue(rows))
    if len(rows) == options.limit:
        print(f"pillarbox: the first {options.limit}; there may be more, see --limit", file=sys.stderr)
    return 0


def _counted(options: Namespace, where: str) -> int:
    data = ask(options.config, "queue_count", {"where": where})
    print(output.as_json(data) if options.json else data["count"])
    return 0


def _retry(options: Namespace, where: str) -> int:
    data = ask(options.config, "queue_retry", {"where": where})
    print(output.as_json(data) if options.json else f"{data['count']} recipients are due now")
    return 0


_ACTIONS = {"list": _list, "count": _counted, "retry": _retry}


def _why(options: Namespace) -> int:
    data = ask(options.config, "why", {"message": options.message})
    print(output.as_json(data) if options.json else output.story(data, time.time()))
    return 0


def _show(options: Namespace) -> int:
    data = ask(options.config, "show", {"message": options.message})
    if options.json:
        print(output.as_json(data))
        return 0
    print(output.envelope(data))
    if data["body"] is None:
        print("\nIts text is gone: it was kept until the last recipient was settled.")
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\n" + _octets(data, "header") + b"\r\n" + _octets(data, "body"))
    return 0


def _octets(data: output.Data, part: str) -> bytes:
    """What stands in the data, as octets; the terminal gets it as it came, which is what `show` is for."""
    text: str = data[part]
    return base64.b64decode(text) if data["encoding"] == "base64" else text.encode()
