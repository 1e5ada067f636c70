"""The operator's hand on the directory: by the operations themselves, and by the command line on data at rest."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.adapters.directory_sqlite import DirectoryStore, LiveDirectory
from pillarbox.adapters.passwords import Argon2Accounts
from pillarbox.app.admin_directory import MAX_PASSWORD, DirectoryAdmin, NewUser
from pillarbox.app.cli import main
from pillarbox.app.control import Refused
from pillarbox.core.address import Domain, Mailbox
from pillarbox.engine.ports import Accepted, Circular, Disabled, Moved, Relayed

ALICE = Mailbox.parse("alice@example.test")


class Office:
    """An operator at work on a directory with one domain and alice in it."""

    def __init__(self, path: Path) -> None:
        self.store = DirectoryStore(path)
        self.live = LiveDirectory(self.store, None)
        self.admin = DirectoryAdmin(store=self.store, directory=self.live)
        self.do(self.admin.domain_add("example.test"))
        self.do(self.admin.user_add(NewUser("alice@example.test", "Alice Liddell")))

    def do(self, asked: Awaitable[Any]) -> Any:
        async def done() -> Any:
            return await asked

        return asyncio.run(done())

    def resolve(self, address: str) -> object:
        return self.live.resolve(Mailbox.parse(address))

    def logs_in(self, name: str, password: str) -> bool:
        accounts = Argon2Accounts(self.live, secret=b"secret")
        try:
            return self.do(accounts.check(name, password)) is not None
        finally:
            accounts.close()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    opened = Office(tmp_path / "directory.db")
    yield opened
    opened.store.close()


# --- changes hold at once


def test_a_user_with_everything(office: Office) -> None:
    admin = office.admin
    assert office.do(admin.domain_add("kept.test", relay=True)) == {"domain": "kept.test", "relay": True}
    new = NewUser("Bob@example.test", "Bob", quota="10M", soft_quota="8M", operator=True, owns=("kept.test",))
    assert office.do(admin.user_add(new, b"open sesame")) == {"address": "Bob@example.test", "name": "Bob"}
    shown = {
        "address": "Bob@example.test",
        "name": "Bob",
        "password": "set",
        "quota": 10 * 1024**2,
        "soft_quota": 8 * 1024**2,
        "enabled": True,
        "operator": True,
        "owns": ["kept.test"],
    }
    assert office.do(admin.user_show("<bob@example.test>")) == shown
    assert office.do(admin.domain_list()) == [
        {"domain": "example.test"},
        {"domain": "kept.test", "relay": True, "owner": "Bob@example.test"},
    ]
    assert office.resolve("x@kept.test") == Relayed()
    assert office.live.keeps(Domain("kept.test"))
    assert office.logs_in("bob", "open sesame") and not office.logs_in("bob", "sesame")


def test_a_plain_user(office: Office) -> None:
    shown = office.do(office.admin.user_show("ALICE@example.test"))
    assert shown == {
        "address": "alice@example.test",
        "name": "Alice Liddell",
        "password": "not set",
        "quota": None,
        "soft_quota": None,
        "enabled": True,
        "operator": False,
        "owns": [],
    }
    assert not office.logs_in("alice", "")


def test_a_user_is_disabled_and_enabled(office: Office) -> None:
    admin = office.admin
    office.do(admin.user_passwd("alice@example.test", b"x"))
    assert office.do(admin.user_enable("alice@example.test", enabled=False)) == {
        "address": "alice@example.test",
        "enabled": False,
    }
    assert office.resolve("alice@example.test") == Disabled()
    assert not office.logs_in("alice", "x")
    assert office.do(admin.user_list()) == [
        {"address": "alice@example.test", "name": "Alice Liddell", "enabled": False}
    ]
    office.do(admin.user_enable("alice@example.test", enabled=True))
    assert office.resolve("alice@example.test") == Accepted((ALICE,))
    assert office.logs_in("alice", "x")
    assert office.do(admin.user_list()) == [{"address": "alice@example.test", "name": "Alice Liddell"}]


def test_a_password_is_changed(office: Office) -> None:
    office.do(office.admin.user_passwd("alice@example.test", b"first"))
    assert office.do(office.admin.user_passwd("alice@example.test", "zwölf".encode())) == {
        "address": "alice@example.test"
    }
    assert office.logs_in("alice", "zwölf") and not office.logs_in("alice", "first")


def test_forwards(office: Office) -> None:
    admin = office.admin
    far = Mailbox.parse("x@far.example")
    announced = {"address": "roger@example.test", "how": "announce", "targets": ["x@far.example", "alice@example.test"]}
    moved = {"address": "dodo@example.test", "how": "moved", "targets": ["x@far.example"]}
    assert office.do(
        admin.forward_add("roger@example.test", ["<x@far.example>", "alice@example.test"], "announce")
    ) == (announced)
    assert office.do(admin.forward_add("dodo@example.test", ["x@far.example"], "moved")) == moved
    assert office.resolve("roger@example.test") == Accepted((far, ALICE), announced=far)
    assert office.resolve("dodo@example.test") == Moved(far)
    assert office.do(admin.forward_list()) == [announced, moved]
    assert office.do(admin.alias_list()) == []
    office.do(admin.forward_remove("dodo@example.test"))
    assert office.do(admin.forward_list()) == [announced]


def test_lists(office: Office) -> None:
    admin = office.admin
    made = {
        "address": "Team@example.test",
        "expn": "nobody",
        "post": "authenticated",
        "members": ["alice@example.test", "x@far.example"],
    }
    members = ["alice@example.test", "x@far.example"]
    assert office.do(admin.list_add("Team@example.test", members, "nobody", "authenticated")) == made
    found = office.resolve("team@example.test")
    assert isinstance(found, Accepted) and len(found.targets) == 2 and len(found.postings) == 1
    assert office.do(admin.list_join("team@example.test", ["y@far.example"]))["members"] == [*members, "y@far.example"]
    left = office.do(admin.list_leave("team@example.test", ["alice@example.test", "x@far.example"]))
    assert left == {**made, "members": ["y@far.example"]}
    assert office.do(admin.list_list()) == [left] == [office.do(admin.list_show("TEAM@example.test"))]
    office.do(admin.list_remove("team@example.test"))
    assert office.do(admin.list_list()) == []


def test_a_removed_user_is_told_as_a_target(office: Office) -> None:
    admin = office.admin
    office.do(admin.alias_add("sales@example.test", ["alice@example.test"]))
    assert office.do(admin.user_remove("alice@example.test")) == {
        "address": "alice@example.test",
        "targets_of": ["alias sales@example.test"],
    }
    assert office.resolve("sales@example.test") == Circular()


# --- what is refused

Asked = Callable[[DirectoryAdmin], Awaitable[object]]
WRONG: list[tuple[Asked, str]] = [
    (lambda a: a.domain_add("a_b"), "a_b: domain has an illegal label"),
    (lambda a: a.user_add(NewUser("bob")), "bob: address has no @domain"),
    (lambda a: a.user_add(NewUser("b@example.test", quota="10X")), "quota 10X: not a size; allowed: 1 to "),
    (lambda a: a.user_add(NewUser("b@example.test", quota="0")), "quota 0: too small; allowed: "),
    (lambda a: a.user_add(NewUser("b@example.test", soft_quota="x")), "soft-quota x: not a size; allowed: "),
    (lambda a: a.user_add(NewUser("b@example.test"), b"\xff"), "the password is not UTF-8"),
    (lambda a: a.user_add(NewUser("b@example.test"), b"a\0"), "the password has a NUL"),
    (lambda a: a.user_add(NewUser("b@example.test", owns=("a_b",))), "a_b: domain has an illegal label"),
    (lambda a: a.user_passwd("alice@example.test", b""), "the password is empty"),
    (lambda a: a.user_passwd("alice@example.test", b"x" * (MAX_PASSWORD + 1)), "the password has 1025 octets"),
    (
        lambda a: a.forward_add("b@example.test", ["x@far.example"], "silent"),
        "made with announce or moved, not 'silent'",
    ),
    (lambda a: a.forward_add("b@example.test", ["x@a.test", "y@a.test"], "moved"), "give one target"),
    (lambda a: a.forward_add("b@example.test", [], "announce"), "a forward needs a target"),
    (lambda a: a.forward_add("@example.test", ["x@a.test"], "moved"), "@example.test: local part is neither"),
    (
        lambda a: a.list_add("t@example.test", ["x@a.test"], "all", "anyone"),
        "expn 'all': allowed are nobody, members, authenticated, anyone",
    ),
    (
        lambda a: a.list_add("t@example.test", ["x@a.test"], "members", "nobody"),
        "post 'nobody': allowed are members, authenticated, anyone",
    ),
]
REFUSED: list[tuple[Asked, str]] = [
    (
        lambda a: a.user_add(NewUser("b@example.test", quota="1M", soft_quota="2M")),
        "the soft quota must not exceed the quota",
    ),
    (
        lambda a: a.user_add(NewUser("b@example.test", owns=("far.test",))),
        "domain far.test is not here yet: pillarbox domain add far.test --relay",
    ),
    (lambda a: a.user_show("nobody@example.test"), "there is no user nobody@example.test"),
    (lambda a: a.user_passwd("nobody@example.test", b"x"), "there is no user nobody@example.test"),
    (lambda a: a.user_enable("nobody@example.test", enabled=True), "there is no user nobody@example.test"),
    (
        lambda a: a.alias_add("a@example.test", ["A@example.test"]),
        "a@example.test leads back to itself: a@example.test → ",
    ),
    (lambda a: a.alias_add("a@example.test", ["b@example.test"]), "leads nowhere: no such user b@example.test"),
    (lambda a: a.list_show("t@example.test"), "there is no list t@example.test"),
    (lambda a: a.list_join("t@example.test", ["x@a.test"]), "there is no list t@example.test"),
]


@pytest.mark.parametrize(
    ("asked", "text", "usage"), [*((*row, True) for row in WRONG), *((*row, False) for row in REFUSED)]
)
def test_what_is_refused(office: Office, asked: Asked, text: str, usage: bool) -> None:
    with pytest.raises(Refused) as caught:
        office.do(asked(office.admin))
    assert text in str(caught.value) and caught.value.usage is usage
    assert [str(user.mailbox) for user in office.store.users()] == ["alice@example.test"]


# --- the command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    return tmp_path


def run(argv: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    """What the verb prints."""
    assert main(shlex.split(argv)) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def given(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))


STEPS = [
    ("domain add example.test", "added example.test\n"),
    ("domain add --relay far.test", "added far.test\n"),
    ("domain list", "localhost"),
    (
        "user add alice@example.test --name 'Alice Liddell' --quota 10M --soft-quota 8M --operator --owns far.test",
        "added ",
    ),
    (
        "user show alice@example.test",
        "address: alice@example.test\nname: Alice Liddell\npassword: not set\nquota: 10.0M\nsoft quota: 8.0M\n"
        "enabled: yes\noperator: yes\nowns: far.test\n",
    ),
    ("user add bob@example.test", "added bob@example.test\n"),
    (
        "user show bob@example.test",
        "address: bob@example.test\nname:\npassword: not set\nquota: none\nsoft quota: none\n"
        "enabled: yes\noperator: no\nowns: nothing\n",
    ),
    ("user disable bob@example.test", "disabled bob@example.test\n"),
    ("user list", "me@localhost\nalice@example.test  Alice Liddell\nbob@example.test                   disabled\n"),
    ("user enable bob@example.test --json", '{"address": "bob@example.test", "enabled": true}\n'),
    ("forward add roger@example.test x@far.example bob@example.test --announce", "added roger@example.test\n"),
    ("forward add --moved dodo@example.test y@far.example", "added dodo@example.test\n"),
    (
        "forward list",
        "roger@example.test  announce  x@far.example bob@example.test\ndodo@example.test   moved     y@far.example\n",
    ),
    ("forward remove dodo@example.test", "removed dodo@example.test\n"),
    ("list add team@example.test bob@example.test x@far.example", "added team@example.test\n"),
    ("list list", "team@example.test  members  anyone  bob@example.test x@far.example\n"),
    ("list add inner@example.test bob@example.test --expn anyone --post members --json", '{"address": "inner@'),
    ("list join inner@example.test y@far.example z@far.example", "y@far.example, z@far.example joined inner@"),
    ("list leave inner@example.test y@far.example", "y@far.example left inner@example.test\n"),
    (
        "list show inner@example.test",
        "address: inner@example.test\nexpn: anyone\npost: members\nmembers:\n  bob@example.test\n  z@far.example\n",
    ),
    ("list show inner@example.test --json", '{"address": "inner@example.test", "expn": "anyone", "post": "members", '),
    ("list remove inner@example.test", "removed inner@example.test\n"),
    (
        "user remove bob@example.test",
        "removed bob@example.test\n"
        "note: forward roger@example.test still names it\nnote: list team@example.test still names it\n",
    ),
]


def test_the_verbs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, expected in STEPS:
        assert run(argv, capsys).startswith(expected), argv
    rows = [row.split() for row in run("domain list", capsys).splitlines()]
    assert ["localhost"] in rows and ["far.test", "relay", "owned", "by", "alice@example.test"] in rows


def test_every_verb_gives_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, _ in STEPS:
        answer = json.loads(run(argv if "--json" in argv else f"{argv} --json", capsys))
        assert isinstance(answer, dict | list), argv


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ("forward add a@example.test b@far.example", "one of the arguments --announce --moved is required"),
        ("forward add a@example.test b@far.example --announce --moved", "not allowed with argument"),
        ("forward add a@example.test --moved", "required: TARGET"),
        ("list add a@example.test", "required: MEMBER"),
        ("list add a@example.test b@far.example --post nobody", "invalid choice: 'nobody'"),
        ("list add a@example.test b@far.example --expn all", "invalid choice: 'all'"),
        ("user add a@example.test --password x", "unrecognized arguments: --password x"),
    ],
)
def test_wrong_usage_is_2(argv: str, complaint: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv.split())
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        ("user add a@localhost --quota 1M --soft-quota 2M", 1, "the soft quota must not exceed the quota"),
        ("user add a@localhost --quota lots", 2, "quota lots: not a size"),
        ("user add a@localhost --owns far.test", 1, "pillarbox domain add far.test --relay"),
        ("alias add a@localhost a@localhost", 1, "a@localhost leads back to itself: a@localhost → a@localhost"),
        ("forward add a@localhost b@far.example c@far.example --moved", 2, "give one target"),
        ("user passwd me@localhost", 2, "there is no terminal to ask on: give the password with --password-stdin"),
    ],
)
def test_refusals(
    argv: str,
    status: int,
    complaint: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given(b"", monkeypatch)
    assert complaint in run(argv, capsys, status)


# --- passwords on their way


def kept(here: Path) -> str | None:
    """The hash of the first user."""
    store = DirectoryStore(here / "data" / "directory.db")
    try:
        return store.users()[0].password
    finally:
        store.close()


@pytest.mark.parametrize("text", [b"open sesame\nnot this\n", b"open sesame\r\n", b"open sesame"])
def test_a_password_from_standard_input(
    text: bytes, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(text, monkeypatch)
    assert run("user passwd me@localhost --password-stdin", capsys) == "changed the password of me@localhost\n"
    monkeypatch.undo()
    hashed = kept(here)
    assert hashed is not None and "sesame" not in hashed
    monkeypatch.chdir(here)
    for argv in ("user show me@localhost", "user show me@localhost --json", "user list --json"):
        assert "argon2" not in run(argv, capsys)
    assert "password: set\n" in run("user show me@localhost", capsys)
    assert _lets_in(here, "open sesame") and not _lets_in(here, "open sesame\n")


def _lets_in(here: Path, password: str) -> bool:
    async def check() -> bool:
        store = DirectoryStore(here / "data" / "directory.db")
        accounts = Argon2Accounts(store.snapshot(None), secret=b"secret")
        try:
            return await accounts.check("me", password) is not None
        finally:
            accounts.close()
            store.close()

    return asyncio.run(check())


@pytest.mark.parametrize("verb", ["user passwd me@localhost", "user add new@localhost"])
@pytest.mark.parametrize("text", [b"", b"\n", b"\r\nsecond\n"])
def test_an_empty_password_is_refused(
    verb: str, text: bytes, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(text, monkeypatch)
    assert "the password is empty; nothing was changed" in run(f"{verb} --password-stdin", capsys, 2)
    assert not (here / "data").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "status"), [(["one", "one"], 0), (["one", "two"], 1), (["", ""], 2)], ids=["same", "different", "empty"]
)
def test_a_password_from_the_terminal(
    typed: list[str],
    status: int,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("user list", capsys)
    asked: list[str] = []

    def typing(prompt: str) -> str:
        asked.append(prompt)
        return typed[len(asked) - 1]

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", typing)
    run("user passwd me@localhost", capsys, status)
    assert asked == ["Password for me@localhost: ", "Once more: "]
    assert (kept(here) is not None) is (status == 0)


def test_a_user_is_added_with_a_password(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(b"open sesame\n", monkeypatch)
    assert run("user add alice@localhost --password-stdin --json", capsys) == (
        '{"address": "alice@localhost", "name": ""}\n'
    )
    assert "password: set\n" in run("user show alice@localhost", capsys)
