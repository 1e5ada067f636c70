"""Egress pools: source addresses with a weight and a HELO name of their own, and a bound on the connections from them.

Pure but for counting: knows no sockets and no SMTP. Who opens connections (a Member) asks a Pool for room and for a
source, and gives the room back. Invariants: of the choices among the sources of a family, each source's share is at
every moment within one choice of what its weights ask for; room is given in the order in which it was asked for; while
somebody waits for room, no connection is kept without a job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from pillarbox.core.address import Domain
from pillarbox.engine.ports import IpAddress

TURN = 10  # jobs that a connection carries before it makes room for another lane that waits


@dataclass(frozen=True, slots=True)
class Source:
    """An address of this machine from which connections are made."""

    address: IpAddress
    hostname: Domain | None = None  # by which it says HELO; None: the server's
    weight: int = 1  # 0: drained, no new connections

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration says of a pool. No sources: the system chooses."""

    sources: tuple[Source, ...] | None
    connections: int | None = None  # at a time; None: any number


class NoSource(OSError):
    """No source of the pool can be used for that; the text says why."""


@dataclass(slots=True)
class Shares:
    """Whose turn it is among sources with weights, none of them 0: Tijdeman's solution of the chairman problem. Of the
    sources that have something to get, the one that must have it soonest is next."""

    sources: tuple[Source, ...]
    _owed: list[int] = field(init=False)  # of each, in parts of one choice: the sum of weights is a whole one

    def __post_init__(self) -> None:
        self._owed = [0] * len(self.sources)

    def next(self) -> Source:
        if len(self.sources) == 1:
            return self.sources[0]
        whole = sum(source.weight for source in self.sources)
        grain = 2 * len(self.sources) - 2
        best, soonest = 0, None
        for index, source in enumerate(self.sources):
            self._owed[index] += source.weight
            if grain * self._owed[index] < whole:
                continue
            left = Fraction((grain - 1) * whole - grain * self._owed[index], source.weight)
            if soonest is None or left < soonest:
                best, soonest = index, left
        self._owed[best] -= whole
        return self.sources[best]


class Member(Protocol):
    """Whoever has connections from a pool."""

    def granted(self) -> None:
        """There is room for the connection that was waited for longest; it counts already."""

    def spare(self) -> bool:
        """End the connection that has been without a job longest, and give its room back; False where there is none."""

    def renewed(self) -> None:
        """The sources may be others: what was opened from one that serves no more is not to be used again."""


class Pool:
    """The connections from some sources, over all lanes. Without terms: those from no address in particular."""

    def __init__(self, name: str = "", terms: Terms | None = None) -> None:
        self.name = name
        self.used = 0  # connections that are open or being opened
        self._members: dict[Member, None] = {}
        self._line: deque[Member] = deque()
        self._terms: Terms | None = None
        self._shares: dict[int, Shares] = {}
        self._take_over(terms)

    def _take_over(self, terms: Terms | None) -> None:
        self._terms = terms
        self._most = None if terms is None else terms.connections
        sources = None if terms is None else terms.sources
        self._chooses = sources is not None
        live = tuple(source for source in sources or () if source.weight)
        before = self._shares
        self._shares = {}
        for version in {source.address.version for source in live}:
            shares = Shares(tuple(source for source in live if source.address.version == version))
            same = version in before and before[version].sources == shares.sources
            self._shares[version] = before[version] if same else shares

    def renew(self, terms: Terms) -> None:
        """Go on by other terms; connections that are too many end with their jobs."""
        self._take_over(terms)
        for member in list(self._members):
            member.renewed()
        while self._is_over() and any(member.spare() for member in list(self._members)):
            pass
        self._serve()

    # --- sources

    def choose(self, target: IpAddress) -> Source | None:
        """From where to connect to that address; None: as the system chooses. Raises NoSource."""
        if not self._chooses:
            return None
        if (shares := self._shares.get(target.version)) is not None:
            return shares.next()
        raise NoSource(self._why_none(target))

    def _why_none(self, target: IpAddress) -> str:
        assert self._terms is not None
        if not self._terms.sources:
            return f"egress pool {self.name} is not in the configuration any more"
        if not self._shares:
            return f"egress pool {self.name}: all sources are drained (weight 0)"
        drained = any(source.address.version == target.version for source in self._terms.sources)
        what = "all sources of IPv{} are drained (weight 0)" if drained else "no source has an address of IPv{}"
        return f"egress pool {self.name}: {what.format(target.version)}"

    def serves(self, source: Source | None) -> bool:
        """Whether connections from there may be used for more jobs."""
        if source is None:
            return not self._chooses
        shares = self._shares.get(source.address.version)
        return shares is not None and any(
            (each.address, each.hostname) == (source.address, source.hostname) for each in shares.sources
        )

    # --- room for connections

    def join(self, member: Member) -> None:
        self._members[member] = None

    def leave(self, member: Member) -> None:
        self._members.pop(member, None)

    def take(self) -> bool:
        """Room for one connection, where there is some and nobody waits for it."""
        if self._line:
            return False
        while self._is_full():
            if not any(member.spare() for member in list(self._members)):
                return False
        self.used += 1
        return True

    def give(self) -> None:
        """Room that was taken or granted is free again."""
        self.used -= 1
        self._serve()

    def wait(self, member: Member) -> None:
        """Stand in line for room: `granted` is called once for each time."""
        self._line.append(member)

    def withdraw(self, member: Member) -> None:
        """Leave the line at the foremost of the member's places."""
        self._line.remove(member)

    @property
    def contested(self) -> bool:
        """Somebody waits for room."""
        return bool(self._line)

    def yields(self, member: Member, jobs: int) -> bool:
        """Whether a connection of the member that has carried so many jobs is to make room for others."""
        return bool(self._line) and self._line[0] is not member and jobs % TURN == 0

    def _is_full(self) -> bool:
        return self._most is not None and self.used >= self._most

    def _is_over(self) -> bool:
        return self._most is not None and self.used > self._most

    def _serve(self) -> None:
        while self._line and not self._is_full():
            self.used += 1
            self._line.popleft().granted()


class Pools:
    """The pools of the configuration, by name, and one for what leaves from none of them. One that is gone stays known
    to whoever still works with it."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._others = Pool()

    def renew(self, terms: Iterable[tuple[str, Terms]], *, others: int | None = None) -> None:
        """Have these pools, and no others. `others`: connections at a time from no pool."""
        self._others.renew(Terms(None, others))
        wanted = dict(terms)
        for name, pool in self._pools.items():
            pool.renew(wanted.pop(name, _GONE))
        self._pools |= {name: Pool(name, each) for name, each in wanted.items()}

    def get(self, name: str | None) -> Pool:
        """For a lane. None: the one for all that leaves from no pool."""
        if name is None:
            return self._others
        return self._pools.setdefault(name, Pool(name, _GONE))


_GONE = Terms(())
