"""What is written in one turn of the loop: when it leaves, in which order, and what a fault of one does to the rest."""

from __future__ import annotations

import asyncio
from typing import Any

from pillarbox.net.departures import Departures
from tests.making import turns


class Noted(asyncio.Transport):
    def __init__(self, name: str, seen: list[str], *, gone: bool = False) -> None:
        super().__init__()
        self._name = name
        self._seen = seen
        self._gone = gone

    def write(self, data: Any) -> None:
        if self._gone:
            raise RuntimeError("the handler is closed")
        self._seen.append(f"{self._name} {bytes(data).decode()}")

    def write_eof(self) -> None:
        if self._gone:
            raise OSError("not connected")
        self._seen.append(f"{self._name} eof")

    def close(self) -> None:
        self._seen.append(f"{self._name} closed")


def test_all_of_a_turn_leaves_at_its_end_in_order() -> None:
    async def main() -> None:
        seen: list[str] = []
        departures, first, second = Departures(), Noted("a", seen), Noted("b", seen)
        departures.write(first, b"250")
        departures.write(second, b"354")
        departures.write(first, b"221")
        departures.close(first)
        departures.write_eof(second)
        assert seen == []
        await turns(1)
        assert seen == ["a 250", "b 354", "a 221", "a closed", "b eof"]
        departures.write(second, b"421")
        departures.leave()
        assert seen[5:] == ["b 421"]
        await turns(2)
        assert len(seen) == 6

    asyncio.run(main())


def test_one_that_has_gone_keeps_nobody_else_from_leaving() -> None:
    async def main() -> None:
        seen: list[str] = []
        departures, gone, there = Departures(), Noted("a", seen, gone=True), Noted("b", seen)
        departures.write(gone, b"250")
        departures.write_eof(gone)
        departures.write(there, b"250")
        await turns(1)
        assert seen == ["a closed", "b 250"]

    asyncio.run(main())
