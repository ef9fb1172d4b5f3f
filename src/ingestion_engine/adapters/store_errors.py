"""Errors that every vector store adapter raises with the same code, text and context. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingestion_engine.adapters.transport import Response, excerpt, read_retry_after
from ingestion_engine.domain.errors import CollectionMissing, FatalError, PointsRefused, TransientError
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.spec import CollectionContract, StoreName


def store_not_configured(store: StoreName) -> FatalError:
    """Return the error for a store that the settings do not name."""
    hint = f"Set INGEST_{store.upper()}__URL."
    return FatalError("store_not_configured", f"The store '{store}' is not configured.", hint=hint, store=store.value)


def collection_missing(store: StoreName, collection: str | None, url: str) -> CollectionMissing:
    """Return the error for a collection that does not exist in a store."""
    message = f"Collection '{collection}' does not exist in {store.capitalize()} at {url}."
    return CollectionMissing("collection_missing", message, collection=collection, store=store.value, url=url)


def foreign_response(store: StoreName, response: Response, url: str) -> TransientError:
    """Return the error for a response that is not in the form of the store, such as a proxy's page.

    It is no evidence about the store and may be gone at the next try, so nothing is concluded from its status.
    """
    name, status = store.capitalize(), response.status_code
    message = f"The response {status} of {url} does not come from {name}: {excerpt(response) or 'it is empty'}"
    hint = f"Check INGEST_{store.upper()}__URL and the proxies in front of it."
    context = {"url": url, "status": status, "store": store.value, **read_retry_after(response)}
    return TransientError(f"{store}_unavailable", message, hint=hint, **context)


def schema_mismatch(
    store: StoreName, contract: CollectionContract, field: str, *, found: Any, expected: Any
) -> FatalError:
    """Return the error for a collection whose definition in a store differs from its contract in one field."""
    return FatalError(
        "schema_mismatch",
        f"Collection '{contract.collection}' in {store.capitalize()} has {field} {found}; expected {expected}.",
        hint="Use another collection name, or drop the collection.",
        collection=contract.collection,
        store=store.value,
        field=field,
        found=found,
        expected=expected,
    )


def points_refused(store: StoreName, collection: str, refused: Mapping[PointId, str], *, total: int) -> PointsRefused:
    """Return the error for the points of a write that a store refuses permanently, once all others are written."""
    reason = next(iter(refused.values()))
    message = f"{store.capitalize()} refused {len(refused)} of {total} points: {reason}"
    return PointsRefused("points_refused", message, refused=refused, collection=collection, store=store.value)
