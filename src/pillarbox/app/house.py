"""The parts of a Pillarbox put together: which class meets which port, built from one configuration.

Nothing is made at import time. `House` is what receives; what delivers is put together in `ways_out.py`, and what every
verb needs, whether a server runs or not, in `data.py`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pillarbox.adapters.certificates import CertificateFiles
from pillarbox.adapters.mailbox_usage import MaildirUsage
from pillarbox.adapters.passwords import Argon2Accounts
from pillarbox.adapters.terminals import Terminals
from pillarbox.adapters.tls import PLAIN, ServerCertificates, Terms
from pillarbox.adapters.tls_contexts import Context
from pillarbox.app.admin import Data as Json
from pillarbox.app.admin import Fetch
from pillarbox.app.config import Config
from pillarbox.app.config_listener import Compat, ListenerConfig
from pillarbox.app.config_listener import Service as ListenerService
from pillarbox.app.data import Data
from pillarbox.app.fetching import Fetching
from pillarbox.app.local_session import LocalSession
from pillarbox.app.oauth import make_tokens
from pillarbox.app.recurring import Recurring
from pillarbox.app.sockets import ListenerKey, key, printed
from pillarbox.app.watching import Watching, watch
from pillarbox.app.ways_out import WaysOut
from pillarbox.core.address import Mailbox
from pillarbox.engine.answers import Answers
from pillarbox.engine.hooks import Hook
from pillarbox.engine.hooks_limits import Tallies, limit_hooks
from pillarbox.engine.hooks_pipelining import pipelining_hooks
from pillarbox.engine.limits import Rate
from pillarbox.engine.once import Once
from pillarbox.engine.ports import SpoolError
from pillarbox.engine.refusals import Refusals
from pillarbox.engine.service import AuthOffer, Service, Submitters, TlsMode
from pillarbox.net.connection import Connection
from pillarbox.net.handover import HandOvers
from pillarbox.net.listener import Bounds, Census, Listener
from pillarbox.net.proxied import Proxied

log = logging.getLogger(__name__)

FORGET_EVERY = 3600.0  # seconds between looks at the history
INDEX_EVERY = 30.0  # seconds between steps that make new messages quick to find


class House:
    """A running server: listeners, queue, ways out."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.config = data.config
        self.listeners: dict[ListenerKey, Listener] = {}
        self.out = WaysOut(data)
        self.queue = self.out.queue
        self.once = Once(accept=self.queue.accept, spool=data.spool, clock=data.clock)
        self._certificates = self._load_certificates()
        self._census = Census()
        self.terminals = Terminals(login=self._login, monotonic=data.clock.monotonic)
        self._tallies = Tallies()
        self._limit_hooks = self._make_limit_hooks()
        self._refusals = Refusals(data.spool, data.clock, self.config.history.refusals)
        self._accounts = Argon2Accounts(data.directory, secret=data.store.secret("logins"))
        self._usage = MaildirUsage(data.folder.mail)
        self._terminal_rate = Rate(self.config.limits.terminal_messages)
        self._auth_rate = Rate(self.config.limits.auth_failures)
        self.answers = Answers(
            accounts=self._accounts,
            mailboxes=self._usage,
            presence=self.terminals,
            resolver=self.out.net.resolver,
            spool=data.spool,
            queue=self.queue,
            clock=data.clock,
            connections=lambda: self._census.total,
        )
        self.answers.tokens = make_tokens(self.config.oauth, data.clock)
        self._fetching = Fetching(self._fetch_listener, lambda: self.out.net)
        self._hand_overs = HandOvers(self.queue, lambda: self.out.net)
        self._draining: set[asyncio.Task[None]] = set()  # listeners that a reload took away
        self._forgetting: asyncio.Task[None] | None = None
        self._timer = data.clock.call_later(1.0, self._forget_soon)
        self._index = Recurring(data.clock, data.spool.index, every=INDEX_EVERY)

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
            key_window=config.limits.idempotency,
            future_release=int(config.limits.future_release) if submits else 0,
            lmtp=listener.service is ListenerService.LMTP,
            classic=listener.compat is Compat.CLASSIC,
            checks_sender_domain=listener.check_sender_domain,
            checks_recipient_domain=listener.check_recipient_domain,
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
            fields_asked=config.fields_asked,
            returns=data.verp,
            suppressed=data.suppressions.find if config.suppression.enabled else None,
            hooks=(*(pipelining_hooks() if listener.forbid_unauth_pipelining else ()), *self._limit_hooks),
            refusals=self._refusals if config.history.refusals else None,
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
            accept=self.once.accept,
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
        before = self.config, self._certificates
        self.config = config
        try:
            self._certificates = self._load_certificates() or self._certificates  # open connections may need them yet
            renew_ways = self.out.read(config)
            self.answers.tokens = make_tokens(config.oauth, self.data.clock)
        except BaseException:
            self.config, self._certificates = before
            raise
        self.data.configure(config)
        renew_ways()
        self.answers.resolver = self.out.net.resolver
        self.data.spool.reserve = config.limits.disk_reserve
        self._refusals.most = config.history.refusals
        self._terminal_rate = Rate(config.limits.terminal_messages)
        self._limit_hooks = self._make_limit_hooks()
        self._auth_rate = Rate(config.limits.auth_failures)
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
        await self._index.close()
        await asyncio.gather(
            *(listener.drain(grace) for listener in self.listeners.values()),
            self._fetching.close(grace),
            self._hand_overs.close(grace),
            *self._draining,
        )
        await self.once.close()
        await self.queue.close(grace)
        self._refusals.flush()
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
            while await self.data.spool.forget_claims(self.data.clock.now()):
                pass
        except SpoolError as error:
            log.error("history: %s", error)


def _protocol(listener: ListenerConfig) -> Callable[[Listener], asyncio.Protocol]:
    return Proxied if listener.proxy_protocol else Connection


def tls_terms(listener: ListenerConfig) -> Terms:
    """The exporter costs a little with each command: it is for where people log in."""
    return Terms(exporter=listener.service is ListenerService.SUBMISSION, authorities=listener.client_certificates)
