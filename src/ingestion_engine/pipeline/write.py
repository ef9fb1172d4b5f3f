"""The write stage: batches the points of finished objects, upserts them into every store, then removes stale points.

Points of several objects are written together, limited by count and bytes, while the next objects are embedded. The
order for each object is fixed: all its points are in every store, then its points of lower epochs are removed, then it
has a result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.ids import ObjectId, PointId, add_digests, digest_point, digest_vector, format_digest
from ingestion_engine.domain.legible import make_legible
from ingestion_engine.domain.records import (
    FAILED_BEFORE,
    UNFINISHED,
    Action,
    EmbeddedChunk,
    ObjectResult,
    Outcome,
    Point,
)
from ingestion_engine.domain.spec import Mode, StoreName
from ingestion_engine.pipeline.load import LoadedObject
from ingestion_engine.pipeline.point_ids import PointIds
from ingestion_engine.pipeline.point_tally import PointTally
from ingestion_engine.pipeline.points import PointStamp, build_points
from ingestion_engine.pipeline.stored_copies import holds_version, remove_other_points
from ingestion_engine.pipeline.upsert import delete_stale_points, upsert_points
from ingestion_engine.pipeline.worker_context import Stopwatch, WorkerContext
from ingestion_engine.runtime.async_iteration import next_items

FLUSH_POINTS = 256
"""Points per flush. A flush costs about 3 ms regardless of its size; encoding this many points for both stores blocks
the event loop, and thereby the next embed call, for about 30 ms."""
FLUSH_BYTES = 8 * 1024 * 1024
"""Approximate bytes of text and vectors per flush; adapters cut further if a server requires it."""
FLUSH_AFTER_S = 2.0
"""Longest time a point waits for others. It bounds the embedding lost in a crash and the delay of an abort."""
REASON_CHARS = 1_000
"""Maximum length of a failed object's reason, which may quote names out of the object."""
FLUSHES_AT_ONCE = 2
"""One flush is on its way to the stores while the next is encoded."""


@dataclass(frozen=True, slots=True)
class FinishedObject:
    """An object with all its vectors. ``position`` is its index in the partition."""

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
    """The ids of its points if all other points of the object must be removed, else None."""
    points: int = 0
    digest: int = 0
    vectors: int = 0
    refused: dict[StoreName, list[str]] = field(default_factory=dict)
    """Errors of each store that refused points of it, one per point."""
    batches_left: int = 0
    """Batches with points of the object that are not written yet."""
    is_whole: bool = False
    """True when all its points are in a batch."""

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
    """Time of the flush, by the loop's clock."""
    points: list[Point] = field(default_factory=list)
    objects: list[_Writing] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.points) >= FLUSH_POINTS or self.size_bytes >= FLUSH_BYTES

    def enter(self, writing: _Writing) -> None:
        """Record that the batch belongs to the object; the object's last batch settles it."""
        if not self.objects or self.objects[-1] is not writing:
            self.objects.append(writing)
            writing.batches_left += 1

    def add(self, writing: _Writing, point: Point) -> None:
        self.enter(writing)
        writing.add(point)
        self.points.append(point)
        self.size_bytes += len(point.payload["text"]) + len(point.payload.get("context", "")) + point.vector.nbytes

    def note_refused(self, refused: Mapping[StoreName, Mapping[PointId, str]]) -> None:
        owners = {writing.finished.object_id: writing for writing in self.objects}
        for store, reasons in refused.items():
            for point in self.points:
                if point.id in reasons:
                    owner = owners[point.payload["object_id"]]
                    owner.refused.setdefault(store, []).append(reasons[point.id])


@dataclass(slots=True)
class WriteStage:
    """Writes finished objects. ``results`` receives the result of each object by position when it is complete."""

    context: WorkerContext
    stamp: PointStamp
    watch: Stopwatch
    results: MutableMapping[int, ObjectResult]
    tally: PointTally
    _batch: _Batch | None = field(default=None, init=False)
    _free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FLUSHES_AT_ONCE), init=False)

    async def write_objects(self, finished: asyncio.Queue[FinishedObject | None]) -> None:
        """Write objects until the end marker None; return when all have results.

        A batch is flushed when it is full, or ``FLUSH_AFTER_S`` after its first point.

        Raises:
            TransientError: a store is unavailable; written points stay, and a rerun completes the partition.
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
            for point in build_points(item.object_id, document, window, stamp=self.stamp):
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
        """Remove points that the objects no longer have, once all stores have the new ones, and set the results."""
        known = [w for w in written if not w.refused and w.finished.loaded.planned.action is not Action.NEW]
        if known:
            await self.remove_points([writing.finished.object_id for writing in known])
        for writing in written:
            await self._set_result(writing)

    async def _set_result(self, writing: _Writing) -> None:
        position, loaded, object_id = writing.finished.position, writing.finished.loaded, writing.finished.object_id
        stores, collection = self.context.stores, self.context.contract.collection
        if writing.refused:
            reason = next(iter(writing.refused.values()))[0]
            error = ObjectError("store_refused", f"A store refused a point of this object: {reason}")
            self.results[position] = await self.fail(loaded, object_id, error, has_written=True)
        else:
            if writing.keep is not None:
                await asyncio.to_thread(self.context.lease.check)
                await remove_other_points(stores, collection, object_id, keep=writing.keep, tally=self.tally)
            self.results[position] = make_result(
                loaded,
                object_id,
                Outcome.DONE,
                chunk_count=writing.points,
                points_digest=format_digest(writing.digest),
                vectors_digest=format_digest(writing.vectors),
            )
        for store in stores:
            self.tally.add_written(store, writing.points - len(writing.refused.get(store, ())))

    async def fail(
        self, loaded: LoadedObject, object_id: ObjectId, error: ObjectError, *, has_written: bool = False
    ) -> ObjectResult:
        """Return the result of a failed object; its points are those of the former version, or none.

        Where points of the former version may have been overwritten, the stores are read; when it is not whole any
        more, all points of the object are removed from every store.
        """
        failure = make_failure(loaded, object_id, error)
        if not has_written and not _may_be_mixed(loaded):
            return failure
        # An earlier attempt wrote under an epoch that is not known; this one, under its own.
        epoch = None if loaded.planned.action in UNFINISHED else self.context.epoch
        stores, collection = self.context.stores, self.context.contract.collection
        if await holds_version(stores, collection, failure, but_epoch=epoch):
            return failure
        await self.remove_points([object_id], own=True)
        return replace(failure, chunk_count=0, points_digest="", vectors_digest="")

    def _may_be_mixed(self, loaded: LoadedObject) -> bool:
        """True when existing points of the object may have any epoch."""
        return self.context.spec.request.mode is Mode.REPAIR or _may_be_mixed(loaded)

    async def remove_points(self, object_ids: Sequence[ObjectId], *, own: bool = False) -> None:
        """Remove and count some objects' points of earlier epochs, and of this epoch too if ``own``.

        Raises:
            TransientError, FatalError: as ``write_objects``.
        """
        await asyncio.to_thread(self.context.lease.check)
        collection, before_epoch = self.context.spec.request.collection, self.context.epoch + own
        deletion = delete_stale_points(
            self.context.stores, collection, object_ids, before_epoch=before_epoch, tally=self.tally
        )
        await self.watch.time("delete", deletion)


def _may_be_mixed(loaded: LoadedObject) -> bool:
    """True when points of this epoch may belong to another version of the object.

    Either the object changed after it was listed, so that an interrupted run of this partition may have read another
    version, or an earlier plan of this attempt wrote it.
    """
    return loaded.read != loaded.planned.ref or loaded.planned.action in UNFINISHED


def make_result(
    loaded: LoadedObject,
    object_id: ObjectId,
    outcome: Outcome,
    *,
    chunk_count: int = 0,
    points_digest: str = "",
    vectors_digest: str = "",
) -> ObjectResult:
    """Return the result of an object that did not fail, for the version that was read. Pure."""
    planned = loaded.planned
    ref = loaded.read or planned.ref
    document = loaded.document
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
        warnings=document.warnings if document is not None else (),
    )


def make_failure(loaded: LoadedObject, object_id: ObjectId, error: ObjectError) -> ObjectResult:
    """Return the result of an object that failed. Pure.

    A failed version keeps the points of the previous version, so the result has their count and digests. The reason
    ends with the hint: nothing else brings it to the user.
    """
    planned = loaded.planned
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
        reason=_explain(error),
        retryable=error.retryable,
        again=planned.action in FAILED_BEFORE and ref.etag == planned.ref.etag,
        origin=planned.origin,
    )


def _explain(error: ObjectError) -> str:
    """Return message and hint in at most ``REASON_CHARS`` characters; a long message is cut, not the hint. Pure."""
    hint = f" {error.hint}" if error.hint else ""
    return make_legible(error.message, REASON_CHARS - len(hint)) + hint
