"""One session with a server, and what was done in it so far: whether one more probe may have it.

Says nothing itself. Servers end sessions that look like abuse; the bounds here keep below those of the servers known.
"""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.app.conform.probe import Exchange, Probe, State
from pillarbox.app.conform.wire import Wire

_REFUSALS = 3  # in one session; Exim ends one at the fourth error
_COMMANDS = 9  # in one session; Exim ends one at the eleventh command that carries no mail
_ENVELOPE = ("MAIL", "SEND", "SOML", "SAML")
_FINAL = ("STARTTLS", "TURN", "ATRN")  # behind a 2yz to these the line is no longer ours


@dataclass(slots=True)
class Session:
    wire: Wire
    greeted: Exchange
    hello: str = ""  # the last of EHLO and HELO that was accepted
    in_transaction: bool = False
    used: bool = False  # another probe was here before
    over: bool = False  # nothing may be said any more
    halfway: bool = False  # a 3yz was said, and only what it asks for may follow
    commands: int = 0
    refusals: int = 0

    def suits(self, probe: Probe) -> bool:
        if self.over or self.halfway or (probe.alone and (self.used or self.hello)):
            return False
        if self.commands >= _COMMANDS or self.refusals >= _REFUSALS:
            return False
        return probe.state is not State.FRESH or not self.hello

    def note(self, exchange: Exchange) -> None:
        """Keep account of what an exchange did to the session."""
        code, command = exchange.code, exchange.command
        done = code // 100 == 2
        self.commands += 1
        self.refusals += code >= 400
        if done and command in ("EHLO", "HELO"):
            self.hello = command
        if done and command in _ENVELOPE:
            self.in_transaction = True
        elif done and command == "RSET":  # others end one, too; but not in a server that breaks that rule
            self.in_transaction = False
        self.over = self.over or not code or code in (221, 421) or (done and command in _FINAL)
        self.halfway = code // 100 == 3
