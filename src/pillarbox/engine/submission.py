"""What a listener for message submission asks and does beyond one for mail exchange (RFC 6409, RFC 8314).

Who submits has authenticated, and sends under an address of theirs: one whose mail comes to them, as their own, one
with a tag, or by an alias; never that of a list or of a forward. The null reverse-path is anybody's. What they send
gets Date and Message-ID where it lacks them and loses Bcc and Idempotency-Key. On the machine itself there is nobody to
authenticate: who gets to the session at all sends under any address, as by the command line. Pure: knows no octets of
the protocol.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MailOptions, MessageId
from pillarbox.core.header_edit import Edit, submitted
from pillarbox.core.message import date_field
from pillarbox.core.reply import Reply
from pillarbox.engine import once
from pillarbox.engine.intake import Intake
from pillarbox.engine.mail import Claim, Message
from pillarbox.engine.once import MACHINE
from pillarbox.engine.ports import Accepted, Directory, NotLocal, Resolution
from pillarbox.engine.service import Client, Service, Submitters


def refusal(service: Service, client: Client, sender: Mailbox | None) -> Reply | None:
    """Why the client may not begin a message of that sender."""
    if service.submitters is not Submitters.USERS:
        return None
    if client.user is None:
        return client.erred(r.AUTH_NEEDED)  # RFC 6409 §4.3
    if sender is None or may_send_as(service.directory, client.user.mailbox, sender):
        return None
    return client.erred(r.NOT_YOUR_ADDRESS)  # RFC 6409 §6.1


def may_send_as(directory: Directory, user: Mailbox, sender: Mailbox) -> bool:
    """Whether mail for that address comes to the user, by nothing but aliases."""
    found = directory.resolve(sender)
    if not isinstance(found, Accepted) or found.postings or found.announced is not None:
        return False
    return user in found.targets


def is_unqualified(service: Service, recipient: Mailbox, found: Resolution) -> bool:
    """Whether the domain is short for one that is not known here (RFC 6409 §4.2)."""
    if service.submitters is None or not isinstance(found, NotLocal):
        return False
    domain = recipient.domain
    return isinstance(domain, Domain) and "." not in domain.ascii


def header_edit(service: Service, message: MessageId) -> Edit | None:
    """What is done to the header section of that message (RFC 6409 §8.2, §8.3)."""
    if service.submitters is None:
        return None
    fields = {
        "Date": date_field(int(service.clock.now())),
        "Message-ID": f"<{message}@{service.hostname.ascii}>",  # no other message has that id
    }
    return partial(submitted, fields=fields)


def claim(service: Service, client: Client, intake: Intake, message: Message) -> Claim | None:
    """That of a message with an Idempotency-Key. Keys of one user are nothing to another."""
    if intake.fingerprint is None:
        return None
    scope = MACHINE if client.user is None else str(client.user.mailbox)
    return once.claim(intake.fingerprint, message, scope=scope, window=service.key_window)


def options(service: Service, client: Client, asked: MailOptions) -> MailOptions:
    """Those of the message, with who submitted it (RFC 4954 §5); what a client says of that counts for nothing."""
    if service.submitters is None or client.user is None:
        return asked
    return replace(asked, submitter=str(client.user.mailbox))


def returning(
    service: Service, client: Client, sender: Mailbox | None, message: MessageId, settled: MailOptions
) -> MailOptions:
    """With VERP, where that is on: for those who may relay, but not for what must not be answered, nor for what came
    from a return address itself."""
    returns = service.returns
    if returns is None or not client.may_relay or sender is None or returns.has(sender):
        return settled
    return replace(settled, verp=returns.verp(message))
