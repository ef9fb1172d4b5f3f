"""Compares two collections point by point: ids, payloads except for the fields that name the job, and vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.domain.ids import JOB_FIELDS
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import StoredPoint
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two collections in one store."""

    store: str
    points: tuple[int, int]
    same_ids: int
    same_payloads: int
    same_vectors: int
    """Compared bit by bit."""

    @property
    def identical(self) -> bool:
        """Whether the two collections hold the same points."""
        return {*self.points, self.same_ids, self.same_payloads, self.same_vectors} == {self.points[0]}


def compare_collections(settings: Settings, left: str, right: str) -> list[Comparison]:
    """Return the comparison in each store. Cost: reads both collections into memory."""
    return asyncio.run(_compare(settings, left, right))


async def _compare(settings: Settings, left: str, right: str) -> list[Comparison]:
    stores = open_stores(settings, StoreName)
    try:
        return [
            compare_points(name.value, await _read(store, left), await _read(store, right))
            for name, store in stores.items()
        ]
    finally:
        for store in stores.values():
            await store.close()


async def _read(store: VectorStore, collection: str) -> dict[str, StoredPoint]:
    return {str(point.id): point async for point in store.scroll(collection, with_vectors=True)}


def compare_points(store: str, left: Mapping[str, StoredPoint], right: Mapping[str, StoredPoint]) -> Comparison:
    """Return the comparison of two collections. Pure."""
    pairs = [(left[point_id], right[point_id]) for point_id in left.keys() & right.keys()]
    return Comparison(
        store,
        (len(left), len(right)),
        same_ids=len(pairs),
        same_payloads=sum(_without_job(a) == _without_job(b) for a, b in pairs),
        same_vectors=sum(
            a.vector is not None and b.vector is not None and np.array_equal(a.vector, b.vector) for a, b in pairs
        ),
    )


def _without_job(point: StoredPoint) -> dict[str, Any]:
    return {name: value for name, value in point.payload.items() if name not in JOB_FIELDS}
