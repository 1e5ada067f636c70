"""The tables of `conform`: each probe is one that can be said, and each pair has its sentence."""

from __future__ import annotations

import re

import pytest

from pillarbox.app.conform.judge import DONE, decides, enhanced, expects, is_over_size
from pillarbox.app.conform.pairs import pairs
from pillarbox.app.conform.probe import (
    Course,
    Exchange,
    Facts,
    Level,
    Probe,
    State,
    Verdict,
    command_of,
    finish,
    given,
    say,
)
from pillarbox.app.conform.rules import RULES
from pillarbox.app.conform.run import PROBES
from pillarbox.app.conform.wire import Answer
from pillarbox.core.table import COMMANDS, TABLE

ALL = [probe for probes in PROBES.values() for probe in probes]
FIELDS = ("helo", "sender", "mailbox", "mailbox_domain", "server", "literal", "mechanism", "headers")
FACTS = Facts(dict.fromkeys(FIELDS, "x"), {}, timeout=1.0)
SECTION = re.compile(r"RFC \d{3,4} (sections? \d[\d.]*((, | and )\d[\d.]*)*|appendix [A-F](\.\d)?)")
KEYWORDS = {"AUTH", "STARTTLS", "CHUNKING", "SIZE", "8BITMIME", "DSN", "PIPELINING", *COMMANDS}


def test_names_are_unique() -> None:
    names = [probe.name for probe in ALL] + [rule.name for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("probe", ALL, ids=[probe.name for probe in ALL])
def test_a_probe_can_be_said(probe: Probe) -> None:
    assert SECTION.fullmatch(probe.section), probe.section
    assert probe.rule.endswith(".") and probe.needs in KEYWORDS | {""}
    assert probe.script or probe.state is State.GREETED
    for step in probe.script:
        whole = step.pieces[-1:] if step.halting else step.pieces
        assert all(FACTS.fill(piece).endswith(b"\r\n") for piece in whole)
        assert set(step.commands) <= set(COMMANDS)
        assert step.premise in (0, 2, 3, 5)
    messages = any("." in step.commands for step in probe.script)
    assert probe.delivers or not messages, "a message needs a mailbox"
    recipients = {piece for step in probe.script for piece in step.pieces if piece.startswith("RCPT") and "{" in piece}
    assert probe.delivers or recipients <= {"RCPT TO:<postmaster@{literal}>\r\n"}


def test_the_rules_are_sentences() -> None:
    for rule in RULES:
        assert SECTION.fullmatch(rule.section) and rule.rule.endswith(".")


def test_each_classical_command_is_asked() -> None:
    asked = {command for probe in ALL for step in probe.script for command in step.commands}
    classical = {entry.command for entry in TABLE if entry.classical} - {"connect"}
    assert classical <= asked


def test_every_pair_has_a_sentence() -> None:
    for may_deliver in (True, False):
        found = pairs([], may_deliver=may_deliver)
        assert len(found) == len(TABLE)
        assert all(finding.note.endswith(".") or finding.verdict is Verdict.NOT_OFFERED for finding in found)
        assert not [finding for finding in found if finding.note == finding.entry.condition]


@pytest.mark.parametrize(
    ("line", "command"),
    [("MAIL FROM:<>", "MAIL"), ("noop", "NOOP"), ("NOOP \r\n", "NOOP"), ("WOMBAT", "unknown"), ("unknown", "unknown")],
)
def test_the_command_of_a_line(line: str, command: str) -> None:
    assert command_of(line) == command


def test_steps() -> None:
    assert say("NOOP", "RSET").pieces == ("NOOP\r\n", "RSET\r\n")
    assert given("DATA").premise == 3 and given("MAIL FROM:<>").premise == 2
    assert finish().commands == ("QUIT",) and finish().to_the_end


def course(code: int, **keywords: str) -> Course:
    exchange = Exchange("probe", "MAIL", b"MAIL", Answer((f"{code} text".encode(),)))
    return Course((exchange,), Facts({}, keywords, timeout=1.0))


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (250, Verdict.CONFORMS),
        (251, Verdict.DEVIATES),
        (354, Verdict.DEVIATES),
        (501, Verdict.DEVIATES),
        (450, Verdict.NOT_PROVOKED),  # later, perhaps
        (530, Verdict.NOT_PROVOKED),  # says nothing of the command itself
    ],
)
def test_an_expected_code(code: int, verdict: Verdict) -> None:
    assert expects(250)(course(code)).verdict is verdict


def test_codes_that_decide() -> None:
    judge = decides(DONE, {500})
    assert [judge(course(code)).verdict for code in (299, 500, 502)] == [
        Verdict.CONFORMS,
        Verdict.DEVIATES,
        Verdict.NOT_PROVOKED,
    ]


@pytest.mark.parametrize("limit", ["", "0", "none", "9" * 20])
def test_without_a_limit_no_size_is_over_it(limit: str) -> None:
    assert is_over_size(course(250, SIZE=limit)).verdict is Verdict.NOT_PROVOKED
    assert is_over_size(course(250, SIZE="1000")).verdict is Verdict.DEVIATES


@pytest.mark.parametrize(
    ("text", "code"),
    [("2.1.0 ok", "2.1.0"), ("5.7.28", "5.7.28"), ("2.1.0ok", ""), ("3.0.0 x", ""), ("2.1 x", ""), ("x 2.1.0", "")],
)
def test_enhanced_codes(text: str, code: str) -> None:
    assert enhanced(text) == code


def test_levels_are_those_of_the_rfc() -> None:
    assert [level.value for level in Level] == ["MUST", "SHOULD", "MAY", "table"]
