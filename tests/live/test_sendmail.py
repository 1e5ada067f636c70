"""sendmail(8) as programs call it: by a link of that name and by the verb, with a server running and without."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from smtplib import SMTP
from tempfile import TemporaryDirectory

import pytest

from pillarbox.adapters.spool_schema import open_reader
from tests.live.support import DOMAIN, PILLARBOX, Server, arrived, letters, needs, needs_root, original

ALICE, BOB, ROOT = f"alice@{DOMAIN}", f"bob@{DOMAIN}", f"root@{DOMAIN}"
LOGIN = pwd.getpwuid(os.getuid()).pw_name
NOBODY = 65534


class Mailer:
    """The program under its other names, in a directory of its own, and a server that it may reach."""

    def __init__(self, place: Path, server: Server) -> None:
        self.server = server
        self.names = {name: place / name for name in ("sendmail", "mailq", "newaliases")}
        for link in self.names.values():
            link.symlink_to(PILLARBOX)
        self.place = place / "elsewhere"
        self.place.mkdir()
        self.environment = {**os.environ, "PILLARBOX_CONFIG": str(server.config)}

    def run(
        self, *words: str, text: bytes = b"", name: str = "sendmail", **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        command = [str(self.names[name]), *words]
        given = {**self.environment, **environment}
        return subprocess.run(
            command, cwd=self.place, input=text, capture_output=True, timeout=60, check=False, env=given
        )

    def sent(self, *words: str, text: bytes, **environment: str) -> None:
        run = self.run(*words, text=text, **environment)
        assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


@contextmanager
def opened(place: Path) -> Iterator[Mailer]:
    settings = {"hostname": "mx.test", "limits": {"message_size": 200_000}}
    with Server(place, settings=settings) as server:
        server.local(ALICE, BOB, ROOT)
        yield Mailer(place, server)


@pytest.fixture
def mailer(tmp_path: Path) -> Iterator[Mailer]:
    with opened(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mailer]:
    """One for all that sends nothing."""
    with opened(tmp_path_factory.mktemp("refusing")) as made:
        yield made


@pytest.fixture
def resting(tmp_path: Path) -> Mailer:
    """One whose server does not run."""
    server = Server(tmp_path)
    server.cli("domain", "add", DOMAIN)
    for address in (BOB, ROOT):
        server.cli("user", "add", address)
    return Mailer(tmp_path, server)


def header(letter: bytes) -> list[bytes]:
    return original(letter).partition(b"\n\n")[0].split(b"\n")


# --- as programs call it

PHP = b"To: bob@example.test, Root <root>\r\nSubject: from PHP\r\nBcc: alice@example.test\r\n\r\nbody\n.\nrest\r\n"


def test_php(mailer: Mailer) -> None:
    """mail() of PHP: a command line for the shell, recipients from the header section, mixed line ends."""
    command = f"{mailer.names['sendmail']} -t -i -f{ALICE}"
    subprocess.run(["sh", "-c", command], input=PHP, cwd=mailer.place, env=mailer.environment, check=True, timeout=60)
    found = [arrived(mailer.server, 1, address)[0] for address in (BOB, ROOT, ALICE)]
    for letter in found:
        assert letter.startswith(f"Return-Path: <{ALICE}>\n".encode())
        assert original(letter).endswith(b"Subject: from PHP\n\nbody\n.\nrest\n")
        assert b"bcc" not in letter.lower() and f"\nFrom: {ALICE}\n".encode() in letter


def test_cron(mailer: Mailer) -> None:
    text = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> true\n\noutput\n"
    mailer.sent("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root", text=text)
    (letter,) = arrived(mailer.server, 1, ROOT)
    assert letter.startswith(f"Return-Path: <{LOGIN}@{DOMAIN}>\nDelivered-To: {ROOT}\n".encode())
    assert original(letter).endswith(text) and letter.count(b"\nFrom:") == 1
    assert b"Date: " in header(letter)[0] and header(letter)[1].endswith(b"@mx.test>")


def test_mutt(mailer: Mailer) -> None:
    text = b"Date: then\nMessage-ID: <1@x>\nFrom: a\nSubject: x\n\n.\n"
    mailer.sent("-oem", "-oi", "-f", "a@b.example", "--", BOB, text=text)
    (letter,) = arrived(mailer.server)
    assert letter.startswith(b"Return-Path: <a@b.example>\n") and original(letter) == text


def test_git_send_email(mailer: Mailer) -> None:
    git = needs("git")
    here = {**mailer.environment, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    here["HOME"] = str(mailer.place)
    author = ["-c", "user.name=Alice", "-c", f"user.email={ALICE}"]

    def run(*words: str) -> bytes:
        command = [git, *author, *words]
        done = subprocess.run(command, cwd=mailer.place, env=here, capture_output=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        if words[0] == "send-email" and (b"not a git command" in said or b"Mail::Address" in said):
            pytest.skip("LOUD: git-email or libmailtools-perl is not installed (tests/install-tools, as root)")
        assert done.returncode == 0, said
        return said

    run("init", "-q")
    run("commit", "-q", "--allow-empty", "-m", "first")
    (mailer.place / "file").write_text("line\n")
    run("add", "file")
    run("commit", "-q", "-m", "second")
    run("format-patch", "-q", "-1")
    options = ["--confirm=never", "--suppress-cc=all", f"--from={ALICE}", f"--to={BOB}", f"--envelope-sender={ALICE}"]
    run("send-email", f"--sendmail-cmd={mailer.names['sendmail']}", *options, "0001-second.patch")
    (letter,) = arrived(mailer.server)
    assert letter.startswith(f"Return-Path: <{ALICE}>\n".encode()) and b"\nSubject: [PATCH] second\n" in letter


def test_the_verb(mailer: Mailer) -> None:
    server = mailer.server
    for front, behind in (([], ["--config", str(server.config)]), (["--config", str(server.config)], [])):
        command = [str(PILLARBOX), *front, "sendmail", *behind, "-v", "-f", "<>", BOB]
        run = subprocess.run(command, input=b"Subject: x\n\n", capture_output=True, timeout=60, check=False)
        assert run.returncode == 0 and run.stdout.startswith(b"queued as "), run.stderr
    assert arrived(server, 2)[0].startswith(b"Return-Path: <>\n")
    assert b"From: MAILER-DAEMON@mx.test" in header(letters(server)[0])
    help_text = subprocess.run([str(PILLARBOX), "sendmail", "--help"], capture_output=True, timeout=60, check=True)
    assert b"sendmail(8)" in help_text.stdout


def test_without_a_name_it_is_that_of_who_is_logged_in(mailer: Mailer) -> None:
    mailer.sent(BOB, text=b"Subject: a\n\n", NAME="A. Nonymous")
    mailer.sent("-F", "J\u00fcrgen", "-f", ALICE, BOB, text=b"Subject: b\n\n")
    names = {line for letter in arrived(mailer.server, 2) for line in header(letter) if line.startswith(b"From:")}
    assert names == {
        f'From: "A. Nonymous" <{LOGIN}@{DOMAIN}>'.encode(),
        f"From: =?utf-8?q?J=C3=BCrgen?= <{ALICE}>".encode(),
    }


def test_a_dot_ends_the_message_but_for_i(mailer: Mailer) -> None:
    mailer.sent(BOB, text=b"Subject: a\n\none\n.\ntwo\n")
    mailer.sent("-oi", BOB, text=b"Subject: b\n\none\n.\ntwo\n")
    bodies = sorted(original(letter).partition(b"\n\n")[2] for letter in arrived(mailer.server, 2))
    assert bodies == [b"one\n", b"one\n.\ntwo\n"]


def test_mailq_and_newaliases(mailer: Mailer) -> None:
    mailer.server.call("domain_add", domain="kept.test", relay=True)
    mailer.server.cli("user", "add", f"owner@{DOMAIN}", "--owns", "kept.test")
    assert mailer.run(name="mailq").stdout == b"Mail queue is empty\n"
    mailer.sent("x@kept.test", text=b"Subject: waits\n\n")
    for run in (mailer.run(name="mailq"), mailer.run("-bp"), mailer.run("-v", "-Ac", name="mailq")):
        assert run.returncode == 0 and run.stdout.count(b"<x@kept.test>") == 1
    for words, name in (((), "newaliases"), (("-bi",), "sendmail"), (("-q",), "sendmail"), (("-q15m",), "sendmail")):
        run = mailer.run(*words, name=name)
        assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_recipients_are_looked_up(mailer: Mailer) -> None:
    run = mailer.run("-bv", "bob", "x@far.example")
    assert (run.returncode, run.stdout) == (0, f"{BOB}... deliverable\nx@far.example... deliverable\n".encode())
    assert mailer.run("-bv", "nobody").returncode == os.EX_NOUSER


def test_what_is_wanted_of_notices_is_kept(resting: Mailer) -> None:
    resting.sent("-N", "success,delay", "-R", "hdrs", "-V", "id 1", BOB, text=b"Subject: x\n\n")
    database = open_reader(resting.server.data / "spool-0.db")
    try:
        kept = str(list(database.execute("SELECT * FROM message"))) + str(
            list(database.execute("SELECT * FROM recipient"))
        )
    finally:
        database.close()
    assert "id 1" in kept and "HDRS" in kept and "SUCCESS" in kept and "DELAY" in kept, kept


# --- without a server


def test_with_no_server_the_message_waits(resting: Mailer) -> None:
    resting.sent("-t", text=b"To: bob\nBcc: root\nSubject: waits\n\nbody\n")
    assert {row["address"] for row in resting.server.ask("queue", "list")} == {BOB, ROOT}
    with resting.server as server:
        assert original(arrived(server)[0]).endswith(b"To: bob\nSubject: waits\n\nbody\n")
        arrived(server, 1, ROOT)


# --- SMTP on standard input and output


def smtp(mailer: Mailer, text: bytes) -> tuple[int, bytes]:
    run = mailer.run("-bs", text=text)
    return run.returncode, run.stdout


def test_a_session_on_standard_input(mailer: Mailer) -> None:
    large = b"x" * 70 + b"\r\n"
    talk = b"EHLO here\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.test>\r\nRCPT TO:<x@far.example>\r\nRSET\r\n"
    talk += b"MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nSubject: bs\r\nBcc: z@z.test\r\n\r\n"
    talk += large * 2500 + b"..\r\n.\r\nQUIT\r\n"
    status, said = smtp(mailer, talk)
    assert status == 0
    assert [line[:3] for line in said.split(b"\r\n") if line[3:4] == b" "] == [b"220"] + [b"250"] * 7 + [
        b"354",
        b"250",
        b"221",
    ]
    (letter,) = arrived(mailer.server)
    assert letter.endswith(b"x\n.\n") and b"Bcc" not in letter and b"\nMessage-ID: <" in letter
    assert len(original(letter)) > 2500 * 71


def test_a_session_that_is_cut_off(mailer: Mailer) -> None:
    status, said = smtp(
        mailer, b"EHLO here\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nhalf a mess"
    )
    assert status == 0 and said.endswith(b"<CRLF>.<CRLF>\r\n")
    assert smtp(mailer, b"")[1].startswith(b"220 ")
    assert letters(mailer.server) == []


def test_smtplib_over_a_pipe(mailer: Mailer) -> None:
    """A client that waits for each reply."""
    near, far = socket.socketpair()
    command = [str(mailer.names["sendmail"]), "-bs"]
    with far:
        process = subprocess.Popen(command, stdin=far.fileno(), stdout=far.fileno(), env=mailer.environment)
    with near:
        client = SMTP()
        client.sock, client.file = near, near.makefile("rb")
        near.settimeout(20)
        assert client.getreply()[0] == 220
        client.sendmail(ALICE, [BOB], b"Subject: x\r\n\r\nhello\r\n")
        assert client.quit()[0] == 221
        assert process.wait(20) == 0
    assert b"hello" in arrived(mailer.server)[0]


def test_no_session_without_a_server(resting: Mailer) -> None:
    run = resting.run("-bs", text=b"EHLO here\r\n")
    assert run.returncode == os.EX_TEMPFAIL
    assert run.stdout == b"421 Service not available, closing transmission channel\r\n"


# --- bad input


@pytest.mark.parametrize(
    ("words", "text", "status", "complaint"),
    [
        ([], b"x\n", os.EX_USAGE, "no recipients: name them, or give -t"),
        (["-t"], b"Subject: x\n\n", os.EX_USAGE, "no recipients: neither To, Cc nor Bcc"),
        (["-Z", BOB], b"", os.EX_USAGE, "unknown option -Z"),
        (["-bd"], b"", os.EX_USAGE, "pillarbox serve"),
        (["a@b@c"], b"", os.EX_USAGE, "a@b@c"),
        (["a..b@example.test"], b"", os.EX_USAGE, "a..b@example.test"),
        (["|/bin/sh -c x"], b"", os.EX_USAGE, "/bin/sh"),
        (["-f", "a@b\r\nBcc: c@d", BOB], b"", os.EX_USAGE, "-f a@b Bcc: c@d"),
        (["-f", "a@b.test>\nX: y", BOB], b"", os.EX_USAGE, "-f a@b.test"),
        (["-f", "a@b.test SIZE=1", BOB], b"", os.EX_USAGE, "-f a@b.test"),
        (["-f", "a@b.test,c@d.test", BOB], b"", os.EX_USAGE, "one address is needed"),
        (["-F", "A\r\nBcc: c@d.test", BOB], b"", os.EX_USAGE, "full name has a control character"),
        (["-F", "A\nB", BOB], b"", os.EX_USAGE, "full name has a control character"),
        (["-t"], b"To: a@b; c@d\n\n", os.EX_DATAERR, "To: a@b; c@d"),
        ([BOB], b"Subject: x\n\nnul \0 here\n", os.EX_DATAERR, "line 3 of the text has a NUL octet"),
        ([BOB], b"Subject: x\n\na\rb\n", os.EX_DATAERR, "line 3 of the text has a CR without LF"),
        ([BOB], b"Subject: x\n\n" + b"x" * 199_990, os.EX_DATAERR, "limits.message_size"),
        ([BOB], b"Subject: x\n\n" + b"\n" * 150_000, os.EX_DATAERR, "limits.message_size is 200000"),
        ([BOB], b"X: y\n" * 27_000 + b"\n", os.EX_DATAERR, "Header section too large"),
        (["nobody"], b"x\n", os.EX_NOUSER, f"nobody@{DOMAIN}: no such user here"),
        ([BOB, f"nobody@{DOMAIN}"], b"x\n", os.EX_NOUSER, "no such user here"),
        (["-N", "often", BOB], b"", os.EX_USAGE, "'often'"),
        (["-N", "never,delay", BOB], b"", os.EX_USAGE, "notices are never, or any of"),
        (["-R", "all", BOB], b"", os.EX_USAGE, "full or hdrs"),
        (["-V", "x" * 101, BOB], b"", os.EX_USAGE, "envelope id"),
        (["-C", "/none.toml", BOB], b"x\n", os.EX_CONFIG, "/none.toml: can't be read"),
    ],
)
def test_bad_input(refusing: Mailer, words: Sequence[str], text: bytes, status: int, complaint: str) -> None:
    mailer = refusing
    run = mailer.run(*words, text=text)
    assert (run.returncode, run.stdout) == (status, b"")
    assert run.stderr.startswith(b"sendmail: ") and complaint in run.stderr.decode()
    assert mailer.server.call("queue_count", where="state=queued")["count"] == 0 and letters(mailer.server) == []


def test_with_no_configuration_nothing_is_made(mailer: Mailer) -> None:
    """Cron calls it in any directory: no data directory may spring up there."""
    del mailer.environment["PILLARBOX_CONFIG"]
    if Path("/etc/pillarbox/pillarbox.toml").exists():
        pytest.skip("LOUD: this machine has a Pillarbox of its own")
    run = mailer.run(BOB, text=b"x\n")
    assert run.returncode == os.EX_CONFIG and b"/etc/pillarbox/pillarbox.toml" in run.stderr
    assert list(mailer.place.iterdir()) == []
    (mailer.place / "pillarbox.toml").symlink_to(mailer.server.config)
    mailer.sent(BOB, text=b"Subject: x\n\n")


def test_a_configuration_that_somebody_else_left_here_is_not_read(mailer: Mailer) -> None:
    needs_root()
    del mailer.environment["PILLARBOX_CONFIG"]
    trap = mailer.place / "pillarbox.toml"
    trap.write_text('data = "trap"\n')
    os.chown(trap, NOBODY, NOBODY)
    assert mailer.run(BOB, text=b"x\n").returncode == os.EX_CONFIG
    assert [path.name for path in mailer.place.iterdir()] == ["pillarbox.toml"]


_AS_ANOTHER = f"""
import os, sys
import pillarbox.app.daemon, pillarbox.app.cli, pillarbox.app.verbs  # while they may be read
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
sys.exit(pillarbox.app.cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("running", [False, True])
def test_who_may_not(running: bool) -> None:
    """Another user of the system: told so, whether a server runs or not."""
    needs_root()
    with TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        place.chmod(0o755)
        server = Server(place)
        server.config.chmod(0o644)
        server.cli("domain", "add", DOMAIN)
        if running:
            stack.enter_context(server)
        for words in ([BOB], ["-bp"], *([["-bs"]] if running else [])):
            command = [sys.executable, "-c", _AS_ANOTHER, "sendmail", "-C", str(server.config), *words]
            run = subprocess.run(command, input=b"x\n", cwd="/", capture_output=True, timeout=60, check=False)
            assert run.returncode == os.EX_NOPERM, (words, run.returncode, run.stderr)
            assert str(server.data).encode() in run.stderr
        server.config.chmod(0o600)
        command = [sys.executable, "-c", _AS_ANOTHER, "sendmail", "-C", str(server.config), BOB]
        run = subprocess.run(command, input=b"x\n", cwd="/", capture_output=True, timeout=60, check=False)
        assert run.returncode == os.EX_NOPERM and b"can't be read" in run.stderr
