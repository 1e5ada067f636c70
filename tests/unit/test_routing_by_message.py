"""Routes by sender and header: which of them holds, what is kept of a message for it, and that it stays the same."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pillarbox.adapters.spool_options import mail_options_text, read_mail_options
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import NO_MAIL_OPTIONS, Envelope, MailOptions, MessageId, Recipient
from pillarbox.core.message import MAX_FIELD, Hop, pick_fields
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.intake import Intake
from pillarbox.engine.mail import Message, Row
from pillarbox.engine.patterns import HeaderPattern
from pillarbox.engine.ports import User
from pillarbox.engine.routing import AWAY, Discard, LmtpSocket, MaildirHop, Mx, Route, Router, SmartHost, TlsPolicy
from tests.making import box, make_message
from tests.queue_rig import OK, Rig, run

FAR = box("x@far.example")
HERE = box("alice@local.test")
DIRECTORY = Snapshot(
    domains=(Domain.parse("local.test"),),
    relay_domains=(Domain.parse("kept.test"), Domain.parse("relayed.test")),
    users=(User(HERE, owns=(Domain.parse("kept.test"),)),),
)


def with_fields(message: Message, **fields: str) -> Message:
    pairs = tuple((name.replace("_", "-"), value) for name, value in fields.items())
    options = replace(message.envelope.options, fields=pairs)
    message.envelope = message.envelope._replace(options=options)
    return message


def mail(sender: str | None = "news@shop.example", **fields: str) -> Message:
    message = make_message(MessageId(1), sender=sender)
    return with_fields(message, **fields) if fields else message


def lane(routes: list[Route], message: Message | None, to: Mailbox = FAR, row: Row | None = None) -> str:
    return Router(routes, DIRECTORY).route(to, message, row)[0]


# --- which route


@pytest.mark.parametrize(
    ("pattern", "sender", "holds"),
    [
        ("shop.example", "news@shop.example", True),
        ("SHOP.example", "news@Shop.Example", True),
        ("news@shop.example", "News@shop.example", True),
        ("other@shop.example", "news@shop.example", False),
        ("*.example", "news@shop.example", True),
        ("*.shop.example", "news@shop.example", False),
        ("*", "news@shop.example", True),
        ("*", None, False),
        ("", None, True),
        ("", "news@shop.example", False),
        ("shop.example", None, False),
    ],
)
def test_by_sender(pattern: str, sender: str | None, holds: bool) -> None:
    found = lane([Route(AWAY, Mx(), sender=pattern, pool="bulk")], mail(sender))
    assert found == ("mx:far.example;pool=bulk" if holds else "mx:far.example")


def test_behind_a_list_the_sender_is_its_owner() -> None:
    routes = [Route(AWAY, Mx(), sender="lists.test", traffic="lists")]
    row = Row(0, Recipient(FAR, box("list@lists.test"), box("owner@lists.test")))
    assert lane(routes, mail(), row=row) == "mx:far.example;class=lists"
    assert lane(routes, mail(None), row=row) == "mx:far.example"  # what must not be answered keeps its null path
    assert lane(routes, mail()) == "mx:far.example"


@pytest.mark.parametrize(
    ("pattern", "value", "holds"),
    [
        ("spring-*", "spring-2026", True),
        ("spring-*", "SPRING-", True),
        ("spring-*", "a spring-2026", False),
        ("*spring*", "a spring-2026", True),
        ("spring-????", "spring-2026", True),
        ("spring-???", "spring-2026", False),
        ("[a-z]", "b", False),
        ("[a-z]", "[a-z]", True),
        ("a.c", "abc", False),
        ("", "", True),
        ("", "something", False),
        ("*", "", True),
        ("grüß*", "GRÜßE", True),
        ("a*", "a\nb", True),
    ],
)
def test_by_header(pattern: str, value: str, holds: bool) -> None:
    routes = [Route(AWAY, Mx(), header=HeaderPattern("x-tag", pattern), pool="bulk")]
    assert (lane(routes, mail(x_tag=value)) == "mx:far.example;pool=bulk") is holds
    assert lane(routes, mail(x_other=value)) == lane(routes, mail()) == "mx:far.example"


def test_a_pattern_of_many_stars_costs_nothing() -> None:
    start = time.process_time()
    assert not HeaderPattern.parse(f"X: {'*a' * 100}").holds("a" * (MAX_FIELD - 1) + "b")
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("text", ["X-Tag", "X Tag: a", ": a", "X-Tag : a", "X-Täg: a", "X: a\nb", f"X: {'a' * 201}"])
def test_what_is_no_condition_on_a_header(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        HeaderPattern.parse(text)


ROUTES = [
    Route("vip.example", SmartHost("vip.test")),
    Route("far.example", Mx(), sender="shop.example", header=HeaderPattern("x-tag", "a*"), pool="both"),
    Route("far.example", Mx(), sender="shop.example", pool="sender"),
    Route(AWAY, Mx(), header=HeaderPattern("x-tag", "a*"), pool="header"),
    Route("far.example", SmartHost("relay.test")),
    Route("far.example", Mx(), sender="news@shop.example", pool="never"),
    Route("*", Discard(), sender=""),
    Route("local.test", Mx(), sender="move.example", traffic="moved"),
]


@pytest.mark.parametrize(
    ("message", "to", "expected"),
    [
        (mail(x_tag="abc"), "x@far.example", "mx:far.example;pool=both"),
        (mail(x_tag="b"), "x@far.example", "mx:far.example;pool=sender"),
        (mail("a@else.example", x_tag="abc"), "x@far.example", "mx:far.example;pool=header"),
        (mail("a@else.example"), "x@far.example", "smtp:relay.test:25"),
        (mail(x_tag="abc"), "x@third.example", "mx:third.example;pool=header"),
        (mail(x_tag="abc"), "x@vip.example", "smtp:vip.test:25"),
        (mail(x_tag="abc"), "alice@local.test", "maildir"),  # a route without `match` is for nobody's mailbox here
        (mail(x_tag="abc"), "x@kept.test", "turn:kept.test"),
        (mail(x_tag="abc"), "x@relayed.test", "mx:relayed.test;pool=header"),
        (mail(None), "alice@local.test", "discard"),
        (mail("a@move.example"), "alice@local.test", "mx:local.test;class=moved"),
        (mail(x_tag="abc"), "x@[192.0.2.1]", "mx:[192.0.2.1];pool=header"),
        (None, "x@far.example", "smtp:relay.test:25"),
    ],
)
def test_the_first_route_of_which_all_holds_wins(message: Message | None, to: str, expected: str) -> None:
    router = Router(ROUTES, DIRECTORY)
    for _ in range(2):  # known and not
        assert router.route(box(to), message)[0] == expected


def test_lanes_of_pools_and_classes() -> None:
    hops: list[tuple[Any, str]] = [
        (Mx(), "mx:far.example"),
        (SmartHost("relay.test"), "smtp:relay.test:25"),
        (LmtpSocket("/run/lmtp"), "lmtp:unix:/run/lmtp"),
    ]
    for hop, name in hops:
        assert lane([Route("*", hop, pool="p", traffic="c")], None) == f"{name};pool=p;class=c"
    everything = Route("*", Mx(), TlsPolicy.OFF, "f", pool="p", traffic="c")
    assert lane([everything], None) == "mx:far.example;tls=off;auth=f;pool=p;class=c"


def test_without_such_routes_nothing_is_asked_of_a_message() -> None:
    """The message would raise at every look at it."""
    router = Router([Route("far.example", Mx(), pool="p")], DIRECTORY)
    nothing: Any = object()
    assert router.route(FAR, nothing, nothing)[0] == "mx:far.example;pool=p"
    assert router.route(HERE, nothing, nothing) == ("maildir", Route("*", MaildirHop()))


def test_a_next_hop_that_an_operator_chose_is_reached_as_for_such_messages() -> None:
    relay = Route(AWAY, SmartHost("relay.test"), TlsPolicy.REQUIRED, "secret", sender="shop.example", pool="p")
    router = Router([relay, Route(AWAY, Mx(), sender="shop.example", pool="p")], DIRECTORY)
    hop = "smtp://relay.test"
    assert router.by_hand(hop, FAR, mail()) == ("smtp:relay.test:25;tls=required;auth=secret;pool=p", relay)
    assert router.by_hand(hop, FAR, mail(None))[0] == "smtp:relay.test:25;tls=required;auth=secret"
    assert router.by_hand("mx", FAR, mail())[0] == "mx:far.example;pool=p"
    assert router.by_hand("mx", FAR, mail(None))[0] == router.by_hand("mx", FAR)[0] == "mx:far.example"


def test_a_route_without_match_needs_a_condition() -> None:
    with pytest.raises(ValueError, match="neither"):
        Route(AWAY, Mx())
    with pytest.raises(ValueError, match="neither"):
        Route("*", Mx(), sender="not a domain")


# --- what is kept for it


def test_fields_are_picked_unfolded_and_bounded() -> None:
    header = b"X-Tag: a\r\n\tb \r\nSubject: no\r\nX-TAG: second\r\nX-Long: " + b"y" * 2000 + b"\r\nX-Odd: \xff\r\n"
    found = dict(pick_fields(header, frozenset(("x-tag", "x-long", "x-odd", "x-none"))))
    assert found == {"x-tag": "a b", "x-long": "y" * MAX_FIELD, "x-odd": "\ufffd"}


@pytest.mark.parametrize("asked", [frozenset[str](), frozenset(("x-tag",))])
@pytest.mark.parametrize("large", [False, True])
def test_a_message_keeps_what_routes_ask_for(asked: frozenset[str], large: bool) -> None:
    intake = Intake(MessageId(1), b"Received: x\r\n", 10_000_000, asked=asked)
    spilled = intake.add(b"X-Tag: spring\r\nSubject: s\r\n\r\n" + b"z\r\n" * (100_000 if large else 1))
    assert (spilled is not None) is large
    rest = intake.finish(b"end\r\n", bare=False)
    envelope = Envelope(None, (Recipient(FAR, FAR),))
    hop = Hop("h", "", "us", "SMTP")
    options = intake.message(rest, envelope, hop=hop, listener="mx", received_at=0.0).envelope.options
    assert options.fields == ((("x-tag", "spring"),) if asked else ())
    assert asked or options is NO_MAIL_OPTIONS


def test_the_spool_gives_back_what_it_was_given() -> None:
    options = MailOptions(smtputf8=True, fields=(("x-tag", 'grün "a"\\'), ("x-other", "")))
    assert read_mail_options(mail_options_text(options)) == options
    assert read_mail_options('{"smtputf8": true}').fields == ()


def test_a_retry_goes_where_the_first_attempt_went(tmp_path: Path) -> None:
    """In the queue the text may be on the disk alone."""
    routes = (Route(AWAY, Mx(), header=HeaderPattern("x-tag", "a"), pool="p"),)

    async def main() -> None:
        rig = Rig(routes=routes)
        message = with_fields(rig.message("x@far.example", "y@far.example"), x_tag="a")
        rig.queue.accept(message, rig.answers.append)
        await rig.pass_time(1)
        first = rig.mailer("mx:far.example;pool=p")
        assert [len(job.rows) for job in first.jobs] == [2]
        await rig.queue.close(0)
        again = Rig(routes=routes, spool=rig.spool, clock=rig.clock, answer=lambda job, row: OK)
        rig.spool.restarted()
        again.queue.start()
        await again.pass_time(1)
        assert [len(job.rows) for job in again.mailer("mx:far.example;pool=p").jobs] == [2]

    run(main())
