"""Probes of lines and of their order: what ends a line and what a message, how long a line may be, what is pipelined.

Data alone. RFC 5321 sections 2.3.8, 4.1.1.4, 4.2, 4.5.3.1; RFC 2920. Behind most of them comes a QUIT in a write of its
own: its reply must be the next one, or the server has taken one line for two. Those that need a message go to the
mailbox that was named, and to no other.
"""

from __future__ import annotations

from pillarbox.app.conform.judge import (
    DONE,
    NOT_UNDERSTOOD,
    decides,
    forbids,
    goodbye,
    in_order,
    in_step,
    no_data_for_nobody,
    one_line,
)
from pillarbox.app.conform.probe import MESSAGE, Level, Probe, Step, finish, given, halting, raw, say
from pillarbox.app.conform.probes_session import MAIL_FROM

_LINES = "RFC 5321 section 2.3.8"
_ONE_REPLY = "RFC 5321 section 4.2"
_LENGTH = "RFC 5321 section 4.5.3.1.4"
_PIPELINING = "RFC 2920 section 3.2"
_END = "RFC 5321 section 4.1.1.4"
_OTHER_ENDS = "RFC 5321 sections 2.3.8 and 4.1.1.4"
_ELSEWHERE = "RCPT TO:<nobody@example.org>"
_MOST = 512  # octets of a command line with its end
_TOO_LONG = "x" * 2000  # more than any extension adds to a line but AUTH
_FAR_TOO_LONG = "x" * 20000

_OVERLONG = (
    ("HELO", f"HELO {_TOO_LONG}"),
    ("EHLO", f"EHLO {_TOO_LONG}"),
    ("MAIL", f"MAIL FROM:<{_TOO_LONG}@example.org>"),
    ("RCPT", f"RCPT TO:<{_TOO_LONG}@example.org>"),
    ("DATA", f"DATA {_TOO_LONG}"),
    ("RSET", f"RSET {_TOO_LONG}"),
    ("SEND", f"SEND FROM:<{_TOO_LONG}@example.org>"),
    ("SOML", f"SOML FROM:<{_TOO_LONG}@example.org>"),
    ("SAML", f"SAML FROM:<{_TOO_LONG}@example.org>"),
    ("VRFY", f"VRFY {_TOO_LONG}"),
    ("EXPN", f"EXPN {_TOO_LONG}"),
    ("HELP", f"HELP {_TOO_LONG}"),
    ("NOOP", f"NOOP {_TOO_LONG}"),
    ("QUIT", f"QUIT {_TOO_LONG}"),
    ("TURN", f"TURN {_TOO_LONG}"),
    ("unknown", _FAR_TOO_LONG),
)


def _overlong(verb: str, line: str) -> Probe:
    return Probe(
        f"overlong-{verb.lower()}",
        f"A line of {len(line) + 2:,} octets ({verb}) gets exactly one reply: 500 where that is too long.",
        _ONE_REPLY,
        Level.MUST,
        (say(line), finish()),
        in_step,
        judges_loss=True,
        hostile=True,
    )


LENGTH = (
    Probe(
        "longest-line",
        f"A command line of {_MOST} octets is not too long.",
        _LENGTH,
        Level.MUST,
        (given("NOOP x"), say("NOOP " + "x" * (_MOST - len("NOOP \r\n")))),
        forbids(500),
    ),
    *(_overlong(verb, line) for verb, line in _OVERLONG),
)


def _bare(name: str, what: str, end: str) -> Probe:
    return Probe(
        f"command-{name}",
        f"A {what} does not end a command line.",
        _LINES,
        Level.MUST,
        (halting(f"NOOP{end}", "NOOP\r\n", "NOOP"), finish()),
        one_line,
        judges_loss=True,
        hostile=True,
    )


LINE_ENDS = (
    _bare("bare-lf", "bare LF", "\n"),
    _bare("bare-cr", "bare CR", "\r"),
)

PIPELINING = (
    Probe(
        "pipelined-order",
        "Commands that come in one write are answered one by one, in their order.",
        _PIPELINING,
        Level.MUST,
        (say("RSET", MAIL_FROM, "RCPT", "NOOP"),),
        in_order(2),
        needs="PIPELINING",
    ),
    Probe(
        "pipelined-quit",
        "Commands in one write with a QUIT behind them are all answered before the connection is closed.",
        _PIPELINING,
        Level.MUST,
        (finish("RSET", MAIL_FROM, "QUIT"),),
        goodbye,
        needs="PIPELINING",
        judges_loss=True,
    ),
    Probe(
        "pipelined-data",
        "DATA in one write with a RCPT that is refused is not answered with 354.",
        "RFC 2920 section 1",
        Level.TABLE,
        (say("RSET", MAIL_FROM, _ELSEWHERE, "DATA"),),
        no_data_for_nobody,
        needs="PIPELINING",
    ),
)

# --- with a message

_TRANSACTION = (given(MAIL_FROM), given("RCPT TO:<{mailbox}>"), given("DATA"))
_HEADER = "{headers}\r\n"
_TRACE = "".join(
    f"Received: from hop{number}.example by hop{number + 1}.example; Thu, 1 Jan 1970 00:00:00 +0000\r\n"
    for number in range(120)
)
_LINE_OF_1000 = "x" * 998 + "\r\n"
_LARGE = _LINE_OF_1000 * 65  # with the header section a little below 64 KiB
_ENDS = {"LF": "\n", "CR": "\r", "CRLF": "\r\n"}


def _message(text: str) -> Step:
    return raw(text + ".\r\n", MESSAGE)


def _false_end(before: str, after: str) -> Probe:
    end = f"{_ENDS[before]}.{_ENDS[after]}"
    first = f"{_HEADER}<{before}>.<{after}> stands behind this line{end}"
    rest = "NOOP\r\nThis is still the message.\r\n.\r\n"
    return Probe(
        f"end-{before.lower()}-dot-{after.lower()}",
        f"<{before}>.<{after}> does not end a message.",
        _END if (before, after) == ("LF", "LF") else _OTHER_ENDS,
        Level.MUST,
        (*_TRANSACTION, halting(first, rest, MESSAGE), finish()),
        one_line,
        delivers=True,
        judges_loss=True,
        alone=True,
        hostile=True,
    )


MESSAGES = (
    Probe(
        "message",
        "A message is accepted, or refused with one of the replies of the table.",
        "RFC 5321 section 4.3.2",
        Level.TABLE,
        (*_TRANSACTION, _message(f"{_HEADER}A probe of this server, sent on purpose.\r\n..A line with a dot.\r\n")),
        decides(DONE, NOT_UNDERSTOOD),
        delivers=True,
    ),
    Probe(
        "message-64k",
        "A message of almost 64 KiB in lines of 1000 octets is not too large, and its lines are not too long.",
        "RFC 5321 sections 4.5.3.1.6 and 4.5.3.1.7",
        Level.MUST,
        (*_TRANSACTION, _message(_HEADER + _LARGE)),
        decides(DONE, frozenset((500, 552))),
        delivers=True,
    ),
    Probe(
        "message-looping",
        "A message that has come through 120 hosts is accepted, or refused as looping with a reply of the table.",
        "RFC 5321 sections 6.3 and 4.3.2",
        Level.TABLE,
        (*_TRANSACTION, _message(f"{_TRACE}{_HEADER}A probe of how this server sees loops.\r\n")),
        decides(DONE | {550, 554}, NOT_UNDERSTOOD),
        delivers=True,
    ),
    _false_end("LF", "LF"),
    _false_end("LF", "CRLF"),
    _false_end("CRLF", "LF"),
    _false_end("CR", "CR"),
    _false_end("CR", "CRLF"),
    _false_end("CRLF", "CR"),
)
