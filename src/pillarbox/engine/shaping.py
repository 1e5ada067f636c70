"""Shaping: what replies and faults do to a lane. A Shaper for each lane, made by the Rules.

Pure: time is handed in, and so is randomness. Each lane has at most three slow-downs at a time, of fixed size: fewer
connections, a lower rate, and a breaker that is open. Invariants: at least one job may be in flight; only an open
breaker keeps attempts back, and it opens by faults of the next hop in a row alone; what was slowed down is as it was
after enough deliveries, or when its time has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import UNTRIED, Delivered, Job, Report
from pillarbox.engine.shaping_rules import Action, Fault, Heard, Rule, first_match, fits_lane, heard
from pillarbox.engine.slowdown import SlowDown

SETTLE = 5.0  # seconds in which the replies to what was under way at a slow-down come in: they make no second one
REMEMBERED = 1000  # replies whose rule is known without a search
MAX_SHAPERS = 10_000  # kept for lanes that are opened anew
MAX_SETS = 100  # of rules that are for some lanes only
JITTER = 0.1  # a pause is longer or shorter by up to that part
MAX_DOUBLINGS = 20
MAX_CAUSE = 300  # characters
_MINUTE = 60.0
_HOUR = 3600

Random = Callable[[], float]  # from 0 up to 1
Match = Callable[[Heard], Rule | None]


class Rules:
    """All rules, in their order. They may be renewed while lanes go by them."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.renewed = 0
        self._shapers: dict[str, Shaper] = {}  # the one that was asked for last comes last
        self._set(rules)

    def _set(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._matches: dict[tuple[str, ...], Match] = {}  # by the patterns of lanes that a lane fits

    def renew(self, rules: Iterable[Rule]) -> None:
        """Every shaper goes by these from now on; what is slowed down goes on to its end."""
        self.renewed += 1
        self._set(rules)

    def for_lane(self, lane: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.is_for(lane))

    def match(self, lane: str) -> Match:
        """Lanes for which the same rules are share what they remember of replies."""
        patterns = {pattern for rule in self.rules for pattern in rule.lanes}
        fits = tuple(sorted(pattern for pattern in patterns if fits_lane(pattern, lane)))
        match = self._matches.get(fits)
        if match is None:
            match = lru_cache(REMEMBERED)(partial(first_match, self.for_lane(lane)))
            if len(self._matches) < MAX_SETS:
                self._matches[fits] = match
        return match

    def shaper(self, lane_name: str, random: Random) -> Shaper:
        """The same for a lane that is opened anew: what slowed it down has not ended by that."""
        shaper = self._shapers.pop(lane_name, None) or Shaper(lane_name, self, random)
        if len(self._shapers) >= MAX_SHAPERS:
            del self._shapers[next(iter(self._shapers))]
        self._shapers[lane_name] = shaper
        return shaper


class _Measure:
    """How many jobs a minute, of late."""

    __slots__ = ("_before", "_count", "_since")

    def __init__(self) -> None:
        self._since, self._count, self._before = 0.0, 0, 0

    def add(self, now: float) -> None:
        if now - self._since >= _MINUTE:
            self._turn(now)
        self._count += 1

    def per_minute(self, now: float) -> float:
        """Of this minute, and of as much of the one before as makes it whole."""
        if now - self._since >= _MINUTE:
            self._turn(now)
        return self._count + self._before * (1 - (now - self._since) / _MINUTE)

    def _turn(self, now: float) -> None:
        self._before = self._count if now - self._since < 2 * _MINUTE else 0
        self._since, self._count = now, 0


class _Lowered:
    """A number that a reply has lowered, until deliveries or time have brought it back to what it was."""

    __slots__ = ("deepened", "delivered", "rule", "slow", "top", "value")

    def __init__(self, slow: SlowDown, rule: Rule, value: float, top: float) -> None:
        self.slow, self.rule, self.value, self.top = slow, rule, value, top
        self.deepened = slow.since
        self.delivered = 0

    def step(self) -> bool:
        """A delivery more; False: it is as before."""
        self.delivered += 1
        if self.delivered >= self.rule.successes:
            self.delivered = 0
            self.value += max(1.0, self.value // 4)
        return self.value < self.top

    def is_over(self, now: float) -> bool:
        return self.slow.until is not None and now >= self.slow.until


class Shaper:
    """Of one lane. `opens_at` or `heard` comes first at each turn, with the time; the rest goes by what it was then."""

    __slots__ = (
        "_connections",
        "_doublings",
        "_ended",
        "_faults",
        "_lane",
        "_limit",
        "_match",
        "_measure",
        "_opened",
        "_opens_at",
        "_random",
        "_rate",
        "_refused_at",
        "_renewed",
        "_rules",
    )

    def __init__(self, lane: str, rules: Rules, random: Random) -> None:
        self._lane = lane
        self._rules, self._renewed = rules, rules.renewed
        self._match = rules.match(lane)
        self._random = random
        self._limit = 1
        self._measure = _Measure()
        self._connections: _Lowered | None = None
        self._rate: _Lowered | None = None
        self._opened: SlowDown | None = None  # the breaker, until a probe has come through
        self._opens_at = 0.0
        self._faults = 0  # in a row
        self._refused_at: float | None = None
        self._doublings = 0
        self._ended: list[SlowDown] = []  # by time, and not told so far; at most one of each kind

    # --- what a lane asks

    def is_open(self, limit: int) -> bool:
        """Nothing is slowed down, where the configuration allows so many jobs in flight."""
        self._limit = limit
        return self._opened is None and self._connections is None and self._rate is None

    def opens_at(self, now: float) -> float:
        """No attempt before that; then one, for it is a probe while `most` says so."""
        self._pass(now)
        return self._opens_at

    def most(self, limit: int) -> int:
        """Jobs that may be in flight at present."""
        self._limit = limit
        if self._opened is not None:
            return 1
        return limit if self._connections is None else max(1, min(limit, int(self._connections.value)))

    def pace(self) -> Limit | None:
        """The rate that replies asked for. It is for what comes anew: a retry that is due goes at once."""
        return None if self._rate is None else _limit(self._rate.value)

    def present(self, now: float) -> SlowDown | None:
        """What slows the lane down now: the hardest of it."""
        self._pass(now)
        if self._opened is not None:
            return self._opened if now < self._opens_at else replace(self._opened, what=_PROBING, until=None)
        if self._connections is not None:
            return replace(self._connections.slow, what=_connections(self._connections.value))
        return None if self._rate is None else replace(self._rate.slow, what=_rate(self._rate.value))

    # --- what it tells

    def heard(self, report: Report, job: Job, now: float) -> Sequence[SlowDown]:
        """The slow-downs that end by it, or have ended since the last one, and those that begin."""
        if self._is_as_usual(report):
            self._measure.add(now)
            self._faults = self._doublings = 0
            return ()
        outcomes = [outcome for outcome in report.outcomes if not isinstance(outcome, UNTRIED)]
        if not outcomes:
            return ()
        self._pass(now)
        told, self._ended = self._ended, []
        found = dict.fromkeys(each for outcome in outcomes for each in heard(outcome))
        delivered = any(isinstance(outcome, Delivered) for outcome in outcomes)
        if delivered or any(each.fault is None for each in found):
            self._measure.add(now)
        if delivered or (found and all(each.fault is None for each in found)):
            told += self._alive(now)
        rules = self._met(found)
        for rule, each in rules.items():
            told += _ACTIONS[rule.action](self, rule, each, now)
        if delivered and all(rule.action is Action.NONE for rule in rules):
            told += self._delivered(now)
        return told

    def _met(self, found: Iterable[Heard]) -> dict[Rule, Heard]:
        """Each rule that something meets, and the first that does."""
        if self._renewed != self._rules.renewed:
            self._renewed, self._match = self._rules.renewed, self._rules.match(self._lane)
        rules: dict[Rule, Heard] = {}
        for each in found:
            if (rule := self._match(each)) is not None:
                rules.setdefault(rule, each)
        return rules

    def _is_as_usual(self, report: Report) -> bool:
        """One recipient was delivered to, and nothing is slowed down."""
        if self._opened is not None or self._connections is not None or self._rate is not None or self._ended:
            return False
        return len(report.outcomes) == 1 and isinstance(report.outcomes[0], Delivered)

    # --- the breaker

    def _alive(self, now: float) -> list[SlowDown]:
        """The next hop took commands of mail: whatever it said to them, it is there."""
        self._faults = self._doublings = 0
        opened, self._opened, self._opens_at = self._opened, None, 0.0
        return [] if opened is None else [replace(opened, until=now)]

    def _fault(self, rule: Rule, what: Heard, now: float) -> list[SlowDown]:
        if now < self._opens_at:
            return []  # that attempt was under way
        if what.fault is Fault.REFUSED:
            if self._refused_at is not None and now < self._refused_at + SETTLE:
                return []  # as that one: a burst of connections is refused once
            self._refused_at = now
        self._faults += 1
        if self._opened is None and self._faults < rule.in_a_row:
            return []
        told = [] if self._opened is None else [replace(self._opened, until=now)]
        pause = min(rule.seconds * 2**self._doublings, rule.longest)
        self._doublings = min(self._doublings + 1, MAX_DOUBLINGS)
        self._opens_at = now + pause * (1 + JITTER * (2 * self._random() - 1))
        what_is_done = f"no attempts, behind {self._faults} connection faults in a row"
        self._opened = SlowDown(_cause(rule, what), what_is_done, now, self._opens_at, self._lane)
        return [*told, self._opened]

    # --- connections and rate

    def _lower(self, rule: Rule, what: Heard, now: float) -> list[SlowDown]:
        lowered, limit = self._connections, float(self._limit)
        value = max(1.0, (limit if lowered is None else min(lowered.value, limit)) // 2)
        slow = self._slow_down(rule, what, _connections(value), now)
        told, self._connections = _deeper(lowered, _Lowered(slow, rule, value, limit))
        return told

    def _slow(self, rule: Rule, what: Heard, now: float) -> list[SlowDown]:
        lowered, measured = self._rate, self._measure.per_minute(now)
        before = measured if lowered is None else lowered.value
        value = max(1.0, before * rule.slower) if rule.rate is None else rule.rate.most * _MINUTE / rule.rate.seconds
        slow = self._slow_down(rule, what, _rate(value), now)
        told, self._rate = _deeper(lowered, _Lowered(slow, rule, value, max(measured, value + 1)))
        return told

    def _slow_down(self, rule: Rule, what: Heard, done: str, now: float) -> SlowDown:
        return SlowDown(_cause(rule, what), done, now, now + rule.seconds, self._lane)

    def _nothing(self, rule: Rule, what: Heard, now: float) -> list[SlowDown]:
        return []

    def _delivered(self, now: float) -> list[SlowDown]:
        """A step up where there is something to recover from."""
        told = []
        if self._connections is not None and not self._connections.step():
            told.append(replace(self._connections.slow, until=now))
            self._connections = None
        if self._rate is not None and not self._rate.step():
            told.append(replace(self._rate.slow, until=now))
            self._rate = None
        return told

    def _pass(self, now: float) -> None:
        """What time has ended."""
        if self._connections is not None and self._connections.is_over(now):
            self._ended.append(self._connections.slow)
            self._connections = None
        if self._rate is not None and self._rate.is_over(now):
            self._ended.append(self._rate.slow)
            self._rate = None


_ACTIONS: Mapping[Action, Callable[[Shaper, Rule, Heard, float], list[SlowDown]]] = {
    Action.LOWER_CONNECTIONS: Shaper._lower,
    Action.RATE: Shaper._slow,
    Action.PAUSE: Shaper._fault,
    Action.NONE: Shaper._nothing,
}
_PROBING = "one attempt at a time, until one comes through"


def _deeper(before: _Lowered | None, now: _Lowered) -> tuple[list[SlowDown], _Lowered | None]:
    """What is told, and what holds from now on. One that lowers nothing only makes that which holds last longer."""
    if before is None:
        return ([now.slow], now) if now.value < now.top else ([], None)
    until = max(before.slow.until or 0.0, now.slow.until or 0.0)
    if now.slow.since < before.deepened + SETTLE or now.value >= before.value:
        before.delivered = 0
        before.slow = replace(before.slow, until=until)
        return [], before
    now.top = max(before.top, now.top)
    now.slow = replace(now.slow, until=until)
    return [replace(before.slow, until=now.slow.since), now.slow], now


def in_the_log(slow: SlowDown, now: float) -> str:
    """A slow-down that begins or ends, as `heard` gives it, in one line."""
    if slow.until is not None and slow.until <= now:
        return f"over behind {slow.until - slow.since:.0f} s: {slow.what} ({slow.cause})"
    lasts = "" if slow.until is None else f", for {slow.until - now:.0f} s"
    return f"{slow.what}{lasts} ({slow.cause})"


def _limit(per_minute: float) -> Limit:
    if per_minute >= 1:
        return Limit(int(per_minute), int(_MINUTE))
    return Limit(max(1, int(per_minute * _HOUR / _MINUTE)), _HOUR)


def _rate(per_minute: float) -> str:
    return f"at most {_limit(per_minute)}"


def _connections(most: float) -> str:
    return f"at most {most:g} connection{'' if most == 1 else 's'} at a time"


def _cause(rule: Rule, what: Heard) -> str:
    text = what.text if len(what.text) <= MAX_CAUSE else f"{what.text[:MAX_CAUSE]} …"
    return f"{rule.name}: {text}"
