"""Secrets from a file or from the environment: the user and password for a next hop. What is read never reaches the
log or an error.

A file is read anew at each reload; the environment of a process is as it was at its start.
"""

from __future__ import annotations

import os
from pathlib import Path

from pillarbox.app.config_values import SecretSource, Variable
from pillarbox.smtp.sasl import MAX_NAME, Credentials


class SecretError(Exception):
    """The secret can't be used. The text names its source and what it should hold."""


def read_secret(source: SecretSource) -> str:
    """The text as it stands there. Raises SecretError."""
    return _variable(source) if isinstance(source, Variable) else _file(source)


def _variable(variable: Variable) -> str:
    value = os.environb.get(variable.name.encode())
    if value is None:
        raise SecretError(f"{variable}: the environment of the server has no {variable.name}: set it and restart")
    return _text(value, variable)


def _file(path: Path) -> str:
    try:
        return _text(path.read_bytes(), path)
    except PermissionError as error:
        raise SecretError(f"{path}: can't be read: give the user that the server runs as the right to") from error
    except OSError as error:
        raise SecretError(f"{path}: can't be read: {error.strerror}") from error


def _text(octets: bytes, source: SecretSource) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SecretError(f"{source}: is not UTF-8 text") from None  # its text would show the octets


def read_credentials(source: SecretSource) -> Credentials:
    """The user on the first line, the password on the second. Raises SecretError."""
    lines = read_secret(source).splitlines()
    if len(lines) < 2 or not lines[0] or not lines[1] or any(lines[2:]):
        raise SecretError(f"{source}: must hold a user on the first line and a password on the second")
    if max(len(line.encode()) for line in lines) > MAX_NAME or "\0" in lines[0] + lines[1]:
        raise SecretError(f"{source}: user and password have at most {MAX_NAME} octets each, and no NUL")
    return Credentials(lines[0], lines[1])
