"""Views as a client receives them, for tests of what shows them."""

from __future__ import annotations

from typing import Any

from ingestion_engine.models.jobs import JobView

LINKS = {name: f"/jobs/job-1/{name}" for name in ("self", "failures", "events", "logs", "cancel", "retry")}


def job_body(**fields: Any) -> dict[str, Any]:
    """The body of ``GET /jobs/job-1``, queued unless the fields say otherwise."""
    body: dict[str, Any] = {
        "job_id": "job-1",
        "engine": "ray",
        "state": "queued",
        "collection": "notes",
        "alias": None,
        "mode": "sync",
        "request": {"source": {"bucket": "docs", "prefix": ""}},
        "attempt": 0,
        "parallelism": None,
        "retry_of": None,
        "created_at": "2026-01-01T00:00:00Z",
        "submitted_at": None,
        "started_at": None,
        "finished_at": None,
        "queued_s": 0.0,
        "duration_s": None,
        "progress": None,
        "counts": {},
        "timings": {},
        "error": None,
        "note": None,
        "links": LINKS,
    }
    return {**body, **fields}


def make_job(**fields: Any) -> JobView:
    """The same as a model."""
    return JobView.model_validate(job_body(**fields))


def make_progress(**fields: Any) -> dict[str, Any]:
    """The progress of a job that runs, with the fields given."""
    progress = {"phase": "running", "percent": None, "planning_complete": True, "rates": {}, "eta_s": None}
    return {**progress, "updated_at": None, **fields}
