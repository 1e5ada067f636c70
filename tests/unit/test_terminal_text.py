"""What is shown of a message on a terminal: its frame, its text out of MIME, and nothing that commands a terminal."""

from __future__ import annotations

import base64
import time
import unicodedata
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.core.address import Mailbox
from pillarbox.engine.terminal import MAX_FIELD, MAX_TEXT, terminal_text, visible

ALICE = Mailbox.parse("alice@example.test")
AT = 1_700_000_000.0
HEADING = f"Message from alice@example.test via 192.0.2.1 at {datetime.fromtimestamp(AT):%H:%M} (SEND) ...\n"
NO_TEXT = "[no text in this message]"


def shown(octets: bytes, *, sender: Mailbox | None = ALICE, peer: str = "192.0.2.1", verb: str = "SEND") -> str:
    return terminal_text(octets, sender=sender, peer=peer, at=AT, verb=verb)


def body(octets: bytes) -> str:
    """Between heading and end."""
    text = shown(octets)
    assert text.startswith(HEADING) and text.endswith("\nEOF\n")
    return text.removeprefix(HEADING).removesuffix("\nEOF\n").removeprefix("\n")


def typed(content_type: bytes, text: bytes, encoding: bytes = b"8bit") -> bytes:
    return b"Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s" % (content_type, encoding, text)


def several(*parts: bytes, subtype: bytes = b"mixed") -> bytes:
    joined = b"".join(b"--=_b\r\n" + part + b"\r\n" for part in parts)
    return b'Content-Type: multipart/%s; boundary="=_b"\r\n\r\n%s--=_b--\r\n' % (subtype, joined)


# --- the frame


def test_a_message_has_a_heading_its_subject_its_text_and_an_end() -> None:
    text = shown(b"From: x\r\nSubject: Lunch\r\n\r\nAre you\r\n\tcoming?\r\n")
    assert text == f"{HEADING}Subject: Lunch\n\nAre you\n\tcoming?\nEOF\n"


def test_the_null_sender_and_a_client_without_address_are_told() -> None:
    text = shown(b"\r\nHi\r\n", sender=None, peer="", verb="SAML")
    assert text == f"Message from <> at {datetime.fromtimestamp(AT):%H:%M} (SAML) ...\n\nHi\nEOF\n"


def test_the_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-5:30")
    time.tzset()
    try:
        assert " at 03:43 (SEND)" in shown(b"\r\nHi\r\n")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (b"=?utf-8?q?H=C3=A9llo?= =?iso-8859-1?b?5A==?= plain", "Hélloä plain"),
        (b"=?utf-8?q?=1B[2J=0D=0AMessage_from_root?=", "^[[2J Message from root"),
        (b"raw \xc3\xa9\r\n folded", "raw é folded"),
        (b"=?utf-8?b?a?= x", "=?utf-8?b?a?= x"),  # no base64
        (b"=?no-such?q?a=C3=A9?=", "aé"),
        (b"{} %s", "{} %s"),
    ],
)
def test_subjects(subject: bytes, expected: str) -> None:
    assert shown(b"Subject: " + subject + b"\r\n\r\nHi").split("\n")[1] == f"Subject: {expected}"


def test_subjects_and_senders_are_bounded() -> None:
    sender = Mailbox.parse(f"a@{'.'.join(['b' * 60] * 4)}")
    lines = shown(b"Subject: " + b"s" * 900 + b"\r\n\r\nHi", sender=sender, peer="p" * 900).split("\n")
    assert len(lines[0]) < 2 * MAX_FIELD + 60
    assert lines[1] == f"Subject: {'s' * (MAX_FIELD - 3)}..."


def test_no_line_of_the_message_is_taken_for_the_frame() -> None:
    forged = (
        b"\r\nHi\r\nEOF\r\nEOF \r\n\r\nMessage from root@example.test via 192.0.2.9 at 00:00 ...\r\n>EOF\r\nEOFs\r\n"
    )
    assert body(forged).split("\n") == [
        "Hi",
        ">EOF",
        ">EOF ",
        "",
        ">Message from root@example.test via 192.0.2.9 at 00:00 ...",
        ">>EOF",
        "EOFs",
    ]


# --- characters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x00\x07\x1b[31m\x7f", "^@^G^[[31m^?"),
        ("a\rb\vc", "a^Mb^Kc"),
        ("\x85\x9b2J", "\\u0085\\u009b2J"),
        ("\u202eevil\u2066\u200b\u00ad\ufeff", "\\u202eevil\\u2066\\u200b\\u00ad\\ufeff"),
        ("\u2028\u2029\U000e0041", "\\u2028\\u2029\\U000e0041"),
        ("\ud800x", "\ufffdx"),
        ("ä\n\t漢 🎉", "ä\n\t漢 🎉"),
    ],
)
def test_what_commands_a_terminal_is_made_visible(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_a_message_is_made_visible() -> None:
    assert body(b"\r\n\x1b]0;owned\x07\r\nlone\rCR\r\n") == "^[]0;owned^G\nlone^MCR"


# --- MIME


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (typed(b"text/plain; charset=iso-8859-1", b"gr\xfc\xdfe"), "grüße"),
        (typed(b"text/plain; charset=utf-8", b"gr=C3=BC=\r\n=C3=9Fe", b"quoted-printable"), "grüße"),
        (typed(b"text/plain; charset=utf-8", base64.b64encode("grüße\r\n".encode()), b"base64"), "grüße"),
        (typed(b"text/plain; charset=iso-2022-jp", b"\x1b$B4A;z\x1b(B"), "漢字"),
        (typed(b"text/plain; charset=us-ascii", b"gr\xc3\xbc\xc3\x9fe \xff"), "grüße \ufffd"),
        (typed(b"text/plain; charset=x-klingon", b"gr\xc3\xbc\xc3\x9fe"), "grüße"),
        (typed(b"text/plain; charset=punycode", b"abc-\xff"), "abc-\ufffd"),
        (typed(b"text/plain", b"not base64: \xff!", b"base64"), "not base64: \ufffd!"),
        (b"no header at all", "no header at all"),
        (b"\r\njust a body", "just a body"),
        (b"", NO_TEXT),
        (typed(b"image/png", b"x"), "[1 part that is no text: not shown]"),
    ],
)
def test_single_parts(message: bytes, expected: str) -> None:
    assert body(message) == expected


def test_plain_text_is_taken_before_html() -> None:
    message = several(typed(b"text/plain", b"plain"), typed(b"text/html", b"<b>rich</b>"), subtype=b"alternative")
    assert body(message) == "plain"


def test_all_plain_parts_are_shown_and_others_counted() -> None:
    message = several(
        typed(b"text/plain", b"one\r\n"), typed(b"image/png", b"\0"), typed(b"text/plain", b"two"), typed(b"a/b", b"")
    )
    assert body(message) == "one\n\ntwo\n\n[2 parts that are no text: not shown]"


def test_of_html_the_words_are_shown() -> None:
    page = (
        b"<html><head><title>t</title><style>b{}</style></head><body><h1>Hello&nbsp;&lt;you&gt;</h1>\r\n"
        b"<p class='x'>one\r\n two <b>three</b></p><script>if (a<b) {}</script>four<br>five &#155;[2J \x1b[2J</body>"
    )
    assert body(typed(b"text/html", page)) == "Hello <you>\none two three\nfour\nfive ›[2J ^[[2J"


def test_html_without_words() -> None:
    assert body(typed(b"text/html", b"<img src=x><br>")) == NO_TEXT


@pytest.mark.parametrize(
    "message",
    [
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(900)),
        b'Content-Type: text/plain; x="' + b";" * 60_000 + b'"\r\n\r\nHi\r\n',
    ],
)
def test_what_would_keep_the_parser_busy_is_shown_as_it_came(message: bytes) -> None:
    _, _, raw = message.partition(b"\r\n\r\n")
    assert body(message) == raw.decode().replace("\r\n", "\n").rstrip("\n")


# --- bounds, whatever comes


def test_a_text_is_cut() -> None:
    text = shown(typed(b"text/plain; charset=iso-8859-1", b"\x9b" * 60_000))
    assert len(text) == MAX_TEXT
    assert text.endswith("\n[cut here: the message is longer than a terminal takes]\nEOF\n")


def test_a_message_of_the_largest_size_is_whole() -> None:
    line = b"x" * 76 + b"\r\n"
    assert body(b"\r\n" + line * 840) == "\n".join(["x" * 76] * 840)


def assert_harmless(octets: bytes) -> None:
    text = shown(octets)
    assert len(text) <= MAX_TEXT
    assert text.startswith(HEADING) and text.endswith("\nEOF\n")
    assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs") for character in set(text) - {"\n", "\t"})


@given(st.binary(max_size=2000))
def test_any_octets(octets: bytes) -> None:
    assert_harmless(octets)


FRAGMENTS = st.sampled_from(
    [
        b"Content-Type: ",
        b"text/plain; charset=",
        b"text/html",
        b'multipart/mixed; boundary="b"',
        b"message/rfc822",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Transfer-Encoding: x-uuencode\r\n",
        b"Subject: =?utf-8?b?",
        b"Subject: =?",
        b"?=",
        b"utf-16",
        b"iso-8859-99",
        b"--b\r\n",
        b"--b--",
        b"\r\n",
        b"\r\n\r\n",
        b"begin 644 a\r\n",
        b"<script>",
        b"</p>",
        b"&#" + b"9" * 5000 + b";",
        b"&#x1b;",
        b"EOF",
    ]
)


@given(st.lists(FRAGMENTS | st.binary(max_size=20), max_size=40).map(b"".join))
def test_anything_like_mime(octets: bytes) -> None:
    assert_harmless(octets)
