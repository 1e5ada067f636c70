"""What reply codes and enhanced status codes mean, in one plain sentence each.

Reply codes: RFC 5321 §4.2.3 and the extensions that add some. Enhanced codes: the IANA registry of SMTP Enhanced Status
Codes (RFC 5248), begun by RFC 3463; subject and detail mean the same whatever the class is. For people who read a
story, not for decisions: what follows from a reply is decided by its first digit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

REPLIES: Mapping[int, str] = {
    220: "The server is ready.",
    221: "The server closes the connection, as it was asked to.",
    235: "The login succeeded.",
    250: "Done: the server took it.",
    251: "Taken; the server will pass it on to another address.",
    252: "The server does not say whether the user exists, but would take mail.",
    253: "So many messages are put on their way.",
    334: "The login goes on.",
    354: "The server is ready for the text of the message.",
    421: "The server is not available now and closes the connection; it is tried again later.",
    430: "A key or password has to be changed before the login goes on.",
    432: "A password has to be changed before the login goes on.",
    450: "Not now: the mailbox is busy, or a rule such as greylisting puts it off; it is tried again later.",
    451: "A fault or a rule of the server keeps it from taking this now; it is tried again later.",
    452: "The server has no room now, or takes no more recipients at a time; it is tried again later.",
    453: "There is no mail waiting.",
    454: "TLS or the login can't be had now; it is tried again later.",
    455: "The server can't do with these parameters now; it is tried again later.",
    458: "The server can't put the messages of that host on their way.",
    459: "The host may not ask for that mail.",
    500: "The server does not know the command.",
    501: "The server can't read what stands behind the command.",
    502: "The server does not offer the command.",
    503: "The command came out of order.",
    504: "The server does not offer that parameter.",
    521: "The host takes no mail at all.",
    523: "The message is larger than the server takes.",
    530: "The server wants a login first.",
    534: "The way of logging in is too weak for the server.",
    535: "The login failed: a wrong name or password.",
    538: "The server wants TLS before a login.",
    550: "The server refuses it for good: the mailbox does not exist, or a rule forbids it.",
    551: "The user is not there; another address is named.",
    552: "There is no room: the mailbox is full, or the message too large.",
    553: "The address is not one that the server takes.",
    554: "The server refuses it for good; its text says why.",
    555: "The server does not know a parameter of MAIL or RCPT.",
    556: "The domain takes no mail.",
}

# By subject and detail.
ENHANCED: Mapping[tuple[int, int], str] = {
    (0, 0): "Nothing more exact is known.",
    (1, 0): "Something is wrong with an address.",
    (1, 1): "The mailbox does not exist at that domain.",
    (1, 2): "The domain of the recipient does not exist, or takes no mail.",
    (1, 3): "The address of the recipient is not well formed.",
    (1, 4): "The address of the recipient stands for more than one mailbox.",
    (1, 5): "The address of the recipient is good.",
    (1, 6): "The mailbox has moved, and its new address is not told.",
    (1, 7): "The address of the sender is not well formed.",
    (1, 8): "The domain of the sender does not exist, or takes no mail.",
    (1, 9): "It was passed on to a system that tells nothing of its fate.",
    (1, 10): "The domain of the recipient has a null MX: it takes no mail.",
    (2, 0): "Something is wrong with the mailbox.",
    (2, 1): "The mailbox is disabled, and takes no mail.",
    (2, 2): "The mailbox is full.",
    (2, 3): "The message is longer than the mailbox may take.",
    (2, 4): "The mailing list could not be expanded.",
    (3, 0): "Something is wrong with the mail system of the other side.",
    (3, 1): "The mail system has no room left.",
    (3, 2): "The host takes no mail now.",
    (3, 3): "The system can't do what the message needs.",
    (3, 4): "The message is larger than the system takes.",
    (3, 5): "The system is not set up correctly.",
    (3, 6): "The priority that was asked for was changed.",
    (4, 0): "Something is wrong with the network or the routing.",
    (4, 1): "No host answered.",
    (4, 2): "The connection was bad, or broke off.",
    (4, 3): "A directory, such as DNS, could not be asked.",
    (4, 4): "No way to the recipient is known.",
    (4, 5): "The mail system has too much to do.",
    (4, 6): "The message goes in a circle.",
    (4, 7): "The time for the delivery is over.",
    (5, 0): "Something went wrong in the conversation between the servers.",
    (5, 1): "The command is not known, or may not come now.",
    (5, 2): "The command is not well formed.",
    (5, 3): "There are more recipients than can be taken at once.",
    (5, 4): "A parameter of the command is not valid.",
    (5, 5): "The two sides speak different versions of the protocol.",
    (5, 6): "A line of the login was too long.",
    (6, 0): "Something is wrong with the content of the message.",
    (6, 1): "The content is of a kind that is not taken.",
    (6, 2): "The content would have to be converted, and may not be.",
    (6, 3): "The content would have to be converted, and can't be.",
    (6, 4): "The content was converted, with losses.",
    (6, 5): "The content could not be converted.",
    (6, 6): "The content of the message is not there.",
    (6, 7): "Addresses that are not ASCII are not taken.",
    (6, 8): "The reply needs characters beyond ASCII, and may not have them.",
    (6, 9): "The header section has characters beyond ASCII, and can't be passed on.",
    (7, 0): "A rule or a check of security was not met.",
    (7, 1): "The server does not want this from this sender or client: a rule of its own.",
    (7, 2): "The sender may not write to this list.",
    (7, 3): "The security of the message would have to be converted, and can't be.",
    (7, 4): "A security feature is not supported.",
    (7, 5): "A check by cryptography failed.",
    (7, 6): "The cryptography that was used is not supported.",
    (7, 7): "The message was changed on its way.",
    (7, 8): "The login failed: a wrong name or password.",
    (7, 9): "The way of logging in is too weak.",
    (7, 10): "Encryption is needed.",
    (7, 11): "Encryption is needed for this way of logging in.",
    (7, 12): "The password has to be changed.",
    (7, 13): "The account is disabled.",
    (7, 14): "Trust between the two sides has to be set up first.",
    (7, 15): "The priority of the message is too low for now.",
    (7, 16): "The message is too large for its priority.",
    (7, 17): "The mailbox has another owner since then.",
    (7, 18): "The domain has another owner since then.",
    (7, 19): "Whether the owner is still the same can't be tested.",
    (7, 20): "No DKIM signature passed its check.",
    (7, 21): "No DKIM signature that is good enough passed its check.",
    (7, 22): "No DKIM signature is of the author's domain.",
    (7, 23): "SPF says that this client may not send for the sender's domain.",
    (7, 24): "SPF could not be checked.",
    (7, 25): "The client's IP address has no name in DNS that leads back to it.",
    (7, 26): "More than one check of the sender failed.",
    (7, 27): "The domain of the sender has a null MX: no reply could arrive.",
    (7, 28): "A flood of mail like this one comes in.",
    (7, 29): "The ARC chain of the message did not pass its check.",
    (7, 30): "The next hop does not offer REQUIRETLS, which this message needs.",
}

_BOTH = re.compile(r"\b([245]\d\d)[ -](?:([245])\.(\d{1,3})\.(\d{1,3})\b)?")


def codes_in(text: str) -> tuple[str, ...]:
    """The codes of the first reply that stands in a text: basic code, then enhanced one."""
    if (match := _BOTH.search(text)) is None:
        return ()
    return (match[1],) if match[2] is None else (match[1], f"{match[2]}.{match[3]}.{match[4]}")


def meaning(code: str) -> str | None:
    """Of `550` or `5.1.1`; None where it is not known."""
    if code.isdigit():
        return REPLIES.get(int(code))
    _, subject, detail = code.split(".")
    return ENHANCED.get((int(subject), int(detail))) or ENHANCED.get((int(subject), 0))
