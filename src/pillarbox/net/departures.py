"""What is written during one turn of the loop leaves at its end, all of it one behind the other.

A reply wakes the client, and to wake a processor that has just gone to sleep costs more than the reply: twenty replies
at once wake it once. Knows transports, nothing of what they carry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class Departures:
    """The writes, and the closings behind them, of many transports, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def write(self, transport: asyncio.Transport, octets: bytes) -> None:
        self._add(transport.write, (octets,))

    def close(self, transport: asyncio.Transport) -> None:
        self._add(transport.close, ())

    def write_eof(self, transport: asyncio.Transport) -> None:
        """Close our direction; a transport that can't any more is closed."""
        self._add(_write_eof, (transport,))

    def _add(self, act: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.leave)
        self._waiting.append((act, arguments))

    def leave(self) -> None:
        """Now, for whoever can't wait for the end of the turn."""
        waiting, self._waiting = self._waiting, []
        for act, arguments in waiting:
            try:
                act(*arguments)
            except Exception as error:  # the transport has gone meanwhile, and its owner is told of that
                log.debug("a reply did not leave: %s", error)


def _write_eof(transport: asyncio.Transport) -> None:
    try:
        transport.write_eof()
    except OSError:  # it has just gone
        transport.close()
