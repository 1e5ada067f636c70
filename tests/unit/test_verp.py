"""Return addresses: what is made is read, what was not made here is not."""

from __future__ import annotations

import pytest

from pillarbox.adapters.spool_options import mail_options_text, read_mail_options
from pillarbox.core.address import MAX_LOCAL_PART, Domain, LocalPart, Mailbox
from pillarbox.core.envelope import MailOptions, MessageId
from pillarbox.core.verp import ReturnAddresses, return_address
from pillarbox.engine.mail import Job, Row
from tests.making import box, make_message

DOMAIN = Domain.parse("returns.example.test")
ID = MessageId.parse("d21rxf6sg000")


def _addresses(secret: bytes = b"secret", oldest: int = 0) -> ReturnAddresses:
    return ReturnAddresses(DOMAIN, secret, lambda: MessageId(oldest))


@pytest.mark.parametrize("number", [0, 7, 999_999])
def test_what_is_made_is_read(number: int) -> None:
    ours = _addresses()
    made = return_address(ours.verp(ID), ID, number)
    assert ours.read(made) == (ID, number)
    assert ours.read(Mailbox.parse(str(made).upper())) == (ID, number)  # a hop that changes case
    assert len(str(made.local)) <= MAX_LOCAL_PART and Mailbox.parse(str(made)) == made


def test_what_was_not_made_here_is_not_read() -> None:
    ours = _addresses()
    made = return_address(ours.verp(ID), ID, 0)
    local, _, domain = str(made).partition("@")
    others = [
        local.replace("-0-", "-1-"),
        local.replace("d21", "d22"),
        local[:-1],
        local + "a",
        local[:-1] + ("a" if local[-1] != "a" else "b"),
        local.replace("d21", "iii"),  # no message id
        "bounce+",
        "bounce",
        "alice",
    ]
    assert [other for other in others if ours.read(Mailbox(LocalPart(other), made.domain)) is not None] == []
    assert ours.read(box(f"{local}@other.example.test")) is None and domain == DOMAIN.ascii
    assert _addresses(b"another secret").read(made) is None


def test_each_message_has_a_key_of_its_own() -> None:
    """Who sees the addresses of one message can't make those of another, nor of another recipient."""
    ours, other = _addresses(), MessageId(ID + 1)
    assert ours.verp(ID).key != ours.verp(other).key
    assert ours.read(return_address(ours.verp(ID), other, 0)) is None


def test_they_age_with_the_messages() -> None:
    made = return_address(_addresses().verp(ID), ID, 0)
    assert _addresses(oldest=ID).read(made) == (ID, 0)
    assert _addresses(oldest=MessageId(ID + 1)).read(made) is None


def test_a_job_says_them_and_they_survive_the_disk() -> None:
    verp = _addresses().verp(ID)
    options = MailOptions(verp=verp)
    assert read_mail_options(mail_options_text(options)) == options
    message = make_message(ID, "a@far.example", "b@far.example", sender="alice@example.test")
    rows = [Row(number, recipient) for number, recipient in enumerate(message.envelope.recipients)]
    assert Job(message, rows[1:], "").reverse_path == box("alice@example.test")
    message.envelope = message.envelope._replace(options=options)
    assert Job(message, rows[1:], "").reverse_path == return_address(verp, ID, 1)
    assert Job(message, rows[1:], "").sender == box("alice@example.test")  # who is told
    message.envelope = message.envelope._replace(sender=None)
    assert Job(message, rows, "").reverse_path is None
