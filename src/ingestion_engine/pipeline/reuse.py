"""Reuse: which chunks of an object already have their vector in a store, so that it need not be embedded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ingestion_engine.domain.ids import PointId, make_point_embedding_id
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import Chunk
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.pipeline.points import PointStamp

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

READ_PAGE = 500
"""Points per look-up; 500 vectors of 1,536 dimensions are 3 MB, well under every server's answer limit."""

EXACT_FIRST = (StoreName.WEAVIATE, StoreName.QDRANT)
"""Weaviate gives back the very bytes it was sent; Qdrant normalises cosine vectors, so its copy is the second
choice."""


async def find_vectors(
    stores: Mapping[StoreName, VectorStore],
    collection: str,
    chunks: Sequence[Chunk],
    stamp: PointStamp,
    *,
    same_job_only: bool,
) -> dict[PointId, npt.NDArray[np.float32]]:
    """Return the stored vectors (``float32[dimension]``) that embedding these chunks again would give.

    Args:
        stores: Where to look; the first of ``EXACT_FIRST`` that has a chunk's vector serves it.
        collection: Name of the collection.
        chunks: Chunks with their final point ids.
        stamp: Of the job: a vector counts only when its point's ``embedding_id`` is the one this job would write.
        same_job_only: In mode ``full`` only what this very job embedded before counts (an attempt that is being
        resumed).

    Cost: one read per store and 500 chunks; the second store is asked only for what the first did not have.
    """
    wanted = {c.point_id: make_point_embedding_id(stamp.embedding_id, stamp.prefix + c.text) for c in chunks}
    found: dict[PointId, npt.NDArray[np.float32]] = {}
    for name in EXACT_FIRST:
        if name not in stores:
            continue
        missing = [point_id for point_id in wanted if point_id not in found]
        for start in range(0, len(missing), READ_PAGE):
            for point in await stores[name].read_points(
                collection, missing[start : start + READ_PAGE], with_vectors=True
            ):
                ours = not same_job_only or point.payload.get("job_id") == stamp.job_id
                if ours and point.vector is not None and point.payload.get("embedding_id") == wanted[point.id]:
                    found[point.id] = point.vector
    return found
