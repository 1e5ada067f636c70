"""What `pillarbox send` makes of a text."""

from __future__ import annotations

import pytest

from pillarbox.app.submission import Submission, UnfitText, compose
from pillarbox.core.address import Domain, Mailbox

WHOLE = b"Date: d\r\nfrom: f\r\nMessage-Id: m\r\n"


def composed(text: bytes, sender: str | None = "a@example.test") -> bytes:
    mailbox = Mailbox.parse(sender) if sender else None
    return compose(Submission(text, mailbox, Domain("mx.example.test"), 0.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WHOLE + b"\r\nhi\r\n", WHOLE + b"\r\nhi\r\n"),
        (WHOLE.replace(b"\r\n", b"\n") + b"\nhi\nho", WHOLE + b"\r\nhi\r\nho\r\n"),
        (WHOLE, WHOLE + b"\r\n"),
        (WHOLE + b"no field\n", WHOLE + b"\r\nno field\r\n"),
        (WHOLE + b"Subject: a\n b\n\n\nhi\n\n", WHOLE + b"Subject: a\r\n b\r\n\r\n\r\nhi\r\n\r\n"),
        (WHOLE + b"\n\xe4\n.\n", WHOLE + b"\r\n\xe4\r\n.\r\n"),
    ],
)
def test_only_line_ends_change(text: bytes, expected: bytes) -> None:
    assert composed(text) == expected


def test_fields_that_are_missing_are_added() -> None:
    header, _, body = composed(b"Subject: x\n\nhi\n").partition(b"\r\n\r\n")
    lines = header.split(b"\r\n")
    assert lines[:2] == [b"Date: Thu, 01 Jan 1970 00:00:00 +0000", b"From: a@example.test"]
    assert lines[2].startswith(b"Message-ID: <") and lines[2].endswith(b"@mx.example.test>")
    assert (lines[3:], body) == ([b"Subject: x"], b"hi\r\n")


def test_a_text_without_header_is_all_body() -> None:
    header, _, body = composed(b" indented\nhi: there\n", None).partition(b"\r\n\r\n")
    assert b"From: MAILER-DAEMON@mx.example.test" in header.split(b"\r\n")
    assert body == b" indented\r\nhi: there\r\n"


def test_no_text_at_all_is_a_message_with_no_body() -> None:
    assert composed(b"").endswith(b">\r\n\r\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"a: b\n\nx\ry\n", "line 3 of the text has a CR without LF"),
        (b"a\r\r\n", "line 1 of the text has a CR without LF"),
        (b"a\nb\0\n", "line 2 of the text has a NUL octet"),
    ],
)
def test_what_no_message_may_hold_is_refused(text: bytes, complaint: str) -> None:
    with pytest.raises(UnfitText, match=complaint):
        composed(text)
