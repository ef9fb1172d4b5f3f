"""An OpenID Connect provider: its discovery document, its keys, and its token endpoint.

Both documents are read by the first request that needs them, not at the start of the service, and again every
``FRESH_S``. While the provider is unavailable, the known ones are used. A key that is unknown has them read again, at
most every ``RETRY_S``: tokens with invented key ids make no request storm.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import jwt
from pydantic import BaseModel, ConfigDict, ValidationError

from ingestion_engine.adapters.transport import HttpClient, Response, read_object
from ingestion_engine.domain.errors import IngestionError, SubmissionError, TransientError
from ingestion_engine.runtime.settings import OidcSettings
from ingestion_engine.runtime.telemetry import context_without_fields, get_logger
from ingestion_engine.runtime.validation import describe_faults

FRESH_S: Final = 600.0
"""Age from which the documents are read again: a key that the provider has withdrawn counts for at most this long."""

RETRY_S: Final = 10.0
"""Shortest pause between two readings of the documents, whatever the tokens name."""

TIMEOUT_S: Final = 5.0
"""Time limit of a request to the provider, which somebody who logs in waits for."""

DOCUMENT_MAX_BYTES: Final = 1024 * 1024
"""Largest response that is read; the keys of large providers have 20 kB."""

KEYS_MAX: Final = 100
"""Largest number of keys that are used; providers have fewer than ten."""

DISCOVERY: Final = "/.well-known/openid-configuration"

ALGORITHMS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", ())),
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
"""Accepted algorithms with the type of their keys and its curves. All are asymmetric: with a symmetric one, a public
key could be used as the secret."""

_log = get_logger(__name__)


class ProviderMetadata(BaseModel):
    """What the discovery document says, as far as it is used (OpenID Connect Discovery 1.0, section 3)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


@dataclass(frozen=True, slots=True)
class _Documents:
    metadata: ProviderMetadata
    keys: tuple[Mapping[str, Any], ...]
    read_at: float
    made: dict[tuple[str, str], jwt.PyJWK | None] = field(default_factory=dict)
    """Keys that were made of their JSON, by id and algorithm: reading an RSA key takes as long as checking a token."""

    def find_key(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key of an id, or without an id the only one that fits; None when there is none."""
        fitting = [key for key in self.keys if _fits(key, algorithm) and kid in (None, key.get("kid"))]
        if len(fitting) != 1:
            return None
        name = (str(kid), algorithm)
        if name not in self.made:
            try:
                self.made[name] = jwt.PyJWK(dict(fitting[0]), algorithm)
            except jwt.PyJWTError as error:
                _log.warning("key of the OpenID Connect provider is unusable", extra={"error": type(error).__name__})
                self.made[name] = None
        return self.made[name]


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    """Return whether a key may check signatures of an algorithm. Pure."""
    key_type, curves = ALGORITHMS[algorithm]
    operations = key.get("key_ops")
    return (
        key.get("kty") == key_type
        and (not curves or key.get("crv") in curves)
        and key.get("alg", algorithm) == algorithm
        and key.get("use", "sig") == "sig"
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
    )


class Provider:
    """The provider of the settings. Shared by all requests of one event loop.

    Args:
        settings: Settings with an issuer.
        http: Client for its requests; closed with the provider.
        clock: Monotonic seconds.
    """

    def __init__(
        self, settings: OidcSettings, http: HttpClient, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        assert settings.issuer is not None
        self.issuer: str = settings.issuer
        self._settings = settings
        self._http = http
        self._clock = clock
        self._documents: _Documents | None = None
        self._tried_at: float | None = None
        self._failure: IngestionError | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def discovery_url(self) -> str:
        """Address of the discovery document."""
        return self.issuer.rstrip("/") + DISCOVERY

    async def describe(self) -> ProviderMetadata:
        """Return what the provider says of itself. Raises TransientError "oidc_unavailable" when it is not known."""
        if self._documents is None:
            await self._read_again()
        elif self._is_old(self._documents):
            self._begin_reading()
        if self._documents is None:
            raise self.unavailable()
        return self._documents.metadata

    async def find_end_session(self) -> str | None:
        """Return the address at which people log out; None where the provider has none, or one that is not https.

        Raises:
            TransientError: "oidc_unavailable".
        """
        url = (await self.describe()).end_session_endpoint
        return url if url is not None and self._is_allowed(url) else None

    async def find_key(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that checks a token; None when the provider has no such key.

        Args:
            kid: Id of the key in the token; None when it names none.
            algorithm: One of ``ALGORITHMS``.

        Raises:
            TransientError: "oidc_unavailable": the key is not known, and the provider cannot be asked for it.

        Cost: none for a known key; two requests at most every ``RETRY_S`` otherwise.
        """
        if self._documents is not None:
            if self._is_old(self._documents):
                self._begin_reading()
            key = self._documents.find_key(kid, algorithm)
            if key is not None:
                return key
        await self._read_again()
        if self._documents is None or self._failure is not None:
            raise self.unavailable()
        return self._documents.find_key(kid, algorithm)

    async def examine(self) -> int:
        """Read both documents now; return the number of keys by which tokens can be checked.

        Raises:
            IngestionError: one of them cannot be read or is not what it should be.
        """
        documents = await self._read_documents()
        return sum(any(_fits(key, algorithm) for algorithm in ALGORITHMS) for key in documents.keys)

    async def exchange_code(self, code: str, *, verifier: str, redirect_uri: str) -> str:
        """Return the ID token, not checked yet, for the code of a log-in (RFC 6749 section 4.1.3, RFC 7636).

        Args:
            code: Authorization code of the callback.
            verifier: PKCE code verifier.
            redirect_uri: The one of the authorization request.

        Raises:
            SubmissionError: "log_in_failed" (401): the provider refuses the code, or answers without an ID token.
            TransientError: "oidc_unavailable".
        """
        metadata = await self.describe()
        client_id = self._settings.client_id or ""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            "client_id": client_id,
        }
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        if self._settings.client_secret is not None:
            secret = self._settings.client_secret.get_secret_value()
            methods = metadata.token_endpoint_auth_methods_supported
            if "client_secret_basic" in methods or "client_secret_post" not in methods:
                pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
                headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
            else:
                form["client_secret"] = secret
        url = metadata.token_endpoint
        if url is None:
            raise self.unavailable("The OpenID Connect provider has no token endpoint.")
        try:
            response = await self._request("POST", url, headers=headers, body=urlencode(form).encode())
        except IngestionError as error:
            raise self.unavailable(error.message) from error
        if response.status_code >= 500:
            raise self.unavailable(f"The provider's token endpoint answers with status {response.status_code}.")
        answer = _read_answer(response)
        token = answer.get("id_token")
        if response.status_code == 200 and isinstance(token, str):
            return token
        reason = str(answer.get("error", "it sends no ID token"))[:64]
        raise SubmissionError(
            "log_in_failed",
            f"The OpenID Connect provider does not complete the log-in: {reason!r}.",
            hint="Log in again; if that fails too, check INGEST_OIDC__CLIENT_ID, INGEST_OIDC__CLIENT_SECRET and the "
            "redirect URI that the provider has for the client.",
            status=401,
        )

    async def close(self) -> None:
        """Release connections."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._http.close()

    def _is_old(self, documents: _Documents) -> bool:
        return self._clock() - documents.read_at > FRESH_S

    async def _read_again(self) -> None:
        """Read the documents unless they were just tried; return when the reading that runs has ended."""
        reading = self._begin_reading()
        if reading is not None:
            await asyncio.shield(reading)

    def _begin_reading(self) -> asyncio.Task[None] | None:
        """Return the task that reads the documents, begun if none runs; None where it is too early for another try."""
        if self._reading is not None and not self._reading.done():
            return self._reading
        if self._tried_at is not None and self._clock() - self._tried_at < RETRY_S:
            return None
        self._tried_at = self._clock()
        # It serves all who wait, not only the request that begins it.
        self._reading = asyncio.create_task(self._read(), context=context_without_fields())
        return self._reading

    async def _read(self) -> None:
        try:
            self._documents = await self._read_documents()
        except IngestionError as error:
            self._failure = error
            _log.warning("OpenID Connect provider not read", extra=error.log_fields())
            return
        if self._failure is not None:
            _log.info("OpenID Connect provider available again")
        self._failure = None

    async def _read_documents(self) -> _Documents:
        """Read both documents. Raises IngestionError when one cannot be read or is not what it should be."""
        found = await self._read_json(self.discovery_url)
        try:
            metadata = ProviderMetadata.model_validate(found)
        except ValidationError as error:
            raise self._invalid(describe_faults(error)) from None
        if metadata.issuer != self.issuer:
            raise self._invalid(f"its issuer is another than INGEST_OIDC__ISSUER: {metadata.issuer[:256]!r}")
        for url in (metadata.jwks_uri, metadata.authorization_endpoint, metadata.token_endpoint):
            if url is not None and not self._is_allowed(url):
                raise self._invalid(f"{url[:256]!r} is no address that starts with https://")
        keys = (await self._read_json(metadata.jwks_uri)).get("keys")
        if not isinstance(keys, list):
            raise self._invalid("its keys are no JSON Web Key Set")
        public = [key for key in keys if isinstance(key, dict) and "d" not in key]
        return _Documents(metadata, tuple(public[:KEYS_MAX]), self._clock())

    def _is_allowed(self, url: str) -> bool:
        """Return whether a text is an address that begins with https, or as the issuer does. Pure."""
        try:
            return urlsplit(url).scheme in ("https", urlsplit(self.issuer).scheme)
        except ValueError:
            return False

    async def _read_json(self, url: str) -> dict[str, Any]:
        response = await self._request("GET", url, headers={"accept": "application/json"})
        if response.status_code != 200:
            message = f"The OpenID Connect provider answers {url} with status {response.status_code}."
            raise TransientError("oidc_answer_invalid", message, url=url)
        return read_object(response, "oidc", url)

    async def _request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return await self._http.request(
            method,
            f"{parts.scheme}://{parts.netloc}",
            path,
            timeout_s=TIMEOUT_S,
            headers=headers,
            body=body,
            max_bytes=DOCUMENT_MAX_BYTES,
        )

    def _invalid(self, reason: str) -> TransientError:
        url = self.discovery_url
        message = f"The discovery document {url} cannot be used: {reason.rstrip('.')}."
        return TransientError("oidc_answer_invalid", message, url=url)

    def unavailable(self, sentence: str | None = None) -> TransientError:
        """Return the error for callers: a sentence, or why the provider was not read."""
        known = "The OpenID Connect provider was not read yet." if self._failure is None else self._failure.message
        return TransientError(
            "oidc_unavailable",
            sentence or known,
            hint="Check the provider and INGEST_OIDC__ISSUER, then try again; `ingest doctor` reads both documents.",
            retry_after_s=RETRY_S,
        )


def _read_answer(response: Response) -> dict[str, Any]:
    """Return the JSON object of a response of any status; empty when it is none."""
    try:
        return read_object(response, "oidc", "")
    except TransientError:
        return {}
