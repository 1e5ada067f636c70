"""Limits of a lane: rates over virtual time, what the configuration says, breakers and paces of a shaper, records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pillarbox.app.config_lanes import limits_of
from pillarbox.app.config_load import ConfigError, parse
from pillarbox.engine.fair import Fairness
from pillarbox.engine.lanes import LaneLimits
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import Job, Report, State
from pillarbox.engine.pacing import Pacer
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.slowdown import SlowDown
from tests.making import turns
from tests.queue_rig import DAY, LATER, OK, Rig, run

LANE = "mx:far.example"


def detail(record: Record) -> dict[str, str | int | float]:
    return dict(record.detail)


async def let_pass(rig: Rig, seconds: float, step: float) -> None:
    end = rig.clock.monotonic() + seconds
    while rig.clock.monotonic() < end - 1e-9:
        rig.clock.advance(min(step, end - rig.clock.monotonic()))
        await turns(3)


# --- the pacer


@pytest.mark.parametrize("limit", [Limit(1, 1), Limit(7, 60), Limit(100, 60), Limit(1000, 1), Limit(5000, 3600)])
def test_a_rate_is_kept_without_a_burst(limit: Limit) -> None:
    """Whoever asks as often as a timer lets them gets the limit, and in no period more than it."""
    pacer, now, taken = Pacer(limit), 100.0, []
    pacer.wait(now)
    while now < 100.0 + max(60.0, 3 * limit.seconds):
        if wait := pacer.wait(now):
            now += max(wait, 0.003)  # a timer that comes late
        else:
            pacer.take(now)
            taken.append(now)
    wanted = (now - 100.0) * limit.most / limit.seconds
    assert 0.95 * wanted - 1 <= len(taken) <= 1.05 * wanted + 1
    first = [each - taken[0] for each in taken]
    assert sum(each < limit.seconds - 0.06 for each in first) <= limit.most


def test_nothing_is_saved_up_while_there_is_nothing_to_do() -> None:
    pacer = Pacer(Limit(60, 60))
    for now in (0.0, 1000.0):
        assert not pacer.wait(now)
        pacer.take(now)
        assert pacer.wait(now) == pytest.approx(1.0)


# --- a lane with a rate


@pytest.mark.parametrize(("limit", "expected"), [(Limit(100, 60), 100), (Limit(3, 1), 180), (Limit(3600, 3600), 60)])
def test_messages_of_a_lane_are_as_many_as_its_limit_says(limit: Limit, expected: int) -> None:
    async def main() -> None:
        rig = Rig(limit=1000, answer=lambda job, row: OK, limits=lambda lane: LaneLimits(messages=limit))
        for _ in range(400):
            rig.queue.accept(rig.message(), rig.answers.append)
        await turns()
        rig.queue.accept(rig.message("a@else.example"), rig.answers.append)
        await let_pass(rig, 60 - 1e-6, 0.05)
        assert 0.95 * expected <= len(rig.mailer().jobs) <= 1.05 * expected
        assert len(rig.mailer("mx:else.example").jobs) == 1  # a limit is one lane's

    run(main())


def test_a_lane_without_a_rate_has_no_timer() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        for _ in range(20):
            await rig.accept()
        assert rig.clock._timers == []
        rig = Rig(limit=9, limits=lambda lane: LaneLimits(messages=Limit(1, 60)))
        for _ in range(20):
            await rig.accept()
        assert len(rig.clock._timers) == 1  # one for the lane, however many wait

    run(main())


def test_who_waited_for_a_rate_has_one_record_of_it_and_it_comes_with_the_outcome() -> None:
    async def main() -> None:
        rig = Rig(answer=lambda job, row: OK, limits=lambda lane: LaneLimits(messages=Limit(6, 60)))
        first, second = await rig.accept(), await rig.accept()
        load = rig.queue.loads()[0]
        assert (load.ready, load.slowed) == (1, "limit: the configuration lets 6 a minute go this way")
        assert load.until == rig.clock.now() + 10
        await let_pass(rig, 12, 1)
        assert rig.spool.kinds(first.id) == [Kind.DELIVERED]
        assert rig.spool.kinds(second.id) == [Kind.THROTTLED, Kind.DELIVERED]
        told = next(record for record in rig.spool.records if record.kind is Kind.THROTTLED)
        assert detail(told) == {
            "text": "waited 10 s: the configuration lets 6 a minute go this way",
            "cause": "limit",
            "lane": LANE,
            "since": told.at - 10,
            "seconds": 10.0,
        }
        assert told.recipient == 0
        assert [len(unit.notes) for unit in rig.spool.units if unit.changes] == [0, 1]
        assert rig.queue.loads() == []
        rig.assert_empty()

    run(main())


def test_limits_follow_a_reload_also_in_a_lane_that_is_never_idle() -> None:
    async def main() -> None:
        rig = Rig(limit=2)
        for _ in range(30):
            await rig.accept()
        rig.queue.renew_lanes(lambda lane: LaneLimits(connections=5))
        assert len(rig.mailer().open) == 5
        rig.queue.renew_lanes(lambda lane: LaneLimits(connections=9, messages=Limit(1, 1)))
        assert len(rig.mailer().open) == 6
        await let_pass(rig, 2, 0.5)
        assert len(rig.mailer().open) == 8
        rig.queue.renew_lanes(lambda lane: LaneLimits())
        for _ in range(7):
            rig.mailer().end(OK)
        assert len(rig.mailer().open) == 2

    run(main())


# --- a shaper


class Shaper:
    """Does as it is told."""

    def __init__(self) -> None:
        self.opens = 0.0
        self.limit: int | None = None
        self.rate: Limit | None = None
        self.now: SlowDown | None = None
        self.reports: list[Report] = []

    def heard(self, report: Report, job: Job, now: float) -> Sequence[SlowDown]:
        self.reports.append(report)
        return ()

    def is_open(self, limit: int) -> bool:
        return not self.opens and self.limit is None and self.rate is None

    def opens_at(self, now: float) -> float:
        return self.opens

    def most(self, limit: int) -> int:
        return limit if self.limit is None else self.limit

    def pace(self) -> Limit | None:
        return self.rate

    def present(self, now: float) -> SlowDown | None:
        return self.now


def shaped(**rig: int) -> tuple[Rig, Shaper]:
    shaper = Shaper()
    made = Rig(**rig)  # type: ignore[arg-type]
    made.shaper = lambda: shaper
    return made, shaper


def test_behind_an_open_breaker_jobs_wait_on_the_disk_and_one_is_the_probe() -> None:
    async def main() -> None:
        rig, shaper = shaped(limit=1)
        messages = [await rig.accept() for _ in range(10)]
        shaper.opens = rig.clock.monotonic() + 300
        shaper.now = SlowDown("connections", "no attempts after 5 faults in a row", 0.0, shaper.opens, LANE)
        closes = rig.clock.now() + 300
        rig.mailer().end(LATER)
        await turns()
        rows = [rig.spool.rows[message.id, 0] for message in messages]
        assert {row.state for row in rows} == {State.SCHEDULED} and rows[1].due == closes
        assert all(closes + 5 <= row.due <= closes + 60 for row in rows[2:])
        assert len({row.due for row in rows[2:]}) == 8 and {row.attempts for row in rows[1:]} == {0}
        told = [record for record in rig.spool.records if record.kind is Kind.THROTTLED]
        assert len(told) == 9
        assert detail(told[0]) == {
            "text": "no attempts after 5 faults in a row",
            "cause": "connections",
            "lane": LANE,
            "until": closes,
            "due": closes,
        }
        late = await rig.accept()
        assert rig.spool.states(late.id) == [State.SCHEDULED]
        (load,) = rig.queue.loads()
        assert load.until == closes and load.slowed.startswith("connections: no attempts")
        shaper.opens, shaper.limit, shaper.now = 0.0, 1, None
        await let_pass(rig, 300.5, 0.5)
        assert len(rig.mailer().open) == 1 and len(rig.mailer().jobs) == 2
        rig.mailer().end(OK)
        shaper.limit = None
        for _ in range(10):
            await let_pass(rig, 10, 5)
            while rig.mailer().open:
                rig.mailer().end(OK)
        assert [row.state for row in rows[1:]] == [State.DELIVERED] * 9
        assert len(shaper.reports) == len(rig.mailer().jobs)

    run(main())


def test_jobs_in_flight_are_as_many_as_the_shaper_says() -> None:
    async def main() -> None:
        rig, shaper = shaped(limit=5)
        shaper.limit = 2
        for _ in range(10):
            await rig.accept()
        assert len(rig.mailer().open) == 2
        shaper.limit = 4
        rig.mailer().end(OK)
        assert len(rig.mailer().open) == 4
        shaper.limit = 99
        rig.mailer().end(OK)
        assert len(rig.mailer().open) == 5

    run(main())


def test_a_pace_holds_back_what_was_never_tried_and_no_retry() -> None:
    async def main() -> None:
        rig, shaper = shaped(limit=100)
        retries = [await rig.accept() for _ in range(5)]
        for _ in range(5):
            rig.mailer().end(LATER)
        await turns()
        shaper.rate = Limit(1, 60)
        await let_pass(rig, 299, 13)
        fresh = [await rig.accept() for _ in range(5)]
        assert [work.message.id for work, _ in rig.mailer().open] == [fresh[0].id]
        await let_pass(rig, 1, 1)
        tried = [work.message.id for work, _ in rig.mailer().open]
        assert sorted(tried[1:]) == [message.id for message in retries]
        await let_pass(rig, 60, 5)
        assert [work.message.id for work, _ in rig.mailer().open][6:] == [fresh[1].id]

    run(main())


def test_a_pace_that_begins_lets_the_retries_in_the_line_go_first() -> None:
    async def main() -> None:
        rig, shaper = shaped(limit=1)
        retry = await rig.accept()
        rig.mailer().end(LATER)
        await let_pass(rig, 290, 29)
        fresh = [await rig.accept() for _ in range(3)]
        await let_pass(rig, 20, 1)
        assert rig.spool.states(retry.id) == [State.LEASED]
        shaper.rate = Limit(1, 3600)
        rig.mailer().end(OK)  # of the first fresh one
        assert [work.message.id for work, _ in rig.mailer().open] == [retry.id]
        rig.mailer().end(OK)
        assert [work.message.id for work, _ in rig.mailer().open] == [fresh[1].id]
        rig.mailer().end(OK)
        assert rig.mailer().open == []

    run(main())


def test_what_waits_behind_a_breaker_expires_all_the_same() -> None:
    async def main() -> None:
        rig, shaper = shaped(limit=1)
        shaper.opens = 1e9
        message = await rig.accept()
        assert rig.spool.states(message.id) == [State.SCHEDULED]
        await rig.pass_time(5 * DAY + 1)
        assert rig.spool.states(message.id) == [State.EXPIRED]
        assert rig.spool.kinds(message.id)[-2:] == [Kind.EXPIRED, Kind.NOTICE]

    run(main())


# --- the configuration

LANES = """
[[lane]]
match = "mx:*.example.net"
connections = 3
messages = "100/m"

[[lane]]
match = "MX:(mx?|*).EXAMPLE.*"
messages = "off"
new_connections = "10/s"
priority = -2

[[lane]]
match = "*"
connections = 7
messages = "5000/h"
messages_per_connection = 50
recipients_per_transaction = 20
fair = "sender"
"""


def test_each_key_is_of_the_first_entry_that_matches_and_has_it() -> None:
    entries = parse(LANES, Path("pillarbox.toml")).lanes
    last = {"messages_per_connection": 50, "recipients_per_transaction": 20, "fair": Fairness.SENDER}
    assert limits_of("mx:(mx1|mx2).example.net", entries) == LaneLimits(
        connections=3,
        messages=Limit(100, 60),
        new_connections=Limit(10, 1),
        priority=-2,
        **last,  # type: ignore[arg-type]
    )
    assert limits_of("mx:(mx1|mx2).example.org", entries) == LaneLimits(
        connections=7,
        new_connections=Limit(10, 1),
        priority=-2,
        **last,  # type: ignore[arg-type]
    )
    assert limits_of("maildir", entries) == LaneLimits(
        connections=7,
        messages=Limit(5000, 3600),
        **last,  # type: ignore[arg-type]
    )
    assert limits_of("mx:[2001:db8::1]", ()) == LaneLimits()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("connections = 0", "too small"),
        ('messages = "100"', "the period is missing"),
        ("priority = 10", "too large; allowed: a whole number from -9 to 9"),
        ('fair = "tenants"', 'did you mean "tenant"?'),
        ("retries = 3", "unknown key"),
    ],
)
def test_a_wrong_limit_is_named(line: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(f'[[lane]]\nmatch = "*"\n{line}\n', Path("pillarbox.toml"))
    assert complaint in str(found.value) and ":3: lane[0]." in str(found.value)
