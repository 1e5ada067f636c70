"""What the parameters of MAIL and RCPT come to in a session: what is refused, and what stands in the envelope."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import (
    NO_MAIL_OPTIONS,
    BodyType,
    DeliverBy,
    MailOptions,
    Notify,
    RcptOptions,
    ValidSince,
)
from pillarbox.core.reply import Reply
from pillarbox.engine.mail import Octets
from pillarbox.engine.ports import Accepted, Relayed, Resolution, User
from pillarbox.engine.questions import Accept, Drop, Question, Spill
from pillarbox.engine.session import Session
from pillarbox.smtp.events import (
    BodyChunk,
    BodyEnd,
    ChunkEnd,
    DataCommand,
    Hello,
    MailFrom,
    RcptTo,
    Reset,
    ServerEvent,
    Within,
)
from tests.making import NOW, Nobody, box, make_service

ALICE, FAR, JÜRGEN = box("alice@example.test"), box("x@far.example"), box("jürgen@example.test")


class Town(Nobody):
    def __init__(self, created_at: float | None = None) -> None:
        self.alice = User(ALICE, created_at=created_at)

    def resolve(self, address: Mailbox) -> Resolution:
        return Accepted((address,)) if str(address.domain) == "example.test" else Relayed()

    def user(self, address: Mailbox) -> User | None:
        return self.alice if address == ALICE else None


def session(*, secure: bool = False, user: bool = False, created_at: float | None = None, **changes: Any) -> Session:
    made = Session(make_service(directory=Town(created_at), **changes), "192.0.2.7")
    if secure:
        made.secured()
    made.handle(Hello("client.example", extended=True))
    if user:
        made._client.user = User(ALICE)
    return made


def mail(**changes: Any) -> MailFrom:
    return replace(MailFrom(FAR, 0, BodyType.SEVEN_BIT), **changes)


def taken(made: Session, *events: ServerEvent) -> Accept:
    """The question that the last of them leads to: a whole message is to be kept."""
    answer: Reply | Question | None = None
    for event in events:
        answer = made.handle(event)
    assert isinstance(answer, Accept), answer
    return answer


@pytest.mark.parametrize(
    ("options", "kind", "reply"),
    [
        (MailOptions(require_tls=True), {}, r.UNKNOWN_PARAMETER),  # RFC 8689 §2: announced under TLS alone
        (MailOptions(require_tls=True), {"secure": True}, r.SENDER_OK),
        (MailOptions(smtputf8=True), {}, r.SENDER_OK),
        (MailOptions(priority=3), {}, r.PRIORITY_LOWERED),  # RFC 6710 §4.1
        (MailOptions(priority=-3), {}, r.SENDER_OK),
        (MailOptions(priority=3), {"user": True}, r.SENDER_OK),
        (MailOptions(hold_until=NOW + 60), {}, r.UNKNOWN_PARAMETER),
        (MailOptions(hold_until=NOW + 60), {"future_release": 60}, r.SENDER_OK),
        (MailOptions(hold_until=NOW + 61), {"future_release": 60}, r.HELD_TOO_LONG),  # RFC 4865 §4
        (MailOptions(hold_until=NOW - 1), {"future_release": 60}, r.SENDER_OK),
    ],
)
def test_what_is_asked_for_at_mail(options: MailOptions, kind: dict[str, Any], reply: Reply) -> None:
    assert session(**kind).handle(mail(options=options)) == reply


@pytest.mark.parametrize(
    ("asked", "kind", "options"),
    [
        (mail(), {}, NO_MAIL_OPTIONS),
        (mail(within=Within(60, True, True)), {}, MailOptions(deliver_by=DeliverBy(NOW + 60, True, True))),
        (mail(within=Within(-5, False, False)), {}, MailOptions(deliver_by=DeliverBy(NOW - 5, False))),
        (mail(hold_for=60), {"future_release": 60}, MailOptions(hold_until=NOW + 60)),
        (mail(options=MailOptions(priority=9)), {}, MailOptions(priority=0)),
        (mail(options=MailOptions(priority=9)), {"user": True}, MailOptions(priority=9)),
        (mail(options=MailOptions(envelope_id="x")), {}, MailOptions(envelope_id="x")),
    ],
)
def test_what_stands_in_the_envelope(asked: MailFrom, kind: dict[str, Any], options: MailOptions) -> None:
    found = taken(session(**kind), asked, RcptTo(ALICE), DataCommand(), BodyEnd(b"x\r\n", bare=False))
    assert found.message.envelope.options == options
    assert (found.message.envelope.options is NO_MAIL_OPTIONS) is (options is NO_MAIL_OPTIONS)


def test_what_rcpt_asks_for_stands_with_the_recipient() -> None:
    never = RcptOptions(notify=frozenset())
    told = RcptOptions(frozenset((Notify.SUCCESS,)), "rfc822;b@x")
    made = session()
    found = taken(made, mail(), RcptTo(ALICE, never), RcptTo(FAR, told), DataCommand(), BodyEnd(b"x\r\n", bare=False))
    assert [each.options for each in found.message.envelope.recipients] == [never, told]


@pytest.mark.parametrize("smtputf8", [True, False])
def test_an_address_that_is_not_ascii(smtputf8: bool) -> None:
    """RFC 6531 §3.5, and §4.3 for the trace."""
    made = session()
    made.handle(mail(options=MailOptions(smtputf8=smtputf8)))
    answer = made.handle(RcptTo(JÜRGEN, international=True))
    assert answer == (r.RECIPIENT_OK if smtputf8 else r.NON_ASCII_PATH)
    if smtputf8:
        made.handle(DataCommand())
        found = made.handle(BodyEnd("Subject: ü\r\n\r\nx\r\n".encode(), bare=False))
        assert isinstance(found, Accept) and found.message.content is not None
        assert found.message.protocol == "UTF8SMTP"
        assert "for <jürgen@example.test>".encode() in found.message.content
        assert found.message.octets == Octets.EIGHT_BIT | Octets.UTF8_HEADER


@pytest.mark.parametrize(
    ("created_at", "reply"),
    [
        (None, r.RECIPIENT_OK),  # from before that was kept
        (1388620799.0, r.RECIPIENT_OK),
        (1388620801.0, r.MAILBOX_OF_ANOTHER),
    ],
)
@pytest.mark.parametrize("reject", [True, False])
def test_a_mailbox_that_had_another_owner(created_at: float | None, reply: Reply, reject: bool) -> None:
    """RFC 7293 §5.1."""
    made = session(created_at=created_at)
    made.handle(mail())
    since = RcptOptions(valid_since=ValidSince("2014-01-02T00:00:00Z", reject))
    assert made.handle(RcptTo(ALICE, since)) == reply
    assert made.handle(RcptTo(FAR, since)) == r.RECIPIENT_OK  # the next hop is asked


# --- BDAT (RFC 3030)


def test_a_message_in_chunks_of_any_octets() -> None:
    made = session()
    for event in (mail(body_type=BodyType.BINARY_MIME), RcptTo(ALICE)):
        made.handle(event)
    assert made.handle(DataCommand()) == r.BINARY_NEEDS_BDAT
    assert made.handle(BodyChunk(b"Subject: x\r\n")) is None
    assert made.handle(ChunkEnd(b"\r\na\n", last=False, bare=True)) == r.CHUNK_OK
    found = made.handle(ChunkEnd(b"b\0", last=True, bare=True))
    assert isinstance(found, Accept) and found.message.content is not None
    assert found.message.content.endswith(b"\r\nSubject: x\r\n\r\na\nb\0")
    assert found.message.octets == Octets.BINARY
    assert found.message.envelope.body_type is BodyType.BINARY_MIME


def test_a_message_in_chunks_that_are_given_up() -> None:
    """What was put on the disk meanwhile goes with the transaction."""
    made = session(message_size=10_000_000)
    for event in (mail(), RcptTo(ALICE), BodyChunk(b"Subject: x\r\n\r\n")):
        made.handle(event)
    spilled = made.handle(BodyChunk(b"x" * 300_000))
    assert isinstance(spilled, Spill)
    assert made.answer(None) is None
    assert made.handle(ChunkEnd(b"y", last=False, bare=False)) == r.CHUNK_OK
    dropped = made.handle(Reset())
    assert dropped == Drop(spilled.message)
    assert made.answer(None) == r.RESET_OK
    assert made.between_transactions


def test_a_chunk_too_many_is_told_at_its_end() -> None:
    made = session(message_size=10)
    for event in (mail(), RcptTo(ALICE)):
        made.handle(event)
    assert made.handle(ChunkEnd(b"a: b\r\n\r\n", last=False, bare=False)) == r.CHUNK_OK
    assert made.handle(ChunkEnd(b"xyz", last=False, bare=False)) == r.TOO_BIG


def test_a_bare_octet_in_the_header_section_is_refused() -> None:
    made = session()
    for event in (mail(), RcptTo(ALICE)):
        made.handle(event)
    assert made.handle(ChunkEnd(b"a: b\nc\r\n\r\nx", last=True, bare=True)) == r.BARE_OCTET_IN_HEADER
