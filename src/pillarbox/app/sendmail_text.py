"""What sendmail reads: the message on standard input, and the recipients that its header section names.

Addresses are read by the library's parser of RFC 5322, and one that it can't read is an error: no recipient is lost
without a word. Where fields of a resending stand there these count (RFC 5322 §3.6.6). Knows no configuration, and
changes no octet of the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import InvalidHeaderDefect
from email.headerregistry import HeaderRegistry
from itertools import chain
from typing import Any, BinaryIO

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)
_TO = frozenset((b"to", b"cc", b"bcc"))
_RESENT_TO = frozenset(b"resent-" + name for name in _TO)
_MBOX = re.compile(rb">?From .*\n")
_DOTS = (b".\n", b".\r\n", b".")
MAX_LINE = 64 * 1024  # octets read at a time; a line may be longer


class BadAddress(ValueError):
    """The text is no list of addresses; says why."""


class TooLarge(ValueError):
    """The message has more octets than are taken."""


def read_message(source: BinaryIO, *, dot_ends: bool, most: int) -> bytes:
    """The message up to its end. `dot_ends`: that is a line with a single dot, too. The line that a mailbox file puts
    in front of a message is left out. Raises TooLarge, OSError."""
    pieces: list[bytes] = []
    size, begins_line = 0, True
    first = source.readline(MAX_LINE)
    for piece in chain((first,) if not _MBOX.match(first) else (), iter(lambda: source.readline(MAX_LINE), b"")):
        if dot_ends and begins_line and piece in _DOTS:
            break
        size += len(piece)
        if size > most:
            raise TooLarge(f"the message has more than {most} octets, which is limits.message_size")
        pieces.append(piece)
        begins_line = piece.endswith(b"\n")
    return b"".join(pieces)


def recipients_in(message: bytes) -> list[str]:
    """Those of To, Cc and Bcc, in their order, or those of a resending. Raises BadAddress."""
    fields = list(_fields(message))
    names = _RESENT_TO if any(name in _RESENT_TO for name, _ in fields) else _TO
    found: list[str] = []
    for name, value in fields:
        if name in names:
            found += addresses_in(value, f"{name.decode().title()}: ")
    return found


def addresses_in(text: str, where: str = "") -> list[str]:
    """The addresses of a list as RFC 5322 §3.4 has it; one may lack its domain. Raises BadAddress."""
    text = " ".join(text.split())
    try:
        field: Any = HeaderRegistry()("To", text)  # an AddressHeader
        addresses = field.addresses
        faults = [fault for fault in field.defects if isinstance(fault, InvalidHeaderDefect)]
    except Exception as error:  # on odd input the parser has faults of its own
        raise BadAddress(f"{where}{text}: not an address") from error
    bare = sum(not address.domain for address in addresses)  # a fault of each
    if len(faults) > bare or not all(address.username for address in addresses):
        why = str(faults[-1]) if faults else "not an address"
        raise BadAddress(f"{where}{text}: {why}")
    return [address.addr_spec for address in addresses]


def _fields(message: bytes) -> Iterator[tuple[bytes, str]]:
    """Names, in lower case, and unfolded values of the header section; it ends where a line is no field."""
    name, value = b"", b""
    for line in message.split(b"\n"):
        line = line.removesuffix(b"\r")
        if name and line.startswith((b" ", b"\t")):
            value += line
            continue
        if name:
            yield name, value.decode("utf-8", "replace")
        if (match := _FIELD.match(line)) is None:
            return
        name, value = match[1].lower(), match[2]
    if name:
        yield name, value.decode("utf-8", "replace")
