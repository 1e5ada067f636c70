"""What SEND, SOML and SAML show on a terminal: one message as text (RFC 821 §3.4).

Pure; knows no terminal. Invariants: it gives a text for any octets, never longer than MAX_TEXT, in which no character
but line feed and tab is a control or format character, as write(1) and wall(1) have it; no line of the message can be
taken for the heading or the end. The work is bounded too: what would keep the parser busy is shown as it came.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from email import message_from_bytes
from email.header import decode_header
from email.message import Message
from email.policy import compat32

from pillarbox.core.address import Mailbox
from pillarbox.core.message import header_end, view_header

MAX_TEXT = 96 * 1024  # characters of all that is shown of a message
MAX_FIELD = 200  # characters of a subject, a sender or a peer
END = "EOF"  # the last line, as write(1) has it

_HEADING = "Message from "
_CUT = "\n[cut here: the message is longer than a terminal takes]"
_NO_TEXT = "[no text in this message]"
_FRAME = re.compile(rf"^(?=>*(?:{_HEADING}|{END}[ \t]*$))", re.MULTILINE)

# --- characters

_INVISIBLE = frozenset(("Cc", "Cf", "Zl", "Zp"))  # controls, formats such as bidi overrides, separators of lines
_SURROGATE = "Cs"
_KEPT = "\n\t"


def visible(text: str) -> str:
    """The text with every control and format character but line feed and tab made visible: ^X, or \\uXXXX."""
    shown = {ord(character): _picture(character) for character in set(text)}
    return text.translate({code: picture for code, picture in shown.items() if picture is not None})


def _picture(character: str) -> str | None:
    category, code = unicodedata.category(character), ord(character)
    if category == _SURROGATE:
        return "\ufffd"
    if category not in _INVISIBLE or character in _KEPT:
        return None
    if code < 0x80:
        return f"^{chr(code ^ 0x40)}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _one_line(text: str) -> str:
    line = visible(" ".join(text[: 2 * MAX_FIELD].split()))
    return line if len(line) <= MAX_FIELD else f"{line[: MAX_FIELD - 3]}..."


# --- octets to characters

# Charsets that mail is written in. Of others Python knows some that take the square of the time, and remembers each
# name it does not know.
_CHARSET = re.compile(
    r"utf-?8|utf-16(?:le|be)?|iso[-_]?8859[-_]\d{1,2}|latin-?\d|windows-125\d|cp-?(?:125\d|437|85[028]|866|932|949|950)"
    r"|koi8-[rtu]|gb2312|gbk|gb18030|big5(?:-hkscs)?|shift[-_]jis|euc[-_](?:jp|kr)|iso-2022-(?:jp|jp-[123]|kr)"
    r"|ks_c_5601-1987|tis-620|macintosh",
    re.IGNORECASE,
)


def _decoded(octets: bytes, charset: str | None) -> str:
    """What can't be read becomes U+FFFD. ASCII is taken for the UTF-8 that it often is."""
    if charset and _CHARSET.fullmatch(charset):
        with suppress(LookupError, UnicodeError):
            return octets.decode(charset, "replace")
    return octets.decode("utf-8", "replace")


def _subject(header: bytes) -> str:
    """With its encoded words read (RFC 2047)."""
    raw = view_header(header).subject
    try:
        words = [(each if isinstance(each, bytes) else each.encode(), charset) for each, charset in decode_header(raw)]
    except Exception:  # whatever the standard library's parser makes of it
        return raw
    return "".join(_decoded(octets, charset) for octets, charset in words)


# --- the body

_MAX_NESTED = 10  # parts that hold parts: the parser's work is their number times that of the lines
_MAX_CONTENT_TYPE = 1024  # octets of the field: reading its parameters takes the square of the time
_NESTED = re.compile(rb"multipart/|message/", re.IGNORECASE)
_CONTENT_TYPE = re.compile(rb"(?:^|(?<=\r))content-[td][^\n]*(?:\n[ \t][^\n]*)*", re.IGNORECASE | re.MULTILINE)


def _body(octets: bytes) -> str:
    """The parts that are plain text, or else the words of HTML ones; raw where it can't be taken apart."""
    if _is_tame(octets):
        with suppress(Exception):  # whatever the standard library's parser makes of it
            return _text_of(message_from_bytes(octets, policy=compat32))
    raw = _decoded(octets[header_end(octets) or 0 :], None)
    return "".join(_trimmed([raw])) or _NO_TEXT


def _is_tame(octets: bytes) -> bool:
    if len(_NESTED.findall(octets)) > _MAX_NESTED:
        return False
    return all(len(field[0]) <= _MAX_CONTENT_TYPE for field in _CONTENT_TYPE.finditer(octets))


def _text_of(message: Message) -> str:
    leaves = [part for part in message.walk() if not part.is_multipart()]
    plain = [_part(part) for part in leaves if part.get_content_type() == "text/plain"]
    rich = [_words(_part(part)) for part in leaves if part.get_content_type() == "text/html"]
    other = sum(part.get_content_maintype() != "text" for part in leaves)
    return "\n\n".join([*_trimmed(plain or rich), *_note(other)]) or _NO_TEXT


def _trimmed(texts: Iterable[str]) -> list[str]:
    trimmed = [text.replace("\r\n", "\n").strip("\n") for text in texts]
    return [text for text in trimmed if text]


def _part(part: Message) -> str:
    payload = part.get_payload(decode=True)
    return _decoded(payload if isinstance(payload, bytes) else b"", part.get_content_charset())


def _note(other: int) -> list[str]:
    if not other:
        return []
    return [f"[{'1 part that is' if other == 1 else f'{other} parts that are'} no text: not shown]"]


# --- HTML

_TAG = re.compile(r"(<[^<>]*>)")
_TAG_NAME = re.compile(r"<(/?)([a-zA-Z]+[1-6]?)")
_UNSEEN = frozenset(("script", "style", "title"))
_BREAKING = frozenset("address blockquote br div dd dl dt h1 h2 h3 h4 h5 h6 hr li ol p pre table tr ul".split())


def _words(source: str) -> str:
    """Crude: tags are left out, and those that end a line do. Each octet is looked at a few times at most."""
    pieces: list[str] = []
    unseen = ""  # the element we are in, of those that nobody sees
    for index, token in enumerate(_TAG.split(source)):
        tag = _TAG_NAME.match(token) if index % 2 else None
        name = tag[2].lower() if tag else ""
        if unseen:
            if tag and tag[1] and name == unseen:
                unseen = ""
        elif name in _UNSEEN and tag and not tag[1]:
            unseen = name
        elif name in _BREAKING:
            pieces.append("\n")
        elif not index % 2:
            pieces.append(" ".join(re.split(r"\s+", html.unescape(token))))
    lines = (line.strip() for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)


# --- all of it


def terminal_text(octets: bytes, *, sender: Mailbox | None, peer: str, at: float, verb: str) -> str:
    """The text for one message, ending with a line feed. `at`: seconds since the epoch; shown as local time."""
    origin = _one_line(str(sender)) if sender else "<>"
    via = f" via {_one_line(peer)}" if peer else ""
    head = [f"{_HEADING}{origin}{via} at {datetime.fromtimestamp(at):%H:%M} ({_one_line(verb)}) ..."]
    if subject := _one_line(_subject(octets[: header_end(octets)])):
        head.append(f"Subject: {subject}")
    heading, end = "\n".join(head) + "\n\n", f"\n{END}\n"
    body = _FRAME.sub(">", visible(_body(octets)))
    return heading + _fitted(body, MAX_TEXT - len(heading) - len(end)) + end


def _fitted(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - len(_CUT)] + _CUT
