"""Passwords: hashed with argon2id (RFC 9106), with the keys of SCRAM beside; and the port Accounts that checks them.

Nothing here keeps or logs a password. Invariant: a check costs the same whether the user is known, disabled, has a
password or not: one verification, against a hash that nobody's password fits where there is none. The event loop never
waits for it; no more checks are under way than there are threads, those that wait cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import unicodedata
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher, Type
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError

from pillarbox.adapters.scram_keys import make_keys, make_nonce, nobodys_keys, one_of
from pillarbox.engine.ports import AccountsFault, Directory, ScramAccount, User
from pillarbox.smtp.scram import ScramKeys

log = logging.getLogger(__name__)

# OWASP's Password Storage Cheat Sheet: argon2id with at least 19 MiB, 2 passes, 1 lane. More memory would let those who
# guess at many connections take it from the mail.
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1

THREADS = 2  # argon2 gives up the interpreter's lock; a mail server must keep processors for mail
MAX_WAITING = 200  # checks at a time, some seconds of work; further ones are put off with 454


def hash_password(password: str) -> str:
    """What is kept of a password. Takes a few hundredths of a second."""
    return _hasher().hash(_octets(password))


def kept_of(password: str) -> tuple[str, ScramKeys | None]:
    """All that is kept of a password: its hash, and the keys of SCRAM where it can have any."""
    return hash_password(password), make_keys(password)


def _hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, type=Type.ID)


def _octets(password: str) -> bytes:
    """The same for all ways to type it (RFC 8265 §4.2.2 asks for NFC)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


class Argon2Accounts:
    """Meets the port Accounts."""

    def __init__(self, directory: Directory, *, secret: bytes) -> None:
        """`secret`: octets that nobody else knows, the same at each start."""
        self._directory = directory
        self._secret = secret
        self._hasher = _hasher()
        self._nobody = hash_password(secrets.token_urlsafe())
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._free = asyncio.Semaphore(THREADS)
        self._waiting = 0

    async def check(self, name: str, password: str) -> User | None:
        if self._waiting >= MAX_WAITING:
            raise AccountsFault(f"{self._waiting} passwords wait to be checked")
        self._waiting += 1
        try:
            return await self._checked(name, password)
        finally:
            self._waiting -= 1

    async def _checked(self, name: str, password: str) -> User | None:
        user = self._directory.login(name)
        known = None if user is None or not user.enabled else user.password
        async with self._free:
            loop = asyncio.get_running_loop()
            fits = await loop.run_in_executor(self._threads, self._fits, name, known or self._nobody, _octets(password))
        return user if fits and known else None

    def _fits(self, name: str, hashed: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except VerifyMismatchError:
            return False
        except (Argon2Error, InvalidHashError) as error:
            log.error("the password of %r can't be checked, set it again: %s", name, type(error).__name__)
            return False

    def scram(self, name: str) -> ScramAccount:
        """Whoever it is, the same work is done."""
        user = self._directory.login(name)
        names = self._directory.login_names(name) if user is None else (str(user.mailbox).casefold(),)
        nobodys = nobodys_keys(self._secret, one_of(self._secret, names))
        keys = None if user is None else user.scram
        usable = keys is not None and user is not None and user.enabled
        return ScramAccount(keys or nobodys, make_nonce(), user if usable else None)

    def close(self) -> None:
        """Wait for the checks that are under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)
