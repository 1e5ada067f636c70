"""The smuggling sequences cut at every octet: where the cuts fall changes nothing, in and out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pillarbox.smtp.framing import DataReader, DataWriter, UnsafeOctets
from tests.live.sequences import BARE, END, HEADER, SEQUENCES, Sequence, judge


def cuts(sequence: Sequence) -> Iterator[tuple[bytes, ...]]:
    """Whole, in two at every octet from before the edge to behind it, and all of that octet by octet."""
    wire, first = sequence.wire, len(HEADER) - 1
    yield (wire,)
    for at in range(first, first + len(sequence.edge) + 3):
        yield wire[:at], wire[at:]
    for at in range(len(wire) - len(END) - 1, len(wire)):
        yield wire[:at], wire[at:]
    yield sequence.pieces


def read(pieces: tuple[bytes, ...]) -> tuple[bytes, bool, bool, bytes]:
    reader = DataReader()
    text = b"".join([reader.feed(piece) for piece in pieces if not reader.done])
    return text, reader.bare, reader.done, reader.rest


def test_no_cut_makes_a_difference_to_the_reader() -> None:
    for sequence in SEQUENCES:
        message = sequence.message
        for pieces in cuts(sequence):
            text, bare, done, rest = read(pieces)
            assert (done, rest, bare) == (True, b"", message is None), (sequence.edge, pieces)
            assert message is None or text == message, (sequence.edge, pieces)


def test_no_cut_makes_a_difference_to_the_writer() -> None:
    """It writes what its reader takes for the same message, without an octet that could be read otherwise, or nothing
    that would end the message."""
    for sequence in SEQUENCES:
        for pieces in cuts(sequence):
            text = b"".join(pieces)
            writer, wire = DataWriter(), b""
            try:
                for piece in pieces:
                    wire += writer.write(piece)
                wire += writer.end()
            except UnsafeOctets:
                assert BARE.search(text)
                assert END not in b"\r\n" + wire and not BARE.search(wire.removesuffix(b"\r"))
            else:
                assert not BARE.search(text) and not BARE.search(wire)
                assert judge(wire) == text and wire.endswith(END) and wire.count(END) == 1


@pytest.mark.parametrize("octets", [b"\r", b"\n", b"\0", b"\n\r", b"\r\r\n"])
def test_no_place_in_a_message_is_overlooked(octets: bytes) -> None:
    """Once in a message, at every place of it."""
    text = b"Subject: x\r\n\r\n.x\r\n.\r\nx\r\n"
    for at in range(len(text) + 1):
        if text[at - 1 : at] == b"\r" or octets == b"\r" and text[at : at + 1] == b"\n":
            continue  # it would be one half of a CRLF
        writer = DataWriter()
        with pytest.raises(UnsafeOctets):
            writer.write(text[:at] + octets + text[at:])
            writer.end()
