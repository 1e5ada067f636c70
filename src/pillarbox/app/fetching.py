"""`pillarbox turn`, `atrn` and `etrn` as the running server does them: fetch what another host holds for us.

The mail comes in through a listener of its own, which takes what any listener for mail takes. Text of arguments becomes
values here. Knows which command is asked how, nothing of what the peer answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

from pillarbox.app.admin import Data, Fetch
from pillarbox.app.control import Refused
from pillarbox.core.address import AddressError, Domain
from pillarbox.engine.mail import Message
from pillarbox.engine.ports import DnsFault, Fate, FateCallback
from pillarbox.net.fetcher import Errand, Fetcher, FetchError
from pillarbox.net.listener import Listener
from pillarbox.net.pool import Ways
from pillarbox.smtp.sasl import Credentials
from pillarbox.smtp.states import Verb

_PORTS = {Verb.TURN: 25, Verb.ETRN: 25, Verb.ATRN: 366}
_VERBS = {verb.value.lower(): verb for verb in _PORTS}


class Fetching:
    """What is being fetched now."""

    def __init__(self, listener: Callable[[str], Listener], ways: Callable[[], Ways]) -> None:
        """`listener` makes one, of that name; `ways` gives the ports as they are now."""
        self._make_listener = listener
        self._ways = ways
        self._listeners: set[Listener] = set()

    async def fetch(self, wanted: Fetch) -> Data:
        """Ask, and wait until the mail is here. Raises Refused."""
        errand = _errand(wanted)
        addresses = await self._addresses(errand)
        ways = self._ways()
        fetcher = Fetcher(ways.network, hostname=ways.hostname, deadlines=ways.deadlines, tls=ways.tls)
        listener = self._make_listener(wanted.verb)
        accepted = _Counting(listener.accept)
        listener.accept = accepted.accept
        self._listeners.add(listener)
        try:
            reply = await fetcher.fetch(errand, addresses, listener.adopt)
            if listener.connections:
                await listener.emptied()
        except FetchError as error:
            raise Refused(str(error)) from error
        finally:
            self._listeners.discard(listener)
            await listener.drain(0)
        return {"host": errand.host, "port": errand.port, "reply": reply, "messages": accepted.count}

    async def _addresses(self, errand: Errand) -> list[str]:
        """Where the host is. Raises Refused."""
        try:
            found = [ip_address(errand.host)]
        except ValueError:
            answer = await self._ways().resolver.addresses(errand.host)
            if isinstance(answer, DnsFault):
                raise Refused(f"{errand.host} can't be looked up now: {answer.reason}") from None
            found = list(answer) if isinstance(answer, tuple) else []
        if not found:
            raise Refused(f"{errand.host} has no address")
        return [str(address) for address in found]

    async def close(self, grace: float) -> None:
        await asyncio.gather(*(listener.drain(grace) for listener in self._listeners))


class _Counting:
    """Passes messages on, and counts those that are safe."""

    def __init__(self, accept: Callable[[Message, FateCallback], None]) -> None:
        self._accept = accept
        self.count = 0

    def accept(self, message: Message, done: FateCallback) -> None:
        def counted(fate: Fate) -> None:
            self.count += fate is None
            done(fate)

        self._accept(message, counted)


def _credentials(wanted: Fetch) -> Credentials | None:
    if wanted.user is None:
        return None
    if not wanted.password:
        raise Refused("--user needs a password: give it with --password-stdin", usage=True)
    return Credentials(wanted.user, wanted.password)


def _errand(wanted: Fetch) -> Errand:
    """Raises Refused."""
    verb, domains = _VERBS.get(wanted.verb), wanted.domains
    if verb is None:
        raise Refused(f"unknown verb {wanted.verb!r}; known: {', '.join(_VERBS)}", usage=True)
    if verb is Verb.TURN and domains:
        raise Refused("TURN can't name domains: it fetches all that the user owns; use atrn", usage=True)
    if verb is Verb.ETRN and not domains:
        raise Refused("ETRN needs the domains whose delivery is to be started", usage=True)
    name, port = _host_and_port(wanted.host, _PORTS[verb])
    try:
        named = tuple(Domain.parse(domain) for domain in domains)
        return Errand(name, port, verb, named, _credentials(wanted))
    except AddressError as error:
        raise Refused(f"{', '.join(domains)}: {error}", usage=True) from error


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    """From `host`, `host:port`, `[address]:port`. Raises Refused."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default)
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise Refused(f"{text}: port must be a number from 1 to 65535", usage=True)
    host = host.removeprefix("[").removesuffix("]")
    try:
        return str(ip_address(host)), int(port)
    except ValueError:
        pass
    try:
        return Domain.parse(host).ascii, int(port)
    except AddressError as error:
        raise Refused(f"{text}: no host: {error}", usage=True) from error
