"""The one place where Weaviate's errors become ours: gRPC statuses, REST statuses, and errors inside a batch.

Weaviate answers most refusals with gRPC status UNKNOWN and a text, so texts are read where nothing else tells.
Source: Weaviate 1.3x, adapters/handlers/grpc and its sentinel errors; heard from a 1.40 while it was ended and started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import orjson

from ingestion_engine.adapters.transport import Answer, read_retry_after
from ingestion_engine.domain.errors import CollectionMissing, FatalError, IngestionError, TransientError

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
TROUBLE_WORDS = (
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
"""What a server in trouble says: about itself, not about a point."""


@contextlib.contextmanager
def weaviate_errors(url: str, collection: str | None) -> Iterator[None]:
    """Raise every gRPC error as the product's."""
    try:
        yield
    except grpc.RpcError as error:
        raise translate_call(error, url, collection) from error


def translate_call(error: Any, url: str, collection: str | None) -> IngestionError:
    """Return our error for a failed gRPC call. Pure."""
    code, text = error.code(), error.details() or ""
    said = f"weaviate at {url} answered {code.name}: {text}"
    context: dict[str, Any] = {"url": url, "status": code.name, "collection": collection, "store": "weaviate"}
    if code in TRANSIENT_CODES:
        return TransientError("weaviate_unavailable", said, **context)
    if code in DENIED_CODES:
        return _denied(said, context)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return FatalError("weaviate_unsupported", said, hint="Weaviate 1.29 or newer is needed.", **context)
    return translate_text(text, said, context)


def translate_text(text: str, said: str, context: dict[str, Any]) -> IngestionError:
    """Return our error where only Weaviate's words tell; unknown words are fatal. Pure."""
    if any(words in text for words in MISSING_WORDS):
        said = f"weaviate has no collection {context.get('collection')}"
        return CollectionMissing("collection_missing", said, **context)
    if any(words in text for words in MISMATCH_WORDS):
        return FatalError("schema_mismatch", said, **context)
    if any(words in text for words in DENIED_WORDS):
        return _denied(said, context)
    if any(words in text for words in TROUBLE_WORDS):
        return TransientError("weaviate_unavailable", said, **context)
    return FatalError("weaviate_refused", said, **context)


def translate_answer(response: Answer, url: str, collection: str | None) -> IngestionError:
    """Return our error for a REST answer that is not a success. Pure."""
    status, text = response.status_code, read_error(response)
    said = f"weaviate at {url} answered {status}: {text}"
    context: dict[str, Any] = {"url": url, "status": status, "collection": collection, "store": "weaviate"}
    if status >= 500 or status in (408, 429):
        return TransientError("weaviate_unavailable", said, **{**context, **read_retry_after(response)})
    if status in (401, 403):
        return _denied(said, context)
    if status == 404 and collection is not None:
        return CollectionMissing("collection_missing", f"weaviate at {url} has no collection {collection}", **context)
    return FatalError("weaviate_refused", said, hint="Is INGEST_WEAVIATE__URL a Weaviate server?", **context)


def is_trouble(text: str) -> bool:
    """True when the error of one object in a batch speaks of the server, not of the object. Pure."""
    return any(words in text for words in TROUBLE_WORDS)


def is_about_all(text: str) -> bool:
    """True when the error of one object in a batch is the same for every object: class, schema or permission. Pure."""
    return any(words in text for words in (*MISSING_WORDS, *MISMATCH_WORDS, *DENIED_WORDS))


def read_error(response: Answer) -> str:
    """Return Weaviate's own words, else the beginning of the answer. Pure."""
    try:
        answer = orjson.loads(response.content)
        return "; ".join(entry["message"] for entry in answer["error"]) if "error" in answer else str(answer["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return response.text[:300]


def _denied(said: str, context: dict[str, Any]) -> FatalError:
    return FatalError("store_access_denied", said, hint="Check INGEST_WEAVIATE__API_KEY and what it may do.", **context)
