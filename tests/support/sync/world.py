"""The world of ``world.py`` with processes that end, hang, lose answers and wake up late.

Everything happens in one thread and in one order (but for a zombie, which only runs while the test waits for it), so a
failing sequence replays exactly.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from ingestion_engine.domain.errors import LeaseLost, TransientError
from ingestion_engine.domain.ids import ObjectId, PartitionId, PointId
from ingestion_engine.domain.ports import Stored
from ingestion_engine.domain.records import (
    ModelInfo,
    ObjectHead,
    ObjectRef,
    Partition,
    PartitionReport,
    Point,
    RawObject,
    ReportStatus,
    StoredPoint,
)
from ingestion_engine.pipeline.runner import WorkerContext
from ingestion_engine.pipeline.upsert import SchemaWatch
from ingestion_engine.pipeline.worker import report_of, run_partition
from ingestion_engine.state.collections import read_contract
from ingestion_engine.state.lease import LeaseCheck, read_lease
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.doubles import Crash, HashEmbedder, MemoryBucket, MemoryState, MemoryStore

T = TypeVar("T")

WAIT_S = 60.0
"""Bounds every wait for a zombie's thread; none of them takes a second."""

UNCOUNTED = ("/progress.json", "/log/", "/lease.json")
"""Written by timers, too: counting them would make the number of a step depend on time."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to an attempt at one of its durable steps, or of its workers' alone; steps count from 1.

    ``crash``: every process of the attempt ends. ``death``: the process at that step ends. ``outage``: the write is
    refused for now. ``lost``: the write is done but its answer is lost. ``abort``: somebody cancels the job.
    ``freeze``: the worker stands still at that step, and the driver ends.
    """

    kind: str
    step: int
    in_worker: bool = False


@dataclass
class Version:
    """One version of an object, as written."""

    ref: ObjectRef
    body: bytes
    metadata: dict[str, str]


@dataclass
class VersionedBucket(MemoryBucket):
    """Remembers every version; an etag may be given, as for multi-part uploads."""

    etags: dict[str, str] = field(default_factory=dict)
    history: dict[tuple[str, str, str], Version] = field(default_factory=dict)
    on_list: Callable[[], None] = lambda: None
    on_fetch: Callable[[str], None] = lambda _key: None
    on_head: Callable[[str], None] = lambda _key: None

    def write(self, key: str, body: bytes, metadata: dict[str, str], etag: str | None = None) -> None:
        self.put(key, body)
        self.metadata[key] = metadata
        self.etags.pop(key, None)
        if etag is not None:
            self.etags[key] = f"{etag}-2"
        ref = self.ref(key)
        self.history[key, ref.etag, ref.last_modified] = Version(ref, body, metadata)

    def remove(self, key: str) -> None:
        self.objects.pop(key, None)

    def ref(self, key: str) -> ObjectRef:
        ref = super().ref(key)
        etag = self.etags.get(key, ref.etag)
        return ObjectRef(ref.bucket, key, etag, ref.size_bytes, ref.last_modified)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        self.on_list()
        yield from list(super().list_objects(bucket, prefix))

    async def exists(self, bucket: str, key: str) -> bool:
        self.on_head(key)
        return await super().exists(bucket, key)


class Attempt:
    """One attempt of a job: its driver and the runs of its partitions, and the one fault that meets them."""

    def __init__(self, ledger: Ledger, number: int, fault: Fault | None) -> None:
        self.ledger = ledger
        self.number = number
        self.fault = fault
        self.steps = 0
        self.worker_steps = 0
        self.met_fault = False
        self.dead = False
        self.runs: list[Run] = []
        self.frozen: Run | None = None

    @property
    def prefix(self) -> str:
        return f"a{self.number:02d}-"


class Process:
    """The driver of an attempt. Every look at and every change of the outside goes through it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt

    def look(self, path: str = "") -> None:
        if self.attempt.dead and threading.current_thread() is threading.main_thread():
            raise Crash  # the driver's timers end with it anyway, and write nothing that counts

    def write(self, path: str, apply: Callable[[], T]) -> T:
        self.look()
        if any(part in path for part in UNCOUNTED) or not self._is_due():
            return apply()
        return self._fail(path, apply)

    def _is_due(self) -> bool:
        attempt, fault = self.attempt, self.attempt.fault
        attempt.steps += 1
        attempt.worker_steps += isinstance(self, Run)
        if fault is None or attempt.met_fault or (fault.in_worker and not isinstance(self, Run)):
            return False
        attempt.met_fault = fault.step == (attempt.worker_steps if fault.in_worker else attempt.steps)
        return attempt.met_fault

    def _fail(self, path: str, apply: Callable[[], T]) -> T:
        assert self.attempt.fault is not None
        kind = self.attempt.fault.kind
        if kind == "abort":
            self.attempt.ledger.store.put(f"jobs/{self.attempt.ledger.job_id}/abort", b"changed my mind")
            return apply()
        if kind in {"outage", "lost"}:
            if kind == "lost":
                apply()
            raise TransientError("unavailable", f"{kind} at {path}")
        self.end()
        raise Crash

    def end(self) -> None:
        self.attempt.dead = True


class Run(Process):
    """One run of one partition by a worker, and everything it reads and embeds."""

    def __init__(self, attempt: Attempt, partition: Partition, held: dict[PointId, set[tuple[str, str]]]) -> None:
        super().__init__(attempt)
        self.dead = False
        self.partition = partition
        self.held = held
        """What the stores hold when it begins: (embedding_id, job_id) of every copy of a point."""
        self.epoch = 0
        self.fetched: dict[str, Version] = {}
        self.texts: list[str] = []
        self.status: ReportStatus | None = None
        self.stands_at: str | None = None
        self.stopped = threading.Event()
        self.woken = threading.Event()
        self.is_late = False
        self.thread: threading.Thread | None = None

    def look(self, path: str = "") -> None:
        if self.dead or (self.attempt.dead and self.thread is None):
            raise Crash
        if path.endswith("/lease.json") and self._is_due():
            self._fail(path, lambda: None)

    def end(self) -> None:
        self.dead = True
        if self.attempt.fault is not None and self.attempt.fault.kind == "crash":
            self.attempt.dead = True

    def _fail(self, path: str, apply: Callable[[], T]) -> T:
        assert self.attempt.fault is not None
        if self.attempt.fault.kind != "freeze":
            return super()._fail(path, apply)
        self.stands_at = path
        self.stopped.set()
        if not self.woken.wait(WAIT_S) or (self.is_late and path.startswith("store")):
            self.dead = True  # its request has timed out long ago
            raise Crash
        return apply()

    def wake(self, *, late: bool) -> None:
        """Let a frozen worker go on until it ends. ``late``: its successor may have written already."""
        assert self.thread is not None
        self.is_late = late
        self.woken.set()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()

    def abandon(self) -> None:
        self.dead = True
        if self.thread is not None:
            self.wake(late=True)


@dataclass
class SeenState:
    """The state store as one process sees it."""

    inner: MemoryState
    process: Process

    @property
    def url(self) -> str:
        return self.inner.url

    def get(self, path: str) -> Stored | None:
        self.process.look(path)
        return self.inner.get(path)

    def get_range(self, path: str, start: int, length: int) -> bytes:
        self.process.look()
        return self.inner.get_range(path, start, length)

    def list(self, prefix: str) -> Iterator[str]:
        self.process.look()
        return self.inner.list(prefix)

    def put(self, path: str, data: bytes) -> None:
        self.process.write(path, partial(self.inner.put, path, data))

    def create(self, path: str, data: bytes) -> str:
        return self.process.write(path, partial(self.inner.create, path, data))

    def replace(self, path: str, data: bytes, version: str) -> str:
        return self.process.write(path, partial(self.inner.replace, path, data, version))

    def delete(self, path: str) -> None:
        self.process.write(path, partial(self.inner.delete, path))

    def upload(self, path: str, source: Any) -> None:
        self.process.write(path, partial(self.inner.upload, path, source))


@dataclass
class SeenStore:
    """A store as one process sees it; points arrive one by one, so a process can end between any two."""

    inner: MemoryStore
    process: Process

    def __getattr__(self, name: str) -> Any:
        self.process.look()
        return getattr(self.inner, name)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        held = self.inner._points(collection)
        for point in points:
            self.process.write(f"store/{self.inner.name}", partial(held.__setitem__, point.id, point))
        await asyncio.sleep(0)

    async def delete_object_points(self, collection: str, object_ids: Sequence[ObjectId], *, before_epoch: int) -> int:
        held = self.inner._points(collection)
        removed = 0
        for point in [p for p in held.values() if p.payload.get("object_id") in object_ids]:
            if point.payload["epoch"] < before_epoch:
                self.process.write(f"store/{self.inner.name}", partial(held.pop, point.id, None))
                removed += 1
        await asyncio.sleep(0)
        return removed

    async def delete_points(self, collection: str, ids: Sequence[PointId]) -> int:
        removed = 0
        for point_id in ids:
            held = self.inner._points(collection)
            removed += point_id in held
            self.process.write(f"store/{self.inner.name}", partial(held.pop, point_id, None))
        return removed

    async def scroll(self, collection: str, **options: Any) -> AsyncIterator[StoredPoint]:
        async for point in self.inner.scroll(collection, **options):
            self.process.look()
            yield point


@dataclass
class SeenSource:
    """The bucket as one run of a partition sees it."""

    inner: VersionedBucket
    run: Run

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        self.run.look()
        self.inner.on_fetch(ref.key)
        raw = await self.inner.fetch(ref, max_bytes=max_bytes)
        self.run.fetched[ref.key] = self.inner.history[ref.key, raw.ref.etag, raw.ref.last_modified]
        return raw

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        raw = await self.fetch(ref, max_bytes=max_bytes)
        file.write(raw.body)
        return ObjectHead(raw.ref, raw.content_type, raw.metadata)

    async def exists(self, bucket: str, key: str) -> bool:
        self.run.look()
        return await self.inner.exists(bucket, key)

    async def close(self) -> None: ...


@dataclass
class SeenEmbedder:
    """The embedder as one run of a partition sees it."""

    inner: HashEmbedder
    run: Run

    async def describe(self, model: str, *, digest: str | None = None) -> ModelInfo:
        return await self.inner.describe(model, digest=digest)

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = 1
    ) -> npt.NDArray[np.float32]:
        self.run.look()
        vectors = await self.inner.embed(model, texts, digest=digest)
        self.run.texts += texts
        return vectors

    async def close(self) -> None: ...


@dataclass
class MortalEngine:
    """Engine that runs one partition after another, each by a worker that may end or freeze."""

    state: MemoryState
    bucket: VersionedBucket
    embedder: HashEmbedder
    stores: dict[Any, MemoryStore]
    attempt: Attempt
    before_run: Callable[[], None]
    after_run: Callable[[Run], None]

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        for partition_id in partition_ids:
            if partition_id is None:
                continue
            self.before_run()
            run = Run(self.attempt, self.attempt.ledger.read_partition(partition_id), self._held())
            self.attempt.runs.append(run)
            report = self._work(run)
            run.status = None if report is None else report.status
            self.after_run(run)
            if self.attempt.dead:
                raise Crash
            yield report or PartitionReport(partition_id, ReportStatus.RETRY, 0, process_died=True)

    def _held(self) -> dict[PointId, set[tuple[str, str]]]:
        held: dict[PointId, set[tuple[str, str]]] = {}
        for store in self.stores.values():
            for point in store.collections.get("notes", {}).values():
                copy = (str(point.payload.get("embedding_id")), str(point.payload.get("job_id")))
                held.setdefault(point.id, set()).add(copy)
        return held

    def _work(self, run: Run) -> PartitionReport | None:
        """Return the worker's report; None when it ended or stands still."""
        reports: list[PartitionReport] = []

        def work() -> None:
            try:
                reports.append(report_of(run.partition.id, lambda: asyncio.run(self._process(run))))
            except (Crash, BaseExceptionGroup):
                run.dead = True
            finally:
                run.stopped.set()

        if self.attempt.fault is not None and self.attempt.fault.kind == "freeze":
            run.thread = threading.Thread(target=work, daemon=True)
            run.thread.start()
            assert run.stopped.wait(WAIT_S)
            if run.stands_at is not None:
                self.attempt.frozen, self.attempt.dead = run, True
                return None
            run.thread.join(WAIT_S)
        else:
            work()
        return reports[0] if reports else None

    async def _process(self, run: Run) -> PartitionReport:
        ledger = Ledger(SeenState(self.state, run), self.attempt.ledger.job_id)
        spec = ledger.read_spec()
        lease = read_lease(self.state, "notes")
        contract = read_contract(self.state, "notes")
        if lease is None or contract is None or (lease.job_id, lease.attempt) != (spec.job_id, self.attempt.number):
            raise LeaseLost("lease_lost", "the collection belongs to another attempt")
        run.epoch = lease.epoch
        stores: dict[Any, Any] = {name: SeenStore(store, run) for name, store in self.stores.items()}
        check = LeaseCheck(ledger.store, "notes", spec.job_id, lease.epoch, max_age_s=0)
        source, embedder = SeenSource(self.bucket, run), SeenEmbedder(self.embedder, run)
        schema, table = SchemaWatch(stores, contract), ObjectTable(ledger.store, "notes")
        context: Any = WorkerContext(
            spec=spec,
            contract=contract,
            limit=None,
            epoch=lease.epoch,
            source=source,
            embedder=embedder,
            stores=stores,
            lease=check,
            schema=schema,
            table=table,
        )
        return await run_partition(ledger, context, run.partition.id)
