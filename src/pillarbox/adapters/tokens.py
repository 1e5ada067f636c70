"""Tokens of OAuth: the port Tokens, by the keys of who signs them (RFC 7519, RFC 7517) or by asking (RFC 7662).

A token is never logged, nor is what a server says of it. Only asymmetric signatures are believed, so that who can check
a token can't make one. Invariants: whoever is asked has a few seconds and a few octets; an unknown key makes us ask for
the keys again, but not more often than every half minute, whatever clients send.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import httpx
import jwt

from pillarbox.engine.ports import AccountsFault
from pillarbox.smtp.sasl import Credentials

log = logging.getLogger(__name__)

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
SECONDS = 5.0  # for an answer
MAX_ANSWER = 256 * 1024  # octets
MAX_KEYS = 100
KEPT = 3600.0  # seconds that keys are used without asking again
PAUSE = 30.0  # seconds between questions for keys, at least
LEEWAY = 30  # seconds by which clocks may differ


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose tokens count, for whom they must be, and which claim names the user."""

    issuer: str
    audience: str
    user_claim: str


class Authority(Protocol):
    """Says what stands in a token that is good."""

    async def claims(self, token: str) -> Mapping[str, Any] | None:
        """None: it is not good. Raises AccountsFault."""


class CheckedTokens:
    """Meets the port Tokens."""

    def __init__(self, trust: Trust, authority: Authority) -> None:
        self._trust = trust
        self._authority = authority

    async def subject(self, token: str) -> str | None:
        claims = await self._authority.claims(token)
        if claims is None:
            return None
        name = claims.get(self._trust.user_claim)
        if self._trust.user_claim == "email" and claims.get("email_verified", True) is not True:
            return None  # anybody may have typed it (OpenID Connect Core §5.7)
        return name if isinstance(name, str) and name else None


# --- over HTTP


class Web:
    """Asks one URL. A connection for each question: they are few, and nothing is left to be closed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._is_here = url.startswith("http:")  # allowed on this machine only: no proxy stands in between
        self._context = ssl.create_default_context()

    async def ask(self, method: str, **what: Any) -> Any:
        """The JSON of the answer. Raises AccountsFault."""
        try:
            async with asyncio.timeout(SECONDS), self._client() as client:
                async with client.stream(method, self.url, headers={"Accept": "application/json"}, **what) as response:
                    octets = await self._bounded(response)
        except TimeoutError as error:
            raise AccountsFault(f"{self.url}: no answer within {SECONDS:g} s") from error
        except httpx.HTTPError as error:
            raise AccountsFault(f"{self.url}: {type(error).__name__}: {error}") from error
        try:
            return json.loads(octets)
        except (ValueError, RecursionError) as error:
            raise AccountsFault(f"{self.url}: not JSON") from error

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._context, timeout=SECONDS, trust_env=not self._is_here)

    async def _bounded(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise AccountsFault(f"{self.url}: status {response.status_code}")
        octets = bytearray()
        async for chunk in response.aiter_bytes():
            octets += chunk
            if len(octets) > MAX_ANSWER:
                raise AccountsFault(f"{self.url}: an answer of more than {MAX_ANSWER} octets")
        return bytes(octets)


# --- signed tokens


class SignedTokens:
    """Tokens that an issuer has signed by one of the keys that it publishes."""

    def __init__(self, trust: Trust, url: str, *, monotonic: Callable[[], float]) -> None:
        self._trust = trust
        self._web = Web(url)
        self._monotonic = monotonic
        self._keys: list[dict[str, Any]] = []
        self._asked_at: float | None = None
        self._had_at: float | None = None
        self._asking = asyncio.Lock()

    async def claims(self, token: str) -> Mapping[str, Any] | None:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            return None
        key = await self._key(header.get("kid"), algorithm)
        return None if key is None else self._verified(token, key, algorithm)

    def _verified(self, token: str, key: jwt.PyJWK, algorithm: str) -> Mapping[str, Any] | None:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                issuer=self._trust.issuer,
                audience=self._trust.audience,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            log.info("a token is refused: %s", type(error).__name__)
            return None

    async def _key(self, kid: object, algorithm: str) -> jwt.PyJWK | None:
        """The key of that name. Raises AccountsFault where it can't be known."""
        if self._is_older_than(self._had_at, KEPT):
            await self._ask()
        found = self._find(kid, algorithm)
        if found is None and self._is_older_than(self._asked_at, PAUSE):
            await self._ask()
            found = self._find(kid, algorithm)
        return found

    def _is_older_than(self, moment: float | None, seconds: float) -> bool:
        return moment is None or self._monotonic() - moment >= seconds

    async def _ask(self) -> None:
        """Get the keys; those that were had before stay in use while that fails. One question at a time, for all."""
        async with self._asking:
            if not self._is_older_than(self._asked_at, PAUSE):
                if self._had_at is None:
                    raise AccountsFault(f"{self._web.url}: could not be had a moment ago")
                return
            self._asked_at = self._monotonic()
            try:
                self._keys = _keys(await self._web.ask("GET"), self._web.url)
                self._had_at = self._asked_at
            except AccountsFault as fault:
                if self._had_at is None:
                    raise
                log.warning("keys of tokens: %s; those from before are used", fault)

    def _find(self, kid: object, algorithm: str) -> jwt.PyJWK | None:
        fitting = [
            key
            for key in self._keys
            if (kid is None or key.get("kid") == kid)
            and key.get("use", "sig") == "sig"
            and key.get("alg", algorithm) == algorithm
        ]
        if len(fitting) != 1:
            return None  # a token without a kid is good where there is one key only
        try:
            return jwt.PyJWK.from_dict(fitting[0], algorithm)
        except jwt.PyJWTError:
            return None


def _keys(answer: Any, url: str) -> list[dict[str, Any]]:
    keys = answer.get("keys") if isinstance(answer, dict) else None
    if not isinstance(keys, list):
        raise AccountsFault(f"{url}: no set of keys (RFC 7517)")
    return [key for key in keys[:MAX_KEYS] if isinstance(key, dict)]


# --- tokens that are asked about


class IntrospectedTokens:
    """Tokens of which only their authority knows what they are (RFC 7662)."""

    def __init__(self, trust: Trust, url: str, credentials: Credentials, *, now: Callable[[], float]) -> None:
        self._trust = trust
        self._web = Web(url)
        # RFC 6749 §2.3.1: each part is encoded as in a form before it goes into Basic.
        self._auth = httpx.BasicAuth(quote(credentials.name, safe=""), quote(credentials.password, safe=""))
        self._now = now

    async def claims(self, token: str) -> Mapping[str, Any] | None:
        form = {"token": token, "token_type_hint": "access_token"}
        answer = await self._web.ask("POST", data=form, auth=self._auth)
        if not isinstance(answer, dict) or answer.get("active") is not True:
            return None
        return answer if self._is_for_us(answer) else None

    def _is_for_us(self, claims: Mapping[str, Any]) -> bool:
        """What an authority leaves out it has seen to itself (RFC 7662 §2.2), but for whom the token is."""
        trust, audience, ends = self._trust, claims.get("aud"), claims.get("exp", None)
        return (
            claims.get("iss", trust.issuer) == trust.issuer
            and (trust.audience in audience if isinstance(audience, list) else audience == trust.audience)
            and (ends is None or (isinstance(ends, int | float) and ends + LEEWAY > self._now()))
        )
