"""What comes back for a message that was sent: its nature, and what it says of each recipient.

Values alone; how they are read from octets is in `bounce_parser.py`, what a status and a text mean in
`bounce_class.py`. Invariant: nothing here is believed of anybody. What a bounce says of an address counts only where
the address it came to proves which recipient it is about (`engine/verp.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pillarbox.core.reply import EnhancedCode

MAX_TEXT = 500  # characters kept of what a server said
MAX_ADDRESS = 320  # characters: the longest local part, an @ and the longest domain


class BounceClass(Enum):
    """Why it came back; the value is the word in records and in the suppression list."""

    HARD = "hard"  # no such user, or the domain takes no mail: not to be tried again
    SOFT = "soft"  # a fault that may pass
    FULL = "mailbox_full"
    POLICY = "policy"  # the receiver's rules
    SPAM = "spam"  # the content, or the reputation of who sends
    AUTH = "auth"  # SPF, DKIM or DMARC failed
    TOO_LARGE = "too_large"
    GREYLISTED = "greylisted"
    AUTO_REPLY = "auto_reply"  # no failure at all: somebody is away
    UNKNOWN = "unknown"

    __hash__ = object.__hash__


class Nature(Enum):
    """What kind of mail came back."""

    BOUNCE = "bounce"  # some recipient was given up
    DELAY = "delay"  # still under way (RFC 3464 §2.3.3)
    SUCCESS = "success"  # delivered, relayed or expanded
    AUTO_REPLY = "auto_reply"  # RFC 3834
    CHALLENGE = "challenge"  # somebody wants a confirmation before the message is shown
    OTHER = "other"  # a letter, or nothing that could be read


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of one recipient. Texts are of a stranger: bounded, and never trusted."""

    nature: Nature
    address: str = ""  # as it was named, "" where it was not
    status: EnhancedCode | None = None
    text: str = ""  # what the remote server said, or the reporter
    remote: str = ""  # the server that said it


@dataclass(frozen=True, slots=True)
class Returned:
    """All that could be read. `form` names how it was recognised, for people."""

    nature: Nature
    form: str
    recipients: tuple[Said, ...] = ()
    message_id: str = ""  # of the message that it is about, where that is returned, without brackets
    envelope_id: str = ""  # Original-Envelope-Id (RFC 3464 §2.2.1)

    def about(self, address: str) -> Said | None:
        """What is said of that address; where it is not named, the first failure, or the first of all."""
        wanted = address.casefold()
        ranked = sorted(self.recipients, key=lambda said: said.nature is not Nature.BOUNCE)  # stable
        return next((said for said in ranked if said.address.casefold() == wanted), ranked[0] if ranked else None)
