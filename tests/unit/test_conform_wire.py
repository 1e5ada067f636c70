"""The wire of `conform`: what counts as a reply, what does not, and that reading always ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from pillarbox.app.conform.wire import MAX_LINE, MAX_LINES, Answer, Loss, Lost, Wire
from tests.unit.conform_peers import HOST, Peer

TIMEOUT = 5.0  # seconds
SOON = 0.1


@contextmanager
def wire(octets: bytes, *, timeout: float = TIMEOUT, stays: bool = False) -> Iterator[Wire]:
    """To a peer that sends these octets, and then closes or stays."""

    def handle(client: socket.socket) -> None:
        client.sendall(octets)
        if stays:
            client.recv(1)

    with Peer(handle) as peer:
        made = Wire(HOST, peer.port, timeout=timeout, deadline=monotonic() + 60.0)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        (b"250 ok\r\n", Answer((b"250 ok",))),
        (b"250\r\n", Answer((b"250",))),
        (b"250 \r\n", Answer((b"250 ",))),
        (b"250-one\r\n250-two\r\n250 three\r\n", Answer((b"250-one", b"250-two", b"250 three"))),
        (b"250-one\r\n250\r\n", Answer((b"250-one", b"250"))),
        (b"250 ok\n", Answer((b"250 ok",), bare=True)),
        (b"250-one\n250 two\r\n", Answer((b"250-one", b"250 two"), bare=True)),
        (b"999 what\r\n", Answer((b"999 what",))),
        (b"250 \xff\xfe\r\n", Answer((b"250 \xff\xfe",))),
    ],
)
def test_replies(octets: bytes, answer: Answer) -> None:
    with wire(octets) as made:
        assert made.read() == answer


@pytest.mark.parametrize("octets", [b"ok\r\n", b"\r\n", b"25 ok\r\n", b"2500 ok\r\n", b"250_ok\r\n", b"250-a\r\nb\r\n"])
def test_what_is_no_reply(octets: bytes) -> None:
    with wire(octets) as made:
        outcome = made.read()
    assert isinstance(outcome, Lost) and outcome.loss is Loss.GARBAGE


def test_parts_of_an_answer() -> None:
    answer = Answer((b"250-one", b"550 tw\xf6"))
    assert answer.code == 250 and answer.codes == {250, 550} and answer.texts == ("one", "twö")


def test_replies_that_come_together_are_read_one_by_one() -> None:
    with wire(b"220 a\r\n250-b\r\n250 c\r\n421 d\r\n") as made:
        codes = [outcome.code for outcome in (made.read(), made.read(), made.read()) if isinstance(outcome, Answer)]
        assert codes == [220, 250, 421]
        assert made.read() == Lost(Loss.CLOSED)


@pytest.mark.parametrize(("octets", "kept"), [(b"", b""), (b"250 o", b"250 o"), (b"250-a\r\n250", b"250-a\r\n250")])
def test_a_close_in_the_middle(octets: bytes, kept: bytes) -> None:
    with wire(octets) as made:
        assert made.read() == Lost(Loss.CLOSED, kept)


def test_silence() -> None:
    with wire(b"250-one\r\n", timeout=SOON, stays=True) as made:
        begun = monotonic()
        assert made.read() == Lost(Loss.SILENT, b"250-one\r\n")
        assert SOON <= monotonic() - begun < TIMEOUT


def test_bounds() -> None:
    with wire(b"2" * (MAX_LINE + 1), stays=True) as made:
        outcome = made.read()
        assert isinstance(outcome, Lost) and outcome.loss is Loss.ENDLESS and len(outcome.octets) == 512
    with wire(b"250-x\r\n" * MAX_LINES, stays=True) as made:
        assert made.read() == Lost(Loss.FLOOD, b"250-x")
    with wire(b"250-" + b"x" * 60_000 + b"\r\n" + b"250 y\r\n") as made:
        assert isinstance(made.read(), Answer)


def test_a_deadline_ends_a_wait() -> None:
    with wire(b"", stays=True) as made:
        made._deadline = monotonic() + SOON
        assert made.read() == Lost(Loss.SILENT)
        assert not made.ends()


def test_what_was_not_asked_for() -> None:
    with wire(b"220 a\r\n") as made:
        assert made.read() == Answer((b"220 a",))
        assert made.ends()
        assert not made.has_spoken()
    with wire(b"220 a\r\n250 b\r\n", stays=True) as made:
        made.read()
        assert made.has_spoken()
        made.read()
        assert not made.has_spoken()


def test_writing_to_nobody_is_told_by_reading() -> None:
    with wire(b"220 a\r\n") as made:
        made.read()
        made.ends()
        for _ in range(10):
            made.write(b"x" * 100_000)
        assert made.read() == Lost(Loss.CLOSED)
