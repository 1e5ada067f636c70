"""SmtpMailer: the connections of one lane, kept and reused. Meets the port Mailer.

A job takes a connection that is free, or the walk over the next hop's hosts is made and the first that answers is used.
Knows when to connect and when to keep; what a reply means is decided in the engine.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from pillarbox.core.address import Domain
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Deferred, Failed, Job, Report
from pillarbox.engine.pacing import NO_TERMS
from pillarbox.engine.ports import Clock, ConnectionTerms, Network, Resolver, Spool, Timer
from pillarbox.engine.routing import LmtpSocket, Mx, SmartHost, TlsPolicy
from pillarbox.engine.walk import AskAddresses, AskMx, Exhausted, MxWalk, Shuffle, Try, TrySocket
from pillarbox.net.sender import Deadlines, Outgoing, Protection, Unusable
from pillarbox.net.tls_faults import TlsFaults
from pillarbox.net.turnstile import Turnstile
from pillarbox.smtp.sasl import Credentials

log = logging.getLogger(__name__)

KEPT_FREE = 10.0  # seconds that a connection without a job is kept
SWEEP = 1.0  # seconds between looks at the deadlines
_NEEDS_TLS = EnhancedCode(5, 7, 10)
_OUR_FAULT = EnhancedCode(4, 3, 0)

Done = Callable[[Job, Report], None]


@dataclass(frozen=True, slots=True)
class Ways:
    """What all lanes share: the ports, and who we say we are."""

    network: Network
    resolver: Resolver
    clock: Clock
    spool: Spool
    hostname: Domain
    shuffle: Shuffle
    deadlines: Deadlines = field(default_factory=Deadlines)
    tls: Callable[[TlsPolicy], ssl.SSLContext] | None = None  # for connections to next hops
    tls_faults: TlsFaults = field(default_factory=TlsFaults)


class SmtpMailer:
    """The queue bounds how many jobs are in flight, and so how many connections there are."""

    def __init__(
        self,
        next_hop: Mx | SmartHost | LmtpSocket,
        ways: Ways,
        *,
        tls: TlsPolicy = TlsPolicy.OFF,
        credentials: Credentials | None = None,
        terms: ConnectionTerms = NO_TERMS,
    ) -> None:
        self._terms = terms
        self._turnstile = Turnstile(terms, ways.clock, self._start)
        self._next_hop = next_hop
        self._implicit = isinstance(next_hop, SmartHost) and next_hop.implicit_tls
        self._lmtp = isinstance(next_hop, LmtpSocket) or (isinstance(next_hop, SmartHost) and next_hop.lmtp)
        self._tls = TlsPolicy.OFF if isinstance(next_hop, LmtpSocket) else tls
        self._credentials = credentials
        self._ways = ways
        self._free: list[tuple[float, Outgoing]] = []  # with the moment each became free, the latest last
        self._busy: dict[Outgoing, Done] = {}
        self._opening: set[Outgoing] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: Timer | None = None
        self._closing = False
        self._cut = False  # the grace is over: what ends now was ended by us
        self._emptied = asyncio.Event()

    def deliver(self, job: Job, done: Done) -> None:
        while self._free:
            _, connection = self._free.pop()
            if connection.usable:
                self._run(connection, job, done)
                return
            connection.quit()
        self._turnstile.enter(job, done)

    def _start(self, job: Job, done: Done) -> None:
        """Open a connection for the job."""
        task = asyncio.get_running_loop().create_task(self._open(job, done))
        self._tasks.add(task)
        task.add_done_callback(partial(self._opened, job, done))

    def _run(self, connection: Outgoing, job: Job, done: Done) -> None:
        self._busy[connection] = done
        self._watch()
        connection.run(job, self._ways.spool.body, self._carried)

    def _carried(self, connection: Outgoing, job: Job, report: Report | None) -> None:
        done = self._busy.pop(connection)
        if connection.usable and not self._closing and (next_one := self._turnstile.instead()) is not None:
            self._run(connection, *next_one)
        elif connection.usable and not self._closing:
            self._free.append((self._ways.clock.monotonic(), connection))
        else:
            connection.quit()
        if (self._cut and not (report is not None and report.is_ambiguous)) or (report is None and self._closing):
            done(job, Report(()))
        elif report is not None:
            done(job, report)
        else:
            self.deliver(job, done)  # a kept connection had been closed by the server: nothing was tried
        if self._closing and not self._busy:
            self._emptied.set()

    def _opened(self, job: Job, done: Done, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._turnstile.left(len(self._tasks))
        if task.cancelled():
            done(job, Report(()))

    # --- opening

    async def _open(self, job: Job, done: Done) -> None:
        walk = MxWalk(self._next_hop, job.rows[0].recipient.address.domain, self._ways.hostname, self._ways.shuffle)
        try:
            end = await self._walk(walk)
        except Exception:
            log.exception("bug while connecting to %s", job.lane)
            end = Exhausted(_OUR_FAULT, "internal error", permanent=False)
        if isinstance(end, Outgoing):
            self._run(end, job, done)
            return
        if walk.lacks_tls and job.options.require_tls:  # RFC 8689 §4.2.1: it is not tried again
            end = Exhausted(_NEEDS_TLS, end.text, permanent=True)
        outcome = Failed if end.permanent else Deferred
        notes = tuple(note for note in walk.notes if note != end.text)
        done(job, Report((outcome(end.text, job.lane, end.status),) * len(job.rows), notes))

    async def _walk(self, walk: MxWalk) -> Outgoing | Exhausted:
        resolver = self._ways.resolver
        while True:
            match walk.next_question():
                case AskMx(domain=domain):
                    walk.answer(await resolver.mx(domain))
                case AskAddresses(host=host):
                    walk.answer(await resolver.addresses(host))
                case (Try() | TrySocket()) as target:
                    try:
                        return await self._connect(target)
                    except (OSError, Unusable) as error:
                        walk.lacks_tls |= isinstance(error, Unusable) and error.tls
                        walk.failed(str(error) or type(error).__name__)
                case Exhausted() as end:
                    return end

    async def _connect(self, target: Try | TrySocket) -> Outgoing:
        """Raises OSError, Unusable."""
        may_be_clear = self._tls is TlsPolicy.OPPORTUNISTIC and not self._implicit
        faults = self._ways.tls_faults
        server = (str(target.ip), target.port) if isinstance(target, Try) else (target.path, 0)
        if may_be_clear and self._credentials is None and faults.known(server, self._ways.clock.monotonic()):
            return await self._connect_with(target, self._protection(TlsPolicy.OFF))
        try:
            return await self._connect_with(target, self._protection(self._tls))
        except Unusable as error:
            if not error.tls or not may_be_clear:
                raise
            log.info("%s: %s; once more in clear", target, error)  # RFC 7435 §3: better than no mail at all
        connection = await self._connect_with(target, self._protection(TlsPolicy.OFF))
        faults.failed(server, self._ways.clock.monotonic())  # and nothing else is wrong there
        return connection

    def _protection(self, policy: TlsPolicy) -> Protection:
        wanted = self._implicit or policy is not TlsPolicy.OFF
        make_context = self._ways.tls
        assert make_context is not None or not wanted
        context = make_context(self._tls) if wanted and make_context is not None else None
        return Protection(policy, self._implicit, context, self._credentials)

    async def _connect_with(self, target: Try | TrySocket, protection: Protection) -> Outgoing:
        ways = self._ways
        await self._turnstile.permit()
        connection = Outgoing(
            str(ways.hostname),
            _named(target),
            deadlines=ways.deadlines,
            clock=ways.clock,
            protection=protection,
            host=target.host if isinstance(target, Try) else "",
            lmtp=self._lmtp,
            terms=self._terms,
        )
        network, seconds = ways.network, ways.deadlines.connect
        if isinstance(target, TrySocket):
            await network.connect_unix(lambda: connection, target.path, seconds=seconds)
        else:
            await network.connect(lambda: connection, str(target.ip), target.port, seconds=seconds)
        self._opening.add(connection)
        self._watch()
        try:
            await connection.opened
        finally:
            self._opening.discard(connection)
            if not connection.usable:
                connection.quit()
        if not connection.usable:
            raise Unusable(connection.fault or "octets behind the reply that opens the connection")
        return connection

    # --- deadlines

    def _watch(self) -> None:
        if self._sweep is None:
            self._sweep = self._ways.clock.call_later(SWEEP, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        now = self._ways.clock.monotonic()
        for connection in (*self._busy, *self._opening):
            connection.check(now)
        while self._free and now - self._free[0][0] >= KEPT_FREE:
            self._free.pop(0)[1].quit()
        if self._busy or self._free or self._opening:
            self._watch()

    async def close(self, grace: float) -> None:
        self._closing = True
        for _, connection in self._free:
            connection.quit()
        self._free = []
        for job, done in self._turnstile.close():
            done(job, Report(()))
        for task in self._tasks:
            task.cancel()
        if self._busy:
            timer = self._ways.clock.call_later(grace, self._emptied.set)
            await self._emptied.wait()
            timer.cancel()
        self._cut = True
        for connection in list(self._busy):
            connection.cut()
        if self._sweep is not None:
            self._sweep.cancel()


def _named(target: Try | TrySocket) -> str:
    """As records and notices name it."""
    if isinstance(target, Try) and target.host == str(target.ip):
        return f"[{target.ip}]"
    return str(target)
