"""What routes return: the functions that make the bodies of responses from records."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from ingestion_engine.api.problems import problem_of_record
from ingestion_engine.domain.failure_hints import FAILURE_HINTS
from ingestion_engine.domain.ports import SearchFilter
from ingestion_engine.domain.records import FAILURES_OF, POINTS_OF, WARNINGS_OF, EmbeddingWait
from ingestion_engine.domain.spec import DEFAULT_PRIORITY
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.aliases import AliasInStore, AliasView
from ingestion_engine.models.audit import AuditEntryView
from ingestion_engine.models.collections import (
    ChunkInStore,
    ChunkPageView,
    ChunkView,
    CollectionView,
    LastJob,
    ObjectView,
    StoreErrorView,
)
from ingestion_engine.models.collections import ObjectPage as ObjectPageView
from ingestion_engine.models.jobs import (
    EmbeddingView,
    Failure,
    JobAccepted,
    JobLinks,
    JobProgress,
    JobView,
    PlanEstimateView,
    StorePoints,
    ThroughputSample,
    TimeShareView,
)
from ingestion_engine.models.operations import (
    DependencyView,
    DispatcherView,
    DrainStateView,
    DrainView,
    JobUnderWayView,
    ReadyView,
)
from ingestion_engine.models.search import Hit, SearchRequest, SearchView
from ingestion_engine.runtime.addresses import for_caller
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import format_milliseconds, utc_now
from ingestion_engine.services.aliases import AliasDetail
from ingestion_engine.services.audit.entries import AuditEntry
from ingestion_engine.services.bottleneck import divide_time
from ingestion_engine.services.chunks import ChunkDetail, ChunkPage
from ingestion_engine.services.collections import CollectionDetail, ObjectPage, show_row
from ingestion_engine.services.embedding_waits import describe_wait
from ingestion_engine.services.health import Health
from ingestion_engine.services.job_drain import Drain, DrainStatus
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import find_wait
from ingestion_engine.services.jobs import Submitted
from ingestion_engine.services.leadership import LeadershipView
from ingestion_engine.services.plan_estimates import PlanEstimate
from ingestion_engine.services.search import SearchAnswer, SearchQuery

_log = get_logger(__name__)


_ERROR_TITLES = {JobState.CANCELED: "Job canceled"}
"""Title of a job's error, where the job did not fail."""

MOST_SAMPLES = 500
"""Samples of a job that are shown; drivers of this version keep at most 121."""


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


def show_job(job: JobRecord, wait: EmbeddingWait | None = None, *, with_throughput: bool = False) -> JobView:
    """Return the view of a job; the duration of a running one is until now. Samples of its throughput are left out
    unless they are wanted.

    While nothing else is remarkable, the note says what it waits for at the gateways.

    What another version or a defect has left unreadable in a row is left out, and hides neither the job nor others.
    """
    view = _show_readable_job(job)
    if with_throughput:
        view = view.model_copy(update={"throughput": show_throughput(job)})
    if wait is None:
        return view
    embedding = EmbeddingView.model_validate(dataclasses.asdict(wait))
    waits_for = view.waits_for or ("embedder" if view.note is None and describe_wait(wait) else None)
    return view.model_copy(
        update={"embedding": embedding, "note": view.note or _for_caller(describe_wait(wait)), "waits_for": waits_for}
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
    own = {
        n: number for n, number in counts.items() if not n.startswith((WARNINGS_OF, FAILURES_OF, *POINTS_OF.values()))
    }
    queued_s = round(max(0.0, ((job.started_at or ended) - job.created_at).total_seconds()), 3)
    duration_s = None if job.started_at is None else round(max(0.0, (ended - job.started_at).total_seconds()), 3)
    timings = dict(job.timings or (job.progress or {}).get("timings") or {})
    limits = divide_time(timings, queued_s=queued_s, run_s=duration_s)
    return JobView(
        job_id=job.id,
        engine=job.engine,
        state=job.state,
        collection=job.collection,
        alias=job.alias,
        mode=str(request.get("mode", "")),
        owner=job.owner,
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
        counts=own,
        warnings={name.removeprefix(WARNINGS_OF): number for name, number in warnings.items()},
        failures_by_code={name.removeprefix(FAILURES_OF): number for name, number in failures.items()},
        store_points=show_points(counts),
        timings=timings,
        limited_by=[TimeShareView(**dataclasses.asdict(one)) for one in limits] or None,
        error=problem_of_record(job.error, _ERROR_TITLES.get(job.state, "Job failed")),
        note=_for_caller(job.note),
        waits_for=find_wait(job),
        links=link_job(job.id),
    )


def show_points(counts: Mapping[str, int]) -> dict[str, StorePoints] | None:
    """Return the points by store in the counts of a job, as far as they are known; None without any. Pure."""
    shown: dict[str, dict[str, int]] = {}
    for kind, prefix in POINTS_OF.items():
        for name, number in counts.items():
            if name.startswith(prefix):
                shown.setdefault(name.removeprefix(prefix), {})[kind] = number
    return {store: StorePoints(**numbers) for store, numbers in sorted(shown.items())} or None


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


def show_estimate(view: JobView, estimate: PlanEstimate | None) -> JobView:
    """Return the view of a plan with how long its work would take. Pure."""
    if estimate is None:
        return view
    return view.model_copy(update={"estimate": PlanEstimateView(**dataclasses.asdict(estimate))})


def show_throughput(job: JobRecord) -> list[ThroughputSample] | None:
    """Return the samples of a job's throughput; None when its driver has reported none that can be read. Pure."""
    try:
        samples = (job.progress or {})["throughput"]["samples"]
        return [
            ThroughputSample(
                at=format_milliseconds(dt.datetime.fromtimestamp(at, dt.UTC)), chunks=chunks, bytes=read, objects=done
            )
            for at, chunks, read, done in samples[:MOST_SAMPLES]
        ] or None
    except (LookupError, OverflowError, OSError, TypeError, ValueError):
        return None


def show_failure(item: Mapping[str, Any]) -> Failure:
    """Return the view of a failed object, with what to do about failures of its kind. Pure."""
    hint = FAILURE_HINTS.get(str(item.get("code")))
    return Failure.model_validate({**row_for_caller(item), "hint": hint})


def _for_caller(text: str | None) -> str | None:
    return None if text is None else for_caller(text)


def row_for_caller(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object's row or failure with its reason as the caller of the present request may read it."""
    reason = row.get("reason")
    return {**row, "reason": for_caller(reason)} if isinstance(reason, str) else dict(row)


def measure_percent(counts: Mapping[str, int]) -> float:
    """Return the share of the plan that is done, 0 to 100: of its bytes, or of its partitions without bytes. Pure."""
    for done, planned in (("bytes_read", "bytes_planned"), ("partitions_done", "partitions_planned")):
        total = counts.get(planned, 0)
        if total > 0:
            return round(min(1.0, counts.get(done, 0) / total) * 100, 1)
    return 100.0


def make_search_query(body: SearchRequest) -> SearchQuery:
    """Return the search that a body describes. Pure."""
    where = SearchFilter(
        bucket=body.filter.bucket,
        content_type=body.filter.content_type,
        metadata=body.filter.metadata or None,
        key_prefix=body.filter.key_prefix,
    )
    return SearchQuery(collection=body.collection, query=body.query, limit=body.limit, stores=body.stores, where=where)


def show_search(found: SearchAnswer) -> SearchView:
    """Return the view of a search's results. Pure."""
    results = {name: [Hit.model_validate(hit) for hit in hits] for name, hits in found.results.items()}
    return SearchView(
        collection=found.collection,
        alias=found.alias,
        model=found.model,
        results=results,
        errors={name: {**error, "detail": for_caller(error["detail"])} for name, error in found.errors.items()},
        took_ms=found.took_ms,
        differences=found.differences,
    )


def show_objects(page: ObjectPage) -> ObjectPageView:
    """Return the view of a page of objects. Pure."""
    shown = dataclasses.asdict(page)
    return ObjectPageView.model_validate({**shown, "items": [row_for_caller(row) for row in shown["items"]]})


def show_chunks(page: ChunkPage) -> ChunkPageView:
    """Return the view of a page of an object's chunks. Pure."""
    return ChunkPageView(
        collection=page.collection,
        key=page.key,
        object=None if page.row is None else ObjectView.model_validate(row_for_caller(show_row(page.row))),
        items=list(map(_show_chunk, page.items)),
        errors={
            name: StoreErrorView(code=error.code, detail=for_caller(error.message))
            for name, error in page.errors.items()
        },
        next_cursor=page.next_cursor,
    )


def _show_chunk(chunk: ChunkDetail) -> ChunkView:
    """Return the view of a chunk; a field of another type than ours, which only damage writes, is left out. Pure."""
    texts = {name: chunk.payload.get(name) for name in ("text", "context")}
    numbers = {name: chunk.payload.get(name) for name in ("page", "start_char", "end_char")}
    return ChunkView(
        chunk_index=chunk.index,
        point_id=chunk.point_id,
        agreement=chunk.agreement,
        differences=list(chunk.differences),
        stores={name: ChunkInStore(**dataclasses.asdict(copy)) for name, copy in chunk.stores.items()},
        **{name: value if isinstance(value, str) else None for name, value in texts.items()},
        **{name: value if isinstance(value, int) else None for name, value in numbers.items()},
    )


def show_collection(detail: CollectionDetail, last_job: JobRecord | None = None) -> CollectionView:
    """Return the view of a collection and of its newest job. Pure."""
    view = CollectionView.model_validate(dataclasses.asdict(detail))
    for count in view.stores.values():
        count.error = _for_caller(count.error)
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
        stores={
            name: AliasInStore(collection=view.collection, agrees=view.agrees, error=_for_caller(view.error))
            for name, view in detail.stores.items()
        },
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
    for view in views.values():
        view.error = _for_caller(view.error)
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


def show_audit_entry(entry: AuditEntry) -> AuditEntryView:
    """Return an entry of the audit log as a response body. Pure."""
    return AuditEntryView.model_validate(
        {
            **{name: value for name, value in entry.values().items() if name in AuditEntryView.model_fields},
            "at": format_milliseconds(entry.at),
            "until": format_milliseconds(entry.until),
        }
    )
