"""Delivery to programs: real ones, written by the test as scripts of sh; what they get, and what their end means."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from email import message_from_bytes
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from pillarbox.adapters.pipe import OUTPUT_KEPT, PipeMailer, environment
from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import MessageId, Recipient
from pillarbox.engine.exits import SYSEXITS
from pillarbox.engine.mail import Deferred, Delivered, Failed, Job, Message, Octets, Outcome, Report, Row
from pillarbox.engine.ports import Mailer, SpoolBroken
from pillarbox.engine.routing import LineEnd, Pipe
from tests.live.support import until
from tests.making import box, make_message

T = TypeVar("T")
A, B = box("ann@here.test"), box("bob+lists@here.test")
TEXT = b"Received: trace\r\nSubject: x\r\n\r\nbody\r\n"


def script(folder: Path, text: str) -> str:
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o700)
    return str(file)


def job(*recipients: Mailbox | Recipient, sender: str | None = "from@far.example", content: bytes | None = TEXT) -> Job:
    named = [each if isinstance(each, Recipient) else Recipient(each, each) for each in recipients or (A,)]
    message = make_message(MessageId(1), *named, sender=sender, content=content)
    return Job(message, [Row(number, each) for number, each in enumerate(named)], "pipe")


async def body(message: Message) -> AsyncIterator[bytes]:
    """The spool's: in pieces, cut where it hurts."""
    assert message.content is not None
    size = 7 if len(message.content) < 1000 else 65536
    for start in range(0, len(message.content), size):
        yield message.content[start : start + size]


async def no_body(message: Message) -> AsyncIterator[bytes]:
    if message.id:
        raise SpoolBroken("the disk is gone")
    yield b""


def mailer(
    folder: Path, *command: str, runs: int = 4, seconds: float = 20.0, line_end: LineEnd = LineEnd.LF
) -> PipeMailer:
    made = PipeMailer(Pipe(command, seconds, line_end), body, scratch=folder, runs=runs)
    _: Mailer = made
    return made


def deliver(made: PipeMailer, work: Job) -> asyncio.Future[Report]:
    report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
    made.deliver(work, lambda of, result: report.set_result(result))
    assert not report.done()
    return report


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


def carried(folder: Path, text: str, work: Job | None = None, *words: str, **options: Any) -> Sequence[Outcome]:
    """The outcomes of a job that the script was run for."""

    async def main() -> Sequence[Outcome]:
        made = mailer(folder, script(folder, text), *words, **options)
        try:
            return (await deliver(made, work or job())).outcomes
        finally:
            await made.close(0)

    return run(main())


# --- what a program gets


@pytest.mark.parametrize(("line_end", "end"), [(LineEnd.LF, b"\n"), (LineEnd.CRLF, b"\r\n")])
def test_the_message_with_its_trace_fields_in_front(tmp_path: Path, line_end: LineEnd, end: bytes) -> None:
    work = job(A, content=TEXT + b"bare\r cr\r\n.\r\n")
    (outcome,) = carried(tmp_path, f"cat > {tmp_path}/out", work, line_end=line_end)
    assert outcome == Delivered(f"{tmp_path}/program: done", "pipe")
    head = b"Return-Path: <from@far.example>\r\nDelivered-To: ann@here.test\r\n"
    assert (tmp_path / "out").read_bytes() == (head + TEXT + b"bare\r cr\r\n.\r\n").replace(b"\r\n", end)


@pytest.mark.parametrize("line_end", LineEnd)
def test_what_line_ends_would_spoil_is_encoded_first(tmp_path: Path, line_end: LineEnd) -> None:
    """RFC 3030 §3: a binary part comes out as it went in."""
    content = b"Subject: x\r\nContent-Type: application/octet-stream\r\n\r\na\nb\rc\0\r\n"
    work = job(A, content=content)
    work.message.octets = Octets.BINARY
    (outcome,) = carried(tmp_path, f"cat > {tmp_path}/out", work, line_end=line_end)
    assert isinstance(outcome, Delivered)
    got = (tmp_path / "out").read_bytes()
    if line_end is LineEnd.CRLF:
        assert got.endswith(content)
    else:
        assert message_from_bytes(got).get_payload(decode=True) == b"a\nb\rc\0\r\n"


@pytest.mark.parametrize(
    ("recipient", "sender", "path"),
    [
        (Recipient(A, A), None, b"<>"),
        (Recipient(A, B, box("team-owner@here.test")), "from@far.example", b"<team-owner@here.test>"),
        (Recipient(A, B, box("team-owner@here.test")), None, b"<>"),
    ],
)
def test_the_return_path(tmp_path: Path, recipient: Recipient, sender: str | None, path: bytes) -> None:
    carried(tmp_path, f"head -1 > {tmp_path}/out", job(recipient, sender=sender))
    assert (tmp_path / "out").read_bytes() == b"Return-Path: " + path + b"\n"


def test_one_run_for_each_recipient_with_its_own_arguments(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = (
        "{recipient}",
        "{local}",
        "{user}",
        "{extension}",
        "{domain}",
        "{sender}",
        "{original_recipient}",
        "{{x}}$1;*",
    )
    work = job(Recipient(A, box("alias@here.test")), B, box('"a b\'$(touch x)"@here.test'))
    outcomes = carried(tmp_path, f'for word; do echo "$word"; done > "{out}/$1"', work, *words)
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 3
    found = {file.name: file.read_text().splitlines() for file in out.iterdir()}
    sent, rest = "from@far.example", "{x}$1;*"
    assert found == {
        "ann@here.test": ["ann@here.test", "ann", "ann", "", "here.test", sent, "alias@here.test", rest],
        "bob+lists@here.test": [
            *("bob+lists@here.test", "bob+lists", "bob", "lists", "here.test", sent, "bob+lists@here.test", rest)
        ],
        '"a b\'$(touch x)"@here.test': [
            '"a b\'$(touch x)"@here.test',
            *("a b'$(touch x)", "a b'$(touch x)", "", "here.test", sent, '"a b\'$(touch x)"@here.test', rest),
        ],
    }


def test_the_null_sender_is_an_empty_word(tmp_path: Path) -> None:
    (outcome,) = carried(tmp_path, 'echo "$# <$2>"', job(A, sender=None), "-f", "{sender}")
    assert isinstance(outcome, Delivered) and outcome.text.endswith("2 <>")


def test_a_small_environment_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "word")
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        carried(tmp_path, f"cd /; env > {tmp_path}/env; ls -l /proc/$$/fd > {tmp_path}/fd; pwd > {tmp_path}/cwd")
    finally:
        os.close(inherited)
    found = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert {key: found.get(key) for key in environment()} == environment()
    assert set(found) <= {*environment(), "PWD", "OLDPWD", "SHLVL", "_"}
    assert str(tmp_path) not in (tmp_path / "fd").read_text().split()
    assert (tmp_path / "cwd").read_text() == "/\n"


# --- addresses that look like options


@pytest.mark.parametrize("word", ["{local}", "{recipient}", "{user}", "{extension}-x"])
def test_no_address_becomes_an_option(tmp_path: Path, word: str) -> None:
    (outcome, other) = carried(
        tmp_path, f"echo run >> {tmp_path}/out", job(box("-rf@here.test"), A), word.replace("-x", "{local}")
    )
    assert isinstance(outcome, Failed) and str(outcome.status) == "5.1.3" and "would be an option" in outcome.text
    assert isinstance(other, Delivered)
    assert (tmp_path / "out").read_text() == "run\n"


@pytest.mark.parametrize("words", [("--", "{local}"), ("-d{local}",), ("x{local}",), ("--to={local}", "x")])
def test_where_it_can_be_no_option_it_is_taken(tmp_path: Path, words: tuple[str, ...]) -> None:
    (outcome,) = carried(tmp_path, 'echo "$*"', job(box("-rf@here.test")), *words)
    assert isinstance(outcome, Delivered)
    assert outcome.text.endswith(" ".join(words).replace("{local}", "-rf"))


# --- how it ends

STATUS = {code: str(found.status) for code, found in SYSEXITS.items()} | {1: "4.3.0", 2: "4.3.0", 99: "4.3.0"}


@pytest.mark.parametrize("code", STATUS)
def test_each_exit_status(tmp_path: Path, code: int) -> None:
    (outcome,) = carried(tmp_path, f"echo; echo '  no such box  '; echo more >&2; exit {code}")
    assert not isinstance(outcome, Delivered) and str(outcome.status) == STATUS[code]
    assert isinstance(outcome, Deferred if STATUS[code][0] == "4" else Failed)
    assert str(code) in outcome.text and outcome.text.endswith(": no such box") and outcome.next_hop == "pipe"


def test_the_statuses_that_senders_rely_on() -> None:
    wanted = {67: "5.1.1", 68: "5.1.2", 73: "5.2.0", 75: "4.3.0", 77: "5.7.0", 65: "5.6.0", 78: "4.3.5", 127: "4.3.5"}
    assert {code: STATUS[code] for code in wanted} == wanted


def test_each_recipient_has_its_outcome(tmp_path: Path) -> None:
    work = job(A, B, box("gone@here.test"))
    outcomes = carried(tmp_path, "case $1 in ann) exit 0;; bob*) exit 75;; *) exit 67;; esac", work, "{local}")
    assert [type(outcome) for outcome in outcomes] == [Delivered, Deferred, Failed]


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV"])
def test_killed_by_a_signal(tmp_path: Path, name: str) -> None:
    (outcome,) = carried(tmp_path, f"kill -{name} $$; exit 0")
    assert isinstance(outcome, Deferred)
    assert outcome.text == f"{tmp_path}/program: killed by signal {int(signal.Signals[f'SIG{name}'])}"


@pytest.mark.parametrize(
    ("made", "why"), [(None, "No such file"), ("x", "Permission denied"), ("not a program\n", "Exec format")]
)
def test_what_cant_be_started(tmp_path: Path, made: str | None, why: str) -> None:
    program = tmp_path / "thing"
    if made is not None:
        program.write_text(made)
        program.chmod(0o700 if why == "Exec format" else 0o600)

    async def main() -> Outcome:
        one = mailer(tmp_path, str(program))
        try:
            return (await deliver(one, job())).outcomes[0]
        finally:
            await one.close(0)

    outcome = run(main())
    assert isinstance(outcome, Deferred) and str(outcome.status) == "4.3.5" and why in outcome.text


# --- programs that misbehave


def test_a_program_that_does_not_read(tmp_path: Path) -> None:
    (outcome,) = carried(tmp_path, "exec <&-; echo fine", job(content=TEXT + b"x" * 1_000_000 + b"\r\n"))
    assert outcome == Delivered(f"{tmp_path}/program: fine", "pipe")


@pytest.mark.parametrize(
    "text", ["sleep 600", "exec >&- 2>&-; sleep 600", "trap '' TERM INT; while :; do sleep 1; done"]
)
def test_a_program_that_hangs_is_killed_with_all_it_started(tmp_path: Path, text: str) -> None:
    pids = tmp_path / "pids"
    both = f"sleep 600 & echo $$ $! > {pids}; {text}"
    (outcome,) = carried(tmp_path, both, seconds=0.5)
    assert isinstance(outcome, Deferred) and str(outcome.status) == "4.3.0"
    assert outcome.text == f"{tmp_path}/program: not done within 0.5 s, and killed"
    for pid in pids.read_text().split():
        until(partial(ended, int(pid)), what=f"the end of {pid}")


def ended(pid: int) -> bool:
    """Gone, or a corpse that its new parent has not buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_program_that_says_a_lot(tmp_path: Path) -> None:
    (outcome,) = carried(tmp_path, "echo first; head -c 100000000 /dev/zero; exit 75")
    assert isinstance(outcome, Deferred) and outcome.text.endswith("temporary failure (75): first")
    assert len(outcome.text) < OUTPUT_KEPT


def test_a_first_line_without_end_is_cut_and_made_printable(tmp_path: Path) -> None:
    (outcome,) = carried(tmp_path, "printf '\\033[2J\\377\\303\\244'; head -c 100000 /dev/zero | tr '\\0' y; exit 77")
    assert isinstance(outcome, Failed) and outcome.text.isascii() and outcome.text.isprintable()
    assert len(outcome.text) < 400 and "?[2J" in outcome.text


def test_what_stays_behind_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    (outcome,) = carried(tmp_path, f"sleep 25 & echo $! > {tmp_path}/pid; echo done; exit 0", seconds=20.0)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert outcome == Delivered(f"{tmp_path}/program: done", "pipe")


# --- ours


def test_no_more_runs_at_a_time_than_there_may_be(tmp_path: Path) -> None:
    names = [box(f"u{number}@here.test") for number in range(8)]
    text = f"mkdir {tmp_path}/$1; (set -- {tmp_path}/u*; echo $#); sleep 0.1; rmdir {tmp_path}/$1"
    outcomes = carried(tmp_path, text, job(*names), "{local}", runs=2)
    counts = [int(outcome.text.rpartition(" ")[2]) for outcome in outcomes if isinstance(outcome, Delivered)]
    assert len(counts) == 8 and max(counts) <= 2


def test_a_message_that_cant_be_read(tmp_path: Path) -> None:
    async def main() -> Sequence[Outcome]:
        made = PipeMailer(Pipe((script(tmp_path, f"touch {tmp_path}/run"),)), no_body, scratch=tmp_path, runs=1)
        try:
            return (await deliver(made, job(A, B))).outcomes
        finally:
            await made.close(0)

    outcomes = run(main())
    assert [type(outcome) for outcome in outcomes] == [Deferred, Deferred]
    assert not (tmp_path / "run").exists()


def test_without_a_place_for_the_message(tmp_path: Path) -> None:
    async def main() -> Outcome:
        made = PipeMailer(Pipe((script(tmp_path, "exit 0"),)), body, scratch=tmp_path / "none", runs=1)
        try:
            return (await deliver(made, job())).outcomes[0]
        finally:
            await made.close(0)

    outcome = run(main())
    assert isinstance(outcome, Deferred) and "No such file" in outcome.text


def test_a_stop_waits_for_what_runs(tmp_path: Path) -> None:
    async def main() -> Report:
        made = mailer(tmp_path, script(tmp_path, f"touch {tmp_path}/begun; sleep 0.3"))
        report = deliver(made, job())
        await begun(tmp_path)
        await made.close(20)
        late = deliver(made, job())
        assert await late == Report(())
        return await report

    assert [type(outcome) for outcome in run(main()).outcomes] == [Delivered]


def test_a_stop_kills_what_does_not_end(tmp_path: Path) -> None:
    """It was not tried, for all that the queue knows: it is tried again at the next start."""

    async def main() -> list[Report]:
        made = mailer(
            tmp_path, script(tmp_path, f"echo $$ > {tmp_path}/pid; touch {tmp_path}/begun; sleep 600"), runs=1
        )
        reports = [deliver(made, job()), deliver(made, job(A, B))]
        await begun(tmp_path)
        await made.close(0)
        return [await report for report in reports]

    assert run(main()) == [Report(())] * 2
    until(partial(ended, int((tmp_path / "pid").read_text())), what="the end of the program")


async def begun(folder: Path) -> None:
    await asyncio.to_thread(until, (folder / "begun").exists)
