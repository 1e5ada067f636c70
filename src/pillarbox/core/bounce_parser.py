"""What came back, read from its octets: a delivery report, one of the unlike forms, an automatic reply, or a letter.

Forms are recognised by structure: an address on a line of its own, and what a server said behind it. Words only tell
which program wrote it, and whether it has given up. Pure and bounded; never raises, whatever the octets. RFC 3464, RFC
3834; the forms of qmail, Exim, Sendmail, Exchange, Gmail, Yahoo, Domino and those that look like them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pillarbox.core.bounce import MAX_ADDRESS, Nature, Returned, Said
from pillarbox.core.bounce import MAX_TEXT as MAX_SAID
from pillarbox.core.bounce_class import says_little, status_in
from pillarbox.core.bounce_mime import Fields, Part, parts
from pillarbox.core.bounce_report import read_report, returned_id

MAX_LINES = 400  # of a text
MAX_FOUND = 50  # recipients of a text
_BEHIND = 8  # lines behind an address that may tell why


class _Form(NamedTuple):
    """Which program writes so: by what stands in the text."""

    name: str
    marks: re.Pattern[str]


def _marks(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_FORMS = (
    _Form("qmail", _marks(r"This is the [^\n]{0,60}(?:qmail|mail)[- ]?\w* program", r"I wasn'?t able to deliver your")),
    _Form(
        "exim", _marks(r"created automatically by (?:the )?mail delivery software", r"\(ultimately\) generated from")
    ),
    _Form(
        "sendmail",
        _marks(
            r"addresse?s? had (?:permanent|transient|delivery)", r"Transcript of session follows", r"\(reason: [45]\d\d"
        ),
    ),
    _Form(
        "exchange",
        _marks(
            r"##\s*$|## ?\n",
            r"#< ?#?[45]\.\d",
            r"#[45]\.\d{1,3}\.\d{1,3} smtp;",
            r"did not reach (?:some|the following recipient)",
            r"Diagnostic information for administrators",
            r"Generating server:",
            r"X-MS-Exchange-Message-Is-Ndr",
        ),
    ),
    _Form(
        "gmail",
        _marks(
            r"Delivery to the following recipients? (?:has )?(?:failed|been delayed)",
            r"Google tried to deliver your message",
            r"Message (?:not delivered|blocked|incomplete)\s",
        ),
    ),
    _Form("domino", _marks(r"was not delivered to:?\s", r"DELIVERY FAILURE:", r"Your (?:document|message):?\s*\n")),
    _Form(
        "yahoo",
        _marks(
            r"unable to deliver your message to the following address",
            r"Remote host said:",
            r"following addresse?s? (?:failed|could)",
        ),
    ),
    _Form("postfix", _marks(r"This is the mail system at host", r"This is the Postfix program")),
)
_DELAYED = _marks(
    r"THIS IS A WARNING MESSAGE ONLY",
    r"(?:has|have) (?:not yet been|been) delayed|delivery (?:is )?(?:delayed|incomplete)|is delayed",
    r"will (?:be retried|continue to be (?:tried|attempted)|keep trying|retry)|no action is required on your part",
    r"could not send message for past|has not yet been delivered",
)
_SENT_BY_MACHINE = re.compile(
    r"mailer-?daemon|postmaster|mail ?delivery|mailadmin|mail\.?system|\bmdaemon|microsoftexchange[0-9a-f]{6}|"
    r"delivery (?:subsystem|system)",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"undeliver|delivery (?:status|fail|notif|report|problem|error)|returned (?:mail|to sender)|mail delivery|"
    r"delivery of|failure notice|unzustellbar|nicht zugestellt|non remis|remise|no se puede entregar|no entregado|"
    r"non recapitabile|mancato recapito|onbestelbaar|não entreg|nao entreg|kan (?:inte|ikke) levere|недостав",
    re.IGNORECASE,
)
_CHALLENGE = _marks(
    r"confirm (?:that )?(?:you|your) (?:are|sent|message|email|address)[^\n]{0,80}(?:sent|human|deliver|real)",
    r"challenge[/ -]response",
    r"boxtrapper|spamarrest|tmda|mailblocks|sender verification (?:required|request)",
    r"reply to this (?:message|e-?mail)[^\n]{0,60}(?:to have|so that|and your)[^\n]{0,100}deliver",
)
_AWAY = re.compile(
    r"^\s*(?:auto(?:matic|mated|mat\w*)?[- ]?(?:reply|response|respon\w*)|out of (?:the )?office|vacation|away from|"
    r"abwesen|automatische antwort|r[ée]ponse automatique|respuesta autom[áa]tica|risposta automatica|absence|"
    r"automatisch antwoord|autosvar|自动回复|自動返信)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z-]+")
_AUTO_FIELDS = ("x-autoreply", "x-autorespond", "x-auto-reply-from", "x-mail-autoreply")

_ADDRESS = r"[^\s<>()\[\]\"',;:@]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?"
_ALONE = re.compile(
    rf"[\s>*•-]{{0,20}}(?:(?:To|Recipient|Recipient address|User)[: ])?\s*<?(?:mailto:)?({_ADDRESS})>?\s*"
    r"(?P<rest>$|[:;,(<].*|\.\.\. .*|on \w.*|- .*|\(.*|was .*|because.*)",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(_ADDRESS)
_IN_REPLY = re.compile(rf"\s*(?:[45]\d\d[ -].{{0,80}}?|\d{{0,3}}\s*)<({_ADDRESS})>\s*[.:]")
_REPLY = re.compile(r"(?<![\d.])[45]\d\d[ -](?=\S)|(?<![\d.])[45]\.\d{1,3}\.\d{1,3}(?![\d.]*\d)")
_COPY = re.compile(
    r"\s*-*\s*(?:below this line is a copy|this is a copy of (?:the|your) message|original message|"
    r"unsent message follows|the header of the original|message header follows|original message headers|"
    r"included is a copy|a copy of your message|Return-Path:|Received: )",
    re.IGNORECASE,
)
_MACHINES = re.compile(r"(?:mailer-daemon|postmaster|noreply|no-reply)@", re.IGNORECASE)
_MESSAGE_ID = re.compile(r"^[ \t>]*Message-ID:\s*<([^<>\s]{1,300})>", re.IGNORECASE | re.MULTILINE)


def parse(octets: bytes, *, null_sender: bool = True) -> Returned:
    """What a message says that came to a return address. `null_sender`: whether its reverse-path is the null one."""
    found = parts(octets)
    fields, text = found[0].fields, _told(found)
    if (report := read_report(found, _reason(text))) is not None:
        return report
    message_id = returned_id(found) or _id_in(text)
    form = _form(fields, text)
    if form is None and (quiet := _automatic(fields, text)) is not None:
        return Returned(quiet, "automatic", (), message_id)
    if form is None and not _is_bounce(fields, text, null_sender=null_sender):
        return Returned(Nature.OTHER, "letter", (), message_id)
    said = tuple(_recipients(fields, text))
    nature = Nature.DELAY if _DELAYED.search(text) else Nature.BOUNCE
    return Returned(nature, form or "text", tuple(_as(each, nature) for each in said), message_id)


def _as(said: Said, nature: Nature) -> Said:
    return Said(nature, said.address, said.status, said.text, said.remote)


def _told(found: list[Part]) -> str:
    """What is there for people to read, of the outer message: plain text where there is some."""
    inside = next((part.depth for part in found if part.type in ("message/rfc822", "message/global")), None)
    outer = [part for part in found if part.type.startswith("text/") and (inside is None or part.depth <= inside)]
    plain = [part.text for part in outer if part.type == "text/plain" and part.body.strip()]
    return "\n".join((plain or [part.text for part in outer if part.type == "text/html"])[:3])


def _id_in(text: str) -> str:
    match = _MESSAGE_ID.search(text)
    return "" if match is None else match[1]


def _form(fields: Fields, text: str) -> str | None:
    if "x-failed-recipients" in fields:
        return "exim"
    return next((form.name for form in _FORMS if form.marks.search(text)), None)


def _automatic(fields: Fields, text: str) -> Nature | None:
    """RFC 3834 §5, and what was there before it."""
    if _CHALLENGE.search(text) or "tmda" in fields.get("x-delivery-agent", "").lower():
        return Nature.CHALLENGE
    submitted = (_WORD.match(fields.get("auto-submitted", "")) or [""])[0].lower()
    subject = fields.get("subject", "")
    if _SENT_BY_MACHINE.search(fields.get("from", "")) or _SUBJECT.search(subject):
        return None  # a bounce is an automatic reply, too
    away = submitted in ("auto-replied", "auto-notified")
    older = fields.get("precedence", "").lower() in ("auto_reply", "auto-reply") or any(
        name in fields for name in _AUTO_FIELDS
    )
    return Nature.AUTO_REPLY if away or older or _AWAY.search(subject) else None


def _is_bounce(fields: Fields, text: str, *, null_sender: bool) -> bool:
    """Of a form that nobody knows: by who wrote it, or by what it is about."""
    if _SENT_BY_MACHINE.search(fields.get("from", "")) or _SUBJECT.search(fields.get("subject", "")):
        return True
    return null_sender and _REPLY.search(text) is not None


# --- recipients in a text


def _recipients(fields: Fields, text: str) -> Iterator[Said]:
    """One for each address, with what is told of it; failing that the first thing that looks like a reply."""
    lines = _lines(text)
    reason = _reason(text)
    known: dict[str, str] = {}
    for index, line in enumerate(lines):
        if (match := _ALONE.fullmatch(line)) is not None:
            behind = [match["rest"].strip(" :;,.<>"), *_behind(lines, index + 1)]
            _note(known, match[1], " ".join(filter(None, behind)))
        elif (match := _IN_REPLY.match(line)) is not None:
            _note(known, match[1], line.strip())
    for address in fields.get("x-failed-recipients", "").split(","):
        if "@" in address:
            _note(known, address.strip(" <>"), "")
    if not known and (told := reason or " ".join(" ".join(lines).split())):
        yield _said(_only_address(lines), told)
    for address, told in list(known.items())[:MAX_FOUND]:
        yield _said(address, told if _REPLY.search(told) or not reason else f"{told} {reason}".strip())


def _only_address(lines: list[str]) -> str:
    """The one that is named in running text; "" where there are several, and nobody knows which is meant."""
    named = {address.rstrip(".").casefold() for line in lines for address in _ANYWHERE.findall(line)}
    named = {address for address in named if not _MACHINES.match(address)}
    return named.pop()[:MAX_ADDRESS] if len(named) == 1 else ""


def _lines(text: str) -> list[str]:
    """Those in front of the copy of the message."""
    lines = [line.rstrip()[:1000] for line in text.split("\n")[:MAX_LINES]]
    copy = next((index for index, line in enumerate(lines) if index > 2 and _COPY.match(line)), len(lines))
    return lines[:copy]


def _note(known: dict[str, str], address: str, told: str) -> None:
    """The text that says most of an address counts: some name it twice."""
    address = address[:MAX_ADDRESS].rstrip(".")
    if not _MACHINES.match(address) and len(known) < MAX_FOUND and _worth(told) >= _worth(known.get(address, "")):
        known[address] = told


def _worth(told: str) -> tuple[bool, int]:
    status = status_in(told)
    return status is not None and not says_little(status), len(told)


def _behind(lines: list[str], start: int) -> Iterator[str]:
    """What stands behind an address, up to the next one or an empty line; one in front of it is passed over."""
    said = False
    for line in lines[start : start + _BEHIND]:
        if not line.strip():
            if said:
                return
            continue
        if _ALONE.fullmatch(line):
            return
        said = not line.endswith(":")  # "because:"
        yield line.strip()


def _reason(text: str) -> str:
    """The first line that looks like a reply, with the line behind it where it goes on."""
    lines = _lines(text)
    for index, line in enumerate(lines):
        if _REPLY.search(line):
            more = lines[index + 1].strip() if index + 1 < len(lines) else ""
            return f"{line.strip()} {more}".strip()[:MAX_SAID]
    return ""


def _said(address: str, text: str) -> Said:
    return Said(Nature.BOUNCE, address, status_in(text), text[:MAX_SAID])
