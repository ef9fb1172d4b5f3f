"""Routes of aliases: names that stand for collections and move to newer versions of them."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ingestion_engine.api.dependencies import (
    AliasName,
    AliasParams,
    DeleterDep,
    IdempotencyKey,
    PruneParams,
    ReaderDep,
    RollbackBody,
    ServicesDep,
    SubmitterDep,
)
from ingestion_engine.api.json_bodies import JsonRoute
from ingestion_engine.api.openapi import problems, with_headers
from ingestion_engine.api.views import show_alias
from ingestion_engine.models.aliases import AliasList, AliasView, PrunedAlias

router = APIRouter(route_class=JsonRoute, tags=["aliases"])


@router.get("/aliases", operation_id="list_aliases", summary="List aliases", response_description="A page of aliases.")
async def list_aliases(query: AliasParams, caller: ReaderDep, services: ServicesDep) -> AliasList:
    """Return the aliases that the caller may use, by name, each with its state in every store.

    All of them, unless ``limit`` is given. A page can be short before the last one, which has no ``next_cursor``.
    """
    found, following = await services.aliases.list_page(caller, after=query.cursor or "", limit=query.limit)
    return AliasList(items=[show_alias(one) for one in found], next_cursor=following)


@router.get("/aliases/{name}", operation_id="get_alias", summary="Get an alias", response_description="The alias.")
async def get_alias(name: AliasName, caller: ReaderDep, services: ServicesDep) -> AliasView:
    """Return the collection of an alias, its former versions, and whether each store agrees."""
    caller.check_collection(name)
    return show_alias(await services.aliases.describe(name, caller))


@router.post(
    "/aliases/{name}/rollback",
    operation_id="roll_back_alias",
    summary="Roll back an alias",
    responses={
        **with_headers("Idempotency-Replayed", status=200, description="The alias as it is now."),
        **problems(409),
    },
)
async def roll_back_alias(
    name: AliasName,
    response: Response,
    caller: SubmitterDep,
    services: ServicesDep,
    order: RollbackBody = None,
    key: IdempotencyKey = None,
) -> AliasView:
    """Move an alias to a former version: the one in ``to``, or the newest. Searches follow at once.

    Without ``to`` and without ``Idempotency-Key``, the same request again reverts the rollback. With ``to``, it changes
    nothing once the alias stands for that version. With a key, it never moves the alias again: the response shows the
    alias as it is. An alias remembers the keys of its last 32 rollbacks.
    """
    caller.check_collection(name)
    to = None if order is None else order.to
    done = await services.aliases.roll_back(name, caller, to, owner=caller.name, idempotency_key=key)
    if done.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return show_alias(done.detail)


@router.delete(
    "/aliases/{name}/versions",
    operation_id="prune_alias",
    summary="Drop former versions of an alias",
    response_description="The alias, and the versions that were dropped.",
    responses=problems(409),
)
async def prune_alias(name: AliasName, query: PruneParams, caller: DeleterDep, services: ServicesDep) -> PrunedAlias:
    """Drop all but the newest former versions: their points in every store and their state.

    Repeating it is safe: a version that is dropped already is not listed under ``dropped`` again.
    """
    caller.check_collection(name)
    dropped, detail = await services.aliases.prune(name, query.keep, caller)
    return PrunedAlias(**show_alias(detail).model_dump(), dropped=dropped)


@router.delete(
    "/aliases/{name}",
    status_code=204,
    operation_id="remove_alias",
    summary="Remove an alias",
    response_description="The alias is removed.",
    responses=problems(409),
)
async def remove_alias(name: AliasName, caller: DeleterDep, services: ServicesDep) -> None:
    """Remove an alias; its current and former collections are kept.

    Repeating it is safe: 404 means that the alias is gone.
    """
    caller.check_collection(name)
    await services.aliases.remove(name, caller)
