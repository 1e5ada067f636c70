"""The systemd unit: systemd accepts it, grades it, and what it forbids is nothing that the server does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.live.support import BOB, HOST, PILLARBOX, Client, Server, arrived, needs, until

UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "pillarbox.service"
EXPOSURE = 17  # tenths, of 100; below 20 systemd says OK
ROOTS = {"fchown"}  # by SQLite, and only when it is root (os_unix.c: robustFchown), which the unit never is
MAIN = re.compile(r"^ExecStart=\S+ (.*)$", re.MULTILINE)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the program's path on this machine."""
    copy = tmp_path / UNIT.name
    copy.write_text(MAIN.sub(rf"ExecStart={PILLARBOX} \1", UNIT.read_text()))
    return copy


def analyze(*words: str) -> str:
    run = subprocess.run([needs("systemd-analyze"), *words], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, (words, run.stdout, run.stderr)
    return run.stdout + run.stderr


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_systemd_accepts_it(unit: Path) -> None:
    assert analyze("verify", "--man=no", str(unit)) == ""


def test_systemd_says_that_it_is_well_protected(unit: Path) -> None:
    analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit))


def test_a_weaker_unit_is_told_from_it(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivileges=no"))
    command = [needs("systemd-analyze"), "security", "--offline=true", f"--threshold={EXPOSURE}", str(unit)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0


def calls(name: str) -> set[str]:
    """The system calls of a set of systemd's."""
    found: set[str] = set()
    for line in analyze("syscall-filter", name).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= calls(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def allowed() -> set[str]:
    found: set[str] = set()
    for value in values("SystemCallFilter"):
        named = set[str]().union(*(calls(word) for word in value.removeprefix("~").split()))
        found = found - named if value.startswith("~") else found | named
    return found


def test_the_server_makes_no_system_call_that_is_forbidden(tmp_path: Path) -> None:
    """From its start to its end, with mail, TLS, a password, a reload."""
    trace = tmp_path / "trace"
    here = Server(tmp_path, settings={"listener": [{"name": "mx", "address": f"{HOST}:0", "tls": "starttls"}]})
    here.prefix = (needs("strace"), "-f", "-q", "-e", "signal=none", "-o", str(trace), "--daemonize")
    with here as running:
        running.prefix = ()  # verbs are not traced
        running.local(BOB)
        running.signal(signal.SIGHUP)
        running.cli("user", "passwd", BOB, "--password-stdin", text=b"correct horse\n")
        with Client(running.port) as client:
            assert client.say("STARTTLS").startswith("220")
        with Client(running.port) as client:
            assert client.say("AUTH PLAIN AGJvYgBob3JzZQ==").startswith("535")
            assert client.send(b"Subject: hello\r\n\r\n" + b"x\r\n" * 100_000).startswith("250")
        arrived(running)
        until(lambda: "reload: done" in running.log)
    end = f"{running.pid} +++ exited with 0 +++"
    until(lambda: end in re.sub(r" +", " ", trace.read_text(errors="replace")), what=end)
    made = {match[1] for match in re.finditer(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE)}
    assert {"fdatasync", "accept4", "prctl", "rename"} <= made
    assert made - allowed() == (ROOTS & made if os.geteuid() == 0 else set())


def test_the_manager_is_told_when_it_runs_and_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert values("Type") == ["notify"] and values("NotifyAccess") == ["main"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Server(tmp_path) as running:
            assert manager.recv(100) == b"READY=1"
            Client(running.port).socket.close()
            running.signal(signal.SIGHUP)
            assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(100) == b"READY=1"
            until(lambda: "reload: done" in running.log)
        assert manager.recv(100) == b"STOPPING=1"
