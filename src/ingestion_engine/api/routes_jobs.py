"""Routes of jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, Header, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import Field

from ingestion_engine.api.auth import Asking
from ingestion_engine.api.context import Services, get_services
from ingestion_engine.api.examples import JOB_EXAMPLES
from ingestion_engine.api.views import (
    PROBLEMS,
    Failure,
    FailurePageView,
    JobAccepted,
    JobPage,
    JobView,
    accept_job,
    show_job,
)
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import COLLECTION_PATTERN, EngineName, JobRequest, Strict
from ingestion_engine.domain.states import JobState
from ingestion_engine.services.contract_defaults import check_submittable
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_store import JobFilter
from ingestion_engine.services.jobs import IDEMPOTENCY_KEY_MAX, Submitted

router = APIRouter(tags=["jobs"], responses=PROBLEMS)

Using = Annotated[Services, Depends(get_services)]
RequestBody = Annotated[JobRequest, Body(openapi_examples=JOB_EXAMPLES)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=IDEMPOTENCY_KEY_MAX,
        description="Any string: the same request with the same key returns the first job; another request is refused.",
    ),
]


class JobListQuery(Strict):
    """Which jobs to list."""

    engine: EngineName | None = None
    state: tuple[JobState, ...] = ()
    """May be repeated; none means any."""
    collection: str | None = Field(default=None, pattern=COLLECTION_PATTERN)
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = None
    """``next_cursor`` of the page before."""


class PageQuery(Strict):
    """Which part of a list."""

    limit: int = Field(default=100, ge=1, le=1000)
    cursor: str | None = None
    """``next_cursor`` of the page before."""


class LogQuery(Strict):
    """Which log."""

    attempt: int | None = Field(default=None, ge=1)
    """None means the newest."""


@router.post("/ray/jobs", status_code=202, operation_id="submit_ray_job", summary="Submit a job to Ray")
async def submit_ray_job(
    request: RequestBody, response: Response, asking: Asking, services: Using, key: IdempotencyKey = None
) -> JobAccepted:
    """Store a job on the objects under a prefix, and answer at once; Ray hears of it next."""
    asking.check_request(request)
    check_submittable(request)
    done = await services.jobs.submit(EngineName.RAY, request, owner=asking.name, idempotency_key=key)
    return answer_accepted(done, response)


@router.post("/spark/jobs", status_code=202, operation_id="submit_spark_job", summary="Submit a job to Spark")
async def submit_spark_job(
    request: RequestBody, response: Response, asking: Asking, services: Using, key: IdempotencyKey = None
) -> JobAccepted:
    """Store a job on the objects under a prefix, and answer at once; Kubernetes hears of it next."""
    asking.check_request(request)
    check_submittable(request)
    done = await services.jobs.submit(EngineName.SPARK, request, owner=asking.name, idempotency_key=key)
    return answer_accepted(done, response)


@router.post("/spark/manifest", operation_id="show_spark_manifest", summary="Show the SparkApplication of a request")
async def show_spark_manifest(request: RequestBody, asking: Asking, services: Using) -> dict[str, Any]:
    """Return the manifest that ``POST /spark/jobs`` would create; creates nothing."""
    asking.check_request(request)
    check_submittable(request)
    services.preflight.check_configured(EngineName.SPARK, request.stores)
    build = services.parts.spark_manifest
    if build is None:
        raise SubmissionError("engine_not_configured", "this service builds no SparkApplications", status=501)
    return build(request)


@router.get("/jobs", operation_id="list_jobs", summary="List jobs")
async def list_jobs(query: Annotated[JobListQuery, Query()], asking: Asking, services: Using) -> JobPage:
    """Return jobs, newest first."""
    where = JobFilter(
        engine=query.engine,
        states=query.state or None,
        collection=query.collection,
        owner=asking.sees_jobs_of,
    )
    found, following = await services.jobs.list_page(where, limit=query.limit, cursor=query.cursor)
    return JobPage(items=[show_job(job) for job in found], next_cursor=following)


@router.get("/jobs/{job_id}", operation_id="get_job", summary="Look at a job")
async def get_job(job_id: str, asking: Asking, services: Using) -> JobView:
    """Return a job's state, progress, counts and error."""
    return show_job(asking.check_job(await services.jobs.get(job_id)))


@router.get("/jobs/{job_id}/failures", operation_id="list_failures", summary="List a job's failed objects")
async def list_failures(
    job_id: str, query: Annotated[PageQuery, Query()], asking: Asking, services: Using
) -> FailurePageView:
    """Return the objects that could not be ingested or that differ, each with a code and a reason."""
    asking.check_job(await services.jobs.get(job_id))
    page = await services.jobs.read_failures(job_id, limit=query.limit, cursor=query.cursor)
    return FailurePageView(items=[Failure.model_validate(item) for item in page.items], next_cursor=page.next_cursor)


@router.get(
    "/jobs/{job_id}/logs", operation_id="read_logs", summary="Read a driver's log", response_class=PlainTextResponse
)
async def read_logs(job_id: str, query: Annotated[LogQuery, Query()], asking: Asking, services: Using) -> str:
    """Return the end of the log of a job's driver."""
    asking.check_job(await services.jobs.get(job_id))
    return await services.jobs.read_log(job_id, query.attempt)


@router.post("/jobs/{job_id}/cancel", status_code=202, operation_id="cancel_job", summary="Cancel a job")
async def cancel_job(job_id: str, asking: Asking, services: Using) -> JobView:
    """End a waiting job, or ask a working one to end; what it has written stays. An ended job is shown as it is."""
    asking.check_job(await services.jobs.get(job_id))
    return show_job(await services.jobs.cancel(job_id))


@router.post("/jobs/{job_id}/retry", status_code=202, operation_id="retry_job", summary="Retry a job's failed objects")
async def retry_job(
    job_id: str, response: Response, asking: Asking, services: Using, key: IdempotencyKey = None
) -> JobAccepted:
    """Store a new job for exactly the objects that failed in an ended one."""
    old = asking.check_job(await services.jobs.get(job_id))
    asking.check_request(JobRequest.model_validate(old.request))
    return answer_accepted(await services.jobs.retry(job_id, owner=asking.name, idempotency_key=key), response)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="follow_job",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
)
async def follow_job(job_id: str, asking: Asking, services: Using) -> StreamingResponse:
    """Stream the job as it is now and after every change, until it has ended.

    Events are named ``state`` (the state is another than before) or ``progress``; the data of both is what ``GET
    /jobs/{id}`` returns. A client
    that comes back, with or without ``Last-Event-ID``, starts with the job as it is.
    """
    asking.check_job(await services.jobs.get(job_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(services, job_id), media_type="text/event-stream", headers=headers)


async def _stream(services: Services, job_id: str) -> AsyncIterator[bytes]:
    number = 0
    state: JobState | None = None
    yield b"retry: 2000\n\n"
    async for job in services.jobs.follow(job_id):
        if job is None:
            yield b": still here\n\n"
            continue
        number += 1
        name = "progress" if job.state == state else "state"
        state = job.state
        yield b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), _dump(job))


def _dump(job: JobRecord) -> bytes:
    return orjson.dumps(show_job(job).model_dump(mode="json"))


def answer_accepted(done: Submitted, response: Response) -> JobAccepted:
    """Return the body of a 202 and set its headers."""
    response.headers["Location"] = f"/jobs/{done.job.id}"
    if not done.created:
        response.headers["Idempotency-Replayed"] = "true"
    return accept_job(done.job)
