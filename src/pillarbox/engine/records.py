"""The closed set of decision records: what `pillarbox why` tells of a message.

Append-only, written in the same commits as what they describe. Passwords and message bodies never stand in one.
What the message row itself tells (when, from whom, how large) is not repeated in a record.
"""

from __future__ import annotations

import json
from enum import Enum
from json.encoder import encode_basestring as _quoted
from typing import NamedTuple

from pillarbox.core.envelope import MessageId


class Kind(Enum):
    """What happened; the value is the word in the database and in `--json`."""

    ROUTED = "routed"  # the lane was chosen, and by which rule
    ATTEMPT = "attempt"  # one try at a next hop that ended without an answer for the recipients: connection, DNS
    DELIVERED = "delivered"  # a next hop or a mailbox took the message
    HELD = "held"  # not tried before the moment that its sender asked for (FUTURERELEASE), or before it is released
    KEPT = "kept"  # waits for its owner to come for it: TURN, ATRN or ETRN
    THROTTLED = "throttled"  # kept waiting by a limit or a slow-down of its lane: which, since when, until when
    DEFERRED = "deferred"  # to be tried again; says why and when
    AMBIGUOUS = "ambiguous"  # deferred or held, but maybe delivered: the reply to the end of the message was lost
    FAILED = "failed"  # given up for good by a 5yz or by a rule of ours
    EXPIRED = "expired"  # given up because `retry.give_up` passed
    BOUNCED_BACK = "bounced_back"  # a bounce came back, after a next hop had taken it: why, and of which class
    ANSWERED = "answered"  # something else came back to its return address: a delay, an automatic reply
    NOTICE = "notice"  # the sender was told, or why not, or by whom else
    HOOK = "hook"  # what a hook said while the message came in: of its client, a recipient, or itself
    REPEATED = "repeated"  # submitted again with the same Idempotency-Key, and not queued again
    CHANGED = "changed"  # somebody changed it by hand


class Record(NamedTuple):
    """`recipient` is the recipient's number within the message, None where the record is about all of them."""

    message: MessageId
    at: float  # seconds since the epoch
    kind: Kind
    recipient: int | None
    detail: tuple[tuple[str, str | int | float], ...]

    def detail_json(self) -> str:
        """A JSON object, as `json` writes it."""
        pairs = [
            f"{_quoted(name)}: {_quoted(value) if type(value) is str else json.dumps(value)}"
            for name, value in self.detail
        ]
        return "{" + ", ".join(pairs) + "}"


def queued_as(record: Record) -> str | None:
    """What a next hop calls the message, by which it is found."""
    last = record.detail[-1]  # it stands there or nowhere
    return str(last[1]) if last[0] == "queued_as" else None
