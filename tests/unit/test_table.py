"""The reply table: the classical pairs one by one, what each pair must hold, and that it and the catalogue agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest

from pillarbox.core import reply as r
from pillarbox.core.reply import Reply
from pillarbox.core.table import COMMANDS, KNOWN, TABLE, Class, Entry, describe, find, overview
from pillarbox.smtp.states import Verb

S, I, F, E = Class.SUCCESS, Class.INTERMEDIATE, Class.FAILURE, Class.ERROR  # noqa: E741

# The table this server was founded on, as it was published, with the later 252 of VRFY; RFC 821's class of each.
_ODD_SENDING: Mapping[int, Class] = {250: S, 552: F, 451: F, 452: F, 500: E, 501: E, 502: E, 421: E}
CLASSICAL: Mapping[str, Mapping[int, Class]] = {
    "connect": {220: S, 421: F},
    "HELO": {250: S, 500: E, 501: E, 504: E, 521: E, 421: E},
    "EHLO": {250: S, 550: F, 500: E, 501: E, 504: E, 421: E},
    "MAIL": {250: S, 552: F, 451: F, 452: F, 500: E, 501: E, 421: E},
    "RCPT": {
        **{250: S, 251: S, 550: F, 551: F, 552: F, 553: F, 450: F},
        **{451: F, 452: F, 500: E, 501: E, 503: E, 521: E, 421: E},
    },
    "DATA": {354: I, 451: F, 554: F, 500: E, 501: E, 503: E, 421: E},
    ".": {250: S, 552: F, 554: F, 451: F, 452: F},
    "RSET": {200: S, 250: S, 500: E, 501: E, 504: E, 421: E},
    "SEND": _ODD_SENDING,
    "SOML": _ODD_SENDING,
    "SAML": _ODD_SENDING,
    "VRFY": {250: S, 251: S, 252: S, 550: F, 551: F, 553: F, 500: E, 501: E, 502: E, 504: E, 421: E},
    "EXPN": {250: S, 550: F, 500: E, 501: E, 502: E, 504: E, 421: E},
    "HELP": {211: S, 214: S, 500: E, 501: E, 502: E, 504: E, 421: E},
    "NOOP": {200: S, 250: S, 500: E, 421: E},
    "QUIT": {221: S, 500: E},
    "TURN": {250: S, 502: F, 500: E, 503: E},
}
LATER_COMMANDS = ["AUTH", "ETRN", "ATRN", "STARTTLS", "BDAT", "LHLO", "unknown"]
BARE = {"connect", "HELO", "EHLO", "LHLO"}  # RFC 2034 section 4
WORDS = [*COMMANDS, *sorted({str(entry.code) for entry in TABLE})]

# The replies of the catalogue that are made on demand.
MADE: Mapping[str, Callable[[], Reply]] = {
    "greeting": lambda: r.greeting("mx.example.test"),
    "lmtp_greeting": lambda: r.lmtp_greeting("mx.example.test"),
    "no_mail_greeting": lambda: r.no_mail_greeting("mx.example.test"),
    "hello": lambda: r.hello("mx.example.test"),
    "ehlo": lambda: r.ehlo("mx.example.test", ("HELP",)),
    "queued": lambda: r.queued("0123456789ab"),
    "queued_before": lambda: r.queued_before("0123456789ab"),
    "key_taken": lambda: r.key_taken("0123456789ab"),
    "suppressed": lambda: r.suppressed("2026-11-24", "hard: no such user"),
    "announced": lambda: r.announced("a@example.test"),
    "moved": lambda: r.moved("a@example.test"),
    "challenge": lambda: r.challenge("UGFzc3dvcmQ6"),
    "etrn_started": lambda: r.etrn_started(2),
    "status": lambda: r.status(("up",)),
    "help_text": lambda: r.help_text(("a",)),
    "verified": lambda: r.verified("<a@example.test>"),
    "ambiguous": lambda: r.ambiguous(("<a@example.test>", "<b@example.test>")),
    "expanded": lambda: r.expanded(("<a@example.test>",)),
}


def catalogue() -> dict[str, Reply]:
    """Every reply that this server has a name for."""
    return {name: value for name, value in vars(r).items() if isinstance(value, Reply)} | {
        name: make() for name, make in MADE.items()
    }


def name_of(entry: Entry) -> str:
    return f"{entry.command}-{entry.code}"


# --- the pairs


def test_the_classical_table_is_whole_and_nothing_is_added_to_it() -> None:
    assert sum(map(len, CLASSICAL.values())) == 112
    found: dict[str, dict[int, Class]] = {}
    for entry in TABLE:
        if entry.classical:
            found.setdefault(entry.command, {})[entry.code] = entry.klass
    assert found == CLASSICAL
    assert sum(entry.classical for entry in TABLE) == 112
    assert {command: list(codes) for command, codes in found.items()} == {
        command: list(codes) for command, codes in CLASSICAL.items()
    }, "not in the order of the table"


def test_commands_are_those_of_the_classical_table_and_then_the_later_ones() -> None:
    assert list(COMMANDS) == [*CLASSICAL, *LATER_COMMANDS]
    assert [name for name in COMMANDS if name != COMMANDS[name].name] == []


def test_every_verb_of_the_protocol_has_its_page() -> None:
    assert set(COMMANDS) == {verb.value for verb in Verb} == set(KNOWN)


def test_the_pairs_stand_in_the_order_of_the_commands_and_none_twice() -> None:
    pairs = [(entry.command, entry.code) for entry in TABLE]
    assert len(set(pairs)) == len(pairs)
    commands = list(COMMANDS)
    assert [commands.index(command) for command, _ in pairs] == sorted(commands.index(command) for command, _ in pairs)
    assert {command: {code for name, code in pairs if name == command} for command in COMMANDS} == dict(KNOWN)


@pytest.mark.parametrize("entry", TABLE, ids=name_of)
def test_a_pair_is_sound(entry: Entry) -> None:
    assert 200 <= entry.code <= 559
    first = str(entry.code)[0]
    assert all(re.fullmatch(rf"{first}\.[0-7]\.\d{{1,2}}", code) for code in entry.enhanced)
    assert len(set(entry.enhanced)) == len(entry.enhanced)
    assert (entry.klass is Class.SUCCESS) == (first == "2")
    assert (entry.klass is Class.INTERMEDIATE) == (first == "3")
    # RFC 2034 section 4: no enhanced code in a greeting, to HELO and EHLO, and in 3yz; one in every other reply.
    assert bool(entry.enhanced) == (entry.command not in BARE and first != "3")
    assert entry.condition.isascii() and entry.condition.isprintable()
    assert re.fullmatch(r"[A-Z][^.]*(?:\.[^.\s][^.]*)*\.", entry.condition), "not one sentence"
    assert re.fullmatch(r"RFC \d+(?: section [0-9A-Z](?:\.\d+)*)?", entry.source)


@pytest.mark.parametrize("entry", [entry for entry in TABLE if len(entry.enhanced) > 1], ids=name_of)
def test_a_condition_tells_which_enhanced_code_is_given_when(entry: Entry) -> None:
    assert set(re.findall(r"\d\.\d\.\d+", entry.condition)) == set(entry.enhanced)


def test_what_only_a_classic_listener_gives() -> None:
    odd = {(entry.command, entry.code) for entry in TABLE if entry.classic_only}
    assert odd == {("NOOP", 200), ("RSET", 200), ("RSET", 504)}


def test_the_server_may_close_at_any_command_and_takes_nothing_where_it_takes_no_mail() -> None:
    assert [name for name, codes in KNOWN.items() if 421 not in codes] == []
    assert [name for name, codes in KNOWN.items() if 521 not in codes] == [".", "QUIT"]


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("MAIL", {503, 530, 550, 553, 554, 555}),
        ("RCPT", {554, 555, 556}),
        (".", {450, 550}),
        ("SEND", {503, 530, 554}),
        ("EXPN", {252}),
        ("HELP", {530}),
        ("QUIT", {501}),
        ("TURN", {451, 530}),
        ("AUTH", {235, 334, 454, 500, 501, 502, 503, 504, 530, 535, 538}),
        ("ETRN", {250, 251, 252, 253, 451, 458, 459, 500, 501, 502, 503, 530}),
        ("ATRN", {250, 450, 451, 453, 500, 501, 502, 503, 530}),
        ("STARTTLS", {220, 500, 501, 502, 503}),
        ("LHLO", {250, 500, 501, 504, 550}),
        ("BDAT", {250, 450, 451, 452, 501, 502, 503, 552, 554}),
        ("unknown", {500, 503}),
        ("HELO", {550, 554}),
        ("EHLO", {554}),
        ("connect", {554}),
    ],
)
def test_later_pairs(command: str, codes: set[int]) -> None:
    assert codes <= KNOWN[command]
    assert not any(entry.classical for entry in find(command) if entry.command == command and entry.code in codes)


# --- the catalogue of replies


def test_every_reply_that_is_made_on_demand_is_tried_here() -> None:
    makers = {
        name
        for name, value in vars(r).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__annotations__", {}).get("return") == "Reply"
    }
    assert makers == set(MADE)


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_every_reply_of_the_catalogue_is_in_the_table(name: str) -> None:
    reply = catalogue()[name]
    entries = [entry for entry in TABLE if entry.code == reply.code]
    enhanced = None if reply.enhanced is None else str(reply.enhanced)
    assert any(enhanced in entry.enhanced if enhanced else not entry.enhanced for entry in entries)


@pytest.mark.parametrize("entry", TABLE, ids=name_of)
def test_every_pair_has_a_reply_unless_it_says_that_it_is_not_given(entry: Entry) -> None:
    replies = {(reply.code, str(reply.enhanced)) for reply in catalogue().values()}
    if entry.condition.startswith("Not given by this server"):
        assert not entry.classical
    elif entry.enhanced:
        assert {(entry.code, enhanced) for enhanced in entry.enhanced} <= replies
    else:
        assert entry.code in {code for code, _ in replies}


# --- looking up


@pytest.mark.parametrize("word", ["SAML", "saml", "Saml"])
def test_a_command_is_found_in_any_case(word: str) -> None:
    assert {entry.command for entry in find(word)} == {"SAML"}
    assert {entry.code for entry in find(word)} == KNOWN["SAML"]


def test_data_brings_the_message_itself() -> None:
    assert find("data") == tuple(entry for entry in TABLE if entry.command in ("DATA", "."))
    assert {entry.command for entry in find(".")} == {"."}
    lines = describe("DATA")
    assert lines[: len(lines) - len(describe("."))] + describe(".") == lines


@pytest.mark.parametrize(("word", "command"), [("CONNECT", "connect"), ("Unknown", "unknown")])
def test_what_is_no_verb_is_found_too(word: str, command: str) -> None:
    assert {entry.command for entry in find(word)} == {command}


def test_a_code_is_found() -> None:
    assert [entry.command for entry in find("552")] == ["MAIL", "RCPT", ".", "SEND", "SOML", "SAML", "BDAT"]


@pytest.mark.parametrize(
    "word", ["", " ", "599", "55", "5522", "552 ", "MAI", "MAIL FROM", "-1", "552.0", "HELO.", "²⁵⁰"]
)
def test_nothing_else_is_found(word: str) -> None:
    assert find(word) == ()
    assert describe(word) == ()


# --- what people read


@pytest.mark.parametrize("word", WORDS)
def test_a_description_fits_into_a_reply(word: str) -> None:
    lines = describe(word)
    assert lines and all(line.isascii() and line.isprintable() and 0 < len(line) <= 400 for line in lines)
    assert len(r.help_text(lines).wire.splitlines()) == len(lines)


def assert_facts(line: str, entry: Entry) -> None:
    for fact in (str(entry.code), entry.klass.name.lower(), *entry.enhanced, entry.condition, entry.source):
        assert fact in line
    assert entry.enhanced or "no enhanced code" in line


def test_a_command_is_described_with_its_syntax_and_each_reply() -> None:
    syntax, summary, *lines = describe("SAML")
    assert "SAML FROM:<reverse-path> [parameters]" in syntax
    assert "mailbox" in summary and "terminals" in summary and "RFC 821 section 3.4" in summary
    entries = find("SAML")
    assert len(lines) == len(entries)
    for line, entry in zip(lines, entries, strict=True):
        assert_facts(line, entry)
    assert "502 error, 5.5.1: " in describe("SAML")[8]


def test_a_code_is_described_with_each_command() -> None:
    entries = find("552")
    lines = describe("552")
    assert len(lines) == len(entries)
    for line, entry in zip(lines, entries, strict=True):
        assert line.startswith(f"{entry.command} 552 failure")
        assert_facts(line, entry)


def test_the_overview_names_the_commands_that_can_do_something() -> None:
    text = " ".join(overview())
    offered = set(re.findall(r"\b[A-Z]{4,8}\b", overview()[0]))
    assert offered == {name for name in COMMANDS if name.isupper()}
    assert "HELP <command>" in text and "HELP <code>" in text
    assert len(r.help_text(overview()).wire.splitlines()) == len(overview())
