"""Reception: who may send what to whom, quotas, lists, loops, and the four ways a message can go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Mode, Recipient
from pillarbox.core.reply import Reply
from pillarbox.engine.directory import list_owner
from pillarbox.engine.intake import SMALL
from pillarbox.engine.limits import Rate
from pillarbox.engine.ports import SpoolBroken, SpoolError, SpoolFull, User
from pillarbox.engine.questions import Accept, AskNullMx, AskSenderDomain, AskUsage, Drop, SenderDomain, Show
from pillarbox.engine.reception import MAX_TERMINAL
from pillarbox.engine.service import COMMANDS, Access, AuthOffer
from pillarbox.engine.session import Session
from pillarbox.sim.presence import ImaginedPresence
from pillarbox.smtp.events import BodyChunk, BodyEnd, DataCommand, Hello, RcptTo, Reset
from pillarbox.smtp.states import Verb
from tests.making import box
from tests.unit.test_session import (
    ALICE,
    BOB,
    CAROL,
    CLIENT,
    ERIN,
    FRANK,
    PEOPLE,
    STAFF,
    TEAM,
    TRUSTED,
    Answer,
    accept,
    known,
    mail,
    play,
    ready,
    service,
    spill,
)

TERMINALS = (Mode.SEND, Mode.SOML, Mode.SAML)
TO_ANYBODY = {**COMMANDS, Verb.SEND: Access.ON, Verb.SOML: Access.ON, Verb.SAML: Access.ON}
END = BodyEnd(b"Subject: Tea\r\n\r\nNow.\r\n", bare=False)


def offering(mode: Mode, peer: str = CLIENT, **changes: Any) -> Session:
    """A session in whose open transaction the message is to go that way."""
    session = ready(peer, **{"commands": TO_ANYBODY, **changes})
    assert session.handle(mail(mode=mode)) == r.SENDER_OK
    return session


# --- the sender


@pytest.mark.parametrize(
    ("fault", "reply"), [(SpoolFull("5 octets free"), r.NO_SPACE), (SpoolBroken("EIO"), r.SPOOL_FAULT)]
)
@pytest.mark.parametrize("mode", Mode)
def test_without_a_disk_no_message_begins(mode: Mode, fault: SpoolError, reply: Reply) -> None:
    asked: list[int] = []

    def refuses(octets: int) -> SpoolError | None:
        asked.append(octets)
        return fault

    session = ready(spool_fault=refuses, commands=TO_ANYBODY)
    assert session.handle(mail(size=77, mode=mode)) == reply
    assert asked == [77] and session.between_transactions


@pytest.mark.parametrize(
    ("found", "reply"),
    [
        (SenderDomain.GOOD, r.SENDER_OK),
        (SenderDomain.NONE, r.SENDER_UNKNOWN),
        (SenderDomain.NULL_MX, r.SENDER_NULL_MX),
        (SenderDomain.UNKNOWN, r.SENDER_UNCHECKED),
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_the_domain_of_the_sender_is_asked_for(mode: Mode, found: SenderDomain, reply: Reply) -> None:
    session = ready(checks_sender_domain=True, commands=TO_ANYBODY)
    assert session.handle(mail(CAROL, mode=mode)) == AskSenderDomain(Domain("elsewhere.example"))
    assert session.between_transactions
    assert session.answer(found) == reply
    assert session.between_transactions is (found is not SenderDomain.GOOD)
    if found is not SenderDomain.GOOD:
        assert session.handle(mail(None)) == r.SENDER_OK


@pytest.mark.parametrize(
    ("peer", "sender"),
    [
        (CLIENT, None),
        (CLIENT, ALICE),  # a domain of ours
        (CLIENT, box("x@[192.0.2.1]")),
        (TRUSTED, CAROL),
    ],
)
def test_whose_domain_is_not_asked_for(peer: str, sender: Mailbox | None) -> None:
    assert ready(peer, checks_sender_domain=True).handle(mail(sender)) == r.SENDER_OK


def test_the_domain_of_who_has_authenticated_is_not_asked_for() -> None:
    assert known(checks_sender_domain=True).handle(mail(CAROL)) == r.SENDER_OK
    assert ready(checks_sender_domain=False).handle(mail(CAROL)) == r.SENDER_OK


# --- RCPT


@pytest.mark.parametrize(("found", "reply"), [(False, r.RECIPIENT_OK), (True, r.RECIPIENT_NULL_MX)])
def test_the_domain_of_a_recipient_elsewhere_is_asked_for(found: bool, reply: Reply) -> None:
    session = ready(TRUSTED, checks_recipient_domain=True)
    assert session.handle(mail(None)) == r.SENDER_OK
    assert session.handle(RcptTo(CAROL)) == AskNullMx(Domain("elsewhere.example"))
    assert session.answer(found) == reply


@pytest.mark.parametrize(
    ("peer", "recipient", "reply"),
    [
        (TRUSTED, ALICE, r.RECIPIENT_OK),
        (TRUSTED, box("x@[192.0.2.1]"), r.RECIPIENT_OK),
        (TRUSTED, box("x@relayed.example"), r.RECIPIENT_OK),  # we are its MX
        (CLIENT, CAROL, r.RELAY_DENIED),
    ],
)
def test_for_whom_it_is_not(peer: str, recipient: Mailbox, reply: Reply) -> None:
    session = ready(peer, checks_recipient_domain=True)
    assert session.handle(mail(None)) == r.SENDER_OK
    assert session.handle(RcptTo(recipient)) == reply


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        ("x@relayed.example", r.RECIPIENT_OK),  # from anyone
        ("x@kept.example", r.RECIPIENT_OK),
        ("told@example.test", r.announced("carol@elsewhere.example")),
        ("moved@example.test", r.moved("carol@elsewhere.example")),
        ("dave@example.test", r.MAILBOX_DISABLED),
        ("round@example.test", r.BAD_FORWARDING),
        ("alice+tag@example.test", r.RECIPIENT_OK),
        ("ALICE@EXAMPLE.test", r.RECIPIENT_OK),
        ("postmaster@example.test", r.RECIPIENT_OK),
    ],
)
def test_rcpt(address: str, reply: Reply) -> None:
    assert play(ready(), mail(), RcptTo(box(address))) == reply


@pytest.mark.parametrize(
    ("address", "reached", "target"),
    [
        ("alice@[192.0.2.25]", "192.0.2.25", ALICE),
        ("Alice@[IPv6:2001:db8::25]", "2001:db8::25", ALICE),
        ("postmaster@[192.0.2.25]", "192.0.2.25", box("postmaster@example.test")),
        ("alice@[192.0.2.25]", "192.0.2.26", None),  # another host's
        ("alice@[192.0.2.25]", "", None),
        ("nobody@[192.0.2.25]", "192.0.2.25", None),
    ],
)
def test_the_address_that_was_reached_stands_for_this_host(address: str, reached: str, target: Mailbox | None) -> None:
    """RFC 1123 §5.2.17, RFC 5321 §2.3.4."""
    session = Session(service(), CLIENT, lambda: reached)
    answer = play(session, Hello("client.example", extended=True), mail(), RcptTo(box(address)))
    if target is None:
        assert isinstance(answer, Reply) and answer.code == 550
    else:
        assert answer == r.RECIPIENT_OK
        session.handle(DataCommand())
        assert [recipient.address for recipient in recipients(session.handle(END))] == [target]


def recipients(answer: Answer) -> list[Recipient]:
    return list(accept(answer).message.envelope.recipients)


def test_who_gets_it_and_in_whose_name() -> None:
    session = ready()
    told, tagged = box("told@example.test"), box("bob+tag@example.test")
    play(session, mail(), RcptTo(told), RcptTo(tagged), RcptTo(box("x@relayed.example")), DataCommand())
    assert recipients(session.handle(END)) == [
        Recipient(CAROL, told),
        Recipient(BOB, tagged),
        Recipient(box("x@relayed.example"), box("x@relayed.example")),
    ]


# --- lists


@pytest.mark.parametrize(
    ("address", "sender", "user", "may"),
    [
        (TEAM, ALICE, None, True),
        (TEAM, CAROL, None, True),
        (TEAM, BOB, None, False),
        (TEAM, None, None, False),
        (TEAM, BOB, PEOPLE[0], True),  # alice, whatever reverse-path she gives
        (TEAM, BOB, PEOPLE[1], False),
        (STAFF, ALICE, None, False),
        (STAFF, None, PEOPLE[1], True),
        (box("inner@example.test"), ALICE, None, False),  # goes on to both: all of them must permit it
        (box("inner@example.test"), ALICE, PEOPLE[1], True),
        (box("inner@example.test"), BOB, PEOPLE[1], False),
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_who_may_post(mode: Mode, address: Mailbox, sender: Mailbox | None, user: User | None, may: bool) -> None:
    changes: dict[str, Any] = {"commands": TO_ANYBODY, "presence": ImaginedPresence([ALICE])}
    session = ready(**changes) if user is None else known(user, **changes)
    session.handle(mail(sender, mode=mode))
    assert session.handle(RcptTo(address)) == (r.RECIPIENT_OK if may else r.MAY_NOT_POST)


def test_the_owner_of_a_list_stands_for_its_sender() -> None:
    """RFC 5321 §3.9.2, for the members alone."""
    session = ready()
    play(session, mail(ALICE), RcptTo(BOB), RcptTo(TEAM), DataCommand())
    assert recipients(session.handle(END)) == [
        Recipient(BOB, BOB),
        Recipient(ALICE, TEAM, list_owner(TEAM)),
        Recipient(CAROL, TEAM, list_owner(TEAM)),
    ]


def test_a_list_that_may_not_be_posted_to_is_a_probe() -> None:
    session = ready(probes=2)
    session.handle(mail(BOB))
    assert [session.handle(RcptTo(TEAM)) for _ in range(3)] == [r.MAY_NOT_POST] * 2 + [r.TOO_MANY_PROBES]


# --- quotas


@pytest.mark.parametrize(
    ("address", "usage", "size", "reply"),
    [
        (ERIN, 0, 0, r.RECIPIENT_OK),
        (ERIN, 800, 0, r.RECIPIENT_OK),
        (ERIN, 801, 0, r.MAILBOX_NEARLY_FULL),
        (ERIN, 1000, 0, r.MAILBOX_NEARLY_FULL),
        (ERIN, 1001, 0, r.MAILBOX_FULL),
        (ERIN, 700, 100, r.RECIPIENT_OK),
        (ERIN, 700, 101, r.MAILBOX_NEARLY_FULL),
        (ERIN, 700, 301, r.MAILBOX_FULL),
        (ERIN, None, 0, r.MAILBOX_UNREADABLE),
        (FRANK, 1000, 0, r.RECIPIENT_OK),  # no soft quota
        (FRANK, 1001, 0, r.MAILBOX_FULL),
        (box("also-erin@example.test"), 1001, 0, r.MAILBOX_FULL),
        (box("erin+tag@example.test"), 801, 0, r.MAILBOX_NEARLY_FULL),
    ],
)
@pytest.mark.parametrize("mode", [Mode.MAIL, Mode.SOML, Mode.SAML])
def test_quotas(mode: Mode, address: Mailbox, usage: int | None, size: int, reply: Reply) -> None:
    session = ready(commands=TO_ANYBODY)
    session.handle(mail(size=size, mode=mode))
    assert session.handle(RcptTo(address)) == AskUsage(FRANK if address == FRANK else ERIN)
    assert session.answer(usage) == reply
    play(session, RcptTo(ALICE), DataCommand())
    taken = {recipient.original for recipient in recipients(session.handle(END))}
    assert taken == {ALICE, address} if reply is r.RECIPIENT_OK else taken == {ALICE}


def test_without_a_quota_nobody_is_asked() -> None:
    assert play(ready(), mail(), RcptTo(ALICE)) == r.RECIPIENT_OK
    assert play(ready(), mail(), RcptTo(box("both@example.test"))) == r.RECIPIENT_OK


@pytest.mark.parametrize("usage", [900, 2000, None])
def test_a_full_mailbox_is_a_probe_like_any_other(usage: int | None) -> None:
    session = ready(probes=1)
    session.handle(mail())
    session.handle(RcptTo(ERIN))
    session.answer(usage)
    session.handle(RcptTo(ERIN))
    assert session.answer(usage) == r.TOO_MANY_PROBES


# --- DATA


@pytest.mark.parametrize(
    ("fault", "reply"),
    [(None, r.START_DATA), (SpoolBroken("EIO"), r.SPOOL_FAULT), (SpoolFull("full"), r.START_DATA)],
)
def test_data(fault: SpoolError | None, reply: Reply) -> None:
    faults: list[SpoolError | None] = [None, fault, None]
    session = ready(spool_fault=lambda octets: faults.pop(0))
    play(session, mail(), RcptTo(ALICE))
    assert session.handle(DataCommand()) == reply
    if reply is not r.START_DATA:
        assert not session.between_transactions
        assert session.handle(DataCommand()) == r.START_DATA  # the same transaction, once the disk is back


# --- loops (RFC 9228 §3)


def headed(*addresses: str) -> BodyEnd:
    return BodyEnd("".join(f"Delivered-To: {each}\r\n" for each in addresses).encode() + b"\r\nx\r\n", bare=False)


@pytest.mark.parametrize(
    ("address", "marks", "loops"),
    [
        ("away@example.test", ["away@example.test"], True),
        ("away@example.test", ["other@far.example", "AWAY@Example.TEST"], True),
        ("told@example.test", ["told@example.test"], True),
        ("team@example.test", ["team@example.test"], True),
        ("away@example.test", ["carol@elsewhere.example"], False),
        ("alice@example.test", ["alice@example.test"], False),  # not forwarded: it was read here, and sent again
        ("also-alice@example.test", ["alice@example.test"], False),
        ("away@example.test", ["told@example.test"], False),
    ],
)
def test_what_was_forwarded_before(address: str, marks: list[str], loops: bool) -> None:
    session = ready()
    play(session, mail(ALICE), RcptTo(box(address)), DataCommand())
    answer = session.handle(headed(*marks))
    if loops:
        assert answer == r.FORWARDING_LOOP
        assert session.between_transactions
    else:
        accept(answer)


def test_a_large_message_that_loops_is_dropped() -> None:
    session = ready()
    play(session, mail(), RcptTo(box("away@example.test")), DataCommand())
    head = b"Delivered-To: away@example.test\r\n\r\n"
    question = spill(session.handle(BodyChunk(head + b"x" * SMALL)))
    assert session.answer(None) is None
    assert session.handle(END) == Drop(question.message)
    assert session.answer(None) == r.FORWARDING_LOOP
    assert session.between_transactions


def test_a_loop_through_two_aliases_is_found_in_its_second_round() -> None:
    """Each of them leaves its mark when it passes the message on."""
    marks: list[str] = []
    for address in ("away@example.test", "told@example.test", "away@example.test"):
        session = ready()
        play(session, mail(), RcptTo(box(address)), DataCommand())
        answer = session.handle(headed(*marks))
        marks.append(address)
    assert answer == r.FORWARDING_LOOP


# --- terminals (RFC 821 §3.4): who may, and how often


@pytest.mark.parametrize("mode", TERMINALS)
def test_who_may_send_to_terminals(mode: Mode) -> None:
    for access, stranger, trusted in ((Access.AUTH, 530, 530), (Access.TRUSTED, 530, 250), (Access.ON, 250, 250)):
        commands = {**COMMANDS, Verb[mode.value]: access}
        for peer, code in ((CLIENT, stranger), (TRUSTED, trusted)):
            answer = ready(peer, commands=commands).handle(mail(mode=mode))
            assert isinstance(answer, Reply) and answer.code == code, (access, peer)
        assert known(commands=commands).handle(mail(mode=mode)) == r.SENDER_OK


@pytest.mark.parametrize(
    ("mode", "size", "reply"),
    [
        (Mode.SEND, MAX_TERMINAL, r.SENDER_OK),
        (Mode.SEND, MAX_TERMINAL + 1, r.TOO_BIG),
        (Mode.SOML, MAX_TERMINAL + 1, r.SENDER_OK),
        (Mode.SAML, MAX_TERMINAL + 1, r.SENDER_OK),
        (Mode.SOML, 1_000_001, r.TOO_BIG),
        (Mode.SAML, 1_000_001, r.TOO_BIG),
    ],
)
def test_how_large_it_may_be(mode: Mode, size: int, reply: Reply) -> None:
    assert ready(commands=TO_ANYBODY).handle(mail(size=size, mode=mode)) == reply


def test_how_often_one_sender_may() -> None:
    rate = Rate(3)
    session = ready(terminal_rate=rate, commands=TO_ANYBODY)
    for mode in TERMINALS:
        assert session.handle(mail(mode=mode)) == r.SENDER_OK
        session.handle(Reset())
    assert {session.handle(mail(mode=mode)) for mode in TERMINALS} == {r.TOO_MANY_SHOWN}
    assert session.handle(mail()) == r.SENDER_OK  # mail is not what is counted
    again = ready(terminal_rate=rate, commands=TO_ANYBODY)
    assert again.handle(mail(mode=Mode.SEND)) == r.TOO_MANY_SHOWN  # nor does another session help
    other = known(terminal_rate=rate, commands=TO_ANYBODY)
    assert other.handle(mail(mode=Mode.SEND)) == r.SENDER_OK


# --- SEND


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        ("alice@example.test", r.RECIPIENT_OK),
        ("bob@example.test", r.NOT_ACTIVE),
        ("both@example.test", r.RECIPIENT_OK),  # one of them is there
        ("also-alice@example.test", r.RECIPIENT_OK),
        ("erin@example.test", r.NOT_ACTIVE),  # and no quota is asked for
        ("away@example.test", r.NO_TERMINAL_ELSEWHERE),
        ("told@example.test", r.NO_TERMINAL_ELSEWHERE),
        ("x@relayed.example", r.NO_TERMINAL_ELSEWHERE),
        ("postmaster@example.test", r.NOT_ACTIVE),
        ("nobody@example.test", r.NO_SUCH_USER),
        ("dave@example.test", r.MAILBOX_DISABLED),
        ("moved@example.test", r.moved("carol@elsewhere.example")),
        ("x@far.example", r.RELAY_DENIED),
    ],
)
def test_whom_send_reaches(address: str, reply: Reply) -> None:
    session = offering(Mode.SEND, presence=ImaginedPresence([ALICE]))
    assert session.handle(RcptTo(box(address))) == reply


def test_send_goes_nowhere_else_even_for_who_may_relay() -> None:
    session = offering(Mode.SEND, TRUSTED)
    assert session.handle(RcptTo(box("x@far.example"))) == r.NO_TERMINAL_ELSEWHERE


def test_send_to_a_list_reaches_the_members_who_are_here_and_active() -> None:
    session = ready(commands=TO_ANYBODY, presence=ImaginedPresence([ALICE, BOB]))
    play(session, mail(CAROL, mode=Mode.SEND), RcptTo(TEAM))
    session.handle(DataCommand())
    show = session.handle(END)
    assert isinstance(show, Show) and show.users == (ALICE,)


@pytest.mark.parametrize("address", ["alice@example.test", "away@example.test"])
def test_who_is_not_active_is_a_probe(address: str) -> None:
    session = offering(Mode.SEND, probes=1)
    session.handle(RcptTo(box(address)))
    assert session.handle(RcptTo(box(address))) == r.TOO_MANY_PROBES


def sent(*targets: Mailbox, mode: Mode, presence: ImaginedPresence, **changes: Any) -> Session:
    session = offering(mode, presence=presence, **changes)
    for target in targets:
        assert session.handle(RcptTo(target)) == r.RECIPIENT_OK
    assert session.handle(DataCommand()) == r.START_DATA
    return session


@pytest.mark.parametrize(
    ("shown", "reply"),
    [({ALICE, BOB}, r.SHOWN), ({ALICE}, r.NOT_SHOWN), (set(), r.NOT_SHOWN)],
)
def test_send_is_done_when_everybody_has_it_on_a_terminal(shown: set[Mailbox], reply: Reply) -> None:
    session = sent(ALICE, BOB, mode=Mode.SEND, presence=ImaginedPresence([ALICE, BOB]))
    show = session.handle(END)
    assert isinstance(show, Show) and show.users == (ALICE, BOB)
    lines = show.text.splitlines()
    assert lines[0].startswith("Message from bob@example.test via 192.0.2.7 at ") and lines[0].endswith("(SEND) ...")
    assert lines[1:] == ["Subject: Tea", "", "Now.", "EOF"]
    assert not session.between_transactions
    assert session.answer(frozenset(shown)) == reply
    assert session.between_transactions


@pytest.mark.parametrize("left", [[], [ALICE]])
def test_a_terminal_gone_before_the_dot_leaves_all_unshown(left: list[Mailbox]) -> None:
    presence = ImaginedPresence([ALICE, BOB])
    session = sent(ALICE, BOB, mode=Mode.SEND, presence=presence)
    for user in {ALICE, BOB} - set(left):
        presence.close(user)
    assert session.handle(END) == r.NOT_SHOWN
    assert session.between_transactions


def test_send_takes_no_more_than_a_terminal() -> None:
    session = sent(ALICE, mode=Mode.SEND, presence=ImaginedPresence([ALICE]))
    text = b"Subject: x\r\n\r\n" + b"x" * (MAX_TERMINAL - 14)
    assert session.handle(BodyChunk(text)) is None
    assert isinstance(session.handle(BodyEnd(b"", bare=False)), Show)
    session = sent(ALICE, mode=Mode.SEND, presence=ImaginedPresence([ALICE]))
    assert session.handle(BodyChunk(text)) is None
    assert session.handle(BodyEnd(b"x", bare=False)) == r.TOO_BIG


@pytest.mark.parametrize("mode", TERMINALS)
def test_a_faulty_message_is_shown_to_nobody(mode: Mode) -> None:
    session = sent(ALICE, mode=mode, presence=ImaginedPresence([ALICE]))
    assert session.handle(BodyEnd(b"a\n", bare=True)) == r.BARE_OCTET_IN_DATA
    looping = b"Received: from a by b\r\n" * 100
    session = sent(ALICE, mode=mode, presence=ImaginedPresence([ALICE]))
    assert session.handle(BodyEnd(looping + b"\r\n", bare=False)) == r.LOOP


# --- SOML and SAML


@pytest.mark.parametrize("mode", [Mode.SOML, Mode.SAML])
@pytest.mark.parametrize("address", ["bob@example.test", "away@example.test", "x@relayed.example", "both@example.test"])
def test_where_nobody_has_a_terminal_it_is_mail(mode: Mode, address: str) -> None:
    session = sent(box(address), mode=mode, presence=ImaginedPresence([CAROL]))
    message = accept(session.handle(END)).message
    assert session.answer(None) == r.queued(str(message.id))
    assert session.between_transactions


def test_soml_on_the_terminals_of_all_is_not_stored() -> None:
    session = sent(ALICE, BOB, mode=Mode.SOML, presence=ImaginedPresence([ALICE, BOB]))
    show = session.handle(END)
    assert isinstance(show, Show) and "(SOML)" in show.text
    assert session.answer(frozenset((ALICE, BOB))) == r.SHOWN
    assert session.between_transactions


@pytest.mark.parametrize("shown", [{ALICE}, set()])
def test_soml_goes_to_the_mailboxes_of_the_others(shown: set[Mailbox]) -> None:
    team = box("both@example.test")
    session = sent(team, box("away@example.test"), mode=Mode.SOML, presence=ImaginedPresence([ALICE]))
    show = session.handle(END)
    assert isinstance(show, Show) and show.users == (ALICE,)
    message = accept(session.answer(frozenset(shown))).message
    addresses = [recipient.address for recipient in message.envelope.recipients]
    assert addresses == [*([] if shown else [ALICE]), BOB, CAROL]
    assert not session.between_transactions
    assert session.answer(None) == r.queued(str(message.id))
    assert session.between_transactions


def test_saml_is_in_the_mailbox_before_it_is_shown() -> None:
    session = sent(ALICE, BOB, mode=Mode.SAML, presence=ImaginedPresence([ALICE]))
    message = accept(session.handle(END)).message
    assert [recipient.address for recipient in message.envelope.recipients] == [ALICE, BOB]
    show = session.answer(None)
    assert isinstance(show, Show) and show.users == (ALICE,) and "(SAML)" in show.text
    assert not session.between_transactions
    assert session.answer(frozenset()) == r.queued(str(message.id))  # shown or not, the mailbox has it
    assert session.between_transactions


@pytest.mark.parametrize(("fault", "reply"), [(SpoolFull("full"), r.NO_SPACE), (SpoolBroken("EIO"), r.SPOOL_FAULT)])
@pytest.mark.parametrize(
    ("mode", "before"), [(Mode.SAML, None), (Mode.SOML, lambda session: session.answer(frozenset()))]
)
def test_what_the_mailbox_does_not_take_is_refused(
    mode: Mode, before: Callable[[Session], Answer] | None, fault: SpoolError, reply: Reply
) -> None:
    session = sent(ALICE, mode=mode, presence=ImaginedPresence([ALICE]))
    question = session.handle(END)
    accept(question if before is None else before(session))
    assert session.answer(fault) == reply  # and SAML shows nothing that will come again
    assert session.between_transactions


@pytest.mark.parametrize("mode", [Mode.SOML, Mode.SAML])
@pytest.mark.parametrize("extra", [0, 1])
def test_what_is_too_large_for_a_terminal_is_mail(mode: Mode, extra: int) -> None:
    session = sent(ALICE, mode=mode, presence=ImaginedPresence([ALICE]))
    session.handle(BodyChunk(b"Subject: x\r\n\r\n" + b"x" * (MAX_TERMINAL - 14)))
    answer = session.handle(BodyEnd(b"x" * extra, bare=False))
    if mode is Mode.SOML and not extra:
        assert isinstance(answer, Show)
    else:
        message = accept(answer).message
        following = session.answer(None)
        assert isinstance(following, Show) if not extra else following == r.queued(str(message.id))


def test_a_large_message_of_soml_is_spilled_as_any_other() -> None:
    session = sent(ALICE, mode=Mode.SOML, presence=ImaginedPresence([ALICE]))
    question = spill(session.handle(BodyChunk(b"Subject: x\r\n\r\n" + b"x" * SMALL)))
    assert session.answer(None) is None
    message = accept(session.handle(BodyEnd(b"x", bare=False))).message
    assert (message.large, message.id) == (True, question.message)


@pytest.mark.parametrize("mode", TERMINALS)
def test_who_goes_away_while_it_is_shown_leaves_nothing_to_drop(mode: Mode) -> None:
    session = sent(ALICE, mode=mode, presence=ImaginedPresence([ALICE]))
    answer = session.handle(END)
    if isinstance(answer, Accept):
        answer = session.answer(None)
    assert isinstance(answer, Show)
    assert session.abandon() is None


def test_mail_shows_nothing() -> None:
    session = sent(ALICE, mode=Mode.MAIL, presence=ImaginedPresence([ALICE]), auth=AuthOffer.OFF)
    message = accept(session.handle(END)).message
    assert session.answer(None) == r.queued(str(message.id))
