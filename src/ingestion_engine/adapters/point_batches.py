"""Cut the points of one write into requests that a vector store accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence

from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Point

EncodedPoint = tuple[PointId, bytes]


def batch_points(
    points: Sequence[Point],
    encode: Callable[[Point], bytes],
    *,
    max_points: int,
    max_bytes: int,
    refused: MutableMapping[PointId, str],
) -> Iterator[list[EncodedPoint]]:
    """Yield the encoded points in batches, order kept; memory of one batch.

    Args:
        points: The points to write.
        encode: Encodes one point; raises TypeError or ValueError for a point that the protocol cannot carry.
        max_points: Maximum number of points per batch.
        max_bytes: Maximum size of a batch; a single larger point is a batch of its own.
        refused: Receives the reason for each point that cannot be encoded.
    """
    batch: list[EncodedPoint] = []
    size = 0
    for point in points:
        try:
            encoded = encode(point)
        except (TypeError, ValueError) as error:
            refused[point.id] = f"The point cannot be encoded: {error}"
            continue
        if batch and (size + len(encoded) > max_bytes or len(batch) >= max_points):
            yield batch
            batch, size = [], 0
        batch.append((point.id, encoded))
        size += len(encoded)
    if batch:
        yield batch
