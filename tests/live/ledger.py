"""A client that keeps a ledger: it sends messages no two of which are alike, by many sessions at once, and notes each
that the server took the responsibility for. When the server goes away, a session ends; nothing is sent twice.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from tests.live.corpus import simple
from tests.live.support import BOB, Client

SESSIONS = 20
PER_SESSION = 12  # messages of one connection, at most
_QUEUED = re.compile(r"250 2\.0\.0 queued as (\w+)")
_TOKEN = re.compile(rb"^Subject: (\S+)$", re.MULTILINE)


def token_of(letter: bytes) -> str:
    found = _TOKEN.search(letter)
    assert found is not None, letter[:500]
    return found[1].decode()


def any_size(rng: random.Random) -> int:
    """Mostly small, some that just fit into memory, some that become files."""
    kind = rng.random()
    if kind < 0.85:
        return rng.randrange(200, 4_000)
    return rng.randrange(4_000, 120_000) if kind < 0.95 else rng.randrange(140_000, 900_000)


def small_size(rng: random.Random) -> int:
    return rng.randrange(300, 6_000)


@dataclass(slots=True)
class Ledger:
    """`sent`: all whose final dot may have gone out, by token; `acknowledged`: the id that the reply named."""

    name: str
    port: int
    most: int  # messages
    sizes: object = any_size
    recipient: str = BOB
    sent: dict[str, bytes] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _stop: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)

    def start(self) -> Ledger:
        self._threads = [Thread(target=self._session, args=(number,), daemon=True) for number in range(SESSIONS)]
        for thread in self._threads:
            thread.start()
        return self

    def join(self, seconds: float = 60.0) -> None:
        """Until all is sent, or the server has gone."""
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a client hangs"

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def _session(self, number: int) -> None:
        rng = random.Random(f"{self.name} {number}")
        try:
            while not self._stop.is_set() and len(self.sent) < self.most:
                with Client(self.port) as client:
                    for _ in range(rng.randrange(1, PER_SESSION)):
                        if self._stop.is_set() or not self._one(client, rng):
                            break
        except OSError:  # ConnectionError among them: the server is gone
            return

    def _one(self, client: Client, rng: random.Random) -> bool:
        size = self.sizes(rng)  # type: ignore[operator]
        with self._lock:
            if len(self.sent) >= self.most:
                return False
            token = f"{self.name}-{len(self.sent):05d}-"
            self.sent[token] = message = simple(token, size)
        reply = client.send(message, (self.recipient,))
        if match := _QUEUED.fullmatch(reply):
            self.acknowledged[token] = match[1]
        else:
            self.refused[token] = reply
        return True
