"""Pages of aliases: the list, one alias with its versions, and its actions: roll back, drop versions, remove."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

from fastapi import Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ingestion_engine.access.principal import Principal
from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import AliasName, ServicesDep
from ingestion_engine.api.views import show_alias, show_collection
from ingestion_engine.console.confirmation import Confirmation, OnceField, TypedField, ask, check_typed
from ingestion_engine.console.formats import show_plural
from ingestion_engine.console.pages import render
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.viewer import DeleterDep, ReaderDep, SubmitterDep
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import COLLECTION_PATTERN
from ingestion_engine.models.aliases import AliasView
from ingestion_engine.models.collections import CollectionView

router = make_router()

SECTION: Final = "/console/aliases"

PAGE_ALIASES: Final = 100
"""Aliases of one page."""

_Name = Annotated[str, Query(max_length=128, pattern=f"^$|{COLLECTION_PATTERN}")]
"""A name, so that no link makes a page say something else."""
_Keep = Annotated[int, Query(ge=0, le=1000)]


def url_of(name: str) -> str:
    """Return the URL of an alias's page. Pure."""
    return f"{SECTION}/{quote(name, safe='')}"


@router.get(SECTION)
async def list_aliases(
    request: Request, viewer: ReaderDep, services: ServicesDep, cursor: _Name = "", removed: _Name = ""
) -> Response:
    """Return the list of aliases, by name."""
    found, following = await services.aliases.list_page(viewer, after=cursor, limit=PAGE_ALIASES)
    views = [show_alias(one) for one in found]
    return render(
        request,
        "aliases/list.html",
        section=SECTION,
        aliases=views,
        cursor=cursor,
        next_cursor=following,
        removed=removed if removed and all(view.name != removed for view in views) else "",
    )


@router.get(SECTION + "/{name}", name="show_alias")
async def show_one(
    name: AliasName, request: Request, viewer: ReaderDep, services: ServicesDep, moved: _Name = ""
) -> Response:
    """Return the page of an alias, with its versions, the current one first."""
    alias, versions = await _read(name, viewer, services)
    return render(
        request,
        "aliases/show.html",
        section=SECTION,
        alias=alias,
        versions=versions,
        moved=moved == alias.collection,
    )


async def _read(name: str, viewer: Principal, services: Services) -> tuple[AliasView, dict[str, CollectionView]]:
    """Return an alias and those of its versions that exist."""
    viewer.check_collection(name)
    alias = show_alias(await services.aliases.describe(name, viewer))
    names = [alias.collection, *alias.previous, *alias.dropping]
    found = await services.collections.describe_all(names, viewer)
    return alias, {detail.name: show_collection(detail) for detail in found}


# -- roll back --------------------------------------------------------------------------------------------------------


@router.get(SECTION + "/{name}/rollback")
async def ask_rollback(
    name: AliasName, request: Request, viewer: SubmitterDep, services: ServicesDep, to: _Name
) -> Response:
    """Return the page that asks before the alias moves to one of its versions."""
    alias, versions = await _read(name, viewer, services)
    return ask(request, _describe_rollback(alias, versions, to))


@router.post(SECTION + "/{name}/rollback", name="roll_back_alias")
async def roll_back(
    name: AliasName,
    request: Request,
    viewer: SubmitterDep,
    services: ServicesDep,
    to: Annotated[str, Form(max_length=128)],
    once: OnceField = None,
) -> Response:
    """Move the alias to one of its versions; lead back to its page."""
    alias, versions = await _read(name, viewer, services)
    try:
        await services.aliases.roll_back(name, viewer, to, owner=viewer.name, idempotency_key=once)
    except SubmissionError as error:
        return ask(request, _describe_rollback(alias, versions, to), error=error)
    return RedirectResponse(f"{url_of(name)}?moved={quote(to, safe='')}", 303)


def _describe_rollback(alias: AliasView, versions: dict[str, CollectionView], to: str) -> Confirmation:
    target = versions.get(to)
    return Confirmation(
        title=f"Move alias {alias.name} to another version",
        effects=(
            f"Searches of '{alias.name}' use '{to}' at once, in every store.",
            f"'{alias.collection}' is kept as a former version: you can move the alias back to it.",
            "No point is written or deleted. The next job with this alias moves it to a new version.",
        ),
        button="Move the alias",
        keep="Leave the alias where it is",
        back=url_of(alias.name),
        back_name=f"Alias {alias.name}",
        section=SECTION,
        facts=(
            ("Stands for now", _describe_version(alias.collection, versions.get(alias.collection))),
            ("Will stand for", _describe_version(to, target)),
        ),
        warning=None if target is not None else f"Version '{to}' could not be found; the alias may not move to it.",
        inputs={"to": to},
    )


def _describe_version(name: str, version: CollectionView | None) -> str:
    if version is None:
        return name
    counts = ", ".join(
        f"{'unknown' if store.points is None else show_plural(store.points, 'point')} in {title}"
        for title, store in ((store_name.value.capitalize(), store) for store_name, store in version.stores.items())
    )
    return f"{name} ({counts}; created on {version.contract.created_at[:10]})"


# -- drop former versions ---------------------------------------------------------------------------------------------


@router.get(SECTION + "/{name}/prune")
async def ask_prune(
    name: AliasName, request: Request, viewer: DeleterDep, services: ServicesDep, keep: _Keep = 1
) -> Response:
    """Return the page that asks before former versions are dropped."""
    alias, versions = await _read(name, viewer, services)
    return ask(request, _describe_prune(alias, versions, keep))


@router.post(SECTION + "/{name}/prune", name="prune_alias")
async def prune(
    name: AliasName,
    request: Request,
    viewer: DeleterDep,
    services: ServicesDep,
    keep: Annotated[int, Form(ge=0, le=1000)],
    listed: Annotated[str, Form(max_length=200_000)] = "",
    typed: TypedField = "",
) -> Response:
    """Drop former versions, if they are still those that the page named; lead back to the alias."""
    alias, versions = await _read(name, viewer, services)
    confirmation = _describe_prune(alias, versions, keep)
    try:
        check_typed(confirmation, typed)
        await services.aliases.prune(name, keep, viewer, expected=listed.split())
    except SubmissionError as error:
        return ask(request, confirmation, error=error)
    return RedirectResponse(url_of(name), 303)


def _describe_prune(alias: AliasView, versions: dict[str, CollectionView], keep: int) -> Confirmation:
    old = alias.previous[keep:]
    kept = [alias.collection, *alias.previous[:keep]]
    return Confirmation(
        title=f"Drop former versions of alias {alias.name}",
        effects=(
            *(f"{_describe_version(name, versions.get(name))} is deleted from every store." for name in old),
            *([] if old else ["Nothing: there is no version to drop."]),
            f"Kept: {', '.join(kept)}.",
            "The alias cannot move back to a version that was dropped.",
        ),
        button=f"Drop {show_plural(len(old), 'version')}" if old else None,
        keep="Keep all versions" if old else "Back to the alias",
        back=url_of(alias.name),
        back_name=f"Alias {alias.name}",
        section=SECTION,
        type_name=alias.name,
        warning="This cannot be undone." if old else None,
        inputs={"keep": str(keep), "listed": " ".join(old)},
    )


# -- remove -----------------------------------------------------------------------------------------------------------


@router.get(SECTION + "/{name}/remove")
async def ask_remove(name: AliasName, request: Request, viewer: DeleterDep, services: ServicesDep) -> Response:
    """Return the page that asks before the alias is removed."""
    alias, versions = await _read(name, viewer, services)
    return ask(request, _describe_removal(alias, versions))


@router.post(SECTION + "/{name}/remove", name="remove_alias")
async def remove(
    name: AliasName, request: Request, viewer: DeleterDep, services: ServicesDep, typed: TypedField = ""
) -> Response:
    """Remove the alias, if its name was typed; lead to the list."""
    alias, versions = await _read(name, viewer, services)
    confirmation = _describe_removal(alias, versions)
    try:
        check_typed(confirmation, typed)
        await services.aliases.remove(name, viewer)
    except SubmissionError as error:
        return ask(request, confirmation, error=error, typed=typed)
    return RedirectResponse(f"{SECTION}?removed={quote(name, safe='')}", 303)


def _describe_removal(alias: AliasView, versions: dict[str, CollectionView]) -> Confirmation:
    names = [alias.collection, *alias.previous]
    return Confirmation(
        title=f"Remove alias {alias.name}",
        effects=(
            f"Searches of '{alias.name}' fail from now on, in every store.",
            f"Its collections are kept, and can be searched by their own names: {', '.join(names)}.",
        ),
        button="Remove the alias",
        keep="Keep the alias",
        back=url_of(alias.name),
        back_name=f"Alias {alias.name}",
        section=SECTION,
        type_name=alias.name,
        facts=(("Stands for now", _describe_version(alias.collection, versions.get(alias.collection))),),
    )
