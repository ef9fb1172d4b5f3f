"""HTTP for every server: one client, and the one place where HTTP's own failures become the product's errors.

aiohttp instead of httpx: httpx reads a response of 300 kB in 2.9 ms of processor time where aiohttp takes 0.3 (Python
3.11, 32 vectors of 768 numbers), which was the largest part of the cost of a chunk.
"""

from __future__ import annotations

import contextlib
import functools
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter

from ingestion_engine.adapters.request_counts import counted
from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.tls import find_tls_failure, make_context
from ingestion_engine.runtime.waits import slow_request

KEEP_ALIVE_S = 5.0
"""An idle connection is not used again after this: servers close theirs after 5 s (uvicorn) or more."""

_NOT_NOW = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
"""Statuses of clients' errors that are the server's."""

_SHOWN: Final = {"oidc": "The OpenID Connect provider"}
"""What messages call a service, where it is not its name with a capital."""

_SETTINGS: Final = {"ollama": "INGEST_OLLAMA__URLS", "oidc": "INGEST_OIDC__ISSUER"}
"""Setting with the address of a service, where it is not ``INGEST_{SERVICE}__URL``."""

MISCONFIGURED: tuple[type[Exception], ...] = (
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.TooManyRedirects,
)
"""Errors that a retry repeats. All other errors of aiohttp are a connection, a time-out or a broken response."""


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response."""

    status_code: int
    content: bytes
    headers: Mapping[str, str]
    """Names in any case."""

    @property
    def text(self) -> str:
        """The content as text; bytes that are not UTF-8 are replaced."""
        return self.content.decode("utf-8", "replace")


class HttpClient:
    """Connections to one service, kept open between requests. For one event loop. Redirects are not followed."""

    def __init__(
        self,
        service: str,
        *,
        connect_timeout_s: float,
        headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
        decompress: bool = True,
        shows_waits: bool = True,
    ) -> None:
        """Create the client without a request.

        Args:
            service: Name of the service in error codes and messages ("qdrant").
            connect_timeout_s: Time limit for opening a connection, in seconds.
            headers: Headers of every request.
            ca_file: PEM file with the authorities to trust; None means the usual ones.
            decompress: Undo the content encoding of responses; False leaves their bytes as they are.
            shows_waits: Show slow requests as waits of this process, which workers report in the progress of their job.
        """
        self._service = service
        self._connect_timeout_s = connect_timeout_s
        self._headers = headers
        self._ca_file = ca_file
        self._decompress = decompress
        self._shows_waits = shows_waits
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        base: str,
        path: str,
        *,
        timeout_s: float | None,
        silence_s: float | None = None,
        params: Any = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        server_name: str | None = None,
        on_sent: Callable[[], None] | None = None,
        max_bytes: int | None = None,
    ) -> Response:
        """Send one request and return the complete response, whatever its status.

        Args:
            method: HTTP method.
            base: URL of the server, named in errors without its credentials.
            path: Path appended to the URL.
            timeout_s: Time limit for the whole exchange, in seconds; None means none.
            silence_s: Time limit for each wait for the next bytes, in seconds; interim responses (``102 Processing``)
                count. Such a request is not shown as slow: its server proves that it is at work.
            params: Query parameters.
            headers: Headers of this request, in addition to those of the client.
            body: Body, sent unchanged.
            server_name: Name of the server where ``base`` has its address: sent as ``Host``, and with https the name
                that the certificate must have.
            on_sent: Called when the connection is open and the body is about to be written to it.
            max_bytes: Largest body of a response that is read, in bytes after decompression; None means any.

        Raises:
            FatalError: "{service}_misconfigured": an impossible URL or header.
            TransientError: "{service}_unavailable": no complete response in time; "{service}_answer_invalid": its body
                is larger than ``max_bytes``.
            TlsFailed: the certificate of the server is not accepted.
        """
        session = self._session or self._open()
        timeout = aiohttp.ClientTimeout(timeout_s, sock_connect=self._connect_timeout_s, sock_read=silence_s)
        options: dict[str, Any] = {"params": params, "data": body, "headers": headers, "timeout": timeout}
        options["allow_redirects"] = False
        if on_sent is not None and body:
            options["data"] = _NotedBody(body, on_sent)
        shown = hide_credentials(base)
        is_shown = self._shows_waits and silence_s is None
        is_slow = slow_request(f"{self._service.capitalize()} at {shown}") if is_shown else contextlib.nullcontext()
        with counted(self._service) as seen, transport_errors(self._service, shown), is_slow:
            options |= _find_route(base, self._ca_file)
            if server_name is not None:
                options["server_hostname"] = server_name
                options["headers"] = {**(headers or {}), "host": _host_header(server_name, base)}
            async with session.request(method, base + path, **options) as response:
                seen.failed = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status in _NOT_NOW
                if max_bytes is None:
                    return Response(response.status, await response.read(), response.headers)
                content = await _read_at_most(response, max_bytes)
                if content is None:
                    message = f"The response of {_show(self._service)} at {shown} has more than {max_bytes} bytes."
                    raise TransientError(f"{self._service}_answer_invalid", message, url=shown)
                return Response(response.status, content, response.headers)

    def _open(self) -> aiohttp.ClientSession:
        # No limit here: callers limit the requests in flight.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=self._decompress,
            response_class=_PatientResponse,
        )
        return self._session

    async def close(self) -> None:
        """Release connections."""
        if self._session is not None:
            await self._session.close()


async def _read_at_most(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Return the body of a response; None when it is larger, in which case the rest is not read."""
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > max_bytes:
            response.close()
            return None
    return bytes(content)


class _NotedBody(aiohttp.BytesPayload):
    """A body that tells when it is written to an open connection."""

    def __init__(self, body: bytes, on_sent: Callable[[], None]) -> None:
        super().__init__(body)
        self._on_sent = on_sent

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write it; what aiohttp calls before its release 3.12."""
        self._on_sent()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write it."""
        self._on_sent()
        await super().write_with_length(writer, content_length)


class _PatientResponse(aiohttp.ClientResponse):
    """A response whose limit on silence also holds after an interim response.

    aiohttp 3.14 stops the timer of ``sock_read`` at the end of any message, also of an interim one
    (``ResponseHandler.data_received``), and starts it again with the next bytes only.
    """

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Read the head of the final response."""
        protocol = connection.protocol
        if protocol is None or not protocol.read_timeout:
            return await super().start(connection)
        read = protocol.read

        async def read_on() -> Any:
            message, payload = await read()
            if 100 <= message.code < 200:
                protocol.start_timeout()
            return message, payload

        vars(protocol)["read"] = read_on  # what ``start`` calls for each message
        try:
            return await super().start(connection)
        finally:
            del vars(protocol)["read"]


@functools.cache
def _find_route(base: str, ca_file: Path | None) -> Mapping[str, Any]:
    """Return the environment's proxy for a server, if any, and the TLS context for https. Once per process."""
    parts = urlsplit(base)
    route: dict[str, Any] = {"ssl": make_context(ca_file)} if parts.scheme == "https" else {}
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme, proxies.get("all"))
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        route["proxy"] = proxy
    return route


def _host_header(server_name: str, base: str) -> str:
    port = urlsplit(base).port
    return server_name if port is None else f"{server_name}:{port}"


@contextlib.contextmanager
def transport_errors(service: str, url: str) -> Iterator[None]:
    """Raise every aiohttp error as the product's; ``service`` is its name in codes and messages ("qdrant")."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:  # time-outs are OSErrors without a text
        failure = find_tls_failure(error, f"{_show(service)} at {url}", url=url)
        if failure is not None:
            raise failure from error
        message = f"{_show(service)} at {url} {hide_credentials(_describe(error))}"
        is_network = isinstance(error, aiohttp.ClientError | OSError)  # a plain ValueError is an invalid header or URL
        if is_network and not isinstance(error, MISCONFIGURED):
            raise TransientError(f"{service}_unavailable", message, url=url) from error
        hint = f"Check {_SETTINGS.get(service, f'INGEST_{service.upper()}__URL')}."
        raise FatalError(f"{service}_misconfigured", message, hint=hint, url=url) from error


def _show(service: str) -> str:
    """Return what messages call a service, at the beginning of a sentence. Pure."""
    return _SHOWN.get(service, service.capitalize())


def _describe(error: Exception) -> str:
    """Return what a server did, or what happened to the request, as the rest of a sentence. Pure."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"cannot be found: the host name {error.host!r} does not resolve."
    # Not every aiohttp.ClientConnectorError has the error of the system: that of a certificate lacks it.
    if isinstance(getattr(error, "os_error", None), ConnectionRefusedError):
        return "refuses connections."
    if isinstance(error, TimeoutError):
        return "did not respond in time."
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "closed the connection without a response."
    return f"failed: {type(error).__name__}: {error}".rstrip(": ")


def read_object(response: Response, service: str, url: str) -> dict[str, Any]:
    """Return the JSON object of a successful response.

    Raises:
        TransientError: anything else, such as a proxy's page or a truncated response.
    """
    try:
        found = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        message = f"The response of {_show(service)} at {url} is not a JSON object."
        raise TransientError(f"{service}_answer_invalid", message, url=url)
    return found


def excerpt(response: Response) -> str:
    """Return the first 300 characters of a response of unknown form, for a message. Pure."""
    return " ".join(response.text[:300].split())


def read_retry_after(response: Response) -> dict[str, float]:
    """Return ``{"retry_after_s": n}`` when the server stated seconds, else an empty dict. Dates are ignored. Pure."""
    header = response.headers.get("retry-after", "")
    return {"retry_after_s": float(header)} if header.isascii() and header.isdigit() else {}
