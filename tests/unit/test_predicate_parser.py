"""The predicate language: what each text means, and what is said, and where, of those that mean nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import State
from pillarbox.engine.predicate import (
    STATES,
    UNSETTLED,
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
    state_word,
)
from pillarbox.engine.predicate_parser import MAX_DEPTH, MAX_LENGTH, MAX_TERMS, PredicateError, parse_predicate

QUEUED = Standing(UNSETTLED)
MANY, ONE = Wild.MANY, Wild.ONE
A, B, C = (Number(NumberField.ATTEMPTS, Comparison.EQUAL, float(n)) for n in (1, 2, 3))


def text(field: str, *pieces: str | Wild) -> Text:
    return Text(TextField(field), pieces)


def number(field: str, comparison: str, value: float) -> Number:
    return Number(NumberField(field), Comparison(comparison), value)


TERMS: list[tuple[str, Predicate]] = [
    ("id=01HZZZZZZZZ0", OfMessage(MessageId.parse("01hzzzzzzzz0"))),
    ("id!=01hzzzzzzzz0", Not(OfMessage(MessageId.parse("01hzzzzzzzz0")))),
    ("sender=<>", text("sender")),
    ("sender=", text("sender")),
    ("sender=''", text("sender")),
    ("sender=a@Example.org", text("sender", "a@example.org")),
    ("sender=<a@example.org>", text("sender", "a@example.org")),
    ("SENDER=o'brien@example.org", text("sender", "o'brien@example.org")),
    ("""recipient='"a b"@example.org'""", text("recipient", '"a b"@example.org')),
    ("recipient=ann@*", text("recipient", "ann@", MANY)),
    ("recipient~ann", text("recipient", MANY, "ann", MANY)),
    ("domain=Bücher.example", text("domain", "xn--bcher-kva.example")),
    ("domain=[192.0.2.1]", text("domain", "[192.0.2.1]")),
    ("domain=*.example.org", text("domain", MANY, ".example.org")),
    ("domain!=a.test", Not(text("domain", "a.test"))),
    ("lane=mx:example.org;tls=verified", text("lane", "mx:example.org;tls=verified")),
    ("lane=", text("lane")),
    ("reply~greylist", text("reply", MANY, "greylist", MANY)),
    ("reply~a*", text("reply", MANY, "a", MANY)),
    ("reply=4??**", text("reply", "4", ONE, ONE, MANY)),
    ('reply="450 *"', text("reply", "450 ", MANY)),
    (r"reply=\*\?\\", text("reply", r"*?" + "\\")),
    (r'reply="say \"no\" \*"', text("reply", 'say "no" *')),
    ("""reply="'; DROP TABLE recipient; --" """, text("reply", "'; DROP TABLE recipient; --")),
    ("reply='%_'", text("reply", "%_")),
    ('from="Ann <ann@example.org>"', text("from", "Ann <ann@example.org>")),
    ("subject='hello world'", text("subject", "hello world")),
    ("subject='and'", text("subject", "and")),
    ("message-id=<1.2@example.org>", text("message-id", "<1.2@example.org>")),
    ("listener=mx", text("listener", "mx")),
    ("peer=192.0.2.*", text("peer", "192.0.2.", MANY)),
    ("submitter=ann@example.org", text("submitter", "ann@example.org")),
    ("tenant=example.org", text("tenant", "example.org")),
    ("age>1h", number("age", ">", 3600)),
    ("age<=1h30m", number("age", "<=", 5400)),
    ("age<2w1d", number("age", "<", 15 * 86400)),
    ("attempts>=3", number("attempts", ">=", 3)),
    ("attempts!=0", number("attempts", "!=", 0)),
    ("size>10M", number("size", ">", 10 * 1024**2)),
    ("size=20k", number("size", "=", 20 * 1024)),
    ("size<500", number("size", "<", 500)),
    ("due<30m", Due(Comparison.LESS, 1800.0, True)),
    ("due<=now", Due(Comparison.AT_MOST, 0.0, True)),
    (
        "due>2026-01-31T18:00+00:00",
        Due(Comparison.GREATER, datetime(2026, 1, 31, 18, tzinfo=UTC).timestamp(), False),
    ),
    ("due>2026-01-31", Due(Comparison.GREATER, datetime(2026, 1, 31).timestamp(), False)),
]


@pytest.mark.parametrize(("source", "expected"), TERMS)
def test_terms(source: str, expected: Predicate) -> None:
    assert parse_predicate(source) == And((QUEUED, expected))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("attempts=1 attempts=2", And((A, B))),
        ("attempts=1 and attempts=2", And((A, B))),
        ("attempts=1 or attempts=2 attempts=3", Or((A, And((B, C))))),
        ("attempts=1 OR attempts=2 AND attempts=3", Or((A, And((B, C))))),
        ("(attempts=1 or attempts=2) attempts=3", And((Or((A, B)), C))),
        ("attempts=1 (attempts=2)", And((A, B))),
        ("not attempts=1 attempts=2", And((Not(A), B))),
        ("Not(attempts=1 attempts=2)", Not(And((A, B)))),
        ("not not attempts=1", Not(Not(A))),
        ("((attempts=1))", A),
        ("  attempts=1\n", A),
    ],
)
def test_what_binds_terms(source: str, expected: Predicate) -> None:
    assert parse_predicate(source) == And((QUEUED, expected))


@pytest.mark.parametrize("word", STATES)
def test_states(word: str) -> None:
    assert parse_predicate(f"state={word.upper()}") == STATES[word]
    assert parse_predicate(f"attempts=1 or not state!={word}") == Or((A, Not(Not(STATES[word]))))


def test_without_a_word_what_is_not_settled_is_meant() -> None:
    assert parse_predicate(" ") == And((QUEUED, And(())))
    assert UNSETTLED == {State.HELD, State.SCHEDULED, State.LEASED}


def test_the_example_that_everybody_knows() -> None:
    assert parse_predicate("domain=example.org state=deferred age>1h") == And(
        (text("domain", "example.org"), STATES["deferred"], number("age", ">", 3600))
    )


@pytest.mark.parametrize(
    ("source", "column", "complaint"),
    [
        ("domian=a.test", 1, "unknown field 'domian', did you mean domain?; allowed: id, sender, recipient, domain"),
        ("state=held foo=1", 12, "unknown field 'foo'"),
        ("age > 1h", 4, "behind age must stand, without a space, one of = != < <= > >="),
        ("deferred", 1, "unknown field 'deferred'"),
        ("domain", 7, "behind domain must stand"),
        ("domain>a.test", 7, "domain can't be compared by >; allowed: = != ~"),
        ("state<held", 6, "state can't be compared by <; allowed: = !="),
        ("age~1h", 4, "age can't be compared by ~"),
        ("domain==a.test", 8, "a value that begins with = stands in quotes"),
        ("state=defered", 7, "state: 'defered' is no state, did you mean deferred?; allowed: queued, scheduled"),
        ("state=", 7, "state: '' is no state; allowed"),
        ("id=1", 4, "id: a message id has 12 characters"),
        ("id=", 4, "id: a message id has 12 characters"),
        ("recipient=a", 11, "recipient: 'a' is no address (address has no @domain); part of one is found with * or ~"),
        ("domain=a_b", 8, "domain: domain has an illegal label"),
        ("age>", 5, "age: '' is not a duration such as 30m, 1h or 2d12h"),
        ("age>1", 5, "'1' is not a duration"),
        ("age>-1h", 5, "'-1h' is not a duration"),
        ("age>1h5", 5, "'1h5' is not a duration"),
        ("size>10X", 6, "size: '10X' is not a size such as 500, 20K or 10M"),
        ("attempts=²", 10, "attempts: '²' is not a number"),
        ("due<soon", 5, "due: 'soon' is neither now, a duration from now such as 30m, nor a time"),
        ("due<9999-99-99", 5, "is neither now"),
        ("lane='a", 6, "this ' is never closed"),
        ('lane="a"b', 9, "behind the quotes must stand a space"),
        ("lane=a(b)", 7, "parentheses and a \\ at the end stand in quotes"),
        ("lane=a\\", 7, "parentheses and a \\ at the end"),
        ("(lane=a", 1, "this ( is never closed"),
        ("lane=a (size>1 or", 18, "here may stand a term such as domain=example.org, not, or ("),
        ("()", 2, "here may stand a term"),
        ("lane=a)", 7, "this ) closes nothing"),
        ("or lane=a", 1, "here may stand"),
        ("lane=a or or lane=b", 11, "here may stand"),
        ("lane=a and", 11, "here may stand"),
        ("not", 4, "here may stand"),
        ("1=1", 1, "here may stand"),
        ("lane=a; DROP TABLE recipient", 9, "unknown field 'DROP'"),
        ("lane=a -- comment", 8, "here may stand"),
        ("lane=a\0", 7, "a NUL stands here"),
        ("(" * (MAX_DEPTH + 1), MAX_DEPTH + 1, f"deeper than {MAX_DEPTH} levels"),
        ("not " * 100_0 + "lane=a", 4 * MAX_DEPTH + 1, "deeper than"),
        ("x" * (MAX_LENGTH + 1), MAX_LENGTH + 1, f"longer than {MAX_LENGTH} characters"),
        ("lane=a " * (MAX_TERMS + 1), 7 * MAX_TERMS + 1, f"more than {MAX_TERMS} terms"),
    ],
)
def test_complaints(source: str, column: int, complaint: str) -> None:
    with pytest.raises(PredicateError) as caught:
        parse_predicate(source)
    assert complaint in caught.value.text and caught.value.column == column
    _, shown, caret = str(caught.value).splitlines()
    assert caret.endswith(f"^ column {column}") and len(shown) <= 102
    place = caret.index("^")
    assert source[column - 1 : column] == shown[place : place + 1].replace(" ", source[column - 1 : column] or " ")


def test_a_complaint_shows_where() -> None:
    with pytest.raises(PredicateError) as caught:
        parse_predicate("domain=a.test stat=held")
    assert str(caught.value).splitlines()[1:] == [
        "  domain=a.test stat=held",
        "                ^ column 15",
    ]


def test_the_word_of_a_state_finds_it_again() -> None:
    for state in State:
        for attempts in (0, 1):
            standing = STATES[state_word(state, attempts)]
            assert state in standing.states and standing.least_attempts <= attempts
