"""The main job on Spark, end to end: the embedded operator runs real Spark, and the answers are Ray's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import orjson
import psutil
import pytest

from corpus import generate_corpus
from ingestion_engine.devstack.kube_java import find_java
from platform_world import Platform, without_job_fields

OBJECTS = 50
ENGINES = ("ray", "spark")
Jobs = dict[str, tuple[dict[str, Any], int]]


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    find_java()  # its message says what to install


@pytest.fixture(scope="module")
def jobs(platform: Platform) -> Jobs:
    """The same mixed bucket ingested by each engine: the job, and the requests that the embedder saw."""
    s3 = platform.s3()
    for item in generate_corpus(OBJECTS, broken=0.2, big_text_bytes=2**17, only_seaweedfs=True):
        extra = {"ContentType": item.content_type} if item.content_type else {}
        s3.put_object(Bucket="docs", Key=f"two/{item.key}", Body=item.body, Metadata=item.metadata, **extra)
    done: Jobs = {}
    for engine in ENGINES:
        before = platform.embed_requests()
        job = platform.run(engine, source={"bucket": "docs", "prefix": "two/"}, collection=f"by_{engine}")
        assert job["state"] == "partially_succeeded", job
        done[engine] = (job, platform.embed_requests() - before)
    return done


def test_counts_and_embed_calls_are_the_same(jobs: Jobs) -> None:
    """Every count of the job, and the embedder itself saw as many requests."""
    (ray, ray_requests), (spark, spark_requests) = jobs["ray"], jobs["spark"]
    assert spark["counts"] == ray["counts"]
    assert spark["counts"]["failed"] > 0
    assert spark_requests == ray_requests == spark["counts"]["embed_calls"]


def test_points_are_the_same(platform: Platform, jobs: Jobs) -> None:
    """Ids, payloads but for the job's own fields, and vectors, in both stores."""
    points = {engine: without_job_fields(platform.both(f"by_{engine}")) for engine in ENGINES}
    assert len(points["spark"]) == jobs["spark"][0]["counts"]["chunks"]
    assert points["spark"] == points["ray"]


def test_reports_and_failures_are_the_same(platform: Platform, jobs: Jobs) -> None:
    """Every object has the same outcome, code and reason."""
    ids = [str(jobs[engine][0]["job_id"]) for engine in ENGINES]
    assert platform.reports(ids[1]) == platform.reports(ids[0])
    assert platform.failures(ids[1]) == platform.failures(ids[0]) != {}


def test_the_log_outlives_the_pod(platform: Platform, jobs: Jobs) -> None:
    """Once Kubernetes has forgotten the attempt, the ledger's tail answers."""
    job_id = str(jobs["spark"][0]["job_id"])
    name = f"{job_id}-01"
    assert "job ended" in platform.http.get(f"/jobs/{job_id}/logs").text
    namespace = f"/apis/sparkoperator.k8s.io/v1beta2/namespaces/{platform.settings.spark.namespace}"
    with platform.kubernetes() as client:
        assert client.delete(f"{namespace}/sparkapplications/{name}").status_code == 200
    assert name not in platform.applications()
    assert "job ended" in platform.http.get(f"/jobs/{job_id}/logs").text


def test_refusals_are_the_same(platform: Platform, jobs: Jobs) -> None:
    """Bad requests get the same problem from both routes."""
    body = {"source": {"bucket": "docs"}, "collection": "by_ray", "embedding": {"model": "hash-384"}}
    for change in (
        {"colection": "x"},
        {"source": {"bucket": "no-such-bucket"}},
        {"embedding": {"model": "no-such-model"}},
        {"embedding": {"model": "hash-768"}},
        {"parallelism": 0},
    ):
        ray, spark = (platform.http.post(f"/{engine}/jobs", json={**body, **change}) for engine in ENGINES)
        assert ray.status_code == spark.status_code >= 400
        assert _without_instance(spark.json()) == _without_instance(ray.json())


def _without_instance(problem: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in problem.items() if name != "instance"}


def test_acceptance_is_the_same(platform: Platform) -> None:
    """202 at once, the same members, one job per idempotency key; a cancellation at once ends it before it starts."""
    accepted = {}
    for engine in ENGINES:
        body = {"source": {"bucket": "docs", "prefix": "none/"}, "collection": f"accepted_{engine}"}
        request = {"json": {**body, "embedding": {"model": "hash-384"}}, "headers": {"Idempotency-Key": engine}}
        started = time.monotonic()
        first = platform.http.post(f"/{engine}/jobs", **request)
        assert time.monotonic() - started < 2
        again = platform.http.post(f"/{engine}/jobs", **request)
        assert (first.status_code, again.status_code) == (202, 202)
        job_id = first.json()["job_id"]
        assert again.json()["job_id"] == job_id
        assert first.headers["location"] == f"/jobs/{job_id}"
        assert platform.http.post(f"/jobs/{job_id}/cancel").status_code == 202
        job = platform.wait(job_id)
        assert (job["state"], job["engine"]) == ("canceled", engine)
        accepted[engine] = (first.json().keys(), job.keys())
    assert accepted["spark"] == accepted["ray"]


def test_the_manifest_is_what_the_api_server_takes(platform: Platform) -> None:
    """``ingest spark-manifest`` prints what a dry run of a creation accepts, without any credential in it."""
    command = [sys.executable, "-m", "ingestion_engine.cli", "spark-manifest", "s3://docs/none/", "-c", "shown"]
    shown = subprocess.run(command, env={**os.environ, **platform.env}, capture_output=True, check=True).stdout
    manifest = orjson.loads(shown)
    path = f"/apis/sparkoperator.k8s.io/v1beta2/namespaces/{manifest['metadata']['namespace']}/sparkapplications"
    with platform.kubernetes() as client:
        answer = client.post(path, params={"dryRun": "All", "fieldValidation": "Strict"}, json=manifest)
    assert answer.status_code == 201, answer.text
    for name, value in platform.env.items():
        if name.endswith(("ACCESS_KEY", "KEY_ID", "API_KEY", "TOKEN")):
            assert value.encode() not in shown, name


def test_a_running_job_is_canceled(platform: Platform) -> None:
    """It ends as canceled, its application is gone or ended, and nothing of it runs any more."""
    platform.upload("docs", [(f"stop/{i}.txt", f"Text {i} to cancel.".encode()) for i in range(60)])
    platform.fault({"delay_s": 1.0})
    request = {"source": {"bucket": "docs", "prefix": "stop/"}, "collection": "stopped", "parallelism": 1}
    job_id = platform.submit("spark", **request)
    platform.wait_until(job_id, lambda job: (job["progress"] or {}).get("phase") == "running")
    assert platform.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    platform.fault({})
    assert platform.wait(job_id)["state"] == "canceled"
    deadline = time.monotonic() + 30
    while _find_processes(job_id):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_killed_driver_is_followed_by_another_attempt(platform: Platform) -> None:
    """SIGKILL in mid-job: a new name and a new epoch go on from the reports; what is done stays done."""
    platform.upload("docs", [(f"shot/{i:02}.txt", f"Text {i} of the drill.".encode()) for i in range(48)])
    platform.fault({"delay_s": 0.7})
    before = platform.embed_requests()
    job_id = platform.submit("spark", source={"bucket": "docs", "prefix": "shot/"}, collection="shot", parallelism=2)
    seen = platform.wait_until(job_id, lambda job: job["counts"].get("partitions_done", 0) >= 2)
    (driver,) = [process for process in _find_processes(job_id) if process.name() == "java"]
    driver.kill()
    platform.fault({})
    job = platform.wait(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2), (job, seen)
    points = platform.both("shot")
    assert job["counts"]["done"] == job["counts"]["listed"] == len(points) == 48
    assert len({payload["epoch"] for payload, _ in points.values()}) == 2
    states = {name: app["status"]["applicationState"]["state"] for name, app in platform.applications().items()}
    assert states[f"{job_id}-01"] == "FAILED"
    assert f"{job_id}-02" in states
    in_flight_at_the_kill = 2
    partitions = job["counts"]["partitions_done"]
    assert platform.embed_requests() - before <= 8 + in_flight_at_the_kill + partitions


def test_a_job_waits_for_kubernetes(platform: Platform) -> None:
    """Connection refused, then 403, then well: queued with the reason in sight, and it runs when all is back."""
    platform.upload("docs", [("away/a.txt", b"Kubernetes was away.")])
    server = platform.services["spark"]
    server.stop()
    job_id = platform.submit("spark", source={"bucket": "docs", "prefix": "away/"}, collection="away")
    job = platform.wait_until(job_id, lambda job: bool(job["note"]))
    assert job["state"] == "queued"
    refused = job["note"]
    assert "submit failed" in refused
    started = time.monotonic()
    assert platform.http.get("/livez").status_code == platform.http.get("/jobs").status_code == 200
    assert time.monotonic() - started < 2
    assert not platform.http.get("/readyz").json()["dependencies"]["spark"]["ok"]
    server.start()
    server.wait_until_ready()
    platform.fault_kubernetes({"calls": {"status": 403, "count": None, "path": "sparkapplications"}})
    job = platform.wait_until(job_id, lambda job: "forbidden" in str(job["note"]).lower(), timeout_s=90)
    assert job["state"] == "queued"
    platform.fault_kubernetes({})
    job = platform.wait(job_id)
    assert (job["state"], job["attempt"], job["note"]) == ("succeeded", 1, None)
    assert len(platform.both("away")) == 1


def _find_processes(job_id: str) -> list[psutil.Process]:
    """The processes of a job's drivers, but for the guards around them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(f"/{job_id}/" in part for part in command) and "ingestion_engine.devstack.guard" not in command:
            found.append(process)
    return found
