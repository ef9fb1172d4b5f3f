"""Read Qdrant's responses and translate its errors into the product's.

A response that is not in Qdrant's envelope comes from something else, such as a proxy: it is transient, whatever its
status. Source: Qdrant 1.19, openapi, src/actix and lib/.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import orjson

from ingestion_engine.adapters.store_errors import collection_missing, foreign_response
from ingestion_engine.adapters.transport import Response, excerpt, read_retry_after
from ingestion_engine.domain.errors import FatalError, IngestionError, PointsRefused, RequestTooLarge, TransientError
from ingestion_engine.domain.spec import StoreName

REFUSED_STATUS = frozenset({400, 422})
"""Statuses with which Qdrant refuses the content of a request."""
TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
"""Also sent by a proxy in front of Qdrant; smaller requests may pass."""
FATAL_STATUS = frozenset({404, 405, 409})
"""Any other status may pass: 408 is a time-out, 429 a rate limit, 503 an unavailable shard, and a full disk is 500 or
507, which an operator can fix while the job waits."""
_UPSERT_LIMIT = re.compile(r'Bad request: Limit exceeded \d+ > \d+ for "upsert limit"')
_STRICT_MODE = re.compile(r"Bad request: .*?\. Help: ", re.DOTALL)
"""How strict mode refuses a request, with what would help (``CollectionError::strict_mode``)."""
_FULL = re.compile(r"Bad request: Max (?:points count|vector storage size|payload storage size) limit of ")
_MEMORY = "Bad request: Resident memory usage is at "
"""Strict mode's limit on the memory of the whole process: it may be lower soon, as after a full disk."""
SPLIT_REQUESTED = "please try to split your request"
"""End of the text of a 429 for a request that costs more than the whole limit of a minute; it has no Retry-After."""
_COLLECTION_MISSING = re.compile(r"Not found: Collection `[^`]*` doesn't exist!$")
_SCHEMA_DIFFERS = re.compile(
    r"(?:Wrong input|Bad request): (?:[^`'\"]*First error captured: (?:Wrong input|Bad request): )?"
    r"(?:Vector dimension error: |Not existing vector name error: |Shard key not specified"
    r"|Conversion between (?:sparse|multi) and regular vectors failed)"
)
"""A refusal of any vector, whatever it contains: the collection is another one than the contract's."""


def read_result(response: Response, url: str, collection: str | None = None) -> Any:
    """Return ``result`` of a successful response.

    Raises:
        RequestTooLarge: the request costs more than a rate limit allows at once.
        TransientError: a time-out, a rate limit, a 5xx, a response that is not Qdrant's, or an update that was not
            applied in time.
        CollectionMissing: the collection does not exist.
        FatalError: "store_access_denied", "schema_mismatch", "qdrant_refused", with
            ``strict_mode`` in its context when a request within the collection's limits may succeed.
        PointsRefused: the content of a batch is refused (400, 413, 422); ``refused`` is still empty.
    """
    if response.status_code != HTTPStatus.OK:
        raise translate_response(response, url, collection)
    try:
        envelope = orjson.loads(response.content)
        result, _ = envelope["result"], (envelope["status"], envelope["time"])
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        message = f"The response of Qdrant at {url} has no result in Qdrant's envelope."
        raise TransientError("qdrant_answer_invalid", message, url=url) from error
    if isinstance(result, dict) and result.get("status") in ("wait_timeout", "acknowledged"):
        message = f"Qdrant at {url} did not apply an update in time ({result['status']})."
        raise TransientError("qdrant_unavailable", message, url=url, collection=collection)
    return result


def translate_response(response: Response, url: str, collection: str | None) -> IngestionError:
    """Return the product's error for a response other than 200. Pure."""
    status, text = response.status_code, read_error(response)
    context: dict[str, Any] = {"url": url, "status": status, "collection": collection, "store": "qdrant"}
    message = f"Qdrant at {url} responded {status}: {excerpt(response) if text is None else text}"
    if status in (401, 403):  # Qdrant's own 401 is a bare text
        hint = "Check INGEST_QDRANT__API_KEY and its permissions."
        return FatalError("store_access_denied", message, hint=hint, **context)
    if status == TOO_LARGE:
        return PointsRefused("points_refused", message, refused={}, **context)
    if text is None:
        return foreign_response(StoreName.QDRANT, response, url)
    if status == HTTPStatus.NOT_FOUND and _COLLECTION_MISSING.match(text):
        return collection_missing(StoreName.QDRANT, collection, url)
    if status in REFUSED_STATUS:
        return _translate_refusal(text, message, context)
    if status in FATAL_STATUS:
        return FatalError("qdrant_refused", message, **context)
    if status == HTTPStatus.TOO_MANY_REQUESTS and text.endswith(SPLIT_REQUESTED):
        return RequestTooLarge("qdrant_unavailable", message, **context)
    return TransientError("qdrant_unavailable", message, **{**context, **read_retry_after(response)})


def _translate_refusal(text: str, message: str, context: dict[str, Any]) -> IngestionError:
    if _SCHEMA_DIFFERS.match(text):
        return FatalError("schema_mismatch", message, **context)
    if _UPSERT_LIMIT.match(text):
        return RequestTooLarge("qdrant_refused", message, **context)
    if text.startswith(_MEMORY):
        return TransientError("qdrant_unavailable", message, **context)
    if _FULL.match(text):
        hint = "Raise the limit in the collection's strict_mode_config, or delete points."
        return FatalError("qdrant_refused", message, hint=hint, **context)
    if _STRICT_MODE.match(text):
        hint = "Raise the limit in the collection's strict_mode_config, or make the request smaller."
        return FatalError("qdrant_refused", message, hint=hint, strict_mode=True, **context)
    return PointsRefused("points_refused", message, refused={}, **context)


def read_error(response: Response) -> str | None:
    """Return Qdrant's error text, or None when the response is not in Qdrant's envelope. Pure."""
    try:
        return str(orjson.loads(response.content)["status"]["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
