"""The embedder: a pool of Ollama servers, spoken to by ``POST /api/embed`` only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ingestion_engine.adapters.ollama.responses import (
    find_digest,
    model_not_found,
    read_model,
    read_vectors,
    translate_answer,
)
from ingestion_engine.adapters.ollama.server_pool import Endpoint, EndpointPool
from ingestion_engine.adapters.transport import Answer, HttpClient, read_object
from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.domain.records import ModelInfo
from ingestion_engine.runtime.limiter import TokenBucket
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from ingestion_engine.runtime.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt

OPTIONS: dict[str, Any] = {}
"""The same for every request of every worker, for ever: Ollama reloads the model whenever they change."""
CONNECT_TIMEOUT_S = 5.0
BASE_TIMEOUT_S = 60.0
"""Loading a model from a slow disk, and waiting behind another request."""
CHARS_PER_S = 100.0
"""The slowest server worth waiting for (a guess): all-MiniLM on one core does 6,000 characters per second."""
DESCRIBE_TIMEOUT_S = 10.0
QUICK_RETRY = RetryPolicy(first_s=0.25, longest_s=5.0, deadline_s=60.0)
"""Then the partition is put back, which costs more than waiting here but lets the driver pause the whole job."""
DESCRIBE_RETRY = RetryPolicy(first_s=0.25, longest_s=1.0, deadline_s=5.0)


class OllamaEmbedder:
    """Text to vectors by a pool of Ollama servers. For one event loop."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        in_flight: int,
        texts_per_second: float | None = None,
        retry: RetryPolicy = QUICK_RETRY,
        describe_retry: RetryPolicy = DESCRIBE_RETRY,
        pool: EndpointPool | None = None,
    ) -> None:
        """Make no request yet.

        Args:
            urls: Base URLs of servers with the same models.
            in_flight: Requests at once at most, from this instance.
            texts_per_second: Texts sent per second at most, retries included; None means no limit.
            retry: How long one call of ``embed`` keeps trying.
            describe_retry: How long ``describe`` keeps trying each server.
            pool: The choice of servers; made from ``urls`` when None.
        """
        self._pool = pool or EndpointPool(urls)
        self._slots = asyncio.Semaphore(in_flight)
        self._bucket = TokenBucket(texts_per_second) if texts_per_second else None
        self._retry = retry
        self._describe_retry = describe_retry
        self._dimensions: dict[str, int] = {}
        self._calls = 0
        headers = {"content-type": "application/json"}
        self._client = HttpClient("ollama", connect_timeout_s=CONNECT_TIMEOUT_S, headers=headers)

    @classmethod
    def from_settings(
        cls, settings: Settings, in_flight: int, texts_per_second: float | None = None, home: int | None = None
    ) -> OllamaEmbedder:
        """Return an embedder for ``settings.ollama``; the limits are the caller's share of the cluster-wide ones."""
        urls = settings.ollama.urls
        pool = EndpointPool(urls, home=home)
        return cls(urls, in_flight=in_flight, texts_per_second=texts_per_second, pool=pool)

    @property
    def calls(self) -> int:
        """Embed requests answered with vectors so far."""
        return self._calls

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    async def describe(self, model: str) -> ModelInfo:
        """Return name, digest and size of a model; servers that are away are not asked to agree.

        Raises:
            FatalError: "model_not_found" (a server that answers lacks it), "model_digest_differs",
                "model_not_embedding".
            TransientError: no server answers.

        Cost: two requests per server.
        """
        answers = await asyncio.gather(
            *(self._describe_at(endpoint.url, model) for endpoint in self._pool.endpoints), return_exceptions=True
        )
        found: dict[str, ModelInfo] = {}
        for endpoint, answer in zip(self._pool.endpoints, answers, strict=True):
            if isinstance(answer, ModelInfo):
                found[endpoint.url] = answer
            elif not isinstance(answer, TransientError):
                raise answer
        if not found:
            raise next(answer for answer in answers if isinstance(answer, TransientError))
        (url, info), *others = found.items()
        for other_url, other in others:
            if other.digest != info.digest:
                raise _digest_differs(model, {url: info.digest, other_url: other.digest})
        self._dimensions[model] = info.dimension
        return info

    async def _describe_at(self, url: str, model: str) -> ModelInfo:
        async def ask() -> ModelInfo:
            tags = await self._ask(url, model, "GET", "/api/tags", None, DESCRIBE_TIMEOUT_S)
            show = orjson.dumps({"model": model})
            shown = await self._ask(url, model, "POST", "/api/show", show, DESCRIBE_TIMEOUT_S)
            digest = find_digest(read_object(tags, "ollama", url), model)
            if digest is None:
                raise model_not_found(url, model, f"model {model!r} is not listed")
            return read_model(read_object(shown, "ollama", url), model, digest, url)

        return await retry_async(ask, TransientError, self._describe_retry)

    async def embed(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return ``float32[len(texts), dimension]``; row i belongs to texts[i]. Nothing is ever truncated.

        Every failure that may pass is tried again, on the server that is best by then, with jitter, until the retry
        policy's deadline. Idempotent.

        Raises:
            TextRefused: "text_too_long", "embedding_nan", "embedding_refused": some text makes the whole request
                impossible.
            FatalError: "model_not_found", "embedder_access_denied", "model_digest_differs" (another dimension than
                described).
            TransientError: still failing at the deadline.

        Cost: one request; the answer's numbers are float64 for a moment, then float32.
        """
        if not texts:
            return np.empty((0, self._dimensions.get(model, 0)), dtype=np.float32)
        request: dict[str, Any] = {"model": model, "input": list(texts), "truncate": False}
        body = orjson.dumps(request | ({"options": OPTIONS} if OPTIONS else {}))
        timeout_s = BASE_TIMEOUT_S + sum(map(len, texts)) / CHARS_PER_S

        async def ask() -> npt.NDArray[np.float32]:
            if self._bucket is not None:
                await self._bucket.take(len(texts))
            return await self._embed_once(model, body, len(texts), timeout_s)

        async with self._slots:
            vectors = await retry_async(ask, TransientError, self._retry)
        self._calls += 1
        return vectors

    async def _embed_once(self, model: str, body: bytes, count: int, timeout_s: float) -> npt.NDArray[np.float32]:
        endpoint = self._pool.choose()
        endpoint.in_flight += 1
        try:
            answer = await self._ask(endpoint.url, model, "POST", "/api/embed", body, timeout_s)
            vectors = read_vectors(answer.content, count, endpoint.url, model)
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
            said = f"{model} gives {dimension} dimensions on {endpoint.url}, {expected} before"
            raise FatalError("model_digest_differs", said, hint=_SAME_MODEL, model=model, url=endpoint.url)

    async def _ask(self, url: str, model: str, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        response = await self._client.request(method, url, path, body=body, timeout_s=timeout_s)
        if response.status_code != HTTPStatus.OK:
            raise translate_answer(response, url, model)
        return response


_SAME_MODEL = "All servers of INGEST_OLLAMA__URLS must have the same model: run `ollama pull` on each."


def _digest_differs(model: str, digests: dict[str, str]) -> FatalError:
    said = f"{model} is not the same everywhere: " + ", ".join(f"{url} has {digest}" for url, digest in digests.items())
    return FatalError("model_digest_differs", said, hint=_SAME_MODEL, model=model, digests=digests)
