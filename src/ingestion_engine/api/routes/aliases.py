"""Routes of aliases: names that stand for collections and move to newer versions of them."""

from __future__ import annotations

from fastapi import APIRouter

from ingestion_engine.api.dependencies import AliasName, DeleterDep, PruneParams, ReaderDep, ServicesDep, SubmitterDep
from ingestion_engine.api.views import PROBLEMS, show_alias
from ingestion_engine.models.aliases import AliasList, AliasView, PrunedAlias

router = APIRouter(tags=["aliases"], responses=PROBLEMS)


@router.get("/aliases", operation_id="list_aliases", summary="List aliases")
async def list_aliases(caller: ReaderDep, services: ServicesDep) -> AliasList:
    """Return all aliases that the caller may use, each with its state in every store."""
    found = await services.aliases.describe_all(caller.may_use_collection)
    return AliasList(items=[show_alias(one) for one in found])


@router.get("/aliases/{name}", operation_id="get_alias", summary="Get an alias")
async def get_alias(name: AliasName, caller: ReaderDep, services: ServicesDep) -> AliasView:
    """Return the collection of an alias, its former versions, and whether each store agrees."""
    caller.check_collection(name)
    return show_alias(await services.aliases.describe(name))


@router.post("/aliases/{name}/rollback", operation_id="roll_back_alias", summary="Roll back an alias")
async def roll_back_alias(name: AliasName, caller: SubmitterDep, services: ServicesDep) -> AliasView:
    """Move an alias to its newest former version; calling it again reverts the rollback. Searches follow at once."""
    caller.check_collection(name)
    return show_alias(await services.aliases.roll_back(name))


@router.delete("/aliases/{name}/versions", operation_id="prune_alias", summary="Drop former versions of an alias")
async def prune_alias(name: AliasName, query: PruneParams, caller: DeleterDep, services: ServicesDep) -> PrunedAlias:
    """Drop all but the newest former versions: their points in every store and their state."""
    caller.check_collection(name)
    dropped, detail = await services.aliases.prune(name, query.keep)
    return PrunedAlias(**show_alias(detail).model_dump(), dropped=dropped)


@router.delete("/aliases/{name}", status_code=204, operation_id="remove_alias", summary="Remove an alias")
async def remove_alias(name: AliasName, caller: DeleterDep, services: ServicesDep) -> None:
    """Remove an alias; its current and former collections are kept."""
    caller.check_collection(name)
    await services.aliases.remove(name)
