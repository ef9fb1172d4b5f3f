"""Routes of aliases: names that stand for collections and move to newer versions of them."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from ingestion_engine.api.auth import Asking
from ingestion_engine.api.routes_jobs import Using
from ingestion_engine.api.views import PROBLEMS, View
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.services.aliases import AliasDetail

router = APIRouter(tags=["aliases"], responses=PROBLEMS)


class AliasInStore(View):
    """What a store knows under an alias's name."""

    collection: str | None
    """As the store spells it; None when it knows no such alias."""
    agrees: bool | None
    """Whether that is right; None when the store could not be asked. What disagrees is mended within seconds."""
    error: str | None


class AliasView(View):
    """An alias."""

    name: str = Field(examples=["docs"])
    collection: str = Field(examples=["docs_01hzx3v4m5n6p7q8r9s0t1v2w3"])
    """What it stands for; searches follow this."""
    previous: list[str]
    """What it stood for before, newest first."""
    dropping: list[str]
    """Former versions that are being dropped."""
    settled: bool
    """False while the stores are still to follow."""
    job_id: str
    """The job that moved it last; a rollback leaves it."""
    moved_at: str
    stores: dict[StoreName, AliasInStore]


class AliasList(View):
    """All aliases."""

    items: list[AliasView]


class PrunedAlias(AliasView):
    """An alias, and what was dropped of it."""

    dropped: list[str]
    """Names of the versions that this request dropped."""


class PruneQuery(View):
    """Which versions to keep."""

    keep: int = Field(default=1, ge=0, le=1000)
    """How many former versions stay, the newest ones."""


@router.get("/aliases", operation_id="list_aliases", summary="List aliases")
async def list_aliases(asking: Asking, services: Using) -> AliasList:
    """Return all aliases that the caller may use, with what each store knows of them."""
    found = await services.aliases.describe_all(asking.may_use_collection)
    return AliasList(items=[_show(one) for one in found])


@router.get("/aliases/{name}", operation_id="get_alias", summary="Look at an alias")
async def get_alias(name: str, asking: Asking, services: Using) -> AliasView:
    """Return what an alias stands for, what it stood for before, and whether each store agrees."""
    asking.check_collection(name)
    return _show(await services.aliases.describe(name))


@router.post("/aliases/{name}/rollback", operation_id="roll_back_alias", summary="Go back to the version before")
async def roll_back_alias(name: str, asking: Asking, services: Using) -> AliasView:
    """Have an alias stand for what it stood for before; once more undoes it. Searches follow at once."""
    asking.check_collection(name)
    return _show(await services.aliases.roll_back(name))


@router.delete("/aliases/{name}/versions", operation_id="prune_alias", summary="Drop former versions")
async def prune_alias(name: str, query: Annotated[PruneQuery, Query()], asking: Asking, services: Using) -> PrunedAlias:
    """Drop former versions but the newest ones: their points in every store and all that is known of them."""
    asking.check_collection(name)
    dropped, detail = await services.aliases.prune(name, query.keep)
    return PrunedAlias(**_show(detail).model_dump(), dropped=dropped)


@router.delete("/aliases/{name}", status_code=204, operation_id="remove_alias", summary="Remove an alias")
async def remove_alias(name: str, asking: Asking, services: Using) -> None:
    """Remove an alias; the collections that it stands and stood for stay."""
    asking.check_collection(name)
    await services.aliases.remove(name)


def _show(detail: AliasDetail) -> AliasView:
    alias = detail.alias
    return AliasView(
        name=alias.name,
        collection=alias.collection,
        previous=list(alias.previous),
        dropping=list(alias.dropping),
        settled=alias.settled,
        job_id=alias.job_id,
        moved_at=alias.moved_at,
        stores={name: AliasInStore(**dataclasses.asdict(view)) for name, view in detail.stores.items()},
    )
