"""The suppression list: addresses that get no mail of our clients, since earlier mail to them failed for good.

What an entry is, what a submission to one is told, and how the list learns from deliveries. Only failures that name
the address itself as the cause count (core/bounce_class.py: HARD), told by the next hop in the session, by DNS, or by
a bounce that came to a return address of ours. Knows neither SQL nor SMTP; who keeps the list is the port Suppressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from pillarbox.core import reply as r
from pillarbox.core.address import Mailbox
from pillarbox.core.bounce import BounceClass
from pillarbox.core.bounce_class import classify
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import Reply
from pillarbox.engine.mail import Failed, Job, Report
from pillarbox.engine.ports import Mailer

BY_DELIVERY = "delivery"  # who put it on the list
BY_BOUNCE = "bounce"
BY_HAND = "by hand"  # the class of what an operator added


@dataclass(frozen=True, slots=True)
class Suppression:
    """One address on the list."""

    address: Mailbox
    since: float  # seconds since the epoch
    until: float | None  # None: for good
    klass: str  # a BounceClass, or BY_HAND
    text: str  # why: what a server said, or an operator
    message: str  # the id of the message that failed, "" where there was none
    who: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A failure that says something of an address."""

    address: Mailbox
    klass: BounceClass
    text: str
    message: MessageId
    who: str


class Suppressions(Protocol):
    """The list, answered from memory."""

    def find(self, address: Mailbox) -> Suppression | None:
        """The entry of that address, in whatever case, unless it has ended."""

    def learn(self, lesson: Lesson) -> Suppression:
        """Put it on the list at once; it is on the disk a little later."""


def refusal_of_suppressed(found: Suppression) -> Reply:
    return r.suppressed(day(found.since), f"{found.klass}: {found.text}" if found.text else found.klass)


def day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


class LearningMailer:
    """A way out whose failures for good go to the list. Meets the port Mailer, around another one."""

    def __init__(self, inner: Mailer, learn: Callable[[Lesson], object]) -> None:
        self._inner = inner
        self._learn = learn

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        def settled(job: Job, report: Report) -> None:
            done(job, report)
            for row, outcome in zip(job.rows, report.outcomes, strict=False):
                if isinstance(outcome, Failed) and _is_of_one(outcome, report) and _is_hard(outcome):
                    address, text = row.recipient.address, outcome.text
                    self._learn(Lesson(address, BounceClass.HARD, text, job.message.id, BY_DELIVERY))

        self._inner.deliver(job, settled)

    async def close(self, grace: float) -> None:
        await self._inner.close(grace)


def _is_hard(outcome: Failed) -> bool:
    return classify(outcome.status, outcome.text) is BounceClass.HARD


def _is_of_one(outcome: Failed, report: Report) -> bool:
    """Whether it is about one recipient: a reply that several share is about the message or its sender."""
    return not outcome.remote or sum(each is outcome for each in report.outcomes) == 1
