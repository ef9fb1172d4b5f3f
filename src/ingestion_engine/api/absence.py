"""Adds to the error that a collection does not exist the job that creates it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from ingestion_engine.access.principal import Principal
from ingestion_engine.api.context import Services
from ingestion_engine.domain.errors import CollectionNotFound
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.services.job_store import JobFilter


@contextlib.asynccontextmanager
async def jobs_explain_absence(name: str, caller: Principal, services: Services) -> AsyncIterator[None]:
    """Add the unfinished job that creates a collection to the error that the collection does not exist.

    Cost: one query where the collection does not exist.
    """
    try:
        yield
    except CollectionNotFound as error:
        unfinished = JobFilter(states=tuple(set(JobState) - FINAL_STATES), owner=caller.sees_jobs_of)
        jobs, _ = await services.jobs.list_page(unfinished, limit=500, cursor=None)
        job = next((job for job in jobs if name in (job.collection, job.alias)), None)
        if job is None:
            raise
        raise CollectionNotFound(
            error.code,
            f"Collection {name!r} does not exist yet; job {job.id!r}, which creates it, is {job.state.value}.",
            hint=f"Wait until the job has ended: GET /jobs/{job.id}/events.",
            status=error.status,
            field=error.field,
            job_id=job.id,
        ) from error
