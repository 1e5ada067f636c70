"""LMTP without a network: the server's connection, and what differs in a session; the dialogs `lmtp*` have the rest."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from pillarbox.core import reply as r
from pillarbox.core.envelope import BodyType
from pillarbox.core.reply import Replies, Reply
from pillarbox.engine.questions import Accept, Drop, Spill
from pillarbox.engine.service import AuthOffer, Service, TlsMode
from pillarbox.engine.session import Session
from pillarbox.smtp.events import BodyChunk, BodyEnd, Hello, MailFrom, RcptTo, Refused
from pillarbox.smtp.lmtp import LmtpConnection
from pillarbox.smtp.server import Offer, ServerConnection
from pillarbox.smtp.states import ServerState, Verb
from tests.making import HOSTNAME, box, make_service
from tests.test_dialogs import ALICE, BOB, DIRECTORY, at_home

OFFER = Offer(frozenset((Verb.HELO, Verb.EHLO)))
QUEUED = r.queued("0123456789ab")
TEXT = b"Subject: x\r\n\r\n.\r\n"


def talk(connection: LmtpConnection, *exchanges: tuple[str, Reply]) -> None:
    for line, reply in exchanges:
        connection.receive_data(line.encode() + b"\r\n")
        connection.next_event()
        connection.send(reply)


def in_data(*recipients: tuple[str, Reply]) -> LmtpConnection:
    """A connection on which the message is coming in."""
    connection = LmtpConnection(HOSTNAME, OFFER)
    connection.send(r.lmtp_greeting("mx.example.test"))
    talk(connection, ("LHLO client.example", r.hello("mx.example.test")), ("MAIL FROM:<>", r.SENDER_OK))
    talk(connection, *((f"RCPT TO:<{address}>", reply) for address, reply in recipients), ("DATA", r.START_DATA))
    assert connection.state is ServerState.DATA
    return connection


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("reply", [QUEUED, r.SPOOL_FAULT, r.TOO_BIG], ids=str)
def test_a_reply_for_each_recipient(count: int, reply: Reply) -> None:
    connection = in_data(*[("a@example.test", r.RECIPIENT_OK)] * count, ("b@example.test", r.NO_SUCH_USER))
    connection.receive_data(TEXT + b"NOOP\r\n")
    assert isinstance(connection.next_event(), BodyEnd)
    assert connection.send(reply) == reply.wire * count
    assert (connection.state, connection.unlisted) == (ServerState.READY, None)
    connection.next_event()
    assert connection.send(r.NOOP_OK) == r.NOOP_OK.wire


def test_replies_that_differ_stand_in_the_order_of_the_recipients() -> None:
    names = ("a", "b", "a", "c")
    connection = in_data(*((f"{name}@example.test", r.RECIPIENT_OK) for name in names))
    connection.receive_data(TEXT)
    connection.next_event()
    replies = Replies(QUEUED, but={box("a@example.test"): r.FORWARDING_LOOP, box("c@example.test"): r.MAILBOX_FULL})
    expected = (r.FORWARDING_LOOP, QUEUED, r.FORWARDING_LOOP, r.MAILBOX_FULL)
    assert connection.send(replies) == b"".join(reply.wire for reply in expected)
    assert (connection.state, connection.unlisted) == (ServerState.READY, None)


def test_a_reply_that_closes_is_said_to_each_first() -> None:
    connection = in_data(*[("a@example.test", r.RECIPIENT_OK)] * 2)
    connection.receive_data(b"a\nb\r\n.\r\n")
    connection.next_event()
    assert connection.send(r.BARE_OCTET_IN_DATA) == r.BARE_OCTET_IN_DATA.wire * 2
    assert connection.closed


def test_by_smtp_several_replies_are_one() -> None:
    connection = ServerConnection(HOSTNAME)
    connection.send(r.greeting("mx.example.test"))
    for line, reply in (("EHLO a", r.hello("a")), ("MAIL FROM:<>", r.SENDER_OK), ("RCPT TO:<a@b>", r.RECIPIENT_OK)):
        connection.receive_data(line.encode() + b"\r\n")
        connection.next_event()
        connection.send(reply)
    connection.receive_data(b"DATA\r\n" + TEXT)
    connection.next_event()
    connection.send(r.START_DATA)
    connection.next_event()
    assert connection.send(Replies(QUEUED, but={})) == QUEUED.wire


@pytest.mark.parametrize("word", ["HELO", "EHLO"])
def test_the_greetings_of_smtp_are_no_commands(word: str) -> None:
    """RFC 2033 §4.1; and LHLO is none by SMTP."""
    connection = LmtpConnection(HOSTNAME, OFFER)
    connection.send(r.lmtp_greeting("mx.example.test"))
    connection.receive_data(f"{word} client.example\r\n".encode())
    assert connection.next_event() == Refused(Verb[word], r.UNRECOGNISED)
    assert connection.send(r.UNRECOGNISED) == b"500 Command not recognised\r\n"


# --- a session


def lmtp(**changes: object) -> Service:
    return make_service(**{"lmtp": True, "directory": DIRECTORY, "hostname_configured": False, **changes})


def begun(service: Service, *recipients: str, secure: bool = False, peer: str = "") -> Session:
    session = Session(service, peer)
    if secure:
        session.secured()
    session.handle(Hello("client.example", extended=True))
    connection = service.connection()
    connection.send(service.greeting)
    for line in ("LHLO client.example", "MAIL FROM:<>", *(f"RCPT TO:<{at_home(name)}>" for name in recipients), "DATA"):
        connection.receive_data(line.encode() + b"\r\n")
        event = connection.next_event()
        assert not isinstance(event, Refused | BodyEnd)
        reply = session.handle(event)  # type: ignore[arg-type]
        while not isinstance(reply, Reply):
            reply = session.answer(300)  # how full a mailbox is
        assert reply.code // 100 in (2, 3), reply
        connection.send(reply)
    return session


@pytest.mark.parametrize(
    ("secure", "keyword"), [(False, b" with LMTP id "), (True, b" with LMTPS id ")], ids=["clear", "TLS"]
)
def test_how_it_came(secure: bool, keyword: bytes) -> None:
    """RFC 3848; on a Unix socket the client has no address, and none is told (RFC 5321 §4.4)."""
    session = begun(lmtp(tls=TlsMode.STARTTLS), "alice", secure=secure)
    asked = session.handle(BodyEnd(b"x\r\n", bare=False))
    assert isinstance(asked, Accept) and asked.message.content is not None
    assert (asked.message.peer, asked.message.protocol) == ("", keyword.split()[1].decode())
    assert asked.message.content.startswith(b"Received: from client.example\r\n\tby mx.example.test with ")
    assert keyword in asked.message.content.partition(b"\r\nx")[0]


def test_the_same_by_one_reply_only_where_nobody_is_refused() -> None:
    session = begun(lmtp(), "alice", "bob")
    asked = session.handle(BodyEnd(b"x\r\n", bare=False))
    assert isinstance(asked, Accept)
    assert {each.address for each in asked.message.envelope.recipients} == {ALICE, BOB}
    assert type(session.answer(None)) is Reply


def test_who_is_refused_at_the_end_is_none_of_the_recipients() -> None:
    session = begun(lmtp(), "near", "bob")
    asked = session.handle(BodyEnd(b"x" * 150 + b"\r\n", bare=False))
    assert isinstance(asked, Accept) and [each.address for each in asked.message.envelope.recipients] == [BOB]
    reply = session.answer(None)
    assert isinstance(reply, Replies) and reply.code == 250
    assert reply.but == {box(at_home("near")): r.MAILBOX_NEARLY_FULL}
    assert session.between_transactions


def test_a_message_that_nobody_can_have_ends_the_transaction() -> None:
    session = begun(lmtp(), "near")
    reply = session.handle(BodyEnd(b"x" * 150 + b"\r\n", bare=False))
    assert isinstance(reply, Replies) and reply.code >= 400
    assert session.between_transactions


def test_a_large_message_that_nobody_can_have_is_dropped() -> None:
    session = begun(lmtp(message_size=10_000_000), "near")
    asked = session.handle(BodyChunk(b"Subject: x\r\n\r\n" + b"x" * 200_000))
    assert isinstance(asked, Spill)
    session.answer(None)
    assert isinstance(session.handle(BodyEnd(b"\r\n", bare=False)), Drop)
    reply = session.answer(None)
    assert isinstance(reply, Replies) and reply.code == 552
    assert reply.but == {box(at_home("near")): r.MAILBOX_FULL}


@pytest.mark.parametrize(
    ("peer", "networks", "code"), [("", (), 550), ("192.0.2.1", (), 550), ("192.0.2.1", ("192.0.2.0/24",), 250)]
)
@pytest.mark.parametrize("address", ["x@relayed.example", "x@far.example"])
def test_who_may_relay(peer: str, networks: tuple[str, ...], code: int, address: str) -> None:
    service = lmtp(relay_networks=tuple(map(ip_network, networks)))
    session = Session(service, peer)
    session.handle(Hello("client.example", extended=True))
    session.handle(MailFrom(None, 0, BodyType.SEVEN_BIT))
    reply = session.handle(RcptTo(box(address)))
    assert isinstance(reply, Reply) and reply.code == code


@pytest.mark.parametrize("accepts", [True, False])
def test_the_greeting(accepts: bool) -> None:
    greeting = lmtp(accepts_mail=accepts).greeting
    assert str(greeting) == ("220 mx.example.test LMTP" if accepts else "521 mx.example.test does not accept mail")


def test_what_is_offered() -> None:
    """RFC 2033 §5: PIPELINING and ENHANCEDSTATUSCODES are a must, 8BITMIME a should."""
    service = lmtp(auth=AuthOffer.TLS)
    reply = Session(service, "").handle(Hello("client.example", extended=True))
    assert isinstance(reply, Reply)
    assert {"PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "AUTH SCRAM-SHA-256 PLAIN LOGIN"} <= set(reply.lines)
    assert not {"TURN", "ATRN", "ETRN", "SEND"} & set(reply.lines)
    assert not any(map(service.offer.has, (Verb.HELO, Verb.EHLO, Verb.TURN)))
