"""Rate: a token bucket for each name, in bounded memory. Knows no clock and nothing of what it counts."""

from __future__ import annotations

MAX_NAMES = 10_000  # buckets kept; the one unused for longest goes first


class Rate:
    """So many a minute, and as many at once after a quiet minute."""

    def __init__(self, per_minute: int) -> None:
        self._limit = float(per_minute)
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and the moment they were counted

    def allows(self, name: str, now: float) -> bool:
        """Take a token; False: there is none. `now`: seconds of any clock that doesn't jump."""
        tokens = self._tokens(name, now)
        if tokens < 1:
            return False
        self._buckets.pop(name, None)  # so that the dict stays in the order of use
        if len(self._buckets) >= MAX_NAMES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[name] = (tokens - 1, now)
        return True

    def _tokens(self, name: str, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._limit, now))
        return min(self._limit, tokens + (now - at) * self._limit / 60)
