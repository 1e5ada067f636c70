"""What `[limits]` says: every bound that the server keeps."""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds


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
    connections_per_address: int = keys.one(
        "connections_per_address",
        kinds.count(),
        100,
        "Connections at a time from one client address; further ones get 421.",
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
    disk_reserve: int = keys.one(
        "disk_reserve",
        kinds.size(),
        "10M",
        "Octets of the disk that are to stay free; a message for which there would be less gets 452.",
    )
    errors: int = keys.one(
        "errors", kinds.count(), 20, "Refused commands in one session, after which it is closed with 421."
    )
    idle: float = keys.one(
        "idle", kinds.duration(), "5m", "How long a client may be silent before the connection is closed with 421."
    )
    connections_per_next_hop: int = keys.one(
        "connections_per_next_hop", kinds.count(), 20, "Connections at a time that this server opens to one next hop."
    )
    drain: float = keys.one(
        "drain",
        kinds.duration(least=0),
        "30s",
        "How long a stop waits for transactions that are under way before it closes their connections.",
    )
