"""Read Qdrant's responses and translate its errors into the product's.

Source: Qdrant 1.19, openapi and lib/.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

from ingestion_engine.adapters.store_errors import collection_missing
from ingestion_engine.adapters.transport import Response, read_retry_after
from ingestion_engine.domain.errors import FatalError, IngestionError, PointsRefused, TransientError
from ingestion_engine.domain.spec import StoreName

TRANSIENT_STATUS = frozenset({408, 429})
"""Besides every 5xx: 503 is an unavailable shard, 507 a full disk, which an operator can fix while the job waits."""
COLLECTION_MISSING = ("Not found: Collection", "doesn't exist")
DIMENSION_DIFFERS = "Vector dimension error"


def read_result(response: Response, url: str, collection: str | None = None) -> Any:
    """Return ``result`` of a successful response.

    Raises:
        TransientError: a time-out, a rate limit, a 5xx, a response that is not Qdrant's, or an update that was not
            applied in time.
        CollectionMissing: the collection does not exist.
        FatalError: "store_access_denied", "schema_mismatch", "qdrant_refused".
        PointsRefused: the content of a batch is refused (400, 413, 422); ``refused`` is still empty.
    """
    if response.status_code != HTTPStatus.OK:
        raise translate_response(response, url, collection)
    try:
        result = orjson.loads(response.content)["result"]
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        message = f"The response of Qdrant at {url} has no result."
        raise TransientError("qdrant_answer_invalid", message, url=url) from error
    if isinstance(result, dict) and result.get("status") in ("wait_timeout", "acknowledged"):
        message = f"Qdrant at {url} did not apply an update in time ({result['status']})."
        raise TransientError("qdrant_unavailable", message, url=url, collection=collection)
    return result


def translate_response(response: Response, url: str, collection: str | None) -> IngestionError:
    """Return the product's error for a response other than 200. Pure."""
    status, text = response.status_code, read_error(response)
    context: dict[str, Any] = {"url": url, "status": status, "collection": collection, "store": "qdrant"}
    message = f"Qdrant at {url} responded {status}: {text}"
    if status >= 500 or status in TRANSIENT_STATUS:
        return TransientError("qdrant_unavailable", message, **{**context, **read_retry_after(response)})
    if status in (401, 403):
        hint = "Check INGEST_QDRANT__API_KEY and its permissions."
        return FatalError("store_access_denied", message, hint=hint, **context)
    if status == 404 and all(words in text for words in COLLECTION_MISSING):
        return collection_missing(StoreName.QDRANT, collection, url)
    if DIMENSION_DIFFERS in text:
        return FatalError("schema_mismatch", message, **context)
    if status in (400, 413, 422):
        return PointsRefused("points_refused", message, refused={}, **context)
    return FatalError("qdrant_refused", message, hint="Check that INGEST_QDRANT__URL is a Qdrant server.", **context)


def read_error(response: Response) -> str:
    """Return Qdrant's error text, or the first 300 characters of a response without one. Pure."""
    try:
        return str(orjson.loads(response.content)["status"]["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return response.text[:300]
