"""What is due on the disk, fetched: by a timer for the earliest, by a wish, and for a lane that has room again.

Never more than there is room for, and nothing while somebody changes what waits (`leasing`). Where most of what comes
goes back for lack of room, it pauses. Knows neither lanes nor states; what is fetched is handed to the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

from pillarbox.engine.jumps import Jumps
from pillarbox.engine.mail import Leased, Message, Row
from pillarbox.engine.ports import Clock, Spool, SpoolError, Timer

log = logging.getLogger(__name__)

PAUSE = 0.1  # seconds, behind a fetch of which most went back
STEP = 50  # messages handed over at a time

Admit = Callable[[Message, list[Row], int], None]
Task = Callable[[Coroutine[None, None, None]], None]


class Fetching:
    def __init__(
        self,
        *,
        spool: Spool,
        clock: Clock,
        jumps: Jumps,
        leasing: asyncio.Lock,
        admit: Admit,
        room: Callable[[], int],
        task: Task,
        bounds: tuple[int, float],
    ) -> None:
        """`room`: messages that may be taken; `bounds`: recipients fetched at a time, and the seconds after which a
        wall clock that jumped is noticed."""
        self.starved = False  # the disk has due recipients for which there was no room
        self.back = 0  # jobs that went back to the disk for lack of room
        self.filling = ""  # the lane whose jobs are being handed over
        self._spool = spool
        self._clock = clock
        self._jumps = jumps
        self._leasing = leasing
        self._admit = admit
        self._room = room
        self._task = task
        self._at_once, self._look_again = bounds
        self._timer: Timer | None = None
        self._timer_due = float("inf")
        self._fetching = False
        self._fetch_again = False
        self._wanted: dict[str, tuple[int, int, Callable[[], None]]] = {}  # lanes with room: their priority
        self._refilling = False
        self._over: asyncio.Future[None] | None = None  # the end of a pause
        self._closing = False

    def close(self) -> None:
        self._closing = True
        if self._over is not None:
            _end(self._over)
        if self._timer is not None:
            self._timer.cancel()

    def wake(self) -> None:
        """Look for due recipients on the disk now."""
        if self._closing:
            return
        if self._fetching:
            self._fetch_again = True
            return
        self._fetching = True
        self._task(self._fetch())

    async def _fetch(self) -> None:
        try:
            due: float | None = None
            while not self._closing:
                self._fetch_again = False
                room = self._room()
                self.starved = room <= 0
                if self.starved:
                    return
                back = self.back
                async with self._leasing:
                    found = await self._spool.lease(self._clock.now(), min(room, self._at_once))
                    await self._admit_all(found)
                if 2 * (self.back - back) > len(found):
                    await self._pause()
                due = None if found else await self._spool.next_due()
                if not found and not self._fetch_again:
                    break
            if due is not None:
                self.wake_at(due)
        except SpoolError as error:
            log.error("queue: can't read the spool: %s", error)
            self.wake_at(self._clock.now() + self._look_again)
        except Exception:
            log.exception("queue: bug while looking for due recipients")
            self.wake_at(self._clock.now() + self._look_again)
        finally:
            self._fetching = False

    async def _admit_all(self, found: Sequence[Leased], *, filling: str = "") -> None:
        """In steps, so that all else goes on between them."""
        for start in range(0, len(found), STEP):
            self.filling = filling
            for leased in found[start : start + STEP]:
                self._admit(*leased)
            self.filling = ""
            await asyncio.sleep(0)

    async def _pause(self) -> None:
        if not self._closing:
            self._over = asyncio.get_running_loop().create_future()
            self._clock.call_later(PAUSE, partial(_end, self._over))
            await self._over

    def wake_at(self, due: float) -> None:
        """A timer for the earliest due recipient; never far ahead, so that a jump of the clock is noticed."""
        if due >= self._timer_due or self._closing:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        delay = min(max(due - self._clock.now(), 0.0), self._look_again)
        self._timer = self._clock.call_later(delay, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_due = float("inf")
        self._jumps.look()
        self.wake()

    # --- for a lane that has room

    def refill(self, lane: str, priority: int, most: int, emptied: Callable[[], None]) -> None:
        """Fetch so much of what waits for room in that lane, lanes of the highest priority first; `emptied` is called
        where no more waits."""
        if not self._closing and lane not in self._wanted:
            self._wanted[lane] = (priority, most, emptied)
            if not self._refilling:
                self._refilling = True
                self._task(self._refill())

    async def _refill(self) -> None:
        try:
            while self._wanted and not self._closing:
                lane = max(self._wanted, key=lambda name: self._wanted[name][0])
                _, wanted, emptied = self._wanted.pop(lane)
                most = min(wanted, self._room(), self._at_once)
                if most > 0:
                    async with self._leasing:
                        found = await self._spool.lease_parked(lane, most)
                        await self._admit_all(found, filling=lane)
                    if sum(len(leased.rows) for leased in found) < most:
                        emptied()
        except SpoolError as error:
            log.error("queue: can't read the spool: %s", error)
        except Exception:
            log.exception("queue: bug while filling a lane")
        finally:
            self._refilling = False


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
