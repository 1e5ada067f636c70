"""LmtpConnection: the server's side of one LMTP connection, without I/O.

LMTP is SMTP but for three things (RFC 2033 §4): LHLO greets, which `Offer` sees to; DATA fails where no recipient was
accepted; and the end of a message is answered once for each RCPT that was accepted, in their order. Invariant: the
right number of replies leaves in the right order, whatever is answered. What an answer means is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.reply import Replies, Reply
from pillarbox.smtp.events import BodyEnd, ChunkEnd, RcptTo, Refused, ServerEvent, Wait
from pillarbox.smtp.server import Offer, ServerConnection
from pillarbox.smtp.states import Verb

_NOBODY: Mapping[Mailbox, Reply] = {}
_IN_PLACE_OF: Mapping[Reply, Reply] = {
    r.NEED_HELO: r.NEED_LHLO,
    r.NO_VALID_RECIPIENTS: r.NEED_RCPT,  # RFC 2033 §4.2: 503
}
_OPENING = frozenset((Verb.MAIL, Verb.SEND, Verb.SOML, Verb.SAML))


class LmtpConnection(ServerConnection):
    """One connection from its greeting to its close."""

    __slots__ = ("_accepted", "_asked", "_whole")

    def __init__(self, hostname: Domain, offer: Offer) -> None:
        super().__init__(hostname, offer)
        self._accepted: list[Mailbox] = []  # a forward-path that was given twice stands there twice
        self._asked: Mailbox | None = None  # that of the RCPT to be answered
        self._whole = False  # what is to be answered is the end of a message, by DATA or by BDAT LAST

    def next_event(self) -> ServerEvent | Wait:
        event = super().next_event()
        if event is Wait.PAUSED:
            return event
        if type(event) is Refused and event.reply in _IN_PLACE_OF:
            return Refused(event.verb, _IN_PLACE_OF[event.reply])
        self._whole = type(event) is BodyEnd or (type(event) is ChunkEnd and event.last)
        self._asked = event.recipient if type(event) is RcptTo else None
        return event

    def send(self, reply: Reply) -> bytes:
        """The end of a message gets the reply once for each accepted recipient, or what `Replies` has for it."""
        if self._whole:
            return self._send_each(reply)
        verb, asked = self._pending, self._asked
        octets = super().send(reply)
        if reply.code // 100 == 2:
            if verb is Verb.RCPT and asked is not None:
                self._accepted.append(asked)
            elif verb in _OPENING:
                self._accepted = []
        return octets

    def _send_each(self, reply: Reply) -> bytes:
        """In the order of the RCPT commands (RFC 2033 §4.2, and §4.3 for BDAT)."""
        but = reply.but if isinstance(reply, Replies) else _NOBODY
        replies = [but.get(recipient, reply) for recipient in self._accepted]
        pending, octets = self._pending, []
        for each in replies or [reply]:
            self._pending = pending
            octets.append(super().send(each))
        self._whole, self._accepted = False, []
        return b"".join(octets)
