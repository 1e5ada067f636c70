"""The closed set of decision records: what `pillarbox why` tells of a message.

Append-only, written in the same commits as what they describe. Passwords and message bodies never stand in one.
What the message row itself tells (when, from whom, how large) is not repeated in a record.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import NamedTuple

from pillarbox.core.envelope import MessageId

_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode


class Kind(Enum):
    """What happened; the value is the word in the database and in `--json`."""

    ROUTED = "routed"  # the lane was chosen, and by which rule
    ATTEMPT = "attempt"  # one try at a next hop that ended without an answer for the recipients: connection, DNS
    DELIVERED = "delivered"  # a next hop or a mailbox took the message
    HELD = "held"  # not tried before the moment that its sender asked for: FUTURERELEASE
    KEPT = "kept"  # waits for its owner to come for it: TURN, ATRN or ETRN
    THROTTLED = "throttled"  # kept waiting by a limit or a slow-down of its lane: which, since when, until when
    DEFERRED = "deferred"  # to be tried again; says why and when
    AMBIGUOUS = "ambiguous"  # deferred, but maybe delivered: the reply to the end of the message was lost
    FAILED = "failed"  # given up for good by a 5yz or by a rule of ours
    EXPIRED = "expired"  # given up because `retry.give_up` passed
    NOTICE = "notice"  # the sender was told, or why not, or by whom else
    HOOK = "hook"  # what a hook said while the message came in: of its client, a recipient, or itself
    CHANGED = "changed"  # somebody changed it by hand


class Record(NamedTuple):
    """`recipient` is the recipient's number within the message, None where the record is about all of them."""

    message: MessageId
    at: float  # seconds since the epoch
    kind: Kind
    recipient: int | None
    detail: tuple[tuple[str, str | int | float], ...]

    def detail_json(self) -> str:
        return _TO_JSON(dict(self.detail))
