"""strace on a running server: attached by its id, and what it wrote read as calls in the order they happened.

A call has two moments, its begin and its end, as positions in the trace; what another thread did between them stands
between them. Without strace, or without the right to trace, the test is skipped, loudly.
"""

from __future__ import annotations

import codecs
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

from tests.live.support import needs, until

_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")
_RESULT = re.compile(r"\) += (-?\d+|\?)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PATH = re.compile(r"-?\w+<([^>]*)>")


class Strace:
    """Attached inside of the `with` block."""

    def __init__(self, pid: int, file: Path, *options: str) -> None:
        self.file = file
        self._err = file.with_name(file.name + ".err")
        self._command = [needs("strace"), "-f", "-y", "-o", str(file), *options, "-p", str(pid)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Strace:
        with self._err.open("wb") as err:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        until(self._attached, what="strace attached")
        return self

    def _attached(self) -> bool:
        assert self._process is not None
        said = self._err.read_text()
        if self._process.poll() is not None:
            if "ot permitted" in said:
                pytest.skip(f"LOUD: strace may not attach here: {said}")
            raise AssertionError(f"strace ended: {said}")
        return "attached" in said

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)  # it lets go of the server and ends
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)

    def calls(self) -> list[Call]:
        return read_calls(self.file)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. `path` is that of its first argument, `octets` its quoted arguments joined."""

    name: str
    path: str
    octets: bytes
    flags: str
    result: int  # -1: failed, or not known
    begun: int
    ended: int

    @property
    def is_sync(self) -> bool:
        return self.name in ("fsync", "fdatasync")


def read_calls(file: Path) -> list[Call]:
    """In the order in which they began."""
    with file.open(encoding="latin-1") as lines:
        return sorted(_calls(lines), key=lambda call: call.begun)


def _calls(lines: Iterator[str]) -> Iterator[Call]:
    open_calls: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        if not (match := _LINE.match(line)):
            continue
        thread, name, rest = match.groups()
        begun, before = number, ""
        if " resumed>" in line[:60] and thread in open_calls:
            begun, before = open_calls.pop(thread)
        if rest.endswith("<unfinished ...>"):
            open_calls[thread] = (number, rest.removesuffix("<unfinished ...>"))
            continue
        arguments = before + rest
        result = _RESULT.search(arguments[arguments.rfind('"') + 1 :])
        path = _PATH.match(arguments)
        quoted = _QUOTED.findall(arguments)
        yield Call(
            name=name,
            path=path[1] if path else "",
            octets=b"".join(codecs.escape_decode(text.encode("latin-1"))[0] for text in quoted),
            flags=arguments[arguments.rfind('"') + 1 :],
            result=int(result[1]) if result and result[1] != "?" else -1,
            begun=begun,
            ended=number,
        )


@dataclass(slots=True)
class Transaction:
    """What SQLite appended to its log up to a commit: the pages, and when the last of them was written."""

    pages: list[bytes]
    ended: int


FRAME_HEADER = 24  # octets, https://www.sqlite.org/fileformat2.html#the_write_ahead_log


def transactions(calls: list[Call], log: str) -> list[Transaction]:
    """The transactions in the log of that name; one whose commit frame is not there is left out."""
    found: list[Transaction] = []
    pages: list[bytes] = []
    commits = False
    for call in calls:
        if call.name != "pwrite64" or not call.path.endswith(log) or call.result < 0:
            continue
        if call.result == FRAME_HEADER:
            commits = call.octets[4:8] != b"\0\0\0\0"  # the size of the database after it
        elif call.result >= 512:
            pages.append(call.octets)
            if commits:
                found.append(Transaction(pages, call.ended))
                pages = []
    return found
