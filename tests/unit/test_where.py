"""WHERE: what the terms mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from pillarbox.app.where import WhereError, parse_where, state_word
from pillarbox.core.envelope import MessageId
from pillarbox.engine.inspection import UNSETTLED, RecipientFilter
from pillarbox.engine.mail import State

ID = MessageId.parse("01hzzzzzzzz0")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", RecipientFilter(states=frozenset({State.SCHEDULED, State.LEASED}))),
        ("id=01HZZZZZZZZ0", RecipientFilter(message=ID)),
        ("sender=<>", RecipientFilter(sender="")),
        ("sender=", RecipientFilter(sender="")),
        ("sender=a@Example.org", RecipientFilter(sender="a@example.org")),
        ("""recipient='"a b"@example.org'""", RecipientFilter(recipient='"a b"@example.org')),
        ("domain=Bücher.example", RecipientFilter(domain="xn--bcher-kva.example")),
        ("domain=[192.0.2.1]", RecipientFilter(domain="[192.0.2.1]")),
        ("lane=mx:example.org", RecipientFilter(lane="mx:example.org")),
        ("state=queued", RecipientFilter(states=UNSETTLED)),
        ("state=scheduled", RecipientFilter(states=frozenset({State.SCHEDULED}))),
        ("state=deferred", RecipientFilter(states=frozenset({State.SCHEDULED}), least_attempts=1)),
        ("state=active", RecipientFilter(states=frozenset({State.LEASED}))),
        ("state=leased", RecipientFilter(states=frozenset({State.LEASED}))),
        ("state=delivered", RecipientFilter(states=frozenset({State.DELIVERED}))),
        ("state=failed", RecipientFilter(states=frozenset({State.FAILED}))),
        ("state=expired", RecipientFilter(states=frozenset({State.EXPIRED}))),
        (
            " domain=a.test  state=deferred ",
            RecipientFilter(domain="a.test", states=frozenset({State.SCHEDULED}), least_attempts=1),
        ),
    ],
)
def test_terms(source: str, expected: RecipientFilter) -> None:
    assert parse_where(source) == expected


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("domian=a.test", "unknown field 'domian', did you mean domain?; allowed: id, sender, recipient, domain, lane"),
        ("age>1h", "'age>1h' is not of the form field=value; fields: id, sender"),
        ("age>=1h", "'age>=1h' is not of the form field=value"),
        ("deferred", "'deferred' is not of the form"),
        ("state=defered", "state=defered: no such state; allowed: queued, scheduled, deferred"),
        ("id=1", "id=1: a message id has 12 characters"),
        ("recipient=a", "recipient=a: address has no @domain"),
        ("domain=a_b", "domain=a_b: domain has an illegal label"),
        ("lane=a lane=b", "lane stands twice"),
        ("lane='a", "no closing quotation"),
    ],
)
def test_complaints(source: str, complaint: str) -> None:
    with pytest.raises(WhereError) as caught:
        parse_where(source)
    assert complaint in str(caught.value)


def test_the_word_of_a_state_finds_it_again() -> None:
    for state in State:
        for attempts in (0, 1):
            wanted = parse_where(f"state={state_word(state, attempts)}")
            assert state in wanted.states and wanted.least_attempts <= attempts
