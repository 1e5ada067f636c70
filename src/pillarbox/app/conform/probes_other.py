"""Probes of what is no mail transaction: VRFY, EXPN, HELP, the terminal, changes of roles, AUTH, what EHLO lists.

Data alone. RFC 5321 sections 3.5, 7.3, 4.1.1.1, 4.2.4 and appendix F; RFC 821 section 3.8; RFC 4954.
"""

from __future__ import annotations

from pillarbox.app.conform.judge import (
    DONE,
    FURTHER,
    NOT_KNOWN,
    OVER_SIZE,
    anything,
    decides,
    forbids,
    gives_a_mailbox,
    is_listed,
    is_over_size,
)
from pillarbox.app.conform.probe import Level, Probe, given, say
from pillarbox.app.conform.probes_session import MAIL_FROM, ORDER, REPLIES, before_ehlo, in_transaction

_LISTING = "RFC 5321 section 4.2.4"
_NOWHERE = "nobody-5d1c@nowhere.invalid"  # there is no such domain, and never will be (RFC 2606)

VRFY = (
    Probe(
        "vrfy",
        "VRFY is supported; where it is disabled for security, it says 252.",
        "RFC 5321 sections 4.5.1, 3.5.3 and 7.3",
        Level.MUST,
        (say("VRFY postmaster"),),
        forbids(500, 502),
    ),
    before_ehlo("VRFY", "VRFY postmaster"),
    in_transaction("VRFY", "VRFY postmaster", "RFC 5321 section 4.1.1.6"),
    Probe(
        "vrfy-mailbox",
        "A reply that knows the user names the mailbox.",
        "RFC 5321 section 3.5.2",
        Level.MUST,
        (say("VRFY postmaster"),),
        gives_a_mailbox,
    ),
    Probe(
        "vrfy-not-verified",
        "VRFY does not say 250 for an address that nobody can have verified.",
        "RFC 5321 section 3.5.3",
        Level.MUST,
        (say(f"VRFY {_NOWHERE}"),),
        forbids(250),
    ),
    Probe(
        "vrfy-no-argument",
        "VRFY without an argument is a syntax error.",
        REPLIES,
        Level.TABLE,
        (say("VRFY"),),
        decides(frozenset((501, 504)), DONE | {503}),
    ),
    Probe(
        "vrfy-parameter",
        "VRFY with a parameter that the server does not have gets one of the replies of the table.",
        REPLIES,
        Level.TABLE,
        (say("VRFY postmaster X=1"),),
        anything,
    ),
    Probe(
        "vrfy-named",
        "VRFY for the mailbox that was named: a reply that knows the user names the mailbox.",
        "RFC 5321 section 3.5.2",
        Level.MUST,
        (say("VRFY {mailbox}"),),
        gives_a_mailbox,
        delivers=True,
    ),
    Probe(
        "vrfy-unknown-mailbox",
        "VRFY for a mailbox that nobody has does not say 250.",
        "RFC 5321 section 3.5.3",
        Level.MUST,
        (say("VRFY no-such-user-5d1c@{mailbox_domain}"),),
        forbids(250),
        delivers=True,
    ),
)

EXPN = (
    Probe(
        "expn-listed",
        "EXPN is listed in the reply to EHLO where it is supported.",
        "RFC 5321 section 3.5.2",
        Level.MUST,
        (say("EXPN postmaster"),),
        is_listed("EXPN"),
    ),
    before_ehlo("EXPN", "EXPN postmaster"),
    in_transaction("EXPN", "EXPN postmaster", "RFC 5321 section 4.1.1.7"),
    Probe(
        "expn-not-verified",
        "EXPN does not say 250 for an address that nobody can have verified.",
        "RFC 5321 section 3.5.3",
        Level.MUST,
        (say(f"EXPN {_NOWHERE}"),),
        forbids(250),
    ),
    Probe(
        "expn-no-argument",
        "EXPN without an argument is a syntax error, where EXPN is offered.",
        REPLIES,
        Level.TABLE,
        (say("EXPN"),),
        decides(frozenset((501, 504)), DONE | {503}),
        needs="EXPN",
    ),
    Probe(
        "expn-parameter",
        "EXPN with a parameter that the server does not have gets one of the replies of the table.",
        REPLIES,
        Level.TABLE,
        (say("EXPN postmaster X=1"),),
        anything,
        needs="EXPN",
    ),
)

HELP = (
    Probe(
        "help",
        "HELP without an argument is supported.",
        "RFC 5321 section 4.1.1.8",
        Level.SHOULD,
        (say("HELP"),),
        forbids(500, 502),
    ),
    Probe(
        "help-listed",
        "HELP is listed in the reply to EHLO where it is supported.",
        "RFC 5321 section 4.1.1.1",
        Level.MUST,
        (say("HELP"),),
        is_listed("HELP"),
    ),
    before_ehlo("HELP", "HELP"),
    in_transaction("HELP", "HELP", "RFC 5321 section 4.1.1.8"),
    Probe(
        "help-topic", "HELP may take an argument.", "RFC 5321 section 4.1.1.8", Level.MAY, (say("HELP MAIL"),), anything
    ),
    Probe(
        "help-unknown-topic",
        "HELP on something unknown gets one of the replies of the table.",
        REPLIES,
        Level.TABLE,
        (say("HELP wombats"),),
        anything,
    ),
)


def _terminal(verb: str) -> tuple[Probe, ...]:
    return (
        Probe(
            f"{verb.lower()}-listed",
            f"{verb} is listed in the reply to EHLO where it is supported.",
            "RFC 5321 appendix F.6",
            Level.MUST,
            (say(f"{verb} FROM:<{{sender}}>"),),
            is_listed(verb),
        ),
        Probe(
            f"{verb.lower()}-bad-path",
            f"{verb} with a path that is none is refused with 501, where {verb} is offered.",
            ORDER,
            Level.MUST,
            (say(f"{verb} FROM:<two words@@>"),),
            decides(frozenset((501, 550, 553, 555)), frozenset((500, 502, 503, 504))),
            needs=verb,
        ),
        Probe(
            f"{verb.lower()}-over-size",
            f"{verb} with a declared size above the announced limit is refused as with MAIL, where {verb} is offered.",
            "RFC 1870 section 6.1",
            Level.TABLE,
            (say(f"{verb} FROM:<{{sender}}> SIZE={OVER_SIZE - 1}"),),
            is_over_size,
            needs=verb,
        ),
        Probe(
            f"{verb.lower()}-in-transaction",
            f"{verb} in an open transaction is out of order, where {verb} is offered.",
            ORDER,
            Level.MUST,
            (given(MAIL_FROM), say(f"{verb} FROM:<{{sender}}>")),
            decides(DONE | {503}, frozenset((500, 501, 502, 504))),
            needs=verb,
        ),
    )


TERMINAL = tuple(probe for verb in ("SEND", "SOML", "SAML") for probe in _terminal(verb))

ROLES = (
    Probe(
        "turn-listed",
        "TURN is listed in the reply to EHLO where it is supported.",
        "RFC 5321 section 4.1.1.1",
        Level.MUST,
        (say("TURN"),),
        is_listed("TURN"),
    ),
    Probe(
        "turn-unauthenticated",
        "TURN is not obeyed for a client that has not proved who it is.",
        "RFC 5321 appendix F.1",
        Level.SHOULD,
        (say("TURN"),),
        decides(frozenset((500, 502, 503, 530)), DONE),
    ),
    Probe(
        "turn-in-transaction",
        "TURN in an open transaction gets one of the replies of the table.",
        "RFC 821 section 4.3",
        Level.TABLE,
        (given(MAIL_FROM), say("TURN")),
        anything,
    ),
    Probe(
        "etrn-unknown-node",
        "ETRN for a node that the server does not know gets one of the replies of the table.",
        "RFC 1985 section 5.1",
        Level.TABLE,
        (say("ETRN nowhere.invalid"),),
        anything,
        needs="ETRN",
    ),
)

AUTH = (
    Probe(
        "auth-unknown-mechanism",
        "AUTH with a mechanism that is not offered is refused with 504.",
        "RFC 4954 section 4",
        Level.TABLE,
        (say("AUTH WOMBAT"),),
        decides(frozenset((504, 530, 538)), DONE | FURTHER),
        needs="AUTH",
    ),
    Probe(
        "auth-in-transaction",
        "AUTH in an open transaction is refused with 503.",
        "RFC 4954 section 4",
        Level.MUST,
        (given(MAIL_FROM), say("AUTH {mechanism}")),
        decides(frozenset((503,)), DONE | FURTHER),
        needs="AUTH",
    ),
)

_OFFERED = (
    ("AUTH", "AUTH {mechanism}"),
    ("STARTTLS", "STARTTLS"),
    ("CHUNKING", "BDAT 0 LAST"),
    ("ETRN", "ETRN nowhere.invalid"),
    ("ATRN", "ATRN"),
    ("EXPN", "EXPN postmaster"),
    ("HELP", "HELP"),
    ("VRFY", "VRFY postmaster"),
    ("SEND", "SEND FROM:<{sender}>"),
    ("SOML", "SOML FROM:<{sender}>"),
    ("SAML", "SAML FROM:<{sender}>"),
    ("TURN", "TURN"),
)
OFFERED = tuple(
    Probe(
        f"offered-{keyword.lower()}",
        f"{keyword} is not listed in the reply to EHLO where its command is answered with 500 or 502.",
        _LISTING,
        Level.MUST,
        (say(line),),
        forbids(*NOT_KNOWN),
        needs=keyword,
        alone=True,
    )
    for keyword, line in _OFFERED
)
