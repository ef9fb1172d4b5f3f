"""The embedder: a pool of Ollama servers, called only through ``POST /api/embed``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ingestion_engine.adapters.ollama.failed_tries import FailedTries
from ingestion_engine.adapters.ollama.responses import (
    canonical_name,
    model_not_found,
    read_digests,
    read_load_s,
    read_model,
    read_vectors,
    translate_response,
)
from ingestion_engine.adapters.ollama.server_pool import Flight, Server, ServerPool
from ingestion_engine.adapters.ollama.server_urls import ServerAddress, ServerNames
from ingestion_engine.adapters.ollama.server_watch import SAME_MODEL, ServerWatch
from ingestion_engine.adapters.ollama.tokenizers import ABOUT_ONE_SERVER, load_counter
from ingestion_engine.adapters.transport import HttpClient, Response, read_object
from ingestion_engine.domain.errors import (
    DimensionDiffers,
    FatalError,
    IngestionError,
    RequestFailed,
    TlsFailed,
    TransientError,
)
from ingestion_engine.domain.ports import EMBED_TRIES, TokenCounter
from ingestion_engine.domain.records import ModelInfo
from ingestion_engine.runtime.adaptive_limit import Outcome
from ingestion_engine.runtime.limiter import TokenBucket
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from ingestion_engine.runtime.server_urls import parse_servers
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


def make_embed_body(model: str, texts: Sequence[str]) -> bytes:
    """Return the body of ``POST /api/embed``. Pure."""
    request: dict[str, Any] = {"model": model, "input": list(texts), "truncate": False}
    return orjson.dumps(request | ({"options": OPTIONS} if OPTIONS else {}))


def limit_embed_s(chars: int) -> float:
    """Return the time limit in seconds of one request of that many characters at one server. Pure."""
    return BASE_TIMEOUT_S + chars / CHARS_PER_S


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
        home: int | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """Create the client; sends no request.

        Args:
            urls: Servers, as ``ServerUrl.parse`` reads them.
            in_flight: Maximum number of concurrent requests of this instance.
            texts_per_second: Maximum number of texts sent per second, including retries; None means no limit.
            retry: Retry policy of one call of ``embed``.
            describe_retry: Retry policy of ``describe`` for each server.
            home: Number of the preferred server, as for ``ServerPool``.
            ca_file: PEM file with the authorities to trust; None means the usual ones.
        """
        names = ServerNames(parse_servers(urls))
        self.pool = ServerPool(names.list(), home=home, most=in_flight)
        """The servers and their states."""
        self._watch = ServerWatch(self.pool, names, self._read_digests)
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
        urls, ca_file = settings.ollama.urls, settings.tls.ca_file
        return cls(urls, in_flight=in_flight, texts_per_second=texts_per_second, home=home, ca_file=ca_file)

    @property
    def calls(self) -> int:
        """Number of embed requests that returned vectors so far."""
        return self._calls

    async def close(self) -> None:
        """Release connections."""
        await self._watch.close()
        await self._client.close()

    async def describe(self, model: str, *, digest: str | None = None) -> ModelInfo:
        """Return name, digest and size of a model, as most available servers serve it.

        Servers that differ, or do not have the model, are logged and not used for it.

        Args:
            model: Name of the model.
            digest: The digest that is wanted, if any server serves it; None means that of most servers.

        Raises:
            FatalError: "model_not_found" (no available server has it), "model_not_embedding",
                "embedder_access_denied".
            TransientError: no server is available.

        Cost: two requests per server.
        """
        await self._watch.resolve()
        servers = self.pool.servers
        outcomes = await asyncio.gather(
            *(self._describe_at(server, model) for server in servers), return_exceptions=True
        )
        found: dict[str, ModelInfo] = {}
        errors: list[BaseException] = []
        for server, outcome in zip(servers, outcomes, strict=True):
            if isinstance(outcome, ModelInfo):
                found[outcome.digest] = found.get(outcome.digest, outcome)
                continue
            errors.append(outcome)
            if isinstance(outcome, TransientError):
                self.pool.note_unreachable(server, outcome.message)
            elif not (isinstance(outcome, FatalError) and outcome.code in ABOUT_ONE_SERVER):
                raise outcome
        if not found:
            unavailable = TransientError("ollama_unavailable", "No Ollama server is known.")
            raise next((e for e in errors if not isinstance(e, TransientError)), errors[0] if errors else unavailable)
        reference = self.pool.models.choose_reference(model)
        info = found.get(digest or "") or found.get(reference or "") or next(iter(found.values()))
        self._dimensions[model] = info.dimension
        return info

    async def load_tokenizer(self, model: ModelInfo) -> TokenCounter | None:
        """Return a function that counts a text's tokens as the server does; None unless it uses word pieces.

        Raises:
            TransientError: no server with the digest of the model is available.

        Cost: two requests the first time in a process, else none.
        """
        show = functools.partial(self._show_again, model.name)
        return await load_counter(model, (functools.partial(show, server) for server in self.pool.servers))

    async def _show_again(self, model: str, server: Server) -> tuple[str, Mapping[str, Any]]:
        show = functools.partial(self._show, server, model, verbose=True)
        return await retry_async(show, TransientError, self._describe_retry, unless=TlsFailed)

    async def _describe_at(self, server: Server, model: str) -> ModelInfo:
        async def describe() -> ModelInfo:
            digest, shown = await self._show(server, model)
            return read_model(shown, model=model, digest=digest, url=server.url)

        return await retry_async(describe, TransientError, self._describe_retry, unless=TlsFailed)

    async def _show(self, server: Server, model: str, *, verbose: bool = False) -> tuple[str, Mapping[str, Any]]:
        """Return the digest of a model on a server and its description; the vocabulary only when verbose."""
        digests = await self._read_digests(server.address)
        self.pool.note_models(server, digests)
        body = orjson.dumps({"model": model} | ({"verbose": True} if verbose else {}))
        shown = await self._request(
            "POST", server.address, "/api/show", body=body, model=model, timeout_s=DESCRIBE_TIMEOUT_S
        )
        digest = digests.get(canonical_name(model))
        if digest is None:
            raise model_not_found(server.url, model, f"Model {model!r} is not listed.")
        return digest, read_object(shown, "ollama", server.url)

    async def _read_digests(self, address: ServerAddress) -> Mapping[str, str]:
        """Return the digest by name of every model that a server lists. Raises IngestionError."""
        tags = await self._request("GET", address, "/api/tags", timeout_s=DESCRIBE_TIMEOUT_S)
        return read_digests(read_object(tags, "ollama", address.url), url=address.url)

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = EMBED_TRIES
    ) -> npt.NDArray[np.float32]:
        """Return ``float32[len(texts), dimension]``; row i belongs to texts[i]. Texts are never truncated.

        Every temporary failure is retried with jitter, each time on the best server (another one, while one has not
        failed), until the retry policy's deadline. Idempotent.

        Args:
            model: Name of the model.
            texts: The texts.
            digest: Digest that the server must serve; None means that of most servers.
            tries: Failures of this request by servers that received it, after which it is given up.

        Raises:
            TextRefused: TextTooLong, "embedding_nan", "embedding_refused": one text makes the whole request fail.
            FatalError: "model_not_found", "embedder_access_denied", "model_digest_differs" (no server serves the
                digest any more; DimensionDiffers).
            RequestFailed: servers received and failed it ``tries`` times, or the last time before the deadline.
            TransientError: still failing at the deadline.

        Cost: one request; the numbers are float64 briefly, then float32.
        """
        if not texts:
            return np.empty((0, self._dimensions.get(model, 0)), dtype=np.float32)
        body, chars, failed = make_embed_body(model, texts), sum(map(len, texts)), FailedTries(tries)

        async def embed_once() -> npt.NDArray[np.float32]:
            if self._bucket is not None:
                await self._bucket.take(len(texts))
            flight = await self._watch.acquire(model, chars, digest=digest)
            return await failed.attempt(self._embed_at(flight, model, body, count=len(texts)))

        async with self._slots:
            # Another server of the pool may have a certificate that is accepted.
            final = (RequestFailed, TlsFailed) if len(self.pool.servers) == 1 else RequestFailed
            vectors = await failed.conclude(retry_async(embed_once, TransientError, self._retry, unless=final))
        self._calls += 1
        return vectors

    async def _embed_at(self, flight: Flight, model: str, body: bytes, *, count: int) -> npt.NDArray[np.float32]:
        """Send the request that has begun, and record how it ended."""
        address, timeout_s = flight.server.address, limit_embed_s(flight.passage.chars)
        outcome, error, retry_after_s, load_s = Outcome.ABANDONED, None, None, 0.0  # canceled
        is_sent = False

        def note_sent() -> None:
            nonlocal is_sent
            is_sent = True

        try:
            response = await self._request(
                "POST", address, "/api/embed", body=body, model=model, timeout_s=timeout_s, on_sent=note_sent
            )
            vectors = read_vectors(response.content, count, url=address.url, model=model)
            outcome, load_s = Outcome.DONE, read_load_s(response.content)
        except TransientError as failure:
            outcome, error, retry_after_s = Outcome.FAILED, failure.message, failure.context.get("retry_after_s")
            if is_sent and "status" not in failure.context:  # no answer, or not one vector per text
                failure.context["failed_servers"] = 1
            raise
        except IngestionError:
            outcome = Outcome.REFUSED
            raise
        finally:
            self.pool.end(flight, outcome, error=error, retry_after_s=retry_after_s, load_s=load_s)
        self._check_dimension(model, vectors.shape[1], address.url)
        return vectors

    def _check_dimension(self, model: str, dimension: int, url: str) -> None:
        expected = self._dimensions.setdefault(model, dimension)
        if dimension != expected:
            message = f"Model '{model}' returned {dimension} dimensions at {url}, {expected} before."
            raise DimensionDiffers("model_digest_differs", message, hint=SAME_MODEL, model=model, url=url)

    async def _request(
        self,
        method: str,
        address: ServerAddress,
        path: str,
        *,
        timeout_s: float,
        model: str = "",
        body: bytes = b"",
        on_sent: Callable[[], None] | None = None,
    ) -> Response:
        """Send one request and return its successful response; ``model`` is named in errors."""
        response = await self._client.request(
            method,
            address.base,
            path,
            body=body or None,
            timeout_s=timeout_s,
            server_name=address.server_name,
            on_sent=on_sent,
        )
        if response.status_code != HTTPStatus.OK:
            raise translate_response(response, address.url, model)
        return response
