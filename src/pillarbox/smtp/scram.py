"""SCRAM-SHA-256 and -PLUS as SASL mechanisms, both sides (RFC 5802, RFC 7677, RFC 9266).

The messages, the proofs and the channel binding. What a password is turned into, which takes its time, is done
elsewhere: the server's machine asks for keys, the client's asks for a derivation. Knows no user, no clock, no chance:
nonces are given. Invariants: a client that could bind the channel and thinks that we can't is refused (§6); a client
believes no server that has not shown that it knows the password.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error, a2b_base64
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest, digest

from pillarbox.smtp.bearer import unescaped
from pillarbox.smtp.sasl import (
    EMPTY,
    Challenge,
    Channel,
    Credentials,
    Derivation,
    KeysWanted,
    SaslError,
    ServerStep,
    Verdict,
    decoded,
)

BINDINGS = ("tls-exporter", "tls-server-end-point")  # the best first; RFC 9266, RFC 5929 §4
MAX_NONCE = 256  # characters of a client's: what we answer must fit in a reply line
MIN_ITERATIONS = 4096  # RFC 7677 §4
MAX_ITERATIONS = 5_000_000  # that we would work for, as a client
_DIGEST = 32

_NAME = r"(?:[^\0,=]|=2C|=3D)+"
_NONCE = r"[!-+\--~]+"
_EXTENSIONS = r"(?:,[A-Za-z]=[^\0,]+)*"
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
# RFC 5802 §7. Mandatory extensions, which begin with `m=`, are not known: such a message is none of ours.
_CLIENT_FIRST = re.compile(
    rf"(?P<gs2>(?P<flag>n|y|p=(?P<kind>[A-Za-z0-9.-]+)),(?:a=(?P<acting_as>{_NAME}))?,)"
    rf"(?P<bare>n=(?P<name>{_NAME}),r=(?P<nonce>{_NONCE}){_EXTENSIONS})"
)
_SERVER_FIRST = re.compile(
    rf"r=(?P<nonce>{_NONCE}),s=(?P<salt>{_BASE64}),i=(?P<iterations>[1-9]\d{{0,9}}){_EXTENSIONS}"
)
_CLIENT_FINAL = re.compile(
    rf"(?P<unproved>c=(?P<binding>{_BASE64}),r=(?P<nonce>{_NONCE}){_EXTENSIONS}),p=(?P<proof>{_BASE64})"
)
_SERVER_FINAL = re.compile(rf"(?:v=(?P<signature>{_BASE64})|e=(?P<error>[^\0,]+)){_EXTENSIONS}")
_KEPT = re.compile(rf"SCRAM-SHA-256\$([1-9]\d{{0,9}}):({_BASE64})\$({_BASE64}):({_BASE64})")


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a server keeps of a password, RFC 5802 §3."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> ScramKeys:
        """As RFC 5803 writes it. Raises ValueError."""
        if not (match := _KEPT.fullmatch(text)):
            raise ValueError("no SCRAM keys")
        salt, stored_key, server_key = (a2b_base64(part) for part in match.groups()[1:])
        return cls(salt, int(match[1]), stored_key, server_key)

    @property
    def text(self) -> str:
        salt, stored_key, server_key = map(_base64, (self.salt, self.stored_key, self.server_key))
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored_key}:{server_key}"


@dataclass(frozen=True, slots=True)
class Verifier:
    """The keys of somebody, or such as nobody can tell from them; `usable`: the right proof lets in."""

    keys: ScramKeys
    nonce: str
    usable: bool


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode("ascii")


def _unbase64(text: str) -> bytes | None:
    try:
        return a2b_base64(text.encode("ascii"), strict_mode=True)
    except Error:
        return None


def _hmac(key: bytes, octets: bytes) -> bytes:
    return digest(key, octets, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def keys_of(salted: bytes, salt: bytes, iterations: int) -> ScramKeys:
    """From a SaltedPassword (RFC 5802 §3)."""
    stored_key = sha256(_hmac(salted, b"Client Key")).digest()
    return ScramKeys(salt, iterations, stored_key, _hmac(salted, b"Server Key"))


# --- the server


class ScramServer:
    """One login."""

    __slots__ = ("_bare", "_channel", "_expected", "_first", "_may_bind", "_nonce", "_plus", "_state", "_verifier")

    def __init__(self, channel: Channel | None, *, plus: bool, may_bind: bool) -> None:
        """`plus`: the mechanism is -PLUS; `may_bind`: it was offered."""
        self._channel = channel
        self._plus = plus
        self._may_bind = may_bind
        self._state = self._opened
        self._bare = ""  # the client's first message without its GS2 header
        self._first = ""  # ours
        self._nonce = ""
        self._expected = b""  # of the channel binding
        self._verifier: Verifier | None = None

    def begin(self, initial: bytes | None) -> ServerStep:
        return EMPTY if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> ServerStep:
        try:
            return self._state(octets.decode("utf-8"))
        except UnicodeDecodeError:
            return Verdict.MALFORMED

    def _opened(self, text: str) -> ServerStep:
        match = _CLIENT_FIRST.fullmatch(text)
        if match is None or len(match["nonce"]) > MAX_NONCE:
            return Verdict.MALFORMED
        name, acting_as = unescaped(match["name"]), unescaped(match["acting_as"] or "")
        if decoded(name.encode()) is None or decoded(acting_as.encode()) is None:
            return Verdict.MALFORMED
        binding = self._binding(match["flag"], match["kind"])
        if binding is None:
            return Verdict.DENIED
        self._expected = match["gs2"].encode() + binding
        self._bare, self._nonce = match["bare"], match["nonce"]
        return KeysWanted(name, acting_as)

    def _binding(self, flag: str, kind: str | None) -> bytes | None:
        """The octets that bind to the channel; None: the client must be refused (RFC 5802 §6)."""
        if not self._plus:
            return b"" if flag == "n" or (flag == "y" and not self._may_bind) else None
        if self._channel is None or kind is None or kind not in BINDINGS:
            return None
        return self._channel.binding(kind)

    def challenge(self, verifier: Verifier) -> Challenge:
        """The answer to KeysWanted."""
        keys = verifier.keys
        self._verifier = verifier
        self._nonce += verifier.nonce
        self._first = f"r={self._nonce},s={_base64(keys.salt)},i={keys.iterations}"
        self._state = self._proved
        return Challenge(self._first.encode())

    def _proved(self, text: str) -> ServerStep:
        verifier = self._verifier
        assert verifier is not None
        match = _CLIENT_FINAL.fullmatch(text)
        binding = _unbase64(match["binding"]) if match else None
        proof = _unbase64(match["proof"]) if match else None
        if match is None or binding is None or proof is None or match["nonce"] != self._nonce:
            return Verdict.MALFORMED
        message = f"{self._bare},{self._first},{match['unproved']}".encode()
        bound = compare_digest(binding, self._expected)
        if not (_proves(verifier.keys, message, proof) and bound and verifier.usable):
            return Verdict.DENIED
        self._state = self._acknowledged
        return Challenge(b"v=" + b64encode(_hmac(verifier.keys.server_key, message)))

    def _acknowledged(self, text: str) -> ServerStep:
        """RFC 4954 §4: what SCRAM says with its success goes out as a challenge, to which the answer is empty."""
        return Verdict.MALFORMED if text else Verdict.GRANTED

    def answer(self, *, good: bool) -> ServerStep:
        raise AssertionError("SCRAM makes no claim but KeysWanted")


def _proves(keys: ScramKeys, message: bytes, proof: bytes) -> bool:
    """RFC 5802 §3: ClientKey := ClientProof XOR ClientSignature, and H(ClientKey) is what we have."""
    if len(proof) != _DIGEST:
        return False
    client_key = _xor(proof, _hmac(keys.stored_key, message))
    return compare_digest(sha256(client_key).digest(), keys.stored_key)


# --- the client


class ScramClient:
    """One login. A `derived` follows on each Derivation."""

    __slots__ = ("_bare", "_credentials", "_first", "_gs2", "_nonce", "_signature", "initial", "name")

    def __init__(self, credentials: Credentials, *, nonce: str, binding: tuple[str, bytes] | None, plus: bool) -> None:
        """`binding`: the channel's, with its kind; `plus`: the server offers to bind."""
        bound = plus and binding is not None
        self.name = "SCRAM-SHA-256-PLUS" if bound else "SCRAM-SHA-256"
        kind, octets = binding or ("", b"")
        # RFC 5802 §6: a server that could bind, but whose offer somebody took away, learns of it by the y.
        header = f"p={kind},," if bound else "y,," if binding is not None else "n,,"
        self._gs2 = header.encode() + (octets if bound else b"")
        self._credentials = credentials
        self._nonce = nonce
        self._bare = f"n={_escaped(credentials.name)},r={nonce}"
        self._first = ""  # the server's first message
        self._signature: bytes | None = None  # by which the server is to show that it knows the password, too
        self.initial: bytes | None = f"{header}{self._bare}".encode()

    @property
    def satisfied(self) -> bool:
        """The server has shown what it had to."""
        return self._signature == b""

    def respond(self, challenge: bytes) -> bytes | Derivation:
        try:
            text = challenge.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SaslError("the server's message is not UTF-8") from error
        return self._derive(text) if self._signature is None else self._verify(text)

    def _derive(self, text: str) -> Derivation:
        match = _SERVER_FIRST.fullmatch(text)
        salt = _unbase64(match["salt"]) if match else None
        if match is None or not salt:
            raise SaslError("the server's first message is not one of SCRAM")
        if not match["nonce"].startswith(self._nonce) or match["nonce"] == self._nonce:
            raise SaslError("the server answers somebody else: its nonce is not ours with one behind it")
        iterations = int(match["iterations"])
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise SaslError(f"the server asks for {iterations} iterations: too few to be safe, or too many")
        self._first, self._nonce = text, match["nonce"]
        return Derivation(self._credentials.password, salt, iterations)

    def derived(self, salted: bytes) -> bytes:
        """The last message, once the password is salted."""
        unproved = f"c={_base64(self._gs2)},r={self._nonce}"
        message = f"{self._bare},{self._first},{unproved}".encode()
        client_key = _hmac(salted, b"Client Key")
        proof = _xor(client_key, _hmac(sha256(client_key).digest(), message))
        self._signature = _hmac(_hmac(salted, b"Server Key"), message)
        return f"{unproved},p={_base64(proof)}".encode()

    def _verify(self, text: str) -> bytes:
        match = _SERVER_FINAL.fullmatch(text)
        if match is None or not self._signature:
            raise SaslError("the server's last message is not one of SCRAM")
        if match["error"]:
            raise SaslError(f"the server says: {match['error']}")
        if not compare_digest(_unbase64(match["signature"]) or b"", self._signature):
            raise SaslError("the server does not know the password: its signature is wrong")
        self._signature = b""
        return b""


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")
