"""What a message submission may do to a header section: drop Bcc and the key, add what is missing (RFC 6409 §8).

Pure, over raw octets: what is not dropped stays as it came, to the octet, and nothing is folded, decoded or put in
another order. A header section is what `message.header_end` says: all up to the first empty line. Names are compared
without case, with white space before the colon (RFC 5322 §4.5), and a field goes with its folded lines. Only for what
is submitted: whoever relays touches nothing (RFC 5321 §6.4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

_TAKEN = re.compile(
    rb"(?:(?<=\r\n)|\A)(?:(?:resent-)?bcc|(idempotency-key))[ \t]*:(.*?)(?:\r\n(?![ \t])|\Z)", re.IGNORECASE | re.DOTALL
)
_NAME = re.compile(rb"(?:(?<=\r\n)|\A)([!-9;-~]+)[ \t]*:")
_CONTINUED = re.compile(rb"(?:[ \t][^\r\n]*\r\n)*")  # lines that belong to what stands in front of the section
_VALUE = re.compile(r"(?:[^\r\n\0]|\r\n[ \t])*")


class Edited(NamedTuple):
    """`section`: as it is passed on. `kept`: of what came, all that is. `keys`: the values of Idempotency-Key."""

    section: bytes
    kept: bytes
    keys: tuple[bytes, ...] = ()


Edit = Callable[[bytes], Edited]


def submitted(section: bytes, fields: Mapping[str, str]) -> Edited:
    """The section without its blind copies and its key, and with those of the fields that it lacks; they come first.

    Raises ValueError for a field that would be more than one.
    """
    lower = section.lower()  # the search for fields is slow, and most have none of these
    taken = list(_TAKEN.finditer(section)) if b"bcc" in lower or b"idempotency-key" in lower else []
    kept = _TAKEN.sub(b"", section) if taken else section
    present = {name.lower() for name in _NAME.findall(kept)}
    added = "".join(_field(name, value) for name, value in fields.items() if name.lower().encode() not in present)
    start = _CONTINUED.match(kept)
    at = start.end() if start is not None else 0
    keys = tuple(match[2] for match in taken if match[1])
    return Edited(kept[:at] + added.encode() + kept[at:], kept, keys)


def _field(name: str, value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError(f"{name} would be more than one field: {value!r}")
    return f"{name}: {value}\r\n"
