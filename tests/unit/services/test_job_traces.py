"""The trace of a job: from the request that submits it to the spec of its driver and to its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.runtime import tracing
from ingestion_engine.state.ledger import Ledger
from support.collector import Collector, collecting
from support.control import Plane, World

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = PARENT[3:35]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector; whatever traces ends with the test."""
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "handlers", [])
    with collecting() as made:
        yield made
        tracing.stop_tracing()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Systems in memory."""
    return World(tmp_path)


async def run_job(plane: Plane, headers: dict[str, str], state: str = "succeeded") -> str:
    """Submit a job, let it be dispatched, and end it."""
    answer = await plane.client.post(
        "/ray/jobs",
        json={"source": {"bucket": "docs", "prefix": "secret-key/"}, "collection": "notes"},
        headers=headers,
    )
    job_id: str = answer.json()["job_id"]
    await plane.look()
    error = {"code": "driver_failed", "message": "secret-key"} if state == "failed" else None
    plane.engine.finish(job_id, state, error=error)
    await plane.look()
    assert (await plane.job(job_id))["state"] == state
    return job_id


async def test_one_trace_from_the_request_to_the_end(world: World, collector: Collector) -> None:
    """In the caller's trace: request, then job with its wait and submission; the driver is told where to go on."""
    settings = {"tracing": {"endpoint": collector.url, "sample_ratio": 0}}
    tracing.start_tracing(world.settings(**settings), "service")
    async with world.serve(**settings) as plane:
        job_id = await run_job(plane, {"traceparent": PARENT})
    tracing.stop_tracing()
    spans = {span.name: span for span in collector.of_trace(TRACE)}
    assert set(spans) == {"POST /ray/jobs", "job", "job.wait", "job.submit"}
    request, job = spans["POST /ray/jobs"], spans["job"]
    assert request.parent_id == PARENT[36:52]
    assert job.parent_id == request.span_id
    assert {spans["job.wait"].parent_id, spans["job.submit"].parent_id} == {job.span_id}
    assert request.attributes["http.route"] == "/ray/jobs"
    assert request.attributes["http.response.status_code"] == 202
    assert request.attributes["ingest.job_id"] == job.attributes["ingest.job_id"] == job_id
    assert job.attributes["ingest.state"] == "succeeded"
    assert job.attributes["ingest.objects.done"] == 10
    assert len(collector.spans) == 4, "requests whose callers do not trace are not traced"
    spec = Ledger(world.state, job_id).read_spec()
    assert spec.trace is not None
    assert (spec.trace.traceparent, spec.trace.endpoint) == (f"00-{TRACE}-{job.span_id}-01", collector.url)
    assert not any(b"secret-key" in body for body in collector.bodies)


async def test_a_failed_job_is_marked_with_its_code(world: World, collector: Collector) -> None:
    """And not with its message."""
    settings = {"tracing": {"endpoint": collector.url}}
    tracing.start_tracing(world.settings(**settings), "service")
    async with world.serve(**settings) as plane:
        await run_job(plane, {}, "failed")
    tracing.stop_tracing()
    assert [span.error for span in collector.wait_for("job")] == ["driver_failed"]
    assert not any(b"secret-key" in body for body in collector.bodies)


async def test_methods_and_paths_of_clients_are_no_names_of_spans(world: World, collector: Collector) -> None:
    """Neither an invented method nor a path without a route creates a name; probes are not traced."""
    settings = {"tracing": {"endpoint": collector.url}}
    tracing.start_tracing(world.settings(**settings), "service")
    async with world.serve(**settings) as plane:
        await plane.client.get("/livez")
        await plane.client.get("/jobs/secret-key")
        await plane.client.request("SECRET", "/secret-key")
    tracing.stop_tracing()
    assert [span.name for span in collector.spans] == ["GET /jobs/{job_id}", "_OTHER unmatched"]
    assert not any(b"secret-key" in body for body in collector.bodies)


async def test_a_job_without_a_trace_has_none_anywhere(world: World) -> None:
    """Its spec says null, which is also what a spec without the field means; earlier releases ignore the field."""
    async with world.serve() as plane:
        job_id = await run_job(plane, {"traceparent": PARENT})
    spec = Ledger(world.state, job_id).read_spec()
    assert spec.trace is None
    without = json.loads(spec.model_dump_json())
    del without["trace"]
    assert JobSpec.model_validate(without) == spec
