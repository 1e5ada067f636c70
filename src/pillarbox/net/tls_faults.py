"""Hosts whose TLS has failed lately, so that mail which may go in clear does not find that out with each connection.

Knows no policy and opens nothing. Invariants: bounded in number and in time; somebody who can disturb one handshake
keeps a host in clear no longer than REMEMBERED, each time. RFC 7435 §3 (better than no mail at all).
"""

from __future__ import annotations

REMEMBERED = 600.0  # seconds
MOST = 1000  # hosts; the one that is known longest is forgotten first

Server = tuple[str, int]  # IP address and port


class TlsFaults:
    """Where a handshake has failed, and until when that counts."""

    def __init__(self) -> None:
        self._until: dict[Server, float] = {}

    def failed(self, server: Server, now: float) -> None:
        """`now` is monotonic, here and below."""
        self._until.pop(server, None)
        while len(self._until) >= MOST:
            del self._until[next(iter(self._until))]
        self._until[server] = now + REMEMBERED

    def known(self, server: Server, now: float) -> bool:
        """Whether TLS need not be tried there now."""
        until = self._until.get(server)
        if until is None:
            return False
        if now < until:
            return True
        del self._until[server]
        return False
