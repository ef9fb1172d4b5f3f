"""HTTP, the same for every server: one client, and the one place where what HTTP itself can do wrong becomes ours.

aiohttp and not httpx, which reads an answer of 300 kB in 2.9 ms of processor time where aiohttp takes 0.3 (Python 3.11,
32 vectors of 768 numbers): that was the largest part of what a chunk cost.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from ingestion_engine.domain.errors import FatalError, TransientError

KEEP_ALIVE_S = 5.0
"""A connection that rests longer is not used again: servers close theirs after 5 s (uvicorn) or more."""

MISCONFIGURED: tuple[type[Exception], ...] = (
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.TooManyRedirects,
)
"""Trying again gives the same. Everything else that aiohttp raises is a connection, a time-out or a broken answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read whole."""

    status_code: int
    content: bytes
    headers: Mapping[str, str]
    """Names in any case."""

    @property
    def text(self) -> str:
        """The content as text; what is not UTF-8 is replaced."""
        return self.content.decode("utf-8", "replace")


class HttpClient:
    """Connections to one service, kept open between requests. For one event loop. Redirects are not followed."""

    def __init__(self, service: str, *, connect_timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        """Make no request yet.

        Args:
            service: The word in codes and messages ("qdrant").
            connect_timeout_s: For a connection, in seconds.
            headers: Sent with every request.
        """
        self._service = service
        self._connect_timeout_s = connect_timeout_s
        self._headers = headers
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, base: str, path: str, *, timeout_s: float, params: Any = None, body: bytes | None = None
    ) -> Answer:
        """Send one request and read the answer, whatever its status.

        Args:
            method: Of HTTP.
            base: The server's URL, which errors name.
            path: What follows it.
            timeout_s: For the whole of it, in seconds.
            params: Of the query.
            body: To be sent as it is.

        Raises:
            FatalError: "{service}_misconfigured": an impossible URL or header.
            TransientError: "{service}_unavailable": no answer, or not all of it, in time.
        """
        session = self._session or self._open()
        timeout = aiohttp.ClientTimeout(timeout_s, sock_connect=self._connect_timeout_s)
        options: dict[str, Any] = {"params": params, "data": body, "timeout": timeout, "allow_redirects": False}
        with transport_errors(self._service, base):
            options |= _find_route(base)
            async with session.request(method, base + path, **options) as answer:
                return Answer(answer.status, await answer.read(), answer.headers)

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)  # who calls bounds what is in flight
        self._session = aiohttp.ClientSession(
            connector=connector, headers=self._headers, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self._session

    async def close(self) -> None:
        """Release connections."""
        if self._session is not None:
            await self._session.close()


@functools.cache
def _find_route(base: str) -> Mapping[str, Any]:
    """The proxy of the environment for a server, if any, and TLS for https. Looked up once per process."""
    parts = urlsplit(base)
    route: dict[str, Any] = {"ssl": _shared_tls()} if parts.scheme == "https" else {}
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme, proxies.get("all"))
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        route["proxy"] = proxy
    return route


@functools.cache
def _shared_tls() -> ssl.SSLContext:
    """The TLS settings of this process's clients, made once: each takes 0.1 s for the list of authorities."""
    import httpx  # it finds the authorities in certifi or where SSL_CERT_FILE says, as for the product's other clients

    return httpx.create_ssl_context()


@contextlib.contextmanager
def transport_errors(service: str, url: str) -> Iterator[None]:
    """Raise every aiohttp error as the product's; ``service`` is the word in codes and messages ("qdrant")."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:  # time-outs are OSErrors, and have no text of their own
        said = f"{service} at {url}: {type(error).__name__}: {error}".rstrip(": ")
        passes = isinstance(error, aiohttp.ClientError | OSError)  # a mere ValueError is an impossible header or URL
        if passes and not isinstance(error, MISCONFIGURED):
            raise TransientError(f"{service}_unavailable", said, url=url) from error
        hint = f"Check INGEST_{service.upper()}__URL."
        raise FatalError(f"{service}_misconfigured", said, hint=hint, url=url) from error


def read_object(answer: Answer, service: str, url: str) -> dict[str, Any]:
    """Return a good answer's JSON object.

    Raises:
        TransientError: anything else: a proxy's page, an answer cut short.
    """
    try:
        found = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise TransientError(f"{service}_answer_invalid", f"{service} at {url} did not answer with JSON", url=url)
    return found


def read_retry_after(answer: Answer) -> dict[str, float]:
    """Return ``{"retry_after_s": n}`` when the server stated seconds, else nothing. Dates are ignored. Pure."""
    header = answer.headers.get("retry-after", "")
    return {"retry_after_s": float(header)} if header.isascii() and header.isdigit() else {}
