"""Verify and repair on real engines: damage done behind the engine's back by the stores' own clients."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from support.platform_world import Platform, Points, without_job_fields

COLLECTION = "damaged"
SOURCE = {"bucket": "docs", "prefix": "parity/"}
OBJECTS = 24


@pytest.fixture(scope="module")
def points(platform: Platform) -> Points:
    """A collection of some objects with several chunks each; its points."""
    chapter = "\n\n".join("Line {i} of {n}: " + "word " * 12 for _ in range(6))
    texts = [(f"parity/{n:02}.md", f"# Chapter {n}\n\n{chapter}".replace("{n}", str(n))) for n in range(OBJECTS)]
    numbered = [
        (key, "".join(t.replace("{i}", f"{i}") for i, t in enumerate(text.split("\n\n")))) for key, text in texts
    ]
    platform.upload("docs", [(key, (text * 4).encode()) for key, text in numbered])
    request = {"source": SOURCE, "collection": COLLECTION, "chunking": {"max_chars": 300, "overlap_chars": 0}}
    job = platform.run(**request, metadata={"team": "docs"})
    assert job["state"] == "succeeded", job
    return platform.both(COLLECTION)


def submit(platform: Platform, mode: str, engine: str = "ray") -> dict[str, Any]:
    request = {"source": SOURCE, "collection": COLLECTION, "chunking": {"max_chars": 300, "overlap_chars": 0}}
    return platform.run(engine, **{**request, "source": {"bucket": "docs"}}, mode=mode)


def differences(platform: Platform, job: dict[str, Any]) -> dict[str, Any]:
    items = platform.http.get(f"/jobs/{job['job_id']}/failures", params={"limit": 500}).json()["items"]
    return {item["key"]: item["differences"] for item in items}


def test_damage_of_every_kind_is_found_and_mended(platform: Platform, points: Points) -> None:
    """Points deleted, payloads changed, vectors swapped, foreign points: named by object and kind, then gone."""
    before = without_job_fields(points)
    by_key: dict[str, list[str]] = {}
    for point_id, (payload, _) in sorted(points.items(), key=lambda item: item[1][0]["chunk_index"]):
        by_key.setdefault(payload["key"], []).append(point_id)
    expected: dict[str, Any] = {}
    lost = sorted(points)[:: max(1, len(points) // (len(points) // 20))]  # 5 %
    for point_id in lost:
        kinds = expected.setdefault(points[point_id][0]["key"], {}).setdefault("qdrant", {"missing": 0})
        kinds["missing"] += 1
    whole = [key for key in by_key if key not in expected]
    changed, swapped = by_key[whole[0]], by_key[whole[1]]
    expected[whole[0]] = {"weaviate": {"payload": 2}}
    expected[whole[1]] = {"weaviate": {"vector": 2}}
    expected[whole[2]] = {"qdrant": {"vector": 2}}
    strangers = [str(uuid.UUID(int=n << 100 | 7)) for n in range(3)]
    expected[""] = {"qdrant": {"foreign": 3}}

    qdrant = platform.qdrant()
    qdrant.delete(COLLECTION, lost, wait=True)
    left, right = by_key[whole[2]][:2]
    moved = [(left, points[right][1]), (right, points[left][1])]
    qdrant.update_vectors(COLLECTION, [models.PointVectors(id=i, vector=v.tolist()) for i, v in moved])
    dimension = len(points[left][1])
    stray = [models.PointStruct(id=i, vector=np.ones(dimension).tolist(), payload={"note": "x"}) for i in strangers]
    qdrant.upsert(COLLECTION, stray, wait=True)
    with platform.weaviate() as client:
        held = client.collections.get(COLLECTION.capitalize())
        for point_id in changed[:2]:
            held.data.update(point_id, properties={"text": "tampered with"})
        for point_id, other in ((swapped[0], swapped[1]), (swapped[1], swapped[0])):
            held.data.update(point_id, vector=points[other][1].tolist())

    job = submit(platform, "verify", "spark")
    assert differences(platform, job) == expected
    assert (job["state"], job["error"]["code"]) == ("failed", "differences_found")
    requests = platform.embed_requests()
    repaired = submit(platform, "repair")
    assert repaired["state"] == "succeeded", repaired
    assert platform.embed_requests() == requests
    assert repaired["counts"]["repaired"] == len(expected) - 1
    assert without_job_fields(platform.both(COLLECTION)) == before


def test_a_dropped_collection_is_copied_back(platform: Platform, points: Points) -> None:
    """Every object of it is named; nothing is embedded; afterwards all is the same."""
    before = without_job_fields(platform.both(COLLECTION))
    platform.qdrant().delete_collection(COLLECTION)
    job = submit(platform, "verify")
    found = differences(platform, job)
    assert len(found) == OBJECTS
    assert all(list(kinds) == ["qdrant"] and list(kinds["qdrant"]) == ["missing"] for kinds in found.values())
    requests = platform.embed_requests()
    assert submit(platform, "repair", "spark")["state"] == "succeeded"
    assert platform.embed_requests() == requests
    assert without_job_fields(platform.both(COLLECTION)) == before
    assert submit(platform, "verify")["state"] == "succeeded"


def test_a_collection_is_deleted_everywhere_and_can_be_made_again(platform: Platform) -> None:
    """Both servers and the state store hold nothing of it; the same job then embeds everything anew."""
    request = {"source": {"bucket": "docs", "prefix": "doomed/"}, "collection": "doomed"}
    platform.upload("docs", [(f"doomed/{number}.txt", b"Text %d." % number) for number in range(3)])
    assert platform.run_local("job-doomed-1", **request)["state"] == "succeeded"
    assert len(platform.both("doomed")) == 3
    answer = platform.http.delete("/collections/doomed")
    assert (answer.status_code, answer.json()["deleted"]) == (200, True), answer.text
    assert not platform.qdrant().collection_exists("doomed")
    with platform.weaviate() as client:
        assert not client.collections.exists("Doomed")
    state = platform.ledger("job-doomed-1").store
    assert not [path for prefix in ("collections/doomed/", "deleting/") for path in state.list(prefix)]
    assert platform.http.get("/collections/doomed").status_code == 404
    again = platform.run_local("job-doomed-2", **request)
    assert (again["state"], again["counts"]["chunks_embedded"]) == ("succeeded", 3)
    assert len(platform.both("doomed")) == 3
