"""Routes of collections and of search."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import Field, StringConstraints

from ingestion_engine.api.auth import Asking
from ingestion_engine.api.examples import SEARCH_EXAMPLES
from ingestion_engine.api.routes_jobs import PageQuery, Using
from ingestion_engine.api.views import PROBLEMS, Hit, SearchView, View
from ingestion_engine.domain.ports import SearchFilter
from ingestion_engine.domain.spec import COLLECTION_PATTERN, CollectionContract, StoreName, Strict
from ingestion_engine.services.search import SearchQuery

router = APIRouter(responses=PROBLEMS)


class Filter(Strict):
    """Conditions that all must hold."""

    bucket: str | None = None
    content_type: str | None = None
    """Detected media type, exactly."""
    metadata: dict[str, str] = Field(default_factory=dict, max_length=64)
    """Entries that a passage's metadata must have."""


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


class CollectionView(View):
    """A collection."""

    name: str
    contract: CollectionContract
    stores: dict[StoreName, StoreCount]
    objects: dict[str, int] | None
    """Objects by state (``present``, ``failed``); None when the table cannot be read."""


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


@router.post("/search", operation_id="search", summary="Search a collection", tags=["search"])
async def search(
    body: Annotated[SearchRequest, Body(openapi_examples=SEARCH_EXAMPLES)], asking: Asking, services: Using
) -> SearchView:
    """Return the passages nearest to a query, from every store of the collection side by side."""
    asking.check_collection(body.collection)
    where = SearchFilter(body.filter.bucket, body.filter.content_type, body.filter.metadata or None)
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
    """Return a collection's contract, its points per store and its objects by state."""
    asking.check_collection(name)
    return CollectionView.model_validate(dataclasses.asdict(await services.collections.describe(name)))


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
