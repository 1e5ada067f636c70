"""`pillarbox forecast` put together: what is read of the data, what a lane is allowed, and what comes of it as data.

All is done in the process of whoever asks. The spool is read beside a running server, which does nothing for it; the
queue that is simulated is one of our own. Text of arguments becomes values here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from pillarbox.adapters.spool_backlog import BacklogReader
from pillarbox.app import config_values as kinds
from pillarbox.app.config import Config
from pillarbox.app.config_lanes import limits_of
from pillarbox.app.control import Refused
from pillarbox.app.datadir import DataDir
from pillarbox.app.ways_out import INSTANT_JOBS, MAILDIR_JOBS
from pillarbox.core.address import Domain
from pillarbox.engine.experience import Experience
from pillarbox.engine.forecast import Forecast, Lookout, Terms
from pillarbox.engine.predicate_parser import PredicateError, parse_predicate
from pillarbox.engine.routing import Discard, MaildirHop, Pipe, Route, Turn
from pillarbox.engine.sampling import Sample
from pillarbox.sim.directory import ImaginedDirectory
from pillarbox.sim.forecast import KnownSites, Lanes, Progress, World, foretell

HISTORY = 20_000  # settled recipients that are learnt from, the youngest
_NAMED = 10  # lanes that an error names
_LIMIT = re.compile(r"(?P<lanes>.+?)=(?P<settings>(?:connections|messages)=.*)")
_ALLOWED = "LANES=connections=N, LANES=messages=N/PERIOD or both with a comma between, such as mx:*=messages=100/m"
_KINDS: Mapping[str, kinds.Kind[Any]] = {"connections": kinds.count(), "messages": kinds.rate()}


@dataclass(frozen=True, slots=True)
class Limiting:
    """What lanes are allowed other than today. `lanes` is a pattern; `settings` are fields of Terms."""

    lanes: str
    settings: Mapping[str, Any]

    def fits(self, lane: str) -> bool:
        return fnmatchcase(lane.casefold(), self.lanes.casefold())


@dataclass(frozen=True, slots=True)
class Question:
    """`limits` as the operator wrote them; `success` is a share, 0 to 1; `most`: recipients that are simulated."""

    where: str = ""
    limits: Sequence[str] = ()
    success: float | None = None
    seconds: float | None = None
    most: int = 100_000


def read_limit(text: str) -> Limiting:
    """Raises Refused."""
    if not (match := _LIMIT.fullmatch(text.strip())):
        raise Refused(f"--limit {text}: not read; allowed: {_ALLOWED}", usage=True)
    settings: dict[str, Any] = {}
    for setting in match["settings"].split(","):
        key, _, value = setting.partition("=")
        key, value = key.strip(), value.strip()
        if key not in _KINDS:
            raise Refused(f"--limit {text}: no limit is called {key!r}; allowed: {_ALLOWED}", usage=True)
        try:
            settings[key] = _KINDS[key].read(int(value) if value.isdigit() and key == "connections" else value)
        except ValueError as error:
            raise Refused(f"--limit {text}: {key}: {error}; allowed: {_KINDS[key].allowed}", usage=True) from error
    return Limiting(match["lanes"], settings)


def forecast(
    config: Config,
    question: Question,
    domains: Sequence[Mapping[str, Any]],
    progress: Progress = lambda settled, of: None,
    *,
    now: Callable[[], float] = time.time,
) -> Forecast | None:
    """`domains` as `domain list` tells them; None where no spool is there yet. Raises Refused, SpoolVersion,
    apsw.Error."""
    limits = [read_limit(each) for each in question.limits]
    try:
        wanted = parse_predicate(question.where)
    except PredicateError as error:
        raise Refused(str(error), usage=True) from error
    path = DataDir(config.data, created=False).spool_db
    if not path.exists():
        return None
    experience = Experience(success=question.success, seconds=question.seconds)
    reader, at = BacklogReader(path), now()
    try:
        sites = reader.sites()
        for past in reader.past(HISTORY):
            experience.learn(past)
            if past.lane:
                sites.setdefault(past.domain, past.lane)
        routes = [route.route() for route in config.routes]
        router = KnownSites(routes, _directory(domains), sites)
        lanes = Lanes(router, frozenset(route.match.casefold() for route in routes if "@" in route.match))
        sample = Sample(-(-reader.count() // question.most) or 1, lanes)
        for letter in reader.letters(wanted, at):
            for waiter in letter.waiters:
                experience.learn_deferred(waiter.lane, waiter.attempts)
            sample.take(letter)
    finally:
        reader.close()
    _check(limits, lanes)
    return foretell(
        World(at, sample, lanes, router, experience, _terms(config, limits), config.retry.policy()), progress
    )


def _directory(domains: Sequence[Mapping[str, Any]]) -> ImaginedDirectory:
    return ImaginedDirectory(
        local=[Domain.parse(row["domain"]) for row in domains if not row.get("relay")],
        kept=[Domain.parse(row["domain"]) for row in domains if row.get("relay") and row.get("owner")],
    )


def _check(limits: Sequence[Limiting], lanes: Lanes) -> None:
    """Raises Refused where a limit is for no lane."""
    for limit in limits:
        if lanes.routes and not any(limit.fits(lane) for lane in lanes.routes):
            names = sorted(lanes.routes)
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise Refused(
                f"--limit: no lane in the queue fits {limit.lanes!r}; there are {', '.join(names[:_NAMED])}{more}",
                usage=True,
            )


def _terms(config: Config, limits: Sequence[Limiting]) -> Callable[[str, Route], Terms]:
    def terms(lane: str, route: Route) -> Terms:
        found = _todays(config, lane, route)
        for limit in limits:
            if limit.fits(lane):
                found = replace(found, **limit.settings)
        return found

    return terms


def _todays(config: Config, lane: str, route: Route) -> Terms:
    said = limits_of(lane, config.lanes)
    connections = _usual(config, route) if said.connections is None else said.connections
    return Terms(connections, said.messages, said.priority, said.fair)


def _usual(config: Config, route: Route) -> int:
    """Jobs at a time where no `[[lane]]` says so."""
    match route.next_hop:
        case MaildirHop():
            return MAILDIR_JOBS
        case Discard() | Turn():
            return INSTANT_JOBS
        case Pipe():
            return config.limits.pipe_runs
        case _:
            return config.limits.connections_per_next_hop


# --- as data


def as_data(found: Forecast, most_lanes: int) -> dict[str, Any]:
    """JSON-able."""
    return {
        "at": found.begins,
        "waiting": found.waiting,
        "held": found.held,
        "delivered": found.delivered,
        "failed": found.failed,
        "expired": found.expired,
        "left": found.left,
        "last": found.last,
        "ends": found.ends,
        "queue": found.total,
        "sampled": found.sampled,
        "timeline": [{"seconds": seconds, "left": round(left)} for seconds, left in found.timeline],
        "count": len(found.lanes),
        "lanes": [_lane(lane) for lane in found.lanes[:most_lanes]],
    }


def _lane(lane: Lookout) -> dict[str, Any]:
    terms, habit = lane.terms, lane.habit
    return {
        "lane": lane.lane,
        "waiting": round(lane.waiting),
        "delivered": round(lane.delivered),
        "failed": round(lane.failed),
        "expired": round(lane.expired),
        "left": round(lane.left),
        "last": lane.last,
        "connections": terms.connections,
        "messages": None if terms.messages is None else terms.messages._asdict(),
        "per_second": lane.per_second,
        "seconds": habit.seconds,
        "seconds_measured": habit.measured,
        "first": habit.first._asdict(),
        "later": habit.later._asdict(),
        "attempts_seen": habit.seen,
    }
