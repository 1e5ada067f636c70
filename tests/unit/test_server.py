"""ServerConnection: every command in every state, pipelining, bounds, and octets that no command can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import BodyType, Mode
from pillarbox.core.reply import Reply
from pillarbox.core.table import KNOWN
from pillarbox.smtp.events import (
    Atrn,
    Authenticate,
    AuthResponse,
    BodyChunk,
    BodyEnd,
    ChunkEnd,
    DataCommand,
    Etrn,
    Expand,
    Hello,
    Help,
    LocalProtocolError,
    MailFrom,
    Noop,
    Quit,
    RcptTo,
    Refused,
    Reset,
    ServerEvent,
    StartTls,
    Turn,
    Verify,
    Wait,
)
from pillarbox.smtp.framing import MAX_SWALLOWED
from pillarbox.smtp.server import MAX_AUTH, MAX_LINE, MAX_LINES, Offer, ServerConnection
from pillarbox.smtp.states import SERVER, ServerState, Verb

HOST = Domain.parse("mx.example.test")
ALICE = Mailbox.parse("alice@example.test")
GREETING = r.greeting("mx.example.test")
HELLO_OK = r.hello("mx.example.test")
TEMPORARY = r.LOCAL_FAULT
QUEUED = r.queued("0123456789ab")

S = ServerState
V = Verb

LINES: dict[Verb, bytes] = {
    V.HELO: b"HELO client.example",
    V.EHLO: b"EHLO client.example",
    V.LHLO: b"LHLO client.example",
    V.MAIL: b"MAIL FROM:<alice@example.test>",
    V.RCPT: b"RCPT TO:<alice@example.test>",
    V.DATA: b"DATA",
    V.RSET: b"RSET",
    V.NOOP: b"NOOP",
    V.QUIT: b"QUIT",
    V.VRFY: b"VRFY alice",
    V.HELP: b"HELP",
    V.EXPN: b"EXPN staff",
    V.SEND: b"SEND FROM:<alice@example.test>",
    V.SOML: b"SOML FROM:<alice@example.test>",
    V.SAML: b"SAML FROM:<alice@example.test>",
    V.TURN: b"TURN",
    V.ETRN: b"ETRN example.test",
    V.ATRN: b"ATRN example.test",
    V.AUTH: b"AUTH PLAIN AGEAYg==",
    V.STARTTLS: b"STARTTLS",
    V.BDAT: b"BDAT 5 LAST\r\nabc",
}
EVENTS: dict[Verb, ServerEvent] = {
    V.HELO: Hello("client.example", extended=False),
    V.EHLO: Hello("client.example", extended=True),
    V.MAIL: MailFrom(ALICE, 0, BodyType.SEVEN_BIT),
    V.RCPT: RcptTo(ALICE),
    V.DATA: DataCommand(),
    V.RSET: Reset(),
    V.NOOP: Noop(),
    V.QUIT: Quit(),
    V.VRFY: Verify("alice"),
    V.HELP: Help(""),
    V.EXPN: Expand("staff"),
    V.SEND: MailFrom(ALICE, 0, BodyType.SEVEN_BIT, Mode.SEND),
    V.SOML: MailFrom(ALICE, 0, BodyType.SEVEN_BIT, Mode.SOML),
    V.SAML: MailFrom(ALICE, 0, BodyType.SEVEN_BIT, Mode.SAML),
    V.TURN: Turn(),
    V.ETRN: Etrn(Domain("example.test"), below=False),
    V.ATRN: Atrn((Domain("example.test"),)),
    V.AUTH: Authenticate("PLAIN", b"\0a\0b"),
    V.STARTTLS: StartTls(),
    V.BDAT: ChunkEnd(b"abc\r\n", last=True, bare=False),
}
OUTSIDE = (V.STARTTLS, V.AUTH, V.TURN, V.ATRN, V.ETRN)
WAYS: dict[ServerState, list[tuple[bytes, Reply]]] = {
    S.START: [],
    S.READY: [(LINES[V.EHLO], HELLO_OK)],
    S.MAIL: [(LINES[V.EHLO], HELLO_OK), (LINES[V.MAIL], r.SENDER_OK)],
    S.REFUSED: [(LINES[V.EHLO], HELLO_OK), (LINES[V.MAIL], r.SENDER_OK), (LINES[V.RCPT], r.NO_SUCH_USER)],
    S.RCPT: [(LINES[V.EHLO], HELLO_OK), (LINES[V.MAIL], r.SENDER_OK), (LINES[V.RCPT], r.RECIPIENT_OK)],
    S.DATA: [
        (LINES[V.EHLO], HELLO_OK),
        (LINES[V.MAIL], r.SENDER_OK),
        (LINES[V.RCPT], r.RECIPIENT_OK),
        (LINES[V.DATA], r.START_DATA),
    ],
    S.CHUNKS: [
        (LINES[V.EHLO], HELLO_OK),
        (LINES[V.MAIL], r.SENDER_OK),
        (LINES[V.RCPT], r.RECIPIENT_OK),
        (b"BDAT 2\r\n", r.CHUNK_OK),
    ],
    S.SPOILT: [
        (LINES[V.EHLO], HELLO_OK),
        (LINES[V.MAIL], r.SENDER_OK),
        (LINES[V.RCPT], r.RECIPIENT_OK),
        (b"BDAT 2\r\n", r.TOO_BIG),
    ],
    S.AUTH: [(LINES[V.EHLO], HELLO_OK), (b"AUTH PLAIN", r.AUTH_CONTINUE)],
    S.TLS: [(LINES[V.EHLO], HELLO_OK), (LINES[V.STARTTLS], r.START_TLS)],
    S.SWAPPED: [(LINES[V.EHLO], HELLO_OK), (LINES[V.TURN], r.TURN_OK)],
    S.NO_MAIL: [],
}
COMMAND_STATES = (S.START, S.READY, S.MAIL, S.REFUSED, S.RCPT, S.CHUNKS, S.SPOILT)
ALL_VERBS = frozenset(Verb) - {V.CONNECT, V.END_OF_DATA, V.UNKNOWN}


def greeted(reply: Reply = GREETING, offer: Offer | None = None) -> ServerConnection:
    connection = ServerConnection(HOST, *([] if offer is None else [offer]))
    assert connection.send(reply) == reply.wire
    return connection


def at(state: ServerState, offer: Offer | None = None) -> ServerConnection:
    """A connection in that state, by honest means."""
    connection = greeted(r.no_mail_greeting("mx.example.test") if state is S.NO_MAIL else GREETING, offer)
    for line, reply in WAYS[state]:
        put(connection, line)
        connection.send(reply)
    assert connection.state is state
    return connection


def put(connection: ServerConnection, line: bytes) -> ServerEvent | Wait:
    connection.receive_data(line + b"\r\n")
    return connection.next_event()


def answers(connection: ServerConnection, reply: Callable[[ServerEvent], Reply | None]) -> Iterator[ServerEvent]:
    while not isinstance(event := connection.next_event(), Wait):
        yield event
        if (answer := reply(event)) is not None:
            connection.send(answer)


# --- the table, as RFC 5321 §4.1.4 has it

MATRIX: dict[ServerState, dict[Verb, Reply]] = {
    S.START: dict.fromkeys((V.MAIL, V.RCPT, V.DATA, V.BDAT, V.SEND, V.SOML, V.SAML, *OUTSIDE), r.NEED_HELO),
    S.READY: dict.fromkeys((V.RCPT, V.DATA, V.BDAT), r.NEED_MAIL),
    S.MAIL: dict.fromkeys((V.DATA, V.BDAT), r.NEED_RCPT),
    S.REFUSED: dict.fromkeys((V.DATA, V.BDAT), r.NO_VALID_RECIPIENTS),  # RFC 5321 §3.3
    S.RCPT: {},
    S.CHUNKS: {},
    S.SPOILT: {V.BDAT: r.CHUNK_REFUSED},
}
for begun in (S.CHUNKS, S.SPOILT):
    MATRIX[begun] |= dict.fromkeys((V.MAIL, V.RCPT, V.DATA, V.SEND, V.SOML, V.SAML, *OUTSIDE), r.CHUNKS_BEGUN)

for opened in (S.MAIL, S.REFUSED, S.RCPT):
    MATRIX[opened] |= dict.fromkeys((V.MAIL, V.SEND, V.SOML, V.SAML), r.NESTED_MAIL)
    MATRIX[opened] |= dict.fromkeys(OUTSIDE, r.IN_TRANSACTION)


def not_offered(verb: Verb) -> Reply:
    """The greeting of the other protocol is no command (RFC 2033 §4.1)."""
    return r.UNRECOGNISED if verb in (V.HELO, V.EHLO, V.LHLO) else r.NOT_IMPLEMENTED


@pytest.mark.parametrize("verb", LINES, ids=str)
@pytest.mark.parametrize("state", COMMAND_STATES, ids=str)
def test_every_command_in_every_state(state: ServerState, verb: Verb) -> None:
    connection = at(state)
    event = put(connection, LINES[verb])
    refusal = MATRIX[state].get(verb) if verb in EVENTS else not_offered(verb)
    if refusal is None:
        assert event == EVENTS[verb]
        assert verb in SERVER[state]
        return
    assert event == Refused(verb, refusal)
    assert verb not in SERVER[state] or verb is V.LHLO
    connection.send(refusal)
    assert connection.state is state
    assert put(connection, b"NOOP") == Noop()
    assert connection.unlisted is None


def test_no_command_is_left_out() -> None:
    assert set(LINES) == ALL_VERBS


@pytest.mark.parametrize("verb", [*LINES, V.UNKNOWN], ids=str)
@pytest.mark.parametrize("fault", ["no argument", "a wrong one", "too long", "too long by far", "a bare octet"])
@pytest.mark.parametrize("state", [*COMMAND_STATES, S.NO_MAIL], ids=str)
def test_bad_input_in_every_state(state: ServerState, fault: str, verb: Verb) -> None:
    """Whatever is wrong, the reply is one that the reply table knows for the command, and the connection lives on."""
    word = verb.value.encode() if verb is not V.UNKNOWN else b"WIZ"
    line = {
        "no argument": word,
        "a wrong one": word + b" FROM:<@> TO: ,, \xff",
        "too long": word + b" " + b"x" * MAX_LINES.get(verb, MAX_LINE),
        "too long by far": word + b" " + b"x" * 70_000,
        "a bare octet": word + b" a\nb",
    }[fault]
    connection = at(state)
    event = put(connection, line)
    assert not isinstance(event, Wait)
    if not isinstance(event, Refused):
        assert verb in SERVER[state] and (fault == "no argument" or (fault, verb) == ("a wrong one", V.NOOP))
        return
    assert event.verb is verb
    if fault in ("no argument", "a wrong one"):
        assert event.reply.code in (500, 501, 502, 503, 521, 554)
    else:
        assert event.reply.code == (500 if verb is not V.BDAT else 521 if state is S.NO_MAIL else 501)
    assert event.reply.code in KNOWN[verb.value]
    connection.send(event.reply)
    if event.reply is r.BAD_CHUNK:  # nobody knows where the next command begins
        assert (connection.state, connection.unlisted) == (S.CLOSED, None)
        return
    assert (connection.state, connection.unlisted) == (after_refusal(state, verb), None)
    assert isinstance(put(connection, b"QUIT"), Quit)


def after_refusal(state: ServerState, verb: Verb) -> ServerState:
    return S.REFUSED if (state, verb) == (S.MAIL, V.RCPT) else state


REPLIES = {2: r.RESET_OK, 3: r.START_DATA, 4: TEMPORARY, 5: r.NO_SUCH_USER}
FOLLOWING: list[tuple[ServerState, Verb, dict[int, ServerState]]] = [
    *((state, verb, {2: S.READY}) for state in COMMAND_STATES for verb in (V.HELO, V.EHLO)),
    *((state, verb, {}) for state in COMMAND_STATES for verb in (V.NOOP, V.VRFY, V.EXPN, V.HELP)),
    *((state, V.QUIT, {2: S.CLOSED}) for state in COMMAND_STATES),
    (S.START, V.RSET, {}),
    (S.READY, V.RSET, {}),
    *((state, V.RSET, {2: S.READY}) for state in (S.MAIL, S.REFUSED, S.RCPT, S.CHUNKS, S.SPOILT)),
    *((S.READY, verb, {2: S.MAIL}) for verb in (V.MAIL, V.SEND, V.SOML, V.SAML)),
    (S.READY, V.AUTH, {3: S.AUTH}),
    (S.READY, V.STARTTLS, {2: S.TLS}),
    (S.READY, V.ETRN, {}),
    *((S.READY, verb, {2: S.SWAPPED}) for verb in (V.TURN, V.ATRN)),
    (S.MAIL, V.RCPT, {2: S.RCPT, 4: S.REFUSED, 5: S.REFUSED}),
    (S.REFUSED, V.RCPT, {2: S.RCPT}),
    (S.RCPT, V.RCPT, {}),
    (S.RCPT, V.DATA, {3: S.DATA}),
    *((state, V.BDAT, {2: S.READY, 3: S.LAST_CHUNK, 4: S.READY, 5: S.READY}) for state in (S.RCPT, S.CHUNKS)),
]


@pytest.mark.parametrize(("state", "verb", "following"), FOLLOWING, ids=str)
@pytest.mark.parametrize("klass", REPLIES)
def test_the_state_that_follows(state: ServerState, verb: Verb, following: dict[int, ServerState], klass: int) -> None:
    connection = at(state)
    assert put(connection, LINES[verb]) == EVENTS[verb]
    reply = REPLIES[klass]
    if verb in (V.HELO, V.EHLO):
        reply = reply.bare  # RFC 2034 §4
    assert connection.send(REPLIES[klass]) == reply.wire
    assert connection.state is following.get(klass, state)


def test_no_transition_is_left_out() -> None:
    walked = {(state, verb) for state, verb, _ in FOLLOWING}
    assert walked == {(state, verb) for state in COMMAND_STATES for verb in SERVER[state] if verb is not V.LHLO}


@pytest.mark.parametrize("reply", [QUEUED, r.SPOOL_FAULT, r.TOO_BIG], ids=str)
def test_after_the_message(reply: Reply) -> None:
    connection = at(S.DATA)
    connection.receive_data(b"a\r\n.\r\n")
    assert connection.next_event() == BodyEnd(b"a\r\n", bare=False)
    connection.send(reply)
    assert connection.state is S.READY


# --- STARTTLS


def test_behind_the_handshake_all_begins_again() -> None:
    """RFC 3207 §4.2."""
    connection = at(S.TLS)
    assert put(connection, b"NOOP") is Wait.PAUSED  # what came in clear is never looked at
    connection = at(S.TLS)
    connection.secured()
    assert connection.state is S.START
    assert put(connection, LINES[V.MAIL]) == Refused(V.MAIL, r.NEED_HELO)


@pytest.mark.parametrize("state", [*COMMAND_STATES, S.DATA, S.AUTH, S.NO_MAIL, S.SWAPPED], ids=str)
def test_a_handshake_that_no_starttls_asked_for(state: ServerState) -> None:
    connection = at(state)
    with pytest.raises(LocalProtocolError):
        connection.secured()
    assert connection.state is state


# --- greeting and closing


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (GREETING, S.START),
        (r.CONNECT_TOO_MANY, S.CLOSED),
        (r.CONNECT_CLOSING, S.CLOSED),
        (Reply(421, None, ("later",)), S.CLOSED),
        (r.no_mail_greeting("mx.example.test"), S.NO_MAIL),  # RFC 7504 §3
        (Reply(554, None, ("no",)), S.NO_MAIL),  # RFC 5321 §3.1
    ],
)
def test_greetings(reply: Reply, state: ServerState) -> None:
    connection = ServerConnection(HOST)
    connection.receive_data(b"EHLO client.example\r\n")
    assert connection.next_event() is Wait.PAUSED  # nothing is read before the greeting
    assert connection.send(reply) == reply.wire
    assert connection.state is state
    assert connection.closed is (state is S.CLOSED)


@pytest.mark.parametrize("state", COMMAND_STATES, ids=str)
def test_a_reply_that_closes_ends_all(state: ServerState) -> None:
    connection = at(state)
    put(connection, b"NOOP")
    connection.send(r.CLOSING)
    assert connection.closed
    assert put(connection, b"NOOP") is Wait.PAUSED


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("state", [*COMMAND_STATES, S.DATA], ids=str)
def test_closing_unasked(state: ServerState, pending: bool) -> None:
    connection = at(state)
    if pending:
        put(connection, b"." if state is S.DATA else b"NOOP")
    assert connection.close(r.IDLE) == r.IDLE.wire
    assert connection.closed
    assert connection.next_event() is Wait.PAUSED
    with pytest.raises(LocalProtocolError):
        connection.send(r.NOOP_OK)


def test_quit_is_refused_with_an_argument() -> None:
    connection = at(S.READY)
    assert put(connection, b"QUIT now") == Refused(V.QUIT, r.NO_ARGUMENT_ALLOWED)
    connection.send(r.NO_ARGUMENT_ALLOWED)
    assert connection.state is S.READY


@pytest.mark.parametrize("state", COMMAND_STATES, ids=str)
def test_an_answer_that_nobody_waits_for(state: ServerState) -> None:
    with pytest.raises(LocalProtocolError):
        at(state).send(r.NOOP_OK)


# --- how commands are read


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"noop", Noop()),
        (b"nOoP x", Noop()),
        (b"quit", Quit()),
        (b"DATA ", Refused(V.DATA, r.NEED_MAIL)),
        (b"RSET ", Reset()),
        (b"rset", Reset()),
        (b"", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b" ", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b" NOOP", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b"NOOPS", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b"MAILFROM:<>", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b"GET / HTTP/1.1", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b"\xff\xfe", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b".", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b"connect", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b"UNKNOWN", Refused(V.UNKNOWN, r.UNRECOGNISED)),
        (b"starttls", StartTls()),
        (b"STARTTLS x", Refused(V.STARTTLS, r.NO_ARGUMENT_ALLOWED)),
        (b"BDAT x", Refused(V.BDAT, r.BAD_CHUNK)),
    ],
)
def test_verbs(line: bytes, event: ServerEvent) -> None:
    assert put(at(S.READY), line) == event


@pytest.mark.parametrize("line", [b"HELP", b"NOOP", b"VRFY x", b"EXPN x", b"RSET"])
def test_what_must_work_before_ehlo(line: bytes) -> None:
    """RFC 5321 §4.1.4: "not return a 503 code"."""
    event = put(at(S.START), line)
    assert not isinstance(event, Refused | Wait)


@pytest.mark.parametrize("state", COMMAND_STATES, ids=str)
@pytest.mark.parametrize("line", [b"RSET x", b"DATA x", b"QUIT x", b"EHLO", b"HELO a b", b"VRFY", b"BOGUS"])
def test_a_refused_command_changes_nothing(state: ServerState, line: bytes) -> None:
    connection = at(state)
    event = put(connection, line)
    assert isinstance(event, Refused)
    connection.send(event.reply)
    assert connection.state is state


def test_pipelined_commands_come_one_by_one() -> None:
    """RFC 2920 §3.2."""
    connection = at(S.READY)
    connection.receive_data(
        b"MAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nRCPT TO:<x>\r\n"
        b"DATA\r\na\r\n..b\r\n.\r\nRSET\r\nQUIT\r\nNOOP\r\n"
    )
    assert connection.next_event() == MailFrom(None, 0, BodyType.SEVEN_BIT)
    assert connection.next_event() is Wait.PAUSED
    assert len(connection.input)
    connection.send(r.SENDER_OK)
    assert connection.next_event() == RcptTo(ALICE)
    connection.send(r.RECIPIENT_OK)
    assert connection.next_event() == Refused(V.RCPT, r.RECIPIENT_INCOMPLETE)
    connection.send(r.RECIPIENT_INCOMPLETE)
    assert connection.next_event() == DataCommand()
    connection.send(r.START_DATA)
    assert connection.next_event() == BodyEnd(b"a\r\n.b\r\n", bare=False)
    assert connection.next_event() is Wait.PAUSED
    connection.send(QUEUED)
    assert connection.next_event() == Reset()
    connection.send(r.RESET_OK)
    assert connection.next_event() == Quit()
    connection.send(r.BYE)
    assert connection.closed
    assert connection.next_event() is Wait.PAUSED  # what comes behind QUIT is not read
    assert len(connection.input) == len(b"NOOP\r\n")


def test_data_is_refused_after_pipelined_recipients_that_were() -> None:
    """RFC 2920 §3.1: then the body is none, and what follows is read as commands."""
    connection = at(S.READY)
    connection.receive_data(b"MAIL FROM:<>\r\nRCPT TO:<x@example.test>\r\nDATA\r\nNOOP\r\n")
    replies = {MailFrom: r.SENDER_OK, RcptTo: r.NO_SUCH_USER, Noop: r.NOOP_OK}
    events = list(answers(connection, lambda event: replies.get(type(event), r.NO_VALID_RECIPIENTS)))
    assert events[2:] == [Refused(V.DATA, r.NO_VALID_RECIPIENTS), Noop()]
    assert connection.state is S.REFUSED


@pytest.mark.parametrize("verb", [V.HELO, V.EHLO, V.RSET], ids=str)
def test_hello_and_rset_end_a_transaction(verb: Verb) -> None:
    connection = at(S.RCPT)
    put(connection, LINES[verb])
    connection.send(HELLO_OK)
    assert put(connection, b"DATA") == Refused(V.DATA, r.NEED_MAIL)
    connection.send(r.NEED_MAIL)
    assert put(connection, LINES[V.MAIL]) == EVENTS[V.MAIL]


def test_a_hello_that_was_refused_ends_nothing() -> None:
    connection = at(S.RCPT)
    put(connection, LINES[V.EHLO])
    connection.send(r.IMPERSONATION)
    assert put(connection, b"DATA") == DataCommand()


# --- the message


def test_a_message_in_pieces() -> None:
    connection = at(S.DATA)
    assert connection.next_event() is Wait.NEED_DATA
    connection.receive_data(b"..a\r\n")
    assert connection.next_event() == BodyChunk(b".a")
    assert connection.next_event() is Wait.NEED_DATA
    connection.receive_data(b"b")
    assert connection.next_event() == BodyChunk(b"\r\nb")
    connection.receive_data(b"\r\n.")
    assert connection.next_event() is Wait.NEED_DATA
    connection.receive_data(b"\r\nNOOP\r\n")
    assert connection.next_event() == BodyEnd(b"\r\n", bare=False)
    connection.send(QUEUED)
    assert connection.next_event() == Noop()


def test_commands_in_a_message_are_text() -> None:
    connection = at(S.DATA)
    connection.receive_data(b"QUIT\r\nRSET\r\n.\r\n")
    assert connection.next_event() == BodyEnd(b"QUIT\r\nRSET\r\n", bare=False)


@pytest.mark.parametrize(
    "body", [b"a\n.\nQUIT\r\n", b"a\n.\r\nQUIT\r\n", b"a\r.\rQUIT\r\n", b"a\0\r\n", b"a\r\n.\rQUIT\r\n"]
)
def test_nothing_but_crlf_dot_crlf_ends_a_message(body: bytes) -> None:
    connection = at(S.DATA)
    connection.receive_data(body)
    event = connection.next_event()
    assert isinstance(event, BodyChunk)
    connection.receive_data(b"\r\n.\r\n")
    end = connection.next_event()
    assert isinstance(end, BodyEnd)
    assert end.bare
    connection.send(r.BARE_OCTET_IN_DATA)
    assert connection.closed


def test_a_second_message() -> None:
    connection = at(S.DATA)
    connection.receive_data(b"a\nb\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n.b\r\n.\r\n")
    replies = {BodyEnd: QUEUED, MailFrom: r.SENDER_OK, RcptTo: r.RECIPIENT_OK, DataCommand: r.START_DATA}
    events = list(answers(connection, lambda event: replies.get(type(event))))
    assert events[0] == BodyEnd(b"a\nb\r\n", bare=True)
    assert events[-1] == BodyEnd(b"b\r\n", bare=False)


# --- octets that no command can hold


@pytest.mark.parametrize("octet", [b"\n", b"\r", b"\0"])
@pytest.mark.parametrize("frame", [b"NO%bOP\r\n", b"%bNOOP\r\n", b"NOOP%b\r\n", b"HELP x%bQUIT\r\n", b"%b\r\n"])
def test_the_second_bare_octet_closes(octet: bytes, frame: bytes) -> None:
    """Standards: 500 5.5.2, the second time 421."""
    connection = at(S.READY)
    line = frame % octet
    connection.receive_data(line + b"NOOP\r\n" + line + b"NOOP\r\n")
    events = []
    for event in answers(connection, lambda event: event.reply if isinstance(event, Refused) else r.NOOP_OK):
        events.append(event)
    verb = V.HELP if frame.startswith(b"HELP") else V.UNKNOWN
    assert events == [Refused(verb, r.BAD_OCTET), Noop(), Refused(verb, r.TOO_MUCH_GARBAGE)]
    assert connection.closed


def test_lf_does_not_end_a_command() -> None:
    connection = at(S.READY)
    connection.receive_data(b"NOOP\nNOOP\n")
    assert connection.next_event() is Wait.NEED_DATA


# --- the bounds (RFC 5321 §4.5.3.1.4)


HEADS: dict[Verb, bytes] = {
    V.RCPT: b"RCPT TO:<alice@example.test> ",
    **{verb: verb.value.encode() + b" FROM:<alice@example.test> " for verb in (V.MAIL, V.SEND, V.SOML, V.SAML)},
}
SPACED = frozenset((V.DATA, V.RSET, V.QUIT, V.STARTTLS, V.TURN, *HEADS))


def _padded(verb: Verb, length: int) -> bytes:
    """A command of so many octets with its CRLF."""
    line = HEADS.get(verb, verb.value.encode() + b" ")
    if verb is V.AUTH:
        line += b"PLAIN "
    return line + (b" " if verb in SPACED else b"x") * (length - 2 - len(line)) + b"\r\n"


# RFC 1870 §3, RFC 6152 §2, RFC 4954 §5; RFC 4954 §4
BOUNDS = {
    **dict.fromkeys((V.MAIL, V.SEND, V.SOML, V.SAML), MAX_LINE + 26 + 16 + 500 + 116 + 20 + 17 + 43 + 15),
    V.RCPT: MAX_LINE + 536 + 40,
    V.VRFY: MAX_LINE + 9,
    V.EXPN: MAX_LINE + 9,
    V.AUTH: MAX_AUTH,
}
ENOUGH = {V.RCPT: S.MAIL, V.DATA: S.RCPT}


@pytest.mark.parametrize(
    "verb", [verb for verb in EVENTS if verb not in (V.HELO, V.EHLO, V.ATRN, V.ETRN, V.BDAT)], ids=str
)
def test_the_longest_line_and_one_octet_more(verb: Verb) -> None:
    bound = BOUNDS.get(verb, MAX_LINE)
    connection = at(ENOUGH.get(verb, S.READY))
    connection.receive_data(_padded(verb, bound))
    event = connection.next_event()
    if verb is V.AUTH:
        assert event == Refused(V.AUTH, r.AUTH_BASE64)  # read, and found to be no base64
    else:
        assert type(event) is type(EVENTS[verb])
    connection = at(ENOUGH.get(verb, S.READY))
    connection.receive_data(_padded(verb, bound + 1) + b"NOOP\r\n")
    reply = r.AUTH_LINE_TOO_LONG if verb is V.AUTH else r.LINE_TOO_LONG
    assert connection.next_event() == Refused(verb, reply)
    connection.send(reply)
    assert connection.next_event() == Noop()


@pytest.mark.parametrize("verb", [V.HELO, V.EHLO, V.BDAT, V.STARTTLS, V.TURN, V.ATRN, V.ETRN], ids=str)
@pytest.mark.parametrize("length", [MAX_LINE + 1, MAX_LINE + 43, MAX_LINE + 44, 5000, MAX_AUTH, MAX_AUTH + 1])
def test_lines_too_long(verb: Verb, length: int) -> None:
    connection = at(S.READY)
    connection.receive_data(_padded(verb, length))
    reply = r.BAD_CHUNK if verb is V.BDAT else r.LINE_TOO_LONG
    assert connection.next_event() == Refused(verb, reply)
    connection.send(reply)
    assert connection.state is (S.CLOSED if verb is V.BDAT else S.READY)


@pytest.mark.parametrize("length", [MAX_LINE + 1, MAX_LINE + 100, 5000, MAX_AUTH + 1])
def test_a_line_too_long_with_no_verb(length: int) -> None:
    connection = at(S.START)
    connection.receive_data(b"x" * (length - 2) + b"\r\n")
    assert connection.next_event() == Refused(V.UNKNOWN, r.LINE_TOO_LONG)


@pytest.mark.parametrize("cut", [1, 5, 16, MAX_LINE, MAX_AUTH - 1, MAX_AUTH, MAX_AUTH + 1, 13_000])
def test_the_verb_of_a_line_too_long_is_known_wherever_it_is_cut(cut: int) -> None:
    connection = at(S.READY)
    octets = _padded(V.MAIL, 14_000)
    connection.receive_data(octets[:cut])
    event = connection.next_event()
    connection.receive_data(octets[cut:])
    assert (event, connection.next_event()) == (Wait.NEED_DATA, Refused(V.MAIL, r.LINE_TOO_LONG))


def test_an_unknown_verb_just_short_enough() -> None:
    assert put(at(S.START), b"x" * (MAX_LINE - 2)) == Refused(V.UNKNOWN, r.UNRECOGNISED)


@pytest.mark.parametrize("start", [b"", b"VRFY "])
@pytest.mark.parametrize("state", [*COMMAND_STATES, S.NO_MAIL, S.AUTH], ids=str)
def test_a_line_without_end_closes(state: ServerState, start: bytes) -> None:
    connection = at(state)
    connection.receive_data(start)
    event: ServerEvent | Wait = Wait.NEED_DATA
    for _ in range(MAX_SWALLOWED // 65536 + 2):
        connection.receive_data(b"x" * 65536)
        event = connection.next_event()
        assert len(connection.input) <= MAX_AUTH
        if event is not Wait.NEED_DATA:
            break
    verb = V.AUTH if state is S.AUTH else V.VRFY if start else V.UNKNOWN
    assert event == Refused(verb, r.TOO_MUCH_GARBAGE)
    connection.send(r.TOO_MUCH_GARBAGE)
    assert connection.closed and connection.unlisted is None


# --- AUTH (RFC 4954 §4)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"AGEAYg==", AuthResponse(b"\0a\0b")),
        (b"", AuthResponse(b"")),
        (b"*", AuthResponse(None)),
        (b"=", Refused(V.AUTH, r.AUTH_BASE64)),
        (b"* ", Refused(V.AUTH, r.AUTH_BASE64)),
        (b"AGEAYg", Refused(V.AUTH, r.AUTH_BASE64)),
        (b"AGEA\nYg==", Refused(V.AUTH, r.AUTH_BASE64)),
        (b"QUIT", AuthResponse(b"A\x42\x13")),  # a response, whatever it looks like
        (b"NOOP please", Refused(V.AUTH, r.AUTH_BASE64)),
        (b"\xff\0", Refused(V.AUTH, r.AUTH_BASE64)),
    ],
)
def test_responses(line: bytes, event: ServerEvent) -> None:
    assert put(at(S.AUTH), line) == event


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (r.AUTHENTICATED, S.READY),
        (r.AUTH_FAULT, S.READY),
        (r.AUTH_FAILED, S.READY),
        (r.AUTH_CONTINUE, S.AUTH),
        (r.TOO_MANY_ERRORS, S.CLOSED),
    ],
    ids=str,
)
def test_after_a_response(reply: Reply, state: ServerState) -> None:
    connection = at(S.AUTH)
    put(connection, b"AGEAYg==")
    connection.send(reply)
    assert (connection.state, connection.unlisted) == (state, None)


def test_the_longest_response_and_one_octet_more() -> None:
    connection = at(S.AUTH)
    longest = b"A" * (MAX_AUTH - 4)
    assert isinstance(put(connection, longest), AuthResponse)
    connection = at(S.AUTH)
    assert put(connection, longest + b"AAA") == Refused(V.AUTH, r.AUTH_LINE_TOO_LONG)
    connection.send(r.AUTH_LINE_TOO_LONG)
    assert put(connection, b"NOOP") == Noop()


# --- a host that takes no mail (RFC 7504 §3)


@pytest.mark.parametrize("verb", [*(verb for verb in LINES if verb is not V.QUIT), V.UNKNOWN], ids=str)
def test_nothing_but_quit_is_obeyed(verb: Verb) -> None:
    connection = at(S.NO_MAIL)
    assert put(connection, LINES.get(verb, b"WIZ")) == Refused(verb, r.NO_MAIL_HERE)
    wire = connection.send(r.NO_MAIL_HERE)
    assert wire == (r.NO_MAIL_HERE.bare if verb in (V.HELO, V.EHLO, V.LHLO) else r.NO_MAIL_HERE).wire
    assert (connection.state, connection.unlisted) == (S.NO_MAIL, None)
    assert put(connection, b"QUIT") == Quit()
    connection.send(r.BYE)
    assert connection.closed


# --- TURN and ATRN


@pytest.mark.parametrize("line", [LINES[V.TURN], LINES[V.ATRN], b"ATRN"])
def test_behind_the_swap_nothing_is_read(line: bytes) -> None:
    connection = at(S.READY)
    connection.receive_data(line + b"\r\n220 we are the server now\r\nQUIT\r\n")
    assert isinstance(connection.next_event(), Turn | Atrn)
    connection.send(r.TURN_OK)
    assert connection.state is S.SWAPPED
    assert connection.next_event() is Wait.PAUSED
    assert connection.input.take_all() == b"220 we are the server now\r\nQUIT\r\n"


@pytest.mark.parametrize("reply", [r.TURN_NOTHING_OWNED, r.TURN_FAULT, r.AUTH_NEEDED], ids=str)
def test_a_refused_turn_swaps_nothing(reply: Reply) -> None:
    connection = at(S.READY)
    put(connection, b"TURN")
    connection.send(reply)
    assert put(connection, LINES[V.MAIL]) == EVENTS[V.MAIL]
    assert connection.unlisted is None


# --- what a service offers


WITHHELD = [
    (state, verb)
    for state in COMMAND_STATES
    for verb in EVENTS
    if not any(line.startswith(verb.value.encode()) for line, _ in WAYS[state])  # else nobody comes there
]


@pytest.mark.parametrize(("state", "verb"), WITHHELD, ids=str)
def test_a_command_withheld(state: ServerState, verb: Verb) -> None:
    connection = at(state, Offer(frozenset((verb,))))
    assert put(connection, LINES[verb]) == Refused(verb, not_offered(verb))
    connection.send(not_offered(verb))
    assert connection.state is state


def test_an_offer() -> None:
    offer = Offer(frozenset((V.EXPN, V.SEND)))
    assert not any(map(offer.has, (V.EXPN, V.SEND)))
    assert offer.has(V.VRFY) and offer.has(V.SOML) and offer.has(V.STARTTLS)
    assert put(at(S.READY, offer), b"EXPN staff") == Refused(V.EXPN, r.NOT_IMPLEMENTED)
    assert put(at(S.READY), b"EXPN staff") == Expand("staff")


# --- replies that the reply table does not know


def test_a_reply_that_the_table_does_not_know_is_noticed() -> None:
    for reply, noticed in ((QUEUED, None), (r.MAILBOX_FULL, f"{r.MAILBOX_FULL} to NOOP")):  # the code counts
        connection = at(S.READY)
        put(connection, b"NOOP")
        assert connection.send(reply) == reply.wire
        assert connection.unlisted == noticed
        assert put(connection, b"NOOP") == Noop()
