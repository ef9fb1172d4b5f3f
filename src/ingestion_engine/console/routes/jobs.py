"""Pages of jobs."""

from __future__ import annotations

from fastapi import Request, Response

from ingestion_engine.api.dependencies import ServicesDep
from ingestion_engine.api.views import show_job
from ingestion_engine.console.pages import render
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.viewer import ReaderDep
from ingestion_engine.services.job_store import JobFilter

router = make_router()

PAGE_JOBS = 50
"""Jobs of one page."""


@router.get("/")
async def list_jobs(request: Request, viewer: ReaderDep, services: ServicesDep, cursor: str | None = None) -> Response:
    """Return the list of jobs, newest first."""
    where = JobFilter(owner=viewer.sees_jobs_of)
    found, following = await services.jobs.list_page(where, limit=PAGE_JOBS, cursor=cursor)
    waits = await services.jobs.waits.find(*found)
    jobs = [show_job(job, waits.get(job.id)) for job in found]
    return render(request, "jobs/list.html", section="/", jobs=jobs, cursor=cursor, next_cursor=following)
