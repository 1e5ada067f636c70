"""The rules of shaping, as values: what a rule matches, and what it does to a lane.

Pure; reads no file. The first rule that matches what was heard decides. Invariants: a pattern is compiled once, bounded
in length, and can't be made to run for long by what a remote server writes: it is searched in MAX_TEXT characters, has
few open repeats and none inside another. RFC 5321 §4.2 (codes), RFC 3463 (enhanced status codes).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import UNTRIED, Deferred, Delivered, Outcome

MAX_TEXT = 400  # characters of a reply that a pattern sees
MAX_PATTERN = 600  # characters
_SHOWN = 60  # characters of a pattern
MAX_OPEN_REPEATS = 2  # of `*`, `+` and `{n,}` in one pattern

# --- what is heard


class Fault(Enum):
    """How a next hop fails without an answer to the message; the value is the word in a rule."""

    CONNECTION = "connection"  # no connection came about
    REFUSED = "refused"  # it answered with 4yz or 5yz before it took any command of mail
    TLS = "tls"
    TIMEOUT = "timeout"  # no answer in time, at whatever step
    LOST = "lost"  # the connection ended in the middle
    DNS = "dns"  # no answer from DNS for now


class Heard(NamedTuple):
    """One thing that a next hop said, or the fault instead of it. `code` is 0 for a fault."""

    text: str
    code: int = 0
    status: EnhancedCode | None = None
    fault: Fault | None = None


_REPLY = re.compile(r"([2-5]\d\d)(?:[ -]|$)(?:([245]\.\d{1,3}\.\d{1,3})(?:\s|$))?")
_ANSWERED = re.compile(r"(?:^|: )([45]\d\d(?:[ -].*)?)$", re.DOTALL)
_IN_TIME = re.compile(r"in time|timed? ?out|TimeoutError", re.IGNORECASE)
_TLS = re.compile(r"\bTLS\b|certificate")
_NOWHERE = "has an address"  # no host has: nothing was tried
_UNREACHABLE, _DNS, _LOST = (4, 4, 1), (4, 4, 3), (4, 4, 2)
_FAULTS: Mapping[tuple[int, int, int], Fault] = {
    _UNREACHABLE: Fault.CONNECTION,
    _DNS: Fault.DNS,
    _LOST: Fault.LOST,
}


def reply_heard(text: str) -> Heard:
    """From a reply as it stands in a record: code, enhanced status code where it has one, text."""
    match = _REPLY.match(text)
    if match is None:
        return Heard(text)
    return Heard(text, int(match[1]), EnhancedCode.parse(match[2]) if match[2] else None)


def heard(outcome: Outcome) -> tuple[Heard, ...]:
    """What an outcome tells of the next hop: nothing where nothing was tried, or where the fault is our own. A server
    that refuses before any mail is heard twice: as its reply, and as a fault."""
    if isinstance(outcome, (Delivered, *UNTRIED)):
        return ()
    if outcome.remote:
        return (reply_heard(outcome.text),)
    fault = _FAULTS.get(outcome.status) if isinstance(outcome, Deferred) else None
    if fault is None:
        return ()
    if fault is Fault.CONNECTION and (answered := _ANSWERED.search(outcome.text)):
        return reply_heard(answered[1]), Heard(answered[1], fault=Fault.REFUSED)
    return (Heard(outcome.text, fault=_closer(fault, outcome.text)),)


def _closer(fault: Fault, text: str) -> Fault:
    if fault is Fault.DNS or _NOWHERE in text:
        return Fault.DNS
    if _TLS.search(text):
        return Fault.TLS
    return Fault.TIMEOUT if _IN_TIME.search(text) else fault


# --- patterns

_CODE = re.compile(r"[45](?:[0-9][0-9]|[0-9]z|yz)")
_STATUS = re.compile(r"[45]\.(?:\d{1,3}|\*)\.(?:\d{1,3}|\*)")


def check_code(text: str) -> str:
    """A reply code, or a class of codes: "421", "45z", "4yz". Raises ValueError."""
    if not _CODE.fullmatch(text):
        raise ValueError("neither a code nor a class of codes that refuse")
    return text


def check_status(text: str) -> str:
    """An enhanced status code, or a class of them. Raises ValueError."""
    if not _STATUS.fullmatch(text):
        raise ValueError("neither an enhanced status code nor a class of them")
    return text


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern for the text of a reply, without regard to case. Raises ValueError: it is none, or could run for long
    on a text made for that."""
    if not pattern or len(pattern) > MAX_PATTERN:
        raise ValueError(f"empty, or longer than {MAX_PATTERN} characters")
    try:
        made = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    _refuse_slow(pattern)
    return made


_PIECES = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^)]?|[()|]|[*+]\??|\{\d*,?\d*\}|.", re.DOTALL)


def _refuse_slow(pattern: str) -> None:
    """The usual ways to a search that takes for ever: a repeated group with a repeat or a choice in it, and many open
    repeats behind each other."""
    groups, open_repeats = [False], 0  # of each open group, whether it holds a repeat or a choice
    closed = False  # the piece before was a group that does
    for piece in _PIECES.findall(pattern):
        kind, after_such_a_group = piece[0], closed
        closed = False
        if kind == "(":
            groups.append(False)
        elif kind == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] |= closed
        elif piece == "|":
            groups[-1] = True
        elif kind in "*+" or (kind == "{" and len(piece) > 1):
            if after_such_a_group:
                raise ValueError("repeats a group that holds a repeat or a choice itself, which can take for ever")
            groups[-1] = True
            open_repeats += kind != "{" or piece.endswith(",}")
    if open_repeats > MAX_OPEN_REPEATS:
        raise ValueError(f"has more than {MAX_OPEN_REPEATS} repeats without an end; .{{0,40}} has one")


@lru_cache(maxsize=256)
def _wildcard(pattern: str) -> Callable[[str], object]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*"), re.IGNORECASE | re.DOTALL).fullmatch


def fits_lane(pattern: str, lane: str) -> bool:
    return _wildcard(pattern)(lane) is not None


# --- rules


class Action(Enum):
    """What a rule does; the value is the word in a rule."""

    LOWER_CONNECTIONS = "lower_connections"
    RATE = "rate"
    PAUSE = "pause"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is matched must match in all that is given; `codes`, `statuses`, `faults` and `lanes` by any of theirs."""

    name: str
    action: Action
    codes: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    text: re.Pattern[str] | None = None
    faults: tuple[Fault, ...] = ()
    lanes: tuple[str, ...] = ()  # with wildcards; none: every lane
    seconds: float = 600.0  # that a slow-down lasts behind the last such reply, or the first pause of a breaker
    successes: int = 10  # deliveries behind which a step up is made
    slower: float = 0.5  # of RATE: the part of what was measured
    rate: Limit | None = None  # of RATE: instead of that part
    in_a_row: int = 5  # of PAUSE: so many faults open the breaker
    longest: float = 900.0  # of PAUSE: what the pauses double to

    def is_for(self, lane: str) -> bool:
        return not self.lanes or any(fits_lane(pattern, lane) for pattern in self.lanes)

    def matches(self, what: Heard) -> bool:
        if what.fault is not None:
            return what.fault in self.faults and self._reads(what.text)
        return (
            not self.faults and self._has_code(what.code) and self._has_status(what.status) and self._reads(what.text)
        )

    def _reads(self, text: str) -> bool:
        return self.text is None or self.text.search(text, 0, MAX_TEXT) is not None

    def _has_code(self, code: int) -> bool:
        return not self.codes or str(code).startswith(tuple(each.rstrip("yz") for each in self.codes))

    def _has_status(self, status: EnhancedCode | None) -> bool:
        return not self.statuses or (status is not None and any(_wildcard(each)(str(status)) for each in self.statuses))

    @property
    def matched(self) -> str:
        """What it matches, in short."""
        parts = [" ".join(fault.value for fault in self.faults), " ".join(self.codes), " ".join(self.statuses)]
        parts.append("" if self.text is None else f"/{_shortened(self.text.pattern)}/")
        parts.append(f"in {' '.join(self.lanes)}" if self.lanes else "")
        return ", ".join(part for part in parts if part)

    @property
    def effect(self) -> str:
        """What it does, in words."""
        return _EFFECTS[self.action](self)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def in_words(seconds: float) -> str:
    """A time as a rule has it: "30s", "5m", "4h"."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= length and not seconds % length:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _lowering(rule: Rule) -> str:
    return f"half the connections, for {in_words(rule.seconds)}; more again after each {rule.successes} deliveries"


def _slowing(rule: Rule) -> str:
    pace = f"{rule.slower:.0%} of the rate it had" if rule.rate is None else f"{rule.rate}"
    return f"messages at {pace}, for {in_words(rule.seconds)}; faster again after each {rule.successes} deliveries"


def _pausing(rule: Rule) -> str:
    longest = in_words(rule.longest)
    return f"behind {rule.in_a_row} in a row, no attempts for {in_words(rule.seconds)}, doubling to {longest}"


_EFFECTS: Mapping[Action, Callable[[Rule], str]] = {
    Action.LOWER_CONNECTIONS: _lowering,
    Action.RATE: _slowing,
    Action.PAUSE: _pausing,
    Action.NONE: lambda rule: "nothing is slowed down",
}


def first_match(rules: Iterable[Rule], what: Heard) -> Rule | None:
    return next((rule for rule in rules if rule.matches(what)), None)
