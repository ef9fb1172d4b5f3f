"""Runner: ``Partition → PartitionReport``. The only place that decides what happens at the same time.

::

    load, reuse (ahead, in order) ─► batches across objects ─► embed (in_flight at once) ─► write (two batches at once)

Batches are packed in the order of objects and chunks, so the number of embed calls depends on the partition alone,
not on timing.
An object's points are written only when all its chunks are embedded: a version that fails leaves the old points as
they were.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingestion_engine.domain.errors import FatalError, IngestionError, ObjectError, ObjectGone
from ingestion_engine.domain.ids import ObjectId, PointId, make_object_id
from ingestion_engine.domain.records import (
    Action,
    Chunk,
    EmbeddedChunk,
    ObjectResult,
    Outcome,
    Partition,
    PartitionReport,
    PlannedObject,
    ReportStatus,
)
from ingestion_engine.domain.spec import Mode
from ingestion_engine.pipeline.chunk import number_chunks, split_refused
from ingestion_engine.pipeline.embed import EmbedStage
from ingestion_engine.pipeline.load import AHEAD_BYTES, LoadedObject, LoadStage
from ingestion_engine.pipeline.points import PointStamp
from ingestion_engine.pipeline.reuse import find_vectors
from ingestion_engine.pipeline.tools import Stopwatch, Tools
from ingestion_engine.pipeline.write import FinishedObject, WriteStage, make_result

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


WAITING_OBJECTS = 64
"""Embedded objects that may wait for the stores before embedding pauses."""


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


class PartitionRun:
    """One run of one partition. Use once."""

    def __init__(self, tools: Tools, partition: Partition, *, ingested_at: str) -> None:
        spec, contract = tools.spec, tools.contract
        self._tools = tools
        self._partition = partition
        self._watch = Stopwatch()
        self._results: dict[int, ObjectResult] = {}
        self._embed = EmbedStage(tools.embedder, contract.model, contract.prefix, split_refused)
        self._load = LoadStage(
            tools.source,
            spec.limits,
            contract.chunking,
            tools.context_length,
            self._watch.seconds,
            AHEAD_BYTES // tools.at_once,
        )
        self._stamp = PointStamp(
            spec.job_id, tools.epoch, ingested_at, contract.embedding_id, contract.prefix, spec.request.metadata
        )
        self._write = WriteStage(tools, self._stamp, self._watch, self._results)
        self._chunks = self._reused = 0
        self._batch: list[tuple[_ObjectWork, int, Chunk]] = []
        self._batch_chars = 0
        self._in_flight = asyncio.Semaphore(spec.limits.embed_in_flight)
        self._finished: asyncio.Queue[FinishedObject | None] = asyncio.Queue(WAITING_OBJECTS)

    async def run(self) -> PartitionReport:
        """Process every object and return the complete report.

        Raises:
            TransientError: something is away; what was written stays and a rerun completes it.
            FatalError: the job must stop (also LeaseLost, JobAborted).
        """
        try:
            async with asyncio.TaskGroup() as writing:
                writing.create_task(self._write.write_objects(self._finished))
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
            seconds={step: round(seconds, 4) for step, seconds in sorted(self._watch.seconds.items())},
        )

    async def _embed_all(self, group: asyncio.TaskGroup) -> None:
        async with aclosing(self._load.load_objects(self._partition.objects, self._start)) as started:
            async for work in started:
                if work is not None:
                    await self._enqueue(group, work)
        await self._send_batch(group)

    async def _start(self, position: int, loaded: LoadedObject) -> _ObjectWork | None:
        """Settle what needs no embedding; look up the vectors that are there already for the rest."""
        planned = loaded.planned
        object_id = make_object_id(planned.ref.bucket, planned.ref.key)
        if planned.action in (Action.DELETE, Action.PURGE):
            self._results[position] = await self._delete(planned, object_id)
            return None
        if isinstance(loaded.error, ObjectGone):
            await self._write.remove_points(object_id, own=True)
            self._results[position] = make_result(planned, loaded, object_id, Outcome.DELETED)
            return None
        if loaded.error is not None:
            self._results[position] = await self._write.fail(planned, loaded, object_id, loaded.error)
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
            kept = await self._watch.time("reuse", look_up)
        slots: list[list[EmbeddedChunk] | ObjectError | None] = [
            [EmbeddedChunk(c, kept[c.point_id], reused=True)] if c.point_id in kept else None for c in loaded.chunks
        ]
        return _ObjectWork(position, loaded, object_id, slots, waiting=slots.count(None))

    async def _enqueue(self, group: asyncio.TaskGroup, work: _ObjectWork) -> None:
        limits = self._tools.spec.limits
        if work.waiting == 0:
            await self._finish(work)
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
            results = await self._watch.time("embed", self._embed.embed_chunks([chunk for _, _, chunk in batch]))
        finally:
            self._in_flight.release()
        for (work, index, _), result in zip(batch, results, strict=True):
            work.slots[index] = result
            work.waiting -= 1
            if work.waiting == 0:
                await self._finish(work)

    async def _finish(self, work: _ObjectWork) -> None:
        if work.error is not None:
            planned = work.loaded.planned
            self._results[work.position] = await self._write.fail(planned, work.loaded, work.object_id, work.error)
            return
        embedded = work.embedded()
        self._chunks += len(embedded)
        self._reused += sum(item.reused for item in embedded)
        await self._finished.put(FinishedObject(work.position, work.loaded, work.object_id, embedded))

    async def _delete(self, planned: PlannedObject, object_id: ObjectId) -> ObjectResult:
        if planned.action is Action.DELETE and await self._tools.source.exists(planned.ref.bucket, planned.ref.key):
            return make_result(planned, LoadedObject(planned), object_id, Outcome.KEPT)
        await self._write.remove_points(object_id, own=True)
        return make_result(planned, LoadedObject(planned), object_id, Outcome.DELETED)


def _worst(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to report: what stops the job before what only delays it, anything unexpected before both."""
    flat = [_worst(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    unexpected = [error for error in flat if not isinstance(error, IngestionError)]
    fatal = [error for error in flat if isinstance(error, FatalError)]
    return (unexpected or fatal or flat)[0]
