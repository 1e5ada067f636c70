"""Ways out on which nothing is tried: one outcome for all, at once, and only once `deliver` has returned."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.adapters.instant import DISCARDED, KEPT, InstantMailer
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import Deferred, Delivered, Job, Kept, Outcome, Report, Row
from pillarbox.engine.ports import Mailer
from tests.making import make_message, turns


@pytest.mark.parametrize("outcome", [DISCARDED, KEPT])
@pytest.mark.parametrize("count", [1, 3])
def test_every_recipient_has_the_same_outcome(outcome: Outcome, count: int) -> None:
    async def main() -> None:
        mailer: Mailer = InstantMailer(outcome, asyncio.get_running_loop())
        message = make_message(MessageId(1), *(f"u{number}@far.example" for number in range(count)))
        job = Job(message, [Row(number, each) for number, each in enumerate(message.envelope.recipients)], "lane")
        reports: list[Report] = []

        def done(of: Job, report: Report) -> None:
            assert of is job
            reports.append(report)

        mailer.deliver(job, done)
        assert reports == []
        await turns(2)
        assert reports == [Report((outcome,) * count)]
        await mailer.close(0)

    asyncio.run(main())


def test_what_they_say() -> None:
    """What is kept was not tried, and is no failure so far."""
    assert type(DISCARDED) is Delivered
    assert type(KEPT) is Kept and isinstance(KEPT, Deferred) and KEPT.status.klass == 4
