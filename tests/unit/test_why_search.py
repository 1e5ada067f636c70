"""How `why` finds things: by every kind of word, by an index, within bounds; and what it says where nothing is found.

The spool's tables are real; a million rows are not needed to see that no query scans.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest

from pillarbox.adapters import spool_why
from pillarbox.adapters.spool_reader import SqliteSpoolReader
from pillarbox.adapters.spool_schema import VERSION, open_spool
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.app.asking import Asking, Kept, Wanted
from pillarbox.app.control import Refused
from pillarbox.app.recurring import Recurring
from pillarbox.core.envelope import Envelope, MessageId, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.engine.ids import id_at
from pillarbox.engine.mail import Change, Message, Octets, State, Unit
from pillarbox.engine.ports import SpoolBroken
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.refusals import Refusal
from pillarbox.sim.clock import VirtualClock
from tests.making import NOW, box, turns
from tests.why_rig import WEEK, written

Play = Callable[[SqliteSpool], Coroutine[Any, Any, None]]


def at(seconds: float, number: int = 0) -> MessageId:
    return MessageId(id_at(NOW + seconds) + number)


def message(number: MessageId, *to: str | tuple[str, str], message_id: str = "") -> Message:
    pairs = [(each, each) if isinstance(each, str) else each for each in to]
    return Message(
        id=number,
        received_at=NOW,
        envelope=Envelope(box("ann@one.test"), tuple(Recipient(box(a), box(o)) for a, o in pairs)),
        listener="mx",
        peer="192.0.2.9",
        helo="client.example",
        protocol="ESMTP",
        size=4,
        header=HeaderView(0, "", "Subject", message_id, ""),
        octets=Octets.PLAIN,
        large=False,
        content=b"\r\nx\r",
    )


def delivered(number: MessageId, queued_as: str | None) -> Change:
    named = () if queued_as is None else (("queued_as", queued_as),)
    record = Record(number, NOW, Kind.DELIVERED, 0, (("text", "250 ok"), ("next_hop", "mx"), *named))
    return Change(number, 0, State.DELIVERED, NOW, 1, "mx:far.example", "250 ok", record)


def refused(number: MessageId, whom: str | None, seconds: float = 0.0) -> Refusal:
    return Refusal(number, NOW + seconds, "x@shop.example", whom, (("command", "RCPT"), ("reply", "550 5.1.1 no")))


FIRST, SECOND, THIRD = at(0), at(3600), at(7200)
MESSAGES = (
    message(FIRST, "Bob@Far.example", message_id=" <One@x.test>"),
    message(SECOND, ("carol@far.example", "Team@here.test"), "bob@far.example", message_id="<two@x.test>"),
    message(THIRD, "eve@far.example", message_id="<two@x.test>"),
)


def play(root: Path, main: Play) -> None:
    async def opened() -> None:
        async with asyncio.timeout(60):
            spool = SqliteSpool(root / "spool-0.db", root / "bodies-0", asyncio.get_running_loop())
            try:
                for each in MESSAGES:
                    await written(spool, Unit(messages=(each,)))
                await written(spool, Unit(changes=(delivered(FIRST, "4F1B22A03"),)))
                await main(spool)
            finally:
                await spool.close()

    asyncio.run(opened())


def asking(spool: SqliteSpool) -> Asking:
    return Asking(SqliteSpoolReader(spool), now=lambda: NOW + 9000, loads=None, kept=Kept(WEEK, 100_000, WEEK))


async def found(spool: SqliteSpool, word: str, since: float = 0.0, until: float = 1e10) -> list[str]:
    """The ids that the word leads to."""
    data = await asking(spool).why(Wanted(word, since, until))
    if data["kind"] == "candidates":
        return [each["id"] for each in data["candidates"]]
    return [data[data["kind"]]["id"]]


WORDS = [
    (str(FIRST), [FIRST]),
    (str(FIRST).upper(), [FIRST]),
    ("bob@far.example", [SECOND, FIRST]),
    ("BOB@FAR.EXAMPLE", [SECOND, FIRST]),
    ("team@here.test", [SECOND]),
    ("<one@x.test>", [FIRST]),
    ("one@x.test", [FIRST]),
    ("<two@x.test>", [THIRD, SECOND]),
    ("4F1B22A03", [FIRST]),
    ("4f1b22a03", [FIRST]),
]


@pytest.mark.parametrize("indexed", ["before", "after", "never"])
def test_each_kind_of_word_leads_to_its_messages(tmp_path: Path, indexed: str) -> None:
    """Whether their words stand in the index, were entered behind its mark, or are looked through."""

    async def main(spool: SqliteSpool) -> None:
        if indexed != "never":
            assert await spool.index() == 3
        if indexed == "before":
            late = at(1800)
            await written(spool, Unit(messages=(message(late, "late@far.example", "later@far.example"),)))
            await written(spool, Unit(changes=(delivered(late, "LATE"),)))
            for word in ("late@far.example", "later@far.example", "late"):
                assert await found(spool, word) == [str(late)]
        for word, expected in WORDS:
            assert await found(spool, word) == [str(each) for each in expected], word

    play(tmp_path, main)


def test_a_time_bounds_what_is_found(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool) -> None:
        for _ in range(2):
            assert await found(spool, "bob@far.example", NOW + 1800) == [str(SECOND)]
            assert await found(spool, "bob@far.example", 0.0, NOW + 1800) == [str(FIRST)]
            await spool.index()

    play(tmp_path, main)


def test_refusals_are_found_by_session_and_by_recipient(tmp_path: Path) -> None:
    session = at(60)

    async def main(spool: SqliteSpool) -> None:
        await written(spool, Unit(refusals=(refused(session, "Zoe@here.test"),), refusals_kept=10))
        for word in (f"S-{session}", f"s-{session}", str(session), "zoe@here.test"):
            assert await found(spool, word) == [f"S-{session}"]
        await written(spool, Unit(refusals=(refused(at(90), "bob@far.example", 90),), refusals_kept=10))
        assert set(await found(spool, "bob@far.example")) == {f"S-{at(90)}", str(FIRST), str(SECOND)}

    play(tmp_path, main)


def test_no_more_refusals_are_kept_than_are_allowed(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool) -> None:
        many = tuple(refused(at(0, number), None) for number in range(1000))
        for start in range(0, 1000, 250):
            await written(spool, Unit(refusals=many[start : start + 250], refusals_kept=100))
        kept = await spool.query("SELECT session FROM refusal ORDER BY serial")
        assert [number for (number,) in kept] == [int(each.session) for each in many[-100:]]

    play(tmp_path, main)


def test_what_is_forgotten_is_found_no_more(tmp_path: Path) -> None:
    async def main(spool: SqliteSpool) -> None:
        await spool.index()
        await written(spool, Unit(refusals=(refused(at(60), "zoe@here.test"),), refusals_kept=10))
        while await spool.forget(NOW + 1e6):
            pass
        assert await spool.query("SELECT count(*) FROM refusal") == [(0,)]
        words = await spool.query("SELECT DISTINCT message FROM sought")
        assert [number for (number,) in words] == [int(SECOND), int(THIRD)]  # which are not settled

    play(tmp_path, main)


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (spool_why.FIND, ("x", 0, 10, 5)),
        (spool_why.REFUSALS_OF_SESSION, (1, 5)),
        (spool_why.REFUSALS_OF_RECIPIENT, ("x", 0, 10, 5)),
        ("SELECT message FROM (" + spool_why._NEW_WORDS + ")", (1, 10)),
        ("SELECT message FROM (" + spool_why._OF_ONE + ")", (1,)),
    ],
)
def test_no_question_scans_a_table(tmp_path: Path, statement: str, arguments: tuple[Any, ...]) -> None:
    connection = open_spool(tmp_path / "spool-0.db")
    plan: list[Any] = connection.execute(f"EXPLAIN QUERY PLAN {statement}", arguments).fetchall()
    connection.close()
    steps = [step[3] for step in plan]
    assert any(step.startswith("SEARCH") for step in steps)
    scans = [step for step in steps if re.match(r"SCAN (?!sought_upto|\(subquery|CONSTANT)", step)]
    assert scans == [], steps


def test_an_older_spool_is_made_searchable(tmp_path: Path) -> None:
    """By its upgrade, for all that is in it."""
    file = tmp_path / "spool-0.db"
    play(tmp_path, lambda spool: asyncio.sleep(0))
    connection = apsw.Connection(str(file))
    connection.execute("DROP VIEW work; CREATE VIEW work AS SELECT 1; DROP INDEX recipient_parked")
    connection.execute("ALTER TABLE recipient DROP COLUMN parked; DROP TABLE idempotency")
    connection.execute("DROP TABLE sought; DROP TABLE sought_upto; DROP TABLE refusal")
    connection.pragma("user_version", 3)
    connection.close()

    async def main() -> None:
        spool = SqliteSpool(file, tmp_path / "bodies-0", asyncio.get_running_loop())
        assert await spool.query("PRAGMA user_version") == [(VERSION,)]
        assert await spool.query("SELECT message FROM sought_upto") == [(int(THIRD),)]
        assert await spool.index() == 0
        for word, expected in WORDS:
            assert await found(spool, word) == [str(each) for each in expected], word
        await spool.close()

    asyncio.run(main())


# --- bad input


@pytest.mark.parametrize(
    "word", ["", "   ", "x" * 10_000, "x" * 501, "bob@*", "b?b@far.example", "*", "a\nb", "a\0b", "\x1b[2J"]
)
def test_what_is_no_word_is_refused_as_wrong_usage(tmp_path: Path, word: str) -> None:
    async def main(spool: SqliteSpool) -> None:
        with pytest.raises(Refused) as raised:
            await asking(spool).why(Wanted(word))
        assert raised.value.usage and len(str(raised.value)) < 700

    play(tmp_path, main)


@pytest.mark.parametrize(
    "word",
    [
        "' OR 1=1 --",
        "bob@far.example' OR '1'='1",
        "%",
        "_ob@far.example",
        "S-notanid",
        "S-000000000000",
        "000000000000",
        "00000000000u",
        "<>",
        "@",
        "größe@far.example",
        "=4F1B22A03",
    ],
)
def test_a_word_that_leads_nowhere_says_what_was_searched(tmp_path: Path, word: str) -> None:
    async def main(spool: SqliteSpool) -> None:
        with pytest.raises(Refused) as raised:
            await asking(spool).why(Wanted(word))
        text = str(raised.value)
        assert not raised.value.usage
        for part in ("messages", "history.keep", "7d", "100000", "S-ID", "<Message-ID>", "recipient"):
            assert part in text

    play(tmp_path, main)


# --- the work that is done every so often


def test_steps_go_on_until_nothing_is_left_and_survive_a_fault() -> None:
    async def main() -> None:
        clock, steps = VirtualClock(), [3, 2, 0, -1, 0]
        done: list[int] = []

        async def step() -> int:
            done.append(steps.pop(0))
            if done[-1] < 0:
                raise SpoolBroken("disk")
            return done[-1]

        work = Recurring(clock, step, every=30.0)
        for expected in ([3, 2, 0], [3, 2, 0, -1], [3, 2, 0, -1, 0]):
            clock.advance(30.0)
            await turns(5)
            assert done == expected
        await work.close()
        clock.advance(60.0)
        await turns(5)
        assert done == [3, 2, 0, -1, 0]

    asyncio.run(main())
