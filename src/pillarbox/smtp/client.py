"""ClientConnection: the client's side of one SMTP connection, without I/O.

Use: `send(verb, argument)` gives octets to write, several in a row where the server offers PIPELINING; after a 354, or
behind `begin_chunk`, come `send_body` and `end_body`. `receive_data(octets)`, then `next_event()` until it gives a
Wait: replies in the order of the commands. Any code is read by its first digit where the rest is unknown (RFC 5321
§4.2.1). What a reply means for a message is not known here. Raises LocalProtocolError for misuse, RemoteProtocolError
when the peer makes no sense, also from what sends. Behind a reply whose first digit can't be there (RFC 5321 §4.3.2)
nothing more is sent: the two no longer agree on what comes next, and a command could become the text of a message.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64, b2a_base64
from collections import deque
from functools import lru_cache

from pillarbox.core.address import Mailbox
from pillarbox.core.reply import EnhancedCode
from pillarbox.smtp.events import LocalProtocolError, RemoteProtocolError, ReplyReceived, Unsendable, Wait
from pillarbox.smtp.framing import ChunkWriter, DataWriter, LineReader
from pillarbox.smtp.states import CLIENT_ANSWERED, CLIENT_SENT, ClientState, Verb

MAX_REPLY_LINE = 2048  # octets; RFC 5321 §4.5.3.1.5 allows 512, some servers send more
MAX_REPLY_LINES = 200  # kept of one reply
MAX_DROPPED_LINES = 200_000  # read of one reply and thrown away before we give up on the peer
_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])([^\r\n\0]*))?")
_WORDS = {verb: verb.value for verb in Verb}  # `value` of an Enum is a Python function
_HELLOS = (Verb.EHLO, Verb.LHLO)
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_INTERNATIONAL = (Verb.MAIL, Verb.RCPT)  # may hold other than ASCII (RFC 6531 §3.3)
_UNSAFE = re.compile(r"[^ -~]")
_INVITING = (Verb.DATA, Verb.AUTH)  # may be answered by a 3yz


class ClientConnection:
    """One connection from the server's greeting to our QUIT."""

    __slots__ = ("_code", "_dropped", "_lines", "_partial", "_pending", "_writer", "capabilities", "challenge", "state")

    def __init__(self) -> None:
        self.state = ClientState.CONNECT
        self.capabilities: dict[str, str] = {}  # EHLO keyword, upper case → its parameters
        self.challenge: bytes | None = None  # of a 334 that waits for its response, decoded
        self._lines = LineReader(MAX_REPLY_LINE)
        self._pending: deque[Verb] = deque((Verb.CONNECT,))
        self._partial: list[str] = []  # lines of a reply that is still coming
        self._code = 0  # of that reply
        self._dropped = 0  # further ones
        self._writer: DataWriter | ChunkWriter = DataWriter()

    # --- out

    def send(self, verb: Verb, argument: str = "") -> bytes:
        """A command. Raises Unsendable, LocalProtocolError when it has no place here."""
        if _UNSAFE.search(argument) and not (verb in _INTERNATIONAL and argument.isprintable()):
            raise Unsendable(f"octets in the argument of {verb.value} that can't be sent: {argument!r}")
        self._expect_silence()
        following = CLIENT_SENT[self.state].get(verb)
        if following is None or verb is Verb.END_OF_DATA:
            raise LocalProtocolError(f"{verb.value} has no place in state {self.state.name}")
        self.state = following
        self._pending.append(verb)
        return f"{_WORDS[verb]} {argument}\r\n".encode() if argument else f"{_WORDS[verb]}\r\n".encode()

    def mail(self, sender: Mailbox | None, parameters: str = "") -> bytes:
        """MAIL FROM with its parameters, which begin with a space or are empty."""
        return self.send(Verb.MAIL, f"FROM:<{'' if sender is None else sender}>{parameters}")

    def rcpt(self, recipient: Mailbox, parameters: str = "") -> bytes:
        """RCPT TO with its parameters, as with MAIL."""
        return self.send(Verb.RCPT, f"TO:<{recipient}>{parameters}")

    def begin_chunk(self, size: int, replies: int = 1) -> bytes:
        """The message as one chunk of so many octets (RFC 3030 §2), which gets so many replies."""
        octets = self.send(Verb.BDAT, f"{size} LAST")
        self._pending.extend((Verb.BDAT,) * (replies - 1))
        self._writer = ChunkWriter(size)
        return octets

    def auth(self, mechanism: str, initial: bytes | None) -> bytes:
        """AUTH, with the initial response where there is one; an empty one is a `=` (RFC 4954 §4)."""
        response = "" if initial is None else f" {_base64(initial)}" if initial else " ="
        return self.send(Verb.AUTH, mechanism + response)

    def respond(self, response: bytes | None) -> bytes:
        """The line behind a 334; None cancels (RFC 4954 §4). Raises LocalProtocolError."""
        if self.challenge is None:
            raise LocalProtocolError("no 334 has come")
        self._expect_silence()
        self.challenge = None
        self._pending.append(Verb.AUTH)
        return f"{'*' if response is None else _base64(response)}\r\n".encode("ascii")

    def _expect_silence(self) -> None:
        """A reply that is here before its command answers nothing, and must not be taken for that of the command."""
        if not self._pending and not self.quiet:
            raise RemoteProtocolError("the server sent more than one reply to a command")

    @property
    def mechanisms(self) -> list[str]:
        """Those of SASL that the server offers."""
        return self.capabilities.get("AUTH", "").upper().split()

    @property
    def quiet(self) -> bool:
        """Nothing has come that no command asked for."""
        return self._lines.empty and not self._partial

    def send_body(self, octets: bytes) -> bytes:
        """A piece of the message, dots stuffed for DATA. Raises UnsafeOctets, LocalProtocolError."""
        return self._open_writer().write(octets)

    def _open_writer(self) -> DataWriter | ChunkWriter:
        if self.state is not ClientState.BODY and type(self._writer) is not ChunkWriter:
            raise LocalProtocolError("no 354 has come")
        return self._writer

    def end_body(self, replies: int = 1) -> bytes:
        """The end mark, which gets so many replies: by LMTP one for each accepted recipient (RFC 2033 §4.2); nothing
        behind a chunk. Raises UnsafeOctets, LocalProtocolError."""
        writer = self._open_writer()
        self._expect_silence()
        octets = writer.end()
        self._writer = DataWriter()
        if type(writer) is ChunkWriter:
            return octets
        self.state = ClientState.END_SENT
        self._pending.extend((Verb.END_OF_DATA,) * replies)
        return octets

    # --- in

    def receive_data(self, octets: bytes) -> None:
        """Take octets from the peer."""
        self._lines.feed(octets)

    @property
    def awaiting(self) -> int:
        """How many replies are due."""
        return len(self._pending)

    @property
    def due(self) -> Verb | None:
        """What the next reply answers; None when none is due."""
        return self._pending[0] if self._pending else None

    @property
    def is_sent(self) -> bool:
        """The whole message was given out, its end too, and no reply to it has come: it may have been taken."""
        return self.state is ClientState.END_SENT and type(self._writer) is not ChunkWriter

    def next_event(self) -> ReplyReceived | Wait:
        """The next whole reply; behind a change of roles there is none. Raises RemoteProtocolError."""
        while self.state is not ClientState.SWAPPED:
            line = None if self._lines.empty else self._lines.next_line()
            if line is None:
                return Wait.NEED_DATA
            if type(line) is not bytes:
                raise RemoteProtocolError("reply line too long, or not ended by CRLF")
            reply = self._line(line)
            if reply is not None:
                return reply
        return Wait.PAUSED

    def _line(self, line: bytes) -> ReplyReceived | None:
        code, is_last, text = _read(line)
        if is_last and not self._partial:
            return self._answered(code, (text,))
        if self._partial and self._code != code:
            raise RemoteProtocolError(f"lines of one reply with different codes: {self._code} and {code}")
        self._code = code
        if len(self._partial) < MAX_REPLY_LINES:
            self._partial.append(text)
        else:
            self._dropped += 1
            if self._dropped > MAX_DROPPED_LINES:
                raise RemoteProtocolError(f"reply of more than {MAX_DROPPED_LINES} lines")
        if not is_last:
            return None
        lines = tuple(self._partial)
        self._partial, self._dropped = [], 0
        return self._answered(code, lines)

    def _answered(self, code: int, lines: tuple[str, ...]) -> ReplyReceived:
        if not self._pending:
            raise RemoteProtocolError(f"reply to nothing: {code} {lines[0][:80]}")
        verb = self._pending.popleft()
        klass = code // 100
        if verb is not Verb.END_OF_DATA or not self._pending:  # by LMTP more replies to it are to come
            following = CLIENT_ANSWERED[self.state].get(verb)
            if following is not None:
                self.state = following.get(klass, self.state)
        if code == 421 or _is_misplaced(verb, klass):  # RFC 5321 §3.8: the server closes the channel; or we do
            self.state = ClientState.CLOSED
        if verb is Verb.AUTH:
            self.challenge = _unbase64(lines[0]) if klass == 3 else None
            return _reply(verb, code, lines)
        if verb is Verb.STARTTLS and klass == 2:
            self.capabilities = {}  # what was said in clear counts no more, RFC 3207 §4.2
        if klass == 2 and verb in _HELLOS:
            self.capabilities = dict(_keyword(line) for line in lines[1:])
            return ReplyReceived(verb, code, None, lines)
        return _short_reply(verb, code, lines[0]) if len(lines) == 1 else _reply(verb, code, lines)


def _is_misplaced(verb: Verb, klass: int) -> bool:
    """A class of reply that the command never has (RFC 5321 §4.3.2): 3yz asks for more where nothing more comes, and a
    2yz to DATA leaves open whether the server waits for the text."""
    return verb not in _INVITING if klass == 3 else klass == 2 and verb is Verb.DATA


def _base64(octets: bytes) -> str:
    return b2a_base64(octets, newline=False).decode("ascii")


def _unbase64(line: str) -> bytes:
    text = line.strip()
    try:
        return a2b_base64(text.encode("ascii"), strict_mode=True) if text else b""
    except (Error, UnicodeEncodeError):
        raise RemoteProtocolError(f"a challenge that is not base64: {text[:80]!r}") from None


def _keyword(line: str) -> tuple[str, str]:
    word, _, parameters = line.strip().partition(" ")
    return word.upper(), parameters


@lru_cache(maxsize=256)  # servers say the same to each message, but for the last reply
def _read(line: bytes) -> tuple[int, bool, str]:
    """The code, whether the reply ends here, and the text. Raises RemoteProtocolError."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise RemoteProtocolError(f"not a reply: {line[:80]!r}")
    code, mark, text = match.groups(b"")
    return int(code), mark != b"-", text.decode("utf-8", "replace")


def _reply(verb: Verb, code: int, lines: tuple[str, ...]) -> ReplyReceived:
    """RFC 2034 §4: the enhanced code stands at the beginning of each line, and its class is that of the reply."""
    match = _ENHANCED.match(lines[0])
    if match is None or int(match[1][0]) != code // 100:
        return ReplyReceived(verb, code, None, lines)
    enhanced = match[1]
    texts = [line.removeprefix(enhanced).removeprefix(" ") for line in lines]
    return ReplyReceived(verb, code, EnhancedCode.parse(enhanced), tuple(texts))


@lru_cache(maxsize=256)
def _short_reply(verb: Verb, code: int, line: str) -> ReplyReceived:
    return _reply(verb, code, (line,))
