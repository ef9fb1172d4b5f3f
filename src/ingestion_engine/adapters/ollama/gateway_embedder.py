"""The embedder through the gateways: waits in their queue, and uses another gateway when one fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from ingestion_engine.adapters.ollama.embedder import (
    CONNECT_TIMEOUT_S,
    DESCRIBE_RETRY,
    DESCRIBE_TIMEOUT_S,
    QUICK_RETRY,
    limit_embed_s,
    make_embed_body,
)
from ingestion_engine.adapters.ollama.failed_tries import FailedTries
from ingestion_engine.adapters.ollama.gateways import Gateway, Gateways
from ingestion_engine.adapters.ollama.responses import (
    canonical_name,
    model_not_found,
    read_digests,
    read_model,
    read_vectors,
    translate_response,
)
from ingestion_engine.adapters.ollama.server_urls import ServerAddress, ServerNames
from ingestion_engine.adapters.ollama.tokenizers import load_counter
from ingestion_engine.adapters.transport import HttpClient, Response, read_object
from ingestion_engine.domain.errors import DimensionDiffers, FlowDropped, RequestFailed, TlsFailed, TransientError
from ingestion_engine.domain.ports import EMBED_TRIES, TokenCounter
from ingestion_engine.domain.records import Band, EmbeddingFlow, ModelInfo
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from ingestion_engine.runtime.server_urls import parse_servers
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.tracing import current_traceparent

if TYPE_CHECKING:
    import numpy.typing as npt

SILENCE_S: Final = 30.0
"""Seconds without a byte after which a gateway counts as dead or frozen. It sends an interim response (``102
Processing``) every ten seconds while a request waits."""


class GatewayEmbedder:
    """The embedder port over the gateways. For one event loop.

    A request has no time limit as a whole: how long it waits depends on the other flows, and waiting is no failure.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        in_flight: int,
        flow: EmbeddingFlow,
        retry: RetryPolicy = QUICK_RETRY,
        describe_retry: RetryPolicy = DESCRIBE_RETRY,
        silence_s: float = SILENCE_S,
        ca_file: Path | None = None,
    ) -> None:
        """Create the client; sends no request.

        Args:
            urls: The gateways, as ``ServerUrl.parse`` reads them.
            in_flight: Maximum number of concurrent requests of this instance.
            flow: Whose requests they are.
            retry: Retry policy of one call of ``embed``, when no gateway serves it.
            describe_retry: Retry policy of ``describe``.
            silence_s: Seconds without a byte after which another gateway is used.
            ca_file: PEM file with the authorities to trust; None means the usual ones.
        """
        self._names = ServerNames(parse_servers(urls))
        self._gateways = Gateways()
        self._slots = asyncio.Semaphore(in_flight)
        self._flow = flow
        self._retry = retry
        self._describe_retry = describe_retry
        self._silence_s = silence_s
        self._dimensions: dict[str, int] = {}
        self._calls = 0
        headers = {"content-type": "application/json"}
        self._client = HttpClient("gateway", connect_timeout_s=CONNECT_TIMEOUT_S, headers=headers, ca_file=ca_file)

    @classmethod
    def from_settings(cls, settings: Settings, *, in_flight: int, flow: EmbeddingFlow) -> GatewayEmbedder:
        """Return an embedder for ``settings.gateway``."""
        return cls(settings.gateway.url, in_flight=in_flight, flow=flow, ca_file=settings.tls.ca_file)

    @property
    def calls(self) -> int:
        """Number of embed requests that returned vectors so far."""
        return self._calls

    async def close(self) -> None:
        """Release connections."""
        await self._names.close()
        await self._client.close()

    async def describe(self, model: str, *, digest: str | None = None) -> ModelInfo:
        """Return name, digest and size of a model, as the gateways serve it: of the first one that answers.

        Args:
            model: Name of the model.
            digest: The digest that is wanted, if any server serves it; None means that of most servers.

        Raises:
            FatalError: "model_not_found", "model_not_embedding", "embedder_access_denied".
            TransientError: no gateway is available.

        Cost: two requests per gateway.
        """

        async def describe_once() -> ModelInfo:
            await self._resolve()
            tasks = [
                asyncio.create_task(self._describe_at(gateway.address, model, digest))
                for gateway in self._gateways.in_order()
            ]
            failure: TransientError | None = None
            try:
                for answer in asyncio.as_completed(tasks):
                    try:
                        return await answer
                    except TransientError as error:
                        failure = error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            raise failure or self._unknown()

        info = await retry_async(describe_once, TransientError, self._describe_retry, unless=TlsFailed)
        self._dimensions[model] = info.dimension
        return info

    async def load_tokenizer(self, model: ModelInfo) -> TokenCounter | None:
        """Return a function that counts a text's tokens as the servers do; None unless the model uses word pieces.

        Raises:
            TransientError: no gateway is available.

        Cost: two requests the first time in a process, else none.
        """

        async def load() -> TokenCounter | None:
            await self._resolve()
            gateways = self._gateways.in_order()
            show = functools.partial(self._show, model=model.name, wanted=model.digest, verbose=True)
            shows = (functools.partial(show, gateway.address) for gateway in gateways)
            return await load_counter(model, shows)

        return await retry_async(load, TransientError, self._describe_retry, unless=TlsFailed)

    async def _describe_at(self, address: ServerAddress, model: str, wanted: str | None) -> ModelInfo:
        digest, shown = await self._show(address, model=model, wanted=wanted)
        return read_model(shown, model=model, digest=digest, url=address.url)

    async def _show(
        self, address: ServerAddress, *, model: str, wanted: str | None, verbose: bool = False
    ) -> tuple[str, Mapping[str, Any]]:
        """Return the digest of a model that a gateway serves, and its description; the vocabulary only when verbose."""
        headers = {} if wanted is None else {"Ingest-Model-Digest": wanted}
        url, show = address.url, orjson.dumps({"model": model} | ({"verbose": True} if verbose else {}))
        tags = await self._request("GET", address, "/api/tags", model=model, headers=headers)
        shown = await self._request("POST", address, "/api/show", model=model, body=show, headers=headers)
        digest = read_digests(read_object(tags, "gateway", url), url=url).get(canonical_name(model))
        if digest is None:
            raise model_not_found(url, model, f"Model {model!r} is not listed.", service="gateway")
        return digest, read_object(shown, "gateway", url)

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = EMBED_TRIES
    ) -> npt.NDArray[np.float32]:
        """Return ``float32[len(texts), dimension]``; row i belongs to texts[i]. Texts are never truncated.

        A gateway that fails is replaced by another one at once; when all have failed, the request is repeated with
        jitter until the retry policy's deadline. Idempotent.

        Args:
            model: Name of the model.
            texts: The texts.
            digest: Digest that the server must serve; None means that of most servers.
            tries: Failures of this request by servers that received it, after which it is given up.

        Raises:
            TextRefused: TextTooLong, "embedding_nan", "embedding_refused": one text makes the whole request fail.
            FatalError: "model_not_found", "embedder_access_denied", "model_digest_differs" (DimensionDiffers).
            RequestFailed: servers received and failed it ``tries`` times, or the last time before the deadline.
            FlowDropped: the flow is refused, because its job was canceled; at once.
            TransientError: still failing at the deadline.

        Cost: one request; the numbers are float64 briefly, then float32.
        """
        if not texts:
            return np.empty((0, self._dimensions.get(model, 0)), dtype=np.float32)
        body, headers = make_embed_body(model, texts), self._make_headers(texts, digest)
        outage, failed = _OutageClock(self._silence_s), FailedTries(tries)

        async def embed_once() -> npt.NDArray[np.float32]:
            with outage.trying():
                return await failed.attempt(self._embed_anywhere(model, body, headers=headers, count=len(texts)))

        async with self._slots:
            await self._resolve()
            # Another gateway may have a certificate that is accepted.
            final = (FlowDropped, RequestFailed, *([TlsFailed] if len(self._gateways) == 1 else []))
            vectors = await failed.conclude(
                retry_async(embed_once, TransientError, self._retry, unless=final, clock=outage)
            )
        self._calls += 1
        return vectors

    def _make_headers(self, texts: Sequence[str], digest: str | None) -> dict[str, str]:
        """Return what the gateway is to know of a request. Pure."""
        flow = self._flow
        headers = {"Ingest-Flow": flow.key, "Ingest-Band": flow.band.value, "Ingest-Weight": str(flow.weight)}
        headers["Ingest-Timeout"] = f"{limit_embed_s(sum(map(len, texts))):.0f}"
        if flow.band is Band.SEARCH and (parent := current_traceparent()) is not None:
            headers["traceparent"] = parent  # not for jobs: a partition has hundreds of requests
        return headers if digest is None else {**headers, "Ingest-Model-Digest": digest}

    async def _embed_anywhere(
        self, model: str, body: bytes, *, headers: Mapping[str, str], count: int
    ) -> npt.NDArray[np.float32]:
        """Return the vectors from the first gateway that serves the request; each is tried once.

        A request that two servers have failed is not sent through another gateway at once: its texts may be at fault.
        """
        await self._resolve()
        failure: TransientError | None = None
        failed_servers = 0
        for gateway in self._gateways.in_order():
            try:
                return await self._embed_at(gateway, model, body, headers=headers, count=count)
            except FlowDropped:
                raise
            except TransientError as error:
                failed_servers += error.context.get("failed_servers", 0)
                if failed_servers:
                    error.context["failed_servers"] = failed_servers
                if failed_servers > 1:
                    raise
                self._gateways.note_failure(gateway)
                failure = error
        raise failure or self._unknown()

    async def _embed_at(
        self, gateway: Gateway, model: str, body: bytes, *, headers: Mapping[str, str], count: int
    ) -> npt.NDArray[np.float32]:
        url = gateway.address.url
        gateway.in_flight += 1
        try:
            response = await self._request(
                "POST", gateway.address, "/api/embed", model=model, body=body, headers=headers, is_queued=True
            )
            vectors = read_vectors(response.content, count, url=url, model=model)
        finally:
            gateway.in_flight -= 1
        self._gateways.note_success(gateway)
        expected = self._dimensions.setdefault(model, vectors.shape[1])
        if vectors.shape[1] != expected:
            message = f"Model '{model}' returned {vectors.shape[1]} dimensions through {url}, {expected} before."
            hint = "Run `ollama pull` on each server behind the gateway, so that all have the same model."
            raise DimensionDiffers("model_digest_differs", message, hint=hint, model=model, url=url)
        return vectors

    async def _request(
        self,
        method: str,
        address: ServerAddress,
        path: str,
        *,
        model: str,
        body: bytes | None = None,
        headers: Mapping[str, str],
        is_queued: bool = False,
    ) -> Response:
        """Send one request and return its successful response; one that waits in the queue has no time limit."""
        response = await self._client.request(
            method,
            address.base,
            path,
            body=body,
            headers=headers,
            timeout_s=None if is_queued else DESCRIBE_TIMEOUT_S,
            silence_s=self._silence_s if is_queued else None,
            server_name=address.server_name,
        )
        if response.status_code != HTTPStatus.OK:
            raise translate_response(response, address.url, model, service="gateway")
        return response

    async def _resolve(self) -> None:
        self._gateways.set_addresses(await self._names.find())

    def _unknown(self) -> TransientError:
        names: Any = ", ".join(self._names.unresolved) or "INGEST_GATEWAY__URL"
        return TransientError("gateway_unavailable", f"No gateway is known: {names} does not resolve.")


class _OutageClock:
    """Monotonic seconds of an outage: most of a try during which a gateway proved for long that it waits is left out.

    Otherwise two failures an hour apart, each after half an hour in the queue, would look like an outage of an hour.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._left_out_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._left_out_s

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Measure one try. A long one counts for half the limit on silence, so that an endless row of them ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            lasted_s = time.monotonic() - began
            if lasted_s > 1.5 * self._silence_s:  # a gateway that is silent from the beginning lasts for one
                self._left_out_s += lasted_s - self._silence_s / 2
