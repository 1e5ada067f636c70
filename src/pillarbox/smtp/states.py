"""The two transition tables of SMTP, the server's and the client's, and nothing else.

A row says which commands may come in a state and which state follows, by the first digit of the reply; a digit that
is not named leaves the state as it is. This file knows neither syntax nor reply texts. The diagram in
`docs/explanation/states.md` is printed from these tables. RFC 5321 §4.1.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class Verb(Enum):
    """Every command, those that are only recognised among them; END_OF_DATA stands for CRLF.CRLF, UNKNOWN for a word
    that is none."""

    CONNECT = "connect"
    HELO = "HELO"
    EHLO = "EHLO"
    LHLO = "LHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    END_OF_DATA = "."
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"
    VRFY = "VRFY"
    HELP = "HELP"
    EXPN = "EXPN"
    SEND = "SEND"
    SOML = "SOML"
    SAML = "SAML"
    TURN = "TURN"
    ETRN = "ETRN"
    ATRN = "ATRN"
    AUTH = "AUTH"
    STARTTLS = "STARTTLS"
    BDAT = "BDAT"
    UNKNOWN = "unknown"

    __hash__ = object.__hash__  # members are singletons; the hash of Enum is a Python function


class ServerState(Enum):
    CONNECT = auto()  # the greeting has not been sent
    START = auto()  # greeted; the client has not said who it is
    READY = auto()  # HELO or EHLO accepted, no transaction
    MAIL = auto()  # transaction open, no RCPT so far
    REFUSED = auto()  # transaction open, every RCPT so far was refused
    RCPT = auto()  # transaction open, at least one recipient
    DATA = auto()  # 354 was sent, the message is coming in
    CHUNK = auto()  # the octets of a BDAT are coming in
    LAST_CHUNK = auto()  # so are those of the last one
    CHUNKS = auto()  # a chunk was taken, more are to come
    SPOILT = auto()  # a chunk was refused: the message is lost
    TLS = auto()  # STARTTLS was accepted: the handshake comes next
    AUTH = auto()  # 334 was sent, the client's response is awaited
    NO_MAIL = auto()  # the greeting was 521 or 554: nothing but QUIT is obeyed
    SWAPPED = auto()  # TURN or ATRN was accepted: the peer is the server now
    CLOSED = auto()  # the last reply was sent

    __hash__ = object.__hash__


class ClientState(Enum):
    CONNECT = auto()  # the greeting has not come
    START = auto()  # greeted, EHLO not accepted yet
    READY = auto()  # no transaction
    ENVELOPE = auto()  # MAIL and perhaps RCPT were sent
    DATA_SENT = auto()  # DATA was sent, its reply is awaited
    BODY = auto()  # 354 has come, the message is being sent
    END_SENT = auto()  # the final dot was sent, its reply is awaited
    SWAPPED = auto()  # TURN or ATRN was accepted: we are the server now
    CLOSED = auto()  # QUIT was sent, or the channel is gone

    __hash__ = object.__hash__


_S = ServerState
_V = Verb

_ANYTIME: Mapping[Verb, Mapping[int, ServerState]] = {
    _V.NOOP: {},
    _V.VRFY: {},
    _V.EXPN: {},
    _V.HELP: {},
    _V.QUIT: {2: _S.CLOSED},
}
_HELLO: Mapping[Verb, Mapping[int, ServerState]] = {verb: {2: _S.READY} for verb in (_V.HELO, _V.EHLO, _V.LHLO)}
_OPENING: Mapping[Verb, Mapping[int, ServerState]] = {
    verb: {2: _S.MAIL} for verb in (_V.MAIL, _V.SEND, _V.SOML, _V.SAML)
}
_OUTSIDE: Mapping[Verb, Mapping[int, ServerState]] = {
    _V.STARTTLS: {2: _S.TLS},
    _V.AUTH: {3: _S.AUTH},
    _V.TURN: {2: _S.SWAPPED},
    _V.ATRN: {2: _S.SWAPPED},
    _V.ETRN: {},
}
_CHUNKS: Mapping[int, ServerState] = {2: _S.CHUNKS, 4: _S.SPOILT, 5: _S.SPOILT}  # RFC 3030 §2
_REFUSAL: Mapping[int, ServerState] = {4: _S.REFUSED, 5: _S.REFUSED}

SERVER: Mapping[ServerState, Mapping[Verb, Mapping[int, ServerState]]] = {
    _S.CONNECT: {_V.CONNECT: {2: _S.START, 4: _S.CLOSED, 5: _S.NO_MAIL}},
    _S.START: {**_ANYTIME, **_HELLO, _V.RSET: {}},
    _S.READY: {**_ANYTIME, **_HELLO, _V.RSET: {}, **_OPENING, **_OUTSIDE},
    _S.MAIL: {**_ANYTIME, **_HELLO, _V.RSET: {2: _S.READY}, _V.RCPT: {2: _S.RCPT, **_REFUSAL}},
    _S.REFUSED: {**_ANYTIME, **_HELLO, _V.RSET: {2: _S.READY}, _V.RCPT: {2: _S.RCPT}},
    _S.RCPT: {**_ANYTIME, **_HELLO, _V.RSET: {2: _S.READY}, _V.RCPT: {}, _V.DATA: {3: _S.DATA}, _V.BDAT: _CHUNKS},
    _S.DATA: {_V.END_OF_DATA: {2: _S.READY, 4: _S.READY, 5: _S.READY}},
    _S.CHUNK: {_V.BDAT: _CHUNKS},
    _S.LAST_CHUNK: {_V.BDAT: {2: _S.READY, 4: _S.READY, 5: _S.READY}},
    _S.CHUNKS: {**_ANYTIME, **_HELLO, _V.RSET: {2: _S.READY}, _V.BDAT: _CHUNKS},
    _S.SPOILT: {**_ANYTIME, **_HELLO, _V.RSET: {2: _S.READY}},
    _S.TLS: {},  # behind the handshake comes START, as if the connection had just been made (RFC 3207 §4.2)
    _S.AUTH: {_V.AUTH: {2: _S.READY, 4: _S.READY, 5: _S.READY}},
    _S.NO_MAIL: {_V.QUIT: {2: _S.CLOSED}},
    _S.SWAPPED: {},
    _S.CLOSED: {},
}

_C = ClientState

# For the client a row says what may be sent: the state once it was sent, and the state once it was answered.
CLIENT_SENT: Mapping[ClientState, Mapping[Verb, ClientState]] = {
    _C.CONNECT: {},
    _C.START: {_V.EHLO: _C.START, _V.HELO: _C.START, _V.LHLO: _C.START, _V.QUIT: _C.CLOSED},
    _C.READY: {
        _V.MAIL: _C.ENVELOPE,
        _V.RSET: _C.READY,
        _V.NOOP: _C.READY,
        _V.QUIT: _C.CLOSED,
        _V.EHLO: _C.START,
        _V.LHLO: _C.START,
        _V.STARTTLS: _C.READY,
        _V.AUTH: _C.READY,
        _V.TURN: _C.READY,
        _V.ATRN: _C.READY,
        _V.ETRN: _C.READY,
    },
    _C.ENVELOPE: {
        _V.RCPT: _C.ENVELOPE,
        _V.DATA: _C.DATA_SENT,
        _V.BDAT: _C.END_SENT,  # we send a message as one chunk, the last (RFC 3030 §2)
        _V.RSET: _C.READY,
        _V.QUIT: _C.CLOSED,
    },
    _C.DATA_SENT: {},
    _C.BODY: {_V.END_OF_DATA: _C.END_SENT},
    _C.END_SENT: {},
    _C.SWAPPED: {},
    _C.CLOSED: {},
}
CLIENT_ANSWERED: Mapping[ClientState, Mapping[Verb, Mapping[int, ClientState]]] = {
    _C.CONNECT: {_V.CONNECT: {2: _C.START, 4: _C.CLOSED, 5: _C.CLOSED}},
    _C.START: {_V.EHLO: {2: _C.READY}, _V.HELO: {2: _C.READY}, _V.LHLO: {2: _C.READY}},
    _C.READY: {_V.STARTTLS: {2: _C.START}, _V.TURN: {2: _C.SWAPPED}, _V.ATRN: {2: _C.SWAPPED}},
    _C.ENVELOPE: {},
    _C.DATA_SENT: {_V.DATA: {2: _C.ENVELOPE, 3: _C.BODY, 4: _C.ENVELOPE, 5: _C.ENVELOPE}},
    _C.BODY: {},
    _C.END_SENT: {
        _V.END_OF_DATA: {2: _C.READY, 3: _C.READY, 4: _C.READY, 5: _C.READY},
        _V.BDAT: {2: _C.READY, 3: _C.READY, 4: _C.READY, 5: _C.READY},
    },
    _C.SWAPPED: {},
    _C.CLOSED: {},
}
