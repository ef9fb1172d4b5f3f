"""What a job's traces mean: pure functions from ledger and engine to the next values of its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.timestamps import Moment, parse_timestamp
from ingestion_engine.services.job_records import JobRecord


@dataclass(frozen=True, slots=True)
class End:
    """The state in which a job ends, and the columns that are set with it."""

    state: JobState
    values: Mapping[str, Any]


def read_outcome(job: JobRecord, summary: Mapping[str, Any], now: Moment) -> End:
    """Return the end of a job that has left a summary. Pure.

    A cancel that came too late does not turn a finished job into a canceled one: the summary decides.
    """
    error = summary.get("error")
    state = JobState(summary["state"])
    if state is JobState.FAILED and error is None:
        error = FatalError("driver_failed", "the job failed without saying why", hint="read the job's log").record()
    values = {
        "counts": dict(summary.get("counts") or {}),
        "timings": dict(summary.get("timings") or {}),
        "error": error,
        "started_at": read_moment(summary.get("started_at")) or job.started_at or job.attempt_started_at,
        "finished_at": read_moment(summary.get("finished_at")) or now,
        "note": None,
        "next_look_at": None,
    }
    return End(state, values)


def read_progress(job: JobRecord, progress: Mapping[str, Any], now: Moment) -> dict[str, Any]:
    """Return the columns that a new ``progress.json`` changes; nothing when it is the one known. Pure."""
    if progress == job.progress or progress.get("attempt", job.attempt) < job.attempt:
        return {}
    values: dict[str, Any] = {"progress": dict(progress), "counts": dict(progress.get("counts") or {})}
    if job.started_at is None:
        values["started_at"] = now
    if job.state is not JobState.CANCELING:
        values["note"] = progress.get("note")
    return values


def end_without_result(job: JobRecord, code: str, message: str, now: Moment) -> End:
    """Return the end of a job that nobody but us can end. Pure."""
    error = FatalError(code, message, hint="GET /jobs/{id}/logs shows what the driver said last", attempt=job.attempt)
    values = {"error": error.record(), "finished_at": now, "note": None, "next_look_at": None}
    return End(JobState.FAILED, values)


def end_canceled(now: Moment) -> End:
    """Return the end of a canceled job without a summary. Pure."""
    return End(JobState.CANCELED, {"finished_at": now, "note": None, "next_look_at": None})


def read_moment(text: Any) -> Moment | None:
    """Return the moment of an RFC 3339 text; None for anything else, which a foreign version may have written. Pure."""
    try:
        return parse_timestamp(text)
    except (TypeError, ValueError):
        return None
