"""The main job on Ray, end to end: real SeaweedFS, real Ray, the official clients of both stores."""

from __future__ import annotations

import time
from collections.abc import Iterable

import httpx
import numpy as np
import psutil
import pytest

from corpus import CorpusObject, generate_corpus
from ingestion_engine.domain.spec import EngineName, JobRequest
from ingestion_engine.services.ray_service import RayService
from ingestion_engine.services.specs import make_spec
from platform_world import Platform, without_job_fields

OBJECTS = 200
BIG_TEXT_BYTES = 2 * 2**20


def upload(platform: Platform, bucket: str, objects: Iterable[CorpusObject]) -> dict[str, tuple[str, str | None]]:
    """Put a corpus into a bucket; return the expected outcome and code by key."""
    expected: dict[str, tuple[str, str | None]] = {}
    s3 = platform.s3()
    for item in objects:
        extra = {"ContentType": item.content_type} if item.content_type else {}
        s3.put_object(Bucket=bucket, Key=item.key, Body=item.body, Metadata=item.metadata, **extra)
        expected[item.key] = (item.expected, item.expected_code)
    return expected


@pytest.fixture(scope="module")
def corpus(platform: Platform) -> dict[str, tuple[str, str | None]]:
    """A mixed bucket, one in ten broken; expected outcome and code by key."""
    objects = generate_corpus(OBJECTS, broken=0.1, big_text_bytes=BIG_TEXT_BYTES, only_seaweedfs=True)
    return upload(platform, "corpus", objects)


@pytest.fixture(scope="module")
def ray_job(platform: Platform, corpus: dict[str, tuple[str, str | None]]) -> dict[str, object]:
    """The corpus ingested on Ray."""
    job = platform.run(source={"bucket": "corpus"}, collection="mixed_ray", metadata={"team": "docs"})
    assert job["state"] == "partially_succeeded", job
    return job


def test_every_object_is_accounted_for(
    platform: Platform, corpus: dict[str, tuple[str, str | None]], ray_job: dict[str, object]
) -> None:
    """The sum of done, failed and skipped is what was listed, and every failure is named by key and code."""
    counts = ray_job["counts"]
    assert isinstance(counts, dict)
    assert counts["listed"] == len(corpus)
    assert counts["done"] + counts["failed"] + counts["skipped"] == counts["listed"]
    failed = {key: code for key, (outcome, code) in corpus.items() if outcome == "failed"}
    assert len(set(failed.values())) >= 8
    assert platform.failures(str(ray_job["job_id"])) == failed
    assert counts["skipped"] == counts["directory_markers"] == sum(o == "skipped" for o, _ in corpus.values())


def test_both_stores_hold_the_same_points(
    platform: Platform, corpus: dict[str, tuple[str, str | None]], ray_job: dict[str, object]
) -> None:
    """Same ids, payloads equal field by field, vectors as the embedder returned them; every done object is there."""
    points = platform.both("mixed_ray")
    counts = ray_job["counts"]
    assert isinstance(counts, dict)
    assert len(points) == counts["chunks"]
    keys = {payload["key"] for payload, _ in points.values()}
    assert keys == {key for key, (outcome, _) in corpus.items() if outcome == "done"}
    assert all(payload["metadata"]["team"] == "docs" for payload, _ in points.values())
    sample = list(points.values())[:: max(1, len(points) // 300)]
    vectors = platform.embed([payload["text"] for payload, _ in sample])
    assert np.abs(vectors - np.stack([vector for _, vector in sample])).max() < 1e-5


def test_a_second_run_costs_nothing(platform: Platform, ray_job: dict[str, object]) -> None:
    """Everything unchanged, zero embed requests at the embedder itself."""
    before = platform.embed_requests()
    job = platform.run(source={"bucket": "corpus"}, collection="mixed_ray", metadata={"team": "docs"})
    assert platform.embed_requests() == before
    counts, first = job["counts"], ray_job["counts"]
    assert isinstance(first, dict)
    assert counts["unchanged"] == first["done"]
    assert counts["failed_before"] == first["failed"]
    assert (counts["embed_calls"], counts["bytes_read"], counts["planned"]) == (0, 0, 0)


def test_the_local_engine_leaves_the_same(platform: Platform, ray_job: dict[str, object]) -> None:
    """Identical points, reports and numbers of embed calls."""
    request = {"source": {"bucket": "corpus"}, "collection": "mixed_local", "metadata": {"team": "docs"}}
    summary = platform.run_local("job-local-oracle", **request)
    counts = ray_job["counts"]
    assert isinstance(counts, dict)
    assert {**summary["counts"]} == counts
    assert platform.reports("job-local-oracle") == platform.reports(str(ray_job["job_id"]))
    assert without_job_fields(platform.both("mixed_local")) == without_job_fields(platform.both("mixed_ray"))


def test_official_clients_list_count_and_search(platform: Platform, ray_job: dict[str, object]) -> None:
    """A newcomer's first steps with the clients they know."""
    counts = ray_job["counts"]
    assert isinstance(counts, dict)
    points = platform.both("mixed_ray")
    point_id, (payload, vector) = next(iter(points.items()))
    client = platform.qdrant()
    assert "mixed_ray" in [c.name for c in client.get_collections().collections]
    assert client.count("mixed_ray", exact=True).count == counts["chunks"]
    assert client.query_points("mixed_ray", query=vector.tolist(), limit=1).points[0].id == point_id
    client.close()
    with platform.weaviate() as other:
        assert "Mixed_ray" in other.collections.list_all()
        held = other.collections.get("Mixed_ray")
        assert held.aggregate.over_all(total_count=True).total_count == counts["chunks"]
        assert str(held.query.near_vector(vector.tolist(), limit=1).objects[0].uuid) == point_id
    answer = platform.http.post("/search", json={"collection": "mixed_ray", "query": payload["text"], "limit": 3})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert results["qdrant"][0]["text"] == results["weaviate"][0]["text"] == payload["text"]
    assert results["qdrant"][0]["score"] == pytest.approx(results["weaviate"][0]["score"], abs=1e-4)


def test_post_answers_at_once(platform: Platform) -> None:
    """202 does not wait for Ray: the job is stored, then dispatched."""
    body = {"source": {"bucket": "docs", "prefix": "none/"}, "collection": "quick", "mode": "plan"}
    started = time.monotonic()
    answer = platform.http.post("/ray/jobs", json={**body, "embedding": {"model": "hash-384"}})
    assert answer.status_code == 202
    assert time.monotonic() - started < 2
    job_id = answer.json()["job_id"]
    assert answer.headers["location"] == f"/jobs/{job_id}"
    assert platform.wait(job_id)["state"] == "succeeded"


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
        ({"collection": "Mixed_ray"}, 409, "collection_name_taken", "mixed_ray"),
    ],
)
def test_bad_requests_name_the_fault(
    platform: Platform, ray_job: dict[str, object], change: dict[str, object], status: int, code: str, names: str
) -> None:
    """Each gets a problem+json that names the thing and says what to do."""
    body = {"source": {"bucket": "corpus"}, "collection": "mixed_ray", "embedding": {"model": "hash-384"}}
    answer = platform.http.post("/ray/jobs", json={**body, **change})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert names in answer.text
    assert problem["detail"]
    assert problem.get("hint") or problem.get("errors")


def test_an_outage_of_the_embedder_is_waited_out(platform: Platform) -> None:
    """503s and dead runners never count as failures of objects."""
    platform.upload("docs", [(f"outage/{i}.txt", f"Text number {i} of the outage.".encode()) for i in range(20)])
    platform.fault({"status": 503, "body": {"error": "server busy"}, "count": 5})
    job = platform.run(source={"bucket": "docs", "prefix": "outage/"}, collection="outage")
    platform.fault({})
    assert job["state"] == "succeeded"
    assert job["counts"]["done"] == 20
    assert len(platform.both("outage")) == 20


def test_a_canceled_job_ends_canceled(platform: Platform) -> None:
    """And what it did not finish is completed by the next job."""
    platform.upload("docs", [(f"cancel/{i}.txt", f"Text {i} to cancel.".encode()) for i in range(60)])
    platform.fault({"delay_s": 1.0})
    request = {"source": {"bucket": "docs", "prefix": "cancel/"}, "collection": "canceled", "parallelism": 1}
    job_id = platform.submit(**request)
    while platform.http.get(f"/jobs/{job_id}").json()["state"] != "running":
        time.sleep(0.1)
    assert platform.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    platform.fault({})
    assert platform.wait(job_id)["state"] == "canceled"
    assert platform.run(**request)["state"] == "succeeded"
    assert len(platform.both("canceled")) == 60


def test_a_killed_driver_is_followed_by_another_attempt(platform: Platform) -> None:
    """SIGKILL in mid-job: the next attempt goes on from the reports; nothing is lost, what is done stays done."""
    platform.upload("docs", [(f"kill/{i:02}.txt", f"Text {i} of the kill drill.".encode()) for i in range(48)])
    platform.fault({"delay_s": 0.7})
    before = platform.embed_requests()
    job_id = platform.submit(source={"bucket": "docs", "prefix": "kill/"}, collection="killed", parallelism=2)
    while (platform.http.get(f"/jobs/{job_id}").json()["counts"] or {}).get("partitions_done", 0) < 2:
        time.sleep(0.1)
    (driver,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"/{job_id}/" in " ".join(process.info["cmdline"] or []) and "--spec" in process.info["cmdline"]
    ]
    driver.kill()
    platform.fault({})
    job = platform.wait(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert job["counts"]["done"] == job["counts"]["listed"] == len(platform.both("killed")) == 48
    in_flight_at_the_kill = 2
    partitions = job["counts"]["partitions_done"]
    assert platform.embed_requests() - before <= 8 + in_flight_at_the_kill + partitions


async def test_a_job_may_bring_the_package_along(platform: Platform) -> None:
    """For clusters where it is not installed: driver and workers run what the service shipped."""
    platform.upload("docs", [("ship/a.txt", b"Shipped to the cluster.")])
    ledger = platform.ledger("job-shipped")
    request = {"source": {"bucket": "docs", "prefix": "ship/"}, "collection": "shipped"}
    asked = JobRequest.model_validate({**request, "embedding": {"model": "hash-384"}})
    ledger.write_spec(make_spec(platform.settings, asked, EngineName.RAY, "job-shipped", parallelism=1))
    ship = platform.settings.ray.model_copy(update={"ship_package": True})
    service = RayService.from_settings(platform.settings.model_copy(update={"ray": ship}))
    await service.submit("job-shipped", 1, ledger.spec_uri, 1)
    await service.close()
    summary = platform.wait_for_summary(ledger)
    assert summary["state"] == "succeeded"
    assert "py_modules_files" in (ledger.read_log(1) or "")
    assert len(platform.both("shipped")) == 1


def test_secrets_stay_out_of_what_ray_shows(platform: Platform, ray_job: dict[str, object]) -> None:
    """Neither the spec nor the job that Ray knows of holds a credential."""
    token = platform.settings.ray.auth_token
    assert token is not None
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
    shown = httpx.get(f"{platform.settings.ray.address}/api/jobs/", headers=headers).text
    assert str(ray_job["job_id"]) in shown
    stored = platform.ledger(str(ray_job["job_id"])).read_spec().model_dump_json()
    for name, value in platform.env.items():
        if any(word in name for word in ("SECRET", "KEY", "TOKEN")):
            assert value not in shown, name
            assert value not in stored, name


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_thousand_objects_with_one_of_30_mb(platform: Platform) -> None:
    """The whole acceptance: Ray and the local engine, every object accounted for, every point in both stores."""
    platform.s3().create_bucket(Bucket="thousand")
    expected = upload(platform, "thousand", generate_corpus(1000, only_seaweedfs=True))
    request = {"source": {"bucket": "thousand"}, "metadata": {"team": "docs"}}
    job = platform.wait(platform.submit(**request, collection="thousand_ray"), timeout_s=900)
    assert job["state"] == "partially_succeeded", job
    counts = job["counts"]
    assert counts["listed"] == len(expected) == counts["done"] + counts["failed"] + counts["skipped"]
    assert platform.failures(job["job_id"]) == {key: code for key, (o, code) in expected.items() if o == "failed"}
    summary = platform.run_local("job-local-thousand", **request, collection="thousand_local")
    assert summary["counts"] == counts
    assert platform.reports("job-local-thousand") == platform.reports(job["job_id"])
    points = platform.both("thousand_ray")
    assert len(points) == counts["chunks"]
    assert without_job_fields(points) == without_job_fields(platform.both("thousand_local"))
