"""Submission on a live server, by clients that are not ours, under TLS; and what arrives of it."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.live.support import DOMAIN, HOST, Client, Server, arrived, letters, needs, original
from tests.live.test_tls_live import NAME, PASSWORD, trusting, write

ALICE, BOB = f"alice@{DOMAIN}", f"bob@{DOMAIN}"
LETTER = (
    b"From: alice@example.test\r\nTo: bob@example.test\r\n"
    b"Bcc: carol@example.test,\r\n dave@far.example\r\nSubject: x\r\n"
)
EDITED = b"From: alice@example.test\nTo: bob@example.test\nSubject: x\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    here = {"address": f"{HOST}:0", "service": "submission"}
    settings = {
        "hostname": NAME,
        "listener": [
            {"name": "mx", "address": f"{HOST}:0", "auth": "clear"},
            {"name": "submissions", "tls": "implicit", **here},
            {"name": "submission", "tls": "starttls", **here},
        ],
        "tls": [write(authority.issue_cert(NAME, HOST), tmp_path, "cert")],
        "relay": {"networks": ["127.0.0.0/8"]},
    }
    with Server(tmp_path, settings=settings) as started:
        started.local(ALICE, BOB)
        started.call("alias_add", address=f"shop@{DOMAIN}", targets=[ALICE, BOB])
        started.cli("user", "passwd", ALICE, "--password-stdin", text=f"{PASSWORD}\n".encode())
        yield started


def logged_in(server: Server, authority: trustme.CA) -> smtplib.SMTP_SSL:
    client = smtplib.SMTP_SSL(HOST, server.ports["submissions"], timeout=20, context=trusting(authority))
    client.login(ALICE, PASSWORD)
    return client


def added(letter: bytes) -> bytes:
    """The message behind Date and Message-ID."""
    lines = original(letter).split(b"\n")
    assert lines[0].startswith(b"Date: ") and lines[0].endswith(b" +0000"), lines[0]
    assert lines[1].startswith(b"Message-ID: <") and lines[1].endswith(f"@{NAME}>".encode()), lines[1]
    return b"\n".join(lines[2:])


def test_smtplib(server: Server, authority: trustme.CA) -> None:
    with logged_in(server, authority) as client:
        client.sendmail(f"shop@{DOMAIN}", [BOB], LETTER + b"\r\nBcc: stays\r\n")
        client.sendmail(f"alice+tag@{DOMAIN}", [BOB], LETTER + b"\r\n" + b"large " * 20 + b"\r\n")
    first, second = arrived(server, 2)
    assert first.startswith(f"Return-Path: <shop@{DOMAIN}>\n".encode())
    assert added(first) == EDITED + b"\nBcc: stays\n"
    assert b" with ESMTPSA id " in first and added(second).startswith(EDITED)


def test_a_large_message(server: Server, authority: trustme.CA) -> None:
    text = b"\r\n" + b"".join(b"%06d %b\r\n" % (number, b"\xe4" * 60) for number in range(20_000))
    with logged_in(server, authority) as client:
        client.sendmail(ALICE, [BOB], LETTER + text, mail_options=["BODY=8BITMIME"])
    assert added(arrived(server)[0]) == EDITED + text.replace(b"\r\n", b"\n")
    server.drained()
    assert server.bodies == []


def test_who_may_not(server: Server, authority: trustme.CA) -> None:
    """Not even a client in relay.networks, and nobody under the address of somebody else."""
    with Client(server.ports["submission"]) as stranger:
        assert stranger.say(f"MAIL FROM:<{ALICE}>").startswith("530 5.7.0 ")
        assert stranger.say("MAIL FROM:<>").startswith("530 5.7.0 ")
    with logged_in(server, authority) as client:
        for sender in (BOB, "alice@far.example", f"nobody@{DOMAIN}"):
            assert client.mail(sender)[0] == 553
        assert client.mail("<>")[0] == 250
        assert client.rcpt(f"nobody@{DOMAIN}")[0] == 550
        assert client.rcpt("somebody@far.example")[0] == 250
        assert client.rcpt("somebody@intranet")[0] == 554
    assert letters(server) == []


def test_a_listener_for_exchange_changes_nothing(server: Server) -> None:
    with Client(server.port) as client:
        token = b64encode(f"\0{ALICE}\0{PASSWORD}".encode()).decode()
        assert client.say(f"AUTH PLAIN {token}").startswith("235")
        assert client.send(LETTER + b"\r\nbody\r\n", (BOB,), BOB).startswith("250")
    assert original(arrived(server)[0]) == LETTER.replace(b"\r\n", b"\n") + b"\nbody\n"


def test_swaks(server: Server) -> None:
    login = ["--auth", "PLAIN", "--auth-user", ALICE, "--auth-password", PASSWORD]
    swaks = [needs("swaks"), "--server", HOST, "--to", BOB, "--from", ALICE, "--data", LETTER.decode() + "\\nhello\\n"]
    for options in (
        ["--port", str(server.ports["submission"]), "--tls"],
        ["--port", str(server.ports["submissions"]), "--tls-on-connect"],
    ):
        run = subprocess.run([*swaks, *login, *options], capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        refused = subprocess.run([*swaks, *options], capture_output=True, text=True, timeout=60, check=False)
        assert "530 5.7.0" in refused.stdout and refused.returncode == 23, refused.stdout
    for letter in arrived(server, 2):
        assert added(letter).startswith(EDITED)


def test_msmtp(server: Server, authority: trustme.CA, tmp_path: Path) -> None:
    trust = tmp_path / "ca.pem"
    trust.write_bytes(authority.cert_pem.bytes())
    for name, starttls in (("submissions", "off"), ("submission", "on")):
        command = [needs("msmtp"), "--file=/dev/null", f"--host={HOST}", f"--port={server.ports[name]}", "--tls=on"]
        command += [f"--tls-starttls={starttls}", f"--tls-trust-file={trust}", "--auth=plain", f"--user={ALICE}"]
        command += [f"--passwordeval=echo '{PASSWORD}'", f"--from={ALICE}", "--set-date-header=off", BOB]
        run = subprocess.run(command, input=LETTER + b"\r\nhello\r\n", capture_output=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr
    for letter in arrived(server, 2):
        assert b"\nSubject: x\n\nhello\n" in letter and b"\nDate: " in letter and b"Bcc" not in letter


def test_auth_waits_for_tls_beyond_this_machine(server: Server) -> None:
    """RFC 8314 §3: on loopback it is offered in clear; what is said in clear is forgotten with STARTTLS."""
    with Client(server.ports["submission"]) as client:
        assert "STARTTLS" in client.say("EHLO again.example")
        assert client.say("STARTTLS").startswith("220")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.socket = context.wrap_socket(client.socket)
        assert client.say(f"MAIL FROM:<{ALICE}>").startswith("503")
        assert "STARTTLS" not in client.say("EHLO again.example")
        assert client.say(f"MAIL FROM:<{ALICE}>").startswith("530")
