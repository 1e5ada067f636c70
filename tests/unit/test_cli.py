"""The command line on data at rest: what it prints, and with which exit status it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from pillarbox.app.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    return tmp_path


def given(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ("", "required: VERB"),
        ("sing", "invalid choice: 'sing'"),
        ("domain", "required: ACTION"),
        ("domain add", "required: DOMAIN"),
        ("domain list --relay", "unrecognized arguments: --relay"),
        ("send --from a@localhost", "required: --to"),
        ("queue --limit 0", "invalid"),
        ("queue list --bogus", "unrecognized arguments: --bogus"),
    ],
)
def test_wrong_usage_is_2(argv: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv.split())
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        ("queue flush", 2, "no such action; allowed: list, count, top, retry, hold, release, bounce, drop, reroute"),
        ("queue drop --text x", 2, "queue drop: it has no --text"),
        ("queue retry --next-hop mx", 2, "queue retry: it has no --next-hop"),
        ("queue reroute", 2, "queue reroute: --next-hop is missing; as in a route, or routes to take one back"),
        ("queue reroute --next-hop nowhere", 2, "queue reroute: next hop 'nowhere' is none of mx, smtp://HOST"),
        ("queue reroute --next-hop turn", 2, "queue reroute: turn needs a route in the configuration"),
        ("queue bounce --status 4.0.0", 2, "queue bounce: --status 4.0.0: a status of failure begins with 5"),
        ("queue bounce --status x", 2, "queue bounce: --status x: not an enhanced status code"),
        ("queue bounce --text ü", 2, "queue bounce: --text must be one line of ASCII"),
        ("queue stat=x", 2, "unknown field 'stat', did you mean state?"),
        ("domain add a_b", 2, "a_b: domain has an illegal label"),
        ("user add alice", 2, "alice: address has no @domain"),
        ("user add bob@example.test", 1, "pillarbox domain add example.test"),
        ("domain remove example.test", 1, "example.test"),
        ("why nothing", 1, "nothing is known of nothing"),
        ("show 000000000000", 1, "no message 000000000000 here"),
        ("send --from <> --to a@localhost none.txt", 1, "none.txt: No such file or directory"),
        ("domain list --config none.toml", 1, "none.toml: can't be read"),
    ],
)
def test_refusals(argv: str, status: int, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv.split()) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("pillarbox: ") and complaint in captured.err and not captured.out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out.startswith("pillarbox ")


def test_the_directory_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        ("domain add Example.test", "added Example.test\n"),
        ("user add bob@example.test --name Bob", "added bob@example.test\n"),
        ("alias add @example.test bob@example.test carol@example.org --json", '{"address": "@example.test",'),
        ("user list", "alice@localhost\nbob@example.test  Bob\n"),
        ("alias remove @example.test", "removed @example.test\n"),
        ("user remove bob@example.test", "removed bob@example.test\n"),
        ("domain remove example.test", "removed example.test\n"),
        ("user list --json", '[{"address": "alice@localhost", "name": ""}]\n'),
    ]
    for argv, expected in steps:
        assert main(argv.split()) == 0
        assert capsys.readouterr().out.startswith(expected)


def test_a_message_waits_for_the_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    given(b"Subject: Hello\n\nHello \xff\n", monkeypatch)
    assert main(["send", "--from", "<>", "--to", "anybody@localhost", "--json"]) == 0
    message = json.loads(capsys.readouterr().out)["id"]
    # argparse would leave a term behind an option over
    assert main(["queue", "list", "--json", f"id={message}", "state=scheduled"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["address"], row["original"], row["state"]) == ("alice@localhost", "anybody@localhost", "scheduled")
    for argv, expected in [
        (["queue", "count", "--json"], '{"count": 1}\n'),
        (["queue", "domain=localhost"], message),
        (["queue", "retry", "state=deferred"], "0 recipients are due now\n"),
        (["why", message], f'Message {message} "Hello"\n'),
        (["show", message, "--json"], '{"message": '),
    ]:
        assert main(argv) == 0
        assert capsys.readouterr().out.startswith(expected)


def test_unknown_local_users_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main(["domain", "add", "example.test"])
    given(b"Hello\n", monkeypatch)
    assert main(["send", "--from", "a@localhost", "--to", "nobody@example.test"]) == 1
    assert capsys.readouterr().err == "pillarbox: nobody@example.test: no such user here\n"


def test_check_finds_what_is_wrong_with_the_configuration(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "pillarbox.toml").write_text("hostnam = 5\n\n[limits]\nerrors = 0\n")
    assert main(["check", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert [finding["level"] for finding in findings] == ["ok", "fail", "fail"]
    assert "pillarbox.toml:1: hostnam: unknown key" in findings[1]["what"]
