"""What each Ollama server, or each gateway, serves right now: for examinations, not for embedding."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import orjson

from ingestion_engine.adapters.ollama.embedder import DESCRIBE_TIMEOUT_S, limit_embed_s, make_embed_body
from ingestion_engine.adapters.ollama.responses import (
    canonical_name,
    model_not_found,
    read_digests,
    read_model,
    read_vectors,
    translate_response,
)
from ingestion_engine.adapters.ollama.server_urls import ServerAddress, ServerNames
from ingestion_engine.adapters.transport import HttpClient, Response, read_object
from ingestion_engine.domain.errors import DimensionDiffers, IngestionError
from ingestion_engine.domain.records import ModelInfo
from ingestion_engine.runtime.server_urls import parse_servers

CONNECT_TIMEOUT_S: Final = 5.0
TEXT: Final = "The quick brown fox jumps over the lazy dog."
"""Text that each server embeds; any server embeds one of this length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """What one server answered. What was not reached is None."""

    url: str
    version: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    """Digest of every model that it lists, by canonical name."""
    model: ModelInfo | None = None
    latency_ms: float | None = None
    """Duration of the list of models; None when something else than such a server answered."""
    embed_ms: float | None = None
    """Duration of one text; the first one after a pause includes loading the model."""
    peers: tuple[str, ...] | None = None
    """The servers behind a gateway, by URL; None for another server."""
    error: IngestionError | None = None
    """Why a later step was not reached."""


class Survey:
    """Asks all servers of a list. For one event loop."""

    def __init__(self, urls: Sequence[str], *, service: str = "ollama", ca_file: Path | None = None) -> None:
        """Create the client; sends no request.

        Args:
            urls: Servers, as ``ServerUrl.parse`` reads them.
            service: What they are: "ollama" or "gateway".
            ca_file: PEM file with the authorities to trust; None means the usual ones.
        """
        self._service = service
        self._names = ServerNames(parse_servers(urls))
        # A gateway serves searches first, so that a queue of jobs does not look like an outage.
        flow = {"ingest-flow": "doctor", "ingest-band": "search"} if service == "gateway" else {}
        headers = {"content-type": "application/json", **flow}
        self._client = HttpClient(
            service, connect_timeout_s=CONNECT_TIMEOUT_S, headers=headers, ca_file=ca_file, shows_waits=False
        )

    async def close(self) -> None:
        """Release connections."""
        await self._names.close()
        await self._client.close()

    async def inspect(self, model: str) -> tuple[list[ServerReport], list[str]]:
        """Return a report of every server, and the names that do not resolve. Four or five requests per server.

        Never raises for a server; its report has the error.
        """
        addresses = await self._names.refresh()
        reports = await asyncio.gather(*(self._inspect(address, model) for address in addresses))
        return list(reports), self._names.unresolved

    async def _inspect(self, address: ServerAddress, model: str) -> ServerReport:
        found: dict[str, Any] = {"url": address.url}
        try:
            if self._service == "gateway":
                found["peers"] = await self._read_peers(address)
            began = time.perf_counter()
            tags = await self._request("GET", address, "/api/tags")
            latency_ms = _since(began)
            found["digests"] = read_digests(read_object(tags, self._service, address.url), url=address.url)
            found["latency_ms"] = latency_ms
            version = await self._request("GET", address, "/api/version")
            found["version"] = str(read_object(version, self._service, address.url).get("version", "unknown"))
            digest = found["digests"].get(canonical_name(model))
            if digest is None:
                listed = f"Model {model!r} is not listed."
                raise model_not_found(address.url, model, listed, service=self._service)
            body = orjson.dumps({"model": model})
            shown = await self._request("POST", address, "/api/show", body=body, model=model)
            info = read_model(
                read_object(shown, self._service, address.url), model=model, digest=digest, url=address.url
            )
            found["model"] = info
            began = time.perf_counter()
            await self._embed(address, info)
            found["embed_ms"] = _since(began)
        except IngestionError as error:
            found["error"] = error
        return ServerReport(**found)

    async def _embed(self, address: ServerAddress, info: ModelInfo) -> None:
        """Embed one text. Raises IngestionError, DimensionDiffers for vectors of another length."""
        body = make_embed_body(info.name, [TEXT])
        response = await self._request(
            "POST", address, "/api/embed", body=body, model=info.name, timeout_s=limit_embed_s(len(TEXT))
        )
        vectors = read_vectors(response.content, 1, url=address.url, model=info.name)
        if vectors.shape[1] != info.dimension:
            message = (
                f"Model '{info.name}' at {address.url} returned {vectors.shape[1]} dimensions instead of "
                f"{info.dimension}."
            )
            hint = f"Run `ollama pull {info.name}` on this server again."
            raise DimensionDiffers("model_digest_differs", message, hint=hint)

    async def _read_peers(self, address: ServerAddress) -> tuple[str, ...]:
        """Return the URLs of the servers behind a gateway. Raises IngestionError when it is none."""
        response = await self._request("GET", address, "/gateway/servers")
        servers = read_object(response, self._service, address.url).get("servers")
        return tuple(str(one.get("url")) for one in servers or () if isinstance(one, dict))

    async def _request(
        self,
        method: str,
        address: ServerAddress,
        path: str,
        *,
        body: bytes | None = None,
        model: str = "",
        timeout_s: float = DESCRIBE_TIMEOUT_S,
    ) -> Response:
        response = await self._client.request(
            method, address.base, path, body=body, timeout_s=timeout_s, server_name=address.server_name
        )
        if response.status_code != HTTPStatus.OK:
            raise translate_response(response, address.url, model, service=self._service)
        return response


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)
