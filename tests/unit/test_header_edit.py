"""The edits of a submission: to the octet, over folding, case, white space, and whatever a client sends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.core.header_edit import submitted

FIELDS = {"Date": "now", "Message-ID": "<1@h>"}
ADDED = b"Date: now\r\nMessage-ID: <1@h>\r\n"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (b"", ADDED),
        (b"Subject: x\r\n", ADDED + b"Subject: x\r\n"),
        (b"Date: then\r\n", b"Message-ID: <1@h>\r\nDate: then\r\n"),
        (b"dAtE \t : then\r\nMESSAGE-id:\r\n", b"dAtE \t : then\r\nMESSAGE-id:\r\n"),
        (b"X-Date: a\r\nDate-X: b\r\n", ADDED + b"X-Date: a\r\nDate-X: b\r\n"),
        (b"X: a\r\n Date: b\r\n\tMessage-ID: c\r\n", ADDED + b"X: a\r\n Date: b\r\n\tMessage-ID: c\r\n"),
        (b"no field\r\n", ADDED + b"no field\r\n"),
        (b"X: \xff\x00\x80\r\nY:\r\n  \r\n", ADDED + b"X: \xff\x00\x80\r\nY:\r\n  \r\n"),
        (b"X: no end", ADDED + b"X: no end"),
        (b" of the trace\r\n\tfield\r\nX: y\r\n", b" of the trace\r\n\tfield\r\n" + ADDED + b"X: y\r\n"),
    ],
)
def test_what_is_missing_is_added(section: bytes, expected: bytes) -> None:
    assert submitted(section, FIELDS).section == expected


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (b"Bcc: a@b\r\n", b""),
        (b"BCC:a@b,\r\n c@d,\r\n\te@f\r\nTo: x\r\n", b"To: x\r\n"),
        (b"To: x\r\nbcc \t: a@b\r\n \r\n c@d\r\n", b"To: x\r\n"),
        (b"To: x\r\nBcc:\r\nCc: y\r\n", b"To: x\r\nCc: y\r\n"),
        (b"Bcc: a\r\nBcc: b\r\nTo: x\r\nbCC: c\r\n d\r\n", b"To: x\r\n"),
        (b"Resent-Bcc: a\r\nResent-To: b\r\n", b"Resent-To: b\r\n"),
        (b"To: x\r\nBcc: a, no end", b"To: x\r\n"),
        (b"To: x\r\n Bcc: y\r\n", b"To: x\r\n Bcc: y\r\n"),
        (b"X-Bcc: a\r\nBccs: b\r\nBcc\r\n", b"X-Bcc: a\r\nBccs: b\r\nBcc\r\n"),
        (b"Bcc: Date: a\r\n Date: b\r\n", b""),
    ],
)
def test_blind_copies_go(section: bytes, expected: bytes) -> None:
    assert submitted(section, {}).section == submitted(section, {}).kept == expected


@pytest.mark.parametrize("value", ["a\r\nBcc: b", "a\nb", "a\rb", "a\0", "a\r\n"])
def test_a_field_is_one_field(value: str) -> None:
    with pytest.raises(ValueError, match="more than one"):
        submitted(b"", {"X": value})
    assert submitted(b"", {"X": "a\r\n b"}).section == b"X: a\r\n b\r\n"


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"Bcc: a", b"bcc\t:", b" folded", b"\tBcc: b", b"To: c", b"Date:", b" ", b"junk", b"Date : x"]
        ),
        st.binary(max_size=12).map(lambda octets: re.sub(rb"[\r\n]", b"", octets)).filter(bool),
    ),
    max_size=12,
)


@given(LINES)
def test_all_other_lines_stay_in_their_order(lines: list[bytes]) -> None:
    section = b"".join(line + b"\r\n" for line in lines)
    kept: list[bytes] = []
    blind = False
    for line in lines:
        if not line.startswith((b" ", b"\t")):
            blind = re.match(rb"(?i)(resent-)?bcc[ \t]*:", line) is not None
        if not blind:
            kept.append(line)
    edited = submitted(section, FIELDS).section
    assert [line for line in edited.split(b"\r\n")[:-1] if line not in ADDED.split(b"\r\n")[:2]] == kept
    assert submitted(edited, FIELDS).section == edited
