"""What SCRAM makes of a password (RFC 5802 §2.2, RFC 4013): keys to be kept, and keys for those who have none.

Nothing here keeps a password, but those of next hops, or logs one. It is work for a good part of a second: whoever must
not wait has it done in a thread.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import lru_cache

from pillarbox.smtp.sasl import Derivation, SaslError
from pillarbox.smtp.scram import ScramKeys, keys_of

# Each login costs the client as many, so the number is what a client bears. RFC 7677 §4 wants 4096 at least.
ITERATIONS = 100_000
_SALT = 16  # octets
_NONCE = 18  # octets
_REMEMBERED = 64  # passwords of next hops, as RFC 5802 §5.1 suggests


def make_keys(password: str) -> ScramKeys | None:
    """None where SASLprep forbids the password: nobody could log in by it."""
    salt = secrets.token_bytes(_SALT)
    try:
        return keys_of(_salted(password, salt, ITERATIONS), salt, ITERATIONS)
    except SaslError:
        return None


def make_nonce() -> str:
    """For one login."""
    return secrets.token_urlsafe(_NONCE)


@lru_cache(maxsize=_REMEMBERED)
def derived(wanted: Derivation) -> bytes:
    """What a client makes of its password for a server. Raises SaslError."""
    return _salted(wanted.password, wanted.salt, wanted.iterations)


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    from scramp.utils import ScramException, saslprep  # takes longer to load than a verb of the command line to run

    try:
        prepared = saslprep(password)
    except ScramException as error:
        raise SaslError("the password has characters that SCRAM forbids (RFC 4013)") from error
    return hashlib.pbkdf2_hmac("sha256", prepared.encode(), salt, iterations)


def nobodys_keys(secret: bytes, name: str) -> ScramKeys:
    """Keys that no password fits: the same for a name each time, and to an onlooker as good as any."""

    def octets(what: bytes) -> bytes:
        return hmac.digest(secret, what + b"\0" + name.encode("utf-8", "surrogatepass"), "sha256")

    return ScramKeys(octets(b"salt")[:_SALT], ITERATIONS, octets(b"stored key"), octets(b"server key"))


def one_of(secret: bytes, names: tuple[str, ...]) -> str:
    """Always the same one of these."""
    if len(names) == 1:
        return names[0]
    chosen = hmac.digest(secret, b"domain\0" + names[0].encode("utf-8", "surrogatepass"), "sha256")
    return names[int.from_bytes(chosen, "big") % len(names)]
