"""The first mail of somebody new, and the verbs of the command line, each with a server and with none."""

from __future__ import annotations

import getpass
import signal
import smtplib
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.corpus import simple
from tests.live.support import BOB, DOMAIN, HOST, PILLARBOX, SENDER, Server, arrived, letters, needs, original, until

MESSAGE = (
    b"From: Alice <alice@elsewhere.example>\r\nTo: bob@example.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
    b".a dot\r\n..two\r\nGr\xc3\xbc\xc3\x9fe\r\n\r\n  spaces  \r\n.\r\nlast\r\n"
)
AWAY = "x@host.away.test"  # at a next hop that does not answer
LINES = MESSAGE.replace(b"\r\n", b"\n")


# --- the built-in defaults


def test_built_in_defaults_give_a_first_message_a_home(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, 2525))
        except OSError as error:
            pytest.skip(f"LOUD: the built-in port 2525 can't be had: {error.strerror}")
    with _by_default(tmp_path):
        with smtplib.SMTP(HOST, 2525, timeout=20) as client:
            for recipient in ("anybody@localhost", f"you@{socket.gethostname()}"):
                client.sendmail(SENDER, [recipient], MESSAGE)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail(SENDER, ["anybody@example.org"], MESSAGE)
        new = tmp_path / "data/mail/localhost" / getpass.getuser() / "new"
        files = until(lambda: new.exists() and len(found := list(new.iterdir())) == 2 and found, what=f"mail in {new}")
        assert isinstance(files, list)
        assert [original(file.read_bytes()) for file in files] == [LINES, LINES]
        assert Path(tmp_path / "data").stat().st_mode & 0o077 == 0, "the data is for its owner"


@contextmanager
def _by_default(place: Path) -> Iterator[None]:
    """`pillarbox serve` and nothing else, in an empty directory."""
    with open(place.parent / "default.err", "wb") as err:
        process = subprocess.Popen([str(PILLARBOX), "serve"], cwd=place, stdout=subprocess.PIPE, stderr=err)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"listening mx 127.0.0.1:2525\n", (place.parent / "default.err").read_text()
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


# --- clients that others wrote


def _by_smtplib(server: Server, file: Path) -> None:
    with smtplib.SMTP(HOST, server.port, timeout=20) as client:
        client.sendmail(SENDER, [BOB], file.read_bytes().replace(b"\n", b"\r\n"))


def _by_swaks(server: Server, file: Path) -> None:
    command = [needs("swaks"), "--server", HOST, "--port", str(server.port), "--from", SENDER, "--to", BOB]
    file.write_bytes(LINES.removesuffix(b"\n"))  # swaks adds a line end of its own
    _run([*command, "--data", f"@{file}", "--suppress-data"])


def _by_curl(server: Server, file: Path) -> None:
    command = [needs("curl"), "--silent", "--show-error", f"smtp://{HOST}:{server.port}/client.example"]
    _run([*command, "--mail-from", SENDER, "--mail-rcpt", BOB, "--upload-file", str(file), "--crlf"])


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, timeout=50, check=False)
    assert run.returncode == 0, (run.stdout, run.stderr)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("first")) as running:
        running.local(BOB)
        yield running


@pytest.mark.parametrize("send", [_by_smtplib, _by_swaks, _by_curl])
def test_mail_arrives_octet_by_octet(server: Server, tmp_path: Path, send: Callable[[Server, Path], None]) -> None:
    before = letters(server)
    file = tmp_path / "message"
    file.write_bytes(LINES)
    send(server, file)
    arrived(server, len(before) + 1)
    (letter,) = set(letters(server)) - set(before)
    assert original(letter) == LINES
    assert letter.startswith(f"Return-Path: <{SENDER}>\nDelivered-To: {BOB}\n".encode())


# --- the directory, changed while the server runs


def test_the_directory_changes_at_once(server: Server) -> None:
    domain, carol, team = "changes.test", "carol@changes.test", "team@changes.test"
    with smtplib.SMTP(HOST, server.port, timeout=20) as client:
        client.ehlo()

        def asked(address: str) -> int:
            client.rset()
            client.mail(SENDER)
            return client.rcpt(address)[0]

        assert asked(carol) == 550
        server.cli("domain", "add", domain)
        assert asked(carol) == 550
        server.cli("user", "add", carol, "--name", "Carol")
        assert asked(carol) == 250
        assert asked(team) == 550
        server.cli("alias", "add", team, carol, BOB)
        assert asked(team) == 250
        assert asked(f"nobody@{domain}") == 550
        assert server.ask("alias", "add", f"@{domain}", carol) == {"address": f"@{domain}", "targets": [carol]}
        assert asked(f"nobody@{domain}") == 250
        assert {"address": carol, "name": "Carol"} in server.ask("user", "list")
        assert {"domain": domain} in server.call("domain_list")
        assert {"address": team, "targets": [carol, BOB]} in server.call("alias_list")

        before = len(letters(server))
        client.rset()
        client.sendmail(SENDER, [team, f"nobody@{domain}"], simple("to-many"))
        assert original(arrived(server, 1, carol)[0]) == simple("to-many").replace(b"\r\n", b"\n"), "one copy, not two"
        arrived(server, before + 1)

        server.cli("alias", "remove", team)
        assert asked(team) == 250, "by the catch-all"
        server.call("alias_remove", address=f"@{domain}")
        assert asked(team) == 550
        server.cli("user", "remove", carol)
        assert asked(carol) == 550
        assert carol in server.cli("user", "remove", carol, status=1)
        server.cli("domain", "remove", domain)
        assert asked(carol) == 550 and {"domain": domain} not in server.call("domain_list")


# --- the other verbs, with a server and with none


@pytest.fixture(params=["running", "at rest"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with bob and a message for AWAY that was tried in vain: at its next hop nobody listens."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))  # bound and not listening: connections are refused, and nobody else gets it
        route = {"match": "*.away.test", "next_hop": f"smtp://{HOST}:{taken.getsockname()[1]}"}
        server = Server(tmp_path, settings={"route": [route], "relay": {"networks": ["127.0.0.0/8"]}})
        server.start()
        server.local(BOB)
        assert server.cli("send", "--from", BOB, "--to", AWAY, text=b"Subject: first\n\n").startswith("queued as ")
        until(lambda: server.call("queue_count", where="state=deferred")["count"] == 1, what="a vain attempt")
        if request.param == "at rest":
            server.stop()
        yield server
        if server.running:
            server.stop()


def test_send_and_what_can_be_asked_of_it(either: Server) -> None:
    ours = either.ask("send", "--from", BOB, "--to", AWAY, text=b"Subject: hello\n\nline\n.\n\xc3\xbc\n")["id"]
    assert "no such user" in either.cli("send", "--from", BOB, "--to", f"nobody@{DOMAIN}", text=b"x", status=1)
    assert "no address" in either.cli("send", "--from", "no address", "--to", AWAY, text=b"x", status=2)

    shown = either.ask("show", ours)
    assert shown["body"] == "line\r\n.\r\nü\r\n" and "Subject: hello\r\n" in shown["header"]
    assert "Subject: hello" in either.cli("show", ours)
    why = either.ask("why", ours)
    assert why["message"]["id"] == ours and [row["address"] for row in why["recipients"]] == [AWAY]
    assert AWAY in either.cli("why", ours)
    assert "nothing is known of" in either.cli("why", "d00000000000", status=1)


def test_queue_list_count_and_retry(either: Server) -> None:
    assert either.ask("queue", "count") == {"count": 1}
    assert either.cli("queue", "count", f"recipient={AWAY}", "state=deferred").strip() == "1"
    (row,) = either.ask("queue", "list", "domain=host.away.test")
    assert row["address"] == AWAY and row["state"] == "deferred" and "refused" in row["reply"]
    assert row["id"] in either.cli("queue")
    assert either.ask("queue", "list", "state=delivered") == []
    assert "unknown field" in either.cli("queue", "list", "recipent=x@y.z", status=2)

    assert either.ask("queue", "retry", "--yes", f"id={row['id']}")["count"] == 1
    if either.running:
        until(lambda: either.call("queue_list", where="", limit=1)[0]["attempts"] == 2, what="a second attempt")
    else:
        assert either.cli("queue", "retry") == "0 recipients are due now\n", "it is due already"


def test_send_to_a_local_user_arrives(either: Server) -> None:
    either.ask("send", "--from", BOB, "--to", BOB, text=b"Subject: to myself\n\nhello\n")
    if not either.running:
        assert letters(either) == []
        either.start()
    (letter,) = arrived(either)
    assert letter.endswith(b"Subject: to myself\n\nhello\n")


def test_backup_holds_directory_queue_and_bodies(either: Server, tmp_path: Path) -> None:
    big = b"Subject: big\n\n" + b"0123456789abcdef\n" * 40_000
    message = either.ask("send", "--from", BOB, "--to", AWAY, text=big)["id"]
    assert either.ask("backup", "copy.tar")["large_bodies"] == 1
    assert "never replaces" in either.cli("backup", "copy.tar", status=1)
    assert "large_bodies" in either.cli("backup", str(tmp_path / "second.tar"))
    if either.running:
        either.stop()

    restored = Server(tmp_path, "restored", settings={"route": either.settings["route"]})
    restored.data.mkdir(mode=0o700)
    with tarfile.open(tmp_path / "copy.tar") as archive:
        archive.extractall(restored.data, filter="data")
    assert restored.ask("queue", "count") == {"count": 2}
    assert restored.ask("show", message)["body"].encode() == big.partition(b"\n\n")[2].replace(b"\n", b"\r\n")
    assert restored.ask("user", "list") == [{"address": BOB, "name": ""}]


def test_check_says_what_is_wrong(either: Server) -> None:
    findings = either.ask("check")
    assert not [finding for finding in findings if finding["level"] == "fail"], findings
    assert any(("running: pid" in finding["what"]) == either.running for finding in findings)
    either.config.write_text("hostnam = 'x'\n")
    either.cli("check", status=1)
