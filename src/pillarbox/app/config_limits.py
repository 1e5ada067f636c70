"""What `[limits]` says: every bound that the server keeps."""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.engine.hooks_limits import Limits
from pillarbox.engine.limits import Limit

_STRANGERS = "Not for clients on this machine or in `relay.networks`, nor for those who have authenticated."


def _rate(key: str, doc: str) -> Limit | None:
    return keys.one(key, kinds.rate(), "off", doc)


@dataclass(frozen=True)
class LimitsConfig:
    """Every bound that the server keeps."""

    message_size: int = keys.one(
        "message_size",
        kinds.size(),
        "25M",
        "The largest message taken; announced by the SIZE extension. What is larger is refused with 552.",
    )
    recipients: int = keys.one(
        "recipients",
        kinds.count(),
        1000,
        "Recipients of one message; each further one is refused with 452, so that the client sends the message again.",
    )
    connections: int = keys.one(
        "connections", kinds.count(), 10000, "Connections at a time, over all listeners; further ones get 421."
    )
    connections_per_address: int | None = keys.one(
        "connections_per_address",
        kinds.count_or_off(),
        100,
        "Connections at a time from one client address; further ones get 421.",
    )
    connections_per_network: int | None = keys.one(
        "connections_per_network",
        kinds.count_or_off(),
        "off",
        "Connections at a time from the network of a client; further ones get 421.",
    )
    connection_rate_per_address: Limit | None = _rate(
        "connection_rate_per_address", "New connections from one client address; further ones get 421. " + _STRANGERS
    )
    connection_rate_per_network: Limit | None = _rate(
        "connection_rate_per_network",
        "New connections from the network of a client; further ones get 421. " + _STRANGERS,
    )
    message_rate_per_address: Limit | None = _rate(
        "message_rate_per_address", "Messages from one client address; a further MAIL gets 451. " + _STRANGERS
    )
    message_rate_per_network: Limit | None = _rate(
        "message_rate_per_network", "Messages from the network of a client; a further MAIL gets 451. " + _STRANGERS
    )
    message_rate_per_user: Limit | None = _rate(
        "message_rate_per_user",
        "Messages from one user, wherever they have authenticated; a further MAIL gets 451.",
    )
    message_rate_per_sender: Limit | None = _rate(
        "message_rate_per_sender",
        "Messages with one reverse-path, the null one excepted; a further MAIL gets 451. Not for clients on this "
        "machine or in `relay.networks` that have not authenticated.",
    )
    recipient_rate_per_address: Limit | None = _rate(
        "recipient_rate_per_address", "Recipients from one client address; a further RCPT gets 451. " + _STRANGERS
    )
    recipient_rate_per_user: Limit | None = _rate(
        "recipient_rate_per_user",
        "Recipients from one user, wherever they have authenticated; a further RCPT gets 451.",
    )
    network_ipv4: int = keys.one(
        "network_ipv4", kinds.prefix(bits=32), 24, "Bits of an IPv4 address that make the network of a client."
    )
    network_ipv6: int = keys.one(
        "network_ipv6",
        kinds.prefix(bits=128),
        64,
        "Bits of an IPv6 address that make the network of a client. One customer has 64 as a rule.",
    )
    session_time: float = keys.one(
        "session_time", kinds.duration(), "1h", "How long a session may last before it is closed with 421."
    )
    transactions: int = keys.one(
        "transactions", kinds.count(), 10000, "Messages of one session; a further MAIL gets 421."
    )
    probes: int = keys.one(
        "probes",
        kinds.count(),
        100,
        "Addresses that a client which may not relay can ask for in one session, by VRFY, EXPN, and RCPT without a "
        "message or for an unknown address; then 421.",
    )
    terminal_messages: int = keys.one(
        "terminal_messages",
        kinds.count(),
        20,
        "SEND, SOML and SAML a minute from one sender; further ones get 451.",
    )
    future_release: float = keys.one(
        "future_release",
        kinds.duration(least=0),
        "7d",
        "How long a message is held at its sender's wish (the FUTURERELEASE extension of a `submission` listener) at "
        'the most; "0s" offers nothing of the kind.',
    )
    idempotency: float = keys.one(
        "idempotency",
        kinds.duration(),
        "24h",
        "How long the `Idempotency-Key` of a message that was submitted is remembered: the same message with the same "
        "key from the same user gets the 250 of the first one, and is not sent again.",
    )
    disk_reserve: int = keys.one(
        "disk_reserve",
        kinds.size(),
        "10M",
        "Octets of the disk that are to stay free; a message for which there would be less gets 452.",
    )
    errors: int = keys.one(
        "errors", kinds.count(), 20, "Refused commands in one session, after which it is closed with 421."
    )
    auth_failures: int = keys.one(
        "auth_failures",
        kinds.count(),
        20,
        "Logins a minute that may fail, from one address (a /64 network of IPv6) and for one name; then 454 to all of "
        "them, right or wrong, until it is fewer. Addresses in `relay.networks` are not counted, names are.",
    )
    session_auth_failures: int = keys.one(
        "session_auth_failures",
        kinds.count(),
        5,
        "Logins that may fail in one session, after which it is closed with 421. RFC 4954 asks for 3 at least.",
    )
    idle: float = keys.one(
        "idle", kinds.duration(), "5m", "How long a client may be silent before the connection is closed with 421."
    )
    outgoing_connections: int = keys.one(
        "outgoing_connections",
        kinds.count(),
        2000,
        "Connections at a time that this server opens to all next hops together, but for those of a `[[pool]]`. Who "
        "waits for one is served in turn.",
    )
    connections_per_next_hop: int = keys.one(
        "connections_per_next_hop", kinds.count(), 20, "Connections at a time that this server opens to one next hop."
    )
    pipe_runs: int = keys.one(
        "pipe_runs", kinds.count(), 10, 'Runs at a time of the command of a route with next_hop = "pipe".'
    )
    drain: float = keys.one(
        "drain",
        kinds.duration(least=0),
        "30s",
        "How long a stop waits for transactions that are under way before it closes their connections.",
    )

    def in_front(self) -> Limits:
        """Those that hooks keep."""
        return Limits(
            connections_per_address=self.connections_per_address,
            connections_per_network=self.connections_per_network,
            connection_rate_per_address=self.connection_rate_per_address,
            connection_rate_per_network=self.connection_rate_per_network,
            message_rate_per_address=self.message_rate_per_address,
            message_rate_per_network=self.message_rate_per_network,
            message_rate_per_user=self.message_rate_per_user,
            message_rate_per_sender=self.message_rate_per_sender,
            recipient_rate_per_address=self.recipient_rate_per_address,
            recipient_rate_per_user=self.recipient_rate_per_user,
            prefix_4=self.network_ipv4,
            prefix_6=self.network_ipv6,
        )
