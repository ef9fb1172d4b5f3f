"""Upsert: write points to every store, and delete stale points; the store calls that ``write`` makes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ingestion_engine.domain.errors import PointsRefused
from ingestion_engine.domain.ids import ObjectId, PointId
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import Point
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.pipeline.point_tally import PointTally

SCHEMA_AGE_S = 5.0
"""Time between checks of the schema; one costs a request per store, a tenth of the cost of a batch of points."""


async def upsert_points(
    stores: Mapping[StoreName, VectorStore], collection: str, points: Sequence[Point]
) -> dict[StoreName, dict[PointId, str]]:
    """Write points to all stores concurrently; return by store the points that it refused for good, with its error.

    Idempotent. All other points are applied in every store when this returns.

    Raises:
        TransientError, FatalError: from any store; some stores may have applied the points, a rerun makes them equal.
    """
    refused: dict[StoreName, dict[PointId, str]] = {}

    async def write(store: VectorStore) -> None:
        try:
            await store.upsert(collection, points)
        except PointsRefused as error:
            refused[store.name] = {point: f"{store.name}: {why}" for point, why in error.context["refused"].items()}

    await _in_all(stores, write)
    return refused


async def delete_stale_points(
    stores: Mapping[StoreName, VectorStore],
    collection: str,
    object_ids: Sequence[ObjectId],
    *,
    before_epoch: int,
    tally: PointTally,
) -> None:
    """Remove some objects' points of lower epochs from all stores concurrently. Idempotent.

    Args:
        stores: The stores.
        collection: Name of the collection.
        object_ids: The objects.
        before_epoch: Points of this epoch and of later ones stay.
        tally: Receives the number of points that each store has removed, also of one that did while another failed.

    Raises:
        TransientError, FatalError: from any store.
    """

    async def delete(store: VectorStore) -> None:
        tally.add_deleted(
            store.name, await store.delete_object_points(collection, object_ids, before_epoch=before_epoch)
        )

    await _in_all(stores, delete)


async def delete_points(
    stores: Mapping[StoreName, VectorStore], collection: str, ids: Sequence[PointId], *, tally: PointTally
) -> None:
    """Remove points by id from all stores concurrently. Idempotent. Counts and raises as ``delete_stale_points``."""

    async def delete(store: VectorStore) -> None:
        tally.add_deleted(store.name, await store.delete_points(collection, ids))

    await _in_all(stores, delete)


class SchemaWatch:
    """Checks every few seconds, while points are written, that every store has the collection as in the contract.

    Weaviate's auto-schema would silently re-create a dropped class with other types. Share one per process.

    Args:
        stores: The stores that are written.
        contract: Contract of the collection.
    """

    def __init__(self, stores: Mapping[StoreName, VectorStore], contract: CollectionContract) -> None:
        self._stores = stores
        self._contract = contract
        self._checked_at: float | None = None

    async def check(self) -> None:
        """Check the collection in every store if the last check is older than ``SCHEMA_AGE_S``.

        Raises:
            CollectionMissing: a store lost the collection.
            FatalError: "schema_mismatch".
            TransientError: a store is unavailable.

        Cost: one request per store and check.
        """
        now = time.monotonic()
        if self._checked_at is not None and now - self._checked_at < SCHEMA_AGE_S:
            return

        await _in_all(self._stores, lambda store: store.check_collection(self._contract))
        self._checked_at = now


async def _in_all(stores: Mapping[StoreName, VectorStore], act: Callable[[VectorStore], Awaitable[None]]) -> None:
    """Wait for every store, then raise the first error, so that no write still runs after the report."""
    outcomes = await asyncio.gather(*(act(store) for store in stores.values()), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
