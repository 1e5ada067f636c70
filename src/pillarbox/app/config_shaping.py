"""What a file of shaping rules says, and the rules that come with the program.

The file is TOML and is read as the configuration is: by the keys below, with every problem in one go. The built-in
rules are such a file, too. Invariant: rules of the operator come before the built-in ones.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.app.config_load import ConfigError, Problem, load_table
from pillarbox.app.config_locate import line_of, locate
from pillarbox.app.config_values import Kind, shown
from pillarbox.engine.limits import Limit
from pillarbox.engine.shaping import Rules
from pillarbox.engine.shaping_rules import Action, Fault, Rule, check_code, check_status, compiled

BUILT_IN = "shaping.toml"
_MAX_NAME = 60
_RULE = re.compile(r"rule\[(\d+)\]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _checked(allowed: str, check: Any) -> Kind[str]:
    def read(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not a string in quotes")
        return str(check(value))

    return Kind(allowed, read)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > _MAX_NAME:
        raise ValueError("not a name")
    return text


def _pattern() -> Kind[re.Pattern[str]]:
    def read(value: object) -> re.Pattern[str]:
        if not isinstance(value, str):
            raise ValueError("not a string in quotes")
        return compiled(value)

    return Kind("a regular expression in single quotes: 'too many (?:connections|sessions)'", read)


def _part() -> Kind[float]:
    def read(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0.01 <= value < 1:
            raise ValueError("not a part of what it was")
        return float(value)

    return Kind("a number from 0.01 up to 1: 0.5", read)


@dataclass(frozen=True)
class RuleConfig:
    """What a kind of reply, or a kind of fault, does to a lane. The first rule that matches decides."""

    name: str = keys.one(
        "name",
        _checked(f"1 to {_MAX_NAME} letters, digits, _, . and -", _name),
        keys.REQUIRED,
        "What the rule is called in records.",
    )
    do: Action = keys.one("do", kinds.choice(Action), keys.REQUIRED, "What it does.")
    code: tuple[str, ...] = keys.list(
        "code", _checked('a reply code or a class of codes: "421", "45z", "4yz"', check_code), (), "Any of these codes."
    )
    status: tuple[str, ...] = keys.list(
        "status",
        _checked('an enhanced status code or a class of them: "4.7.0", "4.7.*"', check_status),
        (),
        "Any of these enhanced status codes.",
    )
    text: re.Pattern[str] | None = keys.one(
        "text", _pattern(), None, "What is found in the reply, without regard to case."
    )
    fault: tuple[Fault, ...] = keys.list("fault", kinds.choice(Fault), (), "Any of these faults, instead of a reply.")
    lane: tuple[str, ...] = keys.list(
        "lane", kinds.text(), (), "The lanes that it is for, with * for anything; none: every lane."
    )
    lasts: float = keys.one(
        "for", kinds.duration(), "10m", "How long behind the last such reply; of a pause: the first one."
    )
    successes: int = keys.one("successes", kinds.count(), 10, "Deliveries behind which there is a step up again.")
    slower: float = keys.one("slower", _part(), 0.5, "Of `rate`: the part of the measured rate.")
    rate: Limit | None = keys.one("rate", kinds.rate(), None, "Of `rate`: a fixed one instead.")
    in_a_row: int = keys.one("in_a_row", kinds.count(), 5, "Of `pause`: so many faults without a sign of life.")
    at_most: float = keys.one("at_most", kinds.duration(), "15m", "Of `pause`: what the pauses double to.")

    def rule(self) -> Rule:
        return Rule(
            self.name,
            self.do,
            codes=self.code,
            statuses=self.status,
            text=self.text,
            faults=self.fault,
            lanes=self.lane,
            seconds=self.lasts,
            successes=self.successes,
            slower=self.slower,
            rate=self.rate,
            in_a_row=self.in_a_row,
            longest=max(self.at_most, self.lasts),
        )


@dataclass(frozen=True)
class ShapingConfig:
    """A file of rules."""

    rules: tuple[RuleConfig, ...] = keys.tables(
        "rule", RuleConfig, (), "What a kind of reply, or a kind of fault, does to a lane."
    )


def load_rules(path: Path | None) -> Rules:
    """The rules in that file, if there is one, and then the built-in ones. Raises ConfigError."""
    return Rules([*(() if path is None else _read(path)), *built_in()])


def built_in() -> tuple[Rule, ...]:
    source = files("pillarbox.app") / BUILT_IN
    return parse_rules(source.read_text("utf-8"), BUILT_IN)


def _read(path: Path) -> tuple[Rule, ...]:
    try:
        return parse_rules(path.read_bytes().decode("utf-8"), str(path))
    except OSError as error:
        mend = "correct `shaping` in the configuration, or make the file"
        if isinstance(error, PermissionError):
            mend = "give the user that the server runs as the right to"
        raise ConfigError([Problem(str(path), None, "", f"can't be read: {error.strerror}; {mend}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), None, "", "is not UTF-8 text")]) from error


def parse_rules(text: str, file: str) -> tuple[Rule, ...]:
    """The rules in a text that stands in that file. Raises ConfigError."""
    try:
        config = load_table(ShapingConfig, text, file)
    except ConfigError as error:
        raise ConfigError([_named(problem, text) for problem in error.problems]) from error
    tree, lines = tomllib.loads(text), locate(text)
    problems = []
    seen: set[str] = set()
    for index, rule in enumerate(config.rules):
        for key, complaint in _disagreements(rule, tree["rule"][index], seen):
            line = line_of(lines, ("rule", index, key))
            problems.append(Problem(file, line, f"rule[{index}].{key}", complaint))
        seen.add(rule.name)
    if problems:
        raise ConfigError([_named(problem, text) for problem in problems])
    return tuple(rule.rule() for rule in config.rules)


_OF: dict[str, Action] = {"slower": Action.RATE, "rate": Action.RATE, "in_a_row": Action.PAUSE, "at_most": Action.PAUSE}


def _disagreements(rule: RuleConfig, table: dict[str, Any], seen: set[str]) -> Iterator[tuple[str, str]]:
    """What is wrong between the keys of a rule: the key to be changed, and the text behind its name."""
    if rule.name in seen:
        yield "name", f" = {shown(rule.name)}: a rule above has that name; give it another one"
    if not (rule.code or rule.status or rule.text or rule.fault):
        yield "name", ": matches everything; say what with code, status, text or fault"
    for key in ("code", "status"):
        if rule.fault and key in table:
            yield key, f" = {shown(table[key])}: a fault has none; leave out {key}, or leave out fault"
    for key, action in _OF.items():
        if key in table and rule.do is not action:
            yield key, f' = {shown(table[key])}: is for do = "{action.value}" only; leave the key out'
    if "slower" in table and "rate" in table:
        yield "slower", f" = {shown(table['slower'])}: with a fixed rate there is no part; leave one of them out"
    if rule.do is Action.PAUSE and (not rule.fault or Fault.DNS in rule.fault):
        allowed = ", ".join(f'"{fault.value}"' for fault in Fault if fault is not Fault.DNS)
        yield "do", f' = "pause": replies never stop a lane, nor does DNS; give fault, of {allowed}'


def _named(problem: Problem, text: str) -> Problem:
    """The rule by its name, too, where it has one."""
    match = _RULE.match(problem.key)
    if match is None:
        return problem
    table = tomllib.loads(text)["rule"][int(match[1])]
    name = table.get("name") if isinstance(table, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return problem
    return Problem(problem.file, problem.line, f"rule {name}{problem.key[match.end() :]}", problem.text)
