"""Return addresses of our own (VERP): which message and recipient mail is about that comes back to one, and that we
made it.

`bounce+ID-NUMBER-MAC@DOMAIN`. Each message has a key, made from a secret that nobody else knows; its MAC over message
and recipient cannot be made by who has seen other addresses of the same message. So nobody can have an address marked
as dead but who was sent the mail. Case does not count: some hops lower it. Addresses age with the messages.
Pure. Knows no configuration and no clock but what it is given.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.core.envelope import ID_LENGTH, MessageId, Verp

PREFIX = "bounce+"
_MAC = 10  # octets
_KEY = 16
_LOCAL = re.compile(rf"bounce\+([0-9a-z]{{{ID_LENGTH}}})-(\d{{1,7}})-([a-z2-7]{{16}})")


class Returning(NamedTuple):
    """Whom mail is about that came to a return address."""

    message: MessageId
    number: int


def return_address(verp: Verp, message: MessageId, number: int) -> Mailbox:
    """The reverse-path of that recipient."""
    local = f"{PREFIX}{message}-{number}-{_mac(verp.key, message, number)}"
    return Mailbox(LocalPart(local), Domain(verp.domain))


def _mac(key: str, message: MessageId, number: int) -> str:
    octets = hmac.digest(bytes.fromhex(key), f"{message}-{number}".encode(), "sha256")
    return b32encode(octets[:_MAC]).decode().lower()


class ReturnAddresses:
    """Those in one domain. `oldest` tells the least message id that still counts: its message is known that long."""

    def __init__(self, domain: Domain, secret: bytes, oldest: Callable[[], MessageId]) -> None:
        self.domain = domain
        self._secret = secret
        self._oldest = oldest

    def verp(self, message: MessageId) -> Verp:
        """What the return addresses of that message are made of."""
        return Verp(self.domain.ascii, self._key(message))

    def _key(self, message: MessageId) -> str:
        return hmac.new(self._secret, str(message).encode(), sha256).hexdigest()[: 2 * _KEY]

    def has(self, address: Mailbox) -> bool:
        """Whether it looks like one."""
        return address.domain == self.domain and address.local.text[: len(PREFIX)].lower() == PREFIX

    def read(self, address: Mailbox) -> Returning | None:
        """Whom it tells; None where we did not make it, or it is too old."""
        found = _LOCAL.fullmatch(address.local.text.lower()) if self.has(address) else None
        if found is None:
            return None
        try:
            message = MessageId.parse(found[1])
        except ValueError:
            return None
        number = int(found[2])
        if not hmac.compare_digest(found[3], _mac(self._key(message), message, number)):
            return None
        return Returning(message, number) if message >= self._oldest() else None
