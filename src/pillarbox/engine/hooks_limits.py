"""The limits in front, as hooks: how often, and how many at a time, from one client, its network, a user, a sender.

A limit that is not set is no hook at all. Strangers are counted by address and network, those who have authenticated by
their user; clients on this machine and in the relay networks are no strangers, and exempt from the rates. Rates are
told apart by name alone, so one set of these hooks serves all listeners. A fault here never keeps mail out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from pillarbox.core import reply as r
from pillarbox.core.reply import Reply
from pillarbox.engine.hooks import Close, Connect, Defer, Figures, Hook, Mail, OnFailure, Rcpt
from pillarbox.engine.limits import Limit, Rate, Tally
from pillarbox.engine.ports import Clock
from pillarbox.engine.service import Client


@dataclass(frozen=True, slots=True)
class Limits:
    """What is not set has no limit. `prefix_4`, `prefix_6`: bits that make a network."""

    connections_per_address: int | None = None
    connections_per_network: int | None = None
    connection_rate_per_address: Limit | None = None
    connection_rate_per_network: Limit | None = None
    message_rate_per_address: Limit | None = None
    message_rate_per_network: Limit | None = None
    message_rate_per_user: Limit | None = None
    message_rate_per_sender: Limit | None = None
    recipient_rate_per_address: Limit | None = None
    recipient_rate_per_user: Limit | None = None
    prefix_4: int = 24
    prefix_6: int = 64


@dataclass(frozen=True, slots=True)
class Tallies:
    """The connections there are now. They outlive a reload, as the connections do."""

    addresses: Tally = field(default_factory=Tally)
    networks: Tally = field(default_factory=Tally)


def limit_hooks(limits: Limits, tallies: Tallies, clock: Clock) -> tuple[Hook[Any], ...]:
    """One of a kind for all listeners, by the present configuration."""
    return (*_concurrency_hooks(limits, tallies), *_rate_hooks(limits, clock))


# --- by which name somebody is counted; "" for not at all

Naming = Callable[[Limits, Any], str]


@lru_cache(maxsize=4096)
def network_of(peer: str, prefix_4: int, prefix_6: int) -> str:
    """The network that an IP address is in."""
    if not peer:
        return ""
    bits = prefix_4 if ip_address(peer).version == 4 else prefix_6
    return str(ip_network(f"{peer}/{bits}", strict=False))


def _address(limits: Limits, occasion: Connect | Mail | Rcpt) -> str:
    client = occasion.client
    return "" if client.user is not None else client.peer


def _network(limits: Limits, occasion: Connect | Mail | Rcpt) -> str:
    return network_of(_address(limits, occasion), limits.prefix_4, limits.prefix_6)


def _user(limits: Limits, occasion: Mail | Rcpt) -> str:
    user = occasion.client.user
    return "" if user is None else str(user.mailbox)


def _sender(limits: Limits, occasion: Mail) -> str:
    """Notices, which have no sender, are from everybody."""
    client, sender = occasion.client, occasion.mail.sender
    return "" if sender is None or (client.exempt and client.user is None) else str(sender).casefold()


# --- rates


class _Rated(NamedTuple):
    """What is counted, when, by which name, and what is said to one too many."""

    stage: type[Any]
    things: str
    naming: Naming
    reply: Reply
    strangers_only: bool


_RATED: Mapping[str, _Rated] = {
    "connection_rate_per_network": _Rated(Connect, "connections", _network, r.CONNECT_TOO_OFTEN, True),
    "connection_rate_per_address": _Rated(Connect, "connections", _address, r.CONNECT_TOO_OFTEN, True),
    "message_rate_per_network": _Rated(Mail, "messages", _network, r.TOO_MANY_MESSAGES, True),
    "message_rate_per_address": _Rated(Mail, "messages", _address, r.TOO_MANY_MESSAGES, True),
    "message_rate_per_user": _Rated(Mail, "messages", _user, r.TOO_MANY_MESSAGES, False),
    "message_rate_per_sender": _Rated(Mail, "messages", _sender, r.TOO_MANY_MESSAGES, False),
    "recipient_rate_per_address": _Rated(Rcpt, "recipients", _address, r.TOO_MANY_RECIPIENTS_NOW, True),
    "recipient_rate_per_user": _Rated(Rcpt, "recipients", _user, r.TOO_MANY_RECIPIENTS_NOW, False),
}


def _rate_hooks(limits: Limits, clock: Clock) -> Iterator[Hook[Any]]:
    for name, rated in _RATED.items():
        limit: Limit | None = getattr(limits, name)
        if limit is not None:
            check = _rate_check(limits, limit, rated, clock.monotonic)
            yield Hook(name, rated.stage, check, strangers_only=rated.strangers_only, on_failure=OnFailure.OPEN)


def _rate_check(
    limits: Limits, limit: Limit, rated: _Rated, monotonic: Callable[[], float]
) -> Callable[[Any], Defer | None]:
    rate, naming = Rate(limit.most, limit.seconds), rated.naming

    def check(occasion: Any) -> Defer | None:
        name = naming(limits, occasion)
        if not name or not (count := rate.excess(name, monotonic())):
            return None
        reason = f"{count} of {limit.most} {rated.things} {limit.period} from {name}"
        figures: Figures = {"count": count, "limit": limit.most, "period": limit.seconds, "of": name}
        return Defer(rated.reply, reason, figures)

    return check


# --- connections at a time


class _Concurrency:
    """A connection that is refused is not counted, so a place is free as soon as one is left."""

    def __init__(self, most: int, tally: Tally, naming: Callable[[Client], str]) -> None:
        self._most = most
        self._tally = tally
        self._naming = naming
        self._inside: dict[Client, str] = {}

    def enter(self, occasion: Connect) -> Defer | None:
        client = occasion.client
        if not (name := self._naming(client)):
            return None
        if (count := self._tally.enter(name)) > self._most:
            self._tally.leave(name)
            reason = f"{count} of {self._most} connections at a time from {name}"
            return Defer(r.CONNECT_TOO_MANY, reason, {"count": count, "limit": self._most, "of": name})
        self._inside[client] = name
        return None

    def leave(self, occasion: Close) -> None:
        if (name := self._inside.pop(occasion.client, None)) is not None:
            self._tally.leave(name)

    def hooks(self, name: str) -> tuple[Hook[Any], ...]:
        return (
            Hook(name, Connect, self.enter, on_failure=OnFailure.OPEN),
            Hook(name, Close, self.leave, on_failure=OnFailure.OPEN),
        )


def _concurrency_hooks(limits: Limits, tallies: Tallies) -> Iterator[Hook[Any]]:
    def network(client: Client) -> str:
        return network_of(client.peer, limits.prefix_4, limits.prefix_6)

    if (most := limits.connections_per_network) is not None:
        yield from _Concurrency(most, tallies.networks, network).hooks("connections_per_network")
    if (most := limits.connections_per_address) is not None:
        yield from _Concurrency(most, tallies.addresses, lambda client: client.peer).hooks("connections_per_address")
