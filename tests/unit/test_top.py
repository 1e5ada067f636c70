"""`queue top`: lanes on the disk beside lanes in memory, and how they are shown."""

from __future__ import annotations

import io

from rich.console import Console

from pillarbox.app.admin import merged
from pillarbox.app.cli.top import table
from pillarbox.engine.inspection import LaneRow
from pillarbox.engine.lanes import Load
from tests.queue_rig import LATER, OK, Rig, run

NOW = 1_700_000_000.0
SLOWED = "limit: the configuration lets 10 a minute go this way"
DISK = [LaneRow("mx:far.example", 30, NOW - 3660, "450 Later"), LaneRow("", 2, NOW - 5, "")]


def test_what_is_on_the_disk_and_what_is_in_memory_are_one_lane() -> None:
    lanes = merged(DISK, [Load("mx:far.example", 4, 1, "451 Busy", SLOWED, NOW + 6), Load("maildir", 50, 10, "")])
    assert [lane["lane"] for lane in lanes] == ["maildir", "mx:far.example", ""]
    assert lanes[1] == {
        "lane": "mx:far.example",
        "queued": 30,
        "ready": 4,
        "in_flight": 1,
        "oldest": NOW - 3660,
        "reply": "451 Busy",
        "slowed": SLOWED,
        "until": NOW + 6,
    }
    assert merged(DISK, [])[0]["reply"] == "450 Later"


def shown(*, rows: int, running: bool = True, reply: str = "450 [bold]Later\x1b[2J") -> str:
    lanes = merged([LaneRow("mx:far.example", 30, NOW - 3660, reply), DISK[1]], [])
    data = {"at": NOW, "running": running, "queued": 32, "held": 1, "active": 7, "count": 5, "lanes": lanes}
    console = Console(file=io.StringIO(), width=140)
    console.print(table(data, rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_lane_is_a_line() -> None:
    text = shown(rows=9)
    (line,) = (line for line in text.splitlines() if "mx:far.example" in line)
    assert "30" in line and "1h1m" in line and "450 [bold]Later\\x1b[2J" in line
    assert "32 wait, 1 held, 7 in memory" in text and "not tried yet" in text and "3 lanes more" in text


def test_lanes_without_room_are_counted() -> None:
    text = shown(rows=1)
    assert "not tried yet" not in text and "4 lanes more" in text
    assert "no server runs on this data" in shown(rows=1, running=False)


def test_the_queue_tells_what_its_lanes_have_to_do() -> None:
    async def main() -> None:
        rig = Rig(limit=1)
        assert rig.queue.loads() == []
        for number in range(3):
            await rig.accept(f"x{number}@far.example")
        assert rig.queue.loads() == [Load("mx:far.example", 2, 1, "")]
        rig.mailer().end(LATER)
        assert rig.queue.loads() == [Load("mx:far.example", 1, 1, LATER.text)]
        for _ in range(2):
            rig.mailer().end(OK)
        assert rig.queue.loads() == []

    run(main())
