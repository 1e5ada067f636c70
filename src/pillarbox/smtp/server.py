"""ServerConnection: the server's side of one SMTP connection, without I/O.

Use: `receive_data(octets)`, then `next_event()` until it gives a Wait; each event but BodyChunk is answered by
`send(reply)`, which gives the octets to write. Commands that were pipelined come out one by one (RFC 2920 §3.2): the
next is not looked at before the last is answered. What a command means for mail is not known here; which commands may
come, and what follows, stands in `states.py`. Only ProtocolError is raised, and only for misuse by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping

from pillarbox.core import reply as r
from pillarbox.core.address import Domain
from pillarbox.core.reply import Reply
from pillarbox.core.table import KNOWN
from pillarbox.smtp.events import BodyChunk, BodyEnd, ChunkEnd, LocalProtocolError, Refused, ServerEvent, Wait
from pillarbox.smtp.framing import Chunk, ChunkReader, DataReader, LineFault, LineReader
from pillarbox.smtp.grammar import PARSERS, VERBS, Parser, parse_response
from pillarbox.smtp.states import SERVER, ServerState, Verb

MAX_LINE = 512  # octets with CRLF, RFC 5321 §4.5.3.1.4
MAX_AUTH = 12288  # octets with CRLF, RFC 4954 §4
# What the extensions add to MAIL and its kin, and to RCPT: the longest form of each parameter, with its space.
_MAIL_EXTENSIONS = (
    len(" SIZE=12345678901234567890")  # RFC 1870 §3
    + len(" BODY=BINARYMIME")  # RFC 3030 §3
    + 500  # AUTH, RFC 4954 §5
    + len(" RET=FULL ENVID=") + 100  # RFC 3461 §4.3, §4.4
    + len(" SMTPUTF8 REQUIRETLS")  # RFC 6531 §3.1, RFC 8689 §2
    + len(" BY=-123456789;NT")  # RFC 2852 §2
    + len(" HOLDUNTIL=2026-12-31T23:59:59.123456+00:00")  # RFC 4865 §4
    + len(" MT-PRIORITY=-9")  # RFC 6710 §3
)  # fmt: skip
_RCPT_EXTENSIONS = (
    len(" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=") + 500  # RFC 3461 §4.1, §4.2
    + len(" RRVS=2026-12-31T23:59:59.123456+00:00;C")  # RFC 7293 §3
)  # fmt: skip
MAX_LINES: Mapping[Verb, int] = {
    **dict.fromkeys((Verb.MAIL, Verb.SEND, Verb.SOML, Verb.SAML), MAX_LINE + _MAIL_EXTENSIONS),
    Verb.RCPT: MAX_LINE + _RCPT_EXTENSIONS,
    Verb.VRFY: MAX_LINE + len(" SMTPUTF8"),  # RFC 6531 §3.1
    Verb.EXPN: MAX_LINE + len(" SMTPUTF8"),
    Verb.AUTH: MAX_AUTH,
}
_NUL, _LF, _CR = b"\0\n\r"  # as numbers: `in` looks for those without detour
_LONGEST = max(MAX_LINES.values())


_HELLOS = frozenset((Verb.HELO, Verb.EHLO, Verb.LHLO))


class Offer:
    """The commands that a service has; one for all of its connections. Those withheld get 502, but that the greeting of
    the other protocol, SMTP or LMTP, is no command here: 500 (RFC 2033 §4.1)."""

    def __init__(self, withheld: frozenset[Verb] = frozenset()) -> None:
        self.withheld = withheld
        # By state and by the word of a command: the commands that may come, with their parsers.
        self.expected: Mapping[ServerState, Mapping[bytes, tuple[Verb, Parser]]] = {
            state: {verb.value.encode(): (verb, PARSERS[verb]) for verb in verbs if self.has(verb)}
            for state, verbs in SERVER.items()
        }
        self.following: Mapping[ServerState, Mapping[Verb, Mapping[int, ServerState]]] = {
            state: {verb: after for verb, after in verbs.items() if verb not in PARSERS or self.has(verb)}
            for state, verbs in SERVER.items()
        }

    def has(self, verb: Verb) -> bool:
        return verb in PARSERS and verb not in self.withheld

    def refusal(self, verb: Verb) -> Reply:
        """What a command gets that is not offered."""
        return r.UNRECOGNISED if verb in _HELLOS else r.NOT_IMPLEMENTED


_EVERYTHING = Offer(frozenset((Verb.LHLO,)))  # of SMTP
_KNOWN: Mapping[Verb, frozenset[int]] = {verb: KNOWN[verb.value] for verb in Verb}
_CLOSED, _DATA, _PAUSED, _NEED_DATA = ServerState.CLOSED, ServerState.DATA, Wait.PAUSED, Wait.NEED_DATA
_CHUNK, _LAST_CHUNK = ServerState.CHUNK, ServerState.LAST_CHUNK
_BETWEEN_CHUNKS = frozenset((ServerState.RCPT, ServerState.CHUNKS))  # a BDAT may come
_AUTH, _NO_MAIL, _SWAPPED, _TLS = ServerState.AUTH, ServerState.NO_MAIL, ServerState.SWAPPED, ServerState.TLS
_WITHOUT_LINES = frozenset((_DATA, _CHUNK, _LAST_CHUNK, _CLOSED, _SWAPPED, _TLS))
_WITHOUT_ENHANCED = _HELLOS | {Verb.CONNECT}  # RFC 2034 §4

_OPENING = (Verb.MAIL, Verb.SEND, Verb.SOML, Verb.SAML)
_OUTSIDE = (Verb.SEND, Verb.SOML, Verb.SAML, Verb.STARTTLS, Verb.AUTH, Verb.TURN, Verb.ATRN, Verb.ETRN)

# What is said to a command that may not come in this state; all others get BAD_SEQUENCE (RFC 5321 §4.1.4).
_OUT_OF_PLACE: Mapping[tuple[ServerState, Verb], Reply] = {
    (ServerState.START, Verb.MAIL): r.NEED_HELO,
    (ServerState.START, Verb.RCPT): r.NEED_HELO,
    (ServerState.START, Verb.DATA): r.NEED_HELO,
    **dict.fromkeys(((ServerState.START, verb) for verb in _OUTSIDE), r.NEED_HELO),
    (ServerState.READY, Verb.RCPT): r.NEED_MAIL,
    (ServerState.READY, Verb.DATA): r.NEED_MAIL,
    (ServerState.MAIL, Verb.DATA): r.NEED_RCPT,
    (ServerState.REFUSED, Verb.DATA): r.NO_VALID_RECIPIENTS,  # RFC 5321 §3.3, RFC 2920 §3.1
    (ServerState.START, Verb.BDAT): r.NEED_HELO,
    (ServerState.READY, Verb.BDAT): r.NEED_MAIL,
    (ServerState.MAIL, Verb.BDAT): r.NEED_RCPT,
    (ServerState.REFUSED, Verb.BDAT): r.NO_VALID_RECIPIENTS,
    (ServerState.SPOILT, Verb.BDAT): r.CHUNK_REFUSED,  # RFC 3030 §2
    **{
        (state, verb): r.CHUNKS_BEGUN
        for state in (ServerState.CHUNKS, ServerState.SPOILT)
        for verb in (*_OPENING, *_OUTSIDE, Verb.RCPT, Verb.DATA)
    },
    **{
        (state, verb): r.NESTED_MAIL if verb in _OPENING else r.IN_TRANSACTION
        for state in (ServerState.MAIL, ServerState.REFUSED, ServerState.RCPT)
        for verb in (*_OPENING, *_OUTSIDE)
    },
}


class ServerConnection:
    """One connection from its greeting to its close."""

    __slots__ = (
        "_bad_octets",
        "_chunks",
        "_data",
        "_expected",
        "_hostname",
        "_offer",
        "_pending",
        "_resumed",
        "_swallowing",
        "input",
        "receive_data",
        "state",
        "unlisted",
    )

    def __init__(self, hostname: Domain, offer: Offer = _EVERYTHING) -> None:
        """`hostname` is ours: where `<Postmaster>` without a domain is."""
        self._offer = offer
        self._expected = offer.expected
        self.unlisted: str | None = None  # a reply was sent that the reply table does not know for its command
        self.state = ServerState.CONNECT
        self._hostname = hostname.ascii
        self.input = LineReader(_LONGEST)  # `empty`: there is nothing to be asked for
        self.receive_data = self.input.feed  # take octets from the peer; they wait until they are asked for
        self._data: DataReader | None = None
        self._chunks: ChunkReader | None = None  # of the message that comes by BDAT
        self._swallowing: Refused | None = None  # what is said behind the octets of a BDAT that has no place here
        self._resumed = ServerState.CONNECT  # the state that such a BDAT found
        self._pending: Verb | None = Verb.CONNECT
        self._bad_octets = False  # a bare CR, LF or NUL has come in a command before

    @property
    def closed(self) -> bool:
        return self.state is ServerState.CLOSED

    def next_event(self) -> ServerEvent | Wait:
        """The next thing that the peer did."""
        if self._pending is not None:
            return _PAUSED
        state = self.state
        if state in _WITHOUT_LINES:
            if state is _DATA:
                return self._next_of_body()
            return self._next_of_chunk() if state is _CHUNK or state is _LAST_CHUNK else _PAUSED
        line = self.input.next_line()
        if not isinstance(line, bytes):
            return _NEED_DATA if line is None else self._unreadable(line)
        if state is _AUTH:
            return self._response(line)
        word, _, argument = line.partition(b" ")
        word = word.upper()
        expected = self._expected[state].get(word)
        if expected is None or len(line) + 2 > MAX_LINE or _LF in line or _CR in line or _NUL in line:
            refusal = self._refusal(VERBS.get(word), line)
            if refusal is not None:
                return refusal
            assert expected is not None
        self._pending, parse = expected
        event = parse(argument, self._hostname)
        if type(event) is Chunk:
            return self._begin_chunk(event, None)
        return event

    def _unreadable(self, fault: LineFault) -> Refused:
        """A line of which nothing is left but its beginning."""
        verb = Verb.AUTH if self.state is _AUTH else VERBS.get(self.input.head.partition(b" ")[0].upper())
        if fault is LineFault.ENDLESS:
            return self._refuse(verb, r.TOO_MUCH_GARBAGE)
        if verb is Verb.BDAT:
            return self._refuse(verb, self._unreadable_chunk)
        return self._refuse(verb, r.AUTH_LINE_TOO_LONG if verb is Verb.AUTH else r.LINE_TOO_LONG)

    def _response(self, line: bytes) -> ServerEvent:
        self._pending = Verb.AUTH
        return parse_response(line)

    def _refusal(self, verb: Verb | None, line: bytes) -> Refused | Wait | None:
        """What is wrong with the line before its argument is looked at, the worst first."""
        if verb is Verb.BDAT:
            return self._refused_chunk(line)
        if _LF in line or _CR in line or _NUL in line:
            reply = r.TOO_MUCH_GARBAGE if self._bad_octets else r.BAD_OCTET
            self._bad_octets = True
            return self._refuse(verb, reply)
        if len(line) + 2 > (MAX_LINE if verb is None else MAX_LINES.get(verb, MAX_LINE)):
            return self._refuse(verb, r.AUTH_LINE_TOO_LONG if verb is Verb.AUTH else r.LINE_TOO_LONG)
        if self.state is _NO_MAIL and verb is not Verb.QUIT:
            return self._refuse(verb, r.NO_MAIL_HERE)
        if verb is None:
            return self._refuse(None, r.UNRECOGNISED)
        if not self._offer.has(verb):
            return self._refuse(verb, self._offer.refusal(verb))
        if verb not in SERVER[self.state]:
            return self._refuse(verb, _OUT_OF_PLACE.get((self.state, verb), r.BAD_SEQUENCE))
        return None

    def _refuse(self, verb: Verb | None, reply: Reply) -> Refused:
        self._pending = verb or Verb.UNKNOWN
        return Refused(self._pending, reply)

    def _refused_chunk(self, line: bytes) -> Refused | Wait | None:
        """A BDAT that has no place here: its octets are swallowed all the same (RFC 3030 §2)."""
        parsed = PARSERS[Verb.BDAT](line.partition(b" ")[2], self._hostname)
        if not isinstance(parsed, Chunk) or len(line) + 2 > MAX_LINE:
            return self._refuse(Verb.BDAT, self._unreadable_chunk)
        if self.state is _NO_MAIL:
            reply = r.NO_MAIL_HERE
        elif not self._offer.has(Verb.BDAT):
            reply = r.NOT_IMPLEMENTED
        elif self.state in _BETWEEN_CHUNKS:
            return None
        else:
            reply = _OUT_OF_PLACE.get((self.state, Verb.BDAT), r.BAD_SEQUENCE)
        refused = self._begin_chunk(parsed, Refused(Verb.BDAT, reply))
        assert isinstance(refused, Refused | Wait)
        return refused

    @property
    def _unreadable_chunk(self) -> Reply:
        return r.NO_MAIL_HERE if self.state is _NO_MAIL else r.BAD_CHUNK

    def _begin_chunk(self, chunk: Chunk, refusal: Refused | None) -> ServerEvent | Wait:
        self._pending = None
        if self._chunks is None or refusal is not None or self.state is not ServerState.CHUNKS:
            self._chunks = ChunkReader()
        self._swallowing = refusal
        self._resumed = self.state
        self._chunks.begin(chunk)
        self.state = _LAST_CHUNK if chunk.last and refusal is None else _CHUNK
        return self._next_of_chunk()

    def _next_of_chunk(self) -> ServerEvent | Wait:
        chunks = self._chunks
        assert chunks is not None
        if self.input.empty and not chunks.done:
            return _NEED_DATA
        octets = chunks.feed(self.input.take_all())
        if not chunks.done:
            return BodyChunk(octets) if octets and self._swallowing is None else _NEED_DATA
        if chunks.rest:
            self.input.feed(chunks.rest)
        self._pending = Verb.BDAT
        if self._swallowing is not None:
            self.state, refusal, self._swallowing = self._resumed, self._swallowing, None
            return refusal
        return ChunkEnd(octets, chunks.last, chunks.bare)

    def _next_of_body(self) -> ServerEvent | Wait:
        if self.input.empty:
            return _NEED_DATA
        data = self._data or DataReader()
        octets = data.feed(self.input.take_all())
        if data.done:
            if data.rest:
                self.input.feed(data.rest)
            self._data = None
            self._pending = Verb.END_OF_DATA
            return BodyEnd(octets, data.bare)
        self._data = data
        return BodyChunk(octets) if octets else _NEED_DATA

    def send(self, reply: Reply) -> bytes:
        """Answer the last event (or greet). Gives the octets to write. Raises LocalProtocolError."""
        verb = self._pending
        if verb is None:
            raise LocalProtocolError(f"nothing to answer with {reply}")
        self._pending = None
        if reply.enhanced is not None and verb in _WITHOUT_ENHANCED:
            reply = reply.bare
        code = reply.code
        if code not in _KNOWN[verb]:
            self.unlisted = f"{reply} to {verb.value}"
        if reply.closes:
            self.state = ServerState.CLOSED
        else:
            transitions = self._offer.following[self.state].get(verb)
            if transitions:
                self.state = transitions.get(code // 100, self.state)
        return reply.wire

    def secured(self) -> None:
        """The handshake behind STARTTLS is done. Raises LocalProtocolError."""
        if self.state is not _TLS:
            raise LocalProtocolError("no STARTTLS was accepted")
        self.state = ServerState.START

    def close(self, reply: Reply) -> bytes:
        """End the connection with a reply that no command asked for (421), or that takes the place of the due one."""
        self._pending = None
        self.state = ServerState.CLOSED
        return reply.wire
