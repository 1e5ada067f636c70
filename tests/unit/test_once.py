"""Accepted once: one message of those with one key, whatever comes at the same time and whatever the disk does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillarbox.core import reply as r
from pillarbox.core.envelope import MessageId
from pillarbox.engine.mail import Claim, Message, Unit
from pillarbox.engine.once import Once, reply_to_repeat
from pillarbox.engine.ports import Claimed, Fate, Repeated, SpoolBroken, SpoolCallback, SpoolError, SpoolFull, Taken
from pillarbox.engine.records import Kind
from pillarbox.sim.clock import VirtualClock
from tests.making import NOW, MemorySpool, make_message, turns
from tests.queue_rig import run

ALICE, BOB = "alice@example.test", "bob@example.test"
DAY = 86400.0


class Disk(MemorySpool):
    """Notes what is unspilled; `unreadable`: what a question for a key ends with."""

    def __init__(self) -> None:
        super().__init__()
        self.unspilled: list[MessageId] = []
        self.unreadable: Exception | None = None

    def unspill(self, message: MessageId) -> None:
        self.unspilled.append(message)

    async def claimed(self, scope: str, key: str, now: float) -> Claimed | None:
        if self.unreadable is not None:
            raise self.unreadable
        return await super().claimed(scope, key, now)


class Door:
    """A Once in front of a spool."""

    def __init__(self) -> None:
        self.clock = VirtualClock(NOW)
        self.spool = Disk()
        self.once = Once(accept=self._accept, spool=self.spool, clock=self.clock)
        self.fates: dict[int, Fate] = {}
        self._number = 0

    def _accept(self, message: Message, done: SpoolCallback) -> None:
        self.spool.write(Unit(messages=(message,)), done)

    def submit(
        self, key: str | None = "k", *, scope: str = ALICE, text: bytes = b"same", large: bool = False
    ) -> MessageId:
        self._number += 1
        message = make_message(MessageId(self._number), at=self.clock.now())
        message.large = large
        if key is not None:
            message.claim = Claim(scope, key, text, self.clock.now() + DAY)
        number = message.id
        self.once.accept(message, lambda fate: self.fates.update({number: fate}))
        assert number not in self.fates, "answered before the call returned"
        return number

    async def comes_to(self, key: str | None = "k", **how: Any) -> Fate:
        number = self.submit(key, **how)
        await turns()
        return self.fates[number]

    @property
    def stored(self) -> list[int]:
        return sorted(self.spool.messages)

    @property
    def told(self) -> list[tuple[int, str, str]]:
        """The records of repeats."""
        assert all(record.kind is Kind.REPEATED and record.recipient is None for record in self.spool.records)
        details = [(record.message, dict(record.detail)) for record in self.spool.records]
        return [(message, str(detail["text"]), str(detail["from"])) for message, detail in details]

    def at_rest(self) -> bool:
        return not self.once._lines and not self.once._tasks


def test_a_message_without_a_key_passes() -> None:
    async def main() -> None:
        door = Door()
        door.spool.unreadable = AssertionError("asked for nothing")
        assert [await door.comes_to(None), await door.comes_to(None)] == [None, None]
        assert door.stored == [1, 2] and door.told == [] and door.at_rest()

    run(main())


def test_the_same_again_is_told_the_first() -> None:
    async def main() -> None:
        door = Door()
        assert await door.comes_to() is None
        assert [await door.comes_to(), await door.comes_to()] == [Repeated(MessageId(1))] * 2
        origin = f"{ALICE} [192.0.2.9]"
        assert door.stored == [1]
        assert door.told == [(1, "submitted again with the same Idempotency-Key", origin)] * 2
        assert door.at_rest() and door.spool.unspilled == []

    run(main())


def test_another_message_with_the_key_is_refused() -> None:
    async def main() -> None:
        door = Door()
        await door.comes_to()
        assert await door.comes_to(text=b"another") == Taken(MessageId(1))
        assert await door.comes_to() == Repeated(MessageId(1)), "the key is still that of the first"
        assert door.stored == [1]
        assert [text for _, text, _ in door.told] == [
            "refused: another message with the same Idempotency-Key",
            "submitted again with the same Idempotency-Key",
        ]

    run(main())


def test_another_key_or_submitter_is_another_message() -> None:
    async def main() -> None:
        door = Door()
        for how in ({}, {"key": "l"}, {"scope": BOB}, {"scope": ""}, {"key": "K"}):
            assert await door.comes_to(**how) is None
        assert len(door.stored) == 5
        assert await door.comes_to(scope="") == Repeated(MessageId(4))
        assert door.told[-1][2] == "this machine [192.0.2.9]"

    run(main())


def test_behind_the_window_it_is_new() -> None:
    async def main() -> None:
        door = Door()
        await door.comes_to()
        door.clock.advance(DAY - 1)
        assert await door.comes_to() == Repeated(MessageId(1))
        door.clock.advance(1)
        assert await door.comes_to() is None
        assert await door.comes_to() == Repeated(MessageId(3))
        assert door.stored == [1, 3]

    run(main())


def test_of_many_at_once_the_first_is_stored_and_all_others_wait_for_it() -> None:
    async def main() -> None:
        door = Door()
        door.spool.held = True
        numbers = [door.submit(text=b"another" if at == 7 else b"same") for at in range(20)]
        await turns()
        assert door.fates == {} and not door.at_rest()
        door.spool.release()
        await turns()
        assert [door.fates[number] for number in numbers] == [
            None if number == 1 else Taken(MessageId(1)) if number == 8 else Repeated(MessageId(1))
            for number in numbers
        ]
        assert door.stored == [1] and len(door.told) == 19 and door.at_rest()

    run(main())


@pytest.mark.parametrize("fault", [SpoolFull("full"), SpoolBroken("broken")])
def test_a_fault_of_the_disk_uses_no_key(fault: SpoolError) -> None:
    async def main() -> None:
        door = Door()
        faults: list[SpoolError | None] = [fault, fault]
        door.spool.fault = lambda unit: faults.pop(0) if unit.messages and faults else None
        numbers = [door.submit() for _ in range(4)]
        await turns()
        assert [door.fates[number] for number in numbers] == [fault, fault, None, Repeated(MessageId(3))]
        assert door.stored == [3] and door.at_rest()

    run(main())


def test_when_all_fail_the_next_is_the_first() -> None:
    async def main() -> None:
        door = Door()
        door.spool.fault = lambda unit: SpoolFull("full") if unit.messages else None
        numbers = [door.submit() for _ in range(3)]
        await turns()
        assert all(isinstance(door.fates[number], SpoolFull) for number in numbers) and door.at_rest()
        door.spool.fault = lambda unit: None
        assert await door.comes_to() is None and door.stored == [4]

    run(main())


@pytest.mark.parametrize("error", [SpoolBroken("no disk"), ValueError("a bug")])
def test_a_key_that_cannot_be_looked_up_is_put_off(error: Exception) -> None:
    async def main() -> None:
        door = Door()
        door.spool.unreadable = error
        assert isinstance(await door.comes_to(), SpoolBroken)
        assert door.stored == [] and door.at_rest()
        door.spool.unreadable = None
        assert await door.comes_to() is None

    run(main())


def test_what_was_spilled_of_a_repeat_goes() -> None:
    async def main() -> None:
        door = Door()
        await door.comes_to()
        await door.comes_to(large=True)
        await door.comes_to(large=True, text=b"another")
        assert door.spool.unspilled == [2, 3]

    run(main())


def test_a_record_that_is_lost_loses_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        door = Door()
        await door.comes_to()
        door.spool.fault = lambda unit: SpoolFull("full") if unit.repeats else None
        assert await door.comes_to() == Repeated(MessageId(1))
        assert "a record is lost: full" in caplog.text

    run(main())


def test_a_client_that_fails_is_nothing_to_the_others() -> None:
    async def main() -> None:
        door = Door()
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        first = make_message(MessageId(99), at=NOW)
        first.claim = Claim(ALICE, "k", b"same", NOW + DAY)

        def broken(fate: Fate) -> None:
            raise ValueError("gone")

        door.once.accept(first, broken)
        assert await door.comes_to() == Repeated(MessageId(99))
        assert len(errors) == 1 and door.at_rest()

    run(main())


def test_the_end_waits_for_what_is_being_decided() -> None:
    async def main() -> None:
        door = Door()
        number = door.submit()
        await door.once.close()
        await turns(1)
        assert door.fates == {number: None}

    run(main())


def test_what_a_client_is_told() -> None:
    assert str(reply_to_repeat(Repeated(MessageId(5)))) == str(r.queued_before(str(MessageId(5))))
    assert str(r.queued_before("x")) == "250 2.0.0 queued as x before, with the same Idempotency-Key"
    assert str(reply_to_repeat(Taken(MessageId(5)))).startswith(
        "554 5.6.0 Idempotency-Key was used for another message"
    )
