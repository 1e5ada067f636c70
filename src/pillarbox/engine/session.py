"""One SMTP session of the server as a step machine: an event in, a reply or a question out.

`handle(event)` gives the Reply, or None where none is due, or a Question to be put to a port; its answer comes in by
`answer`. Knows the policy (who may relay, what is local, the bounds); knows no octets, no sockets, no tasks. Which
command may come when was settled before, in `smtp/states.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import Hop, received_field
from pillarbox.core.reply import Reply
from pillarbox.engine.ids import IdSource
from pillarbox.engine.intake import Intake
from pillarbox.engine.mail import Message
from pillarbox.engine.ports import Accepted, Circular, Clock, Directory, NoSuchUser, SpoolError, SpoolFull
from pillarbox.smtp.events import (
    BodyChunk,
    BodyEnd,
    DataCommand,
    Hello,
    Help,
    MailFrom,
    Noop,
    Quit,
    RcptTo,
    Refused,
    Reset,
    ServerEvent,
    Verify,
)

IpNetwork = IPv4Network | IPv6Network
_HELP = r.help_text(
    (
        "Commands: HELO EHLO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP",
        "End data with <CRLF>.<CRLF>",
    )
)


@dataclass(frozen=True, slots=True)
class Service:
    """What all sessions of a listener share."""

    listener: str
    hostname: Domain
    hostname_configured: bool
    message_size: int  # octets
    recipients: int  # a message
    errors: int  # a session
    relay_networks: tuple[IpNetwork, ...]
    directory: Directory
    clock: Clock
    ids: IdSource

    def may_relay(self, peer: str) -> bool:
        """Whether the client may send mail to anywhere."""
        return bool(self.relay_networks) and _is_within(peer, self.relay_networks)

    @property
    def greeting(self) -> Reply:
        return r.greeting(str(self.hostname))


@lru_cache(maxsize=4096)
def _is_within(peer: str, networks: tuple[IpNetwork, ...]) -> bool:
    address = ip_address(peer)
    return any(address in network for network in networks)


@dataclass(frozen=True, slots=True)
class Spill:
    """To be asked: append this to the body of a large message."""

    message: MessageId
    octets: bytes


@dataclass(frozen=True, slots=True)
class Accept:
    """To be asked: make this message durable and take the responsibility for it."""

    message: Message


@dataclass(frozen=True, slots=True)
class Drop:
    """To be asked: forget what was spilled of this message; it is not accepted."""

    message: MessageId


Question = Spill | Accept | Drop


class Session:
    """From the greeting to the close of one connection."""

    __slots__ = (
        "_asked",
        "_errors",
        "_hop",
        "_intake",
        "_mail",
        "_recipients",
        "_service",
        "_trusted",
    )

    def __init__(self, service: Service, peer: str) -> None:
        """`peer`: the client's IP address."""
        self._service = service
        self._trusted = service.may_relay(peer)
        self._hop = Hop("", peer, service.hostname.ascii, "SMTP")
        self._errors = 0
        self._mail: MailFrom | None = None
        self._recipients: dict[Mailbox, Recipient] = {}
        self._intake: Intake | None = None
        self._asked: Question | None = None

    def handle(self, event: ServerEvent) -> Reply | Question | None:
        """The answer to an event: a reply, none for a piece of a body, or a question first."""
        return _HANDLERS[type(event)](self, event)

    def answer(self, fault: SpoolError | None) -> Reply | None:
        """The answer to the last question: None is "done". Gives the reply that is now due, if any."""
        asked, self._asked = self._asked, None
        intake = self._intake
        assert intake is not None and asked is not None
        if fault is not None:
            intake.fail(r.NO_SPACE if isinstance(fault, SpoolFull) else r.SPOOL_FAULT)
        if isinstance(asked, Spill):
            return None
        self._clear()
        return intake.fault or r.queued(str(intake.id))

    def abandon(self) -> Drop | None:
        """The connection is gone. What was spilled of an unfinished message must go too."""
        intake = self._intake
        if intake is None or not intake.spilled or isinstance(self._asked, Accept | Drop):
            return None
        return Drop(intake.id)

    @property
    def between_transactions(self) -> bool:
        """Nothing is lost to the client when the session ends now."""
        return self._mail is None

    # --- the commands

    def _hello(self, event: Hello) -> Reply:
        """RFC 5321 §4.1.4: clears the transaction; the name is never compared with the address."""
        service = self._service
        ours = event.name.lower() == service.hostname.ascii
        if ours and service.hostname_configured and not self._trusted:
            return r.IMPERSONATION
        self._hop = Hop(event.name, self._hop.peer, service.hostname.ascii, "ESMTP" if event.extended else "SMTP")
        self._clear()
        if not event.extended:
            return r.hello(str(service.hostname))
        keywords = ("PIPELINING", f"SIZE {service.message_size}", "8BITMIME", "ENHANCEDSTATUSCODES", "HELP")
        return r.ehlo(str(service.hostname), keywords)

    def _mail_from(self, event: MailFrom) -> Reply:
        if event.size > self._service.message_size:
            return r.TOO_BIG  # RFC 1870 §6.1
        self._mail = event
        return r.SENDER_OK

    def _rcpt_to(self, event: RcptTo) -> Reply:
        resolution = self._service.directory.resolve(event.recipient)
        if isinstance(resolution, Accepted):
            targets = resolution.targets
        elif isinstance(resolution, NoSuchUser):
            return r.NO_SUCH_USER
        elif isinstance(resolution, Circular):
            return r.BAD_FORWARDING
        elif self._trusted:
            targets = (event.recipient,)
        else:
            return r.RELAY_DENIED
        if len(self._recipients) + len(targets) > self._service.recipients and self._recipients:
            return r.TOO_MANY_RECIPIENTS  # RFC 5321 §4.5.3.1.10; an alias counts with all it stands for
        for target in targets:
            self._recipients.setdefault(target, Recipient(target, event.recipient))
        return r.RECIPIENT_OK

    def _data(self, event: DataCommand) -> Reply:
        service = self._service
        message_id = service.ids.next()
        originals = {recipient.original for recipient in self._recipients.values()}
        only = str(originals.pop()) if len(originals) == 1 else None
        trace = received_field(self._hop, str(message_id), service.clock.now(), only)
        self._intake = Intake(message_id, trace, service.message_size)
        return r.START_DATA

    def _body_chunk(self, event: BodyChunk) -> Question | None:
        assert self._intake is not None
        piece = self._intake.add(event.octets)
        return self._ask(Spill(self._intake.id, piece)) if piece is not None else None

    def _ask(self, question: Question) -> Question:
        self._asked = question
        return question

    def _body_end(self, event: BodyEnd) -> Reply | Question:
        intake = self._intake
        assert intake is not None
        rest = intake.finish(event.octets, bare=event.bare)
        if intake.fault is None:
            return self._ask(Accept(self._message(intake, rest)))
        if intake.spilled:
            return self._ask(Drop(intake.id))
        self._clear()
        return intake.fault

    def _message(self, intake: Intake, rest: bytes) -> Message:
        service, mail = self._service, self._mail
        assert mail is not None
        envelope = Envelope(mail.sender, tuple(self._recipients.values()), mail.body_type)
        return intake.message(rest, envelope, hop=self._hop, listener=service.listener, received_at=service.clock.now())

    def _reset(self, event: Reset) -> Reply:
        self._clear()
        return r.RESET_OK

    def _clear(self) -> None:
        self._mail = None
        self._recipients = {}
        self._intake = None

    def _noop(self, event: Noop) -> Reply:
        return r.NOOP_OK

    def _quit(self, event: Quit) -> Reply:
        return r.BYE

    def _verify(self, event: Verify) -> Reply:
        return r.CANNOT_VERIFY  # RFC 5321 §3.5.3, §7.3

    def _help(self, event: Help) -> Reply:
        return _HELP

    def _refused(self, event: Refused) -> Reply:
        self._errors += 1
        return event.reply if self._errors <= self._service.errors else r.TOO_MANY_ERRORS


_HANDLERS: Mapping[type, Callable[[Session, Any], Reply | Question | None]] = {
    Hello: Session._hello,
    MailFrom: Session._mail_from,
    RcptTo: Session._rcpt_to,
    DataCommand: Session._data,
    BodyChunk: Session._body_chunk,
    BodyEnd: Session._body_end,
    Reset: Session._reset,
    Noop: Session._noop,
    Quit: Session._quit,
    Verify: Session._verify,
    Help: Session._help,
    Refused: Session._refused,
}
