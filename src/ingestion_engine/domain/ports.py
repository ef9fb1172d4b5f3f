"""Ports: the external systems of the product, one Protocol each.

Adapters implement them; one contract test suite per port runs over all implementations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from ingestion_engine.domain.ids import ObjectId, PartitionId, PointId
from ingestion_engine.domain.records import (
    EmbeddingWait,
    GatewayStatus,
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


EMBED_TRIES: Final = 4
"""Failures of one request by servers, after which its texts may be at fault: a server that restarts, or one broken
server beside others, fails a request less often."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A value in the state store with the opaque version that a conditional write names."""

    data: bytes
    version: str


class StateStore(Protocol):
    """Small durable values under slash-separated paths, with conditional writes. Blocking and thread-safe.

    All methods raise ``TransientError`` while the store is unavailable and ``FatalError`` ("state_access_denied") when
    it denies access.
    """

    url: str
    """``s3://bucket/prefix`` or ``file:///dir``."""

    def get(self, path: str) -> Stored | None:
        """Return a value; None when absent."""

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``. Raises StateMissing when absent."""

    def put(self, path: str, data: bytes) -> None:
        """Write a value, replacing any existing one."""

    def create(self, path: str, data: bytes) -> str:
        """Write a value that must not exist yet; return its version. Raises StateConflict when it exists."""

    def replace(self, path: str, data: bytes, version: str) -> str:
        """Replace exactly this version of a value; return the new version. Raises StateConflict for any other."""

    def delete(self, path: str) -> None:
        """Remove a value; no error when absent."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield all paths that start with a prefix, in no particular order. Streams."""

    def upload(self, path: str, source: Path) -> None:
        """Copy a file to a large value in bounded memory, replacing any existing one."""


class ObjectSource(Protocol):
    """The buckets to ingest from. Read-only."""

    def check_bucket(self, bucket: str, prefix: str = "") -> None:
        """Return if the bucket exists and this prefix may be listed. Blocking, one request.

        Raises: FatalError "bucket_not_found", "bucket_access_denied"; TransientError.
        """

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        """Yield every object under a prefix, in the server's order, with keys of any form. Blocking.

        Cost: one request per 1,000 keys. Raises as ``check_bucket``.
        """

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        """Read a whole object: the listed version, or the newest one if it has changed (with its etag in the result).

        Raises: ObjectGone ("object_gone"); ObjectError "object_too_large" (over max_bytes), "object_unreadable" (403
        and similar for this object alone); TransientError. Cost: one request, two when it changed.
        """

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        """Read an object into a file, replacing its content; version, errors and cost are those of ``fetch``.

        Raises: also OSError, from the file. Cost: a few MB of memory for any size of object.
        """

    async def exists(self, bucket: str, key: str) -> bool:
        """True when the object exists now; False only when that is proven.

        Raises: ObjectError "object_unreadable" (not known); TransientError; FatalError as ``check_bucket``.
        """

    async def close(self) -> None:
        """Release connections."""


TokenCounter = Callable[[str], int]
"""Returns the number of tokens of a text, the model's special tokens included, or a little more. Pure."""


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def describe(self, model: str, *, digest: str | None = None) -> ModelInfo:
        """Return the properties of a model, of this digest if any server serves it.

        Raises: FatalError "model_not_found"; TransientError.
        """

    async def load_tokenizer(self, model: ModelInfo) -> TokenCounter | None:
        """Return a function that counts a text's tokens as the server does; None where that cannot be known.

        Which of the two depends on the model alone, so that every worker cuts the same chunks. One large response for
        a process and model. Raises TransientError.
        """

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = EMBED_TRIES
    ) -> npt.NDArray[np.float32]:
        """Return ``float32[len(texts), dimension]``; row i belongs to texts[i]. One request; nothing is truncated.

        Only a server that serves the digest is used; None means the digest that most servers serve.

        Raises: TextRefused (TextTooLong, "embedding_nan", "embedding_refused": the request is refused permanently
        because of one of its texts); RequestFailed (servers received and failed the request ``tries`` times, or until
        the time for retries was over); FatalError "model_not_found", DimensionDiffers; TransientError for everything
        else, after quick retries by the adapter.
        """

    @property
    def calls(self) -> int:
        """Number of embed requests so far that returned vectors."""

    async def close(self) -> None:
        """Release connections."""


class EmbeddingGateway(Protocol):
    """The gateways as the service sees them: what their flows wait for."""

    urls: tuple[str, ...]
    """As configured."""

    async def check(self, url: str) -> None:
        """Return if the gateway of one of the URLs is ready. One request. Raises TransientError."""

    async def read_flows(self) -> Mapping[str, EmbeddingWait]:
        """Return what every flow waits for, summed over all gateways that answer. One request each.

        Raises: TransientError, when none answers.
        """

    async def read_status(self) -> Sequence[GatewayStatus]:
        """Return every gateway with its servers and flows; one that does not answer is ``unreachable``, no error.

        Cost: three requests per gateway.
        """

    async def drop_flow(self, key: str) -> None:
        """Drop what a flow has waiting, and refuse its requests for some minutes. One request per gateway.

        Raises: TransientError, when a gateway does not answer; the others have dropped it.
        """

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Conditions that must all hold; None means no condition. Compared byte for byte, with white space and case."""

    bucket: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] | None = None
    """Entries that the payload's metadata must contain."""
    key_prefix: str | None = None
    """Prefix of the key."""

    def matches(self, payload: Mapping[str, Any]) -> bool:
        """True when a payload fulfils every condition; defines their meaning in every store. Pure."""
        exact = {"bucket": self.bucket, "content_type": self.content_type}
        held = payload.get("metadata") or {}
        return (
            all(payload.get(name) == value for name, value in exact.items() if value is not None)
            and all(held.get(name) == value for name, value in (self.metadata or {}).items())
            and str(payload.get("key", "")).startswith(self.key_prefix or "")
        )


WritePermit = Callable[[], Awaitable[float]]
"""Returns the seconds within which a write that begins now must have ended.

A store that was opened with a permit calls it before every request that writes. Raises LeaseLost or JobAborted when
nothing may be written any more, TransientError when that is unknown.
"""


class VectorStore(Protocol):
    """One vector store. Points are the same in every store; the adapter translates their form.

    Every method raises TransientError while the store is unavailable (also for "collection is yellow", rate limits and
    time-outs), FatalError "store_access_denied", and, for methods with a collection, CollectionMissing or FatalError
    "schema_mismatch". Writes are applied when the call returns; each of its requests times out at 30 s, or earlier if
    its ``WritePermit`` limits it, whose errors pass through.
    """

    name: StoreName

    async def check(self) -> str:
        """Return the server's version. One request."""

    async def ensure_collection(self, contract: CollectionContract) -> None:
        """Create the collection with its explicit schema, or check the existing one.

        Idempotent. Raises FatalError "schema_mismatch", naming both values.
        """

    async def check_collection(self, contract: CollectionContract) -> None:
        """Check the existing collection against its contract; cheap enough to call before every large write."""

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, replacing points with the same ids; split into requests by bytes and count. Idempotent.

        Raises PointsRefused (``context["refused"]``: {point id: reason}) after all other points have been written.
        """

    async def delete_object_points(self, collection: str, object_ids: Sequence[ObjectId], *, before_epoch: int) -> int:
        """Remove every point of some objects with a lower epoch, and return how many there were.

        Idempotent. Loops where the server limits a call.
        """

    async def read_points(self, collection: str, ids: Sequence[PointId], *, with_vectors: bool) -> list[StoredPoint]:
        """Return the points that exist among these ids, in any order."""

    async def read_object_points(
        self,
        collection: str,
        object_ids: Sequence[ObjectId],
        *,
        first_chunk: int = 0,
        end_chunk: int | None = None,
        limit: int | None = None,
    ) -> list[StoredPoint]:
        """Return the points that name one of some objects, with vectors, in any order.

        Args:
            collection: Name of the collection.
            object_ids: The objects.
            first_chunk: Only points with at least this ``chunk_index``; with 0 and no end, all points, also those
                without a valid index.
            end_chunk: Only points with a lower ``chunk_index``; None means no bound. The caller requests fewer than
                10,000 points, which is Weaviate's limit.
            limit: At most this many of the points, whichever the store has at hand; None means all of them.
        """

    async def delete_points(self, collection: str, ids: Sequence[PointId]) -> int:
        """Remove points by id, and return how many existed; missing points are no error. Idempotent."""

    def scroll(
        self, collection: str, *, with_vectors: bool, page: int = 500, start: PointId | None = None
    ) -> AsyncIterator[StoredPoint]:
        """Yield every point of a collection once, ordered by id, from the UUID ``start`` on if it is given.

        Foreign ids that are not UUIDs (Qdrant also accepts numbers) come before all UUIDs.
        """

    async def count(self, collection: str) -> int:
        """Return the exact number of points; raises CollectionMissing."""

    async def list_collections(self) -> list[str]:
        """Return the names of all collections, in the form of ``spell``."""

    async def drop_collection(self, collection: str) -> None:
        """Remove a collection with its points; no error when absent."""

    def spell(self, name: str) -> str:
        """Return the form in which this store lists the name of a collection or alias. Pure."""

    async def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias to a collection, atomically if it exists already.

        Idempotent. Raises FatalError "alias_name_taken" when a collection has that name, "aliases_unsupported" when the
        server is too old.
        """

    async def list_aliases(self) -> dict[str, str]:
        """Return the collection of every alias, in the form of ``spell``. Raises as ``set_alias``."""

    async def drop_alias(self, alias: str) -> None:
        """Remove an alias but not its collection; no error when absent."""

    async def search(
        self, collection: str, vector: npt.NDArray[np.float32], *, limit: int, where: SearchFilter
    ) -> list[SearchHit]:
        """Return the nearest points that fulfil the conditions exactly, best first.

        Raises FatalError "filter_too_broad" when the store cannot express the conditions and would have to read more
        than 10,000 points.
        """

    async def close(self) -> None:
        """Release connections."""


class Engine(Protocol):
    """Runs partitions, without stage logic or retries and in no particular order."""

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end.

        A process that died with its partition gives a RETRY report with ``process_died``; any other loss, of a node or
        of the way to it, a RETRY report without.

        Args:
            spec_uri: URI of the job's spec.
            partition_ids: Partitions, taken only when they can run. None means that no partition is ready yet; the
                iterator has then waited a moment, or partitions are running.
            should_stop: Returns True when the run has to end: no further partition begins, partitions that no worker
                has begun end at once, and the others have ``STOP_GRACE_S`` to end by themselves.
        """


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Status of one attempt, as its engine reports it."""

    state: EngineState
    detail: str = ""
    """Short text for users; never a traceback."""
    hint: str = ""
    """What the reader can do about it, starting with a verb."""
    can_start: bool = True
    """False when no driver was started, and none will be: the attempt has ended before, or waits for nothing that could
    come.
    """


class JobEngine(Protocol):
    """The control plane's view of an engine: start, check and stop an attempt's driver. Idempotent by reference."""

    def reference(self, job_id: str, attempt: int) -> str:
        """Return the engine's name of an attempt, derived so that a repeated submission is recognised. Pure."""

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        """Start an attempt, unless it was started before. Raises TransientError; SubmissionError when refused."""

    async def status(self, job_id: str, attempt: int) -> EngineStatus:
        """Return the status of an attempt. Raises TransientError."""

    async def stop(self, job_id: str, attempt: int) -> None:
        """Request that an attempt's driver ends; does not wait; no error when it has ended. Raises TransientError."""

    async def logs(self, job_id: str, attempt: int) -> str | None:
        """Return the driver's log so far; None when the engine no longer has it. Raises TransientError."""

    async def check(self) -> str:
        """Return the engine's version. Raises TransientError."""

    async def close(self) -> None:
        """Release connections."""
