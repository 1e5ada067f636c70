"""Dovecot's LMTP server, as it is installed, on a configuration of our own: a peer that stores, and relays nothing.

It runs without any right: as whoever runs the tests or, where that is root, as nobody. It listens on TCP and on a Unix
socket. BROKEN is a user who is known and whose mailbox can't be written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.peers.debian import call
from tests.peers.peer import DOMAIN, HOSTNAME, MAILBOX, Peer, Site, files
from tests.peers.process import HOST, CannotRun

SERVER = Path("/usr/sbin/dovecot")
LMTP = Path("/usr/lib/dovecot/lmtp")
BROKEN = f"broken@{DOMAIN}"
_NOBODY = 65534
_CONFIGURATION = """\
base_dir = {place}/run
state_dir = {place}/run
log_path = {place}/log
protocols = lmtp
ssl = no
hostname = {hostname}
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 0
mail_location = maildir:{place}/mail/%u
postmaster_address = postmaster@{domain}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={place}/home/%u
}}
passdb {{
  driver = passwd-file
  args = {place}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = {host}
    port = {port}
  }}
  unix_listener lmtp {{
    path = {place}/lmtp
    mode = 0666
  }}
}}
service anvil {{
  chroot =
}}
"""


class Dovecot(Peer):
    name = "Dovecot"
    configured = "LMTP alone; two users out of a file, and Maildirs"

    def __init__(self, site: Site) -> None:
        if not SERVER.exists() or not LMTP.exists():
            raise CannotRun("Dovecot's LMTP server is not installed: apt-get install dovecot-lmtpd")
        super().__init__(site)
        self._root = os.geteuid() == 0
        self.place = Path(tempfile.mkdtemp(prefix="dovecot-"))  # where nobody may get to, and short enough for a socket

    @property
    def socket(self) -> Path:
        return self.place / "lmtp"

    @property
    def version(self) -> str:
        return call([SERVER, "--version"]).split()[0]

    def command(self) -> Sequence[str | Path]:
        owner = _NOBODY if self._root else os.geteuid()
        group = _NOBODY if self._root else os.getegid()
        names = {"user": _name("passwd", owner), "group": _name("group", group), "uid": owner, "gid": group}
        config = self.place / "dovecot.conf"
        config.write_text(
            _CONFIGURATION.format(
                place=self.place, hostname=HOSTNAME, domain=DOMAIN, host=HOST, port=self.port, **names
            )
        )
        (self.place / "users").write_text("".join(f"{user}:{{PLAIN}}x\n" for user in (MAILBOX, BROKEN)))
        (self.place / "mail").mkdir()
        (self.place / "mail" / BROKEN).write_text("no folder")
        command: list[str | Path] = [SERVER, "-F", "-c", config]
        if not self._root:
            return command
        for path in (self.place, *self.place.rglob("*")):
            os.chown(path, owner, group)
        return ["setpriv", f"--reuid={owner}", f"--regid={group}", "--clear-groups", "--no-new-privs", *command]

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, fault, trace)
        shutil.rmtree(self.place)

    def letters(self) -> list[bytes]:
        return files(self.place / "mail" / MAILBOX / "new")


def _name(database: str, number: int) -> str:
    found = subprocess.run(["getent", database, str(number)], capture_output=True, text=True, check=False)
    if found.returncode:
        raise CannotRun(f"number {number} has no name in {database}, and Dovecot needs one")
    return found.stdout.partition(":")[0]
