"""Metrics for Prometheus. Each application has its own registry, so that two in one process do not collide.

What is a number already is read when the metrics are: nothing in them is stale. The rest is counted where it happens.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ingestion_engine import __version__
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.dispatcher import Waiting
from ingestion_engine.services.health import Health
from ingestion_engine.services.job_counters import DURATIONS_S, JobCounters
from ingestion_engine.services.leadership import LeadershipView

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Finest around 100 ms, the target for a submission."""

# Otherwise each counter has a second series, which no Prometheus reads from the text format.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods with series of their own. A client may invent any other."""
OTHER: Final = "other"

_CLOSED: Final = (
    *("evicted", "refused", "header_timeout", "send_timeout", "goes_on", "memory"),
    *("bad_request", "headers_too_large", "url_too_long", "too_many_connections", "http_version_not_supported"),
)
_LIMITS: Final = ("address", "caller", "failed_logins", "streams")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the metrics show of the state of this copy of the service at one moment."""

    now: Moment
    jobs: Mapping[tuple[str, str], int] | None
    """Number of jobs by engine and state; None while the database is unavailable."""
    oldest: Mapping[tuple[str, str], Moment] = field(default_factory=dict)
    """When the oldest job was submitted, by engine and state that is not final."""
    unreadable: int = 0
    leadership: LeadershipView | None = None
    """None without a dispatcher."""
    waiting: Sequence[Waiting] = ()
    """Jobs that wait for a driver, when this copy dispatches."""
    counters: JobCounters = field(default_factory=JobCounters)
    health: Mapping[str, Health] = field(default_factory=dict)
    """Last check of each dependency."""
    connections: Mapping[str, int] = field(default_factory=dict)
    """Connections of the database's pool by state."""
    loop_lag_s: float = 0.0
    draining: bool = False
    """True while no waiting job is admitted."""
    audited: Mapping[str, int] = field(default_factory=dict)
    """Entries of the audit log by outcome."""
    audit_waiting: int = 0
    """Entries that wait in memory for the database."""
    audit_lost: Mapping[str, int] = field(default_factory=dict)
    """Entries that were lost, by where they are missing."""
    backlog: Mapping[str, int] = field(default_factory=dict)
    """Jobs and ledgers that are old enough to be removed and still there, by state."""


class HttpLoad:
    """What clients take of the service, and what was refused before any route saw it. For one event loop."""

    def __init__(self) -> None:
        self.count_connections: Callable[[], Mapping[str, int]] = dict
        """Returns the number of connections by what they do; none without a server, as in tests."""
        self.streams = 0
        """Event streams that are open."""
        self.most_streams: int | None = None
        """How many of them leave room for other connections; None without a server."""
        self.closed = dict.fromkeys(_CLOSED, 0)
        self.limited = dict.fromkeys(_LIMITS, 0)

    def count_closed(self, reason: str) -> None:
        """Count a connection that was closed because of what its client did."""
        self.closed[reason] = self.closed.get(reason, 0) + 1

    def count_limited(self, limit: str) -> None:
        """Count a request that was refused by a limit."""
        self.limited[limit] = self.limited.get(limit, 0) + 1


class Metrics:
    """The service's metrics."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.load = HttpLoad()
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

        self._removed = Counter(
            "ingest_retention_removed_total",
            "Jobs that ended long ago and were removed with their ledgers, and removed ledgers without a job.",
            ["what"],
            registry=self._registry,
        )
        for what in ("jobs", "ledgers"):
            self._removed.labels(what)

    def count_removed(self, what: str, number: int) -> None:
        """Count what was removed because it ended long ago: ``jobs``, or ``ledgers`` without a job."""
        self._removed.labels(what).inc(number)

    def count_request(self, method: str, route: str, *, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: Method of the request; one that is not in use by clients counts as ``other``.
            route: Pattern of the path, so that ids create no new series.
            status: Status of the response; 0 without one.
            seconds: Time until the end of the response.
        """
        method = method if method in METHODS else OTHER
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self, snapshot: Snapshot) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        # A registry for each answer: two that are made at the same time have a snapshot each.
        state = CollectorRegistry()
        state.register(_State(snapshot, self.load))
        return generate_latest(self._registry) + generate_latest(state)


class _State(Collector):
    """Yields what a snapshot has."""

    def __init__(self, snapshot: Snapshot, load: HttpLoad) -> None:
        self._snapshot = snapshot
        self._load = load

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield _gauge("info", "The running version.", {(__version__,): 1}, labels=["version"])
        yield from self._dependencies()
        yield from self._process()
        yield from self._http()
        yield from self._table()
        yield from self._dispatcher()
        yield from _count_jobs(self._snapshot.counters)
        yield from _count_work(self._snapshot.counters)

    def _dependencies(self) -> Iterator[Metric]:
        health = self._snapshot.health
        up = {(name,): one.ok for name, one in health.items()}
        took = {(name,): one.latency_ms / 1000 for name, one in health.items()}
        age = {(name,): one.age_s for name, one in health.items()}
        label = ["name"]
        yield _gauge("dependency_up", "1 when the last check of a dependency succeeded.", up, labels=label)
        yield _gauge("dependency_check_seconds", "Duration of the last check of a dependency.", took, labels=label)
        yield _gauge(
            "dependency_check_age_seconds", "Time since the last check of a dependency ended.", age, labels=label
        )

    def _process(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield _gauge(
            "event_loop_lag_seconds",
            "Longest delay of the event loop in the last minute.",
            {(): snapshot.loop_lag_s},
        )
        yield _gauge("draining", "1 while no waiting job is admitted: `ingest drain`.", {(): snapshot.draining})
        yield _gauge(
            "database_connections",
            "Connections of the pool to the database of jobs.",
            _one(snapshot.connections),
            labels=["state"],
        )
        yield _counter("audit_entries", "Entries of the audit log.", _one(snapshot.audited), labels=["outcome"])
        yield _gauge(
            "audit_waiting",
            "Entries of the audit log that wait in memory for the database.",
            {(): snapshot.audit_waiting},
        )
        yield _counter(
            "audit_lost",
            "Entries of the audit log that are missing in the table or in the lines.",
            _one(snapshot.audit_lost),
            labels=["where"],
        )

    def _http(self) -> Iterator[Metric]:
        load = self._load
        yield _gauge(
            "http_connections",
            "Open connections of clients, by what they do.",
            _one(load.count_connections()),
            labels=["phase"],
        )
        yield _gauge("http_streams", "Open event streams.", {(): load.streams})
        yield _counter(
            "http_connections_closed",
            "Connections that the service has closed because of what their client did, or to make room.",
            _one(load.closed),
            labels=["reason"],
        )
        yield _counter("http_requests_limited", "Requests refused by a limit.", _one(load.limited), labels=["limit"])

    def _table(self) -> Iterator[Metric]:
        snapshot, labels = self._snapshot, ["engine", "state"]
        yield _gauge("jobs", "Jobs in the database.", snapshot.jobs or {}, labels=labels)
        ages = {key: _age_s(snapshot.now, since) for key, since in snapshot.oldest.items()}
        yield _gauge(
            "jobs_oldest_active_seconds",
            "Time since the submission of the oldest job that has not ended, by its state.",
            ages,
            labels=labels,
        )
        yield _gauge(
            "jobs_unreadable",
            "Rows of jobs that this version of the service cannot read, as far as it has read.",
            {(): snapshot.unreadable},
        )

    def _dispatcher(self) -> Iterator[Metric]:
        snapshot, view = self._snapshot, self._snapshot.leadership
        leading = view is not None and view.leading
        yield _gauge("dispatcher_leader", "1 when this copy of the service dispatches jobs.", {(): leading})
        yield _gauge(
            "dispatcher_term",
            "Number of the lease on dispatching; it grows when another copy of the service takes over.",
            {(): 0 if view is None else view.term or 0},
        )
        number: dict[tuple[str, str], int] = {}
        ages: dict[tuple[str, str], float] = {}
        for one in snapshot.waiting if leading else ():
            key = one.engine.value, one.reason.value
            number[key] = number.get(key, 0) + 1
            ages[key] = max(ages.get(key, 0.0), _age_s(snapshot.now, one.since))
        yield _gauge(
            "retention_backlog",
            "Jobs and ledgers that are old enough to be removed and still there, by whether they are due or needed by "
            "the next job on their collection; only from the copy of the service that dispatches.",
            _one(snapshot.backlog if leading else {}),
            labels=["state"],
        )
        labels = ["engine", "reason"]
        yield _gauge(
            "jobs_waiting",
            "Jobs that wait for a driver, by reason; only from the copy of the service that dispatches.",
            number,
            labels=labels,
        )
        yield _gauge(
            "jobs_oldest_wait_seconds",
            "Time since the submission of the oldest job that waits for a driver, by reason.",
            ages,
            labels=labels,
        )


def _count_jobs(counted: JobCounters) -> Iterator[Metric]:
    labels = ["engine", "mode", "state"]
    yield _counter("jobs_ended", "Jobs that have ended.", counted.ended, labels=labels)
    durations = HistogramMetricFamily(
        "ingest_job_duration_seconds", "Time from the submission of a job to its end.", labels=labels
    )
    for key, seen in counted.durations.items():
        total, buckets = 0, []
        for bound, number in zip((*map(float, DURATIONS_S), float("inf")), seen.buckets, strict=True):
            total += number
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        durations.add_metric(list(key), buckets, seen.total_s)
    yield durations
    yield _counter(
        "job_attempts",
        "Drivers that engines have accepted: the first of a job, or a repeated one.",
        counted.attempts,
        labels=["engine", "kind"],
    )
    yield _counter("jobs_ended_by_error", "Jobs that have ended with an error.", _one(counted.errors), labels=["code"])


def _count_work(counted: JobCounters) -> Iterator[Metric]:
    engine = ["engine"]
    yield _counter("objects", "Objects of jobs by outcome.", counted.objects, labels=["engine", "outcome"])
    yield _counter("object_failures", "Failures of objects.", _one(counted.failures), labels=["code"])
    yield _counter(
        "object_warnings", "What was left out of objects that are done.", _one(counted.warnings), labels=["code"]
    )
    yield _counter(
        "chunks",
        "Chunks that were embedded, or whose vector was reused from a store.",
        counted.chunks,
        labels=["engine", "kind"],
    )
    yield _counter(
        "points",
        "Points that each store has written and deleted for jobs.",
        counted.points,
        labels=["store", "action"],
    )
    yield _counter("bytes_read", "Bytes of objects that workers have read.", _one(counted.bytes_read), labels=engine)
    yield _counter("embed_calls", "Embedding requests of workers.", _one(counted.embed_calls), labels=engine)
    yield _counter(
        "job_wait_seconds",
        "Time for which running jobs were paused or waited, by what they waited for.",
        counted.waits_s,
        labels=["engine", "on"],
    )
    yield _counter(
        "worker_seconds",
        "Time of workers by stage; the stages of a worker overlap.",
        counted.stages_s,
        labels=["engine", "stage"],
    )
    yield _counter("worker_requests", "Requests of workers by outcome.", counted.requests, labels=["system", "outcome"])
    yield _counter(
        "worker_request_seconds",
        "Duration of the requests of workers, summed.",
        _one(counted.requests_s),
        labels=["system"],
    )


def _age_s(now: Moment, since: Moment) -> float:
    return max(0.0, (now - since) / dt.timedelta(seconds=1))


def _one(values: Mapping[Any, float]) -> dict[tuple[Any], float]:
    """Return values whose keys are the values of one label. Pure."""
    return {(key,): value for key, value in values.items()}


def _gauge(name: str, text: str, values: Mapping[Any, float], *, labels: Sequence[str] = ()) -> Metric:
    return _fill(GaugeMetricFamily(f"ingest_{name}", text, labels=labels), values)


def _counter(name: str, text: str, values: Mapping[Any, float], *, labels: Sequence[str] = ()) -> Metric:
    return _fill(CounterMetricFamily(f"ingest_{name}", text, labels=labels), values)


def _fill(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Any, float]) -> Metric:
    for key, value in values.items():
        family.add_metric([str(label) for label in key], value)
    return family
