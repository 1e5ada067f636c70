"""The control protocol on a real Unix socket: calls, refusals, bounds, long paths, sockets left over, conversations."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pillarbox.app import control
from pillarbox.app.control import ControlClient, ControlServer, Line, NotRunning, Receive, Refused, Send

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


# --- conversations


class Talk:
    """A conversation that says what it was told, and what the client says, twice."""

    def __init__(self, *, refuse: str = "") -> None:
        self.refuse = refuse
        self.heard: list[Line] = []
        self.ended = 0
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self.send: Send | None = None
        self._sending: asyncio.Task[None] | None = None

    def begin(self, send: Send) -> object:
        if self.refuse:
            raise Refused(self.refuse)
        self.send = send
        self._sending = asyncio.create_task(self._hello(send))
        return {"topic": "weather"}

    async def _hello(self, send: Send) -> None:
        await send({"hello": 1})
        self.begun.set()

    async def run(self, receive: Receive) -> None:
        assert self.send is not None
        while (line := await receive()) is not None:
            self.heard.append(line)
            match line:
                case {"say": "refuse"}:
                    raise Refused("not that")
                case {"say": "bug"}:
                    raise RuntimeError("a secret of ours")
                case {"say": "bye"}:
                    return
            await self.send({"twice": [line, line]})

    def end(self) -> None:
        self.ended += 1
        self.over.set()


def talking(path: Path, talk: Talk, run: Callable[[], T]) -> T:
    """Run blocking code in a thread while a server listens that gives the conversation."""

    async def main() -> T:
        async def handle(verb: str, args: Mapping[str, Any], body: bytes) -> object:
            return talk if verb == "talk" else await _echo(verb, args, body)

        server = ControlServer(path, handle, max_body=MAX_BODY)
        await server.start()
        try:
            async with asyncio.timeout(30):
                return await asyncio.to_thread(run)
        finally:
            await server.close()

    return asyncio.run(main())


def test_a_conversation_goes_both_ways_until_the_client_goes(tmp_path: Path) -> None:
    path, talk = tmp_path / "control.sock", Talk()

    def client() -> None:
        with ControlClient(path).converse("talk", {}) as dialog:
            assert dialog.data == {"topic": "weather"}
            assert dialog.receive() == {"hello": 1}  # behind the answer, however early it was said
            for said in ({"say": "ü"}, {"say": "x" * 500_000}):
                dialog.send(said)
                assert dialog.receive() == {"twice": [said, said]}
            assert ControlClient(path).call("x", {})["verb"] == "x"  # meanwhile

    talking(path, talk, client)
    assert talk.ended == 1 and len(talk.heard) == 2


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b'{"say": "refuse"}\n', "not that"),
        (b'{"say": "bye"}\n', "nothing is left to be said"),
        (b'{"say": "bug"}\n', "internal error; the log of the server has more"),
        (b"{]\n", "a line is no JSON"),
        (b"[]\n", "a line is no object"),
        (b"x" * (control.MAX_LINE + 2), "a line is too long"),
    ],
)
def test_the_server_ends_a_conversation_and_says_why(
    said: bytes, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, talk = tmp_path / "control.sock", Talk()

    def client() -> None:
        with ControlClient(path).converse("talk", {}) as dialog:
            assert dialog.receive() == {"hello": 1}
            dialog._connection.sendall(said)
            with pytest.raises(Refused, match=f"^{why}$"):
                dialog.receive()
            dialog.send({"say": "late"})  # is no error

    with caplog.at_level(logging.CRITICAL + 1):
        talking(path, talk, client)
    assert talk.ended == 1


def test_a_conversation_may_be_refused(tmp_path: Path) -> None:
    path, talk = tmp_path / "control.sock", Talk(refuse="no, thank you")

    def client() -> None:
        with ControlClient(path).converse("talk", {}):
            raise AssertionError("nothing was to begin")

    with pytest.raises(Refused, match="no, thank you"):
        talking(path, talk, client)
    assert talk.ended == 0


def test_conversations_leave_room_for_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONVERSATIONS", 1)
    path, talk = tmp_path / "control.sock", Talk()

    def client() -> None:
        with ControlClient(path).converse("talk", {}):
            with pytest.raises(Refused, match="the server has 1 conversations already"):
                with ControlClient(path).converse("talk", {}):
                    raise AssertionError("nothing was to begin")
            assert ControlClient(path).call("x", {})["verb"] == "x"

    talking(path, talk, client)
    assert talk.ended == 1


def test_conversations_are_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 1)
    path, talk = tmp_path / "control.sock", Talk()

    def client() -> None:
        with ControlClient(path).converse("talk", {}):
            with pytest.raises(Refused, match="too many control connections"):
                ControlClient(path).call("x", {})

    talking(path, talk, client)


def closing(path: Path, talk: Talk, client: Callable[[], None], *, send: Line | None = None) -> float:
    """Close the server while the client, in a thread, is in a conversation; gives how long that took."""

    async def main() -> float:
        async def handle(verb: str, args: Mapping[str, Any], body: bytes) -> object:
            return talk

        server = ControlServer(path, handle, max_body=MAX_BODY)
        await server.start()
        thread = asyncio.create_task(asyncio.to_thread(client))
        await talk.begun.wait()
        sending = [asyncio.ensure_future(talk.send(send))] if send and talk.send else []
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await server.close()
        took = loop.time() - began
        path.with_suffix(".closed").touch()
        await thread
        await asyncio.gather(*sending, return_exceptions=True)
        return took

    return asyncio.run(main())


def test_a_server_that_stops_ends_its_conversations(tmp_path: Path) -> None:
    path, talk = tmp_path / "control.sock", Talk()

    def client() -> None:
        with ControlClient(path).converse("talk", {}) as dialog:
            assert dialog.receive() == {"hello": 1}
            with pytest.raises(Refused, match="^the server is stopping$"):
                dialog.receive()

    assert closing(path, talk, client) < 1.0
    assert talk.ended == 1


def test_a_client_that_reads_nothing_does_not_keep_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control, "_FAREWELL", 0.1)
    path, talk = tmp_path / "control.sock", Talk()

    def client() -> None:
        with ControlClient(path).converse("talk", {}) as dialog:
            while not path.with_suffix(".closed").exists():
                threading.Event().wait(0.01)
            with pytest.raises(Refused, match="^the server broke off"):
                while dialog.receive():
                    pass

    assert closing(path, talk, client, send={"much": "x" * 5_000_000}) < 1.0
    assert talk.ended == 1
    assert "a control client went away: it reads nothing" in caplog.text


def test_a_server_that_is_gone_is_told(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as file:
            file.readline()
            connection.sendall(b'{"ok": true, "data": 1}\n{"torn"')

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        with ControlClient(path).converse("talk", {}) as dialog:
            with pytest.raises(Refused, match="^the server broke off$"):
                dialog.receive()
        thread.join()
