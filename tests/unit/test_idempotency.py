"""Idempotency-Key: what a key may be, how it leaves a header section, and what makes two messages the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Notify, RcptOptions, Recipient
from pillarbox.core.header_edit import submitted
from pillarbox.core.idempotency import MAX_KEY, BadKey, Fingerprint, only_key, parse_key
from pillarbox.engine.intake import PIECE, SMALL, Intake
from pillarbox.engine.submission import header_edit
from pillarbox.sim.clock import VirtualClock
from tests.making import HOSTNAME, make_service

TRACE = b"Received: ours\r\n"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("order-17", "order-17"),
        (" \torder 17\t", "order 17"),
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ('"a', '"a'),
        ('"a"b"', '"a"b"'),
        ("a\r\n b", "a b"),
        ("k" * MAX_KEY, "k" * MAX_KEY),
        ('"' + "k" * MAX_KEY + '"', "k" * MAX_KEY),
    ],
)
def test_keys(text: str, key: str) -> None:
    assert parse_key(text) == key == only_key([text.encode()])


@pytest.mark.parametrize("text", ["", " ", '""', "k" * (MAX_KEY + 1), "caf\u00e9", "a\tb", "a\0", "a\x7f", "a\r\nb"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(BadKey, match="1 to 255 printable ASCII"):
        parse_key(text)


def test_several_keys_are_none() -> None:
    with pytest.raises(BadKey, match="more than one"):
        only_key([b"a", b"a"])


@pytest.mark.parametrize(
    ("section", "kept", "keys"),
    [
        (b"To: x\r\nIdempotency-Key: k\r\nCc: y\r\n", b"To: x\r\nCc: y\r\n", (b" k",)),
        (b"IDEMPOTENCY-key \t:\r\n k,\r\n\tl\r\nBcc: z\r\n", b"", (b"\r\n k,\r\n\tl",)),
        (b"Idempotency-Key: a\r\nIdempotency-Key: b", b"", (b" a", b" b")),
        (b"X-Idempotency-Key: a\r\nTo: x\r\n Idempotency-Key: b\r\n", None, ()),
        (b"Idempotency-Key\r\nIdempotency-Keys: c\r\n", None, ()),
    ],
)
def test_the_field_is_taken_out(section: bytes, kept: bytes | None, keys: Sequence[bytes]) -> None:
    edited = submitted(section, {"Date": "now"})
    assert (edited.kept, edited.keys) == (section if kept is None else kept, keys)
    assert edited.section == b"Date: now\r\n" + edited.kept


# --- the same message


def envelope(sender: str | None = "a@x.test", *recipients: str) -> Envelope:
    boxes = [Mailbox.parse(each) for each in recipients or ("b@y.test", "c@y.test")]
    return Envelope(None if sender is None else Mailbox.parse(sender), tuple(Recipient(box, box) for box in boxes))


def printed(section: bytes, body: bytes, of: Envelope) -> bytes:
    found = Fingerprint("k", section)
    found.add(body)
    return found.of(of)


SECTION = b"From: a@x.test\r\nSubject: x\r\n"
SAME = printed(SECTION, b"\r\nhi\r\n", envelope())


@pytest.mark.parametrize(
    "section",
    [
        SECTION + b"Date: now\r\n",
        b"Date: then,\r\n folded\r\n" + SECTION + b"message-id : <1@x>\r\n",
        b"Return-Path: <a@x.test>\r\nReceived: from x\r\n\tby y\r\nDelivered-To: b@y.test\r\n" + SECTION,
    ],
)
def test_what_each_attempt_makes_anew_does_not_count(section: bytes) -> None:
    assert printed(section, b"\r\nhi\r\n", envelope()) == SAME


def test_the_order_of_recipients_and_what_is_wanted_of_them_does_not_count() -> None:
    assert printed(SECTION, b"\r\nhi\r\n", envelope("a@x.test", "c@y.test", "b@y.test")) == SAME
    boxes = map(Mailbox.parse, ("b@y.test", "c@y.test"))
    asked = RcptOptions(notify=frozenset((Notify.SUCCESS,)))
    behind = tuple(Recipient(Mailbox.parse("alias@z.test"), box, None, asked) for box in boxes)
    assert printed(SECTION, b"\r\nhi\r\n", Envelope(Mailbox.parse("a@x.test"), behind)) == SAME


@pytest.mark.parametrize(
    ("section", "body", "of"),
    [
        (SECTION, b"\r\nho\r\n", envelope()),
        (SECTION, b"\r\nhi\r\n\r\n", envelope()),
        (SECTION.replace(b"x\r\n", b"y\r\n"), b"\r\nhi\r\n", envelope()),
        (SECTION + b"X-Date: now\r\n", b"\r\nhi\r\n", envelope()),
        (SECTION, b"\r\nhi\r\n", envelope(None)),
        (SECTION, b"\r\nhi\r\n", envelope("A@x.test")),
        (SECTION, b"\r\nhi\r\n", envelope("a@x.test", "b@y.test")),
        (SECTION, b"\r\nhi\r\n", envelope("a@x.test", "b@y.test", "c@y.test", "d@y.test")),
        (SECTION, b"\r\nDate: now\r\nhi\r\n", envelope()),
    ],
)
def test_all_else_does(section: bytes, body: bytes, of: Envelope) -> None:
    assert printed(section, body, of) != SAME


# --- while it comes in


def taken(text: bytes, *, step: int, limit: int = 10**9) -> tuple[Intake, bytes]:
    """An intake that got the text in pieces, and what the disk would have of it."""
    intake = Intake(MessageId(1), TRACE, limit, lambda section: submitted(section, {"Date": "now"}))
    pieces = [text[start : start + step] for start in range(0, len(text), step)]
    octets = b"".join(spilled for piece in pieces[:-1] if (spilled := intake.add(piece)) is not None)
    return intake, octets + intake.finish(pieces[-1], bare=False)


@pytest.mark.parametrize("step", [50, 1000, SMALL, PIECE + 7, 10**7])
def test_it_is_the_same_however_it_comes(step: int) -> None:
    body = b"\r\n" + b"".join(b"line %d\r\n" % number for number in range(60_000))
    assert len(body) > 2 * PIECE
    intake, octets = taken(b"Idempotency-Key: k\r\n" + SECTION + body, step=step)
    assert octets == TRACE + b"Date: now\r\n" + SECTION + body and intake.size == len(octets)
    assert intake.fault is None and intake.fingerprint is not None and intake.fingerprint.key == "k"
    assert intake.fingerprint.of(envelope()) == printed(SECTION, body, envelope())


@pytest.mark.parametrize("field", [b"Idempotency-Key:\r\n", b"Idempotency-Key: a\r\nIdempotency-Key: a\r\n"])
def test_a_bad_key_refuses_the_message(field: bytes) -> None:
    intake, octets = taken(field + SECTION + b"\r\nhi\r\n", step=50)
    assert intake.fault == r.BAD_KEY and octets == b""
    large, _ = taken(field + SECTION + b"\r\n" + b"x" * SMALL * 2 + b"\r\n", step=1000)
    assert large.fault == r.BAD_KEY and not large.spilled


def test_a_message_without_a_key_has_no_fingerprint() -> None:
    intake, _ = taken(SECTION + b"\r\nIdempotency-Key: k\r\n", step=50)
    assert intake.fault is None and intake.fingerprint is None


def test_a_listener_for_exchange_leaves_the_field_alone() -> None:
    assert header_edit(make_service(clock=VirtualClock(), hostname=HOSTNAME), MessageId(1)) is None
