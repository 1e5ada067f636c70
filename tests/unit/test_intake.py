"""Intake: what is kept of a message coming in, what is spilled of it, and what is wrong with it."""

from __future__ import annotations

import pytest

from pillarbox.core import reply as r
from pillarbox.core.envelope import MessageId
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import Reply
from pillarbox.engine.intake import MAX_HEADER, MAX_HOPS, PIECE, SMALL, Intake
from pillarbox.engine.mail import Octets

TRACE = b"Received: from here\r\n\tby there; now\r\n"
ID = MessageId(7)
LIMIT = 10**7
HEADER = b"Subject: x\r\n\r\n"


def intake(limit: int = LIMIT) -> Intake:
    return Intake(ID, TRACE, limit)


def collect(taken: Intake, *chunks: bytes, bare: bool = False) -> tuple[list[bytes], bytes]:
    """What was spilled on the way, and the rest; the last chunk comes with the end mark."""
    *before, last = chunks
    spilled = [piece for chunk in before if (piece := taken.add(chunk)) is not None]
    return spilled, taken.finish(last, bare=bare)


@pytest.mark.parametrize(
    ("chunks", "header", "eight_bit"),
    [
        ((b"",), HeaderView(0, "", "", "", ""), False),
        ((b"\r\n",), HeaderView(0, "", "", "", ""), False),
        ((b"\r\nSubject: in the body\r\n",), HeaderView(0, "", "", "", ""), False),
        ((b"Subject: a\r\n\r\nbody\r\n",), HeaderView(0, "", "a", "", ""), False),
        ((b"Subject: a\r\n", b"\r\n", b"body\r\n"), HeaderView(0, "", "a", "", ""), False),
        ((b"Sub", b"ject: a\r", b"\n\r\nSubject: b\r\n"), HeaderView(0, "", "a", "", ""), False),
        ((b"Subject: a\r\n",), HeaderView(0, "", "a", "", ""), False),  # a header section and nothing else
        ((b"no header at all\r\n",), HeaderView(0, "", "", "", ""), False),
        ((b"Received: x\r\nReceived: y\r\n\r\n",), HeaderView(2, "", "", "", ""), False),
        ((b"\r\n", b"\x80", b"x\r\n"), HeaderView(0, "", "", "", ""), True),
        ((b"\r\n", b"x", b"\xff\r\n"), HeaderView(0, "", "", "", ""), True),
        ((b"From: J\xc3\xbcrgen\r\n\r\n",), HeaderView(0, "Jürgen", "", "", ""), True),
    ],
)
def test_a_small_message(chunks: tuple[bytes, ...], header: HeaderView, eight_bit: bool) -> None:
    taken = intake()
    assert collect(taken, *chunks) == ([], TRACE + b"".join(chunks))
    assert taken.fault is None
    assert taken.header == header
    assert bool(taken.octets) is eight_bit
    assert taken.size == len(TRACE) + sum(map(len, chunks))
    assert not taken.spilled


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        ((b"x" * 100,), None),
        ((b"x" * 101,), r.TOO_BIG),
        ((b"x" * 100, b""), None),
        ((b"x" * 100, b"y"), r.TOO_BIG),
        ((b"x" * 101, b"", b""), r.TOO_BIG),
        ((b"",), None),
    ],
)
def test_the_limit_counts_without_our_trace(chunks: tuple[bytes, ...], fault: Reply | None) -> None:
    taken = intake(limit=100)
    _, rest = collect(taken, *chunks)
    assert taken.fault == fault
    assert rest == (b"" if fault else TRACE + b"".join(chunks))


def test_no_limit_but_zero() -> None:
    taken = intake(limit=0)
    assert taken.finish(b"", bare=False) == TRACE
    assert taken.fault is None


RECEIVED = b"Received: a\r\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (RECEIVED * (MAX_HOPS - 1) + b"\r\n", None),
        (RECEIVED * MAX_HOPS + b"\r\n", r.LOOP),
        (b"RECEIVED : a\r\n" * MAX_HOPS + b"\r\n", r.LOOP),
        (RECEIVED * MAX_HOPS, r.LOOP),
        (b"\r\n" + RECEIVED * MAX_HOPS, None),
        (b"X: y\r\n" + b" Received: a\r\n" * MAX_HOPS + b"\r\n", None),  # a folded line is no field
        (b"X-Received: a\r\n" * MAX_HOPS + b"\r\n", None),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_loops(text: bytes, fault: Reply | None, large: bool) -> None:
    if large and b"\r\n\r\n" not in b"\r\n" + text:
        text += b"\r\n"
    taken = intake()
    collect(taken, text, b"x" * SMALL if large else b"", b"\r\n")
    assert taken.fault == fault


# --- large messages


def test_pieces_are_spilled_when_they_are_big_enough() -> None:
    taken = intake()
    room = SMALL - len(TRACE) - len(HEADER)
    assert taken.add(HEADER) is None
    assert taken.add(b"a" * (room - 1)) is None
    before = taken.spilled
    assert taken.add(b"b") == TRACE + HEADER + b"a" * (room - 1) + b"b"
    assert (before, taken.spilled) == (False, True)
    assert taken.header is not None and taken.header.subject == "x"
    assert taken.add(b"c" * (PIECE - 1)) is None
    assert taken.add(b"d") == b"c" * (PIECE - 1) + b"d"
    assert taken.add(b"e") is None
    assert taken.finish(b"f\r\n", bare=False) == b"ef\r\n"
    assert taken.fault is None
    assert taken.size == SMALL + PIECE + 4
    assert taken.octets == Octets.PLAIN


def test_eight_bit_anywhere() -> None:
    taken = intake()
    collect(taken, HEADER + b"a" * SMALL, b"b" * PIECE, b"\x80\r\n")
    assert taken.octets == Octets.EIGHT_BIT


def test_nothing_is_lost_whatever_the_chunks() -> None:
    text = HEADER + bytes(range(32, 127)) * 20_000
    for size in (1_000, 65_536, SMALL - len(TRACE), SMALL, PIECE, len(text)):
        taken = intake()
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        spilled, rest = collect(taken, *chunks)
        assert b"".join(spilled) + rest == TRACE + text
        assert taken.size == len(TRACE) + len(text)
        assert taken.spilled
        assert all(len(piece) >= PIECE for piece in spilled[1:])


def test_a_message_that_becomes_large_with_its_last_chunk() -> None:
    taken = intake()
    assert taken.finish(HEADER + b"x" * SMALL, bare=False) == TRACE + HEADER + b"x" * SMALL
    assert taken.fault is None
    assert taken.header is not None


@pytest.mark.parametrize(
    "chunks",
    [
        (b"X: " + b"x" * MAX_HEADER,),
        (b"X: " + b"x" * MAX_HEADER, b"\r\n\r\n"),
        (b"X: x\r\n" * (MAX_HEADER // 6), b"\r\n"),
        (b"no header and no end of it " * (MAX_HEADER // 27 + 1),),
    ],
)
def test_a_header_without_end(chunks: tuple[bytes, ...]) -> None:
    taken = intake()
    collect(taken, *chunks)
    assert taken.fault == r.HEADER_TOO_BIG


# --- faults


def test_the_first_fault_counts() -> None:
    taken = intake(limit=10)
    taken.add(b"x" * 11)
    taken.fail(r.SPOOL_FAULT)
    assert taken.fault == r.TOO_BIG


def test_a_bare_octet_closes_whatever_else_is_wrong() -> None:
    """Standards: read on to the true end, refuse, close."""
    taken = intake(limit=10)
    taken.add(b"x" * 11)
    taken.finish(b"", bare=True)
    assert taken.fault is not None
    assert taken.fault.closes


@pytest.mark.parametrize("fault", [r.SPOOL_FAULT, r.NO_SPACE])
def test_after_a_fault_nothing_is_kept(fault: Reply) -> None:
    taken = intake()
    assert taken.add(HEADER + b"x" * SMALL) is not None
    taken.fail(fault)
    assert taken.add(b"y" * PIECE * 2) is None
    assert taken.finish(b"z", bare=False) == b""
    assert taken.fault == fault


def test_bare_octets() -> None:
    taken = intake()
    assert collect(taken, b"a\nb\r\n", b"\r\n", bare=True) == ([], b"")
    assert taken.fault == r.BARE_OCTET_IN_DATA
    assert r.BARE_OCTET_IN_DATA.closes


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        (b"\r\na\0b\r\n", Octets.BINARY),
        (b"\r\na\0\xff\r\n", Octets.BINARY | Octets.EIGHT_BIT),
        (b"To: \xc3\xbc\r\n\r\na\0b\r\n", Octets.BINARY | Octets.EIGHT_BIT | Octets.UTF8_HEADER),
    ],
)
def test_bare_octets_in_chunks(text: bytes, octets: Octets) -> None:
    """RFC 3030 §3: they may come; what else there is is known all the same, for hops that take less."""
    taken = intake()
    taken.by_chunks = True
    assert collect(taken, text, bare=True) == ([], TRACE + text)
    assert (taken.fault, taken.octets) == (None, octets)
