"""Bodies about jobs."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from ingestion_engine.domain.spec import EngineName, StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.view import View


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


class TimeShareView(View):
    """Part of a job's time so far."""

    machine: str
    """``embedder``, ``qdrant``, ``weaviate``, ``s3`` (listing and reading), ``workers`` (their processors),
    ``capacity`` (waiting for a place), ``state``, ``lease``, ``cluster`` or ``other``."""
    share: float
    """Part of the time, 0 to 1."""
    seconds: float
    """The same in seconds of the job."""


class ThroughputSample(View):
    """Totals of a job at a moment; the difference of two samples is the work in between."""

    at: str
    chunks: int
    bytes: int
    """Bytes of objects that were read."""
    objects: int
    """Objects that are done."""


class StorePoints(View):
    """Points of one store that a job has changed or compared."""

    written: int | None = None
    """Points that the store has acknowledged, of objects that the job is done with; points that replace equal ones
    count too, repetitions after an outage do not. Null when unknown: workers of an earlier release did not count."""
    deleted: int | None = None
    """Points that the store has removed: of deleted objects, of former versions, and strays."""
    found: int | None = None
    """Points of the compared objects that the store holds after the comparison; null unless the job compares."""


class PlanEstimateView(View):
    """How long the work of a plan would take, and from what that is estimated."""

    seconds: float
    """From the submission to the end."""
    chunks_per_s: float
    """Median of the earlier jobs."""
    start_s: float
    """Median of their seconds from the submission to the start of their driver, which is part of ``seconds``."""
    jobs: int
    """Number of earlier jobs: the newest, at most five."""
    same_collection: bool
    """True when they are jobs on the same collection; else they are others on the same engine."""


class JobView(View):
    """A job."""

    job_id: str
    engine: EngineName
    state: JobState
    collection: str
    alias: str | None
    """Alias that moves to the collection when the job has succeeded."""
    mode: str
    owner: str = ""
    """Name of the API key or the person that submitted the job; empty without authentication."""
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
    queued_s: float = 0.0
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
    store_points: dict[str, StorePoints] | None = None
    """Points written, deleted and found by store; null before the driver has reported any, and of an earlier release.
    The stores hold the same points, so their numbers are equal unless a store has refused or lost some; see
    docs/api.md."""
    timings: dict[str, Any]
    """Seconds of workers by stage, requests of workers by system, and seconds that the job waited by what for."""
    limited_by: list[TimeShareView] | None = None
    """What the job's time went to, the largest part first: which machine limits it. Null while it is not known. See
    docs/operate/monitoring.md."""
    throughput: list[ThroughputSample] | None = None
    """At most 121 samples over the whole job, oldest first; null in lists and events, and when the driver has reported
    none."""
    estimate: PlanEstimateView | None = None
    """Of a plan that has succeeded: how long its work would take; null in lists and events, and while no earlier job
    shows a pace."""
    error: dict[str, Any] | None
    """Why the job failed or was canceled, in the form of a problem without ``status``."""
    note: str | None
    """Why the job waits; of a job that has ended, what its state alone does not tell, such as that its prefix matches
    no object."""
    waits_for: str | None = None
    """What the job waits for, as a code that ``note`` explains; null while it works. See docs/operate/monitoring.md."""
    links: JobLinks

    def find_differences(self) -> list[str]:
        """Return what the stores differ in: those of ``written``, ``deleted`` and ``found`` that are known. Pure."""
        points = list((self.store_points or {}).values())
        return [
            name
            for name in StorePoints.model_fields
            if len({number for one in points if (number := getattr(one, name)) is not None}) > 1
        ]


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
    hint: str | None = None
    """What to do about failures of this code."""
    differences: dict[StoreName, dict[str, int]] = Field(default_factory=dict)
    """Number of points by store and kind of difference, for jobs that compare the stores."""


class FailurePageView(View):
    """Page of a job's failed objects."""

    items: list[Failure]
    next_cursor: str | None
