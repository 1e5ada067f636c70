"""Session: each reply it can give, the questions it puts, and what it does with their answers."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import BodyType, Mode, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import Reply
from pillarbox.engine.directory import Announced, MailingList, Snapshot
from pillarbox.engine.ids import id_at
from pillarbox.engine.intake import MAX_HOPS, PIECE, SMALL
from pillarbox.engine.mail import Octets
from pillarbox.engine.ports import Audience, Moved, SpoolBroken, SpoolError, SpoolFull, User
from pillarbox.engine.questions import Accept, Drop, Login, Question, Spill
from pillarbox.engine.service import AuthOffer, Service
from pillarbox.engine.session import Session
from pillarbox.smtp.events import (
    Authenticate,
    BodyChunk,
    BodyEnd,
    DataCommand,
    Hello,
    MailFrom,
    Noop,
    Quit,
    RcptTo,
    Refused,
    Reset,
    ServerEvent,
    Verify,
)
from pillarbox.smtp.sasl import Credentials, plain
from pillarbox.smtp.states import Verb
from tests.making import NOW, box, make_service

LOCAL = Domain.parse("example.test")
HOST = Domain.parse("mx.example.test")
CLIENT = "192.0.2.7"
TRUSTED = "198.51.100.7"
ALICE, BOB, CAROL = map(box, ("alice@example.test", "bob@example.test", "carol@elsewhere.example"))
DAVE, ERIN, FRANK = map(box, ("dave@example.test", "erin@example.test", "frank@example.test"))
TEAM, STAFF, INNER = map(box, ("team@example.test", "staff@example.test", "inner@example.test"))
PEOPLE = (
    User(ALICE, "Alice Liddell", owns=(Domain("kept.example"), Domain("sub.kept.example"))),
    User(BOB, "Bob Dodgson"),
    User(DAVE, "Dave Gryphon", enabled=False),
    User(ERIN, "Erin Hatter", quota=1000, soft_quota=800),
    User(FRANK, "Frank Hare", quota=1000),
    User(box("op@example.test"), "Operator", operator=True),
)

DIRECTORY = Snapshot(
    domains=(LOCAL,),
    relay_domains=(Domain("relayed.example"), Domain("kept.example"), Domain("sub.kept.example")),
    users=(
        *PEOPLE,
        *(User(box(f"u{number}@example.test")) for number in range(999)),
        *(User(box(f"n{number}@example.test")) for number in range(1001)),
    ),
    aliases={
        box("both@example.test"): (ALICE, BOB),
        box("also-alice@example.test"): (ALICE,),
        box("also-erin@example.test"): (ERIN,),
        box("away@example.test"): (CAROL,),
        box("round@example.test"): (box("round@example.test"),),
        box("many@example.test"): tuple(box(f"u{number}@example.test") for number in range(999)),
    },
    forwards={
        box("told@example.test"): Announced((CAROL,)),
        box("moved@example.test"): Moved(CAROL),
    },
    lists={
        TEAM: MailingList((ALICE, CAROL), post=Audience.MEMBERS),
        STAFF: MailingList((ALICE, BOB), post=Audience.AUTHENTICATED),
        INNER: MailingList((TEAM, STAFF)),
    },
    hostname=HOST,
)


def service(**changes: Any) -> Service:
    networks = (ip_network("198.51.100.0/24"), ip_network("2001:db8::/32"))
    return make_service(**{"relay_networks": networks, "directory": DIRECTORY, **changes})


Answer = Reply | Question | None


def hello(name: str = "client.example", *, extended: bool = True) -> Hello:
    return Hello(name, extended)


def mail(
    sender: Mailbox | None = BOB, size: int = 0, body_type: BodyType = BodyType.SEVEN_BIT, mode: Mode = Mode.MAIL
) -> MailFrom:
    return MailFrom(sender, size, body_type, mode)


def play(session: Session, *events: ServerEvent) -> Answer:
    """The answer to the last of them."""
    answer: Answer = None
    for event in events:
        answer = session.handle(event)
    return answer


def ready(peer: str = CLIENT, **changes: Any) -> Session:
    session = Session(service(**changes), peer)
    play(session, hello())
    return session


def log_in(session: Session, user: User | None = PEOPLE[0]) -> Answer:
    """By AUTH PLAIN; None: the password is wrong."""
    question = session.handle(Authenticate("PLAIN", plain(Credentials("name", "password"))))
    assert isinstance(question, Login)
    return session.answer(user)


def known(user: User = PEOPLE[0], peer: str = CLIENT, **changes: Any) -> Session:
    """A session whose client has authenticated."""
    session = ready(peer, **{"auth": AuthOffer.CLEAR, **changes})
    assert log_in(session, user) == r.AUTHENTICATED
    return session


def receiving(*recipients: Mailbox, peer: str = CLIENT, **changes: Any) -> Session:
    session = ready(peer, **changes)
    assert play(session, mail(), *map(RcptTo, recipients or (ALICE,))) == r.RECIPIENT_OK
    assert session.handle(DataCommand()) == r.START_DATA
    return session


def accept(answer: Answer) -> Accept:
    assert isinstance(answer, Accept)
    return answer


def spill(answer: Answer) -> Spill:
    assert isinstance(answer, Spill)
    return answer


# --- commands that need no state


@pytest.mark.parametrize(
    ("event", "reply"),
    [
        (Noop(), r.NOOP_OK),
        (Reset(), r.RESET_OK),
        (Quit(), r.BYE),
        (Verify("alice"), r.CANNOT_VERIFY),
        (Verify("nobody at all"), r.CANNOT_VERIFY),
        (Refused(Verb.RCPT, r.NEED_MAIL), r.NEED_MAIL),
        (Refused(Verb.UNKNOWN, r.UNRECOGNISED), r.UNRECOGNISED),
    ],
)
def test_simple_replies(event: ServerEvent, reply: Reply) -> None:
    session = Session(service(), CLIENT)
    assert session.handle(event) == reply
    assert session.between_transactions


# --- HELO and EHLO


def test_ehlo_lists_what_is_offered() -> None:
    answer = Session(service(message_size=12345), CLIENT).handle(hello())
    assert isinstance(answer, Reply)
    assert answer.code == 250
    assert answer.enhanced is None
    assert answer.lines[0] == "mx.example.test"
    assert set(answer.lines[1:]) > {"PIPELINING", "SIZE 12345", "8BITMIME", "ENHANCEDSTATUSCODES", "EXPN", "HELP"}


def test_helo_gets_one_line() -> None:
    assert Session(service(), CLIENT).handle(hello(extended=False)) == r.hello("mx.example.test")


@pytest.mark.parametrize(
    ("name", "peer", "configured", "refused"),
    [
        ("mx.example.test", CLIENT, True, True),
        ("MX.Example.TEST", CLIENT, True, True),
        ("mx.example.test", TRUSTED, True, False),
        ("mx.example.test", CLIENT, False, False),
        ("client.example", CLIENT, True, False),
        ("example.test", CLIENT, True, False),
        ("[192.0.2.99]", CLIENT, True, False),  # RFC 5321 §4.1.4: never compared with the address
    ],
)
@pytest.mark.parametrize("extended", [True, False])
def test_our_own_name(name: str, peer: str, configured: bool, refused: bool, extended: bool) -> None:
    session = Session(service(hostname_configured=configured), peer)
    answer = session.handle(hello(name, extended=extended))
    assert isinstance(answer, Reply)
    assert (answer == r.IMPERSONATION) is refused
    assert answer.code == (550 if refused else 250)


def test_a_refused_hello_ends_nothing() -> None:
    session = ready()
    play(session, mail(), RcptTo(ALICE))
    assert session.handle(hello("mx.example.test")) == r.IMPERSONATION
    play(session, DataCommand())
    assert accept(session.handle(BodyEnd(b"\r\n", bare=False))).message.helo == "client.example"


@pytest.mark.parametrize("event", [hello(), hello(extended=False), Reset()])
def test_hello_and_rset_clear_the_transaction(event: ServerEvent) -> None:
    session = ready()
    play(session, mail(ALICE), RcptTo(ALICE))
    before = session.between_transactions
    session.handle(event)
    assert (before, session.between_transactions) == (False, True)
    play(session, mail(None), RcptTo(BOB), DataCommand())
    envelope = accept(session.handle(BodyEnd(b"\r\n", bare=False))).message.envelope
    assert envelope.sender is None
    assert [recipient.address for recipient in envelope.recipients] == [BOB]


# --- MAIL


@pytest.mark.parametrize(
    ("event", "reply"),
    [
        (mail(), r.SENDER_OK),
        (mail(None), r.SENDER_OK),
        (mail(CAROL), r.SENDER_OK),
        (mail(size=1_000_000), r.SENDER_OK),
        (mail(size=1_000_001), r.TOO_BIG),  # RFC 1870 §6.1
        (mail(size=10**20 - 1), r.TOO_BIG),
    ],
)
def test_mail(event: MailFrom, reply: Reply) -> None:
    session = ready()
    assert session.handle(event) == reply
    assert session.between_transactions is (reply is r.TOO_BIG)


# --- RCPT


@pytest.mark.parametrize(
    ("peer", "address", "reply"),
    [
        (CLIENT, "alice@example.test", r.RECIPIENT_OK),
        (CLIENT, "both@example.test", r.RECIPIENT_OK),
        (CLIENT, "away@example.test", r.RECIPIENT_OK),
        (CLIENT, "nobody@example.test", r.NO_SUCH_USER),
        (CLIENT, "round@example.test", r.BAD_FORWARDING),
        (CLIENT, "carol@elsewhere.example", r.RELAY_DENIED),
        (CLIENT, "x@[192.0.2.7]", r.RELAY_DENIED),
        (TRUSTED, "carol@elsewhere.example", r.RECIPIENT_OK),
        (TRUSTED, "x@[192.0.2.7]", r.RECIPIENT_OK),
        (TRUSTED, "nobody@example.test", r.NO_SUCH_USER),
        ("198.51.99.255", "carol@elsewhere.example", r.RELAY_DENIED),
        ("2001:db8::7", "carol@elsewhere.example", r.RECIPIENT_OK),
        ("2001:db9::7", "carol@elsewhere.example", r.RELAY_DENIED),
        ("2001:db8::7%eth0", "carol@elsewhere.example", r.RECIPIENT_OK),
    ],
)
def test_rcpt(peer: str, address: str, reply: Reply) -> None:
    session = ready(peer)
    assert play(session, mail(), RcptTo(box(address))) == reply


def test_nobody_relays_where_no_network_may() -> None:
    session = ready(TRUSTED, relay_networks=())
    assert play(session, mail(), RcptTo(CAROL)) == r.RELAY_DENIED


def test_the_bound_on_recipients() -> None:
    """RFC 5321 §4.5.3.1.10: 452, not 552; the others are still sent to."""
    session = ready()
    session.handle(mail())
    for number in range(1000):
        assert session.handle(RcptTo(box(f"n{number}@example.test"))) == r.RECIPIENT_OK
    assert session.handle(RcptTo(box("n1000@example.test"))) == r.TOO_MANY_RECIPIENTS
    session.handle(DataCommand())
    assert len(accept(session.handle(BodyEnd(b"\r\n", bare=False))).message.envelope.recipients) == 1000


def test_what_an_alias_leads_to_counts() -> None:
    session = ready(recipients=1000)
    assert play(session, mail(), RcptTo(box("many@example.test"))) == r.RECIPIENT_OK
    assert session.handle(RcptTo(ALICE)) == r.RECIPIENT_OK
    assert session.handle(RcptTo(BOB)) == r.TOO_MANY_RECIPIENTS


def test_a_new_transaction_has_the_whole_bound() -> None:
    session = ready(recipients=1)
    assert play(session, mail(), RcptTo(ALICE)) == r.RECIPIENT_OK
    assert session.handle(RcptTo(BOB)) == r.TOO_MANY_RECIPIENTS
    assert play(session, Reset(), mail(), RcptTo(BOB)) == r.RECIPIENT_OK


@pytest.mark.parametrize(
    ("addresses", "recipients"),
    [
        (["alice@example.test", "alice@example.test"], [Recipient(ALICE, ALICE)]),
        (
            ["both@example.test"],
            [Recipient(ALICE, box("both@example.test")), Recipient(BOB, box("both@example.test"))],
        ),
        (
            ["bob@example.test", "both@example.test"],
            [Recipient(BOB, BOB), Recipient(ALICE, box("both@example.test"))],
        ),
        (
            ["also-alice@example.test", "alice@example.test", "away@example.test"],
            [Recipient(ALICE, box("also-alice@example.test")), Recipient(CAROL, box("away@example.test"))],
        ),
    ],
)
def test_aliases_are_expanded_and_nobody_is_named_twice(addresses: list[str], recipients: list[Recipient]) -> None:
    session = receiving(*map(box, addresses))
    assert list(accept(session.handle(BodyEnd(b"\r\n", bare=False))).message.envelope.recipients) == recipients


# --- the message


def test_an_accepted_message() -> None:
    session = receiving(ALICE, BOB)
    assert session.handle(BodyChunk(b"From: Alice <a@b.test>\r\nSub")) is None
    text = b"ject: Hi\r\nMessage-ID: <1@b.test>\r\n\r\n\xff\r\n"
    message = accept(session.handle(BodyEnd(text, bare=False))).message
    assert not session.between_transactions
    assert message.id == id_at(NOW)
    assert message.received_at == NOW
    assert (message.listener, message.peer, message.helo, message.protocol) == ("mx", CLIENT, "client.example", "ESMTP")
    assert message.envelope.sender == BOB
    assert message.header == HeaderView(0, "Alice <a@b.test>", "Hi", "<1@b.test>", "")
    assert message.octets == Octets.EIGHT_BIT
    assert not message.large
    assert message.content is not None
    assert message.size == len(message.content)
    assert message.content.startswith(
        b"Received: from client.example ([192.0.2.7])\r\n\tby mx.example.test with ESMTP id "
    )
    assert message.content.endswith(b"From: Alice <a@b.test>\r\nSub" + text)
    assert session.answer(None) == r.queued(str(message.id))
    assert session.between_transactions


@pytest.mark.parametrize(
    ("recipients", "clause"),
    [
        ((ALICE,), b"for <alice@example.test>"),
        ((box("both@example.test"),), b"for <both@example.test>"),  # the alias, not where it leads
        ((ALICE, BOB), None),  # RFC 5321 §7.6: nobody learns of the others
    ],
)
def test_whom_the_received_field_names(recipients: tuple[Mailbox, ...], clause: bytes | None) -> None:
    content = accept(receiving(*recipients).handle(BodyEnd(b"\r\n", bare=False))).message.content
    assert content is not None
    assert (clause in content) if clause else (b"for <" not in content)


@pytest.mark.parametrize(
    ("extended", "authenticated", "protocol"),
    [(True, False, "ESMTP"), (False, False, "SMTP"), (True, True, "ESMTPA"), (False, True, "ESMTPA")],
)
def test_the_protocol_in_the_trace(extended: bool, authenticated: bool, protocol: str) -> None:
    """RFC 3848; AUTH needs no second EHLO behind it."""
    session = ready(auth=AuthOffer.CLEAR)
    session.handle(hello(extended=extended))
    if authenticated:
        log_in(session)
    play(session, mail(None, body_type=BodyType.EIGHT_BIT_MIME), RcptTo(ALICE), DataCommand())
    message = accept(session.handle(BodyEnd(b"\r\n", bare=False))).message
    assert message.protocol == protocol
    assert message.content is not None
    assert f" with {protocol} id {message.id}".encode() in message.content
    assert message.envelope.body_type is BodyType.EIGHT_BIT_MIME
    assert message.octets == Octets.PLAIN


def test_ids_differ() -> None:
    session = receiving()
    first = accept(session.handle(BodyEnd(b"\r\n", bare=False))).message.id
    session.answer(None)
    play(session, mail(), RcptTo(ALICE), DataCommand())
    assert accept(session.handle(BodyEnd(b"\r\n", bare=False))).message.id > first


RECEIVED = b"Received: from a by b; Thu, 1 Jan 1970 00:00:00 +0000\r\n"


@pytest.mark.parametrize(
    ("chunks", "bare", "limit", "reply"),
    [
        ([b"x" * 98 + b"\r\n"], False, 100, None),
        ([b"x" * 99 + b"\r\n"], False, 100, r.TOO_BIG),
        ([b"x" * 60, b"x" * 39 + b"\r\n"], False, 100, r.TOO_BIG),
        ([b"x" * 500, b"x" * 500, b"\r\n"], False, 100, r.TOO_BIG),
        ([b"a\nb\r\n"], True, 100, r.BARE_OCTET_IN_DATA),
        ([b"a\n", b"b\r\n"], True, 100, r.BARE_OCTET_IN_DATA),
        ([RECEIVED * (MAX_HOPS - 1) + b"\r\n"], False, 10**6, None),
        ([RECEIVED * MAX_HOPS + b"\r\n"], False, 10**6, r.LOOP),  # RFC 5321 §6.3
        ([b"\r\n" + RECEIVED * MAX_HOPS], False, 10**6, None),
        ([b"X: " + b"x" * SMALL + b"\r\n", b"\r\n"], False, 10**6, r.HEADER_TOO_BIG),
    ],
)
def test_messages_judged_at_their_end(chunks: list[bytes], bare: bool, limit: int, reply: Reply | None) -> None:
    session = receiving(message_size=limit)
    *before, last = chunks
    for chunk in before:
        assert session.handle(BodyChunk(chunk)) is None
    answer = session.handle(BodyEnd(last, bare))
    if reply is None:
        assert isinstance(answer, Accept)
    else:
        assert answer == reply
        assert session.between_transactions
        assert play(session, mail(), RcptTo(ALICE)) == r.RECIPIENT_OK


# --- large messages

HEADER = b"Subject: big\r\n\r\n"


def test_a_large_message_is_spilled() -> None:
    session = receiving()
    assert session.handle(BodyChunk(HEADER)) is None
    first = spill(session.handle(BodyChunk(b"x" * SMALL)))
    assert first.octets.endswith(HEADER + b"x" * SMALL)
    assert session.answer(None) is None
    assert session.handle(BodyChunk(b"y" * (PIECE - 1))) is None
    second = spill(session.handle(BodyChunk(b"y")))
    assert second == Spill(first.message, b"y" * PIECE)
    assert session.answer(None) is None
    message = accept(session.handle(BodyEnd(b"z\r\n", bare=False))).message
    assert message.large
    assert message.content == b"z\r\n"
    assert message.id == first.message
    assert message.size == len(first.octets) + len(second.octets) + 3
    assert message.header.subject == "big"
    assert session.answer(None) == r.queued(str(message.id))


@pytest.mark.parametrize(("fault", "reply"), [(SpoolFull("full"), r.NO_SPACE), (SpoolBroken("EIO"), r.SPOOL_FAULT)])
def test_a_fault_in_a_spill_is_told_at_the_end(fault: SpoolError, reply: Reply) -> None:
    session = receiving()
    question = spill(session.handle(BodyChunk(HEADER + b"x" * SMALL)))
    assert session.answer(fault) is None
    for _ in range(3):
        assert session.handle(BodyChunk(b"y" * PIECE)) is None  # thrown away
    assert session.handle(BodyEnd(b"z\r\n", bare=False)) == Drop(question.message)
    assert session.answer(None) == reply
    assert session.between_transactions


@pytest.mark.parametrize(
    ("end", "limit", "reply"),
    [
        (BodyEnd(b"z\r\n", bare=True), 10**6, r.BARE_OCTET_IN_DATA),
        (BodyEnd(b"z" * 1000 + b"\r\n", bare=False), SMALL + 1000, r.TOO_BIG),
    ],
)
def test_a_spilled_message_that_is_refused_is_dropped(end: BodyEnd, limit: int, reply: Reply) -> None:
    session = receiving(message_size=limit)
    question = spill(session.handle(BodyChunk(HEADER + b"x" * SMALL)))
    session.answer(None)
    assert session.handle(end) == Drop(question.message)
    assert session.answer(None) == reply
    assert session.between_transactions


@pytest.mark.parametrize(("fault", "reply"), [(SpoolFull("full"), r.NO_SPACE), (SpoolBroken("EIO"), r.SPOOL_FAULT)])
def test_a_fault_in_the_commit(fault: SpoolError, reply: Reply) -> None:
    session = receiving()
    accept(session.handle(BodyEnd(b"\r\n", bare=False)))
    assert session.answer(fault) == reply
    assert session.between_transactions
    assert play(session, mail(), RcptTo(ALICE)) == r.RECIPIENT_OK


# --- when the connection goes


def test_nothing_to_drop() -> None:
    session = ready()
    assert session.abandon() is None
    play(session, mail(), RcptTo(ALICE), DataCommand(), BodyChunk(b"small"))
    assert session.abandon() is None


def test_what_was_spilled_is_dropped() -> None:
    session = receiving()
    question = spill(session.handle(BodyChunk(HEADER + b"x" * SMALL)))
    session.answer(None)
    assert session.abandon() == Drop(question.message)


def test_a_message_that_is_being_accepted_stays() -> None:
    session = receiving()
    session.handle(BodyChunk(HEADER + b"x" * SMALL))
    session.answer(None)
    accept(session.handle(BodyEnd(b"\r\n", bare=False)))
    assert session.abandon() is None


def test_a_message_that_is_being_dropped_is_not_dropped_twice() -> None:
    session = receiving()
    session.handle(BodyChunk(HEADER + b"x" * SMALL))
    session.answer(None)
    assert isinstance(session.handle(BodyEnd(b"\r\n", bare=True)), Drop)
    assert session.abandon() is None


# --- the odd pairs of the classical table


@pytest.mark.parametrize(
    ("event", "strict", "classic"),
    [
        (Noop(), r.NOOP_OK, r.NOOP_CLASSIC),
        (Reset(), r.RESET_OK, r.RESET_CLASSIC),
        (
            Refused(Verb.RSET, r.NO_ARGUMENT_ALLOWED, r.UNKNOWN_PARAMETER_OF_COMMAND),
            r.NO_ARGUMENT_ALLOWED,
            r.UNKNOWN_PARAMETER_OF_COMMAND,
        ),
        (Refused(Verb.RSET, r.NO_ARGUMENT_ALLOWED), r.NO_ARGUMENT_ALLOWED, r.NO_ARGUMENT_ALLOWED),
        (Quit(), r.BYE, r.BYE),
    ],
)
def test_the_odd_pairs(event: ServerEvent, strict: Reply, classic: Reply) -> None:
    """RFC 876."""
    assert ready().handle(event) == strict
    assert ready(classic=True).handle(event) == classic


def test_the_odd_reset_resets() -> None:
    session = ready(classic=True)
    play(session, mail(), RcptTo(ALICE), Reset())
    assert session.between_transactions


# --- the bound on transactions


def test_too_many_transactions() -> None:
    session = ready(transactions=3)
    for _ in range(3):
        assert play(session, mail(), RcptTo(ALICE)) == r.RECIPIENT_OK
        session.handle(Reset())
    assert session.handle(mail()) == r.TOO_MANY_TRANSACTIONS
    assert r.TOO_MANY_TRANSACTIONS.closes


def test_transactions_that_did_not_begin_do_not_count() -> None:
    session = ready(transactions=1, message_size=100)
    assert [session.handle(mail(size=101)) for _ in range(5)] == [r.TOO_BIG] * 5
    assert session.handle(mail()) == r.SENDER_OK
    assert play(session, Reset(), mail()) == r.TOO_MANY_TRANSACTIONS


# --- the bound on probes (RFC 5321 §7.3)


@pytest.mark.parametrize("address", ["nobody@example.test", "dave@example.test", "moved@example.test", "x@far.example"])
def test_a_refused_recipient_is_a_probe(address: str) -> None:
    session = ready(probes=2)
    session.handle(mail())
    first = session.handle(RcptTo(box(address)))
    assert isinstance(first, Reply) and first.code in (550, 551)
    assert session.handle(RcptTo(box("nobody@example.test"))) == r.NO_SUCH_USER
    assert session.handle(RcptTo(box(address))) == r.TOO_MANY_PROBES


@pytest.mark.parametrize("event", [Reset(), hello(), hello(extended=False)], ids=["RSET", "EHLO", "HELO"])
def test_recipients_that_got_no_message_were_asked_for(event: ServerEvent) -> None:
    session = ready(probes=2)
    assert play(session, mail(), RcptTo(ALICE), RcptTo(BOB)) == r.RECIPIENT_OK
    answer = session.handle(event)
    assert isinstance(answer, Reply) and answer.code == 250
    assert play(session, mail(), RcptTo(ALICE)) == r.RECIPIENT_OK
    assert session.handle(event) == r.TOO_MANY_PROBES


def test_recipients_whose_message_was_refused_were_asked_for() -> None:
    session = ready(probes=3, message_size=10)
    for reply in (r.TOO_BIG, r.TOO_MANY_PROBES):
        assert play(session, mail(), RcptTo(ALICE), RcptTo(BOB), DataCommand()) == r.START_DATA
        assert session.handle(BodyEnd(b"more than ten octets\r\n", bare=False)) == reply


def test_recipients_that_got_a_message_were_not_only_asked_for() -> None:
    session = ready(probes=1)
    for _ in range(5):
        assert play(session, mail(), RcptTo(ALICE), RcptTo(BOB), DataCommand()) == r.START_DATA
        accept(session.handle(BodyEnd(b"\r\n", bare=False)))
        session.answer(None)
    assert session.handle(Reset()) == r.RESET_OK
    assert session.handle(Verify("alice")) == r.CANNOT_VERIFY


def test_a_transaction_without_recipients_asked_for_nobody() -> None:
    session = ready(probes=1)
    for _ in range(5):
        play(session, mail())
        assert session.handle(Reset()) == r.RESET_OK


def test_who_may_relay_may_ask_for_anybody() -> None:
    session = ready(TRUSTED, probes=1)
    session.handle(mail())
    nobody = RcptTo(box("nobody@example.test"))
    assert {session.handle(nobody) for _ in range(5)} == {r.NO_SUCH_USER}


# --- the bound on errors


def test_too_many_errors() -> None:
    session = ready(errors=3)
    event = Refused(Verb.UNKNOWN, r.UNRECOGNISED)
    assert [session.handle(event) for _ in range(4)] == [r.UNRECOGNISED] * 3 + [r.TOO_MANY_ERRORS]
    assert r.TOO_MANY_ERRORS.closes


def test_good_commands_forgive_no_errors() -> None:
    session = ready(errors=1)
    answers = play(session, Refused(Verb.UNKNOWN, r.UNRECOGNISED), hello(), Reset(), Refused(Verb.DATA, r.NEED_MAIL))
    assert answers == r.TOO_MANY_ERRORS


def test_the_greeting() -> None:
    assert service().greeting == r.greeting("mx.example.test")
