"""Bodies about the operation of the service."""

from __future__ import annotations

from pydantic import Field

from ingestion_engine.domain.spec import Strict
from ingestion_engine.domain.strict_values import Flag
from ingestion_engine.models.view import View


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


class DrainOrder(Strict):
    """How to drain the service."""

    refuse: Flag = False
    """Refuse new jobs with 503 instead of accepting them to wait."""
    reason: str | None = Field(default=None, min_length=1, max_length=500)
    """Why, for the notes of jobs that wait."""


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
