"""Sites: the hosts at which the mail of a domain arrives, so that all domains of one provider share a lane.

A site is the MX set of a domain, in the order of preference, under a name that can be read: `(mx1|mx2).example.net`. A
domain without an MX record, with a null MX or with a fault of DNS has none: its lane is its own, and what comes of its
mail is found there by the ordinary walk (`walk.py`). Knows no messages. Invariants: two sites never have one name; a
domain is asked for once, however many wait; questions at a time, answers and their age are bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2s
from typing import NamedTuple

from pillarbox.core.address import Domain
from pillarbox.engine.ports import Clock, MxAnswer, MxRecord, Resolver

log = logging.getLogger(__name__)

AT_ONCE = 100  # questions
REMEMBERED = 50_000  # domains; the one asked for longest ago goes first
HOLDS = 300.0  # seconds that a site is believed: no longer than one waits for a change of MX to be followed
FAULT_HOLDS = 30.0  # seconds that a fault is
TOGETHER = 1.0  # seconds that those whose sites are known wait for others of their message
MAX_NAME = 120  # characters

Then = Callable[[], None]


class _Known(NamedTuple):
    site: str  # "" for a domain that has none
    until: float


class Sites:
    def __init__(self, resolver: Resolver, clock: Clock) -> None:
        self.resolver = resolver
        self._clock = clock
        self._known: dict[str, _Known] = {}  # by domain, in the order in which they were asked for
        self._asked: dict[str, list[Then]] = {}  # who waits for each
        self._line: deque[Domain] = deque()  # not asked yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._finding: set[asyncio.Future[None]] = set()
        self._closed = False

    def known(self, domain: Domain) -> str | None:
        """The name of its site, "" where it has none; None where that must be asked for."""
        found = self._known.get(domain.ascii)
        return None if found is None or found.until <= self._clock.monotonic() else found.site

    def ask(self, domains: Sequence[Domain], then: Then) -> None:
        """Call `then` once: when the sites of all of them are known, or of some and the time for the others is up."""
        unknown = [domain for domain in dict.fromkeys(domains) if self.known(domain) is None]
        if not unknown:
            asyncio.get_running_loop().call_soon(then)
            return
        party = _Party(len(unknown), then)
        if len(unknown) > 1:
            self._clock.call_later(TOGETHER, party.enough)
        for domain in unknown:
            waiting = self._asked.get(domain.ascii)
            if waiting is None:
                self._asked[domain.ascii] = [party.one]
                self._line.append(domain)
            else:
                waiting.append(party.one)
        self._go_on()

    async def find(self, domain: Domain) -> str:
        """The name of its site, "" where it has none."""
        while not self._closed and (site := self.known(domain)) is None:
            found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.ask([domain], partial(_arrived, found))
            self._finding.add(found)
            try:
                await found
            finally:
                self._finding.discard(found)
        return "" if self._closed else site or ""

    def renew(self, resolver: Resolver) -> None:
        """Ask another resolver from now on."""
        self.resolver = resolver
        self._known.clear()

    async def close(self) -> None:
        """Ask nothing more; who waits hears nothing, but for those who look for one."""
        self._closed = True
        self._line.clear()
        for found in self._finding:
            _arrived(found)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _go_on(self) -> None:
        while self._line and len(self._tasks) < AT_ONCE and not self._closed:
            task = asyncio.get_running_loop().create_task(self._question(self._line.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._go_on()

    async def _question(self, domain: Domain) -> None:
        name = domain.ascii
        try:
            site, holds = _site(await self.resolver.mx(domain))
        except Exception:
            log.exception("bug while asking for the MX of %s", name)
            site, holds = "", FAULT_HOLDS
        self._known.pop(name, None)
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[name] = _Known(site, self._clock.monotonic() + holds)
        for then in self._asked.pop(name, ()):
            try:
                then()
            except Exception:  # the others hear of it all the same
                log.exception("bug behind the MX of %s", name)


class _Party:
    """The domains of one message that are asked for together."""

    __slots__ = ("_late", "_left", "_some", "_then")

    def __init__(self, left: int, then: Then) -> None:
        self._left = left
        self._then: Then | None = then
        self._late = False
        self._some = False

    def one(self) -> None:
        self._left -= 1
        self._some = True
        if not self._left or self._late:
            self._end()

    def enough(self) -> None:
        self._late = True
        if self._some:
            self._end()

    def _end(self) -> None:
        if self._then is not None:
            then, self._then = self._then, None
            then()


def _arrived(found: asyncio.Future[None]) -> None:
    if not found.done():
        found.set_result(None)


def _site(answer: MxAnswer) -> tuple[str, float]:
    """Its name, and how long that holds."""
    if not isinstance(answer, tuple):
        return "", FAULT_HOLDS
    hosts = [record.host.lower() for record in sorted(answer, key=_rank)]
    if not hosts or "" in hosts:
        return "", HOLDS
    return site_name(tuple(dict.fromkeys(hosts))), HOLDS


def _rank(record: MxRecord) -> tuple[int, str]:
    return record.preference, record.host.lower()


def site_name(hosts: Sequence[str]) -> str:
    """In brackets what differs, so that no domain is called so: `(mx1|mx2).example.net`, `(a.example|b.test)`."""
    split = [host.split(".") for host in hosts]
    shared = 0
    most = min(map(len, split)) - 1  # of each host something stands in the brackets
    while shared < most and len({labels[-1 - shared] for labels in split}) == 1:
        shared += 1
    behind = "".join(f".{label}" for label in split[0][len(split[0]) - shared :])
    inside = "|".join(".".join(labels[: len(labels) - shared]) for labels in split)
    if len(inside) + len(behind) <= MAX_NAME:
        return f"({inside}){behind}"
    mark = blake2s("|".join(hosts).encode(), digest_size=8).hexdigest()
    first = inside.partition("|")[0][: MAX_NAME // 2]
    return f"({first}|~{len(hosts)}~{mark}){behind[-MAX_NAME // 2 :]}"
