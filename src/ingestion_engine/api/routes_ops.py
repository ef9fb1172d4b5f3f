"""Routes for operating the service: health, metrics, the page at the root."""

from __future__ import annotations

import contextlib
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse

from ingestion_engine.api.dependencies import CallerKnownDep, KeyRingDep, ServicesDep
from ingestion_engine.api.page import render_page
from ingestion_engine.api.views import ReadyView, show_health, show_job
from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.services.health import ANSWER_S
from ingestion_engine.services.job_store import JobFilter

router = APIRouter(tags=["operations"])

PAGE_JOBS = 20
"""Jobs on the page; ``GET /jobs`` lists all."""


@router.get("/livez", operation_id="livez", summary="Liveness probe")
async def livez() -> dict[str, str]:
    """Return at once, without a check of other systems; restart a process that does not respond."""
    return {"status": "alive"}


@router.get("/readyz", operation_id="readyz", summary="Readiness probe", responses={503: {"model": ReadyView}})
async def readyz(
    response: Response,
    services: ServicesDep,
    caller_known: CallerKnownDep,
    within_s: Annotated[
        float, Query(gt=0, le=30, description="Maximum number of seconds to wait for dependencies that are slow.")
    ] = ANSWER_S,
) -> ReadyView:
    """Check every dependency. 503 while the database or the state store is unavailable: no job can be accepted then.

    A dependency that has not responded in time shows its last result of the last ten seconds, otherwise it is not ok;
    its check goes on, and the next request shows the result.

    Where API keys are required, a request without a valid one receives neither versions nor error messages.
    """
    found = await services.health.check(within_s)
    for name, health in found.items():
        services.metrics.set_dependency(name, health.ok)
    dispatcher = services.dispatcher
    leadership = None if dispatcher is None else dispatcher.leadership.view()
    view = show_health(found, leadership, with_details=caller_known)
    if view.status == "unavailable":
        response.status_code = 503
    return view


@router.get("/metrics", operation_id="metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(services: ServicesDep) -> Response:
    """Return the metrics in the text format of Prometheus. Cost: one query.

    While the database is unavailable, the numbers of jobs are missing and ``ingest_dependency_up`` of it is 0.
    """
    numbers = None
    with contextlib.suppress(DatabaseUnavailable):
        numbers = await services.store.count_by_state()
    services.metrics.set_jobs(numbers, len(services.store.unreadable))
    services.metrics.set_dependency("database", numbers is not None)
    if services.dispatcher is not None:
        leadership = services.dispatcher.leadership.view()
        services.metrics.set_leadership(leadership.leading, leadership.term)
        if (retention := services.retention) is not None:
            services.metrics.set_backlog(retention.backlog if leadership.leading else None, retention.needed)
    return Response(services.metrics.render(), media_type=services.metrics.content_type)


@router.get("/", include_in_schema=False, response_class=HTMLResponse)
async def page(keys: KeyRingDep, services: ServicesDep) -> HTMLResponse:
    """Return a page with links and, where no API key is required, the newest jobs."""
    jobs = []
    fault = None
    if keys.is_open:
        try:
            found, _ = await services.jobs.list_page(JobFilter(), limit=PAGE_JOBS, cursor=None)
            jobs = [show_job(job) for job in found]
        except DatabaseUnavailable as error:
            fault = error.message
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    status = 200 if fault is None else 503
    return HTMLResponse(render_page(jobs, locked=not keys.is_open, fault=fault), status_code=status, headers=headers)
