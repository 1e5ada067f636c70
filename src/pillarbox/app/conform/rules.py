"""What is true of all replies, whatever they answer: asked of every exchange that came of the probes.

A Rule is data and a function that finds the exchanges which break it. RFC 5321 sections 2.3.8, 3.8, 4.2, 4.3.2, 4.5.1
and RFC 2034 section 4. Also the codes that come to a command and that the table does not have for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pillarbox.app.conform.judge import PATIENCE, enhanced
from pillarbox.app.conform.probe import NOBODY, Exchange, Facts, Finding, Level, Verdict
from pillarbox.app.conform.wire import Answer, Loss, Lost
from pillarbox.core.table import COMMANDS, KNOWN

GROUP = "All replies"
OUTSIDE = "Replies outside of the table"
_SHOWN = 5  # exchanges that a finding shows
_REQUIRED = frozenset(
    ("EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY")
)  # RFC 5321 section 4.5.1
_MAX_COMMAND = 512
_MAX_REPLY = 512  # RFC 5321 section 4.5.3.1.5, with the line end
_HELLO = ("connect", "EHLO", "HELO")
_ONE = "RFC 5321 section 4.2"
_ENHANCED = "RFC 2034 section 4"  # older than the key words: its "must" is taken for one

# Codes that the standards have for a command and that our own server, whose table KNOWN is, never gives.
_ALSO: Mapping[str, frozenset[int]] = {
    "connect": frozenset((554,)),  # RFC 5321 section 3.1
    "EHLO": frozenset((502,)),  # RFC 5321 section 4.3.2
    "HELO": frozenset((502,)),
    "MAIL": frozenset((455,)),  # RFC 5321 section 4.1.1.11
    "RCPT": frozenset((455,)),
    "AUTH": frozenset((432, 534)),  # RFC 4954 section 6
    "STARTTLS": frozenset((454,)),  # RFC 3207 section 4
    "BDAT": frozenset((550,)),  # as the end of a message
}
_ANY = frozenset((500, 501, 421, 530))  # RFC 5321 section 4.3.2; RFC 4954 section 6

Found = Iterable[Exchange]


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    rule: str
    section: str
    level: Level
    broken_by: Callable[[Sequence[Exchange], Facts], Found]
    needs: str = ""  # a keyword that must be offered
    spares_hostile: bool = False  # probes against which a server may defend itself are not held against it


def _answers(log: Sequence[Exchange]) -> Iterator[tuple[Exchange, Answer]]:
    for exchange in log:
        if isinstance(exchange.outcome, Answer):
            yield exchange, exchange.outcome


def _bad_digits(log: Sequence[Exchange], facts: Facts) -> Found:
    for exchange in log:
        outcome = exchange.outcome
        if isinstance(outcome, Lost) and outcome.loss is Loss.GARBAGE:
            yield exchange
        elif exchange.code and not 200 <= exchange.code < 600:
            yield exchange


def _mixed_codes(log: Sequence[Exchange], facts: Facts) -> Found:
    return (exchange for exchange, answer in _answers(log) if len(answer.codes) > 1)


def _bare_ends(log: Sequence[Exchange], facts: Facts) -> Found:
    return (exchange for exchange, answer in _answers(log) if answer.bare)


def _long_lines(log: Sequence[Exchange], facts: Facts) -> Found:
    for exchange in log:
        outcome = exchange.outcome
        if isinstance(outcome, Lost):
            if outcome.loss is Loss.ENDLESS:
                yield exchange
        elif any(len(line) + 2 > _MAX_REPLY for line in outcome.lines):
            yield exchange


def _not_text(log: Sequence[Exchange], facts: Facts) -> Found:
    return (exchange for exchange, answer in _answers(log) if any(map(_is_not_text, answer.lines)))


def _is_not_text(line: bytes) -> bool:
    """RFC 5321 section 4.2, textstring: HT, SP and printable ASCII."""
    return any(octet != 9 and not 32 <= octet <= 126 for octet in line)


def _unasked(log: Sequence[Exchange], facts: Facts) -> Found:
    """More replies than commands; a 421 may come at any time. And a command that only the next one got a reply for."""
    for number, exchange in enumerate(log):
        if exchange.command == NOBODY and not exchange.sent and exchange.code not in (0, 421):
            yield exchange
        elif _swallowed(log[number : number + 3]):
            yield exchange


def _swallowed(three: Sequence[Exchange]) -> bool:
    if len(three) < 3 or len({exchange.probe for exchange in three}) > 1:
        return False
    first, woken, silent = three
    asked = first.command != NOBODY and first.outcome == Lost(Loss.SILENT)
    return asked and woken.command == NOBODY and bool(woken.code) and silent.outcome == Lost(Loss.SILENT)


def _silent(log: Sequence[Exchange], facts: Facts) -> Found:
    if facts.timeout < PATIENCE:
        return ()
    return (exchange for exchange in log if exchange.command != NOBODY and exchange.outcome == Lost(Loss.SILENT))


def _closed(log: Sequence[Exchange], facts: Facts) -> Found:
    for exchange in log:
        outcome = exchange.outcome
        asked = exchange.command not in (NOBODY, "connect")
        if asked and isinstance(outcome, Lost) and outcome.loss is Loss.CLOSED:
            yield exchange


def _stays_behind_421(log: Sequence[Exchange], facts: Facts) -> Found:
    return (exchange for exchange in log if exchange.closes is False)


def _not_recognised(log: Sequence[Exchange], facts: Facts) -> Found:
    """Where the enhanced code says that the arguments are wrong, the command was recognised (RFC 3463 section 3.6)."""
    return (exchange for exchange in _short(log) if exchange.code == 500 and _enhanced_of(exchange) != "5.5.4")


def _enhanced_of(exchange: Exchange) -> str:
    outcome = exchange.outcome
    return enhanced(outcome.texts[0]) if isinstance(outcome, Answer) else ""


def _not_implemented(log: Sequence[Exchange], facts: Facts) -> Found:
    return (exchange for exchange in _short(log) if exchange.code == 502)


def _short(log: Sequence[Exchange]) -> Iterator[Exchange]:
    """Exchanges of the required commands in lines that no server may find too long, of nothing but ASCII."""
    for exchange in log:
        line = exchange.sent.removesuffix(b"\r\n")
        plain = len(line) + 2 <= _MAX_COMMAND and not _is_not_text(line)
        if exchange.command in _REQUIRED and plain:
            yield exchange


def _lacks_enhanced(log: Sequence[Exchange], facts: Facts) -> Found:
    for exchange, answer in _answers(log):
        if _owes_enhanced(exchange) and not all(map(enhanced, answer.texts)):
            yield exchange


def _owes_enhanced(exchange: Exchange) -> bool:
    return exchange.command not in (NOBODY, *_HELLO) and exchange.code // 100 in (2, 4, 5)


def _wrong_class(log: Sequence[Exchange], facts: Facts) -> Found:
    for exchange, answer in _answers(log):
        codes = [enhanced(text) for text in answer.texts]
        if _owes_enhanced(exchange) and any(code and code[0] != str(exchange.code)[0] for code in codes):
            yield exchange


def _mixed_enhanced(log: Sequence[Exchange], facts: Facts) -> Found:
    for exchange, answer in _answers(log):
        codes = {enhanced(text) for text in answer.texts} - {""}
        if _owes_enhanced(exchange) and len(codes) > 1:
            yield exchange


def _enhanced_where_none_is(log: Sequence[Exchange], facts: Facts) -> Found:
    for exchange, answer in _answers(log):
        greets = exchange.command in _HELLO and exchange.code // 100 == 2
        if (greets or exchange.code // 100 == 3) and any(map(enhanced, answer.texts)):
            yield exchange


RULES = (
    Rule(
        "reply-code",
        "A reply begins with three digits, the first of them 2, 3, 4 or 5.",
        "RFC 5321 section 4.3.2",
        Level.MUST,
        _bad_digits,
    ),
    Rule(
        "reply-one-code", "All lines of a reply have the same code.", "RFC 5321 section 4.2.1", Level.MUST, _mixed_codes
    ),
    Rule("reply-crlf", "Every line of a reply ends in CRLF.", "RFC 5321 section 2.3.8", Level.MUST, _bare_ends),
    Rule(
        "reply-length",
        f"No line of a reply has more than {_MAX_REPLY} octets.",
        "RFC 5321 section 4.5.3.1.5",
        Level.SHOULD,
        _long_lines,
    ),
    Rule("reply-text", "The text of a reply is printable ASCII.", _ONE, Level.TABLE, _not_text),
    Rule("reply-each", "Every command gets exactly one reply.", _ONE, Level.MUST, _unasked, spares_hostile=True),
    Rule("reply-in-time", "A command gets its reply before a client gives up.", _ONE, Level.MUST, _silent),
    Rule(
        "reply-before-close",
        "The connection is not closed in place of a reply.",
        "RFC 5321 section 3.8",
        Level.MUST,
        _closed,
        spares_hostile=True,
    ),
    Rule(
        "closing",
        "Behind a reply of 421 the connection is closed.",
        "RFC 5321 section 4.2.3",
        Level.TABLE,
        _stays_behind_421,
    ),
    Rule(
        "required-not-500",
        f"A required command in a line of up to {_MAX_COMMAND} octets is not answered with 500.",
        "RFC 5321 section 4.3.2",
        Level.MUST,
        _not_recognised,
    ),
    Rule(
        "required-not-502",
        "The required commands are implemented.",
        "RFC 5321 section 4.5.1",
        Level.MUST,
        _not_implemented,
    ),
    Rule(
        "enhanced-each",
        "Every line of a reply of 2yz, 4yz or 5yz begins with an enhanced status code, but for the greeting and the "
        "replies to EHLO and HELO.",
        _ENHANCED,
        Level.MUST,
        _lacks_enhanced,
        needs="ENHANCEDSTATUSCODES",
    ),
    Rule(
        "enhanced-class",
        "The class of an enhanced status code is the first digit of the reply.",
        _ENHANCED,
        Level.MUST,
        _wrong_class,
        needs="ENHANCEDSTATUSCODES",
    ),
    Rule(
        "enhanced-same",
        "All lines of a reply have the same enhanced status code.",
        _ENHANCED,
        Level.MUST,
        _mixed_enhanced,
        needs="ENHANCEDSTATUSCODES",
    ),
    Rule(
        "enhanced-none",
        "The greeting, the positive replies to EHLO and HELO and those of 3yz have no enhanced status code.",
        _ENHANCED,
        Level.TABLE,
        _enhanced_where_none_is,
        needs="ENHANCEDSTATUSCODES",
    ),
)


def general(log: Sequence[Exchange], facts: Facts, hostile: frozenset[str]) -> Iterator[Finding]:
    """A finding for each rule. `hostile`: the probes that a server may answer by closing the connection."""
    for rule in RULES:
        if rule.needs and not facts.offers(rule.needs):
            yield _finding(rule, Verdict.NOT_OFFERED, f"EHLO does not list {rule.needs}")
            continue
        spared = hostile if rule.spares_hostile else frozenset()
        broken = tuple(exchange for exchange in rule.broken_by(log, facts) if exchange.probe not in spared)
        if broken:
            yield _finding(rule, Verdict.DEVIATES, _cases(broken), broken[:_SHOWN])
        elif not any(exchange.code for exchange in log):
            yield _finding(rule, Verdict.NOT_PROVOKED, "no reply came at all")
        elif rule.broken_by is _silent and facts.timeout < PATIENCE:
            yield _finding(rule, Verdict.NOT_PROVOKED, f"replies were waited for {facts.timeout:g} s, not 5 minutes")
        else:
            yield _finding(rule, Verdict.CONFORMS, "all that came were looked at")


def _finding(rule: Rule, verdict: Verdict, note: str, shown: tuple[Exchange, ...] = ()) -> Finding:
    return Finding(rule.name, GROUP, rule.rule, rule.section, rule.level, verdict, note, shown)


def _cases(broken: Sequence[Exchange]) -> str:
    probes = ", ".join(dict.fromkeys(exchange.probe for exchange in broken[:_SHOWN]))
    number = "once" if len(broken) == 1 else f"{len(broken)} times"
    return f"{number}: {probes}{', ...' if len(broken) > _SHOWN else ''}"


# --- codes that the table does not have


def outside(log: Sequence[Exchange], refusing: frozenset[str]) -> Iterator[Finding]:
    """A finding for each pair of a command and a code that no standard has.

    `refusing`: the probes of a server that greets with 554, and then may say 503 to anything.
    """
    seen: dict[tuple[str, int], Exchange] = {}
    for exchange in log:
        if exchange.probe in refusing and exchange.code == 503:
            continue
        if exchange.code and exchange.command in KNOWN:
            seen.setdefault((exchange.command, exchange.code), exchange)
    for (command, code), exchange in seen.items():
        if code not in KNOWN[command] | _ALSO.get(command, frozenset()) | _ANY:
            yield Finding(
                f"outside-{command.lower() if command != '.' else 'message'}-{code}",
                OUTSIDE,
                f"{_name(command)} is answered with the codes that the standards list for it.",
                "RFC 5321 section 4.3.2",
                Level.TABLE,
                Verdict.DEVIATES,
                f"answered {code:03}, in {exchange.probe}",
                (exchange,),
            )


def _name(command: str) -> str:
    return {"connect": "A connection", ".": "A message", "unknown": "An unknown command"}.get(
        command, COMMANDS[command].name
    )
