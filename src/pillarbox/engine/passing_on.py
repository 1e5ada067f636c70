"""What a next hop is told of a message: the parameters of MAIL and RCPT that it offers, and what it lacks.

Pure: a job and the keywords of a server's EHLO give text or a failure. A message that the server can't take as it is is
never sent; the code says why. How much of it can be converted is asked elsewhere (`core/mime.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime

from pillarbox.core.address import Host, Mailbox
from pillarbox.core.envelope import BodyType, Envelope, MailOptions, Notify, RcptOptions, Recipient
from pillarbox.core.mime import Target
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Failed, Job, Octets
from pillarbox.smtp.parameters import encode_unicode, encode_xtext

_TOO_BIG = EnhancedCode(5, 3, 4)
_NOT_CAPABLE = EnhancedCode(5, 3, 3)
_TOO_LATE = EnhancedCode(5, 4, 7)
_NON_ASCII = EnhancedCode(5, 6, 7)
_REQUIRE_TLS = EnhancedCode(5, 7, 30)
_VALID_SINCE = EnhancedCode(5, 7, 19)

Keywords = Mapping[str, str]  # of EHLO, upper case, with their parameters


def _is_international(job: Job, sender: Mailbox | None) -> bool:
    """Whether the message can go by SMTPUTF8 only, whoever gets it (RFC 6531 §3.2): the reverse-path that it goes with
    is not ASCII, or its header section, and the sender said so."""
    header = job.options.smtputf8 and Octets.UTF8_HEADER in job.message.octets
    return header or not (sender is None or sender.is_ascii)


def _needs_utf8(job: Job, sender: Mailbox | None) -> bool:
    return _is_international(job, sender) or not all(row.recipient.address.is_ascii for row in job.rows)


def conversion(job: Job, keywords: Keywords) -> Target | None:
    """What the text must be made fit for, None where it can go as it is."""
    octets = job.message.octets
    if Octets.EIGHT_BIT in octets and "8BITMIME" not in keywords:  # RFC 6152 §3
        return Target.SEVEN_BIT
    if Octets.BINARY in octets and not _takes_binary(keywords):  # RFC 3030 §4
        return Target.EIGHT_BIT
    return None


def goes_by_chunks(job: Job, keywords: Keywords) -> bool:
    return _takes_binary(keywords) and Octets.BINARY in job.message.octets


def _takes_binary(keywords: Keywords) -> bool:
    return "BINARYMIME" in keywords and "CHUNKING" in keywords


def refusal(
    job: Job, keywords: Keywords, *, sender: Mailbox | None, size: int, now: float, next_hop: str
) -> Failed | None:
    """Why the whole message can't go to that server. `sender`: the reverse-path, `size`: octets as they would be
    sent."""
    options = job.options
    limit = keywords.get("SIZE", "")
    if limit.isdecimal() and 0 < int(limit) < size:  # RFC 1870 §3: 0 is no limit
        text = f"message of {size} octets is larger than the {limit} that the next hop takes"
        return Failed(text, next_hop, _TOO_BIG)
    if "SMTPUTF8" not in keywords and _is_international(job, sender):  # RFC 6531 §3.2
        return Failed("next hop takes no international message (no SMTPUTF8)", next_hop, _NON_ASCII)
    bounce = job.sender is None  # RFC 8689 §5: one goes on without what it asks for
    if options.require_tls and not bounce and "REQUIRETLS" not in keywords:  # RFC 8689 §4.2.1
        return Failed("next hop does not promise TLS for the rest of the way (no REQUIRETLS)", next_hop, _REQUIRE_TLS)
    late = options.deliver_by
    if late is not None and late.returns:  # RFC 2852 §4.1.4
        if late.until - now < 1:  # whole seconds, one at the least (§4)
            return Failed("the time within which it was to be delivered is over", next_hop, _TOO_LATE)
        if "DELIVERBY" not in keywords:
            return Failed("next hop promises no time of delivery (no DELIVERBY)", next_hop, _NOT_CAPABLE)
        least = keywords["DELIVERBY"]
        if least.isdecimal() and int(least) > late.until - now:
            return Failed(f"next hop promises no delivery within less than {least} s", next_hop, _TOO_LATE)
    return None


def refusal_of_recipient(recipient: Recipient, keywords: Keywords, next_hop: str) -> Failed | None:
    """Why this recipient can't be named to that server."""
    if "SMTPUTF8" not in keywords and not recipient.address.is_ascii:
        return Failed("next hop takes no international address (no SMTPUTF8)", next_hop, _NON_ASCII)
    since = recipient.options.valid_since
    if since is not None and since.reject and "RRVS" not in keywords:  # RFC 7293 §3.3
        return Failed("next hop can't tell since when the mailbox is whose (no RRVS)", next_hop, _VALID_SINCE)
    return None


# --- as many at a time as the server takes (RFC 9422)


def limit(keywords: Keywords, name: str) -> int | None:
    """What LIMITS says of RCPTMAX, MAILMAX or RCPTDOMAINMAX; None where it says nothing that can be kept."""
    for word in keywords.get("LIMITS", "").upper().split():
        key, _, value = word.partition("=")
        if key == name and value.isdecimal() and len(value) <= 6 and int(value) > 0:
            return int(value)
    return None


def least(one: int | None, other: int | None) -> int | None:
    """The narrower of two limits, None for none."""
    return other if one is None else one if other is None else min(one, other)


def batches(job: Job, wanted: list[int], keywords: Keywords, ours: int | None = None) -> list[list[int]]:
    """The recipients of each transaction, by index of their row; the first one last. `ours`: how many we want to name
    at the most."""
    most = limit(keywords, "RCPTMAX") if "LIMITS" in keywords else None
    most = least(most, ours)
    domains = limit(keywords, "RCPTDOMAINMAX") if "LIMITS" in keywords else None
    if most is None and domains is None:
        return [wanted] if wanted else []
    found: list[list[int]] = []
    seen: set[Host] = set()
    for index in wanted:
        domain = job.rows[index].recipient.address.domain
        full = not found or (most is not None and len(found[-1]) >= most)
        if full or (domains is not None and domain not in seen and len(seen) >= domains):
            found.append([])
            seen = set()
        found[-1].append(index)
        seen.add(domain)
    return found[::-1]


# --- parameters


def mail_parameters(
    job: Job,
    keywords: Keywords,
    *,
    sender: Mailbox | None,
    size: int,
    octets: Octets,
    now: float,
    authenticated: bool,
) -> str:
    """What stands behind the reverse-path, `sender`, with a space in front of each. `size` and `octets`: of what will
    be sent; `authenticated`: whether we have logged in at the server."""
    options = job.options
    words = ["", f"SIZE={size}"] if "SIZE" in keywords else [""]
    words += _body(job.message.envelope, octets, keywords)
    if "SMTPUTF8" in keywords and _needs_utf8(job, sender):
        words.append("SMTPUTF8")
    words += _options(options, keywords, now)
    words += _dsn(options, keywords)
    if authenticated and "AUTH" in keywords:  # RFC 4954 §5
        submitter = options.submitter
        words.append(f"AUTH={encode_xtext(submitter) if submitter is not None and submitter.isascii() else '<>'}")
    return " ".join(words)


def _body(envelope: Envelope, octets: Octets, keywords: Keywords) -> list[str]:
    if _takes_binary(keywords) and Octets.BINARY in octets:
        return ["BODY=BINARYMIME"]
    eight_bit = octets or envelope.body_type is not BodyType.SEVEN_BIT
    return ["BODY=8BITMIME"] if eight_bit and "8BITMIME" in keywords else []


def _options(options: MailOptions, keywords: Keywords, now: float) -> list[str]:
    words = ["REQUIRETLS"] if options.require_tls and "REQUIRETLS" in keywords else []
    if (late := options.deliver_by) is not None and "DELIVERBY" in keywords:  # RFC 2852 §4.1.2: what is left of it
        words.append(f"BY={int(late.until - now)};{'R' if late.returns else 'N'}{'T' * late.trace}")
    if options.priority is not None and "MT-PRIORITY" in keywords:
        words.append(f"MT-PRIORITY={options.priority}")
    return words


def _dsn(options: MailOptions, keywords: Keywords) -> list[str]:
    if "DSN" not in keywords:
        return []
    words = [f"RET={options.ret.value}"] if options.ret is not None else []
    if options.envelope_id is not None:
        words.append(f"ENVID={encode_xtext(options.envelope_id)}")
    return words


_ORDER = (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY)


def rcpt_parameters(options: RcptOptions, keywords: Keywords) -> str:
    """What stands behind the forward-path, with a space in front of each."""
    words = [""]
    if "DSN" in keywords:
        if options.notify is not None:
            words.append(f"NOTIFY={','.join(each.value for each in _ORDER if each in options.notify) or 'NEVER'}")
        if options.original is not None:
            kind, _, address = options.original.partition(";")
            words.append(f"ORCPT={kind};{encode_unicode(address) if kind == 'utf-8' else encode_xtext(address)}")
    if (since := options.valid_since) is not None and "RRVS" in keywords:
        words.append(f"RRVS={since.since};{'R' if since.reject else 'C'}")
    return " ".join(words)


def header_fields(job: Job, keywords: Keywords) -> bytes:
    """What stands in front of the text for a next hop that lacks the extension which would have said it."""
    text = ""
    priority = job.options.priority
    if priority is not None and "MT-PRIORITY" not in keywords:  # RFC 6758 §3
        text += f"MT-Priority: {priority}\r\n"
    if "RRVS" not in keywords and len(job.rows) == 1:  # one of several recipients is not to learn of the others
        recipient = job.rows[0].recipient
        if (since := recipient.options.valid_since) is not None:  # RFC 7293 §3.2
            text += f"Require-Recipient-Valid-Since: {recipient.address}; {_date(since.since)}\r\n"
    return text.encode()


def _date(moment: str) -> str:
    """An RFC 3339 date-time as an RFC 5322 one."""
    return format_datetime(datetime.fromisoformat(moment.upper()))
