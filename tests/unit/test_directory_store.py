"""The directory on the disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pillarbox.adapters import directory_sqlite
from pillarbox.adapters.directory_sqlite import DirectoryError, DirectoryStore, DirectoryVersion, LiveDirectory
from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.engine.directory import CatchAll, User
from pillarbox.engine.ports import Accepted, Directory, NoSuchUser

D = Domain.parse("example.test")
D2 = Domain.parse("second.test")
ALICE = Mailbox.parse("Alice@example.test")
BOB = Mailbox.parse("bob@second.test")
FAR = Mailbox.parse("carol@far.example")


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
    first.add_user(User(ALICE, "Alice Liddell"))
    first.add_user(User(BOB))
    first.add_alias(Mailbox.parse('"the sales"@example.test'), (FAR, ALICE, FAR))
    first.add_alias(CatchAll(D), (BOB,))
    first.close()
    second = DirectoryStore(path)
    assert not second.created
    assert second.domains() == (D2, D)
    assert second.users() == (User(ALICE, "Alice Liddell"), User(BOB))
    assert second.aliases() == {Mailbox.parse('"the sales"@example.test'): (FAR, ALICE), CatchAll(D): (BOB,)}
    second.close()


def test_what_was_removed_is_gone(store: DirectoryStore) -> None:
    store.add_domain(D)
    store.add_user(User(ALICE))
    store.add_alias(CatchAll(D), (ALICE, FAR))
    store.remove_alias(CatchAll(D))
    store.remove_user(Mailbox.parse("aLICE@example.test"))
    store.remove_domain(D)
    assert (store.domains(), store.users(), store.aliases()) == ((), (), {})


Change = Callable[[DirectoryStore], None]
REFUSED: list[tuple[Change, str]] = [
    (lambda s: s.add_domain(D), "domain example.test is here already"),
    (lambda s: s.remove_domain(D2), "domain second.test is not here yet: pillarbox domain add second.test"),
    (lambda s: s.add_user(User(BOB)), "domain second.test is not here yet: pillarbox domain add second.test"),
    (lambda s: s.add_user(User(Mailbox.parse("ALICE@example.test"))), "user ALICE@example.test is here already"),
    (lambda s: s.add_user(User(Mailbox.parse("a@[::1]".replace("[", "[IPv6:")))), "a@[IPv6:::1] has no domain name"),
    (lambda s: s.add_user(User(Mailbox.parse("Sales@example.test"))), "alias Sales@example.test is here already"),
    (lambda s: s.add_alias(ALICE, (FAR,)), "user Alice@example.test is here already"),
    (lambda s: s.add_alias(Mailbox.parse("SALES@example.test"), (FAR,)), "alias SALES@example.test is here already"),
    (lambda s: s.add_alias(CatchAll(D), ()), "alias @example.test needs a target"),
    (lambda s: s.add_alias(CatchAll(D2), (ALICE,)), "domain second.test is not here yet"),
    (lambda s: s.remove_user(FAR), "there is no user carol@far.example"),
    (lambda s: s.remove_alias(CatchAll(D)), "there is no alias @example.test"),
    (
        lambda s: s.remove_domain(D),
        "domain example.test still has user Alice@example.test, alias sales@example.test: remove them first",
    ),
]


@pytest.mark.parametrize(("change", "text"), REFUSED)
def test_what_is_refused_says_why_and_changes_nothing(store: DirectoryStore, change: Change, text: str) -> None:
    store.add_domain(D)
    store.add_user(User(ALICE))
    store.add_alias(Mailbox.parse("sales@example.test"), (ALICE, FAR))
    before = store.domains(), store.users(), store.aliases()
    with pytest.raises(DirectoryError, match=re.escape(text)):
        change(store)
    assert (store.domains(), store.users(), store.aliases()) == before


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
    with pytest.raises(DirectoryVersion, match="has schema version 99, this Pillarbox knows 1: use a newer one"):
        DirectoryStore(path)


def test_an_older_schema_is_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "directory.db"
    old = DirectoryStore(path)
    old.add_domain(D)
    old.close()
    steps = (*directory_sqlite.UPGRADES, "INSERT INTO domain (name) VALUES ('second.test')")
    monkeypatch.setattr(directory_sqlite, "UPGRADES", steps)
    new = DirectoryStore(path)
    assert new.domains() == (D, D2)
    assert not new.created
    new.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "directory.db"
    DirectoryStore(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(directory_sqlite, "UPGRADES", (*directory_sqlite.UPGRADES, "DROP TABLE alias; DROP TABLE nil"))
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
        db.execute("DROP TABLE alias; DROP TABLE user; DROP TABLE domain")
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


def test_a_copy_is_a_directory_of_its_own(store: DirectoryStore, tmp_path: Path) -> None:
    store.seed([D, D2], LocalPart("me"))
    store.copy_to(tmp_path / "copy.db")
    copy = DirectoryStore(tmp_path / "copy.db")
    assert not copy.created
    assert copy.snapshot(None) == store.snapshot(None)
    copy.close()
    with pytest.raises(DirectoryError, match="already exists"):
        store.copy_to(tmp_path / "copy.db")
