"""Routes for those who run the service: health, metrics, the page at the root."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from ingestion_engine.api.auth import KeyRing
from ingestion_engine.api.page import render_page
from ingestion_engine.api.routes_jobs import Using
from ingestion_engine.api.views import DependencyView, ReadyView, show_job
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.services.job_store import JobFilter

router = APIRouter(tags=["operations"])

PAGE_JOBS = 20
"""Jobs shown on the page; the list has the others."""


@router.get("/livez", operation_id="livez", summary="Is the process alive?")
async def livez() -> dict[str, str]:
    """Answer without asking anybody else: a process that cannot should be restarted."""
    return {"status": "alive"}


@router.get("/readyz", operation_id="readyz", summary="Is everything there?", responses={503: {"model": ReadyView}})
async def readyz(request: Request, response: Response, services: Using) -> ReadyView:
    """Ask every dependency. 503 while the database or the state store is away: then no job can be taken.

    Without a valid API key, where keys are in force, reasons and versions are left out.
    """
    found = await services.health.check()
    for name, health in found.items():
        services.metrics.set_dependency(name, health.ok)
    status = "ready"
    if not all(health.ok for health in found.values()):
        status = "degraded"
    if not all(health.ok for health in found.values() if health.required):
        status = "unavailable"
        response.status_code = 503
    views = {name: DependencyView.model_validate(dataclasses.asdict(health)) for name, health in found.items()}
    if not _is_known(request):
        views = {name: view.model_copy(update={"version": None, "error": None}) for name, view in views.items()}
    return ReadyView(status=status, dependencies=views)


@router.get("/metrics", operation_id="metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(services: Using) -> Response:
    """Return the metrics in Prometheus's text format. One query."""
    services.metrics.set_jobs(await services.store.count_by_state())
    return Response(services.metrics.render(), media_type=services.metrics.content_type)


@router.get("/", include_in_schema=False, response_class=HTMLResponse)
async def page(request: Request, services: Using) -> HTMLResponse:
    """Show where everything is, and the newest jobs where no key is needed to see them."""
    ring: KeyRing = request.app.state.keys
    jobs = []
    if ring.is_open:
        found, _ = await services.jobs.list_page(JobFilter(), limit=PAGE_JOBS, cursor=None)
        jobs = [show_job(job) for job in found]
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(render_page(jobs, locked=not ring.is_open), headers=headers)


def _is_known(request: Request) -> bool:
    ring: KeyRing = request.app.state.keys
    try:
        ring.identify(request.headers.get("authorization"))
    except SubmissionError:
        return False
    return True
