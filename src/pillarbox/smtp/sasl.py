"""SASL mechanisms as steps over octets, the server's side and the client's: PLAIN (RFC 4616).

Knows no base64, no reply and no password file: octets of an exchange become what was claimed, and back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_NAME = 255  # octets of each part, RFC 4616 §2


@dataclass(frozen=True, slots=True)
class Credentials:
    """Somebody who says that they are `name`."""

    name: str
    password: str = field(repr=False)


def parse_plain(octets: bytes) -> Credentials | None:
    """authzid NUL authcid NUL passwd; None where it is anything else. To act as somebody else is not offered."""
    parts = octets.split(b"\0")
    if len(parts) != 3:
        return None
    try:
        acting_as, name, password = (part.decode("utf-8") for part in parts)
    except UnicodeDecodeError:
        return None
    if not name or not password or acting_as not in ("", name) or max(map(len, parts)) > MAX_NAME:
        return None
    return Credentials(name, password)


def plain(credentials: Credentials) -> bytes:
    """What a client sends."""
    return b"\0" + credentials.name.encode() + b"\0" + credentials.password.encode()
