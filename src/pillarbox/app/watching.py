"""The server's side of `pillarbox watch`: a client of the control socket as a terminal of a user.

The server says `{"show": N, "text": …}`; the client shows it and says `{"shown": N}`, and only then does the text count
as shown. How long a client may take is the matter of `Terminals`. Invariant: what is sent and not shown is bounded, so
a client that stands still costs little and holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from pillarbox.adapters.terminals import Terminals, TooManyWatchers
from pillarbox.app.control import Receive, Refused, Send
from pillarbox.core.address import AddressError, Mailbox
from pillarbox.engine.ports import User

MAX_BEHIND = 4  # texts sent to a client that it has not shown


def watch(terminals: Terminals, login: Callable[[str], User | None], name: str) -> Watching:
    """For the user of that address, login name or local part; `login` is the directory's. Raises Refused."""
    try:
        user = login(name)
    except AddressError as error:
        raise Refused(f"{name}: {error}", usage=True) from error
    if user is None:
        raise Refused(f"{name}: no such user here; `pillarbox user list` shows who is")
    return Watching(terminals, user.mailbox)


class Watching:
    """Meets Conversation."""

    def __init__(self, terminals: Terminals, user: Mailbox) -> None:
        self._terminals = terminals
        self._user = user
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[bool]] = {}  # by number: sent, and not shown so far
        self._room = asyncio.Semaphore(MAX_BEHIND)  # one taken for each of them
        self._send: Send | None = None
        self._detach: Callable[[], None] | None = None

    def begin(self, send: Send) -> object:
        self._send = send
        try:
            self._detach = self._terminals.attach(self._user, self._show)
        except TooManyWatchers as error:
            raise Refused(str(error)) from error
        return {"user": str(self._user)}

    async def run(self, receive: Receive) -> None:
        while (line := await receive()) is not None:
            match line:
                case {"shown": int(number)} if number in self._waiting:
                    self._settle(number, shown=True)
                case _:
                    raise Refused("the client says what no watcher says; it may be of another version")

    def end(self) -> None:
        if self._detach is not None:
            self._detach()
        self._send = None
        for number in list(self._waiting):
            self._settle(number, shown=False)

    def _settle(self, number: int, *, shown: bool) -> None:
        future = self._waiting.pop(number)
        if not future.done():  # it is, when nobody waited so long
            future.set_result(shown)
        self._room.release()

    async def _show(self, text: str) -> bool:
        await self._room.acquire()
        if self._send is None:
            self._room.release()
            return False
        number = next(self._numbers)
        shown: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[number] = shown
        await self._send({"show": number, "text": text})
        return await shown
