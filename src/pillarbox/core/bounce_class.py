"""Why a message was refused or came back: a status and a text become a class.

One table, read from the top: the first row that fits decides. An enhanced code that means one thing comes first, the
codes that servers use for anything (x.0.0, x.7.1 …) are told apart by the text. Pure; knows no bounce and no queue.
RFC 3463, and the IANA registry of enhanced codes. Only HARD says something of the address itself, so a row gives it
only where an address or its domain is named as the cause.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from pillarbox.core.bounce import BounceClass
from pillarbox.core.reply import EnhancedCode

_READ = 2000  # characters of a text that are looked at


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_GREY = _words(r"gr[ea]y.?list", r"try again in \d+ (?:sec|min)", r"deferred for \d+ sec", r"postgrey")
_LARGE = _words(
    r"(?:message|mail|size|data).{0,40}(?:too (?:large|big)|exceed)(?!.{0,30}(?:quota|rate|hop))",
    r"(?:too (?:large|big)).{0,20}(?:message|mail)",
    r"exceed.{0,40}(?:message|maximum|max|fixed).{0,12}size",
    r"size limit",
    r"larger than the (?:current )?system limit",
)
_FULL = _words(
    r"(?:mail ?box|inbox|account|user|recipient|storage|disk|folder).{0,40}"
    r"(?:\bfull\b|over.?quota|exceeded|out of storage)",
    r"over ?(?:the |its |their )?quota",
    r"quota.{0,20}(?:exceed|full|reached)",
    r"exceed.{0,30}(?:quota|storage)",
    r"insufficient (?:disk|mailbox|storage)",
    r"out of storage",
    r"OverQuotaTemp",
    r"MailboxFull",
    r"recipient storage full",
)
_AUTH = _words(
    r"\bDMARC\b",
    r"\bDKIM\b.{0,60}(?:fail|not pass|invalid|required|missing)",
    r"\bSPF\b.{0,60}(?:fail|not pass|check|denied|not allowed|permerror|reject|required)",
    r"(?:fail|not pass|violat).{0,40}\b(?:SPF|DKIM)\b",
    r"sender policy framework",
    r"unauthenticated (?:e?mail|message|sender)",
    r"(?:authentication|authenticated) (?:checks?|results?|requirements?)",
    r"not authorized to send (?:e?mail|on behalf)",
)
_SPAM = _words(
    r"\bspam",
    r"\bUBE\b",
    r"\bUCE\b",
    r"unsolicited",
    r"\bbulk\b.{0,20}mail",
    r"\bjunk\b",
    r"reputation",
    r"block.?list",
    r"black.?list",
    r"deny.?list",
    r"\bD?N?S?RBL\b",
    r"\bDNSBL\b",
    r"spamhaus|spamcop|barracuda|sorbs|cloudmark|proofpoint\.com/ipcheck|senderscore|mimecast.{0,20}block",
    r"listed (?:at|in|on|by) [\w.-]+\.\w{2,}",
    r"poor (?:sender|ip)",
    r"blocked using",
    r"(?:ip|host|address|network|client).{0,40}(?:is |been |was )(?:temporarily )?blocked",
    r"phish",
    r"virus|malware|infected",
    r"abus(?:e|ive)",
    r"complaint",
    r"suspicious",
    r"content (?:rejected|filter|denied)",
    r"\(TSS?\d\d\)|\[TSS?\d\d\]",
)
_OF_SENDER = _words(
    r"sender(?:'s)? (?:address|domain|host|name|verif|rejected|unknown|is not|not|does)",
    r"(?:domain|address|host)s? of (?:the |your )?(?:sender|envelope)",
    r"verify.{0,10}sender",
    r"in reply to MAIL FROM|envelope (?:from|sender)|(?:return|reverse)[- ]path|call[- ]?(?:out|back)",
    r"(?:your|client|sending|connecting) (?:domain|host|IP|server)",
)
_GONE_DOMAIN = _words(
    r"(?:host|domain).{0,80}(?:not found|unknown|does ?n[o']t exist|no such)",
    r"unknown (?:host|domain)|bad destination (?:host|system)",
    r"name or service not known",
    r"NXDOMAIN|no such domain|DNS Error.{0,40}(?:not found|nxdomain)",
    r"(?:domain|host).{0,30}(?:does not|doesn't) (?:accept|receive|take) mail|null MX|NULLMX",
    r"no valid MX|unrouteable (?:mail )?domain|no MX or A",
)
_NO_USER = _words(
    r"(?:no|not a) such (?:user|recipient|mailbox|address|person|account|local|email|customer)",
    r"(?:user|recipient|mailbox|account|address|alias|addressee)s? .{0,60}"
    r"(?:unknown|not ?found|n[o']t exist|not ?exist|nonexist|invalid|is not valid|not (?:listed|known|local)|disabled"
    r"|inactive|deactivated|suspended|closed|no longer|not active|unavailable$|rejected\b.{0,30}undeliverable)",
    r"(?:user|recipient|mailbox|account|address|alias)[- ]"
    r"(?:unknown|not ?found|disabled|inactive|suspended|unavailable)",
    r"(?:unknown|invalid|non-?existent|nonexistent|undefined|bad|inactive|disabled|illegal|expired) "
    r"(?:or \w+ )?(?:local|user|recipient|mailbox|account|address|alias|virtual|destination|rcpt|email)",
    r"does ?n[o']t (?:have|like) (?:an? .{0,40}account|a mailbox|recipient|.{0,40}mailbox here)",
    r"no (?:mailbox|account|mail ?drop) (?:here|by|with|for|of)",
    r"not (?:a valid|our|one of our) (?:user|mailbox|customer|recipient|account|address)",
    r"RecipNotFound|RecipientNotFound|ADR\.RecipNotFound|ADR\.ExRecipNotFound",
    r"unrouteable address|unroutable address",
    r"(?:could|can) ?n[o']t be (?:found|delivered to this user)",
    r"(?:e-?mail|account) .{0,40}you tried to reach (?:does not|is (?:disabled|inactive))",
    r"(?:no longer|not) (?:employed|with us|works? here|in use)",
    r"user doesn't exist|user not exist|no user|unknown user|delivery not allowed to non-local",
    r"not listed in (?:the )?(?:Domino|public Name & Address|directory)",
    r"said: [45]\d\d .{0,10}unknown",
    r"this account has been (?:disabled|discontinued|closed)",
    r"\bdeactivated\b|\bno existe\b|\bn'existe pas\b|unbekannt",
    r"existiert nicht|non esiste|inconnu|inexistant|inesistente",
)
_SOFT = _words(
    r"(?:timed? ?out|time-?out|connection (?:refused|reset|lost|closed|dropped|timed))",
    r"try (?:again|later)|retry|temporar|later\b|busy|too many (?:connections|messages|recipients|concurrent)",
    r"(?:rate|throttl|limit).{0,30}(?:exceed|limit|reach|too)|rate.?limit|throttl",
    r"delivery time expired|could not be delivered (?:for|within)|retry time(?:out)? exceeded|message expired|too old",
    r"no route to host|network (?:is )?unreachable|host (?:is )?unreachable|service (?:not |un)available|unreachable",
    r"(?:system|resources?|server).{0,20}(?:error|problem|unavailable|overload|down)|local error|internal error",
    r"(?:DNS|name server|lookup).{0,40}(?:fail|error|time)",
    r"too many hops|loop",
)
_POLICY = _words(
    r"polic(?:y|ies)",
    r"(?:access|relay(?:ing)?|permission|mail|sender|client|message|connection|delivery|service|transaction).{0,30}"
    r"(?:denied|refused|rejected|prohibited|restricted|blocked|failed"
    r"|not (?:allowed|permitted|authori[sz]ed|accepted))",
    r"not (?:allowed|permitted|authori[sz]ed)|unauthori[sz]ed|administrative|prohibit|restricted",
    r"relay",
    r"(?:rDNS|reverse DNS|PTR|HELO|EHLO)",
    r"(?:only|members|subscribers).{0,40}(?:post|send|accept)",
    r"attachment|file type|banned",
    r"RESTR|RESOLVER\.RST|blocked",
)

_CODE = re.compile(r"(?<![\d.])([45]\d\d)(?![\d.])")
_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
_MEANS_NOTHING = frozenset(((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (7, 0), (7, 1), (3, 2), (5, 1), (5, 4)))


class _Row(NamedTuple):
    """`klass`: the first digit, 0 for any. `codes`: (subject, detail), empty for any."""

    klass: int
    codes: frozenset[tuple[int, int]]
    text: re.Pattern[str] | None
    means: BounceClass


def _codes(source: str) -> frozenset[tuple[int, int]]:
    pairs = (code.partition(".") for code in source.split())
    return frozenset((int(subject), int(detail)) for subject, _, detail in pairs)


_ANY: frozenset[tuple[int, int]] = frozenset()
_B = BounceClass
_TABLE = (
    # what the code alone says, and the few texts that are known to say it better
    _Row(4, _codes("2.1 3.0 5.0 7.0 7.1"), _GREY, _B.GREYLISTED),
    _Row(0, _codes("1.1 1.0 2.1 2.0 5.0"), _FULL, _B.FULL),  # 5.1.1 and 5.2.1 of some say "over quota"
    _Row(5, _codes("1.1 1.0"), _SPAM, _B.SPAM),
    _Row(5, _codes("1.1 1.2 1.3 1.6 1.10 4.310 4.4"), None, _B.HARD),
    _Row(5, _codes("4.1"), _words(r"recipient|access denied|" + _NO_USER.pattern), _B.HARD),  # how a large one says so
    _Row(5, _codes("2.1"), _words(r"rate|too (?:quickly|many)|receiving mail"), _B.SOFT),
    _Row(5, _codes("2.1"), None, _B.HARD),  # RFC 3463 §3.3: disabled
    _Row(0, _codes("2.2 3.1"), None, _B.FULL),
    _Row(0, _codes("2.3 3.4"), None, _B.TOO_LARGE),
    _Row(0, _codes("7.20 7.21 7.22 7.23 7.24 7.26 7.29 7.30 7.9 7.509"), None, _B.AUTH),
    _Row(0, _codes("7.28 7.350 7.501 7.502 7.503 7.511 7.606 7.708 7.750"), None, _B.SPAM),
    _Row(0, _codes("7.25 7.27 7.2 7.133 7.124 7.129 7.135 7.134 7.54 7.57 7.60 7.512"), None, _B.POLICY),
    _Row(5, _codes("7.17 7.18"), None, _B.HARD),  # RFC 7293 §5: the mailbox has another owner
    _Row(0, _codes("1.7 1.8 7.13"), None, _B.POLICY),  # of the sender
    _Row(0, _codes("4.7"), None, _B.SOFT),  # delivery time expired, whatever was said before
    _Row(4, _codes("1.1"), None, _B.SOFT),
    # what a text says, whatever the code
    _Row(4, _ANY, _GREY, _B.GREYLISTED),
    _Row(0, _ANY, _LARGE, _B.TOO_LARGE),
    _Row(0, _ANY, _AUTH, _B.AUTH),
    _Row(0, _ANY, _FULL, _B.FULL),
    _Row(0, _ANY, _SPAM, _B.SPAM),
    _Row(4, _ANY, None, _B.SOFT),  # the first digit is a promise: RFC 5321 §4.2.1
    _Row(5, _codes("4.1 4.2 4.3 4.5 4.6 4.14 4.300 4.316 3.3 3.5"), None, _B.SOFT),
    _Row(5, _codes("6.0 6.1 6.2 6.3 6.5 6.6 6.7 6.8 6.9"), None, _B.POLICY),  # what kind of message it is
    _Row(0, _ANY, _OF_SENDER, _B.POLICY),  # what follows is about the recipient
    _Row(0, _ANY, _GONE_DOMAIN, _B.HARD),
    _Row(0, _ANY, _NO_USER, _B.HARD),
    _Row(0, _ANY, _POLICY, _B.POLICY),
    _Row(5, _codes("7.1 7.0 7.3 7.4 7.5 7.6 7.7 7.8"), None, _B.POLICY),
    _Row(0, _ANY, _SOFT, _B.SOFT),
)


def status_in(text: str) -> EnhancedCode | None:
    """The enhanced code that stands in a text, where one does."""
    found = _ENHANCED.search(text[:_READ])
    return None if found is None else EnhancedCode(int(found[1]), int(found[2]), int(found[3]))


def says_little(status: EnhancedCode) -> bool:
    """Whether the code is one of those that are used for anything."""
    return (status.subject, status.detail) in _MEANS_NOTHING


def told_status(status: EnhancedCode | None, text: str) -> EnhancedCode | None:
    """The one that says more: what was given, or what stands in the text."""
    if status is not None and not says_little(status):
        return status
    inside = status_in(text)
    if inside is None or (status is not None and (inside.klass != status.klass or says_little(inside))):
        return status
    return inside


@lru_cache(maxsize=1024)
def classify(status: EnhancedCode | None, text: str) -> BounceClass:
    """What a failure means. `status` None: none was given, and one in the text counts."""
    text = text[:_READ]
    status = told_status(status, text)
    klass = status.klass if status is not None else _first_digit(text)
    code = None if status is None else (status.subject, status.detail)
    for row in _TABLE:
        if row.klass and row.klass != klass:
            continue
        if row.codes and code not in row.codes:
            continue
        if row.text is None or row.text.search(text):
            return row.means
    return BounceClass.UNKNOWN


def _first_digit(text: str) -> int:
    found = _CODE.search(text)
    return 0 if found is None else int(found[1]) // 100
