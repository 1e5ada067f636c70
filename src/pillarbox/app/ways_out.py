"""The ways out of a server: its queue, and each lane with its mailer, limits, egress pool and shaper, as configured.

One of the two places where ports are given their adapters; the other is `house.py`. Invariant: what a reload can't
read leaves all as it was.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from functools import cache, partial

from pillarbox.adapters.dns import DnsResolver
from pillarbox.adapters.instant import DISCARDED, KEPT, InstantMailer, withheld
from pillarbox.adapters.maildir import MaildirMailer
from pillarbox.adapters.pipe import PipeMailer
from pillarbox.adapters.spool_originals import SqliteOriginals
from pillarbox.adapters.tls_contexts import client_context
from pillarbox.app.config import Config
from pillarbox.app.config_lanes import limits_of
from pillarbox.app.config_shaping import load_rules
from pillarbox.app.data import Data
from pillarbox.app.secrets import read_credentials
from pillarbox.engine.bounces import JOBS, BounceMailer
from pillarbox.engine.egress import Pool, Pools
from pillarbox.engine.jumps import Jumps
from pillarbox.engine.lanes import LaneLimits
from pillarbox.engine.notices import Notices
from pillarbox.engine.pacing import LaneTerms
from pillarbox.engine.passing_back import PassingBack
from pillarbox.engine.ports import Mailer
from pillarbox.engine.queue import Lane, LaneOpener, Queue
from pillarbox.engine.routing import (
    Bounces,
    Discard,
    HoldHop,
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
from pillarbox.engine.shaping import Rules, Shaper
from pillarbox.engine.sites import Sites
from pillarbox.engine.suppression import LearningMailer
from pillarbox.net.network import TcpNetwork
from pillarbox.net.pool import SmtpMailer, Ways
from pillarbox.smtp.sasl import Credentials

MAILDIR_JOBS = 32  # in flight
INSTANT_JOBS = 10_000
MOST_TERMS = 10_000  # lanes whose rates are remembered


class WaysOut:
    """The queue, and what opens its lanes."""

    def __init__(self, data: Data) -> None:
        """Raises SecretError, ConfigError."""
        self._data = data
        self._config = data.config
        self._terms: dict[str, LaneTerms] = {}
        self._credentials = _read_credentials(self._config)
        self._shaping = load_rules(self._config.shaping)
        self._pools = Pools()
        self._renew_pools()
        self.net = self._make_ways()
        self.queue = make_queue(data, self._open)
        self.queue.sites = Sites(self.net.resolver, data.clock)

    def read(self, config: Config) -> Callable[[], None]:
        """Read what another configuration names; what is given goes on by it, and can't fail. Raises SecretError,
        ConfigError."""
        return partial(self._renew, config, _read_credentials(config), load_rules(config.shaping))

    def _renew(self, config: Config, credentials: dict[str, Credentials], shaping: Rules) -> None:
        self._config, self._credentials = config, credentials
        self._shaping.renew(shaping.rules)
        self._renew_pools()
        self.net = self._make_ways()
        self.queue.router = _router(config, self._data)
        self.queue.retry = config.retry.policy()
        if self.queue.sites is not None:
            self.queue.sites.renew(self.net.resolver)
        self.queue.renew_lanes(self.limits)

    def _make_ways(self) -> Ways:
        data = self._data
        return Ways(
            network=TcpNetwork(),
            resolver=DnsResolver(
                [str(server) for server in self._config.dns.servers],
                lifetime=self._config.timeouts.dns,
                monotonic=data.clock.monotonic,
            ),
            clock=data.clock,
            spool=data.spool,
            hostname=self._config.hostname,
            shuffle=random.shuffle,
            deadlines=self._config.timeouts.deadlines(),
            tls=_client_context,
        )

    def limits(self, lane: str) -> LaneLimits:
        return limits_of(lane, self._config.lanes)

    def _lane_terms(self, name: str) -> LaneTerms:
        """Those with a rate are kept: a lane that is opened anew goes on where it was."""
        limits, known = self.limits(name), self._terms.get(name)
        if known is not None:
            known.renew(limits)
            return known
        terms = LaneTerms(limits, self._data.clock.monotonic)
        if terms.has_rate and len(self._terms) < MOST_TERMS:
            self._terms[name] = terms
        return terms

    def _open(self, name: str, route: Route) -> Lane:
        data = self._data
        terms = self._lane_terms(name)
        match route.next_hop:
            case MaildirHop():
                mailbox = MaildirMailer(data.folder.mail, data.spool.body, hostname=self._config.hostname)
                return Lane(mailbox, MAILDIR_JOBS, terms)
            case Pipe() as hop:
                runs = self._config.limits.pipe_runs
                return Lane(PipeMailer(hop, data.spool.body, scratch=data.folder.bodies, runs=runs), runs, terms)
            case Discard():
                return Lane(InstantMailer(DISCARDED, asyncio.get_running_loop()), INSTANT_JOBS, terms)
            case Turn():
                return Lane(InstantMailer(KEPT, asyncio.get_running_loop()), INSTANT_JOBS, terms)
            case HoldHop():
                return Lane(InstantMailer(withheld(route.match), asyncio.get_running_loop()), INSTANT_JOBS, terms)
            case Bounces():
                return Lane(make_bounces(data, self.queue), JOBS, terms)
            case (Mx() | SmartHost() | LmtpSocket()) as next_hop:
                credentials = None if route.credentials is None else self._credentials[route.credentials]
                here = isinstance(next_hop, LmtpSocket) and route.pool is None
                pool = Pool() if here else self._pools.get(route.pool)  # what stays here waits for nobody elsewhere
                smtp = SmtpMailer(next_hop, self.net, tls=route.tls, credentials=credentials, terms=terms, pool=pool)
                learns = self._config.suppression.enabled and not isinstance(next_hop, LmtpSocket)
                mailer: Mailer = LearningMailer(smtp, data.suppressions.learn) if learns else smtp
                return Lane(mailer, self._config.limits.connections_per_next_hop, terms, self._shaper(name))

    def _shaper(self, lane: str) -> Shaper:
        return self._shaping.shaper(lane, random.random)

    def _renew_pools(self) -> None:
        most = self._config.limits.outgoing_connections
        self._pools.renew(((pool.name, pool.terms()) for pool in self._config.pools), others=most)


def _read_credentials(config: Config) -> dict[str, Credentials]:
    """By file. Raises SecretError."""
    files = {route.credentials for route in config.routes if route.credentials is not None}
    return {str(file): read_credentials(file) for file in files}


def _router(config: Config, data: Data) -> Router:
    return Router([route.route() for route in config.routes], data.directory, returns=data.directory.returns)


def make_bounces(data: Data, queue: Queue) -> BounceMailer:
    config = data.config
    assert data.directory.returns is not None
    passing_back = PassingBack(
        accept=queue.accept, ids=data.ids, clock=data.clock, directory=data.directory, hostname=config.hostname
    )
    return BounceMailer(
        returns=data.directory.returns,
        originals=SqliteOriginals(data.spool),
        spool=data.spool,
        clock=data.clock,
        pass_on=passing_back if config.bounces.forward else None,
        learn=data.suppressions.learn if config.suppression.enabled else None,
    )


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


@cache
def _client_context(policy: TlsPolicy) -> ssl.SSLContext:
    return client_context(verify=policy is TlsPolicy.VERIFIED)
