"""NOTIFY x RET x outcome x SMTPUTF8 x null sender: who is told what, and the notice as a program reads it.

The whole queue on a clock that stands still; what it hands to its own ways out is parsed by the standard library.
"""

from __future__ import annotations

import email
import email.message
import email.policy
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

import pytest

from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.core.envelope import Envelope, MailOptions, Notify, RcptOptions, Recipient, Ret
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Deferred, Delivered, Failed, Message, Octets, Reach, State
from pillarbox.engine.records import Kind
from pillarbox.engine.retry import RetrySchedule
from tests.making import make_message, turns
from tests.queue_rig import DAY, Rig, run

HOP = "mx.far.example [192.0.2.1]"
TAKEN = "250 2.0.0 Ok"
SOON, HOUR = 600.0, 3600.0
NEVER: frozenset[Notify] = frozenset()
NOTIFIES = (
    None,
    NEVER,
    frozenset((Notify.SUCCESS,)),
    frozenset((Notify.FAILURE,)),
    frozenset((Notify.DELAY,)),
    frozenset((Notify.SUCCESS, Notify.FAILURE)),
    frozenset(Notify),
)
PLAIN_TEXT = b"Received: trace\r\nFrom: x\r\nSubject: Lunch\r\n\r\nbody of the message\r\n"
WIDE_TEXT = "Received: trace\r\nFrom: x\r\nSubject: Mäuse\r\n\r\nKörper of the message\r\n".encode()


# --- the outcomes


@dataclass(frozen=True)
class Outcome:
    """What happens, when it is told, and how."""

    happens: Callable[[Rig], Awaitable[None]]
    state: State
    asked_by: Notify | None  # None: nobody here ever tells of it
    unasked: bool = False  # told also where NOTIFY said nothing
    action: str = ""
    status: str = ""
    remote: bool = True
    retry: RetrySchedule = RetrySchedule((SOON,), SOON)


def ends(*outcomes: Delivered | Deferred | Failed, pause: float = SOON) -> Callable[[Rig], Awaitable[None]]:
    """An attempt now, and one after each pause, where it is tried by then."""

    async def happen(rig: Rig) -> None:
        for number, outcome in enumerate(outcomes):
            if number:
                await rig.pass_time(pause)
            if rig.mailer().open:
                rig.mailer().end(outcome)
            await turns()

    return happen


REFUSED = Failed("550 5.1.1 No such user", HOP, EnhancedCode(5, 1, 1), remote=True)
BUSY = Deferred("450 4.2.0 Later", HOP, EnhancedCode(4, 2, 0), remote=True)

OUTCOMES = {
    "delivered": Outcome(
        ends(Delivered("cur/name-of-a-file", "maildir")),
        State.DELIVERED,
        Notify.SUCCESS,
        False,
        "delivered",
        "2.0.0",
        False,
    ),
    "relayed": Outcome(
        ends(Delivered(TAKEN, HOP, Reach.SILENT)), State.DELIVERED, Notify.SUCCESS, False, "relayed", "2.0.0"
    ),
    "next hop tells": Outcome(ends(Delivered(TAKEN, HOP, Reach.NOTIFYING)), State.DELIVERED, None),
    "failed": Outcome(ends(REFUSED), State.FAILED, Notify.FAILURE, True, "failed", "5.1.1"),
    "expired": Outcome(ends(BUSY, BUSY), State.EXPIRED, Notify.FAILURE, True, "failed", "4.2.0"),
    "delayed": Outcome(
        ends(BUSY, BUSY, pause=HOUR),
        State.SCHEDULED,
        Notify.DELAY,
        True,
        "delayed",
        "4.2.0",
        retry=RetrySchedule((2 * HOUR,), 5 * DAY, warn=HOUR),
    ),
}
REPLIES = {"relayed": TAKEN, "failed": REFUSED.text, "expired": BUSY.text, "delayed": BUSY.text}


# --- a case


@dataclass(frozen=True)
class Case:
    notify: frozenset[Notify] | None
    ret: Ret | None
    outcome: str
    wide: bool
    null: bool

    def __str__(self) -> str:
        notify = "-" if self.notify is None else "+".join(sorted(each.value for each in self.notify)) or "NEVER"
        ret = "-" if self.ret is None else self.ret.value
        return f"{notify}/{ret}/{self.outcome}/{'utf8' if self.wide else 'ascii'}/{'null' if self.null else 'sender'}"

    @property
    def told(self) -> bool:
        """RFC 3461 §4.1, §5.2."""
        rule = OUTCOMES[self.outcome]
        if self.null or rule.asked_by is None:
            return False
        return rule.unasked if self.notify is None else rule.asked_by in self.notify

    @property
    def sender(self) -> Mailbox | None:
        if self.null:
            return None
        return Mailbox(LocalPart("jürgen" if self.wide else "juergen"), Domain.parse("home.example"))

    @property
    def recipient(self) -> Mailbox:
        return Mailbox(LocalPart("δοκιμή" if self.wide else "to"), Domain.parse("far.example"))

    def message(self, rig: Rig) -> Message:
        address = self.recipient
        orcpt = "utf-8;ό+ρ@first.example" if self.wide else "rfc822;Or+Iginal@first.example"
        text = WIDE_TEXT if self.wide else PLAIN_TEXT
        return replace(
            make_message(rig.ids.next(), content=text, at=rig.clock.now()),
            envelope=Envelope(
                self.sender,
                (Recipient(address, address, None, RcptOptions(self.notify, orcpt)),),
                options=MailOptions(ret=self.ret, envelope_id="QQ+314 159", smtputf8=self.wide),
            ),
            octets=Octets.EIGHT_BIT | Octets.UTF8_HEADER if self.wide else Octets.PLAIN,
        )


CASES = [
    Case(*values)
    for values in itertools.product(NOTIFIES, (None, Ret.FULL, Ret.HEADERS), OUTCOMES, (False, True), (False, True))
]


def notices(rig: Rig) -> list[Message]:
    return [message for unit in rig.spool.units for message in unit.messages if message.listener == "notice"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sender_is_told_what_it_asked_for(case: Case) -> None:
    async def main() -> None:
        rule = OUTCOMES[case.outcome]
        rig = Rig(retry=rule.retry)
        message = case.message(rig)
        rig.queue.accept(message, rig.answers.append)
        await turns()
        accepted_at = rig.clock.now()
        await rule.happens(rig)
        assert rig.spool.states(message.id) == [rule.state]
        found = notices(rig)
        assert len(found) == case.told
        _recorded(case, rig, message)
        for notice in found:
            _is_addressed(case, notice)
            assert notice.content is not None
            _says(case, _parsed(notice.content), accepted_at)

    run(main())


def _recorded(case: Case, rig: Rig, message: Message) -> None:
    """`why` can say who was told what, or why nobody was told of a failure."""
    told = [dict(record.detail) for record in rig.spool.records if record.kind is Kind.NOTICE]
    rule = OUTCOMES[case.outcome]
    if case.told:
        (notice,) = notices(rig)
        assert told == [{"text": f"{notice.id} to {case.sender}", "action": rule.action}]
    elif rule.state in (State.FAILED, State.EXPIRED):
        assert len(told) == 1 and str(told[0]["text"]).startswith("none: ")
    elif case.outcome == "next hop tells" and not case.null and case.notify and Notify.SUCCESS in case.notify:
        assert told == [{"text": "none: the next hop tells of the delivery (DSN)"}]
    else:
        assert told == []


def _is_addressed(case: Case, notice: Message) -> None:
    (recipient,) = notice.envelope.recipients
    assert notice.envelope.sender is None
    assert recipient.address == case.sender and recipient.options.notify == NEVER  # RFC 3461 §6.1
    assert notice.envelope.options.smtputf8 is case.wide
    assert notice.content is not None
    assert bool(notice.octets & Octets.EIGHT_BIT) is (not notice.content.isascii()) is case.wide
    assert bool(notice.octets & Octets.UTF8_HEADER) is case.wide
    assert notice.size == len(notice.content)


def _parsed(octets: bytes) -> EmailMessage:
    _, _, text = octets.partition(b"\r\nFrom: ")
    found = email.message_from_bytes(b"From: " + text, policy=email.policy.SMTPUTF8)
    assert isinstance(found, EmailMessage)
    assert found.defects == []
    return found


def _groups(part: email.message.Message) -> Iterator[dict[str, str]]:
    """The groups of fields of a status, also of the type that the library does not know."""
    _, _, body = part.as_bytes(policy=email.policy.SMTPUTF8).partition(b"\r\n\r\n")
    for group in body.strip().split(b"\r\n\r\n"):
        fields = email.message_from_bytes(group + b"\r\n", policy=email.policy.SMTPUTF8)
        yield {name: _utf8(str(value)) for name, value in fields.items()}


def _utf8(text: str) -> str:
    """The library keeps octets that are not ASCII as lone surrogates."""
    return text.encode(errors="surrogateescape").decode()


def _says(case: Case, found: EmailMessage, accepted_at: float) -> None:
    assert case.sender is not None
    (to,) = found["To"].addresses
    assert (_utf8(to.username), to.domain) == (case.sender.local.text, str(case.sender.domain))
    assert found["Auto-Submitted"] == "auto-replied"  # RFC 3834 §5
    assert (found.get_content_type(), found.get_param("report-type")) == ("multipart/report", "delivery-status")
    text, status, original = found.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert f"<{case.recipient}>" in " ".join(text.get_content().split())
    assert status.get_content_type() == f"message/{'global-' if case.wide else ''}delivery-status"  # RFC 6533 §4.1
    of_message, of_recipient = _groups(status)
    assert of_message.keys() == {"Original-Envelope-Id", "Reporting-MTA", "Received-From-MTA", "Arrival-Date"}
    assert of_message["Original-Envelope-Id"] == "QQ+314 159"
    assert of_message["Reporting-MTA"] == "dns; mx.example.test"
    _says_of_recipient(case, of_recipient, accepted_at)
    _returns(case, original)


def _says_of_recipient(case: Case, group: dict[str, str], accepted_at: float) -> None:
    rule = OUTCOMES[case.outcome]
    wanted = {
        "Original-Recipient": r"utf-8;ό\x{2B}ρ@first.example" if case.wide else "rfc822;Or+Iginal@first.example",
        "Final-Recipient": f"{'utf-8' if case.wide else 'rfc822'}; {case.recipient}",
        "Action": rule.action,
        "Status": rule.status,
    }
    if rule.remote:
        wanted |= {"Remote-MTA": "dns; mx.far.example", "Diagnostic-Code": f"smtp; {REPLIES[case.outcome]}"}
    until = group.pop("Will-Retry-Until", None)
    assert group == wanted
    if case.outcome == "delayed":  # RFC 3464 §2.3.9
        assert until is not None and parsedate_to_datetime(until).timestamp() == accepted_at + 5 * DAY
    else:
        assert until is None


def _returns(case: Case, part: email.message.Message) -> None:
    """RFC 3461 §4.3: the whole is for failures only, and only where it was asked for."""
    whole = case.ret is Ret.FULL and OUTCOMES[case.outcome].action == "failed"
    kind = {
        (True, False): "message/rfc822",
        (True, True): "message/global",
        (False, False): "text/rfc822-headers",
        (False, True): "message/global-headers",
    }[whole, case.wide]
    assert part.get_content_type() == kind
    _, _, returned = part.as_bytes(policy=email.policy.SMTPUTF8).partition(b"\r\n\r\n")
    text = WIDE_TEXT if case.wide else PLAIN_TEXT
    header, _, _ = text.partition(b"\r\n\r\n")
    assert returned.strip() == (text if whole else header).strip()
