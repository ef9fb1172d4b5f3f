"""Search: embeds the query as the contract of the collection requires, and queries all stores concurrently."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ingestion_engine.domain.errors import (
    CollectionMissing,
    DimensionDiffers,
    FatalError,
    IngestionError,
    RequestFailed,
    SubmissionError,
    TransientError,
)
from ingestion_engine.domain.ports import Embedder, SearchFilter, StateStore, VectorStore
from ingestion_engine.domain.probe_text import make_probe_text
from ingestion_engine.domain.records import SearchHit
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.collection_access import CollectionAccess
from ingestion_engine.services.state_access import require_contract

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EMBED_TIME_LIMIT_S: Final = 30.0
"""Time limit in seconds to embed the query, with the time in the gateway's queue and to load a model from a disk."""

STORE_TIME_LIMIT_S: Final = 20.0
"""Time limit of one store; a person waits for the answer."""

SCORE_TOLERANCE: Final = 0.001
"""Largest difference of two stores' scores of the same vectors. Their arithmetic differs by 0.000001; an index that
compresses vectors may score them less exactly (a guess)."""

ONLY_HERE: Final = "only_here"
"""Mark of a passage that another store should have found and has not."""

SCORE: Final = "score"
"""Mark of a passage that another store scores differently."""

HIT_FIELDS: Final = (
    "key",
    "uri",
    "title",
    "text",
    "context",
    "chunk_index",
    "start_char",
    "end_char",
    "page",
    "content_type",
    "metadata",
    "object_id",
)
"""Payload fields of a hit, in this order."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A search request."""

    collection: str
    """Name of a collection or an alias."""
    query: str
    limit: int
    """Maximum number of hits per store."""
    stores: tuple[StoreName, ...] | None = None
    """Stores to query; None means all stores of the collection."""
    where: SearchFilter = field(default_factory=SearchFilter)


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Hits per store, best first, as JSON types; stores that failed are in ``errors`` instead."""

    collection: str
    """Collection that was searched: for an alias, the one it stood for when the search began."""
    alias: str | None
    """The requested name, when it is an alias."""
    model: str
    results: dict[StoreName, list[dict[str, Any]]]
    """Each hit has the marks of ``find_differences`` as ``differences``."""
    errors: dict[StoreName, dict[str, Any]]
    took_ms: float
    differences: int | None
    """Number of different points with marks; None when fewer than two stores responded."""


class SearchService:
    """Searches collections. Shared by all requests.

    Args:
        embedder: The embedder of queries.
        stores: Configured vector stores.
        state: The state store with the contracts; None when none is configured.
    """

    def __init__(self, embedder: Embedder, stores: Mapping[StoreName, VectorStore], state: StateStore | None) -> None:
        self._embedder = embedder
        self._stores = stores
        self._state = state

    async def search(self, query: SearchQuery, access: CollectionAccess) -> SearchAnswer:
        """Return the nearest points of every requested store, from a collection that the caller may use.

        Raises:
            SubmissionError: "collection_not_found" (404); "store_not_in_collection" (422); "model_changed" (409): the
                model is not the one that made the vectors; "text_too_long", "embedding_failed" (422);
                "state_unavailable", "embedder_unavailable", "stores_unavailable" (503, the last one only when no
                requested store responds).

        Cost: two or three reads of the state store, one description and one embed call, one request per store.
        """
        began = time.monotonic()
        contract = await require_contract(self._state, query.collection, access)
        while True:
            names = self._choose_stores(contract, query.stores)
            vector = await self._embed(contract, query.query)
            found = await asyncio.gather(
                *(self._query(name, vector, collection=contract.collection, query=query) for name in names)
            )
            results = {name: hits for name, hits in zip(names, found, strict=True) if isinstance(hits, list)}
            errors = {
                name: error for name, error in zip(names, found, strict=True) if isinstance(error, IngestionError)
            }
            moved_to = await self._find_move(query.collection, contract, access=access, errors=errors)
            if moved_to is None:
                break
            contract = moved_to
        if not results:
            raise _no_store(errors)
        marks = find_differences(results, query.limit)
        return SearchAnswer(
            collection=contract.collection,
            alias=None if contract.collection == query.collection else query.collection,
            model=contract.model,
            results={
                name: [{**render_hit(hit), "differences": mark} for hit, mark in zip(hits, marks[name], strict=True)]
                for name, hits in results.items()
            },
            errors={name: {"code": error.code, "detail": error.message} for name, error in errors.items()},
            took_ms=round((time.monotonic() - began) * 1000, 1),
            differences=count_differences(results, marks) if len(results) > 1 else None,
        )

    async def _find_move(
        self,
        name: str,
        searched: CollectionContract,
        *,
        access: CollectionAccess,
        errors: Mapping[StoreName, IngestionError],
    ) -> CollectionContract | None:
        """Return the new contract when an alias has moved and the searched version was dropped meanwhile; else None."""
        if searched.collection == name or not any(isinstance(error, CollectionMissing) for error in errors.values()):
            return None
        now = await require_contract(self._state, name, access)
        return None if now.collection == searched.collection else now

    def _choose_stores(
        self, contract: CollectionContract, wanted: tuple[StoreName, ...] | None
    ) -> tuple[StoreName, ...]:
        names = contract.stores if wanted is None else wanted
        for name in names:
            if name not in contract.stores:
                raise SubmissionError(
                    "store_not_in_collection",
                    f"Collection {contract.collection!r} is not in store {name.value!r}.",
                    hint=f"Use one of its stores: {', '.join(contract.stores)}.",
                    field="stores",
                )
        return names

    async def _embed(self, contract: CollectionContract, text: str) -> npt.NDArray[np.float32]:
        try:
            async with asyncio.timeout(EMBED_TIME_LIMIT_S):
                return await self._embed_query(contract, text)
        except SubmissionError:
            raise
        except TimeoutError:
            raise SubmissionError(
                "embedder_unavailable",
                f"The embedder did not respond within {EMBED_TIME_LIMIT_S:g} s.",
                hint="Try again later; GET /readyz shows which systems are unavailable.",
                status=503,
            ) from None
        except RequestFailed as error:
            raise SubmissionError(
                "embedding_failed",
                f"The embedder fails this query, although it embeds other texts: {error.message}",
                hint="Change the query.",
                field="query",
            ) from error
        except TransientError as error:
            raise SubmissionError(
                "embedder_unavailable",
                f"The embedder is unavailable: {error.message}",
                hint="Try again later.",
                status=503,
            ) from error
        except FatalError as error:
            raise SubmissionError(error.code, error.message, hint=error.hint, status=503) from error
        except IngestionError as error:
            raise SubmissionError(error.code, error.message, hint="Shorten the query.", field="query") from error

    async def _embed_query(self, contract: CollectionContract, text: str) -> npt.NDArray[np.float32]:
        digest = contract.model_digest
        model = await self._embedder.describe(contract.model, digest=digest)
        if model.digest != digest:
            raise SubmissionError(
                "model_changed",
                f"Collection {contract.collection!r} was created with digest {digest!r} of model {contract.model!r}; "
                f"the embedder now has digest {model.digest!r}.",
                hint="Restore the old model or create a new collection; vectors of two models cannot be compared.",
                status=409,
            )
        try:
            vectors = await self._embedder.embed(contract.model, [contract.query_prefix + text], digest=digest)
        except (RequestFailed, DimensionDiffers) as failure:
            await self._check_embedder(contract, failure, text=text)
            raise RequestFailed(failure.code, failure.message) from failure
        row: npt.NDArray[np.float32] = vectors[0]
        return row

    async def _check_embedder(self, contract: CollectionContract, failure: IngestionError, *, text: str) -> None:
        """Return when the embedder embeds a plain text; else raise what failed before."""
        try:
            await self._embedder.embed(contract.model, [make_probe_text(text)], digest=contract.model_digest)
        except RequestFailed as error:
            raise TransientError(failure.code, failure.message) from error

    async def _query(
        self, name: StoreName, vector: npt.NDArray[np.float32], *, collection: str, query: SearchQuery
    ) -> list[SearchHit] | IngestionError:
        """Query one store; a failure is returned, so that the other stores still answer."""
        store = self._stores.get(name)
        if store is None:
            return FatalError("store_not_configured", f"Store {name.value!r} is not configured.")
        try:
            async with asyncio.timeout(STORE_TIME_LIMIT_S):
                return await store.search(collection, vector, limit=query.limit, where=query.where)
        except TimeoutError:
            return TransientError(
                "store_unavailable", f"Store {name.value!r} did not respond within {STORE_TIME_LIMIT_S:g} s."
            )
        except IngestionError as error:
            _log.warning("store not searched", extra={"store": name.value, **error.log_fields()})
            return error


def find_differences(results: Mapping[StoreName, Sequence[SearchHit]], limit: int) -> dict[StoreName, list[list[str]]]:
    """Return for each hit of each store the marks of its differences from the other stores; none are equal. Pure.

    A hit that another store has not returned is marked only when that store had room for it: when it returned fewer
    than ``limit`` hits, or one with a lower score.

    Args:
        results: Hits by store, best first.
        limit: Number of hits that were requested.
    """
    by_id = {name: {hit.point_id: hit for hit in hits} for name, hits in results.items()}
    lowest = {name: hits[-1].score if len(hits) >= limit else -2.0 for name, hits in results.items()}

    def mark(hit: SearchHit, others: Sequence[StoreName]) -> list[str]:
        found: set[str] = set()
        for other in others:
            copy = by_id[other].get(hit.point_id)
            if copy is None:
                if hit.score > lowest[other] + SCORE_TOLERANCE:
                    found.add(ONLY_HERE)
                continue
            if abs(copy.score - hit.score) > SCORE_TOLERANCE:
                found.add(SCORE)
            found.update(name for name in HIT_FIELDS if copy.payload.get(name) != hit.payload.get(name))
        return sorted(found)

    return {
        name: [mark(hit, [other for other in results if other != name]) for hit in hits]
        for name, hits in results.items()
    }


def count_differences(
    results: Mapping[StoreName, Sequence[SearchHit]], marks: Mapping[StoreName, Sequence[Sequence[str]]]
) -> int:
    """Return the number of different points that have marks. Pure."""
    return len(
        {hit.point_id for name, hits in results.items() for hit, mark in zip(hits, marks[name], strict=True) if mark}
    )


def render_hit(hit: SearchHit) -> dict[str, Any]:
    """Return a hit as JSON types, without fields that have no value. Pure."""
    fields = {name: hit.payload[name] for name in HIT_FIELDS if name in hit.payload}
    return {"point_id": hit.point_id, "score": round(hit.score, 6), **fields}


def _no_store(errors: Mapping[StoreName, IngestionError]) -> SubmissionError:
    listed = [
        {"pointer": f"/stores/{name}", "code": error.code, "detail": error.message} for name, error in errors.items()
    ]
    return SubmissionError(
        "stores_unavailable",
        "No store could be searched. " + " ".join(f"{name}: {error.message}" for name, error in errors.items()),
        hint="Try again later; GET /readyz shows which systems are unavailable.",
        status=503,
        errors=listed,
    )
