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
    decides,
    expects,
    forbids,
    goodbye,
    is_no_ehlo_reply,
    keywords_are_well_formed,
    names_a_host,
    stays_open,
)
from pillarbox.app.conform.probe import Level, Probe, State, Step, finish, given, raw, say

_HELLO = "RFC 5321 section 4.1.1.1"
_ORDER = "RFC 5321 section 4.1.4"
_OPENING = "RFC 5321 section 3.1"
_RESET = "RFC 5321 section 4.1.1.5"
_NOOP = "RFC 5321 section 4.1.1.9"
_QUIT = "RFC 5321 section 4.1.1.10"
_SIZES = "RFC 5321 section 4.5.3.1"
_LONGEST_DOMAIN = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))  # as long as DNS lets a name be
_POSTMASTER = "RCPT TO:<Postmaster>"
_MAIL = "MAIL FROM:<{sender}>"
_SUPPORTED = given("EHLO {helo}")
_CLEARED = decides(frozenset((503,)), DONE)
_KEPT = forbids(503)

GREETING = (
    Probe(
        "greeting",
        "The greeting is one that RFC 5321 has for the opening of a connection.",
        "RFC 5321 section 4.3.2",
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
        (say(_MAIL),),
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

HELLO = (
    Probe(
        "ehlo",
        "EHLO is supported.",
        "RFC 5321 section 4.5.1",
        Level.MUST,
        (say("EHLO {helo}"),),
        decides(frozenset((250,)), NOT_KNOWN),
        State.OPEN,
    ),
    Probe(
        "ehlo-host",
        "The reply to EHLO begins with the server's domain.",
        _HELLO,
        Level.TABLE,
        (say("EHLO {helo}"),),
        names_a_host,
        State.OPEN,
    ),
    Probe(
        "ehlo-keywords",
        "Each further line of the reply to EHLO is a keyword of letters, digits and hyphens, and its parameters.",
        _HELLO,
        Level.TABLE,
        (say("EHLO {helo}"),),
        keywords_are_well_formed,
        State.OPEN,
    ),
    Probe(
        "ehlo-mixed-case",
        "A verb is known in upper, lower or mixed case.",
        "RFC 5321 section 2.4",
        Level.MUST,
        (_SUPPORTED, say("eHlO {helo}")),
        decides(DONE, NOT_KNOWN),
        State.OPEN,
    ),
    Probe(
        "ehlo-literal",
        "An address literal is taken where the client has no name.",
        _HELLO,
        Level.TABLE,
        (_SUPPORTED, say("EHLO [192.0.2.1]")),
        decides(DONE, NOT_UNDERSTOOD),
        State.OPEN,
    ),
    Probe(
        "ehlo-other-name",
        "EHLO is not refused because the name does not match the client's address.",
        _ORDER,
        Level.MUST,
        (_SUPPORTED, say("EHLO mail.example.com")),
        decides(DONE, frozenset()),  # from outside, one policy of refusing names can't be told from another
        State.OPEN,
    ),
    Probe(
        "ehlo-their-name",
        "EHLO with the server's own name is taken, or refused as a matter of policy.",
        "RFC 5321 section 4.3.2",
        Level.TABLE,
        (_SUPPORTED, say("EHLO {server}")),
        decides(DONE | {550}, frozenset((502, 503, 504))),
        State.OPEN,
    ),
    Probe(
        "ehlo-longest-domain",
        "A domain may be as long as domains get.",
        _SIZES,
        Level.MUST,
        (_SUPPORTED, say(f"EHLO {_LONGEST_DOMAIN}")),
        decides(DONE, NOT_UNDERSTOOD),
        State.OPEN,
    ),
    Probe(
        "ehlo-no-argument",
        "EHLO without a domain is a syntax error.",
        "RFC 5321 section 4.3.2",
        Level.TABLE,
        (_SUPPORTED, say("EHLO")),
        expects(501, 550),
        State.OPEN,
    ),
    Probe(
        "ehlo-bad-character",
        "EHLO with a character in the domain that no domain may have is rejected with 501.",
        "RFC 5321 section 4.1.2",
        Level.MUST,
        (_SUPPORTED, say("EHLO exa$mple.org")),
        decides(frozenset((501,)), DONE),  # 550: for another reason, maybe
        State.OPEN,
    ),
    Probe(
        "ehlo-bad-literal",
        "EHLO with an address literal that is none is a syntax error.",
        "RFC 5321 section 4.1.3",
        Level.TABLE,
        (_SUPPORTED, say("EHLO [999.1.1.1]")),
        expects(501, 504, 550),
        State.OPEN,
    ),
    Probe(
        "ehlo-unknown-literal",
        "An address literal of a kind that the server does not have gets 504 or 501, or is taken.",
        "RFC 5321 section 4.3.2",
        Level.TABLE,
        (_SUPPORTED, say("EHLO [X400:foo]")),
        decides(DONE | {501, 504, 550}, frozenset((500, 502, 503))),
        State.OPEN,
    ),
    Probe(
        "ehlo-twice",
        "A second EHLO gives up the open transaction, as RSET does: RCPT behind it is out of order.",
        _ORDER,
        Level.MUST,
        (given(_MAIL), given("EHLO {helo}"), say(_POSTMASTER)),
        _CLEARED,
    ),
    Probe(
        "ehlo-twice-mail",
        "A second EHLO gives up the open transaction, as RSET does: another one may be opened.",
        _ORDER,
        Level.MUST,
        (given(_MAIL), given("EHLO {helo}"), say(_MAIL)),
        decides(DONE, frozenset((503,))),
    ),
    Probe(
        "ehlo-refused-state",
        "An EHLO that is refused leaves the state as it was.",
        _ORDER,
        Level.MUST,
        (given(_MAIL), say("EHLO", premise=5), say(_POSTMASTER)),
        _KEPT,
    ),
    Probe(
        "helo",
        "HELO is supported.",
        _HELLO,
        Level.MUST,
        (say("HELO {helo}"),),
        decides(DONE, NOT_KNOWN),
        State.OPEN,
    ),
    Probe(
        "helo-plain",
        "The reply to HELO is not that to EHLO: it lists no extensions.",
        "RFC 5321 section 3.2",
        Level.MUST,
        (say("HELO {helo}"),),
        is_no_ehlo_reply,
        State.OPEN,
    ),
    Probe(
        "helo-no-argument",
        "HELO without a domain is a syntax error.",
        "RFC 5321 section 4.3.2",
        Level.TABLE,
        (say("HELO"),),
        expects(501, 550),
        State.OPEN,
    ),
    Probe(
        "helo-unknown-literal",
        "HELO with an address literal of a kind that the server does not have gets 504 or 501, or is taken.",
        "RFC 5321 section 4.3.2",
        Level.TABLE,
        (say("HELO [X400:foo]"),),
        decides(DONE | {501, 504, 550}, frozenset((500, 502, 503))),
        State.OPEN,
    ),
    Probe(
        "helo-resets",
        "HELO confirms that no transaction is in progress: RCPT behind it is out of order.",
        _HELLO,
        Level.TABLE,
        (given(_MAIL), given("HELO {helo}"), say(_POSTMASTER)),
        _CLEARED,
    ),
)


def _before_ehlo(verb: str, line: str) -> Probe:
    return Probe(
        f"{verb.lower()}-before-ehlo",
        f"{verb} is not answered with 503 before EHLO was said.",
        _ORDER,
        Level.SHOULD,
        (say(line),),
        forbids(503),
        State.FRESH,
    )


RESET = (
    _before_ehlo("RSET", "RSET"),
    Probe(
        "rset",
        "RSET is answered with 250.",
        _RESET,
        Level.MUST,
        (say("RSET"),),
        expects(250),
    ),
    Probe(
        "rset-discards",
        "RSET discards the open transaction: RCPT behind it is out of order.",
        _RESET,
        Level.MUST,
        (given(_MAIL), given("RSET"), say(_POSTMASTER)),
        _CLEARED,
    ),
    Probe(
        "rset-discards-mail",
        "RSET discards the open transaction: another one may be opened.",
        _RESET,
        Level.MUST,
        (given(_MAIL), given("RSET"), say(_MAIL)),
        decides(DONE, frozenset((503,))),
    ),
    Probe(
        "rset-keeps-ehlo",
        "RSET has no effect on a session in which nothing was done since EHLO: MAIL need not say EHLO again.",
        _RESET,
        Level.TABLE,
        (given("RSET"), say(_MAIL)),
        _KEPT,
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
        "RFC 5321 section 4.3.2",
        Level.SHOULD,
        (say("RSET now"),),
        expects(501),
    ),
    Probe(
        "rset-parameter",
        "RSET with something like a parameter is a syntax error, too.",
        "RFC 5321 section 4.3.2",
        Level.SHOULD,
        (say("RSET KEY=VALUE"),),
        expects(501),
    ),
)

NOOP = (
    _before_ehlo("NOOP", "NOOP"),
    Probe("noop", "NOOP is answered with 250.", _NOOP, Level.TABLE, (say("NOOP"),), expects(250)),
    Probe(
        "noop-argument",
        "An argument to NOOP is ignored.",
        _NOOP,
        Level.SHOULD,
        (say("NOOP anything"),),
        expects(250),
    ),
    Probe(
        "noop-in-transaction",
        "NOOP has no effect on an open transaction.",
        _NOOP,
        Level.TABLE,
        (given(_MAIL), say("NOOP"), say(_POSTMASTER)),
        _KEPT,
    ),
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
    _goodbye("quit-in-transaction", "QUIT may come at any time: in a transaction.", (given(_MAIL), finish())),
    Probe(
        "quit-argument",
        "QUIT with an argument is a syntax error.",
        "RFC 5321 section 4.3.2",
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
