"""The options of MAIL and RCPT as JSON objects, for their columns in the spool, and back.

Most messages have none: that is NULL. Only what differs from the default is written, so that an option of a later
version changes no row of an earlier one.
"""

from __future__ import annotations

import json
from typing import Any

from pillarbox.core.envelope import (
    NO_MAIL_OPTIONS,
    NO_RCPT_OPTIONS,
    DeliverBy,
    MailOptions,
    Notify,
    RcptOptions,
    Ret,
    ValidSince,
    Verp,
)


def mail_options_text(options: MailOptions) -> str | None:
    late, ret, verp = options.deliver_by, options.ret, options.verp
    return _text(
        ret=None if ret is None else ret.value,
        envelope_id=options.envelope_id,
        smtputf8=options.smtputf8 or None,
        require_tls=options.require_tls or None,
        deliver_by=None if late is None else (late.until, late.returns, late.trace),
        priority=options.priority,
        hold_until=options.hold_until,
        submitter=options.submitter,
        fields=dict(options.fields) or None,
        verp=None if verp is None else (verp.domain, verp.key),
    )


def read_mail_options(text: str | None) -> MailOptions:
    """Raises ValueError, TypeError."""
    if text is None:
        return NO_MAIL_OPTIONS
    values = json.loads(text)
    if (ret := values.get("ret")) is not None:
        values["ret"] = Ret(ret)
    if (late := values.get("deliver_by")) is not None:
        values["deliver_by"] = DeliverBy(*late)
    if (fields := values.get("fields")) is not None:
        values["fields"] = tuple(fields.items())
    if (verp := values.get("verp")) is not None:
        values["verp"] = Verp(*verp)
    return MailOptions(**values)


def rcpt_options_text(options: RcptOptions) -> str | None:
    notify, since = options.notify, options.valid_since
    return _text(
        notify=None if notify is None else sorted(each.value for each in notify),
        original=options.original,
        valid_since=None if since is None else (since.since, since.reject),
    )


def read_rcpt_options(text: str | None) -> RcptOptions:
    """Raises ValueError, TypeError."""
    if text is None:
        return NO_RCPT_OPTIONS
    values = json.loads(text)
    if (notify := values.get("notify")) is not None:
        values["notify"] = frozenset(Notify(each) for each in notify)
    if (since := values.get("valid_since")) is not None:
        values["valid_since"] = ValidSince(*since)
    return RcptOptions(**values)


def _text(**values: Any) -> str | None:
    said = {name: value for name, value in values.items() if value is not None}
    return json.dumps(said, ensure_ascii=False) if said else None
