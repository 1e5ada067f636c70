"""Connections to the addresses of one host, of which the first that stands wins (RFC 8305 §5).

Knows no SMTP: what a connection is, is the caller's. Invariant: when `first_connected` has ended, by whatever way, no
attempt goes on and every connection but the one it gives is discarded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from pillarbox.engine.ports import Clock
from pillarbox.engine.walk import Try

ATTEMPT_DELAY = 0.25  # seconds until the next address is tried, too (RFC 8305 §8)

Connection = TypeVar("Connection")


@dataclass(frozen=True, slots=True)
class Dialling(Generic[Connection]):
    """How to connect, and what becomes of what does not win."""

    dial: Callable[[Try], Awaitable[Connection]]  # raises OSError
    failed: Callable[[Try, OSError], None]
    discard: Callable[[Connection], object]
    clock: Clock


async def first_connected(targets: Sequence[Try], dialling: Dialling[Connection]) -> tuple[Try, Connection] | None:
    """None when every attempt has failed. A single target costs no task."""
    if len(targets) == 1:
        try:
            return targets[0], await dialling.dial(targets[0])
        except OSError as error:
            dialling.failed(targets[0], error)
            return None
    attempts: dict[asyncio.Task[Connection], Try] = {}
    won: tuple[Try, Connection] | None = None
    try:
        won = await _race(deque(targets), attempts, dialling)
    finally:
        try:
            await _call_off(attempts, dialling.discard)
        except asyncio.CancelledError:  # nobody waits for the winner any more
            if won is not None:
                dialling.discard(won[1])
            raise
    return won


async def _race(
    waiting: deque[Try], attempts: dict[asyncio.Task[Connection], Try], dialling: Dialling[Connection]
) -> tuple[Try, Connection] | None:
    loop = asyncio.get_running_loop()
    while waiting or attempts:
        if waiting:
            target = waiting.popleft()
            attempts[loop.create_task(_awaited(dialling.dial(target)))] = target
        await _until_next(attempts, dialling.clock, hurry=bool(waiting))
        for task in [task for task in attempts if task.done()]:
            target = attempts.pop(task)
            try:
                return target, task.result()
            except OSError as error:
                dialling.failed(target, error)
    return None


async def _awaited(attempt: Awaitable[Connection]) -> Connection:
    return await attempt


async def _until_next(attempts: dict[asyncio.Task[Connection], Try], clock: Clock, *, hurry: bool) -> None:
    """Until an attempt ends, or it is time for the next one."""
    if not hurry:
        await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
        return
    late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(ATTEMPT_DELAY, partial(_set, late))
    try:
        either: tuple[asyncio.Future[Any], ...] = (late, *attempts)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()


def _set(late: asyncio.Future[None]) -> None:
    if not late.done():
        late.set_result(None)


async def _call_off(attempts: dict[asyncio.Task[Connection], Try], discard: Callable[[Connection], object]) -> None:
    for task in attempts:
        task.cancel()
        task.add_done_callback(partial(_let_go, discard))
    if attempts:
        await asyncio.wait(attempts)


def _let_go(discard: Callable[[Connection], object], task: asyncio.Task[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        discard(task.result())  # it stood at the same moment as the winner
