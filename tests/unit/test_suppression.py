"""The suppression list on a real file, what operators do with it, and what a way out teaches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import apsw
import pytest

from pillarbox.adapters.directory_schema import UPGRADES, DirectoryFile
from pillarbox.adapters.suppression_sqlite import SuppressionList
from pillarbox.app.admin_suppression import SuppressionAdmin
from pillarbox.app.control import Refused
from pillarbox.core.bounce import BounceClass
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Outcome, Report, Row
from pillarbox.engine.suppression import BY_DELIVERY, LearningMailer, Lesson, refusal_of_suppressed
from pillarbox.sim.clock import VirtualClock
from tests.making import NOW, box, make_message

P = ParamSpec("P")


def on_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


KEEP = 90 * 86400.0
ID = MessageId.parse("d21rxf6sg000")


def _lesson(address: str = "a@far.example", text: str = "550 5.1.1 unknown") -> Lesson:
    return Lesson(box(address), BounceClass.HARD, text, ID, BY_DELIVERY)


def _open(path: Path, clock: VirtualClock) -> SuppressionList:
    return SuppressionList(path / "directory.db", clock, keep=KEEP)


@on_loop
async def test_what_is_learned_counts_at_once_and_survives(tmp_path: Path) -> None:
    clock = VirtualClock(NOW)
    first = _open(tmp_path, clock)
    first.learn(_lesson())
    found = first.find(box("A@FAR.example"))
    assert found is not None and (found.since, found.until, found.klass) == (NOW, NOW + KEEP, "hard")
    assert first.find(box("b@far.example")) is None
    await first.close()
    second = _open(tmp_path, clock)
    assert second.all() == [found]
    assert str(refusal_of_suppressed(found)) == (
        "550 5.7.1 Address suppressed since 2023-11-14: hard: 550 5.1.1 unknown"
    )
    await second.close()


@on_loop
async def test_an_entry_ends(tmp_path: Path) -> None:
    clock = VirtualClock(NOW)
    entries = _open(tmp_path, clock)
    entries.learn(_lesson())
    clock.advance(KEEP - 1)
    assert entries.find(box("a@far.example")) is not None
    clock.advance(2)
    assert entries.find(box("a@far.example")) is None and entries.all() == []
    entries.learn(_lesson("b@far.example"))
    await entries.close()
    file = DirectoryFile(tmp_path / "directory.db")
    assert file.rows("SELECT address FROM suppression") == [("b@far.example",)]  # what ended is gone from the disk, too
    file.close()


@on_loop
async def test_a_second_failure_prolongs_it_and_what_is_for_good_stays(tmp_path: Path) -> None:
    clock = VirtualClock(NOW)
    entries = _open(tmp_path, clock)
    entries.learn(_lesson())
    clock.advance(100)
    again = entries.learn(_lesson(text="550 gone"))
    assert (again.since, again.until, again.text) == (NOW, NOW + 100 + KEEP, "550 gone")
    admin = SuppressionAdmin(entries, enabled=True, now=clock.now)
    await admin.suppression_add("a@far.example", until="never", reason="asked", who="root")
    assert entries.learn(_lesson()).text == "asked"
    await entries.close()


@on_loop
async def test_an_older_directory_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    before = apsw.Connection(str(path))
    for step in UPGRADES[:3]:
        before.execute(step)
    before.pragma("user_version", 3)
    before.close()
    entries = _open(tmp_path, VirtualClock(NOW))
    entries.learn(_lesson())
    await entries.close()
    assert (tmp_path / "directory.db.v3").exists()


# --- operators


@pytest.mark.parametrize(
    ("until", "end"),
    [("", NOW + KEEP), ("never", None), ("30d", NOW + 30 * 86400), ("2030-01-31T00:00:00+00:00", 1_896_048_000.0)],
)
@on_loop
async def test_an_operator_says_until_when(tmp_path: Path, until: str, end: float | None) -> None:
    clock = VirtualClock(NOW)
    entries = _open(tmp_path, clock)
    admin = SuppressionAdmin(entries, enabled=False, now=clock.now)
    added = await admin.suppression_add("a@far.example", until=until, reason="asked", who="root")
    assert added["until"] == end and added["enabled"] is False and added["class"] == "by hand"
    await entries.close()


@on_loop
async def test_an_operator_lists_by_pattern_and_removes(tmp_path: Path) -> None:
    clock = VirtualClock(NOW)
    entries = _open(tmp_path, clock)
    admin = SuppressionAdmin(entries, enabled=True, now=clock.now)
    for address in ("a@far.example", "b@far.example", "a@near.example"):
        entries.learn(_lesson(address))
    assert [row["address"] for row in await admin.suppression_list("A@*")] == ["a@far.example", "a@near.example"]
    assert len(await admin.suppression_list("")) == 3 and await admin.suppression_list("[a-z]*") == []
    assert (await admin.suppression_remove("*@far.example"))["removed"] == ["a@far.example", "b@far.example"]
    assert (await admin.suppression_show("a@near.example"))["message"] == str(ID)
    for wrong in (admin.suppression_show("b@far.example"), admin.suppression_remove("b@far.example")):
        with pytest.raises(Refused, match="b@far.example is not on the suppression list"):
            await wrong
    await entries.close()
    again = _open(tmp_path, clock)
    assert [str(each.address) for each in again.all()] == ["a@near.example"]
    await again.close()


@pytest.mark.parametrize(
    ("address", "until", "reason", "text"),
    [
        ("nobody", "", "", "no @domain"),
        ("a@far.example", "soon", "", "until 'soon': give never, a duration"),
        ("a@far.example", "2001-01-01", "", "that is past"),
        ("a@far.example", "", "two\nlines", "one line"),
        ("a@far.example", "", "x" * 301, "at most 300"),
    ],
)
@on_loop
async def test_what_an_operator_got_wrong(tmp_path: Path, address: str, until: str, reason: str, text: str) -> None:
    clock = VirtualClock(NOW)
    entries = _open(tmp_path, clock)
    with pytest.raises(Refused, match=text):
        await SuppressionAdmin(entries, enabled=True, now=clock.now).suppression_add(
            address, until=until, reason=reason, who="root"
        )
    assert entries.all() == []
    await entries.close()


# --- what a way out teaches


class Fixed:
    """Meets the port Mailer: the same outcome for all."""

    def __init__(self, outcome: Outcome, *, shared: bool = False) -> None:
        self.outcome = outcome
        self.shared = shared  # one reply for all, as to MAIL or to the end of the message
        self.closed: list[float] = []

    def deliver(self, job: Job, done: Callable[[Job, Report], None]) -> None:
        shared = self.shared or isinstance(self.outcome, Delivered)
        done(job, Report(tuple(self.outcome if shared else replace(self.outcome) for _ in job.rows)))

    async def close(self, grace: float) -> None:
        self.closed.append(grace)


def _failed(text: str, status: str, *, remote: bool = True) -> Failed:
    return Failed(text, "mx.far.example", EnhancedCode.parse(status), remote)


@pytest.mark.parametrize(
    ("outcome", "learns"),
    [
        (_failed("550 5.1.1 No such user", "5.1.1"), True),
        (_failed("550 No such user here", "5.0.0"), True),
        (_failed("the domain does not exist", "5.1.2", remote=False), True),
        (_failed("552 5.2.2 Mailbox full", "5.2.2"), False),
        (_failed("550 5.7.1 blocked as spam", "5.7.1"), False),
        (_failed("554 Transaction failed", "5.0.0"), False),
        (_failed("too large for that server", "5.3.4", remote=False), False),
        (Deferred("450 user unknown", "mx.far.example", EnhancedCode(4, 1, 1), True), False),
        (Delivered("250 ok", "mx.far.example"), False),
    ],
)
def test_failures_that_name_the_address_teach(outcome: Outcome, learns: bool) -> None:
    lessons: list[Lesson] = []
    reports: list[Report] = []
    message = make_message(ID, "a@far.example", "b@far.example")
    job = Job(message, [Row(n, each) for n, each in enumerate(message.envelope.recipients)], "mx:far.example")
    inner = Fixed(outcome)
    mailer = LearningMailer(inner, lessons.append)
    mailer.deliver(job, lambda _, report: reports.append(report))
    assert [report.outcomes for report in reports] == [(outcome, outcome)]
    expected = ["a@far.example", "b@far.example"] if learns else []
    assert [str(lesson.address) for lesson in lessons] == expected
    assert all(lesson.message == ID and lesson.who == BY_DELIVERY for lesson in lessons)
    asyncio.run(mailer.close(3.0))
    assert inner.closed == [3.0]


def test_a_reply_to_all_of_them_teaches_nothing() -> None:
    """It may be about the sender: only a reply to one RCPT is about an address."""
    message = make_message(ID, "a@far.example", "b@far.example")
    job = Job(message, [Row(n, each) for n, each in enumerate(message.envelope.recipients)], "mx:far.example")
    lessons: list[Lesson] = []
    inner = Fixed(_failed("550 5.1.1 unknown user", "5.1.1"), shared=True)
    LearningMailer(inner, lessons.append).deliver(job, lambda *_: None)
    assert lessons == []
    inner.outcome = _failed("domain far.example does not exist", "5.1.2", remote=False)
    LearningMailer(inner, lessons.append).deliver(job, lambda *_: None)
    assert len(lessons) == 2
