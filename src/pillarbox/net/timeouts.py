"""How long a next hop may take for each step (RFC 5321 §4.5.3.2).

By itself, so that the configuration, which every verb of the command line reads, need not know how one connects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from pillarbox.smtp.states import Verb


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a server may take, RFC 5321 §4.5.3.2."""

    connect: float = 30.0
    greeting: float = 300.0
    hello: float = 300.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    block: float = 180.0
    end: float = 600.0
    command: float = 300.0  # any other
    handshake: float = 30.0  # of TLS; no RFC names one

    def of(self, verb: Verb | None) -> float:
        """For the reply to that command."""
        return _SECONDS.get(verb, _OTHER)(self)


_OTHER: Callable[[Deadlines], float] = attrgetter("command")
_SECONDS: Mapping[Verb | None, Callable[[Deadlines], float]] = {
    Verb.CONNECT: attrgetter("greeting"),
    Verb.EHLO: attrgetter("hello"),
    Verb.HELO: attrgetter("hello"),
    Verb.LHLO: attrgetter("hello"),
    Verb.MAIL: attrgetter("mail"),
    Verb.RCPT: attrgetter("rcpt"),
    Verb.DATA: attrgetter("data"),
    Verb.BDAT: attrgetter("end"),
    Verb.END_OF_DATA: attrgetter("end"),
}
