"""A predicate → a condition of SQL with parameters, over the tables of a spool.

Nothing of a predicate's text ever stands in the SQL: texts, numbers and times are parameters, and the rest comes from
the tables below. Each condition is true or false, never NULL, so that NOT means what it says. What is asked of the
message is joined only where something is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pillarbox.engine.mail import State
from pillarbox.engine.predicate import (
    And,
    Comparison,
    Due,
    Not,
    Number,
    NumberField,
    OfMessage,
    Or,
    Predicate,
    Standing,
    Text,
    TextField,
    Wild,
    terms,
)

DOMAIN = "substr(address, length(rtrim(address, replace(address, '@', ''))) + 1)"  # behind the last @
_SENDER_DOMAIN = DOMAIN.replace("address", "sender")
_TEXTS = {
    TextField.SENDER: ("ifnull(sender, '')",),
    TextField.RECIPIENT: ("address", "ifnull(original, address)"),
    TextField.DOMAIN: (DOMAIN,),
    TextField.LANE: ("lane",),
    TextField.REPLY: ("reply",),
    TextField.FROM: ("header_from",),
    TextField.SUBJECT: ("header_subject",),
    TextField.MESSAGE_ID: ("header_message_id",),
    TextField.LISTENER: ("listener",),
    TextField.PEER: ("peer",),
    TextField.TENANT: (f"coalesce(message.options ->> 'submitter', {_SENDER_DOMAIN}, '')",),
    TextField.SUBMITTER: ("ifnull(message.options ->> 'submitter', '')",),
}
_NUMBERS = {NumberField.ATTEMPTS: "attempts", NumberField.SIZE: "size"}
_OF_RECIPIENT = frozenset(
    (TextField.RECIPIENT, TextField.DOMAIN, TextField.LANE, TextField.REPLY, NumberField.ATTEMPTS)
)
_COMPARISONS = {comparison: comparison.value for comparison in Comparison}
_TURNED = {  # older is earlier
    Comparison.EQUAL: "=",
    Comparison.UNEQUAL: "!=",
    Comparison.LESS: ">",
    Comparison.AT_MOST: ">=",
    Comparison.GREATER: "<",
    Comparison.AT_LEAST: "<=",
}
_LIKE = str.maketrans({"%": "\\%", "_": "\\_", "\\": "\\\\"})
_WILD = {Wild.MANY: "%", Wild.ONE: "_"}


@dataclass(frozen=True, slots=True)
class Condition:
    """`source` is what stands behind FROM, `where` behind WHERE."""

    source: str
    where: str
    arguments: tuple[Any, ...]


class _Part(NamedTuple):
    sql: str
    arguments: tuple[Any, ...] = ()


def condition(predicate: Predicate, now: float) -> Condition:
    """Over the table `recipient`; `now` is what ages are counted from."""
    part = _part(predicate, now)
    joined = any(_asks_message(term) for term in terms(predicate))
    source = JOINED if joined else "recipient"
    return Condition(source, part.sql, part.arguments)


JOINED = "recipient CROSS JOIN message ON message.id = recipient.message"  # CROSS: in this order


def _asks_message(term: Predicate) -> bool:
    return isinstance(term, Text | Number) and term.field not in _OF_RECIPIENT


def _part(predicate: Predicate, now: float) -> _Part:
    return _PARTS[type(predicate)](predicate, now)


def _all(predicate: And, now: float) -> _Part:
    return _combined(predicate.parts, " AND ", "1", now)


def _one(predicate: Or, now: float) -> _Part:
    return _combined(predicate.parts, " OR ", "0", now)


def _combined(predicates: tuple[Predicate, ...], word: str, empty: str, now: float) -> _Part:
    parts = [_part(predicate, now) for predicate in predicates]
    sql = word.join(part.sql for part in parts)
    return _Part(f"({sql or empty})", tuple(argument for part in parts for argument in part.arguments))


def _not(predicate: Not, now: float) -> _Part:
    part = _part(predicate.part, now)
    return _Part(f"NOT {part.sql}", part.arguments)


def _text(term: Text, now: float) -> _Part:
    columns = _TEXTS[term.field]
    if all(isinstance(piece, str) for piece in term.pieces):
        argument, test = "".join(map(str, term.pieces)), "= ? COLLATE NOCASE"
    else:
        argument, test = _like(term.pieces), "LIKE ? ESCAPE '\\'"
    part = _Part(f"({' OR '.join(f'{column} {test}' for column in columns)})", (argument,) * len(columns))
    if term.field is TextField.DOMAIN:  # the end of the address decides for nearly all, at less cost
        ending = _like((Wild.MANY, "@", *term.pieces))
        return _Part(f"(address LIKE ? ESCAPE '\\' AND {part.sql})", (ending, *part.arguments))
    return part


def _like(pieces: tuple[str | Wild, ...]) -> str:
    return "".join(piece.translate(_LIKE) if isinstance(piece, str) else _WILD[piece] for piece in pieces)


def _number(term: Number, now: float) -> _Part:
    if term.field is NumberField.AGE:
        return _Part(f"(received_at {_TURNED[term.comparison]} ?)", (now - term.value,))
    return _Part(f"({_NUMBERS[term.field]} {_COMPARISONS[term.comparison]} ?)", (term.value,))


def _due(term: Due, now: float) -> _Part:
    moment = now + term.value if term.from_now else term.value
    # The + keeps SQLite from the index by due: whoever goes through a queue in steps wants it in order.
    return _Part(f"(state = {State.SCHEDULED:d} AND +due {_COMPARISONS[term.comparison]} ?)", (moment,))


def _message(term: OfMessage, now: float) -> _Part:
    return _Part("(recipient.message = ?)", (int(term.message),))


def _standing(term: Standing, now: float) -> _Part:
    states = ",".join(str(int(state)) for state in sorted(term.states))
    sql = f"state IN ({states})" if len(term.states) != 1 else f"state = {states}"  # which a partial index serves
    if term.least_attempts:
        return _Part(f"({sql} AND attempts >= ?)", (term.least_attempts,))
    return _Part(f"({sql})")


_PARTS: dict[type[Any], Callable[[Any, float], _Part]] = {
    And: _all,
    Or: _one,
    Not: _not,
    Text: _text,
    Number: _number,
    Due: _due,
    OfMessage: _message,
    Standing: _standing,
}
