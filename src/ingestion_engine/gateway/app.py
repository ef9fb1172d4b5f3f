"""The HTTP side of the gateway: which paths exist, how a request is read, and how a reply is sent."""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ingestion_engine.adapters.ollama.embedder import BASE_TIMEOUT_S, CHARS_PER_S
from ingestion_engine.adapters.ollama.failed_tries import FAILED_SERVERS
from ingestion_engine.domain.records import Band
from ingestion_engine.gateway.demand import read_demand
from ingestion_engine.gateway.dispatcher import Call, Dispatcher, Refused, Wanted
from ingestion_engine.gateway.forward import PASSED_TO_SERVERS, EmbedRequest, Reply, pass_headers
from ingestion_engine.gateway.scheduling.tickets import DEFAULT_WEIGHT, MAX_WEIGHT
from ingestion_engine.runtime.host_names import HostRules
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.tracing import is_tracing, open_span

BODY_BYTES: Final = 16 * 1024 * 1024
"""Largest body: 500 times the largest of a job. One of this size takes 20 ms to count, and nothing else runs then."""
BODY_TIMEOUT_S: Final = 30.0
"""Time to send a body, plus that for its size at ``SLOWEST_BYTES_PER_S``; as long to read a reply."""
SLOWEST_BYTES_PER_S: Final = 100_000.0
HEARTBEAT_S: Final = 10.0
"""Seconds between two interim responses to a client that names its flow; it gives up after 30 s of silence."""
KEEP_ALIVE_S: Final = 75.0
"""How long an idle connection stays open, and how long a client may take to send a request's headers: longer than
clients and load balancers keep theirs (5 to 60 s)."""
LONGEST_TIMEOUT_S: Final = 86_400.0
INTERIM: Final = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

READ_BYTES: Final = 32 * 1024
"""A connection whose body is not wanted yet buffers twice this. With aiohttp's default of 256 KiB, 200 clients with
refused bodies of 512 KiB took 330 MiB instead of 75."""
LONGEST_KEY: Final = 128
"""Characters of a flow's name; no flow has a longer one."""
_FLOW: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_DIGEST: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_LOOPBACK: Final = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")
_BANDS: Final[Mapping[str, Band]] = {band.value: band for band in Band}
_OLLAMA_PATHS: Final = ("/api/", "/v1/")

log = get_logger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[Reply]]
Routes = Mapping[tuple[str, str], Handler]


class App:
    """Answers requests: by its routes, else with a refusal in Ollama's form."""

    def __init__(
        self, routes: Routes, flow_routes: Mapping[str, Callable[[str], Reply]], *, hosts: HostRules | None = None
    ) -> None:
        """Serve these routes.

        Args:
            routes: Handler by method and path; HEAD is served by GET's.
            flow_routes: Handler by method of ``/gateway/flows/{key}``.
            hosts: Names under which the gateway may be addressed; None means those of this machine.
        """
        self._hosts = hosts or HostRules(accepts_private=True)
        self._routes = routes
        self._flow_routes = flow_routes
        self.refused: dict[int, int] = {}
        """Refusals of the HTTP layer itself, by status."""

    def make_server(self) -> web.Server:
        """Return the protocol factory for the event loop's server; call it in the loop."""
        return web.Server(
            self.handle,
            request_factory=_make_request,
            handler_cancellation=True,
            access_log=None,
            logger=_make_http_logger(),
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_S,
            read_bufsize=READ_BYTES,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. A reply that its client does not read in time is given up."""
        try:
            reply = await self._find_handler(request)(request)
        except Refused as refusal:
            reply = refuse(refusal)
            self.refused[refusal.status] = self.refused.get(refusal.status, 0) + 1
        except web.HTTPException as error:  # aiohttp's own: a body that is too large or cannot be read
            reply = refuse(Refused(error.status, error.reason, reason="http"))
        except Exception:  # an error of ours ends one request, in the form that its client reads
            log.exception("request failed", extra={"method": request.method, "path": request.path[:100]})
            reply = refuse(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "Unexpected error in the gateway.", reason="bug"))
        response = web.Response(status=reply.status, body=reply.body, headers=reply.headers)
        limit_s = BODY_TIMEOUT_S + len(reply.body) / SLOWEST_BYTES_PER_S
        timer = asyncio.get_running_loop().call_later(limit_s, _give_up, request)
        try:
            await response.prepare(request)
            await response.write_eof()
        finally:
            timer.cancel()
        return response

    def _find_handler(self, request: web.BaseRequest) -> Handler:
        self._check_host(request)
        _check_origin(request)
        path = request.rel_url.raw_path
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._routes.get((method, path))
        if handler is not None:
            return handler
        prefix = "/gateway/flows/"
        if path.startswith(prefix) and path != prefix:
            allowed: list[str] = list(self._flow_routes)
            if method in self._flow_routes:
                return _with_key(self._flow_routes[method], unquote(path.removeprefix(prefix))[:LONGEST_KEY])
        else:
            allowed = [one for one, known in self._routes if known == path]
        raise _not_served(request.method, path, allowed)

    def _check_host(self, request: web.BaseRequest) -> None:
        """Refuse what is addressed to another name: a page whose own name points here is in no way foreign to itself.

        Ollama does the same on loopback.
        """
        given = request.headers.getall("host", [])
        if given and (len(given) > 1 or not self._hosts.accepts(given[0])):
            message = (
                f"{given[0][:100]!r} is not a name of this gateway; set INGEST_GATEWAY__ALLOWED_HOSTS to serve it."
            )
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, message, reason="host")


def _give_up(request: web.BaseRequest) -> None:
    """Close the connection of a client that does not read its reply, which ends the task that writes it."""
    log.debug("client does not read its reply", extra={"client": request.remote})
    if request.transport is not None:
        request.transport.abort()


def _with_key(handler: Callable[[str], Reply], key: str) -> Handler:
    async def handle(_: web.BaseRequest) -> Reply:
        return handler(key)

    return handle


def _not_served(method: str, path: str, allowed: list[str]) -> Refused:
    """Return the refusal of a path or method: 405, 501 for the rest of Ollama's API, else 404.

    Not 404 for Ollama's API: clients take that for a missing model and try to pull it.
    """
    shown = path if len(path) <= 100 and path.isprintable() else f"{path[:100]!r}…"
    message = f"The gateway does not serve {method} {shown}."
    if allowed:
        return Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{message} Use {' or '.join(allowed)}.", reason="method")
    if path.startswith(_OLLAMA_PATHS):
        message += " It embeds only: use POST /api/embed."
        return Refused(HTTPStatus.NOT_IMPLEMENTED, message, reason="not_served")
    return Refused(HTTPStatus.NOT_FOUND, message, reason="not_served")


def _read_host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _check_origin(request: web.BaseRequest) -> None:
    """Refuse the pages of other sites in a browser, as Ollama does: there is no authentication."""
    origin = request.headers.get("origin")
    if origin is not None and _LOOPBACK.fullmatch(_read_host(origin)) is None:
        raise Refused(HTTPStatus.FORBIDDEN, "Requests of other web sites are not served.", reason="origin")


class _RequestsOnly(logging.Filter):
    """Keeps out what is no HTTP: anybody can send it, to fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _make_http_logger() -> logging.Logger:
    logger = get_logger(f"{__name__}.http")
    if not logger.filters:
        logger.addFilter(_RequestsOnly())
    return logger


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_BYTES)


class BodyReader:
    """Reads bodies within limits of size, time and memory.

    A flow may hold as much as is free, and so at most half of all: however slowly it sends, there is room for others.
    """

    def __init__(self, total_bytes: int) -> None:
        """Hold at most ``total_bytes`` of bodies that are not complete yet."""
        self._free = total_bytes
        self._held: collections.Counter[str] = collections.Counter()
        """Bytes of incomplete bodies by flow; only flows that have some."""

    async def read(self, request: web.BaseRequest, flow: str) -> bytes:
        """Return the body of a request.

        Raises:
            Refused: it is too large, too slow or compressed, so that its texts cannot be counted, or too much is being
                read at present.
        """
        length = request.content_length or 0
        if length > BODY_BYTES:
            raise _too_large()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            message = "The gateway reads no compressed bodies; send the request without Content-Encoding."
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, reason="encoding")
        if request.headers.get("expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(CONTINUE)
        if request.content.is_eof():  # it came with the headers, as most do
            body: bytes = request.content.read_nowait()
            return body
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S + max(length, BODY_BYTES * (length == 0)) / SLOWEST_BYTES_PER_S):
                while chunk := await request.content.readany():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._free -= len(chunk)
                    self._held[flow] += len(chunk)
                    if size > BODY_BYTES:
                        raise _too_large()
                    if self._held[flow] > max(0, self._free):
                        message = "The gateway is receiving too many requests at once."
                        raise Refused(503, message, reason="full", retry_after_s=1.0)
        except TimeoutError:
            raise Refused(408, "The body did not arrive in time.", reason="slow") from None
        finally:
            self._free += size
            self._held[flow] -= size
            if not self._held[flow]:
                del self._held[flow]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large() -> Refused:
    message = f"The body is larger than {BODY_BYTES // 1024 // 1024} MiB; send fewer texts in a request."
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, reason="too_large")


def make_embed_handler(dispatcher: Dispatcher, bodies: BodyReader) -> Handler:
    """Return the handler of ``POST /api/embed``."""
    heartbeats = _Heartbeats()

    async def embed(request: web.BaseRequest) -> Reply:
        parent = request.headers.get("traceparent") if is_tracing() else None
        if parent is None:  # as from workers: a span per request would bury a job's trace
            reply, _ = await serve(request)
            return reply
        with open_span("POST /api/embed", {"http.request.method": "POST"}, parent=parent, kind="server") as span:
            reply, call = await serve(request)
            span.set({"http.response.status_code": reply.status, "queued_s": round(call.queued_s, 4)})
            span.set({"texts": call.texts, "tries": len(call.tried)})
        return reply

    async def serve(request: web.BaseRequest) -> tuple[Reply, Call]:
        transport = heartbeats.begin(request)
        try:
            flow = read_flow(request)
            dispatcher.check_room(flow, request.content_length or 0)
            call = read_call(request, flow, await bodies.read(request, flow))
            reply = await dispatcher.embed(call)
        finally:
            heartbeats.end(transport)
        server = call.tried[-1].url if call.tried else ""
        own = {"ingest-queue-ms": str(round(call.queued_s * 1000)), "ingest-server": server}
        return Reply(reply.status, reply.body, {**reply.headers, **own}), call

    return embed


class _Heartbeats:
    """Interim responses every few seconds to clients that name their flow and wait. One timer serves all of them."""

    def __init__(self) -> None:
        self._due: dict[asyncio.Transport, float] = {}
        """When each waiting client gets the next one, in order of that time."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: web.BaseRequest) -> asyncio.Transport | None:
        """Serve the client of a request, if it wants that; return its connection, which ``end`` takes."""
        transport = request.transport
        if transport is None or "ingest-flow" not in request.headers or request.version < (1, 1):
            return None
        self._due[transport] = asyncio.get_running_loop().time() + HEARTBEAT_S
        if self._timer is None:
            self._schedule()
        return transport

    def end(self, transport: asyncio.Transport | None) -> None:
        """Leave a client in peace: its reply follows."""
        if transport is not None:
            del self._due[transport]

    def _schedule(self) -> None:
        at = next(iter(self._due.values()), None)
        self._timer = None if at is None else asyncio.get_running_loop().call_at(at, self._beat)

    def _beat(self) -> None:
        now = asyncio.get_running_loop().time()
        for transport, _ in [*itertools.takewhile(lambda item: item[1] <= now, self._due.items())]:
            transport.write(INTERIM)
            del self._due[transport]
            self._due[transport] = now + HEARTBEAT_S
        self._schedule()


def read_flow(request: web.BaseRequest) -> str:
    """Return whose request it is. Raises Refused where the header is invalid."""
    flow = request.headers.get("ingest-flow")
    if flow is None:
        return request.remote or "unknown"
    if _FLOW.fullmatch(flow) is None:
        raise _invalid("Ingest-Flow", "at most 128 letters, digits and . _ : @ -, the first a letter or digit")
    return flow


def read_call(request: web.BaseRequest, flow: str, body: bytes) -> Call:
    """Return a request for embeddings. Raises Refused where a header is invalid."""
    headers = request.headers
    demand = read_demand(body)
    band = _BANDS.get(headers.get("ingest-band", Band.JOB))
    if band is None:
        raise _invalid("Ingest-Band", "search or job")
    weight = headers.get("ingest-weight", str(DEFAULT_WEIGHT))
    if _NUMBER.fullmatch(weight) is None or not weight.isdigit() or not 1 <= int(weight) <= MAX_WEIGHT:
        raise _invalid("Ingest-Weight", f"a whole number from 1 to {MAX_WEIGHT}")
    return Call(
        flow=flow,
        band=band,
        weight=int(weight),
        characters=demand.characters,
        texts=demand.texts,
        size_bytes=len(body),
        wanted=Wanted.parse(demand.model, read_digest(headers)),
        request=EmbedRequest(
            body=body,
            headers=pass_headers(headers, PASSED_TO_SERVERS),
            timeout_s=_read_timeout(headers, demand.characters),
            is_valid=demand.is_valid,
            texts=demand.texts if demand.is_valid else 0,
        ),
    )


def read_digest(headers: Mapping[str, str]) -> str | None:
    """Return the digest of the model that a client wants, if any. Raises Refused where the header is invalid."""
    digest = headers.get("ingest-model-digest")
    if digest is None:
        return None
    digest = digest.removeprefix("sha256:")
    if _DIGEST.fullmatch(digest) is None:
        raise _invalid("Ingest-Model-Digest", "a digest in hexadecimal form")
    return digest


def _read_timeout(headers: Mapping[str, str], characters: int) -> float:
    """Return the limit of one try: the caller's, or the one that a worker would use."""
    given = headers.get("ingest-timeout")
    if given is None:
        return BASE_TIMEOUT_S + characters / CHARS_PER_S
    value = float(given) if _NUMBER.fullmatch(given) else math.nan
    if not 0 < value <= LONGEST_TIMEOUT_S:
        raise _invalid("Ingest-Timeout", f"seconds, greater than 0 and at most {LONGEST_TIMEOUT_S:.0f}")
    return value


def _invalid(header: str, form: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, f"The header {header} is invalid; send {form}.", reason="header")


def refuse(refusal: Refused) -> Reply:
    """Return a refusal of the gateway in Ollama's form. Pure."""
    headers = {"content-type": "application/json; charset=utf-8"}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_after_s))
    if refusal.failed_servers:
        headers[FAILED_SERVERS.lower()] = str(refusal.failed_servers)
    return Reply(refusal.status, orjson.dumps({"error": refusal.message}), headers)


def reply_json(value: Any, status: int = 200) -> Reply:
    """Return a reply with a JSON value. Pure."""
    return Reply(status, orjson.dumps(value), {"content-type": "application/json; charset=utf-8"})


def reply_text(text: str | bytes, content_type: str = "text/plain; charset=utf-8") -> Reply:
    """Return a reply with a text. Pure."""
    return Reply(200, text.encode() if isinstance(text, str) else text, {"content-type": content_type})
