"""What `why` tells, compared whole with texts that were read aloud: `tests/golden/why/*.txt`.

Where a text is to change, `python -m tests.unit.test_why_golden` writes them anew, to be read before they are kept.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from pillarbox.engine.hooks_limits import Limits, Tallies, limit_hooks
from pillarbox.engine.limits import Limit
from pillarbox.engine.orders import Drop, Hold, Release
from pillarbox.engine.records import Kind
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from tests.making import turns
from tests.why_rig import FAR, HOSTS, Stage, local_time, session_in

GOLDEN = Path(__file__).parents[1] / "golden" / "why"
BOB = "bob@far.example"
GREY = "450 4.7.1 Greylisted, come back in 5 minutes"
NOBODY = "554 5.5.1 No valid recipients"
QUEUED = {"end": "250 2.0.0 Ok: queued as 4F1B22A03"}
Situation = Callable[[Path], Coroutine[None, None, list[str]]]
SITUATIONS: dict[str, Situation] = {}


def situation(play: Situation) -> Situation:
    SITUATIONS[play.__name__.replace("_", "-")] = play
    return play


@situation
async def delivered_here(root: Path) -> list[str]:
    stage = Stage()
    message = await stage.receive("bob@example.test")
    await turns(20)
    return await _told(stage, root, message.id)


@situation
async def relayed(root: Path) -> list[str]:
    stage = Stage(answers=QUEUED)
    message = await stage.receive(BOB)
    return await _told(stage, root, message.id)


@situation
async def greylisted_then_delivered(root: Path) -> list[str]:
    stage = Stage(at_first={"RCPT 1": GREY, "DATA": NOBODY}, answers=QUEUED)
    message = await stage.receive(BOB)
    await stage.pass_time(301)
    return await _told(stage, root, message.id)


@situation
async def greylisted_throttled_delivered(root: Path) -> list[str]:
    stage = Stage(at_first={"RCPT 1": GREY, "DATA": NOBODY}, answers=QUEUED)
    message = await stage.receive(BOB)
    await stage.pass_time(290)
    now = stage.clock.now()
    stage.note(
        message,
        Kind.THROTTLED,
        ("cause", "421 4.7.0 Too many connections from your IP, from mx1.far.example [192.0.2.25]"),
        ("lane", "mx:far.example"),
        ("since", now - 20),
        ("until", now + 20),
    )
    await stage.pass_time(30)
    return await _told(stage, root, message.id)


@situation
async def greylisted_and_waiting(root: Path) -> list[str]:
    stage = Stage(answers={"RCPT 1": GREY, "DATA": NOBODY})
    message = await stage.receive(BOB)
    await stage.pass_time(60)
    return await _told(stage, root, message.id)


@situation
async def bounced(root: Path) -> list[str]:
    stage = Stage(answers={"RCPT 1": "550 5.1.1 <bob@far.example>: no such user", "DATA": NOBODY})
    message = await stage.receive(BOB)
    await turns(40)
    return await _told(stage, root, message.id)


@situation
async def expired(root: Path) -> list[str]:
    stage = Stage(answers={"RCPT 1": "452 4.2.2 Mailbox full", "DATA": NOBODY})
    message = await stage.receive(BOB)
    await stage.pass_time(5 * 86400 + 60, step=100.0)
    return await _told(stage, root, message.id)


@situation
async def nobody_answers(root: Path) -> list[str]:
    stage = Stage()
    stage.remote.connects = lambda seconds: ConnectionRefusedError("Connection refused")
    message = await stage.receive(BOB)
    return await _told(stage, root, message.id)


@situation
async def turned_away(root: Path) -> list[str]:
    stage = Stage(answers={"greeting": "421 4.7.0 Too many connections from your address"})
    message = await stage.receive(BOB)
    await stage.pass_time(60)
    return await _told(stage, root, message.id)


@situation
async def dns_fails(root: Path) -> list[str]:
    resolver = ScriptedResolver(mx=FAR, addresses=HOSTS)
    resolver.fail("far.example")
    stage = Stage(resolver=resolver)
    message = await stage.receive(BOB)
    return await _told(stage, root, message.id)


@situation
async def null_mx(root: Path) -> list[str]:
    stage = Stage(resolver=ScriptedResolver(mx={"far.example": [(0, "")]}))
    message = await stage.receive(BOB)
    await turns(40)
    return await _told(stage, root, message.id)


@situation
async def maybe_delivered(root: Path) -> list[str]:
    stage = Stage(oddities={"end": lambda talk, octets: talk.close()})
    message = await stage.receive(BOB)
    await turns(40)
    return await _told(stage, root, message.id)


@situation
async def held_and_released(root: Path) -> list[str]:
    stage = Stage(at_first={"RCPT 1": GREY, "DATA": NOBODY}, answers=QUEUED)
    message = await stage.receive(BOB)
    await stage.pass_time(60)
    await stage.order(message, Hold())
    await stage.pass_time(600)
    await stage.order(message, Release())
    await stage.pass_time(10)
    return await _told(stage, root, message.id)


@situation
async def on_hold(root: Path) -> list[str]:
    stage = Stage(answers={"RCPT 1": GREY, "DATA": NOBODY})
    message = await stage.receive(BOB)
    await stage.pass_time(60)
    await stage.order(message, Hold())
    return await _told(stage, root, message.id)


@situation
async def dropped(root: Path) -> list[str]:
    stage = Stage(answers={"RCPT 1": GREY, "DATA": NOBODY})
    message = await stage.receive(BOB)
    await stage.pass_time(60)
    await stage.order(message, Drop())
    return await _told(stage, root, message.id)


@situation
async def held_back_by_its_sender(root: Path) -> list[str]:
    stage = Stage()
    message = await stage.receive(BOB, hold_until=stage.clock.now() + 7200)
    await stage.pass_time(600)
    return await _told(stage, root, message.id)


@situation
async def different_ends(root: Path) -> list[str]:
    answers = {"RCPT 2": "550 5.1.1 <carol@far.example>: no such user", "RCPT 3": GREY, **QUEUED}
    stage = Stage(answers=answers)
    message = await stage.receive(BOB, "carol@far.example", "dave@far.example", "eve@example.test")
    await turns(40)
    return await _told(stage, root, message.id)


@situation
async def a_notice_that_went_back(root: Path) -> list[str]:
    stage = Stage(answers={"RCPT 1": "550 5.1.1 <bob@far.example>: no such user", "DATA": NOBODY})
    message = await stage.receive(BOB)
    await turns(60)
    notice = next(number for number in stage.spool.messages if number != message.id)
    return await _told(stage, root, str(type(message.id)(notice)))


@situation
async def refused_at_rcpt(root: Path) -> list[str]:
    stage = Stage()
    replies = stage.talk("EHLO shop.example", "MAIL FROM:<news@shop.example>", "RCPT TO:<nobody@example.test>")
    return await _told(stage, root, session_in(replies[-1]))


@situation
async def refused_to_relay(root: Path) -> list[str]:
    stage = Stage()
    replies = stage.talk(
        "EHLO shop.example",
        "MAIL FROM:<news@shop.example>",
        "RCPT TO:<a@elsewhere.example>",
        "RCPT TO:<b@elsewhere.example>",
    )
    return await _told(stage, root, session_in(replies[-1]))


@situation
async def refused_by_a_rate(root: Path) -> list[str]:
    limits = Limits(message_rate_per_address=Limit(1, 3600))
    stage = Stage(hooks=limit_hooks(limits, Tallies(), VirtualClock()))
    replies = stage.talk("EHLO shop.example", *["MAIL FROM:<news@shop.example>", "RSET"] * 2)
    return await _told(stage, root, session_in(replies[-2]))


@situation
async def refused_to_connect(root: Path) -> list[str]:
    limits = Limits(connection_rate_per_address=Limit(1, 60))
    stage = Stage(hooks=limit_hooks(limits, Tallies(), VirtualClock()))
    stage.talk()
    replies = stage.talk()
    return await _told(stage, root, session_in(replies[0]))


@situation
async def several_candidates(root: Path) -> list[str]:
    stage = Stage(answers={"RCPT 1": GREY, "DATA": NOBODY})
    await stage.receive(BOB)
    await stage.pass_time(3600)
    await stage.receive("carol@far.example", BOB)
    stage.talk("EHLO shop.example", "MAIL FROM:<news@shop.example>", f"RCPT TO:<{BOB}>")
    return await _told(stage, root, BOB)


async def _told(stage: Stage, root: Path, word: object) -> list[str]:
    lines = await stage.why(root, word)
    await stage.close()
    return lines


def _played(name: str) -> str:
    with local_time("CET-1"), tempfile.TemporaryDirectory() as root:
        return "\n".join(asyncio.run(SITUATIONS[name](Path(root)))) + "\n"


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_story_is_told_as_it_was_read(name: str) -> None:
    assert _played(name) == (GOLDEN / f"{name}.txt").read_text()


def test_every_golden_text_has_its_situation() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(SITUATIONS)


def test_lines_are_not_too_long_to_read() -> None:
    long = [line for file in GOLDEN.glob("*.txt") for line in file.read_text().splitlines() if len(line) > 110]
    assert long == []


if __name__ == "__main__":
    for each in SITUATIONS:
        (GOLDEN / f"{each}.txt").write_text(_played(each))
