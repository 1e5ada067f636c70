"""The reports of `conform` and its command line: exit status, what is printed, and that a server's words stay words."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from pillarbox.app.cli import main
from pillarbox.app.conform.probe import Target
from pillarbox.app.conform.report import GOT, NOTE, SENT, Line, as_data, gist, transcript
from pillarbox.app.conform.report_html import render
from pillarbox.app.conform.report_terminal import progress, summary
from pillarbox.app.conform.run import Report, conform
from tests.unit.conform_peers import HOST, MAILBOX, Host, Peer

ATTACK = b"<script>alert(1)</script>\x1b[31m&amp;[bold]\x9b2J'\""


class Attacker(Host):
    """Says what might hurt a browser or a terminal, wherever a report may show it."""

    def greeting(self) -> bytes:
        return b"220 " + ATTACK + b"\r\n"

    def keywords(self) -> tuple[str, ...]:
        return (ATTACK.decode("latin-1"), *super().keywords())

    def do_EHLO(self, argument: bytes) -> bytes:
        return super().do_EHLO(argument).decode("utf-8").encode("latin-1")

    def do_NOOP(self, argument: bytes) -> bytes:
        return b"250 2.0.0 " + ATTACK + b"\r\n"


@pytest.fixture(scope="module")
def attacked() -> Report:
    with Peer.hosting(Attacker, []) as peer:
        return conform(Target(HOST, peer.port, timeout=5.0))


@pytest.fixture(scope="module")
def sound() -> Report:
    with Peer.hosting(Host, []) as peer:
        return conform(Target(HOST, peer.port, timeout=5.0, mailbox=MAILBOX))


def drawn(report: Report, *, colours: bool = False) -> str:
    console = Console(width=110, highlight=False, force_terminal=colours)
    with console.capture() as capture:
        console.print(summary(report))
    return capture.get()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.addresses += [name for name, _ in attributes if name in ("src", "href") or name.startswith("on")]


def test_html_escapes_what_a_server_says(attacked: Report) -> None:
    page = render(attacked)
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.found and "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page and "\x9b" not in page and "\\x1b[31m&amp;amp;[bold]\\x9b2J" in page


def test_html_needs_nothing_else(sound: Report) -> None:
    page = render(sound)
    tags = Tags()
    tags.feed(page)
    assert tags.addresses == [] and not re.search(r"@import|url\(|https?://", page)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    assert tags.found.count("details") == len(sound.findings) + len({f.entry.command for f in sound.pairs})
    assert all(finding.rule in unescape(page) for finding in sound.findings)


def test_html_shows_deviations_on_top_and_open(attacked: Report) -> None:
    page = render(attacked)
    first = page.index('<details class="deviates"')
    assert first < page.index("<h2>The table</h2>")
    assert "greeting-host" in page[first : page.index("<h2>The table</h2>")]


def test_the_terminal_gets_no_control_character_of_a_server(attacked: Report) -> None:
    text = drawn(attacked)
    assert "\x1b" not in text and "\x9b" not in text
    assert "\\x1b[31m&amp;[bold]\\x9b2J" in text  # nor is it read as markup
    assert "greeting-host" in text


def test_the_terminal_shows_the_table_and_the_sums(sound: Report) -> None:
    text = drawn(sound)
    assert re.search(r"^SEND +250- 552- 451- 452- 500 501- 502 ", text, re.MULTILINE)
    assert re.search(r"^RSET +200\? 250 500 501 504\? 421\?", text, re.MULTILINE)
    assert "112 classical pairs" in text and "No MUST is broken" in text
    assert "\x1b[32m250" in drawn(sound, colours=True)


def test_json_is_all_of_it(sound: Report) -> None:
    data = json.loads(json.dumps(as_data(sound)))
    assert data["target"] == str(sound.target) and data["cut"] == "" and data["broken"] == []
    assert sum(pair["classical"] for pair in data["pairs"]) == 112
    assert sum(data["counts"]["pairs"].values()) == 112
    assert sum(data["counts"]["rules"].values()) == len(data["rules"]) == len(sound.findings)
    assert {"command", "code", "class", "section", "classical", "verdict", "note"} == set(data["pairs"][0])
    assert data["keywords"]["SIZE"] == "1000000" and data["mailbox"] == MAILBOX


def test_transcripts(sound: Report) -> None:
    found = {finding.name: finding for finding in sound.findings}
    piped = transcript(found["pipelined-quit"])
    assert piped[-7:] == (
        Line(SENT, "RSET"),
        Line(SENT, "MAIL FROM:<>"),
        Line(SENT, "QUIT"),
        Line(GOT, "250 2.0.0 ok"),
        Line(GOT, "250 2.1.0 ok"),
        Line(GOT, "221 2.0.0 bye"),
        Line(NOTE, "the connection was closed"),
    )
    assert any(line.text.endswith("x... (2,005 octets)") for line in transcript(found["overlong-noop"]))
    assert Line(NOTE, "56 more lines") in transcript(found["message-64k"])
    assert gist(found["noop"])[-2:] == (Line(SENT, "NOOP"), Line(GOT, "250 2.0.0 ok"))
    assert Line(SENT, "NOOP\\x0aNOOP") in transcript(found["command-bare-lf"])


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_shows_only_on_a_terminal(terminal: bool) -> None:
    stream = io.StringIO()
    with progress(Console(file=stream, force_terminal=terminal, width=80)) as show:
        show(3, 170, "mail-null")
        show(170, 170, "")
    assert ("170/170" in stream.getvalue()) is terminal


# --- the command line


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ("conform", "required: HOST:PORT"),
        ("conform localhost", "'localhost' is not HOST:PORT, such as mx.example.org:25"),
        ("conform localhost:0", "is not HOST:PORT"),
        ("conform localhost:65536", "is not HOST:PORT"),
        ("conform ::1:25", "is not HOST:PORT"),
        ("conform a:1 --mailbox bob", "'bob': address has no @domain"),
        ("conform a:1 --from b@a_b", "'b@a_b': domain has an illegal label"),
        ("conform a:1 --helo a_b", "'a_b': domain has an illegal label"),
        ("conform a:1 --timeout 0", "'0' is not a number of seconds"),
        ("conform a:1 --timeout nan", "'nan' is not a number of seconds"),
        ("conform a:1 --timeout soon", "'soon'"),
        ("conform a:1 --verbose", "unrecognized arguments: --verbose"),
    ],
)
def test_wrong_usage_is_2(argv: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv.split())
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_exit_status_and_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.html"
    with Peer.hosting(Host, []) as peer:
        argv = ["conform", f"localhost:{peer.port}", "--timeout", "5", "--html", str(file), "--helo", "[192.0.2.7]"]
        assert main([*argv, "--from", "alice@elsewhere.example"]) == 0
        captured = capsys.readouterr()
        assert "No MUST is broken" in captured.out and captured.err == ""
        page = file.read_text(encoding="utf-8")
        assert "[192.0.2.7]" in page and "alice@elsewhere.example" in page
        assert main([*argv, "--json"]) == 0
        captured = capsys.readouterr()
    assert json.loads(captured.out)["helo"] == "[192.0.2.7]" and captured.err == ""


def test_a_broken_must_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Host):
        def do_VRFY(self, argument: bytes) -> bytes:
            return b"502 5.5.1 no\r\n"

    with Peer.hosting(Broken, []) as peer:
        assert main(["conform", f"{HOST}:{peer.port}"]) == 1
    out = capsys.readouterr().out
    assert "MUST   The required commands are implemented." in out
    assert "C: VRFY postmaster" in out and "S: 502 5.5.1 no" in out


def test_a_server_that_is_not_there_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer.hosting(Host, []) as peer:
        port = peer.port
    assert main(["conform", f"{HOST}:{port}"]) == 1
    assert capsys.readouterr().err == f"pillarbox: {HOST}:{port}: can't connect: Connection refused\n"


def test_a_server_that_gives_up_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer(lambda client: None) as peer:
        assert main(["conform", f"{HOST}:{peer.port}", "--timeout", "0.2", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.endswith("not everything was asked: the greeting: the connection was closed\n")
    assert json.loads(captured.out)["cut"] == "the greeting: the connection was closed"


def test_a_report_that_can_not_be_written_is_told_before_anybody_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Peer.hosting(Host, []) as peer:
        assert main(["conform", f"{HOST}:{peer.port}", "--html", str(tmp_path / "none" / "report.html")]) == 1
        assert peer.connections == 0
    assert "report.html: can't be written: No such file or directory" in capsys.readouterr().err
