"""The limits in front: who is counted by what, when one is too many, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.core import reply as r
from pillarbox.core.reply import Reply
from pillarbox.engine.hooks_limits import Limits, Tallies, limit_hooks, network_of
from pillarbox.engine.limits import Limit, Rate, Tally
from pillarbox.engine.ports import User
from pillarbox.engine.questions import Accept
from pillarbox.engine.service import AuthOffer, Service
from pillarbox.engine.session import Session
from pillarbox.sim.clock import VirtualClock
from pillarbox.smtp.events import RcptTo, Reset
from tests.making import NOW, box
from tests.unit.test_hooks import END, TO_DATA, told
from tests.unit.test_session import ALICE, BOB, PEOPLE, TRUSTED, hello, log_in, mail, play, service

A, SAME_NETWORK, ELSEWHERE = "192.0.2.7", "192.0.2.8", "203.0.113.9"
SIX, SIX_SAME, SIX_ELSEWHERE = "2001:db9:1::7", "2001:db9:1::8", "2001:db9:1:1::7"
TWO = Limit(2, 60)


class World:
    """Sessions that share their limits, on a clock that stands still."""

    def __init__(self, **limits: Any) -> None:
        self.clock = VirtualClock(NOW)
        self.tallies = Tallies()
        self.service = self.made(**limits)

    def made(self, **limits: Any) -> Service:
        hooks = limit_hooks(Limits(**limits), self.tallies, self.clock)
        return service(hooks=hooks, clock=self.clock, auth=AuthOffer.CLEAR)

    def session(self, peer: str = A, user: User | None = None) -> Session:
        session = Session(self.service, peer)
        play(session, hello())
        if user is not None:
            log_in(session, user)
        return session


def connects(world: World, peer: str) -> Reply | None:
    answer = Session(world.service, peer).connect()
    assert answer is None or isinstance(answer, Reply)
    return answer


def mails(world: World, peer: str = A, user: User | None = None, sender: str | None = "s@else.example") -> Reply:
    answer = play(world.session(peer, user), mail(None if sender is None else box(sender)))
    assert isinstance(answer, Reply)
    return answer


def names(world: World, peer: str = A, user: User | None = None) -> Reply:
    answer = play(world.session(peer, user), mail(), RcptTo(ALICE))
    assert isinstance(answer, Reply)
    return answer


ACTS: dict[str, tuple[Callable[[World, str], Reply | None], Reply | None, Reply]] = {
    "connection": (connects, None, r.CONNECT_TOO_OFTEN),
    "message": (mails, r.SENDER_OK, r.TOO_MANY_MESSAGES),
    "recipient": (names, r.RECIPIENT_OK, r.TOO_MANY_RECIPIENTS_NOW),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_rate_per_address(act: str) -> None:
    does, fine, refused = ACTS[act]
    world = World(**{f"{act}_rate_per_address": TWO})
    assert [does(world, A) for _ in range(3)] == [fine, fine, refused]
    assert does(world, SAME_NETWORK) == fine
    world.clock.advance(30)
    assert [does(world, A) for _ in range(2)] == [fine, refused]


@pytest.mark.parametrize("act", ["connection", "message"])
@pytest.mark.parametrize(
    ("first", "same", "other"), [(A, SAME_NETWORK, ELSEWHERE), (SIX, SIX_SAME, SIX_ELSEWHERE)], ids=["4", "6"]
)
def test_a_rate_per_network(act: str, first: str, same: str, other: str) -> None:
    does, fine, refused = ACTS[act]
    world = World(**{f"{act}_rate_per_network": TWO})
    assert [does(world, peer) for peer in (first, same, first, same, other)] == [fine, fine, refused, refused, fine]


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", TRUSTED, ""])
@pytest.mark.parametrize("act", ACTS)
def test_who_is_no_stranger_is_not_counted(act: str, peer: str) -> None:
    does, fine, _ = ACTS[act]
    limits = {f"{act}_rate_per_{what}": Limit(1, 60) for what in ("address", "network")}
    limits.pop("recipient_rate_per_network", None)
    world = World(**limits)
    assert [does(world, peer) for _ in range(3)] == [fine] * 3


@pytest.mark.parametrize(("act", "does"), [("message", mails), ("recipient", names)])
def test_a_rate_per_user_holds_wherever_the_user_is(act: str, does: Callable[..., Reply]) -> None:
    one = Limit(1, 3600)
    world = World(**{f"{act}_rate_per_user": one, f"{act}_rate_per_address": one})
    first, other = PEOPLE[0], PEOPLE[1]
    assert does(world, A, first).code == 250
    assert does(world, "127.0.0.1", first).code == does(world, TRUSTED, first).code == 451
    assert does(world, A, other).code == 250, "users are not counted by address"
    assert does(world, A).code == 250 and does(world, A).code == 451


def test_a_rate_per_sender() -> None:
    world = World(message_rate_per_sender=TWO)
    for peer, sender in ((A, "News@else.example"), (ELSEWHERE, "news@ELSE.example")):
        assert mails(world, peer, None, sender) == r.SENDER_OK
    assert mails(world, A, None, "news@else.example") == r.TOO_MANY_MESSAGES
    assert mails(world, A, None, "other@else.example") == r.SENDER_OK
    assert mails(world, TRUSTED, None, "news@else.example") == r.SENDER_OK
    assert mails(world, TRUSTED, PEOPLE[0], "news@else.example") == r.TOO_MANY_MESSAGES
    assert [mails(world, A, None, None) for _ in range(5)] == [r.SENDER_OK] * 5, "notices are from everybody"


def test_recipients_that_are_refused_do_not_count() -> None:
    session = World(recipient_rate_per_address=TWO).session()
    play(session, mail())
    answers = [play(session, RcptTo(who)) for who in (box("nobody@example.test"), ALICE, box("x@far.example"), BOB)]
    assert [answer.code for answer in answers if isinstance(answer, Reply)] == [550, 250, 550, 250]
    assert play(session, RcptTo(ALICE)) == r.TOO_MANY_RECIPIENTS_NOW


# --- connections at a time


@pytest.mark.parametrize(
    ("key", "second", "other"),
    [("connections_per_address", A, SAME_NETWORK), ("connections_per_network", SAME_NETWORK, ELSEWHERE)],
)
def test_connections_at_a_time(key: str, second: str, other: str) -> None:
    world = World(**{key: 2})
    sessions = [Session(world.service, peer) for peer in (A, second, A, other)]
    assert [each.connect() for each in sessions] == [None, None, r.CONNECT_TOO_MANY, None]
    sessions[2].closed()  # the refused one leaves no place
    assert connects(world, A) == r.CONNECT_TOO_MANY
    sessions[0].closed()
    sessions[0].closed()
    assert connects(world, A) is None and connects(world, A) == r.CONNECT_TOO_MANY


@pytest.mark.parametrize("peer", ["127.0.0.1", TRUSTED])
def test_connections_of_all_clients_count(peer: str) -> None:
    world = World(connections_per_address=1, connections_per_network=1)
    assert connects(world, peer) is None and connects(world, peer) == r.CONNECT_TOO_MANY


def test_clients_without_an_address_are_not_counted() -> None:
    world = World(connections_per_address=1, connections_per_network=1)
    assert [connects(world, "") for _ in range(3)] == [None] * 3


def test_connections_are_counted_on_across_a_reload() -> None:
    world = World(connections_per_address=2)
    old = Session(world.service, A)
    old.connect()
    world.service = world.made(connections_per_address=1)
    assert connects(world, A) == r.CONNECT_TOO_MANY
    old.closed()
    assert connects(world, A) is None
    assert world.tallies.addresses[A] == 1 and len(world.tallies.networks) == 0


# --- what is told, and what is not asked


def test_the_figures_stand_in_the_record() -> None:
    world = World(message_rate_per_address=Limit(30, 60), recipient_rate_per_address=Limit(30, 60))
    for _ in range(29):
        names(world)
    session = world.session()
    play(session, mail(), RcptTo(ALICE))
    assert play(session, RcptTo(BOB)) == play(session, RcptTo(BOB)) == r.TOO_MANY_RECIPIENTS_NOW
    accept = play(session, TO_DATA[-1], END)
    assert isinstance(accept, Accept)
    assert [each["reason"] for each in told(accept)] == [
        "31 of 30 recipients a minute from 192.0.2.7",
        "32 of 30 recipients a minute from 192.0.2.7",
    ]
    expected = {"hook": "recipient_rate_per_address", "stage": "rcpt", "verdict": "defer", "to": str(BOB)}
    assert {**expected, "count": 31, "limit": 30, "period": 60, "of": A}.items() <= told(accept)[0].items()
    session.answer(None)
    assert play(session, mail()) == r.TOO_MANY_MESSAGES
    assert play(session, Reset()) == r.RESET_OK


def test_no_limit_is_no_hook() -> None:
    assert limit_hooks(Limits(), Tallies(), VirtualClock(NOW)) == ()


def test_every_limit_has_its_hook() -> None:
    every = {each.name: 1 if each.name.startswith("connections") else TWO for each in fields(Limits)[:-2]}
    found = limit_hooks(Limits(**every), Tallies(), VirtualClock(NOW))  # type: ignore[arg-type]
    assert {hook.name for hook in found} == set(every)


@pytest.mark.parametrize(
    ("peer", "network"),
    [(A, "192.0.2.0/25"), ("192.0.2.200", "192.0.2.128/25"), (SIX, "2001:db9::/32"), ("::1", "::/32"), ("", "")],
)
def test_networks(peer: str, network: str) -> None:
    assert network_of(peer, 25, 32) == network


# --- what counts


@given(st.lists(st.sampled_from("ab"), max_size=40))
def test_a_tally_is_what_is_left(moves: list[str]) -> None:
    tally = Tally()
    for name in moves:
        tally.enter(name)
    for name in moves[::2]:
        tally.leave(name)
    left = moves[1::2]
    assert [tally[name] for name in "ab"] == [left.count("a"), left.count("b")] and len(tally) == len(set(left))


def test_an_excess_is_counted_until_there_is_room_again() -> None:
    rate = Rate(2, 10)
    assert [rate.excess("x", 0.0) for _ in range(5)] == [0, 0, 3, 4, 5]
    assert [rate.excess("x", 5.0) for _ in range(2)] == [0, 3]


@pytest.mark.parametrize(("limit", "text"), [(Limit(30, 60), "30 a minute"), (Limit(5, 3600), "5 an hour")])
def test_a_limit_as_text(limit: Limit, text: str) -> None:
    assert str(limit) == text
