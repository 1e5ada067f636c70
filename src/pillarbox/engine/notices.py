"""Failure notices as messages of our own: whether one is due, to whom it goes, and that nothing bounces a bounce.

The text of a notice is made in `dsn.py`; here it gets an envelope with the null reverse-path (RFC 5321 §6.1) and the
recipients that the directory gives for the sender. Writes nothing.
"""

from __future__ import annotations

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Envelope, Recipient
from pillarbox.core.message import Hop, header_end, received_field, view_header
from pillarbox.engine.dsn import NOTICE_LISTENER, Undelivered, failure_notice, may_notify
from pillarbox.engine.ids import IdSource
from pillarbox.engine.intake import MAX_HEADER
from pillarbox.engine.mail import Message, Octets
from pillarbox.engine.ports import Accepted, Clock, Directory, NotLocal, Relayed, Spool, SpoolError
from pillarbox.engine.records import Kind, Record


class Notices:
    def __init__(self, *, spool: Spool, clock: Clock, ids: IdSource, directory: Directory, hostname: Domain) -> None:
        self._spool = spool
        self._clock = clock
        self._ids = ids
        self._directory = directory
        self._hostname = hostname

    async def make(
        self, message: Message, sender: Mailbox | None, undelivered: list[Undelivered]
    ) -> tuple[Message | None, Record]:
        """The notice about these recipients to that reverse-path, and the record of it or of why there is none."""
        if sender is None or not may_notify(message):
            return None, self._record(message, "none: the message is a notice itself, or has the null reverse-path")
        recipients = self._recipients(sender)
        if not recipients:
            return None, self._record(message, f"none: {sender} has no mailbox here")
        notice = self._message(message, recipients, undelivered, await self._header(message))
        return notice, self._record(message, f"{notice.id} to {sender}")

    def _recipients(self, sender: Mailbox) -> tuple[Recipient, ...]:
        resolution = self._directory.resolve(sender)
        if isinstance(resolution, NotLocal | Relayed):
            return (Recipient(sender, sender),)
        if isinstance(resolution, Accepted):
            return tuple(Recipient(target, sender) for target in resolution.targets)
        return ()

    async def _header(self, message: Message) -> bytes:
        """The header section of the message, as far as it can be read."""
        octets = b""
        try:
            async for chunk in self._spool.body(message):
                octets += chunk
                if header_end(octets) is not None or len(octets) >= MAX_HEADER:
                    break
        except SpoolError:
            return octets[:MAX_HEADER]
        return octets[: header_end(octets) or MAX_HEADER]

    def _message(
        self, message: Message, recipients: tuple[Recipient, ...], undelivered: list[Undelivered], header: bytes
    ) -> Message:
        now, message_id = self._clock.now(), self._ids.next()
        hop = Hop(str(self._hostname), "", str(self._hostname), "LOCAL")
        text = failure_notice(message, undelivered, hostname=self._hostname, now=now, header=header)
        octets = received_field(hop, str(message_id), now, None) + text
        return Message(
            id=message_id,
            received_at=now,
            envelope=Envelope(None, recipients),
            listener=NOTICE_LISTENER,
            peer="",
            helo=str(self._hostname),
            protocol="LOCAL",
            size=len(octets),
            header=view_header(text[: header_end(text)]),
            octets=Octets.PLAIN if octets.isascii() else Octets.EIGHT_BIT,
            large=False,
            content=octets,
        )

    def _record(self, message: Message, text: str) -> Record:
        return Record(message.id, self._clock.now(), Kind.NOTICE, None, (("text", text),))
