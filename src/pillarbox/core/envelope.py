"""The envelope of a message: MessageId, Recipient, BodyType, Mode, Envelope, and what the extensions ask for.

What MAIL and RCPT said, apart from the message itself (RFC 5321 §2.3.1). Knows nothing of queue states or next hops,
nor how a parameter is spelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

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
        pairs, high, low = _PAIRS, self >> 30, self & 0x3FFFFFFF  # an int of one digit is quick
        return (
            f"{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"
            f"{pairs[low >> 20]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
        )

    __repr__ = __str__


class BodyType(Enum):
    """The BODY parameter of MAIL (RFC 6152, RFC 3030 §3)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"


class Ret(Enum):
    """How much of the message a failure notice returns (RFC 3461 §4.3)."""

    FULL = "FULL"
    HEADERS = "HDRS"


class Notify(Enum):
    """What a sender wants to be told of a recipient (RFC 3461 §4.1). NEVER is a set of none of them."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """When a message is to be delivered at the latest (RFC 2852 §4)."""

    until: float  # seconds since the epoch
    returns: bool  # by-mode R: late is a failure; else, by-mode N: late is a delay that is told
    trace: bool = False  # every relay tells that it has passed it on


@dataclass(frozen=True, slots=True)
class Verp:
    """That each recipient gets a reverse-path of its own, and what those are made of (core/verp.py)."""

    domain: str  # A-labels
    key: str  # of this message alone, hexadecimal


@dataclass(frozen=True, slots=True)
class MailOptions:
    """What MAIL asks for beyond its path, for the whole message, and what else is kept with it from then on."""

    ret: Ret | None = None
    envelope_id: str | None = None  # ENVID, decoded (RFC 3461 §4.4)
    smtputf8: bool = False  # RFC 6531 §3.4
    require_tls: bool = False  # RFC 8689 §2
    deliver_by: DeliverBy | None = None
    priority: int | None = None  # MT-PRIORITY, -9 to 9 (RFC 6710)
    hold_until: float | None = None  # seconds since the epoch (RFC 4865)
    submitter: str | None = None  # who submitted it and proved it, an address (RFC 4954 §5)
    fields: tuple[tuple[str, str], ...] = ()  # header fields that routes asked for when it was accepted
    verp: Verp | None = None  # ours, not asked for by MAIL: bounces come back to us


@dataclass(frozen=True, slots=True)
class ValidSince:
    """The mailbox must have had the same owner since then (RFC 7293)."""

    since: str  # RFC 3339 date-time, as it came
    reject: bool  # R: refused where a hop can't check it; else, C: passed on as a header field


@dataclass(frozen=True, slots=True)
class RcptOptions:
    """What RCPT asks for beyond its path."""

    notify: frozenset[Notify] | None = None  # None: nothing was said, so failures and delays
    original: str | None = None  # ORCPT, `type;address`, decoded (RFC 3461 §4.2)
    valid_since: ValidSince | None = None


NO_MAIL_OPTIONS = MailOptions()
NO_RCPT_OPTIONS = RcptOptions()


class Recipient(NamedTuple):
    """One forward-path as it is to be delivered, and what the client had said where that was another one."""

    address: Mailbox
    original: Mailbox  # the address in RCPT; differs from `address` behind an alias
    owner: Mailbox | None = None  # behind a list: the reverse-path in place of the sender's (RFC 5321 §3.9.2)
    options: RcptOptions = NO_RCPT_OPTIONS

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


class Envelope(NamedTuple):
    """Reverse-path (None is the null one) and the recipients, at least one, none twice."""

    sender: Mailbox | None
    recipients: tuple[Recipient, ...]
    body_type: BodyType = BodyType.SEVEN_BIT
    options: MailOptions = NO_MAIL_OPTIONS
