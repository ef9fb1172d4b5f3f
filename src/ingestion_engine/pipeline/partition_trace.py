"""The span of a partition, with one more for each step: their number does not depend on how much the partition does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport
from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.pipeline.worker_context import Stopwatch
from ingestion_engine.runtime.tracing import Span, derive_parent, open_span, record_span


@contextmanager
def trace_partition(spec: JobSpec, partition_id: PartitionId, *, start_ns: int) -> Iterator[Span]:
    """Open the span of a partition as a child of its attempt's; none when the job is not traced.

    Args:
        spec: Spec of the job.
        partition_id: The partition.
        start_ns: Unix time in nanoseconds at which the worker received it.
    """
    trace = spec.trace
    parent = None if trace is None else derive_parent(trace.traceparent, spec.job_id, partition_id.attempt)
    if parent is None:
        yield Span(None)
        return
    attributes = {"job_id": spec.job_id, "attempt": partition_id.attempt, "partition": str(partition_id)}
    with open_span("partition", attributes, parent=parent, start_ns=start_ns) as span:
        yield span


def describe_report(span: Span, report: PartitionReport) -> None:
    """Show on a partition's span how it ended: numbers and codes, no key of an object."""
    outcomes = Counter(result.outcome.value for result in report.results)
    codes = {result.error_code for result in report.results if result.error_code}
    span.set(
        {
            "status": report.status.value,
            "chunks": report.chunks,
            "chunks_embedded": report.chunks_embedded,
            "chunks_reused": report.chunks_reused,
            "embed_calls": report.embed_calls,
            "bytes_read": report.bytes_read,
            **{f"ingest.objects.{outcome}": number for outcome, number in sorted(outcomes.items())},
            "error_codes": sorted(codes) or None,
        }
    )
    if report.error is not None:
        span.fail(str(report.error.get("code", "unknown")))


def record_steps(watch: Stopwatch) -> None:
    """Make a span for each step of the current partition: from its first beginning to its last end.

    The objects of a partition overlap, so the time that a step took (``ingest.seconds``, summed over concurrent work)
    may be more or less than the length of its span.
    """
    for step, period in sorted(watch.periods.items()):
        attributes = {"seconds": round(watch.seconds[step], 4), "calls": period.calls}
        record_span(f"partition.{step}", period.start_ns, period.end_ns, attributes=attributes)
