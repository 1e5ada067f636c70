"""The parts of a Pillarbox put together: which class meets which port, built from one configuration.

Nothing is made at import time, and nowhere else is a port given its adapter. `Data` is what every verb needs, whether
a server runs or not; `House` adds what receives and delivers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from pillarbox.adapters.certificates import CertificateFiles
from pillarbox.adapters.directory_sqlite import DirectoryStore, LiveDirectory
from pillarbox.adapters.dns import DnsResolver
from pillarbox.adapters.instant import DISCARDED, KEPT, InstantMailer
from pillarbox.adapters.mailbox_usage import MaildirUsage
from pillarbox.adapters.maildir import MaildirMailer
from pillarbox.adapters.passwords import Argon2Accounts
from pillarbox.adapters.pipe import PipeMailer
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.adapters.system import SystemClock
from pillarbox.adapters.terminals import Terminals
from pillarbox.adapters.tls import PLAIN, ServerCertificates, Terms
from pillarbox.adapters.tls_contexts import Context, client_context
from pillarbox.app.admin import Data as Json
from pillarbox.app.admin import Fetch
from pillarbox.app.config import Config
from pillarbox.app.config_lanes import limits_of
from pillarbox.app.config_listener import Compat, ListenerConfig
from pillarbox.app.config_listener import Service as ListenerService
from pillarbox.app.datadir import DataDir, seed_defaults, wants_seed
from pillarbox.app.fetching import Fetching
from pillarbox.app.local_session import LocalSession
from pillarbox.app.oauth import make_tokens
from pillarbox.app.secrets import read_credentials
from pillarbox.app.sockets import ListenerKey, key, printed
from pillarbox.app.watching import Watching, watch
from pillarbox.core.address import Mailbox
from pillarbox.engine.answers import Answers
from pillarbox.engine.hooks import Hook
from pillarbox.engine.hooks_limits import Tallies, limit_hooks
from pillarbox.engine.hooks_pipelining import pipelining_hooks
from pillarbox.engine.ids import IdSource
from pillarbox.engine.jumps import Jumps
from pillarbox.engine.lanes import LaneLimits
from pillarbox.engine.limits import Rate
from pillarbox.engine.notices import Notices
from pillarbox.engine.pacing import LaneTerms
from pillarbox.engine.ports import SpoolError
from pillarbox.engine.queue import Lane, LaneOpener, Queue
from pillarbox.engine.routing import (
    Discard,
    LmtpSocket,
    MaildirHop,
    Mx,
    Pipe,
    Route,
    Router,
    SmartHost,
    TlsPolicy,
    Turn,
)
from pillarbox.engine.service import AuthOffer, Service, Submitters, TlsMode
from pillarbox.engine.sites import Sites
from pillarbox.net.connection import Connection
from pillarbox.net.handover import HandOvers
from pillarbox.net.listener import Bounds, Census, Listener
from pillarbox.net.network import TcpNetwork
from pillarbox.net.pool import SmtpMailer, Ways
from pillarbox.net.proxied import Proxied
from pillarbox.smtp.sasl import Credentials

log = logging.getLogger(__name__)

MAILDIR_JOBS = 32  # in flight
INSTANT_JOBS = 10_000
MOST_TERMS = 10_000  # lanes whose rates are remembered
FORGET_EVERY = 3600.0  # seconds between looks at the history


class Data:
    """Directory and spool of one data directory. The caller holds its lock."""

    def __init__(self, config: Config, folder: DataDir) -> None:
        """Raises DirectoryError, SpoolVersion, apsw.Error, OSError."""
        loop = asyncio.get_running_loop()
        self.config = config
        self.folder = folder
        self.clock = SystemClock(loop)
        self.store = DirectoryStore(folder.directory_db)
        if wants_seed(config, folder):
            seed_defaults(self.store)
        self.directory = LiveDirectory(self.store, config.hostname)
        self.spool = SqliteSpool(folder.spool_db, folder.bodies, loop, reserve=config.limits.disk_reserve)
        self.ids = IdSource(self.clock, self.spool.last_id)

    async def close(self) -> None:
        await self.spool.close()
        self.store.close()


class House:
    """A running server: listeners, queue, ways out."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.config = data.config
        self.listeners: dict[ListenerKey, Listener] = {}
        self._terms: dict[str, LaneTerms] = {}
        self.queue = make_queue(data, self._open_lane)
        self._certificates = self._load_certificates()
        self._credentials = self._read_credentials()
        self.ways = self._make_ways()
        self.queue.sites = Sites(self.ways.resolver, data.clock)
        self._census = Census()
        self.terminals = Terminals(login=self._login, monotonic=data.clock.monotonic)
        self._tallies = Tallies()
        self._limit_hooks = self._make_limit_hooks()
        self._accounts = Argon2Accounts(data.directory, secret=data.store.secret("logins"))
        self._usage = MaildirUsage(data.folder.mail)
        self._terminal_rate = Rate(self.config.limits.terminal_messages)
        self._auth_rate = Rate(self.config.limits.auth_failures)
        self.answers = Answers(
            accounts=self._accounts,
            mailboxes=self._usage,
            presence=self.terminals,
            resolver=self.ways.resolver,
            spool=data.spool,
            queue=self.queue,
            clock=data.clock,
            connections=lambda: self._census.total,
        )
        self.answers.tokens = make_tokens(self.config.oauth, data.clock)
        self._fetching = Fetching(self._fetch_listener, lambda: self.ways)
        self._hand_overs = HandOvers(self.queue, lambda: self.ways)
        self._draining: set[asyncio.Task[None]] = set()  # listeners that a reload took away
        self._forgetting: asyncio.Task[None] | None = None
        self._timer = data.clock.call_later(1.0, self._forget_soon)

    def _make_ways(self) -> Ways:
        data = self.data
        return Ways(
            network=TcpNetwork(),
            resolver=DnsResolver(
                [str(server) for server in self.config.dns.servers], lifetime=self.config.timeouts.dns
            ),
            clock=data.clock,
            spool=data.spool,
            hostname=self.config.hostname,
            shuffle=random.shuffle,
            deadlines=self.config.timeouts.deadlines(),
            tls=_client_context,
        )

    def _load_certificates(self) -> ServerCertificates | None:
        """None where no listener has TLS. Raises CertificateError."""
        if all(listener.tls is TlsMode.OFF for listener in self.config.listeners):
            return None
        return ServerCertificates(
            [CertificateFiles(each.certificate, each.key) for each in self.config.tls],
            keys=self.data.folder.root / "keys",
            hostname=self.config.hostname,
            monotonic=self.data.clock.monotonic,
            terms=[tls_terms(listener) for listener in self.config.listeners],
        )

    def _read_credentials(self) -> dict[str, Credentials]:
        """By file. Raises SecretError."""
        files = {route.credentials for route in self.config.routes if route.credentials is not None}
        return {str(file): read_credentials(file) for file in files}

    def _server_context(self, terms: Terms) -> Context:
        assert self._certificates is not None
        return self._certificates.context_for(terms)

    def _login(self, name: str) -> Mailbox | None:
        user = self.data.directory.login(name)
        return None if user is None else user.mailbox

    # --- what an operator may ask of a running server; meets admin.LiveControl

    async def fetch(self, wanted: Fetch) -> Json:
        return await self._fetching.fetch(wanted)

    def watch(self, name: str) -> Watching:
        return watch(self.terminals, self.data.directory.login, name)

    def smtp(self) -> LocalSession:
        here = ListenerConfig(name="local", auth=AuthOffer.OFF)
        return LocalSession(self.listener(replace(self.service(here), submitters=Submitters.MACHINE)))

    # --- what the configuration decides

    def lane_limits(self, lane: str) -> LaneLimits:
        return limits_of(lane, self.config.lanes)

    def _lane_terms(self, name: str) -> LaneTerms:
        """Those with a rate are kept: a lane that is opened anew goes on where it was."""
        terms = self._terms.get(name)
        if terms is None:
            terms = LaneTerms(self.lane_limits(name), self.data.clock.monotonic)
            if terms.has_rate and len(self._terms) < MOST_TERMS:
                self._terms[name] = terms
        terms.renew(self.lane_limits(name))
        return terms

    def _open_lane(self, name: str, route: Route) -> Lane:
        data = self.data
        terms = self._lane_terms(name)
        match route.next_hop:
            case MaildirHop():
                mailer = MaildirMailer(data.folder.mail, data.spool.body, hostname=self.config.hostname)
                return Lane(mailer, MAILDIR_JOBS, terms)
            case Pipe() as hop:
                runs = self.config.limits.pipe_runs
                return Lane(PipeMailer(hop, data.spool.body, scratch=data.folder.bodies, runs=runs), runs, terms)
            case Discard():
                return Lane(InstantMailer(DISCARDED, asyncio.get_running_loop()), INSTANT_JOBS, terms)
            case Turn():
                return Lane(InstantMailer(KEPT, asyncio.get_running_loop()), INSTANT_JOBS, terms)
            case (Mx() | SmartHost() | LmtpSocket()) as next_hop:
                credentials = None if route.credentials is None else self._credentials[route.credentials]
                smtp = SmtpMailer(next_hop, self.ways, tls=route.tls, credentials=credentials, terms=terms)
                return Lane(smtp, self.config.limits.connections_per_next_hop, terms)

    def service(self, listener: ListenerConfig) -> Service:
        """What its sessions share, by the present configuration."""
        config, data = self.config, self.data
        submits = listener.service is ListenerService.SUBMISSION
        return Service(
            listener=listener.name,
            hostname=config.hostname,
            hostname_configured=config.hostname_configured,
            message_size=config.limits.message_size,
            recipients=config.limits.recipients,
            errors=config.limits.errors,
            transactions=config.limits.transactions,
            probes=config.limits.probes,
            commands=listener.commands.by_verb(),
            tls=listener.tls,
            auth=listener.auth,
            accepts_mail=listener.accepts_mail,
            odmr=listener.service is ListenerService.ODMR,
            submitters=Submitters.USERS if submits else None,
            future_release=int(config.limits.future_release) if submits else 0,
            lmtp=listener.service is ListenerService.LMTP,
            classic=listener.compat is Compat.CLASSIC,
            checks_sender_domain=listener.check_sender_domain,
            proxies=listener.proxy_protocol,
            presence=self.terminals,
            terminal_rate=self._terminal_rate,
            auth_rate=self._auth_rate,
            auth_failures=config.limits.session_auth_failures,
            discovery=config.oauth.discovery,
            spool_fault=data.spool.refuses,
            relay_networks=config.relay.networks,
            directory=data.directory,
            clock=data.clock,
            ids=data.ids,
            hooks=(*(pipelining_hooks() if listener.forbid_unauth_pipelining else ()), *self._limit_hooks),
        )

    def _make_limit_hooks(self) -> tuple[Hook[Any], ...]:
        return limit_hooks(self.config.limits.in_front(), self._tallies, self.data.clock)

    def _bounds(self) -> Bounds:
        limits = self.config.limits
        return Bounds(limits.connections, limits.idle, limits.session_time)

    # --- life

    async def open(self, sockets: dict[ListenerKey, socket.socket]) -> list[str]:
        """Listen on the bound sockets and fetch what earlier runs left. Gives a line for each listener."""
        lines = []
        for listener in self.config.listeners:
            if (bound := sockets.get(key(listener))) is not None:
                lines.append(await self._listen(listener, bound))
        self.queue.start()
        return lines

    def listener(self, service: Service) -> Listener:
        """One that does not listen yet."""
        data = self.data
        return Listener(
            service,
            self._bounds(),
            spool=data.spool,
            accept=self.queue.accept,
            answers=self.answers,
            hand_over=self._hand_overs.take,
            tls=partial(self._server_context, PLAIN),
            census=self._census,
        )

    def _fetch_listener(self, name: str) -> Listener:
        """Through which mail comes that is fetched."""
        return self.listener(replace(self.service(ListenerConfig(name=name, auth=AuthOffer.OFF)), hooks=()))

    async def _listen(self, config: ListenerConfig, bound: socket.socket) -> str:
        listener = self.listener(self.service(config))
        listener.protocol = _protocol(config)
        listener.tls = partial(self._server_context, tls_terms(config))
        await listener.listen(bound)
        self.listeners[key(config)] = listener
        return f"listening {config.name} {printed(bound)}"

    async def reload(self, config: Config, sockets: dict[ListenerKey, socket.socket]) -> list[str]:
        """Work by another configuration from now on; connections go on by the one they began with."""
        before = self.config, self._certificates, self._credentials
        self.config = config
        try:
            self._certificates = self._load_certificates() or self._certificates  # open connections may need them yet
            self._credentials = self._read_credentials()
            self.answers.tokens = make_tokens(config.oauth, self.data.clock)
        except BaseException:
            self.config, self._certificates, self._credentials = before
            raise
        self.data.config = config
        self.ways = self._make_ways()
        self.answers.resolver = self.ways.resolver
        self.data.spool.reserve = config.limits.disk_reserve
        self._terminal_rate = Rate(config.limits.terminal_messages)
        self._limit_hooks = self._make_limit_hooks()
        self._auth_rate = Rate(config.limits.auth_failures)
        self.queue.router = _router(config, self.data)
        self.queue.retry = config.retry.policy()
        if self.queue.sites is not None:
            self.queue.sites.renew(self.ways.resolver)
        self.queue.renew_lanes(self.lane_limits)
        wanted = {key(listener): listener for listener in config.listeners}
        for gone in [old for old in self.listeners if old not in wanted]:
            draining = asyncio.create_task(self.listeners.pop(gone).drain(config.limits.drain))
            self._draining.add(draining)
            draining.add_done_callback(self._draining.discard)
        for name, listener in self.listeners.items():
            listener.service = self.service(wanted[name])
            listener.protocol = _protocol(wanted[name])
            listener.tls = partial(self._server_context, tls_terms(wanted[name]))
            listener.bounds = self._bounds()
        return [await self._listen(wanted[name], bound) for name, bound in sockets.items()]

    async def close(self) -> None:
        """Drain: transactions end within the configured time, deliveries too; the rest is due at the next start."""
        grace = self.config.limits.drain
        self._timer.cancel()
        await asyncio.gather(
            *(listener.drain(grace) for listener in self.listeners.values()),
            self._fetching.close(grace),
            self._hand_overs.close(grace),
            *self._draining,
        )
        await self.queue.close(grace)
        self._accounts.close()
        self._usage.close()
        if self._forgetting is not None:
            await self._forgetting

    # --- the history

    def _forget_soon(self) -> None:
        self._forgetting = asyncio.get_running_loop().create_task(self._forget())
        self._timer = self.data.clock.call_later(FORGET_EVERY, self._forget_soon)

    async def _forget(self) -> None:
        before = self.data.clock.now() - self.config.history.keep
        try:
            while await self.data.spool.forget(before):
                pass
        except SpoolError as error:
            log.error("history: %s", error)


def _router(config: Config, data: Data) -> Router:
    return Router([route.route() for route in config.routes], data.directory)


def make_queue(data: Data, open_lane: LaneOpener) -> Queue:
    config = data.config
    return Queue(
        spool=data.spool,
        clock=data.clock,
        router=_router(config, data),
        open_lane=open_lane,
        retry=config.retry.policy(),
        notices=Notices(
            spool=data.spool, clock=data.clock, ids=data.ids, directory=data.directory, hostname=config.hostname
        ),
        jumps=Jumps(data.clock, data.ids),
    )


def no_lane(name: str, route: Route) -> Lane:
    """Of a queue that tries nothing."""
    raise RuntimeError(f"nothing is tried here: {name}")


def _protocol(listener: ListenerConfig) -> Callable[[Listener], asyncio.Protocol]:
    return Proxied if listener.proxy_protocol else Connection


@cache
def _client_context(policy: TlsPolicy) -> ssl.SSLContext:
    return client_context(verify=policy is TlsPolicy.VERIFIED)


def tls_terms(listener: ListenerConfig) -> Terms:
    """The exporter costs a little with each command: it is for where people log in."""
    return Terms(exporter=listener.service is ListenerService.SUBMISSION, authorities=listener.client_certificates)
