"""How full a Maildir is, on real files: what counts, what is remembered and for how long, faults of the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pillarbox.adapters.mailbox_usage import SETTLED, MaildirUsage
from pillarbox.core.address import Mailbox
from pillarbox.engine.ports import Mailboxes, MailboxFault

ALICE = Mailbox.parse("Alice@example.test")
OLD = 1_700_000_000  # when directories changed last
NOW = OLD + 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Maildir:
    """A folder with `cur` and `new`, in which a change is dated as the test says."""

    def __init__(self, root: Path) -> None:
        self.path = root / "example.test" / "alice"
        for part in ("tmp", "new", "cur"):
            self.folder(part)
        self.age()

    def folder(self, name: str) -> Path:
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def put(self, name: str, size: int, *, at: float = OLD) -> Path:
        file = self.path / name
        file.write_bytes(b"x" * size)
        os.utime(file.parent, (at, at))
        return file

    def age(self, at: float = OLD) -> None:
        for directory in self.path.rglob("*"):
            if directory.is_dir() and not directory.is_symlink():
                os.utime(directory, (at, at))


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    return Maildir(tmp_path)


def use(
    root: Path, main: Callable[[MaildirUsage], Coroutine[Any, Any, None]], *, now: Clock | None = None, **settings: int
) -> None:
    async def run() -> None:
        usage = MaildirUsage(root, now=now or Clock(), **settings)
        try:
            await main(usage)
        finally:
            usage.close()

    asyncio.run(run())


def sizes(root: Path, *users: Mailbox) -> list[int]:
    found: list[int] = []

    async def main(usage: MaildirUsage) -> None:
        port: Mailboxes = usage
        found.extend([await port.usage(user) for user in users or (ALICE,)])

    use(root, main)
    return found


def fault(root: Path) -> str:
    with pytest.raises(MailboxFault) as caught:
        sizes(root)
    return str(caught.value)


# --- what counts


def test_without_a_maildir_nothing_is_used(tmp_path: Path) -> None:
    assert sizes(tmp_path) == [0]
    assert sizes(tmp_path / "none") == [0]
    assert not list(tmp_path.iterdir())


def test_files_in_new_and_cur_count(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("new/1", 100)
    maildir.put("cur/2:2,S", 20)
    maildir.put("tmp/3", 1000)
    maildir.put("dovecot.index", 1000)
    assert sizes(tmp_path) == [120]


def test_subfolders_count(maildir: Maildir, tmp_path: Path) -> None:
    for folder in (".Sent", ".Archive.2024"):
        for part in ("new", "cur", "tmp"):
            maildir.folder(f"{folder}/{part}")
            maildir.put(f"{folder}/{part}/1", 10)
    maildir.folder(".empty")
    maildir.folder("plain/cur")
    maildir.put("plain/cur/1", 1000)
    maildir.put(".subscriptions", 1000)
    assert sizes(tmp_path) == [40]


def test_only_regular_files_count(maildir: Maildir, tmp_path: Path) -> None:
    maildir.folder("new/directory")
    (maildir.path / "new/link").symlink_to(maildir.put("elsewhere", 1000))
    (maildir.path / ".link").symlink_to(tmp_path)
    maildir.put("new/1", 5)
    assert sizes(tmp_path) == [5]


def test_a_maildir_half_made_is_one(tmp_path: Path) -> None:
    (tmp_path / "example.test" / "alice" / "new").mkdir(parents=True)
    assert sizes(tmp_path) == [0]


def test_users_are_found_where_mail_is_put(maildir: Maildir, tmp_path: Path) -> None:
    odd = Mailbox.parse('"../alice"@example.test')
    folder = tmp_path / "example.test" / "%2e.%2falice" / "new"
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(b"xyz")
    maildir.put("new/1", 10)
    assert sizes(tmp_path, ALICE, Mailbox.parse("alice@example.test"), odd) == [10, 10, 3]


# --- what is remembered


def test_a_directory_is_remembered_until_it_changes(maildir: Maildir, tmp_path: Path) -> None:
    """A file that grows in place is no change that a Maildir knows: it shows that nothing was looked at again."""
    old = maildir.put("cur/1", 100)

    async def main(usage: MaildirUsage) -> None:
        assert await usage.usage(ALICE) == 100
        old.write_bytes(b"x" * 200)
        maildir.put("new/1", 7, at=OLD + 1)
        assert await usage.usage(ALICE) == 107
        maildir.put("cur/2", 1, at=OLD + 1)
        assert await usage.usage(ALICE) == 208
        old.unlink()
        os.utime(maildir.path / "cur", (OLD + 2, OLD + 2))
        assert await usage.usage(ALICE) == 8

    use(tmp_path, main)


@pytest.mark.parametrize("age", [0.0, SETTLED - 0.1, -5.0])
def test_a_directory_that_changed_just_now_is_not_remembered(age: float, maildir: Maildir, tmp_path: Path) -> None:
    clock = Clock()
    clock.now = OLD + age

    async def main(usage: MaildirUsage) -> None:
        maildir.put("new/1", 10)
        assert await usage.usage(ALICE) == 10
        maildir.put("new/2", 10)  # in the same tick
        assert await usage.usage(ALICE) == 20
        clock.now = OLD + SETTLED
        assert await usage.usage(ALICE) == 20
        maildir.put("new/3", 10)  # can't be so late with such a date: shows that from now on it is remembered
        assert await usage.usage(ALICE) == 20

    use(tmp_path, main, now=clock)


def test_a_directory_that_was_replaced_is_another_one(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("cur/1", 100)

    async def main(usage: MaildirUsage) -> None:
        assert await usage.usage(ALICE) == 100
        (maildir.path / "cur").rename(maildir.path / "was")
        maildir.folder("cur")
        maildir.put("cur/1", 5)
        assert await usage.usage(ALICE) == 5

    use(tmp_path, main)


def test_what_is_remembered_is_bounded(maildir: Maildir, tmp_path: Path) -> None:
    cur, new = maildir.put("cur/1", 100), maildir.put("new/1", 10)

    async def main(usage: MaildirUsage) -> None:
        assert await usage.usage(ALICE) == 110
        for file in (cur, new):
            file.write_bytes(b"")
        assert await usage.usage(ALICE) == 0  # with room for one, the one asked for next is never there
        assert len(usage._sums._sums) == 1

    use(tmp_path, main, remember=1)


# --- many at once


def test_who_asks_while_it_is_looked_at_gets_the_same_answer(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildir.put("new/1", 10)
    looked, go_on = [], threading.Event()
    scandir = os.scandir

    def slow(path: str) -> Any:
        looked.append(path)
        assert go_on.wait(30)
        return scandir(path)

    async def main(usage: MaildirUsage) -> None:
        monkeypatch.setattr("os.scandir", slow)
        asking = [asyncio.create_task(usage.usage(ALICE)) for _ in range(5)]
        await asyncio.sleep(0)
        asking[0].cancel()  # a client that went away takes nothing from the others
        go_on.set()
        assert await asyncio.gather(*asking[1:]) == [10] * 4
        assert len(looked) == 3  # the Maildir, cur, new
        assert await usage.usage(ALICE) == 10

    use(tmp_path, main)


def test_files_that_go_meanwhile_are_no_fault(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildir.put("new/1", 10)
    scandir = os.scandir

    class Emptied:
        """The listing of a directory all of whose files go while it is read."""

        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self._entries = list(entries)
            for entry in self._entries:
                if entry.is_file():
                    os.unlink(entry.path)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self._entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("os.scandir", Emptied)
    assert sizes(tmp_path) == [0]


# --- faults


def test_a_file_in_place_of_a_maildir(tmp_path: Path) -> None:
    folder = tmp_path / "example.test"
    folder.mkdir()
    (folder / "alice").write_text("x")
    assert fault(tmp_path) == f"{folder}/alice: Not a directory"


def test_a_file_in_place_of_a_directory(maildir: Maildir, tmp_path: Path) -> None:
    (maildir.path / "new").rmdir()
    maildir.put("new", 10)
    assert fault(tmp_path) == f"{maildir.path}/new: Not a directory"


def test_links_in_a_circle(maildir: Maildir, tmp_path: Path) -> None:
    (maildir.path / "cur").rmdir()
    (maildir.path / "cur").symlink_to("cur")
    assert fault(tmp_path) == f"{maildir.path}/cur: Too many levels of symbolic links"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_disk_that_fails(number: int, maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: str) -> Any:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("os.scandir", failing)
    assert fault(tmp_path) == f"{maildir.path}: {os.strerror(number)}"


def test_a_fault_is_not_remembered(maildir: Maildir, tmp_path: Path) -> None:
    async def main(usage: MaildirUsage) -> None:
        aside = tmp_path / "aside"
        maildir.path.rename(aside)
        maildir.path.write_text("x")
        for _ in range(2):
            with pytest.raises(MailboxFault):
                await usage.usage(ALICE)
        maildir.path.unlink()
        aside.rename(maildir.path)
        maildir.put("new/1", 10)
        assert await usage.usage(ALICE) == 10

    use(tmp_path, main)


def test_closed(tmp_path: Path) -> None:
    async def main(usage: MaildirUsage) -> None:
        usage.close()
        with pytest.raises(MailboxFault, match="^closed$"):
            await usage.usage(ALICE)

    use(tmp_path, main)
