"""What the live tests share: a Pillarbox as a real process, a client on a raw socket, the reading of a Maildir.

Every process is ended by its own id. Ports are always 0 and read from the line that the server prints. `until` is the
one place where anything waits.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

import pytest

from pillarbox.adapters.maildir import folder_name
from pillarbox.app.control import ControlClient, NotRunning, Refused
from pillarbox.core.address import Mailbox

T = TypeVar("T")
PILLARBOX = Path(sys.executable).parent / "pillarbox"
HOST = "127.0.0.1"
DOMAIN = "example.test"
BOB = f"bob@{DOMAIN}"
SENDER = "alice@elsewhere.example"
_TICK = 0.01  # seconds


def until(condition: Callable[[], T], seconds: float = 20.0, what: str = "") -> T:
    """The first value of the condition that counts as true; an error when there is none within so many seconds."""
    end, pause = monotonic() + seconds, Event()
    while not (value := condition()):
        assert monotonic() < end, f"not within {seconds} s: {what or condition}"
        pause.wait(_TICK)
    return value


def needs(program: str) -> str:
    """The path of a program of the system; without it the test is skipped, loudly."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"LOUD: {program} is not installed (tests/install-tools brings it, as root)")
    return found


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("LOUD: only root may do what this test needs")


def raise_descriptor_limit() -> int:
    """As many descriptors as there may be, for this process and its children; gives the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1_000_000


# --- the server


def toml(settings: Mapping[str, Any]) -> str:
    """A configuration file: values, then tables, then arrays of tables."""
    plain = {key: value for key, value in settings.items() if not _is_table(value)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in settings.items():
        if _is_table(value):
            for table in [value] if isinstance(value, dict) else value:
                lines.append(f"[{key}]" if isinstance(value, dict) else f"[[{key}]]")
                lines += [f"{name} = {_inline(item)}" for name, item in table.items()]
    return "\n".join(lines) + "\n"


def _inline(value: object) -> str:
    """A value; a list of tables within a table stands on one line."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return json.dumps(value)
    tables = (", ".join(f"{name} = {json.dumps(item)}" for name, item in table.items()) for table in value)
    return f"[{', '.join(f'{{{table}}}' for table in tables)}]"


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _ports(found: dict[str, str]) -> dict[str, int]:
    return {name: int(at.rpartition(":")[2]) for name, at in found.items() if not at.startswith("unix:")}


class Server:
    """`pillarbox serve` on a configuration and data of its own below `place`. Stopped, and its status asserted, at the
    end of the `with` block; killed when the block failed."""

    def __init__(self, place: Path, name: str = "a", *, settings: Mapping[str, Any] | None = None) -> None:
        self.place = place
        self.name = name
        self.config = place / f"{name}.toml"
        self.data = place / f"{name}-data"
        self.settings: dict[str, Any] = {
            "hostname": f"{name}.mx.test",  # one may not greet another by its own name
            "data": str(self.data),
            "listener": [{"name": "mx", "address": f"{HOST}:0"}],
            "limits": {},
            **(settings or {}),
        }
        self.ports: dict[str, int] = {}
        self.prefix: Sequence[str] = ()  # what starts it, such as setpriv
        self._process: subprocess.Popen[bytes] | None = None
        self._runs = 0
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Write the configuration, with these settings changed."""
        self.settings.update(settings)
        self.config.write_text(toml(self.settings), encoding="utf-8")

    # --- life

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.stop() if fault is None else self.kill()

    def start(self) -> Server:
        self._runs += 1
        command = [*self.prefix, str(PILLARBOX), "serve", "--config", str(self.config)]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._process = subprocess.Popen(command, cwd=self.place, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            until(self._listens, what=f"{self.name}: a line for each listener")
        except BaseException:
            self.kill()
            raise
        return self

    def _listens(self) -> bool:
        assert self.running, f"{self.name} ended, status {self.process.returncode}: {self.log}"
        found = self._printed()
        self.ports = _ports(found)
        return len(found) == len(self.settings["listener"])

    def printed_ports(self) -> dict[str, int]:
        """Of the listeners that have one."""
        return _ports(self._printed())

    def _printed(self) -> dict[str, str]:
        """From the lines `listening NAME ADDRESS`; the last one of a name counts."""
        words = [line.split() for line in self.out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return {line[1]: line[2] for line in words if line[0] == "listening"}

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return self.ports["mx"]

    @property
    def out(self) -> Path:
        return self.place / f"{self.name}.{self._runs}.out"

    @property
    def err(self) -> Path:
        return self.place / f"{self.name}.{self._runs}.err"

    @property
    def log(self) -> str:
        """Standard error of this run."""
        return self.err.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        assert self.running
        self.process.send_signal(number)

    def stop(self, seconds: float = 60.0) -> None:
        self.signal(signal.SIGTERM)
        self.ended(seconds)

    def ended(self, seconds: float = 60.0) -> None:
        """Wait for the end that was asked for; it must be an orderly one."""
        status = self.process.wait(seconds)
        assert status == 0, f"{self.name}: exit status {status}: {self.log}"
        assert "Traceback" not in self.log, self.log

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    # --- what may be asked

    def cli(self, *words: str, text: bytes = b"", status: int = 0) -> str:
        """Run a verb; its standard output, or its standard error where it is to fail."""
        run = subprocess.run(
            [*self.prefix, str(PILLARBOX), *words, "--config", str(self.config)],
            cwd=self.place,
            input=text,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == status, (words, run.returncode, run.stdout, run.stderr)
        return (run.stderr if status else run.stdout).decode()

    def ask(self, *words: str, text: bytes = b"") -> Any:
        """What a verb prints as JSON."""
        return json.loads(self.cli(*words, "--json", text=text))

    def call(self, verb: str, **args: Any) -> Any:
        """As a verb of the command line, over the control socket, without a process of its own."""
        return self.call_with(b"", verb, **args)

    def call_with(self, body: bytes, verb: str, /, **args: Any) -> Any:
        """One whose standard input counts."""
        return ControlClient(self.data / "control.sock").call(verb, args, body)

    def why(self, word: str) -> str:
        """The story, as one line."""
        return " ".join(self.cli("why", word).split())

    def local(self, *addresses: str) -> None:
        """Make users, and their domains."""
        for domain in dict.fromkeys(address.partition("@")[2] for address in addresses):
            self.call("domain_add", domain=domain)
        for address in addresses:
            self.call("user_add", address=address, name="")

    def person(self, address: str, password: str, **more: Any) -> None:
        """Make a user who can log in."""
        self.call_with(password.encode(), "user_add", address=address, name="", **more)

    def drained(self, seconds: float = 60.0) -> None:
        """Wait until nothing is left to be done."""

        def empty() -> bool:
            assert self.running, self.log
            try:
                return bool(self.call("queue_count", where="")["count"] == 0)
            except (NotRunning, Refused):
                return False

        until(empty, seconds, f"{self.name}: queue count 0")

    @property
    def bodies(self) -> list[str]:
        """Files of large bodies."""
        return sorted(os.listdir(self.data / "bodies-0"))

    def memory(self, field: str = "VmRSS") -> int:
        """KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:")))


# --- a client


class Client:
    """SMTP on a socket, octet by octet where it matters."""

    def __init__(self, port: int, *, hello: bool = True, seconds: float = 20.0) -> None:
        self.socket = socket.create_connection((HOST, port), seconds)
        self._held = b""
        try:
            self.greeting = self.reply()
            if hello:
                self._wants("250", "EHLO client.example")
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def write(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def reply(self) -> str:
        """The next reply, all its lines. Raises ConnectionError at the end of the connection."""
        lines: list[bytes] = []
        while not lines or lines[-1][3:4] == b"-":
            while b"\r\n" not in self._held:
                if not (octets := self.socket.recv(65536)):
                    raise ConnectionError(f"closed after {lines} {self._held!r}")
                self._held += octets
            line, _, self._held = self._held.partition(b"\r\n")
            lines.append(line)
        return b"\n".join(lines).decode("ascii")

    def say(self, line: str | bytes) -> str:
        self.write((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.reply()

    def envelope(self, recipients: Sequence[str] = (BOB,), sender: str = SENDER) -> None:
        """Up to the 354. Raises ConnectionError where the server says 421."""
        for line in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)):
            self._wants("25", line)
        self._wants("354", "DATA")

    def _wants(self, code: str, line: str) -> None:
        answer = self.say(line)
        if answer.startswith("421"):
            raise ConnectionError(answer)
        assert answer.startswith(code), (line, answer)

    def send(self, octets: bytes, recipients: Sequence[str] = (BOB,), sender: str = SENDER) -> str:
        """A whole message, with CRLF line ends; the reply to its end."""
        self.envelope(recipients, sender)
        self.write(stuffed(octets))
        return self.reply()

    def closed(self) -> bool:
        """Whether the server ends the connection, and says nothing more."""
        try:
            return self._held == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """End the connection with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def stuffed(octets: bytes) -> bytes:
    """A message as it goes over the wire (RFC 5321 §4.5.2)."""
    end = b"" if octets.endswith(b"\r\n") or not octets else b"\r\n"
    return (b"\r\n" + octets).replace(b"\r\n.", b"\r\n..")[2:] + end + b".\r\n"


# --- what arrived


def maildir(server: Server, address: str = BOB) -> Path:
    mailbox = Mailbox.parse(address)
    return server.data / "mail" / folder_name(mailbox.domain) / folder_name(mailbox.local)


def letters(server: Server, address: str = BOB) -> list[bytes]:
    """The files in `new`, as they are, in the order of their names."""
    new = maildir(server, address) / "new"
    return [file.read_bytes() for file in sorted(new.iterdir())] if new.exists() else []


def arrived(server: Server, count: int = 1, address: str = BOB) -> list[bytes]:
    """The letters, when there are so many; more is an error."""
    new = maildir(server, address) / "new"

    def enough() -> bool:
        with suppress(FileNotFoundError):
            return len(os.listdir(new)) >= count
        return False

    until(enough, what=f"{count} letters for {address}: {server.log}")
    found = letters(server, address)
    assert len(found) == count
    return found


def original(letter: bytes, hops: int = 1) -> bytes:
    """The message behind the trace fields of final delivery and of so many hops, with LF line ends."""
    lines = letter.split(b"\n")
    assert lines[0].startswith(b"Return-Path: <") and lines[1].startswith(b"Delivered-To: "), lines[:2]
    at = 2
    for _ in range(hops):
        assert lines[at].startswith(b"Received: "), lines[at]
        at += 1
        while lines[at].startswith(b"\t"):
            at += 1
    return b"\n".join(lines[at:])
