"""What an operator wants done to recipients: the orders, which states each is for, and what comes of it.

Pure but for `StandingOrders`, which remembers what is ordered for recipients that are in memory at the moment: it is
done when their turn comes, or when they come back from an attempt without being settled. Knows neither spool nor clock.
Invariant: an order changes a recipient at most once, and none that is settled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.dsn import Telling
from pillarbox.engine.mail import Change, Failed, Job, Message, Rerouted, Row, State, Stopped, Waiting
from pillarbox.engine.outcomes import failed_by_hand
from pillarbox.engine.predicate import And, Comparison, Due, Predicate, Standing
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.routing import RELEASED, is_held_by_route

BY_OPERATOR = EnhancedCode(5, 7, 0)


@dataclass(frozen=True, slots=True)
class Retry:
    """Due now. What its sender wants held (RFC 4865) stays so."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Not tried before it is released; meanwhile it does not expire."""


@dataclass(frozen=True, slots=True)
class Release:
    """Due now, or when its sender wants it."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Failed, and nobody is told."""


@dataclass(frozen=True, slots=True)
class Bounce:
    """Failed, and its sender is told that."""

    status: EnhancedCode = BY_OPERATOR
    text: str = "returned by the operator of this server"


@dataclass(frozen=True, slots=True)
class Reroute:
    """Another way out, as a route names it, whatever the routes say; None: by the routes again."""

    next_hop: str | None


Action = Retry | Hold | Release | Drop | Bounce | Reroute


@dataclass(frozen=True, slots=True)
class Order:
    """`who`: the operator's name on this machine."""

    action: Action
    who: str


class Done(NamedTuple):
    """What came of an order: recipients changed, of how many messages, and those for which it stands."""

    recipients: int
    messages: int
    standing: int


class Obeyed(NamedTuple):
    """What an order changes of one recipient."""

    change: Change
    telling: Telling | None = None
    notes: tuple[Record, ...] = ()
    rerouted: Rerouted | None = None


_WAITING = frozenset((State.SCHEDULED, State.HELD))
_FOR: dict[type[Action], frozenset[State]] = {
    Retry: frozenset((State.SCHEDULED,)),
    Hold: frozenset((State.SCHEDULED,)),
    Release: frozenset((State.HELD,)),
    Drop: _WAITING,
    Bounce: _WAITING,
    Reroute: _WAITING,
}
_STANDS = (Hold, Drop, Bounce, Reroute)  # those that are remembered for recipients in memory


def scope(action: Action, wanted: Predicate) -> Predicate:
    """Those of the wanted that it could change."""
    if isinstance(action, Retry):
        return And((Standing(_FOR[Retry]), Due(Comparison.GREATER, 0.0, True), wanted))
    states = _FOR[type(action)]
    return And((Standing(states | {State.LEASED} if isinstance(action, _STANDS) else states), wanted))


def reach(action: Action, wanted: Predicate) -> Predicate:
    """As `scope`, and those in memory for which it takes back another order."""
    if isinstance(action, Release):
        return And((Standing(_FOR[Release] | {State.LEASED}), wanted))
    return scope(action, wanted)


def obey(order: Order, message: Message, waiting: Waiting, now: float) -> Obeyed | None:
    """None where the order is not for it."""
    action = order.action
    if waiting.state not in _FOR[type(action)]:
        return None
    until = max(now, message.envelope.options.hold_until or 0.0)  # RFC 4865
    match action:
        case Retry():
            if waiting.due <= until:
                return None
            return _waits(order, message, waiting, "to be tried now", State.SCHEDULED, until)
        case Hold():
            return _waits(order, message, waiting, "held until it is released", State.HELD, now)
        case Release():
            return _released(order, message, waiting, until)
        case Reroute(next_hop):
            return _rerouted(order, message, waiting, next_hop, until)
        case Drop():
            return _fails(order, message, waiting, "dropped by the operator of this server", now)
        case Bounce(status, text):
            return _bounced(order, message, waiting, Failed(text, "", status), now)


def _record(order: Order, message: Message, row: Row, now: float, **detail: str) -> Record:
    return Record(message.id, now, Kind.CHANGED, row.number, (*detail.items(), ("who", order.who)))


def _waits(order: Order, message: Message, waiting: Waiting, text: str, state: State, due: float) -> Obeyed:
    row, now = waiting.row, waiting.now
    told = _record(order, message, row, now, text=text)
    return Obeyed(Change(message.id, row.number, state, due, row.attempts, waiting.lane, waiting.reply, told, row.told))


def _released(order: Order, message: Message, waiting: Waiting, until: float) -> Obeyed:
    """What a route holds goes by the other routes: by the same one it would be held again."""
    if not is_held_by_route(waiting.lane):
        return _waits(order, message, waiting, "released", State.SCHEDULED, until)
    obeyed = _waits(order, message, waiting._replace(lane=""), "released", State.SCHEDULED, until)
    return obeyed._replace(rerouted=Rerouted(message.id, waiting.row.number, RELEASED))


def _rerouted(order: Order, message: Message, waiting: Waiting, next_hop: str | None, until: float) -> Obeyed:
    due = waiting.due if waiting.state is State.HELD else until
    text = "to go by the routes again" if next_hop is None else f"to go by {next_hop}"
    obeyed = _waits(order, message, waiting._replace(lane=""), text, waiting.state, due)
    return obeyed._replace(rerouted=Rerouted(message.id, waiting.row.number, next_hop))


def _fails(order: Order, message: Message, waiting: Waiting, text: str, now: float) -> Obeyed:
    row = waiting.row
    told = _record(order, message, row, now, text=text)
    return Obeyed(Change(message.id, row.number, State.FAILED, now, row.attempts, waiting.lane, text, told, row.told))


def _bounced(order: Order, message: Message, waiting: Waiting, outcome: Failed, now: float) -> Obeyed:
    row = waiting.row
    telling, untold = failed_by_hand(Job(message, [row], waiting.lane), row, outcome)
    told = _record(order, message, row, now, text=outcome.text, status=str(outcome.status))
    change = Change(message.id, row.number, State.FAILED, now, row.attempts, waiting.lane, outcome.text, told, row.told)
    notes = () if untold is None else (Record(message.id, now, Kind.NOTICE, row.number, (("text", untold),)),)
    return Obeyed(change, telling, notes)


class StandingOrders:
    """Orders for recipients in memory. Lost with it: after a crash they are as if they had not been given."""

    def __init__(self) -> None:
        self.orders: dict[int, dict[int, Order]] = {}  # by message and number of the recipient

    def give(self, message: MessageId, number: int, order: Order) -> bool:
        """In the place of an earlier one; whether it stands. To release is to take back a Hold."""
        if isinstance(order.action, _STANDS):
            self.orders.setdefault(message, {})[number] = order
            return True
        if isinstance(order.action, Release) and isinstance(self._of(message, number), Hold):
            self.take(message, number)
        return False

    def _of(self, message: MessageId, number: int) -> Action | None:
        order = self.orders.get(message, {}).get(number)
        return None if order is None else order.action

    def take(self, message: MessageId, number: int) -> Order | None:
        """The order for a recipient that is to be changed now."""
        orders = self.orders.get(message)
        if orders is None:
            return None
        order = orders.pop(number, None)
        if not orders:
            del self.orders[message]
        return order

    def forget(self, message: MessageId) -> None:
        """It has left the memory."""
        self.orders.pop(message, None)

    def withdrawn(self, job: Job) -> list[Row]:
        """The rows that must not be tried."""
        orders = self.orders.get(job.message.id, {})
        return [row for row in job.rows if row.number in orders]


def stopped(rows: Iterable[Row]) -> tuple[Stopped, ...]:
    """The outcomes of rows whose turn came, and that an order keeps from being tried."""
    return tuple(Stopped("", "", BY_OPERATOR) for _ in rows)
