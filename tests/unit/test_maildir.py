"""Delivery into Maildirs: names, line ends, repeats, faults of the disk, shutting down."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.adapters.maildir import MAX_NAME, LineEnds, MaildirMailer, folder_name
from pillarbox.core.address import Domain, Host, LocalPart, Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Deferred, Delivered, Job, Message, Octets, Report, Row
from pillarbox.engine.ports import Mailer, SpoolBroken

HOSTNAME = Domain.parse("mx.example.test")
TEXT = b"Subject: x\r\n\r\n.dot\r\nline\r\n"
STORED = b"Return-Path: <sender@far.example>\nDelivered-To: Alice@example.test\nSubject: x\n\n.dot\nline\n"
ID = "0123456789ab"
NAME = f"1700000000.{ID}_0.mx.example.test"


def message(
    content: bytes | None = TEXT, *, sender: str | None = "sender@far.example", large: bool = False, at: float = 1.7e9
) -> Message:
    return Message(
        id=MessageId.parse(ID),
        received_at=at,
        envelope=Envelope(Mailbox.parse(sender) if sender else None, ()),
        listener="mx",
        peer="",
        helo="",
        protocol="SMTP",
        size=len(TEXT),
        header=HeaderView(0, "", "", "", ""),
        octets=Octets.PLAIN,
        large=large,
        content=content,
    )


def job(of: Message, *addresses: str) -> Job:
    boxes = [Mailbox.parse(address) for address in addresses or ("Alice@example.test",)]
    return Job(of, [Row(n, Recipient(box, box)) for n, box in enumerate(boxes)], "maildir")


Chunks = Callable[[Message], AsyncIterator[bytes]]


async def from_disk(of: Message) -> AsyncIterator[bytes]:
    for n in range(len(TEXT)):
        yield TEXT[n : n + 1]


async def try_job(mailer: Mailer, work: Job) -> Report:
    reports: list[Report] = []
    arrived = asyncio.Event()
    here = threading.get_ident()

    def done(of: Job, report: Report) -> None:
        assert of is work and threading.get_ident() == here
        reports.append(report)
        arrived.set()

    mailer.deliver(work, done)
    assert not reports
    async with asyncio.timeout(30):
        await arrived.wait()
    assert len(reports) == 1
    return reports[0]


def run(main: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(main)


def deliver(root: Path, *jobs: Job, chunks: Chunks = from_disk) -> list[Report]:
    async def main() -> list[Report]:
        mailer: Mailer = MaildirMailer(root, chunks, hostname=HOSTNAME, threads=2)
        reports = [await try_job(mailer, one) for one in jobs]
        await mailer.close(1.0)
        return reports

    return asyncio.run(main())


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# --- names


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (LocalPart("Alice.B_c+d-1"), "alice.b_c+d-1"),
        (LocalPart(""), "%empty"),
        (LocalPart("%empty"), "%25empty"),
        (LocalPart("."), "%2e"),
        (LocalPart(".."), "%2e."),
        (LocalPart("../../etc/passwd"), "%2e.%2f..%2fetc%2fpasswd"),
        (LocalPart("a/b"), "a%2fb"),
        (LocalPart('a "b"'), "a%20%22b%22"),
        (LocalPart("Straße"), "strasse"),
        (LocalPart("é\0"), "%c3%a9%00"),
        (Domain.parse("Example.TEST"), "example.test"),
    ],
)
def test_folder_names(part: LocalPart | Host, name: str) -> None:
    assert folder_name(part) == name


@given(st.text(), st.text())
def test_no_address_leaves_the_tree_and_none_shares_a_folder(one: str, other: str) -> None:
    name = folder_name(LocalPart(one))
    assert 0 < len(name) <= MAX_NAME and "/" not in name and "\0" not in name and not name.startswith(".")
    assert name == name.lower() and name.isascii()
    assert (name == folder_name(LocalPart(other))) == (one.casefold() == other.casefold())


def test_long_names_differ_still() -> None:
    names = {folder_name(LocalPart("ä" * 200 + end)) for end in "abc"}
    assert len(names) == 3 and max(map(len, names)) <= MAX_NAME


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b""])))
def test_line_ends_are_right_wherever_the_chunks_are_cut(chunks: list[bytes]) -> None:
    ends = LineEnds()
    assert b"".join(map(ends.feed, chunks)) + ends.end() == b"".join(chunks).replace(b"\r\n", b"\n")


# --- delivery


@pytest.mark.parametrize(
    ("sender", "owner", "path"),
    [
        ("sender@far.example", None, "sender@far.example"),
        ("sender@far.example", "team-owner@example.test", "team-owner@example.test"),
        (None, "team-owner@example.test", ""),  # a notice has none, whoever passes it on
        (None, None, ""),
    ],
)
def test_the_return_path_behind_a_list_is_its_owner(
    tmp_path: Path, sender: str | None, owner: str | None, path: str
) -> None:
    """RFC 5321 §3.9.2, §4.4; whose mailbox it is stands there, too, whatever the list was."""
    alice, team = Mailbox.parse("alice@example.test"), Mailbox.parse("team@example.test")
    recipient = Recipient(alice, team, Mailbox.parse(owner) if owner else None)
    deliver(tmp_path, Job(message(sender=sender), [Row(0, recipient)], "maildir"))
    (file,) = (tmp_path / "example.test/alice/new").iterdir()
    head = f"Return-Path: <{path}>\nDelivered-To: alice@example.test\n"
    assert file.read_bytes() == head.encode() + TEXT.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    "of", [message(), message(None), message(None, large=True)], ids=["in memory", "small on disk", "large on disk"]
)
def test_a_message_becomes_a_file_in_new(tmp_path: Path, of: Message) -> None:
    root = tmp_path / "mail"
    assert deliver(root, job(of)) == [Report((Delivered(NAME, "maildir"),))]
    assert files(root) == [f"example.test/alice/new/{NAME}"]
    box = root / "example.test" / "alice"
    assert (box / "new" / NAME).read_bytes() == STORED
    assert sorted(path.name for path in box.iterdir()) == ["cur", "new", "tmp"]
    for folder in (root, root / "example.test", box, box / "tmp", box / "new", box / "cur"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (box / "new" / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("of", [message(sender=None), message(None, sender=None, large=True)])
def test_several_recipients_of_a_notice(tmp_path: Path, of: Message) -> None:
    (report,) = deliver(tmp_path, job(of, "a@example.test", '"../../b"@second.test', "A@example.test"))
    names = [f"1700000000.{ID}_{n}.mx.example.test" for n in range(3)]
    assert report == Report(tuple(Delivered(name, "maildir") for name in names))
    assert files(tmp_path) == [
        f"example.test/a/new/{names[0]}",
        f"example.test/a/new/{names[2]}",
        f"second.test/%2e.%2f..%2fb/new/{names[1]}",
    ]
    head = (tmp_path / f"second.test/%2e.%2f..%2fb/new/{names[1]}").read_bytes()
    assert head.startswith(b'Return-Path: <>\nDelivered-To: "../../b"@second.test\nSubject')


@pytest.mark.parametrize("large", [False, True])
def test_a_repeat_replaces_the_file_while_it_is_new(tmp_path: Path, large: bool) -> None:
    work = job(message(None, large=large))
    stale = tmp_path / "example.test" / "alice" / "tmp" / NAME
    deliver(tmp_path, work)
    stale.write_bytes(b"of an attempt that a crash cut off" * 100)
    assert deliver(tmp_path, work) == [Report((Delivered(NAME, "maildir"),))]
    assert files(tmp_path) == [f"example.test/alice/new/{NAME}"]
    assert (tmp_path / "example.test" / "alice" / "new" / NAME).read_bytes() == STORED


@pytest.mark.parametrize("flags", ["", ":2,", ":2,RS", ",S=99:2,S"])
@pytest.mark.parametrize("large", [False, True])
def test_a_repeat_of_what_was_read_is_delivered(tmp_path: Path, flags: str, large: bool) -> None:
    work = job(message(None, large=large))
    deliver(tmp_path, work)
    box = tmp_path / "example.test" / "alice"
    (box / "new" / NAME).rename(box / "cur" / f"{NAME}{flags}")
    assert deliver(tmp_path, work) == [Report((Delivered(NAME, "maildir"),))]
    assert files(tmp_path) == [f"example.test/alice/cur/{NAME}{flags}"]


def test_cur_is_listed_only_when_something_was_moved_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[object] = []
    real = os.scandir
    deliver(tmp_path, job(message()))
    cur = tmp_path / "example.test" / "alice" / "cur"

    def scandir(path: str) -> Any:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    os.utime(cur, (1.7e9 - 60, 1.7e9 - 60))
    deliver(tmp_path, job(message()))
    assert listed == []
    os.utime(cur, (1.7e9, 1.7e9))
    deliver(tmp_path, job(message()))
    assert listed == [str(cur)]


def test_a_host_name_of_any_length_makes_a_file_name(tmp_path: Path) -> None:
    async def main() -> None:
        name = Domain.parse(".".join(["x" * 60] * 4))
        mailer = MaildirMailer(tmp_path, from_disk, hostname=name)
        report = await try_job(mailer, job(message()))
        assert isinstance(report.outcomes[0], Delivered)
        assert len(report.outcomes[0].text) + len(":2,ABCDEFRST") <= MAX_NAME
        await mailer.close(1.0)

    run(main())


# --- what is on the disk when


def test_everything_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "mail"
    log: list[str] = []
    fsync, rename, mkdir = os.fsync, os.rename, os.mkdir

    def name_of(path: str) -> str:
        return str(Path(path).relative_to(tmp_path))

    def logged_fsync(descriptor: int) -> None:
        log.append(f"sync {name_of(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def logged_rename(source: str, target: str) -> None:
        log.append("rename")
        rename(source, target)

    def logged_mkdir(path: str, mode: int = 0o777) -> None:
        log.append(f"mkdir {name_of(path)}")
        mkdir(path, mode)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "rename", logged_rename)
    monkeypatch.setattr(os, "mkdir", logged_mkdir)
    box = "mail/example.test/alice"
    every_time = [f"sync {box}/tmp/{NAME}", "rename", f"sync {box}/new"]
    deliver(root, job(message()))
    assert log == [
        "mkdir mail",
        "sync .",
        "mkdir mail/example.test",
        "sync mail",
        f"mkdir {box}",
        "sync mail/example.test",
        f"mkdir {box}/new",
        f"sync {box}",
        f"mkdir {box}/cur",
        f"sync {box}",
        f"mkdir {box}/tmp",
        *every_time,
    ]
    log.clear()
    deliver(root, job(message()))
    assert log == every_time


# --- faults


def failing(number: int, *, on: str) -> Callable[[int], None]:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if on in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    return fsync


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("number", "on", "status", "left"),
    [
        (errno.EIO, "/tmp/17", "4.3.0", []),
        (errno.ENOSPC, "/tmp/17", "4.3.1", []),
        (errno.EDQUOT, "/tmp/17", "4.3.1", []),
        (errno.EIO, "/bad/new", "4.3.0", [f"example.test/bad/new/1700000000.{ID}_1.mx.example.test"]),
    ],
)
def test_a_sync_that_fails_defers_that_recipient_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool, number: int, on: str, status: str, left: list[str]
) -> None:
    work = job(message(None, large=large), "good@example.test", "bad@example.test", "fine@example.test")
    deliver(tmp_path, work)
    for name in ("good", "bad", "fine"):
        for path in (tmp_path / "example.test" / name / "new").iterdir():
            path.unlink()
    monkeypatch.setattr(os, "fsync", failing(number, on=on if "bad" in on else "/bad" + on))
    (report,) = deliver(tmp_path, work)
    good, bad, fine = report.outcomes
    assert isinstance(good, Delivered) and isinstance(fine, Delivered)
    assert bad == Deferred(f"mailbox: {os.strerror(number)}", "maildir", EnhancedCode.parse(status))
    assert [name for name in files(tmp_path) if "bad" in name] == left


@pytest.mark.parametrize("large", [False, True])
def test_a_full_disk_in_the_middle_of_a_body(tmp_path: Path, large: bool) -> None:
    # A device that is always full stands in for the file: what is written to it, fails when the buffer leaves.
    work = job(message(None, large=large))
    deliver(tmp_path, work)
    box = tmp_path / "example.test" / "alice"
    (box / "new" / NAME).unlink()
    (box / "tmp" / NAME).symlink_to("/dev/full")
    (report,) = deliver(tmp_path, work)
    assert report.outcomes == (Deferred("mailbox: No space left on device", "maildir", EnhancedCode(4, 3, 1)),)
    assert list((box / "tmp").iterdir()) == [] and list((box / "new").iterdir()) == []
    assert isinstance(deliver(tmp_path, work)[0].outcomes[0], Delivered)


@pytest.mark.parametrize("large", [False, True])
def test_folders_that_cannot_be_made(tmp_path: Path, large: bool) -> None:
    (tmp_path / "example.test").write_text("in the way")
    (report,) = deliver(tmp_path, job(message(None, large=large)))
    assert report.outcomes == (Deferred("mailbox: Not a directory", "maildir", EnhancedCode(4, 3, 0)),)


async def broken_spool(of: Message) -> AsyncIterator[bytes]:
    yield TEXT
    raise SpoolBroken("checksum")


async def broken_code(of: Message) -> AsyncIterator[bytes]:
    yield TEXT
    raise ZeroDivisionError


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        (broken_spool, "the message could not be read from the spool"),
        (broken_code, "local error in processing"),
    ],
)
def test_a_body_that_cannot_be_read_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, large: bool, chunks: Chunks, text: str
) -> None:
    (report,) = deliver(tmp_path, job(message(None, large=large), "a@example.test", "b@example.test"), chunks=chunks)
    assert report.outcomes == (Deferred(text, "maildir", EnhancedCode(4, 3, 0)),) * 2
    assert files(tmp_path) == []
    assert ("ZeroDivisionError" in caplog.text) == (chunks is broken_code)


def test_an_unexpected_exception_is_deferred_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(tmp_path, job(message()))

    def rename(source: str, target: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(os, "rename", rename)
    (report,) = deliver(tmp_path, job(message()))
    assert report.outcomes == (Deferred("local error in processing", "maildir", EnhancedCode(4, 3, 0)),)
    assert caplog.records[-1].levelno == logging.ERROR and caplog.records[-1].exc_info
    assert files(tmp_path) == [f"example.test/alice/new/{NAME}"]


# --- concurrency and the end


def test_the_event_loop_never_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        assert released.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    async def main() -> None:
        mailer = MaildirMailer(tmp_path, from_disk, hostname=HOSTNAME, threads=2)
        waiting = [asyncio.create_task(try_job(mailer, job(message(at=1.7e9 + n)))) for n in range(6)]
        await asyncio.to_thread(lambda: None)  # a turn of the loop while both threads hang
        released.set()
        outcomes = [report.outcomes[0] for report in await asyncio.gather(*waiting)]
        assert all(isinstance(outcome, Delivered) for outcome in outcomes)
        await mailer.close(1.0)

    run(main())
    assert len(files(tmp_path)) == 6


@pytest.mark.parametrize("of", [message(), message(None), message(None, large=True)])
def test_closing_reports_what_is_not_done_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: Message) -> None:
    released = threading.Event()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        assert released.wait(20)
        real(descriptor)

    deliver(tmp_path, job(message()))
    monkeypatch.setattr(os, "fsync", fsync)

    async def main() -> None:
        mailer = MaildirMailer(tmp_path, from_disk, hostname=HOSTNAME, threads=1)
        waiting = [asyncio.create_task(try_job(mailer, job(of))) for _ in range(2)]
        await asyncio.to_thread(lambda: None)
        await mailer.close(0.0)
        assert [await one for one in waiting] == [Report(()), Report(())]
        assert await try_job(mailer, job(of)) == Report(())
        released.set()

    run(main())


def test_closing_waits_for_what_is_done_in_time(tmp_path: Path) -> None:
    async def main() -> None:
        mailer = MaildirMailer(tmp_path, from_disk, hostname=HOSTNAME)
        waiting = asyncio.create_task(try_job(mailer, job(message(None, large=True))))
        await asyncio.to_thread(lambda: None)
        await mailer.close(20.0)
        assert isinstance((await waiting).outcomes[0], Delivered)

    run(main())
