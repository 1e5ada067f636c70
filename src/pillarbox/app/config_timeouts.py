"""What `[timeouts]` says: how long another server may take, RFC 5321 §4.5.3.2.

Each key is the time until one thing has happened; what follows from it is decided by who waits. Knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.net.timeouts import Deadlines


def _seconds(key: str, default: str, doc: str) -> float:
    return keys.one(key, kinds.duration(), default, doc)


@dataclass(frozen=True)
class TimeoutsConfig:
    """How long another server may take when mail is sent to it or fetched from it. What takes longer is tried again
    later."""

    dns: float = _seconds("dns", "10s", "For the answer to one question, over all DNS servers and attempts.")
    connect: float = _seconds("connect", "30s", "Until a connection is open, for each address of a host.")
    greeting: float = _seconds("greeting", "5m", "Until the greeting has come.")
    handshake: float = _seconds(
        "handshake", "30s", "For the TLS handshake, behind STARTTLS or in front of the greeting."
    )
    hello: float = _seconds("hello", "5m", "For the reply to EHLO, HELO and LHLO.")
    mail: float = _seconds("mail", "5m", "For the reply to MAIL.")
    rcpt: float = _seconds("rcpt", "5m", "For each reply to RCPT. A server that expands lists at once needs time.")
    data: float = _seconds("data", "2m", "For the reply to DATA.")
    block: float = _seconds("block", "3m", "Until the server has read what was sent of a message, piece by piece.")
    end: float = _seconds(
        "end",
        "10m",
        "For the reply to the end of a message; by LMTP for each. When it does not come the message may have arrived, "
        "and is sent once more (see `retry.ambiguous`): a short time makes duplicates.",
    )
    command: float = _seconds(
        "command", "5m", "For the reply to any other command: STARTTLS, AUTH, RSET, ATRN and so on."
    )

    def deadlines(self) -> Deadlines:
        return Deadlines(
            connect=self.connect,
            greeting=self.greeting,
            hello=self.hello,
            mail=self.mail,
            rcpt=self.rcpt,
            data=self.data,
            block=self.block,
            end=self.end,
            command=self.command,
            handshake=self.handshake,
        )
