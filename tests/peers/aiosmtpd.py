"""aiosmtpd, a library: its SMTP class with its defaults, in a program that stores each message (aiosmtpd_server.py)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path

from tests.peers.debian import ROOT
from tests.peers.peer import HOSTNAME, Peer, Site, files
from tests.peers.process import CannotRun


class Aiosmtpd(Peer):
    name = "aiosmtpd"
    configured = "its `SMTP` class with its defaults; the handler stores each message, and takes any recipient"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        if site.relay_to is not None:
            raise CannotRun("aiosmtpd relays nothing")
        self._store = site.place / "store"

    @property
    def version(self) -> str:
        return version_of("aiosmtpd")

    def command(self) -> Sequence[str | Path]:
        self._store.mkdir()
        return command(self._store, HOSTNAME, self.port)

    def environ(self) -> dict[str, str]:
        return environ()

    def letters(self) -> list[bytes]:
        return files(self._store)


def command(store: Path, hostname: str, port: int) -> list[str | Path]:
    """With port 0 it takes a free one; either way it prints `listening mx HOST:PORT`."""
    return [sys.executable, "-m", "tests.peers.aiosmtpd_server", store, hostname, str(port)]


def environ() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
