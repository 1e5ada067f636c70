"""VRFY, EXPN and HELP in a session: who gets an answer, who gets none, and when patience ends."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import AddressError
from pillarbox.core.reply import Reply
from pillarbox.core.table import describe, overview
from pillarbox.engine.ports import SpoolBroken, User, Verification
from pillarbox.engine.questions import AskStatus, Status
from pillarbox.engine.service import COMMANDS, Access
from pillarbox.engine.session import Session
from pillarbox.smtp.events import Expand, Help, RcptTo, Verify
from pillarbox.smtp.states import Verb
from tests.making import Nobody, box
from tests.unit.test_session import ALICE, PEOPLE, TRUSTED, Answer, known, mail, play, ready

OPERATOR = PEOPLE[-1]
NAMES = ["alice", "alice@example.test", "nobody", "nobody@example.test", "team@example.test", "moved@example.test", "@"]


class Unasked(Nobody):
    """A directory that must not be asked, since the answer would take another time."""

    def verify(self, name: str) -> Verification:
        raise AssertionError(f"looked up {name}")


# --- who may not ask (RFC 5321 §7.3)


@pytest.mark.parametrize("name", NAMES)
def test_strangers_learn_nothing(name: str) -> None:
    session = ready(directory=Unasked())
    assert session.handle(Verify(name)) == r.CANNOT_VERIFY
    assert session.handle(Expand(name)) == r.CANNOT_EXPAND


@pytest.mark.parametrize("access", [Access.AUTH, Access.TRUSTED])
def test_who_may_ask(access: Access) -> None:
    commands = {**COMMANDS, Verb.VRFY: access, Verb.EXPN: access}
    told = r.verified("Alice Liddell <alice@example.test>")
    assert ready(commands=commands).handle(Verify("alice")) == r.CANNOT_VERIFY
    assert known(commands=commands).handle(Verify("alice")) == told
    trusted = ready(TRUSTED, commands=commands).handle(Verify("alice"))
    assert trusted == (told if access is Access.TRUSTED else r.CANNOT_VERIFY)
    assert ready(TRUSTED, commands=commands).handle(Expand("alice")) == (
        r.THAT_IS_A_USER if access is Access.TRUSTED else r.CANNOT_EXPAND
    )


def test_everybody_may_ask_where_it_is_on() -> None:
    commands = {**COMMANDS, Verb.VRFY: Access.ON, Verb.EXPN: Access.ON}
    session = ready(commands=commands, probes=1)
    for _ in range(5):
        assert session.handle(Verify("nobody@example.test")) == r.NO_SUCH_USER
        assert session.handle(Expand("nobody@example.test")) == r.NO_SUCH_LIST


@pytest.mark.parametrize("names", [("alice", "bob", "both"), ("nobody", "nothing", "none")])
def test_the_probes_of_a_stranger_have_an_end_known_or_unknown(names: tuple[str, str, str]) -> None:
    session = ready(probes=3)
    first, second, third = names
    assert session.handle(Verify(first)) == r.CANNOT_VERIFY
    assert session.handle(Expand(second)) == r.CANNOT_EXPAND
    assert play(session, mail(), RcptTo(box("nobody@example.test"))) == r.NO_SUCH_USER
    assert session.handle(Verify(third)) == r.TOO_MANY_PROBES
    assert r.TOO_MANY_PROBES.closes


@pytest.mark.parametrize("peer", [TRUSTED, "192.0.2.7"])
def test_who_may_relay_may_ask_on(peer: str) -> None:
    session = ready(peer, probes=1) if peer == TRUSTED else known(probes=1)
    for _ in range(5):
        answer = session.handle(Expand("alice"))
        assert answer == (r.CANNOT_EXPAND if peer == TRUSTED else r.THAT_IS_A_USER)


# --- what those get who may


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("alice", 250, "Alice Liddell <alice@example.test>"),
        ("<alice@example.test>", 250, "<alice@example.test>"),
        ("liddell", 250, "<alice@example.test>"),
        ("told@example.test", 251, "<carol@elsewhere.example>"),
        ("x@far.example", 252, ""),
        ("nobody@example.test", 550, "No such user"),
        ("dave@example.test", 550, "disabled"),
        ("team@example.test", 550, "mailing list"),
        ("moved@example.test", 551, "<carol@elsewhere.example>"),
        ("a@@b", 553, "syntax"),
        ("postmaster", 250, "<postmaster@example.test>"),
    ],
)
def test_verify(name: str, code: int, words: str) -> None:
    answer = known().handle(Verify(name))
    assert isinstance(answer, Reply)
    assert answer.code == code and words in str(answer)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("team", 250, "<carol@elsewhere.example>"),
        ("team@example.test", 250, "Alice Liddell <alice@example.test>"),
        ("staff@example.test", 250, "Bob"),
        ("alice@example.test", 550, "user name"),
        ("nobody@example.test", 550, "No such"),
        ("a@@b", 501, "syntax"),
    ],
)
def test_expand(name: str, code: int, words: str) -> None:
    answer = known().handle(Expand(name))
    assert isinstance(answer, Reply)
    assert answer.code == code and words in str(answer)


def test_a_list_shows_its_members_to_whom_it_likes() -> None:
    assert known(PEOPLE[1]).handle(Expand("team")) == r.LIST_ACCESS_DENIED  # bob is none of them
    asked = ready(commands={**COMMANDS, Verb.EXPN: Access.ON}).handle(Expand("team"))
    assert asked == r.LIST_ACCESS_DENIED


@pytest.mark.parametrize("argument", ["alice SMTPUTF8", "<alice@example.test> X=Y", "alice@example.test x"])
@pytest.mark.parametrize("user", [None, PEOPLE[0]])
def test_a_parameter_is_504_for_everybody(argument: str, user: User | None) -> None:
    session = ready(errors=2, directory=Unasked()) if user is None else known(user, errors=2)
    assert session.handle(Verify(argument)) == r.UNKNOWN_PARAMETER_OF_COMMAND
    assert session.handle(Expand(argument)) == r.UNKNOWN_PARAMETER_OF_COMMAND
    assert session.handle(Verify(argument)) == r.TOO_MANY_ERRORS


def test_a_directory_that_finds_a_name_too_odd() -> None:
    class Odd(Nobody):
        def verify(self, name: str) -> Verification:
            raise AddressError("no")

    assert known(directory=Odd()).handle(Verify("x")) == r.MAILBOX_SYNTAX
    assert known(directory=Odd()).handle(Expand("x")) == r.LIST_SYNTAX


# --- HELP


@pytest.mark.parametrize("session", [ready, known])
@pytest.mark.parametrize("topic", ["", " "])
def test_help(session: Any, topic: str) -> None:
    assert session().handle(Help(topic.strip())) == r.help_text(overview())


@pytest.mark.parametrize("topic", ["SAML", "saml", "552", "data", "connect", "unknown", "."])
def test_help_on_a_topic(topic: str) -> None:
    assert ready().handle(Help(topic)) == r.help_text(describe(topic))


@pytest.mark.parametrize("topic", ["STATUS", "status", "WIZ", "999", "MAIL RCPT", "ME"])
def test_topics_that_are_none(topic: str) -> None:
    """The status is no topic for those who may not see it."""
    assert ready().handle(Help(topic)) == r.NO_SUCH_TOPIC
    assert known().handle(Help(topic)) == r.NO_SUCH_TOPIC


def test_help_may_be_for_some_only() -> None:
    commands = {**COMMANDS, Verb.HELP: Access.AUTH}
    assert ready(TRUSTED, commands=commands).handle(Help("")) == r.AUTH_NEEDED
    assert known(commands=commands).handle(Help("")) == r.help_text(overview())


def operated(session: Session, topic: str = "") -> Answer:
    assert session.handle(Help(topic)) == AskStatus()
    return session.answer(Status(uptime=90.7, connections=3, queued=12, oldest=61.9))


@pytest.mark.parametrize("topic", ["", "STATUS", "status"])
def test_an_operator_sees_the_status(topic: str) -> None:
    answer = operated(known(OPERATOR), topic)
    assert isinstance(answer, Reply) and answer.code == 211
    assert answer.lines == (
        "mx.example.test up 90 s",
        "connections: 3",
        "queued recipients: 12",
        "oldest message: 61 s",
    )


def test_an_empty_queue_has_no_oldest_message() -> None:
    session = known(OPERATOR)
    session.handle(Help(""))
    answer = session.answer(Status(uptime=0.0, connections=1, queued=0, oldest=None))
    assert isinstance(answer, Reply) and answer.lines[-1] == "oldest message: none"


def test_an_operator_may_also_ask_for_help() -> None:
    assert known(OPERATOR).handle(Help("MAIL")) == r.help_text(describe("MAIL"))


def test_a_status_that_cannot_be_had() -> None:
    session = known(OPERATOR)
    session.handle(Help(""))
    assert session.answer(SpoolBroken("no disk")) == r.OUR_FAULT


def test_asking_changes_no_transaction() -> None:
    session = known()
    play(session, mail(), RcptTo(ALICE))
    for event in (Verify("alice"), Expand("team"), Help("")):
        session.handle(event)
    assert not session.between_transactions
