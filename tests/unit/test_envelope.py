"""Message ids: as numbers and as text they sort alike, and come back as they went."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import ID_LENGTH, MessageId, Mode, Recipient
from pillarbox.engine.ids import IdSource, id_at
from pillarbox.sim.clock import VirtualClock

NUMBERS = st.integers(0, (1 << 60) - 1)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "000000000000"),
        (1, "000000000001"),
        (31, "00000000000z"),
        (32, "000000000010"),
        ((1 << 60) - 1, "zzzzzzzzzzzz"),
        (10 << 55, "a00000000000"),
    ],
)
def test_as_text(number: int, text: str) -> None:
    assert str(MessageId(number)) == repr(MessageId(number)) == f"{MessageId(number)}" == text
    assert MessageId.parse(text) == number
    assert isinstance(MessageId.parse(text), MessageId)
    assert MessageId.parse(text.upper()) == number


@given(NUMBERS)
def test_the_round_trip(number: int) -> None:
    text = str(MessageId(number))
    assert len(text) == ID_LENGTH
    assert MessageId.parse(text) == number


@given(NUMBERS, NUMBERS)
def test_text_sorts_as_numbers_do(one: int, other: int) -> None:
    assert (str(MessageId(one)) < str(MessageId(other))) is (one < other)


@pytest.mark.parametrize(
    "text", ["", "0", "0" * 11, "0" * 13, "00000000000i", "00000000000l", "00000000000o", "00000000000u"]
    + ["00000000000-", "00000000000 ", "00000000000\n", "0000000000é0", "\u0660" * 12, "\u0130" * 6],
)  # fmt: skip
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        MessageId.parse(text)


# --- recipients

ALICE, STAFF = Mailbox.parse("alice@example.test"), Mailbox.parse("staff@example.test")


@pytest.mark.parametrize(
    ("address", "original", "forwarded"),
    [
        (ALICE, ALICE, False),
        (ALICE, Mailbox.parse("alice@example.test"), False),
        (ALICE, STAFF, True),
        (ALICE, Mailbox.parse("Alice@example.test"), True),  # another spelling: who else it is, is not known here
    ],
)
def test_whether_an_address_of_ours_stands_in_between(address: Mailbox, original: Mailbox, forwarded: bool) -> None:
    assert Recipient(address, original).forwarded is forwarded
    assert Recipient(address, original, STAFF).forwarded is forwarded


def test_modes_are_the_words_of_their_commands() -> None:
    assert [mode.value for mode in Mode] == ["MAIL", "SEND", "SOML", "SAML"]
    assert len({mode: None for mode in Mode}) == 4


# --- where they come from


def test_ids_are_never_given_twice_whatever_the_clock_does() -> None:
    clock = VirtualClock()
    source = IdSource(clock)
    given_ = []
    for seconds in (0.0, 0.0, 0.001, 0.0, -3600.0, 0.0, 7200.0, 0.0):
        clock.jump(seconds)
        given_ += [source.next() for _ in range(3)]
    assert given_ == sorted(set(given_))


def test_ids_go_on_from_those_of_earlier_runs() -> None:
    clock = VirtualClock(1_000.0)
    last = id_at(2_000.0)
    assert IdSource(clock, last).next() == last + 1
    assert IdSource(clock, id_at(1.0)).next() == id_at(1_000.0)


def test_ids_are_ordered_by_time() -> None:
    clock = VirtualClock(1_700_000_000.0)
    source = IdSource(clock)
    first = source.next()
    clock.advance(0.001)
    assert source.next() >= id_at(clock.now()) > first
    assert id_at(-1.0) == 0
    assert len(str(id_at(4_000_000_000.0))) == ID_LENGTH
    assert id_at(4_000_000_000.0) < 1 << 60
