"""Bounces over real sockets: VERP on the wire, a report that comes back later, what `why` and the list make of it.

The remote server is the one of the library aiosmtpd; reports come in through a client on a raw socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.live.support import HOST, Client, Server, arrived, until

ALICE = "alice@example.test"
RETURNS = "returns.example.test"
GONE = "gone@far.example"
STAYS = "stays@far.example"


class Remote:
    """Takes everything, but what is for `refused`."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, list[str]]] = []
        self.refused = {"nobody@far.example": "550 5.1.1 No such user here"}

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append((envelope.mail_from or "", list(envelope.rcpt_tos)))
        return "250 2.0.0 taken"

    def reverse_path(self, recipient: str) -> str:
        return next(sender for sender, recipients in self.taken if recipient in recipients)


class _Controller(Controller):
    """On a port that the system chooses."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@pytest.fixture
def remote() -> Iterator[tuple[Remote, int]]:
    handler = Remote()
    controller = _Controller(handler, hostname=HOST, port=0)
    controller.start()
    try:
        yield handler, controller.port
    finally:
        controller.stop()


def _server(place: Path, port: int, **bounces: object) -> Server:
    settings = {
        "relay": {"networks": ["127.0.0.0/8"]},
        "route": [{"match": "far.example", "next_hop": f"smtp://{HOST}:{port}", "tls": "off"}],
        "bounces": {"verp": "on", "domain": RETURNS, **bounces},
        "suppression": {"enabled": True},
        "retry": {"schedule": ["1h"]},
    }
    return Server(place, settings=settings)


def _report(address: str, *, status: str = "5.1.1", action: str = "failed") -> bytes:
    """As RFC 3464 has it."""
    return (
        "From: MAILER-DAEMON@mx.far.example\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="B"\r\n\r\n'
        "--B\r\nContent-Type: text/plain\r\n\r\nI could not deliver it.\r\n"
        "--B\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.far.example\r\n\r\n"
        f"Final-Recipient: rfc822; {address}\r\nAction: {action}\r\nStatus: {status}\r\n"
        f"Remote-MTA: dns; inner.far.example\r\nDiagnostic-Code: smtp; 550 {status} User unknown\r\n"
        "\r\n--B--\r\n"
    ).encode()


def _send(server: Server, *recipients: str) -> str:
    """Gives the id."""
    with Client(server.port) as client:
        reply = client.send(b"From: alice\r\nSubject: hello\r\n\r\nx\r\n", recipients, ALICE)
    assert reply.startswith("250 2.0.0 queued as "), reply
    return reply.rsplit(" ", 1)[1]


def _comes_back(server: Server, to: str, octets: bytes, sender: str = "") -> str:
    with Client(server.port) as client:
        return client.send(octets, [to], sender)


def test_a_bounce_is_recorded_passed_on_and_suppresses(tmp_path: Path, remote: tuple[Remote, int]) -> None:
    handler, port = remote
    with _server(tmp_path, port) as server:
        server.local(ALICE)
        sent = _send(server, GONE, STAYS)
        server.drained()
        paths = {handler.reverse_path(GONE), handler.reverse_path(STAYS)}
        assert len(handler.taken) == len(paths) == 2  # one transaction for each recipient
        assert all(path.startswith(f"bounce+{sent}-") and path.endswith(f"@{RETURNS}") for path in paths)

        back = handler.reverse_path(GONE)
        assert _comes_back(server, back.upper(), _report("somebody.else@far.example")).startswith("250")
        (letter,) = arrived(server, address=ALICE)
        assert letter.startswith(b"Return-Path: <>") and b"Final-Recipient: rfc822; somebody.else" in letter

        story = server.why(sent)
        assert f"{GONE}: A bounce came back from inner.far.example: 550 5.1.1 User unknown." in story
        assert "It counts as hard. The address is on the suppression list now." in story
        (record,) = [each for each in server.call("why", message=sent)["records"] if each["kind"] == "bounced_back"]
        detail = record["detail"]
        assert (detail["class"], detail["status"], detail["remote"]) == ("hard", "5.1.1", "inner.far.example")
        assert detail["suppressed"] == "yes" and record["recipient"] == 0

        (entry,) = server.ask("suppression", "list", "*@FAR.example")
        assert (entry["address"], entry["class"], entry["message"], entry["who"]) == (GONE, "hard", sent, "bounce")
        with Client(server.port) as client:
            client.say(f"MAIL FROM:<{ALICE}>")
            assert client.say(f"RCPT TO:<{GONE.upper()}>").startswith("550 5.7.1 Address suppressed since 2")
            assert client.say(f"RCPT TO:<{STAYS}>").startswith("250")
        assert "suppression remove" in server.cli("send", "--from", ALICE, "--to", GONE, text=b"x\n", status=1)
        server.cli("suppression", "remove", GONE)
        _send(server, GONE)
        assert server.call("suppression_list", pattern="") == []


def test_only_addresses_that_were_made_here_are_taken(tmp_path: Path, remote: tuple[Remote, int]) -> None:
    handler, port = remote
    with _server(tmp_path, port) as server:
        server.local(ALICE)
        sent = _send(server, GONE)
        server.drained()
        back = handler.reverse_path(GONE)
        forged = [
            back.replace("-0-", "-1-"),
            back.replace(sent, sent[:-1] + ("a" if sent[-1] != "a" else "b")),
            f"bounce+x@{RETURNS}",
        ]
        with Client(server.port) as client:
            client.say("MAIL FROM:<>")
            for address in forged:
                assert client.say(f"RCPT TO:<{address}>").startswith("550 5.1.1"), address
        away = b"From: gone\r\nAuto-Submitted: auto-replied\r\nSubject: Out of office\r\n\r\nBack on Monday.\r\n"
        assert _comes_back(server, back, away, "gone@far.example").startswith("250")
        arrived(server, address=ALICE)
        (record,) = [each for each in server.call("why", message=sent)["records"] if each["kind"] == "answered"]
        assert record["detail"]["class"] == "auto_reply"
        assert server.call("suppression_list", pattern="") == []


def test_what_a_server_refuses_for_good_is_learned_and_survives(tmp_path: Path, remote: tuple[Remote, int]) -> None:
    _, port = remote
    server = _server(tmp_path, port, forward=False)
    with server:
        server.local(ALICE)
        sent = _send(server, "nobody@far.example")
        server.drained()
        (entry,) = until(lambda: server.call("suppression_list", pattern=""))
        assert (entry["address"], entry["who"], entry["message"]) == ("nobody@far.example", "delivery", sent)
        server.cli("suppression", "add", "me@far.example", "--until", "never", "--reason", "asked to be left alone")
    with server:
        with Client(server.port) as client:
            client.say(f"MAIL FROM:<{ALICE}>")
            assert client.say("RCPT TO:<nobody@far.example>").startswith("550 5.7.1")
            assert "by hand: asked to be left alone" in client.say("RCPT TO:<me@far.example>")
        assert "until: never" in server.cli("suppression", "show", "me@far.example")
        server.cli("suppression", "remove", "*@far.example")
        assert "is not on the suppression list" in server.cli("suppression", "show", "me@far.example", status=1)
