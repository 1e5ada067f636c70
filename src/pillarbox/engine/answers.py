"""Answers: which port knows what a session asks, for the questions that take their time.

One coroutine for each type of question; the type of its answer stands in `questions.py`. A fault of a port becomes the
answer that says so, with a line in the log; whoever asked decides what it means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pillarbox.core.address import Domain, Mailbox
from pillarbox.engine import hooks
from pillarbox.engine.ports import (
    Accounts,
    AccountsFault,
    Clock,
    DnsFault,
    Mailboxes,
    MailboxFault,
    MxAnswer,
    NoDomain,
    NoRecords,
    Presence,
    Resolver,
    ScramAccount,
    Spool,
    SpoolError,
    Tokens,
    User,
)
from pillarbox.engine.questions import (
    AskKeys,
    AskNullMx,
    AskSenderDomain,
    AskStatus,
    AskToken,
    AskUsage,
    AskWaiting,
    Consult,
    Login,
    Question,
    Release,
    SenderDomain,
    Show,
    Status,
)
from pillarbox.engine.queue import Queue

log = logging.getLogger(__name__)


class Answers:
    """`connections` tells how many there are now."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        mailboxes: Mailboxes,
        presence: Presence,
        resolver: Resolver,
        spool: Spool,
        queue: Queue,
        clock: Clock,
        connections: Callable[[], int],
    ) -> None:
        self._accounts = accounts
        self.tokens: Tokens | None = None  # who knows those of OAuth, where any are taken
        self._mailboxes = mailboxes
        self._presence = presence
        self.resolver = resolver
        self._spool = spool
        self._queue = queue
        self._clock = clock
        self._connections = connections
        self._started = clock.monotonic()

    async def find(self, question: Question) -> object:
        """The answer."""
        return await _WAYS[type(question)](self, question)

    async def _login(self, question: Login) -> User | AccountsFault | None:
        try:
            return await self._accounts.check(question.credentials.name, question.credentials.password)
        except AccountsFault as fault:
            log.error("login: %s", fault)
            return fault

    async def _keys(self, question: AskKeys) -> ScramAccount:
        return self._accounts.scram(question.name)

    async def _token(self, question: AskToken) -> str | AccountsFault | None:
        if self.tokens is None:
            return None  # a reload took them away
        try:
            return await self.tokens.subject(question.bearer.token)
        except AccountsFault as fault:
            log.error("login by a token: %s", fault)
            return fault

    async def _sender_domain(self, question: AskSenderDomain) -> SenderDomain:
        """RFC 5321 §3.6.2, §5.1: a name that mail could be answered to."""
        found = await self.resolver.mx(question.domain)
        if isinstance(found, NoRecords) or found == ():
            return await self._host(question.domain)
        return _judged(found)

    async def _host(self, domain: Domain) -> SenderDomain:
        match await self.resolver.addresses(domain.ascii):
            case DnsFault():
                return SenderDomain.UNKNOWN
            case NoRecords() | NoDomain() | ():
                return SenderDomain.NONE
            case _:
                return SenderDomain.GOOD

    async def _null_mx(self, question: AskNullMx) -> bool:
        found = await self.resolver.mx(question.domain)
        return isinstance(found, tuple) and found != () and _judged(found) is SenderDomain.NULL_MX

    async def _usage(self, question: AskUsage) -> int | None:
        try:
            return await self._mailboxes.usage(question.user)
        except MailboxFault as fault:
            log.error("mailbox of %s: %s", question.user, fault)
            return None

    async def _show(self, question: Show) -> frozenset[Mailbox]:
        counts = await asyncio.gather(*(self._presence.show(user, question.text) for user in question.users))
        return frozenset(user for user, count in zip(question.users, counts, strict=True) if count)

    async def _waiting(self, question: AskWaiting) -> int | SpoolError:
        try:
            return await self._queue.waiting(question.domains)
        except SpoolError as error:
            return error

    async def _release(self, question: Release) -> int | SpoolError | None:
        try:
            return await self._queue.release(question.domains)
        except SpoolError as error:
            return error

    async def _status(self, question: AskStatus) -> Status | SpoolError:
        try:
            queued, oldest = await self._spool.depth()
        except SpoolError as error:
            return error
        clock = self._clock
        age = None if oldest is None else clock.now() - oldest
        return Status(clock.monotonic() - self._started, self._connections(), queued, age)

    async def _consult(self, question: Consult) -> object:
        return await hooks.outcome(question, self._clock)


def _judged(found: MxAnswer) -> SenderDomain:
    match found:
        case DnsFault():
            return SenderDomain.UNKNOWN
        case NoDomain() | NoRecords():
            return SenderDomain.NONE
        case records:
            return SenderDomain.GOOD if any(record.host for record in records) else SenderDomain.NULL_MX


_WAYS: Mapping[type, Callable[[Answers, Any], Awaitable[object]]] = {
    Login: Answers._login,
    AskKeys: Answers._keys,
    AskToken: Answers._token,
    AskSenderDomain: Answers._sender_domain,
    AskNullMx: Answers._null_mx,
    AskUsage: Answers._usage,
    Show: Answers._show,
    AskWaiting: Answers._waiting,
    Release: Answers._release,
    AskStatus: Answers._status,
    Consult: Answers._consult,
}
