"""The servers of the matrix, and the report of `pillarbox conform --json` on each. Says nothing of what is in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillarbox import __version__
from tests.live.support import BOB, HOST, PILLARBOX, Server
from tests.peers.aiosmtpd import Aiosmtpd
from tests.peers.exim import Exim
from tests.peers.opensmtpd import OpenSmtpd
from tests.peers.peer import MAILBOX, Peer, Site
from tests.peers.postfix import Postfix
from tests.peers.process import CannotRun

OURS = "Pillarbox"
PEERS: Mapping[str, type[Peer]] = {peer.name: peer for peer in (Postfix, Exim, OpenSmtpd, Aiosmtpd)}
NAMES = (OURS, *PEERS)
CONFIGURED = "its defaults, and all commands on: VRFY and EXPN for everybody, TURN, ATRN and ETRN after AUTH"
EVERYTHING = {f"commands.{verb}": "on" for verb in ("VRFY", "EXPN", "HELP", "SEND", "SOML", "SAML")} | {
    f"commands.{verb}": "auth" for verb in ("TURN", "ATRN", "ETRN")
}
CLIENT = "client.test"  # says EHLO
_SECONDS = 600  # for one server, at most


@dataclass(frozen=True, slots=True)
class Running:
    """A server that can be asked: `mailbox` may get mail."""

    name: str
    version: str
    configured: str
    port: int
    mailbox: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one server; `status` is that of the command, `report` what it printed."""

    server: Running
    status: int
    report: dict[str, Any]

    @property
    def deviations(self) -> list[dict[str, Any]]:
        return [rule for rule in self.report["rules"] if rule["verdict"] == "deviates"]


@contextmanager
def running(name: str, place: Path, cache: Path) -> Iterator[Running]:
    """`place`: an empty folder of its own; `cache`: where packages stay unpacked. Raises CannotRun."""
    if name == OURS:
        listener = {"name": "mx", "address": f"{HOST}:0", **EVERYTHING}
        with Server(place, "mx", settings={"listener": [listener]}) as server:
            server.local(BOB)
            yield Running(OURS, __version__, CONFIGURED, server.port, BOB)
    else:
        with PEERS[name](Site(place, cache)) as peer:
            yield Running(name, peer.version, peer.configured, peer.port, MAILBOX)


def ask(server: Running) -> Result:
    """Raises CannotRun when not everything could be asked."""
    command = [str(PILLARBOX), "conform", f"{HOST}:{server.port}", "--json", "--mailbox", server.mailbox]
    run = subprocess.run([*command, "--helo", CLIENT], capture_output=True, text=True, timeout=_SECONDS, check=False)
    if run.returncode not in (0, 1) or run.stderr:
        raise CannotRun(f"conform, asking {server.name}: status {run.returncode}: {run.stderr.strip()[-400:]}")
    return Result(server, run.returncode, json.loads(run.stdout))
