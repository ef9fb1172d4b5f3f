"""Qdrant's scrolls, filters and nearest points, as the product and the official client use them.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_QDRANT__URL (and
INGEST_QDRANT__API_KEY).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from support.qdrant_client_side import error_of, points_of, vector_of

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")  # loopback


def test_scroll_goes_through_all_points_in_order_of_id(client: QdrantClient, name: str) -> None:
    """Pages follow each other by `next_page_offset`; the last has none."""
    client.upsert(name, points_of(25))
    seen: list[Any] = []
    offset = None
    while True:
        records, offset = client.scroll(name, limit=10, offset=offset, with_payload=["number"])
        seen += records
        if offset is None:
            break
    assert [record.id for record in seen] == list(range(25))
    assert seen[3].payload == {"number": 3}
    assert seen[3].vector is None


def test_nearest_points(client: QdrantClient, name: str) -> None:
    """Best first, with filter, limit, offset and the wanted parts of each point."""
    client.upsert(name, points_of(30))
    similarity = {number: float(np.dot(vector_of(3), vector_of(number))) for number in range(30)}
    expected = sorted(similarity, key=lambda number: -similarity[number])
    found = client.query_points(name, vector_of(3), limit=5, with_payload=True).points
    assert [point.id for point in found] == expected[:5]
    assert found[0].score == pytest.approx(1.0, abs=1e-6)
    assert found[1].score == pytest.approx(similarity[expected[1]], abs=1e-6)
    assert found[0].vector is None
    assert found[0].payload == {"number": 3, "even": False}
    assert [point.id for point in client.query_points(name, vector_of(3), limit=3, offset=2).points] == expected[2:5]
    even = models.Filter(must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))])
    assert [point.id for point in client.query_points(name, vector_of(3), query_filter=even, limit=4).points] == [
        number for number in expected if number % 2 == 0
    ][:4]
    chosen = client.query_points(name, vector_of(3), with_payload=["number"], with_vectors=True).points[0]
    assert chosen.payload == {"number": 3}
    np.testing.assert_allclose(chosen.vector, vector_of(3), atol=1e-6)


FILTERS: list[tuple[str, dict[str, Any], set[int]]] = [
    ("value", {"must": [{"key": "color", "match": {"value": "red"}}]}, {1, 2}),
    ("integer", {"must": [{"key": "n", "match": {"value": 2}}]}, {2}),
    ("boolean", {"must": [{"key": "flag", "match": {"value": True}}]}, {1}),
    ("one condition instead of a list", {"must": {"key": "n", "match": {"value": 2}}}, {2}),
    ("any", {"must": [{"key": "n", "match": {"any": [1, 3]}}]}, {1, 3}),
    ("prefix", {"must": [{"key": "color", "match": {"prefix": "bl"}}]}, {3}),
    ("range", {"must": [{"key": "n", "range": {"gt": 1, "lte": 3}}]}, {2, 3}),
    ("epoch below", {"must": [{"key": "color", "match": {"value": "red"}}, {"key": "n", "range": {"lt": 2}}]}, {1}),
    ("should", {"should": [{"key": "n", "match": {"value": 1}}, {"key": "n", "match": {"value": 4}}]}, {1, 4}),
    ("must_not", {"must_not": [{"key": "color", "match": {"value": "red"}}]}, {3, 4}),
    ("has_id", {"must": [{"has_id": [2, 4, 77]}]}, {2, 4}),
    ("nested path", {"must": [{"key": "metadata.team", "match": {"value": "docs"}}]}, {4}),
    (
        "filter in filter",
        {"must": [{"should": [{"has_id": [1]}, {"has_id": [2]}]}], "must_not": [{"has_id": [2]}]},
        {1},
    ),
    ("none", {}, {1, 2, 3, 4}),
]


@pytest.fixture(scope="module")
def filtered(http: httpx.Client) -> Iterator[str]:
    fresh = f"contract_{uuid.uuid4().hex}"
    http.put(f"/collections/{fresh}", json={"vectors": {"size": 1, "distance": "Dot"}})
    payloads = [
        {"color": "red", "n": 1, "flag": True},
        {"color": "red", "n": 2, "flag": 1},
        {"color": "blue", "n": 3},
        {"n": 4, "metadata": {"team": "docs"}},
    ]
    points = [{"id": number, "vector": [1.0], "payload": payload} for number, payload in enumerate(payloads, 1)]
    http.put(f"/collections/{fresh}/points", params={"wait": "true"}, json={"points": points}).raise_for_status()
    yield fresh
    http.delete(f"/collections/{fresh}")


@pytest.mark.parametrize(("condition", "expected"), [case[1:] for case in FILTERS], ids=[case[0] for case in FILTERS])
def test_filters(http: httpx.Client, filtered: str, condition: dict[str, Any], expected: set[int]) -> None:
    """Scroll and count agree on which points a filter lets through."""
    path = f"/collections/{filtered}/points"
    points = http.post(f"{path}/scroll", json={"filter": condition}).raise_for_status().json()["result"]["points"]
    assert {point["id"] for point in points} == expected
    count = http.post(f"{path}/count", json={"filter": condition, "exact": True}).json()["result"]["count"]
    assert count == len(expected)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"moost": []}, 400),
        ({"must": [{"key": "n", "match": {"value": 1.5}}]}, 400),
        ({"must": [{"key": "n", "match": {"any": [1, "a"]}}]}, 400),
        ({"must": [{"key": 1, "match": {"value": 1}}]}, 400),
        ({"must": [{"key": "n"}]}, 422),
        ({"must": [{"has_id": [-1]}]}, 400),
        ({"must": [{"whatever": 1}]}, 400),
    ],
)
def test_filters_that_cannot_be_read(http: httpx.Client, filtered: str, condition: dict[str, Any], status: int) -> None:
    """A malformed filter deletes nothing; one that is only invalid is refused by the real server in reads alone."""
    path = f"/collections/{filtered}/points"
    assert error_of(http.post(f"{path}/count", json={"filter": condition}))[0] == status
    if status == 400:
        assert error_of(http.post(f"{path}/delete", json={"filter": condition}))[0] == 400
    assert http.post(f"{path}/count", json={}).json()["result"]["count"] == 4
