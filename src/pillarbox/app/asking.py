"""What `why` asks: a word becomes one message, one session, or a list of candidates, as plain data for `story.py`.

A word is an id of a message or of a session, a Message-ID, the address of a recipient, or what a next hop calls the
message; what it is shows in its form. Nothing is matched but whole words, so that an index answers. Invariant: text of
the operator reaches the spool as a parameter only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pillarbox.app.control import Refused
from pillarbox.app.story import codes_of
from pillarbox.app.texts import moment, span
from pillarbox.core.envelope import ID_LENGTH, MessageId
from pillarbox.engine.inspection import MessageRow, RecipientRow, SpoolReader
from pillarbox.engine.lanes import Load
from pillarbox.engine.mail import State
from pillarbox.engine.predicate import of_message, state_word
from pillarbox.engine.refusals import MARK, MOST_AT_ONCE, Refusal, parse_session

Data = dict[str, Any]
MAX_ROWS = 1_000_000  # recipients of one message that are told
MOST_CANDIDATES = 20
MOST_REFUSALS = 1000  # of one session that are told
LONGEST = 500  # characters of a word: a Message-ID has 998 at most, an address 320
FOREVER = 1e10


@dataclass(frozen=True, slots=True)
class Wanted:
    """`since` and `until` bound when it came, in seconds since the epoch."""

    word: str
    since: float = 0.0
    until: float = FOREVER


@dataclass(frozen=True, slots=True)
class Kept:
    """For how long, by the configuration: what is told of a word that leads nowhere."""

    history: float  # seconds
    refusals: int
    give_up: float  # seconds that a message is tried


class Asking:
    """`loads` tells of the lanes of a running server; None where none runs."""

    def __init__(
        self,
        reader: SpoolReader,
        *,
        now: Callable[[], float],
        loads: Callable[[], list[Load]] | None,
        kept: Kept,
    ) -> None:
        self._reader = reader
        self._now = now
        self._loads = loads
        self._kept = kept

    async def why(self, wanted: Wanted) -> Data:
        """Raises Refused, SpoolError."""
        word = wanted.word.strip()
        if not word or len(word) > LONGEST or not word.isprintable():
            raise Refused(f"why what? {_FORMS}", usage=True)
        if "*" in word or "?" in word:
            raise Refused(f"{word}: why takes no wildcards; pillarbox queue list 'recipient={word}' does", usage=True)
        found = await self._by_id(word)
        if found is not None:
            return found
        messages, refused, more = await self._search(word, wanted)
        if len(messages) == 1 and not refused:
            return await self.message(messages[0])
        sessions = list(dict.fromkeys(refusal.session for refusal in refused))
        if len(sessions) == 1 and not messages:
            return await self._session(sessions[0])
        if messages or refused:
            return await self._candidates(word, messages, refused, more=more)
        raise Refused(self._unknown(word, wanted))

    def _unknown(self, word: str, wanted: Wanted | None = None) -> str:
        kept, keep = self._kept, span(self._kept.history)
        refusals = f"the newest {kept.refusals} of" if kept.refusals else "none of"
        return (
            f"nothing is known of {word}{_window(wanted)}. Searched: messages, kept while they are under way and {keep}"
            f" after (history.keep); and {refusals} what was refused, kept for {keep} (history.refusals, at most"
            f" {MOST_AT_ONCE} a second). {_FORMS}"
        )

    # --- which one

    async def _by_id(self, word: str) -> Data | None:
        session = parse_session(word)
        if session is not None:
            return await self._session(session)
        if len(word) != ID_LENGTH:
            return None
        try:
            number = MessageId.parse(word)
        except ValueError:
            return None
        if await self._reader.message(number) is not None:
            return await self.message(number)
        return await self._session(number) if await self._reader.refusals(number, 1) else None

    async def _search(self, word: str, wanted: Wanted) -> tuple[list[MessageId], list[Refusal], bool]:
        """Messages and refusals, the newest first, and whether there are more."""
        since, until, limit = wanted.since, wanted.until, MOST_CANDIDATES + 1
        if "@" not in word:
            found = await self._reader.sought(f"={word}", since=since, until=until, limit=limit)
            return found[:MOST_CANDIDATES], [], len(found) > MOST_CANDIDATES
        bare = word.removeprefix("<").removesuffix(">")
        messages: set[MessageId] = set()
        for form in (bare, f"<{bare}>"):
            messages.update(await self._reader.sought(form, since=since, until=until, limit=limit))
        refused = await self._reader.refused(bare, since=since, until=until, limit=limit)
        more = max(len(messages), len(refused)) > MOST_CANDIDATES
        return sorted(messages, reverse=True)[:MOST_CANDIDATES], refused[:MOST_CANDIDATES], more

    async def _candidates(self, word: str, messages: list[MessageId], refused: list[Refusal], *, more: bool) -> Data:
        found: list[Data] = [await self._candidate(message) for message in messages]
        sessions: dict[MessageId, Data] = {each.session: _refused_candidate(each) for each in reversed(refused)}
        found += sessions.values()
        found.sort(key=lambda each: -each["at"])
        return {"kind": "candidates", "asked": word, "more": more, "candidates": found[:MOST_CANDIDATES]}

    async def _candidate(self, number: MessageId) -> Data:
        message = await self._reader.message(number)
        rows = await self._reader.recipients(of_message(number), MOST_CANDIDATES, self._now())
        states = list(dict.fromkeys(state_word(row.state, row.attempts) for row in rows))
        return {
            "id": str(number),
            "at": 0.0 if message is None else message.received_at,
            "state": states[0] if len(states) == 1 else "various",
            "sender": "" if message is None else _sender(message),
            "to": [row.address for row in rows],
            "subject": "" if message is None else message.subject,
        }

    # --- a message

    async def message(self, number: MessageId) -> Data:
        """What is known of it: itself, its recipients, its records in order, what its codes mean, and its lanes."""
        found = await self._reader.message(number)
        if found is None:
            raise Refused(self._unknown(str(number)))
        rows = await self._reader.recipients(of_message(number), MAX_ROWS, self._now())
        recipients = [recipient_data(row) for row in rows]
        records = [
            {"at": each.at, "kind": each.kind.value, "recipient": each.recipient, "detail": dict(each.detail)}
            for each in found.records
        ]
        texts = [str(value) for each in found.records for name, value in each.detail if name == "text"]
        texts += [row.reply for row in rows]
        lanes = {row.lane for row in rows if not row.state.settled}
        return {
            "kind": "message",
            "now": self._now(),
            "running": self._loads is not None,
            "gives_up_at": self._end(found, rows),
            "message": message_data(found),
            "recipients": recipients,
            "records": records,
            "codes": codes_of(reply for text in texts if (reply := _reply_in(text))[:1] in "45"),
            "lanes": {lane: load for lane, load in self._lanes().items() if lane in lanes},
        }

    def _end(self, message: MessageRow, rows: list[RecipientRow]) -> float | None:
        """When it is given up; None once it is settled."""
        if all(row.state.settled for row in rows):
            return None
        held = [float(value) for record in message.records for name, value in record.detail if _is_hold(record, name)]
        return max([message.received_at, *held]) + self._kept.give_up

    def _lanes(self) -> dict[str, Data]:
        """What a running server has to do, and what slows it down."""
        if self._loads is None:
            return {}
        return {load.lane: _load(load) for load in self._loads()}

    # --- a session

    async def _session(self, session: MessageId) -> Data:
        refusals = await self._reader.refusals(session, MOST_REFUSALS)
        if not refusals:
            raise Refused(self._unknown(f"{MARK}{session}"))
        told = [_refusal(each) for each in refusals]
        last = dict(refusals[-1].detail)
        facts = {name: last.get(name, "") for name in ("listener", "peer", "helo", "tls", "user")}
        return {
            "kind": "session",
            "now": self._now(),
            "session": {"id": f"{MARK}{session}", **facts},
            "refusals": told,
            "codes": codes_of(str(each["reply"]) for each in told),
        }


_FORMS = (
    "Ask by the id of a message (12 characters, as in `queued as ID`) or of a session (S-ID, as in the reply that"
    " refused it), by <Message-ID>, by the address of a recipient, or by the queue id that a next hop gave it."
)

# Why, where the rule alone does not say it. By the name of the reply.
_BECAUSE: Mapping[str, str] = {
    "no_such_user": "the domain is ours, and no user, alias or list has that name",
    "relay_denied": "the domain is not ours, and this client may not relay: it has not logged in and is not in"
    " relay.networks",
    "mailbox_disabled": "the user is disabled: pillarbox user enable",
    "mailbox_full": "the mailbox has reached its quota",
    "mailbox_nearly_full": "the mailbox has reached its soft quota",
    "mailbox_unreadable": "the size of the mailbox could not be found out: the log says why",
    "bad_forwarding": "the aliases of this address lead in a circle, or nowhere",
    "may_not_post": "the list takes mail from others only",
    "too_big": "it is larger than limits.message_size",
    "too_many_recipients": "limits.recipients is reached; the client should send the rest in another transaction",
    "too_many_transactions": "limits.transactions is reached in one session",
    "too_many_probes": "limits.probes addresses were asked for in one session",
    "connect_too_many": "there were limits.connections connections already",
    "connect_closing": "the server was shutting down",
    "no_space": "the disk is as full as limits.disk_reserve lets it become",
    "spool_fault": "the disk did not take it: the log says why",
    "sender_unknown": "the listener has check_sender_domain, and DNS knows no host that takes the sender's mail",
    "sender_null_mx": "the listener has check_sender_domain, and the sender's domain has a null MX",
    "sender_unchecked": "the listener has check_sender_domain, and DNS gave no answer",
    "auth_needed": "this command is for who has logged in",
    "not_your_address": "who has logged in may send as their own addresses only",
    "impersonation": "the client called itself by our name",
    "loop": "the message has too many Received fields",
    "forwarding_loop": "the message has been forwarded by this address before",
    "bare_octet_in_data": "the message has a bare CR, LF or NUL, as smuggled messages have",
}


def _reply_in(text: str) -> str:
    """What the next hop said, where we tell first which of its hosts said it: `mx [192.0.2.1]: 421 4.7.0 busy`."""
    return text.rpartition("]: ")[2]


def _refusal(refusal: Refusal) -> Data:
    detail = dict(refusal.detail)
    return {
        "at": refusal.at,
        "sender": refusal.sender,
        "recipient": refusal.recipient,
        "recipients": detail.get("recipients", 0),
        "command": detail.get("command", ""),
        "reply": detail.get("reply", ""),
        "rule": detail.get("rule", ""),
        "because": _BECAUSE.get(str(detail.get("rule", "")), ""),
        "hook": detail.get("hook", ""),
        "reason": detail.get("reason", ""),
    }


def _refused_candidate(refusal: Refusal) -> Data:
    return {
        "id": f"{MARK}{refusal.session}",
        "at": refusal.at,
        "state": "refused",
        "sender": refusal.sender or "",
        "to": [] if refusal.recipient is None else [refusal.recipient],
        "subject": "",
    }


def _window(wanted: Wanted | None) -> str:
    """Where it was looked for within a time."""
    if wanted is None or (wanted.since <= 0 and wanted.until >= FOREVER):
        return ""
    until = "" if wanted.until >= FOREVER else f" and before {moment(wanted.until)}"
    return f" since {moment(wanted.since)}{until}"


def _is_hold(record: Any, name: str) -> bool:
    return record.kind.value == "held" and name == "due"


def _load(load: Load) -> Data:
    """`slowed` is what slows the lane down, where something does."""
    slowed = {"cause": load.slowed, "until": load.until} if load.slowed else None
    return {"ready": load.ready, "in_flight": load.in_flight, "slowed": slowed}


def _sender(message: MessageRow) -> str:
    return "" if message.sender is None else str(message.sender)


def recipient_data(row: RecipientRow) -> Data:
    """As JSON has it."""
    return {
        "id": str(row.message),
        "number": row.number,
        "address": row.address,
        "original": row.original,
        "sender": "" if row.sender is None else str(row.sender),
        "state": state_word(row.state, row.attempts),
        "due": row.due if row.state is State.SCHEDULED else None,
        "settled_at": row.due if row.state.settled else None,
        "attempts": row.attempts,
        "lane": row.lane,
        "reply": row.reply,
        "size": row.size,
        "received_at": row.received_at,
    }


def message_data(row: MessageRow) -> Data:
    """As JSON has it."""
    return {
        "id": str(row.id),
        "received_at": row.received_at,
        "sender": _sender(row),
        "listener": row.listener,
        "peer": row.peer,
        "helo": row.helo,
        "protocol": row.protocol,
        "size": row.size,
        "subject": row.subject,
        "message_id": row.message_id,
        "eight_bit": row.eight_bit,
    }
