"""`pillarbox conform` as a process, against Pillarbox and against servers not written here, each a process, too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import page
from tests.conformance.servers import EVERYTHING, PEERS, Result, ask, running
from tests.live.support import BOB, HOST, PILLARBOX, Client, Server, arrived
from tests.peers.debian import CACHE
from tests.peers.process import CannotRun


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("conform")) as running:
        running.local(BOB)
        yield running


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of the peer that the test is about."""
    place = tmp_path_factory.mktemp(request.param)
    try:
        with running(request.param, place, CACHE) as peer:
            return ask(peer)
    except CannotRun as error:
        pytest.skip(f"LOUD: {request.param} can't be had: {error}")


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


def classical(data: dict[str, Any]) -> list[tuple[str, int]]:
    return [(pair["command"], pair["code"]) for pair in data["pairs"] if pair["classical"]]


def test_pillarbox_deviates_nowhere(server: Server) -> None:
    data = report(server.port, "--mailbox", BOB)
    assert data["broken"] == [] and "deviates" not in verdicts(data).values()
    assert len(classical(data)) == len(set(classical(data))) == 112
    assert {("connect", 220), ("EHLO", 250), ("MAIL", 552), ("RCPT", 550), ("DATA", 354), (".", 250)} <= seen(data)
    assert {("VRFY", 252), ("HELP", 214), ("SEND", 502), ("TURN", 502), ("QUIT", 221)} <= seen(data)
    found = verdicts(data)
    for name in ("rcpt-100", "rcpt-postmaster", "message", "message-64k", "end-lf-dot-lf", "pipelined-quit"):
        assert found[name] == "conforms", name


def test_pillarbox_with_all_commands_deviates_nowhere(tmp_path: Path) -> None:
    listener = {"name": "mx", "address": f"{HOST}:0", **EVERYTHING}
    with Server(tmp_path, settings={"listener": [listener]}) as running:
        running.local(BOB)
        data = report(running.port, "--mailbox", BOB)
    deviations = [(rule["name"], rule["note"]) for rule in data["rules"] if rule["verdict"] == "deviates"]
    assert deviations == [] and data["broken"] == []
    assert len(classical(data)) == len(set(classical(data))) == 112
    for pair in data["pairs"]:  # all is offered but STARTTLS and BDAT, which are later ones
        offered = pair["verdict"] in ("conforms", "not provoked")
        assert (offered or pair["command"] in ("STARTTLS", "BDAT")) and pair["note"], pair
    for command in ("SEND", "SOML", "SAML"):
        assert {(command, code) for code in (250, 500, 501, 552)} <= seen(data), command
    assert {("VRFY", code) for code in (250, 252, 500, 501, 504, 550)} <= seen(data)
    assert {("TURN", 500), ("TURN", 503), ("TURN", 530), ("ETRN", 530), ("EXPN", 550)} <= seen(data)


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


@pytest.mark.parametrize("asked", ["aiosmtpd"], indirect=True)
def test_aiosmtpd(asked: Result) -> None:
    data = asked.report
    assert asked.status == 1
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


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("asked", [name for name in PEERS if name != "aiosmtpd"], indirect=True)
def test_a_foreign_server_is_asked_everything(asked: Result) -> None:
    data = asked.report
    assert data["cut"] == "" and len(classical(data)) == 112
    assert asked.status == (1 if data["broken"] else 0)
    assert {("connect", 220), ("EHLO", 250), ("MAIL", 250), ("RCPT", 250), ("DATA", 354), (".", 250)} <= seen(data)
    for name in ("rcpt-postmaster", "message", "message-64k", "rset-discards", "mail-null", "quit"):
        assert verdicts(data)[name] == "conforms", name
    assert page.unjudged([asked]) == []
