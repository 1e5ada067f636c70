"""Notices that arrive: what a sender asked to be told stands in its mailbox, made by a server that runs."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import Envelope, MailOptions, Notify, RcptOptions, Recipient
from pillarbox.core.message import view_header
from pillarbox.engine.ids import IdSource
from pillarbox.engine.mail import Message, Octets, Unit
from pillarbox.engine.outcomes import held_back
from pillarbox.engine.ports import SpoolError
from pillarbox.sim.clock import VirtualClock
from tests.live.support import BOB, DOMAIN, HOST, Client, Server, arrived, until

ALICE = f"alice@{DOMAIN}"
AWAY = "x@host.away.test"
TEXT = b"Received: here\r\nFrom: alice\r\nSubject: to be told\r\n\r\nbody\r\n"
EVERYTHING = frozenset(Notify)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """With a next hop that takes no connection."""
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        settings: dict[str, Any] = {
            "route": [{"match": "*.away.test", "next_hop": f"smtp://{HOST}:{closed.getsockname()[1]}"}],
            "retry": {"schedule": ["1s"], "give_up": "1d", "warn": "1s"},
            "relay": {"networks": ["127.0.0.0/8"]},
        }
        with Server(tmp_path, settings=settings) as running:
            running.local(ALICE, BOB)
            yield running


def message(to: str, options: MailOptions, notify: frozenset[Notify] = EVERYTHING) -> Message:
    recipient = Recipient(Mailbox.parse(to), Mailbox.parse(to), None, RcptOptions(notify, "rfc822;First@other.test"))
    now = time.time()
    return Message(
        id=IdSource(VirtualClock(now)).next(),
        received_at=now,
        envelope=Envelope(Mailbox.parse(ALICE), (recipient,), options=options),
        listener="mx",
        peer="192.0.2.9",
        helo="client.example",
        protocol="ESMTP",
        size=len(TEXT),
        header=view_header(TEXT[: TEXT.index(b"\r\n\r\n") + 2]),
        octets=Octets.PLAIN,
        large=False,
        content=TEXT,
    )


def accepted_by(server: Server, one: Message) -> None:
    """As if the server had taken it and been killed: it stands in the spool, and nothing was tried."""
    server.stop()

    async def keep() -> None:
        loop = asyncio.get_running_loop()
        spool = SqliteSpool(server.data / "spool-0.db", server.data / "bodies-0", loop)
        answer: asyncio.Future[SpoolError | None] = loop.create_future()
        spool.write(Unit((one,), held_back(one, one.received_at)), answer.set_result)
        assert await answer is None
        await spool.close()

    asyncio.run(keep())
    server.start()


def told(server: Server) -> tuple[EmailMessage, list[Any]]:
    """The one notice in the mailbox of the sender, and the groups of its status."""
    (letter,) = arrived(server, 1, ALICE)
    assert letter.startswith(b"Return-Path: <>\n")
    found = email.message_from_bytes(letter, policy=email.policy.default)
    assert isinstance(found, EmailMessage) and found["Auto-Submitted"] == "auto-replied"
    _, status, _ = found.iter_parts()
    return found, list(status.get_payload())


def test_a_sender_is_told_that_its_mail_has_arrived(server: Server) -> None:
    one = message(BOB, MailOptions(envelope_id="E+1"))
    accepted_by(server, one)
    arrived(server, 1, BOB)
    found, (of_message, recipient) = told(server)
    assert "Delivered" in found["Subject"]
    assert of_message["Original-Envelope-Id"] == "E+1"
    assert dict(recipient.items()) == {
        "Original-Recipient": "rfc822;First@other.test",
        "Final-Recipient": f"rfc822; {BOB}",
        "Action": "delivered",
        "Status": "2.0.0",
    }
    story = " ".join(server.cli("why", str(one.id)).split())
    assert f"The sender {ALICE} is told that it has arrived" in story


def test_a_sender_is_warned_of_mail_that_waits(server: Server) -> None:
    """By a client that knows nothing of DSN; and once, however often it is tried."""
    with Client(server.port) as client:
        assert client.send(b"Subject: slow\r\n\r\nbody\r\n", (AWAY,), ALICE).startswith("250")
    found, (_, recipient) = told(server)
    assert "Delayed" in found["Subject"]
    assert (recipient["Final-Recipient"], recipient["Action"]) == (f"rfc822; {AWAY}", "delayed")
    assert recipient["Status"].startswith("4.") and "Will-Retry-Until" in recipient
    (row,) = server.call("queue_list", where="domain=host.away.test", limit=10)

    def tried_again() -> bool:
        (now,) = server.call("queue_list", where="domain=host.away.test", limit=10)
        return bool(now["attempts"] >= row["attempts"] + 2)

    until(tried_again, what="two attempts more")
    arrived(server, 1, ALICE)
    assert "is told that it takes longer" in " ".join(server.cli("why", row["id"]).split())


def test_held_mail_is_shown_as_held_and_goes_at_its_time(server: Server) -> None:
    release = time.time() + 8
    one = message(BOB, MailOptions(hold_until=release), frozenset())
    accepted_by(server, one)
    assert "held until" in server.cli("queue") and server.call("queue_order", action="retry")["count"] == 0
    story = " ".join(server.cli("why", str(one.id)).split())
    assert "Held back until" in story and "The 1st attempt is at" in story
    server.kill()
    server.start()
    arrived(server, 1, BOB)
    assert time.time() >= release
