"""What became of mail that was refused before there was a message: one record for each refusal of a session.

A session gets an id at its first refusal, from the source that message ids come from, and the reply tells it as
`(S-ID)`: whoever was refused can quote it. Only what refuses a client, a sender, a recipient or a message is recorded,
not commands that can't be read. Passwords never stand in a record: AUTH is none of the commands. Invariant: a flood of
refusals costs memory for MOST_AT_ONCE of them a second and no commit of its own; what is beyond that is counted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pillarbox.core import reply as r
from pillarbox.core.envelope import MessageId
from pillarbox.core.reply import MAX_TEXT, Reply
from pillarbox.engine.mail import Unit
from pillarbox.engine.ports import Clock, Spool, SpoolError, Timer

if TYPE_CHECKING:
    from pillarbox.engine.hooks import Said
    from pillarbox.engine.service import Client

log = logging.getLogger(__name__)

MARK = "S-"  # what an id of a session begins with
MOST_AT_ONCE = 1000  # refusals a second that are recorded
MOST_OCTETS = 200  # of each text that a client gave
MOST_RECIPIENTS = 20  # of a message that was refused
EVERY = 1.0  # seconds between commits
KEPT = 100_000  # records, unless the configuration says otherwise

_SYNTAX = frozenset((500, 501, 502, 503, 504, 555))  # the client did not say what it wants, or said it out of order
_RULES: Mapping[Reply, str] = {reply: name.lower() for name, reply in vars(r).items() if isinstance(reply, Reply)}
_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode


class Refusal(NamedTuple):
    """`detail` has listener, peer, helo, tls, user, command, reply, rule, and what a hook said, where one decided:
    hook, reason. A message for several that was refused has one for each, and `recipients`: how many they are."""

    session: MessageId
    at: float  # seconds since the epoch
    sender: str | None  # None: no MAIL was accepted; "" the null reverse-path
    recipient: str | None  # whom it was for, as RCPT named them; None: it was not for anybody yet
    detail: tuple[tuple[str, str | int | float | bool], ...]

    def detail_json(self) -> str:
        return _TO_JSON(dict(self.detail))


def concerns(reply: Reply) -> bool:
    """Whether a reply of 400 or more refuses something that was understood."""
    return reply.code not in _SYNTAX


def marked(reply: Reply, session: MessageId) -> Reply:
    """The reply with the id of its session, in its last line where there is room."""
    mark = f"({MARK}{session})"
    *lines, last = reply.lines
    longer = f"{last} {mark}"
    fits = len(longer.encode()) <= MAX_TEXT
    return Reply(reply.code, reply.enhanced, (*lines, longer) if fits else (*lines, last, mark), closes=reply.closes)


def parse_session(text: str) -> MessageId | None:
    """From `S-` and 12 characters; None for other words."""
    if text[: len(MARK)].upper() != MARK:
        return None
    try:
        return MessageId.parse(text[len(MARK) :])
    except ValueError:
        return None


class Refusals:
    """The records on their way to the spool, and how many of them it keeps."""

    def __init__(self, spool: Spool, clock: Clock, most: int = KEPT) -> None:
        self.most = most
        self._spool = spool
        self._clock = clock
        self._found: list[Refusal] = []
        self._lost = 0
        self._timer: Timer | None = None

    def add(self, refusal: Refusal) -> None:
        if not self.most:
            return
        if len(self._found) >= MOST_AT_ONCE:
            self._lost += 1
            return
        self._found.append(refusal)
        if self._timer is None:
            self._timer = self._clock.call_later(EVERY, self.flush)

    def flush(self) -> None:
        """Hand what has come together to the spool."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lost:
            log.warning("%d refusals were not recorded: more than %d in %g s", self._lost, MOST_AT_ONCE, EVERY)
            self._lost = 0
        if self._found:
            found, self._found = tuple(self._found), []
            self._spool.write(Unit(refusals=found, refusals_kept=self.most), _written, urgent=False)


def _written(error: SpoolError | None) -> None:
    if error is not None:
        log.error("refusals were not recorded: %s", error)


def described(
    client: Client,
    session: MessageId,
    reply: Reply,
    *,
    command: str,
    sender: str | None,
    recipients: list[str],
) -> list[Refusal]:
    """What is told of a refusal: for each of the recipients, where it is about some."""
    detail: dict[str, str | int | float | bool] = {
        "listener": client.listener,
        "peer": client.peer,
        "helo": _bounded(client.helo),
        "tls": client.secure,
        "user": "" if client.user is None else str(client.user.mailbox),
        "command": _bounded(command),
        "reply": str(reply),
        "rule": _RULES.get(reply, ""),
    }
    if len(recipients) > 1:
        detail["recipients"] = len(recipients)
    if (said := _decided(client, reply)) is not None:
        detail.update((name, value) for name, value in said.detail if name in ("hook", "reason"))
    facts, now = tuple(detail.items()), client.clock.now()
    told: list[str | None] = [_bounded(each) for each in recipients[:MOST_RECIPIENTS]]
    return [Refusal(session, now, sender, each, facts) for each in told or [None]]


def _decided(client: Client, reply: Reply) -> Said | None:
    """What the hook said that refused, if one did."""
    trail = client.trail
    if trail is None:
        return None
    told = str(reply)
    said = (*trail.session[-1:], *trail.transaction[-1:])
    return next((each for each in reversed(said) if dict(each.detail).get("reply") == told), None)


def _bounded(text: str) -> str:
    return text if len(text) <= MOST_OCTETS else f"{text[:MOST_OCTETS]}…"
