"""What a disk may do wrong: it is full, it fails, it gives back what can't be read. Nothing is half-kept, and the
server is as good as before when the disk is.
"""

from __future__ import annotations

import errno
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.live.corpus import simple
from tests.live.ledger import token_of
from tests.live.strace import Strace
from tests.live.support import BOB, Client, Server, arrived, letters, maildir, needs_root, original, until

LARGE = 400_000  # octets: a body of that size becomes a file


class Books:
    """What the server said to each message, and whether that is what it did."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.accepted: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}
        self.sizes: dict[str, int] = {}

    def send(self, size: int) -> str:
        token = f"disk-{len(self.accepted) + len(self.refused)}-"
        self.sizes[token] = size
        message = simple(token, size)
        with Client(self.server.port) as client:
            reply = client.send(message)
        if reply.startswith("250 "):
            self.accepted[token] = message
        else:
            self.refused[token] = reply
        return reply

    def allow_what_was_refused(self) -> None:
        """Where it is there after all, it must be there whole: delivered once, which is what its sender will see."""
        self.server.drained()
        found = {token_of(letter) for letter in letters(self.server)}
        for token in found & set(self.refused):
            self.accepted[token] = simple(token, self.sizes[token])
            del self.refused[token]

    def check(self) -> None:
        """All that was accepted is there, once and whole, and nothing of the rest."""
        self.server.drained()
        found = {token_of(letter): original(letter) for letter in arrived(self.server, len(self.accepted))}
        assert found == {token: message.replace(b"\r\n", b"\n") for token, message in self.accepted.items()}
        until(lambda: not self.server.bodies, 5, what=f"no body is left over: {self.refused}")
        assert not list((maildir(self.server) / "tmp").iterdir())
        assert self.server.call("queue_count", where="state=failed")["count"] == 0

    def check_again_after_a_restart(self) -> None:
        self.check()
        self.server.stop()
        self.server.start()
        self.check()


RETRY = {"retry": {"schedule": ["1s"]}}


@contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[None]:
    needs_root()
    place.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "tmpfs", str(place)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"LOUD: no tmpfs can be mounted here: {run.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(file: Path, leave: int) -> None:
    """Write until the disk is full, but for so many octets."""
    with file.open("ab", buffering=0) as filler:
        for size in (65_536, 4_096):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        filler.truncate(max(filler.tell() - leave, 0))


@pytest.mark.timeout(120)
def test_a_full_disk(tmp_path: Path) -> None:
    server = Server(tmp_path, settings=RETRY)
    with small_disk(server.data, 12), server:
        server.local(BOB)
        books, filler = Books(server), server.data / "filler"
        for size in (300, LARGE):
            assert books.send(size).startswith("250 ")
        books.check()

        fill(filler, leave=200_000)
        assert books.send(LARGE).startswith("452 4.3.1"), "no room for a large one"
        until(lambda: not server.bodies, 5, what="the body of the refused message is gone")
        assert books.send(300).startswith("250 "), "room for a small one"
        server.drained()

        fill(filler, leave=0)
        replies = [books.send(size) for size in (300, 3_000, 60_000, 60_000, LARGE, 300)]
        assert {reply[:9] for reply in replies[2:]} <= {"452 4.3.1", "250 2.0.0"}
        assert sum(reply.startswith("452 4.3.1") for reply in replies) >= 3, replies
        with Client(server.port) as client:
            assert client.say("NOOP").startswith("250 ")
        filler.unlink()

        for size in (300, LARGE):
            assert books.send(size).startswith("250 ")
        books.check_again_after_a_restart()


LOG, FOLDER = "spool-0.db-wal", "bodies-0"
FAULTS = [
    pytest.param(LOG, "fdatasync", 1, 500, id="log-sync"),
    pytest.param(LOG, "pwrite64", 1, 500, id="log-write-1"),
    pytest.param(LOG, "pwrite64", 2, 500, id="log-write-2"),
    pytest.param(LOG, "pwrite64", 4, 500, id="log-write-4"),
    pytest.param(LOG, "fdatasync", 1, LARGE, id="log-sync-large"),
    pytest.param(LOG, "pwrite64", 1, LARGE, id="log-write-large"),
    pytest.param(None, "fdatasync", 1, LARGE, id="file-sync"),
    pytest.param(FOLDER, "fsync", 1, LARGE, id="folder-sync"),
]


@pytest.mark.parametrize("ended", ["goes on", "killed"])
@pytest.mark.parametrize(("path", "call", "when", "size"), FAULTS)
def test_an_input_or_output_error(
    tmp_path: Path, path: str | None, call: str, when: int, size: int, ended: str
) -> None:
    """451, nothing half-kept, and the next message is taken; also when the server is killed right behind the 451."""
    with Server(tmp_path, settings=RETRY) as server:
        server.local(BOB)
        books = Books(server)
        assert books.send(500).startswith("250 ")
        server.drained()
        options = ["-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={when}"]
        options += ["-P", str(server.data / path)] if path else []
        with Strace(server.pid, tmp_path / "trace", *options) as trace:
            reply = books.send(size)
            assert reply.startswith("451 4.3.0"), (reply, trace.file.read_text())
            if ended == "killed":
                server.kill()
        if ended == "killed":
            server.start()
            if (path, call) == (LOG, "fdatasync"):  # the one case in which nobody knows what is on the disk
                books.allow_what_was_refused()
        until(lambda: takes(server), 5, what="it works again by itself")  # the fault may have met a second thread, too
        for again in (500, LARGE):
            assert books.send(again).startswith("250 "), "the server is as good as before"
        books.check_again_after_a_restart()


def takes(server: Server) -> bool:
    """Whether a transaction may begin."""
    with Client(server.port) as client:
        return client.say("MAIL FROM:<>").startswith("250")


def test_a_disk_that_fails_for_a_while(tmp_path: Path) -> None:
    """Nothing can be synced: 451 to everybody, and no way back to work is needed but that the disk works again."""
    with Server(tmp_path, settings=RETRY) as server:
        server.local(BOB)
        books = Books(server)
        always = ("-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO")
        with Strace(server.pid, tmp_path / "trace", *always):
            assert books.send(500).startswith("451 4.3.0")
            until(lambda: not takes(server), 5, what="the failure is known")
        until(lambda: takes(server), 5, what="it works again by itself")
        for size in (500, LARGE):
            assert books.send(size).startswith("250 ")
        books.check_again_after_a_restart()


def test_a_message_that_can_not_be_read_back_harms_no_other(tmp_path: Path) -> None:
    """Of two in the queue the first has an address that is none, as a fault of the disk or of ours may make it."""
    with Server(tmp_path) as server:
        server.local(BOB)
    for token in ("first", "second"):
        server.ask("send", "--from", BOB, "--to", BOB, text=simple(token))
    with closing(sqlite3.connect(server.data / "spool-0.db")) as connection:
        connection.execute(
            "UPDATE recipient SET address = 'no address' WHERE message = (SELECT min(message) FROM recipient)"
        )
        connection.commit()
    server.start()
    try:
        assert token_of(arrived(server)[0]) == "second"
    finally:
        server.kill()
