"""From `pillarbox.toml` to a Config, or to the list of everything that is wrong with it.

Reads by the metadata in `config.py` and names no key of its own, but for what two keys must agree on. A problem says
file, line, key, what is allowed and what was probably meant; nothing is started on a file with one. Invariant: every
problem of a file is found in one go, except that behind a syntax error nothing can be read.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pillarbox.app.config import FILE_NAME, Config, TlsConfig
from pillarbox.app.config_agree import disagreements
from pillarbox.app.config_delivery import RouteConfig
from pillarbox.app.config_keys import REQUIRED, Section, Setting, documented
from pillarbox.app.config_listener import ListenerConfig
from pillarbox.app.config_locate import KeyPath, line_of, locate
from pillarbox.app.config_values import Complete, Endpoint, UnixSocket, shown
from pillarbox.engine.routing import LmtpSocket

T = TypeVar("T")
_SYNTAX_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `key` is a dotted path, "" where it is about the file itself."""

    file: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}{self.text}" if self.key else f"{place}: {self.text}"


class ConfigError(Exception):
    """The configuration can't be used; its text has a line for each problem."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load(path: Path | None) -> Config:
    """The configuration in that file; None: `pillarbox.toml` here, or the built-in defaults. Raises ConfigError."""
    if path is None:
        if not Path(FILE_NAME).exists():
            return replace(Config(), data=Path.cwd() / Config.data)
        path = Path(FILE_NAME)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), None, "", f"can't be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(path), line, "", "is not UTF-8 text")]) from error
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """The configuration in a text that stands in that file. Raises ConfigError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(error, text, path)]) from error
    reading = _Reading(str(path), locate(text))
    config = reading.table(Config, tree, ())
    reading.check_agreement(tree, config)
    if reading.problems or config is None:
        raise ConfigError(sorted(reading.problems, key=lambda problem: problem.line or 0))
    return replace(
        _placed(config, path.resolve().parent), hostname_configured="hostname" in tree, source=path.absolute()
    )


def load_table(table: type[T], text: str, file: str) -> T:
    """As `parse`, for a file of its own that another dataclass describes. Raises ConfigError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(error, text, Path(file))]) from error
    reading = _Reading(file, locate(text))
    found = reading.table(table, tree, ())
    if reading.problems or found is None:
        raise ConfigError(sorted(reading.problems, key=lambda problem: problem.line or 0))
    return found


def _placed(config: Config, folder: Path) -> Config:
    """Every path of the file starts at its folder."""
    return replace(
        config,
        data=(folder / config.data).absolute(),
        shaping=None if config.shaping is None else folder / config.shaping,
        tls=tuple(TlsConfig((folder / each.certificate), (folder / each.key)) for each in config.tls),
        listeners=tuple(_placed_listener(listener, folder) for listener in config.listeners),
        oauth=config.oauth
        if config.oauth.credentials is None
        else replace(config.oauth, credentials=folder / config.oauth.credentials),
        routes=tuple(_placed_route(route, folder) for route in config.routes),
    )


def _placed_listener(listener: ListenerConfig, folder: Path) -> ListenerConfig:
    if isinstance(listener.address, UnixSocket):
        listener = replace(listener, address=UnixSocket(folder / listener.address.path))
    if listener.client_certificates is not None:
        listener = replace(listener, client_certificates=folder / listener.client_certificates)
    return listener


def _placed_route(route: RouteConfig, folder: Path) -> RouteConfig:
    if isinstance(route.next_hop, LmtpSocket):
        route = replace(route, next_hop=LmtpSocket(str(folder / route.next_hop.path)))
    if isinstance(route.credentials, Path):
        route = replace(route, credentials=folder / route.credentials)
    return route


def _syntax_problem(error: tomllib.TOMLDecodeError, text: str, path: Path) -> Problem:
    complaint = str(error)
    if match := _SYNTAX_LINE.search(complaint):
        return Problem(str(path), int(match[1]), "", f"not TOML: {complaint[: match.start()]}")
    complaint = complaint.removesuffix(" (at end of document)")
    return Problem(str(path), text.count("\n") + 1, "", f"not TOML: {complaint}, at the end of the file")


class _Reading:
    """One pass over a parsed file that gathers values and problems."""

    def __init__(self, file: str, lines: Mapping[KeyPath, int]) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._lines = lines

    def table(self, table: type[T], tree: Mapping[str, Any], at: KeyPath) -> T | None:
        """Build the dataclass from a TOML table; None where that is not possible."""
        known = {what.key: (name, what) for name, what in documented(table)}
        values: dict[str, object] = {}
        before = len(self.problems)
        for key, value in tree.items():
            if key in known:
                name, what = known[key]
                values[name] = self._known(what, value, (*at, key))
            else:
                self._unknown(set(known), (*at, key))
        for name, what in known.values():
            if isinstance(what, Setting) and what.default is REQUIRED and name not in values:
                self._complain(at, f": {what.key} is missing; allowed: {what.kind.allowed}")
        return table(**values) if len(self.problems) == before else None

    def _known(self, what: Setting | Section, value: object, at: KeyPath) -> object:
        if isinstance(what, Section):
            return self._sections(what, value, at) if what.many else self._section(what, value, at)
        if not what.many:
            return self._value(what, value, at)
        allowed = f"a list{' of at least one:' if what.least else ', each'} {what.kind.allowed}"
        if not isinstance(value, list) or len(value) < what.least:
            reason = "too few" if isinstance(value, list) else "not a list"
            self._complain(at, f" = {shown(value)}: {reason}; allowed: {allowed}")
            return None
        return tuple(self._value(what, item, (*at, index)) for index, item in enumerate(value))

    def _section(self, what: Section, value: object, at: KeyPath) -> object:
        if not isinstance(value, dict):
            self._complain(at, f" = {shown(value)}: not a table; write it as [{_header(at)}]")
            return None
        return self.table(what.table, value, at)

    def _sections(self, what: Section, value: object, at: KeyPath) -> object:
        if not isinstance(value, list):
            self._complain(at, f": may stand several times; write it as [[{_header(at)}]]")
            return None
        return tuple(self._section(what, item, (*at, index)) for index, item in enumerate(value))

    def _value(self, what: Setting, value: object, at: KeyPath) -> object:
        try:
            return what.kind.read(value)
        except ValueError as reason:
            nearest = _nearest(str(value), what.kind.words)
            allowed = "" if isinstance(reason, Complete) else f"; allowed: {what.kind.allowed}"
            self._complain(at, f" = {shown(value)}: {reason}{nearest}{allowed}")
            return None

    def _unknown(self, allowed: set[str], at: KeyPath) -> None:
        guess = _nearest(str(at[-1]), sorted(allowed)) or _elsewhere(str(at[-1]))
        self._complain(at, f": unknown key{guess}; allowed: {', '.join(sorted(allowed))}")

    def check_agreement(self, tree: Mapping[str, Any], config: Config | None) -> None:
        """What keys and listeners must agree on; needs each of them to be right by itself."""
        if tree.get("listener") == []:
            self._complain(("listener",), ": at least one listener is needed")
        if config is None:
            return
        for at, text in disagreements(tree, config):
            self._complain(at, text)
        seen: dict[object, int] = {}
        for index, listener in enumerate(config.listeners):
            for key, value in (("name", listener.name), ("address", listener.address)):
                free = isinstance(value, Endpoint) and value.port == 0
                first = seen.setdefault(value, index)
                if first != index and not free:
                    self._complain(
                        ("listener", index, key), f" = {shown(str(value))}: listener[{first}] has the same {key}"
                    )

    def _complain(self, at: KeyPath, text: str) -> None:
        self.problems.append(Problem(self._file, line_of(self._lines, at), _dotted(at), text))


def _dotted(at: KeyPath) -> str:
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _header(at: KeyPath) -> str:
    """As it stands in brackets above a table: a table within arrays is of the last one above it."""
    return ".".join(part for part in at if isinstance(part, str))


def _nearest(word: str, words: Iterable[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in words}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f', did you mean "{by_lower[found[0]]}"?' if found else ""


def _elsewhere(word: str) -> str:
    """The same key in another table, where there is one: the commonest slip is the wrong header above it."""
    for _, section in documented(Config):
        if isinstance(section, Section):
            for _, what in documented(section.table):
                if what.key == word:
                    return f", did you mean {section.key}.{word}?"
    return ""
