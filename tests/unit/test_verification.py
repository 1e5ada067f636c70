"""VRFY and EXPN for somebody who may ask: each kind of name, each reply, and the bounds."""

from __future__ import annotations

import re

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.core.reply import Reply
from pillarbox.engine.directory import Announced, CatchAll, MailingList, Snapshot
from pillarbox.engine.ports import AList, Ambiguous, Audience, Directory, Moved, User, Verification, Verified
from pillarbox.engine.verification import MAX_LINES, expn, parameter_fault, vrfy

HOST = Domain("mx.example.net")


def box(text: str) -> Mailbox:
    return Mailbox.parse(text)


def many(count: int) -> tuple[Mailbox, ...]:
    return tuple(box(f"u{n}@far.example") for n in range(count))


ALICE, BOB = box("alice@example.test"), box("bob@example.test")
FAR = box("carol@far.example")
HERE = Snapshot(
    domains=(Domain("example.test"), Domain("b.test")),
    relay_domains=(Domain("relay.test"),),
    users=(
        User(ALICE, "Alice Liddell"),
        User(BOB),
        User(box("king@example.test"), 'Lewis "Red" <King>, Jr.'),
        User(box("king@b.test"), "Zoë\tKing"),
        User(box("gone@example.test"), enabled=False),
        User(box("team@b.test"), "Team Lead"),
    ),
    aliases={box("sales@example.test"): (ALICE,), CatchAll(Domain("b.test")): (ALICE,)},
    forwards={box("roger@example.test"): Announced((FAR,)), box("dodo@example.test"): Moved(FAR)},
    lists={
        box("team@example.test"): MailingList((ALICE, FAR, box("sales@example.test"))),
        box("twice@example.test"): MailingList((ALICE,)),
        box("twice@b.test"): MailingList((ALICE,)),
        **{box(f"for-{audience.value}@example.test"): MailingList((ALICE,), expn=audience) for audience in Audience},
        box("large@example.test"): MailingList(many(MAX_LINES + 5), expn=Audience.ANYONE),
        box("empty@example.test"): MailingList((), expn=Audience.ANYONE),
    },
    hostname=HOST,
)
KINGS = (
    "553-5.1.4 User ambiguous; possibilities are",
    '553-5.1.4 Lewis "Red" <King>, Jr. <king@example.test>',
    "553 5.1.4 Zo??King <king@b.test>",
)


def lines(reply: Reply) -> tuple[str, ...]:
    return tuple(reply.wire.decode("ascii").removesuffix("\r\n").split("\r\n"))


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        ("<Alice@EXAMPLE.test>", ("250 2.1.5 Alice Liddell <alice@example.test>",)),
        ("liddell", ("250 2.1.5 Alice Liddell <alice@example.test>",)),
        ("Alice Liddell", ("250 2.1.5 Alice Liddell <alice@example.test>",)),
        ('"Alice Liddell"', ("250 2.1.5 Alice Liddell <alice@example.test>",)),
        ("bob", ("250 2.1.5 <bob@example.test>",)),
        ("sales@example.test", ("250 2.1.5 <sales@example.test>",)),
        ("postmaster@example.test", ("250 2.1.5 <postmaster@example.test>",)),
        ("Postmaster", ("250 2.1.5 <postmaster@example.test>",)),
        ("<postmaster>", ("250 2.1.5 <postmaster@example.test>",)),
        ("roger", ("251 2.1.5 User not local; will forward to <carol@far.example>",)),
        ("dodo@example.test", ("551 5.1.6 User not local; please try <carol@far.example>",)),
        ("gone", ("550 5.2.1 Mailbox disabled, not accepting messages",)),
        ("nobody@example.test", ("550 5.1.1 No such user here",)),
        ("nobody", ("550 5.1.1 No such user here",)),
        ("team@example.test", ("550 5.1.1 That is a mailing list, not a user",)),
        ("king", KINGS),
        ("u@relay.test", lines(r.CANNOT_VERIFY)),
        ("u@far.example", lines(r.CANNOT_VERIFY)),
        ("caught@b.test", lines(r.CANNOT_VERIFY)),
        ("@example.test", ("553 5.1.3 Illegal mailbox syntax",)),
        ("<a..b@example.test>", ("553 5.1.3 Illegal mailbox syntax",)),
        ("<>", ("553 5.1.3 Illegal mailbox syntax",)),
        ("Alice <alice@example.test>", ("553 5.1.3 Illegal mailbox syntax",)),
        ("alice@example.test SMTPUTF8", ("504 5.5.4 Command parameter not implemented",)),
        ("nobody FOO=1", ("504 5.5.4 Command parameter not implemented",)),
    ],
)
def test_vrfy(argument: str, reply: tuple[str, ...]) -> None:
    assert lines(vrfy(HERE, argument, hostname=HOST)) == reply


@pytest.mark.parametrize(
    ("argument", "user", "reply"),
    [
        (
            "team@example.test",
            ALICE,
            (
                "250-2.1.5 Alice Liddell <alice@example.test>",
                "250-2.1.5 <carol@far.example>",
                "250 2.1.5 <sales@example.test>",
            ),
        ),
        ("<TEAM@example.test>", BOB, ("550 5.7.2 Access denied to you",)),
        ("team@example.test", None, ("550 5.7.2 Access denied to you",)),
        # a word: only a list can be meant
        ("team", BOB, ("550 5.7.2 Access denied to you",)),
        ("twice", ALICE, ("550 5.1.4 More than one list has that name, give its address",)),
        ("king", ALICE, ("550 5.1.1 That is a user name, not a mailing list",)),
        ("for-anyone", None, ("250 2.1.5 Alice Liddell <alice@example.test>",)),
        # nothing that could be expanded
        ("alice", ALICE, ("550 5.1.1 That is a user name, not a mailing list",)),
        ("gone", ALICE, ("550 5.1.1 That is a user name, not a mailing list",)),
        ("sales@example.test", ALICE, ("550 5.1.1 That is a user name, not a mailing list",)),
        ("roger", ALICE, ("550 5.1.1 That is a user name, not a mailing list",)),
        ("dodo", ALICE, ("550 5.1.1 That is a user name, not a mailing list",)),
        ("nobody", ALICE, ("550 5.1.1 No such mailing list here",)),
        ("nobody@example.test", ALICE, ("550 5.1.1 No such mailing list here",)),
        ("list@far.example", ALICE, lines(r.CANNOT_EXPAND)),
        ("empty@example.test", ALICE, lines(r.CANNOT_EXPAND)),
        ("@example.test", ALICE, ("501 5.1.3 Illegal mailbox syntax",)),
        ("<team@example.test> FOO", ALICE, ("504 5.5.4 Command parameter not implemented",)),
    ],
)
def test_expn(argument: str, user: Mailbox | None, reply: tuple[str, ...]) -> None:
    assert lines(expn(HERE, argument, user=user)) == reply


@pytest.mark.parametrize(
    ("audience", "may"),
    [
        (Audience.NOBODY, ()),
        (Audience.MEMBERS, (ALICE,)),
        (Audience.AUTHENTICATED, (ALICE, BOB)),
        (Audience.ANYONE, (ALICE, BOB, None)),
    ],
)
def test_whom_a_list_shows_its_members(audience: Audience, may: tuple[Mailbox | None, ...]) -> None:
    codes = {user: expn(HERE, f"for-{audience.value}", user=user).code for user in (ALICE, BOB, None)}
    assert codes == {user: 250 if user in may else 550 for user in (ALICE, BOB, None)}


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ("alice", False),
        ("Alice Liddell", False),
        ("Alice Liddell Hargreaves", False),
        ("alice smtputf8", True),
        ("Alice Liddell FOO=1", True),
        ("Alice =1", False),
        ("SMTPUTF8", False),
        ("FOO=1", False),
        ("alice@example.test", False),
        ("alice@example.test   ", False),
        ("alice@example.test x", True),
        ("<alice@example.test>", False),
        ("<alice@example.test> ", False),
        ("<alice@example.test> x", True),
        ("<alice@example.test>x", True),
        ("<alice> x", True),
        ('"the king"@example.test', False),
        ('<"the > king"@example.test>', False),
        ('"the king"@example.test x', True),
        ('"the FOO=1 king"', False),
        (r'<"a\" > b"@example.test>', False),
        ('<"a@example.test x', True),
        ('"a@b.test x', True),
        ("", False),
    ],
)
def test_what_stands_behind_a_name(argument: str, fault: bool) -> None:
    assert parameter_fault(argument) is fault
    assert (vrfy(HERE, argument or "x", hostname=HOST).code == 504) is fault
    assert (expn(HERE, argument or "x", user=None).code == 504) is fault


@pytest.mark.parametrize(
    "argument", ["<" + '"' * 500, "<" + '""' * 250, '"' * 500, "<" + '"a' * 250, "\\" * 500, '<"' + "\\" * 500]
)
def test_a_nasty_argument_is_read_in_no_time(argument: str) -> None:
    parameter_fault(argument)
    assert vrfy(HERE, argument, hostname=HOST).code in (504, 550, 553)


def meaning(found: Verification) -> Directory:
    """A directory in which every name means the same."""

    class Mirror(Snapshot):
        def verify(self, name: str) -> Verification:
            return found

    return Mirror()


@pytest.mark.parametrize(("count", "shown"), [(MAX_LINES - 1, MAX_LINES - 1), (MAX_LINES, MAX_LINES - 2)])
def test_candidates_have_a_bound(count: int, shown: int) -> None:
    reply = vrfy(meaning(Ambiguous(tuple(map(Verified, many(count))))), "x", hostname=HOST)
    assert len(reply.lines) == MAX_LINES
    assert sum("@far.example>" in line for line in reply.lines) == shown
    assert (reply.lines[-1] == "and others") is (shown < count)


def test_members_have_a_bound() -> None:
    assert len(expn(HERE, "large", user=None).lines) == MAX_LINES


def test_a_long_name_is_cut_and_the_address_is_not() -> None:
    longest = Mailbox(LocalPart('"' * 64), Domain.parse(".".join(["d" * 61] * 4)))
    who = Verified(longest, "n" * 1000)
    for reply in (
        vrfy(meaning(who), "x", hostname=HOST),
        expn(meaning(AList((who,), Audience.ANYONE)), "x", user=None),
    ):
        assert reply.code == 250
        assert re.fullmatch(rf"n{{10,}} <{re.escape(str(longest))}>", reply.lines[0])
        assert len(lines(reply)[0]) <= 510


def test_a_name_of_nothing_is_no_name() -> None:
    assert vrfy(meaning(Verified(ALICE, " \t ")), "x", hostname=HOST).lines == ("<alice@example.test>",)
