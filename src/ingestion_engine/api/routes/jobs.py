"""Routes of jobs."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from ingestion_engine.api.dependencies import (
    CancelParams,
    ChangedJobDep,
    FailureParams,
    IdempotencyKey,
    IdentitiesDep,
    JobBody,
    JobListParams,
    LogParams,
    ReaderDep,
    ReadJobDep,
    RetryParams,
    ServicesDep,
    SubmitterDep,
)
from ingestion_engine.api.json_bodies import JsonRoute
from ingestion_engine.api.openapi import ACCEPTED, problems, with_headers
from ingestion_engine.api.streams import EventStream
from ingestion_engine.api.views import answer_accepted, show_estimate, show_failure, show_job
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.jobs import FailurePageView, JobAccepted, JobPage, JobView
from ingestion_engine.runtime.addresses import are_addresses_shown
from ingestion_engine.services.contract_defaults import check_submittable
from ingestion_engine.services.job_feed import JobUpdate
from ingestion_engine.services.job_store import JobFilter
from ingestion_engine.services.jobs import read_request

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=256, description="Id of the last event that the client has received."),
]

router = APIRouter(route_class=JsonRoute, tags=["jobs"])


@router.post(
    "/ray/jobs",
    status_code=202,
    operation_id="submit_ray_job",
    summary="Submit a job to Ray",
    responses={**ACCEPTED, **problems(404, 409, 501)},
)
async def submit_ray_job(
    request: JobBody, response: Response, caller: SubmitterDep, services: ServicesDep, key: IdempotencyKey = None
) -> JobAccepted:
    """Store a job on the objects under a prefix and return at once; it is submitted to Ray in the background."""
    caller.check_request(request)
    check_submittable(request)
    done = await services.jobs.submit(EngineName.RAY, request, owner=caller.name, idempotency_key=key, access=caller)
    return answer_accepted(done, response)


@router.post(
    "/spark/jobs",
    status_code=202,
    operation_id="submit_spark_job",
    summary="Submit a job to Spark",
    responses={**ACCEPTED, **problems(404, 409, 501)},
)
async def submit_spark_job(
    request: JobBody, response: Response, caller: SubmitterDep, services: ServicesDep, key: IdempotencyKey = None
) -> JobAccepted:
    """Store a job on the objects under a prefix and return at once; it is submitted to Kubernetes in the background."""
    caller.check_request(request)
    check_submittable(request)
    done = await services.jobs.submit(EngineName.SPARK, request, owner=caller.name, idempotency_key=key, access=caller)
    return answer_accepted(done, response)


@router.post(
    "/spark/manifest",
    operation_id="show_spark_manifest",
    summary="Preview the SparkApplication of a request",
    response_description="The SparkApplication.",
    responses=problems(501),
)
async def show_spark_manifest(request: JobBody, caller: SubmitterDep, services: ServicesDep) -> dict[str, Any]:
    """Return the manifest that ``POST /spark/jobs`` would create, without creating anything."""
    caller.check_request(request)
    check_submittable(request)
    services.preflight.check_configured(EngineName.SPARK, request.stores)
    build = services.parts.spark_manifest
    if build is None:
        raise SubmissionError(
            "engine_not_configured",
            "Spark is not configured, so there is no SparkApplication to show.",
            hint="Set INGEST_SPARK__NAMESPACE.",
            status=501,
        )
    return build(request)


@router.get("/jobs", operation_id="list_jobs", summary="List jobs", response_description="A page of jobs.")
async def list_jobs(query: JobListParams, caller: ReaderDep, services: ServicesDep) -> JobPage:
    """Return jobs, newest first."""
    where = JobFilter(
        engine=query.engine,
        states=query.state or None,
        collection=query.collection,
        owner=query.owner,
        created_after=query.created_after,
        created_before=query.created_before,
        seen_by=caller.sees_jobs_of,
    )
    found, following = await services.jobs.list_page(where, limit=query.limit, cursor=query.cursor or None)
    waits = await services.jobs.waits.find(*found)
    return JobPage(items=[show_job(job, waits.get(job.id)) for job in found], next_cursor=following)


@router.get("/jobs/{job_id}", operation_id="get_job", summary="Get a job", response_description="The job.")
async def get_job(job: ReadJobDep, caller: ReaderDep, services: ServicesDep) -> JobView:
    """Return the state, progress, counts and error of a job."""
    view = show_job(job, (await services.jobs.waits.find(job)).get(job.id), with_throughput=True)
    return show_estimate(view, await services.jobs.estimate(job, seen_by=caller.sees_jobs_of))


@router.get(
    "/jobs/{job_id}/failures",
    operation_id="list_failures",
    summary="List the failed objects of a job",
    response_description="A page of failures.",
)
async def list_failures(job: ReadJobDep, query: FailureParams, services: ServicesDep) -> FailurePageView:
    """Return the objects that could not be ingested or that differ between the stores, with a code and a reason.

    With `code`, a page can be short or empty before the last one: continue while there is a `next_cursor`.
    """
    page = await services.jobs.read_failures(job.id, limit=query.limit, cursor=query.cursor or None, codes=query.code)
    return FailurePageView(items=[show_failure(item) for item in page.items], next_cursor=page.next_cursor)


@router.get(
    "/jobs/{job_id}/logs",
    operation_id="read_logs",
    summary="Read the log of a job's driver",
    response_class=PlainTextResponse,
    responses=with_headers("Log-Position", status=200, description="The lines."),
)
async def read_logs(job: ReadJobDep, query: LogParams, services: ServicesDep, response: Response) -> str:
    """Return the end of the log of one attempt, or, with ``after``, the whole lines that were added since.

    To follow a log, request it with an empty ``after``, then with the header ``Log-Position`` of the previous response.
    Without ``attempt``, the log of the next attempt follows that of one that has ended.
    """
    if query.after is None:
        return await services.jobs.read_log(job.id, query.attempt)
    text, position = await services.jobs.read_log_after(job.id, query.after, query.attempt)
    response.headers["Log-Position"] = str(position)
    return text


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    operation_id="cancel_job",
    summary="Cancel a job",
    response_description="The job, which is canceled, is being canceled, or had ended before.",
)
async def cancel_job(job: ChangedJobDep, query: CancelParams, services: ServicesDep) -> JobView:
    """End a waiting job, or request that a running job ends; points already written are kept.

    A job that has ended is returned unchanged. With ``force``, the service ends the job although its driver has not
    confirmed its end, and fences the driver off.
    """
    return show_job(await services.jobs.cancel(job.id, force=query.force))


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    operation_id="retry_job",
    summary="Retry the failed objects",
    responses={**ACCEPTED, **problems(409, 501)},
)
async def retry_job(
    job: ChangedJobDep,
    query: RetryParams,
    response: Response,
    caller: SubmitterDep,
    services: ServicesDep,
    key: IdempotencyKey = None,
) -> JobAccepted:
    """Store a new job for exactly the objects that failed in a job that has ended; with `code`, for some of them."""
    caller.check_request(read_request(job))
    done = await services.jobs.retry(job.id, owner=caller.name, idempotency_key=key, access=caller, codes=query.code)
    return answer_accepted(done, response)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="follow_job",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events `state` and `progress`, each with a `JobView` as JSON.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The job has ended, and the client has received its last event."},
    },
)
async def follow_job(
    job: ReadJobDep,
    caller: ReaderDep,
    identities: IdentitiesDep,
    services: ServicesDep,
    last_event_id: LastEventId = None,
) -> Response:
    """Stream the job as it is now and after every change, until it has ended.

    Events are named ``state`` (the state differs from the previous event) or ``progress``; the data of both is what
    ``GET /jobs/{id}`` returns. A client that reconnects with ``Last-Event-ID`` first receives the job as it is only if
    it has changed since, whichever copy of the service answers; 204 when it has ended and the client knows it. The
    stream ends when the API key, token or session of the caller expires or is revoked.
    """
    wait = (await services.jobs.waits.find(job)).get(job.id)
    if job.state.is_final and JobUpdate.of(job, wait).version == last_event_id:
        return Response(status_code=204)
    follower = services.jobs.feed.follow(job, wait, known=last_event_id)
    encode = _EventEncoder(job.state if last_event_id is not None and not follower.has_news else None)
    return EventStream(follower, encode, streams=services.streams, caller=caller, identities=identities)


class _EventEncoder:
    """Makes the events of one stream; what they have in common is made once for all streams."""

    def __init__(self, state: JobState | None) -> None:
        """Begin after an event with a state; None when there was none."""
        self._state = state

    def __call__(self, update: JobUpdate | None) -> bytes:
        """Return the wire format of an update; a heartbeat has no event."""
        if update is None:
            return b""
        name = "progress" if update.job.state == self._state else "state"
        self._state = update.job.state
        return update.render((name, are_addresses_shown()), lambda: _encode(update, name))


def _encode(update: JobUpdate, name: str) -> bytes:
    shared = ("data", are_addresses_shown())
    data = update.render(shared, lambda: orjson.dumps(show_job(update.job, update.wait).model_dump(mode="json")))
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (update.version.encode(), name.encode(), data)
