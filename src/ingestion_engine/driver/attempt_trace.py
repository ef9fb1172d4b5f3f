"""Spans of one attempt: its phases, and the outages that it met. Nothing while the job is not traced."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import set_process_fields
from ingestion_engine.runtime.tracing import (
    Span,
    derive_parent,
    derive_span_id,
    join_trace,
    open_span,
    record_span,
    stop_tracing,
)


@contextmanager
def trace_attempt(settings: Settings, spec: JobSpec, number: int) -> Iterator[Span]:
    """Trace an attempt in this process; its last spans are exported before the context ends, within a limit."""
    began = join_trace(settings, None if spec.trace is None else spec.trace.endpoint, "driver")
    attributes = {
        "job_id": spec.job_id,
        "attempt": number,
        "engine": spec.engine.value,
        "mode": spec.request.mode.value,
        "parallelism": spec.parallelism,
    }
    span_id = derive_span_id(spec.job_id, number)
    try:
        if spec.trace is None:
            yield Span(None)
            return
        with open_span("job.attempt", attributes, parent=spec.trace.traceparent, span_id=span_id) as span:
            if span.trace_id is not None:  # also for the lines of other threads
                set_process_fields(job_id=spec.job_id, attempt=number, trace_id=span.trace_id)
            try:
                yield span
            finally:
                set_process_fields(job_id=spec.job_id, attempt=number)
    finally:
        if began:
            stop_tracing()


class AttemptTrace:
    """Makes the spans of an attempt when what they show is over; for any thread of the driver.

    Args:
        spec: Spec of the job.
        number: Number of the attempt.
    """

    def __init__(self, spec: JobSpec, number: int) -> None:
        self._parent = None if spec.trace is None else derive_parent(spec.trace.traceparent, spec.job_id, number)
        self._phase: str | None = None
        self._since_ns = 0

    def enter(self, phase: str | None) -> None:
        """Note that the attempt is in another phase; None when it is over."""
        if self._parent is None or phase == self._phase:
            return
        now = time.time_ns()
        if self._phase is not None:
            record_span(f"attempt.{self._phase}", self._since_ns, now, parent=self._parent)
        self._phase, self._since_ns = phase, now

    def record_outage(self, codes: Iterable[str], seconds: float, pauses: int) -> None:
        """Note an outage that is over now: the codes of its errors, how long it was, and how often the job paused."""
        if self._parent is not None:
            end = time.time_ns()
            attributes = {"error_codes": sorted(codes), "pauses": pauses}
            start = end - round(seconds * 1e9)
            record_span("attempt.outage", start, end, attributes=attributes, parent=self._parent)
