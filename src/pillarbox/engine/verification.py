"""What VRFY and EXPN answer to somebody who is entitled to know (RFC 5321 §3.5).

Pure: an argument and a directory give a reply. Who is entitled, and what the others get, is decided by the caller, who
can have `parameter_fault` looked at first. The argument is not empty. Invariant: a reply has at most MAX_LINES lines,
each of a length that fits, whatever the directory holds.
"""

from __future__ import annotations

import re

from pillarbox.core import reply as r
from pillarbox.core.address import AddressError, Domain, Mailbox
from pillarbox.core.reply import MAX_TEXT, Reply, printable
from pillarbox.engine.ports import (
    AList,
    Ambiguous,
    Audience,
    Directory,
    Disabled,
    Forwarded,
    Moved,
    NoSuchUser,
    Unverifiable,
    Verification,
    Verified,
)

MAX_LINES = 1000

_PIECE = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^\s"]|")+')  # what spaces part, but not those within quotes
_PATH = re.compile(r'<(?:"(?:\\.|[^"\\])*"|[^>"])*>')
_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*=\S*")  # RFC 5321 §4.1.2, esmtp-param; a bare keyword may be a name


def parameter_fault(argument: str) -> bool:
    """Whether a parameter stands behind the name; the only one that is known, SMTPUTF8, was taken off before.

    Behind an address that is anything at all; behind a word other words may be part of the name.
    """
    if path := _PATH.match(argument):
        return path.end() < len(argument.rstrip())
    first, *rest = _PIECE.findall(argument) or [""]
    if "@" in first:
        return bool(rest)
    return any(piece.upper() == "SMTPUTF8" or _PARAMETER.fullmatch(piece) for piece in rest)


# --- VRFY


def vrfy(directory: Directory, argument: str, *, hostname: Domain) -> Reply:
    """RFC 5321 §3.5.1 to §3.5.3."""
    if parameter_fault(argument):
        return r.UNKNOWN_PARAMETER_OF_COMMAND
    try:
        return _verified(directory.verify(_named(argument, hostname)))
    except AddressError:
        return r.MAILBOX_SYNTAX


def _named(argument: str, hostname: Domain) -> str:
    """RFC 5321 §4.5.1: postmaster without a domain is that of this host."""
    word = argument.strip().removeprefix("<").removesuffix(">")
    return f"postmaster@{hostname}" if word.casefold() == "postmaster" else argument


def _verified(meaning: Verification) -> Reply:
    match meaning:
        case Verified():
            return r.verified(_line(meaning))
        case Forwarded(to):
            return r.announced(str(to))
        case Moved(to):
            return r.moved(str(to))
        case Disabled():
            return r.MAILBOX_DISABLED
        case AList():
            return r.THAT_IS_A_LIST
        case Ambiguous(candidates):
            return r.ambiguous(_candidates(candidates))
        case NoSuchUser():
            return r.NO_SUCH_USER
        case Unverifiable():
            return r.CANNOT_VERIFY


def _candidates(candidates: tuple[Verified, ...]) -> tuple[str, ...]:
    room = MAX_LINES - 1  # below the first line
    if len(candidates) <= room:
        return tuple(map(_line, candidates))
    return (*map(_line, candidates[: room - 1]), "and others")


def _line(who: Verified) -> str:
    """Full name and path; the name is cut, never the path (RFC 5321 §3.5.2)."""
    path = f"<{who.mailbox}>"
    name = printable(who.full_name.strip())[: MAX_TEXT - len(path) - 1]
    return f"{name} {path}" if name else path


# --- EXPN


def expn(directory: Directory, argument: str, *, user: Mailbox | None) -> Reply:
    """RFC 5321 §3.5.2. `user`: who has authenticated."""
    if parameter_fault(argument):
        return r.UNKNOWN_PARAMETER_OF_COMMAND
    try:
        meaning = directory.verify(argument)
        if isinstance(meaning, Ambiguous):
            return _among(directory, meaning, user)
        return _expanded(meaning, user)
    except AddressError:
        return r.LIST_SYNTAX


def _expanded(meaning: Verification, user: Mailbox | None) -> Reply:
    match meaning:
        case AList(members, audience):
            if not _may_see(audience, members, user):
                return r.LIST_ACCESS_DENIED
            lines = tuple(map(_line, members[:MAX_LINES]))
            return r.expanded(lines) if lines else r.CANNOT_EXPAND
        case Unverifiable():
            return r.CANNOT_EXPAND
        case NoSuchUser():
            return r.NO_SUCH_LIST
        case _:
            return r.THAT_IS_A_USER


def _among(directory: Directory, meaning: Ambiguous, user: Mailbox | None) -> Reply:
    """Of all that have the name only a list can be meant."""
    meanings = [directory.verify(str(candidate.mailbox)) for candidate in meaning.candidates[:MAX_LINES]]
    lists = [found for found in meanings if isinstance(found, AList)]
    match lists:
        case []:
            return r.THAT_IS_A_USER
        case [only]:
            return _expanded(only, user)
        case _:
            return r.WHICH_LIST


def _may_see(audience: Audience, members: tuple[Verified, ...], user: Mailbox | None) -> bool:
    match audience:
        case Audience.NOBODY:
            return False
        case Audience.MEMBERS:
            return any(member.mailbox == user for member in members)
        case Audience.AUTHENTICATED:
            return user is not None
        case Audience.ANYONE:
            return True
