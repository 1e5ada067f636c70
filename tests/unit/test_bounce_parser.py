"""What came back, read from its octets: reports, the unlike forms, replies of machines, and whatever else arrives."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.core.bounce import Nature, Returned
from pillarbox.core.bounce_class import classify
from pillarbox.core.bounce_mime import MAX_PARTS, MAX_READ, parts
from pillarbox.core.bounce_parser import parse
from pillarbox.core.bounce_report import MAX_RECIPIENTS
from pillarbox.core.reply import EnhancedCode

A = "a@far.example"


def _mail(body: str, *fields: str) -> bytes:
    return "\r\n".join((*fields, "", *body.split("\n"))).encode()


def _report(groups: str, *, kind: str = "message/delivery-status", returned: str = "", encoding: str = "") -> bytes:
    told = "--B\nContent-Type: text/plain\n\nSorry: 550 5.4.1 in words\n"
    encoded = f"\nContent-Transfer-Encoding: {encoding}" if encoding else ""
    body = f"{told}--B\nContent-Type: {kind}{encoded}\n\n{groups}\n{returned}--B--\n"
    return _mail(body, 'Content-Type: multipart/report; report-type=delivery-status; boundary="B"')


GROUP = f"Final-Recipient: rfc822;{A}\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 unknown\n"
FIRST = "Reporting-MTA: dns; mx.far.example\nOriginal-Envelope-Id: QQ314159\n\n"
RETURNED = "--B\nContent-Type: message/rfc822\n\nMessage-ID: <one@here.example>\nSubject: x\n\nhello\n"


# --- RFC 3464


def test_a_report_is_read() -> None:
    found = parse(_report(FIRST + GROUP + "Remote-MTA: dns; Inner.far.example\n", returned=RETURNED))
    (said,) = found.recipients
    assert (found.nature, found.form, found.envelope_id, found.message_id) == (
        Nature.BOUNCE,
        "report",
        "QQ314159",
        "one@here.example",
    )
    assert (said.address, said.status, said.text) == (A, EnhancedCode(5, 1, 1), "550 5.1.1 unknown")
    assert said.remote == "inner.far.example"


@pytest.mark.parametrize(
    ("groups", "nature", "status"),
    [
        (GROUP, Nature.BOUNCE, "5.1.1"),  # no group for the message
        (FIRST + GROUP.replace("Action: failed\n", ""), Nature.BOUNCE, "5.1.1"),
        (FIRST + GROUP.replace("failed", "delayed").replace("5.1.1", "4.4.1"), Nature.DELAY, "4.4.1"),
        (FIRST + GROUP.replace("failed", "FAILED (gave up)"), Nature.BOUNCE, "5.1.1"),
        *[
            (FIRST + GROUP.replace("failed", word), Nature.SUCCESS, "5.1.1")
            for word in ("delivered", "relayed", "expanded")
        ],
        (FIRST + f"Final-Recipient: rfc822;{A}\nStatus: 4.4.7\n", Nature.DELAY, "4.4.7"),
        (FIRST + f"Final-Recipient: rfc822;{A}\nAction: failed\nStatus: 4.4.7 (expired)\n", Nature.BOUNCE, "4.4.7"),
        (FIRST + f"Original-Recipient: rfc822;{A}\nAction: failed\n", Nature.BOUNCE, None),
        (FIRST + f"Final-Recipient: rfc822;{A}\nAction: failed\nStatus: none\n", Nature.BOUNCE, None),
        (
            FIRST + f"Final-Recipient: {A}\nAction: failed\nStatus: 5.0.0\nDiagnostic-Code: 550 #5.1.1\n",
            Nature.BOUNCE,
            "5.1.1",
        ),
        (FIRST + f"X-Postfix-Queue-ID: 1\n\n\n\n{GROUP}", Nature.BOUNCE, "5.1.1"),
        (
            FIRST + f"Final-Recipient: rfc822;\n <{A}>\nAction:\n failed\nStatus: 5.1.1\n",
            Nature.BOUNCE,
            "5.1.1",
        ),  # folded
    ],
)
def test_a_report_may_be_loose(groups: str, nature: Nature, status: str | None) -> None:
    found = parse(_report(groups))
    (said,) = found.recipients
    assert (found.nature, said.nature, said.address) == (nature, nature, A)
    assert said.status == (None if status is None else EnhancedCode.parse(status))


def test_a_report_names_several() -> None:
    found = parse(_report(FIRST + GROUP.replace("failed", "delayed") + "\n" + GROUP.replace(A, "B@far.example")))
    assert [said.address for said in found.recipients] == [A, "B@far.example"] and found.nature is Nature.BOUNCE
    about = found.about("b@FAR.example")
    assert about is not None and about.address == "B@far.example"
    assert (other := found.about("c@far.example")) is not None and other.nature is Nature.BOUNCE  # the failure first
    assert Returned(Nature.OTHER, "letter").about(A) is None


@pytest.mark.parametrize("kind", ["message/global-delivery-status", "MESSAGE/Delivery-Status; charset=utf-8"])
def test_a_report_may_be_of_another_kind(kind: str) -> None:
    assert parse(_report(FIRST + GROUP, kind=kind)).recipients[0].address == A


def test_a_report_may_be_encoded() -> None:
    octets = base64.encodebytes((FIRST + GROUP).encode()).decode()
    assert parse(_report(octets, encoding="base64")).recipients[0].address == A
    assert parse(_report(FIRST + GROUP.replace("=", "=3D"), encoding="quoted-printable")).recipients[0].address == A


def test_a_report_inside_another_message_is_found() -> None:
    inner = _report(FIRST + GROUP).decode().replace("\r\n", "\n")
    found = parse(
        _mail(f"--C\nContent-Type: message/rfc822\n\n{inner}\n--C--\n", "Content-Type: multipart/mixed; boundary=C")
    )
    assert found.form == "report" and found.recipients[0].address == A


def test_recipients_of_a_report_have_a_bound() -> None:
    groups = "\n".join(GROUP.replace("a@", f"u{number}@") for number in range(MAX_RECIPIENTS + 50))
    assert len(parse(_report(FIRST + groups)).recipients) == MAX_RECIPIENTS


# --- the unlike forms


@dataclass(frozen=True)
class Form:
    name: str
    text: str
    fields: tuple[str, ...] = ()
    status: str = ""
    klass: str = "hard"
    nature: Nature = Nature.BOUNCE
    address: str = A


FORMS = (
    Form(
        "qmail",
        "Hi. This is the qmail-send program at mx.far.example.\nI'm afraid I wasn't able to deliver your "
        "message to the "
        f"following addresses.\n\n<{A}>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this "
        f"line is a copy of "
        "the message.\n\nReturn-Path: <x@here.example>\n",
        status="5.1.1",
    ),
    Form(
        "exim",
        "This message was created automatically by mail delivery software.\n\nA message that you sent could "
        "not be delivered "
        f"to one or more of its\nrecipients. This is a permanent error.\n\n  {A}\n    host mx.far.example "
        f"[192.0.2.1]\n    "
        "SMTP error from remote mail server after RCPT TO:<a@far.example>:\n    550 unknown user\n",
        (f"X-Failed-Recipients: {A}", "Auto-Submitted: auto-replied"),
    ),
    Form(
        "exim",
        "This message was created automatically by mail delivery software.\nA message that you sent has not yet been "
        f"delivered to one or more of its\nrecipients after more than 24 hours.\n\n  {A}\n    host mx.far.example "
        "[192.0.2.1]: 451 4.7.1 greylisted\n\nNo action is required on your part.\n",
        status="4.7.1",
        klass="greylisted",
        nature=Nature.DELAY,
    ),
    Form(
        "sendmail",
        f"   ----- The following addresses had permanent fatal errors -----\n<{A}>\n    (reason: 552 5.2.2 "
        f"over quota)\n\n"
        f"   ----- Transcript of session follows -----\n... while talking to mx.far.example.:\n>>> RCPT To:<{A}>\n"
        f"<<< 552 5.2.2 over quota\n554 5.0.0 <{A}>... no\n",
        status="5.2.2",
        klass="mailbox_full",
    ),
    Form(
        "exchange",
        "Die Nachricht konnte folgenden Empfängern nicht zugestellt werden:\n\n"
        + A
        + "\nDie eingegebene Adresse konnte "
        "nicht gefunden werden.\n\nDiagnoseinformationen für Administratoren:\n\nGenerierender Server: "
        "x.far.example\n\n"
        f"{A}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n",
        status="5.1.1",
    ),
    Form(
        "exchange",
        "Your message did not reach some or all of the intended recipients.\n\nThe following recipient(s) "
        "could not be "
        f"reached:\n\n      {A} on 1.2.2026 12:00\n            The e-mail account does not exist at the "
        f"organization this "
        "message was sent to.\n            < mx.far.example #5.1.1 smtp;550 5.1.1 unknown>\n",
        ("Subject: Undeliverable: hello",),
        status="5.1.1",
    ),
    Form(
        "gmail",
        f"Delivery to the following recipient failed permanently:\n\n     {A}\n\nTechnical details of "
        f"permanent failure:\n"
        "Google tried to deliver your message, but it was rejected. The error that the other server returned was:\n"
        "550 5.7.1 Message rejected as spam\n\n----- Original message -----\n\nMessage-ID: <one@here.example>\n",
        status="5.7.1",
        klass="spam",
    ),
    Form(
        "domino",
        f"Your message\n\n  Subject: hello\n\nwas not delivered to:\n\n  {A}\n\nbecause:\n\n  User a ({A}) "
        f"not listed in "
        "Domino Directory\n",
        ("Subject: DELIVERY FAILURE: User a not listed in Domino Directory",),
    ),
    Form(
        "yahoo",
        "Message from far.example.\nUnable to deliver message to the following address(es).\n\n"
        f"<{A}>:\n192.0.2.1 failed after I sent the message.\nRemote host said: 554 5.7.9 Message not accepted\n",
        status="5.7.9",
        klass="auth",
    ),
    Form(
        "postfix",
        "This is the mail system at host mx.far.example.\n\nI'm sorry to have to inform you that your "
        "message could not\n"
        f"be delivered.\n\n<{A}>: host inner[192.0.2.1] said: 550 5.1.1 <{A}>:\n    unknown user (in reply "
        f"to RCPT TO "
        "command)\n",
        status="5.1.1",
    ),
    Form(
        "text",
        f"Le message suivant n'a pas pu être remis.\n\n{A}: 550 5.1.1 utilisateur inconnu\n",
        ("From: Mail Delivery System <mailer-daemon@far.example>", "Subject: Non remis"),
        status="5.1.1",
    ),
    Form("text", "550 5.1.1 nobody of that name here\n", status="5.1.1", address=""),
)


@pytest.mark.parametrize("form", FORMS, ids=[f"{form.name}-{number}" for number, form in enumerate(FORMS)])
def test_an_unlike_form_is_read(form: Form) -> None:
    found = parse(_mail(form.text, *form.fields))
    said = found.about(A)
    assert said is not None
    assert (found.form, found.nature, said.address) == (form.name, form.nature, form.address)
    assert str(said.status or "") == form.status
    assert classify(said.status, said.text).value == form.klass, said.text


def test_html_alone_is_read() -> None:
    text = f"<html><style>p {{}}</style><p>Your message to</p><p>{A}</p><p>550&nbsp;5.1.1 unknown</p></html>"
    found = parse(_mail(text, "Content-Type: text/html", "Subject: Undeliverable: x"))
    assert found.recipients[0].address == A and found.recipients[0].status == EnhancedCode(5, 1, 1)


def test_the_message_id_stands_in_the_copy() -> None:
    assert parse(_mail(FORMS[6].text)).message_id == "one@here.example"


# --- what is no bounce


@pytest.mark.parametrize(
    ("fields", "body", "nature"),
    [
        (("Auto-Submitted: auto-replied", "Subject: Re: hello"), "I am away.", Nature.AUTO_REPLY),
        (("Auto-Submitted: auto-replied (vacation)", "Subject: x"), "until 2026", Nature.AUTO_REPLY),
        (("Precedence: auto_reply",), "I am away. My number is 555 12 34.", Nature.AUTO_REPLY),
        (("X-Autoreply: yes",), "I am away.", Nature.AUTO_REPLY),
        (("Subject: Out of Office: hello",), "I am away.", Nature.AUTO_REPLY),
        (("Subject: Automatische Antwort: hello",), "Bin nicht da.", Nature.AUTO_REPLY),
        (("Subject: Please confirm",), "Challenge-response: confirm that you are human", Nature.CHALLENGE),
        (("X-Delivery-Agent: TMDA/1.1",), "please confirm", Nature.CHALLENGE),
        (("From: bob@far.example", "Subject: Re: hello"), "Thanks!", Nature.OTHER),
        ((), "", Nature.OTHER),
    ],
)
def test_what_is_no_bounce(fields: tuple[str, ...], body: str, nature: Nature) -> None:
    assert parse(_mail(body, *fields)).nature is nature
    assert parse(_mail(body, *fields), null_sender=False).nature is nature


def test_a_letter_that_quotes_a_reply_is_a_bounce_only_without_a_sender() -> None:
    letter = _mail("The server told me: 550 5.1.1 unknown user. What now?", "From: bob@far.example", "Subject: help")
    assert parse(letter, null_sender=False).nature is Nature.OTHER
    assert parse(letter).nature is Nature.BOUNCE


# --- hostile input


def test_depth_parts_and_octets_have_bounds() -> None:
    deep = b"".join(b"Content-Type: message/rfc822\r\n\r\n" for _ in range(20_000))
    assert len(parts(deep)) < 20
    wide = b"Content-Type: multipart/mixed; boundary=B\r\n\r\n" + b"--B\r\n\r\nx\r\n" * 20_000
    assert len(parts(wide)) <= MAX_PARTS
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\n" for _ in range(20_000))
    assert len(parts(nested)) <= MAX_PARTS
    assert parse(b"Subject: " + b"(" * MAX_READ).nature is Nature.OTHER


_WORDS = st.sampled_from(
    [
        b"Content-Type: multipart/report; boundary=B\r\n",
        b"Content-Type: message/delivery-status\r\n",
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: text/html\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"--B\r\n",
        b"--B--\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Final-Recipient: rfc822; a@b\r\n",
        b"Action: failed\r\n",
        b"Status: 5.999999.1\r\n",
        b"Diagnostic-Code: smtp; \xff\x00 5.1.1\r\n",
        b"X-Failed-Recipients: a@b,,@,c@d\r\n",
        b"<a@b.example>:\r\n",
        b"550 <a@b.example>... no\r\n",
        b"Hi. This is the qmail-send program\r\n",
        b"=?utf-8?b?!!!?=",
        b"<" * 50,
        b"a@" * 50,
        b" " * 200,
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_WORDS | st.binary(max_size=40), max_size=60), st.booleans())
def test_nothing_raises(pieces: list[bytes], null: bool) -> None:
    found = parse(b"".join(pieces), null_sender=null)
    assert len(found.recipients) <= MAX_RECIPIENTS
    for said in found.recipients:
        assert len(said.text) <= 500 and len(said.address) <= 320
        classify(said.status, said.text)


def test_a_name_is_not_cut_from_its_address() -> None:
    for line in (
        "userx@far.example:",
        "User userx@far.example (gone)",
        "To: <userx@far.example>",
        "recipient.b@far.example",
    ):
        found = parse(_mail(f"{line}\n550 5.1.1 no\n"))
        assert [said.address for said in found.recipients] in (["userx@far.example"], ["recipient.b@far.example"]), line


def test_an_address_in_running_text_counts_where_it_is_the_only_one() -> None:
    text = "I could not deliver your letter to %s because 550 there is no such user\n"
    assert parse(_mail(text % A)).recipients[0].address == A
    assert parse(_mail(text % f"{A} nor to b@far.example")).recipients[0].address == ""
