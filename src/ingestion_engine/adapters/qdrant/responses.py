"""How Qdrant's answers are read, and the one place where its errors become ours. Source: Qdrant 1.19, openapi and
lib/.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

from ingestion_engine.adapters.transport import Answer, read_retry_after
from ingestion_engine.domain.errors import CollectionMissing, FatalError, IngestionError, PointsRefused, TransientError

TRANSIENT_STATUS = frozenset({408, 429})
"""And all of 500 and more: 503 shard away, 507 disk full (an operator can mend it while the job waits)."""
COLLECTION_MISSING = ("Not found: Collection", "doesn't exist")
DIMENSION_DIFFERS = "Vector dimension error"


def read_result(response: Answer, url: str, collection: str | None = None) -> Any:
    """Return ``result`` of a good answer.

    Raises:
        TransientError: time-outs, rate limits, 5xx, an answer that is not Qdrant's, an update that was not applied
        in time. FatalError: "store_access_denied", "schema_mismatch", "qdrant_refused".
        PointsRefused: a batch that is refused for what is in it (400, 413, 422); ``refused`` is still empty.
    """
    if response.status_code != HTTPStatus.OK:
        raise translate_answer(response, url, collection)
    try:
        result = orjson.loads(response.content)["result"]
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise TransientError("qdrant_answer_invalid", f"qdrant at {url} gave no result", url=url) from error
    if isinstance(result, dict) and result.get("status") in ("wait_timeout", "acknowledged"):
        said = f"qdrant at {url} did not apply an update in time ({result['status']})"
        raise TransientError("qdrant_unavailable", said, url=url, collection=collection)
    return result


def translate_answer(response: Answer, url: str, collection: str | None) -> IngestionError:
    """Return our error for an answer other than 200. Pure."""
    status, text = response.status_code, read_error(response)
    context: dict[str, Any] = {"url": url, "status": status, "collection": collection, "store": "qdrant"}
    said = f"qdrant at {url} answered {status}: {text}"
    if status >= 500 or status in TRANSIENT_STATUS:
        return TransientError("qdrant_unavailable", said, **{**context, **read_retry_after(response)})
    if status in (401, 403):
        hint = "Check INGEST_QDRANT__API_KEY and what it may do."
        return FatalError("store_access_denied", said, hint=hint, **context)
    if status == 404 and all(words in text for words in COLLECTION_MISSING):
        return collection_missing(collection, url)
    if DIMENSION_DIFFERS in text:
        return FatalError("schema_mismatch", said, **context)
    if status in (400, 413, 422):
        return PointsRefused("points_refused", said, refused={}, **context)
    return FatalError("qdrant_refused", said, hint="Is INGEST_QDRANT__URL a Qdrant server?", **context)


def collection_missing(collection: str | None, url: str) -> CollectionMissing:
    """Return the error for a collection that is not there. Pure."""
    said = f"qdrant at {url} has no collection {collection}"
    return CollectionMissing("collection_missing", said, collection=collection, store="qdrant", url=url)


def read_error(response: Answer) -> str:
    """Return Qdrant's own words, else the beginning of the answer. Pure."""
    try:
        return str(orjson.loads(response.content)["status"]["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return response.text[:300]
