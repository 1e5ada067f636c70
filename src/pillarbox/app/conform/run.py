"""All probes against one server, in order, and what they add up to: `conform(target) -> Report`.

It ends: with the last probe, when the server gives no more replies, or when the time is up; a report says which, and
what was not asked then counts as not provoked. Raises OSError where there is no connection at all.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pillarbox.app.conform import probes_framing as framing
from pillarbox.app.conform import probes_other as other
from pillarbox.app.conform import probes_session as session
from pillarbox.app.conform import probes_transaction as transaction
from pillarbox.app.conform.engine import GaveUp, Prober
from pillarbox.app.conform.pairs import PairFinding, pairs
from pillarbox.app.conform.probe import Facts, Finding, Probe, Progress, State, Target, Verdict
from pillarbox.app.conform.rules import general, outside

PROBES: Mapping[str, tuple[Probe, ...]] = {
    "Greeting": session.GREETING,
    "EHLO and HELO": session.HELLO,
    "RSET": session.RESET,
    "NOOP": session.NOOP,
    "VRFY": other.VRFY,
    "EXPN": other.EXPN,
    "HELP": other.HELP,
    "MAIL": transaction.MAIL,
    "RCPT": transaction.RCPT,
    "DATA": transaction.DATA,
    "SEND, SOML and SAML": other.TERMINAL,
    "TURN and ETRN": other.ROLES,
    "AUTH": other.AUTH,
    "What EHLO lists": other.OFFERED,
    "Unknown commands": session.UNKNOWN,
    "Lengths of lines": framing.LENGTH,
    "Ends of lines": framing.LINE_ENDS,
    "Pipelining": framing.PIPELINING,
    "QUIT": session.QUIT,
    "Messages": framing.MESSAGES,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `cut`: why not everything was asked, "" where it was."""

    target: Target
    facts: Facts
    started: float  # seconds since the epoch
    seconds: float
    cut: str
    findings: tuple[Finding, ...]
    pairs: tuple[PairFinding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The MUSTs that are not kept."""
        return tuple(finding for finding in self.findings if finding.breaks_must)

    @property
    def failed(self) -> bool:
        return bool(self.cut or self.broken)

    def counts(self) -> Counter[Verdict]:
        return Counter(finding.verdict for finding in self.findings)

    def pair_counts(self) -> Counter[Verdict]:
        """Of the classical pairs."""
        return Counter(finding.verdict for finding in self.pairs if finding.entry.classical)


def conform(target: Target, progress: Progress = lambda done, total, name: None) -> Report:
    """Ask the server everything. Raises OSError."""
    started, clock = time.time(), time.monotonic()
    prober = Prober(target)
    findings: list[Finding] = []
    plan = [(group, probe) for group, probes in PROBES.items() for probe in probes]
    cut = ""
    for number, (group, probe) in enumerate(plan):
        progress(number, len(plan), probe.name)
        finding, cut = _find(prober, group, probe, cut)
        findings.append(finding)
    prober.leave()
    progress(len(plan), len(plan), "")
    hostile = frozenset(probe.name for _, probe in plan if probe.hostile)
    findings += general(prober.log, prober.facts, hostile)
    findings += outside(prober.log, frozenset(probe.name for _, probe in plan if probe.state is State.REFUSED))
    found = pairs(prober.log, may_deliver=target.mailbox is not None)
    return Report(target, prober.facts, started, time.monotonic() - clock, cut, tuple(findings), found)


def _find(prober: Prober, group: str, probe: Probe, cut: str) -> tuple[Finding, str]:
    """What comes of a probe, and why no other is to be asked behind it, if so."""
    if cut:
        return _not_asked(group, probe, Verdict.NOT_PROVOKED, f"not asked: {cut}"), cut
    if probe.needs and not prober.facts.offers(probe.needs):
        return _not_asked(group, probe, Verdict.NOT_OFFERED, f"EHLO does not list {probe.needs}"), ""
    if probe.delivers and not prober.facts.fields["mailbox"]:
        return _not_asked(group, probe, Verdict.NOT_PROVOKED, "needs a mailbox that it may use: --mailbox"), ""
    try:
        return prober.ask(probe, group), ""
    except GaveUp as error:
        return _not_asked(group, probe, Verdict.NOT_PROVOKED, f"not asked to the end: {error}"), str(error)


def _not_asked(group: str, probe: Probe, verdict: Verdict, why: str) -> Finding:
    return Finding(probe.name, group, probe.rule, probe.section, probe.level, verdict, why)
