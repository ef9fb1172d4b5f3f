"""Cut the points of one write into requests that a vector store accepts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import TypeVar

from ingestion_engine.domain.errors import PointsRefused, RequestTooLarge
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Point

T = TypeVar("T")
Result = TypeVar("Result")

EncodedPoint = tuple[PointId, bytes]


def cut(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in parts of at most ``size``, order kept. Pure."""
    return (items[start : start + size] for start in range(0, len(items), size))


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


async def halve_if_too_large(items: Sequence[T], request: Callable[[Sequence[T]], Awaitable[Result]]) -> list[Result]:
    """Return the results of a request for some items, halved as often as the store takes only smaller ones.

    Raises:
        RequestTooLarge: a request for one item is too large.

    Cost: one request; at most 2n-1.
    """
    try:
        return [await request(items)]
    except RequestTooLarge:
        if len(items) == 1:
            raise
    middle = len(items) // 2
    return [*await halve_if_too_large(items[:middle], request), *await halve_if_too_large(items[middle:], request)]


async def send_or_halve(
    batch: Sequence[EncodedPoint],
    send: Callable[[Sequence[EncodedPoint]], Awaitable[None]],
    refused: MutableMapping[PointId, str],
) -> None:
    """Send a batch; halve what the store refuses or requests in smaller parts, down to single points.

    Args:
        batch: The points, at least one.
        send: Sends points in one request; raises PointsRefused when the store refuses them because of at least one,
            RequestTooLarge when it may take fewer. Other errors pass through.
        refused: Receives the store's reason for each point that is refused alone.

    Cost: one request; at most 2n-1.
    """
    try:
        await send(batch)
    except (PointsRefused, RequestTooLarge) as error:
        if len(batch) == 1:
            refused[batch[0][0]] = error.message
            return
        middle = len(batch) // 2
        await send_or_halve(batch[:middle], send, refused)
        await send_or_halve(batch[middle:], send, refused)
