"""One job carried out as its client: what to send next, and what the replies mean for each recipient.

A step machine over a ClientConnection that is greeted and has said EHLO: `begin` and `on_reply` give octets to write,
or a Convert when the text must be made fit for the server first, or a Body when the message is wanted, or a Report when
all recipients have an outcome. Commands are sent together where the server offers PIPELINING (RFC 2920); a server that
takes few recipients at a time (RFC 9422) gets the message several times. Knows no sockets and no deadlines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from pillarbox.core.address import Mailbox
from pillarbox.core.mime import Plan, Target
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine import passing_on
from pillarbox.engine.mail import Ambiguous, Deferred, Delivered, Failed, Job, Octets, Outcome, Reach, Report, Unsent
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import ReplyReceived
from pillarbox.smtp.states import ClientState, Verb


class Body(Enum):
    """The next hop waits for the message."""

    SEND = "send it"
    CHUNK = "send it as one chunk (RFC 3030)"
    NONE = "no recipient was accepted: end the data at once (RFC 2920 §3.1)"


class Convert(NamedTuple):
    """The text must be surveyed: say `converted` or `unsendable`."""

    target: Target


Step = bytes | Body | Convert | Report

ENDS = (Verb.END_OF_DATA, Verb.BDAT)  # of a message
_CONVERSION = EnhancedCode(5, 6, 3)
_LOST = EnhancedCode(4, 4, 2)
_PROTOCOL = EnhancedCode(4, 5, 0)
_TOO_MANY = EnhancedCode(4, 5, 3)
_AFTER: Mapping[Target | None, Octets] = {
    Target.SEVEN_BIT: ~(Octets.EIGHT_BIT | Octets.UTF8_HEADER | Octets.BINARY),
    Target.EIGHT_BIT: ~Octets.BINARY,
}


class Transaction:
    """`next_hop` is how records and notices name the server: its host name and address; `now` tells seconds since the
    epoch."""

    __slots__ = (
        "_accepted",
        "_authenticated",
        "_batches",
        "_by_chunk",
        "_client",
        "_most_mails",
        "_most_recipients",
        "_now",
        "_outcomes",
        "_pipelining",
        "_tls",
        "_unsent",
        "job",
        "mails",
        "named",
        "next_hop",
        "plan",
        "prefix",
        "replied",
    )

    def __init__(
        self,
        job: Job,
        client: ClientConnection,
        next_hop: str,
        *,
        now: Callable[[], float],
        authenticated: bool = False,
        most_mails: int | None = None,
        most_recipients: int | None = None,
        tls: str = "",
    ) -> None:
        """`most_mails`: how many transactions the server still takes on this connection; `most_recipients`: how many we
        name in one; `tls`: the version on it."""
        self._tls = tls
        self.job = job
        self.next_hop = next_hop
        self.replied = False  # the server has answered something of this transaction
        self.plan: Plan | None = None  # how the text is converted
        self.prefix = b""  # what stands in front of the text
        self.mails = 0  # transactions at the server
        self.named: list[Mailbox] = []  # whom we gave it, in order
        self._client = client
        self._now = now
        self._authenticated = authenticated
        self._most_mails = most_mails
        self._most_recipients = most_recipients
        self._pipelining = "PIPELINING" in client.capabilities
        self._by_chunk = False
        self._accepted = False  # some RCPT of this transaction
        self._outcomes: list[Outcome | None] = [None] * len(job.rows)
        self._batches: list[list[int]] = []  # rows of the transactions to come, the next one last
        self._unsent: list[int] = []  # RCPT commands whose reply has not come, by index of their row

    def begin(self) -> Step:
        """The first octets; a Report when the message can't go to this server."""
        keywords = self._client.capabilities
        if self.job.message.octets and (target := passing_on.conversion(self.job, keywords)) is not None:
            return Convert(target)
        return self._begin()

    def converted(self, plan: Plan) -> Step:
        """The text was surveyed, and goes by that plan."""
        self.plan = plan
        return self._begin()

    def _begin(self) -> Step:
        keywords = self._client.capabilities
        self.prefix = self._prefix(keywords)
        impossible = passing_on.refusal(
            self.job,
            keywords,
            sender=self._reverse_path(),
            size=self.size,
            now=self._now(),
            next_hop=self.next_hop,
        )
        if impossible is not None:
            return self._all(impossible)
        self._by_chunk = self.plan is None and passing_on.goes_by_chunks(self.job, keywords)
        self._outcomes = [
            passing_on.refusal_of_recipient(row.recipient, keywords, self.next_hop) for row in self.job.rows
        ]
        wanted = [index for index, outcome in enumerate(self._outcomes) if outcome is None]
        self._batches = passing_on.batches(self.job, wanted, keywords, self._most_recipients)
        return self._next_batch()

    def _next_batch(self) -> Step:
        """The next transaction, or the report when there is none."""
        if not self._batches and all(self._outcomes):
            return self._report()
        if not self._batches or self._client.state is ClientState.BODY:
            return self._all(Deferred("not sent", self.next_hop, _PROTOCOL))
        if self.mails == self._most_mails:
            return self._all(Unsent("goes by another connection: this one is full (LIMITS)", self.next_hop, _TOO_MANY))
        self._unsent = self._batches.pop()
        self._accepted = False
        self.mails += 1
        if self._client.state is not ClientState.ENVELOPE:
            return self._mail()
        reset = self._client.send(Verb.RSET)
        return reset + self._mail() if self._pipelining else reset

    def _mail(self) -> bytes:
        client = self._client
        sender = self._reverse_path()
        octets = client.mail(sender, self._parameters(sender))
        if self._pipelining:
            octets += b"".join([self._rcpt(index) for index in self._unsent])
            if not self._by_chunk:
                octets += client.send(Verb.DATA)
        return octets

    def _reverse_path(self) -> Mailbox | None:
        return self.job.reverse_path

    def _rcpt(self, index: int) -> bytes:
        recipient = self.job.rows[index].recipient
        self.named.append(recipient.address)
        return self._client.rcpt(
            recipient.address, passing_on.rcpt_parameters(recipient.options, self._client.capabilities)
        )

    def _parameters(self, sender: Mailbox | None) -> str:
        octets = self.job.message.octets
        return passing_on.mail_parameters(
            self.job,
            self._client.capabilities,
            sender=sender,
            size=self.size,
            octets=octets if self.plan is None else octets & _AFTER[self.plan.target],
            now=self._now(),
            authenticated=self._authenticated,
        )

    @property
    def size(self) -> int:
        """Octets of what is sent."""
        return len(self.prefix) + (self.job.message.size if self.plan is None else self.plan.size)

    def _prefix(self, keywords: Mapping[str, str]) -> bytes:
        """The mark that keeps forwarding from going in a circle (RFC 9228 §3), and what no extension of the server's
        could say."""
        forwarder = self.job.forwarder
        mark = b"" if forwarder is None else f"Delivered-To: {forwarder}\r\n".encode()
        return mark + passing_on.header_fields(self.job, keywords)

    def on_reply(self, reply: ReplyReceived) -> Step:
        """What follows from a reply."""
        self.replied = True
        if self._client.state is ClientState.CLOSED:  # by a 421 (RFC 5321 §3.8), or a reply that has no place
            return self._all(Deferred(str(reply), self.next_hop, _status(reply), remote=True))
        match reply.verb:
            case Verb.RSET:
                if reply.klass != 2:
                    return self._all(Deferred(str(reply), self.next_hop, _PROTOCOL, remote=True))
                return b"" if self._pipelining else self._mail()
            case Verb.MAIL:
                return self._after_mail(reply)
            case Verb.RCPT:
                return self._after_rcpt(reply)
            case Verb.DATA:
                return self._after_data(reply)
            case Verb.END_OF_DATA | Verb.BDAT:
                return self._after_end(reply)
            case _:
                return b""

    def _after_mail(self, reply: ReplyReceived) -> Step:
        if reply.klass != 2:
            if not self._pipelining:
                return self._batch(self._outcome(reply))
            self._give(self._outcome(reply))  # the replies to the rest are still to come
            return b""
        return b"" if self._pipelining else self._rcpt(self._unsent[0])

    def _after_rcpt(self, reply: ReplyReceived) -> Step:
        index = self._unsent.pop(0)
        self._accepted = self._accepted or reply.klass == 2
        if reply.klass != 2 and self._outcomes[index] is None:
            self._outcomes[index] = self._recipient_outcome(reply)
        if self._unsent:
            return b"" if self._pipelining else self._rcpt(self._unsent[0])
        if self._by_chunk:
            return self._next_batch() if self._given else Body.CHUNK
        if self._pipelining:
            return b""
        return self._next_batch() if self._given else self._client.send(Verb.DATA)

    def _recipient_outcome(self, reply: ReplyReceived) -> Outcome:
        if reply.code == 552:  # RFC 5321 §4.5.3.1.10: meant as "too many recipients", so not for good
            return Deferred(str(reply), self.next_hop, _TOO_MANY, remote=True)
        return self._outcome(reply)

    def _after_data(self, reply: ReplyReceived) -> Step:
        """A server that refused MAIL, accepted recipients and says 354 would deliver the empty message to them: it gets
        no end mark."""
        if reply.klass == 3 and not self._given:
            return Body.SEND
        if reply.klass == 3 and not self._accepted:
            return Body.NONE
        return self._batch(self._outcome(reply))

    @property
    def replies_due(self) -> int:
        """To the end of the message."""
        return 1

    def _after_end(self, reply: ReplyReceived) -> Step:
        return self._batch(self._outcome(reply))

    def lost(self, text: str, *, is_sent: bool = False) -> Report:
        """The connection ended, or a deadline passed: what is open is deferred. `is_sent`: behind the end of the
        message, so that the server may have it (RFC 1047)."""
        if is_sent:
            maybe = f"maybe delivered: {text}, after the end of the message and before the reply to it"
            self._give(Ambiguous(maybe, self.next_hop, _LOST))
        return self._all(Deferred(text, self.next_hop, _LOST))

    def unsendable(self, text: str) -> Report:
        """The message itself can't be put on the wire."""
        return self._all(Failed(text, self.next_hop, _CONVERSION))

    def _outcome(self, reply: ReplyReceived) -> Outcome:
        """RFC 5321 §4.2.1: the first digit decides."""
        if reply.klass == 2 and reply.verb in ENDS:
            reach = Reach.NOTIFYING if "DSN" in self._client.capabilities else Reach.SILENT
            keeps_time = self.job.options.deliver_by is None or "DELIVERBY" in self._client.capabilities
            return Delivered(str(reply), self.next_hop, reach, keeps_time, self._tls)
        if reply.klass == 5:
            return Failed(str(reply), self.next_hop, _status(reply), remote=True)
        return Deferred(str(reply), self.next_hop, _status(reply), remote=True)

    def _all(self, outcome: Outcome) -> Report:
        """That outcome for each recipient that has none yet: nothing more is sent."""
        self._outcomes = [each or outcome for each in self._outcomes]
        return self._report()

    def _report(self) -> Report:
        return Report(tuple([each for each in self._outcomes if each is not None]))

    def _batch(self, outcome: Outcome) -> Step:
        """That outcome for each recipient of this transaction that has none yet; then the next one."""
        self._give(outcome)
        return self._next_batch()

    def _give(self, outcome: Outcome) -> None:
        for index in self._open:
            self._outcomes[index] = outcome

    @property
    def _open(self) -> list[int]:
        """The recipients of this transaction that have no outcome, by index of their row."""
        unsettled = [index for index, each in enumerate(self._outcomes) if each is None]
        if not self._batches:
            return unsettled
        later = {index for batch in self._batches for index in batch}
        return [index for index in unsettled if index not in later]

    @property
    def _given(self) -> bool:
        """Whether each recipient of this transaction has its outcome."""
        return not self._open


class LmtpTransaction(Transaction):
    """As by SMTP, but that each accepted recipient has a reply of its own to the end of the message (RFC 2033 §4.2)."""

    __slots__ = ()

    def _reverse_path(self) -> Mailbox | None:
        """Final delivery answers here and now: nothing will come back, and Return-Path tells who sent it."""
        return self.job.sender

    @property
    def replies_due(self) -> int:
        return len(self._open)

    def _after_data(self, reply: ReplyReceived) -> Step:
        """A server that says 354 and has accepted nobody is not believed further: no reply would come."""
        step = super()._after_data(reply)
        return self._next_batch() if step is Body.NONE else step

    def _after_end(self, reply: ReplyReceived) -> Step:
        """The replies come in the order of the recipients."""
        self._outcomes[self._open[0]] = self._outcome(reply)
        return self._next_batch() if self._given else b""


def _status(reply: ReplyReceived) -> EnhancedCode:
    """The server's enhanced code, or the plainest one of its class; an intermediate or odd reply is a fault for now."""
    if reply.enhanced is not None and reply.klass in (4, 5):
        return reply.enhanced
    return EnhancedCode(reply.klass, 0, 0) if reply.klass in (4, 5) else _PROTOCOL
