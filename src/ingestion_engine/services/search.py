"""Search a collection: the query becomes a vector as its contract says, and every store is asked at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ingestion_engine.domain.errors import (
    CollectionMissing,
    FatalError,
    IngestionError,
    SubmissionError,
    TransientError,
)
from ingestion_engine.domain.ports import Embedder, SearchFilter, StateStore, VectorStore
from ingestion_engine.domain.records import SearchHit
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.state_access import require_contract

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

STORE_TIME_LIMIT_S: Final = 20.0
"""For one store's answer; a person waits for it."""

HIT_FIELDS: Final = (
    "key",
    "uri",
    "title",
    "text",
    "chunk_index",
    "start_char",
    "end_char",
    "page",
    "content_type",
    "metadata",
    "object_id",
)
"""Payload fields of an answer, in this order."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for.

    ``collection`` may name an alias. ``stores`` None means all stores of the collection; ``limit`` holds per store.
    """

    collection: str
    query: str
    limit: int
    stores: tuple[StoreName, ...] | None = None
    where: SearchFilter = field(default_factory=SearchFilter)


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Hits per store, best first, as JSON types; stores that failed are under ``errors`` instead."""

    collection: str
    """What was searched: for an alias, what it stood for when the search began."""
    alias: str | None
    """The name that was asked, when it is an alias."""
    model: str
    results: dict[StoreName, list[dict[str, Any]]]
    errors: dict[StoreName, dict[str, Any]]
    took_ms: float


class SearchService:
    """Searches. Shared by all requests.

    Args:
        embedder: Makes the query's vector.
        stores: Stores that are configured.
        state: Holds the contracts; None when no state store is configured.
    """

    def __init__(self, embedder: Embedder, stores: Mapping[StoreName, VectorStore], state: StateStore | None) -> None:
        self._embedder = embedder
        self._stores = stores
        self._state = state

    async def search(self, query: SearchQuery) -> SearchAnswer:
        """Return the nearest points of every store asked.

        Raises:
            SubmissionError: "collection_not_found" (404); "store_not_in_collection" (422); "model_changed" (409) when
            the model is
                not the one that made the vectors; "text_too_long" (422); "state_unavailable", "embedder_unavailable",
                "stores_unavailable" (503, the last only when every store asked is away).

        Cost: one read of the state store, one description and one embed call, one request per store.
        """
        began = time.monotonic()
        contract = await require_contract(self._state, query.collection)
        while True:
            names = self._choose_stores(contract, query.stores)
            vector = await self._embed(contract, query.query)
            found = await asyncio.gather(*(self._ask(name, contract.collection, query, vector) for name in names))
            results = {name: hits for name, hits in zip(names, found, strict=True) if isinstance(hits, list)}
            errors = {
                name: error for name, error in zip(names, found, strict=True) if isinstance(error, IngestionError)
            }
            moved_to = await self._find_move(query.collection, contract, errors)
            if moved_to is None:
                break
            contract = moved_to
        if not results:
            raise _no_store(errors)
        return SearchAnswer(
            collection=contract.collection,
            alias=None if contract.collection == query.collection else query.collection,
            model=contract.model,
            results={name: [render_hit(hit) for hit in hits] for name, hits in results.items()},
            errors={name: {"code": error.code, "detail": error.message} for name, error in errors.items()},
            took_ms=round((time.monotonic() - began) * 1000, 1),
        )

    async def _find_move(
        self, name: str, asked: CollectionContract, errors: Mapping[StoreName, IngestionError]
    ) -> CollectionContract | None:
        """What an alias stands for by now, when the version that was asked has been dropped meanwhile; else None."""
        if asked.collection == name or not any(isinstance(error, CollectionMissing) for error in errors.values()):
            return None
        now = await require_contract(self._state, name)
        return None if now.collection == asked.collection else now

    def _choose_stores(
        self, contract: CollectionContract, wanted: tuple[StoreName, ...] | None
    ) -> tuple[StoreName, ...]:
        names = contract.stores if wanted is None else wanted
        for name in names:
            if name not in contract.stores:
                raise SubmissionError(
                    "store_not_in_collection",
                    f"collection {contract.collection!r} is not in {name.value}",
                    hint=f"it is in {', '.join(contract.stores)}",
                    field="stores",
                )
        return names

    async def _embed(self, contract: CollectionContract, text: str) -> npt.NDArray[np.float32]:
        try:
            model = await self._embedder.describe(contract.model)
            if model.digest != contract.model_digest:
                raise SubmissionError(
                    "model_changed",
                    f"collection {contract.collection!r} was made with {contract.model!r} of digest "
                    f"{contract.model_digest}; the embedder now has {model.digest}",
                    hint="vectors of two models cannot be compared; bring the old model back or make a new collection",
                    status=409,
                )
            vectors = await self._embedder.embed(contract.model, [contract.query_prefix + text])
        except SubmissionError:
            raise
        except TransientError as error:
            raise SubmissionError(
                "embedder_unavailable", f"the embedder is away: {error.message}", hint="try again later", status=503
            ) from error
        except FatalError as error:
            raise SubmissionError(error.code, error.message, hint=error.hint, status=503) from error
        except IngestionError as error:
            raise SubmissionError(error.code, error.message, hint="shorten the query", field="query") from error
        row: npt.NDArray[np.float32] = vectors[0]
        return row

    async def _ask(
        self, name: StoreName, collection: str, query: SearchQuery, vector: npt.NDArray[np.float32]
    ) -> list[SearchHit] | IngestionError:
        """Ask one store; its failure is a value, so that the others still answer."""
        store = self._stores.get(name)
        if store is None:
            return FatalError("store_not_configured", f"this service has no {name.value}")
        try:
            async with asyncio.timeout(STORE_TIME_LIMIT_S):
                return await store.search(collection, vector, limit=query.limit, where=query.where)
        except TimeoutError:
            return TransientError("store_unavailable", f"{name.value} has not answered within {STORE_TIME_LIMIT_S:g} s")
        except IngestionError as error:
            _log.warning("store not searched", extra={"store": name.value, **error.log_fields()})
            return error


def render_hit(hit: SearchHit) -> dict[str, Any]:
    """Return a hit as JSON types; fields without a value are left out. Pure."""
    fields = {name: hit.payload[name] for name in HIT_FIELDS if name in hit.payload}
    return {"point_id": hit.point_id, "score": round(hit.score, 6), **fields}


def _no_store(errors: Mapping[StoreName, IngestionError]) -> SubmissionError:
    listed = [
        {"pointer": f"/stores/{name}", "code": error.code, "detail": error.message} for name, error in errors.items()
    ]
    return SubmissionError(
        "stores_unavailable",
        "no store could be searched: " + "; ".join(f"{name}: {error.message}" for name, error in errors.items()),
        hint="GET /readyz shows what is away",
        status=503,
        errors=listed,
    )
