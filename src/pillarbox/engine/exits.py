"""What the exit of a program to which a message was piped means for its recipient: the table of sysexits.h, and beyond.

A status that says something about the message or its recipient is an end; one that says something about the machine or
the setup is a delay, so that a mistake of the operator's costs no mail; so is any that nobody has defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pillarbox.core.reply import EnhancedCode, printable

MAX_TEXT = 200  # characters of the program's output that are told


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a program gave up. The class of the status says whether for now or for good."""

    status: EnhancedCode
    why: str


SYSEXITS: Mapping[int, Exit] = {
    64: Exit(EnhancedCode(4, 3, 5), "command line usage error"),  # EX_USAGE
    65: Exit(EnhancedCode(5, 6, 0), "data format error"),  # EX_DATAERR
    66: Exit(EnhancedCode(5, 3, 0), "cannot open input"),  # EX_NOINPUT
    67: Exit(EnhancedCode(5, 1, 1), "user unknown"),  # EX_NOUSER
    68: Exit(EnhancedCode(5, 1, 2), "host name unknown"),  # EX_NOHOST
    69: Exit(EnhancedCode(5, 3, 0), "service unavailable"),  # EX_UNAVAILABLE
    70: Exit(EnhancedCode(5, 3, 0), "internal software error"),  # EX_SOFTWARE
    71: Exit(EnhancedCode(4, 3, 0), "system resource problem"),  # EX_OSERR
    72: Exit(EnhancedCode(4, 3, 5), "critical system file missing"),  # EX_OSFILE
    73: Exit(EnhancedCode(5, 2, 0), "can't create user output file"),  # EX_CANTCREAT
    74: Exit(EnhancedCode(4, 3, 0), "input/output error"),  # EX_IOERR
    75: Exit(EnhancedCode(4, 3, 0), "temporary failure"),  # EX_TEMPFAIL
    76: Exit(EnhancedCode(5, 5, 0), "remote error in protocol"),  # EX_PROTOCOL
    77: Exit(EnhancedCode(5, 7, 0), "permission denied"),  # EX_NOPERM
    78: Exit(EnhancedCode(4, 3, 5), "local configuration error"),  # EX_CONFIG
    126: Exit(EnhancedCode(4, 3, 5), "a command can't be run"),  # by a shell
    127: Exit(EnhancedCode(4, 3, 5), "a command was not found"),
}
_FAULT = EnhancedCode(4, 3, 0)
CANT_START = EnhancedCode(4, 3, 5)
AN_OPTION = EnhancedCode(5, 1, 3)


def late(seconds: float) -> Exit:
    return Exit(_FAULT, f"not done within {seconds:g} s, and killed")


def meaning(status: int) -> Exit | None:
    """Of an exit status, negative for a signal; None: it is done."""
    if status == 0:
        return None
    if status < 0:
        return Exit(_FAULT, f"killed by signal {-status}")
    found = SYSEXITS.get(status)
    return Exit(_FAULT, f"exit status {status}") if found is None else Exit(found.status, f"{found.why} ({status})")


def first_line(output: bytes) -> str:
    """The first line of the output that is not empty, fit for a reply; "" where there is none."""
    lines = output.decode("utf-8", "replace").splitlines()
    return printable(next((line.strip() for line in lines if line.strip()), ""))[:MAX_TEXT]
