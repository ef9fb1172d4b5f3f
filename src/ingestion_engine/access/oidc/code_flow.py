"""Log-in of a person by authorization code with PKCE (RFC 6749 section 4.1, RFC 7636, OpenID Connect Core 3.1).

What must be known again when the browser comes back, state, nonce and code verifier, is derived from one random secret
that only a cookie of that browser has. So every copy of the service can complete the log-in, and requests of strangers
write nothing into the database. The provider takes each code once, and no browser but that one can complete a log-in.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from ingestion_engine.access.oidc.provider import Provider
from ingestion_engine.access.oidc.tokens import Claims, TokenChecks
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.settings import OidcSettings

SECRET_BYTES: Final = 32
"""Random bytes of a log-in; as many as RFC 7636 section 7.1 asks of a code verifier."""


@dataclass(frozen=True, slots=True)
class _Derived:
    state: str
    nonce: str
    verifier: str


def _derive(secret: str) -> _Derived:
    """Return what a secret stands for; none of it tells the secret or another one. Pure."""

    def make(purpose: str) -> str:
        digest = hmac.digest(secret.encode(), f"oidc {purpose}".encode(), hashlib.sha256)
        return urlsafe_b64encode(digest).rstrip(b"=").decode()

    return _Derived(make("state"), make("nonce"), make("verifier"))


class CodeFlow:
    """Log-in at the provider of the settings.

    Args:
        settings: Settings with an issuer and a client id.
        provider: The provider.
    """

    def __init__(self, settings: OidcSettings, provider: Provider) -> None:
        assert settings.client_id is not None
        self.title = settings.title
        """What the log-in page calls the provider."""
        self._client_id = settings.client_id
        self._scopes = settings.scopes
        self._provider = provider
        self._checks = TokenChecks(provider, audience=settings.client_id)

    async def begin(self, redirect_uri: str) -> tuple[str, str]:
        """Return the address of the provider to which the browser goes, and the secret for its cookie.

        Args:
            redirect_uri: Where the provider sends the browser back to.

        Raises:
            TransientError: "oidc_unavailable" (503).
        """
        metadata = await self._provider.describe()
        if metadata.authorization_endpoint is None:
            raise self._provider.unavailable("The OpenID Connect provider has no authorization endpoint.")
        secret = secrets.token_urlsafe(SECRET_BYTES)
        derived = _derive(secret)
        challenge = urlsafe_b64encode(hashlib.sha256(derived.verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect_uri,
                "scope": self._scopes,
                "state": derived.state,
                "nonce": derived.nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        separator = "&" if "?" in metadata.authorization_endpoint else "?"
        return f"{metadata.authorization_endpoint}{separator}{query}", secret

    async def complete(self, secret: str | None, parameters: Mapping[str, str], *, redirect_uri: str) -> Claims:
        """Return the claims of the person who has logged in.

        Args:
            secret: The secret of this browser's cookie; None without one.
            parameters: Query of the callback.
            redirect_uri: The one of ``begin``.

        Raises:
            SubmissionError: "log_in_failed" (401, 403 when the provider says that access was denied) or
                "unauthenticated" (401), with the reason.
            TransientError: "oidc_unavailable" (503).
        """
        derived = _derive(secret or "")
        state = parameters.get("state", "")
        if not secret or not hmac.compare_digest(state.encode("utf-8", "replace"), derived.state.encode()):
            raise _failed("This browser has begun no such log-in, or it took longer than ten minutes.")
        metadata = await self._provider.describe()
        issuer = parameters.get("iss")  # RFC 9207: which provider has answered
        if issuer != metadata.issuer and (
            issuer is not None or metadata.authorization_response_iss_parameter_supported
        ):
            raise _failed("The answer is of another provider.")
        if "error" in parameters:
            reason = parameters["error"][:64]
            if reason == "access_denied":
                raise _failed("The provider has denied the log-in.", status=403)
            raise _failed(f"The provider has ended the log-in: {reason!r}.")
        code = parameters.get("code")
        if not code:
            raise _failed("The answer of the provider has no code.")
        token = await self._provider.exchange_code(code, verifier=derived.verifier, redirect_uri=redirect_uri)
        return await self._checks.read_id_token(token, client_id=self._client_id, nonce=derived.nonce)


def _failed(message: str, *, status: int = 401) -> SubmissionError:
    return SubmissionError("log_in_failed", message, hint="Log in again.", status=status)
