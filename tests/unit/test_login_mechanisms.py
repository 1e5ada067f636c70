"""AUTH by every mechanism, as a session: what is offered when, what is asked, and where failures end."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain
from pillarbox.core.reply import Reply
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.limits import Rate
from pillarbox.engine.ports import AccountsFault, ScramAccount, User
from pillarbox.engine.questions import AskKeys, AskToken, Login
from pillarbox.engine.service import AuthOffer
from pillarbox.engine.session import Session
from pillarbox.sim.clock import VirtualClock
from pillarbox.smtp.events import Authenticate, AuthResponse, Hello
from pillarbox.smtp.sasl import BearerToken, Credentials, plain
from pillarbox.smtp.scram import ScramClient
from tests.making import FixedChannel, Porter, box, make_service
from tests.unit.test_bearer import TOKEN, XOAUTH2
from tests.unit.test_scram import salted

STRANGER = "192.0.2.7"
ALICE = User(box("alice@example.test"), password="$argon2id$x")
GONE = User(box("gone@example.test"), enabled=False)
KEYS = Porter({("alice", "secret"): ALICE}).scram("alice").keys
DIRECTORY = Snapshot(domains=(Domain("example.test"),), users=(replace(ALICE, scram=KEYS), GONE))
USER = DIRECTORY.users[0]
BOUND = FixedChannel({"tls-exporter": b"exported"})


def session(peer: str = STRANGER, *, channel: FixedChannel | None = None, **changes: Any) -> Session:
    """Greeted, under TLS."""
    made = Session(make_service(**{"directory": DIRECTORY, "clock": VirtualClock(), **changes}), peer)
    made.secured(channel)
    made.handle(Hello("client.example", extended=True))
    return made


def offers(of: Session) -> list[str]:
    reply = of.handle(Hello("client.example", extended=True))
    assert isinstance(reply, Reply)
    (line,) = [line for line in reply.lines if line.startswith("AUTH ")]
    return line.split()[1:]


def challenge(answer: object) -> bytes:
    assert isinstance(answer, Reply) and answer.code == 334
    return b64decode(answer.lines[0])


# --- what is offered


@pytest.mark.parametrize(
    ("channel", "changes", "offered"),
    [
        (None, {}, ["SCRAM-SHA-256", "PLAIN", "LOGIN"]),
        (BOUND, {}, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"]),
        (FixedChannel({"tls-server-end-point": b"x"}), {}, ["SCRAM-SHA-256", "PLAIN", "LOGIN"]),
        (FixedChannel({}, "alice@example.test"), {}, ["SCRAM-SHA-256", "PLAIN", "LOGIN", "EXTERNAL"]),
        (FixedChannel({}, "gone@example.test"), {}, ["SCRAM-SHA-256", "PLAIN", "LOGIN"]),
        (FixedChannel({}, "alice@far.example"), {}, ["SCRAM-SHA-256", "PLAIN", "LOGIN"]),
        (None, {"discovery": "x"}, ["SCRAM-SHA-256", "PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"]),
        (None, {"directory": Snapshot(domains=(Domain("example.test"),), users=(ALICE,))}, ["PLAIN", "LOGIN"]),
    ],
    ids=["usual", "bound", "end point", "certificate", "disabled", "somebody else's", "tokens", "no keys"],
)
def test_what_is_offered_is_what_is_taken(
    channel: FixedChannel | None, changes: dict[str, Any], offered: list[str]
) -> None:
    here = session(channel=channel, **changes)
    assert offers(here) == offered
    known = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2", "EXTERNAL")
    for mechanism in known:
        answer = here.handle(Authenticate(mechanism, None))
        assert (answer == r.AUTH_MECHANISM) == (mechanism not in offered), mechanism


def test_nothing_is_offered_in_clear_to_strangers() -> None:
    here = Session(make_service(directory=DIRECTORY, discovery="x"), STRANGER)
    here.handle(Hello("client.example", extended=True))
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2", "EXTERNAL"):
        assert here.handle(Authenticate(mechanism, b"x")) == r.AUTH_NEEDS_TLS


def test_tls_forgets_a_login_and_its_channel() -> None:
    here = session(channel=BOUND)
    here.secured(None)
    assert "SCRAM-SHA-256-PLUS" not in offers(here)


# --- LOGIN


@pytest.mark.parametrize("initial", [None, b"", b"alice"])
def test_login(initial: bytes | None) -> None:
    here = session()
    answer = here.handle(Authenticate("LOGIN", initial))
    if not initial:
        assert challenge(answer) == b"Username:"
        answer = here.handle(AuthResponse(b"alice"))
    assert challenge(answer) == b"Password:"
    assert here.handle(AuthResponse(b"secret")) == Login(Credentials("alice", "secret"))
    assert here.answer(USER) == r.AUTHENTICATED


@pytest.mark.parametrize("response", [b"", b"\xff", b"a\0b", b"x" * 256])
def test_what_login_does_not_take(response: bytes) -> None:
    here = session()
    here.handle(Authenticate("LOGIN", None))
    assert here.handle(AuthResponse(response)) == r.AUTH_MALFORMED
    here.handle(Authenticate("LOGIN", b"alice"))
    assert here.handle(AuthResponse(response)) == r.AUTH_MALFORMED


# --- acting as somebody


@pytest.mark.parametrize(
    ("acting_as", "reply"),
    [
        ("", r.AUTHENTICATED),
        ("alice", r.AUTHENTICATED),
        ("ALICE@example.test", r.AUTHENTICATED),
        ("gone", r.AUTH_FAILED),
        ("nobody", r.AUTH_FAILED),
    ],
)
def test_everybody_acts_as_oneself_only(acting_as: str, reply: Reply) -> None:
    here = session()
    here.handle(Authenticate("PLAIN", acting_as.encode() + plain(Credentials("alice", "secret"))))
    assert here.answer(USER) == reply


# --- SCRAM


def prove(here: Session, account: ScramAccount, password: str = "secret", name: str = "alice") -> object:
    """The answer to our proof."""
    them = ScramClient(Credentials(name, password), nonce="chance", binding=None, plus=False)
    assert here.handle(Authenticate("SCRAM-SHA-256", them.initial)) == AskKeys(name)
    proof = them.derived(salted(them.respond(challenge(here.answer(account)))))
    answer = here.handle(AuthResponse(proof))
    if isinstance(answer, Reply) and answer.code == 334:
        assert them.respond(challenge(answer)) == b"" and them.satisfied
    return answer


def test_scram_takes_three_rounds() -> None:
    here = session()
    challenge(prove(here, ScramAccount(KEYS, "served", USER)))
    assert here.user == ""
    assert here.handle(AuthResponse(b"")) == r.AUTHENTICATED
    assert here.user == "alice@example.test"


def test_scram_without_an_initial_response() -> None:
    here = session()
    assert here.handle(Authenticate("SCRAM-SHA-256", None)) == r.AUTH_CONTINUE
    assert here.handle(AuthResponse(b"n,,n=alice,r=abc")) == AskKeys("alice")


def test_scram_of_who_may_not_log_in() -> None:
    """The same for a wrong password, and for the right one of somebody who is disabled."""
    assert prove(session(), ScramAccount(KEYS, "served", USER), "wrong") == r.AUTH_FAILED
    assert prove(session(), ScramAccount(KEYS, "served", None)) == r.AUTH_FAILED


def test_a_downgrade_is_refused() -> None:
    here = session(channel=BOUND)
    assert here.handle(Authenticate("SCRAM-SHA-256", b"y,,n=alice,r=abc")) == r.AUTH_FAILED
    assert session().handle(Authenticate("SCRAM-SHA-256", b"y,,n=alice,r=abc")) == AskKeys("alice")


@pytest.mark.parametrize("at", [1, 2, 3])
def test_scram_may_be_cancelled_at_any_moment(at: int) -> None:
    here = session()
    if at == 1:
        here.handle(Authenticate("SCRAM-SHA-256", None))
    elif at == 2:
        here.handle(Authenticate("SCRAM-SHA-256", b"n,,n=alice,r=abc"))
        here.answer(ScramAccount(KEYS, "served", USER))
    else:
        prove(here, ScramAccount(KEYS, "served", USER))
    assert here.handle(AuthResponse(None)) == r.AUTH_CANCELLED
    assert here.user == ""


# --- EXTERNAL


@pytest.mark.parametrize(
    ("acting_as", "reply"),
    [(b"", r.AUTHENTICATED), (b"alice", r.AUTHENTICATED), (b"gone", r.AUTH_FAILED), (b"\0", r.AUTH_MALFORMED)],
)
def test_external(acting_as: bytes, reply: Reply) -> None:
    here = session(channel=FixedChannel({}, "Alice@example.test"))
    assert here.handle(Authenticate("EXTERNAL", acting_as)) == reply
    assert (here.user == "alice@example.test") == (reply is r.AUTHENTICATED)


# --- tokens


def told(here: Session, subject: object, mechanism: str = "XOAUTH2", initial: bytes = XOAUTH2) -> object:
    answer = here.handle(Authenticate(mechanism, initial))
    assert isinstance(answer, AskToken) and answer.bearer.token == TOKEN
    return here.answer(subject)


def test_a_token_lets_in_whom_it_is_for() -> None:
    octets = XOAUTH2.replace(b"user@example.com", b"alice@example.test")
    here = session(discovery="x")
    assert told(here, "alice@example.test", initial=octets) == r.AUTHENTICATED
    assert here.user == "alice@example.test"


@pytest.mark.parametrize("subject", [None, "alice@example.test", "gone@example.test", "user@example.com", "nobody"])
def test_a_token_of_nobody_here_is_as_a_wrong_one(subject: str | None) -> None:
    """Whoever it is for, it must be the user who is named; XOAUTH2 of user@example.com."""
    here = session(discovery="https://id.example/x")
    assert challenge(told(here, subject)).startswith(b'{"status":"invalid_token"')
    assert here.handle(AuthResponse(b"\x01")) == r.AUTH_FAILED
    assert here.user == ""


def test_a_client_that_only_asks_where_it_gets_a_token() -> None:
    here = session(discovery="https://id.example/x")
    answer = here.handle(Authenticate("OAUTHBEARER", b"n,,\x01auth=\x01\x01"))
    assert b'"openid-configuration":"https://id.example/x"' in challenge(answer)


def test_a_token_that_can_not_be_checked_now() -> None:
    here = session(discovery="x")
    assert told(here, AccountsFault("no answer")) == r.AUTH_FAULT


def test_a_token_in_the_question_is_not_shown() -> None:
    assert TOKEN not in repr(AskToken(BearerToken(TOKEN)))


# --- failures have an end


def fail(here: Session, name: str = "alice", password: str = "wrong") -> object:
    answer = here.handle(Authenticate("PLAIN", plain(Credentials(name, password))))
    return here.answer(None) if isinstance(answer, Login) else answer


def test_one_session_may_fail_so_often() -> None:
    here = session(auth_failures=3)
    assert [fail(here) for _ in range(4)] == [r.AUTH_FAILED] * 3 + [r.TOO_MANY_FAILED_LOGINS]


def test_one_address_may_fail_so_often_and_then_no_password_is_looked_at() -> None:
    clock, rate = VirtualClock(), Rate(3)
    shared: dict[str, Any] = {"auth_rate": rate, "clock": clock}
    assert [fail(session(**shared), f"name{n}") for n in range(3)] == [r.AUTH_FAILED] * 3
    for name in ("alice", "nobody"):
        question = session(**shared).handle(Authenticate("PLAIN", plain(Credentials(name, "secret"))))
        assert question == r.AUTH_THROTTLED
    assert session(**shared).handle(Authenticate("SCRAM-SHA-256", b"n,,n=alice,r=abc")) == r.AUTH_THROTTLED
    assert fail(session("192.0.2.8", **shared)) == r.AUTH_FAILED, "another address"
    clock.advance(20)
    assert fail(session(**shared), "name9") == r.AUTH_FAILED, "a minute has three"


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_one_name_may_fail_so_often_from_wherever(name: str) -> None:
    """The same for a user and for a name that nobody has."""
    shared: dict[str, Any] = {"auth_rate": Rate(3), "clock": VirtualClock()}
    assert [fail(session(f"192.0.2.{n}", **shared), name.upper()) for n in range(3)] == [r.AUTH_FAILED] * 3
    assert fail(session("192.0.2.99", **shared), name) == r.AUTH_THROTTLED
    assert fail(session("192.0.2.99", **shared), "bob") == r.AUTH_FAILED


def test_an_address_of_ipv6_is_a_whole_network() -> None:
    shared: dict[str, Any] = {"auth_rate": Rate(2), "clock": VirtualClock()}
    for last in range(2):
        fail(session(f"2001:db8::{last}", **shared), f"name{last}")
    assert fail(session("2001:db8::ffff", **shared), "alice") == r.AUTH_THROTTLED
    assert fail(session("2001:db8:0:1::1", **shared), "alice") == r.AUTH_FAILED


def test_who_is_trusted_is_limited_by_name_only() -> None:
    shared: dict[str, Any] = {
        "auth_rate": Rate(1),
        "clock": VirtualClock(),
        "relay_networks": (ip_network("192.0.2.0/24"),),
        "auth": AuthOffer.CLEAR,
    }
    assert fail(session(**shared), "alice") == r.AUTH_FAILED
    assert fail(session(**shared), "bob") == r.AUTH_FAILED
    assert fail(session(**shared), "bob") == r.AUTH_THROTTLED


def test_logins_that_succeed_are_not_counted() -> None:
    shared: dict[str, Any] = {"auth_rate": Rate(1), "clock": VirtualClock()}
    for _ in range(5):
        here = session(**shared)
        here.handle(Authenticate("PLAIN", plain(Credentials("alice", "secret"))))
        assert here.answer(USER) == r.AUTHENTICATED


def test_a_failure_counts_though_its_end_is_not_awaited() -> None:
    """A refused token is known to be refused by the challenge: who cancels then has guessed, too."""
    shared: dict[str, Any] = {"auth_rate": Rate(1), "clock": VirtualClock(), "discovery": "x"}
    here = session(**shared)
    told(here, None)
    assert here.handle(AuthResponse(None)) == r.AUTH_CANCELLED
    assert session(**shared).handle(Authenticate("XOAUTH2", XOAUTH2)) == r.AUTH_THROTTLED


def test_guesses_at_the_same_time_are_paid_for() -> None:
    """Many may be under way when the first fails; the debt of all is waited for."""
    clock = VirtualClock()
    shared: dict[str, Any] = {"auth_rate": Rate(2), "clock": clock}
    many = [session(**shared) for _ in range(10)]
    for number, here in enumerate(many):
        assert isinstance(here.handle(Authenticate("PLAIN", plain(Credentials(f"n{number}", "x")))), Login)
    assert [here.answer(None) for here in many] == [r.AUTH_FAILED] * 10
    clock.advance(4 * 60)
    assert fail(session(**shared), "last") == r.AUTH_THROTTLED
    clock.advance(60)
    assert fail(session(**shared), "last") == r.AUTH_FAILED
