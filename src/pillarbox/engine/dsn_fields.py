"""The fields of a delivery status (RFC 3464 §2, RFC 6533 §3): how each value is written, in ASCII or in UTF-8.

Pure. Invariant: no octet of a peer's reply, of an address or of a parameter can start a field or a line of its own;
what could is escaped where the value must come back as it was (ENVID, ORCPT), and replaced where it is for people.
"""

from __future__ import annotations

import re
import textwrap

from pillarbox.core.reply import printable

WIDTH = 76
_BOUND = 490  # octets of a text for people
_MOST = 900  # octets of a value that is not folded
# Control characters, separators of lines, and what turns the direction of writing.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_NOT_IN_A_FIELD = re.compile(r"[^ -~]")
_NOT_XTEXT = re.compile(r"[^!-*,-<>-~]")  # RFC 3461 §4
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")  # RFC 6533 §3
_TYPE = re.compile(r"[A-Za-z0-9!#$%&'*+./=?^_`{|}~-]+")


class Script:
    """What may stand in a part: ASCII, or all of Unicode as UTF-8 (`wide`)."""

    __slots__ = ("wide",)

    def __init__(self, *, wide: bool) -> None:
        self.wide = wide

    def clean(self, text: str) -> str:
        """A text for people, on one line."""
        if not self.wide:
            return printable(text)
        return _UNFIT.sub("?", text).encode()[:_BOUND].decode(errors="ignore")

    def fields(self, *fields: tuple[str, str]) -> bytes:
        """Folded where they are long."""
        lines = (wrapped(f"{name}: {self.clean(value)}", indent=" ") for name, value in fields)
        return octets("".join(f"{line}\n" for line in lines))

    def address(self, text: str) -> str:
        """An address with its type: `rfc822`, or `utf-8` for one that is not ASCII (RFC 6533 §3)."""
        if text.isascii():
            return f"rfc822; {text}"
        return f"utf-8; {text if self.wide else _utf8_xtext(text)}"

    def original(self, orcpt: str) -> str | None:
        """The value of ORCPT, decoded, as that of Original-Recipient; None where it can't be one."""
        kind, semicolon, text = orcpt.partition(";")
        if not semicolon or not _TYPE.fullmatch(kind):
            return None
        if kind.lower() == "utf-8":
            value = f"{kind};{_utf8_unitext(text) if self.wide else _utf8_xtext(text)}"
        else:
            value = f"{kind};{exact(text)}"
        return value if len(value.encode()) <= _MOST else None


def exact(text: str) -> str:
    """A decoded value as it was, or as xtext (RFC 3461 §4) where it could not stand in a field."""
    if not _NOT_IN_A_FIELD.search(text) and text == text.strip():
        return text
    return _NOT_XTEXT.sub(lambda match: "".join(f"+{octet:02X}" for octet in match[0].encode(errors="replace")), text)


def unfolded(name: str, value: str) -> bytes:
    """A field whose value must come back space by space."""
    return octets(f"{name}: {value}\n")


def _utf8_xtext(text: str) -> str:
    return _NOT_QCHAR.sub(_escaped, text)


def _utf8_unitext(text: str) -> str:
    return _NOT_QCHAR.sub(
        lambda match: match[0] if match[0] > "~" and not _UNFIT.match(match[0]) else _escaped(match), text
    )


def _escaped(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):X}}}"


def octets(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def wrapped(text: str, *, indent: str) -> str:
    return "\n".join(
        textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    )
