"""What a service manager is told, by a socket that plays it."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from pillarbox.adapters import systemd


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool) -> None:
    name = f"@pillarbox-{tmp_path}"[:100] if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        systemd.notify(systemd.READY)
        assert manager.recv(100) == b"READY=1"
        systemd.notify(systemd.reloading())
        told = manager.recv(100).decode().splitlines()
    assert told[0] == "RELOADING=1" and int(told[1].removeprefix("MONOTONIC_USEC=")) > 0


def test_without_one_nothing_is_done(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(systemd.READY)
    assert caplog.records == []


def test_one_that_is_gone_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    with caplog.at_level(logging.WARNING):
        systemd.notify(systemd.STOPPING)
    assert "the service manager can't be told STOPPING: [Errno 2]" in caplog.text
