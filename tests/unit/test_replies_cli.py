"""`pillarbox replies`: the whole table, one command, one code, as text, as JSON and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pillarbox.app.cli import main
from pillarbox.core.table import COMMANDS, TABLE, describe, find

PROGRAM = [sys.executable, "-c", "from pillarbox.app.cli import main; raise SystemExit(main())"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without configuration, and it stays so."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_whole_table_has_a_line_for_each_pair_and_a_total(
    capsys: pytest.CaptureFixture[str], nowhere: Path
) -> None:
    assert main(["replies"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert total == f"112 classical pairs, {len(TABLE) - 112} later ones"
    assert len(lines) == len(TABLE)
    for line, entry in zip(lines, TABLE, strict=True):
        command, code, klass, since, *_ = line.split()
        assert (command, code, klass) == (entry.command, str(entry.code), entry.klass.name.lower())
        assert since == ("classical" if entry.classical else "later")
        assert " ".join(entry.enhanced) in line and entry.condition in line and line.endswith(entry.source)
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize("word", ["SAML", "saml", "data", ".", "connect", "552", "421"])
def test_a_word_gives_what_help_gives(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replies", word]) == 0
    assert capsys.readouterr().out.splitlines() == list(describe(word))


def test_neither_configuration_nor_data_is_looked_at(capsys: pytest.CaptureFixture[str], nowhere: Path) -> None:
    (nowhere / "pillarbox.toml").write_text("hostnam = 5\n")
    assert main(["replies", "QUIT", "--config", "none.toml"]) == 0
    assert main(["replies", "QUIT"]) == 0
    first, _, second = capsys.readouterr().out.partition("Syntax: QUIT\n")[2].partition("Syntax: QUIT\n")
    assert first == second != ""


@pytest.mark.parametrize(("word", "count"), [("", len(TABLE)), ("DATA", len(find("DATA"))), ("552", 7)])
def test_json_has_each_pair_as_data(word: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replies", *word.split(), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data) == count
    wanted = TABLE if not word else find(word)
    assert [(each["command"], each["code"], each["condition"]) for each in data] == [
        (entry.command, entry.code, entry.condition) for entry in wanted
    ]


def test_json_of_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replies", "NOOP", "--json"]) == 0
    entry = find("NOOP")[0]
    assert json.loads(capsys.readouterr().out)[0] == {
        "command": "NOOP",
        "code": 200,
        "class": "success",
        "enhanced": ["2.0.0"],
        "condition": entry.condition,
        "source": "RFC 876",
        "classical": True,
        "classic_only": True,
    }


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("samm", "replies samm: no such command or code, did you mean SAML?"),
        ("EHLLO", "did you mean EHLO?"),
        ("5522", "did you mean 552?"),
        ("?!", "replies ?!: no such command or code; without either the whole table is shown"),
        ("", "no such command or code"),
    ],
)
def test_an_unknown_word_is_wrong_usage(word: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replies", word]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err and not captured.out


def test_two_words_are_wrong_usage() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replies", "MAIL", "552"])
    assert caught.value.code == 2


# --- on a terminal


def on_a_terminal(*argv: str, columns: int) -> str:
    """What the program writes on a terminal so wide; its escape sequences stay in."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "24"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([*PROGRAM, *argv], stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        written = b""
        try:
            while octets := os.read(master, 65536):
                written += octets
        except OSError:  # how Linux says that the other end is closed
            pass
        finally:
            os.close(master)
    assert process.returncode == 0, written
    return written.decode().replace("\r\n", "\n")


def test_on_a_terminal_the_table_is_wrapped_and_the_later_pairs_are_dim() -> None:
    text = on_a_terminal("replies", columns=90)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 90
    assert re.findall(r"^\x1b\[1m(\S+)\x1b\[0m  ", text, re.M) == list(COMMANDS)
    assert [int(code) for code in re.findall(r"^(\d{3})  (?:succ|inter|fail|err)", plain, re.M)] == [
        entry.code for entry in TABLE
    ]
    assert text.count("\x1b[2mlater") == len(TABLE) - 112 and plain.count(" classical  ") == 112
    assert plain.endswith(f"112 classical pairs, {len(TABLE) - 112} later ones\n")


def test_on_a_terminal_a_description_is_wrapped() -> None:
    text = on_a_terminal("replies", "SAML", columns=60)
    assert max(map(len, text.splitlines())) <= 60
    assert " ".join(text.split()) == " ".join(describe("SAML"))
