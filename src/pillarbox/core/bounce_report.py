"""Delivery reports as RFC 3464 has them: the groups of a delivery-status part become what is said of recipients.

Read loosely: fields of the wrong kind, a missing first group, a Status that is none, and blank lines too many are what
the field sends. A recipient without Action is judged by its Status. RFC 3464 §2, RFC 6533 §3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pillarbox.core.bounce import MAX_ADDRESS, MAX_TEXT, Nature, Returned, Said
from pillarbox.core.bounce_class import told_status
from pillarbox.core.bounce_mime import Fields, Part, crlf, read_fields
from pillarbox.core.reply import EnhancedCode

MAX_RECIPIENTS = 200
STATUS_TYPES = ("message/delivery-status", "message/global-delivery-status")
RETURNED_TYPES = (
    "message/rfc822",
    "message/global",
    "text/rfc822-headers",
    "text/rfc822-header",
    "message/global-headers",
    "message/rfc822-headers",
)
_ACTIONS: Mapping[str, Nature] = {
    "failed": Nature.BOUNCE,
    "delayed": Nature.DELAY,
    "delivered": Nature.SUCCESS,
    "relayed": Nature.SUCCESS,
    "expanded": Nature.SUCCESS,
}
_BY_CLASS: Mapping[int, Nature] = {2: Nature.SUCCESS, 4: Nature.DELAY, 5: Nature.BOUNCE}
_BLANK = re.compile(rb"(?:\r\n[ \t]*){2,}")
_STATUS = re.compile(r"\D*([245])\.(\d{1,3})\.(\d{1,3})")
_TYPED = re.compile(r"\s*[A-Za-z0-9-]{1,30}\s*;\s*")  # rfc822; smtp; dns; x-unix;
_ID = re.compile(r"<([^<>\s]{1,300})>")
_WEIGHT = (Nature.BOUNCE, Nature.DELAY, Nature.SUCCESS)  # the nature of the whole: the worst of its recipients


def read_report(found: list[Part], told: str) -> Returned | None:
    """The report among these parts; None where there is none that names a recipient. `told`: its text for people."""
    status = next((part for part in found if part.type in STATUS_TYPES and part.body), None)
    if status is None:
        return None
    groups = [read_fields(group) for group in _BLANK.split(crlf(status.body))[: MAX_RECIPIENTS + 1]]
    about = [group for group in groups if "final-recipient" in group or "original-recipient" in group]
    if not about and groups and ("action" in groups[-1] or "status" in groups[-1]):
        about = groups[-1:]
    said = tuple(_said(group, told) for group in about[:MAX_RECIPIENTS])
    if not said:
        return None
    nature = next(nature for nature in _WEIGHT if any(each.nature is nature for each in said))
    envelope_id = next((group["original-envelope-id"] for group in groups if "original-envelope-id" in group), "")
    return Returned(nature, "report", said, returned_id(found), envelope_id)


def returned_id(found: list[Part]) -> str:
    """The Message-ID of the message that came back, "" where that is not in it."""
    for index, part in enumerate(found):
        if part.type not in RETURNED_TYPES:
            continue
        inside = (
            found[index + 1].fields
            if part.type in ("message/rfc822", "message/global") and index + 1 < len(found)
            else read_fields(part.body)
        )
        if match := _ID.search(inside.get("message-id", "")):
            return match[1]
    return ""


def _said(group: Fields, told: str) -> Said:
    text = _untyped(group.get("diagnostic-code", ""))
    status = told_status(_status(group.get("status", "")), text)
    action = (group.get("action", "").split() or [""])[0].lower().rstrip(";,.")
    nature = _ACTIONS.get(action)
    if nature is None:
        nature = _BY_CLASS.get(status.klass, Nature.BOUNCE) if status is not None else Nature.BOUNCE
    return Said(
        nature,
        _address(group),
        status,
        (text or told)[:MAX_TEXT],
        _untyped(group.get("remote-mta", "")).strip("() ").lower()[:MAX_ADDRESS],
    )


def _address(group: Fields) -> str:
    """RFC 3464 §2.3.1, §2.3.2: what the sender knew comes first."""
    text = group.get("original-recipient") or group.get("final-recipient") or ""
    words = _untyped(text).strip("<> ").split()
    return words[0].strip("<>;")[:MAX_ADDRESS] if words else ""


def _untyped(value: str) -> str:
    match = _TYPED.match(value)
    return (value[match.end() :] if match else value).strip()


def _status(value: str) -> EnhancedCode | None:
    match = _STATUS.match(value[:100])
    return None if match is None else EnhancedCode(int(match[1]), int(match[2]), int(match[3]))
