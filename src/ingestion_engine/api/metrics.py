"""Metrics for Prometheus. Each application has its own registry, so that two in one process do not collide."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ingestion_engine import __version__

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Finest around 100 ms, the target for a submission."""


class Metrics:
    """The service's metrics."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ingest_http_requests_total",
            "HTTP requests.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "ingest_http_request_seconds",
            "Time from a request to the end of its response.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._jobs = Gauge("ingest_jobs", "Jobs in the database.", ["engine", "state"], registry=self._registry)
        self._up = Gauge(
            "ingest_dependency_up",
            "1 when the last check of a dependency succeeded.",
            ["name"],
            registry=self._registry,
        )
        self._unreadable = Gauge(
            "ingest_jobs_unreadable",
            "Rows of jobs that this version of the service cannot read, as far as it has read.",
            registry=self._registry,
        )
        self._leader = Gauge(
            "ingest_dispatcher_leader", "1 when this copy of the service dispatches jobs.", registry=self._registry
        )
        self._term = Gauge(
            "ingest_dispatcher_term",
            "Number of the lease on dispatching; it grows when another copy of the service takes over.",
            registry=self._registry,
        )
        self._removed = Counter(
            "ingest_retention_removed_total",
            "Jobs that ended long ago and were removed with their ledgers, and removed ledgers without a job.",
            ["what"],
            registry=self._registry,
        )
        for what in ("jobs", "ledgers"):
            self._removed.labels(what)
        self._backlog = Gauge(
            "ingest_retention_backlog",
            "Jobs and ledgers that are old enough to be removed and still there, by whether they are due or needed by "
            "the next job on their collection; only from the copy of the service that dispatches.",
            ["state"],
            registry=self._registry,
        )
        Gauge("ingest_info", "The running version.", ["version"], registry=self._registry).labels(__version__).set(1)

    def count_request(self, method: str, route: str, *, status: int, seconds: float) -> None:
        """Count a request. ``route`` is the pattern of the path, so that ids create no new series."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def set_jobs(self, numbers: Mapping[tuple[str, str], int] | None, unreadable: int) -> None:
        """Replace the numbers of jobs by (engine, state), and of unreadable ones; no series while they are unknown."""
        self._jobs.clear()
        for (engine, state), number in (numbers or {}).items():
            self._jobs.labels(engine, state).set(number)
        self._unreadable.set(unreadable)

    def set_leadership(self, leading: bool, term: int | None) -> None:
        """Record whether this copy of the service dispatches, and the number of the lease if it is known."""
        self._leader.set(int(leading))
        self._term.set(term or 0)

    def count_removed(self, what: str, number: int) -> None:
        """Count what was removed because it ended long ago: ``jobs``, or ``ledgers`` without a job."""
        self._removed.labels(what).inc(number)

    def set_backlog(self, due: int | None, needed: int) -> None:
        """Record what is old enough to be removed and still there; no series where another copy removes it (None)."""
        self._backlog.clear()
        if due is not None:
            self._backlog.labels("due").set(due)
            self._backlog.labels("needed").set(needed)

    def set_dependency(self, name: str, up: bool) -> None:
        """Record the result of a check."""
        self._up.labels(name).set(int(up))

    def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
