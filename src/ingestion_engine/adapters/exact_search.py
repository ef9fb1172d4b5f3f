"""Exact search filters where a store's own filters match too much: checks the hits and fetches more as needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import SearchFilter
from ingestion_engine.domain.records import SearchHit

MOST_CANDIDATES = 10_000
"""Hits checked before a search gives up; Weaviate returns no more (``QUERY_MAXIMUM_RESULTS``)."""
GROWTH = 8
"""Factor from one request to the next; the last is the largest, so all together cost little more than the last."""


async def search_exactly(
    fetch: Callable[[int], Awaitable[Sequence[SearchHit]]], where: SearchFilter, *, limit: int, store: str
) -> list[SearchHit]:
    """Return the first ``limit`` hits that fulfil all conditions, best first.

    Args:
        fetch: Returns at most the given number of the store's best hits; its filter may let through too many hits,
            never too few.
        where: The conditions.
        limit: Maximum number of hits.
        store: Name of the store for the error message.

    Raises:
        FatalError: "filter_too_broad" when the best 10,000 hits of the store's own filter have fewer than ``limit``.

    Cost: one request where the store's filter is exact, as it is for all but unusual conditions; at most five.
    """
    count = limit
    while True:
        hits = await fetch(count)
        right = [hit for hit in hits if where.matches(hit.payload)]
        if len(right) >= limit or len(hits) < count:
            return right[:limit]
        if count >= MOST_CANDIDATES:
            name = store.capitalize()
            message = f"{name} cannot express this filter exactly, and its best {count} passages have too few matches."
            raise FatalError("filter_too_broad", message, hint="Narrow the filter or lower the limit.", store=store)
        count = min(count * GROWTH, MOST_CANDIDATES)
