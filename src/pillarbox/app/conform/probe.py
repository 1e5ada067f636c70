"""The values that `conform` is made of: a probe, what came of it, and how that is judged.

Frozen data; says nothing to anybody. A script is a sequence of steps, each one write and the replies that it is due;
its texts are templates, filled in from Facts. A verdict has a level: how strongly the RFC speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from pillarbox.app.conform.wire import Answer, Lost, Outcome
from pillarbox.core.table import COMMANDS

MESSAGE = "."  # the command that the end of a message stands for
NOBODY = ""  # in place of a command: nothing was asked
_VERBS = frozenset(name for name in COMMANDS if name.isupper())


class Verdict(Enum):
    CONFORMS = "conforms"
    DEVIATES = "deviates"
    NOT_OFFERED = "not offered"
    NOT_PROVOKED = "not provoked"


class Level(Enum):
    """How strongly the RFC speaks: by a key word of RFC 2119, or in its grammar and tables alone."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"
    TABLE = "table"


class State(Enum):
    """What a probe needs a session to be in."""

    GREETED = "greeted"  # in whatever way; a probe without a script is about the greeting
    FRESH = "fresh"  # greeted, HELO or EHLO not said
    READY = "ready"  # EHLO said, no transaction open
    REFUSED = "refused"  # greeted with 5yz


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and as whom."""

    host: str
    port: int
    timeout: float = 10.0  # seconds for a reply
    deadline: float = 600.0  # seconds for all probes
    helo: str | None = None  # default: this machine's name where it is a full one, else the address
    sender: str = ""  # the null reverse-path
    mailbox: str | None = None  # the one that messages may go to

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the server, and what templates are filled in from."""

    fields: Mapping[str, str]
    keywords: Mapping[str, str]  # offered in its reply to EHLO, upper case, with their parameters
    timeout: float  # seconds that a reply was waited for
    greeting: Answer | None = None
    extended: bool = False  # EHLO was accepted

    def fill(self, template: str) -> bytes:
        """A template's octets; a character of it is one."""
        return template.format_map(self.fields).encode("latin-1")

    def offers(self, keyword: str) -> bool:
        return keyword in self.keywords


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was sent, and what came. `command`: a key of COMMANDS, or NOBODY for a reply that nobody asked for.

    `piped`: it went out in one write with the one before. `early`: the reply came before all was sent that it was due
    for. `closes`: after a 421, whether the connection was closed.
    """

    probe: str
    command: str
    sent: bytes
    outcome: Outcome
    piped: bool = False
    early: bool = False
    closes: bool | None = None

    @property
    def code(self) -> int:
        """0 where there was no reply."""
        return self.outcome.code if isinstance(self.outcome, Answer) else 0

    @property
    def answered(self) -> str:
        """What came, in a few words."""
        outcome = self.outcome
        return outcome.loss.text if isinstance(outcome, Lost) else f"answered {outcome.code:03}"


@dataclass(frozen=True, slots=True)
class Step:
    """One write, and the commands whose replies it is due, in that order.

    `premise`: the first digit that they must have, or the probe proves nothing; 0 for any. `to_the_end`: afterwards
    everything is read up to the end of the connection. `halting`: of a server that does not pipeline, the first piece
    is sent alone, and no more where that is answered: such a server may object to whatever comes behind it.
    """

    pieces: tuple[str, ...]
    commands: tuple[str, ...]
    premise: int = 0
    to_the_end: bool = False
    halting: bool = False


def command_of(line: str) -> str:
    """The key of the table for a command line."""
    word = line.split(" ", 1)[0].rstrip("\r\n").upper()
    return word if word in _VERBS else "unknown"


def say(*lines: str, premise: int = 0) -> Step:
    """Command lines, in one write; each is due a reply."""
    return Step(tuple(f"{line}\r\n" for line in lines), tuple(map(command_of, lines)), premise)


def given(*lines: str) -> Step:
    """Commands that have to succeed before the probe means anything."""
    return say(*lines, premise=3 if lines[-1] == "DATA" else 2)


def raw(text: str, command: str) -> Step:
    """Octets as they are, due one reply."""
    return Step((text,), (command,))


def halting(first: str, rest: str, command: str) -> Step:
    """Octets as they are, due one reply, and none for the first of them."""
    return Step((first, rest), (command,), halting=True)


def finish(*lines: str) -> Step:
    """Command lines in one write, the last of them QUIT; then all that comes is read."""
    return replace(say(*lines or ("QUIT",)), to_the_end=True)


@dataclass(frozen=True, slots=True)
class Course:
    """What came of a script: as many exchanges as there were, fewer than planned when the connection was lost."""

    exchanges: tuple[Exchange, ...]
    facts: Facts
    tail_at: int = 0  # where those of the last step begin
    due: int = 0  # replies that the last step was due

    @property
    def tail(self) -> tuple[Exchange, ...]:
        return self.exchanges[self.tail_at :]

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]


@dataclass(frozen=True, slots=True)
class Ruling:
    verdict: Verdict
    note: str


Judge = Callable[[Course], Ruling]


@dataclass(frozen=True, slots=True)
class Probe:
    """A rule, and how it is tried. `rule` says what a server is to do, in a sentence that stands alone."""

    name: str
    rule: str
    section: str
    level: Level
    script: tuple[Step, ...]
    judge: Judge
    state: State = State.READY
    needs: str = ""  # a keyword that must be offered
    delivers: bool = False  # needs a mailbox that mail may go to
    judges_loss: bool = False  # the judge knows what to make of a lost connection
    alone: bool = False  # has a connection of its own
    hostile: bool = False  # a server may defend itself by closing


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule, the verdict on it, and the exchanges that show it."""

    name: str
    group: str
    rule: str
    section: str
    level: Level
    verdict: Verdict
    note: str
    transcript: tuple[Exchange, ...] = ()

    @property
    def breaks_must(self) -> bool:
        return self.verdict is Verdict.DEVIATES and self.level is Level.MUST


Progress = Callable[[int, int, str], None]
