"""Notices, read as a mail program reads them: what stands in them whatever happened to the message."""

from __future__ import annotations

import email
import email.message
import email.policy
import re

import pytest

from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.dsn import MAX_LINE, Action, Notice, Returned, Telling, may_notify, notice
from pillarbox.engine.mail import Deferred, Failed, Message, Octets, Row

HOSTNAME = Domain.parse("mx.example.test")
RECEIVED = 1_700_000_000.0
HEADER = b"From: alice@example.org\r\nSubject: Lunch\r\n"
BOB = Mailbox.parse("bob@far.example")
NO_USER = Failed("550 5.1.1 No such user", "mx1.far.example [192.0.2.1]:25", EnhancedCode(5, 1, 1), remote=True)
REFUSED = Deferred("mx1.far.example [192.0.2.1]: connection refused", "mx1.far.example", EnhancedCode(4, 4, 1))


def message(
    sender: str | None = "alice@example.org",
    *,
    listener: str = "mx",
    peer: str = "198.51.100.7",
    subject: str = "Lunch",
) -> Message:
    return Message(
        id=MessageId.parse("0123456789ab"),
        received_at=RECEIVED,
        envelope=Envelope(None if sender is None else Mailbox.parse(sender), (Recipient(BOB, BOB),)),
        listener=listener,
        peer=peer,
        helo="client.example.org",
        protocol="ESMTP",
        size=100,
        header=HeaderView(1, "alice@example.org", subject, "<1@example.org>", ""),
        octets=Octets.PLAIN,
        large=False,
    )


def undelivered(
    outcome: Failed | Deferred,
    *,
    address: Mailbox = BOB,
    original: Mailbox = BOB,
    given_up: bool = False,
    attempts: int = 7,
) -> Telling:
    return Telling(
        Row(3, Recipient(address, original), attempts),
        Action.FAILED,
        outcome.status,
        outcome.text,
        outcome.next_hop,
        remote=outcome.remote,
        given_up=given_up,
    )


def parsed(octets: bytes) -> email.message.EmailMessage:
    assert octets.isascii()
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", octets)
    assert max(map(len, octets.split(b"\r\n"))) <= MAX_LINE
    found = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(found, email.message.EmailMessage)
    assert [part.defects for part in found.walk()] == [[]] * len(list(found.walk()))
    return found


def made(*failed: Telling, of: Message | None = None, header: bytes = HEADER, age: float = 60.0) -> bytes:
    about = of or message()
    assert about.envelope.sender is not None
    told = Notice(about, failed, about.envelope.sender, about.envelope.options, HOSTNAME, RECEIVED + age)
    return notice(told, Returned(header))


def parts_of(octets: bytes) -> tuple[str, list[email.message.Message], bytes]:
    """The text, the groups of the status part, the header section of the original."""
    text, status, original = parsed(octets).iter_parts()
    groups = [group for group in status.get_payload() if isinstance(group, email.message.Message)]
    shown = original.get_payload(decode=True)
    assert isinstance(shown, bytes)
    return text.get_content(), groups, shown


def test_the_header_of_a_notice() -> None:
    found = parsed(made(undelivered(NO_USER)))
    assert found["From"] == "Mail Delivery System <MAILER-DAEMON@mx.example.test>"
    assert found["To"] == "alice@example.org"
    assert found["Date"] == "Tue, 14 Nov 2023 22:14:20 +0000"
    assert found["Message-ID"] == "<0123456789ab.3.notice@mx.example.test>"
    assert found["Auto-Submitted"] == "auto-replied"
    assert found["MIME-Version"] == "1.0"
    assert "Undelivered" in found["Subject"]
    assert found.get_content_type() == "multipart/report"
    assert found.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in found.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert {part["Content-Transfer-Encoding"] for part in found.iter_parts()} == {"7bit"}


def test_the_status_of_a_message_and_of_each_recipient() -> None:
    carol = Mailbox.parse("carol@far.example")
    octets = made(undelivered(NO_USER), undelivered(REFUSED, address=carol, original=carol, given_up=True))
    _, (of_message, bob, late), original = parts_of(octets)
    assert dict(of_message.items()) == {
        "Reporting-MTA": "dns; mx.example.test",
        "Received-From-MTA": "dns; client.example.org ([198.51.100.7])",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
    }
    assert dict(bob.items()) == {
        "Final-Recipient": "rfc822; bob@far.example",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx1.far.example",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user",
    }
    assert dict(late.items()) == {
        "Final-Recipient": "rfc822; carol@far.example",
        "Action": "failed",
        "Status": "4.4.1",
    }
    assert original == HEADER


@pytest.mark.parametrize(
    ("next_hop", "remote_mta"),
    [
        ("relay.test:2600", "dns; relay.test"),
        ("[192.0.2.1]:25", "dns; [192.0.2.1]"),
        ("[IPv6:::1]", "dns; [IPv6:::1]"),
        ("", None),
    ],
)
def test_the_remote_mta(next_hop: str, remote_mta: str | None) -> None:
    outcome = Failed("550 no", next_hop, EnhancedCode(5, 0, 0), remote=True)
    _, (_, group), _ = parts_of(made(undelivered(outcome)))
    assert group["Remote-MTA"] == remote_mta


@pytest.mark.parametrize(
    ("one", "age", "texts"),
    [
        (undelivered(NO_USER), 60.0, ["<bob@far.example>: The next mail server said: 550 5.1.1 No such user"]),
        (undelivered(REFUSED), 60.0, ["<bob@far.example>: mx1.far.example [192.0.2.1]: connection refused"]),
        (undelivered(REFUSED, given_up=True), 5 * 86400.0, ["Given up after 7 attempts in 5 days."]),
        (undelivered(REFUSED, given_up=True), 26 * 3600.0, ["Given up after 7 attempts in 26 hours."]),
        (
            undelivered(REFUSED, given_up=True, attempts=1),
            300.0,
            ["Given up after 1 attempt in 5 minutes."],
        ),
    ],
)
def test_the_text_for_people(one: Telling, age: float, texts: list[str]) -> None:
    text, _, _ = parts_of(made(one, age=age))
    flat = " ".join(text.split())
    for expected in (*texts, 'with the subject "Lunch"', "0123456789ab", "mail server at mx.example.test"):
        assert expected in flat
    assert max(map(len, text.splitlines())) <= 76


@pytest.mark.parametrize("subject", ["", "=?utf-8?q?Gr=C3=BC=C3=9Fe?="])
def test_subjects_that_nobody_could_read_are_left_out(subject: str) -> None:
    text, _, _ = parts_of(made(undelivered(NO_USER), of=message(subject=subject)))
    assert "subject" not in text


def test_without_a_peer_nothing_is_said_of_one() -> None:
    _, (of_message, _), _ = parts_of(made(undelivered(NO_USER), of=message(peer="")))
    assert of_message["Received-From-MTA"] is None


def test_the_target_of_an_alias_stays_private() -> None:
    hidden = Mailbox.parse("hidden@private.example")
    assert b"hidden" not in made(undelivered(NO_USER, address=hidden))


def test_nothing_from_outside_starts_a_line() -> None:
    evil = "550 no\r\nBcc: victim@example.org\r\n\r\n--=_0123456789ab--\r\n\0\x1b[31mé" + "x" * 2000
    outcome = Failed(evil, "mx.evil.example\r\nX: y", EnhancedCode(5, 0, 0), remote=True)
    mean = Mailbox(LocalPart("a\r\nX-Injected: 1"), Domain.parse("far.example"))
    octets = made(undelivered(outcome, original=mean), of=message(subject="S\r\nX-Injected: 2\r\n\r\nbody é"))
    text, groups, _ = parts_of(octets)
    assert [set(group.keys()) for group in groups] == [
        {"Reporting-MTA", "Received-From-MTA", "Arrival-Date"},
        {"Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"},
    ]
    assert groups[1]["Diagnostic-Code"].startswith("smtp; 550 no??Bcc: victim@example.org??")
    assert not re.search(r"(?m)^(Bcc|X-Injected|--=_)", text)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (HEADER, "7bit"),
        (b"", "7bit"),
        (b"Subject: cut off he", "7bit"),
        ("Subject: Grüße\r\nX: =20 \r\n\r\n.\r\n".encode(), "quoted-printable"),
        (b"X: " + b"x" * 3000 + b"\r\n", "quoted-printable"),
        (b"Subject: caf\xe9 in Latin-1", "quoted-printable"),
        (b"X: --=_0123456789ab\r\n--=_0123456789ab_\r\n", "7bit"),
    ],
)
def test_the_original_header_comes_back_as_it_was(header: bytes, encoding: str) -> None:
    octets = made(undelivered(NO_USER), header=header)
    _, _, original = parts_of(octets)
    assert original == header + (b"" if not header or header.endswith(b"\r\n") else b"\r\n")
    *_, part = parsed(octets).iter_parts()
    assert part["Content-Transfer-Encoding"] == encoding


@pytest.mark.parametrize(
    ("of", "may"),
    [
        (message(), True),
        (message(None), False),
        (message(listener="notice"), False),
        (message(None, listener="x"), False),
    ],
)
def test_nothing_bounces_a_bounce(of: Message, may: bool) -> None:
    assert may_notify(of) is may
