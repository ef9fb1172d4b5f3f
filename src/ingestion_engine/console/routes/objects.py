"""Pages of the objects of a collection: folders, one object with its chunks as every store holds them, removal."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import quote, urlencode

from fastapi import Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from ingestion_engine.access.principal import Principal
from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import CollectionName, ServicesDep
from ingestion_engine.api.views import show_chunks, show_objects
from ingestion_engine.console.confirmation import Confirmation, OnceField, TypedField, ask, check_typed
from ingestion_engine.console.formats import show_key, show_plural
from ingestion_engine.console.pages import render
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.viewer import DeleterDep, ReaderDep
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.failure_hints import FAILURE_HINTS
from ingestion_engine.domain.records import RowState
from ingestion_engine.domain.spec import CollectionContract, EngineName
from ingestion_engine.services.contract_defaults import request_removal

router = make_router()

SECTION: Final = "/console/collections"
_ROOT: Final = SECTION + "/{name}"

PAGE_OBJECTS: Final = 100
"""Folders and objects of one page."""

PAGE_CHUNKS: Final = 25
"""Chunks of one page: some 30 kB of text in each store."""

_State = Literal["", "present", "failed"]
_View = Literal["folders", "keys"]
_Key = Annotated[str, Query(min_length=1, max_length=4096)]
_Text = Annotated[str, Query(max_length=4096)]
_Cursor = Annotated[str | None, Query(max_length=8192)]


@router.get(_ROOT + "/objects")
async def list_objects(
    name: CollectionName,
    request: Request,
    viewer: ReaderDep,
    services: ServicesDep,
    prefix: _Text = "",
    state: _State = "",
    warnings: bool = False,
    view: _View = "folders",
    cursor: _Cursor = None,
) -> Response:
    """Return one folder of the collection's objects, or all keys under a prefix."""
    viewer.check_collection(name)
    page = await services.collections.list_objects(
        name,
        viewer,
        prefix=prefix,
        state=RowState(state) if state else None,
        warned=warnings,
        limit=PAGE_OBJECTS,
        cursor=cursor,
        folders=view == "folders",
    )
    query = {"prefix": prefix, "state": state, "warnings": "true" if warnings else "", "view": view}
    kept = {name: value for name, value in query.items() if value and (name, value) != ("view", "folders")}
    return render(
        request,
        "objects/list.html",
        section=SECTION,
        name=name,
        url=f"{SECTION}/{quote(name, safe='')}",
        page=show_objects(page),
        prefix=prefix,
        state=state,
        warnings=warnings,
        view=view,
        crumbs=list_folders(prefix),
        link=lambda **changes: "?" + urlencode({**kept, **{k: v for k, v in changes.items() if v}}),
        cursor=cursor,
    )


@router.get(_ROOT + "/object")
async def show_object(
    name: CollectionName,
    request: Request,
    viewer: ReaderDep,
    services: ServicesDep,
    key: _Key,
    cursor: _Cursor = None,
) -> Response:
    """Return the page of an object: its row, and its chunks as every store holds them."""
    viewer.check_collection(name)
    page = await services.chunks.list_chunks(name, key, viewer, limit=PAGE_CHUNKS, cursor=cursor)
    return render(
        request,
        "objects/show.html",
        section=SECTION,
        url=f"{SECTION}/{quote(name, safe='')}",
        page=show_chunks(page),
        hint=None if page.row is None or page.row.error_code is None else FAILURE_HINTS.get(page.row.error_code),
        crumbs=list_folders(key),
        cursor=cursor,
    )


def list_folders(key: str) -> list[tuple[str, str]]:
    """Return name and prefix of each folder that a key or prefix is in, from the top. Pure."""
    parts = key.split("/")[:-1]
    return [(part, "/".join(parts[: number + 1]) + "/") for number, part in enumerate(parts)]


# -- removal ----------------------------------------------------------------------------------------------------------


@router.get(_ROOT + "/remove")
async def ask_removal(
    name: CollectionName, request: Request, viewer: DeleterDep, services: ServicesDep, prefix: _Text = ""
) -> Response:
    """Return the page that asks before the objects under a prefix are removed."""
    _, confirmation = await _describe_removal(name, prefix, viewer=viewer, services=services)
    return ask(request, confirmation)


@router.post(_ROOT + "/remove", name="delete_objects")
async def remove(
    name: CollectionName,
    request: Request,
    viewer: DeleterDep,
    services: ServicesDep,
    prefix: Annotated[str, Form(max_length=4096)] = "",
    engine: Annotated[EngineName | None, Form()] = None,
    typed: TypedField = "",
    once: OnceField = None,
) -> Response:
    """Submit a job that removes the objects under a prefix; lead to its page."""
    contract, confirmation = await _describe_removal(name, prefix, viewer=viewer, services=services)
    try:
        check_typed(confirmation, typed)
        wanted = request_removal(contract, prefix)
        viewer.check_request(wanted)
        chosen = engine or next(iter(services.parts.engines), EngineName.RAY)
        done = await services.jobs.submit(chosen, wanted, owner=viewer.name, idempotency_key=once, access=viewer)
    except SubmissionError as error:
        return ask(request, confirmation, error=error, typed=typed)
    return RedirectResponse(f"/console/jobs/{done.job.id}", 303)


async def _describe_removal(
    name: str, prefix: str, *, viewer: Principal, services: Services
) -> tuple[CollectionContract, Confirmation]:
    viewer.check_collection(name)
    contract = await services.collections.require(name, viewer)
    counts = await services.collections.count_objects(name, viewer, prefix)
    begin = Markup("whose keys begin with <code>{}</code>").format(show_key(prefix))
    under = begin if prefix else "of the collection"
    if counts is None:
        what = Markup("All objects {} and their points").format(under)
    else:
        objects = counts[RowState.PRESENT.value] + counts[RowState.FAILED.value]
        known = (show_plural(objects, "object"), under, show_plural(counts["chunks"], "chunk"))
        what = Markup("{} {}, with {},").format(*known)
    engines = [(one.value, one.value.capitalize()) for one in services.parts.engines]
    stores = " and ".join(store.value.capitalize() for store in contract.stores)
    folder = f"{SECTION}/{quote(name, safe='')}/objects?{urlencode({'prefix': prefix})}"
    return contract, Confirmation(
        title=f"Remove objects from collection {contract.collection}",
        effects=(
            Markup("A job is submitted. {} are removed from {}.").format(what, stores),
            f"Bucket {contract.bucket or ''} is not changed: the next sync job ingests what is still in it again.",
        ),
        button="Remove the objects",
        keep="Keep the objects",
        back=folder,
        back_name=f"Objects of {contract.collection}",
        section=SECTION,
        type_name=contract.collection,
        warning="This cannot be undone, except by ingesting the objects again.",
        choices={"engine": engines} if len(engines) > 1 else {},
        inputs={"prefix": prefix},
    )
