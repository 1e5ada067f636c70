"""One mail transaction of a session: from MAIL, SEND, SOML or SAML to the end of its message.

Decides who may send what to whom, collects the message, and sees it to the queue, to terminals, or both (RFC 5321
§3.3, RFC 821 §3.4). Each step gives a reply or a question; knows no octets of the protocol, no sockets, no tasks. Which
command may come when was settled before, in `smtp/states.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from pillarbox.core import reply as r
from pillarbox.core.address import AddressLiteral, Domain, Mailbox
from pillarbox.core.envelope import NO_RCPT_OPTIONS, BodyType, Envelope, Mode, Recipient, ValidSince
from pillarbox.core.message import Hop, received_field
from pillarbox.core.reply import Reply
from pillarbox.engine import hooks, submission
from pillarbox.engine.extensions import is_plain, refusal_of_options, settled_options
from pillarbox.engine.hooks import consult
from pillarbox.engine.intake import Intake
from pillarbox.engine.mail import Message
from pillarbox.engine.once import reply_to_repeat
from pillarbox.engine.ports import (
    Accepted,
    Circular,
    Disabled,
    Fate,
    Moved,
    NoSuchUser,
    NotLocal,
    Posting,
    Relayed,
    Resolution,
    SpoolError,
    SpoolFull,
    User,
)
from pillarbox.engine.questions import (
    Accept,
    Ask,
    AskNullMx,
    AskSenderDomain,
    AskUsage,
    Drop,
    SenderDomain,
    Show,
    Spill,
    Step,
)
from pillarbox.engine.service import Client, Service
from pillarbox.engine.suppression import refusal_of_suppressed
from pillarbox.engine.terminal import terminal_text
from pillarbox.smtp.events import BodyChunk, BodyEnd, ChunkEnd, MailFrom, RcptTo
from pillarbox.smtp.parameters import moment
from pillarbox.smtp.states import Verb

MAX_TERMINAL = 64 * 1024  # octets of a message that is shown on a terminal
_VERBS = {Mode.SEND: Verb.SEND, Mode.SOML: Verb.SOML, Mode.SAML: Verb.SAML}
_SENDER_DOMAINS = {
    SenderDomain.NONE: r.SENDER_UNKNOWN,
    SenderDomain.NULL_MX: r.SENDER_NULL_MX,
    SenderDomain.UNKNOWN: r.SENDER_UNCHECKED,
}
_REFUSALS: Mapping[type[Resolution], Reply] = {
    NoSuchUser: r.NO_SUCH_USER,
    Relayed: r.RELAY_DENIED,
    NotLocal: r.RELAY_DENIED,
    Disabled: r.MAILBOX_DISABLED,
    Circular: r.BAD_FORWARDING,
}


def spool_refusal(fault: SpoolError) -> Reply:
    return r.NO_SPACE if isinstance(fault, SpoolFull) else r.SPOOL_FAULT


def refusal_of_quota(user: User, usage: int) -> Reply | None:
    """What a mailbox that would hold so many octets gets."""
    if user.quota is not None and usage > user.quota:
        return r.MAILBOX_FULL
    if user.soft_quota is not None and usage > user.soft_quota:
        return r.MAILBOX_NEARLY_FULL
    return None


def _size_limit(service: Service, mode: Mode) -> int:
    """Octets that a message may have: what is for a terminal only must fit on one."""
    return min(service.message_size, MAX_TERMINAL) if mode is Mode.SEND else service.message_size


def refusal_of_sender(service: Service, client: Client, event: MailFrom) -> Reply | None:
    """What is wrong with a transaction at its beginning, as far as it is known without asking anybody."""
    if (refusal := submission.refusal(service, client, event.sender)) is not None:
        return refusal
    if event.mode is not Mode.MAIL:
        if not client.may(_VERBS[event.mode]):
            return r.AUTH_NEEDED
        if not service.terminal_rate.allows(client.name, service.clock.monotonic()):
            return r.TOO_MANY_SHOWN
    if event.size > _size_limit(service, event.mode):
        return r.TOO_BIG  # RFC 1870 §6.1
    if not is_plain(event) and (refusal := refusal_of_options(service, client, event)) is not None:
        return refusal
    fault = service.spool_fault(event.size)
    return None if fault is None else spool_refusal(fault)


def question_of_sender(service: Service, client: Client, event: MailFrom) -> AskSenderDomain | None:
    """What is to be asked about the sender of somebody who is not known to us."""
    sender = event.sender
    if sender is None or client.may_relay:
        return None
    domain = sender.domain
    if not isinstance(domain, Domain) or service.directory.is_local(domain):
        return None
    return AskSenderDomain(domain)


def judged_sender(found: SenderDomain) -> Reply | None:
    """The refusal that follows from the answer, None for none."""
    return _SENDER_DOMAINS.get(found)


def is_looping(recipient: Recipient, delivered_to: tuple[str, ...]) -> bool:
    """RFC 9228 §3: what was forwarded by an address here before is not forwarded by it again."""
    return recipient.forwarded and str(recipient.original).casefold() in delivered_to


class Reception:
    """The transaction, from the accepted sender on."""

    __slots__ = ("_client", "_hop", "_intake", "_mail", "_options", "_service", "recipients")

    def __init__(self, service: Service, client: Client, hop: Hop, mail: MailFrom) -> None:
        self._service = service
        self._client = client
        self._hop = hop
        self._mail = mail
        self.recipients: dict[Mailbox, Recipient] = {}
        self._intake: Intake | None = None
        self._options = NO_RCPT_OPTIONS  # of the RCPT that is being answered

    @property
    def mail(self) -> MailFrom:
        """What began it."""
        return self._mail

    @property
    def spilled(self) -> Drop | None:
        """What must be forgotten when the transaction ends here."""
        intake = self._intake
        return Drop(intake.id) if intake is not None and intake.spilled else None

    # --- RCPT

    def rcpt_to(self, event: RcptTo) -> Step:
        recipient, self._options = event.recipient, event.options
        if event.international and not self._mail.options.smtputf8:
            return r.NON_ASCII_PATH  # RFC 6531 §3.5
        if type(recipient.domain) is AddressLiteral:
            recipient = self._at_home(recipient, recipient.domain)
        resolution = self._service.directory.resolve(recipient)
        if type(resolution) is Accepted:
            return self._known(recipient, resolution)
        if submission.is_unqualified(self._service, recipient, resolution):
            return self._client.erred(r.UNQUALIFIED)
        if self._passes_on(resolution):
            return self._elsewhere(recipient, resolution)
        if type(resolution) is Moved:
            return self._client.probed(self._moved(resolution.to))
        return self._client.probed(_REFUSALS[type(resolution)])

    def _moved(self, to: Mailbox) -> Reply:
        return r.moved(str(to)) if to.is_ascii or self._mail.options.smtputf8 else r.MOVED_UNSAID

    def _passes_on(self, resolution: Resolution) -> bool:
        """Whether mail for that address, another host's, is taken from this client."""
        return type(resolution) is Relayed or (type(resolution) is NotLocal and self._client.may_relay)

    def _at_home(self, recipient: Mailbox, literal: AddressLiteral) -> Mailbox:
        """Our own IP address stands for this host (RFC 1123 §5.2.17, RFC 5321 §2.3.4): who logs in by that name."""
        if str(literal.ip) != self._client.here():
            return recipient
        user = self._service.directory.login(recipient.local.text)
        return Mailbox(recipient.local, self._service.hostname) if user is None else user.mailbox

    def _elsewhere(self, recipient: Mailbox, resolution: Resolution) -> Step:
        if self._mail.mode is Mode.SEND:
            return r.NO_TERMINAL_ELSEWHERE
        suppressed = self._service.suppressed
        if suppressed is not None and self._client.may_relay and (found := suppressed(recipient)) is not None:
            return refusal_of_suppressed(found)
        if self._service.checks_recipient_domain and type(resolution) is NotLocal:
            domain = recipient.domain
            if isinstance(domain, Domain):
                return Ask(AskNullMx(domain), lambda found: self._with_domain(recipient, takes_no_mail=found))
        return self._add(recipient, Accepted((recipient,)))

    def _with_domain(self, recipient: Mailbox, *, takes_no_mail: bool) -> Step:
        return r.RECIPIENT_NULL_MX if takes_no_mail else self._add(recipient, Accepted((recipient,)))

    def _known(self, recipient: Mailbox, accepted: Accepted) -> Step:
        if accepted.postings and not self._may_post(accepted.postings):
            return self._client.probed(r.MAY_NOT_POST)
        targets = accepted.targets
        if self._options.valid_since is not None and self._is_of_another(targets, self._options.valid_since):
            return self._client.probed(r.MAILBOX_OF_ANOTHER)
        if self._mail.mode is Mode.SEND:
            return self._for_terminals(recipient, targets)
        if accepted.limited and (user := self._service.directory.user(targets[0])) is not None:
            return Ask(AskUsage(user.mailbox), partial(self._with_usage, recipient, accepted, user))
        return self._add(recipient, accepted)

    def _is_of_another(self, targets: tuple[Mailbox, ...], valid: ValidSince) -> bool:
        """RFC 7293 §5.1: whether the mailbox was made later than the sender knew its owner, as far as that is known."""
        user = self._service.directory.user(targets[0]) if len(targets) == 1 else None
        return user is not None and user.created_at is not None and user.created_at > moment(valid.since)

    def _may_post(self, postings: tuple[Posting, ...]) -> bool:
        sender, client = self._mail.sender, self._client
        known = None if sender is None else self._service.directory.user(sender)
        if known is not None:
            sender = known.mailbox  # as the list has it, whatever the case
        user = None if client.user is None else client.user.mailbox
        return all(posting.permits(sender, user) for posting in postings)

    def _for_terminals(self, recipient: Mailbox, targets: tuple[Mailbox, ...]) -> Step:
        """SEND reaches those users of this host, behind whatever alias or list, who have a terminal open."""
        here = [target for target in targets if self._is_here(target)]
        if not here:
            return self._client.probed(r.NO_TERMINAL_ELSEWHERE)
        active = tuple(target for target in here if self._service.presence.active(target))
        return self._add(recipient, Accepted(active)) if active else self._client.probed(r.NOT_ACTIVE)

    def _is_here(self, target: Mailbox) -> bool:
        return isinstance(target.domain, Domain) and self._service.directory.is_local(target.domain)

    def _with_usage(self, recipient: Mailbox, accepted: Accepted, user: User, usage: int | None) -> Step:
        if usage is None:
            return self._client.probed(r.MAILBOX_UNREADABLE)
        refusal = refusal_of_quota(user, usage + self._mail.size)
        return self._add(recipient, accepted) if refusal is None else self._client.probed(refusal)

    def _add(self, recipient: Mailbox, accepted: Accepted) -> Step:
        recipients = self.recipients
        if len(recipients) + len(accepted.targets) > self._service.recipients and recipients:
            return r.TOO_MANY_RECIPIENTS  # RFC 5321 §4.5.3.1.10; an alias counts with all it stands for
        if chain := self._client.chains.rcpt:
            occasion = hooks.Rcpt(self._client, self._mail, recipient, len(recipients))
            if (step := consult(chain, occasion, partial(self._added, recipient, accepted))) is not None:
                return step
        return self._added(recipient, accepted)

    def _added(self, recipient: Mailbox, accepted: Accepted, refusal: Reply | None = None) -> Reply:
        if refusal is not None:
            return refusal
        recipients, targets, owners = self.recipients, accepted.targets, accepted.owners
        for target in targets:
            owner = owners.get(target) if owners else None
            recipients.setdefault(target, Recipient(target, recipient, owner, self._options))
        announced = accepted.announced
        if announced is None or not (announced.is_ascii or self._mail.options.smtputf8):
            return r.RECIPIENT_OK
        return r.announced(str(announced))

    # --- the message

    def data_command(self) -> Step:
        if self._mail.body_type is BodyType.BINARY_MIME:
            return r.BINARY_NEEDS_BDAT
        if chain := self._client.chains.data:
            occasion = hooks.Data(self._client, self._mail, self.recipients.values())
            if (step := consult(chain, occasion, self.data)) is not None:
                return step
        return self.data()

    def data(self, refusal: Reply | None = None) -> Reply:
        if refusal is not None:
            return refusal
        fault = self._service.spool_fault(0)
        if fault is not None and not isinstance(fault, SpoolFull):
            return r.SPOOL_FAULT
        self._intake = self._begun()
        return r.START_DATA

    def _begun(self) -> Intake:
        service = self._service
        message_id = service.ids.next()
        trace = received_field(self._hop, str(message_id), service.clock.now(), self._only())
        edit = submission.header_edit(service, message_id)
        return Intake(message_id, trace, _size_limit(service, self._mail.mode), edit, asked=service.fields_asked)

    def _only(self) -> str | None:
        """The one address that RCPT named, however often and whatever it stands for."""
        first, *others = self.recipients.values()
        if others and any(other.original != first.original for other in others):
            return None
        return str(first.original)

    def _begun_by_chunks(self) -> Intake:
        """The first BDAT has come: what DATA would have been told is told behind the chunk."""
        intake = self._intake = self._begun()
        intake.by_chunks = True
        fault = self._service.spool_fault(0)
        if fault is not None and not isinstance(fault, SpoolFull):
            intake.fail(r.SPOOL_FAULT)
        return intake

    def chunk(self, event: BodyChunk) -> Step:
        if self._intake is None:
            return self._first_chunk(partial(self._chunk, event.octets))
        return self._chunk(event.octets, self._intake)

    def _first_chunk(self, then: Callable[[Intake], Step]) -> Step:
        """Hooks are asked as before a DATA; a refusal is told behind the chunk."""
        intake, chain = self._begun_by_chunks(), self._client.chains.data
        if chain and intake.fault is None:
            judged = partial(self._chunk_judged, intake, then)
            step = consult(chain, hooks.Data(self._client, self._mail, self.recipients.values()), judged)
            return step if type(step) is Ask else judged(step)
        return then(intake)

    def _chunk_judged(self, intake: Intake, then: Callable[[Intake], Step], refusal: Reply | None) -> Step:
        if refusal is not None:
            intake.fail(refusal)
        return then(intake)

    def _chunk(self, octets: bytes, intake: Intake) -> Step:
        if (chain := self._client.chains.body) and intake.fault is None:
            then = partial(self._piece, intake, octets)
            step = consult(chain, hooks.Body(self._client, intake.id, octets), then)
            return step if type(step) is Ask else then(step)
        return self._piece(intake, octets)

    def _piece(self, intake: Intake, octets: bytes, refusal: Reply | None = None) -> Ask | None:
        if refusal is not None:
            intake.fail(refusal)
        piece = intake.add(octets)
        return Ask(Spill(intake.id, piece), self._spilled) if piece is not None else None

    def chunk_end(self, event: ChunkEnd) -> Step:
        """RFC 3030 §2: each chunk has its reply, the last one that of the message."""
        if self._intake is None:
            return self._first_chunk(partial(self._chunk_ended, event))
        return self._chunk_ended(event, self._intake)

    def _chunk_ended(self, event: ChunkEnd, intake: Intake) -> Step:
        if event.last:
            return self.end(BodyEnd(event.octets, event.bare))
        return self._replied(intake, self._chunk(event.octets, intake))

    def _replied(self, intake: Intake, step: Step) -> Step:
        """The reply to a chunk behind whatever is asked about it."""
        if type(step) is not Ask:
            return intake.fault or r.CHUNK_OK
        question, then = step
        return Ask(question, lambda found: self._replied(intake, then(found)))

    def _spilled(self, fault: SpoolError | None) -> None:
        assert self._intake is not None
        if fault is not None:
            self._intake.fail(spool_refusal(fault))

    def end(self, event: BodyEnd) -> Step:
        """The last piece has come."""
        intake, chain = self._intake, self._client.chains.body
        assert intake is not None
        if chain and intake.fault is None and event.octets:
            then = partial(self._finish, intake, event)
            step = consult(chain, hooks.Body(self._client, intake.id, event.octets), then)
            return step if type(step) is Ask else then(step)
        return self._finish(intake, event)

    def _finish(self, intake: Intake, event: BodyEnd, refusal: Reply | None = None) -> Step:
        """The message is whole: is anything wrong with it?"""
        if refusal is not None:
            intake.fail(refusal)
        rest = intake.finish(event.octets, bare=event.bare)
        if intake.fault is None:
            self._sift(intake)
        if (chain := self._client.chains.end_of_data) and intake.fault is None:
            step = consult(chain, self._at_end(intake, rest), partial(self._judged, intake, rest))
            if type(step) is Ask:
                return step
            return self._judged(intake, rest, step)
        return self._judged(intake, rest)

    def _at_end(self, intake: Intake, rest: bytes) -> hooks.EndOfData:
        assert intake.header is not None
        content, trace = None if intake.spilled else rest, intake.trace_size
        envelope = self._client, self._mail, self.recipients.values()
        return hooks.EndOfData(*envelope, intake.id, intake.header, intake.size - trace, content, trace)

    def _judged(self, intake: Intake, rest: bytes, refusal: Reply | None = None) -> Reply | Ask:
        """The fate of the message, by the mode of the transaction."""
        if refusal is not None:
            intake.fail(refusal)
        if intake.fault is not None:
            return Ask(Drop(intake.id), self._dropped) if intake.spilled else intake.fault
        if self._mail.mode is Mode.MAIL:
            return self._accept(intake, rest)
        return self._to_terminals(intake, rest)

    def _sift(self, intake: Intake) -> None:
        """Whether it is for those recipients, now that it is whole."""
        if intake.header is not None and intake.header.delivered_to:
            delivered_to = intake.header.delivered_to
            if any(is_looping(recipient, delivered_to) for recipient in self.recipients.values()):
                intake.fail(r.FORWARDING_LOOP)

    def _dropped(self, _: None) -> Reply:
        assert self._intake is not None
        return self._intake.fault or r.LOCAL_FAULT

    def _accept(self, intake: Intake, rest: bytes) -> Ask:
        return Ask(Accept(self._message(intake, rest)), self._accepted)

    def _message(self, intake: Intake, rest: bytes) -> Message:
        service, client, mail = self._service, self._client, self._mail
        options = submission.options(service, client, settled_options(service, client, mail))
        options = submission.returning(service, client, mail.sender, intake.id, options)
        envelope = Envelope(mail.sender, tuple(self.recipients.values()), mail.body_type, options)
        message = intake.message(
            rest, envelope, hop=self._hop, listener=service.listener, received_at=service.clock.now()
        )
        if intake.fingerprint is not None and mail.mode is Mode.MAIL:
            message.claim = submission.claim(service, client, intake, message)
        if client.trail is not None:
            message.notes = client.trail.records(message.id)
        return message

    def _accepted(self, fate: Fate) -> Reply:
        assert self._intake is not None
        if fate is None:
            return r.queued(str(self._intake.id))
        return spool_refusal(fate) if isinstance(fate, SpoolError) else reply_to_repeat(fate)

    # --- terminals (RFC 821 §3.4)

    def _to_terminals(self, intake: Intake, rest: bytes) -> Reply | Ask:
        mode = self._mail.mode
        show = self._show(intake, rest)
        if mode is Mode.SEND:
            everybody = show is not None and len(show.users) == len(self.recipients)
            return Ask(show, self._sent) if show is not None and everybody else r.NOT_SHOWN
        if show is None:
            return self._accept(intake, rest)
        if mode is Mode.SAML:
            return Ask(Accept(self._message(intake, rest)), partial(self._accepted_and_show, show))
        return Ask(show, partial(self._shown_or_accept, intake, rest))

    def _show(self, intake: Intake, rest: bytes) -> Show | None:
        """What is to be shown to those with a terminal; None where there is nobody, or too much to show."""
        presence = self._service.presence
        users = tuple(each for each in self.recipients if self._is_here(each) and presence.active(each))
        if not users or intake.size - intake.trace_size > MAX_TERMINAL:
            return None
        now = self._service.clock.now()
        mail = self._mail
        text = terminal_text(rest, sender=mail.sender, peer=self._client.peer, at=now, verb=mail.mode.value)
        return Show(users, text)

    def _sent(self, shown: frozenset[Mailbox]) -> Reply:
        """SEND stores nothing: 250 means that everybody has it on a terminal."""
        return r.SHOWN if shown >= self.recipients.keys() else r.NOT_SHOWN

    def _accepted_and_show(self, show: Show, fate: Fate) -> Step:
        """SAML: the mailbox decides, the terminal is a courtesy."""
        reply = self._accepted(fate)
        return reply if fate is not None else Ask(show, lambda _: reply)

    def _shown_or_accept(self, intake: Intake, rest: bytes, shown: frozenset[Mailbox]) -> Step:
        """SOML: the mailbox of those who have it on no terminal."""
        for user in shown:
            self.recipients.pop(user, None)
        return self._accept(intake, rest) if self.recipients else r.SHOWN
