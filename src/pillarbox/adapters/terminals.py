"""The terminals that users have open: the port Presence.

Two kinds: watchers, attached by whoever serves `pillarbox watch`, and the ttys of those logged in to this machine,
taken as write(1) takes them: a character device of the user's own that the group may write to (mesg y). Knows neither
the control socket nor what is shown. Invariants: nothing here waits for a terminal longer than the bound, and no
terminal holds up another; a terminal counts only when all of the text is on it. Users are told apart as the directory
writes them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import re
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import psutil

from pillarbox.core.address import Mailbox

BOUND = 2.0  # seconds that a terminal has for a text
MAX_WATCHERS = 1000
MAX_WATCHERS_PER_USER = 10

_REMEMBERED = 1.0  # seconds that what was found about the ttys is good for
_PAUSE = 0.02  # seconds before a tty that says it has room, and has none, is tried again
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")  # of a device below /dev: no dots, so none that leads away
_log = logging.getLogger(__name__)

Show = Callable[[str], Awaitable[bool]]
_Attempt = Callable[[], Awaitable[bool]]


class TooManyWatchers(Exception):
    """No more may watch; the text says how many do."""


# --- who is logged in


class Login(NamedTuple):
    """Somebody who is logged in at a terminal: `alice`, `pts/3`."""

    name: str
    terminal: str


def logins() -> list[Login]:
    """From utmp, where the system keeps one."""
    return [Login(user.name, user.terminal) for user in psutil.users() if user.terminal]


def uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: no name that a system could have
        return None


@dataclass(frozen=True, slots=True)
class Machine:
    """What is asked of the machine about its logins."""

    logins: Callable[[], Iterable[Login]] = logins
    uid: Callable[[str], int | None] = uid_of
    devices: Path = Path("/dev")


class _Tty(NamedTuple):
    path: str
    uid: int  # its owner must be

    def takes_messages(self) -> bool:
        """As far as can be known without opening it."""
        try:
            return self.may_be(os.lstat(self.path)) and os.access(self.path, os.W_OK, effective_ids=True)
        except OSError:
            return False

    def may_be(self, status: os.stat_result) -> bool:
        """A character device of the user's, and mesg y."""
        mode = status.st_mode
        return stat.S_ISCHR(mode) and status.st_uid == self.uid and bool(mode & stat.S_IWGRP)


class _Ttys:
    """Those that take messages, by user: looked up again when what is known is too old."""

    def __init__(
        self, machine: Machine, login: Callable[[str], Mailbox | None], monotonic: Callable[[], float]
    ) -> None:
        self._machine = machine
        self._login = login
        self._monotonic = monotonic
        self._uids: dict[str, int | None] = {}  # of those who are logged in: to ask may take long
        self._found: dict[Mailbox, list[_Tty]] = {}
        self._good_until = float("-inf")

    def of(self, user: Mailbox) -> list[_Tty]:
        now = self._monotonic()
        if now >= self._good_until:
            self._found = self._look()
            self._good_until = now + _REMEMBERED
        return self._found.get(user, [])

    def _look(self) -> dict[Mailbox, list[_Tty]]:
        try:
            present = list(dict.fromkeys(self._machine.logins()))
        except (OSError, psutil.Error) as error:
            _log.warning("can't see who is logged in: %s", error)
            present = []
        users = {name: self._login(name) for name, _ in present}
        self._uids = {name: self._uid(name) for name, user in users.items() if user is not None}
        found: dict[Mailbox, list[_Tty]] = {}
        for name, terminal in present:
            user, uid = users[name], self._uids.get(name)
            if user is not None and uid is not None and _NAME.fullmatch(terminal):
                tty = _Tty(f"{self._machine.devices}/{terminal}", uid)
                if tty.takes_messages():
                    found.setdefault(user, []).append(tty)
        return found

    def _uid(self, name: str) -> int | None:
        return self._uids[name] if name in self._uids else self._machine.uid(name)


# --- writing to a tty


async def _put(tty: _Tty, octets: bytes) -> bool:
    """All of it; False where it is no terminal that takes messages. Raises OSError; whoever waits sets the bound."""
    file = os.open(tty.path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not tty.may_be(os.fstat(file)) or not os.isatty(file):
            return False
        await _write(file, memoryview(octets))
        return True
    finally:
        os.close(file)


async def _write(file: int, left: memoryview) -> None:
    said_ready = False
    while left:
        try:
            left = left[os.write(file, left) :]
            said_ready = False
        except BlockingIOError:
            if said_ready:  # another writer holds it, or it has room for one octet and needs two
                await asyncio.sleep(_PAUSE)
            await _room(file)
            said_ready = True


async def _room(file: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(file, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(file)


# --- the port


class Terminals:
    """Meets the port Presence. `login` gives the user behind a login name of this machine."""

    def __init__(
        self,
        *,
        login: Callable[[str], Mailbox | None],
        monotonic: Callable[[], float],
        machine: Machine | None = None,
        bound: float = BOUND,
    ) -> None:
        self._ttys = _Ttys(machine or Machine(), login, monotonic)
        self._bound = bound
        self._watchers: dict[Mailbox, dict[object, Show]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # no two texts at once on a tty

    def attach(self, user: Mailbox, show: Show) -> Callable[[], None]:
        """Let the user have one more terminal. `show` says whether the text is there, all of it; it is cancelled at
        the bound. Gives what detaches it. Raises TooManyWatchers."""
        mine = self._watchers.get(user, {})
        if len(mine) >= MAX_WATCHERS_PER_USER:
            raise TooManyWatchers(f"{len(mine)} watch {user} already, as many as may; end one of them first")
        if sum(map(len, self._watchers.values())) >= MAX_WATCHERS:
            raise TooManyWatchers(f"{MAX_WATCHERS} watch already, as many as may; end one of them first")
        key = object()
        self._watchers.setdefault(user, {})[key] = show

        def detach() -> None:
            shows = self._watchers.get(user, {})
            if shows.pop(key, None) is not None and not shows:
                del self._watchers[user]

        return detach

    def active(self, user: Mailbox) -> bool:
        return user in self._watchers or bool(self._ttys.of(user))

    async def show(self, user: Mailbox, text: str) -> int:
        watchers = list(self._watchers.get(user, {}).values())
        octets = text.replace("\n", "\r\n").encode("utf-8", "replace")
        attempts = [self._bounded(partial(show, text), str(user)) for show in watchers]
        attempts += [self._bounded(partial(self._in_turn, tty, octets), tty.path) for tty in self._ttys.of(user)]
        return sum(await asyncio.gather(*attempts))

    async def _in_turn(self, tty: _Tty, octets: bytes) -> bool:
        turn = self._turns.setdefault(tty.path, asyncio.Lock())
        async with turn:
            return await _put(tty, b"\r\n" + octets)  # apart from whatever stands on the line

    async def _bounded(self, attempt: _Attempt, name: str) -> bool:
        try:
            async with asyncio.timeout(self._bound):
                return await attempt()
        except TimeoutError:
            _log.info("a terminal of %s took no message within %g s", name, self._bound)
        except OSError as error:
            _log.info("a terminal of %s took no message: %s", name, error)
        except Exception:
            _log.exception("a terminal of %s failed", name)
        return False
