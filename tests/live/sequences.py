"""Octets by which one message has been made to look like two, or a value like a command: the tables, and what is right.

`judge` is an oracle of its own: it reads RFC 5321 §2.3.8 and §4.1.1.4 by two regular expressions and nothing of ours.
Each table is all combinations of its columns; what would be a legal end of a message is left out, for it is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

END = b"\r\n.\r\n"
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
VICTIM = "victim@smuggled.example"
ROBBER = "robber@smuggled.example"

# --- around the end of the data

BEFORE = (
    *(b"\n", b"\r", b"\r\n", b"\0", b"\n\r", b"\n\n", b"\r\r", b"\r\r\n", b"\r\n\r", b"\r\n\n", b"\r\n\0", b"\r\0\n"),
    *(b"\0\r\n", b"\xff\r\n", b"\x8d\x8a", b"\xc2\x85", b"\x85", b"\xe2\x80\xa8", b"\x0b", b"\x0c", b"\x1e", b""),
)
DOTS = (b".", b"..", b"\0.", b".\0", b"\xae", b".\xff", b".\xc2\xad")
AFTER = (
    *(b"\n", b"\r", b"\r\n", b"\0", b"\n\r", b"\r\r\n", b"\r\0\n", b"\0\r\n", b"\xff\r\n", b"\x8d\x8a", b"\xc2\x85"),
    *(b" \r\n", b"\t\r\n", b"\x0c"),
)
SMUGGLED = (
    f"MAIL FROM:<{ROBBER}>\r\nRCPT TO:<{VICTIM}>\r\nDATA\r\n".encode()
    + f"From: {ROBBER}\r\nSubject: smuggled\r\n\r\nsmuggled".encode()
)
HEADER = b"Subject: first\r\n\r\nfirst"


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a client sends behind the 354: its message, in which another one hides behind `edge`."""

    edge: bytes

    @property
    def wire(self) -> bytes:
        return HEADER + self.edge + SMUGGLED + END

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The edge, and one octet on either side of it, octet by octet."""
        first, last = len(HEADER) - 1, len(HEADER) + len(self.edge) + 1
        middle = tuple(self.wire[at : at + 1] for at in range(first, last))
        return (self.wire[:first], *middle, self.wire[last:])

    @property
    def message(self) -> bytes | None:
        """The one message that this is, without its stuffed dots; None: it may not be accepted."""
        return judge(self.wire)


def judge(wire: bytes) -> bytes | None:
    """The first message of a DATA stream; None where it holds what no message may."""
    stuffed = re.split(rb"(?:\A|(?<=\r\n))\.\r\n", wire, maxsplit=1)[0]
    return None if BARE.search(stuffed) else re.sub(rb"(\A|\r\n)\.", rb"\1", stuffed)


def _sequences() -> tuple[Sequence, ...]:
    edges = dict.fromkeys(b"".join(parts) for parts in product(BEFORE, DOTS, AFTER))
    return tuple(Sequence(edge) for edge in edges if END not in b"t" + edge)


SEQUENCES = _sequences()

# --- in commands

BREAKS = (b"\r", b"\n", b"\0", b"\n\r", b"\r\0\n")
HIDDEN = f"RCPT TO:<{VICTIM}>".encode()
PLACES = (  # ^ is where the break stands
    *(b"EHLO cli^ent.example", b"HELO cli^ent.example", b"EHLO ^", b"EHLO [IPv6:::^1]"),
    *(b"MAIL FROM:<a^b@x.example>", b'MAIL FROM:<"a^b"@x.example>', b"MAIL FROM:<a@x^.example>", b"MAIL ^FROM:<>"),
    *(b"MAIL FROM:<a@x.example> SIZE=1^0", b"MAIL FROM:<a@x.example> BODY=8BITMIME^", b"MAIL FROM:<>^"),
    *(b"MAIL FROM:<a@x.example> AUTH=<^>", b"MAIL FROM:<a@x.example> ENVID=a^b RET=FULL"),
    *(b"RCPT TO:<b^ob@example.test>", b'RCPT TO:<"b^ob"@example.test>', b"RCPT TO:<bob@example^.test>"),
    *(b"RCPT TO:<bob@example.test> NOTIFY=NEVER^", b"RCPT TO:<bob@example.test> ORCPT=rfc822;b^ob"),
    *(b"RCPT TO:<@x.example,^:bob@example.test>", b"RCPT TO:<bob@example.test>^", b"DATA^", b"RSET^"),
    *(b"VRFY b^ob", b"EXPN l^ist", b"NOOP n^oop", b"HELP h^elp", b"AUTH PLAIN AGIA^Yg==", b"STARTTLS^", b"N^OOP"),
)


def _commands() -> tuple[bytes, ...]:
    return tuple(place.replace(b"^", broken + HIDDEN + broken) for place, broken in product(PLACES, BREAKS))


COMMANDS = _commands()

# --- in what an operator, or a program of ours, hands in

TEXT_BREAKS = ("\r", "\n", "\r\n", "\0", "\n\r")
