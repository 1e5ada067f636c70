"""What was said with a next hop, as it is recorded where it explains something: an outcome that is no delivery.

The commands are told again from the job, and the replies stand beside them as they came, so that a delivery that
succeeds costs a list of its replies and nothing else. Invariants: nothing of a message's text and nothing of an AUTH
but how it ended is in it; it has at most MOST_LINES lines of MOST_OCTETS characters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pillarbox.core.address import Mailbox
from pillarbox.engine.mail import Job
from pillarbox.smtp.events import ReplyReceived
from pillarbox.smtp.states import Verb

MOST_LINES = 60
MOST_OCTETS = 200  # of a line
_KEPT_OF_REPLY = 12  # lines of one reply
_HELLOS = frozenset((Verb.EHLO, Verb.LHLO))
_ANSWERED_OFTEN = frozenset((Verb.END_OF_DATA, Verb.BDAT, Verb.AUTH))  # by LMTP, and step by step
OURS, THEIRS = "> ", "< "


def transcript(
    job: Job, hello_name: str, replies: Sequence[ReplyReceived], *, rcpts: Sequence[Mailbox], fault: str = ""
) -> str:
    """Lines, each with who said it. `rcpts`: whom we named, in that order; `fault`: how it ended, if badly."""
    lines: list[str] = []
    named, somebody = iter(rcpts), False
    before: Verb | None = None
    for reply in replies:
        again, before = reply.verb is before and reply.verb in _ANSWERED_OFTEN, reply.verb
        if reply.verb is Verb.RCPT:
            lines.append(f"{OURS}RCPT TO:<{next(named, '')}>")
            somebody = somebody or reply.klass == 2
        elif again:
            pass
        elif reply.verb is Verb.END_OF_DATA and not somebody:
            lines.append(f"{OURS}. (no message: nobody was accepted)")
        elif (said := _SAID.get(reply.verb)) is not None:
            lines.append(OURS + said(job, hello_name))
        lines += _heard(reply)
    if fault:
        lines.append(f"({fault})")
    return "\n".join(line if len(line) <= MOST_OCTETS else f"{line[:MOST_OCTETS]}…" for line in _bounded(lines))


def _heard(reply: ReplyReceived) -> list[str]:
    if reply.verb is Verb.AUTH:  # some servers repeat what they were told
        return [f"{THEIRS}{reply}"] if reply.klass != 3 else []
    enhanced = "" if reply.enhanced is None else f"{reply.enhanced} "
    if reply.verb in _HELLOS:
        return [f"{THEIRS}{reply.code} {enhanced}{'; '.join(reply.lines)}"]
    last = len(reply.lines) - 1
    lines = [
        f"{THEIRS}{reply.code}{' ' if number == last else '-'}{enhanced}{text}"
        for number, text in enumerate(reply.lines)
    ]
    return lines if len(lines) <= _KEPT_OF_REPLY else [*lines[: _KEPT_OF_REPLY - 1], f"(… {len(lines)} lines)"]


def _bounded(lines: list[str]) -> list[str]:
    """The beginning and, rather, the end: there it went wrong."""
    if len(lines) <= MOST_LINES:
        return lines
    begin, end = MOST_LINES // 3, MOST_LINES - MOST_LINES // 3 - 1
    return [*lines[:begin], f"(… {len(lines) - begin - end} lines left out)", *lines[-end:]]


def _mail(job: Job, hello_name: str) -> str:
    return f"MAIL FROM:<{job.sender or ''}>"


_SAID: Mapping[Verb, Callable[[Job, str], str]] = {
    Verb.EHLO: lambda job, name: f"EHLO {name}",
    Verb.LHLO: lambda job, name: f"LHLO {name}",
    Verb.HELO: lambda job, name: f"HELO {name}",
    Verb.STARTTLS: lambda job, name: "STARTTLS",
    Verb.AUTH: lambda job, name: "AUTH (left out)",
    Verb.RSET: lambda job, name: "RSET",
    Verb.MAIL: _mail,
    Verb.DATA: lambda job, name: "DATA",
    Verb.BDAT: lambda job, name: f"BDAT ({job.message.size} octets, left out)",
    Verb.END_OF_DATA: lambda job, name: f"(the message, {job.message.size} octets, left out)",
}
