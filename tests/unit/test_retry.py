"""The retry schedule, and the clock that tests drive it with."""

from __future__ import annotations

import asyncio
import re

import pytest

from pillarbox.adapters.system import SystemClock
from pillarbox.engine.ports import Clock
from pillarbox.engine.retry import DEFAULT, GiveUp, RetryAt, RetrySchedule
from pillarbox.sim.clock import VirtualClock

HOUR = 3600.0
DAY = 24 * HOUR
SHORT = RetrySchedule((60.0, 120.0), 600.0)


@pytest.mark.parametrize(
    ("schedule", "age", "attempts", "decision"),
    [
        (DEFAULT, 0.0, 1, RetryAt(300.0)),
        (DEFAULT, 300.0, 2, RetryAt(900.0)),
        (DEFAULT, 1 * HOUR, 4, RetryAt(HOUR)),
        (DEFAULT, 8 * HOUR, 6, RetryAt(4 * HOUR)),
        (DEFAULT, 8 * HOUR, 60, RetryAt(4 * HOUR)),
        (DEFAULT, 5 * DAY - 1, 40, RetryAt(1.0)),
        (DEFAULT, 5 * DAY, 40, GiveUp()),
        (DEFAULT, 9 * DAY, 40, GiveUp()),
        (SHORT, 0.0, 0, RetryAt(60.0)),
        (SHORT, -5000.0, 1, RetryAt(60.0)),  # the clock was set back
        (SHORT, 540.0, 9, RetryAt(60.0)),  # pulled in: a last try when the time is up
        (SHORT, 600.0 - 1e-6, 9, GiveUp()),  # rounding makes no further attempt
        (RetrySchedule((HOUR,), 60.0), 0.0, 1, RetryAt(60.0)),
    ],
)
def test_decide(schedule: RetrySchedule, age: float, attempts: int, decision: RetryAt | GiveUp) -> None:
    assert schedule.decide(age, attempts) == decision


@pytest.mark.parametrize(
    ("intervals", "give_up", "text"),
    [((), 60.0, "needs intervals"), ((60.0, 0.0), 60.0, "needs intervals"), ((60.0,), 0.0, "given up")],
)
def test_schedules_that_make_no_sense(intervals: tuple[float, ...], give_up: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RetrySchedule(intervals, give_up)


def test_the_whole_life_of_a_message_nobody_takes() -> None:
    clock = VirtualClock(now=1_700_000_000.3)
    accepted_at = clock.now()
    ages: list[float] = []

    def attempt() -> None:
        ages.append(clock.now() - accepted_at)
        match DEFAULT.decide(ages[-1], len(ages)):
            case RetryAt(delay=delay):
                clock.call_later(delay, attempt)

    attempt()
    clock.advance(30 * DAY)
    assert [round(age) for age in ages[:8]] == [0, 300, 1200, 3000, 6600, 13800, 28200, 42600]
    assert round(ages[-1]) == 5 * DAY
    assert len(ages) == len({round(age) for age in ages})


def test_the_virtual_clock_fires_in_order() -> None:
    clock = VirtualClock(now=1000.0)
    port: Clock = clock
    fired: list[tuple[str, float]] = []
    port.call_later(2.0, lambda: fired.append(("second", clock.monotonic())))

    def nest() -> None:
        port.call_later(0.5, lambda: fired.append(("nested", clock.monotonic())))

    port.call_later(1.0, nest)
    port.call_later(-1.0, lambda: fired.append(("overdue", clock.monotonic())))
    port.call_later(2.0, lambda: fired.append(("third", clock.monotonic())))
    cancelled = port.call_later(1.0, lambda: fired.append(("never", 0.0)))
    cancelled.cancel()
    clock.advance(1.9)
    assert fired == [("overdue", 0.0), ("nested", 1.5)]
    clock.advance(0.5)
    assert fired[2:] == [("second", 2.0), ("third", 2.0)]
    assert (clock.monotonic(), clock.now()) == (2.4, 1002.4)


def test_a_jump_moves_the_wall_clock_only() -> None:
    clock = VirtualClock(now=1000.0)
    fired: list[float] = []
    clock.call_later(10.0, lambda: fired.append(clock.now()))
    clock.jump(3600.0)
    assert (clock.now(), clock.monotonic(), fired) == (4600.0, 0.0, [])
    clock.jump(-3600.0)
    clock.advance(10.0)
    assert fired == [1010.0]


def test_the_system_clock_is_that_of_the_loop() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        clock: Clock = SystemClock(loop)
        assert loop.time() <= clock.monotonic() <= loop.time()
        assert re.fullmatch(r"\d{10}", str(int(clock.now())))
        fired = asyncio.Event()
        clock.call_later(3600.0, lambda: pytest.fail("was cancelled")).cancel()
        clock.call_later(0.0, fired.set)
        await fired.wait()

    asyncio.run(run())
