"""TURN, ATRN and ETRN: for whom, for which domains, and when the roles change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain
from pillarbox.core.reply import Reply
from pillarbox.engine.ports import SpoolBroken, SpoolError, User
from pillarbox.engine.questions import AskWaiting, Release
from pillarbox.engine.service import COMMANDS, Access
from pillarbox.engine.session import Session
from pillarbox.smtp.events import Atrn, Etrn, ServerEvent, Turn
from pillarbox.smtp.states import Verb
from tests.making import box
from tests.unit.test_session import PEOPLE, TRUSTED, known, ready

A, B, C = (Domain(name) for name in ("a.example", "b.example", "c.example"))
BELOW, DEEPER, BESIDE = (Domain(name) for name in ("x.a.example", "y.x.a.example", "xa.example"))
ON = {**COMMANDS, Verb.TURN: Access.AUTH, Verb.ATRN: Access.AUTH, Verb.ETRN: Access.AUTH}


def owner(*domains: Domain) -> Session:
    return known(User(box("owner@example.test"), owns=domains), commands=ON)


def etrn(domain: Domain | None, *, below: bool = False) -> Etrn:
    return Etrn(domain, below)


EVENTS: list[ServerEvent] = [Turn(), Atrn(()), Atrn((A,)), etrn(A), etrn(None)]


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize(
    "session",
    [lambda: ready(commands=ON), lambda: ready(TRUSTED, commands=ON), lambda: ready(odmr=True)],
    ids=["stranger", "trusted", "odmr"],
)
def test_who_has_not_authenticated(session: Callable[[], Session], event: ServerEvent) -> None:
    made = session()
    assert made.handle(event) == r.AUTH_NEEDED
    assert made.swap == ()


@pytest.mark.parametrize(
    ("event", "reply"),
    [
        (Turn(), r.TURN_NOTHING_OWNED),
        (Atrn(()), r.ATRN_NOT_OWNED),
        (Atrn((A,)), r.ATRN_NOT_OWNED),
        (etrn(A), r.ETRN_NOT_ALLOWED),
        (etrn(A, below=True), r.ETRN_NOT_ALLOWED),
        (etrn(None), r.ETRN_NOT_ALLOWED),
    ],
    ids=str,
)
def test_who_owns_nothing(event: ServerEvent, reply: Reply) -> None:
    session = known(PEOPLE[1], commands=ON)
    assert session.handle(event) == reply
    assert session.swap == ()


@pytest.mark.parametrize(
    ("event", "domains"),
    [(Turn(), (A, B)), (Atrn(()), (A, B)), (Atrn((B,)), (B,)), (Atrn((B, A)), (B, A))],
    ids=str,
)
def test_whose_mail_is_asked_for(event: ServerEvent, domains: tuple[Domain, ...]) -> None:
    session = owner(A, B)
    assert session.handle(event) == AskWaiting(domains)
    assert session.swap == ()  # not before there is something to send
    assert session.answer(1) == r.TURN_OK
    assert session.swap == domains


@pytest.mark.parametrize("event", [Atrn((C,)), Atrn((A, C)), Atrn((BELOW,))], ids=str)
def test_a_domain_of_somebody_else(event: ServerEvent) -> None:
    """RFC 2645 §5.2.1: all or nothing."""
    assert owner(A, B).handle(event) == r.ATRN_NOT_OWNED


@pytest.mark.parametrize(
    ("event", "found", "reply"),
    [
        (Turn(), 0, r.TURN_NOTHING_QUEUED),
        (Atrn(()), 0, r.ATRN_NO_MAIL),
        (Turn(), SpoolBroken("no disk"), r.TURN_FAULT),
        (Atrn((A,)), SpoolBroken("no disk"), r.TURN_FAULT),
    ],
)
def test_without_mail_the_roles_stay(event: ServerEvent, found: int | SpoolError, reply: Reply) -> None:
    session = owner(A)
    session.handle(event)
    assert session.answer(found) == reply
    assert session.swap == ()
    session.handle(event)  # later there may be some
    assert session.answer(3) == r.TURN_OK


@pytest.mark.parametrize(
    ("event", "domains"),
    [
        (etrn(A), (A,)),
        (etrn(A, below=True), (A, BELOW, DEEPER)),
        (etrn(BELOW, below=True), (BELOW, DEEPER)),
        (etrn(DEEPER), (DEEPER,)),
        (etrn(Domain("example"), below=True), (A, B, BELOW, DEEPER, BESIDE)),
    ],
    ids=str,
)
def test_which_domains_a_delivery_is_started_for(event: Etrn, domains: tuple[Domain, ...]) -> None:
    """RFC 1985 §5.2: `@` takes in all below, and no name that only ends alike."""
    assert owner(A, B, BELOW, DEEPER, BESIDE).handle(event) == Release(domains)


@pytest.mark.parametrize("event", [etrn(C), etrn(BELOW), etrn(Domain("example")), etrn(None)], ids=str)
def test_what_a_delivery_is_not_started_for(event: Etrn) -> None:
    assert owner(A, B).handle(event) == r.ETRN_NOT_ALLOWED


@pytest.mark.parametrize(
    ("found", "reply"),
    [
        (0, r.ETRN_NOTHING_QUEUED),
        (1, r.etrn_started(1)),
        (77, r.etrn_started(77)),
        (None, r.ETRN_NO_HOST),
        (SpoolBroken("no disk"), r.ETRN_FAULT),
    ],
)
def test_what_a_started_delivery_comes_to(found: int | SpoolError | None, reply: Reply) -> None:
    session = owner(A)
    session.handle(etrn(A))
    assert session.answer(found) == reply
    assert session.swap == () and session.between_transactions
