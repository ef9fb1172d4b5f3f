"""Runner: ``Partition → PartitionReport``. The only module that decides about concurrency.

::

    load, reuse (ahead, in order) ─► batches across objects ─► embed (in_flight at once) ─► write (two batches at once)

Batches are packed in the order of objects and chunks, so the number of embed calls depends only on the partition and
not on timing. An object's points are written only when all its chunks are embedded: a version that fails keeps the old
points. A large object's embedded chunks wait in a temporary file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ingestion_engine.domain.errors import FatalError, IngestionError, ObjectError, ObjectGone
from ingestion_engine.domain.estimates import measure_work
from ingestion_engine.domain.ids import ObjectId, PointId, make_object_id
from ingestion_engine.domain.records import (
    Action,
    Chunk,
    EmbeddedChunk,
    ObjectRef,
    ObjectResult,
    Outcome,
    Partition,
    PartitionReport,
    PlannedObject,
    ReportStatus,
    RunningPartition,
)
from ingestion_engine.domain.spec import Mode
from ingestion_engine.pipeline.chunk_buffer import EmbeddedChunks, Slots, SpilledSlots
from ingestion_engine.pipeline.chunking.chunk import split_refused
from ingestion_engine.pipeline.embed import EmbedStage
from ingestion_engine.pipeline.load import AHEAD_BYTES, LoadedObject, LoadStage
from ingestion_engine.pipeline.point_tally import PointTally
from ingestion_engine.pipeline.points import PointStamp
from ingestion_engine.pipeline.reuse import find_vectors
from ingestion_engine.pipeline.worker_context import Stopwatch, WorkerContext
from ingestion_engine.pipeline.write import FinishedObject, WriteStage, make_result
from ingestion_engine.runtime.async_iteration import next_items
from ingestion_engine.runtime.coalesce import RequestCoalescer
from ingestion_engine.runtime.telemetry import get_logger

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = get_logger(__name__)

WAITING_OBJECTS = 64
"""Embedded objects that may wait for the stores before embedding pauses."""
EMBED_SHARE = 0.9
"""Part of an object's work that is done when it is embedded but in no store yet (a guess)."""
WINDOW_CHUNKS = 1_000
"""Chunks of a large object that are cut and read from the stores together, while the previous ones are embedded."""


@dataclass(slots=True)
class _ObjectWork:
    """An object that is being embedded."""

    position: int
    loaded: LoadedObject
    object_id: ObjectId
    unread: Iterator[Chunk]
    """Chunks that are not in a window yet."""
    embedded: EmbeddedChunks
    window: list[tuple[Chunk, npt.NDArray[np.float32] | None]] = field(default_factory=list, init=False)
    """The next chunks, with their vectors from a store if any."""
    waiting: int = field(default=0, init=False)
    """Chunks in a batch for the embedder."""
    is_whole: bool = field(default=False, init=False)
    """True when all chunks are embedded or in a batch."""
    chars_done: int = field(default=0, init=False)
    """Length of the text up to the last chunk that has a vector."""
    failed: tuple[int, ObjectError] | None = field(default=None, init=False)
    """The first chunk, in the order of the text, that cannot be embedded, and its error."""

    @property
    def breaks_embedder(self) -> bool:
        """True when a chunk of the object breaks what embeds it; its other chunks are not embedded any more."""
        return self.failed is not None and self.failed[1].code == "embedding_failed"

    @property
    def is_done(self) -> bool:
        return self.is_whole and self.waiting == 0

    @property
    def window_chunks(self) -> int | None:
        return WINDOW_CHUNKS if self.loaded.is_large else None

    def put(self, index: int, result: list[EmbeddedChunk] | ObjectError) -> None:
        """Keep the result of a chunk; the results of a failed object are dropped."""
        if isinstance(result, ObjectError):
            if self.failed is None or index < self.failed[0]:
                self.failed = index, result
            self.embedded = EmbeddedChunks(self.object_id, {})
        elif self.failed is None:
            self.embedded.put(index, result)
            self.chars_done = max(self.chars_done, result[-1].chunk.end_char)

    @property
    def share(self) -> float:
        """Part of the object that is embedded, 0 to 1."""
        return self.chars_done / self.loaded.text_chars if self.loaded.text_chars else 0.0


class PartitionRun:
    """One run of one partition. Use once."""

    def __init__(self, context: WorkerContext, partition: Partition, *, ingested_at: str, tally: PointTally) -> None:
        spec, contract = context.spec, context.contract
        self._context = context
        self._partition = partition
        self._watch = self.watch = Stopwatch()
        self._results: dict[int, ObjectResult] = {}
        self._limit = context.limit
        self._embed = EmbedStage(
            context.embedder,
            contract.model,
            digest=contract.model_digest,
            prefix=contract.prefix,
            split=split_refused,
            measure=self._limit.share if self._limit else len,
        )
        self._load = LoadStage(
            source=context.source,
            limits=spec.limits,
            chunking=contract.chunking,
            limit=context.limit,
            watch=self._watch,
            ahead_bytes=AHEAD_BYTES // context.at_once,
            large_bytes=context.large_bytes,
        )
        self._stamp = PointStamp(
            job_id=spec.job_id,
            epoch=context.epoch,
            ingested_at=ingested_at,
            embedding_id=contract.embedding_id,
            prefix=contract.prefix,
            metadata=spec.request.metadata,
        )
        self._write = WriteStage(context, self._stamp, watch=self._watch, results=self._results, tally=tally)
        self._chunks = self._reused = 0
        self._begun: dict[int, _ObjectWork] = {}
        """Objects that are being embedded, by position."""
        self._embedded: set[int] = set()
        """Positions of the objects whose chunks all have vectors."""
        self._batch: list[tuple[_ObjectWork, Chunk]] = []
        self._batch_chars = 0
        self._in_flight = asyncio.Semaphore(spec.limits.embed_in_flight)
        self._finished: asyncio.Queue[FinishedObject | None] = asyncio.Queue(WAITING_OBJECTS)
        self._vectors = {full: RequestCoalescer(partial(self._find_vectors, is_full=full)) for full in (False, True)}
        self._removals = RequestCoalescer(partial(self._write.remove_points, own=True))

    async def run(self) -> PartitionReport:
        """Process every object and return the complete report.

        Raises:
            TransientError: a dependency is unavailable; written points stay, and a rerun completes the partition.
            FatalError: the job must stop (also LeaseLost, JobAborted).
        """
        try:
            async with asyncio.TaskGroup() as writing:
                writing.create_task(self._write.write_objects(self._finished))
                async with asyncio.TaskGroup() as embedding:
                    await self._embed_all(embedding)
                await self._finished.put(None)
        except BaseExceptionGroup as group:
            worst = _worst(group)
            if isinstance(worst, IngestionError):  # what was sent is counted, although its vectors are lost
                worst.context |= {"texts_embedded": self._embed.texts, "embed_requests": self._embed.calls}
                worst.context |= {"embed_refusals": self._embed.refusals, "texts_in_vain": self._embed.in_vain}
            raise worst from group
        done = PartitionReport(self._partition.id, ReportStatus.DONE, self._context.epoch)
        assert len(self._results) == len(self._partition.objects)
        return self._complete(done)

    def add_finished(self, report: PartitionReport) -> PartitionReport:
        """Return the report of a run that was put back with the results and the work of what it had finished.

        An object is finished when every store has all its points and its stale points are removed, or when it has
        failed for good. Reports that stop the job stay as they are.
        """
        if report.status is not ReportStatus.RETRY or not self._results:
            return report
        return self._complete(replace(report, epoch=self._context.epoch))

    def _complete(self, report: PartitionReport) -> PartitionReport:
        """Return a report with the results so far and the work of this run."""
        return replace(
            report,
            results=tuple(self._results[position] for position in sorted(self._results)),
            chunks=self._chunks,
            chunks_embedded=self._embed.texts,
            chunks_reused=self._reused,
            embed_calls=self._embed.calls,
            embed_refusals=self._embed.refusals,
            texts_in_vain=self._embed.in_vain,
            bytes_read=self._load.bytes_read,
            seconds={step: round(seconds, 4) for step, seconds in sorted(self._watch.seconds.items())},
        )

    def measure(self) -> RunningPartition:
        """Return how far the partition is."""
        chunking = self._context.contract.chunking
        work = [measure_work(planned, chunking) for planned in self._partition.objects]
        shares = {position: EMBED_SHARE * held.share for position, held in self._begun.items()}
        shares |= dict.fromkeys(self._embedded, EMBED_SHARE) | dict.fromkeys(self._results, 1.0)
        chunks = self._chunks + sum(held.embedded.count for held in self._begun.values())
        share = sum(work[position] * part for position, part in shares.items()) / sum(work)
        return RunningPartition(round(share, 4), chunks, self._load.bytes_read)

    async def _embed_all(self, group: asyncio.TaskGroup) -> None:
        async with aclosing(self._load.load_objects(self._partition.objects, self._start)) as started:
            async for work in started:
                if work is not None:
                    await self._enqueue(group, work)
        await self._send_batch(group)

    async def _start(self, position: int, loaded: LoadedObject) -> _ObjectWork | None:
        """Finish an object that needs no embedding; read the stored vectors of any other."""
        planned = loaded.planned
        object_id = make_object_id(planned.ref.bucket, planned.ref.key)
        if planned.action in (Action.DELETE, Action.PURGE):
            self._results[position] = await self._delete(planned, object_id)
            return None
        if isinstance(loaded.error, ObjectGone):
            await self._removals.request(object_id)
            self._results[position] = make_result(loaded, object_id, Outcome.DELETED)
            return None
        if loaded.error is not None:
            self._results[position] = await self._write.fail(loaded, object_id, loaded.error)
            return None
        slots: Slots = SpilledSlots() if loaded.is_large else {}
        embedded = EmbeddedChunks(object_id, slots)
        work = _ObjectWork(position, loaded, object_id, unread=iter(loaded.chunks), embedded=embedded)
        work.window = await self._next_window(work)
        self._begun[position] = work
        return work

    async def _next_window(self, work: _ObjectWork) -> list[tuple[Chunk, npt.NDArray[np.float32] | None]]:
        """Return the object's next chunks, all of a small object, each with its vector from a store if any."""
        chunks = await self._watch.time("chunk", next_items(work.unread, work.window_chunks))
        kept: dict[PointId, npt.NDArray[np.float32]] = {}
        action = work.loaded.planned.action
        if action is not Action.NEW and chunks:
            wanted = {chunk.point_id: self._stamp.embedding_id_of(chunk) for chunk in chunks}
            is_full = self._context.spec.request.mode is Mode.FULL or action is Action.FULL
            kept = await self._vectors[is_full].request(wanted)
        return [(chunk, kept.get(chunk.point_id)) for chunk in chunks]

    async def _find_vectors(
        self, requests: Sequence[Mapping[PointId, str]], *, is_full: bool
    ) -> dict[PointId, npt.NDArray[np.float32]]:
        """Return the stored vectors of several objects' chunks; in a full job only the vectors of this job."""
        request = self._context.spec.request
        vectors = find_vectors(
            self._context.stores,
            request.collection,
            {point_id: embedding_id for wanted in requests for point_id, embedding_id in wanted.items()},
            job_id=self._stamp.job_id if is_full else None,
            must_agree=request.mode is Mode.REPAIR,
        )
        return await self._watch.time("reuse", vectors)

    async def _enqueue(self, group: asyncio.TaskGroup, work: _ObjectWork) -> None:
        while window := work.window:
            following = group.create_task(self._next_window(work)) if work.loaded.is_large else None
            for chunk, vector in window:
                if vector is not None:
                    work.put(chunk.index, [EmbeddedChunk(chunk, vector, reused=True)])
                else:
                    await self._add(group, work, chunk)
            work.window = await following if following else []
        work.is_whole = True
        if work.is_done:
            await self._finish(work)

    async def _add(self, group: asyncio.TaskGroup, work: _ObjectWork, chunk: Chunk) -> None:
        """Put a chunk into the batch, or send it alone if the model may refuse it, which then costs no inference."""
        if work.breaks_embedder:
            return
        work.waiting += 1
        if self._limit is not None and self._limit.is_suspect(chunk.embedded_text):
            await self._send(group, [(work, chunk)])
            return
        limits = self._context.spec.limits
        full, chars = len(self._batch) >= limits.embed_batch_texts, len(chunk.text) + len(chunk.context)
        if full or (self._batch and self._batch_chars + chars > limits.embed_batch_chars):
            await self._send_batch(group)
        self._batch.append((work, chunk))
        self._batch_chars += chars

    async def _send_batch(self, group: asyncio.TaskGroup) -> None:
        if not self._batch:
            return
        batch, self._batch, self._batch_chars = self._batch, [], 0
        await self._send(group, batch)

    async def _send(self, group: asyncio.TaskGroup, batch: list[tuple[_ObjectWork, Chunk]]) -> None:
        await self._in_flight.acquire()
        group.create_task(self._embed_batch(batch))

    async def _embed_batch(self, batch: list[tuple[_ObjectWork, Chunk]]) -> None:
        try:
            wanted = [not work.breaks_embedder for work, _ in batch]
            chunks = [chunk for (_, chunk), is_wanted in zip(batch, wanted, strict=True) if is_wanted]
            results = iter(await self._watch.time("embed", self._embed.embed_chunks(chunks)))
            for (work, chunk), is_wanted in zip(batch, wanted, strict=True):
                if is_wanted:
                    work.put(chunk.index, next(results))
                work.waiting -= 1
                if work.is_done:
                    await self._finish(work)  # waits for slow stores, and so does the next batch
        finally:
            self._in_flight.release()

    async def _finish(self, work: _ObjectWork) -> None:
        self._begun.pop(work.position, None)
        self._embedded.add(work.position)
        if work.failed is not None:
            self._results[work.position] = await self._write.fail(work.loaded, work.object_id, work.failed[1])
            return
        self._chunks += work.embedded.count
        self._reused += work.embedded.reused
        await self._finished.put(FinishedObject(work.position, work.loaded, work.object_id, embedded=work.embedded))

    async def _delete(self, planned: PlannedObject, object_id: ObjectId) -> ObjectResult:
        if planned.action is Action.DELETE and not await self._is_gone(planned.ref):
            return make_result(LoadedObject(planned), object_id, Outcome.KEPT)
        await self._removals.request(object_id)
        return make_result(LoadedObject(planned), object_id, Outcome.DELETED)

    async def _is_gone(self, ref: ObjectRef) -> bool:
        """True when it is proven that an object does not exist; the next sync checks any other again."""
        try:
            return not await self._context.source.exists(ref.bucket, ref.key)
        except ObjectError as error:
            log.warning("points kept, because it is not known whether the object is gone", extra=error.log_fields())
            return False


def _worst(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to report: an unexpected one first, then one that stops the job, then one that delays it."""
    flat = [_worst(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    unexpected = [error for error in flat if not isinstance(error, IngestionError)]
    fatal = [error for error in flat if isinstance(error, FatalError)]
    return (unexpected or fatal or flat)[0]
