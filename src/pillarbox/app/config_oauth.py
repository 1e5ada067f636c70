"""What `[oauth]` says: whose tokens let in, by OAUTHBEARER and XOAUTH2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds

_WELL_KNOWN = "/.well-known/openid-configuration"  # OpenID Connect Discovery §4, which RFC 7628 §3.2.2 points to


@dataclass(frozen=True)
class OAuthConfig:
    """Whose tokens let in. Without `issuer` none do, and neither mechanism is offered."""

    issuer: str | None = keys.one(
        "issuer", kinds.url(), None, "Who gives the tokens, as their claim `iss` says. Without it no token is taken."
    )
    audience: str | None = keys.one(
        "audience", kinds.text(), None, "For whom the tokens must be, as their claim `aud` says."
    )
    jwks: str | None = keys.one(
        "jwks",
        kinds.url(),
        None,
        "Where the issuer publishes the keys by which it signs tokens (RFC 7517). They are asked for when a token "
        "comes, once an hour, and again when an unknown key is named.",
    )
    introspection: str | None = keys.one(
        "introspection",
        kinds.url(),
        None,
        "Where to ask about each token instead (RFC 7662); needs `credentials`.",
    )
    credentials: Path | None = keys.one(
        "credentials",
        kinds.path(),
        None,
        "A file with the client id and, on the second line, the client secret by which this server may ask there.",
    )
    user_claim: str = keys.one(
        "user_claim",
        kinds.text(),
        "email",
        "The claim that names the user: by an address here, or a local part. An `email` does not count that the issuer "
        "says it has not verified.",
    )

    @property
    def discovery(self) -> str | None:
        """Where clients learn how to get a token; None where none are taken."""
        return None if self.issuer is None else self.issuer.rstrip("/") + _WELL_KNOWN

    @property
    def missing(self) -> str:
        """What is wrong with the keys together, "" for nothing."""
        given = [self.audience, self.jwks, self.introspection, self.credentials]
        if self.issuer is None:
            return "issuer is missing, without which nothing else counts" if any(given) else ""
        if self.audience is None:
            return "audience is missing: a token for somebody else would let in"
        if (self.jwks is None) == (self.introspection is None):
            return "give one of jwks and introspection"
        if (self.introspection is None) != (self.credentials is None):
            return "introspection and credentials belong together"
        return ""
