"""Forecasts with known answers: the real queue on imagined time over backlogs made here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

import pytest

from pillarbox.core.address import Domain
from pillarbox.core.envelope import MailOptions
from pillarbox.engine import queue
from pillarbox.engine.experience import ENOUGH, LOCAL_SECONDS, REMOTE_SECONDS, Experience
from pillarbox.engine.forecast import Forecast, Letter, Past, Shares, Terms, Waiter
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import State
from pillarbox.engine.retry import RetrySchedule
from pillarbox.engine.routing import Discard, Route
from pillarbox.engine.sampling import Sample
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.directory import ImaginedDirectory
from pillarbox.sim.forecast import HORIZON, KnownSites, Lanes, World, foretell
from pillarbox.sim.loop import Stalled, VirtualLoop
from tests.making import NOW

RETRY = RetrySchedule(intervals=(300.0, 900.0), give_up=7200.0)
FAR = "mx:far.example"
USUAL = Terms(10)


def letters(
    count: int,
    domain: str = "far.example",
    *,
    first: int = 1,
    at: float = NOW,
    due: float = NOW,
    state: State = State.SCHEDULED,
    meant: bool = True,
) -> list[Letter]:
    return [
        Letter(number, at, 2000, "a@here.example", (Waiter(0, f"x{number}@{domain}", "", state, due, meant=meant),))
        for number in range(first, first + count)
    ]


def forecast(
    backlog: Iterable[Letter],
    *,
    terms: dict[str, Terms] | Terms = USUAL,
    experience: Experience | None = None,
    every: int = 1,
    sites: dict[str, str] | None = None,
    routes: tuple[Route, ...] = (),
    kept: tuple[str, ...] = (),
) -> Forecast:
    directory = ImaginedDirectory(local=[Domain.parse("here.example")], kept=map(Domain.parse, kept))
    router = KnownSites(routes, directory, sites or {})
    lanes = Lanes(router, frozenset(route.match for route in routes if "@" in route.match))
    sample = Sample(every, lanes)
    for letter in backlog:
        sample.take(letter)

    def allowed(lane: str, route: Route) -> Terms:
        return terms if isinstance(terms, Terms) else terms.get(lane, USUAL)

    world = World(NOW, sample, lanes, router, experience or Experience(success=1.0, seconds=0.5), allowed, RETRY)
    return foretell(world)


def seconds(found: Forecast) -> float:
    assert found.last is not None
    return found.last - NOW


def test_a_rate_decides_where_it_is_the_narrowest() -> None:
    found = forecast(letters(600), terms=Terms(20, Limit(10, 1)))
    assert seconds(found) == pytest.approx(60, rel=0.05)
    assert (found.waiting, found.delivered, found.left, found.held, found.sampled) == (600, 600, 0, 0, None)
    assert found.lanes[0].per_second == 10


def test_else_the_attempts_at_a_time_and_what_one_takes() -> None:
    found = forecast(letters(600), terms=Terms(5, Limit(1000, 1)), experience=Experience(success=1.0, seconds=2.0))
    assert seconds(found) == pytest.approx(600 / 5 * 2, rel=0.01)
    assert found.lanes[0].per_second == 2.5


def test_lanes_do_not_wait_for_each_other() -> None:
    backlog = letters(100) + letters(600, "slow.example", first=1000)
    found = forecast(backlog, terms={FAR: Terms(10), "mx:slow.example": Terms(10, Limit(1, 1))})
    slow, fast = found.lanes
    assert (slow.lane, fast.lane) == ("mx:slow.example", FAR), "the fullest first"
    assert fast.last == pytest.approx(NOW + 5, abs=1) and slow.last == pytest.approx(NOW + 600, rel=0.05)
    assert dict(found.timeline)[60.0] == pytest.approx(540, rel=0.05)
    assert found.last == slow.last


def test_domains_of_one_site_share_its_lane() -> None:
    backlog = letters(300) + letters(300, "other.example", first=1000)
    apart = forecast(backlog, terms=Terms(20, Limit(10, 1)))
    shared = forecast(
        backlog, terms=Terms(20, Limit(10, 1)), sites=dict.fromkeys(("far.example", "other.example"), FAR)
    )
    assert seconds(apart) == pytest.approx(30, rel=0.05) and len(apart.lanes) == 2
    assert seconds(shared) == pytest.approx(60, rel=0.05) and [lane.lane for lane in shared.lanes] == [FAR]


def test_who_greylists_shows_as_the_pause_of_the_schedule() -> None:
    experience = Experience(seconds=0.5)
    for _ in range(ENOUGH):
        experience.learn(Past("far.example", FAR, State.DELIVERED, 2, 310.0))
    habit = experience.habit(FAR)
    assert (habit.first, habit.later, habit.seen) == (Shares(0.0), Shares(1.0), 2 * ENOUGH)
    found = forecast(letters(50), experience=experience)
    assert found.delivered == 50
    assert seconds(found) == pytest.approx(300, abs=6)
    assert found.timeline[0] == (60.0, 50)


def test_a_share_that_is_deferred_goes_by_the_schedule() -> None:
    found = forecast(letters(2000), terms=Terms(1000), experience=Experience(success=0.75, seconds=0.5))
    left = dict(found.timeline)
    assert left[60.0] == pytest.approx(500, rel=0.1) and left[600.0] == pytest.approx(125, rel=0.2)


def test_what_fails_for_good_is_told() -> None:
    experience = Experience()
    for number in range(100):
        experience.learn(Past("far.example", FAR, State.FAILED if number % 4 == 0 else State.DELIVERED, 1, 0.2))
    found = forecast(letters(1000), experience=experience)
    assert found.failed == pytest.approx(250, rel=0.15) and found.failed + found.delivered == 1000


def test_what_nobody_takes_expires_at_its_age() -> None:
    found = forecast(letters(30, at=NOW - 3600), experience=Experience(success=0.0, seconds=0.5))
    assert (found.delivered, found.expired, found.left) == (0, 30, 0)
    assert seconds(found) == pytest.approx(RETRY.give_up - 3600, abs=5)


def test_what_is_due_later_waits() -> None:
    assert seconds(forecast(letters(5, due=NOW + 1000))) == pytest.approx(1000.5, abs=0.1)


def test_held_ones_remain_and_leased_ones_are_due() -> None:
    backlog = letters(7, state=State.HELD) + letters(5, first=100, state=State.LEASED, due=NOW + 9000)
    found = forecast(backlog)
    assert (found.held, found.waiting, found.delivered, found.left) == (7, 5, 5, 0)
    assert seconds(found) == pytest.approx(0.5)


def test_only_held_ones() -> None:
    found = forecast(letters(7, state=State.HELD))
    assert (found.held, found.waiting, found.last, found.lanes) == (7, 0, None, [])


def test_what_is_not_meant_stands_in_the_way_all_the_same() -> None:
    backlog = letters(600, meant=False) + letters(1, first=5000, due=NOW)
    found = forecast(backlog, terms=Terms(20, Limit(10, 1)))
    assert (found.waiting, found.delivered) == (1, 1)
    assert seconds(found) == pytest.approx(60, rel=0.05)


def test_priority_goes_first() -> None:
    urgent = letters(1, first=5000)[0]._replace(options=MailOptions(priority=9))
    backlog = [*letters(600, meant=False), urgent]
    assert seconds(forecast(backlog, terms=Terms(1))) < 2


def test_recipients_of_one_message_are_one_job() -> None:
    waiters = tuple(Waiter(n, f"x{n}@far.example", "", State.SCHEDULED, NOW) for n in range(100))
    found = forecast([Letter(1, NOW, 10, None, waiters)], terms=Terms(1))
    assert found.delivered == 100 and seconds(found) == pytest.approx(0.5)


def test_routes_decide_and_an_operator_before_them() -> None:
    by_hand = letters(1, "here.example", first=50)[0]
    by_hand = by_hand._replace(waiters=(by_hand.waiters[0]._replace(next_hop="smtp://192.0.2.1:26"),))
    backlog = [*letters(3), *letters(2, "here.example", first=20), by_hand]
    found = forecast(backlog, routes=(Route("x1@far.example", Discard()),))
    assert {lane.lane: lane.waiting for lane in found.lanes} == {
        FAR: 2,
        "maildir": 2,
        "discard": 1,
        "smtp:192.0.2.1:26": 1,
    }


def test_nobody_comes_for_what_is_kept() -> None:
    found = forecast(letters(3, "kept.example"), kept=("kept.example",))
    assert [lane.lane for lane in found.lanes] == ["turn:kept.example"]
    assert found.expired == 3 and seconds(found) == pytest.approx(RETRY.give_up, abs=1)


def test_what_takes_longer_than_the_horizon_is_left() -> None:
    found = forecast(letters(60 * 24), terms=Terms(1, Limit(1, 3600)))
    assert found.last is None and found.ends == NOW + HORIZON
    assert found.left > 0 and found.delivered == pytest.approx(30 * 24, abs=2)


def test_a_sample_stands_for_all() -> None:
    backlog = letters(2000) + letters(40, "other.example", first=10_000)
    for terms in (Terms(20, Limit(100, 1)), Terms(50), Terms(2)):
        whole = forecast(backlog, terms=terms, experience=Experience(success=1.0, seconds=0.5))
        part = forecast(backlog, terms=terms, every=10, experience=Experience(success=1.0, seconds=0.5))
        assert part.sampled == 204 and (part.waiting, part.delivered) == (2040, 2040)
        assert [lane.waiting for lane in part.lanes] == [2000, 40]
        assert seconds(part) == pytest.approx(seconds(whole), rel=0.05)


def test_a_sample_has_something_of_each_lane() -> None:
    backlog = [*letters(5), *letters(1, first=90, meant=False), *letters(1, "a.example", first=91)]
    found = forecast(backlog, every=1000)
    assert {lane.lane: lane.waiting for lane in found.lanes} == {FAR: 5, "mx:a.example": 1}
    assert found.sampled == 3


def test_the_same_backlog_has_the_same_future() -> None:
    backlog = letters(500) + letters(100, "other.example", first=10_000)
    once, again = (forecast(backlog, experience=Experience(success=0.6, seconds=0.5)) for _ in range(2))
    assert once == again and once.delivered > 0


def test_beyond_the_room_of_a_lane_all_is_tried_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "WINDOW", 500)
    backlog = letters(3000) + letters(50, "other.example", first=10_000)
    slow, other = forecast(backlog, terms=Terms(5), experience=Experience(success=1.0, seconds=0.5)).lanes
    assert (slow.delivered, slow.left, other.delivered) == (3000, 0, 50)
    assert slow.last == pytest.approx(NOW + 300, abs=6) and other.last == pytest.approx(NOW + 5, abs=1)


# --- experience


def test_without_a_history_all_is_taken_in_the_usual_time() -> None:
    habit = Experience().habit(FAR)
    assert (habit.first, habit.later, habit.seconds) == (Shares(1.0), Shares(1.0), REMOTE_SECONDS)
    assert (habit.measured, habit.seen) == (False, 0)
    assert Experience().habit("maildir").seconds == LOCAL_SECONDS
    assert Experience().habit("discard").seconds == 0


def test_how_long_an_attempt_takes_is_what_the_quickest_took() -> None:
    experience = Experience()
    for number in range(100):
        experience.learn(Past("far.example", FAR, State.DELIVERED, 1, 0.25 if number < 30 else 500.0))
    habit = experience.habit(FAR)
    assert habit.seconds == 0.25 and habit.measured
    assert experience.habit("mx:unknown.example").seconds == 0.25, "another of its kind"
    assert experience.habit("smtp:192.0.2.1:25").seconds == REMOTE_SECONDS
    assert Experience(seconds=3.0).habit(FAR).seconds == 3.0


def test_what_waits_tells_of_its_attempts_too() -> None:
    experience = Experience()
    for _ in range(ENOUGH):
        experience.learn_deferred(FAR, 3)
    assert experience.habit(FAR).first == experience.habit(FAR).later == Shares(0.0)
    experience.learn_deferred("", 3)
    experience.learn_deferred(FAR, 0)
    assert experience.habit(FAR).seen == 3 * ENOUGH


# --- the loop


def test_a_day_passes_at_once() -> None:
    clock = VirtualClock(NOW)
    fired: list[float] = []

    async def main() -> None:
        clock.call_later(3600.0, lambda: fired.append(clock.now()))
        await asyncio.sleep(86400.0)

    with asyncio.Runner(loop_factory=partial(VirtualLoop, clock)) as runner:
        runner.run(main())
    assert fired == [NOW + 3600] and clock.now() == pytest.approx(NOW + 86400)


def test_a_loop_without_a_future_says_so() -> None:
    clock = VirtualClock(NOW)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop(clock)
    task = loop.create_task(main())
    with pytest.raises(Stalled):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
