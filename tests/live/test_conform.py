"""`pillarbox conform` as a process, against Pillarbox and against aiosmtpd, each a process, too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import BOB, HOST, PILLARBOX, Client, Server, arrived, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("conform")) as running:
        running.local(BOB)
        yield running


@pytest.fixture(scope="module")
def aiosmtpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Its port."""
    folder = tmp_path_factory.mktemp("aiosmtpd")
    stored = folder / "stored"
    stored.mkdir()
    command = [sys.executable, "-m", "tests.bench.aiosmtpd_server", str(stored)]
    out, err = folder / "out", folder / "err"
    with out.open("wb") as output, err.open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
    try:
        until(lambda: out.read_text().endswith("\n"), what=f"aiosmtpd listens: {err.read_text()}")
        yield int(out.read_text().rpartition(":")[2])
    finally:
        process.kill()
        process.wait(20)


def conform(port: int, *options: str, status: int = 0, where: Path | None = None) -> str:
    run = subprocess.run(
        [str(PILLARBOX), "conform", f"{HOST}:{port}", *options],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == status, (run.returncode, run.stdout, run.stderr)
    assert run.stderr == ""
    return run.stdout


def report(port: int, *options: str, status: int = 0) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(conform(port, "--json", *options, status=status))
    assert data["cut"] == ""
    return data


def verdicts(data: dict[str, Any]) -> dict[str, str]:
    return {rule["name"]: rule["verdict"] for rule in data["rules"]}


def seen(data: dict[str, Any]) -> set[tuple[str, int]]:
    return {(pair["command"], pair["code"]) for pair in data["pairs"] if pair["verdict"] == "conforms"}


def test_pillarbox_breaks_no_must(server: Server) -> None:
    data = report(server.port, "--mailbox", BOB)
    assert data["broken"] == []
    assert [rule["name"] for rule in data["rules"] if (rule["verdict"], rule["level"]) == ("deviates", "MUST")] == []
    classical = [(pair["command"], pair["code"]) for pair in data["pairs"] if pair["classical"]]
    assert len(classical) == len(set(classical)) == 112
    assert {("connect", 220), ("EHLO", 250), ("MAIL", 552), ("RCPT", 550), ("DATA", 354), (".", 250)} <= seen(data)
    assert {("VRFY", 252), ("HELP", 214), ("SEND", 502), ("TURN", 502), ("QUIT", 221)} <= seen(data)
    found = verdicts(data)
    for name in ("rcpt-100", "rcpt-postmaster", "message", "message-64k", "end-lf-dot-lf", "pipelined-quit"):
        assert found[name] == "conforms", name


def test_without_a_mailbox_nothing_is_delivered(server: Server) -> None:
    before = server.call("queue_list", where="", limit=1000)
    data = report(server.port)
    assert data["broken"] == [] and data["mailbox"] is None
    assert verdicts(data)["message"] == "not provoked"
    assert server.call("queue_list", where="", limit=1000) == before


def test_messages_are_marked(tmp_path: Path) -> None:
    with Server(tmp_path, "marked") as running:
        running.local(BOB)
        report(running.port, "--mailbox", BOB, "--from", "alice@elsewhere.example")
        letters = arrived(running, 2)
    assert sorted(line for letter in letters for line in letter.split(b"\n") if line.startswith(b"Subject:")) == [
        b"Subject: [pillarbox conform] message",
        b"Subject: [pillarbox conform] message-64k",
    ]
    assert all(letter.startswith(b"Return-Path: <alice@elsewhere.example>") for letter in letters)


def test_the_server_goes_on_serving(server: Server) -> None:
    report(server.port)
    with Client(server.port) as client:
        assert client.say("NOOP").startswith("250")
    assert "Traceback" not in server.log


def test_people_get_a_page_and_a_summary(server: Server, tmp_path: Path) -> None:
    text = conform(server.port, "--html", "report.html", where=tmp_path)
    assert "112 classical pairs" in text and "No MUST is broken" in text and "\x1b" not in text
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "No MUST is broken" in page


def test_aiosmtpd(aiosmtpd: int) -> None:
    data = report(aiosmtpd, "--mailbox", BOB, status=1)
    found = verdicts(data)
    # it reads commands by LF alone, and takes any name and any path (aiosmtpd 1.4.6, smtp.py)
    assert {"command-bare-lf", "ehlo-bad-character"} <= set(data["broken"])
    assert found["rcpt-null-path"] == "deviates"
    # but it reads messages by CRLF alone, knows VRFY, and lists HELP
    for name in ("end-lf-dot-lf", "end-cr-dot-cr", "vrfy", "help-listed", "rset", "quit", "mail-unknown-parameter"):
        assert found[name] == "conforms", name
    for name in ("pipelined-order", "enhanced-each", "auth-in-transaction"):
        assert found[name] == "not offered", name
    pairs = {(pair["command"], pair["code"]): pair["verdict"] for pair in data["pairs"]}
    assert pairs["VRFY", 252] == pairs["DATA", 354] == pairs[".", 250] == "conforms"
    assert pairs["TURN", 250] == pairs["SEND", 250] == "not offered"
