"""The command of a pipe: an argv with placeholders, and how it is filled for one recipient.

No shell ever sees it, so nothing in an address has a meaning but one: a word that begins with `-` is an option to most
programs. Invariant: a word that begins with a placeholder never becomes one, unless the operator's `--` stands before
it. Knows nothing of processes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import Recipient

EXTENSION = "+"  # what divides a local part into user and extension
_PIECE = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}|[{}]")
_BRACES = {"{{": "{", "}}": "}"}
_END_OF_OPTIONS = "--"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the placeholders of a command stand for."""

    recipient: Recipient
    sender: Mailbox | None


def _local(delivery: Delivery) -> str:
    return delivery.recipient.address.local.text


PLACEHOLDERS: Mapping[str, Callable[[Delivery], str]] = {
    "recipient": lambda delivery: str(delivery.recipient.address),
    "original_recipient": lambda delivery: str(delivery.recipient.original),
    "local": _local,
    "user": lambda delivery: _local(delivery).partition(EXTENSION)[0],
    "extension": lambda delivery: _local(delivery).partition(EXTENSION)[2],
    "domain": lambda delivery: str(delivery.recipient.address.domain),
    "sender": lambda delivery: str(delivery.sender or ""),
}


class WouldBeAnOption(ValueError):
    """A word that an address was put into begins with a hyphen."""


def check_word(word: str) -> str:
    """The word, if its placeholders are known. Raises ValueError, whose text names those that are."""
    for match in _PIECE.finditer(word):
        if match[0] not in _BRACES and match[1] not in PLACEHOLDERS:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"{match[0]} is none of {known}; a brace that stands for itself is written twice")
    return word


def filled(command: Sequence[str], delivery: Delivery) -> list[str]:
    """The argv for one recipient. Raises WouldBeAnOption."""
    words: list[str] = []
    for word in command:
        made = _PIECE.sub(lambda match: _piece(match, delivery), word)
        if made.startswith("-") and not word.startswith("-") and _END_OF_OPTIONS not in words:
            raise WouldBeAnOption(made)
        words.append(made)
    return words


def _piece(match: re.Match[str], delivery: Delivery) -> str:
    return _BRACES.get(match[0]) or PLACEHOLDERS[match[1]](delivery)
