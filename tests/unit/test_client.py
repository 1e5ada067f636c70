"""ClientConnection: replies read, commands written, and a conversation with our own server."""

from __future__ import annotations

from base64 import b64encode

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import BodyType
from pillarbox.core.reply import EnhancedCode, Reply
from pillarbox.smtp.client import MAX_DROPPED_LINES, MAX_REPLY_LINE, MAX_REPLY_LINES, ClientConnection
from pillarbox.smtp.events import (
    MAX_TEXT,
    Atrn,
    Authenticate,
    BodyChunk,
    BodyEnd,
    DataCommand,
    Etrn,
    Hello,
    LocalProtocolError,
    MailFrom,
    Quit,
    RcptTo,
    RemoteProtocolError,
    ReplyReceived,
    ServerEvent,
    Turn,
    Wait,
)
from pillarbox.smtp.framing import UnsafeOctets
from pillarbox.smtp.sasl import Credentials, plain
from pillarbox.smtp.server import ServerConnection
from pillarbox.smtp.states import CLIENT_SENT, ClientState, Verb

ALICE = Mailbox.parse("alice@example.test")
C = ClientState


def hear(client: ClientConnection, octets: bytes) -> list[ReplyReceived]:
    client.receive_data(octets)
    replies = []
    while isinstance(reply := client.next_event(), ReplyReceived):
        replies.append(reply)
    return replies


def connecting() -> ClientConnection:
    return ClientConnection()


def greeted() -> ClientConnection:
    client = connecting()
    hear(client, b"220 mx.example.test ESMTP\r\n")
    return client


def ready(*keywords: str) -> ClientConnection:
    client = greeted()
    client.send(Verb.EHLO, "client.example")
    hear(client, b"".join(f"250-{line}\r\n".encode() for line in ("mx.example.test", *keywords)) + b"250 HELP\r\n")
    return client


def at(state: ClientState) -> ClientConnection:
    if state is C.CONNECT:
        client = connecting()
    elif state is C.START:
        client = greeted()
    else:
        client = ready()
    if state in (C.ENVELOPE, C.DATA_SENT, C.BODY, C.END_SENT):
        client.mail(None)
        client.rcpt(ALICE)
        hear(client, b"250 ok\r\n250 ok\r\n")
    if state in (C.DATA_SENT, C.BODY, C.END_SENT):
        client.send(Verb.DATA)
    if state in (C.BODY, C.END_SENT):
        hear(client, b"354 go\r\n")
    if state is C.END_SENT:
        client.end_body()
    if state is C.SWAPPED:
        client.send(Verb.TURN)
        hear(client, b"250 go\r\n")
    if state is C.CLOSED:
        client.send(Verb.QUIT)
    assert client.state is state
    return client


def status(code: str) -> EnhancedCode:
    return EnhancedCode.parse(code)


# --- replies


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 OK\r\n", (250, None, ("OK",))),
        (b"250\r\n", (250, None, ("",))),
        (b"250 \r\n", (250, None, ("",))),
        (b"250 2.1.0 OK\r\n", (250, status("2.1.0"), ("OK",))),
        (b"250 2.1.0\r\n", (250, status("2.1.0"), ("",))),
        (b"250-a\r\n250-\r\n250 b\r\n", (250, None, ("a", "", "b"))),
        (b"250-a\r\n250\r\n", (250, None, ("a", ""))),
        (b"550-5.1.1 a\r\n550 5.1.1 b\r\n", (550, status("5.1.1"), ("a", "b"))),
        (b"550-5.1.1 a\r\n550 b\r\n", (550, status("5.1.1"), ("a", "b"))),
        (b"550 5.1.1x\r\n", (550, None, ("5.1.1x",))),
        (b"550 4.1.1 class of another\r\n", (550, None, ("4.1.1 class of another",))),
        (b"550 127.0.0.1 blocked\r\n", (550, None, ("127.0.0.1 blocked",))),
        (b"550 5.7.1.2 x\r\n", (550, None, ("5.7.1.2 x",))),
        (b"450 J\xc3\xbcrgen \xff\r\n", (450, None, ("Jürgen \ufffd",))),
        # any code by its first digit: RFC 5321 §4.2.1
        (b"200 a\r\n", (200, None, ("a",))),
        (b"225 a\r\n", (225, None, ("a",))),
        (b"254 a\r\n", (254, None, ("a",))),
        (b"300 a\r\n", (300, None, ("a",))),
        (b"352 a\r\n", (352, None, ("a",))),
        (b"440 a\r\n", (440, None, ("a",))),
        (b"599 a\r\n", (599, None, ("a",))),
        (b"250 " + b"x" * (MAX_REPLY_LINE - 6) + b"\r\n", (250, None, ("x" * (MAX_REPLY_LINE - 6),))),
        (b"250-a\r\n" * (MAX_REPLY_LINES - 1) + b"250 b\r\n", (250, None, ("a",) * (MAX_REPLY_LINES - 1) + ("b",))),
    ],
)
def test_replies(octets: bytes, reply: tuple[int, EnhancedCode | None, tuple[str, ...]]) -> None:
    for cut in {0, 1, 4, len(octets) // 2, len(octets) - 1}:
        client = ready()
        client.send(Verb.NOOP)
        replies = hear(client, octets[:cut]) + hear(client, octets[cut:])
        assert replies == [ReplyReceived(Verb.NOOP, *reply)]
        assert replies[0].klass == reply[0] // 100
        assert client.awaiting == 0


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (ReplyReceived(Verb.MAIL, 250, None, ("a",)), "250 a"),
        (ReplyReceived(Verb.MAIL, 550, EnhancedCode(5, 1, 1), ("a", "b")), "550 5.1.1 a / b"),
    ],
)
def test_replies_as_text(reply: ReplyReceived, text: str) -> None:
    assert str(reply) == text


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"hello\r\n",
        b"25 x\r\n",
        b"2500 x\r\n",
        b"250x\r\n",
        b"250_x\r\n",
        b"100 x\r\n",
        b"150-x\r\n",
        b"600 x\r\n",
        b"000 x\r\n",
        b" 250 x\r\n",
        b"\xff250 x\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\n550 b\r\n",
        b"250 a\nb\r\n",
        b"250 a\rb\r\n",
        b"250 a\0b\r\n",
        b"250 a\n\r\n",
        b"250 a\r\r\n",
        b"250-a\r\n" * (MAX_REPLY_LINES + MAX_DROPPED_LINES + 1),
        b"250 " + b"x" * (MAX_REPLY_LINE - 5) + b"\r\n",
        b"250 " + b"x" * 100_000 + b"\r\n",
        b"250 one\r\n250 too many\r\n",
    ],
)
def test_what_makes_no_sense(octets: bytes) -> None:
    client = ready()
    client.send(Verb.NOOP)
    with pytest.raises(RemoteProtocolError):
        hear(client, octets)


@pytest.mark.parametrize("more", [1, 100_000])
def test_of_a_long_reply_the_beginning_is_kept(more: int) -> None:
    client = ready()
    client.send(Verb.NOOP)
    (reply,) = hear(client, b"250-a\r\n" * (MAX_REPLY_LINES + more) + b"250 b\r\n")
    assert (reply.code, reply.lines) == (250, ("a",) * MAX_REPLY_LINES)
    client.send(Verb.NOOP)
    assert [each.lines for each in hear(client, b"250-a\r\n250 b\r\n")] == [("a", "b")]


def test_what_is_said_of_a_reply_is_short_and_can_be_printed() -> None:
    client = ready()
    client.send(Verb.NOOP)
    client.send(Verb.NOOP)
    first, second = hear(
        client, b"250 \x1b[2J\x07\xc2\x9b\xff\r\n" + b"250-" + b"x" * 1500 + b"\r\n250 " + b"y" * 900 + b"\r\n"
    )
    assert str(first) == "250 ?[2J??\ufffd"
    assert str(second) == f"250 {'x' * 1500} / {'y' * (MAX_TEXT - 1503)} …"


def test_lf_does_not_end_a_reply() -> None:
    client = ready()
    client.send(Verb.NOOP)
    assert hear(client, b"250 ok\n250 ok\n") == []


@pytest.mark.parametrize("octets", [b"250 surprise\r\n", b"421 4.4.2 idle for too long\r\n"])
@pytest.mark.parametrize("state", [C.START, C.READY, C.ENVELOPE, C.BODY])
def test_replies_to_nothing(state: ClientState, octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="nothing"):
        hear(at(state), octets)


def test_421_closes() -> None:
    """RFC 5321 §3.8."""
    client = ready("PIPELINING")
    client.mail(None)
    client.rcpt(ALICE)
    client.send(Verb.DATA)
    replies = hear(client, b"250 ok\r\n421 4.3.2 bye\r\n")
    assert [(reply.verb, reply.code) for reply in replies] == [(Verb.MAIL, 250), (Verb.RCPT, 421)]
    assert client.state is C.CLOSED
    with pytest.raises(LocalProtocolError):
        client.send(Verb.QUIT)


# --- greeting and EHLO


@pytest.mark.parametrize(
    ("octets", "state"),
    [
        (b"220 mx ESMTP\r\n", C.START),
        (b"220-mx ESMTP\r\n220 no spam\r\n", C.START),
        (b"200 hm\r\n", C.START),
        (b"421 later\r\n", C.CLOSED),
        (b"450 later\r\n", C.CLOSED),
        (b"521 never\r\n", C.CLOSED),
        (b"554 no SMTP here\r\n", C.CLOSED),
        (b"300 odd\r\n", C.CLOSED),
    ],
)
def test_greetings(octets: bytes, state: ClientState) -> None:
    client = connecting()
    assert client.awaiting == 1
    (reply,) = hear(client, octets)
    assert reply.verb is Verb.CONNECT
    assert client.state is state


def test_capabilities() -> None:
    client = ready("PIPELINING", "size 1000 ", "AUTH PLAIN LOGIN", "X-odd  y", "")
    assert client.capabilities == {
        "PIPELINING": "",
        "SIZE": "1000",
        "AUTH": "PLAIN LOGIN",
        "X-ODD": " y",
        "": "",
        "HELP": "",
    }
    assert client.state is C.READY


def test_the_reply_to_ehlo_has_no_enhanced_code() -> None:
    """RFC 2034 §4: what looks like one is a keyword or a name."""
    client = greeted()
    client.send(Verb.EHLO, "client.example")
    (reply,) = hear(client, b"250-2.0.0 mx\r\n250 SIZE\r\n")
    assert reply == ReplyReceived(Verb.EHLO, 250, None, ("2.0.0 mx", "SIZE"))


def test_helo_where_ehlo_is_not_known() -> None:
    client = greeted()
    client.send(Verb.EHLO, "client.example")
    hear(client, b"502 5.5.1 what?\r\n")
    states = [client.state]
    client.send(Verb.HELO, "client.example")
    hear(client, b"250 mx\r\n")
    assert [*states, client.state] == [C.START, C.READY]
    assert client.capabilities == {}


# --- commands


@pytest.mark.parametrize(
    ("octets", "line"),
    [
        (greeted().send(Verb.EHLO, "client.example"), b"EHLO client.example\r\n"),
        (ready().mail(None), b"MAIL FROM:<>\r\n"),
        (ready().mail(ALICE, " SIZE=1"), b"MAIL FROM:<alice@example.test> SIZE=1\r\n"),
        (ready().mail(Mailbox.parse('"a b"@x.test')), b'MAIL FROM:<"a b"@x.test>\r\n'),
        (at(C.ENVELOPE).rcpt(ALICE), b"RCPT TO:<alice@example.test>\r\n"),
        (at(C.ENVELOPE).send(Verb.DATA), b"DATA\r\n"),
        (at(C.ENVELOPE).send(Verb.RSET), b"RSET\r\n"),
        (ready().send(Verb.QUIT), b"QUIT\r\n"),
        (ready().send(Verb.TURN), b"TURN\r\n"),
        (ready().send(Verb.ATRN, "a.test,b.test"), b"ATRN a.test,b.test\r\n"),
        (ready().send(Verb.ETRN, "a.test"), b"ETRN a.test\r\n"),
        (ready().auth("PLAIN", plain(Credentials("tim", "secret"))), b"AUTH PLAIN AHRpbQBzZWNyZXQ=\r\n"),
        (ready().auth("SCRAM-SHA-256", None), b"AUTH SCRAM-SHA-256\r\n"),
        (ready().auth("EXTERNAL", b""), b"AUTH EXTERNAL =\r\n"),
        (
            ready().auth("PLAIN", plain(Credentials("\u00fc" * 60, "p" * 255))),  # one line, however long
            b"AUTH PLAIN " + b64encode(b"\0" + b"\xc3\xbc" * 60 + b"\0" + b"p" * 255) + b"\r\n",
        ),
    ],
)
def test_commands(octets: bytes, line: bytes) -> None:
    assert octets == line


@pytest.mark.parametrize("verb", Verb, ids=str)
@pytest.mark.parametrize("state", ClientState, ids=str)
def test_commands_in_every_state(state: ClientState, verb: Verb) -> None:
    client = at(state)
    following = CLIENT_SENT[state].get(verb)
    awaiting = client.awaiting
    if following is None or verb is Verb.END_OF_DATA:
        with pytest.raises(LocalProtocolError):
            client.send(verb)
        assert client.state is state
        assert client.awaiting == awaiting
    else:
        client.send(verb, "x" if verb is not Verb.DATA else "")
        assert client.state is following
        assert client.awaiting == awaiting + 1


@pytest.mark.parametrize(
    "argument", ["a\r\nRSET", "a\nb", "a\rb", "a\0b", "a\tb", "\x7f", "j\u0085rgen", "\u2028", "\x85"]
)
def test_an_argument_cannot_become_a_command(argument: str) -> None:
    client = greeted()
    with pytest.raises(LocalProtocolError):
        client.send(Verb.EHLO, argument)
    assert client.awaiting == 0
    assert client.state is C.START
    client = ready()
    with pytest.raises(LocalProtocolError):
        client.mail(None, f" {argument}")


@pytest.mark.parametrize("state", [state for state in ClientState if state is not C.BODY], ids=str)
def test_no_message_before_it_is_wanted(state: ClientState) -> None:
    client = at(state)
    with pytest.raises(LocalProtocolError):
        client.send_body(b"x")
    with pytest.raises(LocalProtocolError):
        client.end_body()


@pytest.mark.parametrize(
    ("reply", "state"),
    [(b"250 hm\r\n", C.CLOSED), (b"354 go\r\n", C.BODY), (b"451 x\r\n", C.ENVELOPE), (b"554 x\r\n", C.ENVELOPE)],
)
def test_replies_to_data(reply: bytes, state: ClientState) -> None:
    client = at(C.DATA_SENT)
    hear(client, reply)
    assert client.state is state


@pytest.mark.parametrize(
    ("reply", "state"),
    [(b"250 ok\r\n", C.READY), (b"354 hm\r\n", C.CLOSED), (b"451 x\r\n", C.READY), (b"554 x\r\n", C.READY)],
)
def test_replies_to_the_message(reply: bytes, state: ClientState) -> None:
    client = at(C.END_SENT)
    (event,) = hear(client, reply)
    assert event.verb is Verb.END_OF_DATA
    assert client.state is state


def test_a_message_with_bare_octets_is_not_sent() -> None:
    client = at(C.BODY)
    assert client.send_body(b".a\r") == b"..a"
    with pytest.raises(UnsafeOctets):
        client.end_body()
    with pytest.raises(UnsafeOctets):
        at(C.BODY).send_body(b"a\n.\nb")


def test_each_message_starts_at_the_beginning_of_a_line() -> None:
    client = at(C.BODY)
    assert client.send_body(b"x") + client.end_body() == b"x\r\n.\r\n"
    hear(client, b"250 ok\r\n")
    client.mail(None)
    client.rcpt(ALICE)
    client.send(Verb.DATA)
    hear(client, b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert client.send_body(b".y\r\n") + client.end_body() == b"..y\r\n.\r\n"


# --- AUTH, TURN, ATRN, ETRN


@pytest.mark.parametrize(
    ("verb", "reply", "state"),
    [
        (Verb.TURN, b"250 go\r\n", C.SWAPPED),
        (Verb.TURN, b"220 hm\r\n", C.SWAPPED),
        (Verb.TURN, b"354 hm\r\n", C.CLOSED),
        (Verb.TURN, b"502 no\r\n", C.READY),
        (Verb.ATRN, b"250 go\r\n", C.SWAPPED),
        (Verb.ATRN, b"453 no mail\r\n", C.READY),
        (Verb.ATRN, b"421 bye\r\n", C.CLOSED),
        (Verb.ETRN, b"253 2 pending\r\n", C.READY),
        (Verb.ETRN, b"459 no\r\n", C.READY),
        (Verb.AUTH, b"235 ok\r\n", C.READY),
        (Verb.AUTH, b"334 \r\n", C.READY),
        (Verb.AUTH, b"535 no\r\n", C.READY),
    ],
)
def test_the_state_behind_a_reply(verb: Verb, reply: bytes, state: ClientState) -> None:
    client = ready()
    client.send(verb)
    (event,) = hear(client, reply)
    assert (event.verb, client.state) == (verb, state)


@pytest.mark.parametrize("behind", [b"EHLO mx.example.test\r\n", b"EHL", b"250 more\r\n", b"\r\n", b"\r", b"220-"])
def test_behind_a_change_of_roles_nothing_is_read(behind: bytes) -> None:
    """Whoever has the connection next must see that something came too early."""
    client = ready()
    client.send(Verb.ATRN)
    (event,) = hear(client, b"250 2.0.0 OK now reversing the connection\r\n" + behind)
    assert (event.code, client.state, client.quiet) == (250, C.SWAPPED, False)
    assert client.next_event() is Wait.PAUSED


def test_quiet_is_when_nothing_has_come_that_was_not_read() -> None:
    client = ready()
    client.send(Verb.NOOP)
    quiet = [client.quiet]
    client.receive_data(b"250-a\r\n")
    quiet.append(client.quiet)  # not read yet
    assert client.next_event() is Wait.NEED_DATA
    quiet.append(client.quiet)  # half a reply
    assert hear(client, b"250 b\r\n")
    assert [*quiet, client.quiet] == [True, False, False, True]


# --- a client and a server on a wire of no length


class Wire:
    """Carries octets at once, `piece` at a time, and has the server answer as it is told."""

    def __init__(self, piece: int) -> None:
        self.client = ClientConnection()
        self.server = ServerConnection(Domain.parse("mx.example.test"))
        self.events: list[ServerEvent] = []
        self.heard: list[ReplyReceived] = []
        self._piece = piece
        self._to_client(self.server.send(r.greeting("mx.example.test")))

    def carry(self, octets: bytes) -> None:
        for start in range(0, len(octets), self._piece):
            self.server.receive_data(octets[start : start + self._piece])
            while not isinstance(event := self.server.next_event(), Wait):
                self.events.append(event)
                if not isinstance(event, BodyChunk):
                    self._to_client(self.server.send(self._answer(event)))

    def _answer(self, event: ServerEvent) -> Reply:
        match event:
            case Hello():
                return r.ehlo("mx.example.test", ("PIPELINING", "SIZE 1000", "8BITMIME"))
            case RcptTo(recipient=recipient):
                return r.RECIPIENT_OK if recipient == ALICE else r.NO_SUCH_USER
            case DataCommand():
                return r.START_DATA
            case BodyEnd():
                return r.queued("0123456789ab")
            case Quit():
                return r.BYE
            case _:
                return r.SENDER_OK

    def _to_client(self, octets: bytes) -> None:
        for start in range(0, len(octets), self._piece):
            self.heard += hear(self.client, octets[start : start + self._piece])

    @property
    def body(self) -> bytes:
        return b"".join(event.octets for event in self.events if isinstance(event, BodyChunk | BodyEnd))


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("body", [b"", b"\r\n", b".\r\n", b"a\r\n.\r\n..b\r\n\r\n.c\r\n", b"\x80\xff\r\n" * 50])
def test_client_and_server(piece: int, body: bytes) -> None:
    wire = Wire(piece)
    client = wire.client
    wire.carry(client.send(Verb.EHLO, "client.example"))
    assert client.capabilities == {"PIPELINING": "", "SIZE": "1000", "8BITMIME": ""}
    nobody = Mailbox.parse("nobody@example.test")
    octets = client.mail(None, " SIZE=7 BODY=8BITMIME") + client.rcpt(nobody) + client.rcpt(ALICE)
    wire.carry(octets + client.send(Verb.DATA))
    assert client.state is C.BODY
    half = len(body) // 2
    wire.carry(client.send_body(body[:half]))
    wire.carry(client.send_body(body[half:]) + client.end_body())
    wire.carry(client.send(Verb.QUIT))
    assert wire.body == body
    assert wire.events[:5] == [
        Hello("client.example", extended=True),
        MailFrom(None, 7, BodyType.EIGHT_BIT_MIME),
        RcptTo(nobody),
        RcptTo(ALICE),
        DataCommand(),
    ]
    assert wire.events[-1] == Quit()
    assert [reply.code for reply in wire.heard] == [220, 250, 250, 550, 250, 354, 250, 221]
    assert [reply.verb for reply in wire.heard] == [
        Verb.CONNECT,
        Verb.EHLO,
        Verb.MAIL,
        Verb.RCPT,
        Verb.RCPT,
        Verb.DATA,
        Verb.END_OF_DATA,
        Verb.QUIT,
    ]
    assert client.awaiting == 0
    assert wire.server.closed


CREDENTIALS = Credentials("j\u00fcrgen@example.test", " p\u00e4ss\tword ")


@pytest.mark.parametrize("piece", [1, 3, 10_000])
def test_client_and_server_until_the_roles_change(piece: int) -> None:
    wire = Wire(piece)
    client = wire.client
    wire.carry(client.send(Verb.EHLO, "client.example"))
    wire.carry(client.auth("PLAIN", plain(CREDENTIALS)))
    wire.carry(client.send(Verb.ETRN, "a.test"))
    wire.carry(client.send(Verb.TURN))
    octets = b"\0" + CREDENTIALS.name.encode() + b"\0" + CREDENTIALS.password.encode()
    assert wire.events[1:] == [Authenticate("PLAIN", octets), Etrn(Domain("a.test"), below=False), Turn()]
    assert client.state is C.SWAPPED
    assert wire.server.next_event() is Wait.PAUSED
    other = Wire(piece)
    other.carry(other.client.send(Verb.EHLO, "client.example"))
    other.carry(other.client.send(Verb.ATRN, "a.test,b.test"))
    assert other.events[-1] == Atrn((Domain("a.test"), Domain("b.test")))
    assert other.client.state is C.SWAPPED
