"""WorkerContext: the open resources of a worker process, and the stopwatch that its stages share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TypeVar

from ingestion_engine.domain.ports import Embedder, ObjectSource, VectorStore
from ingestion_engine.domain.spec import CollectionContract, JobSpec, StoreName
from ingestion_engine.pipeline.chunking.tokens import TokenLimit
from ingestion_engine.pipeline.spool import LARGE_BYTES
from ingestion_engine.pipeline.upsert import SchemaWatch
from ingestion_engine.state.lease import LeaseCheck
from ingestion_engine.state.object_table.table import ObjectTable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """Open resources of a worker process for one attempt of one job."""

    spec: JobSpec
    contract: CollectionContract
    limit: TokenLimit | None
    """Longest input of the model; None when unknown, or when the job embeds nothing."""
    epoch: int
    source: ObjectSource
    embedder: Embedder
    stores: Mapping[StoreName, VectorStore]
    lease: LeaseCheck
    schema: SchemaWatch
    table: ObjectTable
    at_once: int = 1
    """Partitions that this process runs concurrently; they share its memory."""
    large_bytes: int = LARGE_BYTES
    """Larger objects go through temporary files."""


@dataclass(slots=True)
class Period:
    """When a step of a partition ran; times are Unix times in nanoseconds."""

    start_ns: int
    end_ns: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Time per step in seconds, summed over concurrent work."""

    seconds: MutableMapping[str, float] = field(default_factory=dict)
    periods: MutableMapping[str, Period] = field(default_factory=dict)
    """From the first beginning of a step to its last end."""

    async def time(self, step: str, work: Awaitable[T]) -> T:
        """Return the result of ``work`` and add the time it took, also when it fails."""
        began_ns, started = time.time_ns(), time.perf_counter()
        try:
            return await work
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started
            period = self.periods.get(step)
            if period is None:
                period = self.periods[step] = Period(began_ns)
            period.end_ns, period.calls = time.time_ns(), period.calls + 1
