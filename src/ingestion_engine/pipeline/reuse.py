"""Reuse: find the chunks of an object that already have a vector in a store and need no embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.domain.vectors import are_close

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

READ_PAGE = 500
"""Points per request; 500 vectors of 1,536 dimensions are 3 MB, well below every server's limit of a response."""

EXACT_FIRST = (StoreName.WEAVIATE, StoreName.QDRANT)
"""Stores in order of preference. Weaviate returns exactly the bytes it received; Qdrant normalises cosine vectors."""


async def find_vectors(
    stores: Mapping[StoreName, VectorStore],
    collection: str,
    wanted: Mapping[PointId, str],
    *,
    job_id: str | None = None,
    must_agree: bool = False,
) -> dict[PointId, npt.NDArray[np.float32]]:
    """Return the stored vectors (``float32[dimension]``) that embedding the same texts would return.

    Args:
        stores: Stores to read; the first of ``EXACT_FIRST`` with a point's vector supplies it.
        collection: Name of the collection.
        wanted: The ``embedding_id`` of each point to write; only stored vectors with the same id are returned.
        job_id: When given, only points of this job are returned (mode ``full``: an attempt that is resumed).
        must_agree: True when a store may have wrong vectors (mode ``repair``): every store is read, and a point whose
            vectors differ between stores is not returned.

    Cost: one read per store and 500 points; the second store is read only for points that the first does not have,
    unless they must agree.
    """
    found: dict[PointId, npt.NDArray[np.float32]] = {}
    disputed: set[PointId] = set()
    for name in EXACT_FIRST:
        if name not in stores:
            continue
        missing = [point_id for point_id in wanted if must_agree or point_id not in found]
        for start in range(0, len(missing), READ_PAGE):
            page = missing[start : start + READ_PAGE]
            for point in await stores[name].read_points(collection, page, with_vectors=True):
                ours = job_id is None or point.payload.get("job_id") == job_id
                if not ours or point.vector is None or point.payload.get("embedding_id") != wanted[point.id]:
                    continue
                if are_close(found.setdefault(point.id, point.vector), point.vector):
                    continue
                disputed.add(point.id)
    return {point_id: vector for point_id, vector in found.items() if point_id not in disputed}
