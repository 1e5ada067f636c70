"""The control protocol on a real Unix socket: calls, refusals, bounds, long paths, sockets left over."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pillarbox.app import control
from pillarbox.app.control import ControlClient, ControlServer, NotRunning, Refused

T = TypeVar("T")
MAX_BODY = 1_000_000


async def _echo(verb: str, args: Mapping[str, Any], body: bytes) -> object:
    match verb:
        case "refuse":
            raise Refused("no, thank you")
        case "usage":
            raise Refused("not like that", usage=True)
        case "bug":
            raise RuntimeError("a secret of ours")
    return {"verb": verb, "args": dict(args), "length": len(body), "edges": [body[:1].hex(), body[-1:].hex()]}


def with_server(path: Path, run: Callable[[], T]) -> T:
    """Run blocking code in a thread while a server listens on the path."""

    async def main() -> T:
        server = ControlServer(path, _echo, max_body=MAX_BODY)
        await server.start()
        try:
            return await asyncio.to_thread(run)
        finally:
            await server.close()

    return asyncio.run(main())


def raw(path: Path, octets: bytes, *, end: bool = True) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        if octets:
            connection.sendall(octets)
        if end:
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            answer: dict[str, Any] = json.loads(file.readline())
            return answer


def test_a_call_brings_arguments_and_a_body(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    body = b"a" + b"\n\0" * 300_000 + b"z"
    data = with_server(path, lambda: ControlClient(path).call("send", {"to": ["ä"]}, body))
    assert data == {"verb": "send", "args": {"to": ["ä"]}, "length": 600_002, "edges": ["61", "7a"]}


def test_the_socket_is_for_its_owner_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    mode = with_server(path, lambda: path.stat().st_mode)
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    ("verb", "text", "usage"),
    [
        ("refuse", "no, thank you", False),
        ("usage", "not like that", True),
        ("bug", "internal error; the log of the server has more", False),
    ],
)
def test_refusals(verb: str, text: str, usage: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "control.sock"
    with caplog.at_level(logging.CRITICAL + 1), pytest.raises(Refused) as caught:
        with_server(path, lambda: ControlClient(path).call(verb, {}))
    assert (str(caught.value), caught.value.usage) == (text, usage)


def test_a_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    path = directory / "control.sock"
    assert len(str(path)) > 107
    assert with_server(path, lambda: ControlClient(path).call("x", {}))["verb"] == "x"


def test_a_socket_left_over_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotRunning):
        ControlClient(path).call("x", {})
    assert with_server(path, lambda: ControlClient(path).call("x", {}))["verb"] == "x"


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        with_server(path, lambda: None)
    assert path.read_text() == "precious"


def test_nobody_listens(tmp_path: Path) -> None:
    for path in (tmp_path / "control.sock", tmp_path / "none" / "control.sock"):
        with pytest.raises(NotRunning):
            ControlClient(path).call("x", {})


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"{]\n", "no JSON"),
        (b"\xff\n", "no JSON"),
        (b"[]\n", "needs verb, args and body"),
        (b'{"verb": "x", "args": {}}\n', "needs verb, args and body"),
        (b'{"verb": "x", "args": {}, "body": -1}\n', "needs verb, args and body"),
        (b'{"verb": "x", "args": {}, "body": 1000001}\n', "at most 1000000 are taken"),
        (b'{"verb": "x", "args": {}, "body": 5}\nabc', "ended too early"),
        (b'{"verb": "x"', "ended too early"),
        (b"x" * (control.MAX_LINE + 2), "too long"),
    ],
)
def test_requests_that_are_none(octets: bytes, error: str, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    answer = with_server(path, lambda: raw(path, octets))
    assert answer["ok"] is False and error in answer["error"]


def test_a_request_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "DEADLINE", 0.0)
    path = tmp_path / "control.sock"
    answer = with_server(path, lambda: raw(path, b"", end=False))
    assert "took too long" in answer["error"]


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 0)
    path = tmp_path / "control.sock"
    with pytest.raises(Refused, match="too many control connections"):
        with_server(path, lambda: ControlClient(path).call("x", {}))
