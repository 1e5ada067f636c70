"""`pillarbox replies`: the command -> reply table, or what it says of one command or code.

Needs no configuration and no server: the table is part of the program, and HELP over SMTP gives the same lines.
"""

from __future__ import annotations

import difflib
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import as_json, table
from pillarbox.app.control import Refused
from pillarbox.core.table import COMMANDS, TABLE, Class, Entry, describe, find

_WIDTHS = (3, 12, 9, 6, None)  # on a terminal: code, class, since, enhanced code, and the rest for when
_COLOURS = {Class.SUCCESS: "green", Class.INTERMEDIATE: "cyan", Class.FAILURE: "yellow", Class.ERROR: "red"}


def register(verbs: Group) -> None:
    parser = add_verb(verbs, "replies", _replies, "show which command gets which reply, and when")
    parser.add_argument(
        "word", nargs="?", metavar="COMMAND|CODE", help="one command or code (default: the whole table)"
    )


def _replies(options: Namespace) -> int:
    word: str | None = options.word
    entries = TABLE if word is None else find(word)
    if not entries:
        raise Refused(f"replies {word}: no such command or code{_nearest(str(word))}", usage=True)
    if options.json:
        print(as_json([_data(entry) for entry in entries]))
    elif word is None:
        _print_table(entries)
    else:
        _print_lines(describe(word))
    return 0


def _nearest(word: str) -> str:
    known = {name.upper(): name for name in (*COMMANDS, *(str(entry.code) for entry in TABLE))}
    found = difflib.get_close_matches(word.upper(), known, n=1)
    return f", did you mean {known[found[0]]}?" if found else "; without either the whole table is shown"


def _data(entry: Entry) -> dict[str, Any]:
    return {
        "command": entry.command,
        "code": entry.code,
        "class": entry.klass.name.lower(),
        "enhanced": entry.enhanced,
        "condition": entry.condition,
        "source": entry.source,
        "classical": entry.classical,
        "classic_only": entry.classic_only,
    }


def _row(entry: Entry) -> tuple[str, ...]:
    since = "classical" if entry.classical else "later"
    enhanced = " ".join(entry.enhanced) or "-"
    klass = entry.klass.name.lower()
    return entry.command, str(entry.code), klass, since, enhanced, entry.condition, entry.source


def _print_table(entries: Sequence[Entry]) -> None:
    classical = sum(entry.classical for entry in entries)
    total = f"{classical} classical pairs, {len(entries) - classical} later ones"
    if sys.stdout.isatty():
        _draw(entries, total)
    else:
        print(table(map(_row, entries)))
        print(total)


def _draw(entries: Sequence[Entry], total: str) -> None:
    """Wrapped to the width of the terminal, a paragraph for each command, later pairs dimmed."""
    from rich.console import Console  # here, as the server, which has the same command line, needs none of it
    from rich.table import Column, Table
    from rich.text import Text

    console = Console()
    for command, pairs in groupby(entries, key=lambda entry: entry.command):
        console.print(Text.assemble((command, "bold"), f"  {COMMANDS[command].summary}"))
        drawn = Table.grid(*(Column(width=width) for width in _WIDTHS), padding=(0, 2, 0, 0))
        for entry in pairs:
            _, code, klass, since, enhanced, when, source = _row(entry)
            style = "" if entry.classical else "dim"
            cells = (Text(cell, style=style) for cell in (klass, since, enhanced, f"{when} ({source})"))
            drawn.add_row(Text(code, style=_COLOURS[entry.klass]), *cells)
        drawn.add_row()
        console.print(drawn)
    console.print(Text(total))


def _print_lines(lines: Sequence[str]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        print(line if width is None else textwrap.fill(line, width, subsequent_indent="  "))
