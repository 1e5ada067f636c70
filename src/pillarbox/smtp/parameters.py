"""The parameters of MAIL and RCPT, octets to values and back: what each extension adds to the grammar.

One function for each keyword, in two tables; a fault carries the reply that it deserves. Whether an extension is
offered here, and to this client, is asked elsewhere. Times stay as they were said, since this floor has no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pillarbox.core import reply as r
from pillarbox.core.envelope import (
    NO_MAIL_OPTIONS,
    NO_RCPT_OPTIONS,
    BodyType,
    MailOptions,
    Notify,
    RcptOptions,
    Ret,
    ValidSince,
)
from pillarbox.smtp.events import Within

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20=\x7f]+))?")  # RFC 5321 §4.1.2, RFC 6531 §3.3
_SIZE = re.compile(r"\d{1,20}")  # RFC 1870 §3
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")  # RFC 3461 §4
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UNICODE_CHAR = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 §3
_BY = re.compile(r"([+-]?\d{1,9});([NR])(T?)", re.IGNORECASE)  # RFC 2852 §4
_HOLD_FOR = re.compile(r"\d{1,9}")  # RFC 4865 §4
_PRIORITY = re.compile(r"-?[0-9]")  # RFC 6710 §4.2
_DATE_TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", re.IGNORECASE
)  # RFC 3339 §5.6
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]+")
MAX_ENVELOPE_ID = 100  # characters of xtext, RFC 3461 §4.4
MAX_ORIGINAL = 500  # characters, RFC 3461 §4.2


class Fault(Exception):
    """Carries the reply out of a parser."""

    def __init__(self, reply: r.Reply) -> None:
        self.reply = reply


@dataclass(slots=True)
class MailParameters:
    """What the parameters of MAIL said."""

    size: int = 0  # octets, 0 where none was declared
    body_type: BodyType = BodyType.SEVEN_BIT
    options: MailOptions = NO_MAIL_OPTIONS
    within: Within | None = None  # BY
    hold_for: int | None = None  # seconds
    said: dict[str, Any] = field(default_factory=dict)  # for `options`, by the name of its field


NO_MAIL_PARAMETERS = MailParameters()


def mail_parameters(text: str) -> MailParameters:
    """Raises Fault."""
    found = MailParameters()
    for keyword, value in _words(text).items():
        read = _MAIL.get(keyword)
        if read is None:
            raise Fault(r.UNKNOWN_PARAMETER)  # RFC 5321 §4.1.1.11
        read(found, value)
    if found.said:
        found.options = MailOptions(**found.said)
    return found


def rcpt_parameters(text: str) -> RcptOptions:
    """Raises Fault."""
    said: dict[str, Any] = {}
    for keyword, value in _words(text).items():
        read = _RCPT.get(keyword)
        if read is None:
            raise Fault(r.UNKNOWN_PARAMETER)
        read(said, value)
    return RcptOptions(**said) if said else NO_RCPT_OPTIONS


def _words(text: str) -> dict[str, str]:
    """By keyword, upper case; "" where there is no value."""
    found: dict[str, str] = {}
    for word in text.split():
        match = _PARAMETER.fullmatch(word)
        keyword = match[1].upper() if match else ""
        if match is None or keyword in found:
            raise Fault(r.BAD_PARAMETER)
        found[keyword] = match[2] or ""
    return found


def _checked(pattern: re.Pattern[str], value: str) -> re.Match[str]:
    match = pattern.fullmatch(value)
    if match is None:
        raise Fault(r.BAD_PARAMETER)
    return match


# --- of MAIL


def _size(found: MailParameters, value: str) -> None:
    found.size = int(_checked(_SIZE, value)[0])


def _body(found: MailParameters, value: str) -> None:
    try:
        found.body_type = BodyType(value.upper())  # RFC 6152 §3, RFC 3030 §3
    except ValueError as error:
        raise Fault(r.BAD_PARAMETER) from error


def _auth(_: MailParameters, value: str) -> None:
    _checked(_XTEXT, value)  # RFC 4954 §5: taken from anyone, believed from nobody


def _ret(found: MailParameters, value: str) -> None:
    try:
        found.said["ret"] = Ret(value.upper())
    except ValueError as error:
        raise Fault(r.BAD_PARAMETER) from error


def _envid(found: MailParameters, value: str) -> None:
    if len(value) > MAX_ENVELOPE_ID:
        raise Fault(r.BAD_PARAMETER)
    found.said["envelope_id"] = decode_xtext(value)


def _flag(name: str) -> Callable[[MailParameters, str], None]:
    def read(found: MailParameters, value: str) -> None:
        if value:
            raise Fault(r.BAD_PARAMETER)
        found.said[name] = True

    return read


def _by(found: MailParameters, value: str) -> None:
    match = _checked(_BY, value)
    within = Within(int(match[1]), returns=match[2] in "Rr", trace=bool(match[3]))
    if within.returns and within.seconds <= 0:  # RFC 2852 §4: nothing can be returned before it came
        raise Fault(r.BAD_PARAMETER)
    found.within = within


def _hold_for(found: MailParameters, value: str) -> None:
    if "hold_until" in found.said:  # RFC 4865 §4: one or the other
        raise Fault(r.BAD_PARAMETER)
    found.hold_for = int(_checked(_HOLD_FOR, value)[0])


def _hold_until(found: MailParameters, value: str) -> None:
    if found.hold_for is not None:
        raise Fault(r.BAD_PARAMETER)
    found.said["hold_until"] = moment(value)


def moment(value: str) -> float:
    """An RFC 3339 §5.6 date-time as seconds since the epoch. Raises Fault."""
    try:
        return datetime.fromisoformat(_checked(_DATE_TIME, value)[0].upper()).timestamp()
    except (ValueError, OverflowError) as error:
        raise Fault(r.BAD_PARAMETER) from error


def _priority(found: MailParameters, value: str) -> None:
    found.said["priority"] = int(_checked(_PRIORITY, value)[0])


_MAIL: Mapping[str, Callable[[MailParameters, str], None]] = {
    "SIZE": _size,
    "BODY": _body,
    "AUTH": _auth,
    "RET": _ret,
    "ENVID": _envid,
    "SMTPUTF8": _flag("smtputf8"),
    "REQUIRETLS": _flag("require_tls"),
    "BY": _by,
    "HOLDFOR": _hold_for,
    "HOLDUNTIL": _hold_until,
    "MT-PRIORITY": _priority,
}

# --- of RCPT


def _notify(said: dict[str, Any], value: str) -> None:
    """RFC 3461 §4.1: NEVER stands alone."""
    words = value.upper().split(",")
    if words == ["NEVER"]:
        said["notify"] = frozenset()
        return
    try:
        said["notify"] = frozenset(Notify(word) for word in words)
    except ValueError as error:
        raise Fault(r.BAD_PARAMETER) from error


def _orcpt(said: dict[str, Any], value: str) -> None:
    """RFC 3461 §4.2; the address type utf-8 has an encoding of its own (RFC 6533 §3)."""
    kind, semicolon, address = value.partition(";")
    if not semicolon or not address or len(value) > MAX_ORIGINAL or not _ADDRESS_TYPE.fullmatch(kind):
        raise Fault(r.BAD_PARAMETER)
    kind = kind.lower()
    if kind == "rfc822" and not (octets := _octets(address)).isascii():
        kind, decoded = "utf-8", _shown(octets)  # Postfix says so; RFC 6533 §3 has this type for it
    else:
        decoded = decode_unicode(address) if kind == "utf-8" else decode_xtext(address)
    said["original"] = f"{kind};{decoded}"


def _rrvs(said: dict[str, Any], value: str) -> None:
    """RFC 7293 §3: where neither is said, R, which keeps mail from a stranger."""
    since, _, action = value.partition(";")
    if action.upper() not in ("", "C", "R"):
        raise Fault(r.BAD_PARAMETER)
    moment(since)
    said["valid_since"] = ValidSince(since, reject=action.upper() != "C")


_RCPT: Mapping[str, Callable[[dict[str, Any], str], None]] = {"NOTIFY": _notify, "ORCPT": _orcpt, "RRVS": _rrvs}

# --- encodings


def decode_xtext(value: str) -> str:
    """RFC 3461 §4. What it stands for may be no text that can be shown: such an xtext is refused. Raises Fault."""
    octets = _octets(value)
    if not octets.isascii():
        raise Fault(r.BAD_PARAMETER)
    return _shown(octets)


def _octets(value: str) -> bytes:
    """What an xtext stands for. Raises Fault."""
    return _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), _checked(_XTEXT, value)[0]).encode("latin-1")


def _shown(octets: bytes) -> str:
    """As text that can be shown. Raises Fault."""
    try:
        text = octets.decode()
    except UnicodeDecodeError as error:
        raise Fault(r.BAD_PARAMETER) from error
    if not text.isprintable():
        raise Fault(r.BAD_PARAMETER)
    return text


def encode_xtext(text: str) -> str:
    """RFC 3461 §4; the text is printable ASCII."""
    return re.sub(r"[+= ]", lambda match: f"+{ord(match[0]):02X}", text)


def decode_unicode(value: str) -> str:
    """utf-8-addr-xtext and utf-8-addr-unitext of RFC 6533 §3. Raises Fault."""
    try:
        text = _UNICODE_CHAR.sub(lambda match: chr(int(match[1], 16)), value)
        text.encode()
    except ValueError as error:
        raise Fault(r.BAD_PARAMETER) from error
    if not text.isprintable():
        raise Fault(r.BAD_PARAMETER)
    return text


def encode_unicode(text: str) -> str:
    """utf-8-addr-xtext of RFC 6533 §3, which is ASCII and so fit for every hop."""
    return re.sub(r"[^!-*,-<>-\[\]-~]", lambda match: f"\\x{{{ord(match[0]):02X}}}", text)
