"""Pages of collections: the list, one collection, and its actions: verify, repair, delete."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import quote

from fastapi import Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ingestion_engine.access.principal import Principal
from ingestion_engine.api.absence import jobs_explain_absence
from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import CollectionName, ServicesDep
from ingestion_engine.api.views import show_collection
from ingestion_engine.console.confirmation import Confirmation, OnceField, TypedField, ask, check_typed
from ingestion_engine.console.formats import show_plural
from ingestion_engine.console.pages import render
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.viewer import DeleterDep, ReaderDep, SubmitterDep
from ingestion_engine.domain.errors import CollectionNotFound, SubmissionError
from ingestion_engine.domain.records import RowState
from ingestion_engine.domain.spec import COLLECTION_PATTERN, CollectionContract, EngineName, Mode
from ingestion_engine.services.collections import CollectionDetail
from ingestion_engine.services.contract_defaults import request_comparison
from ingestion_engine.services.job_store import JobFilter

router = make_router()

SECTION: Final = "/console/collections"

PAGE_COLLECTIONS: Final = 50
"""Collections of one page; each costs a count in every store."""

_NameFilter = Annotated[str, Query(max_length=128)]
_Name = Annotated[str, Query(max_length=128, pattern=f"^$|{COLLECTION_PATTERN}")]
"""A name, so that no link makes a page say something else."""
_Cursor = Annotated[str | None, Query(max_length=512)]
_Engine = Annotated[EngineName | None, Form()]
_Mode = Literal["verify", "repair"]


def url_of(name: str) -> str:
    """Return the URL of a collection's page. Pure."""
    return f"{SECTION}/{quote(name, safe='')}"


@router.get(SECTION)
async def list_collections(
    request: Request,
    viewer: ReaderDep,
    services: ServicesDep,
    q: _NameFilter = "",
    cursor: _Cursor = None,
    deleted: _Name = "",
) -> Response:
    """Return the list of collections, by name; ``q`` is a part of their names."""
    found, following = await services.collections.list_page(
        viewer, limit=PAGE_COLLECTIONS, after=cursor or "", part=q.strip(), verified=True
    )
    return render(
        request,
        "collections/list.html",
        section=SECTION,
        collections=[show_collection(one) for one in found],
        q=q,
        cursor=cursor,
        next_cursor=following,
        deleted=deleted if deleted and not await _exists(deleted, viewer, services) else "",
    )


async def _exists(name: str, viewer: Principal, services: Services) -> bool:
    try:
        await services.collections.require(name, viewer)
    except CollectionNotFound:
        return False
    return True


@router.get(SECTION + "/{name}", name="show_collection")
async def show_one(name: CollectionName, request: Request, viewer: ReaderDep, services: ServicesDep) -> Response:
    """Return the page of a collection; the name of an alias leads to the collection behind it."""
    viewer.check_collection(name)
    async with jobs_explain_absence(name, viewer, services):
        detail = await services.collections.describe(name, viewer)
    if detail.name != name:
        return RedirectResponse(url_of(detail.name), 303)
    visible = JobFilter(collection=name, owner=viewer.sees_jobs_of)
    newest, _ = await services.jobs.list_page(visible, limit=1, cursor=None)
    alias = await services.aliases.find_of(name, viewer)
    return render(
        request,
        "collections/show.html",
        section=SECTION,
        collection=show_collection(detail, newest[0] if newest else None),
        alias=alias,
    )


# -- verify and repair ------------------------------------------------------------------------------------------------

_EFFECTS: Final = {
    Mode.VERIFY: (
        "Every point of these objects is read from every store and compared with what was written. Nothing is changed.",
        "The job lists each object that differs, and this collection then shows when it was compared last.",
    ),
    Mode.REPAIR: (
        "Every point of these objects is compared.",
        "Where a store differs, the right points are written to all stores again; points of no object are removed.",
        "Objects whose right points no store has any more are read from the bucket and embedded again.",
    ),
}


@router.get(SECTION + "/{name}/compare/{mode}")
async def ask_comparison(
    name: CollectionName, mode: _Mode, request: Request, viewer: SubmitterDep, services: ServicesDep
) -> Response:
    """Return the page that asks before a comparison or a repair."""
    _, confirmation = await _describe_comparison(name, Mode(mode), viewer=viewer, services=services)
    return ask(request, confirmation)


@router.post(SECTION + "/{name}/compare/{mode}", name="submit_comparison")
async def compare(
    name: CollectionName,
    mode: _Mode,
    request: Request,
    viewer: SubmitterDep,
    services: ServicesDep,
    engine: _Engine = None,
    once: OnceField = None,
) -> Response:
    """Submit a job that compares or repairs the collection; lead to its page."""
    contract, confirmation = await _describe_comparison(name, Mode(mode), viewer=viewer, services=services)
    try:
        wanted = request_comparison(contract, Mode(mode))
        viewer.check_request(wanted)
        chosen = engine or next(iter(services.parts.engines), EngineName.RAY)
        done = await services.jobs.submit(chosen, wanted, owner=viewer.name, idempotency_key=once, access=viewer)
    except SubmissionError as error:
        return ask(request, confirmation, error=error)
    return RedirectResponse(f"/console/jobs/{done.job.id}", 303)


async def _describe_comparison(
    name: str, mode: Mode, *, viewer: Principal, services: Services
) -> tuple[CollectionContract, Confirmation]:
    viewer.check_collection(name)
    detail = await services.collections.describe(name, viewer)
    engines = [(engine.value, engine.value.capitalize()) for engine in services.parts.engines]
    confirmation = Confirmation(
        title=f"{mode.value.capitalize()} collection {detail.name}",
        effects=(
            f"A job is submitted for {_count_objects(detail)}, with {_count_points(detail)}.",
            *_EFFECTS[mode],
            "Other jobs on this collection wait until it has ended; searches go on.",
        ),
        button=f"{mode.value.capitalize()} now",
        keep=f"Do not {mode.value}",
        back=url_of(detail.name),
        back_name=f"Collection {detail.name}",
        section=SECTION,
        choices={"engine": engines} if len(engines) > 1 else {},
    )
    return detail.contract, confirmation


def _count_objects(detail: CollectionDetail) -> str:
    if detail.objects is None:
        return "all objects"
    known = sum(detail.objects.get(state.value, 0) for state in RowState)
    return f"all {show_plural(known, 'object')}" if known else "a collection without objects"


def _count_points(detail: CollectionDetail) -> str:
    counts = (
        f"{'an unknown number of points' if store.points is None else show_plural(store.points, 'point')} "
        f"in {name.value.capitalize()}"
        for name, store in detail.stores.items()
    )
    return " and ".join(counts)


# -- delete -----------------------------------------------------------------------------------------------------------


@router.get(SECTION + "/{name}/delete")
async def ask_delete(name: CollectionName, request: Request, viewer: DeleterDep, services: ServicesDep) -> Response:
    """Return the page that asks before a collection is deleted."""
    return ask(request, await _describe_deletion(name, viewer, services))


@router.post(SECTION + "/{name}/delete", name="delete_collection")
async def delete(
    name: CollectionName, request: Request, viewer: DeleterDep, services: ServicesDep, typed: TypedField = ""
) -> Response:
    """Delete the collection, if its name was typed; lead to the list."""
    confirmation = await _describe_deletion(name, viewer, services)
    try:
        check_typed(confirmation, typed)
        done = await services.deletions.delete(name, viewer)
    except SubmissionError as error:
        return ask(request, confirmation, error=error, typed=typed)
    return RedirectResponse(f"{SECTION}?deleted={name}" if done.deleted else url_of(name), 303)


async def _describe_deletion(name: str, viewer: Principal, services: Services) -> Confirmation:
    viewer.check_collection(name)
    detail = await services.collections.describe(name, viewer)
    return Confirmation(
        title=f"Delete collection {detail.name}",
        effects=(
            f"The collection is deleted with {_count_points(detail)}.",
            f"What is known about {_count_objects(detail)} is deleted: states, failures, warnings, the contract.",
            f"Bucket {detail.contract.bucket or ''} is not changed; a job that ingests it again embeds everything.",
            "Searches in this collection fail from now on.",
        ),
        button="Delete the collection",
        keep="Keep the collection",
        back=url_of(detail.name),
        back_name=f"Collection {detail.name}",
        section=SECTION,
        type_name=detail.name,
        warning="This cannot be undone.",
    )
