"""Who checks the tokens of OAuth, as `[oauth]` says.

What it takes is loaded only where tokens are taken: it would lengthen the start of every verb by a tenth of a second.
"""

from __future__ import annotations

from pillarbox.app.config_oauth import OAuthConfig
from pillarbox.app.secrets import read_credentials
from pillarbox.engine.ports import Clock, Tokens


def make_tokens(config: OAuthConfig, clock: Clock) -> Tokens | None:
    """None where no tokens are taken. Raises SecretError."""
    if config.issuer is None or config.audience is None:
        return None
    from pillarbox.adapters.tokens import CheckedTokens, IntrospectedTokens, SignedTokens, Trust

    trust = Trust(config.issuer, config.audience, config.user_claim)
    if config.jwks is not None:
        return CheckedTokens(trust, SignedTokens(trust, config.jwks, monotonic=clock.monotonic))
    assert config.introspection is not None and config.credentials is not None
    credentials = read_credentials(config.credentials)
    return CheckedTokens(trust, IntrospectedTokens(trust, config.introspection, credentials, now=clock.now))
