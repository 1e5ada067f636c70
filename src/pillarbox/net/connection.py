"""One connection of a listener: pumps octets between a transport, a ServerConnection and a Session.

No task, timer or coroutine for a command of mail. While a question is open (a commit, a password) the input waits, in
bounded memory; replies to pipelined commands leave in one write. Decides nothing about mail. A bug of ours is a 421 to
the peer, a traceback to the log; so is a reply that the reply table doesn't know, without the 421.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pillarbox.core import reply as r
from pillarbox.core.reply import Replies, Reply
from pillarbox.engine.questions import Accept, Drop, Question, Spill
from pillarbox.engine.service import TlsMode
from pillarbox.engine.session import Session
from pillarbox.net.network import address_of, has_unread, peer_of
from pillarbox.net.tls import Secured
from pillarbox.net.tls_exporting import server_layer
from pillarbox.smtp.events import Wait
from pillarbox.smtp.states import ServerState

if TYPE_CHECKING:
    from pillarbox.net.listener import Listener

log = logging.getLogger(__name__)

INPUT_HELD = 64 * 1024  # octets that may wait while a question is open, before we stop reading
OUTPUT_HELD = 64 * 1024  # octets of replies a client may leave unread, before we stop answering
REPLIES_AT_ONCE = 100  # to pipelined commands, in one write
_TURNING_POINTS = frozenset((ServerState.CLOSED, ServerState.SWAPPED, ServerState.TLS))
LINGER = 2.0  # seconds that a closed connection is read from, so that the last reply arrives


class Connection(asyncio.Protocol):
    """One client, from connect to close."""

    __slots__ = (
        "_admitted",
        "_asking",
        "_behind",
        "_born",
        "_deadline",
        "_eof",
        "_last_octet",
        "_listener",
        "_monotonic",
        "_output_full",
        "_reading",
        "_refusal",
        "_session",
        "_smtp",
        "_task",
        "_transport",
        "peer",
    )

    def __init__(self, listener: Listener, peer: str = "", behind: bytes = b"") -> None:
        """`peer`: the client's IP address, where it is another one than the transport's; `behind`: what has come from
        it already."""
        self._listener = listener
        self._reading = True
        self._output_full = False
        self._asking = False  # a question is open
        self._admitted = False  # it is known what becomes of the client: greeted, or refused
        self._behind = behind
        self._eof = False
        self._task: asyncio.Task[object] | None = None  # that finds the answer, where it takes one
        self._deadline = 0.0  # while lingering: when to give up
        self.peer = peer

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(OUTPUT_HELD)
        if not self.peer:
            self.peer = peer_of(self._transport)
        listener = self._listener
        self._monotonic = listener.clock.monotonic
        self._born = self._last_octet = self._monotonic()
        self._smtp = listener.service.connection()
        here = partial(address_of, transport, "sockname")
        self._session = Session(listener.service, self.peer, here, unread=self._unread)
        if isinstance(transport, Secured):  # it was adopted with its layer
            self._session.secured(transport.layer)
        refusal = listener.admit(self)
        self._admit(self._session.connect() if refusal is None else self._session.turned_away(refusal))

    def _admit(self, answer: Any) -> None:
        """The refusal, or none, or a question first; then the handshake, or the greeting."""
        if answer is not None and type(answer) is not Reply:
            self._ask(answer, [])
            return
        self._refusal = answer
        self._admitted = True
        if self._listener.service.tls is TlsMode.IMPLICIT:
            self._behind += self._smtp.input.take_all()  # what came meanwhile is for the layer
            self._secure()
            self._resume()
        else:
            self._greet()
        if self._behind:
            behind, self._behind = self._behind, b""
            (self._transport if isinstance(self._transport, Secured) else self).data_received(behind)

    def _greet(self) -> None:
        self._pump(self._refusal or self._session.greet())

    def _secure(self) -> None:
        """Put TLS between the transport and us; the handshake is the client's to begin."""
        layer = server_layer(self._listener.tls())
        self._transport = Secured(self._transport, self, layer, ready=self._secured, failed=self._insecure)

    def _secured(self) -> None:
        if self._deadline:
            return  # lingering
        layer = cast(Secured, self._transport).layer
        if layer.doubt:
            log.info("the certificate that %s shows does not hold: %s", self.peer, layer.doubt)
        self._session.secured(layer)
        if self._smtp.state is ServerState.CONNECT:
            self._greet()
        else:
            self._smtp.secured()

    @property
    def _under_tls(self) -> bool:
        return isinstance(self._transport, Secured)

    def _insecure(self, reason: str) -> None:
        log.info("TLS with %s failed: %s", self.peer, reason)

    def _unread(self) -> bool:
        """Whether the client has sent more than what is being answered. It is looked for in the kernel only before the
        greeting, when nothing may have come."""
        if not self._smtp.input.empty:
            return True
        if self._smtp.state is not ServerState.CONNECT:
            return False
        transport = self._transport
        return transport.unread if isinstance(transport, Secured) else bool(self._behind) or has_unread(transport)

    def data_received(self, data: bytes) -> None:
        if self._deadline:
            return  # lingering
        self._last_octet = self._monotonic()
        self._smtp.receive_data(data)
        if not self._asking and not self._output_full:
            self._pump()
        elif len(self._smtp.input) > INPUT_HELD:
            self._pause()

    def eof_received(self) -> bool:
        """The client sends no more; what it sent is still answered, then the transport closes."""
        self._eof = True
        return self._asking or self._output_full

    def pause_writing(self) -> None:
        self._output_full = True
        self._pause()

    def resume_writing(self) -> None:
        self._output_full = False
        if not self._asking and not self._deadline:
            self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.dismiss(self)
        if self._task is not None:
            self._task.cancel()
            self._asking = False
        drop = self._session.abandon()
        if not self._asking:
            if drop is not None:
                self._listener.spool.unspill(drop.message)
            self._session.closed()
        self._deadline = float("inf")

    # --- pumping

    def _pump(self, answer: Any = None) -> None:
        """Send the answer that is due, then handle what has come until it is used up or a question is open."""
        smtp, session = self._smtp, self._session
        out: list[bytes] = []
        try:
            while True:
                if type(answer) is Reply or type(answer) is Replies:
                    out.append(smtp.send(answer))
                    if len(out) == REPLIES_AT_ONCE:
                        self._transport.write(b"".join(out))
                        out.clear()
                elif answer is not None and not self._ask(answer, out):
                    break
                if self._output_full or smtp.input.empty:
                    break
                event: Any = smtp.next_event()
                if type(event) is Wait:
                    break
                answer = session.handle(event)
        except Exception:
            out.append(self._bug())
        if out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if smtp.state in _TURNING_POINTS or smtp.unlisted is not None:
            self._after_replies(answer)
        elif not self._asking and not self._output_full and (self._eof or not self._reading or self._listener.closing):
            self._pumped()

    def _after_replies(self, answer: Any) -> None:
        """What the last reply led to, where it is more than the next command."""
        smtp = self._smtp
        if smtp.unlisted is not None:
            log.error("defect: a reply that the reply table does not know: %s", smtp.unlisted)
            smtp.unlisted = None
        if smtp.state is ServerState.CLOSED:
            self._close(at_once=answer is r.BYE and smtp.input.empty and not self._under_tls)
        elif smtp.state is ServerState.SWAPPED:
            self._swap()
        elif smtp.state is ServerState.TLS:
            self._start_tls()

    def _start_tls(self) -> None:
        """RFC 3207 §4.2: nothing that came in clear may be taken for what TLS protects."""
        if not self._under_tls:
            if self._eof or not self._smtp.input.empty:
                self._transport.close()
                return
            self._secure()
        self._resume()  # the reply may have filled the output, and been read by now

    def _pumped(self) -> None:
        """All input is used up, and something is to be done about it."""
        if self._eof:
            self._transport.close()
            return
        if self._listener.closing:
            self.drain()
        if not self._deadline:
            self._resume()

    def _bug(self) -> bytes:
        log.exception("bug in a session with %s (user %s)", self.peer, self._session.user or "unknown")
        return self._smtp.close(r.OUR_FAULT)

    def _ask(self, question: Question, out: list[bytes]) -> bool:
        """Put a question to its port; true when it is answered at once."""
        listener = self._listener
        if type(question) is Drop:
            listener.spool.unspill(question.message)
            out.append(self._smtp.send(cast(Reply, self._session.answer(None))))
            return True
        self._asking = True
        if type(question) is Accept:
            listener.accept(question.message, self._answered)
        elif type(question) is Spill:
            listener.spool.spill(question.message, question.octets, self._answered)
        else:
            self._task = asyncio.get_running_loop().create_task(listener.answers.find(question))
            self._task.add_done_callback(self._found)
        return False

    def _found(self, task: asyncio.Task[object]) -> None:
        self._task = None
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            self._answered(task.result())
        else:
            log.error("bug while answering a question of a session with %s", self.peer, exc_info=error)
            self._asking = False
            if not self._deadline:
                self._end(self._smtp.close(r.OUR_FAULT))

    def _answered(self, found: object) -> None:
        self._asking = False
        if self._deadline:
            self._after_the_end(found)
            return
        self._last_octet = self._monotonic()
        try:
            answer = self._session.answer(found)
        except Exception:
            self._end(self._bug())
        else:
            self._pump(answer) if self._admitted else self._admit(answer)

    def _after_the_end(self, found: object) -> None:
        """The connection went while the question was open; what was spilled meanwhile must go too."""
        self._session.answer(found)
        drop = self._session.abandon()
        if drop is not None:
            self._listener.spool.unspill(drop.message)
        self._session.closed()

    def _swap(self) -> None:
        """The roles have changed: another protocol has the connection from now on. What the client sent behind its
        command belongs to neither, so the connection is of no use then."""
        listener = self._listener
        if self._eof or not self._smtp.input.empty:
            self._transport.abort()
            return
        self._resume()
        listener.forget(self)
        listener.hand_over(
            self._transport,
            self._session.swap,
            peer=self.peer,
            ended=self._swap_ended,
        )

    def _swap_ended(self) -> None:
        self._listener.census.leave()
        self._session.closed()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    # --- deadlines and the end

    def check(self, now: float) -> None:
        """Called by the sweep."""
        if self._deadline:
            if now >= self._deadline:
                self._transport.abort()
        elif not self._asking:
            bounds = self._listener.bounds
            if now - self._last_octet >= bounds.idle:
                self._overdue(r.IDLE)
            elif now - self._born >= bounds.session_time:
                self._overdue(r.TOO_LONG_A_SESSION)

    def _overdue(self, reply: Reply) -> None:
        if self._output_full:
            self._transport.abort()  # it does not read: a reply would not arrive
        else:
            self._end(self._smtp.close(reply))

    def drain(self) -> None:
        """We are closing: 421 unless a transaction is under way; one whose recipients were all refused goes nowhere."""
        idle = self._session.between_transactions or self._smtp.state is ServerState.REFUSED
        if idle and not self._asking and not self._deadline:
            self._end(self._smtp.close(r.CLOSING))

    def abort(self) -> None:
        if not self._deadline:
            self._deadline = float("inf")
            self._transport.write(self._smtp.close(r.CLOSING))
        self._transport.close()

    def _end(self, octets: bytes) -> None:
        self._transport.write(octets)
        self._close(at_once=False)

    def _close(self, *, at_once: bool) -> None:
        """Close behind the last reply. With input unread, close() would reset the connection and lose that reply; so
        would a farewell of TLS that comes behind it."""
        self._deadline = self._monotonic() + LINGER
        if at_once or self._eof:
            self._transport.close()
            return
        self._resume()
        try:
            self._transport.write_eof()
        except OSError:  # it has just gone
            self._transport.close()
