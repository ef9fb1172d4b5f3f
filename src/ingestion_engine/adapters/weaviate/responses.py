"""Translate Weaviate's errors into the product's: gRPC statuses, REST statuses, and errors inside a batch.

An error that is not known is transient. Weaviate reports most refusals as gRPC status UNKNOWN with a text, so the known
ones are recognised by what precedes the first quoted value. A file name or a passage inside an error, or a collection
named "disk", therefore changes nothing.
Source: Weaviate 1.39, adapters/handlers/grpc, usecases/objects, adapters/repos/db; observed with 1.40 while it stopped
and started.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import grpc
import orjson

from ingestion_engine.adapters.store_errors import collection_missing, foreign_response
from ingestion_engine.adapters.transport import Response, excerpt, read_retry_after
from ingestion_engine.domain.errors import FatalError, IngestionError, PointsRefused, RequestTooLarge, TransientError
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.tls import find_grpc_tls_failure

DENIED_CODES = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
REFUSED_CODES = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE}
)
"""Only servers send these, never a gRPC library or a proxy (grpc.io, "Status codes and their use")."""
NOT_GRPC = "Received http2 header with status:"
"""Text with which gRPC reports a response of something that is not a gRPC server, such as a proxy's page."""
TOO_LARGE = "message larger than max ("
"""Text of gRPC's libraries for a request or response above the limit of either side (``grpcMaxMessageSize``)."""
REFUSED_STATUS = frozenset({400, 405, 409, 422})
"""HTTP statuses with which Weaviate refuses a request for good."""
_POINT = re.compile(r"invalid (?:UUID|urn prefix)|(?:invalid [a-zA-Z\[\] ]+ )?property '\w*' on class '\w*': ")
"""Beginning of an error about the content of one object, which repeating cannot change."""
_OVERSIZED = "could not marshal "
"""The same, from the storage: an object has more than it can hold."""
_MISSING = (
    "auto-schema: create collection: ",
    "could not find class ",
    "could not find index for class ",
    "cannot find index for class ",
    "tried to browse non-existing index for ",
    "no such class with name ",
)
"""The class is missing, or this node has not loaded it yet; the caller checks over REST."""
_NOT_PRESENT = "' not present in schema"
_MISMATCH = (
    "no such prop with name ",
    "vector lengths don",
    "new node has a vector with length ",
    " does not have configuration for vector ",
    " configuration does not have single vector index",
)
_REFUSED = ("query maximum results exceeded", "Filtering by property ")
"""A request that this class can never answer."""
_DENIED = (
    "extract auth: unauthorized: ",
    "extract auth: anonymous access not enabled",
    "extract auth: no authentication scheme is configured",
    "authorization, forbidden action: user ",
    "user is not authenticated",
)
_QUOTED_NAME = re.compile(r'"\w*"')
"""A name in double quotes, such as a shard's: no value has only letters, digits and underscores and says something."""


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
    if code is grpc.StatusCode.UNAVAILABLE:
        failure = find_grpc_tls_failure(text, f"Weaviate at {url}", **context)
        if failure is not None:
            return failure
    if code in DENIED_CODES:
        return _denied(message, context)
    if code in REFUSED_CODES:
        return FatalError("weaviate_refused", message, **context)
    if code is grpc.StatusCode.UNIMPLEMENTED and not text.startswith(NOT_GRPC):
        return FatalError("weaviate_unsupported", message, hint="Upgrade to Weaviate 1.29 or later.", **context)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE in text:
        return RequestTooLarge("weaviate_unavailable", message, **context)
    return _translate_text(text, message, context)


def translate_entry(text: str, url: str, collection: str) -> IngestionError:
    """Return the product's error for the error of one object in a batch. Pure.

    PointsRefused means that this object is refused for good. Any other error concerns the whole batch.
    """
    context: dict[str, Any] = {"url": url, "collection": collection, "store": "weaviate"}
    if _POINT.match(text) or _OVERSIZED in _unquoted(text):
        return PointsRefused("points_refused", text, refused={}, **context)
    return _translate_text(text, f"Weaviate at {url} did not write all points: {text}", context)


def _translate_text(text: str, message: str, context: dict[str, Any]) -> IngestionError:
    """Return the product's error where only Weaviate's text identifies it; an unknown text is transient. Pure."""
    said = _unquoted(text)
    if any(words in said for words in _DENIED):
        return _denied(message, context)
    if any(words in said for words in _MISSING) or (text.startswith("class '") and text.endswith(_NOT_PRESENT)):
        return collection_missing(StoreName.WEAVIATE, context["collection"], context["url"])
    if any(words in said for words in _MISMATCH):
        return FatalError("schema_mismatch", message, **context)
    if any(words in said for words in _REFUSED):
        return FatalError("weaviate_refused", message, **context)
    return TransientError("weaviate_unavailable", message, **context)


def _unquoted(text: str) -> str:
    """Return an error up to the first quoted value: what Weaviate itself says, and the places it names before. Pure."""
    said = _QUOTED_NAME.sub("", text)
    for quote in "'\"“":
        said = said.split(quote, 1)[0]
    return said


def translate_response(response: Response, url: str, collection: str | None) -> IngestionError:
    """Return the product's error for a REST response that is not a success. Pure.

    A missing class is answered 404 without a body, as any proxy may do too: the caller confirms it.
    """
    status, text = response.status_code, read_error(response)
    context: dict[str, Any] = {"url": url, "status": status, "collection": collection, "store": "weaviate"}
    message = f"Weaviate at {url} responded {status}: {excerpt(response) if text is None else text}"
    if status in (401, 403):
        return _denied(message, context)
    if status == 404 and collection is not None and not response.content:
        return collection_missing(StoreName.WEAVIATE, context["collection"], context["url"])
    if text is None:
        return foreign_response(StoreName.WEAVIATE, response, url)
    if status in REFUSED_STATUS:
        return FatalError("weaviate_refused", message, **context)
    return TransientError("weaviate_unavailable", message, **{**context, **read_retry_after(response)})


def is_unknown_path(response: Response) -> bool:
    """True when Weaviate itself responds that it does not have the path of a request: its version is too old. Pure."""
    if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return read_error(response) is not None
    text = read_error(response) or ""
    return response.status_code == HTTPStatus.NOT_FOUND and text.startswith("path ") and text.endswith("was not found")


def read_error(response: Response) -> str | None:
    """Return Weaviate's error text, or None when the response is not in Weaviate's form. Pure."""
    try:
        body = orjson.loads(response.content)
        if "error" in body:
            return "; ".join(entry["message"] for entry in body["error"])
        return str(body["message"]) if "code" in body else None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None


def _denied(message: str, context: dict[str, Any]) -> FatalError:
    hint = "Check INGEST_WEAVIATE__API_KEY and its permissions."
    return FatalError("store_access_denied", message, hint=hint, **context)
