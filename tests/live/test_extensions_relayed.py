"""Source → A → B → sink, a message with each extension's parameter: where it arrives, and what becomes of it where the
sink lacks the extension. The sinks are in relay_chain.py; each test finds its message by a subject of its own.
"""

from __future__ import annotations

import email
import email.policy
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from tests.live.relay_chain import ALICE, CAROL, Chain, chain, parameters
from tests.live.support import HOST, letters, until

ALL = (
    "PIPELINING",
    "SIZE 10000000",
    "8BITMIME",
    "SMTPUTF8",
    "CHUNKING",
    "BINARYMIME",
    "DSN",
    "DELIVERBY",
    "MT-PRIORITY",
    "RRVS",
    "REQUIRETLS",
    "STARTTLS",
    "ENHANCEDSTATUSCODES",
)
OFFERS = {
    "all": ALL,
    "nothing": (),
    "small": (*(word for word in ALL if not word.startswith("SIZE ")), "SIZE 600"),
    "few": (*ALL, "LIMITS RCPTMAX=2 MAILMAX=2"),
    "login": (*ALL, "AUTH PLAIN"),
    "hasty": (*(word for word in ALL if word != "DELIVERBY"), "DELIVERBY 1000"),
    **{f"no-{word.split()[0].lower()}": tuple(each for each in ALL if each != word) for word in ALL},
}
EIGHT_BIT = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n.\r\n..x\r\n"
PLAIN = "\r\nbody\r\n.\r\n.. dots\r\n"
SINCE = "2020-01-02T03:04:05Z"
_numbers = count(1)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chain(tmp_path_factory.mktemp("town"), OFFERS) as running:
        yield running


def text(subject: str, rest: str = PLAIN) -> bytes:
    return f"From: {ALICE}\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n{rest}".encode()


def subject_of_its_own() -> str:
    return f"number {next(_numbers)}"


# --- what arrives


@dataclass(frozen=True)
class Row:
    """`mail`, `rcpt`: what the source says. `arrives`, `at_rcpt`: what the sink hears: a value, or a test of it; None
    is no such parameter. `to`: the local part."""

    name: str
    mail: str = ""
    rcpt: str = ""
    arrives: dict[str, Expected] = field(default_factory=dict)
    at_rcpt: dict[str, Expected] = field(default_factory=dict)
    sink: str = "all"
    to: str = "bob"
    rest: str = PLAIN
    login: bool = False

    def __str__(self) -> str:
        return f"{self.name} to {self.sink}"


Expected = str | Callable[[str], bool] | None


def counted_down(mode: str) -> Callable[[str], bool]:
    """120 s at the source, a part of a second less at each hop: whole seconds, so one each at the least."""

    def test(value: str) -> bool:
        seconds, _, rest = value.partition(";")
        return 90 <= int(seconds) <= 118 and rest == mode

    return test


EVERYTHING = "BODY=8BITMIME RET=HDRS ENVID=QQ+2B314 BY=120;RT MT-PRIORITY=3 REQUIRETLS SMTPUTF8"
ROWS = (
    Row("SIZE", "SIZE=500", arrives={"SIZE": str.isdecimal}),
    Row("SIZE", "SIZE=500", arrives={"SIZE": None}, sink="no-size"),
    Row("nothing", arrives={"BODY": None, "RET": None, "BY": None, "MT-PRIORITY": None, "SMTPUTF8": None}),
    Row("8BITMIME", "BODY=8BITMIME", arrives={"BODY": "8BITMIME"}, rest=EIGHT_BIT),
    Row("8BITMIME of 7 bits", "BODY=8BITMIME", arrives={"BODY": None}, sink="no-8bitmime"),
    Row("RET=FULL", "RET=FULL", arrives={"RET": "FULL", "ENVID": None}),
    Row("RET=HDRS", "RET=hdrs", arrives={"RET": "HDRS"}),
    Row("ENVID", "ENVID=QQ+2B3+3D14", arrives={"ENVID": "QQ+2B3+3D14"}),
    Row("NOTIFY", rcpt="NOTIFY=DELAY,SUCCESS", at_rcpt={"NOTIFY": "SUCCESS,DELAY"}),
    Row("NOTIFY=NEVER", rcpt="NOTIFY=never", at_rcpt={"NOTIFY": "NEVER"}),
    Row("NOTIFY=FAILURE", rcpt="NOTIFY=FAILURE", at_rcpt={"NOTIFY": "FAILURE", "ORCPT": None}),
    Row("ORCPT", rcpt="ORCPT=rfc822;Bob+2Bx@far.test", at_rcpt={"ORCPT": "rfc822;Bob+2Bx@far.test"}),
    Row(
        "ORCPT in Unicode",
        "SMTPUTF8",
        r"ORCPT=utf-8;b\x{F6}b+x@far.test",
        at_rcpt={"ORCPT": r"utf-8;b\x{F6}b\x{2B}x@far.test"},
    ),
    Row(
        "ORCPT as Postfix says it",
        "SMTPUTF8",
        "ORCPT=rfc822;j+C3+B6rg@far.test",
        at_rcpt={"ORCPT": r"utf-8;j\x{F6}rg@far.test"},
    ),
    Row("ORCPT in UTF-8", "SMTPUTF8", "ORCPT=utf-8;böb@far.test", at_rcpt={"ORCPT": r"utf-8;b\x{F6}b@far.test"}),
    Row("no DSN", "RET=FULL ENVID=x", "NOTIFY=NEVER", {"RET": None, "ENVID": None}, {"NOTIFY": None}, "no-dsn"),
    Row("REQUIRETLS", "REQUIRETLS", arrives={"REQUIRETLS": ""}),
    Row("BY=N", "BY=120;N", arrives={"BY": counted_down("N")}),
    Row("BY=R", "BY=120;R", arrives={"BY": counted_down("R")}),
    Row("BY=RT", "BY=120;rt", "NOTIFY=NEVER", arrives={"BY": counted_down("RT")}),
    Row("BY=N", "BY=120;N", "NOTIFY=NEVER", arrives={"BY": None}, sink="no-deliverby"),
    Row("BY=N", "BY=120;N", arrives={"BY": counted_down("N")}, sink="hasty"),
    Row("lower priority", "MT-PRIORITY=-4", arrives={"MT-PRIORITY": "-4"}),
    Row("priority of who may", "MT-PRIORITY=5", arrives={"MT-PRIORITY": "5"}, login=True),
    Row("priority of who may not", "MT-PRIORITY=5", arrives={"MT-PRIORITY": "0"}),
    Row("priority 0", "MT-PRIORITY=0", arrives={"MT-PRIORITY": "0"}),
    Row("RRVS", rcpt=f"RRVS={SINCE};C", at_rcpt={"RRVS": f"{SINCE};C"}),
    Row("RRVS=R", rcpt=f"RRVS={SINCE};R", at_rcpt={"RRVS": f"{SINCE};R"}),
    Row("SMTPUTF8 local part", "SMTPUTF8", arrives={"SMTPUTF8": ""}, to="böb"),
    Row("SMTPUTF8 header", "SMTPUTF8", arrives={"SMTPUTF8": "", "BODY": "8BITMIME"}, rest="To: Grüße\r\n" + PLAIN),
    Row("SMTPUTF8 for nothing", "SMTPUTF8", arrives={"SMTPUTF8": None}, sink="no-smtputf8"),
    Row(
        "everything, to a sink without anything",
        "BODY=8BITMIME RET=HDRS ENVID=x BY=120;N MT-PRIORITY=-1 SMTPUTF8",
        "NOTIFY=NEVER ORCPT=rfc822;x@y.test",
        sink="nothing",
    ),
    Row(
        "everything",
        EVERYTHING,
        f"NOTIFY=FAILURE,DELAY ORCPT=rfc822;b@far.test RRVS={SINCE};C",
        {
            "SIZE": str.isdecimal,
            "BODY": "8BITMIME",
            "RET": "HDRS",
            "ENVID": "QQ+2B314",
            "BY": counted_down("RT"),
            "MT-PRIORITY": "3",
            "REQUIRETLS": "",
            "SMTPUTF8": "",
        },
        {"NOTIFY": "FAILURE,DELAY", "ORCPT": "rfc822;b@far.test", "RRVS": f"{SINCE};C"},
        to="böb",
        rest=EIGHT_BIT,
        login=True,
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_arrives(town: Chain, row: Row) -> None:
    about = subject_of_its_own()
    with town.source(login=row.login) as source:
        source.envelope(f"{row.to}@{row.sink}.test", mail=row.mail, rcpt=row.rcpt)
        source.text(text(about, row.rest))
    letter = town.letter(row.sink, about)
    of_mail, of_rcpt = parameters(letter.mail), parameters(letter.rcpt[0])
    if row.sink == "nothing":
        assert (of_mail, of_rcpt) == ({}, {})
    for expected, heard in ((row.arrives, of_mail), (row.at_rcpt, of_rcpt)):
        for keyword, value in expected.items():
            found = heard.get(keyword)
            assert value(found or "") if callable(value) else found == value, (keyword, found)
    if "SIZE" in of_mail:
        assert int(of_mail["SIZE"]) == len(letter.text)  # RFC 1870 §6.1
    assert letter.text.endswith(text(about, row.rest)), "the text is as it was"
    assert letter.secure is ("STARTTLS" in OFFERS[row.sink])
    unknown = set(of_mail) - {"SIZE", "BODY"} - set(row.arrives)
    assert not unknown, "nothing was made up"


def test_a_domain_in_unicode(town: Chain) -> None:
    """It goes as A-labels, which every hop knows; the local part as it was."""
    about = subject_of_its_own()
    with town.source(login=True) as source:
        source.envelope("böb@grüße.all.test", mail="SMTPUTF8")
        source.text(text(about))
    letter = town.letter("all", about)
    assert letter.recipients == ["böb@xn--gre-6ka8l.all.test".encode()] and "SMTPUTF8" in parameters(letter.mail)


# --- what can't go there comes back


@dataclass(frozen=True)
class Bounce:
    sink: str
    status: str
    mail: str = ""
    rcpt: str = ""
    to: str = "bob"
    rest: str = PLAIN

    def __str__(self) -> str:
        return f"{self.mail or self.rcpt or self.status} to {self.sink}"


BOUNCES = (
    Bounce("small", "5.3.4", rest="\r\n" + "too large for it\r\n" * 40),
    Bounce("no-smtputf8", "5.6.7", "SMTPUTF8", to="böb"),
    Bounce("no-smtputf8", "5.6.7", "SMTPUTF8", rest="To: Grüße\r\n" + PLAIN),
    Bounce("no-requiretls", "5.7.30", "REQUIRETLS RET=FULL"),
    Bounce("no-deliverby", "5.3.3", "BY=120;R"),
    Bounce("hasty", "5.4.7", "BY=120;R"),
    Bounce("no-rrvs", "5.7.19", rcpt=f"RRVS={SINCE};R"),
)


@pytest.mark.parametrize("row", BOUNCES, ids=str)
def test_what_comes_back(town: Chain, row: Bounce) -> None:
    about = subject_of_its_own()
    with town.source(login=True) as source:
        source.envelope(f"{row.to}@{row.sink}.test", mail=f"{row.mail} ENVID=its+2Bid".strip(), rcpt=row.rcpt)
        source.text(text(about, row.rest))
    notice = town.notice(about)
    assert notice.startswith(b"Return-Path: <>\n")
    of_message, recipient = status(notice)
    assert (recipient["Action"], recipient["Status"]) == ("failed", row.status)
    assert of_message["Original-Envelope-Id"] == "its+id"  # RFC 3464 §2.2.1: decoded
    if "REQUIRETLS" in row.mail:  # RFC 8689 §5: whatever RET said
        assert b"Content-Type: text/rfc822-headers" in notice and b"dots" not in notice
    assert not [each for each in town.sinks[row.sink].letters if about.encode() in each.text]


def status(notice: bytes) -> tuple[Any, Any]:
    """The two groups of it, each as a header section."""
    parsed: Any = email.message_from_bytes(notice, policy=email.policy.default)
    _, found, _ = parsed.iter_parts()
    if found.get_content_type() == "message/delivery-status":
        of_message, recipient = found.get_payload()
    else:  # message/global-delivery-status (RFC 6533 §4), which the library does not know
        (of_message,) = found.get_payload()
        recipient = email.message_from_string(of_message.get_payload(), policy=email.policy.default)
    return of_message, recipient


def test_a_recipient_that_cannot_be_named_there_keeps_nobody_else_from_it(town: Chain) -> None:
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope(["carol@no-smtputf8.test", "böb@no-smtputf8.test"], mail="SMTPUTF8")
        source.text(text(about))
    assert town.letter("no-smtputf8", about).recipients == [b"carol@no-smtputf8.test"]
    assert status(town.notice(about))[1]["Status"] == "5.6.7"


def test_mail_that_must_go_by_tls_goes_to_nobody_in_clear(town: Chain) -> None:
    """RFC 8689 §4.2.1."""
    about = subject_of_its_own()
    with town.source(login=True) as source:
        source.envelope("bob@no-starttls.test", mail="REQUIRETLS")
        source.text(text(about))
    assert status(town.notice(about))[1]["Status"] == "5.7.10"
    assert not town.sinks["no-starttls"].letters


# --- what no parameter says is told to the sender, or stands in the header


@pytest.mark.parametrize(
    ("sink", "mail", "rcpt"),
    [
        ("no-dsn", "ENVID=e1", "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;First@far.test"),
        ("no-deliverby", "ENVID=e1 BY=120;N", "ORCPT=rfc822;First@far.test"),
        ("all", "ENVID=e1 BY=120;RT", "ORCPT=rfc822;First@far.test"),
    ],
)
def test_a_relay_is_told_of(town: Chain, sink: str, mail: str, rcpt: str) -> None:
    """RFC 3461 §5.2.2, RFC 2852 §4.1.4: behind the last hop that could have told more; with T behind each hop."""
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope(f"bob@{sink}.test", mail=mail, rcpt=rcpt)
        source.text(text(about))
    town.letter(sink, about)
    of_message, recipient = status(town.notice(about))
    assert (recipient["Action"], recipient["Status"]) == ("relayed", "2.0.0")
    assert recipient["Original-Recipient"] == "rfc822;First@far.test" and of_message["Original-Envelope-Id"] == "e1"


def test_a_success_is_left_to_the_sink_that_tells_of_it(town: Chain) -> None:
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope("bob@all.test", rcpt="NOTIFY=SUCCESS")
        source.text(text(about))
    town.letter("all", about)
    until(lambda: town.b.call("queue_count", where="domain=all.test")["count"] == 0, what="it is settled")
    assert town.notices(about) == []


@pytest.mark.parametrize(
    ("sink", "mail", "rcpt", "line"),
    [
        ("no-mt-priority", "MT-PRIORITY=-3", "", b"MT-Priority: -3\r\n"),
        (
            "no-rrvs",
            "",
            f"RRVS={SINCE};C",
            b"Require-Recipient-Valid-Since: bob@no-rrvs.test; Thu, 02 Jan 2020 03:04:05 +0000\r\n",
        ),
    ],
)
def test_what_stands_in_the_header(town: Chain, sink: str, mail: str, rcpt: str, line: bytes) -> None:
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope(f"bob@{sink}.test", mail=mail, rcpt=rcpt)
        source.text(text(about))
    letter = town.letter(sink, about)
    assert letter.text.startswith(line) and letter.text.count(line) == 1
    assert parameters(letter.mail)["SIZE"] == str(len(letter.text))


def test_whoever_may_not_raise_the_priority_is_told_so(town: Chain) -> None:
    """RFC 6710 §4.1."""
    with town.source() as stranger, town.source(login=True) as known:
        assert "2.3.6" in stranger.envelope("bob@all.test", mail="MT-PRIORITY=5")
        stranger.rset()
        assert "2.3.6" not in stranger.envelope("bob@all.test", mail="MT-PRIORITY=-5")
        assert "2.3.6" not in known.envelope("bob@all.test", mail="MT-PRIORITY=5")


def test_the_header_that_asks_for_no_tls_passes_unchanged(town: Chain) -> None:
    """RFC 8689 §3."""
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope("bob@all.test")
        source.text(text(about, "TLS-Required: No\r\n" + PLAIN))
    letter = town.letter("all", about)
    assert b"\r\nTLS-Required: No\r\n" in letter.text and "REQUIRETLS" not in parameters(letter.mail)


# --- octets that only BDAT can carry, and 8-bit ones

PIECE = b"\0\r\n\r\r\n\n.\r\n..\r\n\xff\0 bare \r cr, bare \n lf, end\r"
BINARY = (
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n'
    b"Content-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n.\r\n"
    b"--b\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Transfer-Encoding: binary\r\n\r\n" + PIECE + b"\r\n--b--\r\n"
)


def parts(octets: bytes) -> list[bytes]:
    """Of a message, decoded by a library that is not ours."""
    found = [part.get_payload(decode=True) for part in email.message_from_bytes(octets).walk()]
    return [part for part in found if isinstance(part, bytes)]


BINARY_SINKS = {
    "all": "BINARYMIME",
    "no-pipelining": "BINARYMIME",
    "no-binarymime": "8BITMIME",
    "no-chunking": "8BITMIME",
    "no-8bitmime": None,
    "nothing": None,
}


@pytest.mark.parametrize("sink", BINARY_SINKS)
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_binary_message(town: Chain, sink: str, large: bool) -> None:
    about = subject_of_its_own()
    sent = text(about, "")[:-2] + b"\r\n" + (BINARY.replace(PIECE, PIECE * 9000) if large else BINARY)
    with town.source() as source:
        source.envelope(f"bob@{sink}.test", mail="BODY=BINARYMIME")
        source.text(sent, chunked=True)
    letter = town.letter(sink, about)
    body = parameters(letter.mail).get("BODY")
    assert body == BINARY_SINKS[sink]
    assert (b"\0" in letter.text) is bool(letter.chunks) is (body == "BINARYMIME")
    if body == "BINARYMIME":
        assert letter.text.endswith(sent)
    if body is None:
        assert letter.text.isascii()
    first, second = parts(letter.text)
    assert first.strip() == "Grüße\r\n.".encode() and second == (PIECE * 9000 if large else PIECE)
    assert not town.sinks[sink].bare


@pytest.mark.parametrize("sink", ["no-8bitmime", "nothing", "no-pipelining"])
def test_an_8_bit_message(town: Chain, sink: str) -> None:
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope(f"bob@{sink}.test", mail="BODY=8BITMIME")
        source.text(text(about, EIGHT_BIT))
    letter = town.letter(sink, about)
    assert letter.text.isascii() is (sink != "no-pipelining")
    (found,) = parts(letter.text)
    assert found.decode() == "Grüße\r\n.\r\n..x\r\n"


def test_a_sink_without_pipelining_is_never_hurried(town: Chain) -> None:
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope([f"b{number}@no-pipelining.test" for number in range(5)])
        source.text(text(about))
        source.envelope([f"b{number}@all.test" for number in range(5)])
        source.text(text(about))
    for sink, hurried in (("no-pipelining", False), ("all", True)):
        assert len(town.letter(sink, about).recipients) == 5
        assert bool(sum(each.pipelined for each in town.sinks[sink].connections)) is hurried


# --- as many as the sink takes (RFC 9422)


def test_recipients_and_messages_at_a_time(town: Chain) -> None:
    abouts = [subject_of_its_own() for _ in range(5)]
    with town.source() as source:
        for about in abouts:
            source.envelope([f"b{number}@few.test" for number in range(5)])
            source.text(text(about))
    for about in abouts:
        found = town.letters("few", about, 3)
        assert max(len(each.recipients) for each in found) == 2
        assert sorted(each for letter in found for each in letter.recipients) == [b"b%d@few.test" % n for n in range(5)]
    assert max(len(each.letters) for each in town.sinks["few"].connections) == 2


# --- who it is from (RFC 4954 §5)


@pytest.mark.parametrize("said", ["", "AUTH=carol+40work.test", "AUTH=<>"])
def test_who_submitted_it_is_told_where_we_log_in(town: Chain, said: str) -> None:
    """B believes nobody who tells it, and so tells the sink that it does not know."""
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope("bob@login.test", mail=said)
        source.text(text(about))
    assert parameters(town.letter("login", about).mail)["AUTH"] == "<>"


def test_nobody_is_told_who_submitted_it_without_a_login(town: Chain) -> None:
    about = subject_of_its_own()
    with town.source() as source:
        source.envelope("bob@all.test", mail="AUTH=carol+40work.test")
        source.text(text(about))
    assert "AUTH" not in parameters(town.letter("all", about).mail)


# --- not before (RFC 4865)


@pytest.mark.parametrize("until_when", [False, True], ids=["HOLDFOR", "HOLDUNTIL"])
def test_a_message_for_later(town: Chain, until_when: bool) -> None:
    about = subject_of_its_own()
    release = int(time.time()) + 3
    with town.source(login=True, listener="submission") as source:
        assert "FUTURERELEASE" in source.esmtp_features or b"FUTURERELEASE" in (source.ehlo_resp or b"")
        parameter = (
            f"HOLDUNTIL={datetime.fromtimestamp(release, UTC):%Y-%m-%dT%H:%M:%SZ}" if until_when else "HOLDFOR=2"
        )
        before = time.time()
        source.envelope("bob@all.test", mail=parameter, sender=CAROL)
        source.text(text(about))
    letter = town.letter("all", about)
    assert letter.at >= (release if until_when else before + 2)
    assert not {"HOLDFOR", "HOLDUNTIL"} & set(parameters(letter.mail))


def test_only_a_listener_for_submission_takes_mail_for_later(town: Chain) -> None:
    with town.source(login=True) as source:
        assert b"FUTURERELEASE" not in (source.ehlo_resp or b"")
        assert source.docmd(f"MAIL FROM:<{ALICE}> HOLDFOR=2")[0] == 555


# --- what a Received field says (RFC 3848, RFC 6531 §4.3)


@pytest.mark.parametrize(
    ("tls", "login", "mail", "listener", "first", "second"),
    [
        (False, False, "", "mx", "ESMTP", "ESMTPS"),
        (True, False, "", "mx", "ESMTPS", "ESMTPS"),
        (False, True, "", "mx", "ESMTPA", "ESMTPS"),
        (True, True, "", "mx", "ESMTPSA", "ESMTPS"),
        (True, True, "", "submission", "ESMTPSA", "ESMTPS"),
        (False, False, "SMTPUTF8", "mx", "UTF8SMTP", "UTF8SMTPS"),
        (True, False, "SMTPUTF8", "mx", "UTF8SMTPS", "UTF8SMTPS"),
        (False, True, "SMTPUTF8", "mx", "UTF8SMTPA", "UTF8SMTPS"),
        (True, True, "SMTPUTF8", "mx", "UTF8SMTPSA", "UTF8SMTPS"),
        (False, False, "HELO", "mx", "SMTP", "ESMTPS"),
    ],
)
def test_how_it_came(town: Chain, *, tls: bool, login: bool, mail: str, listener: str, first: str, second: str) -> None:
    about = subject_of_its_own()
    sender = CAROL if listener == "submission" else ALICE
    with town.source(tls=tls, login=login, listener=listener) as source:
        if mail == "HELO":
            source.helo("source.example")
        source.envelope("bob@all.test", mail=mail.removeprefix("HELO"), sender=sender)
        source.text(text(about, "To: Grüße\r\n" + PLAIN if mail == "SMTPUTF8" else PLAIN))
    header = town.letter("all", about).text.replace(b"\r\n\t", b" ").split(b"\r\n")
    received = [line.decode() for line in header if line.startswith(b"Received: ")]
    assert [re.search(r" with (\S+) id ", line)[1] for line in received] == [second, first]  # type: ignore[index]
    assert f"from source.example ([{HOST}]) by a.mx.test" in received[1]
    assert f"from a.mx.test ([{HOST}]) by b.mx.test" in received[0]


@pytest.mark.parametrize(
    ("tls", "login", "mail", "keyword"),
    [
        (True, True, "", "LMTPSA"),
        (False, False, "SMTPUTF8", "UTF8LMTP"),
        (True, False, "SMTPUTF8", "UTF8LMTPS"),
        (False, True, "SMTPUTF8", "UTF8LMTPA"),
        (True, True, "SMTPUTF8", "UTF8LMTPSA"),
    ],
)
def test_how_it_came_by_lmtp(town: Chain, *, tls: bool, login: bool, mail: str, keyword: str) -> None:
    about = subject_of_its_own()
    with town.source(tls=tls, login=login, listener="local") as source:
        source.envelope(CAROL, mail=mail)
        source.text(text(about))

    def found() -> list[bytes]:
        return [letter for letter in letters(town.a, CAROL) if f"Subject: {about}\n".encode() in letter]

    (letter,) = until(found, what=f"{about} for {CAROL}")
    assert f" with {keyword} id ".encode() in letter
