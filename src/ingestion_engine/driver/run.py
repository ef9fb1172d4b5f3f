"""Opens an attempt of a job from its spec and runs its driver, or one of its partitions; called by ``entry``."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ingestion_engine.adapters.connect import open_embedder, open_source, open_state_store, open_stores
from ingestion_engine.domain.errors import FatalError, TlsFailed, TransientError
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.spec import EngineName, JobSpec, Mode, flow_of
from ingestion_engine.domain.states import JobState
from ingestion_engine.driver.attempt_trace import trace_attempt
from ingestion_engine.driver.log_tail import LogTail
from ingestion_engine.runtime.retry import RetryPolicy
from ingestion_engine.runtime.spec_uri import load_settings_for
from ingestion_engine.runtime.telemetry import TextFormatter, get_logger, set_process_fields
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.ledger import ENVIRONMENT_FAULTS, Ledger

if TYPE_CHECKING:
    from ingestion_engine.domain.ports import Engine
    from ingestion_engine.domain.records import PartitionReport
    from ingestion_engine.pipeline.worker import Process

log = get_logger(__name__)

SPEC_PATIENCE = RetryPolicy(first_s=1.0, longest_s=60.0, deadline_s=86_400.0)
"""How long a driver waits for its spec: the default of ``max_runtime_s``, whose real value is in the spec."""


def run_driver(
    spec_uri: str,
    attempt: int,
    process: Process | None = None,
    *,
    warming: Sequence[Any] = (),
    begun: float | None = None,
) -> dict[str, Any] | None:
    """Run one attempt of a job in this process and return its summary; None when another attempt owns the job.

    Args:
        spec_uri: URI of the spec.
        attempt: Number of the attempt, from 1.
        process: Function that the engine ships to its workers; None means ``process_partition``.
        warming: Ray tasks that are warming up already.
        begun: Monotonic time in seconds at which the attempt began; None means now.

    Raises:
        IngestionError: the spec is missing, or the state store refuses this process or was unavailable for a day.

    A spec of another version, or an environment that differs from the service's, ends the attempt with a summary; the
    service then puts the job back.
    """
    begun = time.monotonic() if begun is None else begun
    uri = JobUri.parse(spec_uri)
    set_process_fields(job_id=uri.job_id, attempt=attempt)
    settings = load_settings_for(uri)
    state = open_state_store(settings, uri.state_url)
    ledger = Ledger(state, uri.job_id)
    try:
        spec = _read_spec(ledger)
    except FatalError as error:
        if error.code not in ENVIRONMENT_FAULTS:
            raise
        return _end_unable(ledger, attempt, error)
    tail = LogTail()
    tail.setFormatter(TextFormatter(names_job=False))
    logging.getLogger().addHandler(tail)
    where = {"engine": spec.engine.value, "package": str(Path(__file__).parents[1])}
    log.info("driver started", extra={"job_id": uri.job_id, "attempt": attempt, **where})
    warming = _start_engine(spec, spec_uri, task_cpus=settings.ray.task_cpus, warming=warming)

    from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
    from ingestion_engine.pipeline.parsing.parse import parser_version
    from ingestion_engine.pipeline.worker import check_worker

    settings_of_job = settings.with_endpoints(spec.endpoints)
    driver = Driver(
        JobAttempt(spec=spec, spec_uri=spec_uri, number=attempt, parser_version=parser_version(spec.limits)),
        Ports(
            state=state,
            source=open_source(settings_of_job, spec.request.source.narrowest_prefix()),
            embedder=open_embedder(settings_of_job, 1, flow=flow_of(spec)),  # which only describes models
            stores=open_stores(settings_of_job, spec.request.stores),
            engine=_make_engine(spec, process, task_cpus=settings.ray.task_cpus, warming=warming),
        ),
        log_text=tail.take,
        check_environment=lambda: check_worker(spec, settings),
        begun=begun,
    )
    with trace_attempt(settings_of_job, spec, attempt) as span:
        summary = driver.run()
        span.set({"state": "superseded" if summary is None else summary["state"]})
        return summary


def _read_spec(ledger: Ledger) -> JobSpec:
    """Return the job's spec; an unavailable state store is waited for, because a driver that ends uses up an attempt.

    Raises:
        TlsFailed: at once; nothing is known yet of an earlier attempt that would make it worth waiting.
    """
    pauses = SPEC_PATIENCE.pauses()
    while True:
        try:
            return ledger.read_spec()
        except TlsFailed:
            raise
        except TransientError as error:
            pause_s = next(pauses, None)
            if pause_s is None:
                raise
            log.warning("waiting for the state store to read the spec", extra=error.log_fields())
            time.sleep(pause_s)


def _end_unable(ledger: Ledger, attempt: int, error: FatalError) -> dict[str, Any]:
    """Write and return the summary of an attempt whose package cannot read the job."""
    log.error("job not readable", extra=error.log_fields())
    summary = ledger.make_summary(
        state=JobState.FAILED, attempt=attempt, started_at=timestamp_now(), error=error.record()
    )
    ledger.write_summary(summary)
    return summary


def run_partition(spec_uri: str, partition_id: str) -> PartitionReport:
    """Rerun one partition in this process, print its report as JSON, and return it."""
    from ingestion_engine.pipeline.worker import process_partition

    report = process_partition(spec_uri, partition_id)
    sys.stdout.write(orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2).decode() + "\n")
    return report


def _start_engine(spec: JobSpec, spec_uri: str, *, task_cpus: float, warming: Sequence[Any]) -> Sequence[Any]:
    """Start the job's engine early, if the job will need it; return the Ray tasks that are warming up."""
    if spec.request.mode is Mode.PLAN or warming:
        return warming
    if spec.engine is EngineName.RAY:
        from ingestion_engine.engines.ray import start as ray_start

        return ray_start.warm_up(spec_uri, task_cpus)
    if spec.engine is EngineName.SPARK:
        from ingestion_engine.engines.spark import start as spark_start

        spark_start.warm_up()
    return ()


def _make_engine(spec: JobSpec, process: Process | None, *, task_cpus: float, warming: Sequence[Any]) -> Engine:
    from ingestion_engine.pipeline.worker import process_partition

    process = process or process_partition
    if spec.engine is EngineName.RAY:
        from ingestion_engine.engines.ray.engine import RayEngine

        return RayEngine(spec.parallelism, process, task_cpus=task_cpus, warming=warming)
    if spec.engine is EngineName.SPARK:
        from ingestion_engine.engines.spark.engine import SparkEngine

        return SparkEngine(spec.parallelism, process)
    from ingestion_engine.engines.local import LocalEngine

    return LocalEngine(spec.parallelism, process)
