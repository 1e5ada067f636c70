"""The directory on the disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pillarbox.adapters import directory_schema
from pillarbox.adapters.directory_schema import UPGRADES
from pillarbox.adapters.directory_sqlite import DirectoryError, DirectoryStore, DirectoryVersion, LiveDirectory
from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.engine.directory import Announced, CatchAll, MailingList
from pillarbox.engine.ports import (
    Accepted,
    AList,
    Audience,
    Circular,
    Directory,
    Disabled,
    Forwarded,
    Moved,
    NoSuchUser,
    Relayed,
    User,
    Verified,
)
from pillarbox.smtp.scram import ScramKeys

D = Domain.parse("example.test")
D2 = Domain.parse("second.test")
ALICE = Mailbox.parse("Alice@example.test")
BOB = Mailbox.parse("bob@second.test")
FAR = Mailbox.parse("carol@far.example")
RELAY, KEPT = Domain("relay.test"), Domain("kept.test")
KEYS = ScramKeys(b"salt of alice", 10_000, b"stored" * 5, b"server" * 5)
SALES, TEAM = Mailbox.parse("sales@example.test"), Mailbox.parse("Team@example.test")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryStore]:
    opened = DirectoryStore(tmp_path / "directory.db")
    yield opened
    opened.close()


def test_what_was_added_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    first = DirectoryStore(path)
    assert first.created
    first.add_domain(D2)
    first.add_domain(D)
    first.add_domain(RELAY, relay=True)
    first.add_domain(KEPT, relay=True)
    alice = User(
        ALICE,
        "Alice Liddell",
        "$argon2id$x",
        1000,
        900,
        enabled=False,
        operator=True,
        owns=(KEPT, RELAY),
        scram=KEYS,
        created_at=1.7e9,
    )
    first.add_user(alice)
    first.add_user(User(BOB))
    first.add_alias(Mailbox.parse('"the sales"@example.test'), (FAR, ALICE, FAR))
    first.add_alias(CatchAll(D), (BOB,))
    moved, announced = Mailbox.parse("dodo@example.test"), Mailbox.parse("roger@second.test")
    first.add_forward(moved, Moved(FAR))
    first.add_forward(announced, Announced((FAR, BOB)))
    members = (BOB, FAR, ALICE)
    first.add_list(
        TEAM, MailingList((*members, Mailbox.parse("ALICE@example.test")), Audience.NOBODY, Audience.MEMBERS)
    )
    first.close()
    second = DirectoryStore(path)
    assert not second.created
    assert second.domains() == (D2, D)
    assert second.relay_domains() == (RELAY, KEPT)
    assert second.owners() == {KEPT: ALICE, RELAY: ALICE}
    assert second.users() == (alice, User(BOB))
    assert second.user(Mailbox.parse("alice@example.test")) == alice
    assert second.aliases() == {Mailbox.parse('"the sales"@example.test'): (FAR, ALICE), CatchAll(D): (BOB,)}
    assert second.forwards() == {moved: Moved(FAR), announced: Announced((FAR, BOB))}
    shouted = Mailbox.parse("ALICE@example.test")
    assert second.lists() == {TEAM: MailingList((BOB, FAR, shouted), Audience.NOBODY, Audience.MEMBERS)}
    second.close()


def test_what_was_removed_is_gone(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_user(User(ALICE))
    store.add_domain(KEPT, relay=True)
    store.add_user(User(Mailbox.parse("owner@example.test"), owns=(KEPT,)))
    store.add_alias(CatchAll(D), (ALICE, FAR))
    store.add_forward(SALES, Moved(FAR))
    store.add_list(TEAM, MailingList((ALICE,)))
    store.remove_alias(CatchAll(D))
    store.remove_forward(Mailbox.parse("SALES@example.test"))
    store.remove_list(Mailbox.parse("team@example.test"))
    assert store.remove_user(Mailbox.parse("aLICE@example.test")) == ()
    store.remove_user(Mailbox.parse("owner@example.test"))
    assert store.owners() == {}
    store.remove_domain(KEPT)
    store.remove_domain(D)
    assert all_of(store) == ((), (), (), {}, {}, {})


def all_of(store: DirectoryStore) -> tuple[object, ...]:
    return (
        *(store.domains(), store.relay_domains(), store.users()),
        *(store.aliases(), store.forwards(), store.lists()),
    )


def test_a_removed_relay_domain_is_nobodys(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_domain(KEPT, relay=True)
    store.add_user(User(ALICE, owns=(KEPT,)))
    store.remove_domain(KEPT)
    assert store.user(ALICE).owns == ()


def test_a_removed_user_is_told_as_a_target(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_user(User(ALICE))
    shouted = Mailbox.parse("ALICE@example.test")
    store.add_alias(SALES, (FAR, shouted))
    store.add_forward(Mailbox.parse("roger@example.test"), Announced((ALICE,)))
    store.add_list(TEAM, MailingList((shouted, FAR)))
    assert store.remove_user(ALICE) == (
        "alias sales@example.test",
        "forward roger@example.test",
        "list Team@example.test",
    )
    assert store.snapshot(None).resolve(Mailbox.parse("roger@example.test")) == Circular()


def test_users_change(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_user(User(ALICE, "Alice"))
    shouted = Mailbox.parse("ALICE@example.test")
    store.set_enabled(shouted, enabled=False)
    store.set_password(shouted, "$argon2id$x")
    assert store.users() == (User(ALICE, "Alice", "$argon2id$x", enabled=False),)
    store.set_enabled(shouted, enabled=True)
    store.set_password(shouted, None)
    assert store.users() == (User(ALICE, "Alice"),)


def test_members_join_and_leave(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_user(User(ALICE))
    store.add_list(TEAM, MailingList((ALICE,)))
    shouted = Mailbox.parse("TEAM@example.test")
    store.join(shouted, (FAR, BOB, FAR))
    assert store.list_at(shouted) == (TEAM, MailingList((ALICE, FAR, BOB)))
    store.leave(shouted, (Mailbox.parse("ALICE@example.test"), BOB, BOB))
    assert store.list_at(TEAM) == (TEAM, MailingList((FAR,)))


Change = Callable[[DirectoryStore], object]


def there(name: str) -> Mailbox:
    """An address in the domain."""
    return Mailbox.parse(f"{name}@example.test")


REFUSED: list[tuple[Change, str]] = [
    (lambda s: s.add_domain(D), "domain example.test is here already"),
    (lambda s: s.add_domain(D, relay=True), "domain example.test is here already"),
    (lambda s: s.add_domain(RELAY), "domain relay.test is here already"),
    (lambda s: s.remove_domain(D2), "domain second.test is not here yet: pillarbox domain add second.test"),
    (
        lambda s: s.remove_domain(D),
        "domain example.test still has user Alice@example.test, user owner@example.test, alias sales@example.test,"
        " forward roger@example.test, forward dodo@example.test, list Team@example.test: remove them first",
    ),
    # users
    (lambda s: s.add_user(User(BOB)), "domain second.test is not here yet: pillarbox domain add second.test"),
    (lambda s: s.add_user(User(there("ALICE"))), "user ALICE@example.test is here already"),
    (lambda s: s.add_user(User(Mailbox.parse("a@[IPv6:::1]"))), "a@[IPv6:::1] has no domain name"),
    (lambda s: s.add_user(User(Mailbox.parse("a@relay.test"))), "domain relay.test is a relay domain: its mail is"),
    (lambda s: s.add_user(User(there("Sales"))), "alias Sales@example.test is here already: pillarbox alias remove"),
    (lambda s: s.add_user(User(there("Dodo"))), "forward Dodo@example.test is here already: pillarbox forward remove"),
    (lambda s: s.add_user(User(there("team"))), "list team@example.test is here already: pillarbox list remove team@"),
    (
        lambda s: s.add_user(User(there("x"), owns=(RELAY, D2))),
        "domain second.test is not here yet: pillarbox domain add second.test --relay",
    ),
    (lambda s: s.add_user(User(there("x"), owns=(D,))), "domain example.test is local: only a relay domain can be"),
    (lambda s: s.add_user(User(there("x"), owns=(KEPT,))), "kept.test is owned by owner@example.test already"),
    (lambda s: s.remove_user(FAR), "there is no user carol@far.example"),
    (lambda s: s.remove_user(SALES), "there is no user sales@example.test; it is an alias"),
    (lambda s: s.user(there("nobody")), "there is no user nobody@example.test"),
    (lambda s: s.set_enabled(there("nobody"), enabled=True), "there is no user nobody@example.test"),
    (lambda s: s.set_password(there("dodo"), "x"), "there is no user dodo@example.test; it is a forward"),
    # aliases
    (lambda s: s.add_alias(ALICE, (FAR,)), "user Alice@example.test is here already"),
    (lambda s: s.add_alias(there("SALES"), (FAR,)), "alias SALES@example.test is here already: pillarbox alias remove"),
    (lambda s: s.add_alias(CatchAll(D), ()), "alias @example.test needs a target"),
    (lambda s: s.add_alias(CatchAll(D2), (ALICE,)), "domain second.test is not here yet"),
    (lambda s: s.add_alias(CatchAll(RELAY), (ALICE,)), "domain relay.test is a relay domain"),
    (lambda s: s.add_alias(there("x"), (there("nobody"), there("none"))), "x@example.test leads nowhere: no such user"),
    (lambda s: s.add_alias(there("x"), (there("dodo"),)), "leads nowhere: dodo@example.test has moved to carol@far"),
    (
        lambda s: s.add_alias(there("x"), (there("X"),)),
        "x@example.test leads back to itself: x@example.test → X@example",
    ),
    (
        lambda s: s.add_alias(CatchAll(D), (there("x"),)),
        "@example.test leads back to itself: @example.test → x@example",
    ),
    (lambda s: s.remove_alias(CatchAll(D)), "there is no alias @example.test"),
    (lambda s: s.remove_alias(ALICE), "there is no alias Alice@example.test; it is a user"),
    # forwards
    (lambda s: s.add_forward(ALICE, Moved(FAR)), "user Alice@example.test is here already"),
    (lambda s: s.add_forward(there("ROGER"), Announced((FAR,))), "forward ROGER@example.test is here already"),
    (lambda s: s.add_forward(there("x"), Announced(())), "forward x@example.test needs a target"),
    (lambda s: s.add_forward(there("x"), Announced((there("x"),))), "x@example.test leads back to itself"),
    (lambda s: s.add_forward(there("x"), Announced((there("y"),))), "leads nowhere: no such user y@example.test"),
    (lambda s: s.add_forward(there("x"), Moved(there("X"))), "x@example.test can't move to itself"),
    (lambda s: s.add_forward(there("Postmaster"), Moved(FAR)), "Postmaster@example.test must take mail"),
    (lambda s: s.remove_forward(SALES), "there is no forward sales@example.test; it is an alias"),
    (lambda s: s.remove_alias(there("dodo")), "there is no alias dodo@example.test; it is a forward"),
    # lists
    (lambda s: s.add_list(ALICE, MailingList((FAR,))), "user Alice@example.test is here already"),
    (lambda s: s.add_list(there("TEAM"), MailingList((FAR,))), "list TEAM@example.test is here already"),
    (lambda s: s.add_list(there("x"), MailingList(())), "list x@example.test needs a member"),
    (lambda s: s.add_list(there("x" * 59), MailingList((FAR,))), "has too long a name"),
    (lambda s: s.add_list(there("x"), MailingList((there("y"),))), "x@example.test leads nowhere: no such user y@"),
    (lambda s: s.add_list(there("x"), MailingList((FAR, there("x")))), "x@example.test leads back to itself"),
    (lambda s: s.join(there("outer"), (FAR,)), "there is no list outer@example.test"),
    (lambda s: s.join(SALES, (FAR,)), "there is no list sales@example.test; it is an alias"),
    (lambda s: s.join(TEAM, (BOB, there("alice"))), "alice@example.test is a member of Team@example.test already"),
    (lambda s: s.join(TEAM, (TEAM,)), "Team@example.test leads back to itself"),
    (lambda s: s.leave(TEAM, (ALICE, BOB)), "bob@second.test is no member of Team@example.test"),
    (lambda s: s.leave(TEAM, (ALICE,)), "list Team@example.test needs a member: pillarbox list remove Team@"),
    (lambda s: s.leave(SALES, (ALICE,)), "there is no list sales@example.test"),
    (lambda s: s.remove_list(SALES), "there is no list sales@example.test; it is an alias"),
    (lambda s: s.list_at(there("nobody")), "there is no list nobody@example.test"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED)
def test_what_is_refused_says_why_and_changes_nothing(store: DirectoryStore, change: Change, text: str) -> None:
    store.add_domain(D)
    store.add_domain(RELAY, relay=True)
    store.add_domain(KEPT, relay=True)
    store.add_user(User(ALICE))
    store.add_user(User(there("owner"), owns=(KEPT,)))
    store.add_alias(SALES, (ALICE, FAR))
    store.add_forward(there("roger"), Announced((FAR,)))
    store.add_forward(there("dodo"), Moved(FAR))
    store.add_list(TEAM, MailingList((ALICE,)))
    before = all_of(store)
    with pytest.raises(DirectoryError, match=re.escape(text)):
        change(store)
    assert all_of(store) == before


def test_a_circle_over_several_is_told(store: DirectoryStore) -> None:
    store.add_domain(D)
    a, b, c = map(there, "abc")
    store.add_user(User(c))
    store.add_alias(b, (FAR, c))
    store.add_list(a, MailingList((b, FAR)))
    store.remove_user(c)
    text = "c@example.test leads back to itself: c@example.test → a@example.test → b@example.test → c@example.test"
    with pytest.raises(DirectoryError, match=re.escape(text)):
        store.add_forward(c, Announced((a,)))


def test_disabled_users_may_be_targets(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_user(User(ALICE, enabled=False))
    store.add_alias(SALES, (ALICE,))
    assert store.snapshot(None).resolve(SALES) == Circular()
    store.set_enabled(ALICE, enabled=True)
    assert store.snapshot(None).resolve(SALES) == Accepted((ALICE,))


def test_a_full_domain_names_some_of_those_in_the_way(store: DirectoryStore) -> None:
    store.add_domain(D)
    for n in range(12):
        store.add_user(User(Mailbox.parse(f"u{n}@example.test")))
    with pytest.raises(DirectoryError, match=r"user u9@example\.test and 2 more: remove them first"):
        store.remove_domain(D)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    DirectoryStore(path).close()
    with apsw.Connection(str(path)) as db:
        db.pragma("user_version", 99)
    db.close()
    with pytest.raises(DirectoryVersion, match="has schema version 99, this Pillarbox knows 4: use a newer one"):
        DirectoryStore(path)


def old_file(path: Path) -> None:
    """A directory as the first version wrote it."""
    with apsw.Connection(str(path)) as db:
        db.execute(UPGRADES[0])
        db.execute("""
            INSERT INTO domain (name) VALUES ('example.test');
            INSERT INTO user (key, address, domain, full_name)
                VALUES ('alice@example.test', 'Alice@example.test', 'example.test', 'Alice Liddell');
            INSERT INTO alias (key, address, domain, target)
                VALUES ('@example.test', '@example.test', 'example.test', 'Alice@example.test');
        """)
        db.pragma("user_version", 1)
    db.close()


def test_an_older_schema_is_upgraded_and_a_copy_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, copy = tmp_path / "directory.db", tmp_path / "directory.db.v1"
    old_file(path)
    with caplog.at_level("INFO"):
        new = DirectoryStore(path)
    assert f"{path} has schema version 1, upgrading; a copy of it is {copy}" in caplog.text
    assert not new.created
    assert all_of(new) == ((D,), (), (User(ALICE, "Alice Liddell"),), {CatchAll(D): (ALICE,)}, {}, {})
    new.add_list(TEAM, MailingList((ALICE,)))
    new.close()
    with apsw.Connection(str(copy)) as db:
        assert db.pragma("user_version") == 1
        assert list(db.execute("SELECT address, full_name FROM user")) == [("Alice@example.test", "Alice Liddell")]
    db.close()
    DirectoryStore(path).close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["directory.db", "directory.db.v1"]


def test_users_from_before_version_3_have_no_keys_and_no_birthday(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    with apsw.Connection(str(path)) as db:
        db.execute(UPGRADES[0] + UPGRADES[1])
        db.execute("""
            INSERT INTO domain (name) VALUES ('example.test');
            INSERT INTO user (key, address, domain, full_name, password)
                VALUES ('alice@example.test', 'Alice@example.test', 'example.test', '', '$argon2id$x');
        """)
        db.pragma("user_version", 2)
    db.close()
    store = DirectoryStore(path)
    assert (tmp_path / "directory.db.v2").exists()
    assert store.users() == (User(ALICE, password="$argon2id$x"),)
    live = LiveDirectory(store, None)
    assert not live.all_have_keys()
    store.set_password(ALICE, "$argon2id$y", KEYS)
    live.reload()
    assert live.all_have_keys()
    assert store.user(ALICE) == User(ALICE, password="$argon2id$y", scram=KEYS)
    store.set_password(ALICE, None)
    assert store.user(ALICE) == User(ALICE)
    store.close()


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "directory.db")
    made, other = store.secret("logins"), store.secret("another")
    assert len(made) == 32 and made != other
    store.close()
    again = DirectoryStore(tmp_path / "directory.db")
    assert again.secret("logins") == made
    again.close()


def test_a_copy_replaces_no_other(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    old_file(path)
    (tmp_path / "directory.db.v1").write_text("mine")
    DirectoryStore(path).close()
    assert (tmp_path / "directory.db.v1").read_text() == "mine"
    with apsw.Connection(str(tmp_path / "directory.db.v1-2")) as db:
        assert db.pragma("user_version") == 1
    db.close()


def test_without_a_copy_there_is_no_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "directory.db"
    old_file(path)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DirectoryError, match=r"directory\.db can't be used: .*No space left on device"):
            DirectoryStore(path)
    with apsw.Connection(str(path)) as db:
        assert db.pragma("user_version") == 1
    db.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "directory.db"
    DirectoryStore(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(directory_schema, "UPGRADES", (*UPGRADES, "DROP TABLE alias; DROP TABLE nil"))
        with pytest.raises(DirectoryError, match="no such table: nil"):
            DirectoryStore(path)
    again = DirectoryStore(path)
    assert again.aliases() == {}
    again.close()


def test_files_that_are_no_directory(tmp_path: Path) -> None:
    (tmp_path / "directory.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(DirectoryError, match=r"directory\.db can't be used: "):
        DirectoryStore(tmp_path / "directory.db")
    with pytest.raises(DirectoryError, match=r"directory\.db can't be opened: "):
        DirectoryStore(tmp_path / "missing" / "directory.db")


def test_faults_of_the_database_are_directory_errors(store: DirectoryStore, tmp_path: Path) -> None:
    with apsw.Connection(str(tmp_path / "directory.db")) as db:
        db.execute("DROP TABLE list; DROP TABLE alias; DROP TABLE user; DROP TABLE domain")
    db.close()
    with pytest.raises(DirectoryError, match="no such table: domain"):
        store.domains()
    with pytest.raises(DirectoryError, match="no such table: user"):
        store.remove_user(ALICE)


def test_seed_gives_every_first_message_a_home(store: DirectoryStore) -> None:
    store.seed([D, D2], LocalPart("me"))
    me = Accepted((Mailbox.parse("me@example.test"),))
    here = store.snapshot(None)
    for address in ("me@example.test", "x@example.test", "me@second.test", "postmaster@second.test"):
        assert here.resolve(Mailbox.parse(address)) == me
    with pytest.raises(DirectoryError, match="is here already"):
        store.seed([D], LocalPart("me"))


def test_the_live_directory_follows_on_reload(store: DirectoryStore) -> None:
    store.add_domain(D)
    live = LiveDirectory(store, Domain.parse("mx.example.net"))
    port: Directory = live
    assert port.is_local(D)
    store.add_user(User(ALICE))
    assert port.resolve(ALICE) == NoSuchUser()
    live.reload()
    assert port.resolve(ALICE) == Accepted((ALICE,))
    postmaster = Accepted((Mailbox.parse("postmaster@example.test"),))
    assert port.resolve(Mailbox.parse("Postmaster@mx.example.net")) == postmaster


def test_the_live_directory_answers_all_that_the_port_asks(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_domain(RELAY, relay=True)
    store.add_domain(KEPT, relay=True)
    bob = User(there("bob"), owns=(KEPT,))
    store.add_user(User(ALICE, "Alice Liddell", enabled=False))
    store.add_user(bob)
    store.add_forward(there("roger"), Announced((FAR,)))
    store.add_forward(there("dodo"), Moved(FAR))
    store.add_list(TEAM, MailingList((there("BOB"),), Audience.NOBODY))
    port: Directory = LiveDirectory(store, None)
    assert port.resolve(ALICE) == Disabled()
    assert port.resolve(Mailbox.parse("x@relay.test")) == Relayed()
    assert (port.keeps(KEPT), port.keeps(RELAY)) == (True, False)
    assert port.user(there("bob")) == port.login("Bob") == bob
    assert port.verify("roger") == Forwarded(FAR)
    assert port.verify("dodo") == Moved(FAR)
    assert port.verify("team") == AList((Verified(bob.mailbox),), Audience.NOBODY)


def test_a_copy_is_a_directory_of_its_own(store: DirectoryStore, tmp_path: Path) -> None:
    store.seed([D, D2], LocalPart("me"))
    store.copy_to(tmp_path / "copy.db")
    copy = DirectoryStore(tmp_path / "copy.db")
    assert not copy.created
    assert copy.snapshot(None) == store.snapshot(None)
    copy.close()
    with pytest.raises(DirectoryError, match="already exists"):
        store.copy_to(tmp_path / "copy.db")
