"""Failure notices (RFC 3464): the bytes of the message that tells a sender what could not be delivered.

Pure, and plain 7-bit whatever the original was. Invariants: a notice goes to the sender of the envelope alone, with
the null reverse-path, and nobody is told of the failure of a notice (RFC 5321 §6.1); no octet of a peer's reply or of
an address can start a header field or a line of its own. Recipients are called what the sender called them, so the
target of an alias stays private (RFC 3464 §4.2).
"""

from __future__ import annotations

import binascii
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pillarbox.core.address import Domain
from pillarbox.core.message import date_field
from pillarbox.core.reply import printable
from pillarbox.engine.mail import Deferred, Failed, Message, Row, State

NOTICE_LISTENER = "notice"  # `Message.listener` of our own notices
MAX_LINE = 998  # octets without CRLF (RFC 5322 §2.1.1)
WIDTH = 76

_DAY = 86400
_HOUR = 3600
_REMOTE_NAME = re.compile(r"\[[0-9A-Za-z:.]+\]|[0-9A-Za-z.-]+")


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A recipient who is not tried again; `state` is FAILED or EXPIRED."""

    row: Row
    outcome: Failed | Deferred
    state: State


def may_notify(message: Message) -> bool:
    """Whether anybody may be told: nothing ever bounces a bounce (RFC 5321 §4.5.5)."""
    return message.envelope.sender is not None and message.listener != NOTICE_LISTENER


def failure_notice(
    message: Message, undelivered: Sequence[Undelivered], *, hostname: Domain, now: float, header: bytes
) -> bytes:
    """The notice, CRLF throughout. `header` is what is to be shown of the original's header section."""
    parts = (
        _part("text/plain; charset=us-ascii", _explanation(message, undelivered, hostname, now)),
        _part("message/delivery-status", _status(message, undelivered, hostname)),
        _original(header),
    )
    boundary = f"=_{message.id}"
    while any(boundary.encode() in part for part in parts):  # RFC 2046 §5.1.1
        boundary += "_"
    opening = f"--{boundary}\r\n".encode()
    body = b"".join(opening + part + b"\r\n" for part in parts)
    return _header(message, undelivered, hostname, now, boundary) + b"\r\n" + body + f"--{boundary}--\r\n".encode()


def _header(message: Message, undelivered: Sequence[Undelivered], hostname: Domain, now: float, boundary: str) -> bytes:
    return _fields(
        ("From", f"Mail Delivery System <MAILER-DAEMON@{hostname}>"),
        ("To", f"{message.envelope.sender}"),
        ("Subject", "Undelivered mail: your message did not reach everybody"),
        ("Date", date_field(int(now))),
        ("Message-ID", f"<{message.id}.{undelivered[0].row.number}.notice@{hostname}>"),
        ("Auto-Submitted", "auto-replied"),  # RFC 3834 §5
        ("MIME-Version", "1.0"),
        # RFC 6522 §3
        ("Content-Type", f'multipart/report; report-type=delivery-status; boundary="{boundary}"'),
    )


def _part(content_type: str, body: bytes, encoding: str = "7bit") -> bytes:
    return _fields(("Content-Type", content_type), ("Content-Transfer-Encoding", encoding)) + b"\r\n" + body


# --- the part that people read


def _explanation(message: Message, undelivered: Sequence[Undelivered], hostname: Domain, now: float) -> bytes:
    title = message.header.subject
    subject = f' with the subject "{printable(title)}"' if title and "=?" not in title else ""
    paragraphs = [
        f"This is the mail server at {hostname}.",
        f"Your message{subject} that came here on {date_field(int(message.received_at))}"
        " could not be delivered to the recipients below. It will not be tried again.",
        *(_reason(one, now - message.received_at) for one in undelivered),
        f"The message was known here as {message.id}; its header section is attached.",
    ]
    return _octets("\n\n".join(_wrapped(paragraph, indent="") for paragraph in paragraphs) + "\n")


def _reason(one: Undelivered, age: float) -> str:
    said = "The next mail server said: " if one.outcome.remote else ""
    tried = f" Given up after {_attempts(one.row.attempts)} in {_age(age)}." if one.state is State.EXPIRED else ""
    text = printable(one.outcome.text)
    return f"<{printable(str(one.row.recipient.original))}>: {said}{text}{'.' if tried else ''}{tried}"


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def _age(seconds: float) -> str:
    if seconds >= 2 * _DAY:
        return f"{seconds / _DAY:.0f} days"
    return f"{seconds / _HOUR:.0f} hours" if seconds >= 2 * _HOUR else f"{seconds / 60:.0f} minutes"


# --- the part that programs read (RFC 3464 §2)


def _status(message: Message, undelivered: Sequence[Undelivered], hostname: Domain) -> bytes:
    per_message = [("Reporting-MTA", f"dns; {hostname}")]
    if message.peer:
        per_message.append(("Received-From-MTA", f"dns; {message.helo} ([{message.peer}])"))
    per_message.append(("Arrival-Date", date_field(int(message.received_at))))
    groups = [_fields(*per_message), *map(_recipient_fields, undelivered)]
    return b"\r\n".join(groups)


def _recipient_fields(one: Undelivered) -> bytes:
    fields = [
        ("Final-Recipient", f"rfc822; {one.row.recipient.original}"),
        ("Action", "failed"),
        ("Status", str(one.outcome.status)),
    ]
    if one.outcome.remote:
        if name := _REMOTE_NAME.match(one.outcome.next_hop):
            fields.append(("Remote-MTA", f"dns; {name[0]}"))
        fields.append(("Diagnostic-Code", f"smtp; {one.outcome.text}"))
    return _fields(*fields)


# --- the original's header section


def _original(header: bytes) -> bytes:
    if header and not header.endswith(b"\r\n"):
        header += b"\r\n"
    if header.isascii() and max(map(len, header.split(b"\r\n"))) <= MAX_LINE:
        return _part("text/rfc822-headers", header)
    # RFC 6522 §4 allows an encoding here; RFC 3464 §2.1 does not for the status.
    return _part("text/rfc822-headers", binascii.b2a_qp(header), "quoted-printable")


# --- lines


def _fields(*fields: tuple[str, str]) -> bytes:
    lines = (_wrapped(f"{name}: {printable(value)}", indent=" ") for name, value in fields)
    return _octets("".join(f"{line}\n" for line in lines))


def _octets(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("ascii")


def _wrapped(text: str, *, indent: str) -> str:
    return "\n".join(
        textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    )
