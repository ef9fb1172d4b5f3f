"""What HTTP itself can do wrong, the same for every server that is spoken to by httpx."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import orjson

from ingestion_engine.domain.errors import FatalError, TransientError

MISCONFIGURED: tuple[type[Exception], ...] = (
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    httpx.CookieConflict,
    httpx.TooManyRedirects,
    httpx.LocalProtocolError,
)
"""Trying again gives the same. Everything else that httpx raises is a connection, a time-out or a broken answer."""


@functools.cache
def shared_tls() -> ssl.SSLContext:
    """Return the TLS settings of this process's clients, made once: each takes 0.1 s for the list of authorities."""
    return httpx.create_ssl_context()


@contextlib.contextmanager
def transport_errors(service: str, url: str) -> Iterator[None]:
    """Raise every httpx error as the product's; ``service`` is the word in codes and messages ("qdrant")."""
    try:
        yield
    except MISCONFIGURED as error:
        hint = f"Check INGEST_{service.upper()}__URL."
        said = f"{service} at {url}: {type(error).__name__}: {error}"
        raise FatalError(f"{service}_misconfigured", said, hint=hint, url=url) from error
    except (httpx.RequestError, httpx.StreamError, httpx.HTTPStatusError, TimeoutError) as error:
        # Some time-outs have no text of their own.
        said = f"{service} at {url}: {type(error).__name__}: {error}".rstrip(": ")
        raise TransientError(f"{service}_unavailable", said, url=url) from error


def read_object(response: httpx.Response, service: str, url: str) -> dict[str, Any]:
    """Return a good answer's JSON object.

    Raises:
        TransientError: anything else: a proxy's page, an answer cut short.
    """
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise TransientError(f"{service}_answer_invalid", f"{service} at {url} did not answer with JSON", url=url)
    return answer


def read_retry_after(response: httpx.Response) -> dict[str, float]:
    """Return ``{"retry_after_s": n}`` when the server stated seconds, else nothing. Dates are ignored. Pure."""
    header = response.headers.get("retry-after", "")
    return {"retry_after_s": float(header)} if header.isascii() and header.isdigit() else {}
