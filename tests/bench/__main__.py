"""The command line: `python -m tests.bench`, from the root of the checkout.

Exit status 0 when everything ran, whatever the figures; 1 when something failed to run, with the reason; 2 for
wrong usage.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType

from tests.bench import report
from tests.bench.runner import Runner
from tests.bench.servers import SERVERS
from tests.bench.values import CELLS, Cell, Options
from tests.peers.debian import CACHE, ROOT
from tests.peers.postfix import find_tools
from tests.peers.process import CannotRun

MEMORY_FILESYSTEMS = {"tmpfs", "ramfs"}
QUICK_CELLS = "*-1k-*"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        tools = find_tools(options.tools)
        with _work_folder(options) as work:
            environment = report.environment(tools, _filesystem(work))
            results = Runner(options, tools, work, report.say).run()
    except CannotRun as error:
        report.say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        report.say("bench: interrupted")
        return 1
    report.show(options, results, environment)
    if options.json:
        report.write_json(options.json, options, results, environment)
    return 1 if results.failures else 0


def _options(arguments: Sequence[str] | None) -> Options:
    given = _parser().parse_args(arguments)
    quick = bool(given.quick)
    idle: int | None = given.idle
    servers: tuple[str, ...] = given.servers or (("pillarbox",) if idle is not None else tuple(SERVERS))
    return Options(
        servers=servers,
        cells=given.cells or _chosen_cells(QUICK_CELLS if quick else "*"),
        rounds=given.rounds or (1 if quick else 3),
        seconds=given.seconds or (1.5 if quick else 3.0),
        pause=given.pause if given.pause is not None else (5.0 if quick else 20.0),
        work=given.work,
        keep=given.keep,
        json=given.json,
        idle=idle,
        tls=bool(given.tls),
        pillarbox=given.pillarbox.absolute(),
        tools=given.tools.absolute(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Pillarbox beside Postfix and aiosmtpd")
    add = parser.add_argument
    add("--servers", type=_chosen_servers, help=f"of {','.join(SERVERS)}; default all, with --idle pillarbox")
    add("--cells", type=_chosen_cells, help=f"names or patterns, of {','.join(cell.name for cell in CELLS)}")
    add("--rounds", type=_positive, help="default 3; the order of the servers turns with each")
    add("--seconds", type=float, help="how long a measurement is to take, default 3")
    add("--pause", type=float, help="seconds of quiet first, default 20; a tenth of it, at most 3, before each cell")
    add("--quick", action="store_true", help="1 KiB only, one round, short")
    add("--idle", type=_positive, nargs="?", const=10_000, metavar="N", help="only the memory of N idle connections")
    add("--tls", action="store_true", help="with --idle: connections under TLS")
    add("--work", type=Path, help="folder on the disk to measure, default one on the disk of the checkout")
    add("--keep", action="store_true", help="keep the work folder")
    add("--json", type=Path, metavar="FILE", help="write all measurements there")
    add("--pillarbox", type=Path, default=Path(sys.executable).parent / "pillarbox", help="the program")
    add("--tools", type=Path, default=CACHE, help="where Postfix is unpacked, and kept")
    return parser


def _chosen_servers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in SERVERS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SERVERS)}")
    return tuple(dict.fromkeys(names))


def _chosen_cells(text: str) -> tuple[Cell, ...]:
    patterns = text.split(",")
    for pattern in patterns:
        if not any(fnmatchcase(cell.name, pattern) for cell in CELLS):
            raise argparse.ArgumentTypeError(f"{pattern!r} fits none of {', '.join(cell.name for cell in CELLS)}")
    return tuple(cell for cell in CELLS if any(fnmatchcase(cell.name, pattern) for pattern in patterns))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


@contextmanager
def _work_folder(options: Options) -> Iterator[Path]:
    parent = options.work or _same_disk_as_checkout()
    parent.mkdir(parents=True, exist_ok=True)
    kind = _filesystem(parent)
    if kind in MEMORY_FILESYSTEMS:
        raise CannotRun(f"{parent} is on {kind}, where fsync costs nothing; choose a disk with --work")
    work = Path(tempfile.mkdtemp(prefix="pillarbox-bench-", dir=parent.absolute()))
    try:
        yield work
    finally:
        if options.keep:
            report.say(f"kept {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def _same_disk_as_checkout() -> Path:
    temporary = Path(tempfile.gettempdir())
    return temporary if temporary.stat().st_dev == ROOT.stat().st_dev else ROOT / ".venv" / "bench"


def _filesystem(folder: Path) -> str:
    """Type of the file system that holds `folder`: that of the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = {str(path) for path in (folder.resolve(), *folder.resolve().parents)}
    holding = [(len(point), kind) for point, kind in mounts if point in above]
    return max(holding)[1] if holding else "unknown"


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
