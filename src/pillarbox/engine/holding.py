"""What the queue has in memory: its messages, how many of their recipients are here, and the octets of their texts.

Bounded: beyond `window` messages nothing is taken, beyond `budget` octets a text is left to the disk. A message stays
until the disk agrees with what was decided here, so that nothing is fetched by a state of yesterday. Knows no lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import Message


@dataclass(slots=True)
class Held:
    """A message in memory: how many of its recipients are here, and how many wait on the disk."""

    message: Message
    here: int
    waiting: int
    unwritten: int = 0  # units about it that are not on the disk yet
    finished: bool = False  # the disk was told that all of its recipients are settled


class Holding:
    def __init__(self, *, window: Callable[[], int], budget: int) -> None:
        self.held: dict[int, Held] = {}
        self.octets = 0
        self._window = window
        self._budget = budget

    @property
    def room(self) -> int:
        """Messages that may be taken."""
        return self._window() - len(self.held)

    @property
    def half_empty(self) -> bool:
        return len(self.held) < self._window() // 2

    def take(self, message: Message, here: int, waiting: int, *, anew: bool = True) -> Message | None:
        """Take recipients; gives the message as it is known here. None: it is not in memory, and there is no room for
        it, or nothing is to be taken `anew`."""
        held = self.held.get(message.id)
        if held is not None:
            held.here += here
            held.waiting -= here
            return held.message
        if not anew or self.room <= 0:
            return None
        self.held[message.id] = Held(message, here, waiting)
        if message.content is not None:
            self.octets += len(message.content)
            if self.octets > self._budget:
                self.octets -= len(message.content)
                message.content = None
        return message

    def agreed(self, message: MessageId) -> Held | None:
        """The disk has what was decided about a message; with nothing left to decide it leaves the memory, and is
        given."""
        held = self.held.get(message)
        if held is None:
            return None
        held.unwritten -= 1
        if held.here or held.unwritten:
            return None
        del self.held[message]
        if held.message.content is not None:
            self.octets -= len(held.message.content)
        return held
