"""Parity: ``Partition → PartitionReport`` of a job that compares the stores, and mends them where it is asked to.

An object that differs is written again whole, as an ingested one would be: all its points to every store under this
attempt's epoch, then what is older or does not belong there goes. What is right is chosen from the stores' own copies
(see ``compare``); where they do not tell, the object is reported UNDECIDED, and the driver has it ingested again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import numpy.typing as npt

from ingestion_engine.domain.errors import CollectionMissing, ObjectError
from ingestion_engine.domain.ids import ObjectId, PointId, make_object_id
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import (
    Action,
    ObjectResult,
    Outcome,
    Partition,
    PartitionReport,
    PlannedObject,
    Point,
    ReportStatus,
    StoredPoint,
    StraySearch,
)
from ingestion_engine.domain.spec import Mode, StoreName
from ingestion_engine.pipeline.parity.compare import Choice, Comparison, Differences, Expected, Verdict
from ingestion_engine.pipeline.stored_copies import ID_DTYPE, WINDOW_CHUNKS, Copies, read_copies
from ingestion_engine.pipeline.reuse import EXACT_FIRST
from ingestion_engine.pipeline.upsert import delete_stale_points, upsert_points
from ingestion_engine.pipeline.worker_context import WorkerContext

GROUP_OBJECTS = 50
"""Objects read by one request, when they are small."""
SHOWN_IDS = 5
"""Ids of stray points that a reason names."""
DELETE_POINTS = 500


class ParityRun:
    """One run of one partition of VERIFY or REPAIR, or of stray searches. Use once."""

    def __init__(self, context: WorkerContext, partition: Partition, *, ingested_at: str) -> None:
        self._context = context
        self._partition = partition
        self._ingested_at = ingested_at
        self._collection = context.contract.collection
        self._stores = {name: context.stores[name] for name in context.contract.stores}
        self._seen: dict[str, int] = {}

    async def run(self) -> PartitionReport:
        """Compare every object, mend those that are to be mended, and return the complete report.

        Raises:
            TransientError: something is away; a rerun completes what was begun.
            FatalError: the job must stop (also LeaseLost, JobAborted).
        """
        results: list[ObjectResult] = []
        for group in _group(self._partition.objects):
            results += await self._check_group(group)
        for search in self._partition.searches:
            results += await self._search_strays(search)
        return PartitionReport(
            self._partition.id, ReportStatus.DONE, self._context.epoch, results=tuple(results), points_seen=self._seen
        )

    # -- objects ------------------------------------------------------------------------------------------------------

    async def _check_group(self, group: Sequence[PlannedObject]) -> list[ObjectResult]:
        await asyncio.to_thread(self._context.lease.check)
        objects = {make_object_id(planned.ref.bucket, planned.ref.key): planned for planned in group}
        comparisons = {
            object_id: Comparison(
                Expected.parse(planned.prior_chunks, planned.prior_digest, planned.prior_vectors), list(self._stores)
            )
            for object_id, planned in objects.items()
        }
        async for copies in self._read(objects):
            for point_id, held in copies.items():
                comparisons[_owner(held, comparisons)].add(point_id, held)
        results = []
        for object_id, comparison in comparisons.items():
            result = await self._settle(objects[object_id], object_id, comparison.judge())
            results.append(result)
            for name in self._stores:
                repaired = result.outcome is Outcome.REPAIRED
                points = comparison.expected.points if repaired else comparison.seen.get(name, 0)
                self._seen[name.value] = self._seen.get(name.value, 0) + points
        return results

    def _read(self, objects: Mapping[ObjectId, PlannedObject]) -> AsyncIterator[dict[PointId, Copies]]:
        chunks = sum(planned.prior_chunks for planned in objects.values())
        return read_copies(self._stores, self._collection, list(objects), chunks)

    async def _settle(self, planned: PlannedObject, object_id: ObjectId, verdict: Verdict) -> ObjectResult:
        if verdict.is_same:
            return _result(planned, object_id, Outcome.SAME)
        if planned.action is Action.VERIFY:
            return _result(planned, object_id, Outcome.DIFFERENT, verdict.differences)
        if verdict.choice is None:
            # The driver plans it anew; an unknown vector means that none of them may be used again.
            code = None if verdict.vectors_known else VECTORS_UNKNOWN
            return _result(planned, object_id, Outcome.UNDECIDED, verdict.differences, code=code)
        try:
            await self._mend(planned, object_id, verdict.choice)
        except ObjectError as error:
            return _result(planned, object_id, Outcome.FAILED, verdict.differences, code=error.code, said=error.message)
        return _result(planned, object_id, Outcome.REPAIRED, verdict.differences)

    async def _mend(self, planned: PlannedObject, object_id: ObjectId, choice: Choice) -> None:
        """Write the object's points as chosen, then remove what is older and what should not be there."""
        await self._context.schema.check()
        surplus = [point_id for point_id, chosen in choice.payloads.items() if chosen is None]
        async for copies in self._read({object_id: planned}):
            points = list(self._points(copies, choice))
            await asyncio.to_thread(self._context.lease.check)
            refused = await upsert_points(self._stores, self._collection, points)
            if refused:
                raise ObjectError("store_refused", f"A store refused a point: {next(iter(refused.values()))}")
        await asyncio.to_thread(self._context.lease.check)
        for start in range(0, len(surplus), DELETE_POINTS):
            some = surplus[start : start + DELETE_POINTS]
            await asyncio.gather(*(store.delete_points(self._collection, some) for store in self._stores.values()))
        await delete_stale_points(self._stores, self._collection, [object_id], before_epoch=self._context.epoch)

    def _points(self, copies: Mapping[PointId, Copies], choice: Choice) -> Iterator[Point]:
        for point_id, held in copies.items():
            best = next(name for name in EXACT_FIRST if name in held)
            source = choice.payloads.get(point_id, best)
            if source is None:
                continue
            vector = held[choice.vectors.get(point_id, best)].vector
            assert vector is not None, "a choice names copies that have what is chosen"
            stamp = {
                "epoch": self._context.epoch,
                "job_id": self._context.spec.job_id,
                "ingested_at": self._ingested_at,
            }
            yield Point(point_id, {**held[source].payload, **stamp}, vector)

    # -- points of no object ------------------------------------------------------------------------------------------

    async def _search_strays(self, search: StraySearch) -> list[ObjectResult]:
        """Report the points in a range of ids that belong to no object of the table; in ``repair`` remove them."""
        strays = _Strays()
        for name, store in self._stores.items():
            unknown = await self._find_unknown(store, search.first, search.last)
            if unknown is not None:
                await self._take_strays(strays, name, store, (search.first, search.last), unknown)
        return [found.to_result(search.bucket, key) for key, found in sorted(strays.by_key.items())]

    async def _find_unknown(self, store: VectorStore, first: str, last: str) -> set[bytes] | None:
        """Return the object ids that points name and the table does not have; None when every point has its object."""
        named = bytearray()
        nameless = False
        async for point in _scroll(store, self._collection, first, last):
            object_id = _object_id_of(point)
            named += object_id or b""
            nameless |= object_id is None or not isinstance(point.payload.get("chunk_index"), int)
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

    async def _take_strays(
        self, strays: _Strays, name: StoreName, store: VectorStore, ids: tuple[str, str], unknown: set[bytes]
    ) -> None:
        waiting: list[PointId] = []
        repair = self._context.spec.request.mode is Mode.REPAIR
        async for point in _scroll(store, self._collection, *ids):
            object_id = _object_id_of(point)
            has_place = isinstance(point.payload.get("chunk_index"), int)
            if (object_id is not None and object_id not in unknown and has_place) or not self._is_ours(point):
                continue
            strays.add(name, point)
            if repair:
                waiting.append(point.id)
            if len(waiting) >= DELETE_POINTS:
                await self._delete(store, waiting)
                waiting = []
        if waiting:
            await self._delete(store, waiting)

    async def _delete(self, store: VectorStore, ids: Sequence[PointId]) -> None:
        await asyncio.to_thread(self._context.lease.check)
        await store.delete_points(self._collection, ids)

    def _is_ours(self, point: StoredPoint) -> bool:
        """True when a job that looks at a part of the collection only would look at this point."""
        prefix = self._context.spec.request.source.prefix
        key = point.payload.get("key")
        return not prefix or (isinstance(key, str) and key.startswith(prefix))


VECTORS_UNKNOWN = "vectors_unknown"
"""Code of an undecided object none of whose vectors can be trusted."""


@dataclass(slots=True)
class _Stray:
    counts: dict[str, int] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def to_result(self, bucket: str, key: str) -> ObjectResult:
        total = ", ".join(f"{store} holds {points}" for store, points in sorted(self.counts.items()))
        ids = ", ".join(self.shown)
        return ObjectResult(
            key=key,
            outcome=Outcome.DIFFERENT,
            etag="",
            size_bytes=0,
            last_modified="",
            object_id=make_object_id(bucket, key),
            error_code="points_foreign",
            reason=f"Points that belong to no object of the collection: {total}; {ids}",
            differences={store: {"foreign": points} for store, points in self.counts.items()},
        )


@dataclass(slots=True)
class _Strays:
    """Stray points by the key they name ("" for none)."""

    by_key: dict[str, _Stray] = field(default_factory=dict)

    def add(self, store: StoreName, point: StoredPoint) -> None:
        key = point.payload.get("key")
        stray = self.by_key.setdefault(key if isinstance(key, str) else "", _Stray())
        stray.counts[store.value] = stray.counts.get(store.value, 0) + 1
        if len(stray.shown) < SHOWN_IDS:
            stray.shown.append(f"{store.value} {point.id}")


def _group(objects: Sequence[PlannedObject]) -> Iterator[list[PlannedObject]]:
    """Yield runs of objects that are read together; a large object is alone."""
    group: list[PlannedObject] = []
    chunks = 0
    for planned in objects:
        over = len(group) >= GROUP_OBJECTS or chunks + planned.prior_chunks > WINDOW_CHUNKS
        if group and over:
            yield group
            group, chunks = [], 0
        group.append(planned)
        chunks += planned.prior_chunks
    if group:
        yield group


def _owner(held: Copies, objects: Mapping[ObjectId, Comparison]) -> ObjectId:
    """The object of the group that some copy of a point names."""
    return next(ObjectId(p.payload["object_id"]) for p in held.values() if p.payload.get("object_id") in objects)


def _result(
    planned: PlannedObject,
    object_id: ObjectId,
    outcome: Outcome,
    differences: Differences | None = None,
    *,
    code: str | None = None,
    said: str | None = None,
) -> ObjectResult:
    ref = planned.ref
    if outcome is Outcome.DIFFERENT:
        code = "points_differ"
        said = f"Its points differ from what was written: {describe(differences or {})}."
    return ObjectResult(
        key=ref.key,
        outcome=outcome,
        etag=ref.etag,
        size_bytes=ref.size_bytes,
        last_modified=ref.last_modified,
        object_id=object_id,
        chunk_count=planned.prior_chunks,
        points_digest=planned.prior_digest,
        vectors_digest=planned.prior_vectors,
        error_code=code,
        reason=said,
        differences=differences or None,
        origin=planned.origin,
    )


def describe(differences: Mapping[str, Mapping[str, int]]) -> str:
    """Return differences in words: ``qdrant: 3 missing, 1 payload; weaviate: 2 extra``. Pure."""
    stores = (
        f"{store}: " + ", ".join(f"{points} {kind}" for kind, points in kinds.items())
        for store, kinds in sorted(differences.items())
    )
    return "; ".join(stores)


async def _scroll(store: VectorStore, collection: str, first: str, last: str) -> AsyncIterator[StoredPoint]:
    """Yield a store's points with ids in [first, last]; the lowest range also has ids that are no UUIDs."""
    lowest = UUID(first).int == 0
    try:
        async for point in store.scroll(collection, with_vectors=False, start=None if lowest else PointId(first)):
            if point.id > last and not point.id.isdigit():
                return
            yield point
    except CollectionMissing:  # a store that lost the collection holds none of its points
        return


def _object_id_of(point: StoredPoint) -> bytes | None:
    """The object that a point names, 16 bytes; None when it names none."""
    try:
        return UUID(str(point.payload.get("object_id"))).bytes
    except ValueError:
        return None
