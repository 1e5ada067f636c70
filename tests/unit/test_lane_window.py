"""A lane keeps a window of its jobs in memory: the rest is on the disk, comes back in time, and is in nobody's way."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from pillarbox.adapters.spool_rows import PARKED_LANES
from pillarbox.adapters.spool_schema import open_spool
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.core.envelope import MessageId
from pillarbox.engine import dispatch as dispatch_module
from pillarbox.engine.lanes import LaneLimits
from pillarbox.engine.mail import Change, Leased, State, Unit
from pillarbox.engine.records import Kind
from pillarbox.engine.retry import RetrySchedule
from tests.making import MemorySpool, Stored, make_message, turns
from tests.queue_rig import LATER, OK, Rig, run

LANE = "mx:far.example"


class LargeSpool(MemorySpool):
    """Finds what is due without looking at all there is, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0
        self._due: list[tuple[float, tuple[int, int]]] = []
        self._in_lane: dict[str, list[tuple[int, int]]] = {}

    def add(self, number: int, recipient: str, due: float) -> None:
        message = make_message(MessageId(number), recipient, at=due)
        self.messages[number] = message
        self.bodies[number] = message.content or b""
        self.rows[number, 0] = Stored(message.envelope.recipients[0], State.SCHEDULED, due)
        heapq.heappush(self._due, (due, (number, 0)))

    def _apply(self, unit: Unit) -> None:
        super()._apply(unit)
        for change in unit.changes:
            if change.state is State.SCHEDULED:
                key = (int(change.message), change.number)
                heapq.heappush(self._due, (change.due, key))
                if change.parked:
                    heapq.heappush(self._in_lane.setdefault(change.lane, []), key)

    def _is_due(self, due: float, key: tuple[int, int]) -> bool:
        row = self.rows[key]
        return row.state is State.SCHEDULED and row.due == due

    async def lease(self, now: float, limit: int) -> list[Leased]:
        self.questions += 1
        await turns(1)
        keys: list[tuple[int, int]] = []
        while self._due and self._due[0][0] <= now and len(keys) < limit:
            due, key = heapq.heappop(self._due)
            if self._is_due(due, key):
                keys.append(key)
        return self._leased(keys)

    async def next_due(self) -> float | None:
        self.questions += 1
        while self._due and not self._is_due(*self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    async def lease_parked(self, lane: str, limit: int) -> list[Leased]:
        self.questions += 1
        await turns(1)
        keys: list[tuple[int, int]] = []
        line = self._in_lane.get(lane, [])
        while line and len(keys) < limit:
            key = heapq.heappop(line)
            if self.rows[key].state is State.SCHEDULED and self.rows[key].parked and key not in keys:
                keys.append(key)
        return self._leased(keys)

    def _scheduled(self, message: int) -> int:
        return self.rows[message, 0].state <= State.SCHEDULED


async def let_pass(rig: Rig, seconds: float, step: float = 0.5) -> None:
    end = rig.clock.monotonic() + seconds
    while rig.clock.monotonic() < end - 1e-9:
        rig.clock.advance(min(step, end - rig.clock.monotonic()))
        await turns(5)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_module, "LANE_WINDOW", 20)


@pytest.mark.usefixtures("small")
def test_what_is_beyond_the_window_is_on_the_disk_and_was_not_tried() -> None:
    async def main() -> None:
        rig = Rig(limit=2)
        messages = [await rig.accept() for _ in range(100)]
        assert rig.in_memory == 22
        rows = [rig.spool.rows[message.id, 0] for message in messages[22:]]
        assert {(row.state, row.attempts, row.lane, row.parked, row.reply) for row in rows} == {
            (State.SCHEDULED, 0, LANE, True, "")
        }
        assert rig.spool.records == []
        due = [row.due - rig.clock.now() for row in rows]
        assert due == sorted(due) and due[0] >= 5 and len(set(due)) == len(due)
        assert [len(rig.mailer().open), rig.queue.loads()[0].ready] == [2, 20]

    run(main())


@pytest.mark.usefixtures("small")
def test_a_lane_that_runs_low_fetches_its_own_before_it_is_due_oldest_first() -> None:
    async def main() -> None:
        rig = Rig(limit=2)
        messages = [await rig.accept() for _ in range(100)]
        for _ in messages:
            rig.mailer().end(OK)
            await turns()
            assert rig.in_memory <= 24
        assert [job.message.id for job in rig.mailer().jobs] == [message.id for message in messages]
        assert {row.state for row in rig.spool.rows.values()} == {State.DELIVERED}
        assert rig.queue._dispatch.parked == {}
        rig.assert_empty()

    run(main())


@pytest.mark.usefixtures("small")
def test_a_retry_that_went_back_keeps_its_reply_and_its_attempts() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        retry = await rig.accept()
        rig.mailer().end(LATER)
        await turns()
        for _ in range(21):
            await rig.accept(sender="someone@else.example")
        for _ in range(30):
            await rig.accept()
        await rig.pass_time(300)
        row = rig.spool.rows[retry.id, 0]
        assert (row.state, row.attempts, row.reply) == (State.SCHEDULED, 1, LATER.text) and row.parked
        assert rig.spool.kinds(retry.id) == [Kind.DEFERRED]
        for _ in range(60):
            if rig.mailer().open:
                rig.mailer().end(OK)
            await turns()
        assert rig.spool.states(retry.id) == [State.DELIVERED]

    run(main())


@pytest.mark.usefixtures("small")
def test_a_retry_that_is_not_due_is_not_fetched_by_a_lane_with_room() -> None:
    async def main() -> None:
        rig = Rig(limit=2)
        later = [await rig.accept() for _ in range(2)]
        for _ in later:
            rig.mailer().end(LATER)
        await turns()
        for _ in range(60):
            await rig.accept()
        for _ in range(60):
            rig.mailer().end(OK)
            await turns()
        assert [rig.spool.states(message.id) for message in later] == [[State.SCHEDULED]] * 2

    run(main())


@pytest.mark.usefixtures("small")
def test_a_tenant_with_little_mail_does_not_wait_on_the_disk_behind_one_with_much() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        for _ in range(100):
            await rig.accept(sender="bulk@large.example")
        small = [await rig.accept(sender="a@small.example") for _ in range(3)]
        assert [rig.spool.states(message.id) for message in small] == [[State.LEASED]] * 3
        for _ in range(7):
            rig.mailer().end(OK)
            await turns()
        assert [rig.spool.states(message.id) for message in small] == [[State.DELIVERED]] * 3

    run(main())


@pytest.mark.usefixtures("small")
def test_after_a_restart_the_lane_knows_what_waits_for_it() -> None:
    async def main() -> None:
        before = Rig(limit=1)
        for _ in range(60):
            await before.accept()
        before.spool.restarted()
        rig = Rig(limit=1, spool=before.spool, clock=before.clock)
        rig.queue.start()
        await turns(50)
        done = 0
        while rig.mailer().open:
            rig.mailer().end(OK)
            await turns()
            done += 1
        assert done == 60  # without the clock having moved

    run(main())


@pytest.mark.usefixtures("small")
def test_what_waits_for_room_expires_all_the_same() -> None:
    async def main() -> None:
        rig = Rig(limit=1, retry=RetrySchedule((300.0,), give_up=7200.0))
        messages = [await rig.accept(sender=None) for _ in range(60)]
        await rig.pass_time(7200 + 900)
        states = [rig.spool.states(message.id)[0] for message in messages]
        assert states[:21] == [State.LEASED] * 21 and set(states[21:]) == {State.EXPIRED}

    run(main())


def test_many_dead_lanes_leave_room_for_others() -> None:
    async def main() -> None:
        rig = Rig(limit=5)
        for number in range(12_000):
            rig.queue.accept(rig.message(f"a@dead{number % 30}.example"), rig.answers.append)
            if number % 500 == 0:
                await turns(3)
        rig.queue.accept(rig.message("a@live.example"), rig.answers.append)
        await turns()
        assert len(rig.mailer("mx:live.example").jobs) == 1
        for _ in range(3):
            assert rig.queue._holding.room > 100

    run(main())


def test_one_dead_site_with_a_long_queue_delays_no_other_lane() -> None:
    """50,000 recipients that never get an answer, and mail for others in between and from outside."""

    async def main() -> None:
        spool = LargeSpool()
        rig = Rig(limit=20, spool=spool, limits=lambda lane: LaneLimits())
        dead, live = range(1, 50_001), range(50_001, 50_011)
        for number in dead:
            spool.add(number, "a@dead.example", rig.clock.now())
        for number in live:
            spool.add(number, "b@live.example", rig.clock.now())
        rig.ids = type(rig.ids)(rig.clock, 1 << 40)
        rig.queue.start()
        waited = []
        for _ in range(60):
            begin = rig.clock.monotonic()
            await rig.accept("c@new.example")
            while not rig.mailers.get("mx:new.example") or not rig.mailer("mx:new.example").open:
                await let_pass(rig, 0.1, 0.1)
            rig.mailer("mx:new.example").end(OK)
            waited.append(rig.clock.monotonic() - begin)
            await let_pass(rig, 1.0, 0.1)
        assert max(waited) <= 0.2
        assert len(rig.mailer("mx:live.example").jobs) == 10  # behind all of the others on the disk
        assert len(rig.mailer("mx:dead.example").jobs) == 20 and rig.in_memory <= 1100
        assert spool.questions <= 50_000 / 500 * 2 + 100
        before = spool.questions
        await let_pass(rig, 300.0, 5.0)
        assert spool.questions - before <= 100
        due = sorted(row.due for key, row in spool.rows.items() if key[0] in dead and row.state is State.SCHEDULED)
        assert len(due) >= 48_000
        assert all(later - sooner > 1 for sooner, later in zip(due, due[500:], strict=False))  # never all at once

    run(main())


# --- the disk


def parked(number: int, *, lane: str = LANE, is_parked: bool = True, due: float = 9e9) -> Change:
    return Change(MessageId(number), 0, State.SCHEDULED, due, 0, lane, None, None, parked=is_parked)


async def written(spool: SqliteSpool, units: Sequence[Unit]) -> None:
    for unit in units:
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        spool.write(unit, done.set_result)
        assert await done is None


def test_the_disk_finds_what_waits_for_room_by_lane_and_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "bodies").mkdir()
        spool = SqliteSpool(tmp_path / "spool-0.db", tmp_path / "bodies", asyncio.get_running_loop())
        try:
            await written(spool, [Unit(messages=(make_message(MessageId(number)),)) for number in range(1, 9)])
            changes = (*map(parked, (3, 1, 2)), parked(4, is_parked=False), parked(5, lane="mx:a"), parked(6, lane="z"))
            await written(spool, [Unit(changes=changes)])
            assert await spool.parked_lanes() == ["mx:a", LANE, "z"]
            assert [leased.message.id for leased in await spool.lease_parked(LANE, 2)] == [1, 2]
            assert [leased.message.id for leased in await spool.lease_parked(LANE, 2)] == [3]
            assert await spool.lease_parked(LANE, 2) == []
            await spool.close()
            spool = SqliteSpool(tmp_path / "spool-0.db", tmp_path / "bodies", asyncio.get_running_loop())
            due = await spool.lease(1.0, 10)  # as after a crash: those that were fetched are due at once
            assert sorted(int(leased.message.id) for leased in due) == [1, 2, 3]
            assert await spool.parked_lanes() == ["mx:a", "z"]
            assert {int(leased.message.id) for leased in await spool.lease(9e9, 10)} == {4, 5, 6, 7, 8}
        finally:
            await spool.close()

    run(main())


def test_the_reply_stands_where_nothing_was_tried(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "bodies").mkdir()
        spool = SqliteSpool(tmp_path / "spool-0.db", tmp_path / "bodies", asyncio.get_running_loop())
        try:
            await written(spool, [Unit(messages=(make_message(MessageId(1)),))])
            await written(spool, [Unit(changes=(parked(1)._replace(reply="450 Later", attempts=1),))])
            await written(spool, [Unit(changes=(parked(1)._replace(attempts=1),))])
            assert await spool.query("SELECT reply, parked, attempts FROM recipient") == [("450 Later", 1, 1)]
        finally:
            await spool.close()

    run(main())


def test_no_question_about_what_waits_for_room_looks_at_the_whole_queue(tmp_path: Path) -> None:
    connection: apsw.Connection = open_spool(tmp_path / "spool.db")
    statement = (
        "SELECT message, number FROM recipient INDEXED BY recipient_parked WHERE state = 0 AND parked AND lane = 'x'"
        " ORDER BY priority DESC, message LIMIT 5"
    )
    for each in (statement, PARKED_LANES):
        plan = [str(row) for row in connection.execute(f"EXPLAIN QUERY PLAN {each}").fetchall()]
        assert not any("SCAN recipient" in line and "recipient_parked" not in line for line in plan), plan
        assert not any("TEMP B-TREE" in line for line in plan), plan
    connection.close()
