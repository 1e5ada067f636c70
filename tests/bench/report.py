"""All that is printed: progress to standard error, tables and targets to standard output, raw data to a file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.targets import (
    Judgement,
    Measure,
    Spread,
    cpu_ms,
    judge,
    p50_ms,
    p99_ms,
    rate,
    ratio,
    round_ratio,
    spread,
)
from tests.bench.values import Cell, IdleSample, Kind, Options, Results, Sample
from tests.peers.postfix import Tools

THROUGHPUT_HEAD = (
    "cell",
    "server",
    "msgs/s median (min-max)",
    "x Postfix",
    "per round",
    "CPU ms/msg (min-max)",
    "x Postfix",
)
LATENCY_HEAD = ("cell", "server", "p50 ms (min-max)", "p99 ms (min-max)", "p99 x Postfix", "per round")


Row = Callable[[Sequence[Sample], str, str], tuple[str, ...]]


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def show(options: Options, results: Results, environment: dict[str, str]) -> None:
    _lines([f"{key}: {value}" for key, value in environment.items()])
    if results.idle:
        _lines(["", "Memory of idle connections (PSS of the process tree)", *map(_idle_line, results.idle)])
    throughput = [cell for cell in options.cells if cell.kind is not Kind.LATENCY]
    latency = [cell for cell in options.cells if cell.kind is Kind.LATENCY]
    _table(THROUGHPUT_HEAD, _rows(options, throughput, results.samples, _throughput_row))
    _table(LATENCY_HEAD, _rows(options, latency, results.samples, _latency_row))
    if results.samples:
        _lines(["", "Targets, against Postfix (ratio of the medians)", *map(_target_line, judge(results.samples))])
    if results.failures:
        failed = [f"  {failure.server}, {failure.what}: {failure.why}" for failure in results.failures]
        _lines(["", "FAILED to run", *failed])


def environment(tools: Tools, filesystem: str) -> dict[str, str]:
    versions = [f"Python {platform.python_version()}", f"Postfix {tools.version()}"]
    for name in ("aiosmtpd", "pillarbox"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return {
        "machine": f"{os.cpu_count()} processors, {platform.system()} {platform.release()}, {filesystem}",
        "versions": ", ".join(versions),
    }


def write_json(path: Path, options: Options, results: Results, environment: dict[str, str]) -> None:
    chosen = {key: _plain(value) for key, value in asdict(options).items()}
    samples = [{**asdict(sample), "rate": sample.rate, "cpu_ms": sample.cpu_ms} for sample in results.samples]
    idle = [{**asdict(sample), "kib_each": sample.kib_each} for sample in results.idle]
    data = {
        "environment": environment,
        "options": chosen,
        "samples": samples,
        "idle": idle,
        "targets": [
            {"text": one.target.text, "goal": str(one.target.goal), "ratio": one.ratio, "verdict": one.verdict}
            for one in judge(results.samples)
        ],
        "failures": [asdict(failure) for failure in results.failures],
    }
    path.write_text(json.dumps(data, indent=1) + "\n")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _rows(options: Options, cells: Sequence[Cell], samples: Sequence[Sample], row: Row) -> list[tuple[str, ...]]:
    return [
        (cell.name, name, *row(samples, name, cell.name))
        for cell in cells
        for name in options.servers
        if spread(samples, name, cell.name, rate)
    ]


def _throughput_row(samples: Sequence[Sample], server: str, cell: str) -> tuple[str, ...]:
    return (
        _spread(spread(samples, server, cell, rate), 0),
        *_ratios(samples, server, cell, rate),
        _spread(spread(samples, server, cell, cpu_ms), 2),
        _number(ratio(samples, server, cell, cpu_ms)),
    )


def _latency_row(samples: Sequence[Sample], server: str, cell: str) -> tuple[str, ...]:
    return (
        _spread(spread(samples, server, cell, p50_ms), 1),
        _spread(spread(samples, server, cell, p99_ms), 1),
        *_ratios(samples, server, cell, p99_ms),
    )


def _ratios(samples: Sequence[Sample], server: str, cell: str, measure: Measure) -> tuple[str, str]:
    return (
        _number(ratio(samples, server, cell, measure)),
        _number(round_ratio(samples, server, cell, measure)),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _spread(value: Spread | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value.median:.{digits}f} ({value.low:.{digits}f}-{value.high:.{digits}f})"


def _target_line(one: Judgement) -> str:
    return f"  {one.verdict:13} {one.target.text:39} {one.target.goal!s:10} measured {_number(one.ratio)}"


def _idle_line(sample: IdleSample) -> str:
    grown = f"{sample.base_kib / 1024:.1f} MiB at 0, {sample.full_kib / 1024:.1f} MiB at {sample.connections}"
    return f"  {sample.server:10} {sample.kib_each:.1f} KiB a connection ({grown})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    _lines(["", *(line.rstrip() for line in lines)])


def _lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)
