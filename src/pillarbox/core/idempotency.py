"""Idempotency-Key: what a key may be, and by what a message that is submitted again is known to be the same.

After draft-ietf-httpapi-idempotency-key: the client chooses a key, and says it again when it tries again. Pure; knows
neither who submits nor for how long a key is remembered. Invariant: two messages have one fingerprint if sender,
recipients and all octets agree but for the fields that each hop and each attempt makes anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

from pillarbox.core.envelope import Envelope

FIELD = "Idempotency-Key"
MAX_KEY = 255  # characters
_FOLD = re.compile(r"\r\n(?=[ \t])")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # a string of RFC 8941 §3.3.3, as the draft has it
_ESCAPED = re.compile(r'\\(["\\])')
_MADE_ANEW = re.compile(
    rb"(?:(?<=\r\n)|\A)(?:received|return-path|delivered-to|date|message-id)[ \t]*:.*?(?:\r\n(?![ \t])|\Z)",
    re.IGNORECASE | re.DOTALL,
)


class BadKey(ValueError):
    """Text that is no key."""


def parse_key(text: str) -> str:
    """The key, which may stand in quotes. Raises BadKey."""
    key = _FOLD.sub("", text).strip(" \t")
    if quoted := _QUOTED.fullmatch(key):
        key = _ESCAPED.sub(r"\1", quoted[1])
    if not 1 <= len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise BadKey(f"an idempotency key is 1 to {MAX_KEY} printable ASCII characters")
    return key


def only_key(values: Sequence[bytes]) -> str:
    """The key in the fields of a message; one at least. Raises BadKey where there are several, or a bad one."""
    if len(values) > 1:
        raise BadKey(f"there is more than one {FIELD}")
    return parse_key(values[0].decode("latin-1"))


class Fingerprint:
    """Of a message with a key, while it comes in: first its header section, then the rest of it."""

    __slots__ = ("_text", "key")

    def __init__(self, key: str, section: bytes) -> None:
        """`section`: as the client sent it, without what is taken out of it."""
        self.key = key
        self._text = sha256(_MADE_ANEW.sub(b"", section))

    def add(self, octets: bytes) -> None:
        self._text.update(octets)

    def of(self, envelope: Envelope) -> bytes:
        """The recipients count as the client named them, in whatever order; parameters do not count."""
        named = sorted({str(recipient.original) for recipient in envelope.recipients})
        lines = "\n".join((str(envelope.sender or ""), *named))
        return sha256(lines.encode() + b"\n\n" + self._text.digest()).digest()
