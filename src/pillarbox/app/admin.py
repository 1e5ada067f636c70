"""Everything that can be asked of a Pillarbox by its operator, in one class: what the command line, and later the
console and HTTP, call.

Gives plain JSON-able data, raises Refused, prints nothing. It works the same on a running server and on the data at
rest: who built it handed in the ports. The queue is changed through QueueControl alone. Times are seconds since the
epoch. Text of arguments becomes values here, at the edge.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pillarbox.adapters.directory_sqlite import DirectoryStore, LiveDirectory
from pillarbox.app.admin_directory import Data as Data
from pillarbox.app.admin_directory import DirectoryAdmin, parsed_mailbox, refusals
from pillarbox.app.config import Config
from pillarbox.app.control import Conversation, Fault, Refused
from pillarbox.app.ordering import OrderError, Wanted, read_order
from pillarbox.app.submission import Author, UnfitOption, UnfitText, Wishes, compose, header_edit
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import NO_MAIL_OPTIONS, NO_RCPT_OPTIONS, MailOptions, MessageId, RcptOptions
from pillarbox.core.header_edit import Edit
from pillarbox.core.message import header_end
from pillarbox.engine.inspection import LaneRow, MessageRow, RecipientRow, SpoolReader
from pillarbox.engine.lanes import Load
from pillarbox.engine.mail import State
from pillarbox.engine.orders import Done, Order, scope
from pillarbox.engine.ports import Circular, Disabled, Moved, NoSuchUser, SpoolError
from pillarbox.engine.predicate import STATES, And, Predicate, of_message, state_word
from pillarbox.engine.predicate_parser import PredicateError, parse_predicate

NO_WISHES = Wishes()
MAX_ROWS = 1_000_000  # recipients of one message that are told


class QueueControl(Protocol):
    """What changes the queue, of a running server or of the spool at rest. All raise SpoolError."""

    async def submit(
        self,
        sender: Mailbox | None,
        recipients: list[Mailbox],
        octets: bytes,
        *,
        edit: Edit | None = None,
        mail: MailOptions = NO_MAIL_OPTIONS,
        rcpt: RcptOptions = NO_RCPT_OPTIONS,
    ) -> MessageId:
        """Accept a message; it is durable when this returns. Aliases are not expanded yet. Raises UnfitText, too."""

    async def order(self, wanted: Predicate, order: Order) -> Done:
        """Carry out an operator's order on the recipients that are meant."""

    def loads(self) -> list[Load]:
        """What the lanes of a running server have to do."""

    async def backup(self, target: Path) -> Data:
        """Write everything into a new file. Gives what it holds, for people to read. Raises OSError, too."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Mail to be fetched: `verb` is turn, atrn or etrn, `host` may have a port."""

    verb: str
    host: str
    domains: list[str]
    user: str | None
    password: str | None = field(repr=False)


class LiveControl(Protocol):
    """What only a running server can do. Raises Refused."""

    async def fetch(self, wanted: Fetch) -> Data:
        """Fetch what another host holds for us; done when it is here."""

    def watch(self, name: str) -> Conversation:
        """Be a terminal of that user."""

    def smtp(self) -> Conversation:
        """Be a client of SMTP on this machine."""


@contextmanager
def _refusals() -> Iterator[None]:
    """What can't be done becomes Refused; a bug stays what it is."""
    with refusals():
        try:
            yield
        except (PredicateError, OrderError) as error:
            raise Refused(str(error), usage=True) from error
        except UnfitText as error:
            raise Refused(str(error), fault=Fault.DATA) from error
        except UnfitOption as error:
            raise Refused(str(error), usage=True) from error
        except SpoolError as error:
            raise Refused(f"the spool failed: {error}", fault=Fault.LATER) from error


class Admin(DirectoryAdmin):
    """The operations; those on the directory are inherited. Every argument is text as the operator gave it."""

    def __init__(
        self,
        config: Config,
        *,
        store: DirectoryStore,
        directory: LiveDirectory,
        reader: SpoolReader,
        queue: QueueControl,
        live: LiveControl | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`live` is None where no server runs."""
        super().__init__(store=store, directory=directory)
        self._config = config
        self._reader = reader
        self._queue = queue
        self._live = live
        self._now = now

    # --- mail

    async def send(self, sender: str, recipients: list[str], text: bytes, wishes: Wishes = NO_WISHES) -> Data:
        """Submit a message. `sender` may be "" or <>, the null reverse-path."""
        with _refusals():
            reverse = None if sender in ("", "<>") else self._mailbox(sender, wishes)
            mail, rcpt = wishes.mail_options(), wishes.rcpt_options()
            forward = list(dict.fromkeys(self._reachable(self._mailbox(each, wishes)) for each in recipients))
            octets = compose(text)
            self._check_bounds(len(octets), len(forward))
            edit = header_edit(Author(reverse, self._config.hostname, self._now(), wishes.full_name))
            return {"id": str(await self._queue.submit(reverse, forward, octets, edit=edit, mail=mail, rcpt=rcpt))}

    async def reach(self, recipients: list[str]) -> Data:
        """Whether mail for these is taken: their addresses in full."""
        with _refusals():
            wishes = Wishes(completes=True)
            return {"recipients": [str(self._reachable(self._mailbox(each, wishes))) for each in recipients]}

    def _mailbox(self, text: str, wishes: Wishes) -> Mailbox:
        return parsed_mailbox(f"{text}@{self._origin()}" if wishes.completes and "@" not in text else text)

    def _origin(self) -> Domain:
        """The domain of who is named without one: this host where it takes mail, else the first that does."""
        hostname, domains = self._config.hostname, self._store.domains()
        return hostname if not domains or hostname in domains else domains[0]

    def _reachable(self, mailbox: Mailbox) -> Mailbox:
        match self._directory.resolve(mailbox):
            case NoSuchUser():
                raise Refused(f"{mailbox}: no such user here", fault=Fault.NO_USER)
            case Circular():
                raise Refused(f"{mailbox}: its aliases lead in a circle or nowhere")
            case Disabled():
                raise Refused(f"{mailbox}: disabled, takes no mail: pillarbox user enable {mailbox}")
            case Moved(to):
                raise Refused(f"{mailbox}: has moved to {to}", fault=Fault.NO_USER)
        return mailbox

    def _check_bounds(self, size: int, recipients: int) -> None:
        limits = self._config.limits
        if not recipients:
            raise Refused("a message needs a recipient", usage=True)
        if recipients > limits.recipients:
            raise Refused(f"{recipients} recipients; limits.recipients is {limits.recipients}")
        if size > limits.message_size:
            text = f"the message has {size} octets; limits.message_size is {limits.message_size}"
            raise Refused(text, fault=Fault.DATA)

    # --- the queue

    async def queue_list(self, where: str, limit: int) -> list[Data]:
        with _refusals():
            rows = await self._reader.recipients(parse_predicate(where), limit, self._now())
        return [_recipient(row) for row in rows]

    async def queue_count(self, where: str) -> Data:
        with _refusals():
            return {"count": await self._reader.count(parse_predicate(where), self._now())}

    async def queue_top(self, where: str, limit: int) -> Data:
        """The lanes, the fullest first. `queued` recipients wait on the disk; `ready` and `in_flight` are jobs in
        memory, whatever `where` says."""
        now = self._now()
        with _refusals():
            wanted = parse_predicate(where)
            rows, count = await self._reader.lanes(wanted, limit, now)
            numbers = [
                await self._reader.count(And((STATES[state], wanted)), now) for state in ("scheduled", "held", "active")
            ]
        totals = dict(zip(("queued", "held", "active"), numbers, strict=True))
        lanes = merged(rows, self._queue.loads())
        running = self._live is not None
        return {"at": now, "running": running, **totals, "count": max(count, len(lanes)), "lanes": lanes}

    async def queue_preview(self, wanted: Wanted) -> Data:
        """How many recipients an order is for; `active` ones are in memory, and it will stand for them."""
        with _refusals():
            meant = scope(read_order(wanted).action, parse_predicate(wanted.where))
            found = await self._reader.extent(meant, self._now())
        return {"recipients": found.recipients, "messages": found.messages, "active": found.active}

    async def queue_order(self, wanted: Wanted) -> Data:
        """Carry it out. `standing`: recipients in memory, changed when their turn comes or when they come back."""
        with _refusals():
            done = await self._queue.order(parse_predicate(wanted.where), read_order(wanted))
        return {"count": done.recipients, "messages": done.messages, "standing": done.standing}

    # --- one message

    async def why(self, message: str) -> Data:
        """What is known of a message: itself, its recipients, its records in order."""
        with _refusals():
            found, recipients = await self._message(message)
        records = [
            {"at": record.at, "kind": record.kind.value, "recipient": record.recipient, "detail": dict(record.detail)}
            for record in found.records
        ]
        return {"message": _message(found), "recipients": recipients, "records": records}

    async def show(self, message: str) -> Data:
        """Envelope and text. `header` and `body` are None once the message is settled: its text is gone by then."""
        with _refusals():
            found, recipients = await self._message(message)
            octets = await self._reader.body(found.id)
        return {"message": _message(found), "recipients": recipients, **_text(octets)}

    async def _message(self, text: str) -> tuple[MessageRow, list[Data]]:
        try:
            message = MessageId.parse(text)
        except ValueError as error:
            raise Refused(str(error)) from error
        if (found := await self._reader.message(message)) is None:
            raise Refused(f"no message {message} here; settled ones are kept for history.keep")
        rows = await self._reader.recipients(of_message(message), MAX_ROWS, self._now())
        return found, [_recipient(row) for row in rows]

    # --- what needs a running server

    async def fetch(self, wanted: Fetch) -> Data:
        """Fetch what another host holds for us, by TURN, ATRN or ETRN."""
        return await self._running().fetch(wanted)

    async def watch(self, name: str) -> Conversation:
        """Be a terminal of a user, named by address or login name."""
        return self._running().watch(name)

    async def smtp(self) -> Conversation:
        """Be a client of SMTP on this machine."""
        return self._running().smtp()

    def _running(self) -> LiveControl:
        if self._live is None:
            raise Refused("no server runs on this data: start one with `pillarbox serve`", fault=Fault.LATER)
        return self._live

    # --- the whole

    async def backup(self, file: str) -> Data:
        target = Path(file)
        if await asyncio.to_thread(target.exists):
            raise Refused(f"{file} is there already; a backup never replaces a file")
        try:
            with _refusals():
                return await self._queue.backup(target)
        except OSError as error:
            raise Refused(f"{file}: {error.strerror}") from error


# --- values to data


def _sender(sender: Mailbox | None) -> str:
    return "" if sender is None else str(sender)


def _recipient(row: RecipientRow) -> Data:
    return {
        "id": str(row.message),
        "number": row.number,
        "address": row.address,
        "original": row.original,
        "sender": _sender(row.sender),
        "state": state_word(row.state, row.attempts),
        "due": row.due if row.state is State.SCHEDULED else None,
        "settled_at": row.due if row.state.settled else None,
        "attempts": row.attempts,
        "lane": row.lane,
        "reply": row.reply,
        "size": row.size,
        "received_at": row.received_at,
    }


def merged(rows: list[LaneRow], loads: list[Load]) -> list[Data]:
    """What waits on the disk beside what is in memory, the fullest lane first."""
    lanes: dict[str, Data] = {}
    for row in rows:
        lanes[row.lane] = {
            "lane": row.lane,
            "queued": row.waiting,
            "ready": 0,
            "in_flight": 0,
            "oldest": row.oldest,
            "reply": row.reply,
            "slowed": "",
            "until": None,
        }
    for lane, ready, in_flight, last, slowed, until in loads:
        empty = {"lane": lane, "queued": 0, "oldest": None, "reply": ""}
        known = lanes.get(lane, empty)
        now = {"ready": ready, "in_flight": in_flight, "reply": last or known["reply"]}
        lanes[lane] = {**known, **now, "slowed": slowed, "until": until}
    return sorted(lanes.values(), key=lambda lane: -(lane["queued"] + lane["ready"] + lane["in_flight"]))


def _message(row: MessageRow) -> Data:
    return {
        "id": str(row.id),
        "received_at": row.received_at,
        "sender": _sender(row.sender),
        "listener": row.listener,
        "peer": row.peer,
        "helo": row.helo,
        "protocol": row.protocol,
        "size": row.size,
        "subject": row.subject,
        "message_id": row.message_id,
        "eight_bit": row.eight_bit,
    }


def _text(octets: bytes | None) -> Data:
    """Header section and body; `encoding` says how they stand in JSON, which has no octets: utf-8 or base64."""
    if octets is None:
        return {"header": None, "body": None, "encoding": None}
    end = header_end(octets)
    parts = {"header": octets[:end], "body": b"" if end is None else octets[end + 2 :]}
    try:
        return {**{name: part.decode() for name, part in parts.items()}, "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {**{name: base64.b64encode(part).decode() for name, part in parts.items()}, "encoding": "base64"}
