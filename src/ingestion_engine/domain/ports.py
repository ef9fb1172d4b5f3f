"""Ports: what the product needs from the outside, one Protocol each. Adapters implement them, tests share one suite
per port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ingestion_engine.domain.ids import ObjectId, PartitionId, PointId
from ingestion_engine.domain.records import (
    ModelInfo,
    ObjectHead,
    ObjectRef,
    PartitionReport,
    Point,
    RawObject,
    SearchHit,
    StoredPoint,
)
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.domain.states import EngineState

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Stored:
    """A value in the state store and the opaque version to name in a conditional write."""

    data: bytes
    version: str


class StateStore(Protocol):
    """Small durable values under slash-separated paths, with conditional writes. Blocking; safe to share by threads.

    All methods raise ``TransientError`` while the store is away and ``FatalError`` ("state_access_denied") when it
    refuses us.
    """

    url: str
    """``s3://bucket/prefix`` or ``file:///dir``."""

    def get(self, path: str) -> Stored | None:
        """Return a value, or None when absent."""

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``. Raises StateMissing when absent."""

    def put(self, path: str, data: bytes) -> None:
        """Write a value, whatever was there."""

    def create(self, path: str, data: bytes) -> str:
        """Write a value that must not exist yet; return its version. Raises StateConflict when it does."""

    def replace(self, path: str, data: bytes, version: str) -> str:
        """Write a value over exactly this version; return the new one. Raises StateConflict when it is another."""

    def delete(self, path: str) -> None:
        """Remove a value; no error when absent."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield all paths that start with a prefix, in no particular order. Streams."""

    def download(self, path: str, target: Path) -> None:
        """Copy a large value to a file without holding it in memory."""

    def upload(self, path: str, source: Path) -> None:
        """Copy a file to a large value without holding it in memory, whatever was there."""


class ObjectSource(Protocol):
    """The buckets to read. Read only."""

    def check_bucket(self, bucket: str) -> None:
        """Return when the bucket exists and may be listed. Blocking, one request.

        Raises: FatalError "bucket_not_found", "bucket_access_denied"; TransientError.
        """

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        """Yield every object under a prefix, in the server's own order, whatever its key looks like. Blocking.

        Cost: one request per 1,000 keys. Raises as ``check_bucket``.
        """

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        """Read one object whole: the listed version, or the newest when it has changed since (its own etag is
        returned).

        Raises: ObjectGone ("object_gone"); ObjectError "object_too_large" (over max_bytes), "object_unreadable" (403
        and
        the like on this object alone); TransientError. Cost: one request, two when it changed.
        """

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        """Read one object into a file, from its start, whatever was in it; the version, errors and cost are those of
        ``fetch``.

        Raises: also OSError, from the file. Cost: memory of a few MB, whatever the object's size.
        """

    async def exists(self, bucket: str, key: str) -> bool:
        """True when the object is there now. One HEAD. Raises TransientError."""

    async def close(self) -> None:
        """Release connections."""


class Embedder(Protocol):
    """Turns text into vectors."""

    async def describe(self, model: str) -> ModelInfo:
        """Return name, digest and size of a model. Raises FatalError "model_not_found" (hint: pull it);
        TransientError.
        """

    async def embed(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return ``float32[len(texts), dimension]``; row i belongs to texts[i]. One request, nothing is ever truncated.

        Raises: TextRefused ("text_too_long", "embedding_nan", "embedding_refused": the whole request is refused for
        good because of some text in
        it); FatalError "model_not_found"; TransientError for everything else, after the adapter's own quick retries.
        """

    @property
    def calls(self) -> int:
        """Embed requests answered with vectors so far."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Conditions that all must hold; None means no condition. Compared byte for byte, white space and case included."""

    bucket: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] | None = None
    """Entries that the payload's metadata must have."""
    key_prefix: str | None = None
    """What the key starts with."""

    def matches(self, payload: Mapping[str, Any]) -> bool:
        """True when a payload fulfils every condition: what they mean in every store. Pure."""
        exact = {"bucket": self.bucket, "content_type": self.content_type}
        held = payload.get("metadata") or {}
        return (
            all(payload.get(name) == value for name, value in exact.items() if value is not None)
            and all(held.get(name) == value for name, value in (self.metadata or {}).items())
            and str(payload.get("key", "")).startswith(self.key_prefix or "")
        )


class VectorStore(Protocol):
    """One vector store. Points are the same in every store; how they are spelled is the adapter's business.

    Every method raises TransientError while the store is away (also "collection is yellow", rate limits, time-outs),
    FatalError "store_access_denied", and, where a collection is named, CollectionMissing or FatalError
    "schema_mismatch".
    Writes are applied when the call returns, and time out at 30 s.
    """

    name: StoreName

    async def check(self) -> str:
        """Return the server's version. One request."""

    async def ensure_collection(self, contract: CollectionContract) -> None:
        """Create the collection with its explicit schema, or check the one that is there, naming both values if it
        differs.

        Idempotent. Raises FatalError "schema_mismatch".
        """

    async def check_collection(self, contract: CollectionContract) -> None:
        """Check that the collection is there as agreed; cheap enough to call before every large write."""

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same ids; split into requests by bytes and count. Idempotent.

        Raises PointsRefused (``context["refused"]``: {point id: reason}) after everything else has been written.
        """

    async def delete_object_points(self, collection: str, object_ids: Sequence[ObjectId], *, before_epoch: int) -> None:
        """Remove every point of some objects whose epoch is lower. Idempotent. Loops where the server caps a call."""

    async def read_points(self, collection: str, ids: Sequence[PointId], *, with_vectors: bool) -> list[StoredPoint]:
        """Return those of the points that exist, in any order."""

    async def read_object_points(
        self, collection: str, object_ids: Sequence[ObjectId], *, first_chunk: int = 0, end_chunk: int | None = None
    ) -> list[StoredPoint]:
        """Return the points that name one of some objects, with vectors, in any order.

        Args:
            collection: Name of the collection.
            object_ids: The objects.
            first_chunk: Only points whose ``chunk_index`` is at least this; with 0 and no end, all points whatever
                they say of their index.
            end_chunk: Only points whose ``chunk_index`` is lower; None means no bound. The caller keeps what is asked
                for below 10,000 points, where Weaviate stops.
        """

    async def delete_points(self, collection: str, ids: Sequence[PointId]) -> None:
        """Remove points by id; those that are not there are no error. Idempotent."""

    def scroll(
        self, collection: str, *, with_vectors: bool, page: int = 500, start: PointId | None = None
    ) -> AsyncIterator[StoredPoint]:
        """Yield every point of a collection once, ordered by id; from a UUID on when ``start`` is given.

        Foreign ids that are no UUIDs (Qdrant also takes numbers) come before all UUIDs.
        """

    async def count(self, collection: str) -> int:
        """Return the exact number of points; raises CollectionMissing."""

    async def list_collections(self) -> list[str]:
        """Return the names of all collections, as the store spells them."""

    async def drop_collection(self, collection: str) -> None:
        """Remove a collection with its points; no error when absent."""

    def spell(self, name: str) -> str:
        """Return how this store spells a collection's or alias's name in its lists. Pure."""

    async def set_alias(self, alias: str, collection: str) -> None:
        """Make a name stand for a collection, whatever it stood for before; at no moment does it stand for none.

        Idempotent. Raises FatalError "alias_name_taken" when a collection has that name, "aliases_unsupported" where
        the server is too old.
        """

    async def list_aliases(self) -> dict[str, str]:
        """Return the collection of every alias, as the store spells them. Raises as ``set_alias``."""

    async def drop_alias(self, alias: str) -> None:
        """Remove an alias, not what it stands for; no error when absent."""

    async def search(
        self, collection: str, vector: npt.NDArray[np.float32], *, limit: int, where: SearchFilter
    ) -> list[SearchHit]:
        """Return the nearest points that fulfil the conditions exactly, best first.

        Raises FatalError "filter_too_broad" when the store cannot express the conditions and would have to look at
        more than 10,000 points.
        """

    async def close(self) -> None:
        """Release connections."""


class Engine(Protocol):
    """Where partitions run. No stage logic, no retries, no order promised."""

    def run(self, spec_uri: str, partition_ids: Iterable[PartitionId]) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end. A process that died gives a RETRY report with ``process_died``.

        ``partition_ids`` may block while more are being planned; it is pulled only as there is room to run them.
        """


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What an engine says of one attempt."""

    state: EngineState
    detail: str = ""
    """Short, for people; never a traceback."""


class JobEngine(Protocol):
    """The control plane's view of an engine: start an attempt's driver, look at it, stop it. Idempotent by
    reference.
    """

    def reference(self, job_id: str, attempt: int) -> str:
        """The engine's own name for an attempt, derived, so that a repeated submit is recognised. Pure."""

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        """Start an attempt; return also when it had been started before. Raises TransientError; SubmissionError for
        good.
        """

    async def status(self, job_id: str, attempt: int) -> EngineStatus:
        """Look at an attempt. Raises TransientError."""

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ask an attempt's driver to end; no error when it is gone. Asynchronous on the engine's side. Raises
        TransientError.
        """

    async def logs(self, job_id: str, attempt: int) -> str | None:
        """The driver's log so far, or None when the engine no longer has it. Raises TransientError."""

    async def check(self) -> str:
        """Return the engine's version. Raises TransientError."""

    async def close(self) -> None:
        """Release connections."""
