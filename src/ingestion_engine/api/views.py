"""What the API's answers look like, and how they are made from rows and ledgers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ingestion_engine.api.problems import Problem, problem_of_record
from ingestion_engine.domain.spec import EngineName, StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.timestamps import format_milliseconds, utc_now
from ingestion_engine.services.job_records import JobRecord


class View(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class JobLinks(View):
    """Where to go from a job."""

    self: str
    failures: str
    events: str
    logs: str
    cancel: str
    retry: str


class JobAccepted(View):
    """A job was stored; its engine hears of it next."""

    job_id: str = Field(examples=["job-01hzx3v4m5n6p7q8r9s0t1v2w3"])
    engine: EngineName
    state: JobState
    collection: str = Field(examples=["docs_01hzx3v4m5n6p7q8r9s0t1v2w3"])
    """What it writes: as named by the request, by the alias that the request named, or by the service."""
    alias: str | None
    """The alias that stands for the collection once the job has succeeded."""
    links: JobLinks


class JobProgress(View):
    """How far a job is, as its driver last said."""

    phase: str
    """``waiting``, ``planning``, ``running``, ``deleting``, ``finishing`` or ``paused``."""
    percent: float | None
    """Share of the planned bytes that is done; None until the plan is complete."""
    planning_complete: bool
    """False while the totals still grow."""
    rates: dict[str, float]
    """``chunks_per_s`` and ``bytes_per_s``."""
    eta_s: float | None
    updated_at: str | None


class JobView(View):
    """A job."""

    job_id: str
    engine: EngineName
    state: JobState
    collection: str
    alias: str | None
    """The alias that stands for the collection once the job has succeeded."""
    mode: str
    request: dict[str, Any]
    """As submitted, with defaults filled in and the collection's own name."""
    attempt: int
    """Which driver is at work, from 1; 0 before the first."""
    parallelism: int | None
    """Partitions at once as granted; None while the job waits."""
    retry_of: str | None
    """The job whose failed objects this one tries again."""
    created_at: str
    submitted_at: str | None
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    """From start to end, or to now; None before the start."""
    progress: JobProgress | None
    counts: dict[str, int]
    """Objects, bytes and chunks by what became of them; see docs/api.md."""
    timings: dict[str, Any]
    error: dict[str, Any] | None
    """Why the job failed, formed like a problem."""
    note: str | None
    """What the job waits for."""
    links: JobLinks


class JobPage(View):
    """Some jobs, newest first."""

    items: list[JobView]
    next_cursor: str | None


class Failure(View):
    """An object that could not be ingested, or that a comparison of the stores found to differ."""

    model_config = ConfigDict(extra="allow")

    key: str
    code: str
    reason: str | None = None
    retryable: bool = False
    differences: dict[StoreName, dict[str, int]] = Field(default_factory=dict)
    """Points by store and kind of difference, when the stores were compared."""


class FailurePageView(View):
    """Some of a job's failed objects."""

    items: list[Failure]
    next_cursor: str | None


class Hit(View):
    """One passage that was found."""

    model_config = ConfigDict(extra="allow")

    point_id: str
    score: float
    """Cosine similarity, -1 to 1; the same scale for every store."""
    key: str
    text: str


class SearchView(View):
    """What each store found, best first."""

    collection: str
    """What was searched: for an alias, what it stood for when the search began."""
    alias: str | None
    """The name that was asked, when it is an alias."""
    model: str
    results: dict[StoreName, list[Hit]]
    errors: dict[StoreName, dict[str, Any]]
    """Stores that could not be searched, and why."""
    took_ms: float


class DependencyView(View):
    """One system that the service needs."""

    ok: bool
    required: bool
    latency_ms: float
    version: str | None = None
    error: str | None = None


class ReadyView(View):
    """Whether the service can work."""

    status: str
    """``ready``; ``degraded`` (jobs are taken, but wait for a system that is away); ``unavailable``."""
    dependencies: dict[str, DependencyView]


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "What went wrong, as application/problem+json"}
}
"""Every route may answer with a problem."""


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


def accept_job(job: JobRecord) -> JobAccepted:
    """Return the answer to a submission. Pure."""
    return JobAccepted(
        job_id=job.id,
        engine=job.engine,
        state=job.state,
        collection=job.collection,
        alias=job.alias,
        links=link_job(job.id),
    )


def show_job(job: JobRecord) -> JobView:
    """Return a job as the API shows it."""
    ended = job.finished_at or utc_now()
    duration_s = None if job.started_at is None else round(max(0.0, (ended - job.started_at).total_seconds()), 3)
    return JobView(
        job_id=job.id,
        engine=job.engine,
        state=job.state,
        collection=job.collection,
        alias=job.alias,
        mode=str(job.request["mode"]),
        request=dict(job.request),
        attempt=job.attempt,
        parallelism=job.parallelism,
        retry_of=job.retry_of,
        created_at=format_milliseconds(job.created_at),
        submitted_at=format_milliseconds(job.submitted_at),
        started_at=format_milliseconds(job.started_at),
        finished_at=format_milliseconds(job.finished_at),
        duration_s=duration_s,
        progress=show_progress(job),
        counts=dict(job.counts or {}),
        timings=dict(job.timings or {}),
        error=problem_of_record(job.error),
        note=job.note,
        links=link_job(job.id),
    )


def show_progress(job: JobRecord) -> JobProgress | None:
    """Return a job's progress; None before its driver has said anything. Pure."""
    progress = job.progress
    if progress is None:
        return None
    complete = bool(progress.get("planning_complete"))
    percent = measure_percent(job.counts or {}) if complete else None
    if job.state in {JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED}:
        percent = 100.0
    elif percent is not None:
        # 100 is kept for jobs that have committed their results.
        percent = min(percent, 99.9)
    rates = {name: float(rate) for name, rate in (progress.get("rates") or {}).items() if rate is not None}
    return JobProgress(
        phase="ended" if job.state.is_final else str(progress.get("phase", "running")),
        percent=percent,
        planning_complete=complete,
        rates=rates,
        eta_s=None if job.state.is_final else progress.get("eta_s"),
        updated_at=progress.get("updated_at"),
    )


def measure_percent(counts: Mapping[str, int]) -> float:
    """Return the share of the plan that is done, 0 to 100: of its bytes, or of its partitions when it has none.
    Pure.
    """
    for done, planned in (("bytes_read", "bytes_planned"), ("partitions_done", "partitions_planned")):
        total = counts.get(planned, 0)
        if total > 0:
            return round(min(1.0, counts.get(done, 0) / total) * 100, 1)
    return 100.0
