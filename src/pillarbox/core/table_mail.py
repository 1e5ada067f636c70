"""The table's pages for a session's opening and its mail transactions: connect to RSET, and SEND, SOML, SAML.

Data alone. RFC 5321 section 4.3.2, RFC 821 section 4.3; the conditions are those of this server.
"""

from __future__ import annotations

from dataclasses import replace

from pillarbox.core.table_page import (
    ARGUMENT,
    CLASSIC,
    CLOSING,
    CLOSING_HELLO,
    CLOSING_MAIL,
    CLOSING_PROBED,
    NO_MAIL,
    NO_MAIL_HELLO,
    NOT_ASCII,
    NOT_ENTITLED,
    NOT_OFFERED,
    NOT_ON_ODMR,
    ORDER,
    OUTSIDE,
    PIPELINED,
    PIPELINED_HELLO,
    TOO_LONG,
    TOO_LONG_MAIL,
    UNKNOWN_PARAMETER,
    Case,
    Page,
)

_FORWARDS = "RFC 5321 section 3.4"
_TERMINALS = "RFC 821 section 3.4"
_SEQUENCES_THEN = "RFC 821 section 4.3"  # RFC 5321 does not speak of SEND, SOML, SAML
_HELLO = "RFC 5321 section 4.1.1.1"
_SIZE = "RFC 1870 section 6.1"

_HELLO_OK = Case("", "The argument is a domain or an address literal.", _HELLO)
_NOT_ON_LMTP = Case(
    "",
    "The line has more than 512 octets or holds a bare CR, a bare LF or a NUL, or the listener is for LMTP and has "
    "LHLO alone.",
)
_HELLO_SYNTAX = Case("", "There is no argument, or it is neither a domain nor an address literal.")
_HELLO_LITERAL = Case("", "The argument is an address literal of a type that is not implemented, such as [X400:x].")
_IMPERSONATION = Case("", "The name is our own configured one, and the client is not in relay.networks.", ORDER)
_SENDER_OK = Case(
    "2.1.0 2.3.6",
    "The sender is accepted, and a transaction is open (2.1.0), though not with the priority asked for (2.3.6).",
)
_SENDER_TOO_BIG = Case("5.3.4", "The declared SIZE is above limits.message_size.", _SIZE)
_SENDER_SYNTAX = Case(
    "5.1.7 5.5.4",
    "The path can't be parsed (5.1.7), or a parameter has a value that can't be parsed or stands there twice (5.5.4).",
)
_SENDER_REFUSED = Case(
    "5.1.8 5.7.27",
    "The listener has check_sender_domain, and that domain does not exist or has no host (5.1.8), or takes no mail "
    "(5.7.27).",
    "RFC 7505 section 4.2",
)
_SUBMITTER_UNKNOWN = 'The listener is for message submission (service = "submission"): AUTH comes first.'
_SENDER_FORBIDDEN = Case(
    "5.6.7 5.7.1",
    "The path is not ASCII, and SMTPUTF8 is not offered (5.6.7), or the listener is for message submission and mail "
    "for that address does not come to who has authenticated (5.7.1).",
    "RFC 6409 section 6.1",
)
_NO_SPACE = Case(
    "4.3.1", "With a message of the declared SIZE less of the disk would be free than limits.disk_reserve."
)


def _to_terminals(name: str, summary: str, *, too_big: Case) -> Page:
    """SEND, SOML and SAML differ in where the message goes."""
    return Page(
        name,
        f"{name} FROM:<reverse-path> [parameters]",
        summary,
        _TERMINALS,
        {
            250: replace(_SENDER_OK, source=_SEQUENCES_THEN),
            552: too_big,
            451: Case(
                "4.3.0 4.4.3 4.7.1",
                "The client has sent more messages to terminals than limits.terminal_messages, or more messages than "
                "limits.message_rate_per_* (4.7.1), the listener "
                "has check_sender_domain and can't look that domain up now (4.4.3), or the spool can't take writes "
                "now (4.3.0).",
                _SEQUENCES_THEN,
            ),
            452: replace(_NO_SPACE, source=_SEQUENCES_THEN),
            500: TOO_LONG_MAIL,
            501: replace(_SENDER_SYNTAX, source=_SEQUENCES_THEN),
            502: NOT_OFFERED,
            421: CLOSING_MAIL,
        },
        {
            503: OUTSIDE,
            521: NO_MAIL,
            530: replace(
                NOT_ENTITLED,
                condition=f"{NOT_ENTITLED.condition.removesuffix('.')}; or {_SUBMITTER_UNKNOWN[0].lower()}"
                f"{_SUBMITTER_UNKNOWN[1:]}",
            ),
            550: _SENDER_REFUSED,
            553: _SENDER_FORBIDDEN,
            554: PIPELINED,
            555: UNKNOWN_PARAMETER,
        },
    )


PAGES: tuple[Page, ...] = (
    Page(
        "connect",
        "(a connection)",
        "The client opens a connection, and the server greets it.",
        "RFC 5321 section 3.1",
        {
            220: Case("", "The listener takes mail, and the client is within the limits of connections."),
            421: Case(
                "",
                "The server stops, or there are more connections than limits.connections, connections_per_address or "
                "connections_per_network, or have been more of late than connection_rate_per_address or "
                "connection_rate_per_network.",
            ),
        },
        {
            521: NO_MAIL_HELLO,
            554: Case(
                "",
                "The client, a stranger, has sent something before the greeting, and the listener has "
                "forbid_unauth_pipelining.",
                "RFC 5321 section 4.3.1",
            ),
        },
    ),
    Page(
        "HELO",
        "HELO domain",
        "Says who the client is, without extensions; gives up an open transaction.",
        _HELLO,
        {
            250: _HELLO_OK,
            500: _NOT_ON_LMTP,
            501: _HELLO_SYNTAX,
            504: _HELLO_LITERAL,
            521: NO_MAIL_HELLO,
            421: CLOSING_HELLO,
        },
        {550: _IMPERSONATION, 554: PIPELINED_HELLO},
    ),
    Page(
        "EHLO",
        "EHLO domain",
        "Says who the client is, and asks for the extensions; gives up an open transaction.",
        _HELLO,
        {
            250: _HELLO_OK,
            550: _IMPERSONATION,
            500: _NOT_ON_LMTP,
            501: _HELLO_SYNTAX,
            504: _HELLO_LITERAL,
            421: CLOSING_HELLO,
        },
        {521: NO_MAIL_HELLO, 554: PIPELINED_HELLO},
    ),
    Page(
        "MAIL",
        "MAIL FROM:<reverse-path> [parameters]",
        "Opens a transaction whose message goes to mailboxes.",
        "RFC 5321 section 4.1.1.2",
        {
            250: _SENDER_OK,
            552: _SENDER_TOO_BIG,
            451: Case(
                "4.3.0 4.4.3 4.7.1",
                "The client, its network, its user or the sender has sent more messages than limits.message_rate_per_* "
                "(4.7.1), the listener has check_sender_domain and can't look that domain up now (4.4.3), or the spool "
                "can't take writes now (4.3.0).",
            ),
            452: _NO_SPACE,
            500: TOO_LONG_MAIL,
            501: _SENDER_SYNTAX,
            421: CLOSING_MAIL,
        },
        {
            502: NOT_ON_ODMR,
            503: OUTSIDE,
            521: NO_MAIL,
            530: Case("5.7.0", _SUBMITTER_UNKNOWN, "RFC 6409 section 4.3"),
            550: _SENDER_REFUSED,
            553: _SENDER_FORBIDDEN,
            554: PIPELINED,
            555: UNKNOWN_PARAMETER,
        },
    ),
    Page(
        "RCPT",
        "RCPT TO:<forward-path> [parameters]",
        "Adds a recipient to the transaction.",
        "RFC 5321 section 4.1.1.3",
        {
            250: Case(
                "2.1.5", "Mail for the address is taken: it is known here, in a relay domain, or may be relayed."
            ),
            251: Case("2.1.5", "The address is a forward made with --announce: its mail is passed on.", _FORWARDS),
            550: Case(
                "5.1.1 5.2.1 5.3.3 5.4.6 5.7.1 5.7.2 5.7.17",
                "No such user (5.1.1), the user is disabled (5.2.1), aliases lead in a circle or nowhere (5.4.6), the "
                "client may not relay or the address is suppressed (5.7.1), it may not post to the list (5.7.2), the "
                "message is for terminals only and nobody here is meant (5.3.3), or the user is newer than RRVS says "
                "(5.7.17).",
            ),
            551: Case(
                "5.1.6 5.6.8",
                "The address is a forward made with --moved: its mail is not passed on; the new one is told (5.1.6), "
                "unless it is not ASCII and MAIL has not asked for SMTPUTF8 (5.6.8).",
                _FORWARDS,
            ),
            552: Case("5.2.2", "The mailbox is above its quota, or would be with a message of the declared SIZE."),
            553: NOT_ASCII,
            450: Case(
                "4.2.1 4.2.2",
                "The mailbox is above its soft quota, or would be with a message of the declared SIZE (4.2.2), or the "
                "message is for terminals only and the user has none open (4.2.1).",
            ),
            451: Case(
                "4.3.0 4.7.1",
                "The size of the mailbox can't be read now (4.3.0), or the client or its user has named more "
                "recipients than limits.recipient_rate_per_* (4.7.1).",
            ),
            452: Case(
                "4.5.3", "The message would have more recipients than limits.recipients.", "RFC 5321 section 4.5.3.1.10"
            ),
            500: TOO_LONG,
            501: Case(
                "5.1.3 5.5.4",
                "The path is empty or can't be parsed (5.1.3), or a parameter can't be parsed or stands there twice "
                "(5.5.4).",
            ),
            503: Case("5.5.1", "No transaction is open.", ORDER),
            521: NO_MAIL,
            421: CLOSING_PROBED,
        },
        {
            502: NOT_ON_ODMR,
            554: Case(
                "5.1.2 5.5.0",
                "The listener is for message submission, and the domain is a single label that is not known here "
                f"(5.1.2); or: {PIPELINED.condition[0].lower()}{PIPELINED.condition[1:].removesuffix('.')} (5.5.0).",
                "RFC 6409 section 4.2",
            ),
            555: UNKNOWN_PARAMETER,
            556: Case(
                "5.1.10",
                "The listener has check_recipient_domain, and the domain, another host's, takes no mail (null MX).",
                "RFC 7505 section 4.1",
            ),
        },
    ),
    Page(
        "DATA",
        "DATA",
        "Asks to send the message.",
        "RFC 5321 section 4.1.1.4",
        {
            354: Case("", "There is a recipient, and the spool takes writes."),
            451: Case("4.3.0", "The spool can't take writes now."),
            554: Case(
                "5.5.0 5.5.1",
                "Every recipient was refused (5.5.1), or the client, a stranger, has sent more behind the command "
                "without waiting for the 354, and the listener has forbid_unauth_pipelining (5.5.0).",
                "RFC 5321 section 3.3",
            ),
            500: TOO_LONG,
            501: ARGUMENT,
            503: Case(
                "5.5.1",
                "No transaction is open, or it has no recipient so far; on a listener for LMTP also where every "
                "recipient was refused.",
                ORDER,
            ),
            421: CLOSING,
        },
        {502: NOT_ON_ODMR, 521: NO_MAIL},
    ),
    Page(
        ".",
        "(the message, and a line with a single dot)",
        "Ends the message, and asks the server to take it.",
        "RFC 5321 section 4.1.1.4",
        {
            250: Case(
                "2.0.0",
                "The message is on the disk and the server answers for it, if need be since it was submitted before "
                "with the same Idempotency-Key; behind SEND, it stands on the terminals.",
            ),
            552: Case(
                "5.2.2 5.3.4",
                "The message is above limits.message_size or, behind SEND, above 64 KiB (5.3.4), or the listener is "
                "for LMTP and the mailbox would be above its quota (5.2.2).",
            ),
            554: Case(
                "5.4.6 5.5.0 5.6.0",
                "The message is looping (5.4.6), its header section is too large (5.6.0), or it holds a bare CR, a "
                "bare LF or a NUL (5.6.0) or the client, a stranger who has said HELO, has sent more behind it "
                "(5.5.0), and then the connection is closed; or its Idempotency-Key is none, or that of another "
                "message (5.6.0).",
            ),
            451: Case("4.3.0", "The message could not be stored."),
            452: Case("4.3.1", "There is no room on the disk for the message."),
        },
        {
            421: CLOSING,
            450: Case(
                "4.2.1 4.2.2",
                "The message is for terminals only, and one was gone or too slow (4.2.1), or the listener is for LMTP "
                "and the mailbox would be above its soft quota (4.2.2).",
                _TERMINALS,
            ),
            550: Case("5.7.1", "Not given by this server, which does not judge what a message says."),
        },
    ),
    Page(
        "RSET",
        "RSET",
        "Gives up an open transaction, and changes nothing else.",
        "RFC 5321 section 4.1.1.5",
        {
            200: CLASSIC,
            250: Case("2.0.0", 'There is no argument, and compat is "strict", the default.'),
            500: TOO_LONG,
            501: ARGUMENT,
            504: Case(
                "5.5.4",
                'The listener has compat = "classic", and there is an argument of the form KEY=VALUE.',
                _SEQUENCES_THEN,
                classic_only=True,
            ),
            421: CLOSING_PROBED,
        },
        {521: NO_MAIL},
    ),
    _to_terminals(
        "SEND",
        "Opens a transaction whose message goes to the terminals of its recipients and is not stored.",
        too_big=Case("5.3.4", "The declared SIZE is above 64 KiB, or above limits.message_size.", _SIZE),
    ),
    _to_terminals(
        "SOML",
        "Opens a transaction whose message goes to a terminal of each recipient, or to the mailbox where none is open.",
        too_big=_SENDER_TOO_BIG,
    ),
    _to_terminals(
        "SAML",
        "Opens a transaction whose message goes to the mailbox of each recipient, and to the terminals that are open.",
        too_big=_SENDER_TOO_BIG,
    ),
)
