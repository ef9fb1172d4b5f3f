"""Callers who send a token of the provider as ``Authorization: Bearer``."""

from __future__ import annotations

from typing import Final

from ingestion_engine.access.oidc.provider import Provider
from ingestion_engine.access.oidc.rules import RuleBook
from ingestion_engine.access.oidc.tokens import TokenChecks, find_expiry, looks_like_token
from ingestion_engine.access.principal import Principal
from ingestion_engine.runtime.settings import OidcSettings


class TokenSource:
    """Access tokens of the provider; a ``CredentialSource``.

    Args:
        settings: Settings with an issuer.
        provider: The provider.
        rules: What holders of tokens may do.
    """

    title: Final = "access token"

    def __init__(self, settings: OidcSettings, provider: Provider, rules: RuleBook) -> None:
        self._checks = TokenChecks(provider, audience=settings.audience or settings.client_id or "")
        self._rules = rules

    async def find(self, bearer: str) -> Principal | None:
        """Return the holder of a token; None for what is no token.

        Raises:
            SubmissionError: "unauthenticated" (401) with the reason; "no_rule" (403).
            TransientError: "oidc_unavailable" (503): the keys of the provider are not known.
        """
        if not looks_like_token(bearer):
            return None
        claims = await self._checks.read_access_token(bearer)
        return self._rules.make_principal(claims, expires_at=find_expiry(claims))

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True for holders of tokens: nothing but its expiry, which every caller has, ends a token."""
        return principal.kind == "oidc"

    async def recall(self, credential: str) -> Principal | None:
        """Return None: tokens have no credential that could be found again; their sessions have claims."""
        return None
