"""Find and remove strays: points in a range of ids that belong to no object of the collection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import numpy.typing as npt

from ingestion_engine.domain.errors import CollectionMissing
from ingestion_engine.domain.ids import PointId, make_object_id
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import ObjectResult, Outcome, StoredPoint, StraySearch
from ingestion_engine.domain.spec import Mode, StoreName
from ingestion_engine.pipeline.point_ids import ID_DTYPE
from ingestion_engine.pipeline.point_tally import PointTally
from ingestion_engine.pipeline.worker_context import WorkerContext

SHOWN_IDS = 5
"""Ids of stray points that a reason names."""
DELETE_POINTS = 500
"""Points removed by one request."""


class StrayFinder:
    """Searches ranges of point ids in every store; in mode ``repair`` it removes the strays that it finds."""

    def __init__(self, context: WorkerContext, tally: PointTally) -> None:
        self._context = context
        self._tally = tally
        self._collection = context.contract.collection

    async def find(self, search: StraySearch) -> list[ObjectResult]:
        """Return a result for each key that stray points of the range name, in order of keys.

        Raises:
            TransientError: a store is unavailable.
            FatalError: the job must stop (also LeaseLost, JobAborted).

        Cost: one scroll of the range and one scan of the object table per store; a second scroll if there are strays.
        """
        by_key: dict[str, _Strays] = {}
        for name in self._context.contract.stores:
            store = self._context.stores[name]
            unknown = await self._find_unknown(store, search)
            if unknown is None:
                continue
            strays: list[PointId] = []
            async for point in self._scroll(store, search):
                if self._is_stray(point, unknown):
                    key = point.payload.get("key")
                    by_key.setdefault(key if isinstance(key, str) else "", _Strays()).add(name, point)
                    strays.append(point.id)
                if len(strays) >= DELETE_POINTS:
                    await self._remove(store, strays)
                    strays = []
            await self._remove(store, strays)
        return [strays.to_result(search.bucket, key) for key, strays in sorted(by_key.items())]

    async def _find_unknown(self, store: VectorStore, search: StraySearch) -> set[bytes] | None:
        """Return the object ids that points name but the table does not have; None when every point has its object."""
        named = bytearray()
        nameless = False
        async for point in self._scroll(store, search):
            object_id = _object_id_of(point)
            named += object_id or b""
            nameless |= object_id is None or not _has_index(point)
        distinct = np.unique(np.frombuffer(bytes(named), dtype=ID_DTYPE))
        left = await asyncio.to_thread(self._subtract_known, distinct)
        return {value.ljust(16, b"\0") for value in left.tolist()} if len(left) or nameless else None

    def _subtract_known(self, named: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bytes_]:
        for batch in self._context.table.scan_object_ids():
            if not len(named):
                break
            known = np.frombuffer(b"".join(UUID(text).bytes for text in batch), dtype=ID_DTYPE)
            named = named[~np.isin(named, known)]
        return named

    def _is_stray(self, point: StoredPoint, unknown: set[bytes]) -> bool:
        object_id = _object_id_of(point)
        has_object = object_id is not None and object_id not in unknown and _has_index(point)
        return not has_object and self._is_in_scope(point)

    def _is_in_scope(self, point: StoredPoint) -> bool:
        """True when the key of a point has the prefix of the job, or the job has none."""
        prefix = self._context.spec.request.source.prefix
        key = point.payload.get("key")
        return not prefix or (isinstance(key, str) and key.startswith(prefix))

    async def _remove(self, store: VectorStore, ids: Sequence[PointId]) -> None:
        if ids and self._context.spec.request.mode is Mode.REPAIR:
            await asyncio.to_thread(self._context.lease.check)
            self._tally.add_deleted(store.name, await store.delete_points(self._collection, ids))

    async def _scroll(self, store: VectorStore, search: StraySearch) -> AsyncIterator[StoredPoint]:
        """Yield a store's points in the range; the lowest range also has ids that are not UUIDs."""
        start = None if UUID(search.first).int == 0 else search.first
        try:
            async for point in store.scroll(self._collection, with_vectors=False, start=start):
                if point.id > search.last and not point.id.isdigit():
                    return
                yield point
        except CollectionMissing:  # a store that lost the collection has no points
            return


@dataclass(slots=True)
class _Strays:
    """Stray points that name one key ("" for none)."""

    counts: dict[str, int] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def add(self, store: StoreName, point: StoredPoint) -> None:
        self.counts[store.value] = self.counts.get(store.value, 0) + 1
        if len(self.shown) < SHOWN_IDS:
            self.shown.append(f"{store.value} {point.id}")

    def to_result(self, bucket: str, key: str) -> ObjectResult:
        total = ", ".join(f"{points} in {store}" for store, points in sorted(self.counts.items()))
        return ObjectResult(
            key=key,
            outcome=Outcome.DIFFERENT,
            etag="",
            size_bytes=0,
            last_modified="",
            object_id=make_object_id(bucket, key),
            error_code="points_foreign",
            reason=f"Points that belong to no object of the collection: {total} ({', '.join(self.shown)}).",
            differences={store: {"foreign": points} for store, points in self.counts.items()},
        )


def _has_index(point: StoredPoint) -> bool:
    return isinstance(point.payload.get("chunk_index"), int)


def _object_id_of(point: StoredPoint) -> bytes | None:
    """Return the 16 bytes of the object id that a point names; None for none."""
    try:
        return UUID(str(point.payload.get("object_id"))).bytes
    except ValueError:
        return None
