"""What many tests need: one builder each for a service, a queue, the answers and a listener, and ports imagined.

A builder gives the plainest thing that works; a test names what differs. A double says which port it meets, and raises
where it was not expected to be asked. Time, DNS and terminals are those of `pillarbox.sim`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import pbkdf2_hmac
from typing import Any

from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.answers import Answers
from pillarbox.engine.dsn import NOTICE_LISTENER
from pillarbox.engine.ids import IdSource
from pillarbox.engine.jumps import Jumps
from pillarbox.engine.limits import Rate
from pillarbox.engine.mail import Key, Leased, Message, Octets, Place, Row, Seen, State, Told, Unit, Waiting
from pillarbox.engine.notices import Notices
from pillarbox.engine.ports import (
    Clock,
    Directory,
    MailboxFault,
    NoSuchUser,
    NotLocal,
    Resolution,
    ScramAccount,
    Spool,
    SpoolBroken,
    SpoolCallback,
    SpoolError,
    User,
    Verification,
)
from pillarbox.engine.predicate import Predicate
from pillarbox.engine.queue import Lane, Queue
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.retry import DEFAULT, RetrySchedule
from pillarbox.engine.routing import Route, Router
from pillarbox.engine.service import Service
from pillarbox.engine.sites import Sites
from pillarbox.net.listener import Bounds, Census, Listener
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from pillarbox.sim.presence import ImaginedPresence
from pillarbox.smtp.scram import keys_of
from tests.predicates import Subject, holds

HOSTNAME = Domain.parse("mx.example.test")
NOW = 1_700_000_000.0
TEXT = b"Received: trace\r\nSubject: x\r\n\r\nbody\r\n"


def box(text: str) -> Mailbox:
    return Mailbox.parse(text)


def _come(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # who waits for it may have been cancelled
        turn.set_result(None)


async def turns(count: int = 20) -> None:
    """Let everything run that can run without time passing, with a look at the sockets each time."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turn = loop.create_future()
        loop.call_soon(_come, turn)
        await turn


# --- who is here


class Nobody:
    """Meets the port Directory: no domain is local, nobody is known. A test says in a subclass what differs."""

    def resolve(self, address: Mailbox) -> Resolution:
        return NotLocal()

    def is_local(self, domain: Domain) -> bool:
        return False

    def keeps(self, domain: Domain) -> bool:
        return False

    def user(self, address: Mailbox) -> User | None:
        return None

    def login(self, name: str) -> User | None:
        return None

    def all_have_keys(self) -> bool:
        return True

    def login_names(self, name: str) -> tuple[str, ...]:
        return (name,)

    def verify(self, name: str) -> Verification:
        return NoSuchUser()


class Porter:
    """Meets the port Accounts: knows users by their names and passwords. `asked` is the log; `bug` is raised."""

    def __init__(self, users: Mapping[tuple[str, str], User] | None = None) -> None:
        self.users = dict(users or {})
        self.asked: list[tuple[str, str]] = []
        self.bug: Exception | None = None

    async def check(self, name: str, password: str) -> User | None:
        self.asked.append((name, password))
        if self.bug is not None:
            raise self.bug
        return self.users.get((name, password))

    def scram(self, name: str) -> ScramAccount:
        """Keys of the first password that the name has here, made with few iterations."""
        found = next(((known[1], user) for known, user in self.users.items() if known[0] == name), None)
        salt, iterations = b"salt of " + name.encode(), 4096
        salted = pbkdf2_hmac("sha256", (found[0] if found else "nobody's").encode(), salt, iterations)
        return ScramAccount(keys_of(salted, salt, iterations), "server", found[1] if found else None)


class FixedChannel:
    """Meets sasl.Channel: bindings by their kind, and for whom the client's certificate is."""

    def __init__(self, bindings: Mapping[str, bytes] | None = None, subject: str | None = None) -> None:
        self._bindings = dict(bindings or {})
        self._subject = subject

    def binding(self, kind: str) -> bytes | None:
        return self._bindings.get(kind)

    @property
    def subject(self) -> str | None:
        return self._subject


class Scales:
    """Meets the port Mailboxes: octets by mailbox, 0 for others; None can't be looked at."""

    def __init__(self, weights: Mapping[Mailbox, int | None] | None = None) -> None:
        self.weights = dict(weights or {})

    async def usage(self, user: Mailbox) -> int:
        weight = self.weights.get(user, 0)
        if weight is None:
            raise MailboxFault(f"{user}: no disk")
        return weight


# --- the spool


class NoSpool:
    """Meets the port Spool, and is not to be asked."""

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        raise NotImplementedError

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        raise NotImplementedError

    def unspill(self, message: MessageId) -> None:
        raise NotImplementedError

    async def lease(self, now: float, limit: int) -> list[Leased]:
        raise NotImplementedError

    async def lease_at(self, places: Sequence[Place], after: MessageId, limit: int) -> list[Leased]:
        raise NotImplementedError

    async def waiting_at(self, places: Sequence[Place]) -> int:
        raise NotImplementedError

    async def make_due_at(self, places: Sequence[Place], now: float) -> int:
        raise NotImplementedError

    async def find(self, wanted: Predicate, now: float, after: Key, limit: int) -> list[Key]:
        raise NotImplementedError

    async def see(self, keys: Sequence[Key], now: float) -> list[Seen]:
        raise NotImplementedError

    async def depth(self) -> tuple[int, float | None]:
        raise NotImplementedError

    def refuses(self, octets: int) -> SpoolError | None:
        raise NotImplementedError

    async def next_due(self) -> float | None:
        raise NotImplementedError

    async def lease_parked(self, lane: str, limit: int) -> list[Leased]:
        raise NotImplementedError

    async def parked_lanes(self) -> list[str]:
        raise NotImplementedError

    def body(self, message: Message) -> AsyncIterator[bytes]:
        raise NotImplementedError


@dataclass
class Stored:
    """A recipient on the imagined disk."""

    recipient: Recipient
    state: State
    due: float
    attempts: int = 0
    lane: str = ""
    reply: str = ""
    told: Told = Told.NOTHING
    next_hop: str | None = None
    parked: bool = False


class MemorySpool(NoSpool):
    """Meets the port Spool, as a queue asks it. `held`: commits wait for `release`; `fault`: what they end with."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.bodies: dict[int, bytes] = {}
        self.rows: dict[tuple[int, int], Stored] = {}
        self.records: list[Record] = []
        self.units: list[Unit] = []  # that were committed
        self.held = False
        self.fault: Callable[[Unit], SpoolError | None] = lambda unit: None
        self.lease_fault: SpoolError | None = None  # also of all questions about what waits
        self.body_fault: SpoolError | None = None
        self.before_next_due: Callable[[], None] | None = None
        self._waiting: list[tuple[Unit, SpoolCallback]] = []

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        assert urgent == any(message.listener != NOTICE_LISTENER for message in unit.messages)
        if self.held:
            self._waiting.append((unit, done))
        else:
            asyncio.get_running_loop().call_soon(self._commit, unit, done)

    def release(self) -> None:
        self.held = False
        for unit, done in self._waiting:
            self._commit(unit, done)
        self._waiting = []

    def _commit(self, unit: Unit, done: SpoolCallback) -> None:
        error = self.fault(unit)
        if error is None:
            self._apply(unit)
        done(error)

    def _apply(self, unit: Unit) -> None:
        self.units.append(unit)
        for message in unit.messages:
            assert message.id not in self.messages
            self.messages[message.id] = replace(message)
            assert message.content is not None
            self.bodies[message.id] = message.content
            for number, recipient in enumerate(message.envelope.recipients):
                self.rows[message.id, number] = Stored(recipient, State.LEASED, message.received_at)
        self.records.extend(unit.notes)
        for change in unit.changes:
            row = self.rows[change.message, change.number]
            assert not row.state.settled, f"{row} was settled before"
            row.state, row.due, row.attempts = change.state, change.due, change.attempts
            row.lane, row.told, row.parked = change.lane, change.told, change.parked
            row.reply = row.reply if change.reply is None else change.reply
            if change.record is not None:
                self.records.append(change.record)
        for message_id, number, next_hop in unit.rerouted:
            self.rows[message_id, number].next_hop = next_hop
        self.records.extend(unit.records)
        for message in unit.finished:
            del self.bodies[message.id]

    async def lease(self, now: float, limit: int) -> list[Leased]:
        await self._look()
        due = [(-self._priority(key), row.due, key) for key, row in self.rows.items() if row.state is State.SCHEDULED]
        return self._leased([key for _, at, key in sorted(due) if at <= now][:limit])

    def _priority(self, key: tuple[int, int]) -> int:
        return self.messages[key[0]].envelope.options.priority or 0

    async def lease_at(self, places: Sequence[Place], after: MessageId, limit: int) -> list[Leased]:
        await self._look()
        keys = sorted(key for key in self._at(places) if key[0] > after)
        last = keys[limit - 1][0] if len(keys) >= limit else None
        return self._leased([key for number, key in enumerate(keys) if number < limit or key[0] == last])

    async def lease_parked(self, lane: str, limit: int) -> list[Leased]:
        await self._look()
        keys = [(-self._priority(key), key) for key in self._parked() if self.rows[key].lane == lane]
        return self._leased([key for _, key in sorted(keys)][:limit])

    async def parked_lanes(self) -> list[str]:
        await self._look()
        return sorted({self.rows[key].lane for key in self._parked()})

    def _parked(self) -> list[tuple[int, int]]:
        return [key for key, row in self.rows.items() if row.parked and row.state is State.SCHEDULED]

    def _leased(self, keys: list[tuple[int, int]]) -> list[Leased]:
        taken: dict[int, list[Row]] = {}
        for message, number in keys:
            row = self.rows[message, number]
            row.state, row.due, row.parked = State.LEASED, 0.0 if row.parked else row.due, False
            taken.setdefault(message, []).append(Row(number, row.recipient, row.attempts, row.told, row.next_hop))
        return [
            Leased(replace(self.messages[message], content=None), rows, self._scheduled(message))
            for message, rows in taken.items()
        ]

    def _scheduled(self, message: int) -> int:
        return sum(key[0] == message and row.state <= State.SCHEDULED for key, row in self.rows.items())

    def _at(self, places: Iterable[Place]) -> list[tuple[int, int]]:
        return [
            key
            for key, row in self.rows.items()
            if row.state is State.SCHEDULED and (row.lane, row.recipient.address.domain) in set(places)
        ]

    async def _look(self) -> None:
        await turns(1)
        if self.lease_fault is not None:
            raise self.lease_fault

    async def find(self, wanted: Predicate, now: float, after: Key, limit: int) -> list[Key]:
        await self._look()
        keys = [Key(MessageId(message), number) for message, number in sorted(self.rows)]
        return [key for key in keys if key > after and holds(wanted, self._subject(key), now)][:limit]

    def _subject(self, key: Key) -> Subject:
        row, message = self.rows[key], self.messages[key.message]
        return Subject(
            message=key.message,
            number=key.number,
            address=str(row.recipient.address),
            original=str(row.recipient.original),
            lane=row.lane,
            state=row.state,
            due=row.due,
            attempts=row.attempts,
            reply=row.reply,
            received_at=message.received_at,
            sender=str(message.envelope.sender or ""),
            size=message.size,
        )

    async def see(self, keys: Sequence[Key], now: float) -> list[Seen]:
        await self._look()
        found: dict[MessageId, list[Waiting]] = {}
        for key in keys:
            it = self.rows[key]
            if it.state <= State.SCHEDULED:
                row = Row(key.number, it.recipient, it.attempts, it.told, it.next_hop)
                found.setdefault(key.message, []).append(Waiting(row, it.state, it.due, it.lane, it.reply, now))
        return [
            Seen(replace(self.messages[message], content=None), waiting, self._scheduled(message))
            for message, waiting in found.items()
        ]

    async def waiting_at(self, places: Sequence[Place]) -> int:
        await self._look()
        return len(self._at(places))

    async def make_due_at(self, places: Sequence[Place], now: float) -> int:
        await self._look()
        keys = self._at(places)
        for key in keys:
            self.rows[key].due = min(self.rows[key].due, now)
        return len(keys)

    async def depth(self) -> tuple[int, float | None]:
        await self._look()
        waiting = [self.messages[key[0]].received_at for key, row in self.rows.items() if not row.state.settled]
        return len(waiting), min(waiting, default=None)

    async def next_due(self) -> float | None:
        due = min((row.due for row in self.rows.values() if row.state is State.SCHEDULED), default=None)
        if self.before_next_due is not None:
            self.before_next_due()
        await turns(1)
        return due

    async def body(self, message: Message) -> AsyncIterator[bytes]:
        if message.content is not None:
            yield message.content
            return
        await turns(1)
        if message.id not in self.bodies:
            raise SpoolBroken(f"body of {message.id} is not there")
        if self.body_fault is not None:
            raise self.body_fault
        yield self.bodies[message.id]

    def restarted(self) -> None:
        """As after a crash: what was leased is scheduled."""
        for row in self.rows.values():
            if row.state is State.LEASED:
                row.state = State.SCHEDULED

    # --- for assertions

    def states(self, message: int) -> list[State]:
        return [row.state for key, row in sorted(self.rows.items()) if key[0] == message]

    def kinds(self, message: int) -> list[Kind]:
        return [record.kind for record in self.records if record.message == message]


def make_message(
    number: MessageId,
    *recipients: str | Recipient,
    sender: str | None = "from@far.example",
    content: bytes | None = TEXT,
    at: float = NOW,
) -> Message:
    """A message as the queue takes it."""
    given = recipients or ("to@far.example",)
    return Message(
        id=number,
        received_at=at,
        envelope=Envelope(
            None if sender is None else box(sender),
            tuple(one if isinstance(one, Recipient) else Recipient(box(one), box(one)) for one in given),
        ),
        listener="mx",
        peer="192.0.2.9",
        helo="client.example",
        protocol="ESMTP",
        size=len(content or b""),
        header=HeaderView(1, "", "x", "", ""),
        octets=Octets.PLAIN,
        large=False,
        content=content,
    )


# --- the parts


def make_service(**changes: Any) -> Service:
    clock = changes.get("clock") or VirtualClock(NOW)
    usual: dict[str, Any] = {
        "listener": "mx",
        "hostname": HOSTNAME,
        "hostname_configured": True,
        "message_size": 1_000_000,
        "recipients": 1000,
        "errors": 20,
        "relay_networks": (),
        "directory": Nobody(),
        "clock": clock,
        "ids": IdSource(clock),
        "presence": ImaginedPresence(),
        "terminal_rate": Rate(1000),
        "auth_rate": Rate(1000),
        "auth_failures": 1000,
        "transactions": 10_000,
        "probes": 10_000,
        "spool_fault": lambda octets: None,
    }
    return Service(**{**usual, **changes})


def no_lane(name: str, route: Route) -> Lane:
    raise NotImplementedError


def make_queue(
    spool: Spool,
    clock: Clock,
    directory: Directory,
    *,
    open_lane: Callable[[str, Route], Lane] = no_lane,
    routes: Sequence[Route] = (),
    retry: RetrySchedule = DEFAULT,
    ids: IdSource | None = None,
    sites: Sites | None = None,
) -> Queue:
    ids = ids or IdSource(clock)
    return Queue(
        spool=spool,
        clock=clock,
        router=Router(routes, directory),
        open_lane=open_lane,
        retry=retry,
        notices=Notices(spool=spool, clock=clock, ids=ids, directory=directory, hostname=HOSTNAME),
        jumps=Jumps(clock, ids),
        sites=sites,
    )


def make_answers(**changes: Any) -> Answers:
    """The spool and the queue, where none is given, are empty."""
    clock = changes.get("clock") or VirtualClock(NOW)
    spool = changes.get("spool") or MemorySpool()
    usual: dict[str, Any] = {
        "accounts": Porter(),
        "mailboxes": Scales(),
        "presence": ImaginedPresence(),
        "resolver": ScriptedResolver(),
        "spool": spool,
        "queue": make_queue(spool, clock, Nobody()),
        "clock": clock,
        "connections": lambda: 0,
    }
    return Answers(**{**usual, **changes})


class Swaps:
    """Stands for HandOvers: keeps what was handed over, with the connection open."""

    def __init__(self) -> None:
        self.taken: list[tuple[asyncio.Transport, tuple[Domain, ...], str]] = []
        self.ended: list[Callable[[], None]] = []

    def __call__(
        self, transport: asyncio.Transport, domains: tuple[Domain, ...], *, peer: str, ended: Callable[[], None]
    ) -> None:
        self.taken.append((transport, domains, peer))
        self.ended.append(ended)


BOUNDS = Bounds(connections=100, idle=300.0, session_time=3600.0)


def make_listener(service: Service, bounds: Bounds = BOUNDS, **changes: Any) -> Listener:
    """On the service's clock. `accept` takes what would go to the queue."""
    usual: dict[str, Any] = {
        "spool": NoSpool(),
        "accept": _not_expected,
        "answers": make_answers(clock=service.clock),
        "hand_over": Swaps(),
        "tls": _not_expected,
        "census": Census(),
    }
    return Listener(service, bounds, **{**usual, **changes})


def _not_expected(message: Message, done: SpoolCallback) -> None:
    raise NotImplementedError
