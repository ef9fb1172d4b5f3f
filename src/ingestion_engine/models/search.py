"""Bodies of searches."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from ingestion_engine.domain.spec import (
    COLLECTION_MAX,
    COLLECTION_PATTERN,
    MetadataName,
    MetadataValue,
    StoreName,
    Strict,
)
from ingestion_engine.domain.strict_values import Whole
from ingestion_engine.models.view import View


class Filter(Strict):
    """Conditions that must all hold; strings are compared byte for byte, the same in every store."""

    bucket: str | None = Field(default=None, max_length=255)
    """Bucket of the object."""
    content_type: str | None = Field(default=None, max_length=255)
    """Detected media type, exact match."""
    metadata: dict[MetadataName, MetadataValue] = Field(default_factory=dict, max_length=64)
    """Entries that the metadata of a passage must contain: the object's S3 user metadata and the metadata of the job
    that ingested it."""
    key_prefix: str | None = Field(default=None, max_length=1024)
    """Prefix of the object's key."""


class SearchRequest(Strict):
    """The body of ``POST /search``."""

    collection: Annotated[str, StringConstraints(pattern=COLLECTION_PATTERN, max_length=COLLECTION_MAX)]
    """Collection or alias to search."""
    query: str = Field(min_length=1, max_length=10_000)
    """Question or phrase; it is embedded with the model of the collection."""
    limit: Whole = Field(default=10, ge=1, le=100)
    """Maximum number of results per store."""
    stores: tuple[StoreName, ...] | None = Field(default=None, min_length=1, max_length=2)
    """Stores to search; null means all stores of the collection."""
    filter: Filter = Filter()


class Hit(View):
    """A passage."""

    model_config = ConfigDict(extra="allow")

    point_id: str
    score: float
    """Cosine similarity, -1 to 1; the same scale for every store."""
    key: str
    text: str
    differences: list[str] = Field(default_factory=list, examples=[["score", "text"]])
    """On what the other stores differ: ``only_here`` when another store should have found the passage and has not,
    ``score``, or the name of a field."""


class SearchView(View):
    """Results of each store, best first."""

    collection: str
    """Searched collection; for an alias, its collection when the search began."""
    alias: str | None
    """Name in the request, when it is an alias."""
    model: str
    results: dict[StoreName, list[Hit]]
    errors: dict[StoreName, dict[str, Any]]
    """Stores that could not be searched, with a code and a reason."""
    took_ms: float
    """Duration of the search in milliseconds."""
    differences: int | None = None
    """Number of different passages on which the stores differ; null when fewer than two stores were searched."""
