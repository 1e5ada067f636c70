"""What Pillarbox is to reach against Postfix on the same machine in the same run, and whether it did.

A target is judged by the ratio of the medians. Missing one is a result, not an error.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.bench.values import Sample

OURS = "pillarbox"
REFERENCE = "postfix"

Measure = Callable[[Sample], float | None]


def rate(sample: Sample) -> float | None:
    return sample.rate


def cpu_ms(sample: Sample) -> float | None:
    return sample.cpu_ms


def p50_ms(sample: Sample) -> float | None:
    return sample.p50_ms


def p99_ms(sample: Sample) -> float | None:
    return sample.p99_ms


@dataclass(frozen=True, slots=True)
class AtLeast:
    bound: float

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound

    def __str__(self) -> str:
        return f">= {self.bound:g} x"


@dataclass(frozen=True, slots=True)
class AtMost:
    bound: float

    def met(self, ratio: float) -> bool:
        return ratio <= self.bound

    def __str__(self) -> str:
        return f"<= {self.bound:g} x"


@dataclass(frozen=True, slots=True)
class Below:
    bound: float

    def met(self, ratio: float) -> bool:
        return ratio < self.bound

    def __str__(self) -> str:
        return f"< {self.bound:g} x"


@dataclass(frozen=True, slots=True)
class Target:
    text: str
    cell: str
    measure: Measure
    goal: AtLeast | AtMost | Below


TARGETS = (
    Target("accept 1 KiB, new sessions", "accept-1k-new", rate, AtLeast(3)),
    Target("accept 1 KiB, reused sessions", "accept-1k-reuse", rate, AtLeast(5)),
    Target("accept 1 MiB, new sessions", "accept-1m-new", rate, AtLeast(1)),
    Target("accept 1 MiB, reused sessions", "accept-1m-reuse", rate, AtLeast(1)),
    Target("accept 1 KiB under TLS, new sessions", "tls-1k-new", rate, AtLeast(2)),
    Target("accept 1 KiB under TLS, reused sessions", "tls-1k-reuse", rate, AtLeast(4)),
    Target("relay 1 KiB, new sessions", "relay-1k-new", rate, AtLeast(3)),
    Target("relay 1 KiB, reused sessions", "relay-1k-reuse", rate, AtLeast(3)),
    Target("p99 latency, 1 KiB, new sessions", "latency-1k-new", p99_ms, Below(1)),
    Target("CPU per accepted message, new", "accept-1k-new", cpu_ms, AtMost(0.25)),
    Target("CPU per accepted message, reused", "accept-1k-reuse", cpu_ms, AtMost(0.25)),
)


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float


def values(samples: Iterable[Sample], server: str, cell: str, measure: Measure) -> dict[int, float]:
    """The measurements of one cell by round."""
    chosen = [sample for sample in samples if sample.server == server and sample.cell == cell]
    return {sample.round: value for sample in chosen if (value := measure(sample)) is not None}


def spread(samples: Iterable[Sample], server: str, cell: str, measure: Measure) -> Spread | None:
    found = list(values(samples, server, cell, measure).values())
    return Spread(statistics.median(found), min(found), max(found)) if found else None


def ratio(samples: Sequence[Sample], server: str, cell: str, measure: Measure) -> float | None:
    """Of the medians, to the reference."""
    ours, theirs = (spread(samples, name, cell, measure) for name in (server, REFERENCE))
    return ours.median / theirs.median if ours and theirs and theirs.median else None


def round_ratio(samples: Sequence[Sample], server: str, cell: str, measure: Measure) -> float | None:
    """Median of the ratios within each round: what slowed both down in one round cancels out."""
    ours, theirs = (values(samples, name, cell, measure) for name in (server, REFERENCE))
    ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return statistics.median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Judgement:
    target: Target
    ratio: float | None

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return "not measured"
        return "met" if self.target.goal.met(self.ratio) else "NOT met"


def judge(samples: Sequence[Sample]) -> tuple[Judgement, ...]:
    return tuple(Judgement(target, ratio(samples, OURS, target.cell, target.measure)) for target in TARGETS)
