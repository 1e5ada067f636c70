"""Where in a TOML text a key stands: the line numbers that `tomllib` does not give.

`locate` reads a text that `tomllib` has already taken, so it need not tell right from wrong, only find its way: headers
(arrays of tables are counted), bare, quoted and dotted keys, and values deep enough to find what is in arrays and
inline tables. Knows nothing of what the keys mean. TOML 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_MULTI_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL)
_MULTI_LITERAL = re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL)
_STRINGS = (_MULTI_BASIC, _MULTI_LITERAL, _BASIC, _LITERAL)  # the long quotes first: "" begins """


def locate(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every table, key and array element, by its path. `text` must be valid TOML."""
    return _Locator(text).run()


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """The line of the path, or of the nearest thing around it."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


class _Locator:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0  # newlines before here are in _line
        self._lines: dict[KeyPath, int] = {}
        self._counts: dict[KeyPath, int] = {}  # elements so far of each array of tables

    def run(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self._lines

    def _header(self) -> KeyPath:
        line = self._current_line()
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        path = self._resolved(self._key(), array=array)
        self._at += 2 if array else 1
        self._lines.setdefault(path, line)
        return path

    def _resolved(self, keys: tuple[str, ...], *, array: bool) -> KeyPath:
        """A header's path with the index of the element that it speaks of behind each array of tables."""
        path: KeyPath = ()
        for position, key in enumerate(keys):
            path = (*path, key)
            if array and position == len(keys) - 1:
                self._lines.setdefault(path, self._current_line())
                self._counts[path] = self._counts.get(path, 0) + 1
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        """`key = value`; of a dotted key each part is a table on the way."""
        line = self._current_line()
        path = table
        for key in self._key():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._at += 1  # the =
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> tuple[str, ...]:
        parts = []
        while True:
            self._skip(_SPACE)
            parts.append(self._key_part())
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return tuple(parts)
            self._at += 1

    def _key_part(self) -> str:
        for pattern in (_BASIC, _LITERAL):
            if match := pattern.match(self._text, self._at):
                self._at = match.end()
                return match[0][1:-1]
        return self._skip(_BARE)

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            for pattern in _STRINGS:
                if match := pattern.match(self._text, self._at):
                    self._at = match.end()
                    return
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        index = 0
        while not self._closed("]"):
            self._lines.setdefault((*path, index), self._current_line())
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        while not self._closed("}"):
            self._pair(path)

    def _closed(self, bracket: str) -> bool:
        """Pass the opening bracket or the comma, and blanks; then the closing bracket, if it stands there."""
        self._skip(_BLANK)
        if self._text[self._at] in "[{,":
            self._at += 1
            self._skip(_BLANK)
        if self._text[self._at] != bracket:
            return False
        self._at += 1
        return True

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"no TOML at line {self._current_line()}")
        self._at = match.end()
        return match[0]

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line
