"""Fetcher: asks another host for our mail, by TURN, ATRN or ETRN.

Connects, authenticates, sends the command. After the 250 to TURN or ATRN the roles change: a listener adopts the
connection, and mail comes in as by any other. RFC 821 §3.8, RFC 2645, RFC 1985.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from pillarbox.adapters.scram_keys import derived, make_nonce
from pillarbox.core.address import Domain
from pillarbox.engine.opening import Declined, Opened, Opening, Terms, Unfit
from pillarbox.engine.ports import Network
from pillarbox.engine.routing import TlsPolicy
from pillarbox.net.network import is_loopback
from pillarbox.net.timeouts import Deadlines
from pillarbox.net.tls import Secured, TlsLayer
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import ProtocolError, ReplyReceived, Wait
from pillarbox.smtp.sasl import Channel, Credentials, Derivation, SaslError
from pillarbox.smtp.states import ClientState, Verb

log = logging.getLogger(__name__)


class FetchError(Exception):
    """Nothing was fetched; the text says what the host said, or why it could not be asked."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is wanted: `verb` is TURN, ATRN or ETRN; ETRN is said once for each domain."""

    host: str  # a name or an IP address
    port: int
    verb: Verb
    domains: tuple[Domain, ...]
    credentials: Credentials | None


class _Talk(asyncio.Protocol):
    """One command after the other; `ask` waits for the reply."""

    def __init__(self) -> None:
        self.client = ClientConnection()
        self.transport: asyncio.Transport | None = None
        self._replies: asyncio.Queue[ReplyReceived | FetchError] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self.client.receive_data(data)
            while not isinstance(reply := self.client.next_event(), Wait):
                self._replies.put_nowait(reply)
        except ProtocolError as error:
            self._replies.put_nowait(FetchError(f"the host makes no sense: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._replies.put_nowait(FetchError(f"the connection was lost: {exc or 'closed by the host'}"))

    async def reply(self, seconds: float) -> ReplyReceived:
        try:
            async with asyncio.timeout(seconds):
                found = await self._replies.get()
        except TimeoutError as error:
            raise FetchError(f"no answer within {seconds:g} s") from error
        if isinstance(found, FetchError):
            raise found
        return found

    async def secure(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Put TLS between the transport and us. Raises FetchError."""
        assert self.transport is not None
        shaken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def settle(fault: str = "") -> None:
            if not shaken.done():
                shaken.set_result(fault)

        layer = TlsLayer(context, server_side=False, server_hostname=host)
        secured = Secured(self.transport, self, layer, ready=settle, failed=settle)
        self.transport = secured
        secured.begin()
        try:
            async with asyncio.timeout(seconds):
                fault = await shaken
        except TimeoutError as error:
            raise FetchError(f"no TLS handshake within {seconds:g} s") from error
        if fault:
            raise FetchError(fault)

    @property
    def channel(self) -> Channel | None:
        """The TLS under this connection, for a login to be bound to; None where there is none."""
        return self.transport.layer if isinstance(self.transport, Secured) else None

    @property
    def is_loopback(self) -> bool:
        return self.transport is not None and is_loopback(self.transport)

    async def ask(self, octets: bytes, seconds: float) -> ReplyReceived:
        assert self.transport is not None
        self.transport.write(octets)
        return await self.reply(seconds)


class Fetcher:
    """Who asks, and how long is waited for."""

    def __init__(
        self,
        network: Network,
        *,
        hostname: Domain,
        deadlines: Deadlines,
        tls: Callable[[TlsPolicy], ssl.SSLContext] | None = None,
    ) -> None:
        self._network = network
        self._tls = tls
        self._hostname = hostname
        self._deadlines = deadlines

    async def fetch(self, errand: Errand, addresses: Sequence[str], adopt: Callable[[asyncio.Transport], None]) -> str:
        """Ask the host at the first of the addresses that answers; gives its last reply. `adopt` gets the connection
        when the roles have changed. Raises FetchError."""
        talk = await self._connected(errand, addresses)
        try:
            await self._open(talk, errand)
            reply = await self._command(talk, errand)
        except BaseException as error:
            if talk.transport is not None:
                talk.transport.close()
            if isinstance(error, ProtocolError):
                raise FetchError(f"the host makes no sense: {error}") from error
            raise
        transport = talk.transport
        assert transport is not None
        if talk.client.state is ClientState.SWAPPED:
            adopt(transport)
        else:
            if talk.client.quiet:
                transport.write(talk.client.send(Verb.QUIT))
            transport.close()
        return reply

    async def _connected(self, errand: Errand, addresses: Sequence[str]) -> _Talk:
        fault = f"{errand.host} has no address"
        for address in addresses:
            talk = _Talk()
            try:
                await self._network.connect(
                    lambda talk=talk: talk,  # type: ignore[misc]
                    address,
                    errand.port,
                    seconds=self._deadlines.connect,
                )
            except OSError as error:
                fault = f"can't connect to {address} port {errand.port}: {error}"
            else:
                return talk
        raise FetchError(fault)

    async def _open(self, talk: _Talk, errand: Errand) -> None:
        """As `engine/opening.py` says. Raises FetchError."""
        policy = TlsPolicy.OFF if self._tls is None else TlsPolicy.OPPORTUNISTIC
        terms = Terms(str(self._hostname), policy, errand.credentials, talk.is_loopback)
        opening = Opening(talk.client, terms, nonce=make_nonce)
        step = opening.on_reply(await talk.reply(self._deadlines.of(talk.client.due)))
        while step is not Opened.DONE:
            if isinstance(step, bytes):
                step = opening.on_reply(await talk.ask(step, self._deadlines.of(talk.client.due)))
            elif isinstance(step, Derivation):
                step = opening.derived(await _derived(step))
            elif isinstance(step, Declined):
                raise _refusal(step.reply)
            elif isinstance(step, Unfit):
                raise FetchError(step.text)
            else:
                await self._secure(talk, errand)
                step = opening.secured(talk.channel)

    async def _secure(self, talk: _Talk, errand: Errand) -> None:
        """A password that leaves this machine goes only to whom a certificate vouches for."""
        assert self._tls is not None
        anybody = errand.credentials is None or talk.is_loopback
        context = self._tls(TlsPolicy.REQUIRED if anybody else TlsPolicy.VERIFIED)
        await talk.secure(context, errand.host, self._deadlines.handshake)

    async def _command(self, talk: _Talk, errand: Errand) -> str:
        seconds = self._deadlines.command
        if errand.verb is not Verb.ETRN:
            argument = ",".join(map(str, errand.domains)) if errand.verb is Verb.ATRN else ""
            reply = _need(await talk.ask(talk.client.send(errand.verb, argument), seconds))
            if not talk.client.quiet:
                raise FetchError("the host sent octets behind its reply")
            return reply
        replies = [
            _need(await talk.ask(talk.client.send(Verb.ETRN, str(domain)), seconds)) for domain in errand.domains
        ]
        return "\n".join(replies)


async def _derived(wanted: Derivation) -> bytes:
    try:
        return await asyncio.to_thread(derived, wanted)
    except SaslError as error:
        raise FetchError(str(error)) from error


def _need(reply: ReplyReceived) -> str:
    """The reply, where it is a positive one."""
    if reply.klass != 2:
        raise _refusal(reply)
    return str(reply)


def _refusal(reply: ReplyReceived) -> FetchError:
    return FetchError(f"the host says to {reply.verb.value}: {reply}")
