"""What other servers call a message that they have taken, read from their reply to the end of it.

No standard says where it stands; here are the forms of the servers in the field. A text that has none of them gives
nothing: better no id than a wrong one.
"""

from __future__ import annotations

import re

MAX_ID = 80
_LOOKED_AT = 400  # characters of a reply
_CODES = re.compile(r"\d{3}[ -](?:\d\.\d+\.\d+:? *)?")
_ID = rf"([A-Za-z0-9][A-Za-z0-9._/@$=+:-]{{2,{MAX_ID - 1}}})"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"queued (?:as|with id|\(id) ?:? ?<?{_ID}",  # Postfix, Pillarbox, Stalwart, MDaemon
        rf"message queued \({_ID}",  # Haraka
        rf"\bid=<?{_ID}",  # Exim
        r"\[InternalId=(\d+)",  # Exchange
        r"\bqp (\d+)",  # qmail
        rf"\bok:? +\d{{9,}} {_ID} - gsmtp",  # Google
        rf"(?:^|\s){_ID} message accepted",  # Sendmail, OpenSMTPD
        rf"\bok {_ID}$",  # SES, Momentum
    )
)


def queue_id(text: str) -> str | None:
    """From a whole reply, `250 2.0.0 Ok: queued as 4F1B22A03`."""
    _, usual, rest = text.partition(": queued as ")
    if usual and rest.isalnum():  # the form of nearly all, and of each message that Postfix takes
        return rest[:MAX_ID]
    said = _CODES.sub("", text[:_LOOKED_AT], count=1)
    for form in _FORMS:
        if (match := form.search(said)) is not None:
            return match[1].rstrip(".:,")
    return None
