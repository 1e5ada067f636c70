"""Replies: their octets, what can't be one, and the catalogue as a whole."""

from __future__ import annotations

import re

import pytest

from pillarbox.core import reply as r
from pillarbox.core.reply import MAX_TEXT, EnhancedCode, Reply, printable

CATALOGUE = {name: value for name, value in vars(r).items() if isinstance(value, Reply)}
MADE = {
    "greeting": r.greeting("mx.example.test"),
    "hello": r.hello("mx.example.test"),
    "ehlo": r.ehlo("mx.example.test", ("PIPELINING", "HELP")),
    "queued": r.queued("0123456789ab"),
    "queued_before": r.queued_before("0123456789ab"),
    "key_taken": r.key_taken("0123456789ab"),
    "help_text": r.help_text(("a", "b")),
    "status": r.status(("a", "b")),
    "no_mail_greeting": r.no_mail_greeting("mx.example.test"),
    "announced": r.announced("a@b.test"),
    "moved": r.moved("a@b.test"),
    "etrn_started": r.etrn_started(3),
    "verified": r.verified("Alice <a@b.test>"),
    "ambiguous": r.ambiguous(("Alice <a@b.test>", "<c@d.test>")),
    "expanded": r.expanded(("Alice <a@b.test>", "<c@d.test>")),
}
# RFC 2034 §4: no enhanced code in the greeting, in replies to HELO and EHLO, and in 3yz.
BARE = {
    *("CONNECT_TOO_MANY", "CONNECT_CLOSING", "IMPERSONATION", "HELO_SYNTAX", "HELO_LITERAL", "START_DATA"),
    *("AUTH_CONTINUE", "CONNECT_TOO_OFTEN", "greeting", "no_mail_greeting", "hello", "ehlo"),
}

CODES = {
    "BYE": 221,
    "CONNECT_TOO_MANY": 421,
    "CLOSING": 421,
    "IDLE": 421,
    "TOO_MANY_ERRORS": 421,
    "TOO_MUCH_GARBAGE": 421,
    "OUR_FAULT": 421,
    "IMPERSONATION": 550,
    "UNRECOGNISED": 500,
    "LINE_TOO_LONG": 500,
    "BAD_OCTET": 500,
    "BAD_ARGUMENT": 501,
    "NO_ARGUMENT_ALLOWED": 501,
    "HELO_LITERAL": 504,
    "NOT_IMPLEMENTED": 502,
    "BAD_SEQUENCE": 503,
    "NO_VALID_RECIPIENTS": 554,
    "NON_ASCII_PATH": 553,
    "UNKNOWN_PARAMETER": 555,
    "TOO_MANY_RECIPIENTS": 452,
    "TOO_BIG": 552,
    "LOOP": 554,
    "NO_SPACE": 452,
    "SPOOL_FAULT": 451,
    "CANNOT_VERIFY": 252,
    "CANNOT_EXPAND": 252,
    "NO_MAIL_HERE": 521,
    "no_mail_greeting": 521,
    "TOO_LONG_A_SESSION": 421,
    "TOO_MANY_TRANSACTIONS": 421,
    "TOO_MANY_PROBES": 421,
    "MAILBOX_DISABLED": 550,
    "MAILBOX_FULL": 552,
    "MAILBOX_NEARLY_FULL": 450,
    "MAILBOX_UNREADABLE": 451,
    "MAY_NOT_POST": 550,
    "FORWARDING_LOOP": 554,
    "announced": 251,
    "moved": 551,
    "ambiguous": 553,
    "RESET_CLASSIC": 200,
    "NOOP_CLASSIC": 200,
    "status": 211,
    "help_text": 214,
    "NO_SUCH_TOPIC": 504,
    "NOT_ACTIVE": 450,
    "NOT_SHOWN": 450,
    "AUTHENTICATED": 235,
    "AUTH_CONTINUE": 334,
    "AUTH_FAULT": 454,
    "AUTH_FAILED": 535,
    "AUTH_NEEDS_TLS": 538,
    "AUTH_NEEDED": 530,
    "TURN_OK": 250,
    "ATRN_NO_MAIL": 453,
    "ETRN_FAULT": 458,
    "ETRN_NOT_ALLOWED": 459,
    "etrn_started": 253,
}


@pytest.mark.parametrize(
    ("reply", "wire", "text"),
    [
        (Reply(250, None, ("OK",)), b"250 OK\r\n", "250 OK"),
        (Reply(250, EnhancedCode(2, 1, 5), ("OK",)), b"250 2.1.5 OK\r\n", "250 2.1.5 OK"),
        (Reply(250, None, ("a", "b", "c")), b"250-a\r\n250-b\r\n250 c\r\n", "250 a / b / c"),
        # one enhanced code for each line, the same on each: RFC 2034 §4
        (Reply(550, EnhancedCode(5, 7, 1), ("a", "b")), b"550-5.7.1 a\r\n550 5.7.1 b\r\n", "550 5.7.1 a / b"),
        (Reply(220, None, ("",)), b"220 \r\n", "220 "),
    ],
)
def test_octets(reply: Reply, wire: bytes, text: str) -> None:
    assert reply.wire == wire
    assert str(reply) == text


@pytest.mark.parametrize(
    ("code", "enhanced", "lines"),
    [
        (199, None, ("x",)),
        (560, None, ("x",)),
        (0, None, ("x",)),
        (250, None, ()),
        (250, EnhancedCode(5, 0, 0), ("x",)),
        (421, EnhancedCode(5, 3, 2), ("x",)),
        (354, EnhancedCode(2, 0, 0), ("x",)),
        (250, None, ("a\r\nb",)),
        (250, None, ("a\nb",)),
        (250, None, ("a\0",)),
        (250, None, ("a\tb",)),
        (250, None, ("j\u0085rgen",)),
        (250, None, ("ok", "x" * (MAX_TEXT + 1))),
    ],
)
def test_what_is_no_reply(code: int, enhanced: EnhancedCode | None, lines: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="reply|enhanced"):
        Reply(code, enhanced, lines)


def test_the_longest_line() -> None:
    """RFC 5321 §4.5.3.1.5."""
    reply = Reply(550, EnhancedCode(5, 123, 123), ("x" * MAX_TEXT,) * 2)
    assert all(len(line) <= 512 for line in reply.wire.splitlines(keepends=True))


@pytest.mark.parametrize("name", CATALOGUE | MADE)
def test_the_catalogue(name: str) -> None:
    reply = (CATALOGUE | MADE)[name]
    assert (reply.enhanced is None) is (name in BARE)
    assert re.fullmatch(rb"(?:\d{3}-[ -~]*\r\n)*\d{3} [ -~]*\r\n", reply.wire)
    closing = ("BARE_OCTET_IN_DATA", "BAD_CHUNK", "UNAUTHORISED_PIPELINING")
    assert reply.closes is (reply.code in (221, 421) or name in closing)
    if name in CODES:
        assert reply.code == CODES[name]


def test_the_catalogue_was_read() -> None:
    assert set(CODES) <= set(CATALOGUE | MADE)


@pytest.mark.parametrize("name", CATALOGUE | MADE)
def test_a_reply_without_its_enhanced_code(name: str) -> None:
    reply = (CATALOGUE | MADE)[name]
    assert (reply.bare.code, reply.bare.enhanced, reply.bare.lines) == (reply.code, None, reply.lines)
    assert reply.bare.closes is reply.closes


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        (r.announced("far@far.example"), b"251 2.1.5 User not local; will forward to <far@far.example>\r\n"),
        (r.moved("far@far.example"), b"551 5.1.6 User not local; please try <far@far.example>\r\n"),
        (r.etrn_started(7), b"253 2.0.0 7 pending messages for node started\r\n"),
        (
            r.ambiguous(("Alice <a@b.test>", "<c@d.test>")),
            b"553-5.1.4 User ambiguous; possibilities are\r\n553-5.1.4 Alice <a@b.test>\r\n553 5.1.4 <c@d.test>\r\n",
        ),
        (r.no_mail_greeting("mx.example.test"), b"521 mx.example.test does not accept mail\r\n"),  # RFC 7504 §3
        (r.AUTH_CONTINUE, b"334 \r\n"),  # RFC 4954 §4: the space stays
    ],
)
def test_replies_that_tell_something(reply: Reply, wire: bytes) -> None:
    """RFC 5321 §3.4, §3.5.1; RFC 1985 §5.1."""
    assert reply.wire == wire


@pytest.mark.parametrize(
    ("source", "code"),
    [("5.1.1", EnhancedCode(5, 1, 1)), ("2.0.0", EnhancedCode(2, 0, 0)), ("4.123.456", EnhancedCode(4, 123, 456))],
)
def test_enhanced_codes(source: str, code: EnhancedCode) -> None:
    assert EnhancedCode.parse(source) == code
    assert str(code) == source


@pytest.mark.parametrize("source", ["", "5", "5.1", "5.1.1.1", "3.1.1", "1.0.0", "5.1234.1", "5.1.1 ", "5..1", "x.y.z"])
def test_what_is_no_enhanced_code(source: str) -> None:
    with pytest.raises(ValueError, match="not an enhanced"):
        EnhancedCode.parse(source)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\r\nb\0c\x7f", "a??b?c?"),
        ("jürgen", "j?rgen"),
        ("x" * 1000, "x" * MAX_TEXT),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert Reply(550, None, (shown,)).lines == (shown,)
