"""Spans of an attempt: its phases and outages, under an id that workers know without having been told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.spec import JobTrace
from ingestion_engine.driver.attempt_trace import trace_attempt
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import OutageBackoff
from ingestion_engine.runtime import tracing
from ingestion_engine.runtime.settings import Settings
from support.collector import Collector, collecting
from support.world import SkippingClock, World, make_world

JOB = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector."""
    with collecting() as made:
        yield made
        tracing.stop_tracing()


def run_traced(world: World, collector: Collector, **request: object) -> str:
    """Run a job as ``run_driver`` does; return the id of its attempt's span."""
    ledger = world.submit(**request)
    spec = ledger.read_spec().model_copy(update={"trace": JobTrace(traceparent=JOB, endpoint=collector.url)})
    ledger.replace_spec(spec)
    with trace_attempt(Settings(), spec, 1):
        assert world.attempt(ledger) is not None
    assert not tracing.is_tracing(), "the process exports what is left and ends tracing"
    return tracing.derive_span_id(spec.job_id, 1)


def test_an_attempt_has_a_span_and_one_for_each_phase(collector: Collector) -> None:
    """In order, without gaps, and within the attempt; a second run of a phase has a second span."""
    span_id = run_traced(make_world(), collector)
    (attempt,) = collector.wait_for("job.attempt")
    assert (attempt.span_id, attempt.parent_id) == (span_id, JOB[36:52])
    phases = [span for span in collector.of_trace(JOB[3:35]) if span.name.startswith("attempt.")]
    assert {span.parent_id for span in phases} == {span_id}
    names = [span.name.removeprefix("attempt.") for span in phases]
    assert names[0] == "planning"
    assert {"planning", "waiting", "running", "finishing"} <= set(names)
    assert all(one.end_ns == following.start_ns for one, following in itertools.pairwise(phases))
    assert attempt.start_ns <= phases[0].start_ns
    assert phases[-1].end_ns <= attempt.end_ns


def test_an_outage_is_one_span_however_many_pauses_it_has(collector: Collector) -> None:
    """With the codes of its errors; also from another thread, which has no current span."""
    ledger = make_world().submit()
    spec = ledger.read_spec().model_copy(update={"trace": JobTrace(traceparent=JOB, endpoint=collector.url)})
    tracing.join_trace(Settings(), collector.url, "driver")
    clock = SkippingClock()
    monitor = Monitor(spec, 1, ledger, counts=Counts(), log_text=lambda: None, clock=clock)
    backoff = OutageBackoff(monitor, first_pause_s=5.0, sleep=clock.sleep, clock=clock)
    failures = iter([TransientError("s3_unavailable", "http://secret"), TransientError("s3_unavailable", "secret")])

    def act() -> str:
        for error in failures:
            raise error
        return "done"

    assert backoff.retry_until_available(act) == "done"
    tracing.stop_tracing()
    (outage,) = collector.wait_for("attempt.outage")
    assert outage.parent_id == tracing.derive_span_id(spec.job_id, 1)
    assert outage.attributes["ingest.error_codes"] == ["s3_unavailable"]
    assert outage.attributes["ingest.pauses"] == 2
    assert outage.end_ns - outage.start_ns >= 14e9
    assert not any(b"secret" in body for body in collector.bodies)


def test_an_attempt_that_is_not_traced_makes_no_span(collector: Collector) -> None:
    """Whatever the process exports for others."""
    tracing.start_tracing(Settings(tracing={"endpoint": collector.url}), "driver")
    assert make_world().run()["state"] == "succeeded"
    tracing.stop_tracing()
    assert collector.spans == []
