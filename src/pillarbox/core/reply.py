"""Replies: Reply, EnhancedCode, and the catalogue of every reply this server gives.

A reply has one name in one place: no other module spells a code or a reply text. Knows nothing of when a reply is due.
RFC 5321 §4.2 (syntax), RFC 3463 (enhanced codes), RFC 2034 (which replies carry one: not greeting, HELO, EHLO, 3yz).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})")
MAX_TEXT = 490  # octets of text in one line, so that a line stays within 512 (RFC 5321 §4.5.3.1.5)


class EnhancedCode(NamedTuple):
    """class.subject.detail of RFC 3463."""

    klass: int
    subject: int
    detail: int

    @classmethod
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


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of ours. `wire` is its octets; `closes` says that the channel is closed behind it."""

    code: int
    enhanced: EnhancedCode | None
    lines: tuple[str, ...]
    closes: bool = False
    wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 559 or not self.lines:
            raise ValueError(f"not a reply: {self.code} {self.lines}")
        if self.enhanced is not None and self.enhanced.klass != self.code // 100:
            raise ValueError(f"enhanced code {self.enhanced} does not belong to a {self.code}")
        prefix = _prefix(self.enhanced)
        wire, count = "", len(self.lines)
        for number, line in enumerate(self.lines, start=1):
            if not (line.isascii() and line.isprintable()) or len(line) > MAX_TEXT:
                raise ValueError(f"reply text has octets that may not stand there, or too many: {line!r}")
            mark = " " if number == count else "-"
            wire += f"{self.code}{mark}{prefix}{line}\r\n"
        object.__setattr__(self, "wire", wire.encode("ascii"))

    def __str__(self) -> str:
        return f"{self.code} {_prefix(self.enhanced)}{' / '.join(self.lines)}"


def printable(text: str) -> str:
    """Text of a peer made fit to stand in a reply line: one line, printable ASCII, bounded."""
    return re.sub(r"[^ -~]", "?", text)[:MAX_TEXT]


def _reply(code: int, enhanced: str | None, *lines: str, closes: bool = False) -> Reply:
    return Reply(code, EnhancedCode.parse(enhanced) if enhanced else None, lines, closes)


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


BYE = _reply(221, "2.0.0", "Bye", closes=True)
CONNECT_TOO_MANY = _reply(421, None, "Too many connections, try again later", closes=True)
CONNECT_CLOSING = _reply(421, None, "Service not available, closing transmission channel", closes=True)
CLOSING = _reply(421, "4.3.2", "Service shutting down, closing transmission channel", closes=True)
IDLE = _reply(421, "4.4.2", "Idle for too long, closing transmission channel", closes=True)
TOO_MANY_ERRORS = _reply(421, "4.7.0", "Too many errors, closing transmission channel", closes=True)
TOO_MUCH_GARBAGE = _reply(421, "4.7.0", "Octets that no command can hold, closing transmission channel", closes=True)
OUR_FAULT = _reply(421, "4.3.0", "Internal error, closing transmission channel", closes=True)
IMPERSONATION = _reply(550, None, "That name is ours")

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
NEED_MAIL = _reply(503, "5.5.1", "Need MAIL before")
NEED_RCPT = _reply(503, "5.5.1", "Need RCPT before")
NESTED_MAIL = _reply(503, "5.5.1", "Transaction already open")

# --- the mail transaction (RFC 5321 §3.3)

SENDER_OK = _reply(250, "2.1.0", "Sender accepted")
SENDER_SYNTAX = _reply(501, "5.1.7", "Syntax: MAIL FROM:<reverse-path> [parameters]")
RECIPIENT_OK = _reply(250, "2.1.5", "Recipient accepted")
RECIPIENT_SYNTAX = _reply(501, "5.1.3", "Syntax: RCPT TO:<forward-path> [parameters]")
NON_ASCII_PATH = _reply(553, "5.6.7", "Address is not ASCII and SMTPUTF8 is not offered")
BAD_PARAMETER = _reply(501, "5.5.4", "Parameter value not understood")
UNKNOWN_PARAMETER = _reply(555, "5.5.4", "Parameter not recognised")
NO_SUCH_USER = _reply(550, "5.1.1", "No such user here")
BAD_FORWARDING = _reply(550, "5.4.6", "Forwarding of this address leads in a circle or nowhere")
RELAY_DENIED = _reply(550, "5.7.1", "Relaying denied")
TOO_MANY_RECIPIENTS = _reply(452, "4.5.3", "Too many recipients")
NO_VALID_RECIPIENTS = _reply(554, "5.5.1", "No valid recipients")
START_DATA = _reply(354, None, "End data with <CRLF>.<CRLF>")
TOO_BIG = _reply(552, "5.3.4", "Message size exceeds the limit")
LOOP = _reply(554, "5.4.6", "Too many Received fields: the message is looping")
HEADER_TOO_BIG = _reply(554, "5.6.0", "Header section too large")
BARE_OCTET_IN_DATA = _reply(554, "5.6.0", "Bare CR, bare LF or NUL in the message", closes=True)
NO_SPACE = _reply(452, "4.3.1", "Insufficient system storage")
SPOOL_FAULT = _reply(451, "4.3.0", "Message could not be stored, try again later")
LOCAL_FAULT = _reply(451, "4.3.0", "Local error in processing, try again later")


_SAFE = EnhancedCode(2, 0, 0)


def queued(message_id: str) -> Reply:
    return Reply(250, _SAFE, (f"queued as {message_id}",))


# --- the rest

RESET_OK = _reply(250, "2.0.0", "Flushed")
NOOP_OK = _reply(250, "2.0.0", "OK")
CANNOT_VERIFY = _reply(252, "2.5.0", "Cannot VRFY user, but will accept message and attempt delivery")


def help_text(lines: tuple[str, ...]) -> Reply:
    return _reply(214, "2.0.0", *lines)
