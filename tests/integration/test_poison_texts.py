"""A text that breaks the embedder every time, on every engine: its object fails by name, its neighbours are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from support.platform_world import Platform

MARKER = "POISONOUS"
HEALTHY = [f"poison/healthy-{number}.txt" for number in range(6)]
EOF = 'do embedding request: Post "http://127.0.0.1:1/v1/embeddings": EOF'


@pytest.fixture
def disarmed(platform: Platform) -> Iterator[None]:
    """The embedder works again after the test."""
    yield
    platform.fault({})


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize(
    ("engine", "fault"),
    [
        ("local", {"kills_runner": True}),
        ("ray", {"status": 500, "body": {"error": EOF}}),
        ("spark", {"loses_vectors": True}),
    ],
    ids=["local, 400 EOF", "ray, 500 EOF", "spark, null vector"],
)
def test_the_object_fails_and_its_neighbours_are_stored(
    platform: Platform, engine: str, fault: Mapping[str, Any]
) -> None:
    """Decided in one run of the partition: the job ends without a pause."""
    s3 = platform.s3()
    for key in HEALTHY:
        s3.put_object(Bucket="docs", Key=key, Body=f"The text of {key} is embedded.".encode())
    s3.put_object(Bucket="docs", Key="poison/bad.txt", Body=f"This text has {MARKER} in it.".encode())
    platform.fault({"marker": MARKER, **fault})
    collection = f"poison_{engine}"
    request: dict[str, Any] = {"source": {"bucket": "docs", "prefix": "poison/"}, "collection": collection}
    is_local = engine == "local"
    ended = platform.run_local("job-poison-local", **request) if is_local else platform.run(engine, **request)
    assert ended["state"] == "partially_succeeded", ended
    counts = ended["counts"]
    assert (counts["done"], counts["failed"], counts["partitions_repeated"]) == (len(HEALTHY), 1, 0)
    rows = platform.http.get(f"/collections/{collection}/objects?state=failed").json()["items"]
    assert [(row["key"], row["error_code"]) for row in rows] == [("poison/bad.txt", "embedding_failed")]
    stored = {payload["key"] for payload, _ in platform.both(collection).values()}
    assert stored == set(HEALTHY)
