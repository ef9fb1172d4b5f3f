"""What the service asks the gateways beside embeddings: what flows wait for, whether they are ready; it drops flows."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

from ingestion_engine.adapters.ollama.responses import read_error
from ingestion_engine.adapters.ollama.server_urls import ServerAddress, ServerNames
from ingestion_engine.adapters.transport import HttpClient, Response, excerpt, read_object
from ingestion_engine.domain.errors import IngestionError, TransientError
from ingestion_engine.domain.records import EmbeddingWait, GatewayFlow, GatewayServer, GatewayStatus
from ingestion_engine.runtime.server_urls import parse_servers
from ingestion_engine.runtime.settings import Settings

TIME_LIMIT_S: Final = 5.0
"""Time limit of a request in seconds; none of them waits in a queue, and callers mostly wait less."""

STATUS_LIMIT_S: Final = 1.0
"""Time limit of a request for the status of a gateway, in seconds: a person waits for the page."""

FLOWS_LIMIT_S: Final = 0.25
"""Time limit of reading the flows of one gateway, in seconds: one that hangs must not hide the others."""


class GatewayClient:
    """The port ``EmbeddingGateway`` over HTTP. For one event loop."""

    def __init__(self, urls: Sequence[str], *, ca_file: Path | None = None) -> None:
        """Create the client without a request. ``urls`` are as ``ServerUrl.parse`` reads them."""
        self.urls = tuple(urls)
        self._names = {url: ServerNames(parse_servers([url])) for url in self.urls}
        self._client = HttpClient("gateway", connect_timeout_s=TIME_LIMIT_S, ca_file=ca_file)

    @classmethod
    def from_settings(cls, settings: Settings) -> GatewayClient:
        """Return a client of ``settings.gateway.url``."""
        return cls(settings.gateway.url, ca_file=settings.tls.ca_file)

    async def close(self) -> None:
        """Release connections."""
        await asyncio.gather(*(names.close() for names in self._names.values()))
        await self._client.close()

    async def check(self, url: str) -> None:
        """Return if every gateway of one of the URLs is ready. Raises TransientError."""
        addresses = await self._names[url].find()
        if not addresses:
            raise TransientError("gateway_unavailable", f"The host name of gateway {url!r} does not resolve.")
        await asyncio.gather(*(self._request("GET", address, "/readyz") for address in addresses))

    async def read_flows(self) -> Mapping[str, EmbeddingWait]:
        """Return what every flow waits for, over all gateways that answer. Raises TransientError when none does."""
        answers = await self._ask_all("GET", "/gateway/flows", timeout_s=FLOWS_LIMIT_S)
        found = [answer for answer in answers if isinstance(answer, Response)]
        if not found:
            raise _first_error(answers)
        try:
            return sum_flows([read_object(answer, "gateway", "its URL") for answer in found])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            message = f"A gateway described its flows in another form ({type(error).__name__}: {error})."
            raise TransientError("gateway_answer_invalid", message) from error

    async def read_status(self) -> list[GatewayStatus]:
        """Return every gateway with its servers and flows, by URL. Three requests per gateway; raises nothing."""
        found = await asyncio.gather(*(names.find() for names in self._names.values()))
        unresolved = [url for url, addresses in zip(self._names, found, strict=True) if not addresses]
        addresses = dict.fromkeys(address for some in found for address in some)
        known = await asyncio.gather(*map(self._read_one, addresses))
        unknown = [GatewayStatus(url, "unreachable", "Its host name does not resolve.") for url in unresolved]
        return sorted([*known, *unknown], key=lambda status: status.url)

    async def _read_one(self, address: ServerAddress) -> GatewayStatus:
        try:
            paths = ("/readyz", "/gateway/servers", "/gateway/flows")
            sent = (self._send("GET", address, path, timeout_s=STATUS_LIMIT_S) for path in paths)
            ready, servers, flows = [orjson.loads(answer.content) for answer in await asyncio.gather(*sent)]
            return read_gateway(address.url, {**ready, "servers": servers["servers"], "flows": flows["flows"]})
        except IngestionError as error:
            return GatewayStatus(address.url, "unreachable", error.message)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"It described itself in another form ({type(error).__name__}: {error})."
            return GatewayStatus(address.url, "unreachable", reason)

    async def drop_flow(self, key: str) -> None:
        """Drop a flow at every gateway. Raises TransientError when one does not answer; the others have done it."""
        answers = await self._ask_all("DELETE", f"/gateway/flows/{quote(key, safe='')}", timeout_s=TIME_LIMIT_S)
        if any(isinstance(answer, IngestionError) for answer in answers):
            raise _first_error(answers)

    async def _ask_all(self, method: str, path: str, *, timeout_s: float) -> list[Response | IngestionError]:
        found = await asyncio.gather(*(names.find() for names in self._names.values()))
        addresses = dict.fromkeys(address for some in found for address in some)
        requests = (self._request(method, address, path, timeout_s=timeout_s) for address in addresses)
        answers = await asyncio.gather(*requests, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, IngestionError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Response | IngestionError)]

    async def _send(self, method: str, address: ServerAddress, path: str, *, timeout_s: float) -> Response:
        return await self._client.request(
            method, address.base, path, timeout_s=timeout_s, server_name=address.server_name
        )

    async def _request(
        self, method: str, address: ServerAddress, path: str, *, timeout_s: float = TIME_LIMIT_S
    ) -> Response:
        response = await self._send(method, address, path, timeout_s=timeout_s)
        if response.status_code != HTTPStatus.OK:
            text = read_error(response) or _read_reason(response) or excerpt(response)
            message = f"Gateway at {address.url} responded {response.status_code}: {text}"
            raise TransientError("gateway_unavailable", message, url=address.url)
        return response


def read_gateway(url: str, answer: Mapping[str, Any]) -> GatewayStatus:
    """Return the status of a gateway from its answers; what later versions add is left out. Pure.

    Raises:
        LookupError, TypeError: the answers have another form.
    """
    servers = [GatewayServer(**_keep_fields(GatewayServer, server)) for server in answer["servers"]]
    flows = [GatewayFlow(**_keep_fields(GatewayFlow, flow)) for flow in answer["flows"]]
    return GatewayStatus(
        url=url,
        status=str(answer["status"]),
        reason=answer.get("reason"),
        servers=tuple(servers),
        flows=tuple(flows),
    )


def _keep_fields(kind: type[GatewayServer | GatewayFlow], data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in kind.__dataclass_fields__ if name in data}


def _read_reason(response: Response) -> str | None:
    """Return why a gateway is not ready; None when the response does not say. Pure."""
    with contextlib.suppress(orjson.JSONDecodeError, AttributeError, TypeError):
        reason = orjson.loads(response.content).get("reason")
        return reason if isinstance(reason, str) else None
    return None


def sum_flows(answers: Sequence[Mapping[str, Any]]) -> dict[str, EmbeddingWait]:
    """Return what each flow waits for, from the answers of several gateways. Pure.

    Its requests are added up; its place in the queue is that at the gateway where most flows are ahead of it.
    """
    parts: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    total = 0.0
    for answer in answers:
        for flow in answer.get("flows", ()):
            parts[str(flow["flow"])].append(flow)
            total += flow["served_chars"]
    return {key: _sum_parts(flows, total) for key, flows in parts.items()}


def _sum_parts(flows: Sequence[Mapping[str, Any]], total: float) -> EmbeddingWait:
    place = max(flows, key=lambda flow: (flow["ahead"], flow["of"]))
    served = sum(flow["served_chars"] for flow in flows)
    return EmbeddingWait(
        queued=sum(flow["queued"] for flow in flows),
        in_flight=sum(flow["in_flight"] for flow in flows),
        ahead=place["ahead"],
        of=place["of"],
        share=round(served / total, 2) if total else 0.0,
        waited_s=round(max(flow["waited_s"] for flow in flows)),
    )


def _first_error(answers: Sequence[Response | IngestionError]) -> IngestionError:
    unknown = TransientError("gateway_unavailable", "No gateway is known: its host name does not resolve.")
    return next((answer for answer in answers if isinstance(answer, IngestionError)), unknown)
