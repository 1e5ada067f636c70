"""A mail transaction by LMTP: what differs from one by SMTP, where the end is answered for each recipient (RFC 2033).

Mail for other hosts is taken from the relay networks only, for LMTP is final delivery. A message that some of its
recipients can't have is taken for the others: one whom it would lead in a circle, and one whose mailbox it would fill
above the quota, which by SMTP is judged by the declared size alone. Whatever else is found out about a message holds
for all of its recipients, for they are made durable by one commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pillarbox.core import reply as r
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import Recipient
from pillarbox.core.message import Hop
from pillarbox.core.reply import Replies, Reply
from pillarbox.engine.intake import Intake
from pillarbox.engine.ports import Accepted, Fate, NotLocal, Relayed, Resolution, User
from pillarbox.engine.questions import Ask, Step
from pillarbox.engine.reception import Reception, is_looping, refusal_of_quota
from pillarbox.engine.service import Client, Service
from pillarbox.smtp.events import MailFrom, RcptTo


class _Room(NamedTuple):
    """What a mailbox with a quota held when its user was named."""

    user: User
    usage: int  # octets


class LmtpReception(Reception):
    """The transaction, from the accepted sender on."""

    __slots__ = ("_path", "_paths", "_refused", "_rooms")

    def __init__(self, service: Service, client: Client, hop: Hop, mail: MailFrom) -> None:
        super().__init__(service, client, hop, mail)
        self._path: Mailbox | None = None  # that of the RCPT which is being answered
        self._paths: dict[Mailbox, dict[Mailbox, Recipient]] = {}  # whom each accepted forward-path stands for
        self._rooms: dict[Mailbox, _Room] = {}  # by forward-path
        self._refused: dict[Mailbox, Reply] = {}  # by forward-path: accepted at RCPT, refused at the end

    # --- RCPT

    def rcpt_to(self, event: RcptTo) -> Step:
        self._path = event.recipient
        return super().rcpt_to(event)

    def _passes_on(self, resolution: Resolution) -> bool:
        return self._client.trusted and isinstance(resolution, Relayed | NotLocal)

    def _with_usage(self, recipient: Mailbox, accepted: Accepted, user: User, usage: int | None) -> Step:
        if usage is not None and self._path is not None:
            self._rooms[self._path] = _Room(user, usage)
        return super()._with_usage(recipient, accepted, user, usage)

    def _added(self, recipient: Mailbox, accepted: Accepted, refusal: Reply | None = None) -> Reply:
        """Each forward-path keeps whom it stands for: another one may lead to the same, and not in a circle."""
        reply = super()._added(recipient, accepted, refusal)
        if reply.code // 100 == 2 and self._path is not None:
            owners = accepted.owners
            self._paths[self._path] = {
                target: Recipient(target, recipient, owners.get(target), self._options) for target in accepted.targets
            }
        return reply

    # --- the message

    def _judged(self, intake: Intake, rest: bytes, refusal: Reply | None = None) -> Reply | Ask:
        step = super()._judged(intake, rest, refusal)
        return self._each(step) if isinstance(step, Reply) else step

    def _sift(self, intake: Intake) -> None:
        self._refused = dict(self._refusals(intake))
        if not self._refused:
            return
        self.recipients = {}
        for path, targets in self._paths.items():
            if path not in self._refused:
                for target, recipient in targets.items():
                    self.recipients.setdefault(target, recipient)
        if not self.recipients:
            intake.fail(next(iter(self._refused.values())))

    def _refusals(self, intake: Intake) -> Iterator[tuple[Mailbox, Reply]]:
        """The forward-paths that this message is not for, with the reply that each gets."""
        delivered_to = () if intake.header is None else intake.header.delivered_to
        for path, targets in self._paths.items():
            if delivered_to and any(is_looping(recipient, delivered_to) for recipient in targets.values()):
                yield path, r.FORWARDING_LOOP
            elif (room := self._rooms.get(path)) is not None:
                size = intake.size - intake.trace_size
                if (refusal := refusal_of_quota(room.user, room.usage + size)) is not None:
                    yield path, refusal

    def _accepted(self, fate: Fate) -> Reply:
        return self._each(super()._accepted(fate))

    def _dropped(self, _: None) -> Reply:
        return self._each(super()._dropped(_))

    def _each(self, reply: Reply) -> Reply:
        return Replies(reply, but=self._refused) if self._refused else reply
