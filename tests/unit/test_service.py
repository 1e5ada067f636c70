"""Service and Client: what is offered to whom, and where patience ends."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.engine.ports import User
from pillarbox.engine.service import COMMANDS, Access, AuthOffer, Client, Service
from pillarbox.smtp.states import Verb
from tests.making import box, make_service

STRANGER = "192.0.2.7"
TRUSTED = "198.51.100.7"
LOOPBACK = "127.0.0.1"
NETWORKS = (ip_network("198.51.100.0/24"), ip_network("2001:db8::/32"))
ALICE = User(box("alice@example.test"), "Alice Liddell")
ON_DEMAND = (Verb.TURN, Verb.ATRN, Verb.ETRN)


def client(peer: str = STRANGER, *, user: User | None = None, **changes: Any) -> Client:
    made = Client(make_service(relay_networks=NETWORKS, **changes), peer, str)
    made.user = user
    return made


def everything(access: Access) -> Mapping[Verb, Access]:
    return dict.fromkeys(COMMANDS, access)


# --- what is offered


def keywords(service: Service, peer: str = STRANGER) -> set[str]:
    reply = service.ehlo(Client(service, peer, str))
    assert (reply.code, reply.enhanced, reply.lines[0]) == (250, None, "mx.example.test")
    return set(reply.lines[1:])


AUTH = "AUTH SCRAM-SHA-256 PLAIN LOGIN"
LATER = ("SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "DELIVERBY", "MT-PRIORITY", "RRVS")
LIMITS = "LIMITS RCPTMAX=1000 MAILMAX=10000"
USUAL = {LIMITS, "PIPELINING", "SIZE 12345", "8BITMIME", *LATER, "ENHANCEDSTATUSCODES", "EXPN", "HELP"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, USUAL),
        ({"commands": everything(Access.OFF)}, USUAL - {"EXPN", "HELP"}),
        (
            {"commands": everything(Access.AUTH)},  # to everybody, since it is not known yet who will authenticate
            USUAL | {"SEND", "SOML", "SAML", "TURN", "ATRN", "ETRN"},
        ),
        ({"odmr": True}, {"ENHANCEDSTATUSCODES", "ATRN"}),  # RFC 2645 §5
        ({"auth": AuthOffer.CLEAR}, USUAL | {AUTH}),
        ({"auth": AuthOffer.OFF}, USUAL),
    ],
)
def test_what_ehlo_tells(changes: dict[str, Any], told: set[str]) -> None:
    assert keywords(make_service(message_size=12345, **changes)) == told


@pytest.mark.parametrize("changes", [{}, {"odmr": True}, {"commands": everything(Access.ON)}, {"auth": AuthOffer.OFF}])
def test_nothing_is_told_that_is_not_offered(changes: dict[str, Any]) -> None:
    """RFC 5321 §4.1.1.1."""
    service = make_service(**changes)
    words = {line.split()[0] for line in keywords(service, LOOPBACK)}
    assert all(service.offer.has(verb) for verb in Verb if verb.value in words)


@pytest.mark.parametrize(
    ("auth", "peer", "offered"),
    [
        (AuthOffer.OFF, LOOPBACK, False),
        (AuthOffer.TLS, LOOPBACK, True),
        (AuthOffer.TLS, "127.9.9.9", True),
        (AuthOffer.TLS, "::1", True),
        (AuthOffer.TLS, STRANGER, False),
        (AuthOffer.TLS, "", True),  # a Unix socket is on this machine
        (AuthOffer.CLEAR, STRANGER, True),
        (AuthOffer.CLEAR, "", True),
    ],
)
def test_where_auth_is_offered(auth: AuthOffer, peer: str, offered: bool) -> None:
    made = Client(make_service(auth=auth), peer, str)
    assert made.may_authenticate is offered
    assert (AUTH in keywords(make_service(auth=auth), peer)) is offered


@pytest.mark.parametrize("auth", AuthOffer)
def test_a_listener_without_auth_does_not_know_the_command(auth: AuthOffer) -> None:
    assert make_service(auth=auth).offer.has(Verb.AUTH) is (auth is not AuthOffer.OFF)


@pytest.mark.parametrize("verb", COMMANDS, ids=str)
def test_a_command_that_is_off_is_withheld(verb: Verb) -> None:
    service = make_service(commands={**everything(Access.AUTH), verb: Access.OFF})
    assert not service.offer.has(verb)
    assert all(service.offer.has(other) for other in COMMANDS if other is not verb)


def test_on_demand_relay_offers_nothing_else() -> None:
    """RFC 2645 §5, whatever else the configuration says of commands."""
    service = make_service(odmr=True, commands=everything(Access.ON))
    offered = {verb for verb in Verb if service.offer.has(verb)}
    assert offered == {Verb.EHLO, Verb.HELO, Verb.AUTH, Verb.ATRN, Verb.NOOP, Verb.RSET, Verb.QUIT}
    assert service.access(Verb.ATRN) is Access.AUTH


@pytest.mark.parametrize(
    ("accepts", "greeting"),
    [(True, r.greeting("mx.example.test")), (False, r.no_mail_greeting("mx.example.test"))],
)
def test_the_greeting(accepts: bool, greeting: r.Reply) -> None:
    assert make_service(accepts_mail=accepts).greeting == greeting


# --- who may


@pytest.mark.parametrize(
    ("access", "stranger", "trusted", "known"),
    [
        (Access.OFF, False, False, False),
        (Access.AUTH, False, False, True),
        (Access.TRUSTED, False, True, True),
        (Access.ON, True, True, True),
    ],
)
@pytest.mark.parametrize("verb", COMMANDS, ids=str)
def test_who_may_use_a_command(verb: Verb, access: Access, stranger: bool, trusted: bool, known: bool) -> None:
    commands = {**everything(Access.OFF), verb: access}
    found = [client(peer, commands=commands).may(verb) for peer in (STRANGER, TRUSTED, "2001:db8::7")]
    assert found == [stranger, trusted, trusted]
    assert client(user=ALICE, commands=commands).may(verb) is known


@pytest.mark.parametrize(
    ("peer", "user", "may"),
    [
        (STRANGER, None, False),
        (STRANGER, ALICE, True),
        (TRUSTED, None, True),
        ("198.51.99.255", None, False),
        ("2001:db8::7%eth0", None, True),
        ("2001:db9::7", None, False),
    ],
)
def test_who_may_relay(peer: str, user: User | None, may: bool) -> None:
    assert client(peer, user=user).may_relay is may


def test_limits_are_kept_by_who_it_is() -> None:
    assert client().name == STRANGER
    assert client(user=ALICE).name == "alice@example.test"


# --- patience


def test_errors_are_borne_so_often() -> None:
    made = client(errors=2)
    assert [made.erred(r.UNRECOGNISED) for _ in range(4)] == [r.UNRECOGNISED] * 2 + [r.TOO_MANY_ERRORS] * 2


def test_probes_are_borne_so_often_known_or_unknown() -> None:
    made = client(probes=3)
    assert [made.probed(reply) for reply in (r.CANNOT_VERIFY, r.NO_SUCH_USER, r.RESET_OK, r.CANNOT_EXPAND)] == [
        r.CANNOT_VERIFY,
        r.NO_SUCH_USER,
        r.RESET_OK,
        r.TOO_MANY_PROBES,
    ]


def test_several_probes_at_once() -> None:
    made = client(probes=3)
    assert made.probed(r.RESET_OK, 3) == r.RESET_OK
    assert made.probed(r.RESET_OK, 0) == r.RESET_OK
    assert made.probed(r.RESET_OK, 1) == r.TOO_MANY_PROBES
    assert client(probes=3).probed(r.RESET_OK, 4) == r.TOO_MANY_PROBES


@pytest.mark.parametrize(("peer", "user"), [(TRUSTED, None), (STRANGER, ALICE)])
def test_who_may_relay_may_ask_on(peer: str, user: User | None) -> None:
    made = client(peer, user=user, probes=1)
    assert {made.probed(r.NO_SUCH_USER) for _ in range(50)} == {r.NO_SUCH_USER}
