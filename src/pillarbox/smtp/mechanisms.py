"""The tables of SASL mechanisms: by name, the machine of each, the server's side and the client's.

Which of them a server offers depends on the connection and on what it was told; which of them a client takes, on what
is offered. Knows no octet of any.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from pillarbox.smtp.bearer import BearerServer
from pillarbox.smtp.sasl import (
    Channel,
    ClientMechanism,
    Credentials,
    Derivation,
    ExternalServer,
    LoginServer,
    PlainServer,
    SaslError,
    ServerMechanism,
    plain,
)
from pillarbox.smtp.scram import BINDINGS, ScramClient, ScramServer

# --- the server


@dataclass(frozen=True, slots=True)
class Setting:
    """What a machine is made for. `discovery` is for those whose token is refused."""

    channel: Channel | None = None
    binds: bool = False  # -PLUS is offered
    discovery: str = ""


# The strongest first, for clients that take the first one that they know.
SERVER: Mapping[str, Callable[[Setting], ServerMechanism]] = {
    "SCRAM-SHA-256-PLUS": lambda setting: ScramServer(setting.channel, plus=True, may_bind=True),
    "SCRAM-SHA-256": lambda setting: ScramServer(setting.channel, plus=False, may_bind=setting.binds),
    "PLAIN": lambda setting: PlainServer(),
    "LOGIN": lambda setting: LoginServer(),
    "OAUTHBEARER": lambda setting: BearerServer(modern=True, discovery=setting.discovery),
    "XOAUTH2": lambda setting: BearerServer(modern=False, discovery=setting.discovery),
    "EXTERNAL": lambda setting: ExternalServer(),
}


class Means(NamedTuple):
    """What there is to log in by, beside passwords."""

    scram: bool  # who has a password has SCRAM keys, too
    binds: bool  # the channel can be bound
    tokens: bool  # are taken
    external: bool  # a certificate names a user

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Those that are offered."""
        needs = {
            "SCRAM-SHA-256-PLUS": self.scram and self.binds,
            "SCRAM-SHA-256": self.scram,
            "OAUTHBEARER": self.tokens,
            "XOAUTH2": self.tokens,
            "EXTERNAL": self.external,
        }
        return tuple(name for name in SERVER if needs.get(name, True))


ALL_MEANS = tuple(Means(*each) for each in product((False, True), repeat=4))


# --- the client


class PlainClient:
    __slots__ = ("initial", "name")
    satisfied = True

    def __init__(self, credentials: Credentials) -> None:
        self.name = "PLAIN"
        self.initial: bytes | None = plain(credentials)

    def respond(self, challenge: bytes) -> bytes | Derivation:
        raise SaslError("the server asks for more than PLAIN has")

    def derived(self, salted: bytes) -> bytes:
        raise AssertionError("PLAIN derives nothing")


class LoginClient:
    """The name to whatever is asked first, the password to whatever comes then: the words differ between servers."""

    __slots__ = ("_answers", "initial", "name")

    def __init__(self, credentials: Credentials) -> None:
        self.name = "LOGIN"
        self.initial: bytes | None = None
        self._answers = [credentials.password.encode(), credentials.name.encode()]

    @property
    def satisfied(self) -> bool:
        return not self._answers

    def respond(self, challenge: bytes) -> bytes | Derivation:
        if not self._answers:
            raise SaslError("the server asks for more than LOGIN has")
        return self._answers.pop()

    def derived(self, salted: bytes) -> bytes:
        raise AssertionError("LOGIN derives nothing")


def choose(
    offers: Collection[str], credentials: Credentials, *, channel: Channel | None, nonce: str
) -> ClientMechanism | None:
    """The strongest of the mechanisms that a server offers; None: we know none of them."""
    if "SCRAM-SHA-256" in offers or "SCRAM-SHA-256-PLUS" in offers:
        binding = _binding(channel)
        plus = "SCRAM-SHA-256-PLUS" in offers
        if "SCRAM-SHA-256" in offers or binding is not None:
            return ScramClient(credentials, nonce=nonce, binding=binding, plus=plus)
    if "PLAIN" in offers:
        return PlainClient(credentials)
    return LoginClient(credentials) if "LOGIN" in offers else None


def _binding(channel: Channel | None) -> tuple[str, bytes] | None:
    if channel is not None:
        for kind in BINDINGS:
            if (octets := channel.binding(kind)) is not None:
                return kind, octets
    return None
