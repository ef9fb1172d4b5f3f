"""Write: finished objects ``→`` points in every store, then what the objects no longer have is removed.

Points of several objects are written together, by count and bytes, while the next ones are being embedded. Per object
the order is always the same: all its points are in every store, then points of lower epochs go, then it has a result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.ids import ObjectId, PointId, add_digests, digest_point, digest_vector, format_digest
from ingestion_engine.domain.records import Action, EmbeddedChunk, ObjectResult, Outcome, PlannedObject, Point
from ingestion_engine.domain.spec import Mode
from ingestion_engine.pipeline.load import LoadedObject
from ingestion_engine.pipeline.stored_copies import PointIds, remove_other_points
from ingestion_engine.pipeline.points import PointStamp, build_points
from ingestion_engine.pipeline.spool import next_items
from ingestion_engine.pipeline.upsert import delete_stale_points, upsert_points
from ingestion_engine.pipeline.worker_context import Stopwatch, WorkerContext

FLUSH_POINTS = 256
"""Points written at once. A flush costs about 3 ms whatever is in it; encoding so many points for both stores keeps
the event loop, and so the next embed call, waiting for about 30 ms."""
FLUSH_BYTES = 8 * 1024 * 1024
"""Text and vectors written at once, roughly; adapters cut further where a server needs it."""
FLUSH_AFTER_S = 2.0
"""So long a point waits for others. A crash costs no more embedding than this, and an abort is noticed as soon."""
FLUSHES_AT_ONCE = 2
"""One on its way to the stores while the next is encoded."""


@dataclass(frozen=True, slots=True)
class FinishedObject:
    """An object with all its vectors. ``position`` is its place in the partition."""

    position: int
    loaded: LoadedObject
    object_id: ObjectId
    embedded: Iterable[EmbeddedChunk]
    """In order; read from a temporary file when the object is large."""


@dataclass(slots=True)
class _Writing:
    """An object whose points are being written."""

    finished: FinishedObject
    keep: PointIds | None
    """The ids of its points, where what is not among them has to go."""
    points: int = 0
    digest: int = 0
    vectors: int = 0
    refused: str | None = None
    batches_left: int = 0
    """Batches that hold something of it and have not been written."""
    is_whole: bool = False
    """True when all its points are in some batch."""

    def add(self, point: Point) -> None:
        self.points += 1
        if self.keep is not None:
            self.keep.add(point.id)
        self.digest = add_digests(self.digest, digest_point(point.id, point.payload))
        self.vectors = add_digests(self.vectors, digest_vector(point.id, point.vector.tobytes()))


@dataclass(slots=True)
class _Batch:
    """Points to be written together, and the objects they belong to."""

    due_at: float
    """By the loop's clock."""
    points: list[Point] = field(default_factory=list)
    objects: list[_Writing] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.points) >= FLUSH_POINTS or self.size_bytes >= FLUSH_BYTES

    def enter(self, writing: _Writing) -> None:
        """Note that the batch holds something of the object; its last one also settles it."""
        if not self.objects or self.objects[-1] is not writing:
            self.objects.append(writing)
            writing.batches_left += 1

    def add(self, writing: _Writing, point: Point) -> None:
        self.enter(writing)
        writing.add(point)
        self.points.append(point)
        self.size_bytes += len(point.payload["text"]) + point.vector.nbytes

    def note_refused(self, refused: Mapping[PointId, str]) -> None:
        owners = {writing.finished.object_id: writing for writing in self.objects}
        for point in self.points:
            if point.id in refused:
                owners[point.payload["object_id"]].refused = refused[point.id]


@dataclass(slots=True)
class WriteStage:
    """How this job writes. ``results`` gets an entry per object, by position, when nothing of it is left to do."""

    context: WorkerContext
    stamp: PointStamp
    watch: Stopwatch
    results: MutableMapping[int, ObjectResult]
    _batch: _Batch | None = None
    _free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FLUSHES_AT_ONCE))

    async def write_objects(self, finished: asyncio.Queue[FinishedObject | None]) -> None:
        """Write objects until the end marker; return when all are settled.

        A batch goes when it is full or ``FLUSH_AFTER_S`` after its first point.

        Raises:
            TransientError: a store is away; what was written stays and a rerun completes it.
            FatalError: the job must stop (also LeaseLost, JobAborted).
        """
        async with asyncio.TaskGroup() as flushing:
            while True:
                try:
                    item = finished.get_nowait()
                except asyncio.QueueEmpty:
                    try:
                        async with asyncio.timeout_at(self._batch.due_at if self._batch else None):
                            item = await finished.get()
                    except TimeoutError:
                        await self._send_batch(flushing)
                        continue
                if item is None:
                    break
                await self._take(flushing, item)
            await self._send_batch(flushing)

    async def _take(self, flushing: asyncio.TaskGroup, item: FinishedObject) -> None:
        document = item.loaded.document
        assert document is not None
        writing = _Writing(item, PointIds() if self._may_be_mixed(item.loaded) else None)
        embedded = iter(item.embedded)
        while window := await next_items(embedded, FLUSH_POINTS if item.loaded.is_large else None):
            for point in build_points(item.object_id, document, window, self.stamp):
                batch = self._open_batch()
                batch.add(writing, point)
                if batch.is_full:
                    await self._send_batch(flushing)
        self._open_batch().enter(writing)
        writing.is_whole = True

    def _open_batch(self) -> _Batch:
        if self._batch is None:
            self._batch = _Batch(asyncio.get_running_loop().time() + FLUSH_AFTER_S)
        return self._batch

    async def _send_batch(self, flushing: asyncio.TaskGroup) -> None:
        if self._batch is None:
            return
        batch, self._batch = self._batch, None
        await self._free.acquire()
        flushing.create_task(self._flush(batch))

    async def _flush(self, batch: _Batch) -> None:
        try:
            if batch.points:
                await asyncio.to_thread(self.context.lease.check)
                await self.context.schema.check()
                collection = self.context.spec.request.collection
                refused = await self.watch.time("upsert", upsert_points(self.context.stores, collection, batch.points))
                if refused:
                    batch.note_refused(refused)
            for writing in batch.objects:
                writing.batches_left -= 1
            await self._settle([w for w in batch.objects if w.is_whole and w.batches_left == 0])
        finally:
            self._free.release()

    async def _settle(self, written: Sequence[_Writing]) -> None:
        """Remove what the objects no longer have, now that the new points are everywhere, and note them as done."""
        known = [w for w in written if w.refused is None and w.finished.loaded.planned.action is not Action.NEW]
        if known:
            await self.remove_points([writing.finished.object_id for writing in known])
        for writing in written:
            await self._note(writing)

    async def _note(self, writing: _Writing) -> None:
        position, loaded, object_id = writing.finished.position, writing.finished.loaded, writing.finished.object_id
        planned = loaded.planned
        if writing.refused is not None:
            error = ObjectError("store_refused", f"A store refused a point of this object: {writing.refused}")
            self.results[position] = await self.fail(planned, loaded, object_id, error, has_written=True)
            return
        if writing.keep is not None:
            await asyncio.to_thread(self.context.lease.check)
            await remove_other_points(self.context.stores, self.context.contract, object_id, writing.keep)
        digests = format_digest(writing.digest), format_digest(writing.vectors)
        self.results[position] = make_result(planned, loaded, object_id, Outcome.DONE, writing.points, *digests)

    async def fail(
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
            await self.remove_points([object_id], own=True)
        return make_failure(planned, loaded, object_id, error)

    def _may_be_mixed(self, loaded: LoadedObject) -> bool:
        """True when points that others, or we before, put there may carry any epoch."""
        return self.context.spec.request.mode is Mode.REPAIR or _may_be_mixed(loaded)

    async def remove_points(self, object_ids: Sequence[ObjectId], *, own: bool = False) -> None:
        """Remove what earlier epochs wrote of some objects, and also what this one did if ``own``.

        Raises:
            TransientError, FatalError: as ``write_objects``.
        """
        await asyncio.to_thread(self.context.lease.check)
        collection, before_epoch = self.context.spec.request.collection, self.context.epoch + own
        deletion = delete_stale_points(self.context.stores, collection, object_ids, before_epoch=before_epoch)
        await self.watch.time("delete", deletion)


def _may_be_mixed(loaded: LoadedObject) -> bool:
    """True when points of this very epoch may be of another version: the object changed after it was listed, so that
    a run of this partition that was cut off may have read it differently, or an earlier plan of this attempt wrote it.
    """
    return loaded.read != loaded.planned.ref or loaded.planned.action is Action.DIRTY


def make_result(
    planned: PlannedObject,
    loaded: LoadedObject,
    object_id: ObjectId,
    outcome: Outcome,
    chunk_count: int = 0,
    points_digest: str = "",
    vectors_digest: str = "",
) -> ObjectResult:
    """Return the result of an object that did not fail, of the version that was read. Pure."""
    ref = loaded.read or planned.ref
    return ObjectResult(
        key=ref.key,
        outcome=outcome,
        etag=ref.etag,
        size_bytes=ref.size_bytes,
        last_modified=ref.last_modified,
        object_id=object_id,
        chunk_count=chunk_count,
        points_digest=points_digest,
        vectors_digest=vectors_digest,
        origin=planned.origin,
    )


def make_failure(planned: PlannedObject, loaded: LoadedObject, object_id: ObjectId, error: ObjectError) -> ObjectResult:
    """Return the result of an object that failed. Pure.

    A failed version leaves the points of the version before it, so their count and digest stay on record.
    """
    ref = loaded.read or planned.ref
    return ObjectResult(
        key=ref.key,
        outcome=Outcome.FAILED,
        etag=ref.etag,
        size_bytes=ref.size_bytes,
        last_modified=ref.last_modified,
        object_id=object_id,
        chunk_count=planned.prior_chunks,
        points_digest=planned.prior_digest,
        vectors_digest=planned.prior_vectors,
        error_code=error.code,
        reason=error.message,
        origin=planned.origin,
    )
