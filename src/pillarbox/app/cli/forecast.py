"""`pillarbox forecast`: when the queue will be drained, by a simulation, and what that rests on, in plain words."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pillarbox.app.cli import output
from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.config_load import load
from pillarbox.app.control import Refused

_LANES = 20  # rows that are shown unless told otherwise
_MOST = 100_000  # recipients that are simulated unless told otherwise
_WORTH_A_BAR = 5000  # recipients from which on the progress is shown
_EMPTY = "nothing is queued"
_PERIODS = {1: "s", 60: "m", 3600: "h", 86400: "d"}


def register(verbs: Group) -> None:
    verb = add_verb(verbs, "forecast", _forecast, "tell when the queue will be drained, by a simulation of it")
    verb.add_argument(
        "where",
        nargs="*",
        metavar="WHERE",
        help="whose end is told, as for `queue`; what else is queued waits in the same lanes all the same",
    )
    verb.add_argument(
        "--limit",
        action="append",
        default=[],
        dest="limits",
        metavar="LANES=LIMITS",
        help="with other limits than today's: 'mx:*.example.net=messages=100/m,connections=5'; may repeat",
    )
    verb.add_argument(
        "--success", type=_percent, metavar="PERCENT", help="attempts that end in a delivery (default: as in the past)"
    )
    verb.add_argument("--seconds", type=_seconds, metavar="N", help="that an attempt takes (default: as in the past)")
    verb.add_argument(
        "--most",
        type=_count,
        default=_MOST,
        metavar="N",
        help=f"simulate so many recipients at most, to stand for all (default {_MOST})",
    )
    verb.add_argument("--lanes", type=_count, default=_LANES, metavar="N", help=f"lanes to show (default {_LANES})")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not (number := int(text)):
        raise ArgumentTypeError(f"a whole number from 1 is wanted, not {text}")
    return number


def _percent(text: str) -> float:
    return _number(text.removesuffix("%"), 100, "a percentage") / 100


def _seconds(text: str) -> float:
    return _number(text, 86400, "a number of seconds")


def _number(text: str, most: int, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise ArgumentTypeError(f"{what} from 0 to {most} is wanted, not {text}")
    return number


def _forecast(options: Namespace) -> int:
    domains = ask(options.config, "domain_list", {})
    data = _found(options, domains)
    if options.json:
        print(output.as_json(data))
    else:
        print(told(data) if data["waiting"] or data["held"] else _EMPTY)
    return 0


def _found(options: Namespace, domains: Any) -> dict[str, Any]:
    import apsw

    from pillarbox.adapters.privilege import PrivilegeError
    from pillarbox.adapters.spool_schema import SpoolVersion
    from pillarbox.app.forecasting import Question, as_data, forecast
    from pillarbox.app.privilege import become_for_data
    from pillarbox.engine.forecast import Forecast

    config = load(options.config)
    question = Question(" ".join(options.where), options.limits, options.success, options.seconds, options.most)
    try:
        become_for_data(config)
        with _bar() as progress:
            found = forecast(config, question, domains, progress)
    except (SpoolVersion, PrivilegeError, apsw.Error) as error:
        raise Refused(str(error)) from error
    return as_data(found or Forecast(0.0, [], 0), options.lanes)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A line on a terminal, gone when it is done; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda settled, of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: list[Any] = []

        def progress(settled: int, of: int) -> None:
            if of < _WORTH_A_BAR:
                return
            if not tasks:
                tasks.append(bar.add_task("simulated", total=of))
            bar.update(tasks[0], completed=settled)

        yield progress


# --- in words


def told(data: output.Data) -> str:
    parts = [_whole(data), _timeline(data), _lanes(data), _assumed(data)]
    return "\n\n".join(part for part in parts if part)


def _whole(data: output.Data) -> str:
    lines = [f"{data['waiting']} recipients wait, {data['held']} are held"]
    if data["last"] is not None:
        span = output.span(data["last"] - data["at"])
        lines.append(f"the last is settled in {span}, at {output.moment(data['last'])}")
    elif data["left"]:
        lines.append(f"after {output.span(data['ends'] - data['at'])}, {data['left']} still wait")
    ends = [f"{data[name]} {words}" for name, words in _ENDS.items() if data[name] or name == "delivered"]
    lines.append(", ".join(ends))
    if data["held"]:
        lines.append(f"{data['held']} remain held until they are released")
    return "\n".join(lines)


_ENDS = {"delivered": "are delivered", "failed": "fail", "expired": "expire (retry.give_up)"}


def _timeline(data: output.Data) -> str:
    """Up to the first moment with nothing left."""
    points: list[tuple[str, str]] = [("now", str(data["waiting"]))]
    for point in data["timeline"]:
        points.append((output.span(point["seconds"]), str(point["left"])))
        if not point["left"]:
            break
    return output.table([("after", *(at for at, _ in points)), ("left", *(left for _, left in points))])


def _lanes(data: output.Data) -> str:
    if not data["lanes"]:
        return ""
    rows: list[tuple[str, ...]] = [("lane", "waiting", "limits", "at most", "attempt", "taken", "drained in")]
    rows += [_lane(lane, data["at"]) for lane in data["lanes"]]
    more = data["count"] - len(data["lanes"])
    return output.table(rows) + (f"\nand {more} lanes more, see --lanes" if more else "")


def _lane(lane: output.Data, at: float) -> tuple[str, ...]:
    limits = f"{lane['connections']} at a time"
    if (messages := lane["messages"]) is not None:
        limits += f", {messages['most']}/{_PERIODS[messages['seconds']]}"
    rate = "-" if lane["per_second"] is None else f"{lane['per_second']:.4g}/s"
    first, later = (f"{lane[name]['success']:.0%}" for name in ("first", "later"))
    taken = first if first == later else f"{first}, then {later}"
    drained = f"{lane['left']} left" if lane["left"] else output.span((lane["last"] or at) - at)
    return (lane["lane"], str(lane["waiting"]), limits, rate, f"{lane['seconds']:.3g} s", taken, drained)


def _assumed(data: output.Data) -> str:
    lanes = data["lanes"]
    lines = ["This rests on:"]
    if data["sampled"] is not None:
        lines.append(f"- a sample: {data['sampled']} recipients stand for {data['queue']} in the queue, see --most")
    measured = sum(lane["seconds_measured"] for lane in lanes)
    lines.append(
        f"- how long an attempt takes: from the history for {measured} of the {len(lanes)} lanes shown, else assumed "
        "(column attempt)"
    )
    seen = sum(bool(lane["attempts_seen"]) for lane in lanes)
    lines.append(
        f"- what is taken, at the first attempt and at later ones: from the history for {seen} of {len(lanes)} lanes, "
        "else all is; or as --success says"
    )
    lines.append("- no new mail comes, no notice is sent, nobody releases what is held or fetches what is kept")
    lines.append("- next hops behave as they did; today's limits but for those of --limit")
    return "\n".join(lines)
