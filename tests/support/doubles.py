"""Working in-memory implementations of the ports: small, strict, with faults that can be armed.

They are oracles for the pipeline and the driver; adapters are tested against real servers in ``tests/contract``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ingestion_engine.domain.errors import (
    CollectionMissing,
    FatalError,
    ObjectError,
    ObjectGone,
    PointsRefused,
    RequestFailed,
    StateConflict,
    StateMissing,
    TextRefused,
    TextTooLong,
    TransientError,
)
from ingestion_engine.domain.ids import ObjectId, PartitionId, PointId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import SearchFilter, Stored
from ingestion_engine.domain.records import (
    ModelInfo,
    ObjectHead,
    ObjectRef,
    PartitionReport,
    Point,
    RawObject,
    ReportStatus,
    SearchHit,
    StoredPoint,
)
from ingestion_engine.domain.spec import MODES_WITHOUT_EMBEDDER, CollectionContract, StoreName
from ingestion_engine.pipeline.runner import WorkerContext
from ingestion_engine.pipeline.spool import LARGE_BYTES
from ingestion_engine.pipeline.upsert import SchemaWatch
from ingestion_engine.pipeline.worker import read_limit, report_of, run_partition
from ingestion_engine.state.collections import read_contract
from ingestion_engine.state.lease import LeaseCheck, read_lease
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable


class Crash(BaseException):
    """Simulates the end of the process."""


class Killed(BaseException):
    """Simulates the end of a worker process with its partition."""


@dataclass
class MemoryState:
    """StateStore. ``before_write`` is called for every write and may raise, to end the process between two steps."""

    url: str = "memory://state"
    values: dict[str, Stored] = field(default_factory=dict)
    before_write: Callable[[str, str], None] = lambda _kind, _path: None
    _counter: int = 0

    def get(self, path: str) -> Stored | None:
        return self.values.get(path)

    def get_range(self, path: str, start: int, length: int) -> bytes:
        if path not in self.values:
            raise StateMissing("state_missing", f"{path} is not there")
        return self.values[path].data[start : start + length]

    def put(self, path: str, data: bytes) -> None:
        self._write("put", path, data)

    def create(self, path: str, data: bytes) -> str:
        if path in self.values:
            raise StateConflict("state_conflict", f"{path} is there")
        return self._write("create", path, data)

    def replace(self, path: str, data: bytes, version: str) -> str:
        if path not in self.values or self.values[path].version != version:
            raise StateConflict("state_conflict", f"{path} is another")
        return self._write("replace", path, data)

    def delete(self, path: str) -> None:
        self.before_write("delete", path)
        self.values.pop(path, None)

    def list(self, prefix: str) -> Iterator[str]:
        yield from [path for path in self.values if path.startswith(prefix)]

    def upload(self, path: str, source: Path) -> None:
        self._write("upload", path, source.read_bytes())

    def _write(self, kind: str, path: str, data: bytes) -> str:
        self.before_write(kind, path)
        if kind == "create" and path in self.values:  # written by ``before_write``
            raise StateConflict("state_conflict", f"{path} is there")
        self._counter += 1
        self.values[path] = Stored(data, str(self._counter))
        return str(self._counter)


@dataclass
class MemoryBucket:
    """ObjectSource with one bucket, ``docs``. Counts its GETs."""

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Body and version by key; the version is a counter from which etag and date derive."""
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    gets: int = 0
    on_get: Callable[[str], None] = lambda _key: None
    on_list: Callable[[], None] = lambda: None
    shuffle: bool = False
    """List in another order than the byte order of the keys."""
    _version: int = 0

    def put(self, key: str, body: bytes | str) -> None:
        self._version += 1
        self.objects[key] = (body.encode() if isinstance(body, str) else body, self._version)

    def ref(self, key: str) -> ObjectRef:
        body, version = self.objects[key]
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return ObjectRef("docs", key, etag, len(body), f"2026-01-01T00:00:{version % 60:02d}.{version:06d}Z")

    def check_bucket(self, bucket: str, prefix: str = "") -> None:
        if bucket != "docs":
            raise FatalError("bucket_not_found", f"There is no bucket {bucket!r}.")

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        self.check_bucket(bucket)
        self.on_list()
        keys = sorted(self.objects, key=str.encode, reverse=self.shuffle)
        yield from [self.ref(key) for key in keys if key.startswith(prefix)]

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        self.gets += 1
        self.on_get(ref.key)
        await asyncio.sleep(0)
        if ref.key not in self.objects:
            raise ObjectGone("object_gone", f"{ref.key} is gone")
        now = self.ref(ref.key)
        if now.size_bytes > max_bytes:
            raise ObjectError("object_too_large", f"{ref.key} has {now.size_bytes} bytes")
        return RawObject(now, self.objects[ref.key][0], None, self.metadata.get(ref.key, {}))

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        raw = await self.fetch(ref, max_bytes=max_bytes)
        file.seek(0)
        file.truncate()
        file.write(raw.body)
        return ObjectHead(raw.ref, raw.content_type, raw.metadata)

    async def exists(self, bucket: str, key: str) -> bool:
        return key in self.objects

    async def close(self) -> None: ...


@dataclass
class HashEmbedder:
    """Embedder: unit vectors from a hash of the text. Refuses texts with the markers ``{NAN}`` and ``{LONG}``.

    Texts with ``{POISON}`` break it: their requests fail.
    """

    dimension: int = 8
    digest: str = "sha256:hash"
    calls: int = 0
    failures: int = 0
    texts: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    digests: set[str | None] = field(default_factory=set)
    """Digests that callers have required."""
    running: int = 0
    most_running: int = 0
    on_call: Callable[[int], None] = lambda _call: None
    on_describe: Callable[[str], None] = lambda _model: None
    longest_chars: int | None = None

    async def describe(self, model: str, *, digest: str | None = None) -> ModelInfo:
        self.on_describe(model)
        if model == "missing":
            raise FatalError("model_not_found", "no such model", hint="ollama pull missing")
        return ModelInfo(model, self.digest, self.dimension, None)

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = 1
    ) -> npt.NDArray[np.float32]:
        self.digests.add(digest)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(len(texts) % 3):
                await asyncio.sleep(0)
            self.on_call(self.calls + 1)
            if any("{POISON}" in text for text in texts):
                self.failures += 1
                raise RequestFailed("ollama_unavailable", "do embedding request: EOF")
            if any("{NAN}" in text for text in texts):
                raise TextRefused("embedding_nan", "embedding contains NaN or Inf values")
            if self.longest_chars is not None and any(len(text) > self.longest_chars for text in texts):
                raise TextTooLong("text_too_long", "the input length exceeds the context length")
            self.calls += 1
            self.texts += texts
            self.batches.append(len(texts))
            return np.stack([hash_vector(text, self.dimension) for text in texts])
        finally:
            self.running -= 1

    async def close(self) -> None: ...


def hash_vector(text: str, dimension: int) -> npt.NDArray[np.float32]:
    """Return a unit vector that depends only on the text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass
class MemoryStore:
    """VectorStore."""

    name: StoreName
    collections: dict[str, dict[PointId, Point]] = field(default_factory=dict)
    contracts: dict[str, CollectionContract] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    writes: int = 0
    before_write: Callable[[str], None] = lambda _kind: None
    before_read: Callable[[str], None] = lambda _kind: None
    refuse: Callable[[Point], str | None] = lambda _point: None

    async def check(self) -> str:
        self.before_read("check")
        return "memory"

    async def ensure_collection(self, contract: CollectionContract) -> None:
        if contract.collection in self.collections:
            await self.check_collection(contract)
            return
        self.collections[contract.collection] = {}
        self.contracts[contract.collection] = contract

    async def check_collection(self, contract: CollectionContract) -> None:
        self._points(contract.collection)
        if self.contracts[contract.collection].dimension != contract.dimension:
            raise FatalError("schema_mismatch", "another dimension")

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        held = self._points(collection)
        self.writes += 1
        refused: dict[str, str] = {}
        for point in points:
            self.before_write("upsert")
            reason = self.refuse(point)
            if reason is None:
                held[point.id] = point
            else:
                refused[point.id] = reason
        await asyncio.sleep(0)
        if refused:
            raise PointsRefused("points_refused", "some points were refused", refused=refused)

    async def delete_object_points(self, collection: str, object_ids: Sequence[ObjectId], *, before_epoch: int) -> int:
        held = self._points(collection)
        self.writes += 1
        self.before_write("delete")
        stale = [
            point.id
            for point in held.values()
            if point.payload["object_id"] in object_ids and point.payload["epoch"] < before_epoch
        ]
        for point_id in stale:
            del held[point_id]
        return len(stale)

    async def read_points(self, collection: str, ids: Sequence[PointId], *, with_vectors: bool) -> list[StoredPoint]:
        self.before_read("read_points")
        held = self._points(collection)
        return [StoredPoint(i, held[i].payload, held[i].vector if with_vectors else None) for i in ids if i in held]

    async def read_object_points(
        self,
        collection: str,
        object_ids: Sequence[ObjectId],
        *,
        first_chunk: int = 0,
        end_chunk: int | None = None,
        limit: int | None = None,
    ) -> list[StoredPoint]:
        self.before_read("read_object_points")
        found = [p for p in self._points(collection).values() if p.payload.get("object_id") in set(object_ids)]
        if first_chunk or end_chunk is not None:
            indexes = range(first_chunk, end_chunk if end_chunk is not None else 10**9)
            found = [p for p in found if p.payload.get("chunk_index") in indexes]
        assert limit is not None or len(found) < 10_000
        return [StoredPoint(p.id, p.payload, p.vector) for p in found[:limit]]

    async def delete_points(self, collection: str, ids: Sequence[PointId]) -> int:
        held = self._points(collection)
        self.writes += 1
        self.before_write("delete")
        return sum(held.pop(point_id, None) is not None for point_id in ids)

    async def scroll(
        self, collection: str, *, with_vectors: bool, page: int = 500, start: PointId | None = None
    ) -> AsyncIterator[StoredPoint]:
        for point in sorted(self._points(collection).values(), key=lambda p: p.id):
            if start is None or point.id >= start:
                yield StoredPoint(point.id, point.payload, point.vector if with_vectors else None)

    async def count(self, collection: str) -> int:
        return len(self._points(collection))

    async def list_collections(self) -> list[str]:
        return list(self.collections)

    async def drop_collection(self, collection: str) -> None:
        self.before_write("drop")
        self.collections.pop(collection, None)

    def spell(self, name: str) -> str:
        return name

    async def set_alias(self, alias: str, collection: str) -> None:
        self._points(collection)
        if alias in self.collections:
            raise FatalError("alias_name_taken", f"{self.name} has a collection named {alias!r}")
        self.before_write("alias")
        self.aliases[alias] = collection

    async def list_aliases(self) -> dict[str, str]:
        return dict(self.aliases)

    async def drop_alias(self, alias: str) -> None:
        self.before_write("alias")
        self.aliases.pop(alias, None)

    async def search(
        self, collection: str, vector: npt.NDArray[np.float32], *, limit: int, where: SearchFilter
    ) -> list[SearchHit]:
        points = (p for p in self._points(collection).values() if where.matches(p.payload))
        hits = [SearchHit(p.id, float(p.vector @ vector), p.payload) for p in points]
        return sorted(hits, key=lambda hit: -hit.score)[:limit]

    async def close(self) -> None: ...

    def _points(self, collection: str) -> dict[PointId, Point]:
        if collection not in self.collections:
            raise CollectionMissing("collection_missing", f"{self.name} has no collection {collection!r}")
        return self.collections[collection]


@dataclass
class InProcessEngine:
    """Runs the worker's own code in this process. ``before`` may raise Crash or TransientError."""

    state: MemoryState
    source: MemoryBucket
    embedder: HashEmbedder
    stores: dict[StoreName, Any]
    before: Callable[[PartitionId], None] = lambda _partition_id: None
    ran: list[PartitionId] = field(default_factory=list)
    large_bytes: int = LARGE_BYTES

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        ledger = Ledger(self.state, JobUri.parse(spec_uri).job_id)
        for partition_id in partition_ids:
            if partition_id is None:
                continue
            self.ran.append(partition_id)
            try:
                yield report_of(partition_id, lambda pid=partition_id: asyncio.run(self._one(ledger, pid)))
            except Killed as killed:
                died = TransientError("worker_died", f"killed: {killed}").record()
                yield PartitionReport(partition_id, ReportStatus.RETRY, 0, error=died, process_died=True)

    async def _one(self, ledger: Ledger, partition_id: PartitionId) -> PartitionReport:
        self.before(partition_id)
        context = self.context(ledger)
        if context.spec.request.mode not in MODES_WITHOUT_EMBEDDER:
            context = dataclasses.replace(context, limit=await read_limit(self.embedder, context.contract))
        return await run_partition(ledger, context, partition_id)

    def context(self, ledger: Ledger) -> WorkerContext:
        spec = ledger.read_spec()
        collection = spec.request.collection
        lease = read_lease(self.state, collection)
        contract = read_contract(self.state, collection)
        if lease is None or contract is None:
            raise TransientError("not_ready", "no lease or contract")
        check = LeaseCheck(self.state, collection, spec.job_id, lease.epoch, max_age_s=0)
        schema = SchemaWatch(self.stores, contract)
        table = ObjectTable(self.state, collection)
        return WorkerContext(
            spec=spec,
            contract=contract,
            limit=None,
            epoch=lease.epoch,
            source=self.source,
            embedder=self.embedder,
            stores=self.stores,
            lease=check,
            schema=schema,
            table=table,
            large_bytes=self.large_bytes,
        )
