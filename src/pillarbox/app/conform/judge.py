"""How an answer is judged: small functions that give a Judge, for the tables of probes.

Nothing here knows what was asked. A judge sees a course whose premises held. Where an answer proves neither that the
rule is kept nor that it is broken, the verdict is "not provoked", with what would have to be different.
"""

from __future__ import annotations

import re
from collections.abc import Container

from pillarbox.app.conform.probe import Course, Exchange, Judge, Ruling, Verdict
from pillarbox.app.conform.wire import Answer, Loss, Lost

DONE = frozenset(range(200, 300))
FURTHER = frozenset(range(300, 400))
NEVER = frozenset(range(500, 600))
AUTH_WANTED = frozenset((530, 535, 538))  # RFC 4954 section 6: says nothing of the command itself
NO_MAIL = frozenset((521, 556))  # RFC 7504: nor do these
REFUSED = NEVER - AUTH_WANTED - NO_MAIL
NOT_UNDERSTOOD = frozenset((500, 501))
NOT_KNOWN = frozenset((500, 502))
OVER_SIZE = 10**15  # octets of a message
PATIENCE = 300.0  # seconds that a client should wait for most replies (RFC 5321 section 4.5.3.2)

_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_LITERAL = re.compile(r"\[[!-Z^-~]+\]")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?: [!-~]+)*")  # ehlo-line, RFC 5321 section 4.1.1.1
_MAILBOX = re.compile(r"[^\s<>]+@[^\s<>]+")
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |$)")


def conforms(note: str) -> Ruling:
    return Ruling(Verdict.CONFORMS, note)


def deviates(note: str) -> Ruling:
    return Ruling(Verdict.DEVIATES, note)


def unclear(note: str) -> Ruling:
    return Ruling(Verdict.NOT_PROVOKED, note)


def lost(course: Course) -> Ruling | None:
    """What a missing reply says of the rule that was to be tried: nothing, and why. None where none is missing."""
    for exchange in course.exchanges:
        if isinstance(exchange.outcome, Lost):
            return unclear(_loss(exchange.outcome, course.facts.timeout))
    return None


def _loss(lost: Lost, timeout: float) -> str:
    if lost.loss is not Loss.SILENT:
        return lost.loss.text
    wait = f"no reply within {timeout:g} s"
    return wait if timeout >= PATIENCE else f"{wait}; a server may take 5 minutes: ask with --timeout 300"


# --- by the code of the last reply


def decides(good: Container[int], bad: Container[int]) -> Judge:
    """Codes that keep the rule and codes that break it; all others prove nothing."""

    def judge(course: Course) -> Ruling:
        note = course.last.answered
        if course.last.code in good:
            return conforms(note)
        return deviates(note) if course.last.code in bad else unclear(f"{note}, for whatever reason")

    return judge


def expects(*good: int) -> Judge:
    """All codes but these, and those that ask for patience or a password, break the rule."""
    return decides(frozenset(good), (DONE | FURTHER | REFUSED) - frozenset(good))


def forbids(*bad: int) -> Judge:
    """These codes break the rule, no other does."""

    def judge(course: Course) -> Ruling:
        note = course.last.answered
        return deviates(note) if course.last.code in bad else conforms(note)

    return judge


def where_extended(judge: Judge) -> Judge:
    """Of a server that takes no EHLO at all, nothing more is concluded from a refused one."""

    def extended(course: Course) -> Ruling:
        if course.facts.extended or course.last.code in DONE:
            return judge(course)
        return unclear(f"{course.last.answered}; EHLO is not supported")

    return extended


def all_done(course: Course) -> Ruling:
    """RFC 5321 section 4.5.3.1.8: no recipient of the first hundred is refused because it is one too many."""
    for number, exchange in enumerate(course.exchanges):
        if exchange.code not in DONE:
            note = f"command {number + 1} was {exchange.answered}"
            return deviates(note) if exchange.code in REFUSED | {452} else unclear(note)
    return conforms(f"all {len(course.exchanges)} commands were done")


def is_over_size(course: Course) -> Ruling:
    """RFC 1870 section 6.1; only where a limit is announced, and not by SIZE 0 (section 4)."""
    limit = course.facts.keywords.get("SIZE", "").strip()
    if not limit.isdecimal() or int(limit) == 0 or int(limit) >= OVER_SIZE:
        return unclear(f"no limit is announced; {course.last.answered}")
    return decides(frozenset((552, 452)), DONE | NOT_UNDERSTOOD)(course)


def anything(course: Course) -> Ruling:
    """The probe is there to see the reply; whether the table has it is judged elsewhere."""
    return conforms(course.last.answered)


# --- by how many replies came, and by the end of the connection


def _is_closed(exchange: Exchange) -> bool:
    return isinstance(exchange.outcome, Lost) and exchange.outcome.loss is Loss.CLOSED


def goodbye(course: Course) -> Ruling:
    """The last step ended in QUIT: a reply to each command, 221 the last of them, and then the close."""
    replies = [exchange for exchange in course.tail if exchange.code]
    due, closed = course.due, _is_closed(course.last)
    if replies and replies[-1].code == 421:
        return unclear("the server shut the connection down: answered 421")
    if len(replies) < due:
        return (
            deviates(f"the connection was closed after {len(replies)} of {due} replies")
            if closed
            else unclear(_text(course.last, course))
        )
    if len(replies) > due:
        return deviates(f"{len(replies)} replies to {due} commands")
    if replies[-1].code != 221:
        return deviates(f"QUIT was {replies[-1].answered}")
    if closed:
        return conforms("answered 221 and closed")
    return deviates(f"answered 221, but the connection was still open after {course.facts.timeout:g} s")


def one_line(course: Course) -> Ruling:
    """As in_step; a server that closes instead has not taken one line for two either."""
    before = _before(course)
    if before.early and before.code in DONE:
        return deviates(f"{before.answered}, before its end was sent")
    if _is_closed(before):
        return conforms("closed without a reply")
    return in_step(course)


def _before(course: Course) -> Exchange:
    """The last exchange before the last step; the last one of all where it did not come to that."""
    return course.exchanges[course.tail_at - 1] if course.tail_at else course.last


def in_step(course: Course) -> Ruling:
    """What was said before the last step, a QUIT, had exactly one reply, and the next one belongs to QUIT."""
    before = _before(course)
    replies = [exchange for exchange in course.tail if exchange.code]
    if not before.code and not replies:
        return _unanswered(before, course)
    if not replies or before.code == 421:
        return conforms(f"{before.answered}, then closed")
    if len(replies) == 1 and replies[0].code in (221, 421):
        return conforms(f"one reply: {before.answered}")
    if len(replies) > 1:
        codes = ", ".join(str(exchange.code) for exchange in (before, *replies))
        return deviates(f"more than one reply: {codes}")
    return unclear(f"QUIT was {replies[0].answered}")


def _unanswered(exchange: Exchange, course: Course) -> Ruling:
    if _is_closed(exchange):
        return deviates("the connection was closed without a reply")
    return unclear(_text(exchange, course))


def _text(exchange: Exchange, course: Course) -> str:
    outcome = exchange.outcome
    return _loss(outcome, course.facts.timeout) if isinstance(outcome, Lost) else exchange.answered


def stays_open(course: Course) -> Ruling:
    """The last command was answered, so the one before did not end the connection."""
    if course.last.code:
        return conforms(f"the next command was {course.last.answered}")
    if _is_closed(course.last):
        return deviates("the connection was closed behind it")
    return unclear(_text(course.last, course))


def in_order(refused: int) -> Judge:
    """Of the pipelined commands the one at this place is sure to be refused, and the first and last are sure not to."""

    def judge(course: Course) -> Ruling:
        codes = [exchange.code for exchange in course.tail]
        note = f"answered {', '.join(map(str, codes))}"
        refusals = {place for place, code in enumerate(codes) if code >= 400}
        if refused in refusals and not refusals & {0, len(codes) - 1}:
            return conforms(note)
        return deviates(note) if refusals and refused not in refusals and 421 not in codes else unclear(note)

    return judge


def no_data_for_nobody(course: Course) -> Ruling:
    """The last two of the pipelined commands were RCPT and DATA."""
    *_, rcpt, data = (exchange.code for exchange in course.tail)
    note = f"RCPT was answered {rcpt:03}, DATA {data:03}"
    if rcpt in DONE or data == 421:
        return unclear(note)
    return deviates(note) if data in FURTHER else conforms(note)


# --- by the text


def names_a_host(course: Course) -> Ruling:
    """RFC 5321 section 4.2 (Greeting), section 4.1.1.1 (ehlo-ok-rsp): the first word is a domain or an address."""
    outcome = course.last.outcome
    if not isinstance(outcome, Answer) or course.last.code // 100 != 2:
        return unclear(course.last.answered)
    word = outcome.texts[0].split(" ", 1)[0]
    if (_DOMAIN.fullmatch(word) or _LITERAL.fullmatch(word)) and not enhanced(word):
        return conforms(f"the first word is {word}")
    return deviates(f"the first word is {word!r}, no domain and no address literal" if word else "there is no text")


def keywords_are_well_formed(course: Course) -> Ruling:
    outcome = course.last.outcome
    if not isinstance(outcome, Answer) or course.last.code != 250:
        return unclear(course.last.answered)
    bad = [text for text in outcome.texts[1:] if not _KEYWORD.fullmatch(text.rstrip(" "))]
    return deviates("not a keyword line: " + "; ".join(map(repr, bad[:5]))) if bad else conforms("all lines are")


def is_no_ehlo_reply(course: Course) -> Ruling:
    """RFC 5321 section 3.2: no list of keywords in reply to HELO."""
    outcome = course.last.outcome
    if not isinstance(outcome, Answer) or course.last.code // 100 != 2:
        return unclear(course.last.answered)
    words = {text.split(" ", 1)[0].upper() for text in outcome.texts[1:]}
    listed = sorted(words & course.facts.keywords.keys())
    return deviates(f"the reply lists {', '.join(listed)}") if listed else conforms("the reply lists no extension")


def gives_a_mailbox(course: Course) -> Ruling:
    """RFC 5321 section 3.5.2, for the replies that claim to know the address."""
    outcome = course.last.outcome
    if not isinstance(outcome, Answer) or course.last.code not in (250, 251, 551):
        return unclear(f"{course.last.answered}: no address was given")
    if all(_MAILBOX.search(text) for text in outcome.texts):
        return conforms("the reply names a mailbox")
    return deviates(f"{course.last.answered} without a mailbox")


def enhanced(text: str) -> str:
    """The enhanced status code that a reply's text begins with, "" for none."""
    match = _ENHANCED.match(text)
    return match[0] if match else ""


def is_listed(verb: str) -> Judge:
    """RFC 5321 section 4.1.1.1: a command that works, and is not a required one, is a keyword of EHLO's reply."""

    def judge(course: Course) -> Ruling:
        note = course.last.answered
        if course.last.code // 100 not in (2, 3):
            return Ruling(Verdict.NOT_OFFERED, note) if course.last.code in NOT_KNOWN else unclear(note)
        if not course.facts.extended:
            return unclear(f"{note}; EHLO, which would list it, was not accepted")
        if course.facts.offers(verb):
            return conforms(f"{note}, and EHLO lists it")
        if course.last.code == 252:  # RFC 5321 section 7.3: that is what a disabled EXPN says
            return unclear(f"{note}, as a disabled command does")
        return deviates(f"{note}, and EHLO does not list it")

    return judge
