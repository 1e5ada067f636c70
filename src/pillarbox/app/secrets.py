"""Files that hold a secret: the user and password for a next hop. What is read never reaches the log or an error."""

from __future__ import annotations

from pathlib import Path

from pillarbox.smtp.sasl import MAX_NAME, Credentials


class SecretError(Exception):
    """The file can't be used. The text names it and what it should hold."""


def read_credentials(file: Path) -> Credentials:
    """The user on the first line, the password on the second. Raises SecretError."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise SecretError(f"{file}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SecretError(f"{file}: is not UTF-8 text") from error
    if len(lines) < 2 or not lines[0] or not lines[1] or any(lines[2:]):
        raise SecretError(f"{file}: must hold a user on the first line and a password on the second")
    if max(len(line.encode()) for line in lines) > MAX_NAME or "\0" in lines[0] + lines[1]:
        raise SecretError(f"{file}: user and password have at most {MAX_NAME} octets each, and no NUL")
    return Credentials(lines[0], lines[1])
