"""A wall clock that is set by a day, forward, back, and back again, while mail waits: nothing expires early, no sender
is told of a delay that is none, what is due is noticed, and nothing is tried in a circle."""

from __future__ import annotations

import pytest

from pillarbox.core.envelope import MessageId
from pillarbox.engine import queue as queue_module
from pillarbox.engine.ids import IdSource
from pillarbox.engine.jumps import MOST, NOTICED, Jumps
from pillarbox.engine.mail import Message, State
from pillarbox.engine.records import Kind
from pillarbox.engine.retry import RetrySchedule
from pillarbox.sim.clock import VirtualClock
from tests.making import turns
from tests.queue_rig import DAY, LATER, OK, Rig, run

HOUR = 3600.0
GIVE_UP = 5 * DAY
SCHEDULE = RetrySchedule(intervals=(300.0, HOUR), give_up=GIVE_UP, warn=4 * HOUR)

# The moments of jumps, in seconds after the message was accepted, and by how much.
JUMPS: list[tuple[tuple[float, float], ...]] = [
    ((HOUR, DAY),),
    ((HOUR, -DAY),),
    ((HOUR, DAY), (2 * HOUR, -DAY)),
    ((HOUR, -DAY), (2 * HOUR, DAY)),
    ((4.5 * DAY, DAY),),
    ((4.5 * DAY, DAY), (4.5 * DAY + HOUR, -DAY)),
    ((4.5 * DAY, -DAY), (4.5 * DAY + HOUR, DAY)),
    ((HOUR, DAY), (DAY, DAY), (2 * DAY, -DAY), (3 * DAY, -DAY)),
]


def is_told(rig: Rig, message: Message) -> bool:
    return any(kind is Kind.NOTICE for kind in rig.spool.kinds(message.id))


async def go_on(rig: Rig, seconds: float) -> None:
    """In large steps, since it goes on for days."""
    end = rig.clock.monotonic() + seconds
    while rig.clock.monotonic() < end:
        rig.clock.advance(min(120.0, end - rig.clock.monotonic()))
        await turns(8)


async def past(rig: Rig, jumps: tuple[tuple[float, float], ...], until: float) -> None:
    """Let time pass up to so many seconds after the beginning, and the clock jump on the way."""
    for moment, seconds in jumps:
        if rig.clock.monotonic() <= moment < until:
            await go_on(rig, moment - rig.clock.monotonic())
            rig.clock.jump(seconds)
    await go_on(rig, until - rig.clock.monotonic())


@pytest.mark.parametrize("jumps", JUMPS, ids=str)
def test_nothing_expires_early(jumps: tuple[tuple[float, float], ...]) -> None:
    async def main() -> None:
        rig = Rig(retry=SCHEDULE, answer=lambda job, row: LATER)
        message = await rig.accept()
        await past(rig, jumps, GIVE_UP - 60)
        assert rig.spool.states(message.id) != [State.EXPIRED]
        for _ in range(16):  # a jump back delays by no more than that
            await go_on(rig, DAY / 8)
        await turns()
        assert rig.spool.states(message.id) == [State.EXPIRED]
        assert rig.spool.kinds(message.id).count(Kind.DEFERRED) < 7 * 24  # by the schedule, once an hour

    run(main())


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_no_delay_is_told_that_is_none(seconds: float) -> None:
    async def main() -> None:
        rig = Rig(retry=SCHEDULE, answer=lambda job, row: LATER)
        message = await rig.accept(sender="alice@example.test")
        rig.clock.jump(seconds)
        await rig.pass_time(4 * HOUR - 60)
        assert not is_told(rig, message)
        await rig.pass_time(max(-seconds, 0) + HOUR)
        assert is_told(rig, message)

    run(main())


@pytest.mark.parametrize("seconds", [DAY, 2 * HOUR])
def test_what_has_become_due_is_noticed_soon(seconds: float) -> None:
    async def main() -> None:
        rig = Rig(retry=SCHEDULE)
        await rig.accept()
        rig.mailer().end(LATER)
        await turns()
        rig.clock.jump(seconds)
        await rig.pass_time(queue_module.LOOK_AGAIN)
        assert len(rig.mailer().jobs) == 2
        rig.mailer().end(OK)
        await turns()
        rig.assert_empty()

    run(main())


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_what_comes_behind_a_jump_has_an_age_as_any_other(seconds: float) -> None:
    async def main() -> None:
        rig = Rig(retry=SCHEDULE, answer=lambda job, row: LATER)
        await rig.accept()
        rig.clock.jump(seconds)
        await rig.pass_time(queue_module.LOOK_AGAIN + 300)
        message = await rig.accept()
        await rig.pass_time(GIVE_UP - 60)
        assert rig.spool.states(message.id) == [State.SCHEDULED]
        await rig.pass_time(120)
        assert rig.spool.states(message.id) == [State.EXPIRED]

    run(main())


def test_jumps_are_added_up_for_who_was_there() -> None:
    clock = VirtualClock()
    ids = IdSource(clock)
    jumps = Jumps(clock, ids)
    first = ids.next()
    assert jumps.since(first) == 0
    clock.jump(DAY)
    jumps.look()
    second = ids.next()
    assert (jumps.since(first), jumps.since(second)) == (DAY, 0)
    clock.advance(HOUR)
    clock.jump(-2 * DAY)
    jumps.look()
    third = ids.next()
    assert (jumps.since(first), jumps.since(second), jumps.since(third)) == (0, 0, 0)
    clock.jump(DAY)
    assert [jumps.since(each) for each in (first, second, third)] == [0, 0, DAY]


def test_a_clock_that_is_corrected_a_little_has_not_jumped(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    jumps = Jumps(clock, IdSource(clock))
    for _ in range(100):
        clock.jump(NOTICED - 1)
        assert jumps.since(MessageId(1)) == 0
    assert not caplog.records
    for _ in range(2 * MOST):
        clock.jump(NOTICED)
        jumps.look()
    assert jumps.since(MessageId(1)) == MOST * NOTICED
