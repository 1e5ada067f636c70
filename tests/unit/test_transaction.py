"""Transaction: what is sent, and what each reply means for each recipient."""

from __future__ import annotations

import pytest

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import BodyType, Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Message, Octets, Outcome, Reach, Report, Row
from pillarbox.engine.transaction import Body, Step, Transaction
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import Wait
from pillarbox.smtp.states import ClientState, Verb

NOW = 1_700_000_000.0
HOP = "mx.far.example [192.0.2.1]"
TEXT = b"Subject: x\r\n\r\n.x\r\n"
FULL = ("PIPELINING", "SIZE 1000", "8BITMIME", "ENHANCEDSTATUSCODES")


def box(text: str) -> Mailbox:
    return Mailbox.parse(text)


A, B, C = map(box, ("a@far.example", "b@far.example", "c@far.example"))
SENDER = box("alice@example.test")
MAIL_LINE = b"MAIL FROM:<alice@example.test> SIZE=18\r\n"
RCPT_LINES = {A: b"RCPT TO:<a@far.example>\r\n", B: b"RCPT TO:<b@far.example>\r\n", C: b"RCPT TO:<c@far.example>\r\n"}


def job(
    *recipients: Mailbox,
    sender: Mailbox | None = SENDER,
    size: int = len(TEXT),
    eight_bit: bool = False,
    body_type: BodyType = BodyType.SEVEN_BIT,
) -> Job:
    named = tuple(Recipient(address, address) for address in recipients)
    message = Message(
        id=MessageId(1),
        received_at=0.0,
        envelope=Envelope(sender, named, body_type),
        listener="mx",
        peer="192.0.2.9",
        helo="client.example",
        protocol="ESMTP",
        size=size,
        header=HeaderView(0, "", "", "", ""),
        octets=Octets.EIGHT_BIT if eight_bit else Octets.PLAIN,
        large=False,
        content=TEXT,
    )
    return Job(message, [Row(number, recipient) for number, recipient in enumerate(named)], "far.example")


class Talk:
    """A transaction and a server that says what the test puts into its mouth."""

    def __init__(self, work: Job, keywords: tuple[str, ...] = FULL) -> None:
        self.client = ClientConnection()
        self.transaction = Transaction(work, self.client, HOP, now=lambda: NOW)
        self._hear("220 mx.far.example ESMTP")
        self.client.send(Verb.EHLO, "mx.example.test")
        self._hear(*(f"250-{keyword}" for keyword in ("mx.far.example", *keywords)), "250 HELP")
        self.transaction = Transaction(work, self.client, HOP, now=lambda: NOW)

    def _hear(self, *lines: str) -> None:
        self.client.receive_data("".join(f"{line}\r\n" for line in lines).encode())
        while self.client.next_event() is not Wait.NEED_DATA:
            pass

    def begin(self) -> Step:
        return self.transaction.begin()

    def hear(self, *lines: str) -> list[Step]:
        """What the transaction does at each reply, none of which comes before its command, up to a Report."""
        steps: list[Step] = []
        for line in lines:
            self.client.receive_data(f"{line}\r\n".encode())
            while not isinstance(event := self.client.next_event(), Wait):
                steps.append(self.transaction.on_reply(event))
                if isinstance(steps[-1], Report):
                    return steps
        return steps

    def send_body(self) -> bytes:
        return self.client.send_body(TEXT) + self.client.end_body()


def failed(text: str, code: str, *, remote: bool = True) -> Failed:
    return Failed(text, HOP, EnhancedCode.parse(code), remote)


def deferred(text: str, code: str, *, remote: bool = True) -> Deferred:
    return Deferred(text, HOP, EnhancedCode.parse(code), remote)


def delivered(text: str = "250 2.0.0 queued") -> Delivered:
    return Delivered(text, HOP, Reach.SILENT)


# --- who forwards it

TEAM, OWNER = box("team@example.test"), box("team-owner@example.test")
MARK = b"Delivered-To: team@example.test\r\n"


def forwarded(*recipients: Recipient, sender: Mailbox | None = SENDER, size: int = len(TEXT)) -> Job:
    work = job(*(recipient.address for recipient in recipients), sender=sender, size=size)
    return Job(work.message, [Row(number, recipient) for number, recipient in enumerate(recipients)], work.lane)


@pytest.mark.parametrize(
    ("recipient", "sender", "prefix", "path"),
    [
        (Recipient(A, A), SENDER, b"", b"<alice@example.test>"),
        (Recipient(A, TEAM), SENDER, MARK, b"<alice@example.test>"),  # an alias: RFC 5321 §3.9.1
        (Recipient(A, TEAM, OWNER), SENDER, MARK, b"<team-owner@example.test>"),  # a list: §3.9.2
        (Recipient(A, TEAM, OWNER), None, MARK, b"<>"),  # a notice stays one
        (Recipient(A, box('"the team"@example.test')), SENDER, b'Delivered-To: "the team"@example.test\r\n', None),
    ],
)
def test_the_mark_and_the_reverse_path(
    recipient: Recipient, sender: Mailbox | None, prefix: bytes, path: bytes | None
) -> None:
    talk = Talk(forwarded(recipient, sender=sender))
    begun = talk.begin()
    assert talk.transaction.prefix == prefix
    assert isinstance(begun, bytes)
    line = b"MAIL FROM:" + (path or b"<alice@example.test>") + b" SIZE=%d\r\n" % (len(prefix) + len(TEXT))
    assert begun.startswith(line)


@pytest.mark.parametrize(("size", "goes"), [(1000 - len(MARK), True), (1000 - len(MARK) + 1, False)])
def test_the_mark_counts_to_the_size(size: int, goes: bool) -> None:
    begun = Talk(forwarded(Recipient(A, TEAM), size=size)).begin()
    if goes:
        assert isinstance(begun, bytes) and b" SIZE=1000\r\n" in begun
    else:
        text = "message of 1001 octets is larger than the 1000 that the next hop takes"
        assert begun == Report((failed(text, "5.3.4", remote=False),))


# --- all goes well


def test_pipelined() -> None:
    talk = Talk(job(A, B))
    assert talk.begin() == MAIL_LINE + RCPT_LINES[A] + RCPT_LINES[B] + b"DATA\r\n"
    assert talk.hear("250 2.1.0 ok", "250 2.1.5 ok", "250 2.1.5 ok", "354 go") == [b"", b"", b"", Body.SEND]
    assert talk.send_body() == b"Subject: x\r\n\r\n..x\r\n.\r\n"
    assert talk.hear("250 2.0.0 queued") == [Report((delivered(), delivered()))]
    assert talk.client.awaiting == 0
    assert talk.client.state is ClientState.READY


def test_one_after_the_other() -> None:
    talk = Talk(job(A, B), ())
    assert talk.begin() == b"MAIL FROM:<alice@example.test>\r\n"
    assert talk.hear("250 ok") == [RCPT_LINES[A]]
    assert talk.hear("250 ok") == [RCPT_LINES[B]]
    assert talk.hear("250 ok") == [b"DATA\r\n"]
    assert talk.hear("354 go") == [Body.SEND]
    talk.send_body()
    assert talk.hear("250 2.0.0 queued") == [Report((delivered(), delivered()))]


@pytest.mark.parametrize("code", [200, 250, 251, 254, 299])
def test_any_positive_reply_will_do(code: int) -> None:
    """RFC 5321 §4.2.1: the first digit decides."""
    talk = Talk(job(A))
    talk.begin()
    assert talk.hear(f"{code} a", f"{code} b", "300 go")[-1] is Body.SEND
    talk.send_body()
    assert talk.hear(f"{code} done") == [Report((delivered(f"{code} done"),))]


# --- parameters of MAIL


@pytest.mark.parametrize(
    ("work", "keywords", "line"),
    [
        (job(A), (), b"MAIL FROM:<alice@example.test>\r\n"),
        (job(A, sender=None), (), b"MAIL FROM:<>\r\n"),
        (job(A), ("SIZE",), b"MAIL FROM:<alice@example.test> SIZE=18\r\n"),
        (job(A), ("SIZE 0",), b"MAIL FROM:<alice@example.test> SIZE=18\r\n"),
        (job(A), ("SIZE 18",), b"MAIL FROM:<alice@example.test> SIZE=18\r\n"),
        (job(A), ("SIZE plenty",), b"MAIL FROM:<alice@example.test> SIZE=18\r\n"),
        (job(A), ("size 18", "8bitmime"), b"MAIL FROM:<alice@example.test> SIZE=18\r\n"),
        (job(A, eight_bit=True), ("8BITMIME",), b"MAIL FROM:<alice@example.test> BODY=8BITMIME\r\n"),
        (
            job(A, body_type=BodyType.EIGHT_BIT_MIME),
            ("8BITMIME", "SIZE"),
            b"MAIL FROM:<alice@example.test> SIZE=18 BODY=8BITMIME\r\n",
        ),
        (job(A, body_type=BodyType.EIGHT_BIT_MIME), (), b"MAIL FROM:<alice@example.test>\r\n"),
        (job(A, sender=box('"a b"@x.test')), (), b'MAIL FROM:<"a b"@x.test>\r\n'),
    ],
)
def test_mail(work: Job, keywords: tuple[str, ...], line: bytes) -> None:
    assert Talk(work, keywords).begin() == line


@pytest.mark.parametrize(
    ("work", "keywords", "code"),
    [
        (job(A, B, size=1001), FULL, EnhancedCode(5, 3, 4)),  # RFC 1870 §6.2
        (job(A, B, size=10**12), ("SIZE 999999999999",), EnhancedCode(5, 3, 4)),
    ],
)
def test_what_the_next_hop_cannot_take_is_not_sent(work: Job, keywords: tuple[str, ...], code: EnhancedCode) -> None:
    talk = Talk(work, keywords)
    report = talk.begin()
    assert isinstance(report, Report)
    assert len(report.outcomes) == 2
    for outcome in report.outcomes:
        assert isinstance(outcome, Failed)
        assert outcome.status == code
        assert not outcome.remote
    assert talk.client.awaiting == 0
    assert talk.client.state is ClientState.READY


# --- each class of reply at each command

REPLIES: list[tuple[str, Outcome]] = [
    ("421 4.3.2 bye", deferred("421 4.3.2 bye", "4.3.2")),
    ("421 bye", deferred("421 bye", "4.0.0")),
    ("450 4.2.1 later", deferred("450 4.2.1 later", "4.2.1")),
    ("451 5.0.0 muddled", deferred("451 5.0.0 muddled", "4.0.0")),
    ("440 odd", deferred("440 odd", "4.0.0")),
    ("550 5.7.1 no", failed("550 5.7.1 no", "5.7.1")),
    ("599 odd", failed("599 odd", "5.0.0")),
    ("500 5.5.2 what?", failed("500 5.5.2 what?", "5.5.2")),
    ("300 odd", deferred("300 odd", "4.5.0")),
]
CLOSING = ("421", "300")  # behind these nothing more is sent


@pytest.mark.parametrize(("reply", "outcome"), REPLIES)
def test_replies_to_mail(reply: str, outcome: Outcome) -> None:
    talk = Talk(job(A, B), ())
    talk.begin()
    assert talk.hear(reply) == [Report((outcome, outcome))]


@pytest.mark.parametrize(("reply", "outcome"), REPLIES)
@pytest.mark.parametrize("data", ["503 5.5.1 no", "554 5.5.1 no", "250 what", "451 x"])
def test_replies_to_mail_when_pipelined(reply: str, outcome: Outcome, data: str) -> None:
    talk = Talk(job(A, B))
    talk.begin()
    steps = talk.hear(reply, "503 5.5.1 no MAIL", "503 5.5.1 no MAIL", data)
    assert steps[-1] == Report((outcome, outcome))
    closed = reply.startswith(CLOSING)
    assert len(steps) == (1 if closed else 4)
    assert talk.client.awaiting == (3 if closed else 0)


def test_who_was_accepted_behind_a_refused_mail_gets_no_empty_message() -> None:
    """The 354 of such a server is not answered by an end mark, as it is where nobody was accepted (RFC 2920 §3.1)."""
    talk = Talk(job(A, B))
    talk.begin()
    outcome = failed("550 5.7.1 no", "5.7.1")
    assert talk.hear("550 5.7.1 no", "250 ok", "250 ok", "354 go")[-1] == Report((outcome, outcome))
    assert talk.client.state is ClientState.BODY  # and so it is of no more use


@pytest.mark.parametrize(("reply", "outcome"), REPLIES)
@pytest.mark.parametrize("keywords", [FULL, ()])
def test_replies_to_one_rcpt(reply: str, outcome: Outcome, keywords: tuple[str, ...]) -> None:
    talk = Talk(job(A, B, C), keywords)
    talk.begin()
    steps = talk.hear("250 ok", "250 ok")
    if reply.startswith(CLOSING):
        assert talk.hear(reply) == [Report((outcome, outcome, outcome))]
        return
    steps += talk.hear(reply, "250 ok", "354 go")
    assert steps[-1] is Body.SEND
    talk.send_body()
    assert talk.hear("250 2.0.0 queued") == [Report((delivered(), outcome, delivered()))]


@pytest.mark.parametrize(("reply", "outcome"), REPLIES)
@pytest.mark.parametrize("keywords", [FULL, ()])
def test_replies_to_data(reply: str, outcome: Outcome, keywords: tuple[str, ...]) -> None:
    if reply.startswith("3"):
        return  # any 3yz asks for the message
    talk = Talk(job(A, B), keywords)
    talk.begin()
    talk.hear("250 ok", "250 ok", "250 ok")
    assert talk.hear(reply) == [Report((outcome, outcome))]
    assert talk.client.awaiting == 0


def test_data_answered_as_if_it_were_done() -> None:
    """A 2yz to DATA is no delivery."""
    talk = Talk(job(A))
    talk.begin()
    assert talk.hear("250 ok", "250 ok", "250 ok")[-1] == Report((deferred("250 ok", "4.5.0"),))


@pytest.mark.parametrize(("reply", "outcome"), REPLIES)
def test_replies_to_the_message(reply: str, outcome: Outcome) -> None:
    talk = Talk(job(A, B))
    talk.begin()
    talk.hear("250 ok", "250 ok", "550 5.1.1 no", "354 go")
    talk.send_body()
    assert talk.hear(reply) == [Report((outcome, failed("550 5.1.1 no", "5.1.1")))]


def test_several_lines_are_kept() -> None:
    talk = Talk(job(A), ())
    talk.begin()
    assert talk.hear("550-5.7.1 no", "550 5.7.1 never") == [Report((failed("550 5.7.1 no / never", "5.7.1"),))]


@pytest.mark.parametrize("reply", ["552 too many recipients", "552 5.5.3 too many", "552 5.2.2 full"])
@pytest.mark.parametrize("keywords", [FULL, ()])
def test_552_to_rcpt_is_temporary(reply: str, keywords: tuple[str, ...]) -> None:
    """RFC 5321 §4.5.3.1.10."""
    talk = Talk(job(A, B), keywords)
    talk.begin()
    assert talk.hear("250 ok", "250 ok", reply, "354 go")[-1] is Body.SEND
    talk.send_body()
    assert talk.hear("250 2.0.0 queued") == [Report((delivered(), deferred(reply, "4.5.3")))]


@pytest.mark.parametrize("place", ["mail", "data", "message"])
def test_552_elsewhere_is_not(place: str) -> None:
    talk = Talk(job(A), ())
    talk.begin()
    if place != "mail":
        talk.hear("250 ok", "250 ok")
    if place == "message":
        talk.hear("354 go")
        talk.send_body()
    assert talk.hear("552 5.3.4 too big") == [Report((failed("552 5.3.4 too big", "5.3.4"),))]


# --- nobody is left


@pytest.mark.parametrize("data", ["554 5.5.1 no valid recipients", "503 no"])
def test_all_refused_and_data_too(data: str) -> None:
    talk = Talk(job(A, B))
    talk.begin()
    steps = talk.hear("250 ok", "550 5.1.1 no", "450 4.2.1 later", data)
    assert steps == [b"", b"", b"", Report((failed("550 5.1.1 no", "5.1.1"), deferred("450 4.2.1 later", "4.2.1")))]


@pytest.mark.parametrize("end", ["554 5.5.1 no valid recipients", "250 fine", "451 hm"])
def test_all_refused_but_354(end: str) -> None:
    """RFC 2920 §3.1: an empty message then, and what is said to it counts for nobody."""
    talk = Talk(job(A, B))
    talk.begin()
    assert talk.hear("250 ok", "550 5.1.1 no", "550 5.1.1 no", "354 go")[-1] is Body.NONE
    assert talk.client.end_body() == b".\r\n"
    refused = failed("550 5.1.1 no", "5.1.1")
    assert talk.hear(end) == [Report((refused, refused))]
    assert talk.client.state is ClientState.READY


def test_mail_refused_but_354() -> None:
    talk = Talk(job(A))
    talk.begin()
    assert talk.hear("550 5.7.1 no", "503 no", "354 go")[-1] is Body.NONE


def test_all_refused_one_after_the_other() -> None:
    talk = Talk(job(A, B), ())
    talk.begin()
    steps = talk.hear("250 ok", "550 5.1.1 no", "550 5.1.1 no")
    assert steps == [RCPT_LINES[A], RCPT_LINES[B], Report((failed("550 5.1.1 no", "5.1.1"),) * 2)]
    assert talk.client.awaiting == 0


# --- 421 and lost connections


@pytest.mark.parametrize("before", range(4))
def test_421_in_mid_pipeline(before: int) -> None:
    """RFC 5321 §3.8: what was answered stands, the rest is for later."""
    talk = Talk(job(A, B))
    talk.begin()
    answers = ["250 ok", "550 5.1.1 no", "250 ok"][:before]
    (*_, report) = talk.hear(*answers, "421 4.3.2 bye")
    first = failed("550 5.1.1 no", "5.1.1") if before >= 2 else deferred("421 4.3.2 bye", "4.3.2")
    assert report == Report((first, deferred("421 4.3.2 bye", "4.3.2")))
    assert talk.client.state is ClientState.CLOSED


@pytest.mark.parametrize("keywords", [FULL, ()])
@pytest.mark.parametrize("heard", range(5))
def test_a_lost_connection(heard: int, keywords: tuple[str, ...]) -> None:
    talk = Talk(job(A, B), keywords)
    talk.begin()
    replied_at_first = talk.transaction.replied
    talk.hear(*["250 ok", "550 5.1.1 no", "250 ok", "354 go"][:heard])
    report = talk.transaction.lost("connection lost")
    lost = deferred("connection lost", "4.4.2", remote=False)
    assert report == Report((failed("550 5.1.1 no", "5.1.1") if heard >= 2 else lost, lost))
    assert not replied_at_first
    assert talk.transaction.replied is (heard > 0)


def test_a_connection_lost_behind_the_message() -> None:
    """RFC 1047: nobody knows whether it was taken; it is sent again."""
    talk = Talk(job(A))
    talk.begin()
    talk.hear("250 ok", "250 ok", "354 go")
    talk.send_body()
    assert talk.transaction.lost("gone") == Report((deferred("gone", "4.4.2", remote=False),))


def test_a_message_that_cannot_be_put_on_the_wire() -> None:
    talk = Talk(job(A, B))
    talk.begin()
    talk.hear("250 ok", "550 5.1.1 no", "250 ok", "354 go")
    report = talk.transaction.unsendable("bare LF")
    assert report == Report((failed("550 5.1.1 no", "5.1.1"), failed("bare LF", "5.6.3", remote=False)))


# --- the next transaction on the same connection


def again(talk: Talk, work: Job) -> Step:
    talk.transaction = Transaction(work, talk.client, HOP, now=lambda: NOW)
    return talk.begin()


def test_after_a_delivery() -> None:
    talk = Talk(job(A))
    talk.begin()
    talk.hear("250 ok", "250 ok", "354 go")
    talk.send_body()
    talk.hear("250 2.0.0 queued")
    assert again(talk, job(B)) == MAIL_LINE + RCPT_LINES[B] + b"DATA\r\n"


def test_after_a_refusal_the_transaction_is_reset_first() -> None:
    talk = Talk(job(A))
    talk.begin()
    talk.hear("250 ok", "550 5.1.1 no", "554 5.5.1 no")
    assert again(talk, job(B)) == b"RSET\r\n" + MAIL_LINE + RCPT_LINES[B] + b"DATA\r\n"
    assert talk.hear("250 flushed", "250 ok", "250 ok", "354 go")[-1] is Body.SEND


def test_without_pipelining_the_reset_is_waited_for() -> None:
    """RFC 2920 §3.1: no command is sent before the last is answered, where PIPELINING was not offered."""
    talk = Talk(job(A), ("SIZE 1000",))
    talk.begin()
    talk.hear("250 ok", "550 5.1.1 no")
    assert again(talk, job(B)) == b"RSET\r\n"
    assert talk.hear("250 flushed") == [MAIL_LINE]
    assert talk.hear("250 ok") == [RCPT_LINES[B]]


@pytest.mark.parametrize("keywords", [FULL, ("SIZE 1000",)])
def test_a_reset_that_is_refused_fails_nobody_for_good(keywords: tuple[str, ...]) -> None:
    talk = Talk(job(A), keywords)
    talk.begin()
    talk.hear("250 ok", "550 5.1.1 no", *(["554 5.5.1 no"] if keywords is FULL else []))
    again(talk, job(B))
    (*_, report) = talk.hear("500 5.5.2 no RSET here", "503 5.5.1 nested MAIL")
    assert isinstance(report, Report)
    assert isinstance(report.outcomes[0], Deferred)
