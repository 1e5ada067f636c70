"""Reception: whose mail leaves with return addresses, who is told of the suppression list, and what the queue makes of
both; and what the configuration needs for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.adapters.directory_sqlite import DirectoryStore, LiveDirectory
from pillarbox.app.config_bounces import VerpMode
from pillarbox.app.config_load import ConfigError, parse
from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import NO_MAIL_OPTIONS, Envelope, MessageId
from pillarbox.core.verp import ReturnAddresses, return_address
from pillarbox.engine.ports import Accepted, NoSuchUser
from pillarbox.engine.routing import Bounces, Route, Router, SmartHost
from pillarbox.engine.session import Session
from pillarbox.engine.suppression import Suppression
from pillarbox.smtp.events import BodyEnd, DataCommand, RcptTo
from tests.making import NOW, Nobody, box
from tests.unit.test_session import ALICE, BOB, CAROL, TRUSTED, accept, known, mail, play, ready

RETURNS = ReturnAddresses(Domain.parse("returns.example.test"), b"secret", lambda: MessageId(0))
ID = MessageId.parse("d21rxf6sg000")
BACK = return_address(RETURNS.verp(ID), ID, 0)
FAR = box("gone@far.example")
TEXT = BodyEnd(b"Subject: Tea\r\n\r\nNow.\r\n", bare=False)


def _envelope(session: Session, sender: Mailbox | None, recipient: Mailbox = ALICE) -> Envelope:
    assert play(session, mail(sender), RcptTo(recipient), DataCommand()) == r.START_DATA
    return accept(session.handle(TEXT)).message.envelope


# --- whose mail has return addresses


def test_mail_of_our_clients_has_them() -> None:
    for session in (known(returns=RETURNS), ready(TRUSTED, returns=RETURNS)):
        verp = _envelope(session, BOB, FAR).options.verp
        assert verp is not None and verp.domain == "returns.example.test"


@pytest.mark.parametrize("sender", [None, BACK])
def test_what_must_not_come_back_has_none(sender: Mailbox | None) -> None:
    assert _envelope(ready(TRUSTED, returns=RETURNS), sender, FAR).options.verp is None


def test_mail_of_others_has_none() -> None:
    assert _envelope(ready(returns=RETURNS), CAROL).options is NO_MAIL_OPTIONS
    assert _envelope(ready(TRUSTED), BOB, FAR).options is NO_MAIL_OPTIONS


# --- who is told of the list


def _listed(address: Mailbox) -> Suppression | None:
    return Suppression(FAR, NOW, None, "hard", "550 5.1.1 \x1b[2J\r\nunknown", "", "bounce") if address == FAR else None


def test_our_clients_are_told() -> None:
    for session in (known(suppressed=_listed), ready(TRUSTED, suppressed=_listed)):
        reply = play(session, mail(), RcptTo(FAR))
        assert str(reply) == "550 5.7.1 Address suppressed since 2023-11-14: hard: 550 5.1.1 ?[2J??unknown"
        assert session.handle(RcptTo(box("other@far.example"))) == r.RECIPIENT_OK


def test_others_are_not() -> None:
    session = ready(suppressed=lambda address: pytest.fail("nobody asks for a stranger"))
    assert play(session, mail(CAROL), RcptTo(box("x@relayed.example"))) == r.RECIPIENT_OK
    assert session.handle(RcptTo(FAR)) == r.RELAY_DENIED


def test_an_address_here_is_never_suppressed() -> None:
    session = ready(TRUSTED, suppressed=lambda address: pytest.fail("it is here"))
    assert play(session, mail(), RcptTo(ALICE)) == r.RECIPIENT_OK


# --- where a return address leads


def test_the_directory_takes_those_that_were_made_here(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "directory.db")
    directory = LiveDirectory(store, None)
    forged = box(str(BACK).replace("-0-", "-1-"))
    assert not isinstance(directory.resolve(BACK), Accepted)
    directory.returns = RETURNS
    assert directory.resolve(BACK) == Accepted((BACK,))
    assert isinstance(directory.resolve(forged), NoSuchUser)
    assert not isinstance(directory.resolve(box("alice@returns.example.test")), Accepted)
    store.close()


def test_no_route_leads_it_elsewhere() -> None:
    routes = [Route("*", SmartHost("smart.example"))]
    assert Router(routes, Nobody(), returns=RETURNS).route(BACK) == ("bounces", Route("*", Bounces()))
    lane, _ = Router(routes, Nobody(), returns=RETURNS).route(box("alice@returns.example.test"))
    assert lane == "smtp:smart.example:25" == Router(routes, Nobody()).route(BACK)[0]


# --- the configuration


def test_the_keys() -> None:
    config = parse(
        '[bounces]\nverp = "on"\ndomain = "returns.example.test"\n[suppression]\nenabled = true\n', Path("x")
    )
    assert config.bounces.verp is VerpMode.ON and config.bounces.forward and config.suppression.keep == 90 * 86400
    assert parse("", Path("x")).suppression.enabled is False


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[bounces]\nverp = "on"\n', 'bounces: domain is missing, which verp = "on" needs'),
        ('[bounces]\nverp = "yes"\n', "bounces.verp"),
        ('[suppression]\nkeep = "long"\n', "suppression.keep"),
    ],
)
def test_what_is_wrong_with_them_is_told(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse(text, Path("x"))
