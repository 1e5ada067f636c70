"""Files with a user and a password: what is taken, and that no error says what they hold."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from pillarbox.app.config_values import Variable
from pillarbox.app.secrets import SecretError, read_credentials
from pillarbox.smtp.sasl import MAX_NAME, Credentials

LONG = "ü" * (MAX_NAME // 2)  # octets count, not characters


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("user\npassword\n", Credentials("user", "password")),
        ("user\npassword", Credentials("user", "password")),
        ("user\r\npassword\r\n", Credentials("user", "password")),
        ("user\npassword\n\n\n", Credentials("user", "password")),
        ("us er@example.test\n pass word \n", Credentials("us er@example.test", " pass word ")),
        ("jürgen\npässwort\n", Credentials("jürgen", "pässwort")),
        (f"{LONG}\n{LONG}\n", Credentials(LONG, LONG)),
    ],
)
def test_what_is_taken(tmp_path: Path, text: str, credentials: Credentials) -> None:
    file = tmp_path / "secret"
    file.write_bytes(text.encode())
    assert read_credentials(file) == credentials


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"", "must hold a user on the first line and a password on the second"),
        (b"hush\n", "must hold a user"),
        (b"\nhush\n", "must hold a user"),
        (b"hush\n\n", "must hold a user"),
        (b"hush\nhush\nhush\n", "must hold a user"),
        (b"hush\nhu\xffsh\n", "is not UTF-8 text"),
        (b"hush\n" + b"hush" * 64, "at most 255 octets each, and no NUL"),
        (LONG.encode() + b"xx\nhush\n", "at most 255 octets each, and no NUL"),
        (b"hush\nhu\0sh\n", "and no NUL"),
        (b"hu\0sh\nhush\n", "and no NUL"),
    ],
)
def test_what_is_not(tmp_path: Path, octets: bytes, said: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(octets)
    with pytest.raises(SecretError) as caught:
        read_credentials(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ") and said in text
    assert "hush" not in text.replace(str(file), "")


def test_a_file_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SecretError, match=f"can't be read: {said}"):
            read_credentials(path)


def test_the_environment_holds_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SECRET", "jürgen\npässwort\n")
    assert read_credentials(Variable("RELAY_SECRET")) == Credentials("jürgen", "pässwort")
    monkeypatch.setenv("RELAY_SECRET", "hush hush")
    with pytest.raises(SecretError) as caught:
        read_credentials(Variable("RELAY_SECRET"))
    assert str(caught.value).startswith("env:RELAY_SECRET: must hold a user") and "hush" not in str(caught.value)
    monkeypatch.delenv("RELAY_SECRET")
    with pytest.raises(SecretError, match=r"^env:RELAY_SECRET: the environment of the server has no RELAY_SECRET"):
        read_credentials(Variable("RELAY_SECRET"))


def test_no_traceback_of_octets_that_are_no_text_shows_them(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"hush\nhu\xffsh\n")
    with pytest.raises(SecretError) as caught:
        read_credentials(file)
    assert "hush" not in "".join(traceback.format_exception(caught.value)).replace(str(tmp_path), "")
