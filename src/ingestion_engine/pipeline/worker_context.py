"""WorkerContext: what a worker process holds open for a job, and the stopwatch that its stages share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TypeVar

from ingestion_engine.domain.ports import Embedder, ObjectSource, VectorStore
from ingestion_engine.domain.spec import CollectionContract, JobSpec, StoreName
from ingestion_engine.pipeline.spool import LARGE_BYTES
from ingestion_engine.pipeline.upsert import SchemaWatch
from ingestion_engine.state.lease import LeaseCheck
from ingestion_engine.state.object_table.table import ObjectTable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerContext:
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
    at_once: int = 1
    """Partitions that this process runs at the same time; they share its memory."""
    large_bytes: int = LARGE_BYTES
    """Objects over this go through temporary files."""


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Seconds per step, summed over concurrent work."""

    seconds: MutableMapping[str, float] = field(default_factory=dict)

    async def time(self, step: str, work: Awaitable[T]) -> T:
        """Await the work and add the time it took, also when it fails."""
        started = time.perf_counter()
        try:
            return await work
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started
