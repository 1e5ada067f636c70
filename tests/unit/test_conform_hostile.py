"""`conform` against peers that are no servers at all: it ends, soon, with a report that can be read.

Each peer is a function that gets a connected socket; whatever it does, no test waits for a real timeout.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from pillarbox.app.cli.output import as_json
from pillarbox.app.conform.probe import Target, Verdict
from pillarbox.app.conform.report import as_data
from pillarbox.app.conform.report_html import render
from pillarbox.app.conform.run import PROBES, Report, conform
from tests.unit.conform_peers import HOST, Peer

TIMEOUT = 5.0  # seconds
SOON = 0.2  # the same, where one is waited for in vain
LONGEST = 30.0  # seconds for all of it, on a machine that has other things to do
GREETING = b"220 mx.example.test ESMTP\r\n"
Behaviour = Callable[[socket.socket], None]


def lines(client: socket.socket) -> Iterator[bytes]:
    held = b""
    while octets := client.recv(65536):
        *whole, held = (held + octets).split(b"\r\n")
        yield from whole


def stalls(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def greets_and_stalls(client: socket.socket) -> None:
    client.sendall(GREETING)
    stalls(client)


def closes_at_once(client: socket.socket) -> None:
    client.close()


def closes_at_the_first_command(client: socket.socket) -> None:
    client.sendall(GREETING)
    client.recv(65536)


def closes_in_mid_greeting(client: socket.socket) -> None:
    client.sendall(GREETING[:9])


def closes_in_mid_reply(client: socket.socket) -> None:
    client.sendall(GREETING)
    for _ in lines(client):
        client.sendall(b"250-mx.example.test\r\n250-PIPE")
        return


def resets(client: socket.socket) -> None:
    client.sendall(GREETING)
    client.recv(1)  # what is left unread makes the close a reset


def sends_garbage(client: socket.socket) -> None:
    client.sendall(os.urandom(100_000))
    stalls(client)


def answers_garbage(client: socket.socket) -> None:
    client.sendall(GREETING)
    for _ in lines(client):
        client.sendall(os.urandom(300) + b"\r\n")


def greets_in_100_000_lines(client: socket.socket) -> None:
    client.sendall(b"220-mx.example.test\r\n" * 100_000 + GREETING)
    stalls(client)


def answers_in_100_000_lines(client: socket.socket) -> None:
    client.sendall(GREETING)
    for _ in lines(client):
        client.sendall(b"250-SIZE 1000000\r\n" * 100_000 + b"250 HELP\r\n")


def sends_an_endless_line(client: socket.socket) -> None:
    client.sendall(GREETING)
    for _ in lines(client):
        while True:
            client.sendall(b"2" * 65_536)


def sends_replies_to_nothing(client: socket.socket) -> None:
    client.sendall(GREETING)
    while True:
        client.sendall(b"250 2.0.0 ok\r\n" * 1000)


def never_reads(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    client.sendall(GREETING + b"250 mx.example.test\r\n" * 3)
    client.settimeout(None)
    client.recv(1, socket.MSG_PEEK)
    client.sendall(b"250 ok\r\n" * 300)
    stalls(client)


def says_421_always(client: socket.socket) -> None:
    client.sendall(b"421 not today\r\n")


def refuses_everything(client: socket.socket) -> None:
    client.sendall(GREETING)
    for _ in lines(client):
        client.sendall(b"550 5.7.1 no\r\n")


def accepts_everything(client: socket.socket) -> None:
    client.sendall(GREETING)
    for _ in lines(client):
        client.sendall(b"250 2.0.0 yes\r\n")


def continues_everything(client: socket.socket) -> None:
    client.sendall(GREETING)
    for _ in lines(client):
        client.sendall(b"354 go on\r\n")


GIVEN_UP = [
    (stalls, "the greeting: no reply came in time"),
    (greets_and_stalls, "3 probes in a row got no reply: no reply came in time"),
    (closes_at_once, "the greeting: the connection was closed"),
    (closes_at_the_first_command, "3 probes in a row got no reply: the connection was closed"),
    (closes_in_mid_greeting, "the greeting: the connection was closed"),
    (closes_in_mid_reply, "3 probes in a row got no reply: the connection was closed"),
    (resets, "3 probes in a row got no reply: the connection was closed"),
    (sends_garbage, "the greeting: "),
    (answers_garbage, "3 probes in a row got no reply: "),
    (greets_in_100_000_lines, "the greeting: a reply has more than 1000 lines"),
    (answers_in_100_000_lines, "3 probes in a row got no reply: a reply has more than 1000 lines"),
    (sends_an_endless_line, "3 probes in a row got no reply: a reply line has more than 65536 octets"),
    (says_421_always, "the greeting: answered 421"),
]
SILENT = (stalls, greets_and_stalls, sends_garbage)
BORNE = [sends_replies_to_nothing, never_reads, refuses_everything, accepts_everything, continues_everything]


def asked(behaviour: Behaviour, timeout: float = SOON) -> Report:
    begun = monotonic()
    with Peer(behaviour) as peer:
        report = conform(Target(HOST, peer.port, timeout=timeout, mailbox="bob@example.test"))
    assert monotonic() - begun < LONGEST
    planned = {probe.name for probes in PROBES.values() for probe in probes}
    assert planned <= {finding.name for finding in report.findings}
    for text in (as_json(as_data(report)), render(report)):
        assert not any(ord(letter) < 32 and letter != "\n" or 127 <= ord(letter) < 160 for letter in text)
    return report


@pytest.mark.parametrize(("behaviour", "cut"), GIVEN_UP, ids=lambda value: getattr(value, "__name__", ""))
def test_who_does_not_answer_is_given_up(behaviour: Behaviour, cut: str) -> None:
    report = asked(behaviour, SOON if behaviour in SILENT else TIMEOUT)
    assert report.cut.startswith(cut)
    assert report.failed
    assert json.loads(as_json(as_data(report)))["cut"] == report.cut
    asked_last = [finding for finding in report.findings if finding.name == "end-crlf-dot-cr"]
    assert [(finding.verdict, finding.note) for finding in asked_last] == [
        (Verdict.NOT_PROVOKED, f"not asked: {report.cut}")
    ]


@pytest.mark.parametrize("behaviour", BORNE, ids=lambda value: str(value.__name__))
def test_who_answers_at_random_is_borne(behaviour: Behaviour) -> None:
    report = asked(behaviour)
    assert report.failed


def test_a_silent_server_has_broken_no_rule() -> None:
    """It may take five minutes (RFC 5321 section 4.5.3.2), and was not given them."""
    report = asked(greets_and_stalls)
    assert not report.broken


@pytest.mark.parametrize("seed", range(4))
def test_random_codes(seed: int) -> None:
    dice = random.Random(seed)

    def answers_at_random(client: socket.socket) -> None:
        client.sendall(GREETING)
        for _ in lines(client):
            code, mark = dice.choice((dice.randint(100, 999), dice.randint(200, 599))), dice.choice("  -")
            client.sendall(f"{code}{mark}{dice.choice(('', '2.0.0 ', '5.1.1 '))}words\r\n".encode())
            if mark == "-":
                client.sendall(f"{dice.choice((code, 250))} last\r\n".encode())

    report = asked(answers_at_random)
    assert report.broken


def test_a_reply_that_trickles_in_is_not_waited_for() -> None:
    with Peer(lambda client: trickle(client)) as peer:

        def trickle(client: socket.socket) -> None:
            for octet in b"220-" + b"x" * 100_000:
                client.sendall(bytes((octet,)))
                if peer.closing.wait(SOON / 10):
                    return

        begun = monotonic()
        report = conform(Target(HOST, peer.port, timeout=SOON))
    assert monotonic() - begun < LONGEST
    assert report.cut == "the greeting: no reply came in time"


def test_the_whole_run_has_a_deadline() -> None:
    with Peer(lambda client: slow(client)) as peer:

        def slow(client: socket.socket) -> None:
            client.sendall(GREETING)
            for _ in lines(client):
                if peer.closing.wait(0.05):
                    return
                client.sendall(b"250 2.0.0 ok\r\n")

        begun = monotonic()
        report = conform(Target(HOST, peer.port, timeout=5.0, deadline=1.0))
    assert monotonic() - begun < 10.0
    assert report.cut == "1 s have passed" and report.failed
    assert sum(finding.note == f"not asked: {report.cut}" for finding in report.findings) > 10


def test_nobody_listens() -> None:
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        conform(Target(HOST, port, timeout=TIMEOUT))


def test_a_name_that_no_host_can_have() -> None:
    with pytest.raises(OSError, match="not a host name|not known|resolution|No address"):
        conform(Target("a" * 70 + ".invalid", 25, timeout=TIMEOUT))


def test_a_server_that_goes_away_in_the_middle() -> None:
    with Peer(accepts_everything) as peer:
        handle = peer._handle

        def leaves(client: socket.socket) -> None:
            if peer.connections >= 5:
                peer._listening.close()
            handle(client)

        peer._handle = leaves
        report = conform(Target(HOST, peer.port, timeout=SOON))
    assert report.cut.startswith("no connection: ") and report.failed
