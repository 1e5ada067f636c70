"""What the parameters of MAIL and RCPT may ask for here, and what they come to.

The refusal of what is not offered to this client, and options with their times made absolute. Knows no syntax (that is
`smtp/parameters.py`) and no state of a session.
"""

from __future__ import annotations

from dataclasses import replace

from pillarbox.core import reply as r
from pillarbox.core.envelope import NO_MAIL_OPTIONS, DeliverBy, MailOptions, Mode
from pillarbox.core.reply import Reply
from pillarbox.engine.service import Client, Service
from pillarbox.smtp.events import MailFrom


def is_plain(event: MailFrom) -> bool:
    """Whether nothing but size and body type was said."""
    return event.options is NO_MAIL_OPTIONS and event.within is None and event.hold_for is None


def refusal_of_options(service: Service, client: Client, event: MailFrom) -> Reply | None:
    """What is asked for and not offered to this client, or not as much of it."""
    if event.options.require_tls and not client.secure:  # RFC 8689 §2: announced under TLS alone
        return r.UNKNOWN_PARAMETER
    if event.hold_for is None and event.options.hold_until is None:
        return None
    if not service.future_release or event.mode is not Mode.MAIL:
        return r.UNKNOWN_PARAMETER
    now = service.clock.now()
    held = event.hold_for if event.hold_for is not None else (event.options.hold_until or now) - now
    return None if held <= service.future_release else r.HELD_TOO_LONG  # RFC 4865 §4


def settled_options(service: Service, client: Client, event: MailFrom) -> MailOptions:
    """The options with times that a clock can be asked about, and the priority that the client may have."""
    if is_plain(event):
        return NO_MAIL_OPTIONS
    now, within, options = service.clock.now(), event.within, event.options
    if within is not None:
        options = replace(options, deliver_by=DeliverBy(now + within.seconds, within.returns, within.trace))
    if event.hold_for is not None:
        options = replace(options, hold_until=now + event.hold_for)
    if _raises_priority(client, event):
        options = replace(options, priority=0)
    return options


def sender_accepted(client: Client, event: MailFrom) -> Reply:
    """RFC 6710 §4.1: who may not have the priority is told the one that counts."""
    return r.PRIORITY_LOWERED if _raises_priority(client, event) else r.SENDER_OK


def _raises_priority(client: Client, event: MailFrom) -> bool:
    return (event.options.priority or 0) > 0 and not client.may_relay
