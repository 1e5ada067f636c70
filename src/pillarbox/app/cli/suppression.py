"""`pillarbox suppression`: addresses that get no mail, since earlier mail to them failed for good."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_family, add_verb, who_calls
from pillarbox.app.cli.output import as_json, moment, table, visible


def register(verbs: Group) -> None:
    family = add_family(verbs, "suppression", "addresses that get no mail, since mail to them failed for good")
    parser = add_verb(family, "list", _list, "show the addresses, the oldest entry first")
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="", help="only these: *@example.org")
    parser = _address(add_verb(family, "add", _add, "put an address on the list"))
    parser.add_argument(
        "--until",
        default="",
        metavar="WHEN",
        help="never, a duration such as 30d, or a day such as 2027-01-31 (default: suppression.keep from now)",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="what is told to who sends there")
    parser = add_verb(family, "remove", _remove, "let mail through to an address again")
    parser.add_argument("pattern", metavar="ADDRESS", help="an address, or those that fit: *@example.org")
    _address(add_verb(family, "show", _show, "show all about an address on the list"))


def _address(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("address", metavar="ADDRESS")
    return parser


def _list(options: Namespace) -> int:
    rows = ask(options.config, "suppression_list", {"pattern": options.pattern})
    if options.json:
        print(as_json(rows))
    elif rows:
        print(table((row["address"], _until(row), row["class"], row["who"], row["text"]) for row in rows))
    return 0


def _show(options: Namespace) -> int:
    row = ask(options.config, "suppression_show", {"address": options.address})
    if options.json:
        print(as_json(row))
        return 0
    lines = {"address": row["address"], "since": moment(row["since"]), "until": _until(row)}
    lines |= {key: row[key] for key in ("class", "text", "message", "who") if row[key]}
    print("\n".join(f"{key}: {visible(value)}" for key, value in lines.items()))
    return 0


def _add(options: Namespace) -> int:
    args = {"address": options.address, "until": options.until, "reason": options.reason, "who": who_calls()}
    row = ask(options.config, "suppression_add", args)
    print(as_json(row) if options.json else f"{row['address']} gets no mail until {_end(row)}")
    if not row["enabled"]:
        print("pillarbox: suppression.enabled is false: nothing is refused yet", file=sys.stderr)
    return 0


def _remove(options: Namespace) -> int:
    found = ask(options.config, "suppression_remove", {"pattern": options.pattern})
    removed = found["removed"]
    print(as_json(found) if options.json else "\n".join(f"removed {each}" for each in removed) or "nothing fits")
    return 0


def _end(row: Mapping[str, Any]) -> str:
    return "it is removed" if row["until"] is None else moment(row["until"])


def _until(row: Mapping[str, Any]) -> str:
    return "never" if row["until"] is None else moment(row["until"])
