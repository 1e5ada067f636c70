"""The command -> reply table: which command gets which code, when, and by which standard.

Every reply of this server to a command has its pair here; HELP, `pillarbox replies`, the reference page, the probes of
other servers and the tests read it. 112 pairs are those of the classical table (RFC 821 section 4.3, with EHLO, 200,
521 and VRFY's 252); the others came later. The data stands in `table_mail.py` and `table_other.py`; here it is made one
and looked up. Knows neither reply texts (`reply.py`) nor states (`smtp/states.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from pillarbox.core import table_mail, table_other
from pillarbox.core.table_page import Case, Page


class Class(Enum):
    """What a reply means for the command (RFC 821 section 4.3)."""

    SUCCESS = "S"
    INTERMEDIATE = "I"
    FAILURE = "F"  # understood, and it can't be done
    ERROR = "E"  # not understood, not offered, or not now


@dataclass(frozen=True, slots=True)
class Command:
    """What a client can say, and the three cases beside: connect, "." for the message itself, and unknown."""

    name: str
    syntax: str
    summary: str
    source: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair of command and code. All texts are ASCII."""

    command: str  # a key of COMMANDS
    code: int
    klass: Class
    enhanced: tuple[str, ...]  # codes that may go with it; empty: none is sent (RFC 2034 section 4)
    condition: str  # one sentence: when this server gives it
    source: str
    classical: bool
    classic_only: bool = False  # only a listener with compat = "classic" gives it


_ERRORS = frozenset((421, 500, 501, 502, 503, 504, 521, 530, 538, 555))
_FAILURES = frozenset((("connect", 421), ("TURN", 502)))  # so RFC 821 section 4.3 has them
_BY_FIRST_DIGIT = {2: Class.SUCCESS, 3: Class.INTERMEDIATE}
_WITH = {"DATA": ("DATA", ".")}  # what a command brings with it
_MAY_DO = frozenset((Class.SUCCESS, Class.INTERMEDIATE))


def _klass(command: str, code: int) -> Class:
    if code in _ERRORS and (command, code) not in _FAILURES:
        return Class.ERROR
    return _BY_FIRST_DIGIT.get(code // 100, Class.FAILURE)


def _entries(page: Page) -> Iterator[Entry]:
    for code, case in page.classical.items():
        yield _entry(page.name, code, case, classical=True)
    for code, case in page.later.items():
        yield _entry(page.name, code, case, classical=False)


def _entry(command: str, code: int, case: Case, *, classical: bool) -> Entry:
    return Entry(
        command,
        code,
        _klass(command, code),
        tuple(case.enhanced.split()),
        case.condition,
        case.source,
        classical,
        case.classic_only,
    )


_PAGES = (*table_mail.PAGES, *table_other.PAGES)
COMMANDS: Mapping[str, Command] = MappingProxyType(
    {page.name: Command(page.name, page.syntax, page.summary, page.source) for page in _PAGES}
)
TABLE: tuple[Entry, ...] = tuple(entry for page in _PAGES for entry in _entries(page))
KNOWN: Mapping[str, frozenset[int]] = MappingProxyType(
    {page.name: frozenset((*page.classical, *page.later)) for page in _PAGES}
)
_NAMES = {name.upper(): name for name in COMMANDS}


def find(word: str) -> tuple[Entry, ...]:
    """The pairs of a command, in any case, or of a code; those of "." come with DATA, too. Nothing for other words."""
    names = _commands(word)
    if names:
        return tuple(entry for entry in TABLE if entry.command in names)
    return tuple(entry for entry in TABLE if str(entry.code) == word)


def _commands(word: str) -> tuple[str, ...]:
    name = _NAMES.get(word.upper())
    return () if name is None else _WITH.get(name, (name,))


def describe(word: str) -> tuple[str, ...]:
    """What there is to say of a command or a code, as lines of printable ASCII; nothing for other words."""
    found = find(word)
    names = _commands(word)
    if not names:
        return tuple(f"{entry.command} {_facts(entry)}" for entry in found)
    lines = []
    for name in names:
        command = COMMANDS[name]
        lines.append(f"Syntax: {command.syntax}")
        lines.append(f"{command.summary} ({command.source})")
        lines.extend(_facts(entry) for entry in found if entry.command == name)
    return tuple(lines)


def _facts(entry: Entry) -> str:
    enhanced = " ".join(entry.enhanced) or "no enhanced code"
    return f"{entry.code} {entry.klass.name.lower()}, {enhanced}: {entry.condition} ({entry.source})"


def overview() -> tuple[str, ...]:
    """What HELP without an argument says."""
    can_do = {entry.command for entry in TABLE if entry.klass in _MAY_DO}
    verbs = " ".join(name for name in COMMANDS if name.isupper() and name in can_do)
    return (
        f"Commands: {verbs}",
        "HELP <command> tells its syntax and its replies, such as HELP MAIL",
        "HELP <code> tells which commands get that reply, and when, such as HELP 550",
    )
