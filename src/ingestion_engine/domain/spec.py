"""The job spec: what a job is asked to do, frozen at submission and read by driver and workers.

``JobRequest`` is the HTTP body of a submission; ``JobSpec`` adds what the service decided. Neither ever holds a secret.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ingestion_engine.domain.ids import hash_json

COLLECTION_PATTERN = r"^[A-Za-z][A-Za-z0-9_]{0,127}$"
"""Valid as a Qdrant collection and, with a capital first letter, as a Weaviate class."""

COLLECTION_MAX = 128
"""Characters of a collection's or alias's name."""

_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]$")


class EngineName(StrEnum):
    """Where partitions run."""

    RAY = "ray"
    SPARK = "spark"
    LOCAL = "local"
    """In the driver's own process, one partition after another: the oracle for tests."""


class StoreName(StrEnum):
    """A vector store."""

    QDRANT = "qdrant"
    WEAVIATE = "weaviate"


class Mode(StrEnum):
    """What a job does."""

    SYNC = "sync"
    FULL = "full"
    PLAN = "plan"
    VERIFY = "verify"
    REPAIR = "repair"
    DELETE = "delete"
    """Remove objects from the collection; asked for by ``DELETE /collections/{name}/objects``."""


MODES_WITHOUT_EMBEDDER = frozenset({Mode.VERIFY, Mode.DELETE})
"""Modes that work also while the embedder is away or the model is gone."""
MODES_ON_EXISTING = frozenset({Mode.VERIFY, Mode.REPAIR, Mode.DELETE})
"""Modes that go by the collection's contract and object table, not by the bucket's listing."""
MODES_ALLOWING_ALIAS = frozenset({Mode.SYNC, Mode.FULL})
"""Modes that can make a new version of what an alias stands for."""


class Strict(BaseModel):
    """A model that refuses what it does not know and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _check_bucket(value: str) -> str:
    if not _BUCKET.match(value):
        raise ValueError("a bucket name has 3 to 63 lower-case letters, digits, dots or hyphens")
    return value


class Source(Strict):
    """Which objects a job is about."""

    bucket: Annotated[str, AfterValidator(_check_bucket)]
    """Name of the bucket, without ``s3://``."""
    prefix: str = Field(default="", max_length=1024)
    """Only keys that start with this string, byte for byte; empty means the whole bucket."""
    include: tuple[str, ...] = ()
    """Globs over the key after the prefix (``*`` within one segment, ``**`` over segments); empty means everything."""
    exclude: tuple[str, ...] = ()
    """Globs over the key after the prefix; what matches one of them is left out, whatever ``include`` says."""


class Embedding(Strict):
    """How text becomes a vector. Belongs to the collection: later jobs must ask for the same."""

    model: str | None = Field(default=None, min_length=1, max_length=256)
    """Name of an Ollama model; None means the service's default (``INGEST_OLLAMA__MODEL``)."""
    prefix: str = Field(default="", max_length=1024)
    """String put before every chunk when it is embedded (some models want ``search_document: ``); not stored as
    text."""
    query_prefix: str = Field(default="", max_length=1024)
    """String put before every query when this collection is searched."""


class Chunking(Strict):
    """How documents are cut. Belongs to the collection: later jobs must ask for the same."""

    max_chars: int = Field(default=1200, ge=50, le=100_000)
    """Longest chunk, in characters."""
    overlap_chars: int = Field(default=150, ge=0)
    """How many characters two neighbouring chunks may share at most, in whole sentences or words."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> Chunking:
        if self.overlap_chars > self.max_chars // 2:
            raise ValueError("overlap_chars must be at most half of max_chars")
        return self


class FailureBudget(Strict):
    """How many failed objects a job may have and still count as partially succeeded."""

    max_fraction: float = Field(default=0.1, ge=0, le=1)
    """Largest share of failed among the planned objects."""
    min_objects: int = Field(default=20, ge=0)
    """So many failures are always allowed, whatever the share: small jobs should not fail over one bad file."""

    def allows(self, failed: int, planned: int) -> bool:
        """True when so many failures among so many planned objects are within the budget. Pure."""
        return failed <= max(self.min_objects, self.max_fraction * planned)


class JobRequest(Strict):
    """The body of ``POST /ray/jobs`` and ``POST /spark/jobs``."""

    source: Source
    alias: Annotated[str, StringConstraints(pattern=COLLECTION_PATTERN)] | None = None
    """Name that stands for the collection in every store once the job has succeeded and both stores hold the same;
    what it stood for before is kept. None means no alias is moved."""
    collection: Annotated[str, StringConstraints(pattern=f"^$|{COLLECTION_PATTERN}")] = Field(
        default="", validate_default=True
    )
    """Name of the collection in every store: a letter, then letters, digits or ``_``, at most 128 in all. The name of
    an alias means what it stands for now. Required, but with ``alias`` it may be left out: the service then names a
    new collection."""
    stores: tuple[StoreName, ...] = Field(default=(StoreName.QDRANT, StoreName.WEAVIATE), min_length=1)
    """Stores to write. Belongs to the collection."""
    mode: Mode = Mode.SYNC
    """``sync``: bring the stores to what the bucket holds; ``full``: embed everything again; ``plan``: only say what
    ``sync`` would do; ``verify``: compare both stores with the object table and with each other, change nothing;
    ``repair``: verify, then mend what differs."""
    delete_missing: bool = True
    """Remove points of objects that are gone from the bucket, within prefix and filters."""
    allow_mass_delete: bool = False
    """Allow a plan that deletes more than 20 % of more than 100 objects, or everything."""
    retry_failed: bool = False
    """Try objects again that failed for good and did not change since."""
    embedding: Embedding = Embedding()
    chunking: Chunking = Chunking()
    parallelism: int = Field(default=4, ge=1, le=10_000)
    """Partitions processed at once; the service may grant less (``INGEST_EMBED__IN_FLIGHT``)."""
    failure_budget: FailureBudget = FailureBudget()
    max_runtime_s: int = Field(default=86_400, ge=1)
    """Seconds after which an attempt of the job is stopped and the job fails."""
    metadata: dict[str, str] = Field(default_factory=dict, max_length=64)
    """Put on every point, beside the object's own S3 metadata; the object's own wins where names collide."""

    @field_validator("collection")
    @classmethod
    def _collection_is_named(cls, value: str, info: ValidationInfo) -> str:
        if "alias" not in info.data:
            return value  # its own fault is told
        alias = info.data["alias"]
        if not value and alias is None:
            raise ValueError("required, unless alias is given")
        if alias is not None and value.lower() == alias.lower():
            raise ValueError("an alias and the collection that it is to stand for need two names")
        return value

    @model_validator(mode="after")
    def _alias_is_of_new_versions(self) -> JobRequest:
        if self.alias is not None and self.mode not in MODES_ALLOWING_ALIAS:
            raise ValueError(f"alias goes with mode 'sync' or 'full', not with mode {self.mode.value!r}")
        return self

    @model_validator(mode="after")
    def _metadata_is_new(self) -> JobRequest:
        if self.metadata and self.mode in MODES_ON_EXISTING:
            raise ValueError(f"metadata is given when objects are ingested, not with mode {self.mode.value!r}")
        return self

    @model_validator(mode="after")
    def _stores_differ(self) -> JobRequest:
        if len(set(self.stores)) != len(self.stores):
            raise ValueError("stores names a store twice")
        return self


class CollectionContract(Strict):
    """What a collection is, for its whole life; ``collections/{c}/collection.json`` in the state store."""

    format: Literal[1] = 1
    collection: str
    bucket: str | None = None
    """The one bucket whose objects are in it; None in contracts of older versions, which did not say."""
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
    """Job that created it."""

    def fingerprint(self, parser_version: str, metadata: dict[str, str]) -> str:
        """16 hex digits of everything but the object itself that decides its points."""
        return hash_json([self.embedding_id, self.chunking.model_dump(), parser_version, metadata])[:16]


class FrozenLimits(Strict):
    """Limits and sizes in force for one job, copied from the settings when it was submitted."""

    embed_in_flight: int = 1
    """Embedding requests in flight per partition; times ``parallelism`` this job's exact share of the cluster-wide
    limit."""
    embed_texts_per_second: float | None = None
    """Texts per second per partition; None means no limit."""
    embed_batch_texts: int = 32
    embed_batch_chars: int = 32_000
    object_max_bytes: int = 256 * 1024 * 1024
    decompressed_max_bytes: int = 256 * 1024 * 1024
    parse_timeout_s: float = 120.0
    partition_bytes: int = 32 * 1024 * 1024
    partition_objects: int = 200
    partition_chunks: int = 2_000
    lease_ttl_s: float = 30.0
    lease_grace_s: float = 35.0
    outage_retry_s: float = 5.0
    """First pause of the driver after a partition had to be put back; doubles up to a minute."""


class JobSpec(Strict):
    """Everything driver and workers need, but secrets. Written once; every attempt of the job reads the same."""

    format: Literal[1] = 1
    job_id: str
    engine: EngineName
    created_at: str
    package_version: str
    python_version: str
    """``major.minor``; workers refuse to run under another."""
    state_url: str
    request: JobRequest
    model: str
    """The embedding model's name after defaults."""
    parallelism: int = Field(ge=1)
    """Partitions at once, as granted by the service; at most what the request asked for."""
    limits: FrozenLimits
    endpoints: dict[str, Any]
    """Non-secret settings that workers must share (``Settings.endpoints()``)."""
    only_keys_path: str | None = None
    """Path in the state store of a JSON list of keys; the job looks at these alone (``POST /jobs/{id}/retry``)."""
