"""docs/conformance.md: the matrix, and each claimed deviation with its judgement. Knows nothing of how they came about.

What a server said is cut, and made harmless for a table; what it says of itself is not interpreted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pillarbox.core.table import TABLE
from tests.conformance.judgements import JUDGEMENTS, Judgement
from tests.conformance.servers import Result

_LEVELS = ("MUST", "SHOULD", "table")
_VERDICTS = ("conforms", "not offered", "not provoked")
_ROWS = tuple(dict.fromkeys(entry.command for entry in TABLE if entry.classical))
_ANSWERED = re.compile(r"answered (\d{3})")
_SHOWN = 90  # characters of what a server said

HEAD = """\
<!-- Made by `python -m tests.conformance --write`; edit `tests/conformance/` instead. -->

# Conformance

`pillarbox conform` ([how to](how-to/check-a-server.md)) walked the command and reply table, and the rules of the RFCs,
against five servers on one machine, on {date}. It saw each as a stranger does, over one TCP port, and could have
mail delivered to one mailbox.

## What this does not say

The figures are no marks. A server that offers less has fewer pairs to show: EXPN, HELP, SEND, SOML, SAML, TURN and ETRN
are optional, and leaving them out is sound. A pair that was not seen says nothing against a server: most need a
condition that nobody can make from outside, such as a full disk, a full mailbox, or a server that is shutting down.

Each server is a black box here, as it comes or as near to that as it gets. One option often changes much; where that
was tried, the tables say so. A deviation is one from the text of an RFC, and may be wise: some rules are old, and
several of those broken here are broken on purpose, for the sake of clients that break them, too. How well a server
keeps mail, how fast it is and how safe, was not asked.

The table, and the probes made of it, are ours. Pillarbox was written to keep them, so that it has no deviation is no
surprise; what its column shows is which pairs can be seen from outside when all commands are on.
"""
SERVERS = """\
## The servers

{table}
No TLS and no password was used. The client was on the loopback, called itself `{helo}` and gave no sender.
"""
MATRIX = """\
## The classical table

How many of the pairs of a command and a reply were seen. RFC 821 section 4.3 has 16 rows; that of DATA stands here as
two, the command and the message.

{table}
The pairs of Pillarbox that can't be seen from outside are tested all the same: `tests/live/test_every_pair.py` provokes
each of the 112 on a live server, for the reason that [the table](reference/replies.md) gives.
"""
CLAIMS = """\
Each claim below was laid beside the text of the RFC by hand. Sections without the number of an RFC are those of RFC
5321. A claim that turned out wrong is not here: its rule was mended.
"""
AGAIN = """\
## To run it again

```
.venv/bin/python -m tests.conformance            # to look at
.venv/bin/python -m tests.conformance --write    # and to renew this page
```

as root on Debian, because the servers exclude each other and none is installed: each is unpacked, and runs in a mount
namespace of its own. `--servers` asks some of them only. A deviation that is not judged yet is an error.
"""


def render(results: Sequence[Result], date: str) -> str:
    parts = [HEAD.format(date=date), _servers(results), _matrix(results), _counts(results), *_deviations(results)]
    return "\n".join([*parts, AGAIN])


def dated(result: Result) -> str:
    return datetime.fromtimestamp(result.report["started"], UTC).strftime("%Y-%m-%d")


def unjudged(results: Sequence[Result]) -> list[str]:
    """The claims that nobody has judged."""
    claimed = {(rule["name"], result.server.name) for result in results for rule in result.deviations}
    return sorted(f"{server}: {name}" for name, server in claimed if name not in JUDGEMENTS)


def idle(results: Sequence[Result]) -> list[str]:
    """The judgements that no claim needs; of a run of all servers alone."""
    claimed = {rule["name"] for result in results for rule in result.deviations}
    return sorted(set(JUDGEMENTS) - claimed)


# --- the tables


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _servers(results: Sequence[Result]) -> str:
    rows = [(result.server.name, result.server.version, result.server.configured) for result in results]
    return SERVERS.format(table=_table(("server", "version", "configuration"), rows), helo=results[0].report["helo"])


def _matrix(results: Sequence[Result]) -> str:
    sizes = Counter(entry.command for entry in TABLE if entry.classical)
    seen = [Counter(_seen(result)) for result in results]
    rows = [(_name(row), *(f"{count[row]}" for count in seen), str(sizes[row])) for row in _ROWS]
    rows.append(("**all**", *(f"**{count.total()}**" for count in seen), f"**{sizes.total()}**"))
    return MATRIX.format(table=_table(("command", *(result.server.name for result in results), "of"), rows))


def _name(command: str) -> str:
    return {"connect": "(a connection)", ".": "(the message)"}.get(command, command)


def _seen(result: Result) -> Iterator[str]:
    for pair in result.report["pairs"]:
        if pair["classical"] and pair["verdict"] == "conforms":
            yield pair["command"]


def _counts(results: Sequence[Result]) -> str:
    rows = [(f"deviates from a {level}", *_broken(results, level)) for level in _LEVELS[:2]]
    rows.append(("deviates in grammar or lists", *_broken(results, _LEVELS[2])))
    for verdict in _VERDICTS:
        counts = [result.report["counts"]["rules"][verdict] for result in results]
        rows.append((verdict, *(str(count) for count in counts)))
    return "## The rules\n\n" + _table(("verdict", *(result.server.name for result in results)), rows)


def _broken(results: Sequence[Result], level: str) -> tuple[str, ...]:
    return tuple(str(sum(rule["level"] == level for rule in result.deviations)) for result in results)


# --- the deviations


def _deviations(results: Sequence[Result]) -> Iterator[str]:
    titles = {
        "MUST": "## Deviations from a MUST",
        "SHOULD": "## Deviations from a SHOULD",
        "table": "## Deviations in grammar or lists",
    }
    yield CLAIMS
    for level in _LEVELS:
        rows = [_row(name, claims) for name, claims in _claims(results, level).items()]
        if rows:
            yield f"{titles[level]}\n\n{_table(('rule', 'RFC', 'server and answer', 'judgement'), rows)}"


Claims = list[tuple[str, dict[str, Any]]]


def _claims(results: Sequence[Result], level: str) -> dict[str, Claims]:
    """By the rule's name: the servers, and what the report says."""
    found: dict[str, Claims] = {}
    for result in results:
        for rule in result.deviations:
            if rule["level"] == level:
                found.setdefault(rule["name"], []).append((result.server.name, rule))
    return found


def _row(name: str, claims: Claims) -> tuple[str, ...]:
    rule = claims[0][1]
    section = re.sub(r" sections? ", ", ", rule["section"]).removeprefix("RFC 5321, ")
    answers = "<br>".join(f"{server}: {_answer(found)}" for server, found in claims)
    judgement = JUDGEMENTS.get(name, Judgement("not judged yet"))
    remarks = [f"{server}: {judgement.remarks[server]}" for server, _ in claims if server in judgement.remarks]
    return f"`{name}`: {_harmless(rule['rule'])}", section, answers, "<br>".join((judgement.text, *remarks))


def _answer(rule: dict[str, Any]) -> str:
    """The reply that is meant, in its first words; where it is about many replies or none, what the report notes."""
    note, said = rule["note"], [text for who, text in rule["transcript"] if who == "S"]
    number, _, _ = note.partition(": ")
    if number == "once" or number.endswith(" times"):
        return f"{_harmless(_cut(said[-1]))} ({number})"
    code = _ANSWERED.match(note)
    if code is None or code[1] == "250" or code[0] != note.partition(", in ")[0]:
        return _harmless(note)
    return _harmless(_cut(next((text for text in reversed(said) if text.startswith(code[1])), note)))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _harmless(text: str) -> str:
    """For a cell of a table."""
    for sign, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        text = text.replace(sign, harmless)
    return text.strip()
