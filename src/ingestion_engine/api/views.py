"""What routes return: the models of response bodies, and the functions that make them from records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from ingestion_engine.api.problems import Problem, problem_of_record
from ingestion_engine.domain.records import FAILURES_OF, WARNINGS_OF, EmbeddingWait
from ingestion_engine.domain.spec import DEFAULT_PRIORITY, CollectionContract, EngineName, StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import format_milliseconds, utc_now
from ingestion_engine.services.aliases import AliasDetail
from ingestion_engine.services.collections import CollectionDetail
from ingestion_engine.services.embedding_waits import describe_wait
from ingestion_engine.services.health import Health
from ingestion_engine.services.job_drain import Drain, DrainStatus
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import find_wait
from ingestion_engine.services.jobs import Submitted
from ingestion_engine.services.leadership import LeadershipView
from ingestion_engine.services.search import SearchAnswer

_log = get_logger(__name__)


class View(BaseModel):
    """A response body."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class JobLinks(View):
    """Paths of a job's routes."""

    self: str
    failures: str
    events: str
    logs: str
    cancel: str
    retry: str


class JobAccepted(View):
    """A stored job; it is submitted to its engine in the background."""

    job_id: str = Field(examples=["job-01hzx3v4m5n6p7q8r9s0t1v2w3"])
    engine: EngineName
    state: JobState
    collection: str = Field(examples=["docs_01hzx3v4m5n6p7q8r9s0t1v2w3"])
    """Collection that the job writes: the one in the request, the one behind the requested alias, or a new one that the
    service named."""
    alias: str | None
    """Alias that moves to the collection when the job has succeeded."""
    links: JobLinks


class JobProgress(View):
    """Progress of a job, as last reported by its driver."""

    phase: str
    """``waiting``, ``planning``, ``running``, ``deleting``, ``finishing``, ``paused`` or ``ended``."""
    percent: float | None
    """Share of the work that is done, estimated from chunks and bytes, also inside of large objects; never falls, and
    null while objects are being planned."""
    planning_complete: bool
    """False while the plan, and so the totals, still grow."""
    rates: dict[str, float]
    """``chunks_per_s`` and ``bytes_per_s``."""
    eta_s: float | None
    """Estimated seconds until the job ends; null while unknown: while objects are being planned, the job is paused, or
    nothing is done yet."""
    updated_at: str | None


class EmbeddingView(View):
    """What a running job waits for at the gateways of the embedder."""

    queued: int
    """Requests of the job that wait."""
    in_flight: int
    """Requests of the job that Ollama servers process."""
    ahead: int
    """Flows (jobs, searches, other clients) whose next request goes before the job's."""
    of: int
    """Flows that wait."""
    share: float
    """Part of the characters embedded in the last ten seconds that were the job's, 0 to 1."""
    waited_s: int
    """Age of the job's oldest waiting request, in seconds."""


class JobView(View):
    """A job."""

    job_id: str
    engine: EngineName
    state: JobState
    collection: str
    alias: str | None
    """Alias that moves to the collection when the job has succeeded."""
    mode: str
    request: dict[str, Any]
    """The request as submitted, with defaults filled in and aliases replaced by the name of the collection."""
    attempt: int
    """Number of the current attempt, from 1; 0 before the first."""
    parallelism: int | None
    """Granted number of partitions processed at once; null while the job waits."""
    retry_of: str | None
    """Job whose failed objects this job retries."""
    created_at: str
    submitted_at: str | None
    started_at: str | None
    finished_at: str | None
    queued_s: float
    """Seconds from the submission to the start of the first driver; until now, or to the end, when none has started."""
    duration_s: float | None
    """Seconds from the start to the end, or until now; null before the start."""
    progress: JobProgress | None
    embedding: EmbeddingView | None = None
    """What the job waits for at the gateways; null without a gateway, while none answers, and unless the job runs."""
    counts: dict[str, int]
    """Objects, bytes and chunks by outcome; see docs/api.md."""
    warnings: dict[str, int] = Field(default_factory=dict)
    """What was left out of objects that are done (lines, parts, pictures), by code; see docs/formats.md."""
    failures_by_code: dict[str, int] = Field(default_factory=dict)
    """Failures of objects by the code of their error; see docs/api.md."""
    timings: dict[str, Any]
    """Seconds of workers by stage, requests of workers by system, and seconds that the job waited by what for."""
    error: dict[str, Any] | None
    """Why the job failed or was canceled, in the form of a problem without ``status``."""
    note: str | None
    """Why the job waits; of a job that has ended, what its state alone does not tell, such as that its prefix matches
    no object."""
    waits_for: str | None = None
    """What the job waits for, as a code that ``note`` explains; null while it works. See docs/operate/monitoring.md."""
    links: JobLinks


class JobPage(View):
    """Page of jobs, newest first."""

    items: list[JobView]
    next_cursor: str | None


class Failure(View):
    """An object that could not be ingested, or that differs between the stores."""

    model_config = ConfigDict(extra="allow")

    key: str
    code: str
    reason: str | None = None
    retryable: bool = False
    differences: dict[StoreName, dict[str, int]] = Field(default_factory=dict)
    """Number of points by store and kind of difference, for jobs that compare the stores."""


class FailurePageView(View):
    """Page of a job's failed objects."""

    items: list[Failure]
    next_cursor: str | None


class Hit(View):
    """A passage."""

    model_config = ConfigDict(extra="allow")

    point_id: str
    score: float
    """Cosine similarity, -1 to 1; the same scale for every store."""
    key: str
    text: str


class SearchView(View):
    """Results of each store, best first."""

    collection: str
    """Searched collection; for an alias, its collection when the search began."""
    alias: str | None
    """Name in the request, when it is an alias."""
    model: str
    results: dict[StoreName, list[Hit]]
    errors: dict[StoreName, dict[str, Any]]
    """Stores that could not be searched, with a code and a reason."""
    took_ms: float
    """Duration of the search in milliseconds."""


class StoreCount(View):
    """Number of points of a collection in a store."""

    points: int | None
    error: str | None
    """Why the number is unknown."""


class LastJob(View):
    """The newest job on a collection that the caller may see."""

    job_id: str
    state: JobState
    mode: str
    finished_at: str | None


class LastVerified(View):
    """The last comparison of the whole collection in all stores."""

    job_id: str
    at: str
    differences: int
    """Number of objects that differed, and of points that belonged to no object."""


class CollectionView(View):
    """A collection."""

    name: str
    contract: CollectionContract
    stores: dict[StoreName, StoreCount]
    objects: dict[str, int] | None
    """Number of objects by state (``present``, ``failed``) and of their ``chunks``; null when the table cannot be read,
    and in lists."""
    deleting: bool = False
    """True while the collection is being deleted; jobs on it are refused."""
    last_job: LastJob | None = None
    """Null when there is none, and in lists."""
    verified: LastVerified | None = None
    """Null when there was none, and in lists."""


class CollectionList(View):
    """Page of the collections, ordered by name."""

    items: list[CollectionView]
    next_cursor: str | None
    """Pass as ``cursor`` to get the next page; null at the end."""


class DeletionView(View):
    """Deletion of a collection."""

    collection: str
    deleted: bool
    """True when nothing of the collection is left."""
    note: str | None
    """Why the deletion is not complete yet; the service completes it, and so does the same request."""


class WarningView(View):
    """Something that was left out of an object."""

    code: str = Field(examples=["lines_skipped"])
    count: int
    """How many of them: lines, parts, pictures."""
    detail: str
    """What the first one is and why it was left out."""


class ObjectView(View):
    """Row of the object table."""

    model_config = ConfigDict(extra="allow")

    key: str
    warnings: list[WarningView]
    """What was left out of the object, although it is done; one entry per code."""


class ObjectPage(View):
    """Page of a collection's objects, ordered by key."""

    items: list[ObjectView]
    next_cursor: str | None


class AliasInStore(View):
    """State of an alias in a store."""

    collection: str | None
    """Collection of the alias in the store, as the store spells it; null when the store has no such alias."""
    agrees: bool | None
    """True when that is the right collection; null when the store is unavailable. Disagreement is repaired within
    seconds."""
    error: str | None


class AliasView(View):
    """An alias."""

    name: str = Field(examples=["docs"])
    collection: str = Field(examples=["docs_01hzx3v4m5n6p7q8r9s0t1v2w3"])
    """Collection that the alias stands for; searches use it."""
    previous: list[str]
    """Former versions, newest first."""
    dropping: list[str]
    """Former versions that are being dropped."""
    settled: bool
    """False while a store still has to be updated."""
    job_id: str
    """Job that moved the alias last; a rollback does not change it."""
    moved_at: str
    stores: dict[StoreName, AliasInStore]


class AliasList(View):
    """All aliases."""

    items: list[AliasView]


class PrunedAlias(AliasView):
    """An alias after former versions were dropped."""

    dropped: list[str]
    """Names of the versions that this request dropped."""


class DependencyView(View):
    """State of one dependency of the service."""

    ok: bool
    required: bool
    """True when no job can be accepted without it."""
    latency_ms: float
    """Duration of the last check in milliseconds."""
    age_s: float = 0.0
    """Seconds since that check ended."""
    version: str | None = None
    error: str | None = None


class DispatcherView(View):
    """Copy of the service that dispatches jobs, of several on one database."""

    leading: bool
    """True when it is the copy that answers."""
    holder: str | None = None
    """Name of the copy; null when it is unknown or when no copy dispatches."""
    term: int | None = None
    """Number that grows whenever another copy takes over."""
    since: str | None = None
    """When the copy that answers began to dispatch; null while another one does."""
    note: str | None = None
    """What an operator should know: that no copy dispatches, so that jobs wait."""


class DrainStateView(View):
    """That no waiting job is admitted."""

    since: str
    """When the service was drained."""
    refuses: bool
    """True when new jobs are refused instead of accepted to wait."""
    reason: str | None = None
    """Why, as the operator has written."""
    requested_by: str | None = None
    """Name of the API key that ordered it; null without authentication."""


class JobUnderWayView(View):
    """A job that has been admitted and has not ended."""

    job_id: str
    engine: str
    collection: str
    state: str


class DrainView(View):
    """Whether the service is drained, and how far it is."""

    draining: bool
    """True while no waiting job is admitted."""
    drain: DrainStateView | None = None
    """The order; null while jobs are admitted."""
    under_way: int
    """Number of jobs that have been admitted and have not ended; the service is drained when it is 0."""
    waiting: int
    """Number of jobs that wait for admission."""
    jobs: list[JobUnderWayView]
    """The oldest 100 jobs under way."""


class ReadyView(View):
    """Readiness of the service."""

    status: str
    """``ready``; ``degraded``: jobs are accepted, but wait for a system that is unavailable; ``unavailable``."""
    dependencies: dict[str, DependencyView]
    dispatcher: DispatcherView | None = None
    """Who dispatches jobs; null without a state store."""
    drain: DrainStateView | None = None
    """The order to drain the service; null while waiting jobs are admitted."""


_ERROR_TITLES = {JobState.CANCELED: "Job canceled"}
"""Title of a job's error, where the job did not fail."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "Error as application/problem+json"}
}
"""Every route can return a problem."""


def link_job(job_id: str) -> JobLinks:
    """Return a job's links. Pure."""
    root = f"/jobs/{job_id}"
    return JobLinks(
        self=root,
        failures=f"{root}/failures",
        events=f"{root}/events",
        logs=f"{root}/logs",
        cancel=f"{root}/cancel",
        retry=f"{root}/retry",
    )


def answer_accepted(done: Submitted, response: Response) -> JobAccepted:
    """Return the body of a 202 and set its headers."""
    job = done.job
    response.headers["Location"] = f"/jobs/{job.id}"
    if not done.created:
        response.headers["Idempotency-Replayed"] = "true"
    return JobAccepted(
        job_id=job.id,
        engine=job.engine,
        state=job.state,
        collection=job.collection,
        alias=job.alias,
        links=link_job(job.id),
    )


def show_job(job: JobRecord, wait: EmbeddingWait | None = None) -> JobView:
    """Return the view of a job; the duration of a running one is until now.

    While nothing else is remarkable, the note says what it waits for at the gateways.

    What another version or a defect has left unreadable in a row is left out, and hides neither the job nor others.
    """
    view = _show_readable_job(job)
    if wait is None:
        return view
    embedding = EmbeddingView.model_validate(dataclasses.asdict(wait))
    waits_for = view.waits_for or ("embedder" if view.note is None and describe_wait(wait) else None)
    return view.model_copy(
        update={"embedding": embedding, "note": view.note or describe_wait(wait), "waits_for": waits_for}
    )


def _show_readable_job(job: JobRecord) -> JobView:
    try:
        return _show_whole_job(job)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        _log.warning("job not shown in full", extra={"job_id": job.id, "error": f"{type(error).__name__}: {error}"})
    return _show_whole_job(dataclasses.replace(job, progress=None, counts=None, timings=None, error=None))


def _show_whole_job(job: JobRecord) -> JobView:
    request = {"priority": DEFAULT_PRIORITY, **job.request} if isinstance(job.request, Mapping) else {}
    ended, counts = job.finished_at or utc_now(), job.counts or {}
    warnings = {name: number for name, number in counts.items() if name.startswith(WARNINGS_OF)}
    failures = {name: number for name, number in counts.items() if name.startswith(FAILURES_OF)}
    queued_s = round(max(0.0, ((job.started_at or ended) - job.created_at).total_seconds()), 3)
    duration_s = None if job.started_at is None else round(max(0.0, (ended - job.started_at).total_seconds()), 3)
    return JobView(
        job_id=job.id,
        engine=job.engine,
        state=job.state,
        collection=job.collection,
        alias=job.alias,
        mode=str(request.get("mode", "")),
        request=request,
        attempt=job.attempt,
        parallelism=job.parallelism,
        retry_of=job.retry_of,
        created_at=format_milliseconds(job.created_at),
        submitted_at=format_milliseconds(job.submitted_at),
        started_at=format_milliseconds(job.started_at),
        finished_at=format_milliseconds(job.finished_at),
        queued_s=queued_s,
        duration_s=duration_s,
        progress=show_progress(job),
        counts={name: number for name, number in counts.items() if name not in warnings and name not in failures},
        warnings={name.removeprefix(WARNINGS_OF): number for name, number in warnings.items()},
        failures_by_code={name.removeprefix(FAILURES_OF): number for name, number in failures.items()},
        timings=dict(job.timings or (job.progress or {}).get("timings") or {}),
        error=problem_of_record(job.error, _ERROR_TITLES.get(job.state, "Job failed")),
        note=job.note,
        waits_for=find_wait(job),
        links=link_job(job.id),
    )


def show_progress(job: JobRecord) -> JobProgress | None:
    """Return the progress of a job; None before its driver has reported any. Pure."""
    progress = job.progress
    if progress is None:
        return None
    complete = bool(progress.get("planning_complete"))
    percent = progress.get("percent")
    if complete and "percent" not in progress:  # written by an older driver
        percent = measure_percent(job.counts or {})
    if job.state in {JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED}:
        percent = 100.0
    elif percent is not None:
        # 100 is reserved for jobs that have committed their results.
        percent = min(percent, 99.9)
    rates = {name: float(rate) for name, rate in (progress.get("rates") or {}).items() if rate is not None}
    phase, eta_s = str(progress.get("phase", "running")), progress.get("eta_s")
    if progress.get("attempt", job.attempt) != job.attempt:  # what was done stays done, but nobody works at it now
        phase, eta_s, rates = "waiting", None, {}
    return JobProgress(
        phase="ended" if job.state.is_final else phase,
        percent=percent,
        planning_complete=complete,
        rates=rates,
        eta_s=None if job.state.is_final or job.state is JobState.CANCELING else eta_s,
        updated_at=progress.get("updated_at"),
    )


def measure_percent(counts: Mapping[str, int]) -> float:
    """Return the share of the plan that is done, 0 to 100: of its bytes, or of its partitions without bytes. Pure."""
    for done, planned in (("bytes_read", "bytes_planned"), ("partitions_done", "partitions_planned")):
        total = counts.get(planned, 0)
        if total > 0:
            return round(min(1.0, counts.get(done, 0) / total) * 100, 1)
    return 100.0


def show_search(found: SearchAnswer) -> SearchView:
    """Return the view of a search's results. Pure."""
    results = {name: [Hit.model_validate(hit) for hit in hits] for name, hits in found.results.items()}
    return SearchView(
        collection=found.collection,
        alias=found.alias,
        model=found.model,
        results=results,
        errors=found.errors,
        took_ms=found.took_ms,
    )


def show_collection(detail: CollectionDetail, last_job: JobRecord | None = None) -> CollectionView:
    """Return the view of a collection and of its newest job. Pure."""
    view = CollectionView.model_validate(dataclasses.asdict(detail))
    return view if last_job is None else view.model_copy(update={"last_job": show_last_job(last_job)})


def show_last_job(job: JobRecord) -> LastJob:
    """Return the short view of a job. Pure."""
    finished_at = format_milliseconds(job.finished_at)
    return LastJob(job_id=job.id, state=job.state, mode=show_job(job).mode, finished_at=finished_at)


def show_alias(detail: AliasDetail) -> AliasView:
    """Return the view of an alias. Pure."""
    alias = detail.alias
    return AliasView(
        name=alias.name,
        collection=alias.collection,
        previous=list(alias.previous),
        dropping=list(alias.dropping),
        settled=alias.settled,
        job_id=alias.job_id,
        moved_at=alias.moved_at,
        stores={name: AliasInStore(**dataclasses.asdict(view)) for name, view in detail.stores.items()},
    )


def show_health(
    found: Mapping[str, Health],
    leadership: LeadershipView | None = None,
    drain: Drain | None = None,
    *,
    with_details: bool,
) -> ReadyView:
    """Return the view of all dependencies; without details, versions and error messages are left out. Pure."""
    status = "ready"
    if not all(health.ok for health in found.values()) or (leadership is not None and leadership.is_vacant):
        status = "degraded"
    if not all(health.ok for health in found.values() if health.required):
        status = "unavailable"
    views = {name: DependencyView.model_validate(dataclasses.asdict(health)) for name, health in found.items()}
    if not with_details:
        views = {name: view.model_copy(update={"version": None, "error": None}) for name, view in views.items()}
    return ReadyView(
        status=status,
        dependencies=views,
        dispatcher=show_leadership(leadership, with_details=with_details),
        drain=_show_order(drain, with_details=with_details),
    )


def show_drain(found: DrainStatus) -> DrainView:
    """Return the view of a drain. Pure."""
    return DrainView(
        draining=found.drain is not None,
        drain=_show_order(found.drain, with_details=True),
        under_way=found.under_way,
        waiting=found.waiting,
        jobs=[JobUnderWayView.model_validate(dataclasses.asdict(job)) for job in found.jobs],
    )


def _show_order(drain: Drain | None, *, with_details: bool) -> DrainStateView | None:
    if drain is None:
        return None
    return DrainStateView(
        since=format_milliseconds(drain.since),
        refuses=drain.refuses,
        reason=drain.reason if with_details else None,
        requested_by=(drain.requested_by or None) if with_details else None,
    )


_NO_DISPATCHER = (
    "No copy of the service dispatches: jobs are accepted and wait. Start a copy with INGEST_DISPATCH__ENABLED=true."
)


def show_leadership(leadership: LeadershipView | None, *, with_details: bool) -> DispatcherView | None:
    """Return the view of who dispatches; without details, the name of the copy is left out. Pure."""
    if leadership is None:
        return None
    return DispatcherView(
        leading=leadership.leading,
        holder=leadership.holder if with_details else None,
        term=leadership.term,
        since=format_milliseconds(leadership.since),
        note=_NO_DISPATCHER if leadership.is_vacant else None,
    )
