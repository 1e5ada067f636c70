"""Postfix from Debian, without installing it: packages are fetched and unpacked, no script of theirs is run.

So the machine keeps its own mail server, no daemon is started and no account is added: Postfix runs under two
accounts that every Debian has, and out of the folder it was unpacked into. Where Postfix is installed already,
its programs are used with a configuration and a queue of our own all the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.values import HOST, HOSTNAME, BenchError

OWNER = "mail"  # of the queue; must not be root's and not be default_privs
GROUP = "uucp"  # of public/ and maildrop/; must not be the owner's own group
SMTPD_PROCESSES = 200
PRIVATE_FOLDERS = "active bounce corrupt defer deferred flush hold incoming private saved trace".split()

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {place}/queue
data_directory = ../data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
mail_owner = {owner}
setgid_group = {group}
default_privs = nobody
import_environment = MAIL_CONFIG MAIL_LOGTAG TZ LANG=C LD_LIBRARY_PATH
maillog_file = {place}/maillog
maillog_file_prefixes = {place}
myhostname = {hostname}
inet_interfaces = {host}
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtp_host_lookup = native
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_client_recipient_rate_limit = 0
smtpd_client_new_tls_session_rate_limit = 0
smtpd_client_auth_rate_limit = 0
in_flow_delay = 0
{transport}
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
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
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
        run = subprocess.run(
            [self.root / "usr/sbin/postconf", "-d", "-h", "mail_version"],
            env={**os.environ, **self.environ()},
            capture_output=True,
            text=True,
            check=False,
        )
        return run.stdout.strip() or "unknown"


def find_tools(folder: Path) -> Tools:
    """The installed Postfix, else the one unpacked in `folder` by an earlier run, else it is fetched now."""
    for tools in (Tools(Path("/")), Tools(folder / "root")):
        if tools.complete:
            return tools
    _fetch(folder)
    return Tools(folder / "root")


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archives, root = Path(scratch) / "archives", Path(scratch) / "root"
        (archives / "partial").mkdir(parents=True)
        root.mkdir()
        _download(archives)
        for package in sorted(archives.glob("*.deb")):
            _call(["dpkg-deb", "-x", str(package), str(root)])
        if not Tools(root).complete:
            raise BenchError("the package postfix holds no smtp-source, smtp-sink or master")
        target = folder / "root"
        shutil.rmtree(target, ignore_errors=True)
        root.chmod(0o755)
        root.rename(target)


def _download(archives: Path) -> None:
    """postfix and those of its dependencies that are not installed; nothing is installed."""
    command = ["apt-get", "-qq", "-y", "--download-only", "--no-install-recommends"]
    command += ["-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]
    command += ["install", "postfix"]
    try:
        _call(command)
    except BenchError:  # most often: no package lists yet, or stale ones
        _call(["apt-get", "-qq", "update"])
        _call(command)


def _call(command: Sequence[str]) -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{command[0]} can't be run: {error}") from error
    if run.returncode:
        raise BenchError(f"{command[0]} failed, status {run.returncode}: {run.stderr.strip()[-400:]}")


def write_instance(tools: Tools, place: Path, port: int, sink_port: int | None) -> Path:
    """Configuration, queue and data of one Postfix below `place`; returns the configuration folder.

    Its processes enter the queue as root and then change to OWNER. Paths used after that are relative to the queue,
    so that the folders above `place` may be closed to others, as root's home is.
    """
    if os.geteuid() != 0:
        raise BenchError("Postfix can be started by root only")
    place.chmod(0o755)
    config = place / "config"
    config.mkdir()
    config.joinpath("main.cf").write_text(
        MAIN_CF.format(
            place=place, root=str(tools.root).rstrip("/"), owner=OWNER, group=GROUP,
            hostname=HOSTNAME, host=HOST, transport=_transport(sink_port),
        )
    )  # fmt: skip
    config.joinpath("master.cf").write_text(MASTER_CF.format(host=HOST, port=port, smtpd_processes=SMTPD_PROCESSES))
    _make_queue(place)
    return config


def _transport(sink_port: int | None) -> str:
    if sink_port is None:
        return "default_transport = discard:"
    return f"default_transport = smtp\nrelayhost = [{HOST}]:{sink_port}"


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
