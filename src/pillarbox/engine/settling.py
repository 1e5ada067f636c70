"""A report on a job → what is to be written of it, and what its sender is to be told.

Pure: goes through the recipients, asks `outcomes` what follows for each, and an operator's order, where one stands,
what follows instead. Writes nothing and knows no queue.
"""

from __future__ import annotations

from collections.abc import Callable

from pillarbox.core.envelope import MessageId
from pillarbox.engine.dsn import Telling
from pillarbox.engine.mail import (
    UNTRIED,
    Change,
    Job,
    Message,
    Report,
    Rerouted,
    Row,
    State,
    Stopped,
    Unit,
    Waits,
)
from pillarbox.engine.orders import Obeyed
from pillarbox.engine.outcomes import Verdict, judge, record
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.retry import RetrySchedule

Instead = Callable[[Job, Row, Verdict, float], Obeyed | None]


class Settling:
    """What came of a job. `waiting`: how many of its recipients go back to the disk."""

    __slots__ = ("changes", "notes", "rerouted", "tellings", "untold", "waiting")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.notes: list[Record] = []
        self.untold: list[Record] = []
        self.tellings: list[Telling] = []
        self.rerouted: list[Rerouted] = []
        self.waiting = 0

    def unit(self, finished: tuple[Message, ...]) -> Unit:
        changes, untold, notes = tuple(self.changes), tuple(self.untold), tuple(self.notes)
        return Unit((), changes, untold, finished, notes, tuple(self.rerouted))


def settled(
    job: Job,
    report: Report,
    *,
    retry: RetrySchedule,
    now: float,
    jumped: Callable[[MessageId], float],
    instead: Instead | None,
) -> Settling:
    """`jumped` as in `outcomes.judge`; `instead` is None where no order stands."""
    message, found = job.message, Settling()
    found.notes += job.notes
    for note in report.notes:
        found.notes.append(Record(message.id, now, Kind.ATTEMPT, None, (("text", note),)))
    if report.transcript:
        found.notes.append(Record(message.id, now, Kind.ATTEMPT, None, (("transcript", report.transcript),)))
    for row, outcome in zip(job.rows, report.outcomes, strict=True):
        if not isinstance(outcome, UNTRIED):
            row.attempts += 1
        verdict = judge(job, row, outcome, retry=retry, now=now, jumped=jumped)
        state, due, reply = verdict.state, verdict.due, verdict.outcome.text
        told: Record | None = record(message, row, verdict, now, report.source)
        change = Change(message.id, row.number, state, due, row.attempts, job.lane, reply, told, verdict.told)
        if isinstance(outcome, Waits) and state is State.SCHEDULED:
            change = waiting(change, outcome, job.lane)
        if instead is not None and (obeyed := instead(job, row, verdict, now)) is not None:
            told, change = change.record, obeyed.change
            verdict = verdict._replace(telling=obeyed.telling, untold=None)
            found.untold += obeyed.notes
            found.notes += () if isinstance(outcome, Stopped) or told is None else (told,)
            found.rerouted += () if obeyed.rerouted is None else (obeyed.rerouted,)
        found.changes.append(change)
        found.waiting += not change.state.settled
        if verdict.telling is not None:
            found.tellings.append(verdict.telling)
        elif verdict.untold is not None:
            found.untold.append(Record(message.id, now, Kind.NOTICE, row.number, (("text", verdict.untold),)))
    return found


def waiting(change: Change, outcome: Waits, lane: str) -> Change:
    """Of what was not tried: the last reply stands, and a record tells of it only where something slows the lane."""
    told = None
    if outcome.cause and change.record is not None:
        detail = (("text", outcome.text), ("cause", outcome.cause), ("lane", lane), ("until", outcome.due))
        told = change.record._replace(kind=Kind.THROTTLED, detail=(*detail, ("due", change.due)))
    return change._replace(reply=None, record=told, parked=outcome.parked)
