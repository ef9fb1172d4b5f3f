"""Runner: ``Partition → PartitionReport``. The only place that decides what happens at the same time.

::

    load (ahead, in order) ─► reuse ─► batches across objects ─► embed (in_flight at once) ─► flush to all stores ─►
    stale points go
                                                                                              one flush at a time

Batches are packed in the order of objects and chunks, so the number of embed calls depends on the partition alone,
not on timing.
An object's points are written only when all its chunks are embedded: a version that fails leaves the old points as
they were.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ingestion_engine.domain.errors import FatalError, IngestionError, ObjectError, ObjectGone
from ingestion_engine.domain.ids import (
    ObjectId,
    PointId,
    add_digests,
    digest_point,
    digest_vector,
    format_digest,
    make_object_id,
)
from ingestion_engine.domain.ports import Embedder, ObjectSource, VectorStore
from ingestion_engine.domain.records import (
    Action,
    Chunk,
    EmbeddedChunk,
    ObjectResult,
    Outcome,
    Partition,
    PartitionReport,
    PlannedObject,
    Point,
    ReportStatus,
)
from ingestion_engine.domain.spec import CollectionContract, JobSpec, Mode, StoreName
from ingestion_engine.pipeline.chunk import number_chunks, split_refused
from ingestion_engine.pipeline.embed import EmbedStage
from ingestion_engine.pipeline.load import LoadedObject, LoadStage
from ingestion_engine.pipeline.points import PointStamp, build_points
from ingestion_engine.pipeline.read import remove_other_points
from ingestion_engine.pipeline.reuse import find_vectors
from ingestion_engine.pipeline.upsert import SchemaWatch, delete_stale_points, upsert_points
from ingestion_engine.state.lease import LeaseCheck
from ingestion_engine.state.object_table import ObjectTable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

FLUSH_POINTS = 500
"""Points written at once; adapters cut further by bytes where a server needs it."""
WAITING_OBJECTS = 64
"""Embedded objects that may wait for the stores before embedding pauses."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker process holds open for one attempt of one job."""

    spec: JobSpec
    contract: CollectionContract
    context_length: int | None
    epoch: int
    source: ObjectSource
    embedder: Embedder
    stores: Mapping[StoreName, VectorStore]
    lease: LeaseCheck
    schema: SchemaWatch
    table: ObjectTable


@dataclass(slots=True)
class _ObjectWork:
    """An object on its way through embedding. ``slots[i]`` is what chunk i became."""

    position: int
    loaded: LoadedObject
    object_id: ObjectId
    slots: list[list[EmbeddedChunk] | ObjectError | None]
    waiting: int

    @property
    def error(self) -> ObjectError | None:
        return next((slot for slot in self.slots if isinstance(slot, ObjectError)), None)

    def embedded(self) -> list[EmbeddedChunk]:
        parts = [slot for slot in self.slots if isinstance(slot, list)]
        joined = [item for slot in parts for item in slot]
        if len(joined) == len(self.slots):
            return joined
        chunks = number_chunks(self.object_id, (item.chunk for item in joined))
        return [EmbeddedChunk(c, item.vector, item.reused) for c, item in zip(chunks, joined, strict=True)]


@dataclass(slots=True)
class _Settling:
    """An object whose points are being written."""

    work: _ObjectWork
    point_ids: set[PointId] = field(default_factory=set)
    digest: int = 0
    vectors: int = 0
    refused: str | None = None


class PartitionRun:
    """One run of one partition. Use once."""

    def __init__(self, tools: Tools, partition: Partition, *, ingested_at: str) -> None:
        spec, contract = tools.spec, tools.contract
        self._tools = tools
        self._partition = partition
        self._seconds: dict[str, float] = {}
        self._results: dict[int, ObjectResult] = {}
        self._embed = EmbedStage(tools.embedder, contract.model, contract.prefix, split_refused)
        self._load = LoadStage(tools.source, spec.limits, contract.chunking, tools.context_length, self._seconds)
        self._stamp = PointStamp(
            spec.job_id, tools.epoch, ingested_at, contract.embedding_id, contract.prefix, spec.request.metadata
        )
        self._chunks = self._reused = 0
        self._batch: list[tuple[_ObjectWork, int, Chunk]] = []
        self._batch_chars = 0
        self._in_flight = asyncio.Semaphore(spec.limits.embed_in_flight)
        self._finished: asyncio.Queue[_ObjectWork | None] = asyncio.Queue(WAITING_OBJECTS)

    async def run(self) -> PartitionReport:
        """Process every object and return the complete report.

        Raises:
            TransientError: something is away; what was written stays and a rerun completes it.
            FatalError: the job must stop (also LeaseLost, JobAborted).
        """
        try:
            async with asyncio.TaskGroup() as flushing:
                flushing.create_task(self._flush_finished())
                async with asyncio.TaskGroup() as embedding:
                    await self._embed_all(embedding)
                await self._finished.put(None)
        except BaseExceptionGroup as group:
            raise _worst(group) from group
        return PartitionReport(
            self._partition.id,
            ReportStatus.DONE,
            self._tools.epoch,
            tuple(self._results[i] for i in range(len(self._partition.objects))),
            chunks=self._chunks,
            chunks_embedded=self._embed.texts,
            chunks_reused=self._reused,
            embed_calls=self._embed.calls,
            bytes_read=self._load.bytes_read,
            seconds={step: round(seconds, 4) for step, seconds in sorted(self._seconds.items())},
        )

    async def _embed_all(self, group: asyncio.TaskGroup) -> None:
        position = 0
        async with aclosing(self._load.load_objects(self._partition.objects)) as objects:
            async for loaded in objects:
                work = await self._start(position, loaded)
                if work is not None:
                    await self._enqueue(group, work)
                position += 1
        await self._send_batch(group)

    async def _start(self, position: int, loaded: LoadedObject) -> _ObjectWork | None:
        """Settle what needs no embedding; look up the vectors that are there already for the rest."""
        planned = loaded.planned
        object_id = make_object_id(planned.ref.bucket, planned.ref.key)
        if planned.action in (Action.DELETE, Action.PURGE):
            self._results[position] = await self._delete(planned, object_id)
            return None
        if isinstance(loaded.error, ObjectGone):
            await self._remove_points(object_id, own=True)
            self._results[position] = _result(planned, loaded, object_id, Outcome.DELETED)
            return None
        if loaded.error is not None:
            self._results[position] = await self._fail(planned, loaded, object_id, loaded.error)
            return None
        kept: dict[PointId, npt.NDArray[np.float32]] = {}
        if planned.action is not Action.NEW:
            wanted = {chunk.point_id: self._stamp.embedding_id_of(chunk) for chunk in loaded.chunks}
            mode, collection = self._tools.spec.request.mode, self._tools.spec.request.collection
            full = Mode.FULL is mode or planned.action is Action.FULL
            look_up = find_vectors(
                self._tools.stores,
                collection,
                wanted,
                job_id=self._stamp.job_id if full else None,
                must_agree=mode is Mode.REPAIR,
            )
            kept = await self._timed("reuse", look_up)
        slots: list[list[EmbeddedChunk] | ObjectError | None] = [
            [EmbeddedChunk(c, kept[c.point_id], reused=True)] if c.point_id in kept else None for c in loaded.chunks
        ]
        return _ObjectWork(position, loaded, object_id, slots, waiting=slots.count(None))

    async def _enqueue(self, group: asyncio.TaskGroup, work: _ObjectWork) -> None:
        limits = self._tools.spec.limits
        if work.waiting == 0:
            await self._finished.put(work)
        for index, chunk in enumerate(work.loaded.chunks):
            if work.slots[index] is not None:
                continue
            full = len(self._batch) >= limits.embed_batch_texts
            if full or (self._batch and self._batch_chars + len(chunk.text) > limits.embed_batch_chars):
                await self._send_batch(group)
            self._batch.append((work, index, chunk))
            self._batch_chars += len(chunk.text)

    async def _send_batch(self, group: asyncio.TaskGroup) -> None:
        if not self._batch:
            return
        batch, self._batch, self._batch_chars = self._batch, [], 0
        await self._in_flight.acquire()
        group.create_task(self._embed_batch(batch))

    async def _embed_batch(self, batch: list[tuple[_ObjectWork, int, Chunk]]) -> None:
        try:
            results = await self._timed("embed", self._embed.embed_chunks([chunk for _, _, chunk in batch]))
        finally:
            self._in_flight.release()
        for (work, index, _), result in zip(batch, results, strict=True):
            work.slots[index] = result
            work.waiting -= 1
            if work.waiting == 0:
                await self._finished.put(work)

    async def _flush_finished(self) -> None:
        """Write finished objects until the end marker; flush when a batch is full or nothing more is waiting."""
        points: list[Point] = []
        settling: list[_Settling] = []
        while (work := await self._finished.get()) is not None:
            planned = work.loaded.planned
            if work.error is not None:
                self._results[work.position] = await self._fail(planned, work.loaded, work.object_id, work.error)
            else:
                document = work.loaded.document
                assert document is not None
                entry = _Settling(work)
                embedded = work.embedded()
                self._chunks += len(embedded)
                self._reused += sum(item.reused for item in embedded)
                settling.append(entry)
                for point in build_points(work.object_id, document, embedded, self._stamp):
                    entry.point_ids.add(point.id)
                    entry.digest = add_digests(entry.digest, digest_point(point.id, point.payload))
                    entry.vectors = add_digests(entry.vectors, digest_vector(point.id, point.vector.tobytes()))
                    points.append(point)
                    if len(points) >= FLUSH_POINTS:
                        await self._flush(points, settling)
                        await self._settle([], settling[:-1])
                        points, settling = [], [entry]
            if self._finished.empty():
                await self._settle(points, settling)
                points, settling = [], []
        await self._settle(points, settling)

    async def _flush(self, points: list[Point], settling: list[_Settling]) -> None:
        await asyncio.to_thread(self._tools.lease.check)
        await self._tools.schema.check()
        collection = self._tools.spec.request.collection
        refused = await self._timed("upsert", upsert_points(self._tools.stores, collection, points))
        for point_id, reason in refused.items():
            for entry in settling:
                if point_id in entry.point_ids:
                    entry.refused = reason

    async def _settle(self, points: list[Point], settling: list[_Settling]) -> None:
        """Write the rest, then, and only then, remove what the objects no longer have, and note them as done."""
        if points:
            await self._flush(points, settling)
        for entry in settling:
            planned, loaded, object_id = entry.work.loaded.planned, entry.work.loaded, entry.work.object_id
            if entry.refused is not None:
                error = ObjectError("store_refused", f"A store refused a point of this object: {entry.refused}")
                self._results[entry.work.position] = await self._fail(
                    planned, loaded, object_id, error, has_written=True
                )
                continue
            if planned.action is not Action.NEW:
                await self._remove_points(object_id)
            if self._tools.spec.request.mode is Mode.REPAIR or _may_be_mixed(loaded):
                # Points that others, or we before, put there may carry any epoch.
                await asyncio.to_thread(self._tools.lease.check)
                await remove_other_points(self._tools.stores, self._tools.contract, object_id, entry.point_ids)
            digests = format_digest(entry.digest), format_digest(entry.vectors)
            self._results[entry.work.position] = _result(
                planned, loaded, object_id, Outcome.DONE, len(entry.point_ids), *digests
            )

    async def _delete(self, planned: PlannedObject, object_id: ObjectId) -> ObjectResult:
        if planned.action is Action.DELETE and await self._tools.source.exists(planned.ref.bucket, planned.ref.key):
            return _result(planned, LoadedObject(planned), object_id, Outcome.KEPT)
        await self._remove_points(object_id, own=True)
        return _result(planned, LoadedObject(planned), object_id, Outcome.DELETED)

    async def _fail(
        self,
        planned: PlannedObject,
        loaded: LoadedObject,
        object_id: ObjectId,
        error: ObjectError,
        *,
        has_written: bool = False,
    ) -> ObjectResult:
        """Leave the old version's points as they are; where there is none, nothing of this one stays either."""
        if not planned.prior_chunks and (has_written or _may_be_mixed(loaded)):
            await self._remove_points(object_id, own=True)
        return _failure(planned, loaded, object_id, error)

    async def _remove_points(self, object_id: ObjectId, *, own: bool = False) -> None:
        """Remove what earlier epochs wrote of an object, and also what this one did if ``own``."""
        await asyncio.to_thread(self._tools.lease.check)
        await self._timed(
            "delete",
            delete_stale_points(
                self._tools.stores,
                self._tools.spec.request.collection,
                object_id,
                before_epoch=self._tools.epoch + own,
            ),
        )

    async def _timed(self, step: str, work: Awaitable[T]) -> T:
        started = time.perf_counter()
        try:
            return await work
        finally:
            self._seconds[step] = self._seconds.get(step, 0.0) + time.perf_counter() - started


def _may_be_mixed(loaded: LoadedObject) -> bool:
    """True when points of this very epoch may be of another version: the object changed after it was listed, so that
    a run of this partition that was cut off may have read it differently, or an earlier plan of this attempt wrote it.
    """
    return loaded.read != loaded.planned.ref or loaded.planned.action is Action.DIRTY


def _result(
    planned: PlannedObject,
    loaded: LoadedObject,
    object_id: ObjectId,
    outcome: Outcome,
    chunk_count: int = 0,
    points_digest: str = "",
    vectors_digest: str = "",
) -> ObjectResult:
    ref = loaded.read or planned.ref
    return ObjectResult(
        ref.key,
        outcome,
        ref.etag,
        ref.size_bytes,
        ref.last_modified,
        object_id,
        chunk_count,
        points_digest,
        vectors_digest,
        origin=planned.origin,
    )


def _failure(planned: PlannedObject, loaded: LoadedObject, object_id: ObjectId, error: ObjectError) -> ObjectResult:
    """A failed version leaves the points of the version before it, so their count and digest stay on record."""
    ref = loaded.read or planned.ref
    return ObjectResult(
        ref.key,
        Outcome.FAILED,
        ref.etag,
        ref.size_bytes,
        ref.last_modified,
        object_id,
        planned.prior_chunks,
        planned.prior_digest,
        planned.prior_vectors,
        error_code=error.code,
        reason=error.message,
        origin=planned.origin,
    )


def _worst(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to report: what stops the job before what only delays it, anything unexpected before both."""
    flat = [_worst(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    unexpected = [error for error in flat if not isinstance(error, IngestionError)]
    fatal = [error for error in flat if isinstance(error, FatalError)]
    return (unexpected or fatal or flat)[0]
