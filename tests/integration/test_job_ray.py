"""The main job on Ray, end to end: real SeaweedFS, real Ray, the official clients of both stores."""

from __future__ import annotations

from collections.abc import Iterable

import httpx
import numpy as np
import pytest

from ingestion_engine.services.ray_service import RayService
from support.corpus.corpus import CorpusObject, generate_corpus
from support.platform_world import Platform, without_job_fields
from support.waiting import wait_for

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


def test_an_outage_of_the_embedder_is_waited_out(platform: Platform) -> None:
    """503s and dead runners never count as failures of objects."""
    platform.upload("docs", [(f"outage/{i}.txt", f"Text number {i} of the outage.".encode()) for i in range(20)])
    platform.fault({"status": 503, "body": {"error": "server busy"}, "count": 5})
    job = platform.run(source={"bucket": "docs", "prefix": "outage/"}, collection="outage")
    platform.fault({})
    assert job["state"] == "succeeded"
    assert job["counts"]["done"] == 20
    assert len(platform.both("outage")) == 20


async def test_a_job_may_bring_the_package_along(platform: Platform) -> None:
    """For clusters where it is not installed: driver and workers run what the service shipped."""
    platform.upload("docs", [("ship/a.txt", b"Shipped to the cluster.")])
    request = {"source": {"bucket": "docs", "prefix": "ship/"}, "collection": "shipped", "parallelism": 1}
    ledger = platform.write_spec("ray", "job-shipped", **request)
    ship = platform.settings.ray.model_copy(update={"ship_package": True})
    service = RayService.from_settings(platform.settings.model_copy(update={"ray": ship}))
    await service.submit("job-shipped", 1, ledger.spec_uri, 1)
    await service.close()
    summary = platform.wait_for_summary(ledger)
    assert summary["state"] == "succeeded"
    wait_for(lambda: "py_modules_files" in (ledger.read_log(1) or ""))  # the log is written after the summary
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
