"""What becomes of a text that is submitted on this machine, and what may be said beside it."""

from __future__ import annotations

import pytest

from pillarbox.app.submission import MAX_NAME, Author, UnfitOption, UnfitText, Wishes, compose, header_edit
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import NO_MAIL_OPTIONS, NO_RCPT_OPTIONS, MailOptions, Notify, RcptOptions, Ret
from pillarbox.core.message import header_end

WHOLE = b"Date: d\r\nfrom: f\r\nMessage-Id: m\r\n"


def composed(text: bytes, sender: str | None = "a@example.test", full_name: str = "") -> bytes:
    """As the queue gets it."""
    octets = compose(text)
    end = header_end(octets)
    assert end is not None
    mailbox = Mailbox.parse(sender) if sender else None
    edit = header_edit(Author(mailbox, Domain("mx.example.test"), 0.0, full_name))
    return edit(octets[:end]).section + octets[end:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WHOLE + b"\r\nhi\r\n", WHOLE + b"\r\nhi\r\n"),
        (WHOLE.replace(b"\r\n", b"\n") + b"\nhi\nho", WHOLE + b"\r\nhi\r\nho\r\n"),
        (WHOLE, WHOLE + b"\r\n"),
        (WHOLE + b"no field\n", WHOLE + b"\r\nno field\r\n"),
        (WHOLE + b"Subject: a\n b\n\n\nhi\n\n", WHOLE + b"Subject: a\r\n b\r\n\r\n\r\nhi\r\n\r\n"),
        (WHOLE + b"\n\xe4\n.\n", WHOLE + b"\r\n\xe4\r\n.\r\n"),
        (WHOLE + b"Bcc: x\n y\nTo: z\n\nBcc: w\n", WHOLE + b"To: z\r\n\r\nBcc: w\r\n"),
    ],
)
def test_only_line_ends_and_blind_copies_change(text: bytes, expected: bytes) -> None:
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
        compose(text)


# --- the full name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", b"From: a@example.test\r\n"),
        (" CronDaemon ", b"From: CronDaemon <a@example.test>\r\n"),
        ("Alice (at home)", b'From: "Alice (at home)" <a@example.test>\r\n'),
        ('A "B" <c@d>', b'From: "A \\"B\\" <c@d>" <a@example.test>\r\n'),
        ("J\u00fcrgen", b"From: =?utf-8?q?J=C3=BCrgen?= <a@example.test>\r\n"),
    ],
)
def test_a_full_name(name: str, expected: bytes) -> None:
    assert expected in composed(b"Subject: x\n\n", full_name=name)


def test_a_long_full_name_is_folded() -> None:
    octets = composed(b"Subject: x\n\n", full_name="\u00fc" * MAX_NAME)
    assert max(map(len, octets.split(b"\r\n"))) < 110
    assert b"\n" not in octets.replace(b"\r\n", b"") and octets.count(b"From:") == 1


@pytest.mark.parametrize(
    "name", ["A\r\nBcc: x@y.test", "A\nB", "A\0", "A\x1b[2J", "\udcff", "x" * (MAX_NAME + 1), "\r"]
)
def test_a_full_name_brings_no_other_field(name: str) -> None:
    octets = compose(b"Subject: x\n\n")
    if not name.strip():
        assert (
            header_edit(Author(None, Domain("h"), 0.0, name))(octets).section.count(b"From: MAILER-DAEMON@h\r\n") == 1
        )
        return
    with pytest.raises(UnfitOption, match="full name"):
        header_edit(Author(None, Domain("h"), 0.0, name))


# --- what a notice is wanted of


@pytest.mark.parametrize(
    ("wishes", "mail", "rcpt"),
    [
        (Wishes(), NO_MAIL_OPTIONS, NO_RCPT_OPTIONS),
        (Wishes(notify=["NEVER"]), NO_MAIL_OPTIONS, RcptOptions(notify=frozenset())),
        (
            Wishes(notify=["success", "Delay"], ret="HDRS", envelope_id="id 1"),
            MailOptions(ret=Ret.HEADERS, envelope_id="id 1"),
            RcptOptions(notify=frozenset((Notify.SUCCESS, Notify.DELAY))),
        ),
        (Wishes(ret="full"), MailOptions(ret=Ret.FULL), NO_RCPT_OPTIONS),
    ],
)
def test_wishes(wishes: Wishes, mail: MailOptions, rcpt: RcptOptions) -> None:
    assert (wishes.mail_options(), wishes.rcpt_options()) == (mail, rcpt)


@pytest.mark.parametrize(
    ("wishes", "complaint"),
    [
        (Wishes(notify=["never", "success"]), "notices are never, or any of success, failure, delay"),
        (Wishes(notify=["often"]), "'often'"),
        (Wishes(notify=[""]), "notices are"),
        (Wishes(ret="all"), "full or hdrs, not 'all'"),
        (Wishes(envelope_id="a\r\nb"), "envelope id"),
        (Wishes(envelope_id="x" * 101), "envelope id"),
        (Wishes(envelope_id="\u00fc"), "envelope id"),
    ],
)
def test_wishes_that_say_nothing(wishes: Wishes, complaint: str) -> None:
    with pytest.raises(UnfitOption, match=complaint):
        wishes.mail_options()
        wishes.rcpt_options()
