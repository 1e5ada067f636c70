"""What `[bounces]` and `[suppression]` say: where bounces come back to, and which addresses get no more mail."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.core.address import Domain


class VerpMode(Enum):
    OFF = "off"
    ON = "on"


@dataclass(frozen=True)
class BouncesConfig:
    """Where bounces come back to."""

    verp: VerpMode = keys.one(
        "verp",
        kinds.choice(VerpMode),
        "off",
        "`on`: mail of users and of clients in `relay.networks` leaves with a reverse-path of this server's own, "
        "another one for each recipient, so that a bounce tells for certain whom it is about. Needs `domain`.",
    )
    domain: Domain | None = keys.one(
        "domain",
        kinds.domain(),
        None,
        "The domain of these addresses, `bounce+…@DOMAIN`. Its mail must come to this server (MX), and its SPF must "
        "let this server send. Mail to them is taken whenever this is given, also with `verp` off again.",
    )
    forward: bool = keys.one(
        "forward",
        kinds.switch(),
        True,
        "Pass on what comes to them to who sent the message. It is recorded at the message in any case.",
    )

    @property
    def missing(self) -> str:
        """What is wrong with the keys together, "" for nothing."""
        if self.verp is VerpMode.ON and self.domain is None:
            return 'domain is missing, which verp = "on" needs: one whose mail comes to this server'
        return ""


@dataclass(frozen=True)
class SuppressionConfig:
    """Which addresses get no more mail."""

    enabled: bool = keys.one(
        "enabled",
        kinds.switch(),
        False,
        "Learn addresses that fail for good, and refuse mail to them (550 5.7.1 at RCPT) from users and from clients "
        "in `relay.networks`.",
    )
    keep: float = keys.one(
        "keep", kinds.duration(least=1), "90d", "How long an address stays on the list after it failed last."
    )
