"""Updates of a job's row: pure functions from the ledger's summary and progress to the next values of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.runtime.timestamps import Moment, parse_timestamp
from ingestion_engine.services.job_records import JobRecord


@dataclass(frozen=True, slots=True)
class End:
    """The state in which a job ends, and the columns that are set with it."""

    state: JobState
    values: Mapping[str, Any]


def read_outcome(job: JobRecord, summary: Mapping[str, Any], now: Moment) -> End:
    """Return the end of a job that has a summary. Pure.

    The summary decides: a cancel request that came too late does not turn a finished job into a canceled one.
    """
    error = _read_error(summary.get("error"))
    try:
        state = JobState(summary.get("state"))  # type: ignore[arg-type]  # what is no text is no state either
    except ValueError:
        state = None
    if state not in FINAL_STATES:
        return end_failed(
            FatalError(
                "summary_invalid",
                f"The summary of the job reports the state {summary.get('state')!r}, in which no job ends.",
                hint="Install the same version of the package on the service and the cluster, then submit the job "
                "again; it continues where it stopped.",
            ),
            now,
        )
    if state is JobState.FAILED and error is None:
        hint = "Read the log of the job."
        error = FatalError("driver_failed", "The job failed without reporting an error.", hint=hint).record()
    values = {
        "counts": _read_object(summary.get("counts")),
        "timings": _read_object(summary.get("timings")),
        "error": error,
        "started_at": read_moment(summary.get("started_at")) or job.started_at or job.attempt_started_at,
        "finished_at": read_moment(summary.get("finished_at")) or now,
        "note": summary.get("note"),
        "next_look_at": None,
    }
    return End(state, values)


def read_progress(job: JobRecord, progress: Mapping[str, Any], now: Moment) -> dict[str, Any]:
    """Return the columns that ``progress.json`` changes; none when it is known already or not of this attempt. Pure."""
    attempt = progress.get("attempt", job.attempt)
    if progress == job.progress or not isinstance(attempt, int) or attempt < job.attempt:
        return {}
    values: dict[str, Any] = {"progress": dict(progress), "counts": _read_object(progress.get("counts"))}
    if job.started_at is None:
        values["started_at"] = now
    if job.state is not JobState.CANCELING:
        note = progress.get("note")
        values["note"] = note if isinstance(note, str) else None
    return values


def end_failed(error: FatalError, now: Moment) -> End:
    """Return the end of a failed job without a summary. Pure."""
    values = {"error": error.record(), "finished_at": now, "note": None, "next_look_at": None}
    return End(JobState.FAILED, values)


def end_canceled(now: Moment, note: str | None = None) -> End:
    """Return the end of a canceled job without a summary. Pure."""
    return End(JobState.CANCELED, {"finished_at": now, "note": note, "next_look_at": None})


def _read_object(value: Any) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else. Pure."""
    return dict(value) if isinstance(value, Mapping) else {}


def _read_error(value: Any) -> dict[str, Any] | None:
    """Return the record of an error; None for anything else. Pure."""
    known = isinstance(value, Mapping) and isinstance(value.get("code"), str) and isinstance(value.get("message"), str)
    return dict(value) if known else None


def read_moment(text: Any) -> Moment | None:
    """Return the moment of an RFC 3339 text; None for anything else, which another version may have written. Pure."""
    try:
        return parse_timestamp(text)
    except (TypeError, ValueError):
        return None
