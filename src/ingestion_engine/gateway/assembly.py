"""A gateway, put together from its parts: everything but sockets and signals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from ingestion_engine.adapters.ollama.responses import read_digests, translate_response
from ingestion_engine.adapters.ollama.server_pool import Server, ServerPool
from ingestion_engine.adapters.ollama.server_urls import ServerAddress, ServerNames
from ingestion_engine.adapters.ollama.server_watch import ServerWatch
from ingestion_engine.adapters.transport import HttpClient, read_object
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.gateway.app import (
    App,
    BodyReader,
    Routes,
    make_embed_handler,
    read_digest,
    read_flow,
    reply_json,
    reply_text,
)
from ingestion_engine.gateway.catalog import Catalog, merge_running
from ingestion_engine.gateway.demand import read_name
from ingestion_engine.gateway.dispatcher import Call, Dispatcher, Refused, Wanted
from ingestion_engine.gateway.forward import (
    CONNECT_TIMEOUT_S,
    PASSED_TO_CLIENTS,
    PASSED_TO_SERVERS,
    Forwarder,
    Reply,
    pass_headers,
)
from ingestion_engine.gateway.metrics import Metrics, Waits
from ingestion_engine.gateway.peers.membership import DEAD_S
from ingestion_engine.gateway.peers.polling import Peers
from ingestion_engine.gateway.scheduling.fair_queue import FairQueue
from ingestion_engine.gateway.status import Status
from ingestion_engine.runtime.host_names import HostRules, host_of_url
from ingestion_engine.runtime.server_urls import parse_servers
from ingestion_engine.runtime.settings import Settings

TAGS_TIMEOUT_S: Final = 5.0
"""A server that lists its models more slowly is not used: it reads them from a file."""
SHOW_TIMEOUT_S: Final = 10.0
"""A description with the whole vocabulary has 1 MB."""
PS_TIMEOUT_S: Final = 2.0
LASTING_FAILURES: Final = 3
"""Failures in a row of a server that is down for longer than a restart, 3 s."""
RUNNING: Final = "Ollama is running"
"""What Ollama answers, and clients check."""


class Gateway:
    """Ollama's API in front of a pool of servers. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        dead_s: float = DEAD_S,
    ) -> None:
        """Send nothing yet; create it in the event loop.

        Args:
            settings: Servers, limits, other gateways and trust.
            clock: Monotonic seconds.
            dead_s: Seconds after which a silent gateway counts as dead; the same for all.
        """
        self._client = HttpClient(
            "ollama",
            connect_timeout_s=CONNECT_TIMEOUT_S,
            ca_file=settings.tls.ca_file,
            decompress=False,
            shows_waits=False,
        )
        self._forwarder = Forwarder(self._client)
        self.pool = ServerPool(most=settings.gateway.max_per_server, clock=clock)
        self._catalog = Catalog(self.pool.models)
        names = ServerNames(parse_servers(settings.ollama.urls), clock=clock)
        self.pool.set_servers(names.list())
        self._watch = ServerWatch(self.pool, names, self._read_models, clock=clock)
        queue = FairQueue[Call](queue_bytes=settings.gateway.queue_bytes)
        self.peers = Peers(
            settings, in_flight=lambda: queue.in_flight, servers=self._list_servers, clock=clock, dead_s=dead_s
        )
        self._waits = Waits()
        self.dispatcher = Dispatcher(
            queue,
            self.pool,
            self._forwarder,
            rights=self.peers.membership.rights,
            recheck=self._watch.check,
            on_start=self._waits.note,
            clock=clock,
        )
        self.peers.membership.subscribe(self.dispatcher.wake)
        self._status = Status(self.dispatcher, self.peers, clock=clock)
        self._bodies = BodyReader(settings.gateway.queue_bytes)
        flow_routes = {"GET": self._status.flow, "DELETE": self._status.drop}
        own = (host_of_url(url) for url in settings.gateway.url)
        hosts = HostRules((*settings.gateway.allowed_hosts, *filter(None, own)), accepts_private=True)
        self.app = App(self._make_routes(), flow_routes, hosts=hosts)
        self._metrics = Metrics(self.dispatcher, self._status, self.app, clock=clock)
        self._metrics.add_waits(self._waits)
        self._keeping: asyncio.Task[None] | None = None

    def _make_routes(self) -> Routes:
        return {
            ("GET", "/"): self._answer(lambda: reply_text(RUNNING)),
            ("GET", "/api/version"): self._version,
            ("GET", "/api/tags"): self._tags,
            ("GET", "/api/ps"): self._running,
            ("POST", "/api/show"): self._show,
            ("POST", "/api/embed"): make_embed_handler(self.dispatcher, self._bodies),
            ("GET", "/livez"): self._answer(lambda: reply_json({"status": "ok"})),
            ("GET", "/readyz"): self._answer(self._status.ready),
            ("GET", "/metrics"): self._answer(lambda: reply_text(self._metrics.render(), Metrics.content_type)),
            ("GET", "/gateway/flows"): self._answer(self._status.flows),
            ("GET", "/gateway/id"): self._answer(lambda: reply_json(self.peers.membership.statement())),
            ("GET", "/gateway/servers"): self._answer(lambda: reply_json({"servers": self._status.servers()})),
        }

    def _answer(self, make_reply: Callable[[], Reply]) -> Callable[[web.BaseRequest], Any]:
        async def handle(_: web.BaseRequest) -> Reply:
            return make_reply()

        return handle

    async def start(self) -> None:
        """Read the models of the servers, and keep doing so."""
        await self._watch.resolve()
        await self.peers.start()
        self._keeping = asyncio.create_task(self._watch.keep())

    async def close(self) -> None:
        """End what runs in the background and release connections."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self.peers.close()
        await self._watch.close()
        await self._client.close()

    def _list_servers(self) -> dict[str, int]:
        """Return the servers that share the limits, URL -> capacity, without those that have failed for a while.

        The part of a gateway whose servers are down would be of no use; and a server may answer to another gateway.
        """
        return {
            server.url: server.address.capacity or 1
            for server in self.pool.servers
            if server.failures < LASTING_FAILURES or self.pool.models.is_known(server.url)
        }

    # Models

    async def _read_models(self, address: ServerAddress) -> Mapping[str, str]:
        """Return the digests of a server's models, and keep its entries. Raises IngestionError."""
        response = await self._forwarder.send("GET", address, "/api/tags", timeout_s=TAGS_TIMEOUT_S)
        if response.status_code != HTTPStatus.OK:
            raise translate_response(response, address.url, "")
        tags = read_object(response, "ollama", address.url)
        digests = read_digests(tags, url=address.url)
        self._catalog.note(address.url, tags["models"] or [])
        return digests

    def _usable(self) -> list[Server]:
        """Return the servers that answer, the least busy first. Raises Refused when there is none.

        Half-open ones too, last: clients describe a model before they send the request that tries such a server.
        """
        servers = [server for server in self.pool.servers if self.pool.is_answering(server)]
        if not servers:
            reasons = " ".join(server.last_error for server in self.pool.servers if server.last_error)
            message = f"No Ollama server is available. {reasons}".strip()
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, reason="unavailable", retry_after_s=1.0)
        return sorted(servers, key=lambda server: (server.failures > 0, server.in_flight))

    async def _tags(self, request: web.BaseRequest) -> Reply:
        self._usable()  # an empty list would say that a model does not exist
        urls = (server.url for server in self.pool.servers)
        return reply_json({"models": self._catalog.list_models(urls, digest=read_digest(request.headers) or "")})

    async def _version(self, _: web.BaseRequest) -> Reply:
        return await self._ask_first(self._usable(), "GET", "/api/version", timeout_s=PS_TIMEOUT_S)

    async def _running(self, _: web.BaseRequest) -> Reply:
        async def ask(server: Server) -> Mapping[str, Any]:
            try:
                response = await self._forwarder.send("GET", server.address, "/api/ps", timeout_s=PS_TIMEOUT_S)
                return read_object(response, "ollama", server.url)
            except IngestionError:
                return {}

        answers = await asyncio.gather(*(ask(server) for server in self._usable()))
        return reply_json({"models": merge_running(answers)})

    async def _show(self, request: web.BaseRequest) -> Reply:
        body = await self._bodies.read(request, read_flow(request))
        name = Wanted.parse(read_name(body), None).model
        models, servers = self.pool.models, self._usable()
        candidates = servers
        for digest in (read_digest(request.headers), models.choose_reference(name) if name else None):
            serving = [server for server in servers if digest and models.find_digest(server.url, name) == digest]
            if serving:
                candidates = serving
                break
        headers = pass_headers(request.headers, PASSED_TO_SERVERS)
        return await self._ask_first(
            candidates, "POST", "/api/show", timeout_s=SHOW_TIMEOUT_S, body=body, headers=headers
        )

    async def _ask_first(
        self,
        servers: list[Server],
        method: str,
        path: str,
        *,
        timeout_s: float,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Return the response of the first server that does not fail."""
        last: Reply | None = None
        errors: list[str] = []
        for server in servers:
            try:
                response = await self._forwarder.send(
                    method, server.address, path, timeout_s=timeout_s, body=body, headers=headers
                )
            except IngestionError as error:
                errors.append(error.message)
                continue
            passed = pass_headers(response.headers, PASSED_TO_CLIENTS)
            passed["ingest-server"] = server.url
            last = Reply(response.status_code, response.content, passed)
            if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return last
        if last is not None:
            return last
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, " ".join(errors), reason="failed", retry_after_s=1.0)
