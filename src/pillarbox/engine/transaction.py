"""One mail transaction as its client: what to send next, and what the replies mean for each recipient.

A step machine over a ClientConnection that is greeted and has said EHLO: `begin` and `on_reply` give octets to write,
or SEND_BODY when the message is wanted, or a Report when all recipients have an outcome. Commands are sent together
where the server offers PIPELINING (RFC 2920). Knows no sockets and no deadlines. A message that the next hop can't
take as it is is never sent: it fails with the code that says why.
"""

from __future__ import annotations

from enum import Enum

from pillarbox.core.envelope import BodyType
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Outcome, Report
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import ReplyReceived
from pillarbox.smtp.states import ClientState, Verb


class Body(Enum):
    """The next hop waits for the message."""

    SEND = "send it"
    NONE = "no recipient was accepted: end the data at once (RFC 2920 §3.1)"


Step = bytes | Body | Report

_TOO_BIG = EnhancedCode(5, 3, 4)
_CONVERSION = EnhancedCode(5, 6, 3)
_LOST = EnhancedCode(4, 4, 2)
_PROTOCOL = EnhancedCode(4, 5, 0)


class Transaction:
    """`next_hop` is how records and notices name the server: its host name and address."""

    __slots__ = ("_client", "_outcomes", "_pipelining", "_unsent", "job", "next_hop", "replied")

    def __init__(self, job: Job, client: ClientConnection, next_hop: str) -> None:
        self.job = job
        self.next_hop = next_hop
        self.replied = False  # the server has answered something of this transaction
        self._client = client
        self._pipelining = "PIPELINING" in client.capabilities
        self._outcomes: list[Outcome | None] = [None] * len(job.rows)
        self._unsent = list(range(len(job.rows)))  # RCPT commands whose reply has not come, by index of their row

    def begin(self) -> Step:
        """The first octets; a Report when the message can't go to this server."""
        impossible = self._impossible()
        if impossible is not None:
            return self._all(impossible)
        if self._client.state is not ClientState.ENVELOPE:
            return self._mail()
        reset = self._client.send(Verb.RSET)
        return reset + self._mail() if self._pipelining else reset

    def _mail(self) -> bytes:
        client = self._client
        octets = client.mail(self.job.sender, self._parameters())
        if self._pipelining:
            octets += b"".join([client.rcpt(row.recipient.address) for row in self.job.rows])
            octets += client.send(Verb.DATA)
        return octets

    def _impossible(self) -> Failed | None:
        capabilities, message = self._client.capabilities, self.job.message
        limit, size = capabilities.get("SIZE", ""), message.size + len(self.prefix)
        if limit.isdecimal() and 0 < int(limit) < size:  # RFC 1870 §3: 0 is no limit
            text = f"message of {size} octets is larger than the {limit} that the next hop takes"
            return Failed(text, self.next_hop, _TOO_BIG)
        if message.octets and "8BITMIME" not in capabilities:  # RFC 6152 §3
            return Failed("next hop takes no 8-bit message (no 8BITMIME)", self.next_hop, _CONVERSION)
        return None

    def _parameters(self) -> str:
        capabilities, message = self._client.capabilities, self.job.message
        parameters = f" SIZE={message.size + len(self.prefix)}" if "SIZE" in capabilities else ""
        if message.octets or message.envelope.body_type is BodyType.EIGHT_BIT_MIME:
            parameters += " BODY=8BITMIME" if "8BITMIME" in capabilities else ""
        return parameters

    @property
    def prefix(self) -> bytes:
        """What stands in front of the text: the mark that keeps forwarding from going in a circle (RFC 9228 §3)."""
        forwarder = self.job.forwarder
        return b"" if forwarder is None else f"Delivered-To: {forwarder}\r\n".encode()

    def on_reply(self, reply: ReplyReceived) -> Step:
        """What follows from a reply."""
        self.replied = True
        if reply.code == 421:  # RFC 5321 §3.8: the channel is closing
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
            case Verb.END_OF_DATA:
                return self._all(self._outcome(reply))
            case _:
                return b""

    def _after_mail(self, reply: ReplyReceived) -> Step:
        if reply.klass != 2:
            report = self._all(self._outcome(reply))
            return b"" if self._pipelining else report  # the replies to the rest are still to come
        return b"" if self._pipelining else self._client.rcpt(self.job.rows[0].recipient.address)

    def _after_rcpt(self, reply: ReplyReceived) -> Step:
        index = self._unsent.pop(0)
        if reply.klass != 2 and self._outcomes[index] is None:
            self._outcomes[index] = self._recipient_outcome(reply)
        if self._pipelining:
            return b""
        if self._unsent:
            return self._client.rcpt(self.job.rows[self._unsent[0]].recipient.address)
        return self._report() or self._client.send(Verb.DATA)

    def _recipient_outcome(self, reply: ReplyReceived) -> Outcome:
        if reply.code == 552:  # RFC 5321 §4.5.3.1.10: meant as "too many recipients", so not for good
            return Deferred(str(reply), self.next_hop, EnhancedCode(4, 5, 3), remote=True)
        return self._outcome(reply)

    def _after_data(self, reply: ReplyReceived) -> Step:
        if reply.klass == 3:
            return Body.NONE if self._report() else Body.SEND
        return self._all(self._outcome(reply))

    def lost(self, text: str) -> Report:
        """The connection ended, or a deadline passed: what is open is deferred."""
        return self._all(Deferred(text, self.next_hop, _LOST))

    def unsendable(self, text: str) -> Report:
        """The message itself can't be put on the wire."""
        return self._all(Failed(text, self.next_hop, _CONVERSION))

    def _outcome(self, reply: ReplyReceived) -> Outcome:
        """RFC 5321 §4.2.1: the first digit decides."""
        if reply.klass == 2 and reply.verb is Verb.END_OF_DATA:
            return Delivered(str(reply), self.next_hop)
        if reply.klass == 5:
            return Failed(str(reply), self.next_hop, _status(reply), remote=True)
        return Deferred(str(reply), self.next_hop, _status(reply), remote=True)

    def _all(self, outcome: Outcome) -> Report:
        """That outcome for each recipient that has none yet."""
        outcomes = tuple(each or outcome for each in self._outcomes)
        self._outcomes = list(outcomes)
        return Report(outcomes)

    def _report(self) -> Report | None:
        outcomes = tuple(each for each in self._outcomes if each is not None)
        return Report(outcomes) if len(outcomes) == len(self._outcomes) else None


def _status(reply: ReplyReceived) -> EnhancedCode:
    """The server's enhanced code, or the plainest one of its class; an intermediate or odd reply is a fault for now."""
    if reply.enhanced is not None and reply.klass in (4, 5):
        return reply.enhanced
    return EnhancedCode(reply.klass, 0, 0) if reply.klass in (4, 5) else _PROTOCOL
