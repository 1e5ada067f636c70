"""`pillarbox serve`, `check` and `backup`: the server as a whole, which is imported only by those who need it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import as_json, table, visible

if TYPE_CHECKING:
    from pillarbox.app.check import Finding


def register(verbs: Group) -> None:
    add_verb(verbs, "serve", _serve, "run the server until it is told to stop", prints_data=False)
    add_verb(verbs, "check", _check, "see whether all is there that a server needs, and how to mend what is not")
    add_verb(verbs, "backup", _backup, "write everything into one file, also while the server runs").add_argument(
        "file", metavar="FILE", help="must not exist"
    )


def _serve(options: Namespace) -> int:
    from pillarbox.app import daemon

    config: Path | None = options.config
    return daemon.serve(config)


def _check(options: Namespace) -> int:
    from pillarbox.app.check import Level, check

    findings = []
    for finding in check(options.config):
        findings.append(finding)
        if not options.json:
            print(_line(finding), flush=True)
    if options.json:
        print(as_json([{"level": f.level.value, "what": f.what, "mend": f.mend} for f in findings]))
    return 1 if any(finding.level is Level.FAIL for finding in findings) else 0


def _line(finding: Finding) -> str:
    mend = f"  — {finding.mend}" if finding.mend else ""
    return f"{finding.level.value:4}  {visible(finding.what)}{mend}"


def _backup(options: Namespace) -> int:
    data = ask(options.config, "backup", {"file": str(Path(options.file).absolute())})
    print(as_json(data) if options.json else table(data.items()))
    return 0
