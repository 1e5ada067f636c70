"""Memory of idle connections: N sessions that have said EHLO and then nothing.

Measured as growth of the PSS of the server's process tree; what the kernel keeps for a socket is not in it. Both
ends need a descriptor for each connection, so the hard limit of descriptors bounds N.
"""

from __future__ import annotations

import resource
import socket
import ssl
import time
from contextlib import ExitStack

from tests.bench.cpu import pss_kib, settle
from tests.bench.servers import Server
from tests.bench.values import CLIENT_NAME, IdleSample
from tests.peers.process import HOST, CannotRun

SPARE_DESCRIPTORS = 200


def raise_descriptor_limit() -> int:
    """The soft limit goes up to the hard one, for us and all we start; returns how many connections fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - SPARE_DESCRIPTORS if hard != resource.RLIM_INFINITY else 1_000_000


def measure_idle(server: Server, connections: int, *, tls: bool = False) -> IdleSample:
    context = _context() if tls else None
    port = server.tls_port if tls else server.port
    for _ in range(20):  # what the first sessions load is not theirs
        _greeted(port, context).close()
    settle(server.pid, lambda: None)
    base = pss_kib(server.pid)
    with ExitStack() as stack:
        for number in range(connections):
            try:
                stack.enter_context(_greeted(port, context))
            except OSError as error:
                raise CannotRun(f"connection {number + 1} of {connections} failed: {error}") from error
        settle(server.pid, lambda: None)
        time.sleep(1.0)
        server.program.check()
        full = pss_kib(server.pid)
    return IdleSample(f"{server.name}, TLS" if tls else server.name, connections, base, full)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _greeted(port: int, context: ssl.SSLContext | None) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=20)
    try:
        if context is not None:
            connection = context.wrap_socket(connection)
        _reply(connection, b"220")
        connection.sendall(b"EHLO %s\r\n" % CLIENT_NAME.encode())
        _reply(connection, b"250")
    except OSError:
        connection.close()
        raise
    return connection


def _reply(connection: socket.socket, code: bytes) -> None:
    received = b""
    while not (received.endswith(b"\r\n") and received.splitlines()[-1][3:4] in (b" ", b"")):
        data = connection.recv(4096)
        if not data:
            raise ConnectionError(f"closed; last received {received[-200:]!r}")
        received += data
    if not received.startswith(code):
        raise ConnectionError(f"expected {code.decode()}, got {received[:200]!r}")
