"""The embedder: a pool of Ollama servers, called only through ``POST /api/embed``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ingestion_engine.adapters.ollama.responses import (
    find_digest,
    model_not_found,
    read_model,
    read_vectors,
    translate_response,
)
from ingestion_engine.adapters.ollama.server_pool import Endpoint, EndpointPool
from ingestion_engine.adapters.transport import HttpClient, Response, read_object
from ingestion_engine.domain.errors import FatalError, TlsFailed, TransientError
from ingestion_engine.domain.records import ModelInfo
from ingestion_engine.runtime.limiter import TokenBucket
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from ingestion_engine.runtime.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt

OPTIONS: dict[str, Any] = {}
"""Identical for every request of every worker: Ollama reloads the model whenever the options change."""
CONNECT_TIMEOUT_S = 5.0
BASE_TIMEOUT_S = 60.0
"""Time to load a model from a slow disk and to wait for another request."""
CHARS_PER_S = 100.0
"""Speed of the slowest supported server (a guess): all-MiniLM on one core embeds 6,000 characters per second."""
DESCRIBE_TIMEOUT_S = 10.0
QUICK_RETRY = RetryPolicy(first_s=0.25, longest_s=5.0, deadline_s=60.0)
"""After this the partition is retried, which costs more than waiting but lets the driver pause the whole job."""
DESCRIBE_RETRY = RetryPolicy(first_s=0.25, longest_s=1.0, deadline_s=1.5)
"""Shorter than the checks before a job (2 s), so that they report why the server does not respond."""


class OllamaEmbedder:
    """The embedder port over a pool of Ollama servers. For one event loop."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        in_flight: int,
        texts_per_second: float | None = None,
        retry: RetryPolicy = QUICK_RETRY,
        describe_retry: RetryPolicy = DESCRIBE_RETRY,
        pool: EndpointPool | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """Create the client; sends no request.

        Args:
            urls: Base URLs of servers with the same models.
            in_flight: Maximum number of concurrent requests of this instance.
            texts_per_second: Maximum number of texts sent per second, including retries; None means no limit.
            retry: Retry policy of one call of ``embed``.
            describe_retry: Retry policy of ``describe`` for each server.
            pool: Pool of servers; None creates one from ``urls``.
            ca_file: PEM file with the authorities to trust; None means the usual ones.
        """
        self._pool = pool or EndpointPool(urls)
        self._slots = asyncio.Semaphore(in_flight)
        self._bucket = TokenBucket(texts_per_second) if texts_per_second else None
        self._retry = retry
        self._describe_retry = describe_retry
        self._dimensions: dict[str, int] = {}
        self._calls = 0
        headers = {"content-type": "application/json"}
        self._client = HttpClient("ollama", connect_timeout_s=CONNECT_TIMEOUT_S, headers=headers, ca_file=ca_file)

    @classmethod
    def from_settings(
        cls, settings: Settings, *, in_flight: int, texts_per_second: float | None = None, home: int | None = None
    ) -> OllamaEmbedder:
        """Return an embedder for ``settings.ollama``; the limits are the caller's share of the cluster-wide ones."""
        urls = settings.ollama.urls
        pool = EndpointPool(urls, home=home)
        ca_file = settings.tls.ca_file
        return cls(urls, in_flight=in_flight, texts_per_second=texts_per_second, pool=pool, ca_file=ca_file)

    @property
    def calls(self) -> int:
        """Number of embed requests that returned vectors so far."""
        return self._calls

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    async def describe(self, model: str) -> ModelInfo:
        """Return name, digest and size of a model; all available servers must agree.

        Raises:
            FatalError: "model_not_found" (an available server does not have it), "model_digest_differs",
                "model_not_embedding".
            TransientError: no server is available.

        Cost: two requests per server.
        """
        outcomes = await asyncio.gather(
            *(self._describe_at(endpoint.url, model) for endpoint in self._pool.endpoints), return_exceptions=True
        )
        found: dict[str, ModelInfo] = {}
        for endpoint, outcome in zip(self._pool.endpoints, outcomes, strict=True):
            if isinstance(outcome, ModelInfo):
                found[endpoint.url] = outcome
            elif not isinstance(outcome, TransientError):
                raise outcome
        if not found:
            raise next(outcome for outcome in outcomes if isinstance(outcome, TransientError))
        (url, info), *others = found.items()
        for other_url, other in others:
            if other.digest != info.digest:
                raise _digest_differs(model, {url: info.digest, other_url: other.digest})
        self._dimensions[model] = info.dimension
        return info

    async def _describe_at(self, url: str, model: str) -> ModelInfo:
        async def describe() -> ModelInfo:
            timeout_s = DESCRIBE_TIMEOUT_S
            tags = await self._request("GET", url, "/api/tags", model=model, timeout_s=timeout_s)
            show = orjson.dumps({"model": model})
            shown = await self._request("POST", url, "/api/show", body=show, model=model, timeout_s=timeout_s)
            digest = find_digest(read_object(tags, "ollama", url), model, url=url)
            if digest is None:
                raise model_not_found(url, model, f"Model {model!r} is not listed.")
            return read_model(read_object(shown, "ollama", url), model=model, digest=digest, url=url)

        return await retry_async(describe, TransientError, self._describe_retry, unless=TlsFailed)

    async def embed(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return ``float32[len(texts), dimension]``; row i belongs to texts[i]. Texts are never truncated.

        Every temporary failure is retried with jitter, each time on the best server, until the retry policy's deadline.
        Idempotent.

        Raises:
            TextRefused: TextTooLong, "embedding_nan", "embedding_refused": one text makes the whole request fail.
            FatalError: "model_not_found", "embedder_access_denied", "model_digest_differs" (another dimension than
                described).
            TransientError: still failing at the deadline.

        Cost: one request; the numbers are float64 briefly, then float32.
        """
        if not texts:
            return np.empty((0, self._dimensions.get(model, 0)), dtype=np.float32)
        request: dict[str, Any] = {"model": model, "input": list(texts), "truncate": False}
        body = orjson.dumps(request | ({"options": OPTIONS} if OPTIONS else {}))
        timeout_s = BASE_TIMEOUT_S + sum(map(len, texts)) / CHARS_PER_S

        async def embed_once() -> npt.NDArray[np.float32]:
            if self._bucket is not None:
                await self._bucket.take(len(texts))
            return await self._embed_once(model, body, count=len(texts), timeout_s=timeout_s)

        async with self._slots:
            # Another server of the pool may have a certificate that is accepted.
            is_alone = len(self._pool.endpoints) == 1
            vectors = await retry_async(embed_once, TransientError, self._retry, unless=TlsFailed if is_alone else ())
        self._calls += 1
        return vectors

    async def _embed_once(self, model: str, body: bytes, *, count: int, timeout_s: float) -> npt.NDArray[np.float32]:
        endpoint = self._pool.choose()
        endpoint.in_flight += 1
        try:
            url = endpoint.url
            response = await self._request("POST", url, "/api/embed", body=body, model=model, timeout_s=timeout_s)
            vectors = read_vectors(response.content, count, url=url, model=model)
        except TransientError:
            self._pool.note_failure(endpoint)
            raise
        finally:
            endpoint.in_flight -= 1
        self._pool.note_success(endpoint)
        self._check_dimension(model, vectors.shape[1], endpoint)
        return vectors

    def _check_dimension(self, model: str, dimension: int, endpoint: Endpoint) -> None:
        expected = self._dimensions.setdefault(model, dimension)
        if dimension != expected:
            message = f"Model '{model}' returned {dimension} dimensions at {endpoint.url}, {expected} before."
            raise FatalError("model_digest_differs", message, hint=_SAME_MODEL, model=model, url=endpoint.url)

    async def _request(
        self, method: str, url: str, path: str, *, model: str, timeout_s: float, body: bytes | None = None
    ) -> Response:
        """Send one request and return its successful response; ``model`` is named in errors."""
        response = await self._client.request(method, url, path, body=body, timeout_s=timeout_s)
        if response.status_code != HTTPStatus.OK:
            raise translate_response(response, url, model)
        return response


_SAME_MODEL = "Run `ollama pull` on each server of INGEST_OLLAMA__URLS, so that all have the same model."


def _digest_differs(model: str, digests: dict[str, str]) -> FatalError:
    message = f"Model '{model}' differs between servers: " + ", ".join(f"{u} has {d}" for u, d in digests.items()) + "."
    return FatalError("model_digest_differs", message, hint=_SAME_MODEL, model=model, digests=digests)
