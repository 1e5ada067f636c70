"""Terminals that exist in a test only: the port Presence.

`shown` is the log: what each user saw, in order. A terminal that blocks is there and shows nothing; nobody
waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pillarbox.core.address import Mailbox


class ImaginedPresence:
    """Meets the port Presence: `ImaginedPresence([alice], blocked=[bob])`. One terminal for each user."""

    def __init__(self, users: Iterable[Mailbox] = (), *, blocked: Iterable[Mailbox] = ()) -> None:
        self.shown: dict[Mailbox, list[str]] = {}
        self._blocked = set(blocked)
        self._open = {*users, *self._blocked}

    def open(self, user: Mailbox) -> None:
        """From now on the user has a terminal, and one that works."""
        self._open.add(user)
        self._blocked.discard(user)

    def block(self, user: Mailbox) -> None:
        """From now on the user has a terminal that takes nothing."""
        self._open.add(user)
        self._blocked.add(user)

    def close(self, user: Mailbox) -> None:
        self._open.discard(user)
        self._blocked.discard(user)

    def active(self, user: Mailbox) -> bool:
        return user in self._open

    async def show(self, user: Mailbox, text: str) -> int:
        if user not in self._open or user in self._blocked:
            return 0
        self.shown.setdefault(user, []).append(text)
        return 1
