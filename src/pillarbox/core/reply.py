"""Replies: Reply, EnhancedCode, and the catalogue of every reply this server gives.

A reply has one name in one place: no other module spells a code or a reply text. Knows nothing of when a reply is due.
RFC 5321 §4.2 (syntax), RFC 3463 (enhanced codes), RFC 2034 (which replies carry one: not greeting, HELO, EHLO, 3yz).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from pillarbox.core.address import Mailbox

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})")
MAX_TEXT = 490  # octets of text in one line, so that a line stays within 512 (RFC 5321 §4.5.3.1.5)


class EnhancedCode(NamedTuple):
    """class.subject.detail of RFC 3463."""

    klass: int
    subject: int
    detail: int

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, source: str) -> EnhancedCode:
        """From `5.1.1`. Raises ValueError."""
        if not (match := _ENHANCED.fullmatch(source)):
            raise ValueError(f"not an enhanced status code: {source!r}")
        return cls(int(match[1]), int(match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.klass}.{self.subject}.{self.detail}"


@lru_cache(maxsize=256)
def _prefix(enhanced: EnhancedCode | None) -> str:
    return "" if enhanced is None else f"{enhanced} "


@lru_cache(maxsize=256)
def _codes(code: int, enhanced: EnhancedCode | None) -> tuple[str, str]:
    """What stands before the text of a line, and before that of the last. Raises ValueError."""
    if not 200 <= code <= 559:
        raise ValueError(f"not the code of a reply: {code}")
    if enhanced is not None and enhanced.klass != code // 100:
        raise ValueError(f"enhanced code {enhanced} does not belong to a {code}")
    return f"{code}-{_prefix(enhanced)}", f"{code} {_prefix(enhanced)}"


@dataclass(slots=True, init=False, unsafe_hash=True)
class Reply:
    """One reply of ours. `wire` is its octets; `closes` says that the channel is closed behind it."""

    # Never changed, which the type checker sees to: `frozen` would double what it takes to make one for each message.
    code: Final[int]
    enhanced: Final[EnhancedCode | None]
    lines: Final[tuple[str, ...]]
    closes: Final[bool]
    wire: Final[bytes]

    def __init__(
        self, code: int, enhanced: EnhancedCode | None, lines: tuple[str, ...], *, closes: bool = False
    ) -> None:
        if not lines:
            raise ValueError(f"not a reply: {code} without text")
        for line in lines:
            if not line.isprintable() or len(line.encode()) > MAX_TEXT:
                raise ValueError(f"reply text has octets that may not stand there, or too many: {line!r}")
        inner, final = _codes(code, enhanced)
        wire = ""
        for line in lines[:-1]:
            wire += f"{inner}{line}\r\n"
        self.code = code
        self.enhanced = enhanced
        self.lines = lines
        self.closes = closes
        self.wire = f"{wire}{final}{lines[-1]}\r\n".encode()

    @property
    def bare(self) -> Reply:
        """The same without its enhanced code, for where none may stand (RFC 2034 §4)."""
        return Reply(self.code, None, self.lines, closes=self.closes)

    @property
    def is_ascii(self) -> bool:
        return self.wire.isascii()

    def __str__(self) -> str:
        return f"{self.code} {_prefix(self.enhanced)}{' / '.join(self.lines)}"


@dataclass(slots=True, init=False)
class Replies(Reply):
    """To the end of a message by LMTP: this reply for each accepted recipient, but those in `but`, by the address in
    RCPT (RFC 2033 §4.2)."""

    but: Final[Mapping[Mailbox, Reply]]

    def __init__(self, reply: Reply, *, but: Mapping[Mailbox, Reply]) -> None:
        Reply.__init__(self, reply.code, reply.enhanced, reply.lines, closes=reply.closes)
        self.but = but


def printable(text: str) -> str:
    """Text of a peer made fit to stand in a reply line: one line, printable ASCII, bounded."""
    return re.sub(r"[^ -~]", "?", text)[:MAX_TEXT]


def _reply(code: int, enhanced: str | None, *lines: str, closes: bool = False) -> Reply:
    return Reply(code, EnhancedCode.parse(enhanced) if enhanced else None, lines, closes=closes)


# --- opening and closing the channel (RFC 5321 §3.1, §3.8, §4.5.3.2.7)


@lru_cache(maxsize=16)
def greeting(hostname: str) -> Reply:
    return _reply(220, None, f"{hostname} ESMTP")


@lru_cache(maxsize=16)
def hello(hostname: str) -> Reply:
    return _reply(250, None, hostname)


@lru_cache(maxsize=16)
def ehlo(hostname: str, keywords: tuple[str, ...]) -> Reply:
    return _reply(250, None, hostname, *keywords)


@lru_cache(maxsize=16)
def lmtp_greeting(hostname: str) -> Reply:
    return _reply(220, None, f"{hostname} LMTP")


BYE = _reply(221, "2.0.0", "Bye", closes=True)
CONNECT_TOO_MANY = _reply(421, None, "Too many connections, try again later", closes=True)
CONNECT_TOO_OFTEN = _reply(421, None, "Too many connections in a short time, try again later", closes=True)
CONNECT_CLOSING = _reply(421, None, "Service not available, closing transmission channel", closes=True)
CLOSING = _reply(421, "4.3.2", "Service shutting down, closing transmission channel", closes=True)
IDLE = _reply(421, "4.4.2", "Idle for too long, closing transmission channel", closes=True)
TOO_MANY_ERRORS = _reply(421, "4.7.0", "Too many errors, closing transmission channel", closes=True)
TOO_MUCH_GARBAGE = _reply(421, "4.7.0", "Octets that no command can hold, closing transmission channel", closes=True)
OUR_FAULT = _reply(421, "4.3.0", "Internal error, closing transmission channel", closes=True)
TOO_LONG_A_SESSION = _reply(421, "4.3.2", "Session has lasted too long, closing transmission channel", closes=True)
TOO_MANY_TRANSACTIONS = _reply(421, "4.7.0", "Too many transactions in one session", closes=True)
TOO_MANY_PROBES = _reply(421, "4.7.0", "Too many addresses asked for, closing transmission channel", closes=True)
UNAUTHORISED_PIPELINING = _reply(554, "5.5.0", "Sent before it was time: wait for the reply", closes=True)
IMPERSONATION = _reply(550, None, "That name is ours")
NO_MAIL_HERE = _reply(521, "5.3.2", "This host does not accept mail")  # RFC 7504 §3


@lru_cache(maxsize=16)
def no_mail_greeting(hostname: str) -> Reply:
    return _reply(521, None, f"{hostname} does not accept mail")


# --- commands that can't be understood, or not now (RFC 5321 §4.2.4, §4.3.2)

UNRECOGNISED = _reply(500, "5.5.2", "Command not recognised")
LINE_TOO_LONG = _reply(500, "5.5.2", "Line too long")
BAD_OCTET = _reply(500, "5.5.2", "Bare CR, bare LF or NUL in a command")
BAD_ARGUMENT = _reply(501, "5.5.4", "Syntax error in arguments")
NO_ARGUMENT_ALLOWED = _reply(501, "5.5.4", "This command takes no argument")
ARGUMENT_NEEDED = _reply(501, "5.5.4", "This command needs an argument")
HELO_SYNTAX = _reply(501, None, "Needs a domain or an address literal")
HELO_LITERAL = _reply(504, None, "Address literals of that type are not implemented")
NOT_IMPLEMENTED = _reply(502, "5.5.1", "Command not implemented")
BAD_SEQUENCE = _reply(503, "5.5.1", "Bad sequence of commands")
NEED_HELO = _reply(503, "5.5.1", "Say HELO or EHLO first")
NEED_LHLO = _reply(503, "5.5.1", "Say LHLO first")
NEED_MAIL = _reply(503, "5.5.1", "Need MAIL before")
NEED_RCPT = _reply(503, "5.5.1", "Need RCPT before")
NESTED_MAIL = _reply(503, "5.5.1", "Transaction already open")
IN_TRANSACTION = _reply(503, "5.5.1", "Not inside a mail transaction")
UNKNOWN_PARAMETER_OF_COMMAND = _reply(504, "5.5.4", "Command parameter not implemented")
AUTH_NEEDED = _reply(530, "5.7.0", "Authentication required")  # RFC 4954 §6

# --- the mail transaction (RFC 5321 §3.3)

SENDER_OK = _reply(250, "2.1.0", "Sender accepted")
SENDER_SYNTAX = _reply(501, "5.1.7", "Syntax: MAIL FROM:<reverse-path> [parameters]")
PRIORITY_LOWERED = _reply(250, "2.3.6", "0 is the priority of this message")  # RFC 6710 §4.1
HELD_TOO_LONG = _reply(501, "5.5.4", "Can't be held for as long as that")  # RFC 4865 §4
SENDER_INCOMPLETE = _reply(501, "5.1.7", "Sender address has no @domain, write the whole address")
RECIPIENT_OK = _reply(250, "2.1.5", "Recipient accepted")
RECIPIENT_SYNTAX = _reply(501, "5.1.3", "Syntax: RCPT TO:<forward-path> [parameters]")
RECIPIENT_INCOMPLETE = _reply(501, "5.1.3", "Recipient address has no @domain, write the whole address")
# RFC 6531 §3.7.4.2
MOVED_UNSAID = _reply(551, "5.6.8", "User not local; the new address is not ASCII, ask with SMTPUTF8")
NON_ASCII_PATH = _reply(553, "5.6.7", "Address is not ASCII, and MAIL has not asked for SMTPUTF8")
BAD_PARAMETER = _reply(501, "5.5.4", "Parameter value not understood")
UNKNOWN_PARAMETER = _reply(555, "5.5.4", "Parameter not recognised")
SENDER_UNKNOWN = _reply(550, "5.1.8", "Sender's domain does not exist, or has no host that takes mail")
SENDER_NULL_MX = _reply(550, "5.7.27", "Sender's domain takes no mail (null MX)")  # RFC 7505 §4.2
SENDER_UNCHECKED = _reply(451, "4.4.3", "Sender's domain can't be looked up now, try again later")
RECIPIENT_NULL_MX = _reply(556, "5.1.10", "Recipient's domain takes no mail (null MX)")  # RFC 7505 §4.1
NO_SUCH_USER = _reply(550, "5.1.1", "No such user here")
BAD_FORWARDING = _reply(550, "5.4.6", "Forwarding of this address leads in a circle or nowhere")
MAILBOX_OF_ANOTHER = _reply(550, "5.7.17", "Mailbox has another owner since then")  # RFC 7293 §5.1
MAILBOX_DISABLED = _reply(550, "5.2.1", "Mailbox disabled, not accepting messages")
MAILBOX_FULL = _reply(552, "5.2.2", "Mailbox full")
MAILBOX_NEARLY_FULL = _reply(450, "4.2.2", "Mailbox full for now, try again later")
MAILBOX_UNREADABLE = _reply(451, "4.3.0", "Mailbox can't be looked at now, try again later")
MAY_NOT_POST = _reply(550, "5.7.2", "You may not post to this list")
NOT_YOUR_ADDRESS = _reply(553, "5.7.1", "Sender address is not one of yours")  # RFC 6409 §6.1
UNQUALIFIED = _reply(554, "5.1.2", "Recipient's domain is not a full name")  # RFC 6409 §4.2
RELAY_DENIED = _reply(550, "5.7.1", "Relaying denied")
TOO_MANY_RECIPIENTS = _reply(452, "4.5.3", "Too many recipients")
TOO_MANY_MESSAGES = _reply(451, "4.7.1", "Too many messages in a short time, try again later")
TOO_MANY_RECIPIENTS_NOW = _reply(451, "4.7.1", "Too many recipients in a short time, try again later")
NO_VALID_RECIPIENTS = _reply(554, "5.5.1", "No valid recipients")
START_DATA = _reply(354, None, "End data with <CRLF>.<CRLF>")
TOO_BIG = _reply(552, "5.3.4", "Message size exceeds the limit")
LOOP = _reply(554, "5.4.6", "Too many Received fields: the message is looping")
FORWARDING_LOOP = _reply(554, "5.4.6", "The message was forwarded by this address before: it is looping")
BAD_KEY = _reply(554, "5.6.0", "Idempotency-Key must stand once, with 1 to 255 printable ASCII characters")
BARE_OCTET_IN_HEADER = _reply(554, "5.6.0", "Bare CR, bare LF or NUL in the header section")
HEADER_TOO_BIG = _reply(554, "5.6.0", "Header section too large")
BARE_OCTET_IN_DATA = _reply(554, "5.6.0", "Bare CR, bare LF or NUL in the message", closes=True)
NO_SPACE = _reply(452, "4.3.1", "Insufficient system storage")
SPOOL_FAULT = _reply(451, "4.3.0", "Message could not be stored, try again later")
LOCAL_FAULT = _reply(451, "4.3.0", "Local error in processing, try again later")


# --- BDAT (RFC 3030)

CHUNK_OK = _reply(250, "2.0.0", "Chunk taken")
BAD_CHUNK = _reply(501, "5.5.4", "Syntax: BDAT size [LAST]; where the next command begins can't be told", closes=True)
CHUNKS_BEGUN = _reply(503, "5.5.1", "The message comes in by BDAT: only BDAT or RSET may follow")
CHUNK_REFUSED = _reply(503, "5.5.1", "A chunk before was refused: say RSET")
BINARY_NEEDS_BDAT = _reply(503, "5.5.1", "BODY=BINARYMIME can't be sent by DATA, only by BDAT")  # RFC 3030 §3

_SAFE = EnhancedCode(2, 0, 0)


def queued(message_id: str) -> Reply:
    return Reply(250, _SAFE, (f"queued as {message_id}",))


def queued_before(message_id: str) -> Reply:
    return _reply(250, "2.0.0", f"queued as {message_id} before, with the same Idempotency-Key")


def key_taken(message_id: str) -> Reply:
    return _reply(554, "5.6.0", f"Idempotency-Key was used for another message, {message_id}")


def suppressed(since: str, why: str) -> Reply:
    """To who submits mail for an address from which earlier mail came back."""
    return _reply(550, "5.7.1", f"Address suppressed since {since}: {printable(why)[:300]}")


def announced(forward_path: str) -> Reply:
    """RFC 5321 §3.4."""
    return _reply(251, "2.1.5", f"User not local; will forward to <{forward_path}>")


def moved(forward_path: str) -> Reply:
    """RFC 5321 §3.4."""
    return _reply(551, "5.1.6", f"User not local; please try <{forward_path}>")


# --- the terminal (RFC 821 §3.4)

NOT_ACTIVE = _reply(450, "4.2.1", "User not active now")
NO_TERMINAL_ELSEWHERE = _reply(550, "5.3.3", "SEND reaches the terminals of this host only")
TOO_MANY_SHOWN = _reply(451, "4.7.1", "Too many messages to terminals from you, try again later")
SHOWN = _reply(250, "2.0.0", "Shown on the terminal")
NOT_SHOWN = _reply(450, "4.2.1", "Terminal gone or busy, not shown")

# --- STARTTLS (RFC 3207)

START_TLS = _reply(220, "2.0.0", "Ready to start TLS")
TLS_ACTIVE = _reply(503, "5.5.1", "TLS is active already")

# --- AUTH (RFC 4954)

AUTHENTICATED = _reply(235, "2.7.0", "Authentication succeeded")
AUTH_CONTINUE = _reply(334, None, "")
AUTH_THROTTLED = _reply(454, "4.7.0", "Too many failed logins, try again later")
TOO_MANY_FAILED_LOGINS = _reply(421, "4.7.0", "Too many failed logins, closing transmission channel", closes=True)
AUTH_FAULT = _reply(454, "4.7.0", "Temporary authentication failure")
AUTH_LINE_TOO_LONG = _reply(500, "5.5.6", "Authentication exchange line is too long")
AUTH_BASE64 = _reply(501, "5.5.2", "Not base64")
AUTH_CANCELLED = _reply(501, "5.7.0", "Authentication cancelled")
AUTH_MALFORMED = _reply(501, "5.5.2", "Not what the mechanism asks for")
AUTH_MECHANISM = _reply(504, "5.5.4", "Authentication mechanism not offered")
AUTH_FAILED = _reply(535, "5.7.8", "Authentication credentials invalid")
AUTH_NEEDS_TLS = _reply(538, "5.7.11", "Encryption required for authentication")
AUTH_DONE = _reply(503, "5.5.1", "Already authenticated")


def challenge(base64: str) -> Reply:
    """RFC 4954 §4."""
    return _reply(334, None, base64)


# --- TURN, ATRN, ETRN (RFC 821 §3.8, RFC 2645, RFC 1985)

TURN_OK = _reply(250, "2.0.0", "OK now reversing the connection")
TURN_NOTHING_OWNED = _reply(502, "5.7.1", "You own no domain here")
TURN_NOTHING_QUEUED = _reply(502, "5.5.1", "Nothing is queued for you")
ATRN_NOT_OWNED = _reply(450, "4.7.1", "ATRN request refused: not a domain of yours")
ATRN_NO_MAIL = _reply(453, "4.2.0", "You have no mail")
TURN_FAULT = _reply(451, "4.3.0", "Unable to process the request now")
ETRN_NOTHING_QUEUED = _reply(251, "2.0.0", "No messages waiting for node")
ETRN_FAULT = _reply(458, "4.3.0", "Unable to queue messages for node")
ETRN_NO_HOST = _reply(458, "4.4.0", "Unable to queue messages for node: no host is registered for it, use TURN or ATRN")
ETRN_NOT_ALLOWED = _reply(459, "4.7.1", "Node not allowed: not a domain of yours")


def etrn_started(count: int) -> Reply:
    return _reply(253, "2.0.0", f"{count} pending messages for node started")


# --- the rest

RESET_OK = _reply(250, "2.0.0", "Flushed")
RESET_CLASSIC = _reply(200, "2.0.0", "Flushed")  # RFC 876; only with compat = "classic"
NOOP_OK = _reply(250, "2.0.0", "OK")
NOOP_CLASSIC = _reply(200, "2.0.0", "OK")
VERIFY_NEEDS_UTF8 = _reply(553, "5.6.8", "The answer is not ASCII: ask with SMTPUTF8")  # RFC 6531 §3.7.4.2
EXPAND_NEEDS_UTF8 = _reply(550, "5.6.8", "The answer is not ASCII: ask with SMTPUTF8")
CANNOT_VERIFY = _reply(252, "2.5.0", "Cannot VRFY user, but will accept message and attempt delivery")
CANNOT_EXPAND = _reply(252, "2.5.0", "Cannot EXPN list, but will accept message and attempt delivery")
NO_SUCH_TOPIC = _reply(504, "5.5.4", "No help on that; HELP alone lists the topics")


def status(lines: tuple[str, ...]) -> Reply:
    return _reply(211, "2.0.0", *lines)


@lru_cache(maxsize=64)
def help_text(lines: tuple[str, ...]) -> Reply:
    return _reply(214, "2.0.0", *lines)


# --- VRFY and EXPN

MAILBOX_SYNTAX = _reply(553, "5.1.3", "Illegal mailbox syntax")
THAT_IS_A_LIST = _reply(550, "5.1.1", "That is a mailing list, not a user")  # RFC 5321 §3.5.1
THAT_IS_A_USER = _reply(550, "5.1.1", "That is a user name, not a mailing list")  # RFC 5321 §3.5.1
NO_SUCH_LIST = _reply(550, "5.1.1", "No such mailing list here")
WHICH_LIST = _reply(550, "5.1.4", "More than one list has that name, give its address")
LIST_ACCESS_DENIED = _reply(550, "5.7.2", "Access denied to you")
LIST_SYNTAX = _reply(501, "5.1.3", "Illegal mailbox syntax")


def verified(who: str) -> Reply:
    return _reply(250, "2.1.5", who)


def ambiguous(candidates: tuple[str, ...]) -> Reply:
    """RFC 5321 §3.5.1."""
    return _reply(553, "5.1.4", "User ambiguous; possibilities are", *candidates)


def expanded(members: tuple[str, ...]) -> Reply:
    """RFC 5321 §3.5.2."""
    return _reply(250, "2.1.5", *members)
