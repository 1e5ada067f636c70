"""ServerConnection: every command in every state, pipelining, bounds, and octets that no command can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import BodyType
from pillarbox.core.reply import Reply
from pillarbox.smtp.events import (
    BodyChunk,
    BodyEnd,
    DataCommand,
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
    Verify,
    Wait,
)
from pillarbox.smtp.framing import MAX_SWALLOWED
from pillarbox.smtp.server import MAX_LINE, ServerConnection
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
    V.BDAT: b"BDAT 3 LAST",
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
}
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
}
COMMAND_STATES = (S.START, S.READY, S.MAIL, S.REFUSED, S.RCPT)


def greeted() -> ServerConnection:
    connection = ServerConnection(HOST)
    assert connection.send(GREETING) == b"220 mx.example.test ESMTP\r\n"
    return connection


def at(state: ServerState) -> ServerConnection:
    """A connection in that state, by honest means."""
    connection = greeted()
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

OK, SEQUENCE, UNKNOWN_TO_US = "ok", 503, 502
MATRIX: dict[ServerState, dict[Verb, str | int]] = {
    S.START: {V.MAIL: 503, V.RCPT: 503, V.DATA: 503},
    S.READY: {V.RCPT: 503, V.DATA: 503},
    S.MAIL: {V.MAIL: 503, V.DATA: 503},
    S.REFUSED: {V.MAIL: 503, V.DATA: 554},  # RFC 5321 §3.3: no valid recipients
    S.RCPT: {V.MAIL: 503},
}


@pytest.mark.parametrize("verb", LINES, ids=str)
@pytest.mark.parametrize("state", COMMAND_STATES, ids=str)
def test_every_command_in_every_state(state: ServerState, verb: Verb) -> None:
    connection = at(state)
    event = put(connection, LINES[verb])
    expected = MATRIX[state].get(verb, OK if verb in EVENTS else UNKNOWN_TO_US)
    if expected == OK:
        assert event == EVENTS[verb]
        assert verb in SERVER[state]
        return
    assert isinstance(event, Refused)
    assert event.verb is verb
    assert event.reply.code == expected
    assert verb not in SERVER[state]
    connection.send(event.reply)
    assert connection.state is state
    assert put(connection, b"NOOP") == Noop()


@pytest.mark.parametrize("verb", [verb for verb in Verb if verb not in (V.CONNECT, V.END_OF_DATA)], ids=str)
def test_no_command_is_left_out(verb: Verb) -> None:
    assert verb in LINES


REPLIES = {2: r.RESET_OK, 3: r.START_DATA, 4: TEMPORARY, 5: r.NO_SUCH_USER}
FOLLOWING: list[tuple[ServerState, Verb, dict[int, ServerState]]] = [
    *((state, verb, {2: S.READY}) for state in COMMAND_STATES for verb in (V.HELO, V.EHLO)),
    *((state, verb, {}) for state in COMMAND_STATES for verb in (V.NOOP, V.VRFY, V.HELP)),
    *((state, V.QUIT, {2: S.CLOSED}) for state in COMMAND_STATES),
    (S.START, V.RSET, {}),
    (S.READY, V.RSET, {}),
    *((state, V.RSET, {2: S.READY}) for state in (S.MAIL, S.REFUSED, S.RCPT)),
    (S.READY, V.MAIL, {2: S.MAIL}),
    (S.MAIL, V.RCPT, {2: S.RCPT, 4: S.REFUSED, 5: S.REFUSED}),
    (S.REFUSED, V.RCPT, {2: S.RCPT}),
    (S.RCPT, V.RCPT, {}),
    (S.RCPT, V.DATA, {3: S.DATA}),
]


@pytest.mark.parametrize(("state", "verb", "following"), FOLLOWING, ids=str)
@pytest.mark.parametrize("klass", REPLIES)
def test_the_state_that_follows(state: ServerState, verb: Verb, following: dict[int, ServerState], klass: int) -> None:
    connection = at(state)
    assert put(connection, LINES[verb]) == EVENTS[verb]
    assert connection.send(REPLIES[klass]) == REPLIES[klass].wire
    assert connection.state is following.get(klass, state)


def test_no_transition_is_left_out() -> None:
    walked = {(state, verb) for state, verb, _ in FOLLOWING}
    assert walked == {(state, verb) for state in COMMAND_STATES for verb in SERVER[state]}


@pytest.mark.parametrize("reply", [QUEUED, r.SPOOL_FAULT, r.TOO_BIG], ids=str)
def test_after_the_message(reply: Reply) -> None:
    connection = at(S.DATA)
    connection.receive_data(b"a\r\n.\r\n")
    assert connection.next_event() == BodyEnd(b"a\r\n", bare=False)
    connection.send(reply)
    assert connection.state is S.READY


# --- greeting and closing


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (GREETING, S.START),
        (r.CONNECT_TOO_MANY, S.CLOSED),
        (r.CONNECT_CLOSING, S.CLOSED),
        (Reply(421, None, ("later",)), S.CLOSED),
        (Reply(554, None, ("no",)), S.CLOSED),
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
        (b"", Refused(None, r.UNRECOGNISED)),
        (b" ", Refused(None, r.UNRECOGNISED)),
        (b" NOOP", Refused(None, r.UNRECOGNISED)),
        (b"NOOPS", Refused(None, r.UNRECOGNISED)),
        (b"MAILFROM:<>", Refused(None, r.UNRECOGNISED)),
        (b"GET / HTTP/1.1", Refused(None, r.UNRECOGNISED)),
        (b"\xff\xfe", Refused(None, r.UNRECOGNISED)),
        (b".", Refused(None, r.UNRECOGNISED)),
        (b"connect", Refused(None, r.UNRECOGNISED)),
        (b"STARTTLS x", Refused(V.STARTTLS, r.NOT_IMPLEMENTED)),
    ],
)
def test_verbs(line: bytes, event: ServerEvent) -> None:
    assert put(at(S.READY), line) == event


@pytest.mark.parametrize("line", [b"HELP", b"NOOP", b"VRFY x", b"RSET"])
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
    assert connection.next_event() == Refused(V.RCPT, r.RECIPIENT_SYNTAX)
    connection.send(r.RECIPIENT_SYNTAX)
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
    assert events == [Refused(None, r.BAD_OCTET), Noop(), Refused(None, r.TOO_MUCH_GARBAGE)]
    assert connection.closed


def test_lf_does_not_end_a_command() -> None:
    connection = at(S.READY)
    connection.receive_data(b"NOOP\nNOOP\n")
    assert connection.next_event() is Wait.NEED_DATA


# --- the bounds (RFC 5321 §4.5.3.1.4)


def _padded(verb: Verb, length: int) -> bytes:
    """A command of so many octets with its CRLF."""
    if verb is V.MAIL:
        line = b"MAIL FROM:<alice@example.test> "
    elif verb is V.RCPT:
        line = b"RCPT TO:<alice@example.test> "
    else:
        line = verb.value.encode() + b" "
    filler = b" " if verb in (V.MAIL, V.RCPT, V.DATA, V.RSET, V.QUIT) else b"x"
    return line + filler * (length - 2 - len(line)) + b"\r\n"


BOUNDS = {V.MAIL: MAX_LINE + 26 + 17}  # RFC 1870 §3, RFC 6152 §2


@pytest.mark.parametrize("verb", [verb for verb in EVENTS if verb not in (V.HELO, V.EHLO)], ids=str)
def test_the_longest_line_and_one_octet_more(verb: Verb) -> None:
    bound = BOUNDS.get(verb, MAX_LINE)
    state = {V.MAIL: S.READY, V.RCPT: S.MAIL}.get(verb, S.RCPT)
    connection = at(state)
    connection.receive_data(_padded(verb, bound))
    assert type(connection.next_event()) is type(EVENTS[verb])
    connection = at(state)
    connection.receive_data(_padded(verb, bound + 1) + b"NOOP\r\n")
    event = connection.next_event()
    assert isinstance(event, Refused)
    assert event.reply == r.LINE_TOO_LONG
    connection.send(event.reply)
    assert connection.next_event() == Noop()


@pytest.mark.parametrize("verb", [V.HELO, V.EHLO, V.BDAT, V.AUTH, V.TURN], ids=str)
@pytest.mark.parametrize("length", [MAX_LINE + 1, MAX_LINE + 43, MAX_LINE + 44, 5000])
def test_lines_too_long(verb: Verb, length: int) -> None:
    connection = at(S.READY)
    connection.receive_data(_padded(verb, length))
    event = connection.next_event()
    assert isinstance(event, Refused)
    assert event.reply == r.LINE_TOO_LONG
    connection.send(event.reply)
    assert connection.state is S.READY


@pytest.mark.parametrize("length", [MAX_LINE + 1, MAX_LINE + 100, 5000])
def test_a_line_too_long_with_no_verb(length: int) -> None:
    connection = at(S.START)
    connection.receive_data(b"x" * (length - 2) + b"\r\n")
    assert connection.next_event() == Refused(None, r.LINE_TOO_LONG)


def test_an_unknown_verb_just_short_enough() -> None:
    assert put(at(S.START), b"x" * (MAX_LINE - 2)) == Refused(None, r.UNRECOGNISED)


@pytest.mark.parametrize("state", COMMAND_STATES, ids=str)
def test_a_line_without_end_closes(state: ServerState) -> None:
    connection = at(state)
    event: ServerEvent | Wait = Wait.NEED_DATA
    for _ in range(MAX_SWALLOWED // 65536 + 2):
        connection.receive_data(b"x" * 65536)
        event = connection.next_event()
        assert len(connection.input) <= 2 * MAX_LINE
        if event is not Wait.NEED_DATA:
            break
    assert event == Refused(None, r.TOO_MUCH_GARBAGE)
    connection.send(r.TOO_MUCH_GARBAGE)
    assert connection.closed
