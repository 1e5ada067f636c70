"""Probes of the session: the greeting, EHLO and HELO, RSET, NOOP, QUIT, and what no server knows.

Data alone. RFC 5321 sections 3.1, 3.2, 4.1.1.1, 4.1.4; what a rule says stands in the section named beside it.
"""

from __future__ import annotations

from pillarbox.app.conform.judge import (
    DONE,
    FURTHER,
    NEVER,
    NOT_KNOWN,
    NOT_UNDERSTOOD,
    REFUSED,
    anything,
    decides,
    expects,
    forbids,
    goodbye,
    is_no_ehlo_reply,
    keywords_are_well_formed,
    names_a_host,
    stays_open,
    where_extended,
)
from pillarbox.app.conform.probe import Judge, Level, Probe, State, Step, finish, given, raw, say

_HELLO = "RFC 5321 section 4.1.1.1"
ORDER = "RFC 5321 section 4.1.4"
_OPENING = "RFC 5321 section 3.1"
_RESET = "RFC 5321 section 4.1.1.5"
_NOOP = "RFC 5321 section 4.1.1.9"
_QUIT = "RFC 5321 section 4.1.1.10"
_SIZES = "RFC 5321 section 4.5.3.1"
REPLIES = "RFC 5321 section 4.3.2"
_LONGEST_DOMAIN = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))  # as long as DNS lets a name be
TO_POSTMASTER = "RCPT TO:<Postmaster>"
MAIL_FROM = "MAIL FROM:<{sender}>"
_CLEARED = decides(frozenset((503,)), DONE)
KEPT = forbids(503)
_HELLO_REFUSED = frozenset((500, 501, 502, 504, 550))  # section 4.1.4; 504 by section 4.3.2


def before_ehlo(verb: str, line: str) -> Probe:
    return Probe(
        f"{verb.lower()}-before-ehlo",
        f"{verb} is not answered with 503 before EHLO was said.",
        ORDER,
        Level.SHOULD,
        (say(line),),
        forbids(503),
        State.FRESH,
    )


def in_transaction(verb: str, line: str, section: str) -> Probe:
    return Probe(
        f"{verb.lower()}-in-transaction",
        f"{verb} has no effect on an open transaction.",
        section,
        Level.TABLE,
        (given(MAIL_FROM), say(line), say(TO_POSTMASTER)),
        KEPT,
    )


GREETING = (
    Probe(
        "greeting",
        "The greeting is one that RFC 5321 has for the opening of a connection.",
        REPLIES,
        Level.TABLE,
        (),
        expects(220, 521, 554),
        State.GREETED,
        alone=True,
    ),
    Probe(
        "greeting-host",
        "The first word of the greeting is the server's domain or address literal.",
        "RFC 5321 section 4.2",
        Level.TABLE,
        (),
        names_a_host,
        State.GREETED,
        alone=True,
    ),
    Probe(
        "refusing-503",
        "A server that greets with 554 answers 503 to what comes before QUIT.",
        _OPENING,
        Level.SHOULD,
        (say(MAIL_FROM),),
        expects(503, 521),
        State.REFUSED,
    ),
    Probe(
        "refusing-waits",
        "A server that greets with 554 waits for QUIT before it closes the connection.",
        _OPENING,
        Level.MUST,
        (say("NOOP"), finish()),
        goodbye,
        State.REFUSED,
        judges_loss=True,
    ),
)


def _hello(name: str, rule: str, section: str, level: Level, line: str, judge: Judge) -> Probe:
    """An EHLO or HELO that opens a session: one that comes later, a server may refuse for that alone."""
    return Probe(name, rule, section, level, (say(line),), where_extended(judge), State.FRESH)


HELLO = (
    Probe(
        "ehlo",
        "EHLO is supported.",
        "RFC 5321 section 4.5.1",
        Level.MUST,
        (say("EHLO {helo}"),),
        decides(frozenset((250,)), NOT_KNOWN),
        State.FRESH,
    ),
    _hello(
        "ehlo-host",
        "The reply to EHLO begins with the server's domain.",
        _HELLO,
        Level.TABLE,
        "EHLO {helo}",
        names_a_host,
    ),
    _hello(
        "ehlo-keywords",
        "Each further line of the reply to EHLO is a keyword of letters, digits and hyphens, and its parameters.",
        _HELLO,
        Level.TABLE,
        "EHLO {helo}",
        keywords_are_well_formed,
    ),
    _hello(
        "ehlo-mixed-case",
        "A verb is known in upper, lower or mixed case.",
        "RFC 5321 section 2.4",
        Level.MUST,
        "eHlO {helo}",
        decides(DONE, NOT_KNOWN),
    ),
    _hello(
        "ehlo-literal",
        "An address literal is taken where the client has no name.",
        _HELLO,
        Level.TABLE,
        "EHLO [192.0.2.1]",
        decides(DONE, NOT_UNDERSTOOD),
    ),
    _hello(
        "ehlo-other-name",
        "EHLO is not refused because the name does not match the client's address.",
        ORDER,
        Level.MUST,
        "EHLO mail.example.com",
        decides(DONE, frozenset()),  # from outside, one policy of refusing names can't be told from another
    ),
    _hello(
        "ehlo-their-name",
        "EHLO with the server's own name is taken, or refused as a matter of policy.",
        REPLIES,
        Level.TABLE,
        "EHLO {server}",
        decides(DONE | {550}, frozenset((502, 503, 504))),
    ),
    _hello(
        "ehlo-longest-domain",
        "A domain may be as long as domains get.",
        _SIZES,
        Level.MUST,
        f"EHLO {_LONGEST_DOMAIN}",
        decides(DONE, NOT_UNDERSTOOD),
    ),
    _hello(
        "ehlo-no-argument", "EHLO without a domain is a syntax error.", REPLIES, Level.TABLE, "EHLO", expects(501, 550)
    ),
    _hello(
        "ehlo-bad-character",
        "EHLO with a character in the domain that no domain may have is rejected with 501.",
        "RFC 5321 section 4.1.2",
        Level.MUST,
        "EHLO exa$mple.org",
        decides(frozenset((501,)), DONE),  # 550: for another reason, maybe
    ),
    _hello(
        "ehlo-bad-literal",
        "EHLO with an address literal that is none is a syntax error.",
        "RFC 5321 section 4.1.3",
        Level.TABLE,
        "EHLO [999.1.1.1]",
        expects(501, 504, 550),
    ),
    _hello(
        "ehlo-unknown-literal",
        "An address literal of a kind that the server does not have gets 504 or 501, or is taken.",
        REPLIES,
        Level.TABLE,
        "EHLO [X400:foo]",
        decides(DONE | {501, 504, 550}, frozenset((500, 502, 503))),
    ),
    Probe(
        "ehlo-again",
        "A later EHLO is taken, or refused with 500, 501, 502, 504 or 550.",
        ORDER,
        Level.MUST,
        (say("EHLO {helo}"),),
        decides(DONE | _HELLO_REFUSED, REFUSED - _HELLO_REFUSED),
    ),
    Probe(
        "ehlo-twice",
        "A second EHLO gives up the open transaction, as RSET does: RCPT behind it is out of order.",
        ORDER,
        Level.MUST,
        (given(MAIL_FROM), given("EHLO {helo}"), say(TO_POSTMASTER)),
        _CLEARED,
    ),
    Probe(
        "ehlo-twice-mail",
        "A second EHLO gives up the open transaction, as RSET does: another one may be opened.",
        ORDER,
        Level.MUST,
        (given(MAIL_FROM), given("EHLO {helo}"), say(MAIL_FROM)),
        decides(DONE, frozenset((503,))),
    ),
    Probe(
        "ehlo-refused-state",
        "An EHLO that is refused leaves the state as it was.",
        ORDER,
        Level.MUST,
        (given(MAIL_FROM), say("EHLO", premise=5), say(TO_POSTMASTER)),
        KEPT,
    ),
    Probe(
        "helo", "HELO is supported.", _HELLO, Level.MUST, (say("HELO {helo}"),), decides(DONE, NOT_KNOWN), State.FRESH
    ),
    Probe(
        "helo-plain",
        "The reply to HELO is not that to EHLO: it lists no extensions.",
        "RFC 5321 section 3.2",
        Level.MUST,
        (say("HELO {helo}"),),
        is_no_ehlo_reply,
        State.FRESH,
    ),
    Probe(
        "helo-no-argument",
        "HELO without a domain is a syntax error.",
        REPLIES,
        Level.TABLE,
        (say("HELO"),),
        expects(501, 550),
        State.FRESH,
    ),
    Probe(
        "helo-unknown-literal",
        "HELO with an address literal of a kind that the server does not have gets 504 or 501, or is taken.",
        REPLIES,
        Level.TABLE,
        (say("HELO [X400:foo]"),),
        decides(DONE | {501, 504, 550}, frozenset((500, 502, 503))),
        State.FRESH,
    ),
    Probe(
        "helo-resets",
        "HELO confirms that no transaction is in progress: RCPT behind it is out of order.",
        _HELLO,
        Level.TABLE,
        (given(MAIL_FROM), given("HELO {helo}"), say(TO_POSTMASTER)),
        _CLEARED,
    ),
)


RESET = (
    before_ehlo("RSET", "RSET"),
    Probe("rset", "RSET is answered with 250.", _RESET, Level.MUST, (say("RSET"),), expects(250)),
    Probe(
        "rset-discards",
        "RSET discards the open transaction: RCPT behind it is out of order.",
        _RESET,
        Level.MUST,
        (given(MAIL_FROM), given("RSET"), say(TO_POSTMASTER)),
        _CLEARED,
    ),
    Probe(
        "rset-discards-mail",
        "RSET discards the open transaction: another one may be opened.",
        _RESET,
        Level.MUST,
        (given(MAIL_FROM), given("RSET"), say(MAIL_FROM)),
        decides(DONE, frozenset((503,))),
    ),
    Probe(
        "rset-keeps-ehlo",
        "RSET has no effect on a session in which nothing was done since EHLO: MAIL need not say EHLO again.",
        _RESET,
        Level.TABLE,
        (given("RSET"), say(MAIL_FROM)),
        KEPT,
    ),
    Probe(
        "rset-stays-open",
        "RSET does not close the connection.",
        _RESET,
        Level.MUST,
        (say("RSET"), say("NOOP")),
        stays_open,
        judges_loss=True,
    ),
    Probe(
        "rset-argument",
        "RSET with an argument is a syntax error.",
        REPLIES,
        Level.SHOULD,
        (say("RSET now"),),
        expects(501),
    ),
    Probe(
        "rset-parameter",
        "RSET with something like a parameter gets one of the replies of the table.",
        "RFC 821 section 4.3",
        Level.TABLE,
        (say("RSET KEY=VALUE"),),
        anything,
    ),
)

NOOP = (
    before_ehlo("NOOP", "NOOP"),
    Probe("noop", "NOOP is answered with 250.", _NOOP, Level.TABLE, (say("NOOP"),), expects(250)),
    Probe(
        "noop-argument", "An argument to NOOP is ignored.", _NOOP, Level.SHOULD, (say("NOOP anything"),), expects(250)
    ),
    in_transaction("NOOP", "NOOP", _NOOP),
    Probe(
        "noop-mixed-case",
        "A verb is known in upper, lower or mixed case.",
        "RFC 5321 section 2.4",
        Level.MUST,
        (say("nOoP"),),
        decides(DONE, NOT_KNOWN),
    ),
    Probe(
        "white-space-noop",
        "White space at the end of a command is tolerated.",
        "RFC 5321 section 4.1.1",
        Level.SHOULD,
        (say("NOOP "),),
        decides(DONE, REFUSED),
    ),
    Probe(
        "white-space-rset",
        "White space at the end of a command is tolerated, also where it takes no argument.",
        "RFC 5321 section 4.1.1",
        Level.SHOULD,
        (say("RSET "),),
        decides(DONE, REFUSED),
    ),
)


def _goodbye(name: str, rule: str, script: tuple[Step, ...], state: State = State.READY) -> Probe:
    return Probe(name, rule, _QUIT, Level.MUST, script, goodbye, state, judges_loss=True)


QUIT = (
    _goodbye("quit", "QUIT is answered with 221, and the connection is closed.", (finish(),)),
    _goodbye("quit-before-ehlo", "QUIT may come at any time: before EHLO.", (finish(),), State.FRESH),
    _goodbye("quit-in-transaction", "QUIT may come at any time: in a transaction.", (given(MAIL_FROM), finish())),
    Probe(
        "quit-argument",
        "QUIT with an argument is a syntax error.",
        REPLIES,
        Level.SHOULD,
        (say("QUIT now"),),
        expects(501),
    ),
)

UNKNOWN = (
    Probe(
        "unknown",
        "A command that is not recognised is answered with 500.",
        "RFC 5321 section 4.2.4",
        Level.SHOULD,
        (say("WOMBAT"),),
        expects(500),
    ),
    Probe(
        "unknown-before-ehlo",
        "A command that is not recognised is answered with 500, also before EHLO.",
        "RFC 5321 section 4.2.4",
        Level.SHOULD,
        (say("WOMBAT"),),
        expects(500),
        State.FRESH,
    ),
    Probe(
        "unknown-stays-open",
        "A command that is not recognised does not end the connection.",
        "RFC 5321 section 3.8",
        Level.MUST,
        (say("WOMBAT"), say("NOOP")),
        stays_open,
        judges_loss=True,
    ),
    Probe(
        "not-ascii",
        "A command that is not ASCII is refused.",
        "RFC 5321 section 2.4",
        Level.SHOULD,
        (raw("N\xf6\xf6P\r\n", "unknown"),),
        decides(NEVER, DONE | FURTHER),
    ),
)
