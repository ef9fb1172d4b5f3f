"""Log-outs at the provider: those that it reports, and those that people ask it for.

It reports them to the service itself (OpenID Connect Back-Channel Logout 1.0), and people reach its page for them from
the console (RP-Initiated Logout 1.0). That page is asked for by the client's id, without the ID token: the service does
not keep one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from ingestion_engine.access.oidc.code_flow import SECRET_BYTES
from ingestion_engine.access.oidc.provider import Provider
from ingestion_engine.access.oidc.tokens import LEEWAY_S, LOG_OUT_AGE_S, Claims, TokenChecks
from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.runtime.settings import OidcSettings
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.console_sessions import ProviderLogOut


@dataclass(frozen=True, slots=True)
class ProviderLogIn:
    """What of a log-in a log-out of the provider is compared with. Hashes: neither is shown to anybody."""

    subject: str
    session: str | None
    """None where the ID token names none: the provider then ends all sessions of the person."""
    issued_at: Moment


def find_log_in(claims: Claims) -> ProviderLogIn:
    """Return what a log-out names, from the claims of an ID token that has been checked. Pure."""
    issuer = claims["iss"]
    subject = _hash(issuer, claims["sub"])
    assert subject is not None
    return ProviderLogIn(subject, _hash(issuer, claims.get("sid")), _as_moment(claims["iat"]))


class LogOuts:
    """Log-outs at the provider of the settings.

    Args:
        settings: Settings with an issuer and a client id.
        provider: The provider.
    """

    def __init__(self, settings: OidcSettings, provider: Provider) -> None:
        assert settings.client_id is not None
        self._client_id = settings.client_id
        self._is_wanted = settings.offer_logout
        self._provider = provider
        self._checks = TokenChecks(provider, audience=settings.client_id)

    async def read(self, token: str) -> ProviderLogOut:
        """Return what a log-out token of the provider says.

        Raises:
            SubmissionError: "logout_token_invalid" (400), with the reason.
            TransientError: "oidc_unavailable" (503): the keys of the provider are not known.
        """
        try:
            claims = await self._checks.read_logout_token(token, client_id=self._client_id)
        except SubmissionError as error:
            raise refuse_log_out(error.message) from None
        issuer = claims["iss"]
        token_id = _hash(issuer, claims["jti"])
        assert token_id is not None
        at = _as_moment(claims["iat"])
        return ProviderLogOut(
            id=token_id,
            subject=_hash(issuer, claims.get("sub")),
            session=_hash(issuer, claims.get("sid")),
            at=at,
            expires_at=at + dt.timedelta(seconds=LOG_OUT_AGE_S + 2 * LEEWAY_S),
        )

    async def are_offered(self) -> bool:
        """Return whether people can be led to the provider for a log-out there; never raises."""
        try:
            return self._is_wanted and (await self._provider.find_end_session()) is not None
        except TransientError:
            return False

    async def begin(self, back_uri: str) -> tuple[str, str]:
        """Return the address of the provider's log-out, and the secret for a cookie by which its answer is known.

        Args:
            back_uri: Where the provider sends the browser afterwards.

        Raises:
            SubmissionError: "not_found" (404): the provider has none, or it is turned off.
            TransientError: "oidc_unavailable" (503).
        """
        endpoint = await self._provider.find_end_session()
        if endpoint is None or not self._is_wanted:
            hint = "Log out on the provider's own pages."
            raise SubmissionError("not_found", "The service offers no log-out at the provider.", hint=hint, status=404)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        query = {
            "client_id": self._client_id,
            "post_logout_redirect_uri": back_uri,
            "state": _make_state(secret),
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", secret

    def is_answer(self, secret: str | None, state: str | None) -> bool:
        """Return whether a browser comes back from the log-out that it has begun. Pure."""
        given = (state or "").encode("utf-8", "replace")
        return bool(secret) and hmac.compare_digest(given, _make_state(secret or "").encode())


def refuse_log_out(message: str) -> SubmissionError:
    """Return the error of a log-out token that does not count. Pure."""
    hint = "Compare the provider's settings of the client with those of the service."
    return SubmissionError("logout_token_invalid", message, hint=hint, status=400)


_STATE: Final = b"oidc log-out"


def _make_state(secret: str) -> str:
    digest = hmac.digest(secret.encode(), _STATE, hashlib.sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _hash(issuer: str, value: Any) -> str | None:
    """Return the SHA-256 of what a provider names; None for what is no name. Pure."""
    if not isinstance(value, str) or not value:
        return None
    return hashlib.sha256(json.dumps([issuer, value]).encode()).hexdigest()


def _as_moment(seconds: Any) -> Moment:
    """Return the moment of a numeric date that has been checked; a part of a second is left out. Pure."""
    try:
        return dt.datetime.fromtimestamp(int(seconds), dt.UTC)
    except (ValueError, OverflowError, OSError):  # before the calendar; later ones were not valid yet
        return dt.datetime.min.replace(tzinfo=dt.UTC)
