"""What the product relies on in what Qdrant finds: scrolls, filters, nearest points.

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
from qdrant_client.http.exceptions import UnexpectedResponse

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


def test_scroll_in_the_order_of_an_indexed_field(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """Without a range index 400 says so; an offset cannot be combined with it."""
    client.upsert(name, points_of(5))
    body = {"order_by": {"key": "number", "direction": "desc"}, "limit": 2}
    path = f"/collections/{name}/points/scroll"
    status, text = error_of(http.post(path, json=body))
    assert status == 400
    assert text.startswith("Wrong input: No range index for `order_by` key: `number`.")
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    assert [point["id"] for point in http.post(path, json=body).json()["result"]["points"]] == [4, 3]
    assert "Cannot use an `offset`" in error_of(http.post(path, json={**body, "offset": 1}))[1]


def test_nearest_points(client: QdrantClient, name: str) -> None:
    """By vector and by stored point, with filter, limit, offset, threshold and every form of selector."""
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
    others = client.query_points(name, 3, limit=5).points
    assert [point.id for point in others] == expected[1:6]
    even = models.Filter(must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))])
    assert [point.id for point in client.query_points(name, vector_of(3), query_filter=even, limit=4).points] == [
        number for number in expected if number % 2 == 0
    ][:4]
    close = client.query_points(name, vector_of(3), score_threshold=0.3, limit=30).points
    assert {point.id for point in close} == {number for number in expected if similarity[number] >= 0.3}
    chosen = client.query_points(
        name,
        vector_of(3),
        with_payload=models.PayloadSelectorExclude(exclude=["even"]),
        with_vectors=True,
    ).points[0]
    assert chosen.payload == {"number": 3}
    np.testing.assert_allclose(chosen.vector, vector_of(3), atol=1e-6)
    requests = [models.QueryRequest(query=vector_of(number), limit=1) for number in (5, 6)]
    assert [answer.points[0].id for answer in client.query_batch_points(name, requests)] == [5, 6]
    with pytest.raises(UnexpectedResponse, match="No point with id 999 found"):
        client.query_points(name, 999)


FILTERS: list[tuple[str, dict[str, Any], set[int]]] = [
    ("value", {"must": [{"key": "color", "match": {"value": "red"}}]}, {1, 2}),
    ("integer", {"must": [{"key": "n", "match": {"value": 2}}]}, {2}),
    ("boolean", {"must": [{"key": "flag", "match": {"value": True}}]}, {1}),
    ("one condition instead of a list", {"must": {"key": "n", "match": {"value": 2}}}, {2}),
    ("any", {"must": [{"key": "n", "match": {"any": [1, 3]}}]}, {1, 3}),
    ("except", {"must": [{"key": "color", "match": {"except": ["red"]}}]}, {3}),
    ("text", {"must": [{"key": "text", "match": {"text": "brown"}}]}, {1, 2}),
    ("range", {"must": [{"key": "n", "range": {"gt": 1, "lte": 3}}]}, {2, 3}),
    ("date range", {"must": [{"key": "day", "range": {"lt": "2024-02-01T00:00:00Z"}}]}, {1}),
    ("epoch below", {"must": [{"key": "color", "match": {"value": "red"}}, {"key": "n", "range": {"lt": 2}}]}, {1}),
    ("should", {"should": [{"key": "n", "match": {"value": 1}}, {"key": "n", "match": {"value": 4}}]}, {1, 4}),
    ("must_not", {"must_not": [{"key": "color", "match": {"value": "red"}}]}, {3, 4}),
    (
        "min_should",
        {
            "min_should": {
                "conditions": [{"key": "color", "match": {"value": "red"}}, {"key": "n", "match": {"value": 1}}],
                "min_count": 2,
            },
        },
        {1},
    ),
    ("is_empty", {"must": [{"is_empty": {"key": "color"}}]}, {4}),
    ("is_null", {"must": [{"is_null": {"key": "nothing"}}]}, {3}),
    ("has_id", {"must": [{"has_id": [2, 4, 77]}]}, {2, 4}),
    ("values_count", {"must": [{"key": "tags", "values_count": {"gte": 2}}]}, {2}),
    ("nested path", {"must": [{"key": "metadata.team", "match": {"value": "docs"}}]}, {4}),
    (
        "nested",
        {
            "must": [
                {
                    "nested": {
                        "key": "parts",
                        "filter": {
                            "must": [{"key": "a", "match": {"value": 1}}, {"key": "b", "match": {"value": 2}}],
                        },
                    },
                },
            ],
        },
        {3},
    ),
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
        {"color": "red", "n": 1, "flag": True, "text": "quick brown fox", "day": "2024-01-01T00:00:00Z"},
        {"color": "red", "n": 2, "flag": 1, "tags": ["a", "b"], "text": "brown", "day": "2024-03-01T00:00:00Z"},
        {"color": "blue", "n": 3, "nothing": None, "parts": [{"a": 1, "b": 2}], "text": "fox"},
        {"n": 4, "metadata": {"team": "docs"}, "parts": [{"a": 1}, {"b": 2}]},
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
        ({"must": [{"key": "n", "range": {"gte": "no date"}}]}, 400),
        ({"must": [{"key": "n"}]}, 422),
        ({"must": [{"has_id": [-1]}]}, 400),
        ({"min_should": {"conditions": [], "min_count": 0}}, 422),
        ({"must": [{"whatever": 1}]}, 400),
    ],
)
def test_filters_that_cannot_be_read(http: httpx.Client, filtered: str, condition: dict[str, Any], status: int) -> None:
    """What is malformed deletes nothing; what is only invalid the real server refuses in reads, not in deletions."""
    path = f"/collections/{filtered}/points"
    assert error_of(http.post(f"{path}/count", json={"filter": condition}))[0] == status
    if status == 400:
        assert error_of(http.post(f"{path}/delete", json={"filter": condition}))[0] == 400
    assert http.post(f"{path}/count", json={}).json()["result"]["count"] == 4
