"""The table's pages for all that is no mail transaction: what clients ask, AUTH, the changes of roles.

Data alone. RFC 5321 section 4.3.2, RFC 821 section 4.3, and the RFCs of the extensions; the conditions are those of
this server.
"""

from __future__ import annotations

from pillarbox.core.table_page import (
    ARGUMENT,
    CLASSIC,
    CLOSING,
    CLOSING_HELLO,
    CLOSING_PROBED,
    NO_MAIL,
    NO_MAIL_HELLO,
    NOT_ENTITLED,
    NOT_OFFERED,
    NOT_ON_ODMR,
    ORDER,
    OUTSIDE,
    TOO_LONG,
    Case,
    Page,
)

_ASKING = "RFC 5321 section 3.5"
_CLOSED_BOOK = "RFC 5321 section 7.3"
_ROLES = "RFC 821 section 3.8"
_AUTH = "RFC 4954 section 4"
_AUTH_CODES = "RFC 4954 section 6"
_TLS = "RFC 3207 section 4"
_BDAT = "RFC 3030 section 2"
_LMTP = "RFC 2033 section 4.1"
_ETRN = "RFC 1985 section 5.1"
_ATRN = "RFC 2645 section 5.2.1"

_NO_NAME = Case("5.5.4", "There is no argument, or it is not ASCII.")
_PARAMETER = Case("5.5.4", "The name is followed by a parameter, such as SMTPUTF8, and none is known.")
_QUEUE_FAULT = Case("4.3.0", "The queue can't be asked now.")


PAGES: tuple[Page, ...] = (
    Page(
        "VRFY",
        "VRFY name",
        "Asks whom a name or an address stands for.",
        "RFC 5321 section 4.1.1.6",
        {
            250: Case("2.1.5", "The client may ask, and one user here is meant.", _ASKING),
            251: Case("2.1.5", "The client may ask, and the address is passed on to another one.", _ASKING),
            252: Case(
                "2.5.0",
                "The client may not ask, be there such a user or not; or that can't be known here, as the address is "
                "another host's or one that a catch-all takes.",
                _CLOSED_BOOK,
            ),
            550: Case(
                "5.1.1 5.2.1",
                "The client may ask, and there is nobody of that name or it is that of a list (5.1.1), or the user is "
                "disabled (5.2.1).",
                _ASKING,
            ),
            551: Case("5.1.6", "The client may ask, and the user has moved to another address.", _ASKING),
            553: Case(
                "5.1.3 5.1.4 5.6.8",
                "The client may ask, and several users are meant, who are listed (5.1.4), the address can't be "
                "parsed (5.1.3), or the answer is not ASCII and SMTPUTF8 was not asked for (5.6.8).",
                _ASKING,
            ),
            500: TOO_LONG,
            501: _NO_NAME,
            502: NOT_OFFERED,
            504: _PARAMETER,
            421: CLOSING_PROBED,
        },
        {521: NO_MAIL},
    ),
    Page(
        "EXPN",
        "EXPN name",
        "Asks who is on a list.",
        "RFC 5321 section 4.1.1.7",
        {
            250: Case("2.1.5", "The client may ask, and the list shows its members to them.", _ASKING),
            550: Case(
                "5.1.1 5.1.4 5.6.8 5.7.2",
                "The client may ask, and there is no list of that name (5.1.1), there are several (5.1.4), the list "
                "does not show its members to them (5.7.2), or a member's address is not ASCII and SMTPUTF8 was not "
                "asked for (5.6.8).",
                _ASKING,
            ),
            500: TOO_LONG,
            501: Case(
                "5.1.3 5.5.4",
                "There is no argument or it is not ASCII (5.5.4), or the address can't be parsed (5.1.3).",
            ),
            502: NOT_OFFERED,
            504: _PARAMETER,
            421: CLOSING_PROBED,
        },
        {
            252: Case(
                "2.5.0",
                "The client may not ask, be there such a list or not; or that can't be known here, as the address is "
                "another host's.",
                _CLOSED_BOOK,
            ),
            521: NO_MAIL,
        },
    ),
    Page(
        "HELP",
        "HELP [command or code]",
        "Asks what the server knows.",
        "RFC 5321 section 4.1.1.8",
        {
            211: Case(
                "2.0.0",
                "The client has authenticated as an operator and says HELP or HELP STATUS.",
            ),
            214: Case("2.0.0", "There is no argument, or it is a command or a code of this table."),
            500: TOO_LONG,
            501: Case("5.5.4", "The argument is not ASCII."),
            502: NOT_OFFERED,
            504: Case("5.5.4", "The argument is neither a command nor a code of this table."),
            421: CLOSING,
        },
        {521: NO_MAIL, 530: NOT_ENTITLED},
    ),
    Page(
        "NOOP",
        "NOOP [anything]",
        "Does nothing.",
        "RFC 5321 section 4.1.1.9",
        {
            200: CLASSIC,
            250: Case("2.0.0", 'The listener has compat = "strict", the default; an argument is ignored.'),
            500: TOO_LONG,
            421: CLOSING,
        },
        {521: NO_MAIL},
    ),
    Page(
        "QUIT",
        "QUIT",
        "Ends the session, and gives up an open transaction.",
        "RFC 5321 section 4.1.1.10",
        {221: Case("2.0.0", "There is no argument; the connection is closed."), 500: TOO_LONG},
        {501: ARGUMENT, 421: CLOSING},
    ),
    Page(
        "TURN",
        "TURN",
        "Asks to change roles, so that the server sends what it keeps for the client's domains.",
        _ROLES,
        {
            250: Case("2.0.0", "The client has authenticated and owns domains here, and mail waits for them.", _ROLES),
            502: Case(
                "5.5.1 5.7.1",
                "The listener does not offer the command or nothing waits (5.5.1), or the client owns no domain here "
                "(5.7.1).",
                _ROLES,
            ),
            500: TOO_LONG,
            503: OUTSIDE,
        },
        {421: CLOSING, 451: _QUEUE_FAULT, 501: ARGUMENT, 521: NO_MAIL, 530: NOT_ENTITLED},
    ),
    Page(
        "AUTH",
        "AUTH mechanism [initial-response]",
        "Proves who the client is.",
        _AUTH,
        {},
        {
            235: Case("2.7.0", "The client is who it says it is, and the user is not disabled.", _AUTH),
            334: Case(
                "",
                "The mechanism needs another response: no initial one was given, SCRAM goes on, or a token is refused "
                "and the text says why.",
                _AUTH,
            ),
            421: CLOSING,
            454: Case(
                "4.7.0",
                "The login can't be checked now, or too many from that address or for that name have failed "
                "(limits.auth_failures): the password is not looked at.",
                _AUTH_CODES,
            ),
            500: Case(
                "5.5.2 5.5.6",
                "The line has more than 12288 octets (5.5.6), or holds a bare CR, a bare LF or a NUL (5.5.2).",
                _AUTH,
            ),
            501: Case(
                "5.5.2 5.5.4 5.7.0",
                "There is no mechanism (5.5.4), the response is not base64 or not what the mechanism asks for (5.5.2), "
                "or the client cancels with * (5.7.0).",
                _AUTH,
            ),
            502: Case("5.5.1", 'The listener does not offer the command (auth = "off").'),
            503: Case(
                "5.5.1",
                "HELO or EHLO has not been said, a mail transaction is open, or the client has authenticated before.",
                _AUTH,
            ),
            504: Case("5.5.4", "The mechanism is not offered.", _AUTH),
            521: NO_MAIL,
            530: Case("5.7.0", "Not given by this server, which says 538 in its place.", _AUTH_CODES),
            535: Case(
                "5.7.8",
                "The password, the proof or the token is wrong, or there is no such user, or the user is disabled or "
                "may not act as the one that is named: which one is not told.",
                _AUTH_CODES,
            ),
            538: Case(
                "5.7.11",
                'The listener has auth = "tls", and the connection is neither encrypted nor from this machine.',
                _AUTH_CODES,
            ),
        },
    ),
    Page(
        "ETRN",
        "ETRN [@]domain",
        "Asks the server to send now what it keeps for a domain, to the host that a route names.",
        "RFC 1985 section 5",
        {},
        {
            250: Case("2.0.0", "Not given by this server, which always says how many are waiting (253).", _ETRN),
            251: Case("2.0.0", "Nothing waits for the domain.", _ETRN),
            252: Case("2.0.0", "Not given by this server, which always says how many are waiting (253).", _ETRN),
            253: Case("2.0.0", "So many recipients wait for the domain and are tried now.", _ETRN),
            421: CLOSING,
            451: Case("4.3.0", "Not given by this server, which says 458 in its place."),
            458: Case(
                "4.3.0 4.4.0",
                "The queue can't be asked now (4.3.0), or no route names a host for the domain, whose mail leaves by "
                "TURN or ATRN only (4.4.0).",
                _ETRN,
            ),
            459: Case("4.7.1", "The client does not own the domain, or names a queue with #.", _ETRN),
            500: TOO_LONG,
            501: Case("5.5.4", "There is no argument, or it is no domain.", _ETRN),
            502: NOT_OFFERED,
            503: OUTSIDE,
            521: NO_MAIL,
            530: NOT_ENTITLED,
        },
    ),
    Page(
        "ATRN",
        "ATRN [domain,domain...]",
        "As TURN, for the domains named, or for all that the client owns.",
        _ATRN,
        {},
        {
            250: Case("2.0.0", "The client has authenticated and owns the domains, and mail waits for them.", _ATRN),
            421: CLOSING,
            450: Case("4.7.1", "The client does not own all of the domains, or owns none.", _ATRN),
            451: Case("4.3.0", _QUEUE_FAULT.condition, _ATRN),
            453: Case("4.2.0", "No mail waits for the domains.", _ATRN),
            500: TOO_LONG,
            501: Case("5.5.4", "The argument is no list of domains with commas between them.", _ATRN),
            502: NOT_OFFERED,
            503: OUTSIDE,
            521: NO_MAIL,
            530: NOT_ENTITLED,
        },
    ),
    Page(
        "STARTTLS",
        "STARTTLS",
        "Begins TLS on the connection; the client says EHLO again behind the handshake.",
        "RFC 3207 section 4",
        {},
        {
            220: Case("2.0.0", "The handshake may begin; octets behind the command close the connection.", _TLS),
            421: CLOSING,
            500: TOO_LONG,
            501: ARGUMENT,
            502: Case("5.5.1", "The listener does not offer it: its tls is off or implicit.", _TLS),
            503: Case("5.5.1", "EHLO has not been said, a mail transaction is open, or TLS is active already.", ORDER),
            521: NO_MAIL,
        },
    ),
    Page(
        "BDAT",
        "BDAT size [LAST]",
        "Sends a piece of a message, of so many octets; LAST ends the message, and asks the server to take it.",
        _BDAT,
        {},
        {
            250: Case("2.0.0", "The chunk is taken; behind the last one, the message is on the disk.", _BDAT),
            421: CLOSING,
            450: Case(
                "4.2.1 4.2.2",
                "The message is for terminals only, and one was gone or too slow (4.2.1); or the listener is for LMTP, "
                "and it would fill the recipient's mailbox above the soft quota (4.2.2).",
                _BDAT,
            ),
            451: Case("4.3.0", "The message could not be stored."),
            452: Case("4.3.1", "There is no room on the disk for the message."),
            501: Case(
                "5.5.4",
                "The line can't be understood, so that nobody knows where the next command begins: the connection is "
                "closed.",
                _BDAT,
            ),
            502: NOT_ON_ODMR,
            503: Case(
                "5.5.1",
                "No transaction is open, it has no recipient so far, or a chunk before was refused; the octets are "
                "thrown away.",
                _BDAT,
            ),
            521: NO_MAIL,
            552: Case(
                "5.2.2 5.3.4",
                "The message is above limits.message_size, or behind SEND above 64 KiB (5.3.4); or the listener is for "
                "LMTP, and it would fill the recipient's mailbox above the quota (5.2.2).",
                _BDAT,
            ),
            554: Case(
                "5.4.6 5.5.1 5.6.0",
                "Every recipient was refused (5.5.1), the message is looping (5.4.6), or its header section is too "
                "large or holds a bare CR, a bare LF or a NUL (5.6.0), or its Idempotency-Key is none, or that of "
                "another message (5.6.0).",
                _BDAT,
            ),
        },
    ),
    Page(
        "LHLO",
        "LHLO domain",
        "Says who the client is on a listener for LMTP, in place of HELO and EHLO; gives up an open transaction.",
        _LMTP,
        {},
        {
            250: Case("", "The argument is a domain or an address literal.", _LMTP),
            421: CLOSING_HELLO,
            500: Case(
                "",
                "The listener is not for LMTP, or the line has more than 512 octets or holds a bare CR, a bare LF or a "
                "NUL.",
                _LMTP,
            ),
            501: Case("", "There is no argument, or it is neither a domain nor an address literal.", _LMTP),
            504: Case("", "The argument is an address literal of a type that is not implemented.", _LMTP),
            521: NO_MAIL_HELLO,
            550: Case("", "The name is our own configured one, and the client is not in relay.networks.", ORDER),
        },
    ),
    Page(
        "unknown",
        "(any other word)",
        "Is no command that this server knows.",
        "RFC 5321 section 4.2.4",
        {},
        {
            421: CLOSING,
            500: Case("5.5.2", "Always, but on a listener that takes no mail.", "RFC 5321 section 4.2.4"),
            503: Case("5.5.1", "Not given by this server, which says 500 in every state.", ORDER),
            521: NO_MAIL,
        },
    ),
)
