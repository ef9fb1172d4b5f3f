"""Routes for operating the service: health, metrics, draining."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import AdminDep, DrainBody, SeesDetailsDep, ServicesDep
from ingestion_engine.api.json_bodies import JsonRoute
from ingestion_engine.api.query_values import ShortTime
from ingestion_engine.api.snapshot import take_snapshot
from ingestion_engine.api.views import show_drain, show_health
from ingestion_engine.models.operations import DrainOrder, DrainView, ReadyView
from ingestion_engine.services.health import ANSWER_S

router = APIRouter(route_class=JsonRoute, tags=["operations"])


@router.get("/livez", operation_id="livez", summary="Liveness probe", response_description="The process responds.")
async def livez() -> dict[str, str]:
    """Return at once, without a check of other systems; restart a process that does not respond."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Readiness probe",
    response_description="Jobs are accepted.",
    responses={503: {"model": ReadyView, "description": "No job can be accepted."}},
    openapi_extra={"security": [{}]},  # added to the schemes: a key is optional
)
async def readyz(
    response: Response,
    services: ServicesDep,
    sees_details: SeesDetailsDep,
    within_s: Annotated[
        ShortTime, Query(description="Maximum number of seconds to wait for dependencies that are slow.")
    ] = ANSWER_S,
) -> ReadyView:
    """Check every dependency. 503 while the database or the state store is unavailable: no job can be accepted then.

    A dependency that has not responded in time shows its last result of the last ten seconds, otherwise it is not ok;
    its check goes on, and the next request shows the result.

    Each result shows its age: a dependency is checked at most every five seconds, one that has failed every second.

    Where API keys are required, a request without one that has the scope `read` receives neither versions nor error
    messages.
    """
    found = await services.health.check(within_s)
    dispatcher = services.dispatcher
    leadership = None if dispatcher is None else dispatcher.leadership.view()
    drain = await services.drain.peek()
    view = show_health(found, leadership, drain, with_details=sees_details)
    if view.status == "unavailable":
        response.status_code = 503
    return view


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(services: ServicesDep) -> Response:
    """Return the metrics in the text format of Prometheus. Cost: two queries, and a check of what was not just checked.

    While the database is unavailable, the numbers of jobs are missing and ``ingest_dependency_up`` of it is 0.
    """
    # Scrapes at the same time share one answer, so that no number of them burdens the database.
    text = await services.scrapes.get("metrics", lambda: _render_metrics(services), keep_s=0)
    return Response(text, media_type=services.metrics.content_type)


async def _render_metrics(services: Services) -> bytes:
    return services.metrics.render(await take_snapshot(services))


@router.get(
    "/drain",
    operation_id="get_drain",
    summary="Show whether the service is drained",
    response_description="Whether the service is drained.",
)
async def get_drain(caller: AdminDep, services: ServicesDep) -> DrainView:
    """Return whether jobs are admitted, and which jobs are under way. Requires the scope `admin`."""
    return show_drain(await services.drain.check())


@router.put(
    "/drain",
    operation_id="start_drain",
    summary="Drain the service",
    response_description="The service is drained.",
)
async def start_drain(caller: AdminDep, services: ServicesDep, order: DrainBody = None) -> DrainView:
    """Admit no waiting job from now on, in all copies of the service, also after a restart.

    Jobs under way go on to their end. New jobs are accepted and wait, or with ``refuse`` they are refused with 503.
    Repeating it changes the order. Requires the scope `admin`.
    """
    order = order or DrainOrder()
    await services.drain.set(refuses=order.refuse, reason=order.reason, requested_by=caller.name)
    return show_drain(await services.drain.check())


@router.delete(
    "/drain",
    operation_id="end_drain",
    summary="End draining",
    response_description="The service is not drained.",
)
async def end_drain(caller: AdminDep, services: ServicesDep) -> DrainView:
    """Let waiting jobs start again. Idempotent. Requires the scope `admin`."""
    await services.drain.clear()
    return show_drain(await services.drain.check())
