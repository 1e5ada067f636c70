"""What `[[pool]]` says: the source addresses from which mail leaves; and what pools and routes must agree on.

Whether an address is on this machine is not looked at here: that may change while the server runs. `check` tells.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.app.config_delivery import RouteConfig
from pillarbox.app.config_locate import KeyPath
from pillarbox.app.config_values import shown
from pillarbox.core.address import Domain
from pillarbox.engine.egress import Source, Terms
from pillarbox.engine.routing import LmtpSocket, Mx, SmartHost

Complaint = tuple[KeyPath, str]


@dataclass(frozen=True)
class SourceConfig:
    """An address from which the pool connects."""

    address: kinds.IpAddress = keys.one(
        "address",
        kinds.source_address(),
        keys.REQUIRED,
        "An IP address of this machine. It is used for next hops of its own family alone, so a pool that is to reach "
        "hosts of IPv4 and of IPv6 needs a source of each.",
    )
    hostname: Domain | None = keys.one(
        "hostname",
        kinds.domain(),
        None,
        "The name by which the server says EHLO from there; DNS should lead from the address to it, and back. "
        "Default: `hostname` of the server.",
    )
    weight: int = keys.one(
        "weight",
        kinds.weight(),
        1,
        "Its share of the new connections, beside the other sources of its family. 0: drained, so that no new "
        "connections are made from there, and those that are open end with the job they have.",
    )

    def source(self) -> Source:
        return Source(self.address, self.hostname, self.weight)


@dataclass(frozen=True)
class PoolConfig:
    """Source addresses from which mail leaves, for the routes that name the pool."""

    name: str = keys.one("name", kinds.label(), keys.REQUIRED, "By which routes name it.")
    connections: int = keys.one(
        "connections",
        kinds.bound(),
        0,
        "Connections at a time from this pool, over all next hops. What is beyond waits for its turn. 0: any number.",
    )
    sources: tuple[SourceConfig, ...] = keys.tables(
        "source", SourceConfig, (), "The addresses of the pool; at least one, of which one has a weight."
    )

    def terms(self) -> Terms:
        return Terms(tuple(source.source() for source in self.sources), self.connections or None)


def pool_complaints(pools: Sequence[PoolConfig]) -> Iterator[Complaint]:
    """What is wrong between the pools, and within each."""
    first: dict[str, int] = {}
    for index, pool in enumerate(pools):
        at: KeyPath = ("pool", index)
        if (other := first.setdefault(pool.name, index)) != index:
            yield (*at, "name"), f" = {shown(pool.name)}: pool[{other}] has the same name; choose another one"
        if not pool.sources:
            yield at, ": it has no source; add [[pool.source]] with an address below it"
        elif not any(source.weight for source in pool.sources):
            text = ": no source has a weight, so its mail would wait for ever; give one a weight"
            yield (*at, "source"), f"{text}, or its routes another pool"
        seen: dict[kinds.IpAddress, int] = {}
        for number, source in enumerate(pool.sources):
            if (other := seen.setdefault(source.address, number)) != number:
                where = (*at, "source", number, "address")
                yield where, f" = {shown(str(source.address))}: source[{other}] has it, too; a weight gives it more"


def route_complaints(route: RouteConfig, pools: Sequence[PoolConfig]) -> Iterator[Complaint]:
    """What a route says of pools and messages that can't be."""
    if route.match is None and route.sender is None and route.header is None:
        allowed = kinds.recipient_pattern().allowed
        yield (), f": match is missing; allowed: {allowed}; or give `sender` or `header`, and it is not needed"
    hop = route.next_hop
    if route.pool is not None:
        names = [pool.name for pool in pools]
        if not isinstance(hop, Mx | SmartHost):
            yield ("pool",), f" = {shown(route.pool)}: is for next hops that are reached by TCP; leave the key out"
        elif route.pool not in names:
            yield ("pool",), f" = {shown(route.pool)}: no such pool{_instead(route.pool, names)}"
    if route.traffic is not None and not isinstance(hop, Mx | SmartHost | LmtpSocket):
        yield ("class",), f" = {shown(route.traffic)}: is for next hops that speak SMTP or LMTP; leave the key out"


def _instead(name: str, names: Sequence[str]) -> str:
    if not names:
        return "; add a [[pool]] with that name"
    close = difflib.get_close_matches(name, names, n=1)
    guess = f', did you mean "{close[0]}"?' if close else ""
    return f"{guess}; there are: {', '.join(names)}"
