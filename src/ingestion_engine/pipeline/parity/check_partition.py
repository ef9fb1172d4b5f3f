"""Check: ``Partition → PartitionReport`` of a job that compares the stores and, in mode ``repair``, repairs them.

An object that differs is rewritten completely, as ingestion would write it: all its points to every store under this
attempt's epoch, then older points and points that should not exist are removed. The correct content is chosen from the
stores' own copies (see ``compare``); an object whose copies do not determine it is reported UNDECIDED, and the driver
ingests it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from ingestion_engine.domain.errors import CollectionMissing, ObjectError
from ingestion_engine.domain.ids import ObjectId, PointId, make_object_id
from ingestion_engine.domain.records import (
    Action,
    ObjectResult,
    Outcome,
    Partition,
    PartitionReport,
    PlannedObject,
    Point,
    ReportStatus,
)
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.pipeline.parity.compare import Choice, Comparison, Differences, Expected, Verdict
from ingestion_engine.pipeline.parity.find_strays import DELETE_POINTS, StrayFinder
from ingestion_engine.pipeline.point_tally import PointTally
from ingestion_engine.pipeline.reuse import EXACT_FIRST
from ingestion_engine.pipeline.stored_copies import WINDOW_CHUNKS, Copies, read_copies
from ingestion_engine.pipeline.upsert import delete_points, delete_stale_points, upsert_points
from ingestion_engine.pipeline.worker_context import WorkerContext

GROUP_OBJECTS = 50
"""Small objects read by one request."""


class ParityRun:
    """One run of one partition of VERIFY or REPAIR, or of stray searches. Use once."""

    def __init__(self, context: WorkerContext, partition: Partition, *, ingested_at: str, tally: PointTally) -> None:
        self._context = context
        self._tally = tally
        self._partition = partition
        self._ingested_at = ingested_at
        self._collection = context.contract.collection
        self._stores = {name: context.stores[name] for name in context.contract.stores}
        self._seen: dict[str, int] = {}

    async def run(self) -> PartitionReport:
        """Compare every object, repair the objects of action REPAIR, and return the complete report.

        Raises:
            TransientError: a dependency is unavailable; a rerun completes the work.
            FatalError: the job must stop (also LeaseLost, JobAborted).
        """
        results: list[ObjectResult] = []
        for group in _group(self._partition.objects):
            results += await self._check_group(group)
        for search in self._partition.searches:
            results += await StrayFinder(self._context, self._tally).find(search)
        return PartitionReport(
            self._partition.id, ReportStatus.DONE, self._context.epoch, results=tuple(results), points_seen=self._seen
        )

    async def _check_group(self, group: Sequence[PlannedObject]) -> list[ObjectResult]:
        await asyncio.to_thread(self._context.lease.check)
        with contextlib.suppress(CollectionMissing):  # a lost collection has no points, which is what is reported
            await self._context.schema.check()  # one that changes vectors would make every object differ
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
        return read_copies(self._stores, self._collection, list(objects), chunks=chunks)

    async def _settle(self, planned: PlannedObject, object_id: ObjectId, verdict: Verdict) -> ObjectResult:
        if verdict.is_same:
            return _result(planned, object_id, Outcome.SAME)
        found = verdict.differences
        if planned.action is Action.VERIFY:
            return _result(planned, object_id, Outcome.DIFFERENT, differences=found)
        if verdict.choice is None:
            # The driver plans the object again; if a vector is unknown, none of its vectors may be reused.
            code = None if verdict.vectors_known else VECTORS_UNKNOWN
            return _result(planned, object_id, Outcome.UNDECIDED, differences=found, code=code)
        try:
            await self._repair(planned, object_id, verdict.choice)
        except ObjectError as error:
            reason = {"code": error.code, "reason": error.message}
            return _result(planned, object_id, Outcome.FAILED, differences=found, **reason)
        return _result(planned, object_id, Outcome.REPAIRED, differences=found)

    async def _repair(self, planned: PlannedObject, object_id: ObjectId, choice: Choice) -> None:
        """Write the object's points as chosen, then remove older points and points that should not exist."""
        await self._context.schema.check()
        surplus = [point_id for point_id, chosen in choice.payloads.items() if chosen is None]
        written: Counter[StoreName] = Counter()
        async for copies in self._read({object_id: planned}):
            points = list(self._points(copies, choice))
            await asyncio.to_thread(self._context.lease.check)
            refused = await upsert_points(self._stores, self._collection, points)
            for name in self._stores:
                written[name] += len(points) - len(refused.get(name, ()))
            if refused:
                self._add_written(written)
                reasons = next(iter(refused.values()))
                raise ObjectError("store_refused", f"A store refused a point: {next(iter(reasons.values()))}")
        await asyncio.to_thread(self._context.lease.check)
        for start in range(0, len(surplus), DELETE_POINTS):
            some = surplus[start : start + DELETE_POINTS]
            await delete_points(self._stores, self._collection, some, tally=self._tally)
        epoch = self._context.epoch
        await delete_stale_points(self._stores, self._collection, [object_id], before_epoch=epoch, tally=self._tally)
        self._add_written(written)

    def _add_written(self, written: Mapping[StoreName, int]) -> None:
        for name, points in written.items():
            self._tally.add_written(name, points)

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


VECTORS_UNKNOWN = "vectors_unknown"
"""Error code of an undecided object without any reliable vector."""


def _group(objects: Sequence[PlannedObject]) -> Iterator[list[PlannedObject]]:
    """Yield groups of objects that are read together; a large object is a group of its own."""
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
    """Return the object of the group that a copy of a point names."""
    return next(ObjectId(p.payload["object_id"]) for p in held.values() if p.payload.get("object_id") in objects)


def _result(
    planned: PlannedObject,
    object_id: ObjectId,
    outcome: Outcome,
    *,
    differences: Differences | None = None,
    code: str | None = None,
    reason: str | None = None,
) -> ObjectResult:
    ref = planned.ref
    if outcome is Outcome.DIFFERENT:
        code = "points_differ"
        reason = f"The object's points differ from the ones that were written: {describe(differences or {})}."
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
        reason=reason,
        differences=differences or None,
        origin=planned.origin,
    )


def describe(differences: Mapping[str, Mapping[str, int]]) -> str:
    """Return differences as text: ``qdrant: 3 missing, 1 payload; weaviate: 2 extra``. Pure."""
    stores = (
        f"{store}: " + ", ".join(f"{points} {kind}" for kind, points in kinds.items())
        for store, kinds in sorted(differences.items())
    )
    return "; ".join(stores)
