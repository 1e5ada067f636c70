"""The text of a predicate → its AST; what can't be read is shown with a caret, and what may stand there is named.

    either   = both { "or" both }
    both     = one { [ "and" ] one }
    one      = "not" one | "(" either ")" | term
    term     = FIELD COMPARISON VALUE, with no space between them
    VALUE    = a word without spaces and parentheses, or a text in single or double quotes; `\\` takes the meaning
               from the character behind it, `*` and `?` stand for others in texts

Knows the words, not who looks for them. Bounded in length, depth and number of terms, so that no text can exhaust
whoever reads it or searches by it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from pillarbox.core.address import Mailbox, parse_host
from pillarbox.core.envelope import MessageId
from pillarbox.engine.predicate import (
    STATES,
    And,
    Comparison,
    Due,
    Not,
    Number,
    NumberField,
    OfMessage,
    Or,
    Predicate,
    Text,
    TextField,
    Wild,
    meant,
)

MAX_LENGTH = 8192  # characters
MAX_DEPTH = 50
MAX_TERMS = 500
_SHOWN = 100  # characters of the text, around the place of the fault

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z][A-Za-z-]*")
_OPERATOR = re.compile(r"!=|<=|>=|=|<|>|~")
_BARE = re.compile(r"(?:\\.|[^\s()\\])*", re.DOTALL)
_QUOTED = {mark: re.compile(rf"{mark}((?:\\.|[^\\{mark}])*){mark}", re.DOTALL) for mark in "\"'"}
_ESCAPED = re.compile(r"\\(.)|([*?])", re.DOTALL)
_WILD = {wild.value: wild for wild in Wild}
_KEYWORDS = frozenset(("and", "or", "not"))
_BEGINNING = "a term such as domain=example.org, not, or ("


class PredicateError(ValueError):
    """The text is no predicate. `column`: where, from 1."""

    def __init__(self, text: str, source: str, column: int) -> None:
        self.text = text
        self.column = column
        start = max(0, column - 1 - _SHOWN // 2)
        shown = "".join(c if c.isprintable() else " " for c in source[start : start + _SHOWN])
        super().__init__(f"where: {text}\n  {shown}\n  {' ' * (column - 1 - start)}^ column {column}")


def parse_predicate(source: str) -> Predicate:
    """Without a word on the state, those that are not settled are meant. Raises PredicateError."""
    return meant(_Parser(source).whole())


# --- the fields


@dataclass(frozen=True, slots=True)
class _Value:
    """What stands behind a comparison: as it was written, and as a text with wildcards."""

    plain: str
    pieces: tuple[str | Wild, ...]

    @property
    def exact(self) -> bool:
        return all(isinstance(piece, str) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class _Field:
    operators: tuple[str, ...]
    read: Callable[[str, _Value], Predicate]  # raises ValueError


_EQUALITY = ("=", "!=")
_IN_TEXT = ("=", "!=", "~")
_ORDER = tuple(comparison.value for comparison in Comparison)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(r"(\d{1,9})([smhdw])")
_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_SIZE = re.compile(r"(\d{1,12})([KMG]?)", re.IGNORECASE)


def _span(text: str) -> float:
    """Such as 30m or 1h30m. Raises ValueError."""
    found = _SPAN.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        raise ValueError(f"{text!r} is not a duration such as 30m, 1h or 2d12h")
    return float(sum(int(number) * _UNITS[unit] for number, unit in found))


def _octets(text: str) -> float:
    if not (match := _SIZE.fullmatch(text)):
        raise ValueError(f"{text!r} is not a size such as 500, 20K or 10M")
    return float(int(match[1]) * _SIZES[match[2].upper()])


def _attempts(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def _number(field: NumberField, read: Callable[[str], float]) -> _Field:
    return _Field(_ORDER, lambda operator, value: Number(field, Comparison(operator), read(value.plain)))


def _due(operator: str, value: _Value) -> Predicate:
    text, comparison = value.plain, Comparison(operator)
    if text == "now":
        return Due(comparison, 0.0, True)
    if _SPAN.match(text):
        return Due(comparison, _span(text), True)
    try:
        return Due(comparison, datetime.fromisoformat(text).timestamp(), False)  # without an offset: local time
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is neither now, a duration from now such as 30m, nor a time such as 2026-01-31T18:00"
        ) from None


def _signed(operator: str, predicate: Predicate) -> Predicate:
    return Not(predicate) if operator == "!=" else predicate


def _state(operator: str, value: _Value) -> Predicate:
    word = value.plain.lower()
    if word not in STATES:
        raise ValueError(f"{value.plain!r} is no state{_nearest(word, STATES)}; allowed: {', '.join(STATES)}")
    return _signed(operator, STATES[word])


def _id(operator: str, value: _Value) -> Predicate:
    return _signed(operator, OfMessage(MessageId.parse(value.plain)))


def _address(text: str) -> str:
    """An address, in angle brackets or not; "" and <> are the null one."""
    bare = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    if not bare:
        return ""
    try:
        return str(Mailbox.parse(bare))
    except ValueError as error:
        raise ValueError(f"{text!r} is no address ({error}); part of one is found with * or ~") from error


def _text(field: TextField, exactly: Callable[[str], str] = str) -> _Field:
    def read(operator: str, value: _Value) -> Predicate:
        pieces = value.pieces
        if operator == "~":
            return Text(field, _joined((Wild.MANY, *pieces, Wild.MANY)))
        if value.exact:
            pieces = _joined((exactly("".join(str(piece) for piece in pieces)),))
        return _signed(operator, Text(field, pieces))

    return _Field(_IN_TEXT, read)


def _joined(pieces: Iterable[str | Wild]) -> tuple[str | Wild, ...]:
    """Without empty texts, and without a `*` behind another, which says nothing more."""
    found: list[str | Wild] = []
    for piece in pieces:
        if piece and not (piece is Wild.MANY and found and found[-1] is Wild.MANY):
            found.append(piece)
    return tuple(found)


FIELDS: dict[str, _Field] = {
    "id": _Field(_EQUALITY, _id),
    "sender": _text(TextField.SENDER, _address),
    "recipient": _text(TextField.RECIPIENT, _address),
    "domain": _text(TextField.DOMAIN, lambda text: str(parse_host(text))),
    "lane": _text(TextField.LANE),
    "state": _Field(_EQUALITY, _state),
    "age": _number(NumberField.AGE, _span),
    "due": _Field(_ORDER, _due),
    "attempts": _number(NumberField.ATTEMPTS, _attempts),
    "size": _number(NumberField.SIZE, _octets),
    "reply": _text(TextField.REPLY),
    "from": _text(TextField.FROM),
    "subject": _text(TextField.SUBJECT),
    "message-id": _text(TextField.MESSAGE_ID),
    "listener": _text(TextField.LISTENER),
    "peer": _text(TextField.PEER),
    "submitter": _text(TextField.SUBMITTER),
    "tenant": _text(TextField.TENANT),
}


def _nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, tuple(known), n=1)
    return f", did you mean {found[0]}?" if found else ""


# --- the grammar


class _Parser:
    """Reads from left to right; `_at` is where the next thing begins, counted from 0."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._depth = 0
        self._terms = 0

    def whole(self) -> Predicate:
        if len(self._source) > MAX_LENGTH:
            self._fail(f"longer than {MAX_LENGTH} characters", MAX_LENGTH)
        if "\0" in self._source:
            self._fail("a NUL stands here; nothing that is stored holds one", self._source.index("\0"))
        self._skip()
        if self._ended():
            return And(())
        found = self._either()
        if not self._ended():
            self._fail("this ) closes nothing")
        return found

    def _ended(self) -> bool:
        return self._at >= len(self._source)

    def _either(self) -> Predicate:
        parts = [self._both()]
        while self._takes("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Predicate:
        parts = [self._one()]
        while self._takes("and") or not (self._ended() or self._source[self._at] == ")" or self._keyword() == "or"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Predicate:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"deeper than {MAX_DEPTH} levels")
        if self._takes("not"):
            found: Predicate = Not(self._one())
        elif not self._ended() and self._source[self._at] == "(":
            found = self._enclosed()
        else:
            found = self._term()
        self._depth -= 1
        return found

    def _enclosed(self) -> Predicate:
        opened = self._at
        self._move(1)
        found = self._either()
        if self._ended():
            self._fail("this ( is never closed", opened)
        self._move(1)
        return found

    def _term(self) -> Predicate:
        self._terms += 1
        if self._terms > MAX_TERMS:
            self._fail(f"more than {MAX_TERMS} terms")
        start = self._at
        match = _NAME.match(self._source, start)
        if match is None or self._keyword():
            self._fail(f"here may stand {_BEGINNING}")
        name = match[0].lower()
        if name not in FIELDS:
            self._fail(f"unknown field {match[0]!r}{_nearest(name, FIELDS)}; allowed: {', '.join(FIELDS)}")
        field = FIELDS[name]
        self._at = match.end()
        operator = self._operator(name, field)
        at = self._at
        value = self._value()
        try:
            found = field.read(operator, value)
        except ValueError as error:
            self._fail(f"{self._source[start : match.end()]}: {error}", at)
        self._skip()
        return found

    def _operator(self, name: str, field: _Field) -> str:
        allowed = " ".join(field.operators)
        match = _OPERATOR.match(self._source, self._at)
        if match is None:
            self._fail(f"behind {name} must stand, without a space, one of {allowed}")
        if match[0] not in field.operators:
            self._fail(f"{name} can't be compared by {match[0]}; allowed: {allowed}")
        self._at = match.end()
        return match[0]

    def _value(self) -> _Value:
        start = self._at
        mark = self._source[start : start + 1]
        if mark == "=":
            self._fail("a value that begins with = stands in quotes")
        if mark in _QUOTED:
            return self._quoted(mark)
        match = _BARE.match(self._source, start)
        assert match is not None  # it matches nothing, too
        self._at = match.end()
        if not self._ended() and self._source[self._at] in "(\\":
            self._fail("parentheses and a \\ at the end stand in quotes")
        return _value(match[0])

    def _quoted(self, mark: str) -> _Value:
        match = _QUOTED[mark].match(self._source, self._at)
        if match is None:
            self._fail(f"this {mark} is never closed")
        self._at = match.end()
        if not self._ended() and not self._source[self._at].isspace() and self._source[self._at] != ")":
            self._fail("behind the quotes must stand a space; quotes go around the whole value")
        return _value(match[1])

    # --- steps

    def _move(self, count: int) -> None:
        self._at += count
        self._skip()

    def _skip(self) -> None:
        match = _SPACE.match(self._source, self._at)
        assert match is not None
        self._at = match.end()

    def _keyword(self) -> str | None:
        """The one that stands here."""
        match = _NAME.match(self._source, self._at)
        if match is None or match[0].lower() not in _KEYWORDS or _OPERATOR.match(self._source, match.end()):
            return None
        return match[0].lower()

    def _takes(self, keyword: str) -> bool:
        """Goes behind it where it stands here."""
        if self._keyword() != keyword:
            return False
        self._move(len(keyword))
        return True

    def _fail(self, text: str, at: int | None = None) -> NoReturn:
        raise PredicateError(text, self._source, (self._at if at is None else at) + 1)


def _value(written: str) -> _Value:
    pieces: list[str | Wild] = []
    plain = ""
    end = 0

    def literal(text: str) -> None:
        if pieces and isinstance(pieces[-1], str):
            pieces[-1] += text
        else:
            pieces.append(text)

    for match in _ESCAPED.finditer(written):
        literal(written[end : match.start()])
        plain += written[end : match.start()] + match[0][-1]
        if match[2]:
            pieces.append(_WILD[match[2]])
        else:
            literal(match[1])
        end = match.end()
    literal(written[end:])
    return _Value(plain + written[end:], _joined(pieces))
