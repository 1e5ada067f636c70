"""Probes of the mail transaction, up to the message itself: MAIL, RCPT, DATA, and the order they come in.

Data alone. RFC 5321 sections 3.3, 4.1.1.2 to 4.1.1.4, 4.1.4. None of them sends a message. A DATA that is answered with
354 is followed by nothing: the connection is dropped, which gives the message up (RFC 5321 section 4.1.1.10).
"""

from __future__ import annotations

from pillarbox.app.conform.judge import (
    DONE,
    FURTHER,
    NEVER,
    NOT_KNOWN,
    NOT_UNDERSTOOD,
    OVER_SIZE,
    REFUSED,
    all_done,
    anything,
    decides,
    expects,
    forbids,
    is_over_size,
)
from pillarbox.app.conform.probe import Level, Probe, State, given, say
from pillarbox.app.conform.probes_session import KEPT, MAIL_FROM, ORDER, REPLIES, TO_POSTMASTER

_STEPS = "RFC 5321 section 3.3"
_PARAMETERS = "RFC 5321 section 4.1.1.11"
_PATHS = "RFC 5321 section 4.1.2"
_SIZES = "RFC 5321 section 4.5.3.1"
_POSTMASTER = "RFC 5321 section 4.5.1"
_LITERALS = "RFC 5321 section 4.1.3"
_ELSEWHERE = "nobody@example.org"  # nobody's mail is taken there (RFC 2606)
_LONG_LOCAL = "x" * 64
_LONG_PATH = f"{_LONG_LOCAL}@{'a' * 63}.{'b' * 63}.{'c' * 61}"  # 256 octets with its brackets
_NOT_500 = frozenset((500, 502, 503, 504))
_READ = decides(DONE, NOT_UNDERSTOOD)
_BAD_PATH = decides(frozenset((501, 550, 553, 555)), _NOT_500)
_TAKEN = decides(DONE, frozenset((500, 501, 504, 555)))
_OUT_OFORDER = decides(frozenset((503,)), DONE | FURTHER | REFUSED - {503, 521})


def _mail(name: str, rule: str, line: str, *, section: str = _PATHS, level: Level = Level.MUST) -> Probe:
    """A MAIL whose argument has to be understood."""
    return Probe(name, rule, section, level, (say(line),), _READ)


def _offered(name: str, keyword: str, line: str, section: str) -> Probe:
    """A parameter of an extension that is offered."""
    rule = f"A parameter of {keyword} is understood where EHLO offers the extension."
    script = (given(MAIL_FROM), say(line)) if line.startswith("RCPT") else (say(line),)
    return Probe(name, rule, section, Level.TABLE, script, _TAKEN, needs=keyword)


MAIL = (
    Probe(
        "mail-null",
        "The null reverse-path is accepted.",
        _PATHS,
        Level.TABLE,
        (say("MAIL FROM:<>"),),
        decides(DONE, REFUSED),
    ),
    Probe(
        "mail-before-ehlo",
        "MAIL before EHLO is out of order, where it can't be done.",
        ORDER,
        Level.MUST,
        (say(MAIL_FROM),),
        decides(DONE | {503}, frozenset((500, 501, 502, 504))),
        State.FRESH,
    ),
    Probe(
        "mail-nested",
        "MAIL in an open transaction is out of order, where it can't be done.",
        ORDER,
        Level.MUST,
        (given(MAIL_FROM), say(MAIL_FROM)),
        decides(DONE | {503}, frozenset((500, 501, 502, 504))),
    ),
    Probe(
        "mail-nested-state",
        "A MAIL that is refused with 503 leaves the open transaction as it was.",
        ORDER,
        Level.MUST,
        (given(MAIL_FROM), say(MAIL_FROM, premise=5), say(TO_POSTMASTER)),
        KEPT,
    ),
    Probe("mail-no-path", "MAIL without a path is refused with 501.", ORDER, Level.MUST, (say("MAIL"),), _BAD_PATH),
    Probe(
        "mail-no-brackets",
        "MAIL with an address without its brackets is refused with 501, where it is refused.",
        ORDER,
        Level.MUST,
        (say(f"MAIL FROM:{_ELSEWHERE}"),),
        decides(DONE | {501, 550, 553, 555}, _NOT_500),
    ),
    Probe(
        "mail-bad-path",
        "MAIL with a path that is none is refused with 501.",
        ORDER,
        Level.MUST,
        (say("MAIL FROM:<two words@@>"),),
        _BAD_PATH,
    ),
    Probe(
        "mail-bad-path-state",
        "A MAIL that is refused leaves the state as it was: the next one may be accepted.",
        ORDER,
        Level.MUST,
        (say("MAIL FROM:<two words@@>", premise=5), say(MAIL_FROM)),
        decides(DONE, frozenset((503,))),
    ),
    Probe(
        "mail-bad-character",
        "MAIL with a character in the domain that no domain may have is rejected with 501.",
        _PATHS,
        Level.MUST,
        (say("MAIL FROM:<nobody@exa$mple.org>"),),
        decides(frozenset((501,)), DONE),
    ),
    _mail(
        "mail-mixed-case", "FROM: may be in lower case.", f"mail from:<{_ELSEWHERE}>", section="RFC 5321 section 2.4"
    ),
    _mail(
        "mail-source-route",
        "A source route is accepted in the reverse-path.",
        f"MAIL FROM:<@a.example,@b.example:{_ELSEWHERE}>",
    ),
    _mail(
        "mail-literal",
        "An address literal may stand for a domain.",
        "MAIL FROM:<nobody@[192.0.2.1]>",
        section=_LITERALS,
        level=Level.TABLE,
    ),
    _mail(
        "mail-quoted", "A local part may be a quoted string.", 'MAIL FROM:<"no body"@example.org>', level=Level.TABLE
    ),
    _mail(
        "mail-longest-local-part",
        "A local part may have 64 octets.",
        f"MAIL FROM:<{_LONG_LOCAL}@example.org>",
        section=_SIZES,
    ),
    _mail("mail-longest-path", "A path may have 256 octets.", f"MAIL FROM:<{_LONG_PATH}>", section=_SIZES),
    Probe(
        "mail-unknown-parameter",
        "A parameter that is not recognised is refused with 555.",
        _PARAMETERS,
        Level.TABLE,
        (say(f"{MAIL_FROM} WOMBAT=1"),),
        expects(555),
    ),
    Probe(
        "mail-over-size",
        "A message that is declared larger than the announced limit is refused with 552, or for now with 452.",
        "RFC 1870 sections 6.1 and 7",
        Level.SHOULD,
        (say(f"{MAIL_FROM} SIZE={OVER_SIZE - 1}"),),
        is_over_size,
        needs="SIZE",
    ),
    Probe(
        "mail-bad-size",
        "A SIZE that is no number is refused as a syntax error.",
        "RFC 1870 section 3",
        Level.TABLE,
        (say(f"{MAIL_FROM} SIZE=abc"),),
        decides(frozenset((501, 504, 555)), DONE),
        needs="SIZE",
    ),
    Probe(
        "mail-bad-body",
        "A BODY that is neither 7BIT nor 8BITMIME nor BINARYMIME is refused.",
        "RFC 6152 section 2",
        Level.TABLE,
        (say(f"{MAIL_FROM} BODY=WOMBAT"),),
        decides(frozenset((501, 504, 555)), DONE),
        needs="8BITMIME",
    ),
    _offered("mail-size", "SIZE", f"{MAIL_FROM} SIZE=1000", "RFC 1870 section 3"),
    _offered("mail-8bitmime", "8BITMIME", f"{MAIL_FROM} BODY=8BITMIME", "RFC 6152 section 2"),
    _offered("mail-dsn", "DSN", f"{MAIL_FROM} RET=HDRS ENVID=conform", "RFC 3461 section 4"),
)

RCPT = (
    Probe(
        "rcpt-before-mail",
        "RCPT without a MAIL before it is refused with 503.",
        _STEPS,
        Level.MUST,
        (say(TO_POSTMASTER),),
        _OUT_OFORDER,
    ),
    Probe(
        "rcpt-postmaster",
        "RCPT TO:<Postmaster>, without a domain, is accepted.",
        _POSTMASTER,
        Level.MUST,
        (given(MAIL_FROM), say(TO_POSTMASTER)),
        decides(DONE, REFUSED),
    ),
    Probe(
        "rcpt-postmaster-case",
        "Postmaster is the same in any case.",
        _POSTMASTER,
        Level.MUST,
        (given(MAIL_FROM), given("RCPT TO:<Postmaster>"), say("RCPT TO:<pOsTmAsTeR>")),
        decides(DONE, REFUSED),
    ),
    Probe(
        "rcpt-mixed-case",
        "TO: may be in lower case.",
        "RFC 5321 section 2.4",
        Level.MUST,
        (given(MAIL_FROM), say("rcpt to:<Postmaster>")),
        _READ,
    ),
    Probe(
        "rcpt-source-route",
        "A source route is understood in the forward-path, be the mail accepted or not.",
        _PATHS,
        Level.MUST,
        (given(MAIL_FROM), say(f"RCPT TO:<@a.example,@b.example:{_ELSEWHERE}>")),
        forbids(500, 501),
    ),
    Probe(
        "rcpt-literal",
        "The server's own address may stand for a domain, as an address literal.",
        _LITERALS,
        Level.TABLE,
        (given(MAIL_FROM), say("RCPT TO:<postmaster@{literal}>")),
        _READ,
    ),
    Probe(
        "rcpt-elsewhere",
        "A recipient elsewhere is accepted, or refused with 550 as a matter of policy.",
        "RFC 5321 section 3.6.2",
        Level.SHOULD,
        (given(MAIL_FROM), say(f"RCPT TO:<{_ELSEWHERE}>")),
        decides(DONE | {550}, REFUSED - {550, 521, 556}),
    ),
    Probe(
        "rcpt-no-path",
        "RCPT without a path is a syntax error.",
        REPLIES,
        Level.TABLE,
        (given(MAIL_FROM), say("RCPT")),
        decides(frozenset((501, 550, 553, 555)), DONE | _NOT_500),
    ),
    Probe(
        "rcpt-bad-path",
        "RCPT with a path that is none is a syntax error.",
        REPLIES,
        Level.TABLE,
        (given(MAIL_FROM), say("RCPT TO:<two words@@>")),
        decides(frozenset((501, 550, 553, 555)), DONE | _NOT_500),
    ),
    Probe(
        "rcpt-null-path",
        "The null path is no forward-path.",
        _PATHS,
        Level.TABLE,
        (given(MAIL_FROM), say("RCPT TO:<>")),
        decides(NEVER, DONE),
    ),
    Probe(
        "rcpt-unknown-parameter",
        "A parameter that is not recognised is refused with 555.",
        _PARAMETERS,
        Level.TABLE,
        (given(MAIL_FROM), say(f"{TO_POSTMASTER} WOMBAT=1")),
        expects(555),
    ),
    _offered("rcpt-dsn", "DSN", f"{TO_POSTMASTER} NOTIFY=NEVER", "RFC 3461 section 4"),
    Probe(
        "rcpt-mailbox",
        "The mailbox that was named is accepted.",
        REPLIES,
        Level.TABLE,
        (given(MAIL_FROM), say("RCPT TO:<{mailbox}>")),
        anything,
        delivers=True,
    ),
    Probe(
        "rcpt-unknown-mailbox",
        "A mailbox that nobody has gets one of the replies of the table.",
        REPLIES,
        Level.TABLE,
        (given(MAIL_FROM), say("RCPT TO:<no-such-user-5d1c@{mailbox_domain}>")),
        anything,
        delivers=True,
    ),
    Probe(
        "rcpt-routed-mailbox",
        "A source route is stripped off: what stands behind it counts.",
        "RFC 5321 section 4.1.1.3",
        Level.SHOULD,
        (given(MAIL_FROM), given("RCPT TO:<{mailbox}>"), say("RCPT TO:<@a.example:{mailbox}>")),
        decides(DONE, REFUSED),
        delivers=True,
    ),
    Probe(
        "rcpt-100",
        "One hundred recipients of a message are accepted.",
        "RFC 5321 section 4.5.3.1.8",
        Level.MUST,
        (given(MAIL_FROM), given("RCPT TO:<{mailbox}>"), *(say("RCPT TO:<{mailbox}>") for _ in range(99))),
        all_done,
        delivers=True,
        alone=True,
    ),
)

DATA = (
    Probe(
        "data-before-mail",
        "DATA without a MAIL before it is refused with 503 or 554, where it is refused.",
        _STEPS,
        Level.TABLE,
        (say("DATA"),),
        decides(frozenset((354, 503, 554)), DONE | NOT_KNOWN),
    ),
    Probe(
        "data-before-rcpt",
        "DATA without a RCPT before it is refused with 503 or 554, where it is refused.",
        _STEPS,
        Level.TABLE,
        (given(MAIL_FROM), say("DATA")),
        decides(frozenset((354, 503, 554)), DONE | NOT_KNOWN),
    ),
    Probe(
        "data-all-refused",
        "DATA behind RCPTs that were all refused is refused with 503 or 554, where it is refused.",
        _STEPS,
        Level.TABLE,
        (given(MAIL_FROM), say(f"RCPT TO:<{_ELSEWHERE}>", premise=5), say("DATA")),
        decides(frozenset((354, 503, 554)), DONE | NOT_KNOWN),
    ),
    Probe(
        "data-out-of-order-state",
        "A DATA that is refused as out of order leaves the transaction as it was.",
        ORDER,
        Level.MUST,
        (given(MAIL_FROM), say("DATA", premise=5), say(TO_POSTMASTER)),
        KEPT,
    ),
    Probe(
        "data-argument",
        "DATA with an argument is a syntax error.",
        REPLIES,
        Level.SHOULD,
        (say("DATA now"),),
        expects(501, 503),
    ),
    Probe(
        "data-argument-in-place",
        "DATA with an argument is a syntax error, also where DATA would be due.",
        REPLIES,
        Level.SHOULD,
        (given(MAIL_FROM), given("RCPT TO:<{mailbox}>"), say("DATA now")),
        expects(501),
        delivers=True,
    ),
)
