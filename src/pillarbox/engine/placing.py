"""Which lane each recipient of a message goes to: by its route, and by the site of its domain.

Recipients whose site is not known wait here for the answer, at most WAITING jobs; a known one costs a look-up. Owns no
recipient: what waits is given back to the queue, job by job. Invariant: rows of one job share a lane, the text and the
reverse-path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Job, Message, Place, Report, Row, Waits
from pillarbox.engine.routing import Mx, Route, Router, at_site, verified
from pillarbox.engine.sites import Sites

WAITING = 5000  # jobs that wait for DNS
LATER = 10.0  # seconds until what goes back to the disk is due; the last of very many: MUCH_LATER
MUCH_LATER = 600.0
_ANSWERS = 20.0  # a second, by which that is reckoned: what a resolver that answers at all does
_NO_DNS = EnhancedCode(4, 4, 3)

Placed = tuple[str, Route, list[Row]]  # the lane, "" where its site must be asked for; how it is driven; the rows


class Placing:
    def __init__(self, router: Router, sites: Sites | None) -> None:
        self.router = router
        self.sites = sites
        self._waiting: dict[int, Job] = {}  # by identity
        self._back = 0  # jobs that went back since there was room last

    def jobs(self, message: Message, rows: list[Row], *, asks: bool = True) -> Iterable[Placed]:
        """The rows of each job. Where nobody `asks`, a domain without a known site has a lane of its own."""
        if len(rows) == 1:
            return ((*self._place(message, rows[0], asks=asks), rows),)
        jobs: dict[tuple[str, Mailbox | None, Mailbox | None], Placed] = {}
        for row in rows:
            recipient = row.recipient
            name, route = self._place(message, row, asks=asks)
            forwarder = recipient.original if recipient.forwarded else None
            jobs.setdefault((name, recipient.owner, forwarder), (name, route, []))[2].append(row)
        return jobs.values()

    def _place(self, message: Message, row: Row, *, asks: bool) -> tuple[str, Route]:
        address, by_hand = row.recipient.address, row.next_hop
        name, route = self.router.route(address) if by_hand is None else self.router.by_hand(by_hand, address)
        if message.envelope.options.require_tls and message.envelope.sender is not None:  # RFC 8689 §5
            name, route = verified(name, route, address.domain)
        if self.sites is None or not isinstance(route.next_hop, Mx) or not isinstance(address.domain, Domain):
            return name, route
        site = self.sites.known(address.domain)
        if site:
            return at_site(route, site), route
        return ("" if site is None and asks else name), route

    async def places(self, domains: Sequence[Domain]) -> list[tuple[Place, Route]]:
        """Where mail for whole domains waits: at their sites, and in lanes of their own from before those were
        known."""
        found = []
        for domain in domains:
            place, route = self.router.place(domain)
            found.append((place, route))
            if self.sites is not None and isinstance(route.next_hop, Mx) and (site := await self.sites.find(domain)):
                found.append((Place(at_site(route, site), domain), route))
        return found

    # --- what waits for DNS

    def ask(self, job: Job, then: Callable[[Job], None], now: float) -> Report | None:
        """Let the job wait for the sites of its domains; `then` gets it. A report where too many do."""
        assert self.sites is not None
        if len(self._waiting) >= WAITING:
            self._back += 1
            due = now + min(LATER + self._back / _ANSWERS, MUCH_LATER * (0.5 + self._back % 97 / 194))
            text = "waits for the answers of DNS to those before it"
            return Report((Waits(text, "", _NO_DNS, due=due),) * len(job.rows))
        self._waiting[id(job)] = job
        domains = [row.recipient.address.domain for row in job.rows]
        asked = [domain for domain in domains if isinstance(domain, Domain)]
        self.sites.ask(asked, partial(self._answered, job, then))
        return None

    def _answered(self, job: Job, then: Callable[[Job], None]) -> None:
        if self.withdraw(job):
            then(job)

    def withdraw(self, job: Job) -> bool:
        """Take that very job out; False where it waits here no more."""
        self._back = 0 if len(self._waiting) < WAITING // 2 else self._back
        return self._waiting.pop(id(job), None) is not None
