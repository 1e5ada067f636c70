"""SASL (RFC 4422) as step machines over octets, the words of it, and the plain mechanisms of the server's side.

A machine of the server gets the client's responses and gives a step: a Challenge to be sent, a claim that somebody must
check, or a Verdict. Here are PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login) and EXTERNAL (RFC 4422 appendix A);
SCRAM is in `scram.py`, tokens are in `bearer.py`, the table of all is in `mechanisms.py`. Knows no base64, no reply and
no password file. Invariant: nothing of a machine shows a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

MAX_NAME = 255  # octets of each part, RFC 4616 §2


class Channel(Protocol):
    """What TLS knows of the connection that a login comes over."""

    def binding(self, kind: str) -> bytes | None:
        """The octets of a channel binding, such as `tls-exporter` (RFC 9266) or `tls-server-end-point` (RFC 5929);
        None where it can't be had."""

    @property
    def subject(self) -> str | None:
        """For whom the verified certificate of the client is, as a mail address; None: there is none."""


# --- what a client claims


@dataclass(frozen=True, slots=True)
class Credentials:
    """Somebody who says that they are `name`, and would act as somebody where `acting_as` is not empty."""

    name: str
    password: str = field(repr=False)
    acting_as: str = ""


@dataclass(frozen=True, slots=True)
class KeysWanted:
    """A login by SCRAM begins: its keys are needed. Answered with a `scram.Verifier`."""

    name: str
    acting_as: str = ""


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token that says whose it is; the client may say so, too."""

    token: str = field(repr=False)
    acting_as: str = ""

    @property
    def name(self) -> str:
        return self.acting_as


@dataclass(frozen=True, slots=True)
class Certified:
    """Whoever the certificate of the connection is for."""

    acting_as: str = ""

    @property
    def name(self) -> str:
        return self.acting_as


Claim = Credentials | KeysWanted | BearerToken | Certified

# --- the steps of a server's machine


@dataclass(frozen=True, slots=True)
class Challenge:
    octets: bytes = field(repr=False)


class Verdict(Enum):
    GRANTED = "the client is who was claimed"
    DENIED = "it is not, or may not be"
    MALFORMED = "that is not what the mechanism asks for"


ServerStep = Challenge | Claim | Verdict
EMPTY = Challenge(b"")


class ServerMechanism(Protocol):
    """One exchange. Each step but a claim comes of what the client has sent; `answer` tells what became of a claim."""

    def begin(self, initial: bytes | None) -> ServerStep:
        """`initial`: the initial response, None where there is none."""

    def respond(self, octets: bytes) -> ServerStep: ...

    def answer(self, *, good: bool) -> ServerStep:
        """Whether the claim was found to be true."""


def decoded(octets: bytes) -> str | None:
    """A name or a password; None where it is no UTF-8, or nothing that anybody can have."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or len(octets) > MAX_NAME else text


def verdict(*, good: bool) -> Verdict:
    return Verdict.GRANTED if good else Verdict.DENIED


# --- the client


class SaslError(Exception):
    """The exchange has failed; the text says why, and has no secret in it."""


@dataclass(frozen=True, slots=True)
class Derivation:
    """A password is to be salted, which takes its time (RFC 5802 §2.2, Hi). Answered with the octets."""

    password: str = field(repr=False)
    salt: bytes
    iterations: int


class ClientMechanism(Protocol):
    """One exchange. `initial`: the initial response, None where the server speaks first."""

    name: str
    initial: bytes | None

    @property
    def satisfied(self) -> bool:
        """A success that the server tells now may be believed."""

    def respond(self, challenge: bytes) -> bytes | Derivation:
        """Raises SaslError."""

    def derived(self, salted: bytes) -> bytes:
        """The response, once the derivation is done."""


# --- PLAIN


def parse_plain(octets: bytes) -> Credentials | None:
    """authzid NUL authcid NUL passwd; None where it is anything else."""
    parts = octets.split(b"\0")
    if len(parts) != 3:
        return None
    acting_as, name, password = map(decoded, parts)
    if acting_as is None or not name or not password:
        return None
    return Credentials(name, password, acting_as)


def plain(credentials: Credentials) -> bytes:
    """What a client sends."""
    return b"\0" + credentials.name.encode() + b"\0" + credentials.password.encode()


class PlainServer:
    __slots__ = ()

    def begin(self, initial: bytes | None) -> ServerStep:
        return EMPTY if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> ServerStep:
        return parse_plain(octets) or Verdict.MALFORMED

    def answer(self, *, good: bool) -> ServerStep:
        return verdict(good=good)


# --- LOGIN


_ASK_NAME = Challenge(b"Username:")
_ASK_PASSWORD = Challenge(b"Password:")


class LoginServer:
    """Some clients send the name as their initial response."""

    __slots__ = ("_name",)

    def __init__(self) -> None:
        self._name: str | None = None

    def begin(self, initial: bytes | None) -> ServerStep:
        return _ASK_NAME if not initial else self.respond(initial)

    def respond(self, octets: bytes) -> ServerStep:
        text = decoded(octets)
        if not text:
            return Verdict.MALFORMED
        if self._name is None:
            self._name = text
            return _ASK_PASSWORD
        return Credentials(self._name, text)

    def answer(self, *, good: bool) -> ServerStep:
        return verdict(good=good)


# --- EXTERNAL


class ExternalServer:
    """The response is the authorization identity, empty for that of the certificate."""

    __slots__ = ()

    def begin(self, initial: bytes | None) -> ServerStep:
        return EMPTY if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> ServerStep:
        acting_as = decoded(octets)
        return Verdict.MALFORMED if acting_as is None else Certified(acting_as)

    def answer(self, *, good: bool) -> ServerStep:
        return verdict(good=good)
