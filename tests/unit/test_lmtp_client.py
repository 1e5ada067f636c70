"""Our client of LMTP against scripted servers on real sockets: LHLO, and a reply for each recipient behind the dot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from pillarbox.engine.routing import LmtpSocket, SmartHost
from pillarbox.net.network import TcpNetwork
from pillarbox.net.pool import SmtpMailer, Ways
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from tests.making import HOSTNAME, turns
from tests.unit.test_sender import AFTER, IP, TEXT, Bodies, Office, ScriptedServer, in_order, job, message, run, told

KEYWORDS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")
TAKEN = "250 2.0.0 Taken"
FULL = "552 5.2.2 Full"
BUSY = "450 4.2.1 Busy"


def hello(*keywords: str) -> str:
    lines = ["250-far.example", *(f"250-{keyword}" for keyword in keywords), "250 SIZE"]
    return "S 220 far.example LMTP\nC LHLO mx.example.test\n" + "".join(f"S {line}\n" for line in lines)


def transaction(rcpt: tuple[str, ...], end: tuple[str, ...], *, data: str = "354 Go") -> str:
    steps = ["C MAIL FROM:.*", *["C RCPT TO:.*"] * len(rcpt), "C DATA", "S 250 Ok", *(f"S {each}" for each in rcpt)]
    steps.append(f"S {data}")
    return "\n".join([*steps, *(["B"] if data[0] == "3" else []), *(f"S {each}" for each in end)]) + "\n"


def office(*scripts: str) -> Office:
    return Office({IP: ScriptedServer(scripts)}, ScriptedResolver(), SmartHost(IP, 24, lmtp=True))


ADDRESSES = ("a@far.example", "b@far.example", "c@far.example", "d@far.example")
OK4 = ("250 Ok",) * 4


@pytest.mark.parametrize(
    ("rcpt", "end", "expected"),
    [
        (OK4, (TAKEN,) * 4, [f"delivered {TAKEN}"] * 4),
        (
            OK4,
            (TAKEN, FULL, BUSY, "250 2.0.0 Also"),
            [f"delivered {TAKEN}", f"failed 5.2.2 {FULL}", f"deferred 4.2.1 {BUSY}", "delivered 250 2.0.0 Also"],
        ),
        (  # who was refused at RCPT has no reply at the end
            ("250 Ok", "550 5.1.1 No", "450 4.2.1 Later", "250 Ok"),
            (FULL, TAKEN),
            [
                f"failed 5.2.2 {FULL}",
                "failed 5.1.1 550 5.1.1 No",
                "deferred 4.2.1 450 4.2.1 Later",
                f"delivered {TAKEN}",
            ],
        ),
    ],
    ids=["all", "mixed", "some refused before"],
)
@pytest.mark.parametrize("kept", [True, False], ids=["in memory", "on the disk"])
def test_each_recipient_has_its_outcome(
    rcpt: tuple[str, ...], end: tuple[str, ...], expected: list[str], kept: bool
) -> None:
    async def main(here: Office) -> None:
        here.bodies.chunks = (TEXT[:5], TEXT[5:])
        given = message() if kept else message(None, size=len(TEXT))
        assert await here.carry(job(*ADDRESSES, of=given)) == expected
        assert await here.carry(job()) == [f"delivered {TAKEN}"]  # on the same connection
        assert [talked.messages for talked in here.server.conversations] == [[TEXT, TEXT]]

    more = transaction(("250 Ok",), (TAKEN,))
    run(lambda: office(hello(*KEYWORDS) + transaction(rcpt, end) + more), main)


def test_one_by_one() -> None:
    """A server without PIPELINING, which RFC 2033 §5 does not know."""
    script = hello() + (
        "C MAIL FROM:.*\nN\nS 250 Ok\nC RCPT TO:.*\nN\nS 550 No\nC RCPT TO:.*\nN\nS 250 Ok\nC RCPT TO:.*\nN\nS 250 Ok\n"
        f"C DATA\nN\nS 354 Go\nB\nS {TAKEN}\nS {FULL}\n"
    )

    async def main(here: Office) -> None:
        assert await here.carry(job(*ADDRESSES[:3])) == [
            "failed 5.0.0 550 No",
            f"delivered {TAKEN}",
            f"failed 5.2.2 {FULL}",
        ]

    run(lambda: office(script), main)


@pytest.mark.parametrize("end", ["X", "!"], ids=["closed", "reset"])
@pytest.mark.parametrize("replies", [0, 1, 2])
def test_lost_in_the_midst_of_the_replies(end: str, replies: int) -> None:
    """Who was answered has it; the rest is tried again, and may get it twice (RFC 1047)."""
    script = hello(*KEYWORDS) + transaction(("250 Ok",) * 3, (TAKEN,) * replies) + f"H 1\n{end}\n"

    async def main(here: Office) -> None:
        report = here.deliver(job(*ADDRESSES[:3]))
        talked = await here.server.conversation()
        await talked.held[1].wait()
        await turns()
        talked.go_on[1].set()
        outcomes = told(await report)
        assert outcomes[:replies] == [f"delivered {TAKEN}"] * replies
        assert all(outcome.startswith("deferred 4.4.2 maybe delivered: connection ") for outcome in outcomes[replies:])
        assert len(outcomes) == 3

    run(lambda: office(script), main)


def test_421_in_the_midst_of_the_replies() -> None:
    script = hello(*KEYWORDS) + transaction(("250 Ok",) * 3, (TAKEN, "421 4.3.2 Going down"))

    async def main(here: Office) -> None:
        assert await here.carry(job(*ADDRESSES[:3])) == [
            f"delivered {TAKEN}",
            *["deferred 4.3.2 421 4.3.2 Going down"] * 2,
        ]

    run(lambda: office(script), main)


def test_too_few_replies_and_silence() -> None:
    """The deadline of the end of a message holds for each of its replies (RFC 5321 §4.5.3.2.6)."""
    script = hello(*KEYWORDS) + transaction(("250 Ok",) * 2, (TAKEN,)) + "W\n"

    async def main(here: Office) -> None:
        report = here.deliver(job(*ADDRESSES[:2]))
        talked = await here.server.conversation()
        await talked.silent.wait()
        await turns()
        for _ in range(599):
            here.clock.advance(1)
        await turns()
        assert not report.done()
        here.clock.advance(2)
        assert told(await report) == [
            f"delivered {TAKEN}",
            f"deferred 4.4.2 maybe delivered: no answer in time, {AFTER}",
        ]

    run(lambda: office(script), main)


def test_too_many_replies_end_the_connection() -> None:
    """A reply to nothing must not be taken for that to the next command."""
    lines = "".join(f"{TAKEN}\\r\\n" for _ in range(3))
    script = hello(*KEYWORDS) + transaction(("250 Ok",) * 2, ()) + f"R {lines}\n"

    async def main(here: Office) -> None:
        assert await here.carry(job(*ADDRESSES[:2])) == [f"delivered {TAKEN}"] * 2
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.server.conversations) == 2

    run(lambda: office(script, hello(*KEYWORDS) + transaction(("250 Ok",), (TAKEN,))), main)


@pytest.mark.parametrize("data", ["503 5.5.1 No recipients", "354 Go"], ids=["as it should", "wants it all the same"])
def test_nobody_is_accepted(data: str) -> None:
    """RFC 2033 §4.2 wants 503. Behind a 354 no reply would come, so nothing is sent there."""
    steps = "C MAIL FROM:.*\nC RCPT TO:.*\nC RCPT TO:.*\nC DATA\nS 250 Ok\nS 550 5.1.1 No\nS 450 4.2.1 Busy\n"

    async def main(here: Office) -> None:
        assert await here.carry(job(*ADDRESSES[:2])) == ["failed 5.1.1 550 5.1.1 No", "deferred 4.2.1 450 4.2.1 Busy"]
        talked = here.server.conversations[0]
        await talked.silent.wait()
        assert talked.messages == []

    run(lambda: office(hello(*KEYWORDS) + steps + f"S {data}\n"), main)


def test_a_server_of_smtp_is_none_of_lmtp() -> None:
    """There is no way back to EHLO: the end of a message would be answered differently."""
    script = "S 220 far.example ESMTP\nC LHLO mx.example.test\nS 500 What?\n"

    async def main(here: Office) -> None:
        (outcome,) = await here.carry(job())
        assert outcome.startswith("deferred 4.4.1 ") and outcome.endswith(f"[{IP}]: 500 What?")
        assert here.server.conversations[0].commands == ["LHLO mx.example.test"]

    run(lambda: office(script), main)


# --- Unix sockets


async def by_socket(path: Path, server: ScriptedServer | None) -> list[str]:
    spool, clock = Bodies(), VirtualClock()
    ways = Ways(TcpNetwork(), ScriptedResolver(), clock, spool, HOSTNAME, in_order)
    mailer = SmtpMailer(LmtpSocket(str(path)), ways)
    listening = None if server is None else await asyncio.start_unix_server(server._serve, path)
    report: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    mailer.deliver(job(*ADDRESSES[:2]), lambda _, result: report.set_result(told(result)))
    try:
        return await report
    finally:
        await mailer.close(0)
        if listening is not None:
            listening.close()


def test_by_a_unix_socket(tmp_path: Path) -> None:
    server = ScriptedServer([hello(*KEYWORDS, "STARTTLS") + transaction(("250 Ok",) * 2, (TAKEN, FULL))])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(by_socket(tmp_path / "lmtp", server))
    assert found == [f"delivered {TAKEN}", f"failed 5.2.2 {FULL}"]
    assert server.conversations[0].commands[0] == "LHLO mx.example.test"


def test_a_unix_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        first, second = runner.run(by_socket(tmp_path / "lmtp", None))
    assert first == second and first.startswith("deferred 4.4.1 ") and f"unix:{tmp_path}/lmtp" in first
