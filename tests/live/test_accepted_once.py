"""The same message with the same Idempotency-Key is accepted once: by smtplib, by the command line, and under SIGKILL.

A route holds all of it, so that what the queue has is what was accepted.
"""

from __future__ import annotations

import random
import re
import smtplib
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from tests.live.support import BOB, DOMAIN, HOST, PILLARBOX, Server, until
from tests.live.test_tls_live import PASSWORD

ALICE = f"alice@{DOMAIN}"
KEY = "order-17"
_QUEUED = re.compile(r"2\.0\.0 queued as (\w+)( before, with the same Idempotency-Key)?")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    settings = {
        "listener": [
            {"name": "mx", "address": f"{HOST}:0"},
            {"name": "submission", "address": f"{HOST}:0", "service": "submission"},
        ],
        "route": [{"match": "*", "next_hop": "hold"}],
    }
    with Server(tmp_path, settings=settings) as started:
        started.local(ALICE, BOB)
        for user in (ALICE, BOB):
            started.cli("user", "passwd", user, "--password-stdin", text=f"{PASSWORD}\n".encode())
        yield started


def mail(key: str | None = KEY, text: str = "hello", **fields: str) -> EmailMessage:
    """With a Message-ID of its own, as a program makes one that tries again."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ALICE, "x@far.test", "once"
    message["Message-ID"] = f"<{random.random()}@client.example>"
    for name, value in {**fields, **({} if key is None else {"Idempotency-Key": key})}.items():
        message[name] = value
    message.set_content(text)
    return message


class Session(smtplib.SMTP):
    """Logged in at the listener for submission."""

    def __init__(self, server: Server, user: str = ALICE) -> None:
        super().__init__(HOST, server.ports["submission"], timeout=60)
        self.login(user, PASSWORD)

    def post(self, message: EmailMessage, sender: str = ALICE) -> tuple[int, str]:
        """The reply to its end."""
        self.mail(sender)
        assert self.rcpt("x@far.test")[0] == 250
        code, text = self.data(message.as_bytes().replace(b"\n", b"\r\n"))
        return code, text.decode()

    def accepted(self, message: EmailMessage, sender: str = ALICE) -> tuple[str, bool]:
        """Its id, and whether it was accepted before."""
        code, text = self.post(message, sender)
        found = _QUEUED.fullmatch(text)
        assert code == 250 and found is not None, (code, text)
        return found[1], found[2] is not None


def ids(server: Server) -> list[str]:
    return sorted(row["id"] for row in server.call("queue_list", where="state=any", limit=1000))


def test_smtplib_sends_it_again(server: Server) -> None:
    with Session(server) as one:
        first, before = one.accepted(mail())
        assert not before and one.accepted(mail()) == (first, True)
    with Session(server) as two:
        assert two.accepted(mail(key=f'"{KEY}"', Date="Tue, 24 Nov 2026 15:00:00 +0000")) == (first, True)
        code, text = two.post(mail(text="another"))
        assert code == 554 and text.startswith(f"5.6.0 Idempotency-Key was used for another message, {first} (S-")
        assert two.post(mail(key="k" * 256))[0] == 554
        assert two.accepted(mail(key="order-18"))[0] != first
        assert two.accepted(mail(key=None))[0] != two.accepted(mail(key=None))[0]
    with Session(server, BOB) as other:
        assert other.accepted(mail(), BOB)[1] is False, "the key of another user"
    assert len(ids(server)) == 5
    assert b"dempotency" not in server.cli("show", first).encode(), "it is not passed on"
    until(lambda: server.why(first).count("Submitted again with the same Idempotency-Key") == 2)
    story = server.why(first)
    assert (
        f"from {ALICE} [127.0.0.1]" in story and "Refused: another message came with the same Idempotency-Key" in story
    )


def test_it_is_remembered_through_a_restart_and_forgotten_after_its_time(server: Server) -> None:
    with Session(server) as session:
        first, _ = session.accepted(mail())
    server.stop()
    server.start()
    with Session(server) as session:
        assert session.accepted(mail()) == (first, True)
    server.stop()
    with closing(sqlite3.connect(server.data / "spool-0.db")) as database, database:
        database.execute("UPDATE idempotency SET until = until - 86400")
    server.start()
    with Session(server) as session:
        second, before = session.accepted(mail())
    assert second != first and not before


def test_a_large_message(server: Server) -> None:
    text = "".join(f"line {number}\n" for number in range(80_000))
    with Session(server) as session:
        first, _ = session.accepted(mail(text=text))
        bodies = server.bodies
        assert len(bodies) == 1
        assert session.accepted(mail(text=text)) == (first, True)
        assert session.post(mail(text=text + "more\n"))[0] == 554
    until(lambda: server.bodies == bodies, what="what was spilled of the repeats is gone")


def test_send_on_a_running_server_and_at_rest(server: Server) -> None:
    words = ("send", "--from", ALICE, "--to", "x@far.test", "--idempotency-key", KEY)
    text = b"Subject: once\n\nhello\n"
    first = server.ask(*words, text=text)
    assert server.ask(*words, text=text) == {"id": first["id"], "repeated": True} and "repeated" not in first
    assert server.cli(*words, text=text) == f"queued as {first['id']} before, with the same key\n"
    field = b"Idempotency-Key: " + KEY.encode() + b"\n"
    assert server.ask(*words[:5], text=field + text)["id"] == first["id"], "or by the field"
    command = [str(PILLARBOX), "--config", str(server.config), "sendmail", "-f", ALICE, "x@far.test"]
    subprocess.run(command, input=field + text, check=True, timeout=60)
    refused = server.cli(*words, text=text + b"more\n", status=1)
    assert f"Idempotency-Key was used for another message, {first['id']}" in refused
    assert "1 to 255 printable ASCII" in server.cli(*words[:5], "--idempotency-key", "\u00e9", text=text, status=2)
    assert "is empty" in server.cli(*words[:5], "--idempotency-key", "", text=text, status=2)
    assert ids(server) == [first["id"]]
    server.stop()
    assert server.ask(*words, text=text)["repeated"] is True
    new = server.ask(*words[:5], "--idempotency-key", "at rest", text=text)
    assert server.ask(*words[:5], "--idempotency-key", "at rest", text=text) == {"id": new["id"], "repeated": True}
    server.start()
    assert server.ask(*words, text=text)["id"] == first["id"] and ids(server) == sorted([first["id"], new["id"]])
    assert "with the same Idempotency-Key, from this machine, and not queued" in server.why(first["id"])


def test_twenty_clients_at_once_with_one_key(server: Server) -> None:
    barrier = Barrier(20)

    def client(_: int) -> tuple[str, bool]:
        with Session(server) as session:
            message = mail()
            barrier.wait(60)
            return session.accepted(message)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(client, range(20)))
    assert len({message for message, _ in found}) == 1
    assert sorted(before for _, before in found) == [False] + [True] * 19
    assert ids(server) == [found[0][0]]


def test_killed_between_the_commit_and_the_250(server: Server) -> None:
    """The client never hears of it, and sends it again."""
    session = Session(server)
    session.mail(ALICE)
    session.rcpt("x@far.test")
    session.docmd("DATA")
    session.send(mail().as_bytes().replace(b"\n", b"\r\n") + b".\r\n")
    until(lambda: _claims(server) == 1, what="the commit")
    server.kill()
    session.close()  # nothing of the reply was read
    server.start()
    with Session(server) as again:
        first, before = again.accepted(mail())
    assert before and ids(server) == [first]
    assert "Submitted again with the same Idempotency-Key" in server.why(first)


def test_killed_at_any_moment(server: Server) -> None:
    """Whoever has no 250 sends it again until it has one: one message of each key is in the queue at the end."""
    keys = [f"key {number}" for number in range(60)]
    accepted: dict[str, str] = {}

    def client(key: str) -> None:
        try:
            with Session(server) as session:
                accepted[key], _ = session.accepted(mail(key=key))
        except (OSError, smtplib.SMTPException):
            pass  # killed under it

    for _ in range(3):
        enough = len(accepted) + 5
        with ThreadPoolExecutor(12) as pool:
            running = [pool.submit(client, key) for key in keys if key not in accepted]
            until(partial(_some, accepted, running, enough), what="some are accepted")
            server.kill()
        server.start()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(client, keys))
    assert set(accepted) == set(keys)
    assert ids(server) == sorted(accepted.values())


def _some(accepted: dict[str, str], running: list[Future[None]], enough: int) -> bool:
    return len(accepted) >= enough or all(each.done() for each in running)


def _claims(server: Server) -> int:
    with closing(sqlite3.connect(f"file:{server.data / 'spool-0.db'}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM idempotency").fetchone()
    return int(count)
