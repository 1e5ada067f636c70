"""Octets to commands and back: the grammar of RFC 5321 §4.1, an RFC section beside each rule.

A parser gets the argument of a command and gives its event, or a Refused with the reply that the fault deserves. Knows
no state: whether a command may come now is asked elsewhere. Any kindness to clients is named here, none is in framing:

* white space between `FROM:` or `TO:` and the path is skipped, as many clients send it;
* an underscore may stand in the name that HELO and EHLO give, as container names hold one.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from pillarbox.core import reply as r
from pillarbox.core.address import AddressError, Domain, LocalPart, Mailbox, UnknownLiteral, parse_host
from pillarbox.core.envelope import NO_RCPT_OPTIONS, Mode
from pillarbox.smtp.events import (
    Atrn,
    Authenticate,
    AuthResponse,
    DataCommand,
    Etrn,
    Expand,
    Hello,
    Help,
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
)
from pillarbox.smtp.framing import Chunk
from pillarbox.smtp.parameters import NO_MAIL_PARAMETERS, Fault, mail_parameters, rcpt_parameters
from pillarbox.smtp.states import Verb

_REMEMBERED = 4096  # arguments whose meaning is kept: addresses come again, and what they mean is in the octets alone
MAX_PATH = 256  # octets with its brackets, RFC 5321 §4.5.3.1.3
_PATH = rb'[ \t]*<([^"<>\s]*(?:"(?:[^"\\]|\\.)*"[^"<>\s]*)*)>(?:[ \t]+(.*))?'
_FROM = re.compile(rb"FROM:" + _PATH, re.IGNORECASE | re.DOTALL)
_TO = re.compile(rb"TO:" + _PATH, re.IGNORECASE | re.DOTALL)
_SOURCE_ROUTE = re.compile(r"@[^@,:\s]+(?:,@[^@,:\s]+)*:")
_SMTPUTF8 = re.compile(rb"[ \t]+SMTPUTF8$", re.IGNORECASE)
_CHUNK = re.compile(rb"(\d{1,18})([ \t]+LAST)?[ \t]*", re.IGNORECASE)  # RFC 3030 §2
_MECHANISM = re.compile(rb"[A-Za-z0-9_-]{1,20}")  # RFC 4422 §3.1
_CLASSIC_PARAMETER = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*=[!-<>-~]+")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HELLO_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


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
    return Hello(name, verb is not Verb.HELO)


def _helo(argument: bytes, _: str) -> ServerEvent:
    return _hello(Verb.HELO, argument)


def _ehlo(argument: bytes, _: str) -> ServerEvent:
    return _hello(Verb.EHLO, argument)


def _lhlo(argument: bytes, _: str) -> ServerEvent:
    """RFC 2033 §4.1: as EHLO."""
    return _hello(Verb.LHLO, argument)


_SYNTAX = {Verb.MAIL: r.SENDER_SYNTAX, Verb.RCPT: r.RECIPIENT_SYNTAX}
_INCOMPLETE = {Verb.MAIL: r.SENDER_INCOMPLETE, Verb.RCPT: r.RECIPIENT_INCOMPLETE}


@lru_cache(maxsize=_REMEMBERED)
def _mailbox(octets: bytes, verb: Verb) -> Mailbox | None:
    """What a path names, None for an empty one. Raises Fault."""
    syntax = _SYNTAX[verb]
    text = _path(octets, syntax)
    try:
        return Mailbox.parse(text) if text else None
    except AddressError as error:
        raise Fault(syntax if "@" in text else _INCOMPLETE[verb]) from error


def _path(octets: bytes, syntax: r.Reply) -> str:
    """The path without brackets and source route, which must be taken and ignored (RFC 5321 §4.1.1.3, appendix F.2)."""
    if len(octets) + 2 > MAX_PATH:
        raise Fault(syntax)
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault(syntax) from error
    if text.startswith("@"):
        route = _SOURCE_ROUTE.match(text)
        if route is None or route.end() == len(text):
            raise Fault(syntax)
        return text[route.end() :]
    return text


def _opening(verb: Verb, mode: Mode) -> Callable[[bytes, str], ServerEvent]:
    """RFC 5321 §4.1.1.2, RFC 821 §3.4: MAIL and its three kin differ in the word alone."""
    syntax = Refused(verb, r.SENDER_SYNTAX)

    @lru_cache(maxsize=_REMEMBERED)
    def parse(argument: bytes, _: str) -> ServerEvent:
        match = _FROM.fullmatch(argument)
        if match is None:
            return syntax
        try:
            sender = _mailbox(match[1], Verb.MAIL)
            found = mail_parameters(_text(match[2])) if match[2] else NO_MAIL_PARAMETERS
        except Fault as fault:
            return Refused(verb, fault.reply)
        if not argument.isascii() and not found.options.smtputf8:
            return Refused(verb, r.NON_ASCII_PATH)  # RFC 6531 §3.5
        return MailFrom(sender, found.size, found.body_type, mode, found.options, found.within, found.hold_for)

    return parse


def _text(octets: bytes) -> str:
    """Parameters. Raises Fault."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault(r.BAD_PARAMETER) from error


@lru_cache(maxsize=_REMEMBERED)
def _rcpt(argument: bytes, hostname: str) -> ServerEvent:
    """RFC 5321 §4.1.1.3. `<Postmaster>` without a domain is ours."""
    match = _TO.fullmatch(argument)
    if match is None:
        return Refused(Verb.RCPT, r.RECIPIENT_SYNTAX)
    try:
        options = rcpt_parameters(_text(match[2])) if match[2] else NO_RCPT_OPTIONS
        if match[1].lower() == b"postmaster":
            recipient = Mailbox(LocalPart("postmaster"), Domain(hostname))
        elif (found := _mailbox(match[1], Verb.RCPT)) is not None:
            recipient = found
        else:
            return Refused(Verb.RCPT, r.RECIPIENT_SYNTAX)
        return RcptTo(recipient, options, international=not argument.isascii())
    except Fault as fault:
        return Refused(Verb.RCPT, fault.reply)


def _bare(verb: Verb, event: ServerEvent) -> Callable[[bytes, str], ServerEvent]:
    """A command that takes no argument (RFC 5321 §4.1.1.4, .5, .10)."""
    refusal = Refused(verb, r.NO_ARGUMENT_ALLOWED)

    def parse(argument: bytes, _: str) -> ServerEvent:
        return refusal if argument.strip() else event

    return parse


_RESET = _bare(Verb.RSET, Reset())


def _rset(argument: bytes, hostname: str) -> ServerEvent:
    """RFC 5321 §4.1.1.5. The classical table has a 504 here, for what looks like the parameter of an extension."""
    if _CLASSIC_PARAMETER.fullmatch(argument.strip()):
        return Refused(Verb.RSET, r.NO_ARGUMENT_ALLOWED, r.UNKNOWN_PARAMETER_OF_COMMAND)
    return _RESET(argument, hostname)


def _noop(argument: bytes, _: str) -> ServerEvent:
    """RFC 5321 §4.1.1.9: an argument is ignored."""
    return Noop()


def _named(verb: Verb, event: type[Verify | Expand]) -> Callable[[bytes, str], ServerEvent]:
    """VRFY and EXPN (RFC 5321 §4.1.1.6, .7), with the parameter of RFC 6531 §3.7.4.2."""

    def parse(argument: bytes, _: str) -> ServerEvent:
        text = argument.strip()
        name = _SMTPUTF8.sub(b"", text)
        utf8 = name != text
        if not name:
            return Refused(verb, r.ARGUMENT_NEEDED)
        if not utf8 and not name.isascii():
            return Refused(verb, r.BAD_ARGUMENT)
        try:
            return event(name.decode("utf-8"), utf8=utf8)
        except UnicodeDecodeError:
            return Refused(verb, r.BAD_ARGUMENT)

    return parse


def _help(argument: bytes, _: str) -> ServerEvent:
    """RFC 5321 §4.1.1.8."""
    text = argument.strip()
    return Help(text.decode("ascii")) if text.isascii() else Refused(Verb.HELP, r.BAD_ARGUMENT)


def _auth(argument: bytes, hostname: str) -> ServerEvent:
    """RFC 4954 §4; an initial response of `=` is an empty one."""
    mechanism, _, initial = argument.strip().partition(b" ")
    if not _MECHANISM.fullmatch(mechanism):
        return Refused(Verb.AUTH, r.BAD_ARGUMENT if mechanism else r.ARGUMENT_NEEDED)
    if not initial:
        return Authenticate(mechanism.decode("ascii").upper(), None)
    octets = b"" if initial == b"=" else _base64(initial)
    if octets is None:
        return Refused(Verb.AUTH, r.AUTH_BASE64)
    return Authenticate(mechanism.decode("ascii").upper(), octets)


def parse_response(line: bytes) -> ServerEvent:
    """The line behind a 334 (RFC 4954 §4)."""
    if line == b"*":
        return AuthResponse(None)
    octets = _base64(line)
    return AuthResponse(octets) if octets is not None else Refused(Verb.AUTH, r.AUTH_BASE64)


def _base64(text: bytes) -> bytes | None:
    """RFC 4648 §4, strictly."""
    try:
        return binascii.a2b_base64(text, strict_mode=True) if text else b""
    except binascii.Error:
        return None


def _atrn(argument: bytes, _: str) -> ServerEvent:
    """RFC 2645 §5.2: domains with commas between them."""
    text = argument.strip()
    try:
        names = text.decode("ascii").split(",") if text else []
        return Atrn(tuple(dict.fromkeys(Domain.parse(name.strip(" ")) for name in names)))
    except (AddressError, UnicodeDecodeError):
        return Refused(Verb.ATRN, r.BAD_ARGUMENT)


def _etrn(argument: bytes, _: str) -> ServerEvent:
    """RFC 1985 §5.2, §5.3: a domain, `@` in front for all below it as well, or `#` and a queue's name."""
    text = argument.strip()
    if not text:
        return Refused(Verb.ETRN, r.ARGUMENT_NEEDED)
    if text.startswith(b"#") and len(text) > 1:
        return Etrn(None, below=False)
    try:
        return Etrn(Domain.parse(text.removeprefix(b"@").decode("ascii")), below=text.startswith(b"@"))
    except (AddressError, UnicodeDecodeError):
        return Refused(Verb.ETRN, r.BAD_ARGUMENT)


def _bdat(argument: bytes, _: str) -> ServerEvent | Chunk:
    """RFC 3030 §2. Behind a size that can't be read nobody knows where the next command begins."""
    match = _CHUNK.fullmatch(argument.lstrip(b" \t"))
    return Refused(Verb.BDAT, r.BAD_CHUNK) if match is None else Chunk(int(match[1]), last=match[2] is not None)


Parser = Callable[[bytes, str], ServerEvent | Chunk]

VERBS: Mapping[bytes, Verb] = {
    verb.value.encode(): verb for verb in Verb if verb not in (Verb.CONNECT, Verb.END_OF_DATA, Verb.UNKNOWN)
}
PARSERS: Mapping[Verb, Parser] = {
    Verb.HELO: _helo,
    Verb.EHLO: _ehlo,
    Verb.LHLO: _lhlo,
    Verb.MAIL: _opening(Verb.MAIL, Mode.MAIL),
    Verb.SEND: _opening(Verb.SEND, Mode.SEND),
    Verb.SOML: _opening(Verb.SOML, Mode.SOML),
    Verb.SAML: _opening(Verb.SAML, Mode.SAML),
    Verb.RCPT: _rcpt,
    Verb.DATA: _bare(Verb.DATA, DataCommand()),
    Verb.BDAT: _bdat,
    Verb.RSET: _rset,
    Verb.NOOP: _noop,
    Verb.QUIT: _bare(Verb.QUIT, Quit()),
    Verb.VRFY: _named(Verb.VRFY, Verify),
    Verb.EXPN: _named(Verb.EXPN, Expand),
    Verb.HELP: _help,
    Verb.AUTH: _auth,
    Verb.STARTTLS: _bare(Verb.STARTTLS, StartTls()),
    Verb.TURN: _bare(Verb.TURN, Turn()),
    Verb.ATRN: _atrn,
    Verb.ETRN: _etrn,
}


def print_path(mailbox: Mailbox | None) -> bytes:
    """A path with its brackets; None is the null reverse-path."""
    return b"<>" if mailbox is None else f"<{mailbox}>".encode()
