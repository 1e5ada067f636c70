"""How far the wall clock was set since a message was accepted, so that no age is made of it.

The wall clock is compared with the monotonic one. What a jump adds to the age of a message is taken off again, for the
messages that were accepted before it; what one takes away is not added. Knows what it has seen itself: after a restart
ages are those of the wall clock. Invariant: nothing is older by it than it is; it may be younger, by a jump that lasts.
"""

from __future__ import annotations

import logging
from collections import deque

from pillarbox.core.envelope import MessageId
from pillarbox.engine.ids import IdSource
from pillarbox.engine.ports import Clock

log = logging.getLogger(__name__)

NOTICED = 60.0  # seconds; less is the usual correction of a clock
MOST = 100  # jumps that are remembered


class Jumps:
    def __init__(self, clock: Clock, ids: IdSource) -> None:
        self._clock = clock
        self._ids = ids
        self._ahead = clock.now() - clock.monotonic()
        self._seen: deque[tuple[MessageId, float]] = deque(maxlen=MOST)  # the first id behind it, and its seconds

    def look(self) -> None:
        """Notice a jump; who waits for a moment does so once in a while."""
        ahead = self._clock.now() - self._clock.monotonic()
        seconds = ahead - self._ahead
        self._ahead = ahead
        if abs(seconds) >= NOTICED:
            log.warning("the wall clock was set %s by %.0f s", "forward" if seconds > 0 else "back", abs(seconds))
            self._seen.append((self._ids.next(), seconds))

    def since(self, message: MessageId) -> float:
        """Seconds by which the wall clock is ahead of what it was when the message was accepted; never negative."""
        self.look()
        if not self._seen:
            return 0.0
        return max(sum(seconds for behind, seconds in self._seen if message < behind), 0.0)
