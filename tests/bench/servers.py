"""The servers under test: each can be started, asked what is still to be done, and stopped.

With `sink_port` a server relays everything there, without it it disposes of the messages itself. `place` is a
folder of the server's own on the disk that is measured. Logs go to files, for all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.pair import Pair
from tests.bench.values import HOSTNAME, Options
from tests.peers import aiosmtpd
from tests.peers.postfix import SMTPD_PROCESSES, Tools, write_instance
from tests.peers.process import HOST, CannotRun, Program, free_port, wait_port

PILLARBOX_TOML = """\
hostname = "{hostname}"
data = "data"

[[listener]]
name = "mx"
address = "{host}:0"
service = "mx"

[[listener]]
name = "smtps"
address = "{host}:0"
tls = "implicit"

[[tls]]
certificate = "{pair.certificate}"
key = "{pair.key}"

[relay]
networks = ["127.0.0.0/8"]

[limits]
connections = {connections}
connections_per_address = 100000

[[route]]
match = "*"
next_hop = "{next_hop}"
tls = "off"
"""
CONNECTIONS = 100_000
POSTFIX_SETTINGS = """\
myhostname = {hostname}
mynetworks = 127.0.0.0/8
mydestination =
local_recipient_maps =
alias_maps =
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
smtpd_tls_cert_file = {pair.certificate}
smtpd_tls_key_file = {pair.key}
{transport}
"""
POSTFIX_SERVICES = """\
{host}:{port} inet n - n - {processes} smtpd
  -o smtpd_tls_wrappermode=yes
tlsmgr unix - - n 1000? 1 tlsmgr
"""


@dataclass(frozen=True, slots=True)
class Site:
    """What a server is given: where to live, whom to relay to, and where the programs are."""

    place: Path
    sink_port: int | None
    options: Options
    tools: Tools
    pair: Pair


class Server(ABC):
    """One server under test. `port`, `tls_port` and `pid` mean something between start and stop."""

    name: str
    relays = True
    process_per_session = False
    has_tls = True

    def __init__(self, site: Site) -> None:
        self.site = site
        self.port = 0
        self.tls_port = 0  # TLS from the first octet
        self._program: Program | None = None

    @abstractmethod
    def start(self) -> None: ...

    def pending(self) -> int | None:
        """Messages or recipients not yet disposed of; None where that can't be asked."""
        return None

    @property
    def program(self) -> Program:
        if self._program is None:
            raise CannotRun(f"{self.name} was not started")
        return self._program

    @property
    def pid(self) -> int:
        return self.program.pid

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None

    def _start_and_ask_port(self, command: list[str | Path], environ: Mapping[str, str] | None = None) -> None:
        """For servers that choose a port and print `listening mx HOST:PORT`."""
        self._program = Program(self.name, command, place=self.site.place, environ=environ)
        self.port = self._printed_port("mx")

    def _printed_port(self, listener: str) -> int:
        return int(self.program.wait_line(f"listening {listener} {HOST}:").rpartition(":")[2])


class PillarboxServer(Server):
    name = "pillarbox"

    def start(self) -> None:
        sink_port = self.site.sink_port
        next_hop = "discard" if sink_port is None else f"smtp://{HOST}:{sink_port}"
        text = PILLARBOX_TOML.format(
            hostname=HOSTNAME, host=HOST, connections=CONNECTIONS, next_hop=next_hop, pair=self.site.pair
        )
        self._config.write_text(text)
        self._start_and_ask_port([self.site.options.pillarbox, "serve", "--config", self._config])
        self.tls_port = self._printed_port("smtps")

    @property
    def _config(self) -> Path:
        return self.site.place / "pillarbox.toml"

    def pending(self) -> int | None:
        command = [str(self.site.options.pillarbox), "queue", "count", "--config", str(self._config), "--json"]
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
            return int(json.loads(run.stdout)["count"])
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
            return None


class PostfixServer(Server):
    name = "postfix"
    process_per_session = True

    def start(self) -> None:
        tools, place = self.site.tools, self.site.place
        self.port, self.tls_port = free_port(), free_port()
        transport = _postfix_transport(self.site.sink_port)
        settings = POSTFIX_SETTINGS.format(hostname=HOSTNAME, transport=transport, pair=self.site.pair)
        services = POSTFIX_SERVICES.format(host=HOST, port=self.tls_port, processes=SMTPD_PROCESSES)
        config = write_instance(place, self.port, settings, root=tools.root, seen=place, services=services)
        environ = {**tools.environ(), "MAIL_CONFIG": str(config)}
        self._program = Program(self.name, [tools.master, "-c", config, "-s"], place=place, environ=environ)
        try:
            wait_port(self.port, self._program)
        except CannotRun as error:
            raise CannotRun(f"{error}; its log ends: {self._log_end()}") from error

    def _log_end(self) -> str:
        log = self.site.place / "maillog"
        return " | ".join(log.read_text(errors="replace").splitlines()[-3:]) if log.exists() else "(none)"

    def pending(self) -> int:
        folders = ("maildrop", "incoming", "active", "deferred")
        return sum(_files(self.site.place / "queue" / name) for name in folders)


class AiosmtpdServer(Server):
    name = "aiosmtpd"
    relays = False
    has_tls = False

    def start(self) -> None:
        store = self.site.place / "store"
        store.mkdir()
        self._start_and_ask_port(aiosmtpd.command(store, HOSTNAME, 0), aiosmtpd.environ())


SERVERS: Mapping[str, type[Server]] = {
    PillarboxServer.name: PillarboxServer,
    PostfixServer.name: PostfixServer,
    AiosmtpdServer.name: AiosmtpdServer,
}


def _postfix_transport(sink_port: int | None) -> str:
    if sink_port is None:
        return "default_transport = discard:"
    return f"default_transport = smtp\nrelayhost = [{HOST}]:{sink_port}"


def _files(folder: Path) -> int:
    """Files below `folder`, which another process may be changing meanwhile."""
    return sum(len(files) for _, _, files in os.walk(folder))
