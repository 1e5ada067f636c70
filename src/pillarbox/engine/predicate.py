"""What is said of recipients of the queue, as values: `domain=example.org and (attempts>3 or not age<1h)`.

The one predicate language of the command line and the control socket: an AST of frozen values. Its text is read in
`predicate_parser.py`; whoever stores recipients finds them by it. Knows neither SQL nor the clock: an age is a number
of seconds, to be counted from the moment of the question. The case of ASCII letters in a text is not regarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import State

UNSETTLED = frozenset(state for state in State if not state.settled)
ALL_STATES = frozenset(State)


class Comparison(Enum):
    """How a number is compared; the value is how it is written."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="


class Wild(Enum):
    """What stands for other characters in a text; the value is how it is written."""

    MANY = "*"  # any number of them, none too
    ONE = "?"


class TextField(Enum):
    """What is compared as text; the value is its name."""

    SENDER = "sender"  # the reverse-path, "" for the null one
    RECIPIENT = "recipient"  # the address, or the one that RCPT gave
    DOMAIN = "domain"  # of the address, as A-labels
    LANE = "lane"
    REPLY = "reply"  # the last one
    FROM = "from"  # a header field, as are the next two
    SUBJECT = "subject"
    MESSAGE_ID = "message-id"
    LISTENER = "listener"
    PEER = "peer"
    SUBMITTER = "submitter"
    TENANT = "tenant"  # the submitter, else the domain of the reverse-path


class NumberField(Enum):
    """What is compared as a number; the value is its name."""

    AGE = "age"  # seconds since it was received
    ATTEMPTS = "attempts"
    SIZE = "size"  # octets of the message


@dataclass(frozen=True, slots=True)
class Text:
    """The whole text is that, with any characters in the place of a Wild. No two pieces in a row are texts."""

    field: TextField
    pieces: tuple[str | Wild, ...]


@dataclass(frozen=True, slots=True)
class Number:
    field: NumberField
    comparison: Comparison
    value: float


@dataclass(frozen=True, slots=True)
class Due:
    """It waits for an attempt whose moment is that: since the epoch, or so many seconds from now."""

    comparison: Comparison
    value: float
    from_now: bool


@dataclass(frozen=True, slots=True)
class OfMessage:
    message: MessageId


@dataclass(frozen=True, slots=True)
class Standing:
    """Its state is one of those, and there were at least so many attempts."""

    states: frozenset[State]
    least_attempts: int = 0


@dataclass(frozen=True, slots=True)
class And:
    """All of them; with none, everything."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them at least."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Predicate


Predicate = Text | Number | Due | OfMessage | Standing | And | Or | Not

STATES: dict[str, Standing] = {
    "queued": Standing(UNSETTLED),
    "scheduled": Standing(frozenset({State.SCHEDULED})),
    "deferred": Standing(frozenset({State.SCHEDULED}), 1),
    "active": Standing(frozenset({State.LEASED})),
    "leased": Standing(frozenset({State.LEASED})),
    "held": Standing(frozenset({State.HELD})),
    "delivered": Standing(frozenset({State.DELIVERED})),
    "failed": Standing(frozenset({State.FAILED})),
    "expired": Standing(frozenset({State.EXPIRED})),
    "settled": Standing(ALL_STATES - UNSETTLED),
    "any": Standing(ALL_STATES),
}
_WORDS = {
    State.HELD: "held",
    State.LEASED: "active",
    State.DELIVERED: "delivered",
    State.FAILED: "failed",
    State.EXPIRED: "expired",
}


def state_word(state: State, attempts: int) -> str:
    """The word for where a recipient stands: one of STATES."""
    return _WORDS.get(state) or ("deferred" if attempts else "scheduled")


def of_message(message: MessageId) -> Predicate:
    """All recipients of it, settled or not."""
    return OfMessage(message)


def terms(predicate: Predicate) -> Iterator[Predicate]:
    """What it is made of, without And, Or and Not."""
    match predicate:
        case And(parts) | Or(parts):
            for part in parts:
                yield from terms(part)
        case Not(part):
            yield from terms(part)
        case _:
            yield predicate


def meant(predicate: Predicate) -> Predicate:
    """Without a word on the state, those that are not settled are meant."""
    if any(isinstance(term, Standing) for term in terms(predicate)):
        return predicate
    return And((Standing(UNSETTLED), predicate))
