"""WHERE of the command line: `domain=example.org state=deferred` as a RecipientFilter.

Terms `field=value`, all of which must hold; a value with spaces stands in quotes. Without a term on the state the
recipients that are not settled are meant. Knows the words, not who looks for them.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pillarbox.core.address import Mailbox, parse_host
from pillarbox.core.envelope import MessageId
from pillarbox.engine.inspection import UNSETTLED, RecipientFilter
from pillarbox.engine.mail import State

_STATES: dict[str, tuple[frozenset[State], int]] = {  # the states, and the least number of attempts
    "queued": (UNSETTLED, 0),
    "scheduled": (frozenset({State.SCHEDULED}), 0),
    "deferred": (frozenset({State.SCHEDULED}), 1),
    "active": (frozenset({State.LEASED}), 0),
    "leased": (frozenset({State.LEASED}), 0),
    "delivered": (frozenset({State.DELIVERED}), 0),
    "failed": (frozenset({State.FAILED}), 0),
    "expired": (frozenset({State.EXPIRED}), 0),
}
_WORDS = {
    State.LEASED: "active",
    State.DELIVERED: "delivered",
    State.FAILED: "failed",
    State.EXPIRED: "expired",
}


class WhereError(ValueError):
    """The text is no WHERE; says what is allowed."""


def parse_where(source: str) -> RecipientFilter:
    """Raises WhereError."""
    try:
        words = shlex.split(source)
    except ValueError as error:
        raise WhereError(f"where: {str(error).lower()}: {source}") from error
    wanted = RecipientFilter()
    seen: set[str] = set()
    for word in words:
        field, equals, value = word.partition("=")
        if not equals or not field.isidentifier():
            raise WhereError(f"where: {word!r} is not of the form field=value; fields: {', '.join(_TERMS)}")
        if field not in _TERMS:
            raise WhereError(f"where: unknown field {field!r}{_nearest(field)}; allowed: {', '.join(_TERMS)}")
        if field in seen:
            raise WhereError(f"where: {field} stands twice; nothing can have two values of it")
        seen.add(field)
        wanted = replace(wanted, **_read(field, value))
    return wanted


def state_word(state: State, attempts: int) -> str:
    """The word for where a recipient stands: one that WHERE takes."""
    return _WORDS.get(state) or ("deferred" if attempts else "scheduled")


def _read(field: str, value: str) -> dict[str, Any]:
    try:
        return _TERMS[field](value)
    except ValueError as error:
        raise WhereError(f"where: {field}={value}: {error}") from error


def _state(value: str) -> dict[str, Any]:
    if value not in _STATES:
        raise ValueError(f"no such state; allowed: {', '.join(_STATES)}")
    states, least_attempts = _STATES[value]
    return {"states": states, "least_attempts": least_attempts}


def _sender(value: str) -> dict[str, Any]:
    return {"sender": "" if value in ("", "<>") else str(Mailbox.parse(value))}


_TERMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "id": lambda value: {"message": MessageId.parse(value)},
    "sender": _sender,
    "recipient": lambda value: {"recipient": str(Mailbox.parse(value))},
    "domain": lambda value: {"domain": str(parse_host(value))},
    "lane": lambda value: {"lane": value},
    "state": _state,
}


def _nearest(field: str) -> str:
    found = difflib.get_close_matches(field, _TERMS, n=1)
    return f", did you mean {found[0]}?" if found else ""
