"""What follows from an outcome: the state of a recipient, when it is due, and what its sender is told of it.

Pure: a table of RFC 3461 §5.2 and of RFC 2852 §4.1 over one recipient. Knows neither queue nor spool; makes no notice.
Invariants: nothing is told twice, nothing that was not asked for; a sender who said nothing is told of failures and of
delays (RFC 3461 §4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pillarbox.core.envelope import NO_MAIL_OPTIONS, NO_RCPT_OPTIONS, DeliverBy, MessageId, Notify
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.dsn import Action, Telling
from pillarbox.engine.mail import (
    Ambiguous,
    Behind,
    Change,
    Deferred,
    Delivered,
    Failed,
    Job,
    Kept,
    Message,
    Outcome,
    Overdue,
    Reach,
    Report,
    Row,
    State,
    Stopped,
    Told,
    Unsent,
    Waits,
)
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.retry import GRAIN, GiveUp, RetrySchedule

_OVER = EnhancedCode(5, 4, 7)  # RFC 2852 §4.1.3: delivery time expired
_LATE = EnhancedCode(4, 4, 7)
_DONE = EnhancedCode(2, 0, 0)
_BY_DEFAULT = frozenset((Notify.FAILURE, Notify.DELAY))
_OF_A_LIST = frozenset((Notify.FAILURE,))  # its owner need not hear that a member's mail is slow
_KINDS = {
    State.DELIVERED: Kind.DELIVERED,
    State.FAILED: Kind.FAILED,
    State.EXPIRED: Kind.EXPIRED,
}
_UNDER_WAY: Mapping[type[Outcome], Kind] = {Kept: Kind.KEPT, Ambiguous: Kind.AMBIGUOUS}  # the others are DEFERRED
NOT_ASKED = "none: its sender asked not to be told of failures (NOTIFY)"
TOLD_BY_NEXT_HOP = "none: the next hop tells of the delivery (DSN)"


class Verdict(NamedTuple):
    """`due`: when a scheduled recipient is due, when the others came about. `outcome`: the one that counts. `untold`:
    why nothing is told, where somebody might wonder."""

    state: State
    due: float
    outcome: Outcome
    telling: Telling | None = None
    untold: str | None = None
    told: Told = Told.NOTHING  # what the sender knows when this is told, of what is still under way


def begins(message: Message, jumped: float = 0.0) -> float:
    """From when on its age is counted: a message that was held gets the whole time (RFC 4865). `jumped`: seconds by
    which the wall clock was set forward since."""
    hold = message.envelope.options.hold_until
    received_at = message.received_at + jumped
    return received_at if hold is None else max(received_at, hold)


def wants(job: Job, row: Row, what: Notify) -> bool:
    """Whether there is a sender, and it is to be told of that (RFC 3461 §4.1)."""
    recipient = row.recipient
    notify = recipient.options.notify
    if notify is None:
        notify = _BY_DEFAULT if recipient.owner is None else _OF_A_LIST
    return what in notify and job.sender is not None


def overdue(job: Job, now: float) -> Report | None:
    """The outcome of a job that must not be tried any more: its time, by-mode R, has passed (RFC 2852 §4.1.3)."""
    late = job.options.deliver_by
    if late is None or not late.returns or not _passed(late, now):
        return None
    return Report((Overdue("not delivered in the time that its sender gave", "", _OVER),) * len(job.rows))


def held_back(message: Message, now: float) -> tuple[Change, ...]:
    """What makes its recipients wait until the moment for which the sender submitted it (RFC 4865); nothing where
    that is past. With a time that ends before, by-mode R, they are due then."""
    options = message.envelope.options
    hold, late = options.hold_until, options.deliver_by
    if hold is None or hold <= now:
        return ()
    due = min(hold, late.until) if late is not None and late.returns else hold
    text = "held until the moment that its sender chose"
    return tuple(
        Change(
            message.id,
            number,
            State.SCHEDULED,
            due,
            0,
            "",
            text,
            Record(message.id, now, Kind.HELD, number, (("text", text), ("due", hold))),
        )
        for number in range(len(message.envelope.recipients))
    )


def behind(job: Job) -> Report:
    """The outcome of a job whose time, by-mode N, passed while it waited."""
    text = "waits for its turn; the time that its sender gave has passed"
    return Report((Behind(text, "", _LATE),) * len(job.rows))


def watched_until(job: Job) -> float | None:
    """When something must be done about the job, should it wait that long."""
    late = job.options.deliver_by
    if late is None or not (late.returns or any(_hears_of_deadline(job, row) for row in job.rows)):
        return None
    return late.until


def _never(message: MessageId) -> float:
    return 0.0


def judge(
    job: Job,
    row: Row,
    outcome: Outcome,
    *,
    retry: RetrySchedule,
    now: float,
    jumped: Callable[[MessageId], float] = _never,
) -> Verdict:
    """What follows from what was tried, and counted, for one recipient of a job. `jumped`: how far the wall clock was
    set since a message was accepted."""
    if isinstance(outcome, Delivered):
        if row.recipient.options is NO_RCPT_OPTIONS and job.message.envelope.options is NO_MAIL_OPTIONS:
            return Verdict(State.DELIVERED, now, outcome)
        return _delivered(job, row, outcome, now)
    if isinstance(outcome, Failed):
        return _failed(job, row, outcome, State.EXPIRED if isinstance(outcome, Overdue) else State.FAILED, now)
    if isinstance(outcome, Stopped):
        return Verdict(State.SCHEDULED, now, outcome, told=row.told)
    late = job.options.deliver_by
    if late is not None and late.returns and _passed(late, now):
        text = f"not delivered in the time that its sender gave; the last attempt: {outcome.text}"
        return _failed(job, row, Overdue(text, outcome.next_hop, _OVER), State.EXPIRED, now)
    start = begins(job.message, jumped(job.message.id))
    decision = retry.decide(now - start, row.attempts)
    if isinstance(decision, GiveUp):
        return _failed(job, row, outcome, State.EXPIRED, now)
    end = start + retry.give_up
    due = now if isinstance(outcome, Behind | Unsent) else now + decision.delay
    if isinstance(outcome, Kept):
        due = end
    elif isinstance(outcome, Waits):
        due = min(outcome.due, end)
    return _deferred(job, row, outcome, retry=retry, now=now, start=start, due=due)


def failed_by_hand(job: Job, row: Row, outcome: Failed) -> tuple[Telling | None, str | None]:
    """What the sender is told where an operator ends it, or why nothing."""
    verdict = _failed(job, row, outcome, State.FAILED, 0.0)
    return verdict.telling, verdict.untold


# --- each outcome


def _delivered(job: Job, row: Row, outcome: Delivered, now: float) -> Verdict:
    asked = wants(job, row, Notify.SUCCESS)
    if outcome.reach is Reach.FINAL:
        action = Action.DELIVERED if asked else None
    elif asked and outcome.reach is Reach.SILENT:  # RFC 3461 §5.2.2
        action = Action.RELAYED
    else:
        action = Action.RELAYED if _traced(job, row, outcome) else None
    if action is None:
        return Verdict(State.DELIVERED, now, outcome, untold=TOLD_BY_NEXT_HOP if asked else None)
    remote = outcome.reach is not Reach.FINAL
    text = outcome.text if remote else "it is in the mailbox"  # what it is called there is nobody's business
    telling = Telling(row, action, _DONE, text, outcome.next_hop if remote else "", remote=remote)
    return Verdict(State.DELIVERED, now, outcome, telling)


def _traced(job: Job, row: Row, outcome: Delivered) -> bool:
    """Whether a relay is told for the sake of DELIVERBY, to all who have not said NEVER: each one with by-trace T (RFC
    2852 §4.1.4), with by-mode N the one after which nobody looks at the time any more (§4.1.4.2)."""
    late = job.options.deliver_by
    if late is None or job.sender is None or row.recipient.options.notify == frozenset():
        return False
    return late.trace or not (late.returns or outcome.keeps_time)


def _failed(job: Job, row: Row, outcome: Failed | Deferred, state: State, now: float) -> Verdict:
    """Without a sender there is a telling all the same: that nobody hears it is recorded."""
    if job.sender is not None and not wants(job, row, Notify.FAILURE):
        return Verdict(state, now, outcome, untold=NOT_ASKED)
    telling = Telling(
        row,
        Action.FAILED,
        outcome.status,
        outcome.text,
        outcome.next_hop,
        remote=outcome.remote,
        given_up=state is State.EXPIRED and not isinstance(outcome, Overdue),
    )
    return Verdict(state, now, outcome, telling)


def _deferred(
    job: Job, row: Row, outcome: Deferred, *, retry: RetrySchedule, now: float, start: float, due: float
) -> Verdict:
    """It is due at the latest when there will be something to tell, which so is the result of an attempt."""
    late = job.options.deliver_by
    end = start + retry.give_up
    status: EnhancedCode | None = None
    told = row.told
    if late is not None and late.returns:
        due, end = min(due, late.until), min(end, late.until)
    elif late is not None and _hears_of_deadline(job, row):
        if _passed(late, now):
            status, told = _LATE, told | Told.DEADLINE | Told.DELAY  # RFC 2852 §4.1.3
        else:
            due = min(due, late.until)
    if retry.warn is not None and not told and _hears_of_delay(job, row, outcome):
        if now - start >= retry.warn - GRAIN:
            status, told = outcome.status, told | Told.DELAY
        else:
            due = min(due, start + retry.warn)
    if status is None:
        return Verdict(State.SCHEDULED, due, outcome, told=told)
    telling = Telling(row, Action.DELAYED, status, outcome.text, outcome.next_hop, remote=outcome.remote, until=end)
    return Verdict(State.SCHEDULED, due, outcome, telling, told=told)


def _passed(late: DeliverBy, now: float) -> bool:
    return now >= late.until - GRAIN


def _hears_of_deadline(job: Job, row: Row) -> bool:
    return not row.told & Told.DEADLINE and wants(job, row, Notify.DELAY)


def _hears_of_delay(job: Job, row: Row, outcome: Deferred) -> bool:
    """What is kept for its owner is not late by itself: only who asked to be told is."""
    if isinstance(outcome, Kept) and row.recipient.options.notify is None:
        return False
    return wants(job, row, Notify.DELAY)


# --- the record of it


def record(message: Message, row: Row, verdict: Verdict, now: float) -> Record:
    outcome, state = verdict.outcome, verdict.state
    detail: tuple[tuple[str, str | int | float], ...] = (("text", outcome.text), ("next_hop", outcome.next_hop))
    if not isinstance(outcome, Delivered):
        detail += (("status", str(outcome.status)),)
    if state is State.SCHEDULED:
        detail += (("due", verdict.due),)
    kind = _UNDER_WAY.get(type(outcome), Kind.DEFERRED) if state is State.SCHEDULED else _KINDS[state]
    return Record(message.id, now, kind, row.number, detail)
