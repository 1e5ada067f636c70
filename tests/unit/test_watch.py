"""`pillarbox watch` as a real process, on a real control socket: when a text counts as shown, and how it all ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tty as modes
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pillarbox.adapters.terminals import MAX_WATCHERS_PER_USER, Machine, Terminals
from pillarbox.app.cli import main as pillarbox
from pillarbox.app.control import ControlClient, ControlServer, Line, Receive, Refused
from pillarbox.app.watching import MAX_BEHIND, Watching, watch
from pillarbox.core.address import AddressError, Mailbox
from pillarbox.engine.ports import User

ALICE = Mailbox.parse("alice@example.test")
USERS = {name: User(ALICE) for name in ("alice", "alice@example.test")}
WATCHING = b"watching alice@example.test; SEND, SOML and SAML show here (Ctrl-C ends)\n"
PROGRAM = (sys.executable, "-c", "import sys; from pillarbox.app.cli import main; sys.exit(main())")
SHORT = 0.5  # seconds, for a watcher that stands still
TEXT = "Message from bob ...\n\nHi ü\nEOF\n"


def login(name: str) -> User | None:
    if name.endswith("@"):
        raise AddressError("address has no domain")
    return USERS.get(name)


class Place:
    """A server on a control socket in a directory, and what was started there."""

    def __init__(self, root: Path, *, bound: float = 30.0) -> None:
        self.root = root
        self.terminals = Terminals(
            login=lambda name: None, monotonic=lambda: 0.0, machine=Machine(lambda: []), bound=bound
        )
        self.server = ControlServer(root / "data" / "control.sock", self._handle, max_body=0)
        self.processes: list[Process] = []

    async def _handle(self, verb: str, args: Mapping[str, Any], body: bytes) -> object:
        assert verb == "watch"
        return watch(self.terminals, login, args["user"])

    async def watch(self, *words: str, out: int = PIPE, **environment: str) -> Process:
        """A process that says it is watching."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, "watch", *words, cwd=self.root, stdout=out, stderr=PIPE, env={**os.environ, **environment}
        )
        self.processes.append(process)
        assert process.stderr is not None
        assert await process.stderr.readline() == WATCHING
        return process

    async def nobody_watches(self) -> None:
        while self.terminals.active(ALICE):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[None]:
    (place.root / "data").mkdir()
    await place.server.start()
    try:
        yield
    finally:
        await place.server.close()
        for process in place.processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()


def at(root: Path, main: Callable[[Place], Coroutine[Any, Any, None]], *, bound: float = 30.0) -> None:
    async def run() -> None:
        async with asyncio.timeout(50):
            place = Place(root, bound=bound)
            async with opened(place):
                await main(place)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def shown(process: Process, count: int) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readexactly(count)


async def ended(process: Process) -> tuple[int | None, bytes | None, bytes]:
    """Status, and what is left of output and errors."""
    out, err = await process.communicate()
    return process.returncode, out, err


# --- the process


def test_texts_appear_as_they_come(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        process = await place.watch("alice")
        assert place.terminals.active(ALICE)
        for text in (TEXT, "no line end"):
            assert await place.terminals.show(ALICE, text) == 1
            expected = f"{text.rstrip()}\n".encode()
            assert await shown(process, len(expected)) == expected

    at(tmp_path, main)


def test_json_is_one_object_a_line(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        process = await place.watch("alice@example.test", "--json")
        assert await place.terminals.show(ALICE, TEXT) == 1
        assert process.stdout is not None
        assert json.loads(await process.stdout.readline()) == {"user": "alice@example.test", "text": TEXT}

    at(tmp_path, main)


def test_it_works_on_a_tty(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        master, slave = os.openpty()
        modes.setraw(slave)
        await place.watch("alice", out=slave)
        os.close(slave)
        assert await place.terminals.show(ALICE, TEXT) == 1
        assert await asyncio.to_thread(os.read, master, len(TEXT.encode())) == TEXT.encode()
        os.close(master)

    at(tmp_path, main)


def test_what_the_encoding_lacks_is_shown_as_a_question_mark(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        process = await place.watch("alice", PYTHONIOENCODING="ascii")
        assert await place.terminals.show(ALICE, "ü\ud800!\n") == 1
        assert await shown(process, 4) == b"??!\n"

    at(tmp_path, main)


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        process = await place.watch("alice")
        process.send_signal(signal.SIGINT)
        assert await ended(process) == (130, b"", b"")
        await place.nobody_watches()

    at(tmp_path, main)


def test_one_that_is_killed_no_longer_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main(place: Place) -> None:
        process = await place.watch("alice")
        process.send_signal(signal.SIGSTOP)  # so that it goes with a text in its hands
        showing = asyncio.create_task(place.terminals.show(ALICE, TEXT))
        await asyncio.sleep(0)
        process.kill()
        assert await showing == 0  # at once: the bound is far away
        assert not place.terminals.active(ALICE)

    at(tmp_path, main)
    assert not caplog.records


def test_one_that_stands_still_has_not_shown_it(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        process = await place.watch("alice")
        process.send_signal(signal.SIGSTOP)
        counts = await asyncio.gather(*(place.terminals.show(ALICE, f"{n}\n") for n in range(MAX_BEHIND + 2)))
        assert counts == [0] * (MAX_BEHIND + 2)
        process.send_signal(signal.SIGCONT)
        assert await place.terminals.show(ALICE, "on\n") == 1
        late = "".join(f"{n}\n" for n in range(MAX_BEHIND))  # what had been sent; no more was
        assert await shown(process, len(late) + 3) == f"{late}on\n".encode()

    at(tmp_path, main, bound=SHORT)


def test_output_that_nobody_reads_is_not_shown(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        read, write = os.pipe()
        process = await place.watch("alice", out=write)
        os.close(write)
        os.close(read)
        assert await place.terminals.show(ALICE, TEXT) == 0
        assert await ended(process) == (1, None, b"")

    at(tmp_path, main)


def test_a_server_that_stops_ends_it(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        process = await place.watch("alice")
        await place.server.close()
        assert await ended(process) == (1, b"", b"pillarbox: the server is stopping\n")
        assert not place.terminals.active(ALICE)

    at(tmp_path, main)


# --- refusals


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_needs_a_server(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pillarbox(["watch", "alice"]) == 1
    assert capsys.readouterr() == ("", "pillarbox: no server runs on this data: start one with `pillarbox serve`\n")
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("user", "status", "complaint"),
    [
        ("carol", 1, "pillarbox: carol: no such user here; `pillarbox user list` shows who is\n"),
        ("alice@", 2, "pillarbox: alice@: address has no domain\n"),
    ],
)
def test_it_needs_a_user(
    user: str, status: int, complaint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main(place: Place) -> None:
        assert await asyncio.to_thread(pillarbox, ["watch", user]) == status

    at(here, main)
    assert capsys.readouterr() == ("", complaint)


def test_it_needs_room(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def yes(text: str) -> bool:
        return True

    async def main(place: Place) -> None:
        for _ in range(MAX_WATCHERS_PER_USER):
            place.terminals.attach(ALICE, yes)
        assert await asyncio.to_thread(pillarbox, ["watch", "alice"]) == 1

    at(here, main)
    assert "10 watch alice@example.test already" in capsys.readouterr().err


# --- the conversation, without a process


def test_a_client_that_says_something_else_is_sent_away(tmp_path: Path) -> None:
    def client() -> None:
        control = ControlClient(tmp_path / "data" / "control.sock")
        for said in ({"shown": 1}, {"shown": "1"}, {"seen": 1}):
            with control.converse("watch", {"user": "alice"}) as dialog:
                dialog.send(said)
                with pytest.raises(Refused, match="what no watcher says"):
                    dialog.receive()

    async def main(place: Place) -> None:
        await asyncio.to_thread(client)
        assert not place.terminals.active(ALICE)

    at(tmp_path, main)


def test_texts_in_line_for_a_watcher_that_goes_are_not_shown() -> None:
    """Also those that were not sent, as it was too far behind."""
    sent: list[Line] = []

    async def send(line: Line) -> None:
        sent.append(line)

    async def gone() -> Line | None:
        return None

    async def main() -> None:
        terminals = Terminals(login=lambda name: None, monotonic=lambda: 0.0, machine=Machine(lambda: []))
        watching = Watching(terminals, ALICE)
        assert watching.begin(send) == {"user": "alice@example.test"}
        showing = [asyncio.create_task(terminals.show(ALICE, TEXT)) for _ in range(MAX_BEHIND + 3)]
        while len(sent) < MAX_BEHIND:  # noqa: ASYNC110
            await asyncio.sleep(0)
        receive: Receive = gone
        await watching.run(receive)
        watching.end()
        assert await asyncio.gather(*showing) == [0] * len(showing)
        assert [line["show"] for line in sent] == list(range(1, MAX_BEHIND + 1))

    asyncio.run(main())
