"""`pillarbox queue top`: the lanes, the fullest first; on a terminal renewed once a second until Ctrl-C.

Elsewhere, and with --json, one look as JSON. Whatever a next hop said is shown with its control characters visible.
"""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from threading import Event
from typing import TYPE_CHECKING

from pillarbox.app.cli import output
from pillarbox.app.cli.connect import ask

if TYPE_CHECKING:
    from rich.table import Table

_EVERY = 1.0  # seconds
_LANES = 200  # that are asked for


def run(options: Namespace, where: str) -> int:
    data = _look(options, where)
    if options.json or not sys.stdout.isatty():
        print(output.as_json(data))
        return 0
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not data["running"]:
        console.print(table(data, len(data["lanes"])))
        return 0
    stop = Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())  # asyncio may lose one that comes with an answer
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                live.update(table(data, max(console.height - 6, 1)), refresh=True)
                if not stop.wait(_EVERY):
                    data = _look(options, where)
    finally:
        signal.signal(signal.SIGINT, before)
    return 0


def _look(options: Namespace, where: str) -> output.Data:
    data: output.Data = ask(options.config, "queue_top", {"where": where, "limit": _LANES})
    return data


def table(data: output.Data, rows: int) -> Table:
    """The first lanes, as many as there is room for, and what all have together."""
    from rich.table import Table
    from rich.text import Text

    lanes = data["lanes"]
    left = data["count"] - len(lanes[:rows])
    title = f"{output.moment(data['at'])}  {data['queued']} wait, {data['held']} held, {data['active']} in memory"
    shown = Table(
        title=Text(title),
        caption=Text(f"{left} lanes more" if left else "") if data["running"] else Text("no server runs on this data"),
        expand=True,
    )
    shown.add_column("lane", no_wrap=True, ratio=3)
    for heading in ("queued", "ready", "in flight", "oldest"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("last reply, or what slows it down", no_wrap=True, ratio=4)
    for lane in lanes[:rows]:
        oldest = "" if lane["oldest"] is None else output.span(data["at"] - lane["oldest"])
        numbers = (str(lane[name] or "") for name in ("queued", "ready", "in_flight"))
        cells = (lane["lane"] or "not tried yet", *numbers, oldest, lane.get("slowed") or lane["reply"])
        shown.add_row(*(Text(output.visible(cell)) for cell in cells))
    return shown
