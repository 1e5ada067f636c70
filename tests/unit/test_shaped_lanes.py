"""A queue whose lanes are shaped by the built-in rules: what waits by it, what doesn't, and what comes of it."""

from __future__ import annotations

from pillarbox.app.config_shaping import load_rules
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.dispatch import UNPROVEN_WINDOW
from pillarbox.engine.lanes import FIRST, Lane
from pillarbox.engine.mail import Deferred, Job, Outcome, Row, State
from pillarbox.engine.records import Kind
from pillarbox.engine.retry import RetrySchedule
from pillarbox.engine.routing import Route
from tests.making import turns
from tests.queue_rig import OK, FakeMailer, Rig, run

LANE = "mx:far.example"
TO = "bob@far.example"
HOP = "mx.far.example [192.0.2.1]"
DOWN = Deferred(
    "no host for far.example could be reached, the last one mx.far.example [192.0.2.1]: Connect call failed",
    HOP,
    EnhancedCode(4, 4, 1),
)
GREY = Deferred("450 4.7.1 Greylisted, come back later", HOP, EnhancedCode(4, 7, 1), remote=True)
MANY = Deferred("421 4.7.0 Too many connections", HOP, EnhancedCode(4, 7, 0), remote=True)
FAST = Deferred("450 4.7.1 Rate limit exceeded", HOP, EnhancedCode(4, 7, 1), remote=True)
OFTEN = RetrySchedule((60.0,), 86400.0, None)


class Shaped(Rig):
    """`says`: what the next hop answers now; None: jobs wait for `end`."""

    says: Outcome | None = None

    def _open_lane(self, name: str, route: Route) -> Lane:
        self.mailers[name] = FakeMailer(self._answer if self.says is not None else None)
        return Lane(self.mailers[name], self.limit, shaper=load_rules(None).shaper(name, lambda: 0.5))

    def _answer(self, job: Job, row: Row) -> Outcome:
        assert self.says is not None
        return self.says

    @property
    def tries(self) -> int:
        return len(self.mailer(LANE).jobs)

    async def accept_many(self, number: int) -> None:
        for _ in range(number):
            await self.accept(TO)
        await turns()


def test_a_next_hop_that_is_down_is_left_alone_and_probed() -> None:
    async def main() -> None:
        rig = Shaped(retry=OFTEN)
        rig.says = DOWN
        await rig.accept_many(5)
        assert rig.tries == 5
        await rig.accept_many(20)
        assert rig.tries == 5
        await rig.pass_time(25)
        assert rig.tries == 5
        await rig.pass_time(6)
        assert rig.tries == 6
        rig.says = OK
        await rig.pass_time(600)
        assert rig.tries == 25 + 5 + 1
        rig.assert_empty()
        assert {row.state for row in rig.spool.rows.values()} == {State.DELIVERED}

    run(main())


def test_greylisting_slows_nothing() -> None:
    async def main() -> None:
        rig = Shaped(retry=OFTEN)
        rig.says = GREY
        await rig.accept_many(30)
        assert rig.tries == 30
        rig.says = OK
        await rig.pass_time(61)
        assert rig.tries == 60
        assert not [record for record in rig.spool.records if record.kind is Kind.THROTTLED]

    run(main())


def test_too_many_connections_halve_what_is_in_flight() -> None:
    async def main() -> None:
        rig = Shaped(limit=8, retry=OFTEN)
        await rig.accept_many(30)
        mailer = rig.mailer(LANE)
        assert len(mailer.open) == FIRST
        for _ in range(8 - FIRST):
            mailer.end(OK)
            await turns()
        assert len(mailer.open) == 8
        mailer.end(MANY)
        await turns()
        for _ in range(4):
            mailer.end(OK)
            await turns()
        assert len(mailer.open) == 4

    run(main())


def test_a_rate_keeps_back_what_is_new_and_no_retry_that_is_due() -> None:
    async def main() -> None:
        rig = Shaped(retry=OFTEN)
        rig.says = GREY
        await rig.accept_many(10)
        rig.says = FAST
        await rig.accept(TO)
        rig.says = OK
        await rig.accept_many(10)
        before = rig.tries
        assert before < 21
        await rig.pass_time(61)
        assert {row.attempts for row in rig.spool.rows.values() if row.state is State.DELIVERED} >= {2}
        retried = [row for row in rig.spool.rows.values() if row.attempts == 2]
        assert len(retried) == 11

    run(main())


def test_a_next_hop_that_never_answers_holds_few() -> None:
    """Few jobs in flight, and few in memory beside them; what is beyond is on the disk."""

    async def main() -> None:
        rig = Shaped(limit=20, retry=OFTEN)
        await rig.accept_many(200)
        assert len(rig.mailer(LANE).open) == FIRST
        (load,) = rig.queue.loads()
        assert (load.in_flight, load.ready) == (FIRST, UNPROVEN_WINDOW)
        waiting = [row for row in rig.spool.rows.values() if row.state is State.SCHEDULED]
        assert len(waiting) == 200 - FIRST - UNPROVEN_WINDOW

    run(main())
