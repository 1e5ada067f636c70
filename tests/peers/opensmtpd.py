"""OpenSMTPD from Debian, with the rules of its own example for mail from outside, in a view of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.peers.debian import Account, DebianPeer
from tests.peers.peer import DOMAIN, HOSTNAME, USER, files
from tests.peers.process import HOST

CONFIG = "/etc/smtpd.conf"
_ACCOUNTS = (
    Account("opensmtpd", 64201),
    Account("opensmtpq", 64202),
    Account(USER, 64203, f"/var/home/{USER}"),
)
_RULES = """\
table aliases file:/etc/aliases
listen on {host} port {port} hostname {hostname}
action "local" maildir alias <aliases>
match from any for domain "{domain}" action "local"
match for local action "local"
"""
_RELAY = """\
action "relay" relay host "smtp://{host}:{port}"
match from local for any action "relay"
"""


class OpenSmtpd(DebianPeer):
    name = "OpenSMTPD"
    package = "opensmtpd"
    accounts = _ACCOUNTS
    configured = (
        "Debian's `smtpd.conf`; changed: port and host's name, its example for mail from outside made a rule, and no "
        "rule for mail to others"
    )

    def command(self) -> Sequence[str | Path]:
        self._view.folder("var/lib/opensmtpd/empty")
        rules = _RULES.format(host=HOST, port=self.port, hostname=HOSTNAME, domain=DOMAIN)
        if self.site.relay_to is not None:
            rules += _RELAY.format(host=HOST, port=self.site.relay_to)
        self._view.write(CONFIG.lstrip("/"), rules)
        self._view.write("etc/mailname", f"{HOSTNAME}\n")
        self._view.write("etc/aliases", f"postmaster: {USER}\n")
        return self._view.command("/usr/sbin/smtpd", "-d", "-f", CONFIG)

    def letters(self) -> list[bytes]:
        return files(self.site.place / "var/home" / USER / "Maildir/new")
