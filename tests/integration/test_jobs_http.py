"""One suite over ``/ray/jobs`` and ``/spark/jobs``: the same requests get the same answers, whatever runs the job."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from ingestion_engine.models.jobs import JobAccepted, JobView
from support.collector import SeenSpan
from support.platform_world import Platform
from support.waiting import wait_for

pytestmark = pytest.mark.parametrize("engine", ["ray", "spark"])


@pytest.fixture(scope="module")
def named(platform: Platform) -> str:
    """A collection that is there, with its contract."""
    platform.upload("docs", [("named/a.txt", b"A collection needs one object.")])
    assert platform.run(source={"bucket": "docs", "prefix": "named/"}, collection="named")["state"] == "succeeded"
    return "named"


def test_a_job_is_accepted_at_once_and_once(platform: Platform, engine: str) -> None:
    """202 before anything has started, one job per idempotency key; a cancellation at once ends it."""
    body = {"source": {"bucket": "docs", "prefix": "none/"}, "collection": f"accepted_{engine}"}
    request = {"json": {**body, "embedding": {"model": "hash-384"}}, "headers": {"Idempotency-Key": engine}}
    first = platform.http.post(f"/{engine}/jobs", **request)
    assert first.json()["state"] == "queued"
    again = platform.http.post(f"/{engine}/jobs", **request)
    assert (first.status_code, again.status_code) == (202, 202)
    job_id = first.json()["job_id"]
    assert again.json()["job_id"] == job_id
    assert first.headers["location"] == f"/jobs/{job_id}"
    assert platform.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    job = platform.wait(job_id)
    assert (job["state"], job["engine"]) == ("canceled", engine)
    assert first.json().keys() == JobAccepted.model_fields.keys()
    assert job.keys() == JobView.model_fields.keys()


@pytest.mark.parametrize(
    ("change", "status", "code", "names"),
    [
        ({"colection": "x"}, 422, "validation_error", "colection"),
        ({"source": {}}, 422, "validation_error", "bucket"),
        ({"collection": ""}, 422, "validation_error", "collection"),
        ({"parallelism": -1}, 422, "validation_error", "parallelism"),
        ({"source": {"bucket": "no-such-bucket", "prefix": "a/"}}, 422, "bucket_not_found", "no-such-bucket"),
        ({"embedding": {"model": "no-such-model"}}, 422, "model_not_found", "no-such-model"),
        ({"embedding": {"model": "hash-768"}}, 409, "contract_mismatch", "hash-768"),
        ({"chunking": {"max_chars": 500}}, 409, "contract_mismatch", "500"),
        ({"collection": "Named"}, 409, "collection_name_taken", "named"),
    ],
)
def test_bad_requests_name_the_fault(
    platform: Platform, named: str, engine: str, change: dict[str, Any], status: int, code: str, names: str
) -> None:
    """Each gets a problem+json that names the thing and says what to do."""
    body = {"source": {"bucket": "docs"}, "collection": named, "embedding": {"model": "hash-384"}}
    answer = platform.http.post(f"/{engine}/jobs", json={**body, **change})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert names in answer.text
    assert problem["detail"]
    assert problem.get("hint") or problem.get("errors")


def test_a_running_job_is_canceled(platform: Platform, engine: str) -> None:
    """It ends as canceled, nothing of it runs any more, and the next job completes what it left."""
    platform.upload("docs", [(f"stop/{i}.txt", f"Text {i} to cancel.".encode()) for i in range(60)])
    platform.fault({"delay_s": 1.0})
    request = {"source": {"bucket": "docs", "prefix": "stop/"}, "collection": f"stopped_{engine}", "parallelism": 1}
    job_id = platform.submit(engine, **request)
    platform.wait_until(job_id, lambda job: (job["progress"] or {}).get("phase") == "running")
    assert platform.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    platform.fault({})
    assert platform.wait(job_id)["state"] == "canceled"
    wait_for(lambda: not platform.find_drivers(job_id), 30, every_s=0.2)
    after = platform.run(engine, **request)
    assert after["state"] == "succeeded"
    assert len(platform.both(request["collection"])) == 60
    assert "job ended" in platform.http.get(f"/jobs/{after['job_id']}/logs").text


def test_a_killed_driver_is_followed_by_another_attempt(platform: Platform, engine: str) -> None:
    """SIGKILL in mid-job: a new name and a new epoch go on from the reports; what is done stays done."""
    platform.upload("docs", [(f"shot/{i:02}.txt", f"Text {i} of the drill.".encode()) for i in range(48)])
    platform.fault({"delay_s": 0.7})
    before = platform.embed_requests()
    collection = f"shot_{engine}"
    job_id = platform.submit(engine, source={"bucket": "docs", "prefix": "shot/"}, collection=collection, parallelism=2)
    seen = platform.wait_until(job_id, lambda job: job["counts"].get("partitions_done", 0) >= 2)
    # On Spark the JVM, whose child the driver's Python is.
    platform.find_drivers(job_id)[0].kill()
    platform.fault({})
    job = platform.wait(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2), (job, seen)
    points = platform.both(collection)
    assert job["counts"]["done"] == job["counts"]["listed"] == len(points) == 48
    assert len({payload["epoch"] for payload, _ in points.values()}) == 2
    in_flight_at_the_kill = 2
    partitions = job["counts"]["partitions_done"]
    assert platform.embed_requests() - before <= 8 + in_flight_at_the_kill + partitions


def test_one_trace_shows_a_job_from_its_request_to_its_partitions(platform: Platform, engine: str) -> None:
    """In the trace of the caller, through service, driver and workers; the number of spans does not follow the work."""
    secret = "do-not-trace-this-key"
    platform.upload("docs", [(f"traced/{secret}-{i}.txt", f"Text {i} of a trace.\n\n".encode() * 90) for i in range(4)])
    trace_id = secrets.token_hex(16)
    answer = platform.http.post(
        f"/{engine}/jobs",
        json={
            "source": {"bucket": "docs", "prefix": "traced/"},
            "collection": f"traced_{engine}",
            "embedding": {"model": "hash-384"},
        },
        headers={"traceparent": f"00-{trace_id}-00000000000000ab-01"},
    )
    job = platform.wait(answer.json()["job_id"])
    assert job["state"] == "succeeded", job
    collector = platform.collector

    def find_spans() -> list[SeenSpan]:
        found = collector.of_trace(trace_id)
        return found if {"job", "job.attempt", "partition"} <= {span.name for span in found} else []

    spans = wait_for(find_spans, 60)
    named = {span.name: span for span in spans}
    request, whole, attempt, partition = (
        named[name] for name in (f"POST /{engine}/jobs", "job", "job.attempt", "partition")
    )
    assert request.parent_id == "00000000000000ab"
    assert (whole.parent_id, attempt.parent_id, partition.parent_id) == (
        request.span_id,
        whole.span_id,
        attempt.span_id,
    )
    kinds = ("service", "driver", "worker")
    services = [f"ingestion-engine-{kind}" for kind in kinds]
    assert [request.service, attempt.service, partition.service] == services
    steps = {span.name for span in spans if span.parent_id == partition.span_id}
    assert {"partition.fetch", "partition.parse", "partition.chunk", "partition.embed"} <= steps
    assert {"job.wait", "job.submit", "attempt.planning", "attempt.running", "attempt.finishing"} <= set(named)
    partitions = [span for span in spans if span.name == "partition"]
    # An executor that is killed at the end of the application may lose the spans of its last half second.
    assert 1 <= len(partitions) <= job["counts"]["partitions_done"]
    assert len(spans) <= 12 + 12 * len(partitions)
    assert not any(secret.encode() in body for body in collector.bodies)
