"""The verbs that change the queue: `retry`, `hold`, `bounce` … and their options as orders of the engine.

Text becomes values here; what is wrong is named with what is allowed. Knows neither who carries an order out nor how
it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.orders import BY_OPERATOR, Action, Bounce, Drop, Hold, Order, Release, Reroute, Retry
from pillarbox.engine.routing import HoldHop, Pipe, Turn, parse_next_hop

MAX_TEXT = 500  # characters
BY_ROUTES = "routes"  # in the place of a next hop


class OrderError(ValueError):
    """The text is no order; says what is allowed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An order as an operator gives it. `status` and `text` are for bounce, `next_hop` for reroute; "" is none."""

    action: str
    where: str
    who: str = ""
    status: str = ""
    text: str = ""
    next_hop: str = ""


def read_order(wanted: Wanted) -> Order:
    """Raises OrderError."""
    if wanted.action not in ACTIONS:
        raise OrderError(f"queue {wanted.action}: no such order; allowed: {', '.join(ACTIONS)}")
    for name in ("status", "text", "next_hop"):
        if getattr(wanted, name) and name not in _OPTIONS.get(wanted.action, ()):
            raise OrderError(f"queue {wanted.action}: it has no --{name.replace('_', '-')}")
    who = "".join(character for character in wanted.who if character.isprintable())[:MAX_TEXT]
    return Order(ACTIONS[wanted.action](wanted), who or "somebody")


def _bounce(wanted: Wanted) -> Action:
    try:
        status = EnhancedCode.parse(wanted.status) if wanted.status else BY_OPERATOR
    except ValueError as error:
        raise OrderError(f"queue bounce: --status {wanted.status}: {error}") from error
    if status.klass != 5:
        raise OrderError(f"queue bounce: --status {status}: a status of failure begins with 5")
    if len(wanted.text) > MAX_TEXT or not (wanted.text.isprintable() and wanted.text.isascii()):
        raise OrderError(f"queue bounce: --text must be one line of ASCII, of {MAX_TEXT} characters at most")
    return Bounce(status, wanted.text) if wanted.text else Bounce(status)


def _reroute(wanted: Wanted) -> Action:
    if wanted.next_hop == BY_ROUTES:
        return Reroute(None)
    if not wanted.next_hop:
        raise OrderError(f"queue reroute: --next-hop is missing; as in a route, or {BY_ROUTES} to take one back")
    try:
        next_hop = parse_next_hop(wanted.next_hop)
    except ValueError as error:
        raise OrderError(f"queue reroute: {error}") from error
    if isinstance(next_hop, Pipe | Turn | HoldHop):
        raise OrderError(f"queue reroute: {wanted.next_hop} needs a route in the configuration")
    return Reroute(wanted.next_hop)


_OPTIONS = {"bounce": ("status", "text"), "reroute": ("next_hop",)}
ACTIONS: dict[str, Callable[[Wanted], Action]] = {
    "retry": lambda wanted: Retry(),
    "hold": lambda wanted: Hold(),
    "release": lambda wanted: Release(),
    "bounce": _bounce,
    "drop": lambda wanted: Drop(),
    "reroute": _reroute,
}
