"""AUTH: what is asked, what each answer comes to, and that nobody learns more than yes or no."""

from __future__ import annotations

import pytest

from pillarbox.core import reply as r
from pillarbox.core.reply import Reply
from pillarbox.engine.ports import AccountsFault, User
from pillarbox.engine.questions import Login
from pillarbox.engine.service import AuthOffer
from pillarbox.smtp.events import Authenticate, AuthResponse, RcptTo
from pillarbox.smtp.sasl import Credentials, plain
from tests.making import box
from tests.unit.test_session import CLIENT, PEOPLE, known, log_in, mail, play, ready

GOOD = plain(Credentials("alice", "secret"))


def offered(mechanism: str = "PLAIN", initial: bytes | None = GOOD) -> Authenticate:
    return Authenticate(mechanism, initial)


def test_a_password_is_asked_for_and_checked() -> None:
    session = ready(auth=AuthOffer.CLEAR)
    assert session.user == ""
    assert session.handle(offered(initial=None)) == r.AUTH_CONTINUE
    assert session.handle(AuthResponse(GOOD)) == Login(Credentials("alice", "secret"))
    assert session.answer(PEOPLE[0]) == r.AUTHENTICATED
    assert session.user == "alice@example.test"


def test_an_initial_response_spares_the_question() -> None:
    session = ready(auth=AuthOffer.CLEAR)
    assert session.handle(offered()) == Login(Credentials("alice", "secret"))
    assert session.answer(PEOPLE[0]) == r.AUTHENTICATED


def test_who_is_known_may_relay() -> None:
    assert play(known(), mail(), RcptTo(box("x@far.example"))) == r.RECIPIENT_OK
    refused = ready(auth=AuthOffer.CLEAR)
    log_in(refused, None)
    assert play(refused, mail(), RcptTo(box("x@far.example"))) == r.RELAY_DENIED


@pytest.mark.parametrize("octets", [b"", b"alice", b"\0alice\0", b"\0\0secret", b"\xff\0a\0b"])
def test_what_the_mechanism_does_not_ask_for(octets: bytes) -> None:
    session = ready(auth=AuthOffer.CLEAR)
    assert session.handle(offered(initial=octets)) == r.AUTH_MALFORMED
    assert play(session, offered(initial=None), AuthResponse(octets)) == r.AUTH_MALFORMED


def test_a_client_may_cancel() -> None:
    session = ready(auth=AuthOffer.CLEAR)
    assert session.handle(offered(initial=None)) == r.AUTH_CONTINUE
    assert session.handle(AuthResponse(None)) == r.AUTH_CANCELLED
    assert log_in(session) == r.AUTHENTICATED


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAINX", "SCRAM-SHA-1"])
def test_mechanisms_that_are_not_offered(mechanism: str) -> None:
    assert ready(auth=AuthOffer.CLEAR).handle(offered(mechanism)) == r.AUTH_MECHANISM
    assert ready(auth=AuthOffer.TLS).handle(offered(mechanism)) == r.AUTH_MECHANISM


@pytest.mark.parametrize("initial", [GOOD, None])
@pytest.mark.parametrize(("peer", "reply"), [(CLIENT, r.AUTH_NEEDS_TLS), ("127.0.0.1", None), ("::1", None)])
def test_without_tls_only_this_machine_may(peer: str, reply: Reply | None, initial: bytes | None) -> None:
    """RFC 4954 §6: 538; the password that was sent is not even looked at."""
    answer = ready(peer).handle(offered(initial=initial))
    if reply is not None:
        assert answer == reply
    else:
        assert answer == r.AUTH_CONTINUE or isinstance(answer, Login)


def test_what_can_not_be_checked_now_is_no_wrong_password() -> None:
    session = ready(auth=AuthOffer.CLEAR, errors=1)
    for _ in range(3):
        session.handle(offered())
        assert session.answer(AccountsFault("busy")) == r.AUTH_FAULT
    assert session.user == ""


def test_nobody_authenticates_twice() -> None:
    """RFC 4954 §4."""
    session = known()
    assert session.handle(offered()) == r.AUTH_DONE
    assert session.user == "alice@example.test"


def test_a_second_try_is_allowed_and_the_wrong_password_leaves_nothing() -> None:
    session = ready(auth=AuthOffer.CLEAR)
    assert log_in(session, None) == r.AUTH_FAILED
    assert session.user == ""
    assert log_in(session, PEOPLE[1]) == r.AUTHENTICATED
    assert session.user == "bob@example.test"


@pytest.mark.parametrize("wrong", ["password", "cancelled", "malformed", "mechanism"])
def test_guessing_has_an_end(wrong: str) -> None:
    session = ready(auth=AuthOffer.CLEAR, errors=3)

    def guess() -> object:
        if wrong == "password":
            return log_in(session, None)
        if wrong == "mechanism":
            return session.handle(offered("DIGEST-MD5"))
        return play(session, offered(initial=None), AuthResponse(None if wrong == "cancelled" else b"?"))

    replies = [guess() for _ in range(4)]
    assert len(set(replies[:3])) == 1 and replies[0] is not r.TOO_MANY_ERRORS
    assert replies[3] == r.TOO_MANY_ERRORS


def test_the_user_is_who_the_port_says() -> None:
    """The name that was typed is forgotten."""
    session = ready(auth=AuthOffer.CLEAR)
    log_in(session, User(box("somebody@else.example")))
    assert session.user == "somebody@else.example"
