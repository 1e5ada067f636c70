"""What sendmail reads: where a message ends, and whom its header section names."""

from __future__ import annotations

import io

import pytest

from pillarbox.app.sendmail_text import MAX_LINE, BadAddress, TooLarge, addresses_in, read_message, recipients_in

# --- the message


@pytest.mark.parametrize(
    ("given", "dot_ends", "expected"),
    [
        (b"a\n.\nb\n", True, b"a\n"),
        (b"a\n.\nb\n", False, b"a\n.\nb\n"),
        (b"a\r\n.\r\nb\r\n", True, b"a\r\n"),
        (b"a\n.", True, b"a\n"),
        (b"a\n..\n. \n.b\n", True, b"a\n..\n. \n.b\n"),
        (b".\n", True, b""),
        (b"", True, b""),
        (b"no end", True, b"no end"),
        (b"x" * MAX_LINE + b".\nb\n", True, b"x" * MAX_LINE + b".\nb\n"),  # not at the start of a line
        (b"From alice Mon Jan  1 00:00:00 2024\nTo: x\n", True, b"To: x\n"),
        (b">From alice\nTo: x\n", False, b"To: x\n"),
        (b"From: alice\n", False, b"From: alice\n"),
        (b"a\nFrom alice\n", False, b"a\nFrom alice\n"),
        (b"From alice", True, b"From alice"),
    ],
)
def test_where_a_message_ends(given: bytes, dot_ends: bool, expected: bytes) -> None:
    assert read_message(io.BytesIO(given), dot_ends=dot_ends, most=10**6) == expected


def test_too_large_a_message_is_not_read_on() -> None:
    assert read_message(io.BytesIO(b"12345"), dot_ends=True, most=5) == b"12345"
    source = io.BytesIO(b"123456\n" * 100)
    with pytest.raises(TooLarge, match="more than 5 octets, which is limits.message_size"):
        read_message(source, dot_ends=True, most=5)
    assert source.tell() == 7


# --- recipients


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"To: a@x.test\nCc: b@x.test\nBcc: c@x.test\nFrom: d@x.test\n\nTo: e@x.test\n", "a@x.test b@x.test c@x.test"),
        (b"TO : Alice <a@x.test>,\r\n\tb@x.test (Bob)\r\n\r\n", "a@x.test b@x.test"),
        (b"To: root, postmaster\n", "root postmaster"),
        (b"To: undisclosed-recipients:;\nBcc: a@x.test\n", "a@x.test"),
        (b"To: Friends: a@x.test, b@x.test;, c@x.test\n", "a@x.test b@x.test c@x.test"),
        (b"To: a@x.test,,b@x.test,\n", "a@x.test b@x.test"),
        (b'To: "Doe, Jane" <j@x.test>\n', "j@x.test"),
        (b'To: "odd local"@x.test\n', '"odd local"@x.test'),
        (
            b"To: =?utf-8?q?J=C3=BCrgen?= <j@x.test>, J\xc3\xbcrgen <k@x.test>, \xff <l@x.test>\n",
            "j@x.test k@x.test l@x.test",
        ),
        (b"To: a@x.test\nResent-To: b@x.test\nResent-Bcc: c@x.test\n", "b@x.test c@x.test"),
        (b"To: a@x.test\nno field\nTo: b@x.test\n", "a@x.test"),
        (b"To: a@[192.0.2.1]\n", "a@[192.0.2.1]"),
        (b"To:\nSubject: x\n", ""),
        (b" To: a@x.test\n", ""),
        (b"", ""),
        (b"X-To: a@x.test\nSubject: To: b@x.test\n", ""),
        (b"X: y\n To: b@x.test\n", ""),
    ],
)
def test_recipients_of_a_header_section(header: bytes, expected: str) -> None:
    found = recipients_in(header)
    assert " ".join(found) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a@x.test; b@x.test",  # no recipient is lost without a word
        "a@x.test b@x.test",
        "<a@x.test",
        "a@b@c",
        "<>",
        "foo bar",
        "a@x.test)b@y.test",
        "a(b@c.test",
        '"a@x.test',
        "a..b@x.test",
        "a@x.test\r\nBcc: b@x.test",
        "a@x.test, @",
        ":",
        "a@x.test,<",
    ],
)
def test_what_is_no_list_of_addresses(text: str) -> None:
    with pytest.raises(BadAddress):
        addresses_in(text)
    field = text.replace("\r\n", "\n ")
    with pytest.raises(BadAddress, match="^Cc: "):
        recipients_in(f"To: good@x.test\nCc: {field}\n".encode())
