"""The report as one HTML page that needs nothing else: `render(report) -> str`.

The page is the template `report.html.jinja` beside this module; here it is given what it shows. Everything is escaped
(jinja2's autoescape), and a server's words are made visible before that.
"""

from __future__ import annotations

from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from pillarbox import __version__
from pillarbox.app.cli.output import visible
from pillarbox.app.conform.probe import Level, Verdict
from pillarbox.app.conform.report import started, transcript
from pillarbox.app.conform.run import Report
from pillarbox.core.table import COMMANDS


def render(report: Report) -> str:
    environment = Environment(
        loader=PackageLoader("pillarbox.app.conform", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    groups = [(name, list(found)) for name, found in groupby(report.findings, key=lambda finding: finding.group)]
    rows = [(name, list(found)) for name, found in groupby(report.pairs, key=lambda finding: finding.entry.command)]
    deviations = [finding for finding in report.findings if finding.verdict is Verdict.DEVIATES]
    order = list(Level)
    return environment.get_template("report.html.jinja").render(
        report=report,
        started=started(report),
        version=__version__,
        groups=groups,
        rows=rows,
        commands=COMMANDS,
        deviations=sorted(deviations, key=lambda finding: order.index(finding.level)),
        transcript=transcript,
        verdicts=list(Verdict),
        rule_counts=report.counts(),
        pair_counts=report.pair_counts(),
    )
