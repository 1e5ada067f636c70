"""From the text that somebody gives to `pillarbox send` to the octets of a message.

Line ends become CRLF, and Date, From and Message-ID are added where they are missing, which is the right of a message
submission (RFC 6409 §8.1, §8.2, §8.3); nothing else is touched. Knows no queue and no directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import make_msgid

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.message import date_field

_BARE = re.compile(rb"\r(?!\n)|\0")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_FOLDED = (b" ", b"\t")


class UnfitText(ValueError):
    """The text can't be made a message; says why."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Who submits what, and where and when."""

    text: bytes
    sender: Mailbox | None
    hostname: Domain
    now: float  # seconds since the epoch


def compose(submission: Submission) -> bytes:
    """The message. Raises UnfitText."""
    lines = _lines(submission.text)
    end = _header_lines(lines)
    header, body = lines[:end], lines[end:]
    present = {match[1].lower() for line in header if (match := _FIELD.match(line))}
    added = [line for name, line in _needed(submission) if name not in present]
    if body and body[0]:
        body.insert(0, b"")  # the first line that is no field begins the body
    return b"".join(line + b"\r\n" for line in (*added, *header, *(body or [b""])))


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


def _needed(submission: Submission) -> list[tuple[bytes, bytes]]:
    author = submission.sender or f"MAILER-DAEMON@{submission.hostname}"
    fields = {
        "Date": date_field(int(submission.now)),
        "From": str(author),
        "Message-ID": make_msgid(domain=submission.hostname.ascii),
    }
    return [(name.lower().encode(), f"{name}: {value}".encode()) for name, value in fields.items()]
