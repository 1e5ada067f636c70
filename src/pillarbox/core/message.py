"""A message as octets: a view on its header section and the trace fields put in front.

A relay is byte-transparent (RFC 5321 §6.4): nothing here folds, decodes or rewrites what came in. A body is a run of
`bytes`, never a `str`. Knows nothing of envelopes' fate or of storage.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import NamedTuple

_FOLD = re.compile(rb"\r\n[ \t]+")
_INITIALS = frozenset(b"DFMRSdfmrs")  # of the names below, and of Received
_WANTED = frozenset((b"from", b"subject", b"message-id", b"date", b"delivered-to"))
MAX_FIELD = 998  # characters kept of a field that people search by


class HeaderView(NamedTuple):
    """What the server needs to know of a header section. Fields are unfolded text, "" where absent."""

    received: int  # how many Received fields: the hops so far (RFC 5321 §6.3)
    sender: str
    subject: str
    message_id: str
    date: str
    delivered_to: tuple[str, ...] = ()  # every Delivered-To, case-folded (RFC 9228)


def header_end(octets: bytes) -> int | None:
    """Where the header section ends (behind the CRLF of its last line), or None when the octets end before."""
    if octets.startswith(b"\r\n"):
        return 0
    end = octets.find(b"\r\n\r\n")
    return None if end < 0 else end + 2


def view_header(header: bytes) -> HeaderView:
    """Read the header section; of a field that stands there twice the first counts."""
    received = 0
    delivered_to: tuple[str, ...] = ()
    found: dict[bytes, str] = {}
    if header.find(b"\r\n ") >= 0 or header.find(b"\r\n\t") >= 0:
        header = _FOLD.sub(b" ", header)
    for line in header.split(b"\r\n"):
        if not line or line[0] not in _INITIALS:
            continue
        name, _, value = line.partition(b":")
        key = name.rstrip(b" \t").lower()
        if key == b"received":
            received += 1
        elif key in _WANTED:
            text = value.strip(b" \t").decode("utf-8", "replace")[:MAX_FIELD]
            if key == b"delivered-to":
                delivered_to += (text.casefold(),)
            elif key not in found:
                found[key] = text
    get = found.get
    return HeaderView(
        received, get(b"from", ""), get(b"subject", ""), get(b"message-id", ""), get(b"date", ""), delivered_to
    )


def pick_fields(header: bytes, names: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Those fields of a header section, by their names in lower case: unfolded, at most MAX_FIELD characters of each;
    of one that stands there twice the first."""
    found: dict[str, str] = {}
    for line in _FOLD.sub(b" ", header).split(b"\r\n"):
        name, _, value = line.partition(b":")
        key = name.rstrip(b" \t").lower().decode("latin-1")
        if key in names and key not in found:
            found[key] = value.strip(b" \t").decode("utf-8", "replace")[:MAX_FIELD]
    return tuple(found.items())


@lru_cache(maxsize=8)
def date_field(second: int) -> str:
    """Seconds since the epoch as an RFC 5322 §3.3 date-time, in UTC."""
    return format_datetime(datetime.fromtimestamp(second, UTC))


class Hop(NamedTuple):
    """What a Received field says of the hop that brought the message here (RFC 5321 §4.4)."""

    helo: str
    peer: str  # IP address of the client; "" where the message did not come over a network
    hostname: str  # ours
    protocol: str  # the `with` keyword: SMTP, ESMTP, ... (RFC 3848); LOCAL for what was submitted on the machine


def received_field(hop: Hop, message_id: str, received_at: float, recipient: str | None) -> bytes:
    """The one Received field that this hop adds. `recipient` is named only where there is a single one (§7.6)."""
    origin = f"from {hop.helo} ([{_tagged(hop.peer)}])" if hop.peer else f"from {hop.helo}"
    clause = f"\r\n\tfor <{recipient}>" if recipient is not None else ""
    return (
        f"Received: {origin}\r\n\tby {hop.hostname} with {hop.protocol} id {message_id}{clause};\r\n"
        f"\t{date_field(int(received_at))}\r\n"
    ).encode()


def _tagged(peer: str) -> str:
    return f"IPv6:{peer}" if ":" in peer else peer
