"""Exact conditions over a store whose own filters let more through: hits are checked, and more are asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import SearchFilter
from ingestion_engine.domain.records import SearchHit

MOST_CANDIDATES = 10_000
"""Hits looked at before a search gives up; Weaviate answers no more (``QUERY_MAXIMUM_RESULTS``)."""
GROWTH = 8
"""From one question to the next; the last is the largest, so all together cost little more than it alone."""


async def search_exactly(
    ask: Callable[[int], Awaitable[Sequence[SearchHit]]], where: SearchFilter, limit: int, store: str
) -> list[SearchHit]:
    """Return the first ``limit`` hits that fulfil all conditions, best first.

    Args:
        ask: Returns the store's best hits, at most so many; its filter may let through too much, never too little.
        where: The conditions.
        limit: Hits wanted.
        store: For the message.

    Raises:
        FatalError: "filter_too_broad" when the best 10,000 hits of the store's own filter have fewer than ``limit``.

    Cost: one request where the store's filter is exact, which it is for all but the oddest conditions; at most five.
    """
    asked = limit
    while True:
        hits = await ask(asked)
        right = [hit for hit in hits if where.matches(hit.payload)]
        if len(right) >= limit or len(hits) < asked:
            return right[:limit]
        if asked >= MOST_CANDIDATES:
            said = f"{store} cannot express these conditions exactly, and its best {asked} passages hold too few hits"
            raise FatalError("filter_too_broad", said, hint="Narrow the filter or lower the limit.", store=store)
        asked = min(asked * GROWTH, MOST_CANDIDATES)
