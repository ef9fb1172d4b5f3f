"""Upsert: ``Sequence[Point] →`` every store, then what the object no longer has is removed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ingestion_engine.domain.errors import PointsRefused
from ingestion_engine.domain.ids import ObjectId, PointId
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import Point
from ingestion_engine.domain.spec import CollectionContract, StoreName

SCHEMA_AGE_S = 5.0
"""For so long a look at the schema is believed; it costs a request per store, a tenth of a batch of points."""


async def upsert_points(
    stores: Mapping[StoreName, VectorStore], collection: str, points: Sequence[Point]
) -> dict[PointId, str]:
    """Write points to every store at once; return those that a store refused for good, with its words.

    Idempotent. Every other point has been applied in every store when this returns.

    Raises:
        TransientError, FatalError: from any store; some stores may have applied the points, a rerun makes them equal.
    """
    refused: dict[PointId, str] = {}

    async def write(store: VectorStore) -> None:
        try:
            await store.upsert(collection, points)
        except PointsRefused as error:
            for point_id, reason in error.context["refused"].items():
                refused.setdefault(point_id, f"{store.name}: {reason}")

    await _in_all(stores, write)
    return refused


async def delete_stale_points(
    stores: Mapping[StoreName, VectorStore], collection: str, object_ids: Sequence[ObjectId], *, before_epoch: int
) -> None:
    """Remove some objects' points of lower epochs from every store at once. Idempotent.

    Raises:
        TransientError, FatalError: from any store.
    """

    async def delete(store: VectorStore) -> None:
        await store.delete_object_points(collection, object_ids, before_epoch=before_epoch)

    await _in_all(stores, delete)


class SchemaWatch:
    """Looks, every few seconds while points are written, whether every store still has the collection as agreed.

    Weaviate's auto-schema would silently create a dropped class again, with other types. Share one per process.

    Args:
        stores: The stores that are written.
        contract: What was agreed.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        stores: Mapping[StoreName, VectorStore],
        contract: CollectionContract,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stores = stores
        self._contract = contract
        self._clock = clock
        self._checked_at: float | None = None

    async def check(self) -> None:
        """Return when all was well at most ``SCHEMA_AGE_S`` ago.

        Raises:
            CollectionMissing, FatalError: "schema_mismatch".
            TransientError: a store is away.

        Cost: one request per store when the last look is too old.
        """
        now = self._clock()
        if self._checked_at is not None and now - self._checked_at < SCHEMA_AGE_S:
            return

        async def look(store: VectorStore) -> None:
            await store.check_collection(self._contract)

        await _in_all(self._stores, look)
        self._checked_at = now


async def _in_all(stores: Mapping[StoreName, VectorStore], act: Callable[[VectorStore], Awaitable[None]]) -> None:
    """Let every store finish, then raise the first error: no write is left running behind a report."""
    outcomes = await asyncio.gather(*(act(store) for store in stores.values()), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
