"""What the reports share: a transcript as lines fit to be shown, and the whole report as plain data for JSON.

Whatever a server said is made visible here, once, so that no report can be used against whoever reads it; long texts
are cut, and say so. Knows no terminal and no HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pillarbox import __version__
from pillarbox.app.cli.output import visible
from pillarbox.app.conform.pairs import PairFinding
from pillarbox.app.conform.probe import Exchange, Finding, Verdict
from pillarbox.app.conform.run import Report
from pillarbox.app.conform.wire import Lost

SENT, GOT, NOTE = "C", "S", "note"
_LONGEST = 160  # characters of a line that are shown
_MOST = 16  # lines of one write or one reply that are shown
_GIST = 70  # characters of a line in a summary
_BURSTS = 2  # writes that a summary shows, the last ones
_SENT = 3  # lines of a write in a summary


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a transcript: what the client sent, what the server sent, or what happened."""

    who: str
    text: str


def transcript(finding: Finding) -> tuple[Line, ...]:
    return tuple(line for burst in _bursts(finding.transcript) for line in _lines(burst))


def _bursts(exchanges: Sequence[Exchange]) -> Iterator[list[Exchange]]:
    """The exchanges of one write."""
    burst: list[Exchange] = []
    for exchange in exchanges:
        if burst and not exchange.piped:
            yield burst
            burst = []
        burst.append(exchange)
    if burst:
        yield burst


def _lines(burst: Sequence[Exchange]) -> Iterator[Line]:
    yield from _shown(SENT, b"".join(exchange.sent for exchange in burst))
    for exchange in burst:
        outcome = exchange.outcome
        if isinstance(outcome, Lost):
            yield from _shown(GOT, outcome.octets)
            yield Line(NOTE, outcome.loss.text)
            continue
        yield from _shown(GOT, b"".join(line + b"\r\n" for line in outcome.lines))
        if outcome.bare:
            yield Line(NOTE, "a line of this reply ended in a bare LF")
        if exchange.closes is not None:
            yield Line(NOTE, "then the connection was closed" if exchange.closes else "the connection was not closed")


def _shown(who: str, octets: bytes) -> Iterator[Line]:
    if not octets:
        return
    lines = octets.removesuffix(b"\r\n").split(b"\r\n")
    for line in lines[:_MOST]:
        yield Line(who, _cut(line, _LONGEST))
    if len(lines) > _MOST:
        yield Line(NOTE, f"{len(lines) - _MOST} more lines")


def _cut(line: bytes, longest: int) -> str:
    text = visible(line[:longest].decode("latin-1"))
    return text if len(line) <= longest else f"{text}... ({len(line):,} octets)"


def gist(finding: Finding) -> tuple[Line, ...]:
    """The end of the transcript, a reply in its first line alone, for a summary."""
    shown: list[Line] = []
    for burst in list(_bursts(finding.transcript))[-_BURSTS:]:
        sent = [line for line in _shown(SENT, b"".join(exchange.sent for exchange in burst))][:_SENT]
        shown += (Line(line.who, line.text[:_GIST]) for line in sent)
        shown += (Line(GOT, _reply(exchange)) for exchange in burst)
    return tuple(shown)


def _reply(exchange: Exchange) -> str:
    outcome = exchange.outcome
    return f"({outcome.loss.text})" if isinstance(outcome, Lost) else _cut(outcome.lines[0], _GIST)


# --- as data


def as_data(report: Report) -> dict[str, Any]:
    facts, target = report.facts, report.target
    return {
        "target": str(target),
        "by": f"pillarbox {__version__}",
        "started": report.started,
        "seconds": round(report.seconds, 3),
        "cut": report.cut,
        "helo": facts.fields["helo"],
        "sender": target.sender,
        "mailbox": target.mailbox,
        "greeting": [visible(text) for text in facts.greeting.texts] if facts.greeting else [],
        "keywords": {visible(keyword): visible(text) for keyword, text in facts.keywords.items()},
        "broken": [finding.name for finding in report.broken],
        "counts": {
            "rules": {verdict.value: report.counts()[verdict] for verdict in Verdict},
            "pairs": {verdict.value: report.pair_counts()[verdict] for verdict in Verdict},
        },
        "rules": [_finding(finding) for finding in report.findings],
        "pairs": [_pair(finding) for finding in report.pairs],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "group": finding.group,
        "rule": finding.rule,
        "section": finding.section,
        "level": finding.level.value,
        "verdict": finding.verdict.value,
        "note": visible(finding.note),
        "transcript": [[line.who, line.text] for line in transcript(finding)],
    }


def _pair(finding: PairFinding) -> dict[str, Any]:
    entry = finding.entry
    return {
        "command": entry.command,
        "code": entry.code,
        "class": entry.klass.name.lower(),
        "section": entry.source,
        "classical": entry.classical,
        "verdict": finding.verdict.value,
        "note": finding.note,
    }


def started(report: Report) -> str:
    """In UTC, as a report may be read anywhere."""
    return datetime.fromtimestamp(report.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
