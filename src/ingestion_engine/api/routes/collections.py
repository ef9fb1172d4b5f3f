"""Routes of collections and their objects."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, Response

from ingestion_engine.api.absence import jobs_explain_absence
from ingestion_engine.api.dependencies import (
    ChunkParams,
    CollectionName,
    CollectionParams,
    DeleterDep,
    IdempotencyKey,
    ObjectParams,
    ReaderDep,
    RemovalParams,
    ServicesDep,
)
from ingestion_engine.api.json_bodies import JsonRoute
from ingestion_engine.api.openapi import ACCEPTED, problems
from ingestion_engine.api.views import answer_accepted, show_chunks, show_collection, show_objects
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.records import RowState
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.models.collections import (
    ChunkPageView,
    CollectionList,
    CollectionView,
    DeletionView,
    ObjectPage,
)
from ingestion_engine.models.jobs import JobAccepted
from ingestion_engine.services.contract_defaults import request_removal
from ingestion_engine.services.job_store import JobFilter

router = APIRouter(route_class=JsonRoute)


@router.get(
    "/collections",
    operation_id="list_collections",
    summary="List collections",
    tags=["collections"],
    response_description="A page of collections.",
)
async def list_collections(query: CollectionParams, caller: ReaderDep, services: ServicesDep) -> CollectionList:
    """Return the collections that the caller may use, by name, each with its number of points in every store."""
    found, following = await services.collections.list_page(caller, limit=query.limit, after=query.cursor or "")
    return CollectionList(items=[show_collection(one) for one in found], next_cursor=following)


@router.get(
    "/collections/{name}",
    operation_id="get_collection",
    summary="Get a collection",
    tags=["collections"],
    response_description="The collection.",
)
async def get_collection(name: CollectionName, caller: ReaderDep, services: ServicesDep) -> CollectionView:
    """Return the contract of a collection, points per store, objects by state, last job and last comparison."""
    caller.check_collection(name)
    async with jobs_explain_absence(name, caller, services):
        detail = await services.collections.describe(name, caller)
    visible = JobFilter(collection=detail.name, owner=caller.sees_jobs_of)
    newest, _ = await services.jobs.list_page(visible, limit=1, cursor=None)
    return show_collection(detail, newest[0] if newest else None)


@router.delete(
    "/collections/{name}",
    operation_id="delete_collection",
    summary="Delete a collection",
    tags=["collections"],
    response_description="Nothing of the collection is left.",
    responses={202: {"model": DeletionView, "description": "Ordered, but not complete yet."}, **problems(409)},
)
async def delete_collection(
    name: CollectionName, response: Response, caller: DeleterDep, services: ServicesDep
) -> DeletionView:
    """Delete a collection: its points in every store, and what the service knows about it. The bucket is not changed.

    Refused while an alias stands for it or an unfinished job uses it. 202 when a store is unavailable or a lease has to
    expire first: the service then completes the deletion, and so does the same request. Nobody can work on the
    collection meanwhile.
    """
    caller.check_collection(name)
    done = await services.deletions.delete(name, caller)
    if not done.deleted:
        response.status_code = 202
    return DeletionView.model_validate(dataclasses.asdict(done))


@router.get(
    "/collections/{name}/objects",
    operation_id="list_objects",
    summary="List the objects of a collection",
    response_description="A page of objects.",
    tags=["collections"],
)
async def list_objects(
    name: CollectionName, query: ObjectParams, caller: ReaderDep, services: ServicesDep
) -> ObjectPage:
    """Return the objects of a collection, ordered by key as UTF-8 bytes, with what was left out of each."""
    caller.check_collection(name)
    page = await services.collections.list_objects(
        name,
        caller,
        prefix=query.prefix,
        state=None if query.state is None else RowState(query.state),
        warned=query.warnings,
        limit=query.limit,
        cursor=query.cursor or None,
        folders=query.delimiter is not None,
    )
    return show_objects(page)


@router.get(
    "/collections/{name}/chunks",
    operation_id="list_chunks",
    summary="List the chunks of an object as every store holds them",
    response_description="A page of chunks.",
    tags=["collections"],
)
async def list_chunks(
    name: CollectionName, query: ChunkParams, caller: ReaderDep, services: ServicesDep
) -> ChunkPageView:
    """Return the chunks of one object in the order of the document, each compared between the stores.

    A store that cannot be read is listed under ``errors``; what it has is then unknown. 404 ``object_not_found`` when
    neither the object table nor a store has the object.
    """
    caller.check_collection(name)
    page = await services.chunks.list_chunks(name, query.key, caller, limit=query.limit, cursor=query.cursor or None)
    return show_chunks(page)


@router.delete(
    "/collections/{name}/objects",
    status_code=202,
    operation_id="delete_objects",
    summary="Remove objects from a collection",
    responses={**ACCEPTED, **problems(409, 501)},
    tags=["collections"],
)
async def delete_objects(
    name: CollectionName,
    query: RemovalParams,
    response: Response,
    caller: DeleterDep,
    services: ServicesDep,
    key: IdempotencyKey = None,
) -> JobAccepted:
    """Store a job that removes all points of the objects under a prefix from every store.

    The bucket is not changed: objects that are still in it are ingested again by the next sync that covers them.
    """
    caller.check_collection(name)
    if not query.prefix and not query.all:
        raise SubmissionError(
            "validation_error",
            "An empty prefix means every object of the collection.",
            hint="Set a prefix, or set 'all' to confirm.",
            field="prefix",
        )
    request = request_removal(await services.collections.require(name, caller), query.prefix)
    caller.check_request(request)
    engine = query.engine or next(iter(services.parts.engines), EngineName.RAY)
    done = await services.jobs.submit(engine, request, owner=caller.name, idempotency_key=key, access=caller)
    return answer_accepted(done, response)
