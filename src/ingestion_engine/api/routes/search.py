"""The route of searches."""

from __future__ import annotations

from fastapi import APIRouter

from ingestion_engine.api.absence import jobs_explain_absence
from ingestion_engine.api.dependencies import SearchBody, SearcherDep, ServicesDep
from ingestion_engine.api.json_bodies import JsonRoute
from ingestion_engine.api.openapi import problems
from ingestion_engine.api.views import make_search_query, show_search
from ingestion_engine.models.search import SearchView

router = APIRouter(route_class=JsonRoute)


@router.post(
    "/search",
    operation_id="search",
    summary="Search a collection",
    tags=["search"],
    response_description="The nearest passages of each store.",
    responses=problems(404, 409),
)
async def search(body: SearchBody, caller: SearcherDep, services: ServicesDep) -> SearchView:
    """Return the passages nearest to a query, from every store of the collection side by side."""
    caller.check_collection(body.collection)
    async with jobs_explain_absence(body.collection, caller, services):
        return show_search(await services.search.search(make_search_query(body), caller))
