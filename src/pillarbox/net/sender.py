"""The client's driver: one outbound connection, between a transport, a ClientConnection and a Transaction.

Opens it as `engine/opening.py` says, then carries one job after the other. Deadlines are kept as a moment
that the pool's sweep looks at. What replies mean for mail is decided in `engine/transaction.py`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from pillarbox.adapters.scram_keys import derived, make_nonce
from pillarbox.core.mime import Target, Unconvertible
from pillarbox.engine.conversion import Body as Text
from pillarbox.engine.conversion import converted, survey
from pillarbox.engine.egress import Source
from pillarbox.engine.mail import Delivered, Job, Report
from pillarbox.engine.opening import Declined, Opened, Opening, OpeningStep, Terms, Unfit
from pillarbox.engine.pacing import NO_TERMS
from pillarbox.engine.passing_on import limit
from pillarbox.engine.ports import Clock, ConnectionTerms, SpoolError
from pillarbox.engine.routing import TlsPolicy
from pillarbox.engine.transaction import ENDS, Body, Convert, LmtpTransaction, Step, Transaction
from pillarbox.engine.transcripts import transcript
from pillarbox.net.network import is_loopback
from pillarbox.net.timeouts import Deadlines
from pillarbox.net.tls import Secured, TlsLayer
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import ProtocolError, ReplyReceived, Unsendable
from pillarbox.smtp.framing import UnsafeOctets
from pillarbox.smtp.sasl import Channel, Credentials, Derivation, SaslError
from pillarbox.smtp.states import ClientState, Verb

log = logging.getLogger(__name__)


class Unusable(Exception):
    """The server can't be used now; the text says what it answered. `tls`: only TLS was at fault."""

    def __init__(self, text: str, *, tls: bool = False) -> None:
        super().__init__(text)
        self.tls = tls


@dataclass(frozen=True, slots=True)
class Protection:
    """What a connection to a next hop must have, and how one logs in there."""

    policy: TlsPolicy = TlsPolicy.OFF
    implicit: bool = False  # the handshake comes before the greeting
    context: ssl.SSLContext | None = None  # None only where TLS is off
    credentials: Credentials | None = None


PLAIN = Protection()


Done = Callable[["Outgoing", Job, Report | None], None]  # None: a kept connection had gone, nothing was tried


class Outgoing(asyncio.Protocol):
    """One connection. `opened` ends when jobs may be run, with Unusable when they may not."""

    def __init__(
        self,
        hello_name: str,
        next_hop: str,
        *,
        deadlines: Deadlines,
        clock: Clock,
        protection: Protection = PLAIN,
        host: str = "",
        lmtp: bool = False,
        terms: ConnectionTerms = NO_TERMS,
    ) -> None:
        """`host` is the name by which the server is known, for SNI and its certificate; `lmtp`: it speaks LMTP."""
        self._terms = terms
        self.next_hop = next_hop
        self.source: Source | None = None  # of an egress pool, from where it was made
        self._protection = protection
        self._host = host
        self._secured: Secured | None = None
        self._tls_fault: str | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.deadline = clock.monotonic() + deadlines.greeting
        self.fault = ""  # why it is of no more use
        self.jobs = 0  # that were carried
        self._mails = 0  # transactions at the server
        self._most_mails: int | None = None  # that it takes on one connection (RFC 9422)
        self._hello_name = hello_name
        self._hello = Verb.LHLO if lmtp else Verb.EHLO
        self._transaction_type = LmtpTransaction if lmtp else Transaction
        self._deadlines = deadlines
        self._clock = clock
        self._client = ClientConnection()
        self._opening: Opening | None = None
        self._transport: asyncio.Transport | None = None
        self._transaction: Transaction | None = None
        self._done: Done | None = None
        self._body: Text | None = None
        self._stream: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._greeted: list[ReplyReceived] = []  # to what opened the connection
        self._heard: list[ReplyReceived] = []  # to the commands of this job

    # --- for the pool

    @property
    def usable(self) -> bool:
        """Another job may be run."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._transaction is None
            and (self._most_mails is None or self._mails < self._most_mails)
            and ((most := self._terms.messages_per_connection) is None or self.jobs < most)
            and self._client.state in (ClientState.READY, ClientState.ENVELOPE)
            and self._client.quiet
        )

    @property
    def channel(self) -> Channel | None:
        """The TLS under this connection, for a login to be bound to; None where there is none."""
        return None if self._secured is None or not self._secured.layer.ready else self._secured.layer

    @property
    def _tls_version(self) -> str:
        return "" if self._secured is None else self._secured.layer.version

    def run(self, job: Job, body: Text, done: Done) -> None:
        """Carry one job; `done` is called once, after this has returned."""
        transaction = self._transaction = self._transaction_type(
            job,
            self._client,
            self.next_hop,
            now=self._clock.now,
            authenticated=self._protection.credentials is not None,
            most_mails=None if self._most_mails is None else self._most_mails - self._mails,
            most_recipients=self._terms.recipients_per_transaction,
            tls=self._tls_version,
        )
        self._heard = []
        self._done = done
        self._body = body
        self._started(transaction, transaction.begin)

    def _started(self, transaction: Transaction, begin: Callable[[], Step]) -> None:
        step = self._begun(transaction, begin)
        if isinstance(step, Report):
            asyncio.get_running_loop().call_soon(self._finish, step)
        else:
            self._take(step)

    def _begun(self, transaction: Transaction, begin: Callable[[], Step]) -> Step:
        try:
            return begin()
        except Unsendable as error:
            return transaction.unsendable(str(error))
        except ProtocolError as error:
            return transaction.lost(str(error))
        except Exception:
            log.exception("bug in a delivery to %s", self.next_hop)
            return transaction.lost("internal error")

    def quit(self) -> None:
        """Say goodbye without waiting for the answer. One that is not opened yet is nobody's any more."""
        self.opened.cancel()
        if self._transport is not None and not self._transport.is_closing():
            if self._client.state in (ClientState.READY, ClientState.ENVELOPE) and self._client.quiet:
                self._transport.write(self._client.send(Verb.QUIT))
            self._transport.close()

    def cut(self) -> None:
        """End the connection whatever it is doing."""
        self._break("cut by us")

    def check(self, now: float) -> None:
        """Called by the sweep: a deadline that has passed ends the connection."""
        if now >= self.deadline and self._transport is not None:
            if self._secured is not None and not self._secured.layer.ready:
                self._insecure("TLS: no answer in time")
            else:
                self._break("no answer in time")

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._await_reply()
        protection = self._protection
        loopback = is_loopback(self._transport)
        terms = Terms(self._hello_name, protection.policy, protection.credentials, loopback, self._hello)
        self._opening = Opening(self._client, terms, nonce=make_nonce)
        if protection.implicit:
            self._secure()

    def _secure(self) -> None:
        """Put TLS between the transport and us."""
        assert self._transport is not None and self._protection.context is not None
        layer = TlsLayer(self._protection.context, server_side=False, server_hostname=self._host or None)
        self._transport = self._secured = Secured(
            self._transport, self, layer, ready=self._ready, failed=self._insecure
        )
        self._secured.begin()
        self._await_until(self._deadlines.handshake)

    def _ready(self) -> None:
        """The handshake is done."""
        assert self._opening is not None
        self._open(self._opening.secured(self.channel))

    def _insecure(self, reason: str) -> None:
        self._tls_fault = reason
        self._break(reason)

    def data_received(self, data: bytes) -> None:
        try:
            self._client.receive_data(data)
            while type(reply := self._client.next_event()) is ReplyReceived:
                self._on_reply(reply)
        except ProtocolError as error:
            self._break(f"{error}")
        except Exception:
            log.exception("bug in a delivery to %s", self.next_hop)
            self._break("internal error")

    def eof_received(self) -> None:
        """The transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(f"connection lost: {exc}" if exc else "connection closed by the server")

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()
        if self._client.is_sent:
            self._await_reply()

    # --- replies

    def _on_reply(self, reply: ReplyReceived) -> None:
        transaction = self._transaction
        if transaction is not None:
            self._heard.append(reply)
            if reply.code == 421 and self.jobs and not transaction.replied:
                self._break(f"{reply}")  # said to a connection that we kept too long, not to this job
            elif reply.klass == 2 and reply.verb in ENDS and self._unwritten:
                self._break(f"{reply}: said before the whole message was sent")
            else:
                self._take(transaction.on_reply(reply))
        elif reply.verb in _OPENING and self._opening is not None:
            self._greeted.append(reply)
            self._open(self._opening.on_reply(reply))

    def _open(self, step: OpeningStep) -> None:
        """What the opening wants next."""
        if isinstance(step, bytes):
            self._write(step)
        elif step is Opened.DONE:
            self._opened()
        elif step is Opened.HANDSHAKE:
            self._secure()
        elif isinstance(step, Derivation):
            deriving = asyncio.get_running_loop().run_in_executor(None, derived, step)
            deriving.add_done_callback(self._derived)
        elif isinstance(step, Unfit | Declined):
            self._tls_fault = step.text if isinstance(step, Unfit) and step.tls else None
            self._break(step.text)

    def _derived(self, deriving: asyncio.Future[bytes]) -> None:
        if self.opened.done() or self._opening is None:
            return  # given up meanwhile
        try:
            step = self._opening.derived(deriving.result())
        except SaslError as error:
            step = Unfit(str(error))
        self._open(step)

    def _opened(self) -> None:
        self.deadline = float("inf")
        self._most_mails = limit(self._client.capabilities, "MAILMAX")
        if not self.opened.done():
            self.opened.set_result(None)

    def _take(self, step: Step) -> None:
        """What the transaction wants next."""
        if type(step) is bytes:
            if step:
                self._write(step)
            else:
                self._await_reply()
        elif type(step) is Body:
            self._send_body(step)
        elif type(step) is Report:
            self._finish(step)
        elif type(step) is Convert:
            self._stream = asyncio.get_running_loop().create_task(self._survey(step.target))

    async def _survey(self, target: Target) -> None:
        """Read the text through, to know how it can be made fit for the server."""
        transaction, body = self._transaction, self._body
        assert transaction is not None and body is not None
        try:
            plan = await survey(body, transaction.job.message, target)
        except Unconvertible as error:
            self._finish(transaction.unsendable(f"next hop can't take the message, nor can it be converted: {error}"))
        except SpoolError as error:
            self._break(f"{error}")
        except Exception:
            log.exception("bug in a delivery to %s", self.next_hop)
            self._break("internal error")
        else:
            self._started(transaction, partial(transaction.converted, plan))

    def _send_body(self, step: Body) -> None:
        transaction = self._transaction
        assert transaction is not None
        content = transaction.job.message.content
        try:
            if step is Body.NONE:
                self._write(self._client.end_body(transaction.replies_due))
                return
            announced = b""
            if step is Body.CHUNK:
                announced = self._client.begin_chunk(transaction.size, transaction.replies_due)
            if content is not None and transaction.plan is None:
                octets = self._client.send_body(transaction.prefix + content)
                octets += self._client.end_body(transaction.replies_due)
                self._write(announced + octets)
            else:
                self._write_block(announced)
                self._stream = asyncio.get_running_loop().create_task(self._stream_body(transaction))
        except UnsafeOctets as error:
            self._unsendable(transaction, str(error))

    async def _stream_body(self, transaction: Transaction) -> None:
        """A body in pieces, from the disk or through a conversion, as fast as the server takes them."""
        assert self._body is not None
        message, plan = transaction.job.message, transaction.plan
        try:
            self._write_block(self._client.send_body(transaction.prefix))
            async for chunk in self._body(message) if plan is None else converted(self._body, message, plan):
                self._write_block(self._client.send_body(chunk))
                await self._may_write.wait()
            self._write(self._client.end_body(transaction.replies_due))
        except UnsafeOctets as error:
            self._unsendable(transaction, str(error))
        except (SpoolError, ProtocolError) as error:
            self._break(f"{error}")
        except Exception:
            log.exception("bug in a delivery to %s", self.next_hop)
            self._break("internal error")

    def _unsendable(self, transaction: Transaction, text: str) -> None:
        self._finish(transaction.unsendable(text))
        self._break(text)

    # --- the end of a job, and of the connection

    def _finish(self, report: Report | None) -> None:
        transaction, done = self._transaction, self._done
        if transaction is None or done is None:
            return
        if self._client.awaiting:  # replies to what was pipelined are still to come: of no more use
            self._close()
        self._transaction = self._done = self._body = None
        self.deadline = float("inf")
        self.jobs += 1
        self._mails += transaction.mails
        if report is not None and not _DELIVERED.issuperset(map(type, report.outcomes)):
            heard = [*self._greeted, *self._heard]
            told = transcript(transaction.job, self._hello_name, heard, rcpts=transaction.named, fault=self.fault)
            report = report._replace(transcript=told)
        done(self, transaction.job, report)

    def _break(self, text: str) -> None:
        """The connection is of no more use."""
        self.fault = self.fault or text
        is_sent = self._client.is_sent and not self._unwritten
        self._close()
        if not self.opened.done():
            self.opened.set_exception(Unusable(text, tls=self._tls_fault is not None))
        if self._stream is not None and self._stream is not asyncio.current_task():
            self._stream.cancel()
        transaction = self._transaction
        if transaction is not None:
            stale = self.jobs > 0 and not transaction.replied
            self._finish(None if stale else transaction.lost(text, is_sent=is_sent))

    def _close(self) -> None:
        self.deadline = float("inf")
        if self._transport is not None:
            self._transport.abort() if self._transport.get_write_buffer_size() else self._transport.close()

    @property
    def _unwritten(self) -> bool:
        """Something was not given to the network so far, or never was."""
        return not self._may_write.is_set() or (
            self._transport is not None and self._transport.get_write_buffer_size() > 0
        )

    def _write(self, octets: bytes) -> None:
        """What a reply is awaited to."""
        assert self._transport is not None
        self._transport.write(octets)
        if self._may_write.is_set():
            self._await_reply()
        else:
            self._await_until(self._deadlines.block)

    def _write_block(self, octets: bytes) -> None:
        """A piece of the message, behind which more will come."""
        assert self._transport is not None
        self._transport.write(octets)
        self._await_until(self._deadlines.block)

    def _await_reply(self) -> None:
        self._await_until(self._deadlines.of(self._client.due))

    def _await_until(self, seconds: float) -> None:
        self.deadline = self._clock.monotonic() + seconds


_DELIVERED = frozenset((Delivered,))
_OPENING = (Verb.CONNECT, Verb.EHLO, Verb.LHLO, Verb.HELO, Verb.STARTTLS, Verb.AUTH)
