"""Tokens of OAuth as SASL mechanisms of the server: OAUTHBEARER (RFC 7628) and XOAUTH2, which came before it.

What a token says and whether it is good is not known here. Invariant: a token is in no text but the claim that carries
it. A refused token is told by a challenge in JSON, to which the client must answer before the exchange fails.
"""

from __future__ import annotations

import json
import re

from pillarbox.smtp.sasl import EMPTY, BearerToken, Challenge, ServerStep, Verdict, decoded

_TOKEN = r"(?P<token>[A-Za-z0-9._~+/-]+=*)"  # RFC 6750 §2.1
_AUTH = re.compile(rf"bearer +{_TOKEN} *", re.IGNORECASE)
_GS2_HEADER = re.compile(r"[ny],(?:a=(?P<name>(?:[^\0,=]|=2C|=3D)+))?,")  # RFC 5801 §4; a token binds no channel
_PAIR = re.compile(r"([A-Za-z]+)=([^\x01]*)")
_END = "\x01"
_XOAUTH2 = re.compile(rf"user=(?P<name>[^\x01]+)\x01auth=bearer +{_TOKEN}\x01\x01", re.IGNORECASE)


def unescaped(name: str) -> str:
    """A saslname of RFC 5802 §5.1."""
    return name.replace("=2C", ",").replace("=3D", "=")


def parse_oauthbearer(octets: bytes) -> BearerToken | None:
    """The claim of RFC 7628 §3.1, with an empty token where the client only asks where it gets one (§4.3); None: it is
    none."""
    try:
        header, _, rest = octets.decode("utf-8").partition(_END)
    except UnicodeDecodeError:
        return None
    match = _GS2_HEADER.fullmatch(header)
    if match is None or not rest.endswith(_END + _END):
        return None
    pairs = [_PAIR.fullmatch(pair) for pair in rest[:-2].split(_END)]
    values = {pair[1]: pair[2] for pair in pairs if pair is not None}
    name = decoded(unescaped(match["name"] or "").encode())
    if name is None or len(values) != len(pairs) or "auth" not in values:
        return None
    auth = _AUTH.fullmatch(values["auth"])
    if auth is None:
        return None if values["auth"] else BearerToken("", name)
    return BearerToken(auth["token"], name)


def parse_xoauth2(octets: bytes) -> BearerToken | None:
    try:
        match = _XOAUTH2.fullmatch(octets.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    if match is None or decoded(match["name"].encode()) is None:
        return None
    return BearerToken(match["token"], match["name"])


class BearerServer:
    """Either mechanism. `discovery` tells a refused client where it learns how to get a token, "" for nowhere."""

    __slots__ = ("_discovery", "_parse", "_refused")

    def __init__(self, *, modern: bool, discovery: str) -> None:
        """`modern`: OAUTHBEARER."""
        self._parse = parse_oauthbearer if modern else parse_xoauth2
        self._discovery = discovery
        self._refused = False

    def begin(self, initial: bytes | None) -> ServerStep:
        return EMPTY if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> ServerStep:
        if self._refused:
            return Verdict.DENIED  # whatever the answer is: RFC 7628 §3.2.3 has it that it is a 0x01
        return self._parse(octets) or Verdict.MALFORMED

    def answer(self, *, good: bool) -> ServerStep:
        if good:
            return Verdict.GRANTED
        self._refused = True
        told = {"status": "invalid_token", "schemes": "bearer"}  # RFC 7628 §3.2.2
        if self._discovery:
            told["openid-configuration"] = self._discovery
        return Challenge(json.dumps(told, separators=(",", ":")).encode())
