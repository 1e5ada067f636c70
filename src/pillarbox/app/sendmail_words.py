"""The words of sendmail(8): from an argument vector to what is wanted, or to a UsageFault.

What other mailers take and what means nothing here is taken and ignored, so that programs written for any of them go
on working. Options may stand together (`-ti`), a value may be attached (`-fa@b`) or be the next word; the first word
that is no option begins the recipients. Pure: reads no input, knows no configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path


class UsageFault(ValueError):
    """The words can't be obeyed; says why."""


class Mode(Enum):
    """What is to be done."""

    SEND = "a message is read from standard input and submitted"  # -bm
    SMTP = "a session of SMTP on standard input and output"  # -bs
    LIST = "the queue is listed"  # -bp, mailq
    VERIFY = "the recipients are looked up"  # -bv
    NOTHING = "nothing: there is no alias file, and the queue runs itself"  # -bi, -I, -q, newaliases


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the words say. None and "": nothing is said of it."""

    mode: Mode = Mode.SEND
    recipients: tuple[str, ...] = ()
    sender: str | None = None
    full_name: str = ""
    from_header: bool = False  # recipients are in To, Cc and Bcc, too
    dot_ends: bool = True  # a line with a single dot ends the message
    notify: tuple[str, ...] = ()
    ret: str = ""
    envelope_id: str = ""
    config: Path | None = None
    verbose: bool = False


_MODES = {"m": Mode.SEND, "s": Mode.SMTP, "p": Mode.LIST, "v": Mode.VERIFY, "i": Mode.NOTHING}
_MODES_OF_A_SERVER = "aDdhHPt"
_IGNORED = "EGUcmnswx"
_IGNORED_WITH_VALUE = "ABDLMQSXehp"
_IGNORED_TO_THE_END = "d"  # a value only where it is attached


def _mode(wanted: Wanted, value: str) -> Wanted:
    if value in _MODES:
        return replace(wanted, mode=_MODES[value])
    if value in _MODES_OF_A_SERVER and value:
        raise UsageFault(f"-b{value} is for a server; that is `pillarbox serve`")
    raise UsageFault(f"unknown mode -b{value}")


def _option(wanted: Wanted, value: str) -> Wanted:
    """-o: by one letter. Of all there are one is obeyed."""
    return replace(wanted, dot_ends=False) if value == "i" else wanted


def _long_option(wanted: Wanted, value: str) -> Wanted:
    """-O: by name."""
    name, _, said = value.partition("=")
    ignores_dots = name.strip().lower() == "ignoredots" and said.strip().lower() in ("", "true", "yes", "1")
    return replace(wanted, dot_ends=False) if ignores_dots else wanted


def _notify(wanted: Wanted, value: str) -> Wanted:
    return replace(wanted, notify=tuple(word.strip() for word in value.split(",")))


_WITH_VALUE: Mapping[str, Callable[[Wanted, str], Wanted]] = {
    "b": _mode,
    "C": lambda wanted, value: replace(wanted, config=Path(value)),
    "F": lambda wanted, value: replace(wanted, full_name=value),
    "f": lambda wanted, value: replace(wanted, sender=value),
    "N": _notify,
    "O": _long_option,
    "o": _option,
    "R": lambda wanted, value: replace(wanted, ret=value),
    "r": lambda wanted, value: replace(wanted, sender=value),
    "V": lambda wanted, value: replace(wanted, envelope_id=value),
    **{letter: lambda wanted, value: wanted for letter in _IGNORED_WITH_VALUE},
}
_ALONE: Mapping[str, Callable[[Wanted], Wanted]] = {
    "I": lambda wanted: replace(wanted, mode=Mode.NOTHING),
    "i": lambda wanted: replace(wanted, dot_ends=False),
    "t": lambda wanted: replace(wanted, from_header=True),
    "v": lambda wanted: replace(wanted, verbose=True),
    **{letter: lambda wanted: wanted for letter in _IGNORED},
}


_NOTHING_SAID = Wanted()


def parse(words: Sequence[str], start: Wanted = _NOTHING_SAID) -> Wanted:
    """What the words behind the name of the program say. Raises UsageFault."""
    wanted = start
    rest = iter(words)
    for word in rest:
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            return replace(wanted, recipients=(word, *rest))
        if word.startswith("--"):
            raise UsageFault(f"unknown option {word}")
        wanted = _bundle(wanted, word[1:], rest)
    return replace(wanted, recipients=tuple(rest))


def _bundle(wanted: Wanted, letters: str, rest: Iterator[str]) -> Wanted:
    """One word of options, with the next word for a value that is not attached."""
    for at, letter in enumerate(letters):
        attached = letters[at + 1 :]
        if letter == "q":  # an interval or a selection may be attached
            return replace(wanted, mode=Mode.NOTHING) if wanted.mode is Mode.SEND else wanted
        if letter in _IGNORED_TO_THE_END:
            return wanted
        if letter in _WITH_VALUE:
            value = attached or next(rest, None)
            if value is None:
                raise UsageFault(f"option -{letter} needs a value")
            return _WITH_VALUE[letter](wanted, value)
        if letter not in _ALONE:
            raise UsageFault(f"unknown option -{letter}")
        wanted = _ALONE[letter](wanted)
    return wanted
