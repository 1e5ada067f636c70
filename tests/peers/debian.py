"""Packages of Debian, fetched and unpacked without installing them; no script of theirs is run.

Mail servers of Debian exclude each other, so none is installed. One whose paths and accounts are compiled in is given
a View: a mount namespace of its own, seen by it and its children alone, in which the packages lie over /usr, /var is a
folder of the server's own, and /etc has the files that it needs over those of the machine. Only root may make one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.peers.peer import Peer, Site
from tests.peers.process import CannotRun

ROOT = Path(__file__).resolve().parents[2]  # the checkout
CACHE = ROOT / ".venv" / "peers"  # where packages stay unpacked, if nothing else is said
_VERSION = "version"  # a file beside what was unpacked
_SECONDS = 300.0  # for one call of a program of Debian's
_MOUNTS = """\
mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr
mount -t overlay overlay -o "lowerdir=$2/etc:/etc" /etc
mount --bind "$2/var" /var
shift 2
exec "$@"
"""


def unpacked(cache: Path, package: str) -> Path:
    """The folder that holds the package, and what it depends on where that is not installed. Fetched once."""
    target = cache / package
    if not (target / _VERSION).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _fetch(Path(scratch), package, target)
    return target


def version(folder: Path) -> str:
    """Of the package that was unpacked there."""
    return (folder / _VERSION).read_text().strip()


def _fetch(scratch: Path, package: str, target: Path) -> None:
    archives, root = scratch / "archives", scratch / "root"
    (archives / "partial").mkdir(parents=True)
    root.mkdir()
    _download(archives, package)
    found = sorted(archives.glob("*.deb"))
    for archive in found:
        call(["dpkg-deb", "-x", str(archive), str(root)])
    if (root / "lib").is_dir():  # /lib is /usr/lib, but not in every package
        shutil.copytree(root / "lib", root / "usr/lib", symlinks=True, dirs_exist_ok=True)
    own = [archive for archive in found if archive.name.startswith(f"{package}_")]
    if not own:
        raise CannotRun(f"apt-get brought no package {package}")
    (root / _VERSION).write_text(call(["dpkg-deb", "-f", str(own[0]), "Version"]))
    root.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    root.rename(target)


def _download(archives: Path, package: str) -> None:
    command = ["apt-get", "-qq", "-y", "--download-only", "--no-install-recommends", "--reinstall"]
    command += ["-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]
    command += ["install", package]
    try:
        call(command)
    except CannotRun:  # most often: no package lists yet, or stale ones
        call(["apt-get", "-qq", "update"])
        call(command)


def call(command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> str:
    """Standard output of a command that must end well."""
    whole = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", **(environ or {})}
    words = [str(word) for word in command]
    try:
        run = subprocess.run(words, env=whole, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"{words[0]} can't be run: {error}") from error
    if run.returncode:
        raise CannotRun(f"{words[0]} failed, status {run.returncode}: {run.stderr.strip()[-400:]}")
    return run.stdout


@dataclass(frozen=True, slots=True)
class Account:
    """`home` is below /var; "" for none."""

    name: str
    number: int
    home: str = ""


class View:
    """What a server sees: `root`, where its packages are unpacked, and `place`, which has its /etc and its /var."""

    def __init__(self, root: Path, place: Path, *accounts: Account) -> None:
        if os.geteuid() != 0:
            raise CannotRun("an unpacked mail server can be started by root only, as it needs mounts of its own")
        self._root = root
        self._place = place
        for name in ("etc", "var/mail", "var/log", "var/lib", "var/spool", "var/run", "var/tmp"):
            self.folder(name)
        (place / "var/mail").chmod(0o1777)
        (place / "var/tmp").chmod(0o1777)
        self._write_accounts([Account("root", 0), Account("mail", 8), Account("nobody", 65534), *accounts])
        self.write("etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")  # where nobody answers
        self.write("etc/hosts", "127.0.0.1 localhost\n")

    def _write_accounts(self, accounts: Sequence[Account]) -> None:
        lines = [f"{who.name}:x:{who.number}:{who.number}::{who.home or '/nonexistent'}:/bin/sh" for who in accounts]
        self.write("etc/passwd", "\n".join(lines) + "\n")
        self.write("etc/group", "".join(f"{who.name}:x:{who.number}:\n" for who in accounts))
        for who in accounts:
            if who.home:
                self.folder(who.home.lstrip("/"), owner=who.number)

    def write(self, name: str, text: str) -> None:
        """A file that only root may change."""
        file = self.folder(os.path.dirname(name)) / os.path.basename(name)
        file.write_text(text)
        file.chmod(0o644)

    def folder(self, name: str, *, owner: int = 0) -> Path:
        """Made where it is not there yet, and open to be read whatever the umask."""
        path = self._place
        for part in Path(name).parts:
            path /= part
            if not path.exists():
                path.mkdir()
                path.chmod(0o755)
        if owner:
            os.chown(path, owner, owner)
        return path

    def command(self, *words: str) -> list[str]:
        """What runs these words in the view; its process is that of the program."""
        return ["unshare", "--mount", "sh", "-ec", _MOUNTS, "sh", str(self._root), str(self._place), *words]


class DebianPeer(Peer):
    """A peer out of a package, in a view of its own."""

    package: str
    accounts: tuple[Account, ...]

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._root = unpacked(site.cache, self.package)
        self._view = View(self._root, site.place, *self.accounts)

    @property
    def version(self) -> str:
        return version(self._root)
