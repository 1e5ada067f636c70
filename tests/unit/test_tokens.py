"""Tokens of OAuth against a real HTTP server: which let in, what is asked for when, and what a bad authority can do."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Coroutine, Mapping
from hmac import digest
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pillarbox.adapters import tokens
from pillarbox.adapters.tokens import PAUSE, CheckedTokens, IntrospectedTokens, SignedTokens, Trust
from pillarbox.engine.ports import AccountsFault, Tokens
from pillarbox.sim.clock import VirtualClock
from pillarbox.smtp.sasl import Credentials
from tests.making import NOW

ISSUER, AUDIENCE = "https://id.example", "mail.example.test"
TRUST = Trust(ISSUER, AUDIENCE, "email")
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def published(key: Any, kid: str, **more: str) -> dict[str, Any]:
    if isinstance(key, RSAPrivateKey):
        algorithm = "RS256"
    else:
        algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "EdDSA"
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, **more}


KEYS = {"keys": [published(RSA, "rsa", alg="RS256", use="sig"), published(EC, "ec"), published(ED, "ed")]}


def claims(**changes: Any) -> dict[str, Any]:
    made = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, "email": "alice@example.test", **changes}
    return {name: value for name, value in made.items() if value is not None}


def signed(key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid} if kid else None)


def base64url(octets: bytes) -> bytes:
    return urlsafe_b64encode(octets).rstrip(b"=")


class Authority:
    """An HTTP server. `answer`: what it says; `asked`: the requests, with their bodies."""

    def __init__(self, answer: bytes | Mapping[str, Any], status: int = 200) -> None:
        self.answer = answer
        self.status = status
        self.asked: list[tuple[str, bytes]] = []
        self.held: asyncio.Event | None = None
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Authority:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line.split(":")[1]) for line in head.split("\r\n") if "content-length" in line.lower()), 0
            )
            self.asked.append((head, await reader.readexactly(length)))
            if self.held is not None:
                await self.held.wait()
            body = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (self.status, len(body)))
            writer.write(body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def run(
    authority: Authority, main: Callable[[Tokens, VirtualClock], Coroutine[Any, Any, None]], trust: Trust = TRUST
) -> None:
    async def opened() -> None:
        async with asyncio.timeout(20), authority:
            clock = VirtualClock(NOW)
            await main(CheckedTokens(trust, SignedTokens(trust, authority.url, monotonic=clock.monotonic)), clock)

    asyncio.run(opened())


def subject(token: str, keys: Mapping[str, Any] = KEYS, trust: Trust = TRUST) -> str | None:
    found: list[str | None] = []

    async def main(here: Tokens, _: VirtualClock) -> None:
        found.append(await here.subject(token))

    run(Authority(keys), main, trust)
    return found[0]


# --- which let in


@pytest.mark.parametrize(
    "token",
    [
        signed(),
        signed(EC, "ec", "ES256"),
        signed(ED, "ed", "EdDSA"),
        signed(aud=["other", AUDIENCE]),
        signed(email_verified=True),
    ],
)
def test_good_tokens(token: str) -> None:
    assert subject(token) == "alice@example.test"


@pytest.mark.parametrize(
    "token",
    [
        signed(OTHER),
        signed(kid="unknown"),
        signed(kid=None),  # there are several
        signed(RSA, "ec"),
        signed(EC, "rsa", "ES256"),
        signed(RSA, "rsa", "RS512"),  # not that key's
        signed(iss="https://evil.example"),
        signed(iss=None),
        signed(aud="another"),
        signed(aud=None),
        signed(exp=1_600_000_000),
        signed(exp=None),
        signed(nbf=4_000_000_000),
        signed(email=None),
        signed(email=""),
        signed(email=["alice@example.test"]),
        signed(email_verified=False),
        signed(email_verified="false"),
        jwt.encode(claims(), "", "none"),
        jwt.encode(claims(), "secret" * 8, "HS256", headers={"kid": "rsa"}),
        signed()[:-4] + "AAAA",
        "",
        "abc",
        "a.b.c",
        ".".join((urlsafe_b64encode(b'{"alg":["RS256"],"kid":"rsa"}').decode().rstrip("="), "e30", "AAAA")),
        ".".join((urlsafe_b64encode(b'{"alg":"RS256","kid":{"a":1}}').decode().rstrip("="), "e30", "AAAA")),
    ],
)
def test_tokens_that_let_nobody_in(token: str) -> None:
    assert subject(token) is None


def test_a_public_key_signs_nothing() -> None:
    """What everybody can read, taken for the secret of an HMAC."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256", "kid": "rsa"}, claims())
    ]
    mac = urlsafe_b64encode(digest(pem, b".".join(parts), "sha256")).rstrip(b"=")
    assert subject(b".".join((*parts, mac)).decode()) is None


def test_another_claim_names_the_user() -> None:
    trust = Trust(ISSUER, AUDIENCE, "sub")
    assert subject(signed(sub="alice", email_verified=False), trust=trust) == "alice"
    assert subject(signed(), trust=trust) is None


def test_without_a_kid_the_only_key_counts() -> None:
    assert subject(signed(kid=None), {"keys": [published(RSA, "rsa")]}) == "alice@example.test"
    assert subject(signed(), {"keys": [published(RSA, "rsa", use="enc")]}) is None


# --- what is asked for when


def test_keys_are_asked_for_once_and_again_when_an_unknown_one_is_named() -> None:
    authority = Authority(KEYS)

    async def main(here: Tokens, clock: VirtualClock) -> None:
        assert authority.asked == []
        for _ in range(3):
            assert await here.subject(signed()) == "alice@example.test"
        assert len(authority.asked) == 1
        assert [await here.subject(signed(OTHER, "new")) for _ in range(5)] == [None] * 5
        assert len(authority.asked) == 1, "they have just been asked for"
        clock.advance(PAUSE)
        authority.answer = {"keys": [*KEYS["keys"], published(OTHER, "new")]}
        assert await here.subject(signed(OTHER, "new")) == "alice@example.test"
        assert len(authority.asked) == 2

    run(authority, main)


def test_keys_that_are_gone_are_forgotten() -> None:
    authority = Authority(KEYS)

    async def main(here: Tokens, clock: VirtualClock) -> None:
        assert await here.subject(signed()) is not None
        authority.answer = {"keys": [published(OTHER, "new")]}
        clock.advance(tokens.KEPT)
        assert await here.subject(signed()) is None

    run(authority, main)


def test_while_keys_can_not_be_had_those_from_before_are_used(caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(KEYS)

    async def main(here: Tokens, clock: VirtualClock) -> None:
        assert await here.subject(signed()) is not None
        authority.status = 500
        clock.advance(tokens.KEPT)
        assert await here.subject(signed()) == "alice@example.test"
        assert await here.subject(signed()) == "alice@example.test"
        assert len(authority.asked) == 2

    run(authority, main)
    assert "status 500; those from before are used" in caplog.text


def test_many_at_once_ask_once() -> None:
    authority = Authority(KEYS)

    async def main(here: Tokens, clock: VirtualClock) -> None:
        authority.held = asyncio.Event()
        asking = [asyncio.create_task(here.subject(signed())) for _ in range(10)]
        while not authority.asked:
            await asyncio.wait(asking, timeout=0.01)
        authority.held.set()
        assert await asyncio.gather(*asking) == ["alice@example.test"] * 10
        assert len(authority.asked) == 1

    run(authority, main)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (KEYS, 503, "status 503"),
        (KEYS, 302, "status 302"),
        (b"<html>", 200, "not JSON"),
        (b"[" * 100_000, 200, "not JSON"),
        (b"[]", 200, "no set of keys"),
        (b'{"keys": 1}', 200, "no set of keys"),
        (b" " * (tokens.MAX_ANSWER + 1), 200, "octets"),
    ],
)
def test_an_authority_that_makes_no_sense(answer: bytes | Mapping[str, Any], status: int, said: str) -> None:
    authority = Authority(answer, status)

    async def main(here: Tokens, clock: VirtualClock) -> None:
        with pytest.raises(AccountsFault, match=said):
            await here.subject(signed())
        with pytest.raises(AccountsFault, match="could not be had a moment ago"):
            await here.subject(signed())
        assert len(authority.asked) == 1
        clock.advance(PAUSE)
        authority.answer, authority.status = KEYS, 200
        assert await here.subject(signed()) == "alice@example.test"

    run(authority, main)


def test_an_authority_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SECONDS", 0.05)
    authority = Authority(KEYS)

    async def main(here: Tokens, _: VirtualClock) -> None:
        authority.held = asyncio.Event()
        with pytest.raises(AccountsFault, match="no answer within|Timeout"):
            await here.subject(signed())
        authority.held.set()

    run(authority, main)


def test_keys_of_no_known_kind_are_passed_over() -> None:
    odd = {"keys": ["x", {}, {"kty": "oct", "kid": "rsa", "k": "AAAA"}, {"kty": "RSA", "kid": "broken"}]}
    assert subject(signed(), odd) is None
    assert subject(signed(kid="broken"), odd) is None


def test_no_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "pillarbox"):
        assert subject(signed(exp=1)) is None
    logged = "".join(record.getMessage() for record in caplog.records if record.name.startswith("pillarbox"))
    assert "a token is refused: ExpiredSignatureError" in logged and signed(exp=1) not in logged


# --- tokens that are asked about

ACTIVE = {"active": True, "email": "alice@example.test", "aud": AUDIENCE}


def introspected(answer: bytes | Mapping[str, Any], status: int = 200) -> tuple[str | None, Authority]:
    authority = Authority(answer, status)
    found: list[str | None] = []

    async def main() -> None:
        async with asyncio.timeout(20), authority:
            asker = IntrospectedTokens(TRUST, authority.url, Credentials("cl:ient", "se cret"), now=lambda: NOW)
            found.append(await CheckedTokens(TRUST, asker).subject("opaque+token"))

    asyncio.run(main())
    return found[0], authority


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        (ACTIVE, "alice@example.test"),
        ({**ACTIVE, "iss": ISSUER, "exp": NOW + 1, "aud": ["x", AUDIENCE]}, "alice@example.test"),
        ({"active": False}, None),
        ({**ACTIVE, "active": "true"}, None),
        ({**ACTIVE, "active": 1}, None),
        ({**ACTIVE, "iss": "https://evil.example"}, None),
        ({**ACTIVE, "aud": "another"}, None),
        ({**ACTIVE, "aud": None}, None),
        ({**ACTIVE, "exp": NOW - 60}, None),
        ({**ACTIVE, "exp": "never"}, None),
        ({**ACTIVE, "email": None}, None),
        ({**ACTIVE, "email_verified": False}, None),
        (b"[]", None),
    ],
)
def test_what_an_authority_says_of_a_token(answer: bytes | Mapping[str, Any], who: str | None) -> None:
    assert introspected(answer)[0] == who


def test_how_it_is_asked() -> None:
    """RFC 7662 §2.1, RFC 6749 §2.3.1."""
    _, authority = introspected(ACTIVE)
    ((head, body),) = authority.asked
    assert head.startswith("POST /keys HTTP/1.1")
    (line,) = [line for line in head.split("\r\n") if line.lower().startswith("authorization: basic ")]
    assert b64decode(line.split()[2]) == b"cl%3Aient:se%20cret"
    assert parse_qs(body.decode()) == {"token": ["opaque+token"], "token_type_hint": ["access_token"]}


@pytest.mark.parametrize(("answer", "status"), [(b"", 401), (b"no", 200), (ACTIVE, 500)])
def test_an_authority_that_does_not_answer(answer: bytes | Mapping[str, Any], status: int) -> None:
    with pytest.raises(AccountsFault) as caught:
        introspected(answer, status)
    assert "opaque" not in str(caught.value) and "se cret" not in str(caught.value)
