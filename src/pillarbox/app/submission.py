"""From the text that somebody on this machine gives to `pillarbox send`, or to sendmail, to the octets of a message.

Line ends become CRLF; then the header section is edited as for any submission (`core/header_edit.py`), with From added
where it is missing, too (RFC 6409 §8.1). Nothing else is touched. Knows no queue and no directory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.header import Header
from email.utils import formataddr, make_msgid
from functools import partial

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MailOptions, Notify, RcptOptions, Ret
from pillarbox.core.header_edit import Edit, Edited, submitted
from pillarbox.core.idempotency import BadKey, parse_key
from pillarbox.core.message import date_field

MAX_NAME = 200  # characters of a full name
MAX_ENVELOPE_ID = 100  # characters, RFC 3461 §4.4
_BARE = re.compile(rb"\r(?!\n)|\0")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_FOLDED = (b" ", b"\t")
_NEVER = "never"


class UnfitText(ValueError):
    """The text can't be made a message; says why."""


class UnfitOption(ValueError):
    """What is said of the message can't be said; says why."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What may be said of a message beside sender and recipients, as text; "" and none: nothing is said."""

    full_name: str = ""  # of the sender, for a From that is added
    notify: Sequence[str] = ()  # never, or any of success, failure, delay (RFC 3461 §4.1)
    ret: str = ""  # full, or hdrs (RFC 3461 §4.3)
    envelope_id: str = ""  # RFC 3461 §4.4
    completes: bool = False  # an address without a domain is one of this machine
    key: str = ""  # in the place of an Idempotency-Key field of the text

    def mail_options(self) -> MailOptions:
        """Raises UnfitOption."""
        identifier = self.envelope_id
        if len(identifier) > MAX_ENVELOPE_ID or not (identifier.isascii() and identifier.isprintable()):
            raise UnfitOption(f"the envelope id is no printable ASCII of {MAX_ENVELOPE_ID} characters at most")
        return MailOptions(ret=self._ret(), envelope_id=identifier or None)

    def _ret(self) -> Ret | None:
        words = {each.value.lower(): each for each in Ret}
        if self.ret and self.ret.lower() not in words:
            raise UnfitOption(f"what a notice returns is {' or '.join(words)}, not {self.ret!r}")
        return words.get(self.ret.lower())

    def rcpt_options(self) -> RcptOptions:
        """Raises UnfitOption."""
        words = {each.value.lower(): each for each in Notify}
        wanted = [word.lower() for word in self.notify]
        if wanted == [_NEVER]:
            return RcptOptions(notify=frozenset())
        if not set(wanted) <= set(words):
            raise UnfitOption(f"notices are {_NEVER}, or any of {', '.join(words)}; not {','.join(self.notify)!r}")
        return RcptOptions(notify=frozenset(words[word] for word in wanted) or None)


@dataclass(frozen=True, slots=True)
class Author:
    """Who submits a message, and where and when."""

    sender: Mailbox | None
    hostname: Domain
    now: float  # seconds since the epoch
    full_name: str = ""
    key: str = ""  # Idempotency-Key


def compose(text: bytes) -> bytes:
    """The message, with CRLF line ends, all header or a header section and a body. Raises UnfitText."""
    lines = _lines(text)
    end = _header_lines(lines)
    header, body = lines[:end], lines[end:]
    if body and body[0]:
        body.insert(0, b"")  # the first line that is no field begins the body
    return b"".join(line + b"\r\n" for line in (*header, *(body or [b""])))


def header_edit(author: Author) -> Edit:
    """What is done to the header section of such a message. Raises UnfitOption."""
    fields = {
        "Date": date_field(int(author.now)),
        "From": _from(author),
        "Message-ID": make_msgid(domain=author.hostname.ascii),
    }
    edit = partial(submitted, fields=fields)
    if not author.key:
        return edit
    try:
        parse_key(author.key)
    except BadKey as error:
        raise UnfitOption(str(error)) from error
    return partial(_keyed, edit, author.key.encode())


def _keyed(edit: Edit, key: bytes, section: bytes) -> Edited:
    return edit(section)._replace(keys=(key,))


def _lines(text: bytes) -> list[bytes]:
    """The lines without their ends, whether these were LF or CRLF."""
    if match := _BARE.search(text):
        what = "NUL octet" if match[0] == b"\0" else "CR without LF"
        line = text.count(b"\n", 0, match.start()) + 1
        raise UnfitText(f"line {line} of the text has a {what}")
    lines = text.replace(b"\r\n", b"\n").split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _header_lines(lines: list[bytes]) -> int:
    """How many lines the header section has, which may be none."""
    for number, line in enumerate(lines):
        if not (_FIELD.match(line) or (number and line.startswith(_FOLDED))):
            return number
    return len(lines)


def _from(author: Author) -> str:
    """The mailbox of a From field, with the name encoded where it must be (RFC 2047 §5)."""
    address, name = str(author.sender or f"MAILER-DAEMON@{author.hostname}"), author.full_name.strip()
    if not name:
        return address
    if not name.isprintable() or len(name) > MAX_NAME:
        raise UnfitOption(f"the full name has a control character, or more than {MAX_NAME} characters")
    if name.isascii():
        return formataddr((name, address))
    encoded = Header(name, "utf-8", header_name="From").encode(linesep="\r\n")
    return f"{encoded} <{address}>"
