"""Notices as messages of our own: to whom one goes, how much it returns, and that nothing bounces a bounce.

The text of a notice is made in `dsn.py`; here it gets an envelope with the null reverse-path (RFC 5321 §6.1) and the
recipients that the directory gives for the sender. What is worth telling was decided before. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import BodyType, Envelope, MailOptions, RcptOptions, Recipient, Ret
from pillarbox.core.message import Hop, header_end, received_field, view_header
from pillarbox.engine.dsn import MAX_LINE, NOTICE_LISTENER, Action, Notice, Returned, Telling, may_notify, notice
from pillarbox.engine.ids import IdSource
from pillarbox.engine.intake import MAX_HEADER, SMALL
from pillarbox.engine.mail import Message, Octets
from pillarbox.engine.ports import Accepted, Clock, Directory, NotLocal, Relayed, Spool, SpoolError
from pillarbox.engine.records import Kind, Record

MAX_RETURNED = SMALL  # octets of a message that RET=FULL returns; of a larger one its header section comes back
_NEVER = RcptOptions(notify=frozenset())  # RFC 3461 §6.1: a notice asks for none


class Made(NamedTuple):
    """Notices, each with a record; or the record of why there is none."""

    messages: tuple[Message, ...]
    records: tuple[Record, ...]


class Notices:
    def __init__(self, *, spool: Spool, clock: Clock, ids: IdSource, directory: Directory, hostname: Domain) -> None:
        self._spool = spool
        self._clock = clock
        self._ids = ids
        self._directory = directory
        self._hostname = hostname

    async def make(
        self, message: Message, tellings: Sequence[Telling], *, sender: Mailbox | None, options: MailOptions
    ) -> Made:
        """The notices to that reverse-path, one for each kind of news. `options`: what it had asked for in MAIL."""
        if sender is None or not may_notify(message):
            return self._none(message, "none: the message is a notice itself, or has the null reverse-path")
        recipients = self._recipients(sender)
        if not recipients:
            return self._none(message, f"none: {sender} has no mailbox here")
        messages, records = [], []
        for news in dict.fromkeys(telling.news for telling in tellings):
            alike = [telling for telling in tellings if telling.news is news]
            returned = await self._returned(message, whole=news is Action.FAILED and returns_whole(message, options))
            told = Notice(message, alike, sender, options, self._hostname, self._clock.now())
            messages.append(self._message(told, recipients, returned))
            detail = (("text", f"{messages[-1].id} to {sender}"), ("action", alike[0].action.value))
            records.append(Record(message.id, self._clock.now(), Kind.NOTICE, None, detail))
        return Made(tuple(messages), tuple(records))

    def _recipients(self, sender: Mailbox) -> tuple[Recipient, ...]:
        resolution = self._directory.resolve(sender)
        if isinstance(resolution, NotLocal | Relayed):
            return (Recipient(sender, sender, None, _NEVER),)
        if isinstance(resolution, Accepted):
            return tuple(Recipient(target, sender, None, _NEVER) for target in resolution.targets)
        return ()

    async def _returned(self, message: Message, *, whole: bool) -> Returned:
        """The message, or its header section, as far as it can be read."""
        if message.large:  # what is in memory of it is its end
            message = replace(message, content=None)
        octets = b""
        try:
            async for chunk in self._spool.body(message):
                octets += chunk
                if not whole and (header_end(octets) is not None or len(octets) >= MAX_HEADER):
                    break
        except SpoolError:
            return Returned(octets[: header_end(octets) or MAX_HEADER])
        if whole and max(map(len, octets.split(b"\r\n"))) <= MAX_LINE:
            return Returned(octets, whole=True)
        return Returned(octets[: header_end(octets) or MAX_HEADER])

    def _message(self, told: Notice, recipients: tuple[Recipient, ...], returned: Returned) -> Message:
        message_id, hostname = self._ids.next(), str(self._hostname)
        text = notice(told, returned)
        header = text[: header_end(text)]
        octets = received_field(Hop(hostname, "", hostname, "LOCAL"), str(message_id), told.now, None) + text
        kind = Octets.PLAIN if text.isascii() else Octets.EIGHT_BIT
        return Message(
            id=message_id,
            received_at=told.now,
            envelope=Envelope(
                None,
                recipients,
                BodyType.EIGHT_BIT_MIME if kind else BodyType.SEVEN_BIT,
                _asks(told, header),
            ),
            listener=NOTICE_LISTENER,
            peer="",
            helo=hostname,
            protocol="LOCAL",
            size=len(octets),
            header=view_header(header),
            octets=kind if header.isascii() else kind | Octets.UTF8_HEADER,
            large=False,
            content=octets,
        )

    def _none(self, message: Message, text: str) -> Made:
        return Made((), (Record(message.id, self._clock.now(), Kind.NOTICE, None, (("text", text),)),))


def returns_whole(message: Message, options: MailOptions) -> bool:
    """Whether a failure notice returns the text, too: asked for, not secret, not too large, and fit for DATA."""
    return (
        options.ret is Ret.FULL
        and not options.require_tls  # RFC 8689 §5
        and message.size <= MAX_RETURNED
        and not message.octets & Octets.BINARY
    )


def _asks(told: Notice, header: bytes) -> MailOptions:
    """What the notice asks of the next hop: what its own header section needs, and the care that the message had."""
    return MailOptions(
        smtputf8=not header.isascii(),  # RFC 6531 §3.4
        require_tls=told.options.require_tls,  # RFC 8689 §5
        priority=told.options.priority,
    )
