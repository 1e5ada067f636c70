"""A listener for submission: who may send under which address, and what the queue gets of their message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MessageId, Mode
from pillarbox.core.reply import Reply
from pillarbox.engine.directory import Snapshot, parse_alias_address
from pillarbox.engine.intake import SMALL
from pillarbox.engine.mail import Message, Octets
from pillarbox.engine.ports import Fate, Repeated, SpoolFull, Taken, User
from pillarbox.engine.questions import Accept, Spill
from pillarbox.engine.service import COMMANDS, Access, Submitters
from pillarbox.engine.session import Session
from pillarbox.engine.submission import may_send_as
from pillarbox.smtp.events import BodyChunk, BodyEnd, DataCommand, RcptTo
from pillarbox.smtp.states import Verb
from tests.making import box
from tests.unit.test_session import ALICE, BOB, CAROL, DIRECTORY, ERIN, LOCAL, PEOPLE, TRUSTED, known, mail, play, ready

USERS: dict[str, Any] = {"submitters": Submitters.USERS}
CAUGHT = Snapshot(
    domains=(LOCAL,),
    users=PEOPLE,
    aliases={
        parse_alias_address("@example.test"): (ALICE,),
        box("postmaster@example.test"): (BOB,),
        box("first@example.test"): (box("second@example.test"),),
        box("second@example.test"): (BOB, CAROL),
        box("alice+bob@example.test"): (BOB,),
    },
)


@pytest.mark.parametrize(
    ("user", "sender", "may"),
    [
        (ALICE, ALICE, True),
        (ALICE, box("Alice@EXAMPLE.test"), True),
        (ALICE, box("alice+shop@example.test"), True),
        (ALICE, box("also-alice@example.test"), True),  # an alias of hers alone
        (ALICE, box("also-alice+x@example.test"), True),
        (ALICE, box("both@example.test"), True),  # one that she shares
        (BOB, box("both@example.test"), True),
        (ERIN, box("also-erin@example.test"), True),  # a mailbox with a quota
        (ALICE, BOB, False),
        (ALICE, box("bob+alice@example.test"), False),
        (ALICE, box("also-erin@example.test"), False),
        (ALICE, box("away@example.test"), False),
        (ALICE, box("team@example.test"), False),  # a list that she is on
        (ALICE, box("staff@example.test"), False),
        (ALICE, box("inner@example.test"), False),
        (ALICE, box("team-owner@example.test"), False),
        (ALICE, box("postmaster@example.test"), False),
        (ALICE, box("told@example.test"), False),
        (ALICE, box("moved@example.test"), False),
        (ALICE, box("round@example.test"), False),
        (ALICE, box("nobody@example.test"), False),
        (ALICE, CAROL, False),
        (ALICE, box("alice@relayed.example"), False),
        (ALICE, box("alice@kept.example"), False),  # a domain that she owns, and whose mail she fetches
        (ALICE, box("alice@[192.0.2.7]"), False),
        (ALICE, box("alice@mx.example.test"), False),
        (box("dave@example.test"), box("dave@example.test"), False),  # disabled since
    ],
)
def test_whose_an_address_is(user: Mailbox, sender: Mailbox, may: bool) -> None:
    assert may_send_as(DIRECTORY, user, sender) is may


@pytest.mark.parametrize(
    ("user", "sender", "may"),
    [
        (ALICE, "anything@example.test", True),  # the catch-all is hers
        (BOB, "anything@example.test", False),
        (ALICE, "bob@example.test", False),
        (BOB, "postmaster@example.test", True),
        (BOB, "first@example.test", True),
        (BOB, "alice+bob@example.test", True),  # an address of its own
        (ALICE, "alice+bob@example.test", False),
    ],
)
def test_aliases_behind_aliases_and_catch_alls(user: Mailbox, sender: str, may: bool) -> None:
    assert may_send_as(CAUGHT, user, box(sender)) is may


# --- the session


@pytest.mark.parametrize("peer", ["192.0.2.7", TRUSTED])
@pytest.mark.parametrize("mode", Mode)
def test_nobody_submits_without_auth(peer: str, mode: Mode) -> None:
    """RFC 6409 §4.3; a relay network does not stand in for an account."""
    session = ready(peer, **USERS, commands=dict.fromkeys(COMMANDS, Access.ON))
    for sender in (ALICE, None):
        assert session.handle(mail(sender, mode=mode)) == r.AUTH_NEEDED
    assert session.between_transactions


def test_who_goes_on_without_auth_is_shown_out() -> None:
    session = ready(**USERS, errors=2)
    assert [session.handle(mail()) for _ in range(3)] == [r.AUTH_NEEDED, r.AUTH_NEEDED, r.TOO_MANY_ERRORS]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("sender", "reply"),
    [(ALICE, r.SENDER_OK), (None, r.SENDER_OK), (BOB, r.NOT_YOUR_ADDRESS), (CAROL, r.NOT_YOUR_ADDRESS)],
)
def test_senders(sender: Mailbox | None, reply: Reply, mode: Mode) -> None:
    commands = {**COMMANDS, Verb.SEND: Access.AUTH, Verb.SOML: Access.AUTH, Verb.SAML: Access.AUTH}
    session = known(**USERS, commands=commands)
    assert session.handle(mail(sender, mode=mode)) == reply
    assert session.between_transactions is (reply is not r.SENDER_OK)


def test_a_listener_for_exchange_asks_none_of_this() -> None:
    assert ready().handle(mail(ALICE)) == r.SENDER_OK
    assert known().handle(mail(BOB)) == r.SENDER_OK


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("x@elsewhere.example", r.RECIPIENT_OK),
        ("bob@example.test", r.RECIPIENT_OK),
        ("x@relayed.example", r.RECIPIENT_OK),
        ("nobody@example.test", r.NO_SUCH_USER),
        ("x@elsewhere", r.UNQUALIFIED),
        ("x@[192.0.2.1]", r.RECIPIENT_OK),
    ],
)
def test_recipients(recipient: str, reply: Reply) -> None:
    session = known(**USERS)
    assert play(session, mail(ALICE), RcptTo(box(recipient))) == reply
    if reply is r.UNQUALIFIED:
        assert play(known(), mail(ALICE), RcptTo(box(recipient))) == r.RECIPIENT_OK


def test_a_single_label_may_be_a_domain_of_ours() -> None:
    directory = Snapshot((Domain("here"),), (User(box("alice@here")),), relay_domains=(Domain("backend"),))
    session = known(User(box("alice@here")), **USERS, directory=directory)
    for recipient in ("alice@here", "x@backend"):
        assert play(session, mail(box("alice@here")), RcptTo(box(recipient))) == r.RECIPIENT_OK
        session = known(User(box("alice@here")), **USERS, directory=directory)


# --- the message


def submit(session: Session, *chunks: bytes) -> tuple[Message, bytes]:
    """The message as the queue gets it, and its text."""
    assert play(session, mail(ALICE), RcptTo(CAROL), DataCommand()) == r.START_DATA
    text = b""
    for chunk in chunks[:-1]:
        if (answer := session.handle(BodyChunk(chunk))) is not None:
            assert isinstance(answer, Spill)
            text += answer.octets
            assert session.answer(None) is None
    answer = session.handle(BodyEnd(chunks[-1], bare=False))
    assert isinstance(answer, Accept) and answer.message.content is not None
    return answer.message, text + answer.message.content


HEADER = b"Subject: x\r\nBcc: bob@example.test,\r\n carol@example.test\r\nTo: y\r\n\r\n"
EDITED = b"Subject: x\r\nTo: y\r\n\r\n"


@pytest.mark.parametrize(
    "chunks",
    [
        (HEADER + b"body\r\n",),
        (HEADER[:13], HEADER[13:20], HEADER[20:46], HEADER[46:], b"body\r\n"),
        tuple(bytes((octet,)) for octet in HEADER + b"body\r\n"),
        (HEADER + b"a" * SMALL, b"b" * SMALL * 3, b"\r\n"),
        (HEADER[:30], HEADER[30:] + b"a" * SMALL, b"\r\n"),
    ],
)
def test_what_the_queue_gets(chunks: tuple[bytes, ...]) -> None:
    message, text = submit(known(**USERS), *chunks)
    came = b"".join(chunks)
    trace, _, rest = text.partition(b"Date: ")
    date, _, rest = rest.partition(b"\r\n")
    assert trace.startswith(b"Received: from client.example") and b" with ESMTPA id " in trace
    assert date == b"Tue, 14 Nov 2023 22:13:20 +0000"
    assert rest == b"Message-ID: <%b@mx.example.test>\r\n" % str(message.id).encode() + EDITED + came[len(HEADER) :]
    assert message.size == len(text)
    assert message.header.date == date.decode() and message.header.message_id == f"<{message.id}@mx.example.test>"
    assert message.envelope.options.submitter == str(ALICE)  # RFC 4954 §5
    assert message.large is (len(came) > SMALL)


def test_the_limit_counts_what_came() -> None:
    came = HEADER + b"x" * 998 + b"\r\n"
    message, text = submit(known(**USERS, message_size=len(came)), came)
    assert message.size == len(text) > len(came)
    session = known(**USERS, message_size=len(came) - 1)
    play(session, mail(ALICE), RcptTo(CAROL), DataCommand())
    assert session.handle(BodyEnd(came, bare=False)) == r.TOO_BIG
    large = (HEADER + b"x" * SMALL, b"y" * SMALL * 4, b"z\r\n")
    message, text = submit(known(**USERS, message_size=sum(map(len, large))), *large)
    assert message.size == len(text)
    session = known(**USERS, message_size=sum(map(len, large)) - 1)
    play(session, mail(ALICE), RcptTo(CAROL), DataCommand())
    for chunk in large[:-1]:
        assert isinstance(session.handle(BodyChunk(chunk)), Spill)
        session.answer(None)
    session.handle(BodyEnd(large[-1], bare=False))
    assert session.answer(None) == r.TOO_BIG


def test_a_name_in_a_blind_copy_makes_no_header_section_of_utf8() -> None:
    message, _ = submit(known(**USERS), b"Bcc: J\xc3\xbcrgen <j@x.example>\r\n\r\n")
    assert Octets.UTF8_HEADER not in message.octets


@pytest.mark.parametrize("session", [known(), ready(TRUSTED)], ids=["authenticated", "relay network"])
def test_a_listener_for_exchange_touches_nothing(session: Session) -> None:
    message, text = submit(session, HEADER + b"body\r\n")
    assert text.endswith(HEADER + b"body\r\n") and b"Message-ID" not in text
    assert message.envelope.options.submitter is None


# --- on the machine itself


def test_a_session_on_the_machine_needs_no_account() -> None:
    session = ready("", submitters=Submitters.MACHINE)
    message, text = submit(session, HEADER + b"body\r\n")
    assert message.envelope.sender == ALICE and message.envelope.options.submitter is None
    assert text.endswith(EDITED + b"body\r\n") and b"\r\nMessage-ID: <" in text
    assert play(session, mail(CAROL), RcptTo(replace(CAROL, domain=Domain("far")))) in (r.UNQUALIFIED, r.NESTED_MAIL)


# --- Idempotency-Key

KEYED = b"Idempotency-Key: order-17\r\n" + HEADER
WINDOW = 3600.0


def test_a_key_is_that_of_who_has_authenticated() -> None:
    one, text = submit(known(**USERS, key_window=WINDOW), KEYED + b"body\r\n")
    assert one.claim is not None and b"dempotency" not in text
    assert (one.claim.scope, one.claim.key) == (str(ALICE), "order-17")
    assert one.claim.until == one.received_at + WINDOW
    other, _ = submit(known(**USERS), b"Date: another\r\n" + KEYED + b"body\r\n")
    assert other.claim is not None and other.claim.fingerprint == one.claim.fingerprint
    third, _ = submit(known(**USERS), KEYED + b"another body\r\n")
    assert third.claim is not None and third.claim.fingerprint != one.claim.fingerprint


def test_on_the_machine_all_share_their_keys() -> None:
    message, _ = submit(ready(submitters=Submitters.MACHINE), KEYED + b"body\r\n")
    assert message.claim is not None and message.claim.scope == ""


def test_without_a_key_there_is_no_claim() -> None:
    assert submit(known(**USERS), HEADER + b"body\r\n")[0].claim is None


def test_a_listener_for_exchange_takes_no_key() -> None:
    message, text = submit(known(), KEYED + b"body\r\n")
    assert message.claim is None and text.endswith(KEYED + b"body\r\n")


@pytest.mark.parametrize("mode", [Mode.SAML, Mode.SOML])
def test_what_is_for_a_terminal_too_has_none(mode: Mode) -> None:
    session = known(**USERS, commands=dict.fromkeys(COMMANDS, Access.ON))
    assert play(session, mail(ALICE, mode=mode), RcptTo(BOB), DataCommand()) == r.START_DATA
    answer = session.handle(BodyEnd(KEYED + b"body\r\n", bare=False))
    assert isinstance(answer, Accept) and answer.message.claim is None
    assert b"dempotency" not in (answer.message.content or b"")


@pytest.mark.parametrize(
    ("fate", "reply"),
    [
        (None, None),
        (Repeated(MessageId(7)), r.queued_before(str(MessageId(7)))),
        (Taken(MessageId(7)), r.key_taken(str(MessageId(7)))),
        (SpoolFull("full"), r.NO_SPACE),
    ],
)
def test_what_it_comes_to(fate: Fate, reply: Reply | None) -> None:
    session = known(**USERS)
    message, _ = submit(session, KEYED + b"body\r\n")
    assert session.answer(fate) == (reply or r.queued(str(message.id)))
    assert session.between_transactions
