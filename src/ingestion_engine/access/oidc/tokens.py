"""Checks of tokens: signature, issuer, audience, times and kind. PyJWT does the cryptography."""

from __future__ import annotations

import datetime as dt
import hmac
import time
from collections.abc import Mapping
from typing import Any, Final

import jwt

from ingestion_engine.access.oidc.provider import ALGORITHMS, Provider
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.timestamps import Moment

TOKEN_MAX_BYTES: Final = 16 * 1024
"""Largest token that is read; one with two hundred groups has about 10 kB. uvicorn refuses heads above 64 kB."""

LEEWAY_S: Final = 60
"""Seconds by which the clocks of the provider and of this machine may differ."""

LOG_OUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
"""Member of the claim ``events`` that makes a token a log-out token (Back-Channel Logout 1.0, section 2.4)."""

LOG_OUT_AGE_S: Final = 600
"""Age up to which a log-out token counts. Providers send them within seconds, and let them expire after two minutes;
it bounds how long each has to be remembered, whatever its expiry."""

_PLAIN_TYPES: Final = frozenset({"", "jwt"})
_ACCESS_TYPES: Final = _PLAIN_TYPES | {"at+jwt"}
_LOG_OUT_TYPES: Final = _PLAIN_TYPES | {"logout+jwt"}
"""Accepted ``typ`` of the heads of tokens, without "application/": others are proofs, security events, tokens of
another kind (RFC 8725 section 3.11)."""

_ID_TOKEN_MARKS: Final = ("nonce", "at_hash", "c_hash")
"""Claims that only ID tokens have (OpenID Connect Core 1.0, sections 2 and 3.3.2.11)."""

Claims = Mapping[str, Any]


def looks_like_token(bearer: str) -> bool:
    """Return whether a credential has the form of a signed token: three parts, the first a JSON object. Pure."""
    return bearer.startswith("ey") and bearer.count(".") == 2


def find_expiry(claims: Claims) -> Moment:
    """Return when a token that has been checked expires, leeway included. Pure."""
    try:
        return dt.datetime.fromtimestamp(int(claims["exp"]) + LEEWAY_S, dt.UTC)
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return dt.datetime.max.replace(tzinfo=dt.UTC)


class TokenChecks:
    """Checks tokens of one provider.

    Args:
        provider: Where the keys are.
        audience: Audience of tokens for the API.
    """

    def __init__(self, provider: Provider, *, audience: str) -> None:
        self._provider = provider
        self._audience = audience

    async def read_access_token(self, token: str) -> Claims:
        """Return the claims of a token for the API.

        Raises:
            SubmissionError: "unauthenticated" (401), with the reason.
            TransientError: "oidc_unavailable" (503): the keys of the provider are not known.
        """
        required = ("exp", "iss", "aud", "sub")
        claims = await self._read(token, audience=self._audience, required=required, types=_ACCESS_TYPES)
        kind = str(claims.get("typ", "")).lower()  # Keycloak names the kind in a claim
        if kind == "id" or any(mark in claims for mark in _ID_TOKEN_MARKS):
            raise _refused("This is an ID token, which tells a program who has logged in; the API takes access tokens.")
        if kind in ("refresh", "offline", "logout"):
            raise _refused(f"This is a token of the kind {kind!r}; the API takes access tokens.")
        if "events" in claims:  # RFC 8417 section 2.2; log-out tokens need not say more of their kind
            raise _refused("This is a token about an event, such as a log-out; the API takes access tokens.")
        return claims

    async def read_id_token(self, token: str, *, client_id: str, nonce: str) -> Claims:
        """Return the claims of the ID token of a log-in (OpenID Connect Core 1.0, section 3.1.3.7).

        Raises:
            SubmissionError: "unauthenticated" (401), with the reason.
            TransientError: "oidc_unavailable" (503).
        """
        required = ("exp", "iat", "iss", "aud", "sub")
        claims = await self._read(token, audience=client_id, required=required, types=_PLAIN_TYPES)
        _check_client(claims, client_id)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode("utf-8", "replace"), nonce.encode()):
            raise _refused("The ID token belongs to another log-in.")
        return claims

    async def read_logout_token(self, token: str, *, client_id: str) -> Claims:
        """Return the claims of a log-out token (OpenID Connect Back-Channel Logout 1.0, sections 2.4 and 2.6).

        It has a subject, a session or both, as texts that are not empty. Whether it was used before is not checked.

        Raises:
            SubmissionError: "unauthenticated" (401), with the reason.
            TransientError: "oidc_unavailable" (503).
        """
        required = ("exp", "iat", "iss", "aud", "jti", "events")
        claims = await self._read(token, audience=client_id, required=required, types=_LOG_OUT_TYPES)
        _check_client(claims, client_id)
        events = claims["events"]
        if not isinstance(events, dict) or not isinstance(events.get(LOG_OUT_EVENT), dict):
            raise _refused("The token is not about a log-out.")
        if "nonce" in claims:
            raise _refused("The token has a nonce, as ID tokens do: a log-out token must not have one.")
        if time.time() - int(claims["iat"]) > LOG_OUT_AGE_S + LEEWAY_S:
            raise _refused(f"The log-out token was issued more than {LOG_OUT_AGE_S} s ago.")
        named = [claims[name] for name in ("sub", "sid") if name in claims]
        if not named:
            raise _refused("The log-out token names neither a subject nor a session.")
        if not all(isinstance(value, str) and value for value in (claims["jti"], *named)):
            raise _refused("The claims 'jti', 'sub' and 'sid' of a log-out token have to be texts.")
        return claims

    async def _read(self, token: str, *, audience: str, required: tuple[str, ...], types: frozenset[str]) -> Claims:
        if len(token) > TOKEN_MAX_BYTES:
            raise _refused(f"The token has more than {TOKEN_MAX_BYTES} bytes.")
        try:
            head = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _refused("The token is not a JSON Web Token.") from None
        algorithm = head.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _refused(
                f"The token is signed by an algorithm that is not accepted; use one of {', '.join(ALGORITHMS)}."
            )
        kind = str(head.get("typ", "")).lower().removeprefix("application/")
        if kind not in types:
            raise _refused("The token is of another kind than expected.")
        key = await self._provider.find_key(head.get("kid"), algorithm)
        if key is None:
            raise _refused("The provider publishes no key that fits the token's.")
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=audience,
                issuer=self._provider.issuer,
                leeway=LEEWAY_S,
                options={"require": list(required), "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            raise _refused(_describe(error, audience=audience, issuer=self._provider.issuer)) from None
        except (ValueError, TypeError, OverflowError, RecursionError):  # signed, but not what a token should be
            raise _refused("The claims of the token cannot be read.") from None


def _check_client(claims: Claims, client_id: str) -> None:
    """Return when an ID token or log-out token is for this client alone, or says that it is the one that was meant."""
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    authorized = claims.get("azp")
    if authorized != client_id and (authorized is not None or len(audiences) > 1):
        raise _refused("The token was issued for another client.")


def _describe(error: jwt.PyJWTError, *, audience: str, issuer: str) -> str:
    """Return why PyJWT refuses a token, as a sentence without anything of the token. Pure."""
    match error:
        case jwt.ExpiredSignatureError():
            return "The token has expired."
        case jwt.ImmatureSignatureError():
            return "The token is not valid yet; compare the clocks of the provider and of the service."
        case jwt.InvalidAudienceError():
            return f"The token is for another audience than {audience!r}."
        case jwt.InvalidIssuerError():
            return f"The token is from another issuer than {issuer!r}."
        case jwt.MissingRequiredClaimError():
            return f"The token lacks the claim {error.claim!r}."
        case jwt.InvalidSignatureError():
            return "The signature of the token is wrong."
        case jwt.InvalidKeyError():
            return "The key of the provider is too short for the token's algorithm."
        case _:
            return "The claims of the token cannot be read."


def _refused(message: str) -> SubmissionError:
    hint = "Request a new access token from the provider, for the audience of this service."
    return SubmissionError("unauthenticated", message, hint=hint, status=401)
