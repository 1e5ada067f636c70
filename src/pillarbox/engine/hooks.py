"""Hooks: functions that look at a session at a stage of it, and may say no or leave a note.

A stage is a class: its instances tell the hook what happens. A hook answers None (it has nothing to say), a Verdict, or
an awaitable of either; one that answers at once costs its call and nothing more, one that needs time becomes a question
of the session. The hooks of a stage are asked in order until one refuses. A hook that raises, is late or gives an
answer it may not is settled by its own rule for that: mail goes on without it, or is put off. Whatever a hook says is
kept in the client's trail, and written with the message. Knows none of the built-in hooks.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from pillarbox.core import reply as r
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import Reply
from pillarbox.core.table import KNOWN
from pillarbox.engine.questions import Ask, Consult, Step
from pillarbox.engine.records import Kind, Record
from pillarbox.smtp.events import MailFrom

if TYPE_CHECKING:
    from pillarbox.engine.ports import Clock
    from pillarbox.engine.service import Client

log = logging.getLogger(__name__)

DEADLINE = 10.0  # seconds, unless a hook says otherwise
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
MOST_NOTES = 100  # kept of a session, and of a transaction

# --- the stages


class Connect(NamedTuple):
    """Somebody has connected; nothing has been said, not even in TLS. Refused by 421 or 554."""

    client: Client


class Greet(NamedTuple):
    """The greeting is next; behind the handshake, where the listener has implicit TLS. Refused by 421 or 554."""

    client: Client


class Hello(NamedTuple):
    """HELO, or EHLO (`extended`). The client's own `helo` is that of before."""

    client: Client
    name: str
    extended: bool


class Auth(NamedTuple):
    """AUTH, before anything of the exchange is looked at."""

    client: Client
    mechanism: str


class Mail(NamedTuple):
    """MAIL, SEND, SOML or SAML, whose sender would be accepted."""

    client: Client
    mail: MailFrom


class Rcpt(NamedTuple):
    """RCPT for somebody for whom mail would be taken. `taken`: how many the transaction has."""

    client: Client
    mail: MailFrom
    recipient: Mailbox  # as RCPT named it
    taken: int


class Data(NamedTuple):
    """DATA, before the 354; or the first BDAT, whose refusal is told behind its octets."""

    client: Client
    mail: MailFrom
    recipients: Collection[Recipient]


class Body(NamedTuple):
    """A piece of the message as the client sent it, dots unstuffed. A refusal is told at the end of the message."""

    client: Client
    message: MessageId
    octets: bytes


class EndOfData(NamedTuple):
    """The message is whole, and would be accepted. `content` has `trace` octets of our Received field in front; it is
    None where the message is too large for the memory: a hook that needs all of it collects the pieces of Body."""

    client: Client
    mail: MailFrom
    recipients: Collection[Recipient]
    message: MessageId
    header: HeaderView
    size: int  # octets, as the client sent it
    content: bytes | None
    trace: int

    @property
    def text(self) -> bytes | None:
        """As the client sent it; a copy."""
        return None if self.content is None else self.content[self.trace :]


class Abort(NamedTuple):
    """A transaction that was begun has ended without its message being accepted. The answer does not matter."""

    client: Client


class Close(NamedTuple):
    """The connection is gone; comes once for every Connect. The answer does not matter."""

    client: Client


Stage = Connect | Greet | Hello | Auth | Mail | Rcpt | Data | Body | EndOfData | Abort | Close
S = TypeVar("S", bound=Stage)

# --- verdicts

Figures = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Note:
    """Go on, and let it be known."""

    reason: str
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, for good: a 5yz."""

    reply: Reply
    reason: str
    figures: Figures = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reply.code // 100 != 5:
            raise ValueError(f"{self.reply} is no refusal for good")


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now: a 4yz."""

    reply: Reply
    reason: str
    figures: Figures = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reply.code // 100 != 4:
            raise ValueError(f"{self.reply} puts nothing off")


Verdict = Note | Refuse | Defer
Answer = Verdict | None | Awaitable[Verdict | None]
_WORDS: Mapping[type, str] = {Note: "note", Refuse: "refuse", Defer: "defer"}

# --- hooks


class OnFailure(Enum):
    """What becomes of the client where a hook gives no answer."""

    OPEN = "open"  # as if it had nothing to say
    CLOSED = "closed"  # try again later


@dataclass(frozen=True, slots=True)
class Hook(Generic[S]):
    """A function asked at a stage. One thing that looks at several stages is several hooks of one name."""

    name: str  # in records and in the log
    stage: type[S]
    check: Callable[[S], Answer]
    _: KW_ONLY
    strangers_only: bool = False  # not asked about clients on this machine and in the relay networks
    deadline: float = DEADLINE  # seconds
    on_failure: OnFailure = OnFailure.CLOSED

    def __post_init__(self) -> None:
        if self.deadline <= 0:
            raise ValueError(f"hook {self.name}: a deadline of {self.deadline} s can't be met")


@dataclass(frozen=True, slots=True)
class Chains:
    """The hooks of a service by stage, in their order: each field is named as its stage."""

    connect: tuple[Hook[Connect], ...]
    greet: tuple[Hook[Greet], ...]
    hello: tuple[Hook[Hello], ...]
    auth: tuple[Hook[Auth], ...]
    mail: tuple[Hook[Mail], ...]
    rcpt: tuple[Hook[Rcpt], ...]
    data: tuple[Hook[Data], ...]
    body: tuple[Hook[Body], ...]
    end_of_data: tuple[Hook[EndOfData], ...]
    abort: tuple[Hook[Abort], ...]
    close: tuple[Hook[Close], ...]

    @classmethod
    def of(cls, hooks: Iterable[Hook[Any]]) -> Chains:
        """For clients of any kind."""
        by_stage: dict[str, list[Hook[Any]]] = {each.name: [] for each in fields(cls)}
        for hook in hooks:
            by_stage[_name(hook.stage)].append(hook)
        return cls(**{name: tuple(found) for name, found in by_stage.items()})

    @classmethod
    def of_no_strangers(cls, hooks: Iterable[Hook[Any]]) -> Chains:
        return cls.of(hook for hook in hooks if not hook.strangers_only)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a stage is answered with: the replies that the table knows for its commands, and the one for a fault."""

    codes: frozenset[int]
    fault: Reply


def _terms(fault: Reply, *commands: str) -> _Terms:
    return _Terms(frozenset.intersection(*(KNOWN[command] for command in commands)), fault)


_TERMS: Mapping[type, _Terms] = {
    Connect: _terms(r.OUR_FAULT, "connect"),
    Greet: _terms(r.OUR_FAULT, "connect"),
    Hello: _terms(r.OUR_FAULT, "HELO", "EHLO"),
    Auth: _terms(r.AUTH_FAULT, "AUTH"),
    Mail: _terms(r.LOCAL_FAULT, "MAIL", "SEND", "SOML", "SAML"),
    Rcpt: _terms(r.LOCAL_FAULT, "RCPT"),
    Data: _terms(r.LOCAL_FAULT, "DATA"),
    Body: _terms(r.LOCAL_FAULT, "."),
    EndOfData: _terms(r.LOCAL_FAULT, "."),
}
_OF_SESSION = frozenset((Connect, Greet, Hello, Auth))


def _name(stage: type) -> str:
    """As fields of Chains and records have it: `end_of_data`."""
    return _CAPITAL.sub("_", stage.__name__).lower()


# --- what was said


class Said(NamedTuple):
    """A verdict as it is told: in a record, and in the log."""

    at: float  # seconds since the epoch
    detail: tuple[tuple[str, str | int | float], ...]


class Trail:
    """What hooks have said of a client: in this session, and in this transaction."""

    __slots__ = ("session", "transaction")

    def __init__(self) -> None:
        self.session: list[Said] = []
        self.transaction: list[Said] = []

    def add(self, stage: type, said: Said) -> None:
        notes = self.session if stage in _OF_SESSION else self.transaction
        if len(notes) < MOST_NOTES:
            notes.append(said)

    def records(self, message: MessageId) -> tuple[Record, ...]:
        """For the message that the present transaction has led to."""
        return tuple(
            Record(message, said.at, Kind.HOOK, None, said.detail) for said in (*self.session, *self.transaction)
        )


# --- asking


class HookFailure(NamedTuple):
    """In place of an answer."""

    reason: str


def consult(chain: tuple[Hook[S], ...], occasion: S, then: Callable[[Reply | None], Step]) -> Reply | Ask | None:
    """Ask the hooks in order: the refusal, None where nothing is in the way, or a question where one of them needs
    time. Behind the question it goes on with `then`, which is given the refusal, or None."""
    for hook in chain:
        try:
            answer = hook.check(occasion)
        except Exception as error:
            log.exception("bug in hook %s at %s", hook.name, _name(hook.stage))
            answer = _failed(hook, f"raised {type(error).__name__}")
        if answer is None:
            continue
        if isinstance(answer, Awaitable):
            return Ask(Consult(hook, answer), partial(_answered, chain, hook, occasion, then))
        if (refusal := _taken(hook, occasion, answer)) is not None:
            return refusal
    return None


def _answered(
    chain: tuple[Hook[S], ...],
    hook: Hook[S],
    occasion: S,
    then: Callable[[Reply | None], Step],
    found: Verdict | None | HookFailure,
) -> Step:
    verdict = _failed(hook, found.reason) if isinstance(found, HookFailure) else found
    if verdict is not None and (refusal := _taken(hook, occasion, verdict)) is not None:
        return then(refusal)
    step = consult(chain[chain.index(hook) + 1 :], occasion, then)
    return step if type(step) is Ask else then(step)


def notify(chain: tuple[Hook[S], ...], occasion: S) -> None:
    """Tell the hooks of what can't be refused any more."""
    for hook in chain:
        try:
            answer = hook.check(occasion)
        except Exception:
            log.exception("bug in hook %s at %s", hook.name, _name(hook.stage))
        else:
            if answer is not None and inspect.iscoroutine(answer):
                answer.close()
                log.error("hook %s needs time at %s, where none is", hook.name, _name(hook.stage))


def _failed(hook: Hook[Any], reason: str) -> Verdict:
    """The verdict of a hook that has none."""
    if hook.on_failure is OnFailure.OPEN:
        return Note(f"{reason}; open on failure")
    return Defer(_TERMS[hook.stage].fault, f"{reason}; closed on failure")


def _taken(hook: Hook[S], occasion: S, verdict: Verdict) -> Reply | None:
    """Keep the verdict; the refusal, where it is one."""
    verdict = _allowed(hook, verdict)
    client = occasion.client
    reply = None if isinstance(verdict, Note) else verdict.reply
    detail: dict[str, str | int | float] = {
        "hook": hook.name,
        "stage": _name(hook.stage),
        "verdict": _WORDS[type(verdict)],
        "reason": verdict.reason,
        **verdict.figures,
    }
    if isinstance(occasion, Rcpt):
        detail.setdefault("to", str(occasion.recipient))
    if reply is not None:
        detail["reply"] = str(reply)
        _tell(client, hook, verdict, detail)
    client.trail = client.trail or Trail()
    client.trail.add(hook.stage, Said(client.clock.now(), tuple(detail.items())))
    return reply


def _allowed(hook: Hook[Any], verdict: Verdict) -> Verdict:
    """The verdict, or that of a failure where it is none, or its reply is not one that this stage may have."""
    if type(verdict) not in _WORDS:
        log.error("hook %s: %r is no verdict", hook.name, verdict)
        return _failed(hook, "gave no verdict")
    if isinstance(verdict, Note) or verdict.reply.code in _TERMS[hook.stage].codes:
        return verdict
    allowed = ", ".join(str(code) for code in sorted(_TERMS[hook.stage].codes) if code >= 400)
    log.error("hook %s: no reply to be given at %s: %s; allowed: %s", hook.name, _name(hook.stage), verdict, allowed)
    return _failed(hook, f"gave the reply {verdict.reply.code}")


def _tell(client: Client, hook: Hook[Any], verdict: Verdict, detail: Mapping[str, str | int | float]) -> None:
    told = {**detail, "listener": client.listener, "peer": client.peer}
    if client.user is not None:
        told["user"] = str(client.user.mailbox)
    log.info("%s by hook %s: %s", _WORDS[type(verdict)], hook.name, verdict.reason, extra={"fields": told})


# --- a hook that needs time


async def outcome(question: Consult, clock: Clock) -> Verdict | None | HookFailure:
    """The answer of the hook, or that it failed. It is given up at its deadline, or when nobody waits any more."""
    hook = question.hook
    question.started = True
    task = asyncio.ensure_future(cast("Awaitable[Verdict | None]", question.awaitable))
    lapsed = asyncio.get_running_loop().create_future()
    timer = clock.call_later(hook.deadline, partial(_lapse, lapsed))
    try:
        done, _ = await asyncio.wait((task, lapsed), return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        lapsed.cancel()
        if not task.done():
            task.add_done_callback(_forgotten)
            task.cancel()
    if task not in done:
        log.error("hook %s at %s gave no answer within %g s", hook.name, _name(hook.stage), hook.deadline)
        return HookFailure(f"no answer within {hook.deadline:g} s")
    if task.cancelled():
        return HookFailure("cancelled itself")
    if (error := task.exception()) is not None:
        log.error("bug in hook %s at %s", hook.name, _name(hook.stage), exc_info=error)
        return HookFailure(f"raised {type(error).__name__}")
    return task.result()


def _lapse(lapsed: asyncio.Future[None]) -> None:
    if not lapsed.done():
        lapsed.set_result(None)


def _forgotten(task: asyncio.Future[Any]) -> None:
    """Whatever became of a hook that nobody waits for."""
    if not task.cancelled():
        task.exception()
