"""Read the copies of some objects' points from every store side by side, in bounded pieces.

A store that lost the collection has no copies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from ingestion_engine.domain.errors import CollectionMissing
from ingestion_engine.domain.ids import ObjectId, PointId, add_digests, digest_point, format_digest
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import ObjectResult, StoredPoint
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.pipeline.point_ids import PointIds
from ingestion_engine.pipeline.point_tally import PointTally
from ingestion_engine.pipeline.upsert import delete_points

WINDOW_CHUNKS = 1_000
"""Chunks of one object read at once: with 1,536 dimensions and chunks of 2 kB about 8 MB per store, and far below the
10,000 points at which Weaviate stops."""

Copies = dict[StoreName, StoredPoint]
"""The copies of one point, by store."""


async def read_copies(
    stores: Mapping[StoreName, VectorStore], collection: str, object_ids: Sequence[ObjectId], *, chunks: int
) -> AsyncGenerator[dict[PointId, Copies]]:
    """Yield the points that name some objects, with their copy in each store, in pieces.

    A point that one store returns and another does not is also read by its id: its payload there may name another
    object.

    Args:
        stores: Stores to read.
        collection: Name of the collection.
        object_ids: The objects; only one when ``chunks`` exceeds ``WINDOW_CHUNKS``.
        chunks: Expected number of points of all objects together.

    Cost: one request per store and 500 points, and one per store for ids that it did not return.
    """
    ends = [*range(WINDOW_CHUNKS, chunks, WINDOW_CHUNKS), None]
    first = 0
    for end in ends:
        names = list(stores)
        found = await asyncio.gather(
            *(_read_objects(stores[name], collection, object_ids, first_chunk=first, end_chunk=end) for name in names)
        )
        copies: dict[PointId, Copies] = {}
        for name, points in zip(names, found, strict=True):
            for point in points:
                copies.setdefault(point.id, {})[name] = point
        for name in names:
            hidden = [point_id for point_id, held in copies.items() if name not in held]
            for point in await _read_ids(stores[name], collection, hidden):
                copies[point.id][name] = point
        yield copies
        first = end or 0


async def remove_other_points(
    stores: Mapping[StoreName, VectorStore],
    collection: str,
    object_id: ObjectId,
    *,
    keep: PointIds,
    tally: PointTally,
) -> None:
    """Remove and count every point that names an object and is not in ``keep``, whatever its epoch. Idempotent."""
    async for copies in read_copies(stores, collection, [object_id], chunks=len(keep)):
        others = [point_id for point_id in copies if point_id not in keep]
        if others:
            await delete_points(stores, collection, others, tally=tally)


async def holds_version(
    stores: Mapping[StoreName, VectorStore], collection: str, version: ObjectResult, *, but_epoch: int | None = None
) -> bool:
    """Return True when the stores hold one version of an object, and nothing of another.

    Args:
        stores: Stores to read.
        collection: Name of the collection.
        version: Number and sum of the version's points; without points, the stores must hold none.
        but_epoch: The epoch of which no point may be left, which is all that is checked of a version with points; None
            to compare the points with the version's sum.

    Cost: reads the object's points in every store.
    """
    chunks = version.chunk_count
    counts = dict.fromkeys(stores, 0)
    sums = dict.fromkeys(stores, 0)
    async with aclosing(read_copies(stores, collection, [version.object_id], chunks=chunks)) as windows:
        async for copies in windows:
            for point_id, held in copies.items():
                for name, point in held.items():
                    if but_epoch is not None and point.payload.get("epoch") == but_epoch:
                        return False
                    counts[name] += 1
                    sums[name] = add_digests(sums[name], digest_point(point_id, point.payload))
    if not chunks or but_epoch is not None:
        return bool(chunks) or not any(counts.values())
    return all(counts[name] == chunks and format_digest(sums[name]) == version.points_digest for name in stores)


async def _read_objects(
    store: VectorStore, collection: str, object_ids: Sequence[ObjectId], *, first_chunk: int, end_chunk: int | None
) -> list[StoredPoint]:
    try:
        return await store.read_object_points(collection, object_ids, first_chunk=first_chunk, end_chunk=end_chunk)
    except CollectionMissing:
        return []


async def _read_ids(store: VectorStore, collection: str, ids: Sequence[PointId]) -> list[StoredPoint]:
    if not ids:
        return []
    try:
        return await store.read_points(collection, ids, with_vectors=True)
    except CollectionMissing:
        return []
