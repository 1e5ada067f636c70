"""Where addresses lead: what stands at an address, and the walk over aliases and lists to those who get the mail.

Knows no directory: who asks for a walk says how an address is found. A walk ends, whatever it meets: each way is gone
once, a circle is found, and depth and number of targets have bounds. Disabled users, addresses that have moved and
those that nobody has are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pillarbox.core.address import Mailbox
from pillarbox.engine.ports import (
    Accepted,
    Disabled,
    Moved,
    NoSuchUser,
    NotLocal,
    Posting,
    Relayed,
    Verification,
)

MAX_DEPTH = 10  # aliases and lists behind one another
MAX_TARGETS = 1000  # addresses that one address may lead to in the end


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """What leads on to other addresses. `meaning` is what VRFY makes of it."""

    name: str  # the address, or the catch-all
    targets: tuple[Mailbox, ...]
    meaning: Verification
    owner: Mailbox | None = None  # of a list
    posting: Posting | None = None  # of a list
    last_resort: Mailbox | None = None  # who gets the mail when it leads nowhere


Place = Accepted | Disabled | Moved | Way
Found = Place | Relayed | NotLocal | NoSuchUser


class Hopeless(Exception):
    """The way leads in a circle, too deep, or to too many addresses; the text tells it to an operator."""


class Walk:
    """The walk behind one way, depth first."""

    def __init__(self, find: Callable[[Mailbox], Found]) -> None:
        self.targets: dict[Mailbox, None] = {}
        self.owners: dict[Mailbox, Mailbox] = {}  # of targets that were first met behind a list
        self.postings: list[Posting] = []
        self.nowhere: list[str] = []  # what else was met, in words
        self.asleep = False  # a disabled user was met
        self._find = find
        self._open: dict[Way, str] = {}  # the ways that led here, each with the address that stood for it
        self._done: set[Way] = set()

    def follow(self, way: Way) -> None:
        """To the end. Raises Hopeless."""
        self._follow(way, way.name, None)

    def _follow(self, way: Way, name: str, owner: Mailbox | None) -> None:
        self._done.add(way)
        self._open[way] = name
        if way.posting is not None:
            self.postings.append(way.posting)
        for target in way.targets:
            self._visit(target, way.owner or owner)
        del self._open[way]

    def _visit(self, address: Mailbox, owner: Mailbox | None) -> None:
        """`owner`: of the innermost list on the way there."""
        if len(self._open) > MAX_DEPTH:
            raise Hopeless(f"{self._start} leads through more than {MAX_DEPTH} addresses")
        match self._find(address):
            case Way() as way:
                if way in self._open:
                    raise Hopeless(self._circle(way, address))
                if way not in self._done:
                    self._follow(way, str(address), owner)
            case Accepted(targets):
                self._reach(targets[0], owner)
            case Relayed() | NotLocal():
                self._reach(address, owner)
            case Disabled():
                self.asleep = True
            case Moved(to):
                self.nowhere.append(f"{address} has moved to {to}")
            case NoSuchUser():
                self.nowhere.append(f"no such user {address}")

    def _reach(self, target: Mailbox, owner: Mailbox | None) -> None:
        if target in self.targets:
            return
        self.targets[target] = None
        if len(self.targets) > MAX_TARGETS:
            raise Hopeless(f"{self._start} leads to more than {MAX_TARGETS} addresses")
        if owner is not None:
            self.owners[target] = owner

    @property
    def _start(self) -> str:
        return next(iter(self._open.values()))

    def _circle(self, way: Way, address: Mailbox) -> str:
        ways = list(self._open)
        circle = [self._open[step] for step in ways[ways.index(way) :]]
        return f"{circle[0]} leads back to itself: {' → '.join((*circle, str(address)))}"
