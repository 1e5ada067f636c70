"""The limits of a lane, and the rates among them kept: one job after the other, without a burst.

A `Pacer` gives slots that are evenly spaced; who comes late by no more than the grain of timers loses nothing, and
nobody saves up slots while there is nothing to do. So no stretch as long as the limit's period holds more than the
limit, but for one that begins with a late slot. `LaneTerms` is what a lane and its mailer share: its limits may be
changed under both. Knows no jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pillarbox.engine.fair import Fairness
from pillarbox.engine.limits import Limit

GRAIN = 0.05  # seconds by which a timer may be late


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """What the configuration says of a lane. None: no limit; of `connections`, the usual one of such a way out."""

    connections: int | None = None  # jobs in flight
    messages: Limit | None = None
    new_connections: Limit | None = None
    messages_per_connection: int | None = None
    recipients_per_transaction: int | None = 100  # RFC 5321 §4.5.3.1.8: so many every server takes
    priority: int = 0  # -9 to 9: which lane comes first where something is scarce
    fair: Fairness = Fairness.TENANT


UNLIMITED = LaneLimits()


class Pacer:
    """So many in a period, evenly. Times are those of any clock that does not jump."""

    __slots__ = ("_next", "_pause", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._pause = limit.seconds / limit.most
        self._next = float("-inf")  # the moment of the next slot

    def wait(self, now: float) -> float:
        """Seconds until the next slot; 0: now."""
        left = self._next - now
        return left if left > 1e-9 else 0.0

    def take(self, now: float) -> None:
        """A slot that has come."""
        late = now - self._next
        self._next = (self._next if late <= GRAIN else now) + self._pause


def _pacer(limit: Limit | None, before: Pacer | None) -> Pacer | None:
    """As before where nothing changes, so that a reload gives no slot twice."""
    if limit is None:
        return None
    return before if before is not None and before.limit == limit else Pacer(limit)


class LaneTerms:
    """The limits of one lane, as they are now. Meets the port ConnectionTerms."""

    __slots__ = ("_connections", "_monotonic", "limits", "messages")

    def __init__(self, limits: LaneLimits = UNLIMITED, monotonic: Callable[[], float] | None = None) -> None:
        self._monotonic = monotonic
        self.messages: Pacer | None = None
        self._connections: Pacer | None = None
        self.renew(limits)

    def renew(self, limits: LaneLimits) -> None:
        self.limits = limits
        self.messages = _pacer(limits.messages, self.messages)
        self._connections = _pacer(limits.new_connections, self._connections)

    @property
    def has_rate(self) -> bool:
        return self.messages is not None or self._connections is not None

    def may_open(self) -> float:
        """0: open one connection now, which is counted. Else the seconds to wait before asking again."""
        if self._connections is None or self._monotonic is None:
            return 0.0
        now = self._monotonic()
        wait = self._connections.wait(now)
        if not wait:
            self._connections.take(now)
        return wait

    @property
    def messages_per_connection(self) -> int | None:
        return self.limits.messages_per_connection

    @property
    def recipients_per_transaction(self) -> int | None:
        return self.limits.recipients_per_transaction


class NoTerms:
    """Nothing is limited. Meets the port ConnectionTerms."""

    __slots__ = ()
    messages_per_connection: int | None = None
    recipients_per_transaction: int | None = None

    def may_open(self) -> float:
        return 0.0


NO_TERMS = NoTerms()
