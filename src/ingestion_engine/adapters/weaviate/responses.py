"""Translate Weaviate's errors into the product's: gRPC statuses, REST statuses, and errors inside a batch.

An error that is not known is transient. Weaviate reports most refusals as gRPC status UNKNOWN with a text, so the known
ones are recognised by the whole shape of their text: from its beginning, and without the quotes in which Weaviate puts
values. A file name or a passage inside an error, or a collection named "disk", therefore changes nothing.
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
_PLACES = r"""(?:[^'"“”]|"\w*")*"""
"""The places that Weaviate writes before an error ("put batch: shard "main": "): no quoted value, only quoted names."""
_POINT = re.compile(
    r"invalid UUID|invalid urn prefix|uuid: "
    r"|invalid [\w\[\] ]+ property '\w*' on class '\w*': "
    r"|property '\w*' on class '\w*': "
    rf"|{_PLACES}could not marshal '\w+' max length exceeded"
)
"""An error about the content of one object, which repeating cannot change."""
_MISSING = re.compile(
    r"auto-schema: create collection: "
    rf"|{_PLACES}(?:"
    r"could not find class \w+ in schema$"
    r"|could not find index for class \w+\. It might have been deleted"
    r"|cannot find index for class \w+$"
    r"|tried to browse non-existing index for \w+$"
    r"|class '\w+' not present in schema$"
    r"|no such class with name '\w+' found in the schema"
    r"|class \w+ not found in schema$)"
)
"""The class is missing, or this node has not loaded it yet; the caller asks REST which."""
_MISMATCH = re.compile(
    rf"{_PLACES}(?:"
    r"no such prop with name '\w+' found in class '\w+' in the schema"
    r"|\d+ vs \d+: vector lengths don't match$"
    r"|vector lengths don't match: \d+ vs \d+$"
    r"|new node has a vector with length \d+\. Existing nodes have"
    r"|collection \w+ does not have configuration for vector \w*$"
    r"|collection \w+ configuration does not have single vector index$)"
)
_REFUSED = re.compile(
    rf"{_PLACES}(?:query maximum results exceeded|Filtering by property '\w+' requires inverted index)"
)
"""A request that this class can never answer."""
_DENIED = re.compile(
    r"extract auth: (?:unauthorized: |anonymous access not enabled|no authentication scheme is configured)"
    rf"|{_PLACES}(?:authorization, forbidden action: user '|user is not authenticated$)"
)


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
    if _POINT.match(text):
        return PointsRefused("points_refused", text, refused={}, **context)
    return _translate_text(text, f"Weaviate at {url} did not write all points: {text}", context)


def _translate_text(text: str, message: str, context: dict[str, Any]) -> IngestionError:
    if _DENIED.match(text):
        return _denied(message, context)
    if _MISSING.match(text):
        return collection_missing(StoreName.WEAVIATE, context["collection"], context["url"])
    if _MISMATCH.match(text):
        return FatalError("schema_mismatch", message, **context)
    if _REFUSED.match(text):
        return FatalError("weaviate_refused", message, **context)
    return TransientError("weaviate_unavailable", message, **context)


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
