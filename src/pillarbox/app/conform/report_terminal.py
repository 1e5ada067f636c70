"""The report on a terminal: the table with a colour for each pair, what deviates, and the sums; and a progress bar.

Gives rich what it draws; all texts of a server go through `visible` and are Text, never markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from pillarbox.app.cli.output import visible
from pillarbox.app.conform.probe import Finding, Level, Progress, Verdict
from pillarbox.app.conform.report import gist, started
from pillarbox.app.conform.run import Report

_STYLES = {
    Verdict.CONFORMS: "green",
    Verdict.DEVIATES: "bold red",
    Verdict.NOT_OFFERED: "cyan",
    Verdict.NOT_PROVOKED: "dim",
}
_MARKS = {Verdict.CONFORMS: "", Verdict.DEVIATES: "!", Verdict.NOT_OFFERED: "-", Verdict.NOT_PROVOKED: "?"}
_LEVELS = {Level.MUST: "bold red", Level.SHOULD: "yellow", Level.MAY: "dim", Level.TABLE: "cyan"}


def summary(report: Report) -> RenderableType:
    """What is printed at the end."""
    parts: list[RenderableType] = [_head(report), Text(), _matrix(report), _legend(), Text()]
    parts += _deviations(report)
    parts += [_sums(report), Text(_conclusion(report), style="bold red" if report.failed else "bold green")]
    return Group(*parts)


def _head(report: Report) -> Text:
    greeting = visible(report.facts.greeting.texts[0]) if report.facts.greeting else "none"
    keywords = ", ".join(map(visible, report.facts.keywords)) or "none"
    text = Text.assemble((str(report.target), "bold"), f"  asked {started(report)}, in {report.seconds:.1f} s\n")
    text.append(f"greeting    {greeting}\nextensions  {keywords}")
    return text


def _matrix(report: Report) -> Table:
    """A row for each command, with the codes of the classical table and then those that came later."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for command, findings in groupby(report.pairs, key=lambda finding: finding.entry.command):
        codes = Text()
        for finding in findings:
            entry = finding.entry
            style = _STYLES[finding.verdict] + ("" if entry.classical else " italic")
            codes.append(f"{entry.code}{_MARKS[finding.verdict]}", style=style)
            codes.append(" ")
        table.add_row(Text({".": "(message)"}.get(command, command), style="bold"), codes)
    return table


def _legend() -> Text:
    return Text.assemble(
        ("seen", _STYLES[Verdict.CONFORMS]),
        "   ",
        ("not offered -", _STYLES[Verdict.NOT_OFFERED]),
        "   ",
        ("not provoked ?", _STYLES[Verdict.NOT_PROVOKED]),
        "   ",
        ("later than the classical table", "italic"),
    )


def _deviations(report: Report) -> Iterator[RenderableType]:
    found = [finding for finding in report.findings if finding.verdict is Verdict.DEVIATES]
    order = list(Level)
    for finding in sorted(found, key=lambda finding: order.index(finding.level)):
        yield from _deviation(finding)


def _deviation(finding: Finding) -> Iterator[RenderableType]:
    yield Text.assemble(
        (f"{finding.level.value:6}", _LEVELS[finding.level]), " ", finding.rule, (f"  {finding.section}", "dim")
    )
    yield Text.assemble(f"       {finding.name}: {visible(finding.note)}")
    for line in gist(finding):
        yield Text(f"       {line.who}: {line.text}", style="dim")
    yield Text()


def _sums(report: Report) -> Table:
    rules, pairs = report.counts(), report.pair_counts()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", *(verdict.value for verdict in Verdict)):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row(f"{sum(rules.values())} rules", *(str(rules[verdict]) for verdict in Verdict))
    table.add_row(f"{sum(pairs.values())} classical pairs", *(str(pairs[verdict]) for verdict in Verdict))
    return table


def _conclusion(report: Report) -> str:
    broken = len(report.broken)
    text = f"{broken} of the MUSTs broken." if broken else "No MUST is broken, of those that could be tried."
    return f"{text} Cut short: {report.cut}." if report.cut else text


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """A bar, for as long as the block lasts; it is gone afterwards, and never there where nobody would see it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("asking", total=None)

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{name:24}")

        yield show
