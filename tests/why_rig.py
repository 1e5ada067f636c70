"""Lives of messages and sessions on a virtual clock, told as `why` tells them.

The queue, the SMTP client, the spool's tables and the story are real; the remote, DNS and the mailbox are scripted.
What was committed is written to a spool file of its own at the end, which `why` is asked on.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pillarbox.adapters.spool_reader import SqliteSpoolReader
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.app.asking import Asking, Kept, Wanted
from pillarbox.app.story import story
from pillarbox.core.envelope import Envelope, MailOptions, Recipient
from pillarbox.core.message import HeaderView
from pillarbox.core.reply import Reply
from pillarbox.engine.hooks import Hook
from pillarbox.engine.ids import IdSource
from pillarbox.engine.lanes import Lane
from pillarbox.engine.mail import Delivered, Message, Octets, Unit
from pillarbox.engine.orders import Action, Order
from pillarbox.engine.ports import Mailer, Network, SpoolError
from pillarbox.engine.predicate import of_message
from pillarbox.engine.records import Kind, Record
from pillarbox.engine.refusals import Refusals
from pillarbox.engine.retry import DEFAULT
from pillarbox.engine.routing import MaildirHop, Mx, Route, SmartHost
from pillarbox.engine.session import Session
from pillarbox.net.pool import SmtpMailer, Ways
from pillarbox.net.timeouts import Deadlines
from pillarbox.sim.clock import VirtualClock
from pillarbox.sim.dns import ScriptedResolver
from pillarbox.smtp.events import Wait
from tests.making import HOSTNAME, MemorySpool, box, make_queue, make_service, turns
from tests.queue_rig import FakeMailer, Town
from tests.remote_rig import Oddity, Remote

WEEK = 7 * 86400.0
TEXT = b"Received: trace\r\nSubject: Lunch on Friday\r\n\r\nShall we?\r\n"
FAR = {"far.example": [(10, "mx1.far.example"), (20, "mx2.far.example")]}
HOSTS = {"mx1.far.example": ["192.0.2.25"], "mx2.far.example": ["192.0.2.26"]}


class Stage:
    """One server, and the world around it."""

    def __init__(
        self,
        *,
        answers: Mapping[str, str] | None = None,
        at_first: Mapping[str, str] | None = None,
        oddities: Mapping[str, Oddity] | None = None,
        resolver: ScriptedResolver | None = None,
        hooks: tuple[Hook[Any], ...] = (),
        **service: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.ids = IdSource(self.clock)
        self.spool = MemorySpool()
        self.remote = Remote(
            self.clock, keywords=("PIPELINING", "SIZE 1000"), answers=answers, at_first=at_first, oddities=oddities
        )
        network: Network = self.remote
        self.resolver = resolver or ScriptedResolver(mx=FAR, addresses=HOSTS)
        self._ways = Ways(
            network, self.resolver, self.clock, self.spool, HOSTNAME, lambda records: None, deadlines=Deadlines()
        )
        self.queue = make_queue(self.spool, self.clock, Town(), open_lane=self._open_lane, ids=self.ids)
        self.refusals = Refusals(self.spool, self.clock)
        self.service = make_service(
            clock=self.clock, ids=self.ids, directory=Town(), refusals=self.refusals, hooks=hooks, **service
        )

    def _open_lane(self, name: str, route: Route) -> Lane:
        if isinstance(route.next_hop, MaildirHop):
            here: Mailer = FakeMailer(lambda job, row: Delivered("1700000000.M1P1.mx.example.test", "maildir"))
            return Lane(here, 10)
        assert isinstance(route.next_hop, Mx | SmartHost)
        return Lane(SmtpMailer(route.next_hop, self._ways), 10)

    async def receive(self, *recipients: str, sender: str | None = "alice@example.test", **options: Any) -> Message:
        """A message as a listener has taken it."""
        now = self.clock.now()
        message = Message(
            id=self.ids.next(),
            received_at=now,
            envelope=Envelope(
                None if sender is None else box(sender),
                tuple(Recipient(box(each), box(each)) for each in recipients),
                options=MailOptions(**options),
            ),
            listener="mx",
            peer="192.0.2.9",
            helo="laptop.example",
            protocol="ESMTP",
            size=len(TEXT),
            header=HeaderView(1, "", "Lunch on Friday", "<lunch@example.test>", ""),
            octets=Octets.PLAIN,
            large=False,
            content=TEXT,
        )
        self.queue.accept(message, lambda error: None)
        await turns(40)
        return message

    async def pass_time(self, seconds: float, step: float = 10.0) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.clock.advance(min(step, end - self.clock.monotonic()))
            await turns(30)

    async def order(self, message: Message, action: Action, who: str = "ada") -> None:
        await self.queue.order(of_message(message.id), Order(action, who))
        await turns(40)

    def note(self, message: Message, kind: Kind, *detail: tuple[str, str | float]) -> None:
        """A record that another part of the server writes."""
        record = Record(message.id, self.clock.now(), kind, None, detail)
        self.spool.units.append(Unit(records=(record,)))

    # --- clients

    def talk(self, *commands: str, peer: str = "198.51.100.7") -> list[Reply]:
        """The replies to a client that says so, behind the greeting."""
        session, smtp = Session(self.service, peer), self.service.connection()
        replies: list[Reply] = []
        first = session.connect() or session.greet()
        assert isinstance(first, Reply)
        smtp.send(first)
        replies.append(first)
        for command in commands if first.code < 400 else ():
            smtp.receive_data(command.encode() + b"\r\n")
            while not isinstance(event := smtp.next_event(), Wait):
                answer = session.handle(event)
                if answer is not None:
                    assert isinstance(answer, Reply), answer
                    smtp.send(answer)
                    replies.append(answer)
        session.closed()
        return replies

    # --- asking

    async def why(self, root: Path, word: object, *, running: bool = True) -> list[str]:
        return story(await self.facts(root, word, running=running))

    async def facts(self, root: Path, word: object, *, running: bool = True) -> dict[str, Any]:
        self.refusals.flush()
        await turns(20)
        spool = SqliteSpool(root / "why.db", root / "why-bodies", asyncio.get_running_loop())
        try:
            for unit in self.spool.units:
                await written(spool, unit)
            asking = Asking(
                SqliteSpoolReader(spool),
                now=self.clock.now,
                loads=self.queue.loads if running else None,
                kept=Kept(WEEK, 100_000, DEFAULT.give_up),
            )
            return await asking.why(Wanted(str(word)))
        finally:
            await spool.close()

    async def close(self) -> None:
        closing = asyncio.create_task(self.queue.close(0))
        await turns(20)
        self.clock.advance(1)
        await closing


async def written(spool: SqliteSpool, unit: Unit) -> None:
    done: asyncio.Future[SpoolError | None] = asyncio.get_running_loop().create_future()
    spool.write(unit, done.set_result)
    assert await done is None


@contextmanager
def local_time(zone: str) -> Iterator[None]:
    """Times are told as they are there."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def session_in(reply: Reply) -> str:
    """The id that a refusal tells."""
    return reply.lines[-1].rpartition("(")[2].rstrip(")")
