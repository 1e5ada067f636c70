"""Opening: what a client says before its first command of mail. Greeting, EHLO (or HELO), STARTTLS, EHLO, AUTH.

A step machine: a reply in, and the next octets out, or what else is to be done before it goes on. Both who sends mail
and who fetches it open a connection by this. Invariants: no password, nor what shows that one knows it, crosses a
network in clear; what was said before TLS counts no more (RFC 3207 §4.2); a 235 is believed only from a server that has
shown what the mechanism asks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from pillarbox.engine.routing import TlsPolicy
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import ReplyReceived
from pillarbox.smtp.mechanisms import choose
from pillarbox.smtp.sasl import Channel, ClientMechanism, Credentials, Derivation, SaslError
from pillarbox.smtp.states import ClientState, Verb


class Opened(Enum):
    """What is done without octets."""

    DONE = auto()  # commands of mail may be sent
    HANDSHAKE = auto()  # TLS begins; `secured` goes on


@dataclass(frozen=True, slots=True)
class Unfit:
    """The server is of no use; the text says why. `tls`: only that it has none that is wanted."""

    text: str
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Declined:
    """The server has said so itself."""

    reply: ReplyReceived
    because: str = ""  # what makes its refusal count

    @property
    def text(self) -> str:
        return f"{self.because}{self.reply}"


OpeningStep = bytes | Opened | Derivation | Unfit | Declined


@dataclass(frozen=True, slots=True)
class Terms:
    """On which a connection is opened."""

    hello_name: str
    policy: TlsPolicy = TlsPolicy.OFF
    credentials: Credentials | None = None
    loopback: bool = False  # no network is crossed
    hello: Verb = Verb.EHLO


class Opening:
    """Of one connection."""

    def __init__(self, client: ClientConnection, terms: Terms, *, nonce: Callable[[], str]) -> None:
        self._client = client
        self._terms = terms
        self._make_nonce = nonce
        self._is_secure = False
        self._channel: Channel | None = None
        self._mechanism: ClientMechanism | None = None

    def on_reply(self, reply: ReplyReceived) -> OpeningStep:
        """Greeting → EHLO → ready; HELO where EHLO is not known (RFC 5321 §3.2)."""
        verb, terms = reply.verb, self._terms
        if verb is Verb.CONNECT and reply.klass == 2:
            return self._client.send(terms.hello, terms.hello_name)
        if verb is Verb.EHLO and reply.klass == 5:
            return self._client.send(Verb.HELO, terms.hello_name)
        if verb is Verb.STARTTLS:
            return self._after_starttls(reply)
        if verb is Verb.AUTH:
            return self._after_auth(reply)
        if verb is Verb.CONNECT or reply.klass != 2:
            return Declined(reply)
        return self._after_hello()

    def secured(self, channel: Channel | None) -> OpeningStep:
        """The handshake is done, behind STARTTLS or before the greeting. `channel`: what TLS knows of the link."""
        self._is_secure = True
        self._channel = channel
        if self._client.state is ClientState.CONNECT:
            return b""  # the server speaks first
        return self._client.send(self._terms.hello, self._terms.hello_name)

    def _after_hello(self) -> OpeningStep:
        """TLS where it is wanted (RFC 3207), then AUTH where we have credentials."""
        policy = self._terms.policy
        if self._is_secure or policy is TlsPolicy.OFF:
            return self._log_in()
        if "STARTTLS" in self._client.capabilities:
            return self._client.send(Verb.STARTTLS)
        if policy is TlsPolicy.OPPORTUNISTIC:
            return self._log_in()
        return Unfit("TLS is required here, and the server does not offer it", tls=True)

    def _after_starttls(self, reply: ReplyReceived) -> OpeningStep:
        if reply.klass != 2:
            if self._client.state is ClientState.CLOSED:
                return Declined(reply)
            if self._terms.policy is TlsPolicy.OPPORTUNISTIC:
                return self._log_in()
            return Declined(reply, "TLS is required here: ")
        if not self._client.quiet:
            return Unfit("the server sent octets behind its reply to STARTTLS")
        return Opened.HANDSHAKE

    # --- AUTH (RFC 4954)

    def _log_in(self) -> OpeningStep:
        credentials, offers = self._terms.credentials, self._client.mechanisms
        if credentials is None:
            return Opened.DONE
        if not self._is_secure and not self._terms.loopback:
            return Unfit("the password would cross the network in clear: the server offers no TLS")
        mechanism = choose(offers, credentials, channel=self._channel, nonce=self._make_nonce())
        if mechanism is None:
            known = f"only {' '.join(offers)}" if offers else "no AUTH"
            return Unfit(f"the server offers {known}: none of SCRAM-SHA-256, PLAIN, LOGIN")
        self._mechanism = mechanism
        return self._client.auth(mechanism.name, mechanism.initial)

    def _after_auth(self, reply: ReplyReceived) -> OpeningStep:
        mechanism, challenge = self._mechanism, self._client.challenge
        assert mechanism is not None
        if reply.klass == 2:
            if mechanism.satisfied:
                return Opened.DONE
            return Unfit(f"the server says {reply} and has not shown that it knows the password: an impostor may be it")
        if challenge is None:
            return Declined(reply)
        try:
            response = mechanism.respond(challenge)
        except SaslError as error:
            return Unfit(f"AUTH {mechanism.name}: {error}")
        return response if isinstance(response, Derivation) else self._client.respond(response)

    def derived(self, salted: bytes) -> OpeningStep:
        """The octets that a Derivation asked for."""
        assert self._mechanism is not None
        return self._client.respond(self._mechanism.derived(salted))
