"""Terminals of users: watchers, and ttys that are real pseudo-terminals, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import termios
import threading
import tty as modes
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from pillarbox.adapters import terminals as module
from pillarbox.adapters.terminals import (
    MAX_WATCHERS_PER_USER,
    Login,
    Machine,
    Terminals,
    TooManyWatchers,
    logins,
    uid_of,
)
from pillarbox.core.address import Mailbox
from pillarbox.engine.ports import Presence
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.presence import ImaginedPresence

ALICE = Mailbox.parse("alice@example.test")
BOB = Mailbox.parse("bob@example.test")
USERS = {"alice": ALICE, "al": ALICE, "bob": BOB}
SHORT = 0.5  # seconds, for terminals that block
LARGE = "x" * 300_000 + "\n"  # more than a tty holds

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def run(new_loop: NewLoop, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


class Pty:
    """A pseudo-terminal without output processing: what is written on the tty comes out as it is."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        modes.setraw(self.slave)
        self.path = Path(os.ttyname(self.slave))
        self.path.chmod(0o620)

    @property
    def name(self) -> str:
        return str(self.path.relative_to("/dev"))

    def read(self, count: int) -> bytes:
        octets = b""
        while len(octets) < count:
            octets += os.read(self.master, count - len(octets))
        return octets

    def silent(self) -> bool:
        os.set_blocking(self.master, False)
        try:
            return os.read(self.master, 1) == b""
        except BlockingIOError:
            return True

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        for file in (self.master, self.slave):
            if file >= 0:
                os.close(file)


@contextmanager
def ptys(count: int = 1) -> Iterator[list[Pty]]:
    opened = [Pty() for _ in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def machine(*present: tuple[str, str], devices: Path = Path("/dev"), uid: int | None = None) -> Machine:
    owner = os.getuid() if uid is None else uid
    return Machine(lambda: [Login(*each) for each in present], lambda name: owner, devices)


def terminals(of: Machine | None = None, *, clock: VirtualClock | None = None, bound: float = 30.0) -> Terminals:
    return Terminals(
        login=USERS.get, monotonic=(clock or VirtualClock()).monotonic, machine=of or machine(), bound=bound
    )


async def yes(text: str) -> bool:
    return True


# --- watchers


@LOOPS
def test_a_watcher_is_a_terminal_while_it_is_attached(new_loop: NewLoop) -> None:
    seen: list[str] = []

    async def show(text: str) -> bool:
        seen.append(text)
        return True

    async def main() -> None:
        presence = terminals()
        assert not presence.active(ALICE) and await presence.show(ALICE, "early") == 0
        detach = presence.attach(ALICE, show)
        other = presence.attach(ALICE, yes)
        assert presence.active(ALICE) and not presence.active(BOB)
        assert await presence.show(ALICE, "Hi\n") == 2 and await presence.show(BOB, "Hi\n") == 0
        detach()
        detach()
        assert presence.active(ALICE) and await presence.show(ALICE, "late") == 1
        other()
        assert not presence.active(ALICE)
        assert seen == ["Hi\n"]

    run(new_loop, main())


def test_watchers_fail_each_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def no(text: str) -> bool:
        return False

    async def gone(text: str) -> bool:
        raise ConnectionResetError("gone")

    async def never(text: str) -> bool:
        await asyncio.Event().wait()
        return True

    async def bug(text: str) -> bool:
        raise RuntimeError("a bug of ours")

    async def main() -> None:
        presence = terminals(bound=SHORT)
        for show in (no, gone, never, bug, yes):
            presence.attach(ALICE, show)
        assert await presence.show(ALICE, "Hi\n") == 1

    with caplog.at_level(logging.INFO):
        run(asyncio.new_event_loop, main())
    assert sorted(record.levelname for record in caplog.records) == ["ERROR", "INFO", "INFO"]


def test_terminals_are_shown_to_at_once() -> None:
    """One after the other they would never get beyond the first."""

    async def main() -> None:
        presence = terminals()
        together = asyncio.Barrier(3)

        async def show(text: str) -> bool:
            await together.wait()
            return True

        for _ in range(3):
            presence.attach(ALICE, show)
        assert await presence.show(ALICE, "Hi\n") == 3

    run(asyncio.new_event_loop, main())


def test_watchers_of_a_user_are_bounded() -> None:
    presence = terminals()
    detach = [presence.attach(ALICE, yes) for _ in range(MAX_WATCHERS_PER_USER)]
    with pytest.raises(TooManyWatchers, match=r"^10 watch alice@example\.test already, as many as may; end one"):
        presence.attach(ALICE, yes)
    presence.attach(BOB, yes)
    detach[3]()
    presence.attach(ALICE, yes)


def test_watchers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WATCHERS", 2)
    presence = terminals()
    presence.attach(ALICE, yes)
    detach = presence.attach(BOB, yes)
    with pytest.raises(TooManyWatchers, match=r"^2 watch already, as many as may; end one"):
        presence.attach(BOB, yes)
    detach()
    presence.attach(ALICE, yes)


# --- ttys


@LOOPS
def test_a_tty_shows_the_text(new_loop: NewLoop) -> None:
    async def main(pty: Pty) -> None:
        presence = terminals(machine(("alice", pty.name)))
        assert presence.active(ALICE) and not presence.active(BOB)
        assert await presence.show(ALICE, "Hi ü\nEOF\n") == 1
        expected = "\r\nHi ü\r\nEOF\r\n".encode()
        assert pty.read(len(expected)) == expected

    with ptys() as (pty,):
        run(new_loop, main(pty))


@LOOPS
def test_all_ttys_of_all_login_names_of_a_user_show_it(new_loop: NewLoop) -> None:
    async def main(one: Pty, two: Pty, other: Pty) -> None:
        twice = ("alice", one.name)  # as utmp has it where a session did not end well
        presence = terminals(machine(twice, twice, ("al", two.name), ("bob", other.name)))
        assert await presence.show(ALICE, "Hi\n") == 2
        assert one.read(6) == two.read(6) == b"\r\nHi\r\n"
        assert one.silent() and two.silent() and other.silent()

    with ptys(3) as (one, two, other):
        run(new_loop, main(one, two, other))


@LOOPS
def test_a_text_is_written_as_fast_as_the_terminal_takes_it(new_loop: NewLoop) -> None:
    read: list[bytes] = []
    expected = f"\r\n{LARGE}".replace("x\n", "x\r\n").encode()

    async def main(pty: Pty) -> None:
        presence = terminals(machine(("alice", pty.name)))
        showing = asyncio.create_task(presence.show(ALICE, LARGE))
        read.append(await asyncio.to_thread(pty.read, 1))
        assert not showing.done()
        read.append(await asyncio.to_thread(pty.read, len(expected) - 1))
        assert await showing == 1

    with ptys() as (pty,):
        run(new_loop, main(pty))
    assert b"".join(read) == expected


@LOOPS
@pytest.mark.parametrize("text", ["Hi\n", LARGE], ids=["stopped", "full"])
def test_a_terminal_that_blocks_is_not_waited_for(new_loop: NewLoop, text: str) -> None:
    async def main(blocked: Pty, other: Pty) -> None:
        presence = terminals(machine(("alice", blocked.name), ("bob", other.name)), bound=SHORT)
        presence.attach(ALICE, yes)
        loop = asyncio.get_running_loop()
        began = loop.time()
        showing = asyncio.create_task(presence.show(ALICE, text))
        await asyncio.sleep(0)
        assert await presence.show(BOB, "Hi\n") == 1  # meanwhile, and before the bound
        assert loop.time() - began < SHORT and not showing.done()
        assert await showing == 1  # the watcher
        assert SHORT <= loop.time() - began < 10 * SHORT

    with ptys(2) as (blocked, other):
        if text != LARGE:
            termios.tcflow(blocked.slave, termios.TCOOFF)  # Ctrl-S
        run(new_loop, main(blocked, other))


@LOOPS
def test_a_terminal_that_goes_in_the_middle_has_not_shown_it(new_loop: NewLoop) -> None:
    async def main(pty: Pty) -> None:
        presence = terminals(machine(("alice", pty.name)), bound=SHORT)
        showing = asyncio.create_task(presence.show(ALICE, LARGE))
        await asyncio.to_thread(pty.read, 1)
        pty.hang_up()
        assert await showing == 0

    with ptys() as (pty,):
        run(new_loop, main(pty))


def test_two_texts_never_mix_on_a_tty() -> None:
    size = 200_000
    read: list[bytes] = []

    async def main(pty: Pty) -> None:
        presence = terminals(machine(("alice", pty.name)))
        reader = threading.Thread(target=lambda: read.append(pty.read(2 * (size + 2))))
        reader.start()
        counts = await asyncio.gather(*(presence.show(ALICE, letter * size) for letter in "ab"))
        await asyncio.to_thread(reader.join)
        assert counts == [1, 1]

    with ptys() as (pty,):
        run(asyncio.new_event_loop, main(pty))
    assert sorted(read[0].split(b"\r\n")) == [b"", b"a" * size, b"b" * size]


def test_mesg_n_is_respected() -> None:
    clock = VirtualClock()

    async def main(pty: Pty) -> None:
        presence = terminals(machine(("alice", pty.name)), clock=clock)
        pty.path.chmod(0o600)
        assert not presence.active(ALICE) and await presence.show(ALICE, "no\n") == 0
        pty.path.chmod(0o620)
        assert not presence.active(ALICE)  # remembered for a second
        clock.advance(1.0)
        assert presence.active(ALICE)
        pty.path.chmod(0o600)
        assert await presence.show(ALICE, "no\n") == 0  # remembered, but looked at again when it is open
        assert pty.silent()

    with ptys() as (pty,):
        run(asyncio.new_event_loop, main(pty))


def test_a_tty_of_somebody_else_is_left_alone() -> None:
    with ptys() as (pty,):
        presence = terminals(machine(("alice", pty.name), uid=os.getuid() + 1))
        assert not presence.active(ALICE)
        unknown = Machine(lambda: [Login("alice", pty.name)], lambda name: None)
        assert not terminals(unknown).active(ALICE)


def test_only_ttys_below_the_devices_are_written_to(tmp_path: Path) -> None:
    """A file, a link to a tty, names that lead away, a device that is no tty, one that is not there."""

    async def main(pty: Pty) -> None:
        devices = tmp_path / "dev"
        devices.mkdir()
        file = devices / "file"
        file.write_text("precious")
        file.chmod(0o620)
        (devices / "link").symlink_to(pty.path)
        (tmp_path / "outside").symlink_to(pty.path)
        names = ["file", "link", "../outside", str(pty.path), "", "none", f"x/../../..{pty.path}"]
        for name in names:
            presence = terminals(machine(("alice", name), devices=devices))
            assert not presence.active(ALICE) and await presence.show(ALICE, "Hi\n") == 0
        assert file.read_text() == "precious" and pty.silent()

    with ptys() as (pty,):
        run(asyncio.new_event_loop, main(pty))


def test_a_device_that_is_no_tty_is_not_written_to() -> None:
    null = Path("/dev/null").stat()

    async def main() -> None:
        presence = terminals(machine(("alice", "null"), uid=null.st_uid))
        assert presence.active(ALICE)  # a character device that all may write to: only opening it tells
        assert await presence.show(ALICE, "Hi\n") == 0

    assert stat.S_IMODE(null.st_mode) & stat.S_IWGRP
    run(asyncio.new_event_loop, main())


def test_logins_are_looked_up_once_a_second_and_names_once() -> None:
    clock = VirtualClock()
    asked: list[str] = []
    present = [Login("alice", "pts/none"), Login("carol", "pts/none")]

    def seen() -> list[Login]:
        asked.append("logins")
        return present

    def uid(name: str) -> int:
        asked.append(name)
        return os.getuid()

    presence = Terminals(login=USERS.get, monotonic=clock.monotonic, machine=Machine(seen, uid))
    for moment in (0.0, 0.5, 0.4, 0.5):
        clock.advance(moment)
        presence.active(ALICE)
    assert asked == ["logins", "alice", "logins"]  # carol is no user of ours
    present.clear()
    clock.advance(1.0)
    presence.active(ALICE)
    present.append(Login("alice", "pts/none"))
    clock.advance(1.0)
    presence.active(ALICE)
    assert asked[3:] == ["logins", "logins", "alice"]  # who logs in again is asked for again


def test_a_machine_that_does_not_tell_has_no_logins(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> list[Login]:
        raise OSError(5, "Input/output error")

    presence = terminals(Machine(broken))
    assert not presence.active(ALICE)
    assert "can't see who is logged in" in caplog.text


def test_logins_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(login.name and login.terminal for login in logins())
    found = [SimpleNamespace(name="alice", terminal="pts/3"), SimpleNamespace(name="bob", terminal=None)]
    monkeypatch.setattr("psutil.users", lambda: found)
    assert logins() == [Login("alice", "pts/3")]


def test_uids_of_this_machine() -> None:
    assert uid_of("root") == 0
    assert uid_of("no-such-user") is None and uid_of("a\0b") is None


# --- the imagined one


def test_imagined_terminals() -> None:
    presence = ImaginedPresence([ALICE], blocked=[BOB])
    port: Presence = presence

    async def main() -> None:
        assert port.active(ALICE) and port.active(BOB)
        assert [await port.show(ALICE, "a"), await port.show(BOB, "b")] == [1, 0]
        presence.block(ALICE)
        presence.open(BOB)
        assert [await port.show(ALICE, "c"), await port.show(BOB, "d")] == [0, 1]
        presence.close(ALICE)
        presence.close(BOB)
        assert not port.active(ALICE) and not port.active(BOB) and await port.show(BOB, "e") == 0

    run(asyncio.new_event_loop, main())
    assert presence.shown == {ALICE: ["a"], BOB: ["d"]}


def test_the_real_one_meets_the_port() -> None:
    port: Presence = terminals()
    with closing(asyncio.new_event_loop()) as loop:
        assert loop.run_until_complete(port.show(ALICE, "Hi\n")) == 0
