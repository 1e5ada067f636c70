"""What two keys of the configuration must agree on, where each of them is right by itself.

Each rule gives the complaints it has: the path of the key that is to be changed, and the text behind its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pillarbox.app.config import Config
from pillarbox.app.config_delivery import RouteConfig
from pillarbox.app.config_listener import ListenerConfig, Service
from pillarbox.app.config_locate import KeyPath
from pillarbox.app.config_pool import pool_complaints, route_complaints
from pillarbox.app.config_values import UnixSocket, shown
from pillarbox.engine.routing import SMTP_PORT, LmtpSocket, Pipe, TlsPolicy

Complaint = tuple[KeyPath, str]
_OF_PIPES = ("command", "timeout", "line_end")
_ON_SOCKETS = (TlsPolicy.OFF, TlsPolicy.OPPORTUNISTIC)


def disagreements(tree: Mapping[str, Any], config: Config) -> Iterator[Complaint]:
    """All that is wrong between keys; `tree` is the file as it was parsed."""
    for index, listener in enumerate(config.listeners):
        for key, text in _of_listener(listener, _table(tree, "listener", index)):
            yield ("listener", index, key), text
    for index, route in enumerate(config.routes):
        for key, text in _of_route(route, _table(tree, "route", index)):
            yield ("route", index, key), text
        for below, text in route_complaints(route, config.pools):
            yield ("route", index, *below), text
    yield from pool_complaints(config.pools)
    if missing := config.oauth.missing:
        yield ("oauth",), f": {missing}"
    if missing := config.bounces.missing:
        yield ("bounces",), f": {missing}"


def _table(tree: Mapping[str, Any], key: str, index: int) -> Mapping[str, Any]:
    """As it stands in the file; empty where there is none, and the default holds."""
    tables = tree.get(key, ())
    return tables[index] if index < len(tables) else {}


def _of_listener(listener: ListenerConfig, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    address = listener.address
    if isinstance(address, UnixSocket):
        if listener.proxy_protocol:
            yield "proxy_protocol", ": nobody on a Unix socket is in a network; leave the key out"
    elif "socket_mode" in table:
        yield "socket_mode", f' = {shown(table["socket_mode"])}: is for an address "unix:PATH" only; leave the key out'
    elif listener.service is Service.LMTP and address.port == SMTP_PORT:
        yield "address", f" = {shown(str(address))}: LMTP must not be on port 25 (RFC 2033 section 5); use another one"


def _of_route(route: RouteConfig, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(route.next_hop, Pipe):
        if not route.command:
            yield "command", ' is missing: next_hop = "pipe" runs it'
        elif not route.command[0].startswith("/"):
            yield "command", f" = {shown(route.command[0])}: the program must have its full path, beginning with /"
    else:
        for key in _OF_PIPES:
            if key in table:
                yield key, f' = {shown(table[key])}: is for next_hop = "pipe" only; leave the key out'
    if isinstance(route.next_hop, LmtpSocket) and route.tls not in _ON_SOCKETS:
        yield "tls", f" = {shown(route.tls.value)}: there is no TLS on a Unix socket; leave the key out"
