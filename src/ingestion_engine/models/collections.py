"""Bodies about collections and their objects."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.domain.states import JobState
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
    """Number of objects by state (``present``, ``failed``) and of their ``chunks``; null when the table cannot be read,
    and in lists."""
    deleting: bool = False
    """True while the collection is being deleted; jobs on it are refused."""
    last_job: LastJob | None = None
    """Null when there is none, and in lists."""
    verified: LastVerified | None = None
    """Null when there was none, and in lists."""


class CollectionList(View):
    """Page of the collections, ordered by name."""

    items: list[CollectionView]
    next_cursor: str | None
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
    warnings: list[WarningView]
    """What was left out of the object, although it is done; one entry per code."""


class ObjectPage(View):
    """Page of a collection's objects, ordered by key."""

    items: list[ObjectView]
    next_cursor: str | None
