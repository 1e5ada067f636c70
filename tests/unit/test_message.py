"""A message as octets: where its header ends, what is read of it, and the field we add."""

from __future__ import annotations

import email
import email.policy
import email.utils
import re

import pytest

from pillarbox.core.message import MAX_FIELD, HeaderView, Hop, date_field, header_end, received_field, view_header


@pytest.mark.parametrize(
    ("octets", "end"),
    [
        (b"", None),
        (b"\r\n", 0),
        (b"\r\nbody\r\n\r\n", 0),
        (b"A: b\r\n", None),
        (b"A: b\r\n\r\n", 6),
        (b"A: b\r\n\r\nbody\r\n\r\n", 6),
        (b"A: b\r\nC: d\r\n\r\nx", 12),
        (b"A: b\n\nx", None),
        (b"A: b\r\n\r", None),
        (b"A: b\r\n \r\n\r\n", 9),
    ],
)
def test_where_the_header_ends(octets: bytes, end: int | None) -> None:
    assert header_end(octets) == end


def view(*, received: int = 0, sender: str = "", subject: str = "", message_id: str = "", date: str = "") -> HeaderView:
    return HeaderView(received, sender, subject, message_id, date)


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (b"", view()),
        (b"Subject: x\r\n", view(subject="x")),
        (b"Subject: x", view(subject="x")),
        (b"subject:x\r\nFROM:  a@b  \r\n", view(subject="x", sender="a@b")),
        (b"Subject : obsolete\r\n", view(subject="obsolete")),  # RFC 5322 §4.5.1
        (b"Message-ID: <1@x>\r\nDate: Thu, 1 Jan 1970\r\n", view(message_id="<1@x>", date="Thu, 1 Jan 1970")),
        (b"Subject: a\r\n b\r\n\tc\r\nFrom: x\r\n", view(subject="a b c", sender="x")),
        (b"Subject:\r\n a\r\n", view(subject="a")),
        (b"Subject: a\r\n   \t b\r\n", view(subject="a b")),
        (b"Subject: a\r\nSubject: b\r\n", view(subject="a")),
        (b"Subject:\r\nSubject: b\r\n", view(subject="")),
        (b"X-Subject: a\r\nSubject-X: b\r\n", view()),
        (b"X: y\r\n Subject: folded\r\n", view()),
        (b"Subject: a: b\r\n", view(subject="a: b")),
        (b"Subject: J\xc3\xbcrgen\r\n", view(subject="Jürgen")),
        (b"Subject: J\xfcrgen\r\n", view(subject="J\ufffdrgen")),
        (b"Subject: =?utf-8?q?x?=\r\n", view(subject="=?utf-8?q?x?=")),  # not decoded here
        (b"Received: a\r\nreceived:b\r\nRECEIVED : c\r\n", view(received=3)),
        (b"Received: a\r\n by b\r\n for c\r\n", view(received=1)),
        (b"X-Received: a\r\n", view()),
        (b"not a field\r\nSubject: x\r\n", view(subject="x")),
        (b": nameless\r\n", view()),
        (b"Subject: " + b"x" * 5000 + b"\r\n", view(subject="x" * MAX_FIELD)),
    ],
)
def test_what_is_read_of_a_header(header: bytes, seen: HeaderView) -> None:
    assert view_header(header) == seen


@pytest.mark.parametrize(
    ("header", "addresses"),
    [
        (b"Subject: x\r\n", ()),
        (b"Delivered-To: Sales@Example.TEST\r\n", ("sales@example.test",)),
        (b"delivered-to:a@b.test \r\nX: y\r\nDELIVERED-TO : c@d.test\r\n", ("a@b.test", "c@d.test")),
        (b"Delivered-To:\r\n folded@b.test\r\n", ("folded@b.test",)),
        (b"Delivered-To: \xff\r\n", ("\ufffd",)),
        (b"X-Delivered-To: a@b.test\r\nDelivered-To-X: a@b.test\r\n", ()),
    ],
)
def test_who_had_it_delivered(header: bytes, addresses: tuple[str, ...]) -> None:
    """RFC 9228 §3: each of them counts."""
    assert view_header(header).delivered_to == addresses


HOP = Hop("client.example", "192.0.2.7", "mx.example.test", "ESMTP")


@pytest.mark.parametrize(
    ("hop", "recipient", "unfolded"),
    [
        (
            HOP,
            "alice@example.test",
            "from client.example ([192.0.2.7]) by mx.example.test with ESMTP id 0123456789ab for <alice@example.test>;"
            " Tue, 14 Nov 2023 22:13:20 +0000",
        ),
        (
            HOP._replace(peer="2001:db8::7", protocol="SMTP"),
            None,
            "from client.example ([IPv6:2001:db8::7]) by mx.example.test with SMTP id 0123456789ab;"
            " Tue, 14 Nov 2023 22:13:20 +0000",
        ),
        (
            HOP._replace(helo="alice", peer="", protocol="LOCAL"),
            None,
            "from alice by mx.example.test with LOCAL id 0123456789ab; Tue, 14 Nov 2023 22:13:20 +0000",
        ),
    ],
)
def test_the_received_field(hop: Hop, recipient: str | None, unfolded: str) -> None:
    octets = received_field(hop, "0123456789ab", 1_700_000_000.9, recipient)
    assert octets.endswith(b"\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
    assert all(line.startswith(b"\t") for line in octets.split(b"\r\n")[1:-1])
    assert re.sub(rb"\r\n\t", b" ", octets).decode() == f"Received: {unfolded}\r\n"
    parsed = email.message_from_bytes(octets + b"\r\n", policy=email.policy.default)
    assert list(parsed.keys()) == ["Received"]
    assert view_header(octets).received == 1


def test_dates() -> None:
    for second in (0, 951_782_400, 1_700_000_000, 4_102_444_800):
        assert email.utils.parsedate_to_datetime(date_field(second)).timestamp() == second
    assert date_field(0) == "Thu, 01 Jan 1970 00:00:00 +0000"
