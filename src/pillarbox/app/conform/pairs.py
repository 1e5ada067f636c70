"""The pairs of the table: which of them were seen, and for the others what it would take.

A pair that came in the course of any probe conforms. One of a command that the server does not have is not offered.
Any other was not provoked, and the sentence beside it says what a person would have to do or to configure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pillarbox.app.conform.probe import MESSAGE, Exchange, Verdict
from pillarbox.core.table import TABLE, Entry

_OPTIONAL = frozenset(("SEND", "SOML", "SAML", "EXPN", "HELP", "TURN", "AUTH", "ETRN", "ATRN", "STARTTLS", "BDAT"))
_LACKING = frozenset((500, 502))

_BY_CODE: Mapping[int, str] = {
    200: "No server of today sends it: RFC 876 calls it never legal. A client must bear it.",
    211: "An operator would have to ask, or the server give its status to everybody.",
    214: "HELP would have to be offered.",
    220: "The server would have to be in service.",
    221: "The server would have to obey a QUIT.",
    235: "A user would have to authenticate.",
    250: "The server would have to accept what it refused in each probe.",
    251: "An address would be needed whose mail the server passes on, and tells so.",
    252: "VRFY or EXPN would have to be asked for an address that can't be verified, or by a client that may not know.",
    253: "The client would have to own a domain, and mail to wait for it.",
    334: "A mechanism would have to be offered on a connection without TLS.",
    354: "A recipient would be needed that the server accepts: name one with --mailbox.",
    421: "The server would have to shut down, or reach a limit, while the command waits for its reply.",
    450: "A mailbox would be needed that is busy or over its soft quota, or a sender who is not known yet.",
    451: "A fault would be needed: in the server's spool, directory or DNS.",
    452: "The server's storage would have to be full, or its limit of recipients be reached.",
    453: "A client that owns a domain for which no mail waits would have to ask.",
    454: "The server's store of passwords, or its keys, would have to be out of reach.",
    458: "The server's queue would have to be out of reach.",
    459: "ETRN would have to be offered, and asked for a domain of somebody else.",
    500: "A longer line would be needed: the server took all that were sent.",
    501: "The server would have to dislike an argument: it took all that were sent, or looked at other things first.",
    502: "The command would have to be known and switched off.",
    503: "The server would have to see the command as out of order: it took it in every state it was tried in.",
    504: "A parameter would be needed that the server knows and does not implement.",
    521: "The server would have to be one that takes no mail at all (RFC 7504).",
    530: "The server would have to ask for authentication first.",
    535: "A wrong password would have to be given, and is not: that might lock somebody out.",
    538: "A mechanism would have to be offered that needs TLS.",
    550: "A name or an address would be needed that the server refuses.",
    551: "An address would be needed whose user has moved, and the server tells where.",
    552: "The announced limit, or a mailbox's quota, would have to be exceeded.",
    553: "A name would be needed that is ambiguous, or an address that the server's own rules forbid.",
    554: "The server would have to refuse what it accepted.",
    555: "A parameter would be needed that the server does not know.",
    556: "A recipient would be needed whose domain takes no mail (a null MX).",
}
_BY_PAIR: Mapping[tuple[str, int], str] = {
    ("connect", 421): "More connections than the server allows would be needed, or a server that is shutting down.",
    ("RSET", 504): "RFC 821 has it; RFC 5321 wants 501 for any argument to RSET.",
    ("RCPT", 552): "A mailbox would be needed whose quota is used up.",
    ("RCPT", 452): "More recipients than the server's limit would be needed, or a full disk.",
    ("TURN", 250): "A client would be needed that has authenticated and owns a domain for which mail waits.",
    ("ATRN", 250): "A client would be needed that has authenticated and owns a domain for which mail waits.",
    ("ATRN", 450): "A client that has authenticated would have to ask for a domain of somebody else.",
    ("VRFY", 250): "A client would be needed that may ask, and a user that it may know.",
    ("EXPN", 250): "A client would be needed that may ask, and a list whose members it may know.",
    (MESSAGE, 552): "A message would be needed that is larger than the announced limit.",
    (MESSAGE, 452): "The server's disk would have to be full.",
    (MESSAGE, 550): "A message would be needed that the server's policy refuses.",
    (MESSAGE, 554): "A message would be needed that the server refuses for what is in it.",
}
_NO_MESSAGE = "A message would have to be sent: name a mailbox for it with --mailbox."


@dataclass(frozen=True, slots=True)
class PairFinding:
    entry: Entry
    verdict: Verdict
    note: str


def pairs(log: Sequence[Exchange], *, may_deliver: bool) -> tuple[PairFinding, ...]:
    """A finding for each pair of the table, in its order."""
    seen: dict[tuple[str, int], str] = {}
    for exchange in log:
        seen.setdefault((exchange.command, exchange.code), exchange.probe)
    lacking = {command for command in _OPTIONAL if _is_lacking(command, seen)}
    return tuple(_finding(entry, seen, lacking, may_deliver=may_deliver) for entry in TABLE)


def _is_lacking(command: str, seen: Mapping[tuple[str, int], str]) -> bool:
    """Whether the server does not have an optional command; it may never have been asked for it."""
    codes = {code for name, code in seen if name == command and code}
    return codes <= _LACKING


def _finding(entry: Entry, seen: Mapping[tuple[str, int], str], lacking: set[str], *, may_deliver: bool) -> PairFinding:
    pair = (entry.command, entry.code)
    if pair in seen:
        return PairFinding(entry, Verdict.CONFORMS, f"seen in {seen[pair]}")
    if entry.command in lacking:
        return PairFinding(entry, Verdict.NOT_OFFERED, f"the server does not offer {entry.command}")
    if entry.command == MESSAGE and not may_deliver:
        return PairFinding(entry, Verdict.NOT_PROVOKED, _NO_MESSAGE)
    return PairFinding(entry, Verdict.NOT_PROVOKED, _BY_PAIR.get(pair) or _BY_CODE.get(entry.code, entry.condition))
