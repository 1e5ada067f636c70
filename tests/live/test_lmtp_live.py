"""LMTP with a real process, and ends that were not written here: swaks, smtplib and Postfix towards us; Dovecot and
aiosmtpd from us. And the way of a message through programs, when we are killed meanwhile."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.corpus import simple
from tests.live.support import (
    BOB,
    DOMAIN,
    HOST,
    PILLARBOX,
    SENDER,
    Client,
    Server,
    arrived,
    letters,
    needs,
    original,
    until,
)
from tests.live.test_peers import started
from tests.peers.dovecot import BROKEN, Dovecot
from tests.peers.peer import MAILBOX
from tests.peers.postfix import Postfix
from tests.peers.process import Program

CAROL = f"carol@{DOMAIN}"
NOBODY = f"nobody@{DOMAIN}"
PASSWORD = "correct horse"
RELAYING = {"networks": [f"{HOST}/32"]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One listener for LMTP on TCP, one on a Unix socket."""
    listeners = [
        {"name": "mx", "address": f"{HOST}:0", "service": "lmtp", "tls": "starttls"},
        {"name": "local", "address": "unix:in", "service": "lmtp", "socket_mode": "0660", "tls": "starttls"},
    ]
    with Server(tmp_path, settings={"listener": listeners}) as running:
        running.local(BOB, CAROL)
        yield running


def received(letter: bytes) -> bytes:
    """Our Received field, unfolded."""
    return letter[letter.index(b"Received:") :].partition(b"\n\t\t")[0].replace(b"\n\t", b" ")


# --- clients not written here, towards us


def swaks(server: Server, *options: str) -> str:
    command = [needs("swaks"), "--protocol", "LMTP", "--helo", "client.example", "--from", SENDER, *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode in (0, 26), (run.stdout, run.stderr)  # 26: a recipient was refused at the end
    return run.stdout


def ends(server: Server) -> list[list[str]]:
    return [["--server", HOST, "--port", str(server.port)], ["--socket", str(server.place / "in")]]


def test_swaks_by_tcp_and_by_socket(server: Server) -> None:
    for end, peer in zip(ends(server), (f" ([{HOST}])".encode(), b""), strict=True):
        said = swaks(server, *end, "--to", f"{BOB},{CAROL}", "--header", f"Subject: {end[0]}")
        assert said.count("2.0.0 queued as") == 2 and "LHLO client.example" in said
        (letter,) = [each for each in arrived_now(server) if f"Subject: {end[0]}".encode() in each]
        assert received(letter).startswith(b"Received: from client.example" + peer + b" by a.mx.test with LMTP id ")


def arrived_now(server: Server) -> list[bytes]:
    server.drained()
    return letters(server)


@pytest.mark.parametrize("extra", [["--pipeline"], ["--tls"], ["--auth", "PLAIN", "--au", BOB, "--ap", PASSWORD]])
def test_swaks_with_extensions(server: Server, extra: list[str]) -> None:
    server.cli("user", "passwd", BOB, "--password-stdin", text=f"{PASSWORD}\n".encode())
    keyword = {"--pipeline": b"LMTP", "--tls": b"LMTPS", "--auth": b"LMTPA"}[extra[0]]
    for end in ends(server):
        said = swaks(server, *end, *extra, "--to", f"{BOB},{CAROL}")
        assert said.count("2.0.0 queued as") == 2
    found = arrived_now(server)
    assert len(found) == 2 and all(b" with " + keyword + b" id " in received(letter) for letter in found)


def test_smtplib(server: Server) -> None:
    """A path in place of a host is a Unix socket."""
    for number, (host, port) in enumerate(((HOST, server.port), (str(server.place / "in"), 0)), 1):
        with smtplib.LMTP(host, port, local_hostname="client.example") as client:
            refused = client.sendmail(SENDER, [BOB, NOBODY, CAROL], simple(f"by {host}"))
            code, _ = client.getreply()  # it takes the first reply to the end, and leaves the others
            assert code == 250
        assert {address: code for address, (code, _) in refused.items()} == {NOBODY: 550}
        assert len(arrived(server, number)) == number
        assert len(arrived(server, number, CAROL)) == number


def test_a_raw_transcript(server: Server) -> None:
    """Octet by octet on the Unix socket: what comes back, and nothing else."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.place / "in"))
        client.settimeout(20)
        client.sendall(
            b"EHLO x\r\nLHLO client.example\r\nMAIL FROM:<>\r\nRCPT TO:<%s>\r\nRCPT TO:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n"
            % (BOB.encode(), NOBODY.encode(), CAROL.encode())
            + simple("raw")
            + b".\r\nQUIT\r\n"
        )
        octets = b""
        while piece := client.recv(65536):
            octets += piece
    lines = [line for line in octets.decode().split("\r\n") if line[3:4] != "-"]
    assert [line.partition(" ")[0] for line in lines] == "220 500 250 250 250 550 250 354 250 250 221".split() + [""]
    assert lines[8] == lines[9] and lines[8].startswith("250 2.0.0 queued as ")
    assert original(arrived(server)[0]) == simple("raw").replace(b"\r\n", b"\n")


# --- the socket's file


def test_the_socket_lives_and_dies_with_the_server(server: Server) -> None:
    path = server.place / "in"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert f"listening local unix:{path}\n" in server.out.read_text()
    taken = Server(server.place, "b", settings={"listener": [{"name": "mx", "address": "unix:in", "service": "lmtp"}]})
    assert "another process listens there" in taken.cli("serve", status=1)
    server.kill()
    assert path.exists()
    server.start()  # what the dead one left is no obstacle
    with smtplib.LMTP(str(path)) as client:
        client.sendmail(SENDER, [BOB], simple("again"))
    arrived(server)
    server.stop()
    assert not path.exists()


def test_a_reload_takes_a_socket_away_and_makes_another(server: Server) -> None:
    listeners: list[dict[str, Any]] = server.settings["listener"]
    server.configure(listener=[listeners[0], {**listeners[1], "address": "unix:other", "socket_mode": "0600"}])
    server.signal(signal.SIGHUP)
    until((server.place / "other").exists, what="the new socket")
    until(lambda: not (server.place / "in").exists(), what="the end of the old socket")
    with smtplib.LMTP(str(server.place / "other")) as client:
        client.sendmail(SENDER, [BOB], simple("after"))
    arrived(server)


def test_the_configuration_that_a_server_refuses(tmp_path: Path) -> None:
    listener = {"name": "mx", "address": f"{HOST}:25", "service": "lmtp"}
    refusing = Server(tmp_path, settings={"listener": [listener]})
    assert "LMTP must not be on port 25" in refusing.cli("serve", status=1)
    command = [str(PILLARBOX), "check", "--config", str(refusing.config)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 1 and "LMTP must not be on port 25" in checked.stdout


# --- Postfix towards us


class PostfixByLmtp(Postfix):
    """All that is not its own goes by LMTP; to a domain that it does not know otherwise."""

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.more = f"default_transport = lmtp:[{HOST}]:{site.relay_to}\nlmtp_send_xforward_command = no\n"


@pytest.mark.matrix
@pytest.mark.timeout(300)
def test_postfix_by_its_lmtp_client(server: Server, tmp_path: Path) -> None:
    with started(PostfixByLmtp, tmp_path / "peer", server.port) as peer, Client(peer.port) as client:
        assert client.send(simple("from postfix"), [BOB, CAROL], MAILBOX).startswith("250")
        (letter,) = arrived(server, 1)
        arrived(server, 1, CAROL)
        with Client(peer.port) as another:  # who is unknown here comes back to the sender
            assert another.send(simple("to nobody"), [NOBODY, BOB], MAILBOX).startswith("250")
        assert len(arrived(server, 2)) == 2
        bounced = until(peer.letters, 60, "the notice of Postfix")
    assert b" with LMTP id " in received(letter)
    assert b"No such user here" in bounced[0]


# --- from us


def sending(tmp_path: Path, next_hop: str) -> Server:
    return Server(tmp_path, settings={"route": [{"match": "peer.test", "next_hop": next_hop}], "relay": RELAYING})


@pytest.mark.matrix
@pytest.mark.timeout(120)
@pytest.mark.parametrize("by", ["tcp", "socket"])
def test_dovecot(by: str, tmp_path: Path) -> None:
    with started(Dovecot, tmp_path / "peer") as peer:
        assert isinstance(peer, Dovecot)
        hop = f"lmtp:unix:{peer.socket}" if by == "socket" else f"lmtp://{HOST}:{peer.port}"
        with sending(tmp_path, hop) as server, Client(server.port) as client:
            recipients = [MAILBOX, BROKEN, "unknown@peer.test"]
            reply = client.send(simple("to dovecot", 300_000), recipients, SENDER)
            (letter,) = until(peer.letters, 60, f"a letter in the mailbox: {server.log}")
            states = until(lambda: _settled(server, reply.split()[-1]), what="an outcome for each")
        assert states is not None
        assert letter.startswith(b"Return-Path: <" + SENDER.encode()) and b" with LMTP" in letter
        assert letter.replace(b"\r\n", b"\n").endswith(simple("to dovecot", 300_000).replace(b"\r\n", b"\n"))
        assert states[MAILBOX][0] == "delivered" and " Saved" in states[MAILBOX][1]
        assert states[BROKEN][0] == "deferred" and states[BROKEN][1].startswith("451")
        assert states["unknown@peer.test"][0] == "failed" and states["unknown@peer.test"][1].startswith("550 5.1.1")


def _settled(server: Server, message: str) -> dict[str, tuple[str, str]] | None:
    """State and last reply of each recipient, once none is in flight."""
    found = {
        each["address"]: (each["state"], each["reply"]) for each in server.call("why", message=message)["recipients"]
    }
    return found if all(reply for _, reply in found.values()) else None


def test_aiosmtpd_by_its_lmtp_class(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    command = [sys.executable, "-m", "tests.peers.aiosmtpd_server", str(store), "peer.test", "0", "LMTP"]
    environ = {"PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))}
    program = Program("aiosmtpd", command, place=tmp_path, environ=environ)
    try:
        port = program.wait_line("listening").rpartition(":")[2]
        with sending(tmp_path, f"lmtp://{HOST}:{port}") as server, Client(server.port) as client:
            client.send(simple("one"), [MAILBOX], SENDER)
            server.drained()
            assert [file.read_bytes().endswith(simple("one")) for file in store.iterdir()] == [True]
    finally:
        program.stop()


# --- pipes


def test_a_pipe_when_we_are_killed_meanwhile(tmp_path: Path) -> None:
    """The program has the whole message whatever becomes of us, and the message is there to be tried again."""
    gate = tmp_path / "gate"
    program = tmp_path / "program"
    program.write_text(
        f"#!/bin/sh\n: > {tmp_path}/begun.$$\nwhile [ ! -e {gate} ]; do sleep 0.05; done\n"
        f"cat > {tmp_path}/part.$$ && mv {tmp_path}/part.$$ {tmp_path}/out.$$\n"
    )
    program.chmod(0o700)
    route = {"match": DOMAIN, "next_hop": "pipe", "command": [str(program), "{local}"]}
    text = simple("through the pipe", 400_000)
    with Server(tmp_path, settings={"route": [route]}) as server:
        server.local(BOB)
        with Client(server.port) as client:
            assert client.send(text).startswith("250")
        until(lambda: list(tmp_path.glob("begun.*")), what="the program runs")
        server.kill()
        gate.touch()
        (orphan,) = until(lambda: list(tmp_path.glob("out.*")), what="the orphan is done")
        server.start()
        server.drained()
        files = list(tmp_path.glob("out.*"))
        assert server.bodies == []
    assert len(files) == 2 and orphan in files
    for file in files:
        octets = file.read_bytes()
        assert octets.startswith(f"Return-Path: <{SENDER}>\nDelivered-To: {BOB}\n".encode())
        assert octets.endswith(text.replace(b"\r\n", b"\n"))


def test_what_a_pipe_says_is_told_by_why(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho 'no such box here'; exit 67\n")
    program.chmod(0o700)
    route = {"match": f"carol@{DOMAIN}", "next_hop": "pipe", "command": [str(program), "{local}"]}
    with Server(tmp_path, settings={"route": [route]}) as server:
        server.local(BOB, CAROL)
        with Client(server.port) as client:
            reply = client.send(simple("bounces"), [CAROL], BOB)
        (notice,) = arrived(server)
        why = " ".join(server.cli("why", reply.split()[-1]).split())
    assert "no such box here" in why and f"{program}: user unknown (67)" in why
    assert b"Status: 5.1.1" in notice and b"no such box here" in notice
