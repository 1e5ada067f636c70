"""Which of several addresses is connected to, and when each is tried (RFC 8305), on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest

from pillarbox.engine.walk import Try
from pillarbox.net.race import ATTEMPT_DELAY, Dialling, first_connected
from pillarbox.sim.clock import VirtualClock
from tests.making import turns

NEVER = 10_000.0
REFUSED = ConnectionRefusedError(111, "Connection refused")
UNREACHABLE = OSError(101, "Network is unreachable")


@dataclass(eq=False)
class Line:
    """A connection that stands."""

    to: str
    is_open: bool = True

    def quit(self) -> None:
        assert self.is_open
        self.is_open = False


@dataclass
class World:
    """What each address does, and after how long: a fault, or None for a connection."""

    ways: dict[str, tuple[float, BaseException | None]]
    clock: VirtualClock = field(default_factory=VirtualClock)
    begun: list[tuple[str, float]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    called_off: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    async def dial(self, target: Try) -> Line:
        name = str(target.ip)
        self.begun.append((name, self.clock.monotonic()))
        seconds, error = self.ways[name]
        late = asyncio.Event()
        self.clock.call_later(seconds, late.set)
        try:
            if seconds:
                await late.wait()
        except asyncio.CancelledError:
            self.called_off.append(name)
            raise
        if error is not None:
            raise error
        self.lines.append(Line(name))
        return self.lines[-1]

    def start(self, order: Sequence[str]) -> asyncio.Task[tuple[Try, Line] | None]:
        def failed(target: Try, error: OSError) -> None:
            self.failed.append((str(target.ip), str(error) or type(error).__name__))

        dialling = Dialling(self.dial, failed, Line.quit, self.clock)
        targets = [Try("mx.test", ip_address(each), 25) for each in order]
        return asyncio.create_task(first_connected(targets, dialling))

    async def run(self, order: Sequence[str], *, within: float = 100.0) -> str:
        """Who won, "" for nobody."""
        racing = self.start(order)
        while not racing.done() and self.clock.monotonic() < within:
            await turns(20)
            self.clock.advance(0.01)
        won = await asyncio.wait_for(racing, 1)
        return "" if won is None else won[1].to


def on_clock(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


SIX, FOUR, SIX2, FOUR2 = "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"
RACES: list[tuple[str, dict[str, tuple[float, BaseException | None]], str, list[tuple[str, float]], list[str]]] = [
    ("the first is quick", {SIX: (0.2, None), FOUR: (0.0, None)}, SIX, [(SIX, 0.0)], []),
    (
        "the first goes nowhere",
        {SIX: (NEVER, None), FOUR: (0.1, None)},
        FOUR,
        [(SIX, 0.0), (FOUR, 0.25)],
        [SIX],
    ),
    (
        "the first is slow and quicker all the same",
        {SIX: (0.3, None), FOUR: (0.1, None)},
        SIX,
        [(SIX, 0.0), (FOUR, 0.25)],
        [FOUR],
    ),
    (
        "a fault begins the next at once",
        {SIX: (0.05, UNREACHABLE), FOUR: (0.1, None)},
        FOUR,
        [(SIX, 0.0), (FOUR, 0.05)],
        [],
    ),
    (
        "and its delay runs from then on",
        {SIX: (0.1, REFUSED), FOUR: (NEVER, None), SIX2: (0.0, None)},
        SIX2,
        [(SIX, 0.0), (FOUR, 0.1), (SIX2, 0.35)],
        [FOUR],
    ),
    (
        "all of them go nowhere but the last",
        {SIX: (NEVER, None), FOUR: (NEVER, None), SIX2: (NEVER, None), FOUR2: (0.0, None)},
        FOUR2,
        [(SIX, 0.0), (FOUR, 0.25), (SIX2, 0.5), (FOUR2, 0.75)],
        [SIX, FOUR, SIX2],
    ),
    (
        "all of them fail",
        {SIX: (0.0, UNREACHABLE), FOUR: (30.0, TimeoutError()), FOUR2: (1.0, REFUSED)},
        "",
        [(SIX, 0.0), (FOUR, 0.0), (FOUR2, 0.25)],
        [],
    ),
    ("one alone", {FOUR: (1.0, None)}, FOUR, [(FOUR, 0.0)], []),
    ("one alone, and it fails", {FOUR: (1.0, REFUSED)}, "", [(FOUR, 0.0)], []),
]


@pytest.mark.parametrize(
    ("ways", "winner", "begun", "called_off"), [each[1:] for each in RACES], ids=[each[0] for each in RACES]
)
def test_races(
    ways: dict[str, tuple[float, BaseException | None]],
    winner: str,
    begun: list[tuple[str, float]],
    called_off: list[str],
) -> None:
    async def main() -> None:
        world = World(ways)
        assert await world.run(list(ways)) == winner
        assert [name for name, _ in world.begun] == [name for name, _ in begun]
        assert [at for _, at in world.begun] == pytest.approx([at for _, at in begun], abs=0.02)
        assert world.called_off == called_off
        assert [line.to for line in world.lines if line.is_open] == ([winner] if winner else [])
        ended = [(name, str(error) or type(error).__name__) for name, (_, error) in ways.items() if error is not None]
        assert sorted(world.failed) == sorted(ended)

    on_clock(main)


def test_of_two_that_stand_at_the_same_moment_one_is_let_go() -> None:
    async def main() -> None:
        world = World({SIX: (ATTEMPT_DELAY + 1.0, None), FOUR: (1.0, None)})
        assert await world.run([SIX, FOUR]) == SIX  # both are due at 1.25
        assert [(line.to, line.is_open) for line in world.lines] == [(SIX, True), (FOUR, False)]
        assert world.failed == [] and world.called_off == []

    on_clock(main)


def test_who_is_called_off_calls_off_every_attempt() -> None:
    async def main() -> None:
        world = World({SIX: (NEVER, None), FOUR: (NEVER, None), FOUR2: (NEVER, None)})
        racing = world.start([SIX, FOUR, FOUR2])
        await turns()
        world.clock.advance(ATTEMPT_DELAY)
        await turns()
        racing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await racing
        assert world.called_off == [SIX, FOUR]

    on_clock(main)


def test_who_is_called_off_at_the_last_moment_keeps_no_connection() -> None:
    """An attempt takes a while to give up, and meanwhile nobody waits for the winner any more."""

    class Reluctant(World):
        async def dial(self, target: Try) -> Line:
            try:
                return await super().dial(target)
            except asyncio.CancelledError:
                await turns(10)
                raise

    async def main() -> None:
        world = Reluctant({SIX: (NEVER, None), FOUR: (0.0, None)})
        racing = world.start([SIX, FOUR])
        await turns(5)
        world.clock.advance(ATTEMPT_DELAY)
        while not world.called_off:
            await turns(1)
        assert [line.is_open for line in world.lines] == [True]
        racing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await racing
        await turns(20)
        assert [line.is_open for line in world.lines] == [False]

    on_clock(main)


def test_a_bug_in_one_attempt_ends_the_others() -> None:
    async def main() -> None:
        world = World({SIX: (NEVER, None), FOUR: (0.1, ZeroDivisionError("bug"))})
        with pytest.raises(ZeroDivisionError):
            await world.run([SIX, FOUR])
        assert world.called_off == [SIX]

    on_clock(main)
