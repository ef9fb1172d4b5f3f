"""Translate Weaviate's errors into the product's: gRPC statuses, REST statuses, and errors inside a batch.

Weaviate reports most refusals as gRPC status UNKNOWN with a text, so the text is matched where the status is ambiguous.
Source: Weaviate 1.3x, adapters/handlers/grpc and its sentinel errors; observed with 1.40 while it stopped and started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import orjson

from ingestion_engine.adapters.store_errors import collection_missing
from ingestion_engine.adapters.transport import Response, read_retry_after
from ingestion_engine.domain.errors import FatalError, IngestionError, TransientError
from ingestion_engine.domain.spec import StoreName

TRANSIENT_CODES = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)
DENIED_CODES = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
DENIED_WORDS = ("unauthorized", "forbidden", "anonymous access not enabled")
MISSING_WORDS = (
    "auto-schema: create collection",
    "class not found",
    "could not find class",
    "find index for class",
    "non-existing index",
    "not present in schema",
    "was dropped while",
)
MISMATCH_WORDS = ("no such prop", "vector with length", "vector lengths don't match", "invalid vector dimension")
SERVER_WORDS = (
    "already closed",
    "connection is closing",
    "connection refused",
    "context canceled",
    "deadline exceeded",
    "disk",
    "leader not found",
    "no space left",
    "not ready",
    "not the leader",
    "out of memory",
    "not enough memory",
    "read-only",
    "replica",
    "resolve node name",
    "shard busy",
    "shutdown",
    "shutting down",
    "store is closed",
    "store not open",
    "too many requests",
    "unexpected EOF",
    "RST_STREAM",
)
"""Texts about the state of the server, not about a point."""


@contextlib.contextmanager
def weaviate_errors(url: str, collection: str | None) -> Iterator[None]:
    """Raise every gRPC error as the product's error."""
    try:
        yield
    except grpc.RpcError as error:
        raise translate_call(error, url, collection) from error


def translate_call(error: Any, url: str, collection: str | None) -> IngestionError:
    """Return the product's error for a failed gRPC call. Pure."""
    code, text = error.code(), error.details() or ""
    message = f"Weaviate at {url} responded {code.name}: {text}"
    context: dict[str, Any] = {"url": url, "status": code.name, "collection": collection, "store": "weaviate"}
    if code in TRANSIENT_CODES:
        return TransientError("weaviate_unavailable", message, **context)
    if code in DENIED_CODES:
        return _denied(message, context)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return FatalError("weaviate_unsupported", message, hint="Upgrade to Weaviate 1.29 or later.", **context)
    return translate_text(text, message, context)


def translate_text(text: str, message: str, context: dict[str, Any]) -> IngestionError:
    """Return the product's error where only Weaviate's text identifies it; an unknown text is fatal. Pure."""
    if any(words in text for words in MISSING_WORDS):
        return collection_missing(StoreName.WEAVIATE, context["collection"], context["url"])
    if any(words in text for words in MISMATCH_WORDS):
        return FatalError("schema_mismatch", message, **context)
    if any(words in text for words in DENIED_WORDS):
        return _denied(message, context)
    if any(words in text for words in SERVER_WORDS):
        return TransientError("weaviate_unavailable", message, **context)
    return FatalError("weaviate_refused", message, **context)


def translate_response(response: Response, url: str, collection: str | None) -> IngestionError:
    """Return the product's error for a REST response that is not a success. Pure."""
    status, text = response.status_code, read_error(response)
    message = f"Weaviate at {url} responded {status}: {text}"
    context: dict[str, Any] = {"url": url, "status": status, "collection": collection, "store": "weaviate"}
    if status >= 500 or status in (408, 429):
        return TransientError("weaviate_unavailable", message, **{**context, **read_retry_after(response)})
    if status in (401, 403):
        return _denied(message, context)
    if status == 404 and collection is not None:
        return collection_missing(StoreName.WEAVIATE, context["collection"], context["url"])
    hint = "Check that INGEST_WEAVIATE__URL is a Weaviate server."
    return FatalError("weaviate_refused", message, hint=hint, **context)


def concerns_server(text: str) -> bool:
    """True when the error of one object in a batch is about the server, not about the object. Pure."""
    return any(words in text for words in SERVER_WORDS)


def concerns_batch(text: str) -> bool:
    """True when the error of one object applies to the whole batch: class, schema or permission. Pure."""
    return any(words in text for words in (*MISSING_WORDS, *MISMATCH_WORDS, *DENIED_WORDS))


def read_error(response: Response) -> str:
    """Return Weaviate's error text, or the first 300 characters of a response without one. Pure."""
    try:
        body = orjson.loads(response.content)
        return "; ".join(entry["message"] for entry in body["error"]) if "error" in body else str(body["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return response.text[:300]


def _denied(message: str, context: dict[str, Any]) -> FatalError:
    hint = "Check INGEST_WEAVIATE__API_KEY and its permissions."
    return FatalError("store_access_denied", message, hint=hint, **context)
