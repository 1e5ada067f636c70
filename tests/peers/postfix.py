"""Postfix from Debian: its tools, an instance of it with a configuration and a queue of our own, and the peer.

It runs under two accounts that every Debian has. `Tools` are found without a view of the machine, so that what they do
is measured as it is: those of an installed Postfix, else out of the folder it was unpacked into.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.peers.debian import Account, DebianPeer, call, unpacked
from tests.peers.peer import DOMAIN, HOSTNAME, USER, in_mbox
from tests.peers.process import HOST, CannotRun

PACKAGE = "postfix"
OWNER = "mail"  # of the queue; must not be root's and not be default_privs
GROUP = "uucp"  # of public/ and maildrop/; must not be the owner's own group
SMTPD_PROCESSES = 200
PRIVATE_FOLDERS = "active bounce corrupt defer deferred flush hold incoming private saved trace".split()

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {seen}/queue
data_directory = ../data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
mail_owner = {owner}
setgid_group = {group}
default_privs = nobody
import_environment = MAIL_CONFIG MAIL_LOGTAG TZ LANG=C LD_LIBRARY_PATH
maillog_file = {seen}/maillog
maillog_file_prefixes = {seen}
inet_interfaces = {host}
inet_protocols = ipv4
alias_database =
{settings}
"""

MASTER_CF = """\
{host}:{port} inet n - n - {smtpd_processes} smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """Where Postfix's programs are; `root` is / where it is installed."""

    root: Path

    @property
    def source(self) -> Path:
        return self.root / "usr/sbin/smtp-source"

    @property
    def sink(self) -> Path:
        return self.root / "usr/sbin/smtp-sink"

    @property
    def master(self) -> Path:
        return self.root / "usr/lib/postfix/sbin/master"

    @property
    def complete(self) -> bool:
        return self.source.exists() and self.sink.exists() and self.master.exists()

    def environ(self) -> dict[str, str]:
        """The unpacked libraries are found only this way; an installed Postfix finds its own."""
        if self.root == Path("/"):
            return {}
        folders = [
            self.root / "usr/lib/postfix",
            *self.root.glob("usr/lib/*-linux-gnu*"),
            *self.root.glob("lib/*-linux-gnu*"),
        ]
        return {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in folders)}

    def version(self) -> str:
        postconf: list[str | Path] = [self.root / "usr/sbin/postconf", "-d", "-h", "mail_version"]
        return call(postconf, self.environ()).strip()


def find_tools(cache: Path) -> Tools:
    """The installed Postfix, else the one that is unpacked below `cache`, or is now."""
    installed = Tools(Path("/"))
    if installed.complete:
        return installed
    tools = Tools(unpacked(cache, PACKAGE))
    if not tools.complete:
        raise CannotRun(f"the package {PACKAGE} holds no smtp-source, smtp-sink or master")
    return tools


def write_instance(place: Path, port: int, settings: str, *, root: Path, seen: Path, services: str = "") -> Path:
    """Configuration, queue and data of one Postfix below `place`; returns the configuration folder, as Postfix sees it.

    `settings`, `services`: further lines of main.cf and of master.cf. `root`, `seen`: where Postfix sees its own
    programs, and `place`. Its processes enter the queue as root and then change to OWNER; paths used after that are
    relative to the queue, so that the folders above `place` may be closed to others, as root's home is.
    """
    if os.geteuid() != 0:
        raise CannotRun("Postfix can be started by root only")
    place.chmod(0o755)
    config = place / "config"
    config.mkdir()
    main = MAIN_CF.format(seen=seen, root=str(root).rstrip("/"), owner=OWNER, group=GROUP, host=HOST, settings=settings)
    config.joinpath("main.cf").write_text(main)
    master = MASTER_CF.format(host=HOST, port=port, smtpd_processes=SMTPD_PROCESSES)
    config.joinpath("master.cf").write_text(master + services)
    _make_queue(place)
    return seen / "config"


def _make_queue(place: Path) -> None:
    queue = place / "queue"
    for name in ("queue", "queue/pid", "data"):
        place.joinpath(name).mkdir()
        place.joinpath(name).chmod(0o755)  # whatever the umask
    for name in PRIVATE_FOLDERS:
        _own(queue / name, 0o700, None)
    _own(queue / "maildrop", 0o730, GROUP)
    _own(queue / "public", 0o710, GROUP)
    shutil.chown(place / "data", OWNER)


def _own(folder: Path, mode: int, group: str | None) -> None:
    folder.mkdir()
    folder.chmod(mode)
    shutil.chown(folder, OWNER, group)


# --- as a peer

SETTINGS = """\
myhostname = {hostname}
mydestination = {hostname}, {domain}
alias_maps = inline:{{ {{ postmaster = {user} }} }}
mynetworks = {networks}
relayhost = {relay}
"""
PLACE = "/var/postfix"
_ACCOUNTS = (Account(GROUP, 10), Account(USER, 64301, f"/var/home/{USER}"))


class Postfix(DebianPeer):
    name = "Postfix"
    package = PACKAGE
    accounts = _ACCOUNTS
    more = ""  # lines of main.cf
    services = ""  # lines of master.cf
    configured = "an empty `main.cf` but for the paths, the host's name and the local domain; no network may relay"

    def command(self) -> Sequence[str | Path]:
        relays = self.site.relay_to is not None
        settings = SETTINGS.format(
            hostname=HOSTNAME,
            domain=DOMAIN,
            user=USER,
            networks="127.0.0.0/8" if relays else "",
            relay=f"[{HOST}]:{self.site.relay_to}" if relays else "",
        )
        place = self._view.folder(PLACE.lstrip("/"))
        text = settings + self.more
        config = write_instance(place, self.port, text, root=Path("/"), seen=Path(PLACE), services=self.services)
        return self._view.command("/usr/lib/postfix/sbin/master", "-c", str(config), "-s")

    def environ(self) -> dict[str, str]:
        return {"MAIL_CONFIG": f"{PLACE}/config"}

    def letters(self) -> list[bytes]:
        return in_mbox(self.site.place / "var/mail" / USER)
