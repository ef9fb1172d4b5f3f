"""Routes of collections and of search."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field, StringConstraints

from ingestion_engine.api.auth import Asking
from ingestion_engine.api.examples import SEARCH_EXAMPLES
from ingestion_engine.api.routes_jobs import IdempotencyKey, PageQuery, Using, answer_accepted
from ingestion_engine.api.views import PROBLEMS, Hit, JobAccepted, SearchView, View
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.ports import SearchFilter
from ingestion_engine.domain.spec import COLLECTION_PATTERN, CollectionContract, EngineName, StoreName, Strict
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.timestamps import format_milliseconds
from ingestion_engine.services.contract_defaults import request_removal
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_store import JobFilter
from ingestion_engine.services.search import SearchQuery

router = APIRouter(responses=PROBLEMS)


class Filter(Strict):
    """Conditions that all must hold; texts are compared byte for byte, the same in every store."""

    bucket: str | None = None
    content_type: str | None = None
    """Detected media type, exactly."""
    metadata: dict[str, str] = Field(default_factory=dict, max_length=64)
    """Entries that a passage's metadata must have: the object's S3 user metadata and the metadata of its job."""
    key_prefix: str | None = Field(default=None, max_length=1024)
    """What the object's key starts with."""


class SearchRequest(Strict):
    """What to look for."""

    collection: Annotated[str, StringConstraints(pattern=COLLECTION_PATTERN)]
    query: str = Field(min_length=1, max_length=10_000)
    """A question or phrase; it is embedded as the collection's contract says."""
    limit: int = Field(default=10, ge=1, le=100)
    """Results per store at most."""
    stores: tuple[StoreName, ...] | None = Field(default=None, min_length=1)
    """None means all stores of the collection."""
    filter: Filter = Filter()


class StoreCount(View):
    """How many points of a collection a store holds."""

    points: int | None
    error: str | None
    """Why the number is not known."""


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
    """What was found then: objects that differ, and points that belong to no object."""


class CollectionView(View):
    """A collection."""

    name: str
    contract: CollectionContract
    stores: dict[StoreName, StoreCount]
    objects: dict[str, int] | None
    """Objects by state (``present``, ``failed``) and their ``chunks``; None when the table cannot be read, and in
    lists."""
    last_job: LastJob | None = None
    """None when there is none, and in lists."""
    verified: LastVerified | None = None
    """None when there was none, and in lists."""


class CollectionList(View):
    """All collections."""

    items: list[CollectionView]


class ObjectPage(View):
    """Some objects of a collection, by key."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class ObjectQuery(PageQuery):
    """Which objects."""

    prefix: str = ""
    """Only keys that start so."""
    state: str | None = Field(default=None, pattern="^(present|failed)$")
    """``present`` (its newest version is in the stores) or ``failed`` (it is not; an older one may be)."""


class RemovalQuery(Strict):
    """Which objects to remove from a collection."""

    prefix: str = Field(max_length=1024)
    """Only objects whose keys start so; required, and empty only together with ``all``."""
    all: bool = False
    """Allow an empty prefix: every object."""
    engine: EngineName | None = None
    """Where the job runs; None means the first that this service has."""


@router.post("/search", operation_id="search", summary="Search a collection", tags=["search"])
async def search(
    body: Annotated[SearchRequest, Body(openapi_examples=SEARCH_EXAMPLES)], asking: Asking, services: Using
) -> SearchView:
    """Return the passages nearest to a query, from every store of the collection side by side."""
    asking.check_collection(body.collection)
    wanted = body.filter
    where = SearchFilter(wanted.bucket, wanted.content_type, wanted.metadata or None, wanted.key_prefix)
    query = SearchQuery(body.collection, body.query, body.limit, body.stores, where)
    found = await services.search.search(query)
    results = {name: [Hit.model_validate(hit) for hit in hits] for name, hits in found.results.items()}
    return SearchView(
        collection=found.collection,
        alias=found.alias,
        model=found.model,
        results=results,
        errors=found.errors,
        took_ms=found.took_ms,
    )


@router.get("/collections", operation_id="list_collections", summary="List collections", tags=["collections"])
async def list_collections(asking: Asking, services: Using) -> CollectionList:
    """Return all collections that the caller may use, with what the stores hold of each."""
    names = [name for name in await services.collections.list_names() if asking.may_use_collection(name)]
    found = await services.collections.describe_all(names)
    return CollectionList(items=[CollectionView.model_validate(dataclasses.asdict(one)) for one in found])


@router.get("/collections/{name}", operation_id="get_collection", summary="Look at a collection", tags=["collections"])
async def get_collection(name: str, asking: Asking, services: Using) -> CollectionView:
    """Return a collection's contract, points per store, objects by state, last job and last comparison."""
    asking.check_collection(name)
    detail = await services.collections.describe(name)
    mine = JobFilter(collection=detail.name, owner=asking.sees_jobs_of)
    newest, _ = await services.jobs.list_page(mine, limit=1, cursor=None)
    shown = {**dataclasses.asdict(detail), "last_job": _show_last(newest[0]) if newest else None}
    return CollectionView.model_validate(shown)


def _show_last(job: JobRecord) -> LastJob:
    finished_at = format_milliseconds(job.finished_at)
    return LastJob(job_id=job.id, state=job.state, mode=str(job.request["mode"]), finished_at=finished_at)


@router.get(
    "/collections/{name}/objects",
    operation_id="list_objects",
    summary="List a collection's objects",
    tags=["collections"],
)
async def list_objects(
    name: str, query: Annotated[ObjectQuery, Query()], asking: Asking, services: Using
) -> ObjectPage:
    """Return what is in a collection, in the order of keys as UTF-8 bytes."""
    asking.check_collection(name)
    page = await services.collections.list_objects(
        name, prefix=query.prefix, state=query.state, limit=query.limit, cursor=query.cursor
    )
    return ObjectPage(items=page.items, next_cursor=page.next_cursor)


@router.delete(
    "/collections/{name}/objects",
    status_code=202,
    operation_id="delete_objects",
    summary="Remove objects from a collection",
    tags=["collections"],
)
async def delete_objects(
    name: str,
    query: Annotated[RemovalQuery, Query()],
    response: Response,
    asking: Asking,
    services: Using,
    key: IdempotencyKey = None,
) -> JobAccepted:
    """Store a job that removes all points of the objects under a prefix from every store.

    The bucket is not touched: objects that are still in it come back with the next sync that covers them.
    """
    asking.check_collection(name)
    if not query.prefix and not query.all:
        raise SubmissionError(
            "validation_error",
            "an empty prefix means every object of the collection",
            hint="name a prefix, or add all=true",
            field="prefix",
        )
    request = request_removal(await services.collections.require(name), query.prefix)
    asking.check_request(request)
    engine = query.engine or next(iter(services.parts.engines), EngineName.RAY)
    return answer_accepted(
        await services.jobs.submit(engine, request, owner=asking.name, idempotency_key=key), response
    )
