"""The job spec: the frozen request and settings of a job, written at submission and read by driver and workers.

``JobRequest`` is the HTTP body of a submission; ``JobSpec`` adds the service's decisions. Neither ever holds a secret.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ingestion_engine.domain.ids import hash_json
from ingestion_engine.domain.names import OpenName
from ingestion_engine.domain.records import EmbeddingFlow
from ingestion_engine.domain.strict_values import Flag, Number, Whole

COLLECTION_PATTERN = r"^[A-Za-z][A-Za-z0-9_]{0,127}$"
"""Pattern of collection names: valid in Qdrant and, with a capital first letter, as a Weaviate class."""

COLLECTION_MAX = 128
"""Maximum characters of a collection or alias name."""

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
"""Names of buckets, as a whole (``fullmatch``)."""

GLOBS_MAX = 10_000
"""Maximum number of globs of a request; the largest realistic one has some thousands."""

GLOB_MAX = 4_096
"""Maximum characters of a glob: four times as many as a key has bytes, for character classes."""

MAX_RUNTIME_S = 10_000_000_000
"""Longest run time, some 300 years: for clients that mean "no limit". A moment so far ahead is still a date."""

INTEGER_MAX = 2**53 - 1
"""Largest integer, and least negative one: what JSON carries exactly (RFC 8259, section 6)."""

DEFAULT_PRIORITY = 5
"""Priority of a request that names none: the middle of 1 to 10."""

Glob = Annotated[str, StringConstraints(max_length=GLOB_MAX)]
MetadataName = Annotated[str, StringConstraints(max_length=1_024)]
MetadataValue = Annotated[str, StringConstraints(max_length=16_384)]
"""Metadata of every point: eight times as much as S3 allows for all metadata of an object."""

_WILDCARDS = re.compile(r"[*?[]")


class EngineName(OpenName):
    """Engine that runs a job's partitions."""

    RAY = "ray"
    SPARK = "spark"
    LOCAL = "local"
    """Threads of the driver's process; the reference for tests."""


class StoreName(OpenName):
    """Name of a vector store."""

    QDRANT = "qdrant"
    WEAVIATE = "weaviate"


class Mode(OpenName):
    """What a job does."""

    SYNC = "sync"
    """Bring the stores up to date with the bucket."""
    FULL = "full"
    """Embed every object again."""
    PLAN = "plan"
    """Only report what ``sync`` would do."""
    VERIFY = "verify"
    """Compare the stores with the object table and with each other; change nothing."""
    REPAIR = "repair"
    """Verify, then repair the differences."""
    DELETE = "delete"
    """Remove objects from the collection; requested by ``DELETE /collections/{name}/objects``."""


MODES_WITHOUT_EMBEDDER = frozenset({Mode.VERIFY, Mode.DELETE})
"""Modes that do not need the embedder: they also run while it is unavailable or the model is missing."""
MODES_ON_EXISTING = frozenset({Mode.VERIFY, Mode.REPAIR, Mode.DELETE})
"""Modes that work on an existing collection's contract and object table instead of the bucket's listing."""
MODES_ALLOWING_ALIAS = frozenset({Mode.SYNC, Mode.FULL})
"""Modes that can build a new collection for an alias."""


class Strict(BaseModel):
    """An immutable model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Part(Strict):
    """A part of a request, which later releases extend.

    A field that was added after the first release is left out of the stored form while it has its default. So earlier
    releases of the minor version, which refuse fields that they do not know, read requests that do not use it; and the
    hash of a repeated request (``Idempotency-Key``) is the same before and after an upgrade that adds fields.
    """

    first_fields: ClassVar[frozenset[str]]
    """Fields of the first release; they are always stored. New fields are not added here."""

    @model_serializer(mode="wrap")
    def _leave_out_added_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        for name, field in type(self).model_fields.items():
            if name not in self.first_fields and getattr(self, name) == field.get_default(call_default_factory=True):
                fields.pop(name, None)
        return fields


def _check_bucket(value: str) -> str:
    if not BUCKET_NAME.fullmatch(value):
        raise ValueError("a bucket name consists of 3 to 63 lower-case letters, digits, dots and hyphens")
    return value


class Source(Part):
    """The objects that a job ingests."""

    first_fields = frozenset({"bucket", "prefix", "include", "exclude"})

    bucket: Annotated[str, AfterValidator(_check_bucket)] = Field(
        json_schema_extra={"pattern": f"^{BUCKET_NAME.pattern}$", "minLength": 3, "maxLength": 63}
    )
    """Name of the bucket, without ``s3://``."""
    prefix: str = Field(default="", max_length=1024)
    """Only objects whose key starts with this prefix, byte for byte; empty means the whole bucket. At most 1,024
    characters."""
    include: tuple[Glob, ...] = Field(default=(), max_length=GLOBS_MAX)
    """Only objects whose key after the prefix matches one of these globs; empty means all. ``*`` stays within one path
    segment, ``**`` spans segments."""
    exclude: tuple[Glob, ...] = Field(default=(), max_length=GLOBS_MAX)
    """No objects whose key after the prefix matches one of these globs, even if ``include`` matches it."""

    def narrowest_prefix(self) -> str:
        """Return a prefix that the job lists or narrows further; an account may have access to no other. Pure."""
        return self.prefix + (_WILDCARDS.split(self.include[0])[0] if self.include else "")


class Embedding(Part):
    """Embedding of chunks and queries. Fixed for the collection: later jobs must request the same values."""

    first_fields = frozenset({"model", "prefix", "query_prefix"})

    model: str | None = Field(default=None, min_length=1, max_length=256)
    """Name of an Ollama model; null means the service's default (``INGEST_OLLAMA__MODEL``)."""
    prefix: str = Field(default="", max_length=1024)
    """Text prepended to every chunk for embedding, at most 1,024 characters; not stored. Some models require one, such
    as ``search_document: ``."""
    query_prefix: str = Field(default="", max_length=1024)
    """Text prepended to every query when the collection is searched, at most 1,024 characters."""


class Chunking(Part):
    """Splitting of documents into chunks. Fixed for the collection: later jobs must request the same values."""

    first_fields = frozenset({"max_chars", "overlap_chars"})

    max_chars: Whole = Field(default=1200, ge=50, le=100_000)
    """Maximum length of a chunk, in characters."""
    overlap_chars: Whole = Field(default=150, ge=0, le=50_000)
    """Maximum number of characters that two neighbouring chunks share, in whole sentences or words; at most half of
    ``max_chars``."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> Chunking:
        if self.overlap_chars > self.max_chars // 2:
            raise ValueError("overlap_chars must be at most half of max_chars")
        return self


class FailureBudget(Part):
    """The number of failed objects up to which a job is partially succeeded instead of failed."""

    first_fields = frozenset({"max_fraction", "min_objects"})

    max_fraction: Number = Field(default=0.1, ge=0, le=1)
    """Maximum fraction of the planned objects that may fail, from 0 to 1."""
    min_objects: Whole = Field(default=20, ge=0, le=INTEGER_MAX)
    """Number of failed objects that is always allowed, so that a small job does not fail because of one bad file."""

    def allows(self, failed: int, planned: int) -> bool:
        """True when the number of failed objects is within the budget for the number of planned objects. Pure."""
        return failed <= max(self.min_objects, self.max_fraction * planned)


class JobRequest(Part):
    """The body of ``POST /ray/jobs`` and ``POST /spark/jobs``."""

    first_fields = frozenset(
        {
            "source",
            "alias",
            "collection",
            "stores",
            "mode",
            "delete_missing",
            "allow_mass_delete",
            "retry_failed",
            "embedding",
            "chunking",
            "parallelism",
            "failure_budget",
            "max_runtime_s",
            "metadata",
        }
    )

    source: Source
    alias: Annotated[str, StringConstraints(pattern=COLLECTION_PATTERN, max_length=COLLECTION_MAX)] | None = None
    """Alias to point to the collection in every store when the job has succeeded and the stores hold the same points.
    The alias's former collection is kept. null means that no alias moves."""
    collection: Annotated[str, StringConstraints(pattern=f"^$|{COLLECTION_PATTERN}", max_length=COLLECTION_MAX)] = (
        Field(default="", validate_default=True)
    )
    """Name of the collection in every store: a letter, then letters, digits or ``_``, at most 128 characters. The name
    of an alias means the collection behind it. Required, except with ``alias``: the service then chooses the name of a
    new collection."""
    stores: tuple[StoreName, ...] = Field(default=(StoreName.QDRANT, StoreName.WEAVIATE), min_length=1, max_length=2)
    """Vector stores to write. Fixed for the collection."""
    mode: Mode = Mode.SYNC
    """``sync``: bring the stores up to date with the bucket; ``full``: embed everything again; ``plan``: only report
    what ``sync`` would do; ``verify``: compare the stores with the object table and with each other, change nothing;
    ``repair``: verify, then repair the differences."""
    plan_full: Flag = False
    """With mode ``plan``: report what ``full`` would do instead of ``sync``."""
    delete_missing: Flag = True
    """Remove the points of objects that were deleted from the bucket, within prefix and filters."""
    allow_mass_delete: Flag = False
    """Allow deleting more than 20 % of the collection's objects if it has more than 100, or all of them because the
    listing is empty."""
    retry_failed: Flag = False
    """Retry objects that failed permanently and have not changed since."""
    embedding: Embedding = Embedding()
    chunking: Chunking = Chunking()
    parallelism: Whole = Field(default=4, ge=1, le=10_000)
    """Maximum number of partitions processed at once; without a gateway, the service may grant fewer
    (``INGEST_EMBED__IN_FLIGHT``)."""
    priority: Whole = Field(default=DEFAULT_PRIORITY, ge=1, le=10)
    """Share of the embedder while other jobs want it too, 1 to 10: a job of priority 10 embeds twice as many characters
    as one of priority 5. Only with a gateway (``INGEST_GATEWAY__URL``); it does not change the order in which jobs
    start."""
    failure_budget: FailureBudget = FailureBudget()
    max_runtime_s: Whole = Field(default=86_400, ge=1, le=MAX_RUNTIME_S)
    """Maximum run time of an attempt in seconds; afterwards the attempt is stopped and the job fails."""
    metadata: dict[MetadataName, MetadataValue] = Field(default_factory=dict, max_length=64)
    """Metadata of every point, at most 64 entries, in addition to the object's S3 user metadata, which wins for equal
    names."""

    @field_validator("collection")
    @classmethod
    def _collection_is_named(cls, value: str, info: ValidationInfo) -> str:
        if "alias" not in info.data:
            return value  # alias is invalid and has an error of its own
        alias = info.data["alias"]
        if not value and alias is None:
            raise ValueError("required unless alias is given")
        if alias is not None and value.lower() == alias.lower():
            raise ValueError("the collection and its alias must have different names")
        return value

    @model_validator(mode="after")
    def _alias_is_of_new_versions(self) -> JobRequest:
        if self.alias is not None and self.mode not in MODES_ALLOWING_ALIAS:
            raise ValueError(f"alias requires mode 'sync' or 'full', not {self.mode.value!r}")
        return self

    @model_validator(mode="after")
    def _full_plan_is_a_plan(self) -> JobRequest:
        if self.plan_full and self.mode is not Mode.PLAN:
            raise ValueError(f"plan_full requires mode 'plan', not {self.mode.value!r}")
        return self

    @model_validator(mode="after")
    def _metadata_is_new(self) -> JobRequest:
        if self.metadata and self.mode in MODES_ON_EXISTING:
            raise ValueError(f"metadata requires a mode that ingests objects, not {self.mode.value!r}")
        return self

    @model_validator(mode="after")
    def _stores_differ(self) -> JobRequest:
        if len(set(self.stores)) != len(self.stores):
            raise ValueError("stores contains a store twice")
        return self


class CollectionContract(Strict):
    """The fixed properties of a collection; ``collections/{c}/collection.json`` in the state store."""

    format: Literal[1] = 1
    collection: str
    bucket: str | None = None
    """Bucket of the collection's objects; null in contracts written by older versions."""
    stores: tuple[StoreName, ...]
    model: str
    model_digest: str
    dimension: int
    embedding_id: str
    prefix: str
    query_prefix: str
    options: dict[str, Any]
    chunking: Chunking
    created_at: str
    created_by: str
    """Job that created the collection."""

    def fingerprint(self, parser_version: str, metadata: dict[str, str]) -> str:
        """Return 16 hex digits of everything but the object itself that determines its points. Pure."""
        return hash_json([self.embedding_id, self.chunking.model_dump(), parser_version, metadata])[:16]


class FrozenLimits(Strict):
    """Limits and sizes in force for one job, copied from the settings when it was submitted."""

    model_config = ConfigDict(extra="ignore")

    embed_in_flight: int = 1
    """Embedding requests in flight per partition; multiplied by ``parallelism``, the job's exact share of the
    cluster-wide limit."""
    embed_texts_per_second: float | None = None
    """Texts per second and partition; null means no limit."""
    embed_weight: int = DEFAULT_PRIORITY
    """Weight of the job among those that embed through the gateway, 1 to 10."""
    embed_batch_texts: int = 32
    """Maximum texts of one embedding request."""
    embed_batch_chars: int = 32_000
    """Maximum characters of one embedding request."""
    object_max_bytes: int = 256 * 1024 * 1024
    """Maximum size of an object in bytes; larger ones fail."""
    decompressed_max_bytes: int = 256 * 1024 * 1024
    """Maximum decompressed size of an object in bytes; larger ones fail."""
    parse_timeout_s: float = 120.0
    """Seconds after which parsing an object fails."""
    ocr_languages: str | None = None
    """Languages in which scanned pages of PDFs are recognised, joined by ``+``; null means that they are not."""
    ocr_max_pages: int = 100
    """Maximum pages of an object that are recognised."""
    ocr_timeout_s: float = 600.0
    """Seconds that parsing a PDF may take in addition when pages are recognised."""
    partition_bytes: int = 32 * 1024 * 1024
    """Maximum bytes of a partition's objects, unless it has only one."""
    partition_objects: int = 200
    """Maximum objects of a partition."""
    partition_chunks: int = 2_000
    """Maximum estimated chunks of a partition, unless it has only one object."""
    lease_ttl_s: float = 30.0
    """Seconds without a heartbeat after which the holder of a collection's lease is considered dead."""
    lease_grace_s: float = 35.0
    """Seconds that a successor waits for pending writes of a dead holder."""
    outage_retry_s: float = 5.0
    """First pause of the driver in seconds when a dependency is unavailable; doubles up to 60 s."""


class JobTrace(Strict):
    """The trace in which driver and workers show what they do; nothing but the telling depends on it."""

    model_config = ConfigDict(extra="ignore")

    traceparent: str
    """Span of the job, as in the header of W3C Trace Context; the parent of the spans of its attempts."""
    endpoint: str
    """Base URL of the collector (``INGEST_TRACING__ENDPOINT`` of the service)."""


class JobSpec(Strict):
    """Everything that driver and workers need, except secrets.

    Frozen when the job is first admitted. Only versions and endpoints are those of the service that submits the next
    attempt. Fields that a later release of the same minor version may add are ignored.
    """

    model_config = ConfigDict(extra="ignore")

    format: Literal[1] = 1
    job_id: str
    engine: EngineName
    created_at: str
    package_version: str
    """Version of the package of the service; workers accept every release of its minor version."""
    python_version: str
    """Python version as ``major.minor``; workers refuse to run under another one."""
    state_url: str
    request: JobRequest
    model: str
    """Name of the embedding model after applying defaults."""
    parallelism: int = Field(ge=1)
    """Maximum number of partitions at once, as granted by the service; at most the requested number."""
    limits: FrozenLimits
    endpoints: dict[str, Any]
    """Non-secret settings that workers must share (``Settings.endpoints()``)."""
    only_keys_path: str | None = None
    """Path in the state store of a JSON list of keys, to which the job is restricted (``POST /jobs/{id}/retry``)."""
    trace: JobTrace | None = None
    """Where the attempt is traced; null when it is not. Releases that do not know the field trace nothing."""

    def accepts_package(self, version: str) -> bool:
        """Return whether a worker with a version of the package may work on the job: one of the same minor. Pure."""
        return version.split(".")[:2] == self.package_version.split(".")[:2]


def flow_of(spec: JobSpec) -> EmbeddingFlow:
    """Return whose embedding requests those of a job are. Pure."""
    return EmbeddingFlow(spec.job_id, weight=spec.limits.embed_weight)
