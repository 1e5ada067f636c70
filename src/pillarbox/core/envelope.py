"""The envelope of a message: MessageId, Recipient, BodyType, Mode, Envelope.

What MAIL and RCPT said, apart from the message itself (RFC 5321 §2.3.1). Knows nothing of queue states or next hops.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pillarbox.core.address import Mailbox

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u, sorts as it counts
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
ID_LENGTH = 12


class MessageId(int):
    """The name of a message on this machine: 60 bits, time-ordered; as text 12 characters that sort the same way."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> MessageId:
        """From its 12 characters. Raises ValueError."""
        if len(text) != ID_LENGTH:
            raise ValueError(f"a message id has {ID_LENGTH} characters: {text!r}")
        number = 0
        for character in text.lower():
            if character not in _VALUES:
                raise ValueError(f"not a message id: {text!r}")
            number = number << 5 | _VALUES[character]
        return cls(number)

    def __str__(self) -> str:
        n = int(self)
        pairs = _PAIRS
        return (
            pairs[n >> 50 & 1023]
            + pairs[n >> 40 & 1023]
            + pairs[n >> 30 & 1023]
            + pairs[n >> 20 & 1023]
            + pairs[n >> 10 & 1023]
            + pairs[n & 1023]
        )

    __repr__ = __str__


class BodyType(Enum):
    """The BODY parameter of MAIL (RFC 6152)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward-path as it is to be delivered, and what the client had said where that was another one."""

    address: Mailbox
    original: Mailbox  # the address in RCPT; differs from `address` behind an alias
    owner: Mailbox | None = None  # behind a list: the reverse-path in place of the sender's (RFC 5321 §3.9.2)

    @property
    def forwarded(self) -> bool:
        """Whether an address of ours stands between the sender and this one."""
        return self.original is not self.address and self.original != self.address


class Mode(Enum):
    """How the transaction was begun, and so where its message is to go (RFC 821 §3.4)."""

    MAIL = "MAIL"  # to the mailbox
    SEND = "SEND"  # to the terminal
    SOML = "SOML"  # to the terminal, or the mailbox where there is none
    SAML = "SAML"  # to the terminal where there is one, and the mailbox

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reverse-path (None is the null one) and the recipients, at least one, none twice."""

    sender: Mailbox | None
    recipients: tuple[Recipient, ...]
    body_type: BodyType = BodyType.SEVEN_BIT
