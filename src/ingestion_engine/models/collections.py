"""Bodies about collections and their objects."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.domain.states import Agreement, JobState
from ingestion_engine.models.view import View


class StoreCount(View):
    """Number of points of a collection in a store."""

    points: int | None
    error: str | None
    """Why the number is unknown."""


class LastJob(View):
    """The newest job on a collection that the caller may see."""

    job_id: str
    state: JobState
    mode: str
    finished_at: str | None


class LastVerified(View):
    """The last comparison of the whole collection in all stores."""

    job_id: str
    at: str
    differences: int
    """Number of objects that differed, and of points that belonged to no object."""


class CollectionView(View):
    """A collection."""

    name: str
    contract: CollectionContract
    stores: dict[StoreName, StoreCount]
    objects: dict[str, int] | None
    """Number of objects by state (``present``, ``failed``), of those of which something was left out
    (``with_warnings``), and of their ``chunks``; null when the table cannot be read, and in lists."""
    deleting: bool = False
    """True while the collection is being deleted; jobs on it are refused."""
    last_job: LastJob | None = None
    """Null when there is none, and in lists."""
    verified: LastVerified | None = None
    """Null when there was none, and in lists."""


class CollectionList(View):
    """Page of the collections, ordered by name."""

    items: list[CollectionView]
    next_cursor: str | None = None
    """Pass as ``cursor`` to get the next page; null at the end."""


class DeletionView(View):
    """Deletion of a collection."""

    collection: str
    deleted: bool
    """True when nothing of the collection is left."""
    note: str | None
    """Why the deletion is not complete yet; the service completes it, and so does the same request."""


class WarningView(View):
    """Something that was left out of an object."""

    code: str = Field(examples=["lines_skipped"])
    count: int
    """How many of them: lines, parts, pictures."""
    detail: str
    """What the first one is and why it was left out."""


class ObjectView(View):
    """Row of the object table."""

    model_config = ConfigDict(extra="allow")

    key: str
    warnings: list[WarningView] = Field(default_factory=list)
    """What was left out of the object, although it is done; one entry per code."""


class ObjectPage(View):
    """Page of a collection's objects, ordered by key."""

    items: list[ObjectView]
    next_cursor: str | None
    folders: list[str] = Field(default_factory=list)
    """With ``delimiter``: what keys with a slash after the prefix have in common, with the slash, once each."""


class ChunkInStore(View):
    """What one store has of a chunk."""

    present: bool | None
    """Null when the store could not be read."""
    epoch: int | None = None
    """Epoch of the attempt that wrote it; higher is newer."""
    job_id: str | None = None
    """Job that wrote it."""
    ingested_at: str | None = None
    values: dict[str, Any] | None = None
    """This store's values of the fields on which the stores differ; a field that it lacks is left out."""


class ChunkView(View):
    """A passage of an object, compared between the stores."""

    chunk_index: int | None
    """Number of the passage in its object, from 0; null when its point has no valid one."""
    point_id: str
    text: str | None
    """As the first store that has it holds it; so are the fields that follow."""
    context: str | None = None
    """Text from elsewhere in the document that is embedded with it, such as the header of a table."""
    page: int | None = None
    """Page on which it starts, from 1."""
    start_char: int | None = None
    end_char: int | None = None
    agreement: Agreement
    differences: list[str] = Field(examples=[["text", "vector"]])
    """Fields of the payload on which the stores differ, and ``vector``; as ``verify`` compares them."""
    stores: dict[StoreName, ChunkInStore]


class StoreErrorView(View):
    """Why a store could not be read."""

    code: str
    detail: str


class ChunkPageView(View):
    """Page of the passages of one object, in the order of the document."""

    collection: str
    key: str
    object: ObjectView | None
    """Row of the object table; null when it has none, as before the end of the job that ingests the object first."""
    items: list[ChunkView]
    errors: dict[StoreName, StoreErrorView]
    """Stores that could not be read, or that have lost the collection."""
    next_cursor: str | None
