"""Read: what every store holds of some objects, in bounded pieces, also where a store has lost the collection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from ingestion_engine.domain.errors import CollectionMissing
from ingestion_engine.domain.ids import ObjectId, PointId
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import StoredPoint
from ingestion_engine.domain.spec import CollectionContract, StoreName

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WINDOW_CHUNKS = 1_000
"""Chunks of one object read at once: with 1,536 dimensions and chunks of 2 kB about 8 MB per store, and far below the
10,000 points at which Weaviate stops."""

Copies = dict[StoreName, StoredPoint]
"""The copies of one point, by store."""


ID_DTYPE = "S16"
"""An id in numpy: 16 bytes; zeros at the end are dropped when it gives one back, and do not count in comparisons."""


class PointIds:
    """A set of point ids in 16 bytes each: those of a large object are a hundred times that as strings in a set.

    Add all of them, then ask.
    """

    def __init__(self) -> None:
        self._added = bytearray()
        self._sorted: npt.NDArray[np.bytes_] | None = None

    def add(self, point_id: PointId) -> None:
        """Put an id in; no id may be added twice."""
        self._added += UUID(point_id).bytes

    def __len__(self) -> int:
        return len(self._added) // 16

    def __contains__(self, point_id: PointId) -> bool:
        import numpy as np

        if self._sorted is None:
            self._sorted = np.sort(np.frombuffer(bytes(self._added), dtype=ID_DTYPE))
        wanted = np.frombuffer(UUID(point_id).bytes, dtype=ID_DTYPE)
        at = int(np.searchsorted(self._sorted, wanted)[0])
        return at < len(self._sorted) and bool(self._sorted[at] == wanted[0])


async def read_copies(
    stores: Mapping[StoreName, VectorStore], collection: str, object_ids: Sequence[ObjectId], chunks: int
) -> AsyncIterator[dict[PointId, Copies]]:
    """Yield the points that name some objects, side by side, in pieces.

    A point that one store holds and another does not show is looked for by its id as well: its payload there may name
    another object.

    Args:
        stores: Where to read; one without the collection holds nothing.
        collection: Name of the collection.
        object_ids: The objects; one alone when ``chunks`` is over ``WINDOW_CHUNKS``.
        chunks: How many points are expected of them together.

    Cost: one request per store and 500 points, and one per store for ids that it did not show.
    """
    ends = [*range(WINDOW_CHUNKS, chunks, WINDOW_CHUNKS), None]
    first = 0
    for end in ends:
        names = list(stores)
        found = await asyncio.gather(
            *(_read_objects(stores[name], collection, object_ids, first, end) for name in names)
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
    contract: CollectionContract,
    object_id: ObjectId,
    keep: PointIds,
) -> None:
    """Remove every point that names an object and is not one of those, whatever epoch it carries. Idempotent."""
    async for copies in read_copies(stores, contract.collection, [object_id], len(keep)):
        others = [point_id for point_id in copies if point_id not in keep]
        if others:
            await asyncio.gather(*(store.delete_points(contract.collection, others) for store in stores.values()))


async def _read_objects(
    store: VectorStore, collection: str, object_ids: Sequence[ObjectId], first: int, end: int | None
) -> list[StoredPoint]:
    try:
        return await store.read_object_points(collection, object_ids, first_chunk=first, end_chunk=end)
    except CollectionMissing:  # a store that lost the collection holds none of its points
        return []


async def _read_ids(store: VectorStore, collection: str, ids: Sequence[PointId]) -> list[StoredPoint]:
    if not ids:
        return []
    try:
        return await store.read_points(collection, ids, with_vectors=True)
    except CollectionMissing:
        return []
