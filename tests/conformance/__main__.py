"""The command line: `python -m tests.conformance`, from the root of the checkout.

Exit status 0 when every server was asked and each deviation is judged; 1 when not, and it says which; 2 for wrong
usage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conformance import page
from tests.conformance.servers import NAMES, Result, ask, running
from tests.peers.debian import CACHE, ROOT
from tests.peers.process import CannotRun

PAGE = ROOT / "docs" / "conformance.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    names: tuple[str, ...] = options.servers
    if options.write and names != NAMES:
        _say("conformance: --write needs all servers, as the page is about all")
        return 2
    results: list[Result] = []
    failed = False
    for name in names:
        try:
            results.append(_asked(name, options.cache.absolute()))
        except CannotRun as error:
            _say(f"{name:10} FAILED: {error}")
            failed = True
    for claim in page.unjudged(results):
        _say(f"not judged: {claim}; read the RFC and add it to tests/conformance/judgements.py")
        failed = True
    if names == NAMES and not failed:
        for claim in page.idle(results):
            _say(f"judged in vain: {claim}; no server deviates there any more")
            failed = True
    if options.write and not failed:
        PAGE.write_text(page.render(results, page.dated(results[0])), encoding="utf-8")
        _say(f"wrote {PAGE}")
    return 1 if failed else 0


def _asked(name: str, cache: Path) -> Result:
    with tempfile.TemporaryDirectory(prefix="pillarbox-conformance-") as place:
        with running(name, Path(place), cache) as server:
            result = ask(server)
    counts, broken = result.report["counts"], ", ".join(result.report["broken"])
    rules, pairs = (", ".join(f"{number} {verdict}" for verdict, number in counts[what].items()) for what in counts)
    _say(f"{name:10} {result.server.version:20} rules: {rules}; MUSTs broken: {broken or 'none'}")
    _say(f"{'':31} pairs: {pairs}")
    return result


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="`pillarbox conform` against many")
    add = parser.add_argument
    add("--write", action="store_true", help="renew docs/conformance.md")
    add("--servers", type=_chosen, default=NAMES, help=f"of {','.join(NAMES)}; default all")
    add("--cache", type=Path, default=CACHE, help="where the packages of Debian are unpacked, and kept")
    return parser


def _chosen(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names)


if __name__ == "__main__":
    sys.exit(main())
