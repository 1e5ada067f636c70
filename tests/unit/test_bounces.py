"""Where mail to a return address ends: read, recorded once, passed on once, whatever fails on the way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.bounce import BounceClass
from pillarbox.core.bounce_mime import MAX_READ
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import EnhancedCode
from pillarbox.core.verp import ReturnAddresses, Returning, return_address
from pillarbox.engine.bounces import BounceMailer, Original
from pillarbox.engine.ids import IdSource
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Message, Outcome, Report, Row, Unit
from pillarbox.engine.passing_back import PassingBack
from pillarbox.engine.ports import Accepted, NoSuchUser, NotLocal, Resolution, SpoolBroken, SpoolCallback, SpoolError
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.suppression import BY_BOUNCE, Lesson, Suppression
from pillarbox.sim.clock import VirtualClock
from tests.making import HOSTNAME, NOW, Nobody, NoSpool, box, make_message

SENT = MessageId.parse("d21rxf6sg000")
BOUNCE = MessageId.parse("d21rxxnd0000")
ALICE, GONE = box("alice@example.test"), box("gone@far.example")
RETURNS = ReturnAddresses(Domain.parse("returns.example.test"), b"secret", lambda: MessageId(0))
BACK = str(return_address(RETURNS.verp(SENT), SENT, 3))
TEXT = b"From: MAILER-DAEMON@far.example\r\nSubject: Undelivered\r\n\r\n<gone@far.example>: 550 5.1.1 unknown user\r\n"


class Disk(NoSpool):
    """Meets the port Spool: takes units, gives the text of a message."""

    def __init__(self, fault: SpoolError | None = None) -> None:
        self.units: list[Unit] = []
        self.fault = fault

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        if self.fault is None:
            self.units.append(unit)
        asyncio.get_running_loop().call_soon(done, self.fault)

    async def body(self, message: Message):  # type: ignore[no-untyped-def]
        assert message.content is not None
        yield message.content


@dataclass
class Known:
    """Meets the port Originals."""

    found: Original | None = field(default_factory=lambda: Original(ALICE, GONE))
    asked: list[Returning] = field(default_factory=list)
    fault: Exception | None = None

    async def original(self, about: Returning) -> Original | None:
        self.asked.append(about)
        if self.fault is not None:
            raise self.fault
        return self.found


class Homes(Nobody):
    """Meets the port Directory: alice is behind an alias, bob unknown, others elsewhere."""

    def resolve(self, address: Mailbox) -> Resolution:
        if address == ALICE:
            return Accepted((box("a.liddell@example.test"),))
        return NoSuchUser() if address == box("bob@example.test") else NotLocal()


@dataclass
class Bench:
    """A mailer with all that it asks."""

    disk: Disk = field(default_factory=Disk)
    known: Known = field(default_factory=Known)
    forward: bool = True
    learns: bool = True
    accepted: list[Message] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)

    def learn(self, lesson: Lesson) -> Suppression:
        self.lessons.append(lesson)
        return Suppression(lesson.address, NOW, NOW + 1, lesson.klass.value, lesson.text, "", lesson.who)

    def accept(self, message: Message, done: SpoolCallback) -> None:
        self.accepted.append(message)
        asyncio.get_running_loop().call_soon(done, self.disk.fault)

    def deliver(self, text: bytes = TEXT, to: str = BACK, sender: str | None = None) -> Outcome:
        return asyncio.run(self._deliver(make_message(BOUNCE, to, sender=sender, content=text)))

    async def _deliver(self, message: Message) -> Outcome:
        clock = VirtualClock(NOW)
        passing_back = PassingBack(
            accept=self.accept, ids=IdSource(clock), clock=clock, directory=Homes(), hostname=HOSTNAME
        )
        mailer = BounceMailer(
            returns=RETURNS,
            originals=self.known,
            spool=self.disk,
            clock=clock,
            pass_on=passing_back if self.forward else None,
            learn=self.learn if self.learns else None,
        )
        done: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        job = Job(message, [Row(0, message.envelope.recipients[0])], "bounces")
        mailer.deliver(job, lambda _, report: done.set_result(report))
        outcomes = (await done).outcomes
        assert len(outcomes) == 1
        await mailer.close(0)
        return outcomes[0]

    def record(self) -> Record:
        """The one that was written, with a letter or alone."""
        records = [note for letter in self.accepted for note in letter.notes] + self._alone()
        assert len(records) == 1
        return records[0]

    def _alone(self) -> list[Record]:
        return [record for unit in self.disk.units for record in unit.records]


def test_a_bounce_is_recorded_where_it_belongs_and_passed_on() -> None:
    bench = Bench()
    outcome = bench.deliver()
    assert outcome == Delivered(f"recorded at {SENT}: bounce, hard, 5.1.1; passed on to {ALICE}", "bounces")
    assert bench.known.asked == [(SENT, 3)]
    record = bench.record()
    assert (record.message, record.recipient, record.kind, record.at) == (SENT, 3, Kind.BOUNCED_BACK, NOW)
    assert dict(record.detail) == {
        "text": "550 5.1.1 unknown user",
        "class": "hard",
        "nature": "bounce",
        "status": "5.1.1",
        "suppressed": "yes",
        "bounce": str(BOUNCE),
    }
    (letter,) = bench.accepted
    assert letter.content is not None and letter.content.endswith(TEXT)
    assert letter.content.startswith(b"Received: ") and letter.envelope.sender is None
    assert [str(each.address) for each in letter.envelope.recipients] == ["a.liddell@example.test"]
    assert bench.disk.units == []  # the letter and the record are one unit of the queue
    assert bench.lessons == [Lesson(GONE, BounceClass.HARD, "550 5.1.1 unknown user", SENT, BY_BOUNCE)]


def test_what_counts_is_the_address_that_was_sent_to() -> None:
    bench = Bench()
    bench.deliver(TEXT.replace(b"gone@", b"victim@"))
    assert [lesson.address for lesson in bench.lessons] == [GONE]


@pytest.mark.parametrize(
    ("text", "kind", "klass"),
    [
        (TEXT.replace(b"5.1.1 unknown user", b"5.2.2 mailbox full"), Kind.BOUNCED_BACK, "mailbox_full"),
        (b"Auto-Submitted: auto-replied\r\nSubject: away\r\n\r\nx\r\n", Kind.ANSWERED, "auto_reply"),
        (b"Subject: hi\r\n\r\nThank you\r\n", Kind.ANSWERED, "unknown"),
        (b"", Kind.ANSWERED, "unknown"),
        (b"\x00\xff" * MAX_READ, Kind.ANSWERED, "unknown"),
    ],
)
def test_all_is_recorded_and_only_hard_bounces_suppress(text: bytes, kind: Kind, klass: str) -> None:
    bench = Bench(forward=False)
    assert isinstance(bench.deliver(text), Delivered)
    assert (bench.record().kind, dict(bench.record().detail)["class"]) == (kind, klass)
    assert bench.lessons == [] and bench.accepted == []


def test_what_is_recorded_already_is_not_recorded_again() -> None:
    bench = Bench(known=Known(Original(ALICE, GONE, frozenset((str(BOUNCE),)))))
    assert bench.deliver() == Delivered(f"recorded at {SENT} before", "bounces")
    assert (bench.accepted, bench.disk.units, bench.lessons) == ([], [], [])


@pytest.mark.parametrize(("sender", "why"), [(box("bob@example.test"), "has no mailbox here"), (None, "")])
def test_without_anybody_to_pass_it_on_to_it_is_recorded(sender: Mailbox | None, why: str) -> None:
    bench = Bench(known=Known(Original(sender, GONE)))
    outcome = bench.deliver()
    assert isinstance(outcome, Delivered) and why in outcome.text and bench.accepted == []
    assert bench.record().kind is Kind.BOUNCED_BACK


def test_a_sender_elsewhere_gets_it_there() -> None:
    bench = Bench(known=Known(Original(box("app@far.example"), GONE)))
    bench.deliver()
    assert [str(each.address) for each in bench.accepted[0].envelope.recipients] == ["app@far.example"]


def test_what_is_forged_or_forgotten_has_no_place() -> None:
    bench = Bench()
    outcome = bench.deliver(to=BACK.replace("-3-", "-4-"))
    assert isinstance(outcome, Failed) and outcome.status == EnhancedCode(5, 1, 1) and bench.known.asked == []
    outcome = Bench(known=Known(None)).deliver()
    assert isinstance(outcome, Failed) and f"message {SENT} is no longer known" in outcome.text


@pytest.mark.parametrize("forward", [True, False])
def test_a_disk_that_fails_puts_it_off(forward: bool) -> None:
    outcome = Bench(disk=Disk(SpoolBroken("no disk")), forward=forward).deliver()
    assert isinstance(outcome, Deferred) and "no disk" in outcome.text


def test_a_bug_puts_it_off(caplog: pytest.LogCaptureFixture) -> None:
    outcome = Bench(known=Known(fault=RuntimeError("bug"))).deliver()
    assert isinstance(outcome, Deferred) and outcome.text == "our fault"
    assert f"bug at {BOUNCE}" in caplog.text


def test_a_stop_leaves_it_untried() -> None:
    async def stopped() -> tuple[Outcome, ...]:
        hanging = asyncio.Event()

        class Slow(Known):
            async def original(self, about: Returning) -> Original | None:
                await hanging.wait()
                return None

        mailer = BounceMailer(returns=RETURNS, originals=Slow(), spool=Disk(), clock=VirtualClock(NOW))
        message = make_message(BOUNCE, BACK, sender=None)
        reports: list[Report] = []
        job = Job(message, [Row(0, message.envelope.recipients[0])], "bounces")
        mailer.deliver(job, lambda _, report: reports.append(report))
        await asyncio.sleep(0)
        await mailer.close(0)
        return reports[0].outcomes

    assert asyncio.run(stopped()) == ()
