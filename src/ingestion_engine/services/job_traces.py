"""Spans of jobs, made from their rows: a job, its wait for admission, and where its driver continues the trace."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from ingestion_engine.domain.spec import JobTrace
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.runtime.tracing import derive_parent, derive_span_id, open_span, record_span
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobEvent

_NS: Final = 1_000_000_000


def trace_of(settings: Settings, job: JobRecord) -> JobTrace | None:
    """Return where the driver of a job continues its trace; None when the job is not traced. Pure."""
    if settings.tracing.endpoint is None or (parent := find_parent(job)) is None:
        return None
    return JobTrace(traceparent=parent, endpoint=settings.tracing.endpoint)


def find_parent(job: JobRecord) -> str | None:
    """Return the ``traceparent`` of a job's own span; None when the job is not traced. Pure."""
    return None if job.traceparent is None else derive_parent(job.traceparent, job.id)


def open_submission(job: JobRecord) -> AbstractContextManager[object]:
    """Open the span of the submission of an attempt to its engine; none when the job is not traced."""
    parent = find_parent(job)
    return nullcontext() if parent is None else open_span("job.submit", {"attempt": job.attempt}, parent=parent)


def record_change(event: JobEvent, job: JobRecord) -> None:
    """Make the spans of what is over after a change: the job's wait for admission, or the job.

    Args:
        event: What has happened.
        job: The row after it.
    """
    if job.traceparent is None:
        return
    if event is JobEvent.ADMIT and job.attempt == 1 and job.admitted_at is not None:
        record_span("job.wait", _to_ns(job.created_at), _to_ns(job.admitted_at), parent=find_parent(job))
    elif job.state.is_final and job.finished_at is not None:
        attributes = {
            "job_id": job.id,
            "engine": job.engine.value,
            "mode": job.request.get("mode"),
            "state": job.state.value,
            "attempts": job.attempt,
            **{f"ingest.objects.{name}": (job.counts or {}).get(name) for name in ("done", "failed", "deleted")},
        }
        record_span(
            "job",
            _to_ns(job.created_at),
            _to_ns(job.finished_at),
            attributes=attributes,
            parent=job.traceparent,
            span_id=derive_span_id(job.id),
            error_code=(job.error or {}).get("code"),
        )


def _to_ns(moment: Moment) -> int:
    return round(moment.timestamp() * _NS)
