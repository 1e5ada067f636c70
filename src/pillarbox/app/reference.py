"""The pages that are made from the code: `python -m pillarbox.app.reference [DIRECTORY]`, by default in `docs`.

`configuration.md` from the fields of `config.py`, `cli.md` from the parser of `cli`, `replies.md` from `core/table.py`,
`states.md` from the tables of `smtp/states.py`. Nothing is said here that is said there; a test holds the committed
pages against what this gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pillarbox.app.cli import parser
from pillarbox.app.config import Config
from pillarbox.app.config_keys import REQUIRED, Section, Setting, documented
from pillarbox.app.config_values import shown
from pillarbox.core.table import COMMANDS, TABLE, Command, Entry
from pillarbox.smtp.states import CLIENT_ANSWERED, CLIENT_SENT, SERVER, ClientState, ServerState, Verb

DIRECTORY = Path("docs")
_MADE = "<!-- Made by `make docs` from the code; edit {} instead. -->\n"


def pages() -> Mapping[str, str]:
    """The text of each page by its place in the documentation."""
    return {
        "reference/configuration.md": "\n".join(_configuration()),
        "reference/cli.md": "\n".join(_cli()),
        "reference/replies.md": "\n".join(_replies()),
        "explanation/states.md": "\n".join(_states()),
    }


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")


# --- configuration.md

_CONFIGURATION = """\
# Configuration

`pillarbox.toml` in the current directory, or the file that `--config` names; without either the defaults below hold.
It is TOML. Every key may be left out but those marked as required. A key or value that is not known is an error that
names the line, the key, what is allowed and what was probably meant; all errors are shown at once, and nothing is
started.
"""


def _configuration() -> Iterator[str]:
    yield _MADE.format("`src/pillarbox/app/config.py`")
    yield _CONFIGURATION
    sections = []
    for _, known in documented(Config):
        if isinstance(known, Section):
            sections.append(known)
        else:
            yield from _setting(known, "##")
    for section in sections:
        yield from _section(section, section.key)
    yield ""


def _section(section: Section, name: str) -> Iterator[str]:
    yield f"## `[[{name}]]`\n" if section.many else f"## `[{name}]`\n"
    yield f"{section.doc}\n"
    inner = []
    for _, known in documented(section.table):
        if isinstance(known, Section):
            inner.append(known)
        else:
            yield from _setting(known, "###")
    for below in inner:
        yield from _section(below, f"{name}.{below.key}")


def _setting(known: Setting, level: str) -> Iterator[str]:
    yield f"{level} `{known.key}`\n"
    yield f"{known.doc}\n"
    if known.default is REQUIRED:
        yield "- Required."
    elif known.default is not None:
        yield f"- Default: `{shown(known.default)}`"
    yield f"- Allowed: {'a list, each ' if known.many else ''}{known.kind.allowed}\n"


# --- cli.md

_CLI = """\
# The command line

`pillarbox` is the one program. A verb that asks or changes something reaches the running server over `control.sock`
in its data directory; with none running it works on the data itself, under a lock. `--config` and `--json` stand
behind the verb. In JSON times are seconds since the epoch and sizes are octets.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.

WHERE is one or more terms `field=value`, all of which must hold: `id`, `sender`, `recipient`, `domain`, `lane`, and
`state`, which is one of `queued` (not settled: the default), `scheduled`, `deferred` (scheduled, and tried before),
`active`, `delivered`, `failed`, `expired`.
"""


def _cli() -> Iterator[str]:
    yield _MADE.format("`src/pillarbox/app/cli/`")
    yield _CLI
    for verb in _verbs(parser()):
        yield f"## `{verb.prog}`\n"
        yield f"{verb.description}\n"
        yield f"```\n{_usage(verb)}\n```\n"
        arguments = [
            action for action in verb._actions if action.help and action.dest not in ("help", "config", "json")
        ]
        yield from (f"- `{_name(action)}`: {action.help}" for action in arguments)
        if arguments:
            yield ""


def _verbs(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The verbs that do something: those with no verb below them."""
    below = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield top
    for action in below:
        for verb in action.choices.values():
            yield from _verbs(verb)


def _usage(verb: argparse.ArgumentParser) -> str:
    """The usage on one line; argparse breaks it by the width of the terminal and the version of Python."""
    words = [verb.prog]
    for action in verb._actions:
        if action.dest != "help":
            words.append(_bracketed(action))
    return " ".join(words)


def _bracketed(action: argparse.Action) -> str:
    name = _name(action)
    if action.nargs in ("+", "*"):
        name += "..."
    return name if action.required else f"[{name}]"


def _name(action: argparse.Action) -> str:
    metavar: Any = action.metavar
    if not action.option_strings:
        return str(metavar)
    return f"{action.option_strings[0]} {metavar}" if metavar else action.option_strings[0]


# --- replies.md

_REPLIES = """\
# Commands and replies

Every reply that this server gives to a command, and when. The commands stand in the order of the classical table, with
its {classical} pairs of a command and a code: those of RFC 821 section 4.3, of EHLO, 200 (RFC 876), 521 (RFC 1846), and
252 for VRFY. The {later} other pairs came later; some are listed because a standard allows them, and say that this
server does not give them. `pillarbox replies COMMAND` and `pillarbox replies CODE` print the same facts, and so does
HELP over SMTP.

Success: done. Intermediate: go on. Failure: the command was understood and can't be carried out. Error: the command was
not understood, is not offered, or may not come now. Where several enhanced codes may go with a code, the condition says
which; greetings, replies to HELO and EHLO, and 334 and 354 have none. Keys of the configuration are in the
[reference](configuration.md).
"""


def _replies() -> Iterator[str]:
    yield _MADE.format("`src/pillarbox/core/table_mail.py` and `table_other.py`")
    classical = sum(entry.classical for entry in TABLE)
    yield _REPLIES.format(classical=classical, later=len(TABLE) - classical)
    for command in COMMANDS.values():
        yield from _command(command)


def _command(command: Command) -> Iterator[str]:
    name = f"`{command.name}`" if command.name == "." else command.name
    yield f"## {name}\n"
    yield f"```\n{command.syntax}\n```\n"
    yield f"{command.summary} {command.source}.\n"
    yield "| code | class | since | enhanced codes | when | source |\n| --- | --- | --- | --- | --- | --- |"
    yield from (_pair(entry) for entry in TABLE if entry.command == command.name)
    yield ""


def _pair(entry: Entry) -> str:
    since = "classical" if entry.classical else "later"
    cells = (entry.code, entry.klass.name.lower(), since, " ".join(entry.enhanced), entry.condition, entry.source)
    return f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in cells)} |"


# --- states.md

_STATES = """\
# The states of a connection

Which commands may come in which state, and which state follows, by the first digit of the reply. A digit that is not
named leaves the state as it is, and so do the commands that stand in the table and not in the diagram. `connect` stands
for the connection and its greeting, `.` for the end of a message. A command that may not come in a state gets 503; DATA
when every recipient was refused gets 554.

## The server

Any reply that closes the channel, such as 421, leads to CLOSED.
"""
_CLIENT = """\
## The client

A command leads on when it is sent, a reply (with its first digit) when it comes. A reply 421 leads to CLOSED.
"""
_State = ServerState | ClientState


def _states() -> Iterator[str]:
    yield _MADE.format("`src/pillarbox/smtp/states.py`")
    yield _STATES
    answered = [(state, verb, ends) for state, verbs in SERVER.items() for verb, ends in verbs.items()]
    yield from _diagram(ServerState.CONNECT, _edges(answered))
    yield "| state | commands that may come |\n| --- | --- |"
    for state, verbs in SERVER.items():
        yield f"| {state.name} | {', '.join(verb.value for verb in verbs)} |"
    yield ""
    yield _CLIENT
    sent = [(state, end, verb.value) for state, verbs in CLIENT_SENT.items() for verb, end in verbs.items()]
    replies = [(state, verb, ends) for state, verbs in CLIENT_ANSWERED.items() for verb, ends in verbs.items()]
    yield from _diagram(ClientState.CONNECT, [*sent, *_edges(replies)])
    yield "| state | commands that may be sent |\n| --- | --- |"
    for client_state, may in CLIENT_SENT.items():
        yield f"| {client_state.name} | {', '.join(verb.value for verb in may)} |"
    yield ""


def _edges(rows: Iterable[tuple[_State, Verb, Mapping[int, _State]]]) -> Iterator[tuple[_State, _State, str]]:
    """From, to, and the command with the replies that lead there."""
    for state, verb, ends in rows:
        for end in dict.fromkeys(ends.values()):
            yield state, end, f"{verb.value} {', '.join(f'{digit}yz' for digit in ends if ends[digit] is end)}"


def _diagram(first: _State, edges: Iterable[tuple[_State, _State, str]]) -> Iterator[str]:
    """One arrow for each pair of states, with all that leads from the one to the other."""
    labels: dict[tuple[_State, _State], list[str]] = {}
    for state, end, label in edges:
        if state is not end:
            labels.setdefault((state, end), []).append(label)
    yield f"```mermaid\nstateDiagram-v2\n    [*] --> {first.name}"
    yield from (f"    {state.name} --> {end.name}: {' / '.join(texts)}" for (state, end), texts in labels.items())
    yield "```\n"


if __name__ == "__main__":
    main()
