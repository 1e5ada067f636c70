"""Answers: each question of a session put to its port, and what a port's fault becomes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pillarbox.adapters.instant import KEPT, InstantMailer
from pillarbox.core.address import Domain, Mailbox
from pillarbox.engine.answers import Answers
from pillarbox.engine.ids import IdSource
from pillarbox.engine.ports import AccountsFault, DnsFault, NoDomain, NoRecords, SpoolBroken, User
from pillarbox.engine.questions import (
    AskKeys,
    AskNullMx,
    AskSenderDomain,
    AskStatus,
    AskToken,
    AskUsage,
    AskWaiting,
    Login,
    Question,
    Release,
    SenderDomain,
    Show,
    Status,
)
from pillarbox.engine.queue import Lane
from pillarbox.engine.routing import Route, SmartHost
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedAddresses, ScriptedMx, ScriptedResolver
from pillarbox.sim.presence import ImaginedPresence
from pillarbox.smtp.sasl import BearerToken, Credentials
from tests.making import MemorySpool, Nobody, Porter, Scales, box, make_answers, make_message, make_queue, turns

ALICE, BOB, CAROL = map(box, ("alice@example.test", "bob@example.test", "carol@example.test"))
KEPT_DOMAIN, SENT = Domain("kept.example"), Domain("sent.example")


def ask(answers: Answers, question: Question) -> Any:
    return asyncio.run(answers.find(question))


# --- who somebody is


def test_login() -> None:
    porter = Porter({("alice", "secret"): User(ALICE)})
    answers = make_answers(accounts=porter)
    assert ask(answers, Login(Credentials("alice", "secret"))) == User(ALICE)
    assert ask(answers, Login(Credentials("alice", "Secret"))) is None
    assert porter.asked == [("alice", "secret"), ("alice", "Secret")]


def test_keys() -> None:
    porter = Porter({("alice", "secret"): User(ALICE)})
    answers = make_answers(accounts=porter)
    assert ask(answers, AskKeys("alice")) == porter.scram("alice")
    assert ask(answers, AskKeys("nobody")).user is None


class Clerk:
    """Meets the port Tokens: knows one, and one that can't be checked."""

    async def subject(self, token: str) -> str | None:
        if token == "later":
            raise AccountsFault("no answer")
        return "alice@example.test" if token == "good" else None


def test_tokens(caplog: pytest.LogCaptureFixture) -> None:
    answers = make_answers()
    assert ask(answers, AskToken(BearerToken("good"))) is None, "none are taken"
    answers.tokens = Clerk()
    assert ask(answers, AskToken(BearerToken("good"))) == "alice@example.test"
    assert ask(answers, AskToken(BearerToken("bad"))) is None
    assert isinstance(ask(answers, AskToken(BearerToken("later"))), AccountsFault)
    assert "no answer" in caplog.text


def test_a_login_that_can_not_be_checked_now(caplog: pytest.LogCaptureFixture) -> None:
    porter = Porter()
    porter.bug = AccountsFault("too many wait")
    assert ask(make_answers(accounts=porter), Login(Credentials("alice", "secret"))) is porter.bug
    assert "too many wait" in caplog.text


# --- the sender's domain (RFC 5321 §3.6.2, §5.1; RFC 7505)


@pytest.mark.parametrize(
    ("mx", "addresses", "found"),
    [
        ([(10, "mx.far.example")], NoDomain(), SenderDomain.GOOD),
        ([(10, "mx.far.example"), (20, "")], NoDomain(), SenderDomain.GOOD),
        ([(0, "")], ["192.0.2.1"], SenderDomain.NULL_MX),
        (NoDomain(), NoDomain(), SenderDomain.NONE),
        (DnsFault("SERVFAIL"), ["192.0.2.1"], SenderDomain.UNKNOWN),
        (NoRecords(), ["192.0.2.1"], SenderDomain.GOOD),  # the implicit MX
        (NoRecords(), ["2001:db8::1"], SenderDomain.GOOD),
        (NoRecords(), NoRecords(), SenderDomain.NONE),
        (NoRecords(), NoDomain(), SenderDomain.NONE),
        (NoRecords(), DnsFault("time-out"), SenderDomain.UNKNOWN),
        ([], ["192.0.2.1"], SenderDomain.GOOD),
        ([], [], SenderDomain.NONE),
    ],
)
def test_what_dns_says_of_a_sender(mx: ScriptedMx, addresses: ScriptedAddresses, found: SenderDomain) -> None:
    resolver = Telling(mx, addresses)
    assert ask(make_answers(resolver=resolver), AskSenderDomain(Domain("far.example"))) is found


@pytest.mark.parametrize(
    ("mx", "found"),
    [
        ([(0, "")], True),
        ([(0, ""), (10, "mx.far.example")], False),
        ([(10, "mx.far.example")], False),
        ([], False),
        (NoRecords(), False),
        (NoDomain(), False),
        (DnsFault("SERVFAIL"), False),
    ],
)
def test_only_a_null_mx_says_that_a_domain_takes_no_mail(mx: ScriptedMx, found: bool) -> None:
    resolver = Telling(mx, ["192.0.2.1"])
    assert ask(make_answers(resolver=resolver), AskNullMx(Domain("far.example"))) is found


class Telling(ScriptedResolver):
    """One that gives an empty answer as it is."""

    def __init__(self, mx: ScriptedMx, addresses: ScriptedAddresses) -> None:
        super().__init__(mx={"far.example": mx}, addresses={"far.example": addresses})

    async def mx(self, domain: Domain) -> Any:
        return self._mx[domain.ascii]

    async def addresses(self, host: str) -> Any:
        return self._addresses[host]


# --- mailboxes and terminals


def test_usage(caplog: pytest.LogCaptureFixture) -> None:
    answers = make_answers(mailboxes=Scales({ALICE: 700, BOB: None}))
    assert [ask(answers, AskUsage(user)) for user in (ALICE, CAROL, BOB)] == [700, 0, None]
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "mailbox of bob@example.test: bob@example.test: no disk",
    )


@pytest.mark.parametrize(
    ("users", "shown"),
    [
        ((ALICE,), {ALICE}),
        ((ALICE, CAROL), {ALICE, CAROL}),
        ((BOB,), set()),  # whose terminal takes nothing
        ((ALICE, BOB, box("nobody@example.test")), {ALICE}),
    ],
)
def test_show(users: tuple[Mailbox, ...], shown: set[Mailbox]) -> None:
    presence = ImaginedPresence([ALICE, CAROL], blocked=[BOB])
    assert ask(make_answers(presence=presence), Show(users, "Tea is served.")) == shown
    assert presence.shown == {user: ["Tea is served."] for user in users if user in shown}


def test_terminals_are_shown_it_at_the_same_time() -> None:
    """Two that are slow together take no longer than one."""

    class Slow(ImaginedPresence):
        def __init__(self) -> None:
            super().__init__([ALICE, BOB])
            self.under_way = 0
            self.most = 0

        async def show(self, user: Mailbox, text: str) -> int:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await turns(3)
            self.under_way -= 1
            return 2

    slow = Slow()
    assert ask(make_answers(presence=slow), Show((ALICE, BOB), "x")) == {ALICE, BOB}
    assert slow.most == 2


# --- the queue


class Town(Nobody):
    """Mail for one domain is kept, that for another has a host."""

    def keeps(self, domain: Domain) -> bool:
        return domain == KEPT_DOMAIN


async def office(clock: VirtualClock) -> tuple[Answers, MemorySpool]:
    """With three recipients that are kept, and one whose host is not there."""
    spool, ids = MemorySpool(), IdSource(clock)

    def open_lane(name: str, route: Route) -> Lane:
        return Lane(InstantMailer(KEPT, asyncio.get_running_loop()), 10)

    routes = (Route("sent.example", SmartHost("host")),)
    queue = make_queue(spool, clock, Town(), open_lane=open_lane, routes=routes)
    for recipients in (("a@kept.example", "b@kept.example"), ("c@kept.example", "d@sent.example")):
        queue.accept(make_message(ids.next(), *recipients, at=clock.now()), lambda error: None)
        await turns()
        clock.advance(10)
    return make_answers(spool=spool, queue=queue, clock=clock, connections=lambda: 7), spool


def test_what_waits_and_what_is_released() -> None:
    async def main() -> None:
        answers, spool = await office(VirtualClock())
        assert await answers.find(AskWaiting((KEPT_DOMAIN,))) == 3
        assert await answers.find(AskWaiting((KEPT_DOMAIN, SENT))) == 4
        assert await answers.find(AskWaiting((Domain("else.example"),))) == 0
        assert await answers.find(Release((SENT,))) == 1
        assert await answers.find(Release((KEPT_DOMAIN,))) is None
        await turns()
        spool.lease_fault = SpoolBroken("no disk")
        assert await answers.find(AskWaiting((SENT,))) is spool.lease_fault
        assert await answers.find(Release((SENT,))) is spool.lease_fault

    asyncio.run(main())


def test_status() -> None:
    async def main() -> None:
        clock = VirtualClock()
        answers, spool = await office(clock)
        clock.advance(100)
        clock.jump(1000)  # the wall clock alone
        assert await answers.find(AskStatus()) == Status(uptime=100.0, connections=7, queued=4, oldest=1120.0)
        spool.lease_fault = SpoolBroken("no disk")
        assert await answers.find(AskStatus()) is spool.lease_fault

    asyncio.run(main())


def test_the_status_of_an_empty_server() -> None:
    assert ask(make_answers(), AskStatus()) == Status(uptime=0.0, connections=0, queued=0, oldest=None)


def test_a_bug_of_a_port_is_not_hidden() -> None:
    porter = Porter()
    porter.bug = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        ask(make_answers(accounts=porter), Login(Credentials("a", "b")))
