"""Octets without sense: whatever comes, in whatever pieces, the same events and no surprise.

Two invariants: how octets are cut never matters, and nothing but the protocol's own errors comes out. Framing is held
against a reference that is too slow to use and too simple to be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.reply import Reply
from pillarbox.core.table import KNOWN
from pillarbox.smtp.client import MAX_DROPPED_LINES, MAX_REPLY_LINE, ClientConnection
from pillarbox.smtp.events import (
    BodyChunk,
    BodyEnd,
    ChunkEnd,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    ReplyReceived,
    ServerEvent,
    Wait,
)
from pillarbox.smtp.framing import (
    END_OF_DATA,
    MAX_SWALLOWED,
    DataReader,
    DataWriter,
    LineReader,
    UnsafeOctets,
    has_bare_octet,
)
from pillarbox.smtp.server import MAX_AUTH, ServerConnection
from pillarbox.smtp.states import ServerState, Verb

few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
many = settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOST = Domain.parse("mx.example.test")
ALICE = Mailbox.parse("alice@example.test")
LONGEST_LINE = MAX_AUTH  # octets, of any command
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")

# --- octets and their cuts

_ends = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\r\n", b"\0", b".", b".", b"\r\n.\r\n", b"\n.\r\n", b"\r\n.\n", b"\ra\n", b"\r.\n"]
)
_noise = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"a", b" ", b"\x80", b"\xc3\xbc", b"<", b">", b":", b'"', b"=", b"x" * 520]),
)
_commands = st.sampled_from(
    [
        b"EHLO client.example\r\n",
        b"HELO client.example\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@b.test> SIZE=100 BODY=8BITMIME\r\n",
        b"RCPT TO:<alice@example.test>\r\n",
        b"RCPT TO:<@x.test:Postmaster>\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"NOOP x\r\n",
        b"VRFY x\r\n",
        b"HELP\r\n",
        b"QUIT\r\n",
        b"BDAT 5\r\n",
        b"EXPN staff\r\n",
        b"SEND FROM:<>\r\n",
        b"SOML FROM:<a@b.test> AUTH=<>\r\n",
        b"SAML FROM:<> SIZE=1\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"AGEAYg==\r\n",
        b"*\r\n",
        b"TURN\r\n",
        b"STARTTLS\r\n",
        b"ATRN a.test,b.test\r\n",
        b"ETRN @a.test\r\n",
        b"RSET A=B\r\n",
        b"AUTH ",
        b"ATRN a.test,",
        b"MAIL FROM:",
        b"RCPT TO:<",
        b"EHLO [IPv6:",
    ]
)
_replies = st.sampled_from(
    [
        b"220 mx.example.test\r\n",
        b"250 OK\r\n",
        b"250\r\n",
        b"250-PIPELINING\r\n",
        b"250-2.1.0 a\r\n250 2.1.0 b\r\n",
        b"354 go\r\n",
        b"421 4.3.2 bye\r\n",
        b"450 4.2.2 later\r\n",
        b"550 5.1.1 no\r\n",
        b"550-5.1.1 no\r\n",
        b"599 odd\r\n",
        b"199 odd\r\n",
        b"250 " + b"x" * MAX_REPLY_LINE + b"\r\n",
        b"25",
        b"-",
    ]
)
bodies = st.lists(st.one_of(_ends, _ends, _noise), max_size=12).map(b"".join)
dialogs = st.lists(st.one_of(_commands, _commands, _ends, _noise), max_size=14).map(b"".join)
answers = st.lists(st.one_of(_replies, _replies, _replies, _ends, _noise), max_size=10).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=12)


def cut_up(octets: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(octets), *(place for place in places if place < len(octets))})
    return [octets[start:end] for start, end in pairwise(marks)]


def one_by_one(octets: bytes) -> list[bytes]:
    return [octets[index : index + 1] for index in range(len(octets))]


# --- framing and its reference


def reference(wire: bytes) -> tuple[bytes, bool, bytes] | None:
    """The message, whether it has bare octets, and what follows; None where it does not end."""
    body, mark, rest = (b"\r\n" + wire).partition(END_OF_DATA)
    if not mark:
        return None
    lines = [line.removeprefix(b".") for line in (body + b"\r\n").split(b"\r\n")]
    message = b"\r\n".join(lines)[2:]
    return message, BARE.search(message) is not None, rest


@many
@given(bodies, cuts)
def test_messages_are_read_as_by_the_reference(wire: bytes, places: list[int]) -> None:
    expected = reference(wire)
    for pieces in ([wire], cut_up(wire, places), one_by_one(wire)):
        reader = DataReader()
        message, rest = b"", b""
        for piece in pieces:
            if reader.done:
                rest += piece
            else:
                message += reader.feed(piece)
        if expected is None:
            assert not reader.done
        else:
            assert reader.done
            assert (message, reader.bare, reader.rest + rest) == expected


@many
@given(bodies, cuts)
def test_messages_are_written_so_that_they_are_read_again(message: bytes, places: list[int]) -> None:
    for pieces in ([message], cut_up(message, places), one_by_one(message)):
        writer = DataWriter()
        try:
            before = b"".join([writer.write(piece) for piece in pieces])
            wire = before + writer.end()
        except UnsafeOctets:
            assert BARE.search(message)
            continue
        assert not BARE.search(message)
        assert not BARE.search(wire)
        assert END_OF_DATA not in b"\r\n" + before
        assert (b"\r\n" + wire).index(END_OF_DATA) == len(wire) - 3
        whole = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
        assert reference(wire) == (whole, False, b"")


@many
@given(bodies)
def test_bare_octets(octets: bytes) -> None:
    assert has_bare_octet(octets) is (BARE.search(octets) is not None)


@many
@given(dialogs, cuts, st.integers(2, 40))
def test_lines_are_cut_anywhere(octets: bytes, places: list[int], limit: int) -> None:
    expected = [line if len(line) + 2 <= limit else None for line in octets.split(b"\r\n")[:-1]]  # None: too long
    for pieces in ([octets], cut_up(octets, places), one_by_one(octets)):
        reader = LineReader(limit)
        lines: list[bytes | None] = []
        for piece in pieces:
            reader.feed(piece)
            while (line := reader.next_line()) is not None:
                lines.append(line if isinstance(line, bytes) else None)
            assert len(reader) < max(limit, 2)
        assert lines == expected


# --- the server

OPENING: dict[ServerState, list[tuple[bytes, Reply]]] = {
    ServerState.START: [],
    ServerState.READY: [(b"EHLO client.example\r\n", r.hello("mx.example.test"))],
}
OPENING[ServerState.MAIL] = [*OPENING[ServerState.READY], (b"MAIL FROM:<>\r\n", r.SENDER_OK)]
OPENING[ServerState.REFUSED] = [*OPENING[ServerState.MAIL], (b"RCPT TO:<x@example.test>\r\n", r.NO_SUCH_USER)]
OPENING[ServerState.RCPT] = [*OPENING[ServerState.MAIL], (b"RCPT TO:<x@example.test>\r\n", r.RECIPIENT_OK)]
OPENING[ServerState.DATA] = [*OPENING[ServerState.RCPT], (b"DATA\r\n", r.START_DATA)]
OPENING[ServerState.AUTH] = [*OPENING[ServerState.READY], (b"AUTH PLAIN\r\n", r.AUTH_CONTINUE)]
OPENING[ServerState.NO_MAIL] = []

_GOOD: dict[str, Reply] = {
    "Hello": r.hello("mx.example.test"),
    "DataCommand": r.START_DATA,
    "Quit": r.BYE,
    "Authenticate": r.AUTH_CONTINUE,
    "AuthResponse": r.AUTHENTICATED,
    "StartTls": r.START_TLS,
    "Turn": r.TURN_OK,
    "Atrn": r.TURN_OK,
}


def server_at(state: ServerState) -> ServerConnection:
    connection = ServerConnection(HOST)
    connection.send((r.no_mail_greeting if state is ServerState.NO_MAIL else r.greeting)("mx.example.test"))
    for line, reply in OPENING[state]:
        connection.receive_data(line)
        connection.next_event()
        connection.send(reply)
    assert connection.state is state
    return connection


_OVER = (ServerState.CLOSED, ServerState.SWAPPED, ServerState.TLS)


def _answer(event: ServerEvent, *, willing: bool) -> Reply:
    if isinstance(event, Refused):
        assert event.reply.code in KNOWN[event.verb.value]
        return event.reply
    if isinstance(event, BodyEnd) and event.bare:
        return r.BARE_OCTET_IN_DATA
    return _GOOD.get(type(event).__name__, r.NOOP_OK) if willing else r.LOCAL_FAULT


def serve(state: ServerState, pieces: list[bytes], moods: list[bool]) -> list[object]:
    """All that the connection reports, pieces of one body put together; `moods` say which commands are accepted."""
    connection = server_at(state)
    seen: list[object] = []
    body = b""
    answered = 0
    for piece in pieces:
        connection.receive_data(piece)
        while not isinstance(event := connection.next_event(), Wait):
            if isinstance(event, BodyChunk):
                assert event.octets
                body += event.octets
                continue
            if isinstance(event, BodyEnd):
                seen.append((body + event.octets, event.bare))
                body = b""
            elif isinstance(event, ChunkEnd):
                seen.append((body + event.octets, event.last, event.bare))
                body = b""
            else:
                seen.append(event)
            reply = _answer(event, willing=moods[answered % len(moods)])
            answered += 1
            assert connection.send(reply) in (reply.wire, reply.bare.wire)
        assert connection.state in _OVER or len(connection.input) < LONGEST_LINE
    return [*seen, connection.state, connection.closed or body + bytes(len(connection.input))]


@pytest.mark.parametrize("state", OPENING, ids=str)
@few
@given(octets=dialogs, places=cuts, moods=st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_server_from_every_state(state: ServerState, octets: bytes, places: list[int], moods: list[bool]) -> None:
    whole = serve(state, [octets], moods)
    # What is held back of a body is a matter of the cut: only what is complete is compared.
    assert serve(state, cut_up(octets, places), moods)[:-1] == whole[:-1]
    assert serve(state, one_by_one(octets), moods)[:-1] == whole[:-1]


@pytest.mark.parametrize("octets", [b"x", b"\r", b"\n", b"\0", b" ", b"\r\r\n\n"])
@pytest.mark.parametrize("state", OPENING, ids=str)
def test_the_server_holds_little(state: ServerState, octets: bytes) -> None:
    connection = server_at(state)
    for _ in range(48):
        connection.receive_data(octets * (65536 // len(octets)))
        while not isinstance(event := connection.next_event(), Wait):
            if not isinstance(event, BodyChunk):
                connection.send(_answer(event, willing=True))
        if connection.closed:
            break
        assert len(connection.input) < LONGEST_LINE
    assert connection.closed is (state is not ServerState.DATA)


# --- the client

Opening = Callable[[], ClientConnection]


def _feed(client: ClientConnection, octets: bytes) -> None:
    client.receive_data(octets)
    while client.next_event() is not Wait.NEED_DATA:
        pass


def _connecting() -> ClientConnection:
    return ClientConnection()


def _greeted() -> ClientConnection:
    client = _connecting()
    _feed(client, b"220 mx\r\n")
    return client


def _said_ehlo() -> ClientConnection:
    client = _greeted()
    client.send(Verb.EHLO, "client.example")
    return client


def _ready() -> ClientConnection:
    client = _said_ehlo()
    _feed(client, b"250-mx\r\n250 PIPELINING\r\n")
    return client


def _pipelined() -> ClientConnection:
    client = _ready()
    client.mail(None)
    client.rcpt(ALICE)
    client.rcpt(ALICE)
    client.send(Verb.DATA)
    return client


def _sending() -> ClientConnection:
    client = _pipelined()
    _feed(client, b"250 a\r\n250 b\r\n250 c\r\n354 d\r\n")
    return client


def _sent() -> ClientConnection:
    client = _sending()
    client.end_body()
    return client


def _turning() -> ClientConnection:
    client = _ready()
    client.send(Verb.ATRN, "a.test")
    return client


def _leaving() -> ClientConnection:
    client = _ready()
    client.send(Verb.QUIT)
    return client


CLIENTS: list[Opening] = [_connecting, _greeted, _said_ehlo, _ready, _pipelined, _sending, _sent, _turning, _leaving]


def hear(opening: Opening, pieces: list[bytes]) -> list[object]:
    client = opening()
    heard: list[object] = []
    for piece in pieces:
        client.receive_data(piece)
        try:
            while isinstance(event := client.next_event(), ReplyReceived):
                assert 200 <= event.code <= 599
                assert event.lines
                heard.append(event)
        except RemoteProtocolError as error:
            return [*heard, str(error)]
    return [*heard, client.state, client.awaiting, client.capabilities]


@pytest.mark.parametrize("opening", CLIENTS, ids=lambda opening: opening.__name__)
@few
@given(octets=answers, places=cuts)
def test_the_client_from_every_state(opening: Opening, octets: bytes, places: list[int]) -> None:
    whole = hear(opening, [octets])
    assert hear(opening, cut_up(octets, places)) == whole
    assert hear(opening, one_by_one(octets)) == whole


@pytest.mark.parametrize("octets", [b"x", b"\r", b"\n", b"\0", b"250-a\r\n", b"250 a\r\n", b"250\r"])
@pytest.mark.parametrize(
    "opening", [one for one in CLIENTS if one is not _turning], ids=lambda opening: opening.__name__
)
def test_the_client_gives_up(opening: Opening, octets: bytes) -> None:
    """Before more has come than one over-long line, or the most lines of one reply."""
    client = opening()
    fed = 0
    with pytest.raises(RemoteProtocolError):
        while fed <= MAX_SWALLOWED + 8 * MAX_DROPPED_LINES:
            client.receive_data(octets * 1000)
            fed += 1000 * len(octets)
            while client.next_event() is not Wait.NEED_DATA:
                pass


@few
@given(st.sampled_from([Verb.EHLO, Verb.HELO, Verb.QUIT]), st.text(max_size=20))
def test_one_command_is_one_line(verb: Verb, argument: str) -> None:
    client = _greeted()
    try:
        octets = client.send(verb, argument)
    except LocalProtocolError:
        assert client.awaiting == 0
        return
    assert octets.endswith(b"\r\n")
    assert not BARE.search(octets)
    assert octets.count(b"\r\n") == 1
    assert octets.isascii() or (verb in (Verb.MAIL, Verb.RCPT) and octets.decode()[:-2].isprintable())
