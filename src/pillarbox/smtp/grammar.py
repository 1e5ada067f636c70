"""Octets to commands and back: the grammar of RFC 5321 §4.1, an RFC section beside each rule.

A parser gets the argument of a command and gives its event, or a Refused with the reply that the fault deserves. Knows
no state: whether a command may come now is asked elsewhere. Any kindness to clients is named here, none is in framing:

* white space between `FROM:` or `TO:` and the path is skipped, as many clients send it;
* an underscore may stand in the name that HELO and EHLO give, as container names hold one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from pillarbox.core import reply as r
from pillarbox.core.address import AddressError, Domain, LocalPart, Mailbox, UnknownLiteral, parse_host
from pillarbox.core.envelope import BodyType
from pillarbox.smtp.events import (
    DataCommand,
    Hello,
    Help,
    MailFrom,
    Noop,
    Quit,
    RcptTo,
    Refused,
    Reset,
    ServerEvent,
    Verify,
)
from pillarbox.smtp.states import Verb

MAX_PATH = 256  # octets with its brackets, RFC 5321 §4.5.3.1.3
_PATH = rb'[ \t]*<([^"<>\s]*(?:"(?:[^"\\]|\\.)*"[^"<>\s]*)*)>(?:[ \t]+(.*))?'
_FROM = re.compile(rb"FROM:" + _PATH, re.IGNORECASE | re.DOTALL)
_TO = re.compile(rb"TO:" + _PATH, re.IGNORECASE | re.DOTALL)
_SOURCE_ROUTE = re.compile(r"@[^@,:\s]+(?:,@[^@,:\s]+)*:")
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")  # RFC 5321 §4.1.2 esmtp-param
_NO_PARAMETERS = (0, BodyType.SEVEN_BIT)
_SIZE = re.compile(r"\d{1,20}")  # RFC 1870 §3
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HELLO_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


class _Fault(Exception):
    """Carries the reply out of a parser."""

    def __init__(self, reply: r.Reply) -> None:
        self.reply = reply


def _hello(verb: Verb, argument: bytes) -> ServerEvent:
    """RFC 5321 §4.1.1.1; the name is not compared with anything (§4.1.4)."""
    try:
        name = argument.strip().decode("ascii")
        if not _HELLO_NAME.fullmatch(name) or len(name) > 255:
            parse_host(name)
    except UnknownLiteral:
        return Refused(verb, r.HELO_LITERAL)
    except (AddressError, UnicodeDecodeError):
        return Refused(verb, r.HELO_SYNTAX)
    return Hello(name, verb is Verb.EHLO)


def _helo(argument: bytes, _: Domain) -> ServerEvent:
    return _hello(Verb.HELO, argument)


def _ehlo(argument: bytes, _: Domain) -> ServerEvent:
    return _hello(Verb.EHLO, argument)


_SYNTAX = {Verb.MAIL: r.SENDER_SYNTAX, Verb.RCPT: r.RECIPIENT_SYNTAX}


@lru_cache(maxsize=4096)
def _mailbox(octets: bytes, verb: Verb) -> Mailbox | None:
    """What a path names, None for an empty one. Raises _Fault."""
    syntax = _SYNTAX[verb]
    text = _path(octets, syntax)
    try:
        return Mailbox.parse(text) if text else None
    except AddressError as error:
        raise _Fault(syntax) from error


def _path(octets: bytes, syntax: r.Reply) -> str:
    """The path without brackets and source route, which must be taken and ignored (RFC 5321 §4.1.1.3, appendix F.2)."""
    if len(octets) + 2 > MAX_PATH:
        raise _Fault(syntax)
    try:
        text = octets.decode("ascii")
    except UnicodeDecodeError as error:
        raise _Fault(_non_ascii(octets, syntax)) from error
    if text.startswith("@"):
        route = _SOURCE_ROUTE.match(text)
        if route is None or route.end() == len(text):
            raise _Fault(syntax)
        return text[route.end() :]
    return text


def _non_ascii(octets: bytes, syntax: r.Reply) -> r.Reply:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return syntax
    return r.NON_ASCII_PATH  # RFC 6531 §3.5


def _mail(argument: bytes, _: Domain) -> ServerEvent:
    """RFC 5321 §4.1.1.2."""
    match = _FROM.fullmatch(argument)
    if match is None:
        return Refused(Verb.MAIL, r.SENDER_SYNTAX)
    try:
        sender = _mailbox(match[1], Verb.MAIL)
        size, body_type = _mail_parameters(match[2]) if match[2] else _NO_PARAMETERS
    except _Fault as fault:
        return Refused(Verb.MAIL, fault.reply)
    return MailFrom(sender, size, body_type)


def _mail_parameters(octets: bytes) -> tuple[int, BodyType]:
    size = 0
    body_type = BodyType.SEVEN_BIT
    for keyword, value in _parameters(octets).items():
        if keyword == "SIZE":
            if not _SIZE.fullmatch(value):
                raise _Fault(r.BAD_PARAMETER)
            size = int(value)
        elif keyword == "BODY":
            try:
                body_type = BodyType(value.upper())  # RFC 6152 §3
            except ValueError as error:
                raise _Fault(r.BAD_PARAMETER) from error
        else:
            raise _Fault(r.UNKNOWN_PARAMETER)  # RFC 5321 §4.1.1.11
    return size, body_type


def _parameters(octets: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in octets.split():
        match = _PARAMETER.fullmatch(word)
        keyword = match[1].decode("ascii").upper() if match else ""
        if match is None or keyword in found:
            raise _Fault(r.BAD_PARAMETER)
        found[keyword] = (match[2] or b"").decode("ascii")
    return found


def _rcpt(argument: bytes, hostname: Domain) -> ServerEvent:
    """RFC 5321 §4.1.1.3. `<Postmaster>` without a domain is ours."""
    match = _TO.fullmatch(argument)
    if match is None:
        return Refused(Verb.RCPT, r.RECIPIENT_SYNTAX)
    try:
        if match[2] and _parameters(match[2]):
            return Refused(Verb.RCPT, r.UNKNOWN_PARAMETER)
        if match[1].lower() == b"postmaster":
            return RcptTo(Mailbox(LocalPart("postmaster"), hostname))
        recipient = _mailbox(match[1], Verb.RCPT)
        return RcptTo(recipient) if recipient is not None else Refused(Verb.RCPT, r.RECIPIENT_SYNTAX)
    except _Fault as fault:
        return Refused(Verb.RCPT, fault.reply)


def _bare(verb: Verb, event: ServerEvent) -> Callable[[bytes, Domain], ServerEvent]:
    """A command that takes no argument (RFC 5321 §4.1.1.4, .5, .10)."""
    refusal = Refused(verb, r.NO_ARGUMENT_ALLOWED)

    def parse(argument: bytes, _: Domain) -> ServerEvent:
        return refusal if argument.strip() else event

    return parse


def _noop(argument: bytes, _: Domain) -> ServerEvent:
    """RFC 5321 §4.1.1.9: an argument is ignored."""
    return Noop()


def _vrfy(argument: bytes, _: Domain) -> ServerEvent:
    """RFC 5321 §4.1.1.6."""
    text = argument.strip()
    if not text:
        return Refused(Verb.VRFY, r.ARGUMENT_NEEDED)
    return Verify(text.decode("ascii")) if text.isascii() else Refused(Verb.VRFY, r.BAD_ARGUMENT)


def _help(argument: bytes, _: Domain) -> ServerEvent:
    """RFC 5321 §4.1.1.8."""
    text = argument.strip()
    return Help(text.decode("ascii")) if text.isascii() else Refused(Verb.HELP, r.BAD_ARGUMENT)


Parser = Callable[[bytes, Domain], ServerEvent]

VERBS: Mapping[bytes, Verb] = {
    verb.value.encode(): verb for verb in Verb if verb not in (Verb.CONNECT, Verb.END_OF_DATA)
}
PARSERS: Mapping[Verb, Parser] = {
    Verb.HELO: _helo,
    Verb.EHLO: _ehlo,
    Verb.MAIL: _mail,
    Verb.RCPT: _rcpt,
    Verb.DATA: _bare(Verb.DATA, DataCommand()),
    Verb.RSET: _bare(Verb.RSET, Reset()),
    Verb.NOOP: _noop,
    Verb.QUIT: _bare(Verb.QUIT, Quit()),
    Verb.VRFY: _vrfy,
    Verb.HELP: _help,
}


def print_path(mailbox: Mailbox | None) -> bytes:
    """A path with its brackets; None is the null reverse-path."""
    return b"<>" if mailbox is None else f"<{mailbox}>".encode("ascii")
