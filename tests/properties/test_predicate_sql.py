"""The SQL of a predicate finds what the predicate means: random predicates over random rows, in a real spool file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.adapters.predicate_sql import condition
from pillarbox.adapters.spool_schema import open_spool
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import State
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
)
from pillarbox.engine.predicate_parser import parse_predicate
from tests.predicates import Subject, holds

NOW = 1_000.0

# Few characters, so that much agrees; among them those that mean something to SQL, to LIKE and to addresses.
words = st.text("aAbß%_'\\@.*\n", max_size=5)
addresses = st.builds("{}@{}".format, words, st.text("aAb.[_%", max_size=4))
times = st.sampled_from([990.0, 995.0, 999.5, 1000.0, 1001.0])
small = st.integers(0, 3)
pieces = st.lists(words | st.sampled_from(Wild), max_size=4).map(
    lambda found: tuple(
        text for _, group in itertools.groupby(found, type) for text in _merged(list(group)) if text != ""
    )
)


def _merged(group: list[str | Wild]) -> list[str | Wild]:
    return ["".join(map(str, group))] if isinstance(group[0], str) else group


subjects = st.builds(
    Subject,
    message=small,
    number=small,
    address=addresses,
    original=st.none() | addresses,
    lane=words,
    state=st.sampled_from(State),
    due=times,
    attempts=small,
    reply=words,
    received_at=times,
    sender=st.none() | addresses,
    size=small,
    header_from=words,
    subject=words,
    message_id=words,
    listener=words,
    peer=words,
    submitter=st.none() | addresses,
)
terms: st.SearchStrategy[Predicate] = st.one_of(
    st.builds(Text, st.sampled_from(TextField), pieces),
    st.builds(Number, st.sampled_from(NumberField), st.sampled_from(Comparison), st.sampled_from([0.0, 1.0, 5.0])),
    st.builds(Due, st.sampled_from(Comparison), st.sampled_from([0.0, 1.0, -5.0]), st.just(True)),
    st.builds(Due, st.sampled_from(Comparison), times, st.just(False)),
    st.builds(OfMessage, small.map(MessageId)),
    st.sampled_from(sorted(STATES)).map(STATES.__getitem__),
)
predicates = st.recursive(
    terms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    connection = open_spool(tmp_path_factory.mktemp("spool") / "spool-0.db")
    yield connection
    connection.close()


def store(connection: apsw.Connection, rows: list[Subject]) -> None:
    for it in rows:
        connection.execute(
            "INSERT INTO message (id, received_at, sender, body_type, listener, peer, helo, protocol, size, octets,"
            " large, header_from, header_subject, header_message_id, header_date, options)"
            " VALUES (?, ?, ?, '7BIT', ?, ?, '', '', ?, 0, 0, ?, ?, ?, '', iif(?10 IS NULL, NULL,"
            " json_object('submitter', ?10)))",
            (
                it.message,
                it.received_at,
                it.sender,
                it.listener,
                it.peer,
                it.size,
                it.header_from,
                it.subject,
                it.message_id,
                it.submitter,
            ),
        )
        connection.execute(
            "INSERT INTO recipient (message, number, address, original, lane, state, due, attempts, reply)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (it.message, it.number, it.address, it.original, it.lane, int(it.state), it.due, it.attempts, it.reply),
        )


@settings(max_examples=400, deadline=None)
@given(predicates, st.lists(subjects, max_size=8, unique_by=lambda it: it.message))
def test_sql_means_what_python_means(spool: apsw.Connection, predicate: Predicate, rows: list[Subject]) -> None:
    spool.execute("BEGIN")
    try:
        store(spool, rows)
        asked = condition(predicate, NOW)
        found = spool.execute(
            f"SELECT recipient.message, number FROM {asked.source} WHERE {asked.where}", asked.arguments
        ).fetchall()
    finally:
        spool.execute("ROLLBACK")
    assert sorted(found) == sorted((it.message, it.number) for it in rows if holds(predicate, it, NOW))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["reply", "lane", "from", "subject"]), st.text(max_size=20).filter(lambda text: "\0" not in text)
)
def test_nothing_of_the_text_stands_in_the_sql(spool: apsw.Connection, field: str, text: str) -> None:
    escaped = "".join(f"\\{character}" for character in text)
    asked = condition(parse_predicate(f'{field}="{escaped}"'), NOW)
    assert asked.where == condition(parse_predicate(f"{field}=x"), NOW).where
    assert asked.arguments == (text,)
    spool.execute(f"SELECT 1 FROM {asked.source} WHERE {asked.where}", asked.arguments).fetchall()
