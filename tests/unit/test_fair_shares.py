"""Fair shares in a lane: deficit round robin between tenants, priority within one."""

from __future__ import annotations

import pytest

from pillarbox.core.envelope import MailOptions, MessageId
from pillarbox.engine.fair import Fairness, Line, tenant
from pillarbox.engine.mail import Job, Row
from pillarbox.engine.records import Kind
from tests.making import make_message, turns
from tests.queue_rig import Rig, run


def job(number: int, sender: str | None, *, recipients: int = 1, **options: object) -> Job:
    message = make_message(MessageId(number), *(f"r{each}@far.example" for each in range(recipients)), sender=sender)
    message.envelope = message.envelope._replace(options=MailOptions(**options))  # type: ignore[arg-type]
    return Job(message, [Row(each, to) for each, to in enumerate(message.envelope.recipients)], "x")


def drained(line: Line) -> list[int]:
    return [int(line.take().message.id) for _ in range(len(line))]


def test_one_tenant_is_served_in_order() -> None:
    line = Line()
    for number in range(5):
        line.put(job(number, "a@one.example", recipients=1 + number))
    assert drained(line) == [0, 1, 2, 3, 4] and not len(line)


def test_tenants_take_turns() -> None:
    line = Line()
    for number in range(5):
        line.put(job(number, "a@one.example"))
    for number in range(10, 12):
        line.put(job(number, "a@two.example"))
    assert drained(line) == [0, 10, 1, 11, 2, 3, 4]


def test_a_job_costs_its_recipients() -> None:
    line = Line()
    for number in range(4):
        line.put(job(number, "a@one.example", recipients=10))
    for number in range(10, 50):
        line.put(job(number, "a@two.example"))
    order = drained(line)
    positions = [order.index(number) for number in range(4)]
    assert all(9 <= after - before <= 11 for before, after in zip(positions, positions[1:], strict=False))


def test_priority_counts_within_a_tenant() -> None:
    line = Line()
    for number, priority in enumerate((None, -3, 5, 0, 5)):
        line.put(job(number, "a@one.example", priority=priority))
    for number in (10, 11):
        line.put(job(number, "a@two.example"))
    assert drained(line) == [2, 10, 4, 11, 0, 3, 1]


def test_a_job_that_is_withdrawn_is_not_given_out() -> None:
    line = Line()
    jobs = [job(number, f"a@{name}.example") for number, name in enumerate(("one", "two", "one"))]
    for each in jobs:
        line.put(each)
    assert line.withdraw(jobs[1]) and not line.withdraw(jobs[1])
    assert line.withdraw(jobs[0]) and line.shares == 1
    assert drained(line) == [2] and line.shares == 0


@pytest.mark.parametrize(
    ("fair", "order"),
    [
        (Fairness.TENANT, [0, 3, 1, 2]),
        (Fairness.SENDER, [0, 2, 3, 1]),
        (Fairness.SUBMITTER, [0, 3, 1, 2]),
        (Fairness.NONE, [0, 1, 2, 3]),
    ],
)
def test_between_whom(fair: Fairness, order: list[int]) -> None:
    line = Line(fair)
    for number, (sender, submitter) in enumerate(
        (("a@one.example", None), ("a@one.example", None), ("b@one.example", None), ("c@one.example", "ann@x.example"))
    ):
        line.put(job(number, sender, submitter=submitter))
    assert drained(line) == order


def test_whose_mail_it_is() -> None:
    assert tenant(job(1, "a@one.example", submitter="ann@x.example").message) == "ann@x.example"
    assert tenant(job(1, "a@one.example").message) == "one.example"
    assert tenant(job(1, None).message) == ""


SERVICE = 1.0  # seconds that a transaction takes


async def mean_delay(*, beside: int, connections: int) -> float:
    """Of a tenant with a message each second, for a minute; another sends so many times as much."""
    rig = Rig(limit=connections)
    rig.seconds = SERVICE
    mine = set()
    for _ in range(60):
        for number in range(beside + 1):
            message = rig.message(sender="small@small.example" if number == beside else "bulk@large.example")
            if number == beside:
                mine.add(message.id)
            rig.queue.accept(message, rig.answers.append)
        await turns(3)
        for _ in range(10):
            rig.clock.advance(0.1)
            await turns(2)
    told = [record for record in rig.spool.records if record.message in mine and record.kind is Kind.DELIVERED]
    delays = [record.at - rig.spool.messages[record.message].received_at for record in told]
    assert len(delays) >= 50
    return sum(delays) / len(delays)


@pytest.mark.parametrize("connections", [2, 10])
def test_a_tenant_that_sends_a_hundred_times_as_much_delays_another_at_most_threefold(connections: int) -> None:
    async def main() -> None:
        alone = await mean_delay(beside=0, connections=connections)
        crowded = await mean_delay(beside=100, connections=connections)
        assert alone <= crowded <= 3 * alone, (alone, crowded)

    run(main())
