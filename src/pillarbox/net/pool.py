"""SmtpMailer: the connections of one lane, kept and reused. Meets the ports Mailer and Member.

A job takes a connection that is free, or the walk over the next hop's hosts is made and the first that answers is used.
Knows when to connect and when to keep; what a reply means is decided in the engine, and so is from which source address
of an egress pool to connect. Invariant: each connection, and each walk to open one, has one place of the pool, which is
given back exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from pillarbox.core.address import Domain
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.egress import Pool
from pillarbox.engine.mail import Deferred, Failed, Job, Outcome, Report, Unsent
from pillarbox.engine.pacing import NO_TERMS
from pillarbox.engine.ports import Clock, ConnectionTerms, Network, Resolver, Spool, Timer
from pillarbox.engine.routing import LmtpSocket, Mx, SmartHost, TlsPolicy
from pillarbox.engine.walk import AskAddresses, AskMx, Exhausted, MxWalk, Race, Shuffle, Try, TrySocket
from pillarbox.net.race import Dialling, first_connected
from pillarbox.net.sender import Outgoing, Protection, Unusable
from pillarbox.net.timeouts import Deadlines
from pillarbox.net.tls_faults import TlsFaults
from pillarbox.net.turnstile import Turnstile
from pillarbox.smtp.sasl import Credentials

log = logging.getLogger(__name__)

KEPT_FREE = 10.0  # seconds that a connection without a job is kept
SWEEP = 1.0  # seconds between looks at the deadlines
_NEEDS_TLS = EnhancedCode(5, 7, 10)
_OUR_FAULT = EnhancedCode(4, 3, 0)
_PARTED = EnhancedCode(4, 4, 4)

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
        pool: Pool | None = None,
    ) -> None:
        self._terms = terms
        self._turnstile = Turnstile(terms, ways.clock, self._start)
        self._next_hop = next_hop
        self._implicit = isinstance(next_hop, SmartHost) and next_hop.implicit_tls
        self._lmtp = isinstance(next_hop, LmtpSocket) or (isinstance(next_hop, SmartHost) and next_hop.lmtp)
        self._tls = TlsPolicy.OFF if isinstance(next_hop, LmtpSocket) else tls
        self._credentials = credentials
        self._ways = ways
        self._pool = pool or Pool()
        self._pool.join(self)
        self._line: deque[tuple[Job, Done]] = deque()  # jobs that wait for room in the pool
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
            self._end(connection)
        self._turnstile.enter(job, done)

    def _start(self, job: Job, done: Done) -> None:
        """A connection may be opened for the job, once the pool has room for it."""
        if self._pool.take():
            self._begin(job, done)
        else:
            self._line.append((job, done))
            self._pool.wait(self)

    def _begin(self, job: Job, done: Done) -> None:
        """Open a connection for which there is room."""
        task = asyncio.get_running_loop().create_task(self._open(job, done))
        self._tasks.add(task)
        task.add_done_callback(partial(self._opened, job, done))

    def _run(self, connection: Outgoing, job: Job, done: Done) -> None:
        self._busy[connection] = done
        self._watch()
        connection.run(job, self._ways.spool.body, self._carried)

    def _carried(self, connection: Outgoing, job: Job, report: Report | None) -> None:
        done = self._busy.pop(connection)
        if report is not None and connection.source is not None:
            report = report._replace(source=str(connection.source.address))
        self._keep_or_end(connection)
        if (self._cut and not (report is not None and report.is_ambiguous)) or (report is None and self._closing):
            done(job, Report(()))
        elif report is not None:
            done(job, report)
        else:
            self.deliver(job, done)  # a kept connection had been closed by the server: nothing was tried
        if self._closing and not self._busy:
            self._emptied.set()
        while self._pool.contested and self.spare():
            pass

    def _keep_or_end(self, connection: Outgoing) -> None:
        pool = self._pool
        if not connection.usable or self._closing or not pool.serves(connection.source):
            self._end(connection)
        elif pool.yields(self, connection.jobs):
            self._end(connection)
        elif self._line:
            pool.withdraw(self)
            self._run(connection, *self._line.popleft())
        elif (next_one := self._turnstile.instead()) is not None:
            self._run(connection, *next_one)
        else:
            self._free.append((self._ways.clock.monotonic(), connection))

    def _end(self, connection: Outgoing) -> None:
        connection.quit()
        self._pool.give()

    def _opened(self, job: Job, done: Done, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._turnstile.left(len(self._tasks) + len(self._line))
        if task.cancelled():
            self._pool.give()
            done(job, Report(()))

    # --- called by the pool

    def granted(self) -> None:
        self._begin(*self._line.popleft())

    def spare(self) -> bool:
        if not self._free:
            return False
        self._end(self._free.pop(0)[1])
        return True

    def renewed(self) -> None:
        kept = self._free
        self._free = [each for each in kept if self._pool.serves(each[1].source)]
        for _, connection in kept:
            if not self._pool.serves(connection.source):
                self._end(connection)

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
        self._pool.give()
        if walk.lacks_tls and job.options.require_tls:  # RFC 8689 §4.2.1: it is not tried again
            end = Exhausted(_NEEDS_TLS, end.text, permanent=True)
        notes = tuple(note for note in walk.notes if note != end.text)
        done(job, Report(_outcomes(end, job, every=walk.lacks_tls), notes))

    async def _walk(self, walk: MxWalk) -> Outgoing | Exhausted:
        resolver = self._ways.resolver
        while True:
            match walk.next_question():
                case AskMx(domain=domain):
                    walk.answer(await resolver.mx(domain))
                case AskAddresses(host=host, every=True):
                    walk.answer(await resolver.addresses(host))
                case AskAddresses(host=host):
                    walk.answer(await resolver.first_addresses(host))
                case Race(tries=tries):
                    if (connection := await self._connect_to_any(walk, tries)) is not None:
                        return connection
                case TrySocket() as target:
                    if (connection := await self._connect(walk, target)) is not None:
                        return connection
                case Exhausted() as end:
                    return end

    async def _connect_to_any(self, walk: MxWalk, tries: tuple[Try, ...]) -> Outgoing | None:
        """None: at least one of them has failed."""
        dialling = Dialling(self._dial, partial(_failed, walk), Outgoing.quit, self._ways.clock)
        won = await first_connected(tries, dialling)
        return None if won is None else await self._connect(walk, *won)

    async def _connect(self, walk: MxWalk, target: Try | TrySocket, dialled: Outgoing | None = None) -> Outgoing | None:
        """None: it has failed."""
        try:
            return await self._use(target, await self._dial(target) if dialled is None else dialled)
        except (OSError, Unusable) as error:
            _failed(walk, target, error)
            return None

    @property
    def _may_be_clear(self) -> bool:
        return self._tls is TlsPolicy.OPPORTUNISTIC and not self._implicit

    async def _use(self, target: Try | TrySocket, dialled: Outgoing) -> Outgoing:
        """The connection, or another one to the same place, once jobs may be run on it. Raises OSError, Unusable."""
        try:
            return await self._greeted(dialled)
        except Unusable as error:
            if not error.tls or not self._may_be_clear:
                raise
            log.info("%s: %s; once more in clear", target, error)  # RFC 7435 §3: better than no mail at all
        connection = await self._greeted(await self._dial_with(target, self._protection(TlsPolicy.OFF)))
        # and nothing else is wrong there
        self._ways.tls_faults.failed(_server(target), self._ways.clock.monotonic())
        return connection

    async def _dial(self, target: Try | TrySocket) -> Outgoing:
        """Connect, and no more. Raises OSError."""
        known = self._ways.tls_faults.known
        in_clear = (
            self._may_be_clear and self._credentials is None and known(_server(target), self._ways.clock.monotonic())
        )
        return await self._dial_with(target, self._protection(TlsPolicy.OFF if in_clear else self._tls))

    def _protection(self, policy: TlsPolicy) -> Protection:
        wanted = self._implicit or policy is not TlsPolicy.OFF
        make_context = self._ways.tls
        assert make_context is not None or not wanted
        context = make_context(self._tls) if wanted and make_context is not None else None
        return Protection(policy, self._implicit, context, self._credentials)

    async def _dial_with(self, target: Try | TrySocket, protection: Protection) -> Outgoing:
        ways = self._ways
        await self._turnstile.permit()
        source = self._pool.choose(target.ip) if isinstance(target, Try) else None
        connection = Outgoing(
            str(ways.hostname if source is None or source.hostname is None else source.hostname),
            _named(target),
            deadlines=ways.deadlines,
            clock=ways.clock,
            protection=protection,
            host=target.host if isinstance(target, Try) else "",
            lmtp=self._lmtp,
            terms=self._terms,
        )
        connection.source = source
        network, seconds = ways.network, ways.deadlines.connect
        try:
            if isinstance(target, TrySocket):
                await network.connect_unix(lambda: connection, target.path, seconds=seconds)
            else:
                address = None if source is None else source.address
                await network.connect(lambda: connection, str(target.ip), target.port, seconds=seconds, source=address)
        except OSError as error:
            _from(connection, error)
            raise
        return connection

    async def _greeted(self, connection: Outgoing) -> Outgoing:
        """Raises Unusable."""
        self._opening.add(connection)
        self._watch()
        try:
            await connection.opened
        except Unusable as error:
            _from(connection, error)
            raise
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
            self.spare()
        if self._busy or self._free or self._opening:
            self._watch()

    async def close(self, grace: float) -> None:
        self._closing = True
        self._pool.leave(self)
        while self.spare():
            pass
        for job, done in self._turnstile.close():
            done(job, Report(()))
        while self._line:
            self._pool.withdraw(self)
            job, done = self._line.popleft()
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


def _outcomes(end: Exhausted, job: Job, *, every: bool) -> tuple[Outcome, ...]:
    """What the end of a walk by the first domain is to each recipient. Domains of one site may have parted since: that
    one of them takes no mail any more says nothing of the others, unless it is true of `every` one."""
    if not end.permanent:
        return (Deferred(end.text, job.lane, end.status),) * len(job.rows)
    failed, domain = Failed(end.text, job.lane, end.status), job.rows[0].recipient.address.domain
    unsent = Unsent(f"goes apart from mail for {domain}: {end.text}", job.lane, _PARTED)
    return tuple(failed if every or row.recipient.address.domain == domain else unsent for row in job.rows)


def _failed(walk: MxWalk, target: Try | TrySocket, error: OSError | Unusable) -> None:
    walk.lacks_tls |= isinstance(error, Unusable) and error.tls
    walk.failed(target, ", ".join((str(error) or type(error).__name__, *getattr(error, "__notes__", ()))))


def _from(connection: Outgoing, error: OSError | Unusable) -> None:
    """Let the text of a failure say from where it was tried, if that was chosen."""
    if connection.source is not None:
        error.add_note(f"from {connection.source}")


def _server(target: Try | TrySocket) -> tuple[str, int]:
    return (str(target.ip), target.port) if isinstance(target, Try) else (target.path, 0)


def _named(target: Try | TrySocket) -> str:
    """As records and notices name it."""
    if isinstance(target, Try) and target.host == str(target.ip):
        return f"[{target.ip}]"
    return str(target)
