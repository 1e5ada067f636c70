"""What a person who laid each claimed deviation beside the text of the RFC says of it. Data alone.

A claim: the name of a rule of `pillarbox conform`. `text` quotes the RFC and says whether claim and level are right;
`remarks` say what is known of a server's own reasons, and what was tried with another setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Judgement:
    text: str
    remarks: Mapping[str, str] = field(default_factory=dict)


_BY_ARGUMENT = {
    "OpenSMTPD": "It does refuse, with the right enhanced code (5.5.4); the three digits are those of an unknown verb."
}
_NO_ARGUMENT = Judgement("Right, by the same sentence of 4.3.2.", {"OpenSMTPD": "As there."})
_OUTSIDE = "Right, and of no weight: 4.3.2 lists the 'usual possible replies', and a client reads the first digit."
_PARAMETER = (
    "Right. 4.1.1.11: a server that does not recognise a parameter 'will return code 555', without a key word. A "
    "client that never sends what EHLO does not list will not see it."
)
_LITERAL = (
    "Right as it stands: 4.1.2 has an address literal wherever a domain may stand. The MUST of RFC 1123 section 5.2.17 "
    "was lowered to the level of the grammar, as RFC 5321 updates that RFC and does not repeat it."
)

JUDGEMENTS: Mapping[str, Judgement] = {
    # --- MUST
    "command-bare-lf": Judgement(
        "Right. 2.3.8: nothing but CRLF may be recognised as a line terminator (MUST NOT). All four do, for commands "
        "typed or piped by hand; a risk only together with what follows for messages.",
        {"Postfix": "`smtpd_forbid_bare_newline = reject` was tried and mends it; `normalize` does not."},
    ),
    "end-lf-dot-lf": Judgement(
        "Right. 4.1.1.4: a server MUST NOT accept lines that end in LF alone, 'even in the name of improved "
        "robustness', and MUST NOT take `<LF>.<LF>` for the end of a message.",
        {
            "Postfix": "A known choice, for old clients. `smtpd_forbid_bare_newline = normalize`, the default from 3.9 "
            "on, was tried and mends this and the next two.",
            "OpenSMTPD": "Where more came in behind such an end, it refused everything with 500 and closed: so nothing "
            "can be smuggled.",
        },
    ),
    "end-lf-dot-crlf": Judgement("Right, by 2.3.8 as under command-bare-lf. Both servers: as under end-lf-dot-lf."),
    "end-crlf-dot-lf": Judgement("Right, by 2.3.8 as under command-bare-lf. Both servers: as under end-lf-dot-lf."),
    "ehlo-again": Judgement(
        "Right. 4.1.4: an EHLO may come again; where it is not acceptable, '501, 500, 502, or 550 failure replies MUST "
        "be returned' (4.3.2 adds 504).",
        {"OpenSMTPD": "It takes one EHLO or HELO in a session."},
    ),
    "ehlo-bad-character": Judgement(
        "Right. 4.1.2: where invalid characters stand in a command, and nothing else is wrong with it, the server MUST "
        "reject it with 501. Names with an underscore are common, and leniency here is a choice of many.",
        {
            "Postfix": "A known choice: `reject_invalid_helo_hostname` was tried; it refuses the name, but at RCPT "
            "(`smtpd_delay_reject`).",
            "aiosmtpd": "A library: it leaves names to its user's handler (`handle_EHLO`).",
        },
    ),
    "mail-bad-character": Judgement(
        "Right, by the same sentence of 4.1.2.",
        {"aiosmtpd": "It leaves addresses to its user's handler (`handle_MAIL`)."},
    ),
    "enhanced-each": Judgement(
        "Right. RFC 2034 section 4: the codes 'must appear in all 2xx, 4xx, and 5xx response lines' but the greeting "
        "and the replies to HELO and EHLO. That RFC is older than the key words; its 'must' is taken for one.",
        {
            "Postfix": "In the replies to ETRN alone.",
            "OpenSMTPD": "In those to RCPT alone, where no rule takes the recipient or an option is unknown.",
        },
    ),
    "mail-no-path": Judgement(
        "Right. 4.1.4: where the argument of a command that begins a transaction is not acceptable, 'a 501 failure "
        "reply MUST be returned'. No client sends it.",
        {"Exim": "To it the command is `MAIL FROM:`, so it does not know `MAIL`."},
    ),
    "overlong-unknown": Judgement(
        "Right. 4.2: 'Every command MUST generate exactly one reply', and by 2.3.8 nothing but CRLF ends one. Exim "
        "takes what does not fit its buffer for another command. No client sends such a line, other than to attack."
    ),
    "required-not-500": Judgement(
        'Right. 4.3.2: \'producing a "command not recognized" error in response to the required subset of these '
        "commands is a violation of this specification'. A 500 whose enhanced code is 5.5.4 (bad argument) does not "
        "count, as the command was recognised then.",
        {
            "Exim": "Only MAIL and RCPT without an argument.",
            "OpenSMTPD": "VRFY, and MAIL and RCPT without an argument.",
        },
    ),
    "vrfy": Judgement(
        "Right. 4.5.1: VRFY is among the commands that MUST be supported; 3.5.3: implementations that return 500 or "
        "502 'are not in full compliance'; 7.3: where it is disabled for security, the reply MUST be 252.",
        {"OpenSMTPD": "Asked for in its issue 1146, for this very version."},
    ),
    # --- SHOULD
    "quit-argument": Judgement(
        "Right. 4.3.2: commands that take no argument (DATA, RSET, QUIT) SHOULD return 501 where one is given. "
        "Harmless: no client has a reason to.",
        {"Postfix": "It ignores the argument and obeys.", **_BY_ARGUMENT},
    ),
    "rset-argument": _NO_ARGUMENT,
    "data-argument": _NO_ARGUMENT,
    "data-argument-in-place": _NO_ARGUMENT,
    "help": Judgement("Right. 4.1.1.8: servers SHOULD support HELP without arguments."),
    "mail-over-size": Judgement(
        "Right. RFC 1870 section 6.1: the server 'should determine' whether the declared size is above its maximum, "
        "and then 'responds with code 552'; section 7 says 'must' of the smallest server. Taken for a SHOULD, the "
        "weaker of the two. A client that reads the limit in the reply to EHLO needs no refusal."
    ),
    "noop-argument": Judgement(
        "Right. 4.1.1.9: 'If a parameter string is specified, servers SHOULD ignore it.'",
        {"OpenSMTPD": "As under quit-argument."},
    ),
    "reply-length": Judgement(
        "Right. 4.5.3.1.5: a reply line has at most 512 octets, and by 4.5.3.1 larger objects 'SHOULD be avoided when "
        "possible'. It shows only where a command of 2,000 octets is repeated in the reply."
    ),
    "rset-before-ehlo": Judgement(
        "Right. 4.1.4: NOOP, HELP, EXPN, VRFY and RSET before EHLO SHOULD be processed normally, 'that is, not return "
        "a 503 code'."
    ),
    "white-space-noop": Judgement("Right. 4.1.1: receivers SHOULD tolerate white space before the terminating CRLF."),
    "white-space-rset": Judgement("Right, by the same sentence of 4.1.1."),
    # --- in grammar and lists alone
    "ehlo-bad-literal": Judgement(
        "Right. `[999.1.1.1]` is no address literal of 4.1.3, so it is a syntax error; no key word says that it must "
        "be refused.",
        {"Postfix": "As ehlo-bad-character.", "aiosmtpd": "As ehlo-bad-character."},
    ),
    "mail-bad-size": Judgement(
        "Right. RFC 1870 section 3: the value of SIZE is one to twenty digits; `SIZE=abc` is a syntax error. Both "
        "servers ignore it."
    ),
    "mail-literal": Judgement(
        _LITERAL,
        {
            "Exim": "A known choice; its documentation calls them controversial. `allow_domain_literals = true` and "
            "`@[]` among the local domains were tried and mend it."
        },
    ),
    "rcpt-literal": Judgement("As mail-literal."),
    "mail-unknown-parameter": Judgement(_PARAMETER),
    "rcpt-unknown-parameter": Judgement("Right, by the same sentence of 4.1.1.11."),
    "message-looping": Judgement(
        "Right. 6.3 lets a server refuse a message that came through 100 hosts, and this one did so; but 4.3.2 has no "
        "500 for a message."
    ),
    "rcpt-no-path": Judgement("Right: 500 where 501 is due, as under required-not-500."),
    "rcpt-null-path": Judgement(
        "Right. 4.1.1.3 and 4.1.2: a forward-path is a path, and only the reverse-path may be `<>`.",
        {"aiosmtpd": "It leaves recipients to its user's handler (`handle_RCPT`)."},
    ),
    "reply-text": Judgement(
        "Right. 4.2: the text of a reply is of printable ASCII, blanks and tabs. A bare CR of the client comes back in "
        "it."
    ),
    "outside-ehlo-503": Judgement("Right: the reply of ehlo-again once more, where 4.3.2 has no 503."),
    "outside-helo-503": Judgement(_OUTSIDE),
    "outside-rset-503": Judgement("Right: the reply of rset-before-ehlo once more; 4.3.2 has 250 alone."),
    "outside-help-250": Judgement(f"{_OUTSIDE} The codes for HELP are 211 and 214."),
    "outside-rcpt-454": Judgement(
        f"{_OUTSIDE} By 3.6.2 a policy of not relaying SHOULD be told with 550; that was not claimed, as a 454 may "
        "have other reasons.",
        {
            "Postfix": "A known choice: `defer_unauth_destination` is the default, so that a mistake in the "
            "configuration bounces no mail."
        },
    ),
    "outside-vrfy-454": Judgement(f"{_OUTSIDE} It is the reply to RCPT, given for VRFY.", {"Postfix": "As above."}),
}
