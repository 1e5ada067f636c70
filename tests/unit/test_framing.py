"""Lines and messages out of octets and back, cut at every place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from pillarbox.smtp.framing import (
    HEAD,
    MAX_SWALLOWED,
    DataReader,
    DataWriter,
    LineFault,
    LineReader,
    UnsafeOctets,
    has_bare_octet,
)

LIMIT = 16
TOO_LONG = LineFault.TOO_LONG


def two_pieces(octets: bytes) -> Iterator[tuple[bytes, ...]]:
    """Whole, cut in two at every place, and octet by octet."""
    yield (octets,)
    for cut in range(1, len(octets)):
        yield octets[:cut], octets[cut:]
    yield tuple(bytes((octet,)) for octet in octets)


def three_pieces(octets: bytes) -> Iterator[tuple[bytes, ...]]:
    for first in range(len(octets) + 1):
        for second in range(first, len(octets) + 1):
            yield octets[:first], octets[first:second], octets[second:]


# --- lines


def read_lines(pieces: Iterable[bytes], limit: int = LIMIT) -> tuple[list[bytes | LineFault], bytes]:
    reader = LineReader(limit)
    lines: list[bytes | LineFault] = []
    for piece in pieces:
        reader.feed(piece)
        while (line := reader.next_line()) is not None:
            lines.append(line)
    held = len(reader)
    rest = reader.take_all()
    assert len(rest) == held
    assert len(reader) == 0
    return lines, rest


@pytest.mark.parametrize(
    ("octets", "lines", "rest"),
    [
        (b"", [], b""),
        (b"\r\n", [b""], b""),
        (b"a\r\nb\r\n", [b"a", b"b"], b""),
        (b"a\r\nb", [b"a"], b"b"),
        (b"a\r\nb\r", [b"a"], b"b\r"),
        (b"a\nb\r\n", [b"a\nb"], b""),  # RFC 5321 §2.3.8: nothing but CRLF ends a line
        (b"a\rb\r\n", [b"a\rb"], b""),
        (b"a\r\r\n", [b"a\r"], b""),
        (b"a\n\r\n", [b"a\n"], b""),
        (b"\n\r", [], b"\n\r"),
        (b"a\0b\r\n\xff\r\n", [b"a\0b", b"\xff"], b""),
        (b"x" * (LIMIT - 2) + b"\r\ny\r\n", [b"x" * (LIMIT - 2), b"y"], b""),
        (b"x" * (LIMIT - 1) + b"\r\ny\r\n", [TOO_LONG, b"y"], b""),
        (b"x" * LIMIT + b"\r\ny\r\n", [TOO_LONG, b"y"], b""),
        (b"x" * (LIMIT * 3) + b"\r\n" + b"y" * LIMIT + b"\r\nz\r\n", [TOO_LONG, TOO_LONG, b"z"], b""),
        (b"x" * LIMIT + b"\r\r\ny\r\n", [TOO_LONG, b"y"], b""),
        (b"x" * LIMIT + b"\n\ry\r\n", [TOO_LONG], b""),
    ],
)
def test_lines_wherever_they_are_cut(octets: bytes, lines: list[bytes | LineFault], rest: bytes) -> None:
    for pieces in two_pieces(octets):
        assert read_lines(pieces) == (lines, rest), pieces


def test_a_line_without_end_is_thrown_away_and_given_up() -> None:
    reader = LineReader(LIMIT)
    fault = None
    fed = 0
    while fault is None:
        reader.feed(b"x" * 8192)
        fed += 8192
        fault = reader.next_line()
        assert len(reader) <= LIMIT
    assert fault is LineFault.ENDLESS
    assert MAX_SWALLOWED < fed <= MAX_SWALLOWED + 2 * 8192


@pytest.mark.parametrize("length", [LIMIT - 1, LIMIT, LIMIT + 1, 5 * LIMIT])
def test_how_a_line_began_that_is_too_long(length: int) -> None:
    line = (b"VRFY abcdefghijklmnopqrstuvwxyz" * 5)[:length]
    octets = b"before\r\n" + line + b"\r\nafter\r\n"
    for pieces in two_pieces(octets):
        reader = LineReader(LIMIT)
        heads = []
        for piece in pieces:
            reader.feed(piece)
            while (found := reader.next_line()) is not None:
                if found is TOO_LONG:
                    heads.append(reader.head)
        (head,) = heads
        assert (line + b"\r\n").startswith(head) and len(head) >= min(len(b"VRFY "), HEAD), pieces


def test_what_was_not_read_is_taken_whole() -> None:
    reader = LineReader(LIMIT)
    reader.feed(b"DATA\r\nbody\r\nmore")
    assert reader.next_line() == b"DATA"
    assert len(reader) == 10
    assert reader.take_all() == b"body\r\nmore"
    assert reader.take_all() == b""
    assert reader.next_line() is None


# --- bare octets


@pytest.mark.parametrize(
    ("octets", "bare"),
    [
        (b"", False),
        (b"plain", False),
        (b"\r\n", False),
        (b"a\r\n\r\nb\r\n", False),
        (b"\x80\xff\r\n\x7f\x01\t", False),
        (b"a\nb", True),
        (b"a\rb", True),
        (b"a\0b", True),
        (b"\0", True),
        (b"\r\r\n", True),
        (b"\r\n\n", True),
        (b"\n\r", True),
        (b"\n\r\n\r", True),
        (b"\r\n\r", True),
        (b"a\rb\nc", True),  # a CR and an LF, but not a CRLF
        (b"a\r \nc", True),
        (b"a\r\0\nc", True),
        (b"\r\na\r.\n.\r\nb\r\n", True),
        (b"\r\na\r\nb\rc\nd\r\n", True),
    ],
)
def test_bare_octets_are_found(octets: bytes, bare: bool) -> None:
    assert has_bare_octet(octets) is bare


# --- a message coming in


def read_data(pieces: Iterable[bytes]) -> tuple[bytes, bool, bytes]:
    """The message, whether it held bare octets, and what came behind it."""
    reader = DataReader()
    message = b""
    rest = b""
    for piece in pieces:
        if reader.done:
            rest += piece
            continue
        message += reader.feed(piece)
        rest = reader.rest
    assert reader.done
    return message, reader.bare, rest


COMING_IN: list[tuple[bytes, bytes, bool, bytes]] = [
    # on the wire, the message, bare octets, what follows
    (b".\r\n", b"", False, b""),
    (b"\r\n.\r\n", b"\r\n", False, b""),
    (b"a\r\n.\r\n", b"a\r\n", False, b""),
    (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", False, b"QUIT\r\n"),
    (b".\r\n.\r\n", b"", False, b".\r\n"),
    (b"..\r\n.\r\n", b".\r\n", False, b""),  # RFC 5321 §4.5.2
    (b".a\r\n.\r\n", b"a\r\n", False, b""),
    (b"..a\r\n...b\r\n.\r\n", b".a\r\n..b\r\n", False, b""),
    (b"a.\r\n.\r\n", b"a.\r\n", False, b""),
    (b"a\r\n..\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", False, b""),
    (b"a\r\n\r\n..\r\n\r\n.\r\n", b"a\r\n\r\n.\r\n\r\n", False, b""),
    (b"\x80\xff\r\n.\r\n", b"\x80\xff\r\n", False, b""),
    # what smuggles through careless servers (CVE-2023-51764 and its kin): RFC 5321 §4.1.1.4, only CRLF.CRLF ends
    (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n", True, b""),
    (b"a\n.\r\nb\r\n.\r\n", b"a\n.\r\nb\r\n", True, b""),
    (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\nb\r\n", True, b""),
    (b"a\r.\rb\r\n.\r\n", b"a\r.\rb\r\n", True, b""),
    (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n", True, b""),
    (b"a\r.\r\nb\r\n.\r\n", b"a\r.\r\nb\r\n", True, b""),
    (b"a\r\r\n.\r\n", b"a\r\r\n", True, b""),
    (b"a\r\n\n.\r\n.\r\n", b"a\r\n\n.\r\n", True, b""),
    (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\r\nb\r\n", True, b""),
    (b"a\0\r\n.\r\n", b"a\0\r\n", True, b""),
    (b"a\r\n.\0\r\nb\r\n.\r\n", b"a\r\n\0\r\nb\r\n", True, b""),
    (b"a\rb\nc\r\n.\r\n", b"a\rb\nc\r\n", True, b""),
    (b"a\rb\n.\r\nMAIL\r\n.\r\n", b"a\rb\n.\r\nMAIL\r\n", True, b""),
    (b"a\r\nb\n\r\n.\r\n", b"a\r\nb\n\r\n", True, b""),
]


@pytest.mark.parametrize(("wire", "message", "bare", "rest"), COMING_IN)
def test_a_message_wherever_it_is_cut(wire: bytes, message: bytes, bare: bool, rest: bytes) -> None:
    for pieces in (*two_pieces(wire), *three_pieces(wire)):
        assert read_data(pieces) == (message, bare, rest), pieces


@pytest.mark.parametrize("wire", [b"", b"a", b"a\r\n", b"a\r\n.", b"a\r\n.\r", b"a\n.\n", b"a\r\n.\n", b".", b".\r"])
def test_a_message_that_has_not_ended(wire: bytes) -> None:
    reader = DataReader()
    reader.feed(wire)
    assert not reader.done


def test_little_is_held_back() -> None:
    reader = DataReader()
    given = sum(len(reader.feed(b"x" * 100_000)) for _ in range(10))
    assert given == 1_000_000


# --- a message going out


def write_data(pieces: Iterable[bytes]) -> bytes:
    writer = DataWriter()
    return b"".join([*(writer.write(piece) for piece in pieces), writer.end()])


GOING_OUT: list[tuple[bytes, bytes]] = [
    (b"", b".\r\n"),
    (b"\r\n", b"\r\n.\r\n"),
    (b"a", b"a\r\n.\r\n"),
    (b"a\r\n", b"a\r\n.\r\n"),
    (b".", b"..\r\n.\r\n"),
    (b".\r\n", b"..\r\n.\r\n"),
    (b"..\r\n", b"...\r\n.\r\n"),
    (b"a.b\r\n", b"a.b\r\n.\r\n"),
    (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
    (b"a\r\n.b\r\n..c\r\n", b"a\r\n..b\r\n...c\r\n.\r\n"),
    (b"\r\n\r\n.\r\n", b"\r\n\r\n..\r\n.\r\n"),
    (b"\x80\xff\r\n", b"\x80\xff\r\n.\r\n"),
]


@pytest.mark.parametrize(("message", "wire"), GOING_OUT)
def test_a_message_written_wherever_it_is_cut(message: bytes, wire: bytes) -> None:
    for pieces in (*two_pieces(message), *three_pieces(message)):
        assert write_data(pieces) == wire, pieces


@pytest.mark.parametrize("message", [message for message, _ in GOING_OUT if message.endswith(b"\r\n") or not message])
def test_what_was_written_is_read(message: bytes) -> None:
    for pieces in three_pieces(message):
        wire = write_data(pieces)
        for cut in two_pieces(wire):
            assert read_data(cut) == (message, False, b"")


@pytest.mark.parametrize(
    "message",
    [
        b"a\nb\r\n",
        b"a\rb\r\n",
        b"a\0b\r\n",
        b"a\r",
        b"\r",
        b"\n",
        b"a\r\n\n",
        b"a\r\r\n",
        b"a\r\n.\n",
        b"a\rb\nc\r\n",
        b"a\rb\n.\r\nMAIL FROM:<>\r\n",
        b"a\n\r\n",
    ],
)
def test_a_message_with_bare_octets_is_never_ended(message: bytes) -> None:
    for pieces in (*two_pieces(message), *three_pieces(message)):
        with pytest.raises(UnsafeOctets):
            write_data(pieces)
