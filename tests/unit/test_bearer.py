"""OAUTHBEARER and XOAUTH2: the examples of RFC 7628, and every way to err."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.smtp.bearer import BearerServer
from pillarbox.smtp.sasl import BearerToken, Challenge, Verdict

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
# RFC 7628 §4.1 (IMAP) and §4.2 (SMTP)
IMAP = b64decode(
    "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSb"
    "GNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)
SMTP = IMAP.replace(b"143", b"587")
XOAUTH2 = f"user=user@example.com\x01auth=Bearer {TOKEN}\x01\x01".encode()
DISCOVERY = "https://id.example/.well-known/openid-configuration"


def modern() -> BearerServer:
    return BearerServer(modern=True, discovery=DISCOVERY)


def older() -> BearerServer:
    return BearerServer(modern=False, discovery="")


@pytest.mark.parametrize(
    ("octets", "bearer"),
    [
        (IMAP, BearerToken(TOKEN, "user@example.com")),
        (SMTP, BearerToken(TOKEN, "user@example.com")),
        (b"n,,\x01auth=Bearer abc\x01\x01", BearerToken("abc")),
        (b"y,,\x01auth=bearer  abc \x01\x01", BearerToken("abc")),
        (b"n,a=a=2Cb=3Dc,\x01auth=BEARER a.b-c_d~e+f/g==\x01\x01", BearerToken("a.b-c_d~e+f/g==", "a,b=c")),
        (b"n,a=user@example.com,\x01auth=\x01\x01", BearerToken("", "user@example.com")),  # §4.3: only asks
    ],
)
def test_what_is_claimed(octets: bytes, bearer: BearerToken) -> None:
    assert modern().begin(octets) == bearer


def test_what_is_claimed_the_older_way() -> None:
    assert older().begin(XOAUTH2) == BearerToken(TOKEN, "user@example.com")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x01",
        b"n,,\x01\x01",
        b"n,,\x01host=a\x01\x01",
        b"n,,\x01auth=Basic abc\x01\x01",
        b"n,,\x01auth=Bearer\x01\x01",
        b"n,,\x01auth=Bearer a b\x01\x01",
        b"n,,\x01auth=Bearer abc\x01",
        b"n,,\x01auth=Bearer abc",
        b"n,,\x01auth=Bearer abc\x01auth=Bearer def\x01\x01",
        b"n,,\x01au-th=Bearer abc\x01\x01",
        b"n,,auth=Bearer abc\x01\x01",
        b"p=tls-exporter,,\x01auth=Bearer abc\x01\x01",
        b"n,b=x,\x01auth=Bearer abc\x01\x01",
        b"n,a=\x00,\x01auth=Bearer abc\x01\x01",
        b"n,a=" + b"x" * 256 + b",\x01auth=Bearer abc\x01\x01",
        b"n,a=\xff,\x01auth=Bearer abc\x01\x01",
        XOAUTH2,
    ],
)
def test_what_claims_nothing(octets: bytes) -> None:
    assert modern().begin(octets) is Verdict.MALFORMED


@pytest.mark.parametrize(
    "octets", [b"", SMTP, XOAUTH2[:-1], XOAUTH2[5:], b"user=\x01auth=Bearer abc\x01\x01", XOAUTH2 + b"x", b"\xff"]
)
def test_what_claims_nothing_the_older_way(octets: bytes) -> None:
    assert older().begin(octets) is Verdict.MALFORMED


@given(st.binary(max_size=60))
def test_any_octets_come_to_something(octets: bytes) -> None:
    for machine in (modern(), older()):
        assert isinstance(machine.begin(octets), BearerToken | Verdict)


@pytest.mark.parametrize("answer", [b"\x01", b"", b"whatever"])
def test_a_refused_token_is_told_in_json_and_then_fails(answer: bytes) -> None:
    """RFC 7628 §3.2.2, §3.2.3."""
    machine = modern()
    machine.begin(SMTP)
    step = machine.answer(good=False)
    assert isinstance(step, Challenge)
    told = {"status": "invalid_token", "schemes": "bearer", "openid-configuration": DISCOVERY}
    assert json.loads(step.octets) == told
    assert machine.respond(answer) is Verdict.DENIED


def test_a_good_token_lets_in() -> None:
    machine = older()
    assert machine.begin(None) == Challenge(b"")
    machine.respond(XOAUTH2)
    assert machine.answer(good=True) is Verdict.GRANTED


def test_a_token_is_never_shown() -> None:
    assert TOKEN not in repr(modern().begin(SMTP))
