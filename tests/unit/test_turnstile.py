"""Limits of connections: how many are opened in a time, messages over each, recipients in one transaction."""

from __future__ import annotations

import pytest

from pillarbox.engine.lanes import Lane, LaneLimits
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import State
from pillarbox.engine.pacing import LaneTerms
from pillarbox.engine.routing import Route, SmartHost
from pillarbox.net.pool import SmtpMailer
from tests.queue_rig import run
from tests.remote_rig import House


class Limited(House):
    """With such limits of its one lane, and as many jobs in flight."""

    def __init__(self, limits: LaneLimits, *, in_flight: int = 50, **remote: object) -> None:
        self.limits = limits
        self.in_flight = in_flight
        super().__init__(**remote)  # type: ignore[arg-type]

    def _open_lane(self, name: str, route: Route) -> Lane:
        assert isinstance(route.next_hop, SmartHost)
        terms = LaneTerms(self.limits, self.clock.monotonic)
        return Lane(SmtpMailer(route.next_hop, self.ways, terms=terms), self.in_flight, terms)


@pytest.mark.parametrize(("limit", "expected"), [(Limit(30, 60), 30), (Limit(2, 1), 120), (Limit(60, 3600), 1)])
def test_new_connections_are_as_many_as_the_limit_says(limit: Limit, expected: int) -> None:
    """Each job breaks its connection, so that each needs a new one."""

    async def main() -> None:
        house = Limited(
            LaneLimits(new_connections=limit), in_flight=1000, oddities={"MAIL": lambda talk, usual: talk.close()}
        )
        for _ in range(90):
            await house.accept("a@far.example")
        for _ in range(59):
            await house.pass_time(1)
        assert 0.95 * min(expected, 90) <= len(house.remote.pipes) <= 1.05 * expected
        await house.close()

    run(main())


def test_who_waits_for_a_connection_takes_one_that_becomes_free() -> None:
    async def main() -> None:
        house = Limited(LaneLimits(new_connections=Limit(1, 3600)))
        messages = [await house.accept("a@far.example") for _ in range(20)]
        for message in messages:
            assert [found.state for found in await house.settled(message, within=2)] == [State.DELIVERED]
        assert len(house.remote.pipes) == 1
        await house.close()

    run(main())


def test_a_stop_leaves_to_the_next_start_who_waits_for_a_connection() -> None:
    async def main() -> None:
        house = Limited(
            LaneLimits(new_connections=Limit(1, 3600)), oddities={"MAIL": lambda talk, usual: talk.close()}
        )
        messages = [await house.accept("a@far.example") for _ in range(5)]
        await house.pass_time(2)
        await house.close()
        states = [house.spool.rows[message.id, 0].state for message in messages]
        assert states == [State.SCHEDULED] + [State.LEASED] * 4

    run(main())


@pytest.mark.parametrize(("most", "connections"), [(1, 6), (2, 3), (5, 2), (None, 1)])
def test_a_connection_carries_no_more_messages_than_the_limit_says(most: int | None, connections: int) -> None:
    async def main() -> None:
        house = Limited(LaneLimits(messages_per_connection=most), in_flight=1)
        for _ in range(6):
            message = await house.accept("a@far.example")
            await house.settled(message, within=2)
        assert len(house.remote.pipes) == connections
        assert len(house.remote.texts) == 6
        await house.close()

    run(main())


@pytest.mark.parametrize(
    ("ours", "theirs", "transactions"), [(2, None, 3), (2, 4, 3), (4, 2, 3), (None, 4, 2), (None, None, 1)]
)
def test_recipients_of_a_transaction_are_as_many_as_both_limits_allow(
    ours: int | None, theirs: int | None, transactions: int
) -> None:
    """RFC 9422 for theirs."""

    async def main() -> None:
        keywords = ("PIPELINING",) if theirs is None else ("PIPELINING", f"LIMITS RCPTMAX={theirs}")
        house = Limited(LaneLimits(recipients_per_transaction=ours), keywords=keywords)
        message = await house.accept(*(f"r{number}@far.example" for number in range(5)))
        found = await house.settled(message, within=2)
        assert [each.state for each in found] == [State.DELIVERED] * 5
        assert sum(command.startswith("MAIL") for command in house.remote.commands) == transactions
        await house.close()

    run(main())
