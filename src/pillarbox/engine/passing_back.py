"""A bounce that was recorded goes on to who sent the message: a letter of its own, as it came.

It keeps its text and has the null reverse-path, so nothing comes of it if it fails; who gets it is asked of the
directory, as for a notice. It and the record of it reach the disk together. Knows nothing of what a bounce says.
"""

from __future__ import annotations

from collections.abc import Callable

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import NO_MAIL_OPTIONS, Envelope, MailOptions, RcptOptions, Recipient
from pillarbox.core.message import Hop, received_field
from pillarbox.engine.callbacks import answered
from pillarbox.engine.ids import IdSource
from pillarbox.engine.intake import Intake
from pillarbox.engine.mail import Message, Octets
from pillarbox.engine.ports import Accepted, Clock, Directory, NotLocal, Relayed, SpoolCallback
from pillarbox.engine.records import Record

LISTENER = "bounces"
_PROTOCOL = "LOCAL"
_NEVER = RcptOptions(notify=frozenset())  # RFC 3461 §6.1
_ROOM = 1024 * 1024  # octets beyond what came: there is no limit that a letter of ours could break

Accept = Callable[[Message, SpoolCallback], None]


class PassingBack:
    """Meets the port PassOn."""

    def __init__(self, *, accept: Accept, ids: IdSource, clock: Clock, directory: Directory, hostname: Domain) -> None:
        self._accept = accept
        self._ids = ids
        self._clock = clock
        self._directory = directory
        self._hostname = str(hostname)

    async def __call__(self, bounce: Message, text: bytes, sender: Mailbox, record: Record) -> str:
        recipients = self._recipients(sender)
        if not recipients:
            return f"{sender} has no mailbox here"
        message_id, now = self._ids.next(), self._clock.now()
        hop = Hop(self._hostname, "", self._hostname, _PROTOCOL)
        trace = received_field(hop, str(message_id), now, str(sender))
        intake = Intake(message_id, trace, len(text) + _ROOM)
        intake.by_chunks = Octets.BINARY in bounce.octets
        rest = intake.finish(text, bare=intake.by_chunks)
        if intake.fault is not None:
            return str(intake.fault)
        options = MailOptions(smtputf8=True) if bounce.envelope.options.smtputf8 else NO_MAIL_OPTIONS
        envelope = Envelope(None, recipients, bounce.envelope.body_type, options)
        message = intake.message(rest, envelope, hop=hop, listener=LISTENER, received_at=now)
        message.notes = (record,)
        await answered(lambda done: self._accept(message, done))
        return ""

    def _recipients(self, sender: Mailbox) -> tuple[Recipient, ...]:
        match self._directory.resolve(sender):
            case NotLocal() | Relayed():
                return (Recipient(sender, sender, None, _NEVER),)
            case Accepted(targets):
                return tuple(Recipient(target, sender, None, _NEVER) for target in targets)
            case _:
                return ()
