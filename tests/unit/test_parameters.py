"""The parameters of MAIL and RCPT, by the RFC of each: what is understood, and what is refused with which reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.core import reply as r
from pillarbox.core.envelope import (
    NO_MAIL_OPTIONS,
    NO_RCPT_OPTIONS,
    BodyType,
    MailOptions,
    Notify,
    RcptOptions,
    Ret,
    ValidSince,
)
from pillarbox.core.reply import Reply
from pillarbox.smtp.events import MailFrom, RcptTo, Refused, Verify, Within
from pillarbox.smtp.framing import Chunk
from pillarbox.smtp.grammar import PARSERS
from pillarbox.smtp.parameters import decode_unicode, decode_xtext, encode_unicode, encode_xtext
from pillarbox.smtp.states import Verb

HOST = "mx.example.test"


def mail(parameters: str, path: str = "a@b.test") -> MailFrom:
    event = PARSERS[Verb.MAIL](f"FROM:<{path}> {parameters}".encode(), HOST)
    assert isinstance(event, MailFrom), event
    return event


def rcpt(parameters: str, path: str = "a@b.test") -> RcptTo:
    event = PARSERS[Verb.RCPT](f"TO:<{path}> {parameters}".encode(), HOST)
    assert isinstance(event, RcptTo), event
    return event


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ("", NO_MAIL_OPTIONS),
        ("SIZE=10 BODY=BINARYMIME", NO_MAIL_OPTIONS),
        ("RET=FULL", MailOptions(ret=Ret.FULL)),
        ("ret=hdrs", MailOptions(ret=Ret.HEADERS)),
        ("ENVID=QQ+2Bb+3Dc+20d", MailOptions(envelope_id="QQ+b=c d")),  # RFC 3461 §4.4
        ("ENVID=" + "x" * 100, MailOptions(envelope_id="x" * 100)),
        ("SMTPUTF8", MailOptions(smtputf8=True)),
        ("REQUIRETLS", MailOptions(require_tls=True)),
        ("MT-PRIORITY=-9", MailOptions(priority=-9)),
        ("mt-priority=0", MailOptions(priority=0)),
        ("HOLDUNTIL=2026-12-31T23:59:59Z", MailOptions(hold_until=1798761599.0)),
        ("HOLDUNTIL=2026-12-31T23:59:59.5+01:00", MailOptions(hold_until=1798757999.5)),
    ],
)
def test_options_of_mail(parameters: str, options: MailOptions) -> None:
    event = mail(parameters)
    assert event.options == options
    assert (event.options is NO_MAIL_OPTIONS) is (options == NO_MAIL_OPTIONS)  # what is plain costs nothing later


def test_all_of_them_together() -> None:
    event = mail("SIZE=1 BODY=8BITMIME AUTH=<> RET=HDRS ENVID=e SMTPUTF8 REQUIRETLS BY=-5;NT HOLDFOR=60 MT-PRIORITY=3")
    assert event == MailFrom(
        event.sender,
        1,
        BodyType.EIGHT_BIT_MIME,
        options=MailOptions(Ret.HEADERS, "e", True, True, priority=3),
        within=Within(-5, returns=False, trace=True),
        hold_for=60,
    )


@pytest.mark.parametrize(
    ("value", "within"),
    [
        ("120;R", Within(120, True, False)),
        ("+120;rt", Within(120, True, True)),
        ("0;N", Within(0, False, False)),
        ("-999999999;N", Within(-999999999, False, False)),
    ],
)
def test_deliver_by(value: str, within: Within) -> None:
    """RFC 2852 §4."""
    assert mail(f"BY={value}").within == within


@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        (parameters, reply)
        for reply, every in {
            r.BAD_PARAMETER: (
                *("SIZE=", "SIZE=-1", "SIZE=1 SIZE=1", "BODY=", "BODY=9BITMIME"),
                *(
                    "RET",
                    "RET=",
                    "RET=NONE",
                    "ENVID",
                    "ENVID=+",
                    "ENVID=+0",
                    "ENVID=+0a",
                    "ENVID=a+0Ab",
                    "ENVID=+C3+BC",
                ),
                *("ENVID=" + "x" * 101, "SMTPUTF8=1", "REQUIRETLS=yes", "=", "A==b"),
                *("BY=0;R", "BY=-1;R", "BY=5", "BY=5;", "BY=5;X", "BY=1234567890;N", "BY=5;NTT", "BY=;R"),
                *("HOLDFOR=", "HOLDFOR=-1", "HOLDFOR=1234567890", "HOLDFOR=1 HOLDUNTIL=2026-12-31T23:59:59Z"),
                *("HOLDUNTIL=2026-12-31T23:59:59Z HOLDFOR=1", "HOLDUNTIL=2026-12-31", "HOLDUNTIL=2026-12-31T23:59:59"),
                *(
                    "HOLDUNTIL=2026-13-31T23:59:59Z",
                    "HOLDUNTIL=20261231T235959Z",
                ),
                *("MT-PRIORITY=", "MT-PRIORITY=10", "MT-PRIORITY=+1", "MT-PRIORITY=--1"),
            ),
            r.UNKNOWN_PARAMETER: ("X=1", "NOTIFY=NEVER", "XREQUIRETLS"),
        }.items()
        for parameters in every
    ],
)
def test_parameters_of_mail_that_are_refused(parameters: str, reply: Reply) -> None:
    assert PARSERS[Verb.MAIL](f"FROM:<> {parameters}".encode(), HOST) == Refused(Verb.MAIL, reply)


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ("NOTIFY=NEVER", RcptOptions(notify=frozenset())),
        ("NOTIFY=success,DELAY", RcptOptions(notify=frozenset((Notify.SUCCESS, Notify.DELAY)))),
        ("NOTIFY=FAILURE", RcptOptions(notify=frozenset((Notify.FAILURE,)))),
        ("ORCPT=RFC822;Bob+2Bx@B.test", RcptOptions(original="rfc822;Bob+x@B.test")),
        ("ORCPT=rfc822;j+C3+BCrgen@b.test", RcptOptions(original="utf-8;jürgen@b.test")),  # as Postfix says it
        (r"ORCPT=utf-8;j\x{FC}rgen@b.test", RcptOptions(original="utf-8;jürgen@b.test")),  # RFC 6533 §3
        ("RRVS=2014-04-03T23:01:00Z", RcptOptions(valid_since=ValidSince("2014-04-03T23:01:00Z", reject=True))),
        ("RRVS=2014-04-03T23:01:00Z;R", RcptOptions(valid_since=ValidSince("2014-04-03T23:01:00Z", reject=True))),
        ("rrvs=2014-04-03T23:01:00Z;c", RcptOptions(valid_since=ValidSince("2014-04-03T23:01:00Z", reject=False))),
    ],
)
def test_options_of_rcpt(parameters: str, options: RcptOptions) -> None:
    assert rcpt(parameters).options == options
    assert rcpt("").options is NO_RCPT_OPTIONS


@pytest.mark.parametrize(
    "parameters",
    [
        *("NOTIFY", "NOTIFY=", "NOTIFY=NEVER,SUCCESS", "NOTIFY=SUCCESS,", "NOTIFY=ALL", "NOTIFY=NEVER NOTIFY=NEVER"),
        *("ORCPT=", "ORCPT=a@b.test", "ORCPT=rfc822;", "ORCPT=;a@b.test", "ORCPT=rfc822;a+0D+0Ab", "ORCPT=rfc822;a+b"),
        *("ORCPT=rfc822;a+FC", "ORCPT=rfc822;a+C2+85", "ORCPT=x400;a+C3+BC"),
        *("ORCPT=rfc822;" + "x" * 500, r"ORCPT=utf-8;\x{D800}", r"ORCPT=utf-8;\x{0A}", r"ORCPT=utf-8;\x{110000}"),
        *("RRVS=", "RRVS=today", "RRVS=2014-04-03T23:01:00Z;X", "RRVS=2014-04-03"),
    ],
)
def test_parameters_of_rcpt_that_are_refused(parameters: str) -> None:
    assert PARSERS[Verb.RCPT](f"TO:<a@b.test> {parameters}".encode(), HOST) == Refused(Verb.RCPT, r.BAD_PARAMETER)


# --- addresses that are not ASCII (RFC 6531)


def test_a_path_that_is_not_ascii_needs_the_parameter() -> None:
    assert str(mail("SMTPUTF8", "jürgen@bücher.test").sender) == "jürgen@xn--bcher-kva.test"
    for path in ("jürgen@b.test", "a@bücher.test"):
        assert PARSERS[Verb.MAIL](f"FROM:<{path}>".encode(), HOST) == Refused(Verb.MAIL, r.NON_ASCII_PATH)
    assert rcpt("", "jürgen@b.test").international
    assert rcpt("", "a@bücher.test").international
    assert not rcpt("", "a@xn--bcher-kva.test").international


def test_verify_with_the_parameter() -> None:
    """RFC 6531 §3.7.4.2."""
    verify = PARSERS[Verb.VRFY]
    assert verify("jürgen SMTPUTF8".encode(), HOST) == Verify("jürgen", utf8=True)
    assert verify(b"alice smtputf8", HOST) == Verify("alice", utf8=True)
    assert verify(b"SMTPUTF8", HOST) == Verify("SMTPUTF8", utf8=False)
    assert verify("jürgen".encode(), HOST) == Refused(Verb.VRFY, r.BAD_ARGUMENT)
    assert verify(b"\xff SMTPUTF8", HOST) == Refused(Verb.VRFY, r.BAD_ARGUMENT)


# --- BDAT (RFC 3030 §2)


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [
        (b"0", Chunk(0, last=False)),
        (b"0 LAST", Chunk(0, last=True)),
        (b"00012  last ", Chunk(12, last=True)),
        (b"9" * 18, Chunk(10**18 - 1, last=False)),
    ],
)
def test_chunks(argument: bytes, chunk: Chunk) -> None:
    assert PARSERS[Verb.BDAT](argument, HOST) == chunk


@pytest.mark.parametrize("argument", [b"", b"-1", b"x", b"1 LAST x", b"1LAST", b"0x10", b"1.5", b"9" * 19, b"1 \xff"])
def test_no_chunks(argument: bytes) -> None:
    assert PARSERS[Verb.BDAT](argument, HOST) == Refused(Verb.BDAT, r.BAD_CHUNK)


# --- encodings


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_xtext_there_and_back(text: str) -> None:
    assert decode_xtext(encode_xtext(text)) == text


@given(st.text(min_size=1).filter(str.isprintable))
def test_unicode_there_and_back(text: str) -> None:
    encoded = encode_unicode(text)
    assert encoded.isascii() and not set(encoded) & set(" +=")
    assert decode_unicode(encoded) == text
