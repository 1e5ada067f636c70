"""What a status and a text mean: texts as servers in the field write them, each with the class that it must have."""

from __future__ import annotations

import pytest

from pillarbox.core.bounce import BounceClass
from pillarbox.core.bounce_class import classify, told_status
from pillarbox.core.reply import EnhancedCode

CASES: dict[BounceClass, tuple[str, ...]] = {
    BounceClass.HARD: (
        "550 5.1.1 <a@b.example>: Recipient address rejected: User unknown in virtual mailbox table",
        "550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking",
        "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found",
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient a@b.example not found by SMTP address lookup",
        "550 5.4.1 Recipient address rejected: Access denied. [AM5EUR02FT012.eop-EUR02.prod.protection.example]",
        "550 5.2.1 The email account that you tried to reach is disabled",
        "554 delivery error: dd This user doesn't have a yahoo.example account (a@yahoo.example) [0]",
        "554 30 Sorry, your message to a@b.example cannot be delivered. This mailbox is disabled (554.30).",
        "550 Requested action not taken: mailbox unavailable",
        "550 No Such User Here",
        "550 Unknown user",
        "551 User not local; user unknown",
        "550 5.5.0 User unknown",
        "550 5.0.0 <a@b.example>... User Unknown",
        "Sorry, no mailbox here by that name. (#5.1.1)",
        "550 Address does not exist",
        "550 unrouteable address",
        "550 Invalid recipient a@b.example",
        "553 sorry, this recipient is not in my validrcptto list: no such user (#5.7.1)",
        "550 5.1.6 recipient no longer on server: a@b.example",
        "550 5.1.2 Host unknown (Name server: b.example: host not found)",
        "Host or domain name not found. Name service error for name=b.example type=MX: Host not found",
        "556 5.1.10 b.example takes no mail (null MX)",
        "550 5.4.310 DNS domain b.example does not exist",
        "550 5.4.4 Unable to route: no mail hosts for domain b.example",
        "User a (a@b.example) not listed in Domino Directory",
        "550 Benutzer unbekannt",
        "550 5.7.1 a@b.example: recipient address not found",
        "550 Account closed: user account is deactivated",
        "550 5.7.17 Mailbox has another owner since then",
    ),
    BounceClass.FULL: (
        "552 5.2.2 The email account that you tried to reach is over quota. Please direct the recipient",
        "452 4.2.2 The email account that you tried to reach is over quota",
        "550 5.1.1 <a@b.example>: mailbox is full",
        "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded",
        "552 Requested mail action aborted: exceeded storage allocation: user quota exceeded",
        "421 Mailbox full, try later",
        "550 User a@b.example has exceeded his/her disk space limit. Quota exceeded",
        "452-4.2.2 The recipient's inbox is out of storage space",
        "4.2.2 Over quota",
        "550 5.2.0 Account is over quota",
    ),
    BounceClass.SPAM: (
        "550 5.7.1 [192.0.2.1 12] Our system has detected that this message is likely unsolicited mail",
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
        "550 5.7.1 Message rejected as spam by Content Filtering",
        "550 SC-001 (BAY004-MC1F10) Unfortunately, messages from 192.0.2.1 weren't sent: IP is blocked, bad reputation",
        "554 Message not allowed - [PH01] Email not accepted for policy reasons: phishing",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints",
        "554 5.7.1 This message has been blocked because it contains a virus",
        "550 5.7.606 Access denied, banned sending IP [192.0.2.1]",
        "550 5.1.1 rejected: your IP is listed on a blacklist at bl.spamcop.net",
        "554 IMTA content rejected",
        "450 4.7.1 Client host rejected: poor reputation",
    ),
    BounceClass.AUTH: (
        "550 5.7.26 Unauthenticated email from example.org is not accepted due to domain's DMARC policy",
        "550 5.7.1 Unauthenticated email from example.org is not accepted due to domain's DMARC policy",
        "550 5.7.23 SPF validation failed",
        "550 5.7.1 SPF check failed: 192.0.2.1 is not allowed to send mail from example.org",
        "550 5.7.20 No passing DKIM signature found",
        "554 5.7.9 Message not accepted for policy reasons",
        "550 5.7.509 Access denied, sending domain example.org does not pass DMARC verification",
        "421 4.7.26 This mail has been rate limited because it is unauthenticated",
    ),
    BounceClass.GREYLISTED: (
        "450 4.2.0 <a@b.example>: Recipient address rejected: Greylisted, see http://postgrey.example/help",
        "451 4.7.1 Greylisting in action, please come back later",
        "450 4.7.1 Please try again in 300 seconds",
        "451 Graylisted, try again later",
        "451 4.2.1 greylisted",
    ),
    BounceClass.TOO_LARGE: (
        "552 5.3.4 Message size exceeds fixed limit",
        "552-5.2.3 Your message exceeded Google's message size limits",
        "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient",
        "552 message too large",
        "5.3.4 Message too big for system",
        "554 5.7.0 Message size exceeds maximum permitted",
        "552 5.0.0 The message is too big",
    ),
    BounceClass.POLICY: (
        "550 5.7.1 Relaying denied",
        "550 5.7.1 Access denied",
        "554 5.7.1 <x>: Helo command rejected: Access denied",
        "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required",
        "550 5.7.25 The IP address sending this message does not have a PTR record setup",
        "550 5.6.1 Unsupported content type",
        "552 5.7.0 This message was blocked because its content presents a potential security issue: attachment",
        "554 5.1.8 Sender address rejected: Domain not found",
        "550 5.7.2 You may not post to this list",
        "550 Administrative prohibition",
        "550 Domain of sender address x@here.example does not exist",
        "550 Sender verify failed: no such user",
        "550 5.0.0 Your domain is unknown (in reply to MAIL FROM command)",
        "553 5.0.0 unknown host: connecting server has no name",
    ),
    BounceClass.SOFT: (
        "421 4.3.2 Service not available, closing transmission channel",
        "451 4.3.0 Temporary lookup failure",
        "connect to mx.b.example[192.0.2.9]:25: Connection timed out",
        "4.4.1 No answer from host",
        "550 5.4.7 Delivery expired (message too old): 450 4.2.0 greylisted",
        "retry timeout exceeded",
        "554 5.4.6 Too many hops",
        "421 4.7.0 Try again later, closing connection",
        "450 4.2.1 The user you are trying to contact is receiving mail too quickly",
        "451 4.1.1 <a@b.example>: unverified address: user unknown",
        "452 4.5.3 Too many recipients",
        "5.3.5 System config error",
    ),
    BounceClass.UNKNOWN: ("", "550", "5.0.0", "554 Transaction gone wrong", "500 5.5.0 !", "It did not work, sorry."),
}


@pytest.mark.parametrize(
    ("text", "klass"),
    [(text, klass) for klass, texts in CASES.items() for text in texts],
    ids=lambda each: str(each)[:40],
)
def test_a_text_has_its_class(text: str, klass: BounceClass) -> None:
    assert classify(None, text) is klass


def test_there_are_enough_texts() -> None:
    assert sum(map(len, CASES.values())) >= 80


@pytest.mark.parametrize(
    ("status", "text", "klass"),
    [
        ("5.1.1", "it said something in a tongue that nobody reads", BounceClass.HARD),
        ("5.2.2", "user unknown", BounceClass.FULL),  # the code comes first
        ("5.0.0", "550 5.1.1 No such user", BounceClass.HARD),  # one that says nothing does not hide one that does
        ("5.0.0", "550 user unknown", BounceClass.HARD),
        ("4.0.0", "550 5.1.1 no such user", BounceClass.SOFT),  # but it is not overruled in its class
        ("4.1.1", "user unknown", BounceClass.SOFT),
        ("5.7.1", "message looks like spam", BounceClass.SPAM),
        ("5.7.1", "", BounceClass.POLICY),
        ("4.4.7", "550 5.1.1 no such user", BounceClass.SOFT),
    ],
)
def test_the_code_counts_before_the_text(status: str, text: str, klass: BounceClass) -> None:
    assert classify(EnhancedCode.parse(status), text) is klass


def test_the_code_that_says_more_is_told() -> None:
    assert told_status(EnhancedCode(5, 0, 0), "550 5.7.26 no") == EnhancedCode(5, 7, 26)
    assert told_status(EnhancedCode(5, 1, 1), "550 5.7.26 no") == EnhancedCode(5, 1, 1)
    assert told_status(None, "from 192.5.1.1 at 5.1.1.4") is None
