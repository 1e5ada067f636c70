"""One SMTP session of the server as a step machine: an event in, a reply or a question out.

`handle(event)` gives the Reply, or None where none is due, or a Question to be put to a port; its answer comes in by
`answer`, which gives the same. Keeps what a session is at (`reception.py` holds the transaction); what a command means
is decided in the modules it calls. Knows no octets, no sockets, no tasks. Which command may come when was settled
before, in `smtp/states.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pillarbox.core import reply as r
from pillarbox.core.address import Domain
from pillarbox.core.envelope import MessageId
from pillarbox.core.message import Hop
from pillarbox.core.reply import Reply
from pillarbox.engine import hooks, inquiries, login, turning
from pillarbox.engine.extensions import sender_accepted
from pillarbox.engine.hooks import Chains, consult, notify
from pillarbox.engine.lmtp import LmtpReception
from pillarbox.engine.questions import Accept, Ask, Consult, Drop, Question, SenderDomain, Step
from pillarbox.engine.reception import Reception, judged_sender, question_of_sender, refusal_of_sender
from pillarbox.engine.refusals import concerns, described, marked
from pillarbox.engine.service import Client, Service
from pillarbox.smtp.events import (
    Atrn,
    Authenticate,
    AuthResponse,
    BodyChunk,
    BodyEnd,
    ChunkEnd,
    DataCommand,
    Etrn,
    Expand,
    Hello,
    Help,
    MailFrom,
    Noop,
    Quit,
    RcptTo,
    Refused,
    Reset,
    ServerEvent,
    StartTls,
    Turn,
    Verify,
)
from pillarbox.smtp.sasl import Channel


class Session:
    """From the greeting to the close of one connection, or to the swap of its roles."""

    __slots__ = (
        "_asked",
        "_client",
        "_ending",
        "_event",
        "_hop",
        "_id",
        "_over",
        "_reception",
        "_service",
        "_then",
        "_transactions",
        "swap",
    )

    def __init__(
        self, service: Service, peer: str, here: Callable[[], str] = str, *, unread: Callable[[], bool] = bool
    ) -> None:
        """`peer`: the client's IP address; `here` tells the one that it has reached; `unread`: whether more has come
        than what is being answered."""
        self._service = service
        self._client = Client(service, peer, here, unread=unread)
        self._hop: Hop | None = None  # from EHLO on, without which there is no mail
        self._transactions = 0
        self._reception: Reception | None = None
        self._over: Reception | None = None  # whose message has just been refused
        self._ending = False  # its message is whole: the transaction is over with the next reply
        self._id: MessageId | None = None  # that it is known by, from its first refusal on
        self._event: ServerEvent | None = None  # that the question is about; None: the connection
        self._asked: Question | None = None
        self._then: Callable[[Any], Step] | None = None
        self.swap: tuple[Domain, ...] = ()  # whose mail is sent once TURN or ATRN has changed the roles

    def connect(self) -> Reply | Question | None:
        """Somebody has connected: the refusal that takes the place of the greeting, a question first, or None."""
        chain = self._client.chains.connect
        return self._opened(consult(chain, hooks.Connect(self._client), _refusal)) if chain else None

    def turned_away(self, reply: Reply) -> Reply:
        """Somebody has connected, and there is no place: the reply as it is told."""
        return self._recorded(reply, None)

    def greet(self) -> Reply | Question | None:
        """The greeting is due: what is said instead of it, or a question first."""
        chain = self._client.chains.greet
        step = consult(chain, hooks.Greet(self._client), self._greeted) if chain else None
        return self._opened(step or self._service.greeting)

    def _opened(self, step: Step) -> Reply | Question | None:
        found = self._put(step)
        return self._recorded(found, None) if type(found) is Reply and found.code >= 400 else found

    def _greeted(self, refusal: Reply | None = None) -> Reply:
        return refusal or self._service.greeting

    def handle(self, event: ServerEvent) -> Reply | Question | None:
        """The answer to an event: a reply, none for a piece of a body, or a question first."""
        step = _HANDLERS[type(event)](self, event)
        if type(step) is Ask:
            self._asked, self._then = step
            self._event = event
            return step[0]
        return self._recorded(step, event) if type(step) is Reply and step.code >= 400 else step

    def answer(self, found: object) -> Reply | Question | None:
        """The answer to the last question. Gives what `handle` does."""
        then = self._then
        assert then is not None
        self._asked = self._then = None
        step = self._put(then(found))
        if self._ending and isinstance(step, Reply):
            step = self._ended(step)
        return self._recorded(step, self._event) if type(step) is Reply and step.code >= 400 else step

    def _put(self, step: Step) -> Reply | Question | None:
        if type(step) is Ask:
            self._asked, self._then = step
            return step[0]
        return step

    def _recorded(self, reply: Reply, event: ServerEvent | None) -> Reply:
        """The refusal as it is told, with the id under which `why` knows of it."""
        refusals, command = self._service.refusals, _REFUSABLE.get(type(event))
        if refusals is None or command is None or not concerns(reply):
            return reply
        if self._id is None:
            self._id = self._service.ids.next()
        mail, whom = self._envelope(event)
        sender = None if mail is None else "" if mail.sender is None else str(mail.sender)
        for told in described(self._client, self._id, reply, command=command(event), sender=sender, recipients=whom):
            refusals.add(told)
        return marked(reply, self._id)

    def _envelope(self, event: ServerEvent | None) -> tuple[MailFrom | None, list[str]]:
        """Whose mail to whom a command was about."""
        reception = self._reception or self._over
        if reception is None or isinstance(event, MailFrom | Hello):
            return (event, []) if isinstance(event, MailFrom) else (None, [])
        if isinstance(event, RcptTo):
            return reception.mail, [str(event.recipient)]
        return reception.mail, list(dict.fromkeys(str(each.original) for each in reception.recipients.values()))

    def abandon(self) -> Drop | None:
        """The connection is gone. What was spilled of an unfinished message must go too."""
        asked = self._asked
        if type(asked) is Consult:
            asked.give_up()
        if self._reception is None or type(asked) is Accept or type(asked) is Drop:
            return None
        return self._reception.spilled

    def closed(self) -> None:
        """The connection is gone, and no question is open. May be said twice."""
        self._client.unread = bool  # it leads to the connection, which leads here
        if self._reception is not None:
            self._aborted()
        if chain := self._client.chains.close:
            notify(chain, hooks.Close(self._client))
        self._client.chains = _NO_HOOKS

    @property
    def between_transactions(self) -> bool:
        """Nothing is lost to the client when the session ends now."""
        return self._reception is None

    @property
    def user(self) -> str:
        """Who has authenticated, "" for nobody."""
        return "" if self._client.user is None else str(self._client.user.mailbox)

    def secured(self, channel: Channel | None = None) -> None:
        """TLS protects the connection from now on: what was said before counts no more (RFC 3207 §4.2). `channel`: what
        TLS knows of it."""
        self._client.secure = True
        self._client.channel = channel
        self._client.user = self._client.exchange = None
        self._client.helo, self._client.extended = "", False
        self._hop = None

    # --- the session itself

    def _hello(self, event: Hello) -> Step:
        """RFC 5321 §4.1.4: clears the transaction; the name is never compared with the address."""
        service, client = self._service, self._client
        ours = event.name.lower() == service.hostname.ascii
        if ours and service.hostname_configured and not client.trusted:
            return r.IMPERSONATION
        if chain := client.chains.hello:
            occasion = hooks.Hello(client, event.name, event.extended)
            if (step := consult(chain, occasion, partial(self._known_as, event))) is not None:
                return step
        return self._known_as(event)

    def _known_as(self, event: Hello, refusal: Reply | None = None) -> Step:
        if refusal is not None:
            return refusal
        service, client = self._service, self._client
        client.helo, client.extended = event.name, event.extended
        protocol = service.protocol if event.extended else "SMTP"
        self._hop = Hop(event.name, client.peer, service.hostname.ascii, protocol)
        reply = service.ehlo(client) if event.extended else r.hello(str(service.hostname))
        return self._cleared(reply)

    def _reset(self, event: Reset) -> Step:
        return self._cleared(r.RESET_CLASSIC if self._service.classic else r.RESET_OK)

    def _cleared(self, reply: Reply) -> Step:
        """End the transaction, and forget what has come of its message by BDAT."""
        if self._reception is None:
            return reply
        if (spilled := self._reception.spilled) is not None:
            return Ask(spilled, lambda _: self._counted(reply))
        return self._counted(reply)

    def _counted(self, reply: Reply) -> Reply:
        """Addresses that were named and got no message were asked for (RFC 5321 §7.3)."""
        reception, self._reception = self._reception, None
        if reception is not None:
            self._aborted()
        if reception is None or not reception.recipients:
            return reply
        return self._client.probed(reply, len(reception.recipients))

    def _aborted(self) -> None:
        if self._client.chains.abort:
            notify(self._client.chains.abort, hooks.Abort(self._client))

    def _noop(self, event: Noop) -> Step:
        return r.NOOP_CLASSIC if self._service.classic else r.NOOP_OK

    def _quit(self, event: Quit) -> Step:
        return r.BYE

    def _refused(self, event: Refused) -> Step:
        reply = event.classic if event.classic is not None and self._service.classic else event.reply
        return self._client.erred(reply)

    # --- the mail transaction

    def _mail_from(self, event: MailFrom) -> Step:
        service, client = self._service, self._client
        if self._transactions >= service.transactions:
            return r.TOO_MANY_TRANSACTIONS
        if (refusal := refusal_of_sender(service, client, event)) is not None:
            return refusal
        if service.checks_sender_domain and (question := question_of_sender(service, client, event)) is not None:
            return Ask(question, lambda found: self._judge(event, found))
        return self._begin(event)

    def _judge(self, event: MailFrom, found: SenderDomain) -> Step:
        return judged_sender(found) or self._begin(event)

    def _begin(self, event: MailFrom) -> Step:
        client = self._client
        if client.trail is not None:
            client.trail.transaction.clear()
        if chain := client.chains.mail:
            occasion = hooks.Mail(client, event)
            if (step := consult(chain, occasion, partial(self._begun, event))) is not None:
                return step
        return self._begun(event)

    def _begun(self, event: MailFrom, refusal: Reply | None = None) -> Reply:
        if refusal is not None:
            return refusal
        self._transactions += 1
        client, hop = self._client, self._hop
        assert hop is not None
        if client.secure or client.user is not None or event.options.smtputf8:  # RFC 3848, RFC 6531 §4.3
            protocol = self._service.protocol
            base = f"UTF8{protocol.removeprefix('E')}" if event.options.smtputf8 else protocol
            hop = hop._replace(protocol=base + "S" * client.secure + "A" * (client.user is not None))
        reception = LmtpReception if self._service.lmtp else Reception
        self._reception = reception(self._service, client, hop, event)
        return sender_accepted(client, event)

    def _rcpt_to(self, event: RcptTo) -> Step:
        assert self._reception is not None
        return self._reception.rcpt_to(event)

    def _data(self, event: DataCommand) -> Step:
        assert self._reception is not None
        return self._reception.data_command()

    def _body_chunk(self, event: BodyChunk) -> Step:
        assert self._reception is not None
        return self._reception.chunk(event)

    def _body_end(self, event: BodyEnd) -> Step:
        assert self._reception is not None
        step = self._reception.end(event)
        if isinstance(step, Reply):  # or Replies
            return self._ended(step)
        self._ending = True
        return step

    def _chunk_end(self, event: ChunkEnd) -> Step:
        assert self._reception is not None
        step = self._reception.chunk_end(event)
        if not event.last:
            return step
        if isinstance(step, Reply):
            return self._ended(step)
        self._ending = True
        return step

    def _ended(self, reply: Reply) -> Reply:
        """The transaction is over. Addresses whose message was refused for good were asked for, as with RSET."""
        self._ending = False
        self._over = self._reception if reply.code >= 400 else None
        if reply.code // 100 == 5:
            return self._counted(reply)
        self._reception = None
        if reply.code // 100 == 4:
            self._aborted()
        return reply

    # --- what is asked and settled elsewhere

    def _verify(self, event: Verify) -> Step:
        return inquiries.verify(self._service, self._client, event)

    def _expand(self, event: Expand) -> Step:
        return inquiries.expand(self._service, self._client, event)

    def _help(self, event: Help) -> Step:
        return inquiries.help_on(self._service, self._client, event)

    def _authenticate(self, event: Authenticate) -> Step:
        if chain := self._client.chains.auth:
            occasion = hooks.Auth(self._client, event.mechanism)
            if (step := consult(chain, occasion, partial(self._may_authenticate, event))) is not None:
                return step
        return login.authenticate(self._service, self._client, event)

    def _may_authenticate(self, event: Authenticate, refusal: Reply | None) -> Step:
        return refusal or login.authenticate(self._service, self._client, event)

    def _auth_response(self, event: AuthResponse) -> Step:
        return login.respond(self._service, self._client, event)

    def _starttls(self, event: StartTls) -> Step:
        """RFC 3207 §4."""
        if self._client.secure:
            return r.TLS_ACTIVE
        return r.START_TLS

    def _turn(self, event: Turn) -> Step:
        return turning.turn(self._client, event, self._swap)

    def _atrn(self, event: Atrn) -> Step:
        return turning.atrn(self._client, event, self._swap)

    def _etrn(self, event: Etrn) -> Step:
        return turning.etrn(self._client, event)

    def _swap(self, domains: tuple[Domain, ...]) -> None:
        self.swap = domains


def _refusal(refusal: Reply | None) -> Step:
    return refusal


_NO_HOOKS = Chains.of(())
# What can be refused, as it is named in a record. What a client says of itself in AUTH is none of it.
_REFUSABLE: Mapping[type, Callable[[Any], str]] = {
    type(None): lambda event: "connect",
    Hello: lambda event: f"{'EHLO' if event.extended else 'HELO'} {event.name}",
    MailFrom: lambda event: f"{event.mode.value} FROM:<{event.sender or ''}>",
    RcptTo: lambda event: f"RCPT TO:<{event.recipient}>",
    DataCommand: lambda event: "DATA",
    BodyEnd: lambda event: "the message",
    ChunkEnd: lambda event: "the message",
}
_HANDLERS: Mapping[type, Callable[[Session, Any], Step]] = {
    Hello: Session._hello,
    MailFrom: Session._mail_from,
    RcptTo: Session._rcpt_to,
    DataCommand: Session._data,
    BodyChunk: Session._body_chunk,
    BodyEnd: Session._body_end,
    ChunkEnd: Session._chunk_end,
    Reset: Session._reset,
    Noop: Session._noop,
    Quit: Session._quit,
    Verify: Session._verify,
    Expand: Session._expand,
    Authenticate: Session._authenticate,
    AuthResponse: Session._auth_response,
    StartTls: Session._starttls,
    Turn: Session._turn,
    Atrn: Session._atrn,
    Etrn: Session._etrn,
    Help: Session._help,
    Refused: Session._refused,
}
