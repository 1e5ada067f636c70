"""`pillarbox queue` and `show`: what is under way, what is to become of it, and what a message is."""

from __future__ import annotations

import base64
import re
import sys
from argparse import Namespace
from typing import Any

from pillarbox.app.cli import output, top
from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb, who_calls
from pillarbox.app.control import Refused

_NO_ACTION = re.compile(r"[^A-Za-z]|^not$", re.IGNORECASE)
_LIMIT = 100  # rows that `queue list` shows unless told otherwise
_ORDERS = {
    "retry": "are due now",
    "hold": "are held until they are released",
    "release": "are released",
    "bounce": "have failed, and their senders are told",
    "drop": "have failed, and nobody is told",
    "reroute": "go another way",
}
_ORDERS_OF_ONE = {
    "retry": "is due now",
    "hold": "is held until it is released",
    "release": "is released",
    "bounce": "has failed, and its sender is told",
    "drop": "has failed, and nobody is told",
    "reroute": "goes another way",
}


def register(verbs: Group) -> None:
    queue = add_verb(verbs, "queue", _queue, "show the queue, count what is in it, or change it")
    queue.add_argument(
        "action",
        nargs="?",
        default="list",
        metavar="ACTION",
        help=f"list (the default), count, top, {', '.join(_ORDERS)}",
    )
    queue.add_argument(
        "where",
        nargs="*",
        metavar="WHERE",
        help="such as: domain=example.org state=deferred; what has < or > or spaces in it stands in quotes for the "
        "shell; default: all that is not settled",
    )
    queue.add_argument("--limit", type=_count, default=_LIMIT, metavar="N", help=f"rows to list (default {_LIMIT})")
    queue.add_argument("--yes", action="store_true", help="change the queue without asking")
    queue.add_argument("--status", default="", metavar="CODE", help="bounce: the status told (default 5.7.0)")
    queue.add_argument("--text", default="", metavar="TEXT", help="bounce: the reason told")
    queue.add_argument(
        "--next-hop", default="", metavar="HOP", help="reroute: where to, as in a route; `routes` takes that back"
    )
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
    if _NO_ACTION.search(action):  # it was left out
        action, where = "list", [action, *where]
    if action in _ORDERS:
        return _order(options, action, " ".join(where))
    if action not in _ACTIONS:
        raise Refused(f"queue {action}: no such action; allowed: {', '.join((*_ACTIONS, *_ORDERS))}", usage=True)
    return _ACTIONS[action](options, " ".join(where))


def _list(options: Namespace, where: str) -> int:
    rows = ask(options.config, "queue_list", {"where": where, "limit": options.limit + 1})
    more = len(rows) > options.limit
    rows = rows[: options.limit]
    if options.json:
        print(output.as_json(rows))
    elif rows:
        print(output.queue(rows))
    if more:
        print(f"pillarbox: the oldest {options.limit}; there are more, see --limit and count", file=sys.stderr)
    return 0


def _counted(options: Namespace, where: str) -> int:
    data = ask(options.config, "queue_count", {"where": where})
    print(output.as_json(data) if options.json else data["count"])
    return 0


_ACTIONS = {"list": _list, "count": _counted, "top": top.run}


# --- orders


def _order(options: Namespace, action: str, where: str) -> int:
    args = {
        "action": action,
        "where": where,
        "who": who_calls(),
        "status": options.status,
        "text": options.text,
        "next_hop": options.next_hop,
    }
    meant = ask(options.config, "queue_preview", args)
    if not meant["recipients"]:
        data = {"count": 0, "messages": 0, "standing": 0}
    elif options.yes or _agreed(action, meant):
        data = ask(options.config, "queue_order", args)
    else:
        print("nothing was changed", file=sys.stderr)
        return 1
    print(output.as_json(data) if options.json else _told(action, data))
    return 0


def _agreed(action: str, meant: dict[str, Any]) -> bool:
    """Whether whoever sits there wants it. Raises Refused where nobody does."""
    active = f", {meant['active']} of them in the server's memory" if meant["active"] else ""
    extent = f"{_recipients(meant['recipients'])} of {_messages(meant['messages'])}{active}"
    if not sys.stdin.isatty():
        raise Refused(f"queue {action}: {extent}; nobody is there to be asked: say --yes to do it", usage=True)
    print(f"{action}: {extent}. Do it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _told(action: str, data: dict[str, Any]) -> str:
    text = f"{_recipients(data['count'])} {(_ORDERS_OF_ONE if data['count'] == 1 else _ORDERS)[action]}"
    if data["standing"]:
        text += (
            f"\n{data['standing']} more are in the server's memory: it is done when their turn comes, or when they come"
            " back from an attempt"
        )
    return text


def _recipients(number: int) -> str:
    return "1 recipient" if number == 1 else f"{number} recipients"


def _messages(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"


# --- one message


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
