"""What becomes of the wishes of a sender where RCPT meant a list or several addresses (RFC 3461 §5.2.7).

Pure; decides at acceptance, when the addresses are known. A list takes the message for itself: it is delivered, and
what goes on to the members is a message of the list's owner, of which the sender hears nothing more. An alias of
several addresses is expanded: that is the answer to NOTIFY=SUCCESS, while failures and delays behind it are told as
asked. An alias of one address changes nothing. Invariant: a message without such wishes is left as it is.
"""

from __future__ import annotations

from dataclasses import replace

from pillarbox.core.address import Mailbox
from pillarbox.core.envelope import NO_RCPT_OPTIONS, Envelope, Notify, RcptOptions, Recipient
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.dsn import Action, Telling
from pillarbox.engine.mail import Row

_DONE = EnhancedCode(2, 0, 0)
_TEXTS = {
    Action.DELIVERED: "it was given to the mailing list",
    Action.EXPANDED: "it goes on to each of the addresses behind this one",
}
_SUCCESS = frozenset((Notify.SUCCESS,))


def concerns(envelope: Envelope) -> bool:
    """Whether a recipient behind an address of ours came with wishes."""
    for recipient in envelope.recipients:
        if recipient.options is not NO_RCPT_OPTIONS and recipient.forwarded:
            return True
    return False


def expanded(envelope: Envelope) -> tuple[Envelope, list[Telling]]:
    """The envelope as it goes on, and what is to be told now."""
    behind: dict[Mailbox, list[Recipient]] = {}
    for recipient in envelope.recipients:
        if recipient.forwarded:
            behind.setdefault(recipient.original, []).append(recipient)
    actions = {original: _action(targets) for original, targets in behind.items()}
    tellings: list[Telling] = []
    told: set[Mailbox] = set()
    recipients = []
    for number, recipient in enumerate(envelope.recipients):
        original, options = recipient.original, recipient.options
        action = actions.get(original) if recipient.forwarded else None
        if action is not None and original not in told and _wants_success(options):
            told.add(original)
            row = Row(number, Recipient(original, original, None, options))
            tellings.append(Telling(row, action, _DONE, _TEXTS[action]))
        recipients.append(recipient._replace(options=_passed_on(recipient, action)))
    return envelope._replace(recipients=tuple(recipients)), tellings


def _action(targets: list[Recipient]) -> Action | None:
    if all(target.owner is not None for target in targets):
        return Action.DELIVERED  # §5.2.7.1: the list is where it was to go
    return Action.EXPANDED if len(targets) > 1 else None  # §5.2.7.3, §5.2.7.2


def _wants_success(options: RcptOptions) -> bool:
    return options.notify is not None and Notify.SUCCESS in options.notify


def _passed_on(recipient: Recipient, action: Action | None) -> RcptOptions:
    options = recipient.options
    if recipient.owner is not None:
        return NO_RCPT_OPTIONS
    if action is not Action.EXPANDED or options.notify is None or not _wants_success(options):
        return options
    return replace(options, notify=options.notify - _SUCCESS)
