"""What a predicate means, in plain Python: against it the SQL is measured, and an imagined spool finds by it."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pillarbox.engine.mail import State
from pillarbox.engine.predicate import (
    And,
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
)


@dataclass(frozen=True)
class Subject:
    """A recipient, and what is asked of its message."""

    message: int
    number: int
    address: str
    original: str | None
    lane: str
    state: State
    due: float
    attempts: int
    reply: str
    received_at: float
    sender: str | None
    size: int
    header_from: str = ""
    subject: str = ""
    message_id: str = ""
    listener: str = ""
    peer: str = ""
    submitter: str | None = None


_TEXTS: dict[TextField, Callable[[Subject], tuple[str | None, ...]]] = {
    TextField.SENDER: lambda it: (it.sender or "",),
    TextField.RECIPIENT: lambda it: (it.address, it.original),
    TextField.DOMAIN: lambda it: (it.address.rpartition("@")[2],),
    TextField.LANE: lambda it: (it.lane,),
    TextField.REPLY: lambda it: (it.reply,),
    TextField.FROM: lambda it: (it.header_from,),
    TextField.SUBJECT: lambda it: (it.subject,),
    TextField.MESSAGE_ID: lambda it: (it.message_id,),
    TextField.LISTENER: lambda it: (it.listener,),
    TextField.PEER: lambda it: (it.peer,),
    TextField.TENANT: lambda it: (it.submitter or (it.sender or "").rpartition("@")[2],),
    TextField.SUBMITTER: lambda it: (it.submitter or "",),
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WILD = {Wild.MANY: ".*", Wild.ONE: "."}


def holds(predicate: Predicate, it: Subject, now: float) -> bool:
    match predicate:
        case And(parts):
            return all(holds(part, it, now) for part in parts)
        case Or(parts):
            return any(holds(part, it, now) for part in parts)
        case Not(part):
            return not holds(part, it, now)
        case Standing(states, least):
            return it.state in states and it.attempts >= least
        case OfMessage(message):
            return it.message == message
        case Due(comparison, value, from_now):
            moment = now + value if from_now else value
            return it.state is State.SCHEDULED and _COMPARISONS[comparison.value](it.due, moment)
        case Number(NumberField.AGE, comparison, value):
            turned = str(comparison.value).translate(str.maketrans("<>", "><"))
            return _COMPARISONS[turned](it.received_at, now - value)
        case Number(field, comparison, value):
            return _COMPARISONS[comparison.value](getattr(it, field.value), value)
        case Text(field, pieces):
            return any(_like(pieces, text) for text in _TEXTS[field](it) if text is not None)


def _like(pieces: tuple[Any, ...], text: str) -> bool:
    pattern = "".join(re.escape(piece) if isinstance(piece, str) else _WILD[piece] for piece in pieces)
    return re.fullmatch(pattern, text, re.DOTALL | re.IGNORECASE | re.ASCII) is not None
