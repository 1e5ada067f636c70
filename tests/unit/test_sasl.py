"""SASL PLAIN as octets: what is claimed, what claims nothing, and the way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.smtp.sasl import MAX_NAME, Credentials, parse_plain, plain

LONGEST = "x" * MAX_NAME


@pytest.mark.parametrize(
    ("octets", "credentials"),
    [
        (b"\0tim\0tanstaaftanstaaf", Credentials("tim", "tanstaaftanstaaf")),
        (b"Ursel\0Kurt\0xipj3plmq", Credentials("Kurt", "xipj3plmq", "Ursel")),  # RFC 4616 §4
        ("\0jürgen@example.test\0pä ss\t".encode(), Credentials("jürgen@example.test", "pä ss\t")),
        (f"\0{LONGEST}\0{LONGEST}".encode(), Credentials(LONGEST, LONGEST)),
        (b"\0 \0 ", Credentials(" ", " ")),
    ],
)
def test_what_is_claimed(octets: bytes, credentials: Credentials) -> None:
    assert parse_plain(octets) == credentials


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\0",
        b"\0\0",
        b"tim",
        b"tim\0secret",
        b"\0tim\0",
        b"\0\0secret",
        b"\0tim\0secret\0",
        b"\0tim\0sec\0ret",
        b"\0t\xfcm\0secret",
        b"\0tim\0s\xffcret",
        b"\xff\0tim\0secret",
        f"\0{LONGEST}x\0secret".encode(),
        f"\0tim\0{LONGEST}x".encode(),
        f"\0tim\0{'ü' * 128}".encode(),  # octets count, not characters
    ],
)
def test_what_claims_nothing(octets: bytes) -> None:
    assert parse_plain(octets) is None


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(TEXT, TEXT)
def test_the_round_trip(name: str, password: str) -> None:
    assert parse_plain(plain(Credentials(name, password))) == Credentials(name, password)


@given(st.binary(max_size=40))
def test_any_octets_are_credentials_or_nothing(octets: bytes) -> None:
    found = parse_plain(octets)
    assert found is None or plain(found) == octets or octets.startswith(found.name.encode())


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(Credentials("tim", "secret"))
