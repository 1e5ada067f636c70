"""What a next hop is told of a message, and what of it can't go there: by the keywords of its EHLO."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pillarbox.core.envelope import (
    NO_MAIL_OPTIONS,
    NO_RCPT_OPTIONS,
    BodyType,
    DeliverBy,
    MailOptions,
    MessageId,
    Notify,
    RcptOptions,
    Recipient,
    Ret,
    ValidSince,
    Verp,
)
from pillarbox.core.mime import Target
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Delivered, Failed, Job, Octets, Reach, Report, Row, Unsent
from pillarbox.engine.passing_on import batches, conversion, header_fields, limit
from pillarbox.engine.transaction import Body, Convert, Transaction
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import ReplyReceived, Wait
from pillarbox.smtp.states import Verb
from tests.making import NOW, TEXT, box, make_message

HOP = "mx.far.example [192.0.2.1]"
EVERYTHING = (
    "PIPELINING",
    "SIZE 100000",
    "8BITMIME",
    "SMTPUTF8",
    "CHUNKING",
    "BINARYMIME",
    "DSN",
    "DELIVERBY",
    "MT-PRIORITY",
    "RRVS",
    "REQUIRETLS",
)
ALL_MAIL = MailOptions(Ret.HEADERS, "id=1", True, True, DeliverBy(NOW + 60.9, True, True), -2, None, "a@here.test")
ALL_RCPT = RcptOptions(
    frozenset((Notify.DELAY, Notify.SUCCESS)), "rfc822;Bob+x@far.example", ValidSince("2020-01-02T03:04:05Z", True)
)


def job(
    *to: str,
    sender: str | None = "a@here.test",
    octets: Octets = Octets.PLAIN,
    body_type: BodyType = BodyType.SEVEN_BIT,
    options: MailOptions = NO_MAIL_OPTIONS,
    of_each: RcptOptions = NO_RCPT_OPTIONS,
) -> Job:
    addresses = [box(text) for text in to or ("b@far.example",)]
    recipients = tuple(Recipient(address, address, None, of_each) for address in addresses)
    message = make_message(MessageId(1))
    envelope = message.envelope._replace(
        sender=None if sender is None else box(sender),
        recipients=recipients,
        body_type=body_type,
        options=options,
    )
    message = replace(message, envelope=envelope, octets=octets)
    return Job(message, [Row(number, recipient) for number, recipient in enumerate(recipients)], "far.example")


def connected(*keywords: str) -> ClientConnection:
    client = ClientConnection()
    hear(client, b"220 mx.far.example ESMTP\r\n")
    client.send(Verb.EHLO, "mx.example.test")
    lines = ["250-mx.far.example", *(f"250-{keyword}" for keyword in keywords), "250 HELP"]
    hear(client, "".join(f"{line}\r\n" for line in lines).encode())
    return client


def hear(client: ClientConnection, octets: bytes) -> list[ReplyReceived]:
    client.receive_data(octets)
    found = []
    while not isinstance(event := client.next_event(), Wait):
        found.append(event)
    return found


def transaction(work: Job, *keywords: str, authenticated: bool = False) -> Transaction:
    return Transaction(work, connected(*keywords), HOP, now=lambda: NOW, authenticated=authenticated)


@pytest.mark.parametrize(
    ("work", "keywords", "mail", "rcpt"),
    [
        (
            job(options=ALL_MAIL, of_each=ALL_RCPT, octets=Octets.EIGHT_BIT | Octets.UTF8_HEADER),
            EVERYTHING,
            " SIZE=37 BODY=8BITMIME SMTPUTF8 REQUIRETLS BY=60;RT MT-PRIORITY=-2 RET=HDRS ENVID=id+3D1",
            " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+2Bx@far.example RRVS=2020-01-02T03:04:05Z;R",
        ),
        (job(options=MailOptions(smtputf8=True)), EVERYTHING, " SIZE=37", ""),  # all of it is ASCII
        (job(options=MailOptions(Ret.FULL, "x", priority=0)), ("8BITMIME",), "", ""),
        (job(of_each=RcptOptions(frozenset(), "rfc822;a@b.test")), ("SIZE",), " SIZE=37", ""),
        (job(of_each=RcptOptions(frozenset())), ("DSN",), "", " NOTIFY=NEVER"),
        (job(of_each=RcptOptions(original="utf-8;ö@b.test")), ("DSN",), "", r" ORCPT=utf-8;\x{F6}@b.test"),
        (job("ö@far.example"), ("SMTPUTF8",), " SMTPUTF8", ""),
        (job("b@bücher.example"), ("8BITMIME",), "", ""),  # A-labels need nothing
        (job(octets=Octets.BINARY), ("BINARYMIME", "CHUNKING"), " BODY=BINARYMIME", ""),
        (job(body_type=BodyType.BINARY_MIME), ("BINARYMIME", "CHUNKING", "8BITMIME"), " BODY=8BITMIME", ""),
        (job(options=MailOptions(deliver_by=DeliverBy(NOW - 5, False))), ("DELIVERBY",), " BY=-5;N", ""),
        (job(options=MailOptions(deliver_by=DeliverBy(NOW - 5, False))), (), "", ""),
    ],
)
def test_what_is_told(work: Job, keywords: tuple[str, ...], mail: str, rcpt: str) -> None:
    first = transaction(work, "PIPELINING", *keywords).begin()
    assert isinstance(first, bytes)
    lines = first.decode().split("\r\n")
    assert lines[0] == f"MAIL FROM:<a@here.test>{mail}"
    assert lines[1] == f"RCPT TO:<{work.rows[0].recipient.address}>{rcpt}"


def test_a_sender_beyond_ascii_whose_return_address_is_ours_goes_to_every_server() -> None:
    """RFC 6531 §3.2 is about the reverse-path that is sent."""
    work = job(options=MailOptions(verp=Verp("returns.example.test", "00" * 16)))
    work.message.envelope = work.message.envelope._replace(sender=box("ö@here.test"))
    for keywords in ((), ("SMTPUTF8",)):
        first = transaction(work, *keywords).begin()
        assert isinstance(first, bytes) and first.startswith(b"MAIL FROM:<bounce+") and b"SMTPUTF8" not in first
    work.message.envelope = work.message.envelope._replace(options=MailOptions())
    refused = transaction(work).begin()
    assert isinstance(refused, Report) and isinstance(refused.outcomes[0], Failed)


@pytest.mark.parametrize(
    ("submitter", "parameter"), [("a@here.test", " AUTH=a@here.test"), (None, " AUTH=<>"), ("ö@x.test", " AUTH=<>")]
)
def test_who_submitted_it_is_told_where_we_have_logged_in(submitter: str | None, parameter: str) -> None:
    """RFC 4954 §5."""
    work = job(options=MailOptions(submitter=submitter))
    assert (
        transaction(work, "AUTH PLAIN", authenticated=True).begin()
        == f"MAIL FROM:<a@here.test>{parameter}\r\n".encode()
    )
    assert transaction(work, "AUTH PLAIN").begin() == b"MAIL FROM:<a@here.test>\r\n"


def test_members_of_a_list_get_another_message() -> None:
    """RFC 3461 §5.2.7.1: what the sender wanted to be told ends at the list."""
    work = job(options=MailOptions(Ret.FULL, "x"))
    row = work.rows[0]
    work.rows[0] = Row(0, row.recipient._replace(owner=box("owner@here.test")))
    assert transaction(work, "DSN").begin() == b"MAIL FROM:<owner@here.test>\r\n"


@pytest.mark.parametrize(
    ("work", "keywords", "status"),
    [
        (job(), ("SIZE 36",), "5.3.4"),
        (job(sender="ö@here.test"), ("8BITMIME",), "5.6.7"),
        (job(options=MailOptions(smtputf8=True), octets=Octets.UTF8_HEADER | Octets.EIGHT_BIT), ("8BITMIME",), "5.6.7"),
        (job(options=MailOptions(require_tls=True)), ("8BITMIME",), "5.7.30"),
        (job(options=MailOptions(deliver_by=DeliverBy(NOW + 9, True))), (), "5.3.3"),
        (job(options=MailOptions(deliver_by=DeliverBy(NOW, True))), ("DELIVERBY",), "5.4.7"),
        (job(options=MailOptions(deliver_by=DeliverBy(NOW + 0.9, True))), ("DELIVERBY",), "5.4.7"),  # BY=0;R is none
        (job(options=MailOptions(deliver_by=DeliverBy(NOW + 9, True))), ("DELIVERBY 10",), "5.4.7"),
        (job("b@far.example", "c@far.example", of_each=ALL_RCPT), ("DSN",), "5.7.19"),
        (job("ö@far.example", "ü@far.example"), (), "5.6.7"),
    ],
)
def test_what_cannot_go_there(work: Job, keywords: tuple[str, ...], status: str) -> None:
    report = transaction(work, *keywords).begin()
    assert isinstance(report, Report)
    assert len(report.outcomes) == len(work.rows)
    for outcome in report.outcomes:
        assert isinstance(outcome, Failed) and not outcome.remote
        assert outcome.status == EnhancedCode.parse(status)


def test_a_recipient_that_cannot_be_named_there_keeps_nobody_else_from_it() -> None:
    talk = transaction(job("ö@far.example", "b@far.example"), "8BITMIME")
    assert talk.begin() == b"MAIL FROM:<a@here.test>\r\n"
    client = talk._client
    for said, step in (
        (b"250 ok\r\n", b"RCPT TO:<b@far.example>\r\n"),
        (b"250 ok\r\n", b"DATA\r\n"),
        (b"354 go\r\n", Body.SEND),
    ):
        (reply,) = hear(client, said)
        assert talk.on_reply(reply) == step
    client.end_body()
    (reply,) = hear(client, b"250 taken\r\n")
    report = talk.on_reply(reply)
    assert isinstance(report, Report)
    assert [type(outcome) for outcome in report.outcomes] == [Failed, Delivered]


@pytest.mark.parametrize(
    ("octets", "keywords", "target"),
    [
        (Octets.PLAIN, {}, None),
        (Octets.EIGHT_BIT, {}, Target.SEVEN_BIT),
        (Octets.EIGHT_BIT | Octets.BINARY, {}, Target.SEVEN_BIT),
        (Octets.EIGHT_BIT, {"8BITMIME": ""}, None),
        (Octets.BINARY, {"8BITMIME": ""}, Target.EIGHT_BIT),
        (Octets.BINARY, {"8BITMIME": "", "BINARYMIME": ""}, Target.EIGHT_BIT),  # RFC 3030 §3: it needs CHUNKING
        (Octets.BINARY | Octets.EIGHT_BIT, {"8BITMIME": "", "BINARYMIME": "", "CHUNKING": ""}, None),
    ],
)
def test_what_must_be_converted(octets: Octets, keywords: dict[str, str], target: Target | None) -> None:
    assert conversion(job(octets=octets), keywords) is target
    first = transaction(job(octets=octets), *keywords).begin()
    assert first == Convert(target) if target is not None else isinstance(first, bytes)


def test_a_binary_message_goes_as_one_chunk() -> None:
    """RFC 3030 §4.2."""
    talk = transaction(job(octets=Octets.BINARY), "PIPELINING", "CHUNKING", "BINARYMIME")
    assert talk.begin() == b"MAIL FROM:<a@here.test> BODY=BINARYMIME\r\nRCPT TO:<b@far.example>\r\n"
    client = talk._client
    first, second = hear(client, b"250 ok\r\n250 ok\r\n")
    assert (talk.on_reply(first), talk.on_reply(second)) == (b"", Body.CHUNK)
    assert client.begin_chunk(talk.size) == b"BDAT 37 LAST\r\n"
    assert client.send_body(TEXT) + client.end_body() == TEXT
    (reply,) = hear(client, b"250 taken\r\n")
    assert talk.on_reply(reply) == Report((Delivered("250 taken", HOP, Reach.SILENT),))


@pytest.mark.parametrize(
    ("parameters", "name", "value"),
    [
        ("RCPTMAX=5 MAILMAX=7", "RCPTMAX", 5),
        ("RCPTMAX=5 MAILMAX=7", "MAILMAX", 7),
        ("rcptmax=5", "RCPTMAX", 5),
        ("RCPTMAX=0", "RCPTMAX", None),
        ("RCPTMAX=", "RCPTMAX", None),
        ("RCPTMAX=-1", "RCPTMAX", None),
        ("RCPTMAX=1000000", "RCPTMAX", None),
        ("XRCPTMAX=5", "RCPTMAX", None),
        ("", "RCPTMAX", None),
    ],
)
def test_limits(parameters: str, name: str, value: int | None) -> None:
    """RFC 9422 §4: values have at most six digits."""
    assert limit({"LIMITS": parameters}, name) == value


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("", [[0, 1, 2, 3, 4]]),
        ("RCPTMAX=5", [[0, 1, 2, 3, 4]]),
        ("RCPTMAX=2", [[0, 1], [2, 3], [4]]),
        ("RCPTDOMAINMAX=1", [[0, 1], [2], [3, 4]]),
        ("RCPTDOMAINMAX=1 RCPTMAX=1", [[0], [1], [2], [3], [4]]),
        ("RCPTDOMAINMAX=2", [[0, 1, 2, 3, 4]]),
    ],
)
def test_recipients_at_a_time(limits: str, expected: list[list[int]]) -> None:
    work = job("a@x.test", "b@x.test", "c@y.test", "d@x.test", "e@x.test")
    assert batches(work, [0, 1, 2, 3, 4], {"LIMITS": limits}) == expected[::-1]
    assert batches(work, [], {"LIMITS": limits}) == []


@pytest.mark.parametrize("together", [True, False])
def test_a_server_that_takes_one_at_a_time_gets_the_message_again(together: bool) -> None:
    talk = transaction(job("b@far.example", "c@far.example"), "LIMITS RCPTMAX=1", *("PIPELINING",) * together)
    client, mail = talk._client, b"MAIL FROM:<a@here.test>\r\n"
    step = talk.begin()
    for rcpt in (b"RCPT TO:<b@far.example>\r\n", b"RCPT TO:<c@far.example>\r\n"):
        assert step == (mail + rcpt + b"DATA\r\n" if together else mail)
        if together:
            replies = hear(client, b"250 ok\r\n250 ok\r\n354 go\r\n")
            assert [talk.on_reply(reply) for reply in replies] == [b"", b"", Body.SEND]
        else:
            for said, after in ((b"250 ok\r\n", rcpt), (b"250 ok\r\n", b"DATA\r\n"), (b"354 go\r\n", Body.SEND)):
                (reply,) = hear(client, said)
                assert talk.on_reply(reply) == after
        client.end_body()
        (reply,) = hear(client, b"451 later\r\n" if b"<b@" in rcpt else b"250 taken\r\n")
        step = talk.on_reply(reply)
    assert isinstance(step, Report)
    assert [str(outcome.text) for outcome in step.outcomes] == ["451 later", "250 taken"]
    assert talk.mails == 2


def test_a_full_connection_leaves_the_rest_to_another() -> None:
    """RFC 9422 §3: MAILMAX counts every MAIL, those of one message too."""
    client = connected("LIMITS RCPTMAX=1", "PIPELINING")
    talk = Transaction(job("b@x.test", "c@x.test", "d@x.test"), client, HOP, now=lambda: NOW, most_mails=2)
    step = talk.begin()
    for _ in range(2):
        assert isinstance(step, bytes)
        assert [talk.on_reply(reply) for reply in hear(client, b"250 ok\r\n250 ok\r\n354 go\r\n")][-1] is Body.SEND
        client.end_body()
        (reply,) = hear(client, b"250 taken\r\n")
        step = talk.on_reply(reply)
    assert isinstance(step, Report)
    assert [type(outcome) for outcome in step.outcomes] == [Delivered, Delivered, Unsent]


def test_what_no_extension_can_say_stands_in_the_header() -> None:
    """RFC 6758 §3, RFC 7293 §3.2."""
    since = ValidSince("2020-01-02T03:04:05Z", reject=False)
    work = job(options=MailOptions(priority=3), of_each=RcptOptions(valid_since=since))
    assert header_fields(work, {}) == (
        b"MT-Priority: 3\r\nRequire-Recipient-Valid-Since: b@far.example; Thu, 02 Jan 2020 03:04:05 +0000\r\n"
    )
    assert header_fields(work, {"MT-PRIORITY": "", "RRVS": ""}) == b""
    assert header_fields(job("b@x.test", "c@x.test", of_each=RcptOptions(valid_since=since)), {}) == b""
    assert header_fields(job(), {}) == b""
