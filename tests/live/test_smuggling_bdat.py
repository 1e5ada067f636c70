"""Smuggling and injection over BDAT (RFC 3030): a chunk has as many octets as it says, whatever they are.

Where the server under test does not offer CHUNKING, the same tables show that BDAT is nothing but an unknown or
unavailable command. The next hop of the first fixture takes DATA only, so what came as binary has to be converted or
bounced; that of the second takes BDAT too, and must get what was sent.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.live.raw_sink import RawSink
from tests.live.sequences import BARE, END, HEADER, SEQUENCES, SMUGGLED, VICTIM, Sequence
from tests.live.support import HOST, Client, Server

AWAY = "carol@away.example"
FROM = "alice@elsewhere.example"
LIMITS = {
    "connections_per_address": 10_000,
    "errors": 1000,
    "probes": 100_000,
    "transactions": 100_000,
    "message_size": 10_000,
}
BODY = HEADER + b"\r\n"
REFUSALS = ("550", "554", "501", "500")  # to a message that would not do, by 2.5 of nothing but its octets


@pytest.fixture(scope="module", params=[b"", b"250-CHUNKING\r\n250-BINARYMIME\r\n"], ids=["DATA", "BDAT"])
def sink(request: pytest.FixtureRequest) -> Iterator[RawSink]:
    offers = b"250-sink.example\r\n250-PIPELINING\r\n" + request.param + b"250 8BITMIME\r\n"
    with RawSink({b"EHLO": offers}) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sink: RawSink) -> Iterator[Server]:
    settings = {
        "relay": {"networks": [f"{HOST}/32"]},
        "route": [{"match": "*", "next_hop": f"smtp://{HOST}:{sink.port}"}],
        "limits": LIMITS,
    }
    with Server(tmp_path_factory.mktemp("bdat"), settings=settings) as running:
        yield running


@pytest.fixture
def fresh(server: Server, sink: RawSink) -> RawSink:
    server.drained()
    for connection in sink.connections:
        connection.letters.clear()
    return sink


class Chunks(Client):
    """A client that has said EHLO; `offered`: whether it may send BDAT."""

    def __init__(self, port: int) -> None:
        super().__init__(port, hello=False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keywords = {line[4:].split()[0] for line in self.say("EHLO client.example").splitlines()}
        self.offered = "CHUNKING" in keywords
        self.binary = "BINARYMIME" in keywords

    def __enter__(self) -> Chunks:
        return self

    def begin(self, *, binary: bool = False) -> None:
        parameter = " BODY=BINARYMIME" if binary and self.binary else " BODY=8BITMIME"
        assert self.say(f"MAIL FROM:<{FROM}>{parameter}").startswith("250")
        assert self.say(f"RCPT TO:<{AWAY}>").startswith("250")

    def chunk(self, octets: bytes, *, last: bool = True) -> str:
        self.write(b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets)
        return self.reply()

    def is_in_step(self) -> bool:
        """One reply to one command: nothing that was sent before has been taken for another one."""
        return self.say("NOOP")[:3] == "250" and self.say("VRFY in-step")[:3] in ("252", "550", "250", "551", "553")


def unknown(server: Server) -> bool:
    """Where there is no BDAT: that there is none, and nothing is read as its octets."""
    with Chunks(server.port) as client:
        if client.offered:
            return False
        client.begin()
        assert client.say("BDAT 5 LAST")[:3] in ("500", "502")
        assert client.is_in_step()
        return True


def check(server: Server, sink: RawSink, accepted: int) -> None:
    """Nothing bare on a DATA stream, nothing to anybody but the recipient, and never more than was accepted. A binary
    message that could be neither passed on nor converted has come back as a notice to its sender."""
    server.drained()
    assert sink.bare == []
    assert {recipient for letter in sink.letters for recipient in letter.recipients} <= {AWAY.encode(), FROM.encode()}
    assert [letter.sender == b"" for letter in sink.letters] == [
        letter.recipients == [FROM.encode()] for letter in sink.letters
    ]
    assert len(sink.letters) == accepted


def test_all_sequences_in_one_chunk(server: Server, fresh: RawSink) -> None:
    """What looks like an end ends nothing, and what looks like a command is none."""
    if unknown(server):
        return
    accepted = 0
    for sequence in SEQUENCES:
        for binary in (False, True):
            with Chunks(server.port) as client:
                client.begin(binary=binary)
                reply = client.chunk(sequence.wire)
                accepted += one_message(client, reply, may_be_refused=not (binary and client.binary))
    check(server, fresh, accepted)
    assert accepted >= 200


def one_message(client: Chunks, reply: str, *, may_be_refused: bool) -> bool:
    """Whether it was taken; either way nothing but one message was seen."""
    if reply.startswith("250"):
        assert client.is_in_step()
        return True
    assert may_be_refused and reply.startswith(REFUSALS), reply
    return False


def edges() -> list[Sequence]:
    """Those that a strict reader may not take over DATA, for the cut at every octet."""
    return [sequence for sequence in SEQUENCES if BARE.search(sequence.edge)][::7]


def test_two_chunks_cut_at_every_octet_of_the_edge(server: Server, fresh: RawSink) -> None:
    """A CR at the end of one chunk and an LF at the start of the next are still one line end."""
    if unknown(server):
        return
    accepted = 0
    for sequence in edges():
        for at in range(len(HEADER) - 1, len(HEADER) + len(sequence.edge) + 2):
            with Chunks(server.port) as client:
                client.begin(binary=True)
                first = client.chunk(sequence.wire[:at], last=False)
                assert first.startswith("250"), first
                accepted += one_message(client, client.chunk(sequence.wire[at:]), may_be_refused=not client.binary)
    check(server, fresh, accepted)


def test_a_line_end_between_chunks_is_one(server: Server, fresh: RawSink) -> None:
    """Without BINARYMIME, too, and the same message comes out as in one piece."""
    if unknown(server):
        return
    text = b"Subject: x\r\n\r\nx\r\n.\r\n..\r\n.x\r\n"
    for at in range(1, len(text)):
        with Chunks(server.port) as client:
            client.begin()
            assert client.chunk(text[:at], last=False).startswith("250")
            assert client.chunk(text[at:]).startswith("250")
            assert client.is_in_step()
    check(server, fresh, len(text) - 1)
    assert all(letter.text.endswith(text) for letter in fresh.letters)


def test_octets_in_packets_of_one(server: Server, fresh: RawSink) -> None:
    if unknown(server):
        return
    accepted = 0
    for sequence in edges()[::5]:
        with Chunks(server.port) as client:
            client.begin(binary=True)
            client.write(b"BDAT %d LAST\r\n" % len(sequence.wire))
            for piece in sequence.pieces:
                client.write(piece)
            accepted += one_message(client, client.reply(), may_be_refused=not client.binary)
    check(server, fresh, accepted)


SIZES = (
    *("", "LAST", " LAST", "-1 LAST", "-0", "+5 LAST", "0x5 LAST", "5e1 LAST", "5.0 LAST", "1_0 LAST", "5 5", "5,5"),
    *("5LAST", "5 LASTLAST", "5 LAST LAST", "5 FIRST", "LAST 5", "5 \xa0LAST", "\uff15 LAST", "\u0665", "\xb2", "five"),
    *("99999999999999999999999999999 LAST", "18446744073709551616 LAST", "5;LAST", '"5" LAST', "5 LAST\x0b", "5\x0c"),
)


def refused_for_good(client: Chunks, line: bytes) -> None:
    """How many octets follow nobody knows, so nothing that does is read as commands: one refusal, and the end."""
    client.begin()
    client.write(line + b"\r\nRSET\r\n" + SMUGGLED + END)
    assert client.reply()[:3] in ("500", "501", "552", "421")
    assert client.closed()


@pytest.mark.parametrize("size", SIZES)
def test_no_size_is_guessed(server: Server, fresh: RawSink, size: str) -> None:
    if unknown(server):
        return
    with Chunks(server.port) as client:
        refused_for_good(client, f"BDAT {size}".rstrip(" ").encode())
    check(server, fresh, 0)


@pytest.mark.parametrize("bare", [b"\r", b"\n", b"\0", b"\n\r"])
@pytest.mark.parametrize("line", [b"BDAT 5^ LAST", b"BDAT 5 LAST^", b"BDAT ^5 LAST", b"BDAT 5 LA^ST"])
def test_no_line_of_bdat_hides_another(server: Server, fresh: RawSink, line: bytes, bare: bytes) -> None:
    if unknown(server):
        return
    with Chunks(server.port) as client:
        refused_for_good(client, line.replace(b"^", bare + f"RCPT TO:<{VICTIM}>".encode() + bare))
    check(server, fresh, 0)


# --- what is refused is swallowed, to the octet

REFUSED = {
    "no transaction": ([], "503"),
    "no recipient": ([f"MAIL FROM:<{FROM}>"], "503"),
    "no good recipient": ([f"MAIL FROM:<{FROM}>", "RCPT TO:<nonsense>"], "503"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("last", [True, False])
def test_a_refused_chunk_is_swallowed(server: Server, fresh: RawSink, case: str, *, last: bool) -> None:
    """The commands in it are none (RFC 3030 §2)."""
    if unknown(server):
        return
    before, code = REFUSED[case]
    for octets in (b"\r\n" + SMUGGLED + END, b"QUIT\r\n", b".\r\n", b"\n", b"", b"\0" * 5000, b"x" * 200_000 + END):
        with Chunks(server.port) as client:
            for line in before:
                client.say(line)
            reply = client.chunk(octets, last=last)
            assert reply[:3] in (code, "554", "552"), reply
            assert client.is_in_step()
    check(server, fresh, 0)


def test_a_message_that_is_too_large_is_swallowed(server: Server, fresh: RawSink) -> None:
    if unknown(server):
        return
    with Chunks(server.port) as client:
        client.begin()
        assert client.chunk(BODY, last=False).startswith("250")
        assert client.chunk(b"x" * LIMITS["message_size"] + b"\r\n" + SMUGGLED + END).startswith("552")
        assert client.is_in_step()
    check(server, fresh, 0)


def test_commands_that_are_out_of_place_between_chunks(server: Server, fresh: RawSink) -> None:
    """DATA, MAIL and RCPT are, and the message goes on; RSET ends it (RFC 3030 §2, §3)."""
    if unknown(server):
        return
    with Chunks(server.port) as client:
        client.begin()
        assert client.chunk(BODY, last=False).startswith("250")
        for line in ("DATA", f"MAIL FROM:<{FROM}>", f"RCPT TO:<{VICTIM}>"):
            assert client.say(line).startswith("503"), line
        assert client.chunk(b"", last=True).startswith("250")
        client.begin()
        assert client.chunk(BODY, last=False).startswith("250")
        assert client.say("RSET").startswith("250")
        assert client.chunk(SMUGGLED).startswith("503")
        assert client.is_in_step()
    check(server, fresh, 1)


def test_binary_is_not_for_data(server: Server, fresh: RawSink) -> None:
    if unknown(server):
        return
    with Chunks(server.port) as client:
        if client.binary:
            client.begin(binary=True)
            assert client.say("DATA").startswith("503")
            assert client.is_in_step()
    check(server, fresh, 0)


def test_pipelined_chunks(server: Server, fresh: RawSink) -> None:
    """A whole transaction in one write, with what looks like ends and commands in each chunk."""
    if unknown(server):
        return
    chunks = [BODY, b".\r\n", SMUGGLED + END, b"QUIT\r\n", b"BDAT 5 LAST\r\n", b".\r\n"]
    lines = [f"MAIL FROM:<{FROM}>\r\nRCPT TO:<{AWAY}>\r\n".encode()]
    lines += [b"BDAT %d\r\n" % len(octets) + octets for octets in chunks]
    with Chunks(server.port) as client:
        client.write(b"".join(lines) + b"BDAT 0 LAST\r\n")
        said = [client.reply()[:3] for _ in range(len(chunks) + 3)]
        assert said == ["250"] * len(said)
        assert client.is_in_step()
    check(server, fresh, 1)
    (letter,) = fresh.letters
    assert letter.text.endswith(b"".join(chunks))


@pytest.mark.parametrize("at", range(1, 40, 3))
def test_a_connection_that_ends_in_a_chunk_brings_nothing(server: Server, fresh: RawSink, at: int) -> None:
    if unknown(server):
        return
    wire = b"BDAT 20 LAST\r\n" + (BODY + b"x" * 20)[:20]
    with Chunks(server.port) as client:
        client.begin()
        client.write(wire[: min(at, len(wire) - 1)])
    check(server, fresh, 0)


def test_the_tables_are_large_enough() -> None:
    assert len(SEQUENCES) >= 200 and len(edges()) >= 50 and len(SIZES) >= 25
    assert not re.search(rb"BDAT", b"".join(sequence.wire for sequence in SEQUENCES))
