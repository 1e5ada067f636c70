"""Octets are sacred: whatever is sent through two servers is in the Maildir as it was, once each.

smtplib or smtp-source → Pillarbox → Pillarbox → Maildir. The sender address of a message is its number, so that each
letter can be laid beside what was sent, whatever it holds.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import smtplib
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.corpus import Sample, generated, of_debian, of_python, simple
from tests.live.support import BOB, DOMAIN, HOST, PILLARBOX, Server, letters
from tests.peers.debian import CACHE
from tests.peers.postfix import find_tools
from tests.peers.process import CannotRun

log = logging.getLogger(__name__)
BESIDE = PILLARBOX.parent.parent  # what is fetched once stays in .venv
SENDERS = 8
ADDED = b"\n"  # by smtp-source -F to every message
_TRACE = re.compile(
    rb"Return-Path: <m(\d+)@[^\n]*\nDelivered-To: bob@example\.test\n(?:Received: from [^\n]*\n(?:\t[^\n]*\n)+){2}"
)
BARE = [  # to be refused, wherever it stands and whatever the size
    Sample(f"{what!r} in {size} octets", simple("bare", size) + b"a" + what + b"b\r\n")
    for what in (b"\0", b"\r", b"\r\r\n")
    for size in (200, 300_000)
]
Send = Callable[[int, str, bytes], str]


def test_about_a_hundred_messages_arrive_as_they_were(tmp_path: Path) -> None:
    samples = [*of_python(), *generated(1, 60, 256 * 1024), Sample("200 octets", simple("x" * 30, 200)), *BARE]
    with _two_servers(tmp_path) as (first, last):
        _check(samples, [(_by_smtplib(first), b"")], first, last)


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_a_thousand_messages_arrive_as_they_were(tmp_path: Path) -> None:
    try:
        foreign = [*of_python(), *of_debian(BESIDE / "corpora")]
        source = _by_smtp_source(tmp_path)
    except (OSError, subprocess.CalledProcessError, CannotRun) as error:
        pytest.skip(f"LOUD: the corpora or smtp-source can't be had: {error}")
    log.info("written by others: %s", dict(Counter(sample.name.partition("/")[0] for sample in foreign)))
    samples = [*foreign, *generated(2, 900, 1024 * 1024), *BARE]
    samples += [Sample(f"{mebibytes} MiB", simple(f"{mebibytes}-MiB", mebibytes << 20)) for mebibytes in (5, 10, 20)]
    samples += [_lines_of_5000(20 << 20)]
    assert len(samples) >= 1_000
    with _two_servers(tmp_path) as (first, last):
        _check(samples, [(_by_smtplib(first), b""), (source(first), ADDED)], first, last)


def _lines_of_5000(size: int) -> Sample:
    line = bytes(range(0x80, 0x100)).ljust(4_998, b".") + b"\r\n"
    return Sample("20 MiB in lines of 5,000 octets, 8-bit", b"Subject: long\r\n\r\n" + line * (size // len(line)))


@contextmanager
def _two_servers(place: Path) -> Iterator[tuple[Server, Server]]:
    with Server(place, "b") as last:
        last.local(BOB)
        route = {"match": DOMAIN, "next_hop": f"smtp://{HOST}:{last.port}"}
        with Server(place, "a", settings={"route": [route]}) as first:
            first.local(BOB)
            yield first, last


# --- the senders: they give the reply to the message


def _by_smtplib(server: Server) -> Send:
    def send(number: int, sender: str, octets: bytes) -> str:
        with smtplib.SMTP(HOST, server.port, timeout=60) as client:
            try:
                client.sendmail(sender, [BOB], octets)
            except smtplib.SMTPDataError as error:
                return f"{error.smtp_code} {error.smtp_error!r}"
        return "250"

    return send


def _by_smtp_source(place: Path) -> Callable[[Server], Send]:
    """It ends lines by CRLF itself, and adds an empty one at the end (ADDED). It fails at any other reply than the one
    it wants, so what is to be refused is for smtplib."""
    tools = find_tools(CACHE)

    def at(server: Server) -> Send:
        again = _by_smtplib(server)

        def send(number: int, sender: str, octets: bytes) -> str:
            if b"\0" in octets or b"\r" in octets.replace(b"\r\n", b""):
                return again(number, sender, octets)
            file = place / f"message-{number}"
            file.write_bytes(octets.replace(b"\r\n", b"\n"))
            command = [tools.source, "-f", sender, "-t", BOB, "-F", file, f"{HOST}:{server.port}"]
            run = subprocess.run(
                [str(word) for word in command], env={**os.environ, **tools.environ()},
                capture_output=True, timeout=120, check=False,
            )  # fmt: skip
            file.unlink()
            return "250" if run.returncode == 0 else run.stderr.decode()

        return send

    return at


# --- the books


def _check(samples: Sequence[Sample], senders: Sequence[tuple[Send, bytes]], first: Server, last: Server) -> None:
    """Every message by one of the senders; all that may be taken arrives once, the rest was refused."""
    bad = {number for number, sample in enumerate(samples) if _holds_bare_octet(sample.octets)}

    def send(number: int) -> str:
        octets = samples[number].octets
        if number % 7 == 0 and not octets.endswith(b"\r\n\r\n"):
            octets = octets.removesuffix(b"\r\n")  # a sender adds it where it is missing
        return senders[number % len(senders)][0](number, f"m{number}@elsewhere.example", octets)

    with ThreadPoolExecutor(SENDERS) as pool:
        replies = list(pool.map(send, range(len(samples))))
    for number, reply in enumerate(replies):
        wanted = "554" if number in bad else "250"
        assert reply.startswith(wanted), f"{samples[number].name}: {reply}"
    first.drained(300)
    last.drained(300)
    failed = [row["reply"] for row in first.call("queue_list", where="state=failed", limit=5)]
    assert not failed, failed

    found = Counter[int]()
    for letter in letters(last):
        trace = _TRACE.match(letter)
        assert trace is not None, letter[:400]
        number = int(trace[1])
        wanted_octets = samples[number].octets.replace(b"\r\n", b"\n") + senders[number % len(senders)][1]
        arrived = letter[len(letter) - len(wanted_octets) :]
        assert _sha(arrived) == _sha(wanted_octets), f"{samples[number].name} was changed"
        assert _TRACE.fullmatch(letter[: len(letter) - len(wanted_octets)]), (
            f"{samples[number].name}: more than a trace"
        )
        found[number] += 1
    assert set(found) == set(range(len(samples))) - bad, "none lost, and none that was refused"
    assert set(found.values()) == {1}, "none doubled"
    octets = sum(len(samples[number].octets) for number in found)
    log.info("%d messages, %d octets: as they were; %d refused for NUL or bare CR", len(found), octets, len(bad))


def _holds_bare_octet(octets: bytes) -> bool:
    rest = octets.replace(b"\r\n", b"")
    return b"\0" in rest or b"\r" in rest or b"\n" in rest


def _sha(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()
