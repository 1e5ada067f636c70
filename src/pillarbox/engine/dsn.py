"""Notices (RFC 3464, RFC 6522, RFC 6533): the bytes of the message that tells a sender what became of a message.

Pure. Plain 7-bit, but for what a message of SMTPUTF8 makes international, and a message of 8 bits that is returned
whole. Invariants: a notice goes to the sender of the envelope alone, with the null reverse-path, and nobody is told
anything of a notice (RFC 5321 §6.1). Recipients are called what the sender called them, so the target of an alias stays
private (RFC 3464 §4.2); only the owner of a list is told of its members.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MailOptions
from pillarbox.core.message import date_field, header_end
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.dsn_fields import Script, exact, octets, unfolded, wrapped
from pillarbox.engine.mail import Message, Row

NOTICE_LISTENER = "notice"  # `Message.listener` of our own notices
MAX_LINE = 998  # octets without CRLF (RFC 5322 §2.1.1)

_DAY = 86400
_HOUR = 3600
_REMOTE_NAME = re.compile(r"\[[0-9A-Za-z:.]+\]|[0-9A-Za-z.-]+")


class Action(Enum):
    """What became of a recipient (RFC 3464 §2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Telling:
    """What is told of one recipient."""

    row: Row
    action: Action
    status: EnhancedCode
    text: str
    next_hop: str = ""
    remote: bool = False  # `text` is a reply of the next hop
    given_up: bool = False  # failed since it took too long
    until: float | None = None  # delayed: for how long it is tried
    again: float | None = None  # maybe delivered: when it is sent once more, unless somebody says that it has arrived

    @property
    def news(self) -> Action | None:
        """What is told: an action, or None where it is a question."""
        return self.action if self.again is None else None


@dataclass(frozen=True, slots=True)
class Notice:
    """What one notice is made of. `sender` is to whom it goes; `options` are what that one asked for in MAIL."""

    message: Message
    tellings: Sequence[Telling]  # one at least, all of the same news
    sender: Mailbox
    options: MailOptions
    hostname: Domain
    now: float


@dataclass(frozen=True, slots=True)
class Returned:
    """What is returned of the message: all of it, or what is there of its header section."""

    octets: bytes
    whole: bool = False

    @property
    def header(self) -> bytes:
        return self.octets[: header_end(self.octets)] if self.whole else self.octets


def may_notify(message: Message) -> bool:
    """Whether anybody may be told: nothing ever bounces a bounce (RFC 5321 §4.5.5)."""
    return message.envelope.sender is not None and message.listener != NOTICE_LISTENER


def notice(told: Notice, returned: Returned) -> bytes:
    """The notice, CRLF throughout."""
    script = Script(wide=_is_international(told, returned))
    parts = (
        _part(f"text/plain; charset={'utf-8' if script.wide else 'us-ascii'}", _explanation(told, returned, script)),
        _part(f"message/{'global-' if script.wide else ''}delivery-status", _status(told, script)),
        _original(returned, script),
    )
    boundary = f"=_{told.message.id}"
    while any(boundary.encode() in part for part in parts):  # RFC 2046 §5.1.1
        boundary += "_"
    opening = f"--{boundary}\r\n".encode()
    body = b"".join(opening + part + b"\r\n" for part in parts)
    return _header(told, boundary, script) + b"\r\n" + body + f"--{boundary}--\r\n".encode()


def _is_international(told: Notice, returned: Returned) -> bool:
    """RFC 6533 §4: where the message used SMTPUTF8, and something of it can't be said in ASCII."""
    texts = [str(told.sender)]
    if told.options.smtputf8:
        texts += [_name(each) for each in told.tellings]
        texts += [each.row.recipient.options.original or "" for each in told.tellings]
        if not returned.header.isascii():
            return True
    return not all(map(str.isascii, texts))


def _header(told: Notice, boundary: str, script: Script) -> bytes:
    first = told.tellings[0]
    return script.fields(
        ("From", f"Mail Delivery System <MAILER-DAEMON@{told.hostname}>"),
        ("To", f"{told.sender}"),
        ("Subject", _SUBJECTS[first.news]),
        ("Date", date_field(int(told.now))),
        ("Message-ID", f"<{told.message.id}.{first.row.number}.{_MARKS[first.news]}@{told.hostname}>"),
        ("Auto-Submitted", "auto-replied"),  # RFC 3834 §5
        ("MIME-Version", "1.0"),
        # RFC 6522 §3
        ("Content-Type", f'multipart/report; report-type=delivery-status; boundary="{boundary}"'),
    )


def _part(content_type: str, body: bytes, encoding: str = "") -> bytes:
    encoding = encoding or ("7bit" if body.isascii() else "8bit")
    fields = ("Content-Type", content_type), ("Content-Transfer-Encoding", encoding)
    return Script(wide=False).fields(*fields) + b"\r\n" + body


# --- the part that people read

_MARKS: Mapping[Action | None, str] = {
    None: "question",
    Action.FAILED: "notice",
    Action.DELAYED: "delay",
    Action.DELIVERED: "delivery",
    Action.RELAYED: "relay",
    Action.EXPANDED: "expansion",
}
_SUBJECTS: Mapping[Action | None, str] = {
    None: "Has your message arrived? It may have been delivered",
    Action.FAILED: "Undelivered mail: your message did not reach everybody",
    Action.DELAYED: "Delayed mail: your message is still on its way",
    Action.DELIVERED: "Delivered mail: your message has arrived",
    Action.RELAYED: "Relayed mail: your message has been passed on",
    Action.EXPANDED: "Forwarded mail: your message goes on to several addresses",
}
_NEWS: Mapping[Action | None, str] = {
    None: "may have reached the recipients below, or not: the connection was lost when all of it had been sent, and"
    " before the answer came. Please ask them. If it has arrived, tell the postmaster of this server the number below,"
    " and it is not sent again. Otherwise you need do nothing.",
    Action.FAILED: "could not be delivered to the recipients below. It will not be tried again.",
    Action.DELAYED: "could not be delivered to the recipients below yet. You need not send it again: this server goes"
    " on trying.",
    Action.DELIVERED: "was delivered to the recipients below. You had asked to be told.",
    Action.RELAYED: "was passed on to the next mail server for the recipients below. It may be that you hear nothing"
    " of it any more, though it arrives.",
    Action.EXPANDED: "was accepted for the recipients below, and is passed on to the addresses behind them. You had"
    " asked to be told.",
}


def _explanation(told: Notice, returned: Returned, script: Script) -> bytes:
    message, title = told.message, told.message.header.subject
    subject = f' with the subject "{script.clean(title)}"' if title and "=?" not in title else ""
    attached = "it is attached" if returned.whole else "its header section is attached"
    paragraphs = [
        f"This is the mail server at {told.hostname}.",
        f"Your message{subject} that came here on {date_field(int(message.received_at))}"
        f" {_NEWS[told.tellings[0].news]}",
        *(_reason(one, told.now - message.received_at, script) for one in told.tellings),
        f"The message was known here as {message.id}; {attached}.",
    ]
    return octets("\n\n".join(wrapped(paragraph, indent="") for paragraph in paragraphs) + "\n")


def _reason(one: Telling, age: float, script: Script) -> str:
    said = "The next mail server said: " if one.remote else ""
    end = ""
    if one.given_up:
        end = f" Given up after {_attempts(one.row.attempts)} in {_age(age)}."
    elif one.again is not None:
        end = f" It will be sent once more on {date_field(int(one.again))}, and may then arrive twice."
    elif one.until is not None:
        end = f" It will be given up on {date_field(int(one.until))}."
    return f"<{script.clean(_name(one))}>: {said}{script.clean(one.text)}{'.' if end else ''}{end}"


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def _age(seconds: float) -> str:
    if seconds >= 2 * _DAY:
        return f"{seconds / _DAY:.0f} days"
    return f"{seconds / _HOUR:.0f} hours" if seconds >= 2 * _HOUR else f"{seconds / 60:.0f} minutes"


def _name(one: Telling) -> str:
    """What the reader of the notice calls the recipient."""
    recipient = one.row.recipient
    return str(recipient.original if recipient.owner is None else recipient.address)


# --- the part that programs read (RFC 3464 §2)


def _status(told: Notice, script: Script) -> bytes:
    message, options = told.message, told.options
    envelope_id = b""
    if options.envelope_id is not None:  # RFC 3464 §2.2.1
        envelope_id = unfolded("Original-Envelope-Id", exact(options.envelope_id))
    per_message = [("Reporting-MTA", f"dns; {told.hostname}")]
    if message.peer:
        per_message.append(("Received-From-MTA", f"dns; {message.helo} ([{message.peer}])"))
    per_message.append(("Arrival-Date", date_field(int(message.received_at))))
    if options.deliver_by is not None:  # RFC 2852
        per_message.append(("Deliver-By-Date", date_field(int(options.deliver_by.until))))
    groups = [envelope_id + script.fields(*per_message), *(_recipient_fields(one, script) for one in told.tellings)]
    return b"\r\n".join(groups)


def _recipient_fields(one: Telling, script: Script) -> bytes:
    orcpt = one.row.recipient.options.original
    original = None if orcpt is None else script.original(orcpt)
    fields = [
        ("Final-Recipient", script.address(_name(one))),
        ("Action", one.action.value),
        ("Status", str(one.status)),
    ]
    if one.remote:
        if name := _REMOTE_NAME.match(one.next_hop):
            fields.append(("Remote-MTA", f"dns; {name[0]}"))
        fields.append(("Diagnostic-Code", f"smtp; {one.text}"))
    if one.until is not None:  # RFC 3464 §2.3.9
        fields.append(("Will-Retry-Until", date_field(int(one.until))))
    before = b"" if original is None else unfolded("Original-Recipient", original)  # RFC 3464 §2.3.1
    return before + script.fields(*fields)


# --- the original, or its header section


def _original(returned: Returned, script: Script) -> bytes:
    content, header = returned.octets, returned.header
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    international = script.wide and not header.isascii() and _is_utf8(header)
    if returned.whole:
        return _part("message/global" if international else "message/rfc822", content)
    short = max(map(len, content.split(b"\r\n"))) <= MAX_LINE
    if international and short:
        return _part("message/global-headers", content)  # RFC 6533 §4.3
    if content.isascii() and short:
        return _part("text/rfc822-headers", content)
    # RFC 6522 §4 allows an encoding here; RFC 3464 §2.1 does not for the status.
    return _part("text/rfc822-headers", binascii.b2a_qp(content), "quoted-printable")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
