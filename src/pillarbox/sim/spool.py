"""A spool in memory, made from what a real one holds: the port Spool, as far as a queue that only delivers asks it.

Holds keys, not messages: those are made when they are leased, and have no text. Nothing is ever durable. Says of each
recipient when and how it was settled. Invariant: a recipient is leased once at a time, and settled once.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import Envelope, MailOptions, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.forecast import Letter, Waiter
from pillarbox.engine.mail import Change, Key, Leased, Message, Octets, Place, Row, Seen, State, Told, Unit
from pillarbox.engine.ports import Claimed, SpoolBroken, SpoolCallback, SpoolError
from pillarbox.engine.predicate import Predicate

_NO_HEADER = HeaderView(0, "", "", "", "")
Settled = Callable[[Waiter, Change], None]


@dataclass(slots=True)
class _Stored:
    """A message of which something is not settled."""

    letter: Letter
    rows: dict[int, Waiter]
    waiting: int  # those that are not leased, a bit for each number


class ImaginedSpool:
    """Meets the port Spool. What a server had in its memory is due."""

    def __init__(self, letters: Iterable[Letter], settled: Settled) -> None:
        """Held recipients stay out: nobody releases them."""
        self._settled = settled
        self._letters: dict[int, _Stored] = {}
        self._lines: dict[int, list[tuple[float, int, int]]] = {}  # due, message, recipient; by priority
        self._parked: dict[str, list[tuple[int, int, int]]] = {}  # rank, message, recipient; by lane
        self._parked_now: set[tuple[int, int]] = set()
        for letter in letters:
            rows = {waiter.number: waiter for waiter in letter.waiters if waiter.state is not State.HELD}
            if rows:
                self._letters[letter.id] = _Stored(letter, rows, sum(1 << number for number in rows))
                line = self._line(letter.options)
                line += [
                    (0.0 if each.state is State.LEASED else each.due, letter.id, each.number) for each in rows.values()
                ]
        for line in self._lines.values():
            heapq.heapify(line)

    def __len__(self) -> int:
        """Messages that are not settled."""
        return len(self._letters)

    def _line(self, options: MailOptions) -> list[tuple[float, int, int]]:
        return self._lines.setdefault(options.priority or 0, [])

    # --- what the queue asks

    async def lease(self, now: float, limit: int) -> list[Leased]:
        taken: dict[int, list[int]] = {}
        for priority in sorted(self._lines, reverse=True):
            line = self._lines[priority]
            while line and limit and line[0][0] <= now:
                due, message, number = heapq.heappop(line)
                if self._waits(message, number, due):
                    self._take(message, number)
                    taken.setdefault(message, []).append(number)
                    limit -= 1
        return self._leased(taken)

    def _waits(self, message: int, number: int, due: float) -> bool:
        """Whether what once stood in a line for that moment still does: what was parked leaves from the middle."""
        stored = self._letters.get(message)
        if stored is None or not stored.waiting >> number & 1:
            return False
        waiter = stored.rows[number]
        return due == (0.0 if waiter.state is State.LEASED else waiter.due)

    def _take(self, message: int, number: int) -> None:
        self._letters[message].waiting ^= 1 << number
        self._parked_now.discard((message, number))

    def _leased(self, taken: dict[int, list[int]]) -> list[Leased]:
        leased = []
        for message, numbers in taken.items():
            stored = self._letters[message]
            rows = [_row(stored.rows[number]) for number in numbers]
            leased.append(Leased(_message(stored.letter, rows), rows, stored.waiting.bit_count()))
        return leased

    async def lease_parked(self, lane: str, limit: int) -> list[Leased]:
        line = self._parked.get(lane, [])
        taken: dict[int, list[int]] = {}
        while line and limit:
            _, message, number = heapq.heappop(line)
            if (message, number) in self._parked_now:
                self._take(message, number)
                taken.setdefault(message, []).append(number)
                limit -= 1
        if not line:
            self._parked.pop(lane, None)
        return self._leased(taken)

    async def parked_lanes(self) -> list[str]:
        return sorted(self._parked)

    async def next_due(self) -> float | None:
        for line in self._lines.values():
            while line and not self._waits(line[0][1], line[0][2], line[0][0]):
                heapq.heappop(line)
        return min((line[0][0] for line in self._lines.values() if line), default=None)

    def write(self, unit: Unit, done: SpoolCallback, *, urgent: bool = True) -> None:
        for change in unit.changes:
            self._apply(change)
        asyncio.get_running_loop().call_soon(done, None)

    def _apply(self, change: Change) -> None:
        stored = self._letters[change.message]
        if change.state.settled:
            self._settled(stored.rows.pop(change.number), change)
            if not stored.rows:
                del self._letters[change.message]
            return
        stored.rows[change.number] = stored.rows[change.number]._replace(
            due=change.due, attempts=change.attempts, told=int(change.told), state=State.SCHEDULED
        )
        stored.waiting |= 1 << change.number
        if change.parked:
            rank = -(stored.letter.options.priority or 0)
            heapq.heappush(self._parked.setdefault(change.lane, []), (rank, change.message, change.number))
            self._parked_now.add((change.message, change.number))
        heapq.heappush(self._line(stored.letter.options), (change.due, change.message, change.number))

    async def depth(self) -> tuple[int, float | None]:
        stored = self._letters.values()
        return sum(len(each.rows) for each in stored), min((each.letter.received_at for each in stored), default=None)

    def refuses(self, octets: int) -> SpoolError | None:
        return SpoolBroken("nothing is accepted here")

    # --- what it does not

    def spill(self, message: MessageId, octets: bytes, done: SpoolCallback) -> None:
        raise NotImplementedError

    def unspill(self, message: MessageId) -> None:
        raise NotImplementedError

    async def lease_at(self, places: Sequence[Place], after: MessageId, limit: int) -> list[Leased]:
        raise NotImplementedError

    async def claimed(self, scope: str, key: str, now: float) -> Claimed | None:
        raise NotImplementedError

    async def waiting_at(self, places: Sequence[Place]) -> int:
        raise NotImplementedError

    async def make_due_at(self, places: Sequence[Place], now: float) -> int:
        raise NotImplementedError

    async def find(self, wanted: Predicate, now: float, after: Key, limit: int) -> list[Key]:
        raise NotImplementedError

    async def see(self, keys: Sequence[Key], now: float) -> list[Seen]:
        raise NotImplementedError

    def body(self, message: Message) -> AsyncIterator[bytes]:
        raise NotImplementedError


def _row(waiter: Waiter) -> Row:
    mailbox = Mailbox.parse(waiter.address)
    return Row(waiter.number, Recipient(mailbox, mailbox), waiter.attempts, Told(waiter.told), waiter.next_hop)


def _message(letter: Letter, rows: list[Row]) -> Message:
    sender = None if letter.sender is None else Mailbox.parse(letter.sender)
    return Message(
        id=MessageId(letter.id),
        received_at=letter.received_at,
        envelope=Envelope(sender, tuple(row.recipient for row in rows), options=letter.options),
        listener="",
        peer="",
        helo="",
        protocol="",
        size=letter.size,
        header=_NO_HEADER,
        octets=Octets.PLAIN,
        large=False,
    )
