"""Who is here: look-ups, aliases, forwards, lists, catch-alls, the postmaster, and the names of people."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pillarbox.core.address import AddressError, Domain, LocalPart, Mailbox
from pillarbox.engine.directory import Announced, CatchAll, MailingList, Snapshot, list_owner, parse_alias_address
from pillarbox.engine.names import MAX_FOUND
from pillarbox.engine.ports import (
    Accepted,
    AList,
    Ambiguous,
    Audience,
    Circular,
    Directory,
    Disabled,
    Forwarded,
    Moved,
    NoSuchUser,
    NotLocal,
    Posting,
    Relayed,
    Resolution,
    Unverifiable,
    User,
    Verification,
    Verified,
)
from pillarbox.engine.ways import MAX_TARGETS

HOST = Domain.parse("mx.example.net")


def box(text: str) -> Mailbox:
    return Mailbox.parse(text)


def snapshot(
    users: tuple[str, ...] = (),
    aliases: Mapping[str, tuple[str, ...]] | None = None,
    *,
    domains: tuple[str, ...] = ("example.test", "second.test"),
    hostname: Domain | None = HOST,
) -> Snapshot:
    return Snapshot(
        tuple(map(Domain.parse, domains)),
        tuple(User(box(user)) for user in users),
        {parse_alias_address(name): tuple(map(box, targets)) for name, targets in (aliases or {}).items()},
        hostname,
    )


def accepted(*addresses: str) -> Accepted:
    return Accepted(tuple(map(box, addresses)))


HERE: Directory = snapshot(
    ("Alice@example.test", "bob@second.test"),
    {
        "sales@example.test": (
            "ALICE@example.test",
            "bob@second.test",
            "carol@elsewhere.example",
            "alice@example.test",
        ),
        "team@example.test": ("sales@example.test", "bob@second.test", "Dave@elsewhere.example"),
        "ghost@example.test": ("nobody@example.test",),
        "half@example.test": ("nobody@example.test", "alice@example.test"),
        "a@example.test": ("b@example.test", "alice@example.test"),
        "b@example.test": ("a@example.test",),
        "diamond@example.test": ("left@example.test", "right@example.test"),
        "left@example.test": ("bottom@example.test",),
        "right@example.test": ("bottom@example.test",),
        "bottom@example.test": ("bob@second.test",),
        "master@example.test": ("Postmaster@second.test",),
        "literal@example.test": ("root@[192.0.2.1]",),
        "@second.test": ("alice@example.test",),
    },
)


@pytest.mark.parametrize(
    ("address", "resolution"),
    [
        ("alice@example.test", accepted("Alice@example.test")),
        ("aLiCe@EXAMPLE.test", accepted("Alice@example.test")),
        ('"alice"@example.test', accepted("Alice@example.test")),
        ("bob@second.test", accepted("bob@second.test")),
        ("anybody@second.test", accepted("Alice@example.test")),
        ("sales@example.test", accepted("Alice@example.test", "bob@second.test", "carol@elsewhere.example")),
        (
            "TEAM@example.test",
            accepted("Alice@example.test", "bob@second.test", "carol@elsewhere.example", "Dave@elsewhere.example"),
        ),
        ("half@example.test", accepted("Alice@example.test")),
        ("ghost@example.test", Circular()),
        ("a@example.test", Circular()),
        ("diamond@example.test", accepted("bob@second.test")),
        ("master@example.test", accepted("Alice@example.test")),
        ("literal@example.test", accepted("root@[192.0.2.1]")),
        ("nobody@example.test", NoSuchUser()),
        ("alice@elsewhere.example", NotLocal()),
        ("alice@[192.0.2.1]", NotLocal()),
        ("alice@mx.example.net", NotLocal()),
        ("PostMaster@example.test", accepted("postmaster@example.test")),
        ("postmaster@second.test", accepted("Alice@example.test")),
        ("POSTMASTER@mx.example.net", accepted("postmaster@example.test")),
        ("postmaster@elsewhere.example", NotLocal()),
    ],
)
def test_resolve(address: str, resolution: Resolution) -> None:
    assert HERE.resolve(box(address)) == resolution


def test_is_local() -> None:
    assert HERE.is_local(Domain.parse("Example.TEST"))
    assert not HERE.is_local(HOST)


@pytest.mark.parametrize(
    ("users", "aliases", "address", "resolution"),
    [
        # The postmaster as user, as alias, and behind an alias that leads nowhere (RFC 5321 §4.5.1).
        (("Postmaster@example.test",), {}, "postmaster@mx.example.net", accepted("Postmaster@example.test")),
        (
            ("postmaster@example.test",),
            {"@example.test": ("x@far.example",)},
            "postmaster@mx.example.net",
            accepted("postmaster@example.test"),
        ),
        ((), {"postmaster@example.test": ("x@far.example",)}, "postmaster@mx.example.net", accepted("x@far.example")),
        ((), {"postmaster@example.test": ("x@example.test",)}, "Postmaster@example.test", None),
        ((), {"postmaster@example.test": ("postmaster@example.test",)}, "Postmaster@example.test", None),
        ((), {"all@example.test": ("postmaster@second.test",)}, "all@example.test", accepted("postmaster@second.test")),
        # A catch-all whose target is caught by it again.
        ((), {"@example.test": ("x@example.test",)}, "y@example.test", Circular()),
        ((), {"all@example.test": ()}, "all@example.test", Circular()),
    ],
)
def test_postmaster_and_catch_all(
    users: tuple[str, ...], aliases: dict[str, tuple[str, ...]], address: str, resolution: Resolution | None
) -> None:
    expected = accepted("postmaster@example.test") if resolution is None else resolution
    assert snapshot(users, aliases).resolve(box(address)) == expected


def test_without_a_local_domain_the_host_name_is_the_one() -> None:
    alone = snapshot(domains=())
    assert alone.resolve(box("Postmaster@mx.example.net")) == accepted("postmaster@mx.example.net")
    assert alone.resolve(box("alice@mx.example.net")) == NoSuchUser()
    assert alone.is_local(HOST)
    nothing = snapshot(domains=(), hostname=None)
    assert nothing.resolve(box("postmaster@mx.example.net")) == NotLocal()


@pytest.mark.parametrize(("length", "good"), [(10, True), (11, False)])
def test_aliases_of_aliases_have_a_bound(length: int, good: bool) -> None:
    chain = {f"a{n}@example.test": (f"a{n + 1}@example.test",) for n in range(length)}
    resolution = snapshot((f"a{length}@example.test",), chain).resolve(box("a0@example.test"))
    assert resolution == (accepted(f"a{length}@example.test") if good else Circular())


@pytest.mark.parametrize(("count", "good"), [(MAX_TARGETS, True), (MAX_TARGETS + 1, False)])
def test_targets_have_a_bound(count: int, good: bool) -> None:
    many = tuple(f"u{n}@far.example" for n in range(count))
    resolution = snapshot(aliases={"all@example.test": many}).resolve(box("all@example.test"))
    assert resolution == (accepted(*many) if good else Circular())


def test_a_thicket_of_aliases_is_walked_once() -> None:
    layers = {
        f"n{layer}-{n}@example.test": tuple(f"n{layer + 1}-{m}@example.test" for m in range(20))
        for layer in range(9)
        for n in range(20)
    }
    users = tuple(f"n9-{n}@example.test" for n in range(20))
    assert snapshot(users, layers).resolve(box("n0-0@example.test")) == accepted(*users)


@pytest.mark.parametrize("source", ["alice@example.test", "@example.test"])
def test_alias_addresses_are_read_and_printed(source: str) -> None:
    assert str(parse_alias_address(source)) == source
    assert isinstance(parse_alias_address(source), CatchAll) == source.startswith("@")


@pytest.mark.parametrize("source", ["", "@", "alice", "@-x-"])
def test_what_is_no_alias_address(source: str) -> None:
    with pytest.raises(AddressError):
        parse_alias_address(source)


def test_everybody_is_in_a_local_domain() -> None:
    with pytest.raises(ValueError, match=r"bob@far\.example is in no local domain"):
        snapshot(("bob@far.example",))
    with pytest.raises(ValueError, match=r"@far\.example is in no local domain"):
        snapshot((), {"@far.example": ("bob@example.test",)})


# --- everything that an address can be

ALICE, BOB, CAROL = (
    User(box("Alice@example.test"), "Alice Liddell"),
    User(box("bob@example.test")),
    User(box("c@b.test")),
)
FAR = box("x@far.example")
TOWN = Snapshot(
    domains=(Domain("example.test"), Domain("b.test")),
    relay_domains=(Domain("relay.test"), Domain("kept.test")),
    users=(
        ALICE,
        BOB,
        User(box("gone@example.test"), enabled=False),
        User(box("owner@example.test"), owns=(Domain("kept.test"),)),
        CAROL,
    ),
    aliases={
        box("sales@example.test"): (box("alice@example.test"), box("gone@example.test")),
        box("asleep@example.test"): (box("gone@example.test"),),
        box("tolist@example.test"): (box("team@example.test"), box("bob@example.test")),
        box("tagged@example.test"): (box("bob+tag@example.test"),),
        box("past@example.test"): (box("dodo@example.test"),),
        box("away@example.test"): (box("u@relay.test"),),
        box("self@example.test"): (box("self+tag@example.test"),),
        CatchAll(Domain("b.test")): (box("alice@example.test"),),
    },
    forwards={
        box("roger@example.test"): Announced((FAR, box("bob@example.test"))),
        box("dodo@example.test"): Moved(FAR),
        box("ring@example.test"): Announced((box("ring@example.test"),)),
    },
    lists={
        box("team@example.test"): MailingList(
            (box("alice@example.test"), box("inner@example.test"), box("nobody@example.test"), FAR),
            post=Audience.MEMBERS,
        ),
        box("inner@example.test"): MailingList((box("bob@example.test"), box("gone@example.test")), Audience.NOBODY),
        box("empty@example.test"): MailingList((box("nobody@example.test"),)),
        box("round@example.test"): MailingList((box("bob@example.test"), box("round@example.test"))),
        box("loud@b.test"): MailingList((FAR,)),
    },
    hostname=HOST,
)
TEAM_OWNER, INNER_OWNER = box("team-owner@example.test"), box("inner-owner@example.test")
TEAM_POSTING = Posting(
    Audience.MEMBERS,
    frozenset((ALICE.mailbox, *map(box, ("alice@example.test", "inner@example.test", "nobody@example.test")), FAR)),
)
INNER_POSTING = Posting(Audience.ANYONE, frozenset((BOB.mailbox, box("gone@example.test"))))
TEAM = Accepted(
    (ALICE.mailbox, BOB.mailbox, FAR),
    owners={ALICE.mailbox: TEAM_OWNER, BOB.mailbox: INNER_OWNER, FAR: TEAM_OWNER},
    postings=(TEAM_POSTING, INNER_POSTING),
)


@pytest.mark.parametrize(
    ("address", "resolution"),
    [
        ("gone@example.test", Disabled()),
        ("GONE+tag@example.test", Disabled()),
        ("sales@example.test", accepted("Alice@example.test")),
        ("asleep@example.test", Circular()),
        ("u@relay.test", Relayed()),
        ("postmaster@relay.test", Relayed()),
        ("u@kept.test", Relayed()),
        ("away@example.test", accepted("u@relay.test")),
        ("roger@example.test", Accepted((FAR, BOB.mailbox), announced=FAR)),
        ("roger+tag@example.test", Accepted((FAR, BOB.mailbox), announced=FAR)),
        ("ring@example.test", Circular()),
        ("dodo@example.test", Moved(FAR)),
        ("Dodo+tag@example.test", Moved(FAR)),
        ("past@example.test", Circular()),
        ("alice+a+b@EXAMPLE.test", accepted("Alice@example.test")),
        ("tagged@example.test", accepted("bob@example.test")),
        ("self@example.test", Circular()),
        ("+tag@example.test", NoSuchUser()),
        ("nobody+tag@example.test", NoSuchUser()),
        ("nobody+tag@b.test", accepted("Alice@example.test")),
        ("c+tag@b.test", accepted("c@b.test")),
        ("team@example.test", TEAM),
        ("Team+tag@example.test", TEAM),
        ("empty@example.test", Circular()),
        ("round@example.test", Circular()),
        # behind an alias the list is still a list, and who was met there is not met again
        ("tolist@example.test", TEAM),
        # who gets its bounces: the postmaster of its domain (RFC 5321 §3.9.2, §4.5.1)
        ("team-owner@example.test", accepted("postmaster@example.test")),
        ("loud-owner@b.test", accepted("Alice@example.test")),
        ("sales-owner@example.test", NoSuchUser()),
        ("postmaster+tag@example.test", accepted("postmaster@example.test")),
        ("postmaster@mx.example.net", accepted("postmaster@example.test")),
    ],
)
def test_what_an_address_can_be(address: str, resolution: Resolution) -> None:
    assert TOWN.resolve(box(address)) == resolution
    assert TOWN.resolve(box(address)) == resolution, "asked again"


def test_a_user_costs_one_look_up() -> None:
    assert TOWN.resolve(box("alice@example.test")) is TOWN.resolve(box("ALICE@example.test"))


def test_the_owner_of_a_list_may_be_somebody_else() -> None:
    lists = {box("team@example.test"): MailingList((BOB.mailbox,))}
    domains = (Domain("example.test"),)
    owner = list_owner(box("team@example.test"))
    as_user = Snapshot(domains, (BOB, User(owner)), lists=lists)
    assert as_user.resolve(owner) == Accepted((owner,))
    as_alias = Snapshot(domains, (BOB,), {owner: (BOB.mailbox,)}, lists=lists)
    assert as_alias.resolve(owner) == Accepted((BOB.mailbox,))
    # the postmaster's alias is the list
    around = Snapshot(domains, (BOB,), {box("postmaster@example.test"): (box("team@example.test"),)}, lists=lists)
    found = around.resolve(owner)
    assert isinstance(found, Accepted) and found.targets == (BOB.mailbox,)


def test_a_disabled_postmaster_takes_mail() -> None:
    """RFC 5321 §4.5.1."""
    here = Snapshot((Domain("example.test"),), (User(box("Postmaster@example.test"), enabled=False),))
    assert here.resolve(box("postmaster@example.test")) == accepted("Postmaster@example.test")


def test_a_relay_domain_of_the_hosts_own_name() -> None:
    here = Snapshot((Domain("example.test"),), hostname=HOST, relay_domains=(HOST,))
    assert here.resolve(box("postmaster@mx.example.net")) == Relayed()
    alone = Snapshot(hostname=HOST, relay_domains=(HOST,))
    assert not alone.is_local(HOST) and alone.resolve(box("a@mx.example.net")) == Relayed()


@pytest.mark.parametrize(("domain", "local", "keeps"), [("kept.test", False, True), ("relay.test", False, False)])
def test_whose_mail_is_kept(domain: str, local: bool, keeps: bool) -> None:
    assert TOWN.keeps(Domain(domain)) is keeps
    assert TOWN.is_local(Domain(domain)) is local


@pytest.mark.parametrize(
    "given",
    [
        {"forwards": {FAR: Moved(ALICE.mailbox)}},
        {"lists": {FAR: MailingList((ALICE.mailbox,))}},
        {"relay_domains": (Domain("far.example"),), "users": (User(FAR),)},
    ],
)
def test_whoever_has_an_address_is_in_a_local_domain(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"x@far\.example is in no local domain"):
        Snapshot(domains=(Domain("example.test"),), **given)  # type: ignore[arg-type]


# --- names


@pytest.mark.parametrize(
    ("address", "user"),
    [
        ("aLICE@example.test", ALICE),
        ("gone@example.test", TOWN.users[2]),
        ("alice+tag@example.test", None),
        ("sales@example.test", None),
        ("alice@far.example", None),
    ],
)
def test_users_of_exactly_an_address(address: str, user: User | None) -> None:
    assert TOWN.user(box(address)) == user


SAME = Snapshot(
    domains=(Domain("a.test"), Domain("b.test"), Domain("c.test")),
    users=tuple(map(User, map(box, ("x@c.test", "Only@c.test", "X@b.test", "y@b.test", "y@c.test")))),
    aliases={box("y@a.test"): (box("x@c.test"),)},
)


@pytest.mark.parametrize(
    ("name", "mailbox"),
    [
        ("only", "Only@c.test"),
        ("x", "X@b.test"),
        ("Y", "y@b.test"),
        ("x@C.test", "x@c.test"),
        ("y@a.test", None),
        ("nobody", None),
        ("", None),
        ("@", None),
        ("x@b@c", None),
        ("x@" + "b" * 300, None),
    ],
)
def test_login_names(name: str, mailbox: str | None) -> None:
    found = SAME.login(name)
    assert (None if found is None else str(found.mailbox)) == mailbox


CROWD = Snapshot(
    domains=(Domain("example.test"), Domain("b.test")),
    relay_domains=(Domain("relay.test"),),
    users=(
        User(box("alice@example.test"), "Alice Liddell"),
        User(box("king@example.test"), 'Lewis "Red" King, Jr.'),
        User(box("al@b.test"), "Alice  Pleasance Hargreaves"),
        User(box("king@b.test"), "O'Neill king"),
        User(box("gone@example.test"), "Dinah Gone", enabled=False),
        User(box("z@example.test"), "Zoë"),
    ),
    aliases={
        box("sales@example.test"): (box("alice@example.test"),),
        box("dead@example.test"): (box("nobody@example.test"),),
        CatchAll(Domain("b.test")): (box("alice@example.test"),),
    },
    forwards={
        box("roger@example.test"): Announced((FAR, box("king@b.test"))),
        box("dodo@example.test"): Moved(FAR),
        box("sales@b.test"): Moved(FAR),
    },
    lists={
        box("team@example.test"): MailingList((box("ALICE@example.test"), FAR, box("sales@example.test"))),
        box("open@b.test"): MailingList((FAR,), expn=Audience.ANYONE),
    },
    hostname=HOST,
)
LIDDELL = Verified(box("alice@example.test"), "Alice Liddell")
KING, ONEILL = (Verified(user.mailbox, user.full_name) for user in (CROWD.users[1], CROWD.users[3]))
HARGREAVES = Verified(box("al@b.test"), "Alice  Pleasance Hargreaves")


def plain(address: str) -> Verified:
    return Verified(box(address))


@pytest.mark.parametrize(
    ("name", "verification"),
    [
        # addresses
        ("ALICE@example.test", LIDDELL),
        ("<alice@example.test>", LIDDELL),
        ("  < alice@example.test >", LIDDELL),
        ("alice+tag@example.test", LIDDELL),
        ("gone@example.test", Disabled()),
        ("sales@example.test", plain("sales@example.test")),
        ("dead@example.test", plain("dead@example.test")),
        ("roger@example.test", Forwarded(FAR)),
        ("dodo@example.test", Moved(FAR)),
        ("team@example.test", AList((LIDDELL, Verified(FAR), plain("sales@example.test")), Audience.MEMBERS)),
        ("open@b.test", AList((Verified(FAR),), Audience.ANYONE)),
        ("nobody@example.test", NoSuchUser()),
        ("nobody@b.test", Unverifiable()),
        ("u@relay.test", Unverifiable()),
        ("x@far.example", Unverifiable()),
        ("x@[192.0.2.1]", Unverifiable()),
        ("postmaster@example.test", plain("postmaster@example.test")),
        ("POSTMASTER@b.test", plain("postmaster@b.test")),
        ("postmaster@mx.example.net", plain("postmaster@example.test")),
        ("team-owner@example.test", plain("postmaster@example.test")),
        # local parts, before full names
        ("Alice", LIDDELL),
        ("<alice>", LIDDELL),
        ('"alice"', LIDDELL),
        ("king", Ambiguous((KING, ONEILL))),
        ("sales", Ambiguous((plain("sales@example.test"), plain("sales@b.test")))),
        ("roger", Forwarded(FAR)),
        ("dodo", Moved(FAR)),
        ("gone", Disabled()),
        ("open", AList((Verified(FAR),), Audience.ANYONE)),
        # words of full names
        ("liddell", LIDDELL),
        ("Pleasance", HARGREAVES),
        ("pleasance alice", HARGREAVES),
        ('"Alice Liddell"', LIDDELL),
        ("Alice Liddell", LIDDELL),
        ("red", KING),
        ("jr", KING),
        ("Jr. Lewis", KING),
        ("o'neill", ONEILL),
        ("ZOË", Verified(box("z@example.test"), "Zoë")),
        ("dinah", Disabled()),
        ("alice king", NoSuchUser()),
        ("ali", NoSuchUser()),
        ("...", NoSuchUser()),
        ("postmaster", NoSuchUser()),
    ],
)
def test_verify(name: str, verification: Verification) -> None:
    port: Directory = CROWD
    assert port.verify(name) == verification


def test_several_of_one_full_name_are_told_in_their_order() -> None:
    people = [User(box(f"u{n}@example.test"), "John Smith") for n in (3, 1, 2)]
    here = Snapshot((Domain("example.test"),), tuple(people))
    everybody = Ambiguous(tuple(Verified(user.mailbox, user.full_name) for user in people))
    assert here.verify("smith") == everybody
    assert here.verify("Smith John") == everybody


@pytest.mark.parametrize("words", ["smith", "john smith"])
def test_a_crowd_of_one_name_has_a_bound(words: str) -> None:
    people = tuple(User(box(f"u{n}@example.test"), "John Smith") for n in range(MAX_FOUND + 5))
    found = Snapshot((Domain("example.test"),), people).verify(words)
    assert isinstance(found, Ambiguous) and len(found.candidates) == MAX_FOUND


@pytest.mark.parametrize(
    "name", ["a@", "@example.test", "<>", "< >", "a b@example.test", "a@-x-", '"a', '"a"b"', '"a@b"']
)
def test_what_is_meant_as_an_address_and_is_none(name: str) -> None:
    with pytest.raises(AddressError):
        CROWD.verify(name)


# --- what is wrong with an alias, forward or list


@pytest.mark.parametrize(
    ("address", "flaw"),
    [
        ("sales@example.test", None),
        ("asleep@example.test", None),  # its user may be enabled again
        ("team@example.test", None),
        ("alice@example.test", None),
        ("nobody@example.test", None),
        ("@b.test", None),
        ("@example.test", None),
        ("past@example.test", "past@example.test leads nowhere: dodo@example.test has moved to x@far.example"),
        ("empty@example.test", "empty@example.test leads nowhere: no such user nobody@example.test"),
        (
            "round@example.test",
            "round@example.test leads back to itself: round@example.test → round@example.test",
        ),
        ("self@example.test", "self@example.test leads back to itself: self@example.test → self+tag@example.test"),
    ],
)
def test_flaws(address: str, flaw: str | None) -> None:
    assert TOWN.flaw(parse_alias_address(address)) == flaw


def test_flaws_further_on() -> None:
    aliases = {
        "in@example.test": ("a@example.test",),
        "a@example.test": ("b@example.test",),
        "b@example.test": ("u@second.test", "a@example.test"),
        "@second.test": ("b@second.test",),
        "many@example.test": tuple(f"n{n}@example.test" for n in range(12)),
        "most@example.test": tuple(f"u{n}@far.example" for n in range(MAX_TARGETS + 1)),
        **{f"d{n}@example.test": (f"d{n + 1}@example.test",) for n in range(11)},
    }
    here = snapshot(("d11@example.test", "u@second.test"), aliases)

    def flaw(address: str) -> str:
        return here.flaw(parse_alias_address(address)) or ""

    circle = "a@example.test leads back to itself: a@example.test → b@example.test → a@example.test"
    assert flaw("in@example.test") == circle
    assert flaw("a@example.test") == circle
    assert flaw("@second.test") == "@second.test leads back to itself: @second.test → b@second.test"
    assert flaw("many@example.test").endswith("no such user n9@example.test and 2 more")
    assert flaw("most@example.test") == f"most@example.test leads to more than {MAX_TARGETS} addresses"
    assert flaw("d0@example.test") == "d0@example.test leads through more than 10 addresses"
    assert flaw("d1@example.test") == ""


def test_a_quoted_local_part_has_a_tag_too() -> None:
    here = Snapshot((Domain("example.test"),), (User(Mailbox(LocalPart("the king"), Domain("example.test"))),))
    assert here.resolve(box('"The King+crown"@example.test')) == accepted('"the king"@example.test')
    assert here.verify('"the king"') == plain('"the king"@example.test')
