"""What the product relies on in Qdrant: run against the stand-in, or against the server of INGEST_QDRANT__URL.

pytest tests/contract/test_qdrant_server.py                                  the stand-in, started here
INGEST_QDRANT__URL=http://127.0.0.1:6333 pytest tests/contract/test_qdrant_server.py      a real server
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

import servers
from servers import RunningServer

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")  # loopback

DIMENSION = 8


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and how to reach it."""

    url: str
    api_key: str | None
    running: RunningServer | None
    """None for a server that was not started here."""

    def http(self) -> httpx.Client:
        headers = {"api-key": self.api_key} if self.api_key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def client(self) -> QdrantClient:
        return QdrantClient(url=self.url, api_key=self.api_key, timeout=30, check_compatibility=False)


def start_stand_in(data_dir: Path) -> Server:
    running = servers.start_qdrant(data_dir)
    return Server(running.url, running.secrets["QDRANT_API_KEY"], running)


def end_stand_in(server: Server, number: signal.Signals) -> int:
    assert server.running is not None
    server.running.process.send_signal(number)
    return server.running.process.wait(timeout=15)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if url := os.environ.get("INGEST_QDRANT__URL"):
        yield Server(url, os.environ.get("INGEST_QDRANT__API_KEY"), None)
        return
    started = start_stand_in(tmp_path_factory.mktemp("qdrant"))
    assert started.running is not None
    with servers.stopping(started.running):
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[QdrantClient]:
    with_client = server.client()
    yield with_client
    with_client.close()


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as session:
        yield session


@pytest.fixture
def name(http: httpx.Client) -> Iterator[str]:
    """A fresh collection with an unnamed cosine vector of 8 dimensions."""
    fresh = f"contract_{uuid.uuid4().hex}"
    body = {"vectors": {"size": DIMENSION, "distance": "Cosine"}}
    assert http.put(f"/collections/{fresh}", json=body).status_code == 200
    yield fresh
    http.delete(f"/collections/{fresh}")


def embedded_only(server: Server) -> None:
    if server.running is None:
        pytest.skip("about the stand-in, not about the real server")


def vector_of(seed: int) -> list[float]:
    values = np.random.default_rng(seed).normal(size=DIMENSION)
    return [float(value) for value in values / np.linalg.norm(values)]


def points_of(count: int) -> list[models.PointStruct]:
    return [
        models.PointStruct(id=number, vector=vector_of(number), payload={"number": number, "even": number % 2 == 0})
        for number in range(count)
    ]


def error_of(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) <= {"status", "time", "usage"}
    return response.status_code, body["status"]["error"]


# --- service ---------------------------------------------------------------------------------------------------------


def test_the_root_and_the_probes_need_no_key(server: Server) -> None:
    """`GET /` names the version; the probes answer plain text; none of them asks for the key."""
    root = httpx.get(f"{server.url}/").json()
    assert root["title"] == "qdrant - vector search engine"
    assert root["version"].startswith("1.19.")
    assert httpx.get(f"{server.url}/healthz").text == "healthz check passed"
    assert httpx.get(f"{server.url}/livez").text == "healthz check passed"
    assert httpx.get(f"{server.url}/readyz").text == "all shards are ready"


def test_a_missing_and_a_wrong_key_are_401_with_a_bare_text(server: Server) -> None:
    """401 is no JSON: clients see the plain sentence."""
    if server.api_key is None:
        pytest.skip("this server asks for no key")
    missing = httpx.get(f"{server.url}/collections")
    assert (missing.status_code, missing.text) == (401, "Must provide an API key or an Authorization bearer token")
    wrong = httpx.get(f"{server.url}/collections", headers={"api-key": "no"})
    assert (wrong.status_code, wrong.text) == (401, "Invalid API key or JWT")
    bearer = httpx.get(f"{server.url}/collections", headers={"authorization": f"Bearer {server.api_key}"})
    assert bearer.status_code == 200


def test_a_path_that_is_not_served_is_404(http: httpx.Client) -> None:
    """Also a known path with another method."""
    assert http.get("/nothing").status_code == 404
    assert http.put("/collections").status_code == 404


def test_slashes_are_trimmed(http: httpx.Client) -> None:
    """A trailing slash and doubled slashes change nothing."""
    assert http.get("/collections/").status_code == 200
    assert http.get("//collections").status_code == 200


# --- collections -----------------------------------------------------------------------------------------------------


def test_a_collection_is_created_described_listed_and_deleted(client: QdrantClient) -> None:
    """The official client reads every answer, and info shows what was asked for."""
    fresh = f"contract_{uuid.uuid4().hex}"
    assert not client.collection_exists(fresh)
    vectors = models.VectorParams(size=3, distance=models.Distance.DOT, on_disk=True)
    settings = models.OptimizersConfigDiff(indexing_threshold=0)
    assert client.create_collection(fresh, vectors, optimizers_config=settings, metadata={"made": "here"})
    info = client.get_collection(fresh)
    assert info.config.params.vectors == vectors
    assert info.config.optimizer_config.indexing_threshold == 0
    assert info.config.metadata == {"made": "here"}
    assert (info.status, info.points_count, info.payload_schema) == (models.CollectionStatus.GREEN, 0, {})
    assert client.update_collection(fresh, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=77))
    assert client.get_collection(fresh).config.optimizer_config.indexing_threshold == 77
    assert fresh in [item.name for item in client.get_collections().collections]
    assert client.delete_collection(fresh)
    assert not client.collection_exists(fresh)


def test_errors_about_collections(http: httpx.Client, name: str) -> None:
    """404, 409 and the malformed, with the real texts; deleting nothing is `false`, not an error."""
    body = {"vectors": {"size": 4, "distance": "Cosine"}}
    assert error_of(http.get("/collections/nope")) == (404, "Not found: Collection `nope` doesn't exist!")
    assert error_of(http.put(f"/collections/{name}", json=body)) == (
        409,
        f"Wrong input: Collection `{name}` already exists!",
    )
    deleted = http.delete("/collections/nope")
    assert (deleted.status_code, deleted.json()["result"], deleted.json()["status"]) == (200, False, "ok")
    status, text = error_of(http.put("/collections/x_bad", json={"vectors": {"size": 4, "distance": "Cosinus"}}))
    assert status == 400
    assert text.startswith("Format error in JSON body: ")
    status, text = error_of(http.put("/collections/x_bad", json={"vectors": {"size": 65537, "distance": "Dot"}}))
    assert (status, text) == (
        422,
        "Validation error in JSON body: [vectors.size: value 65537 invalid, must be from 1 to 65536]",
    )
    assert http.put("/collections/a:b", json=body).status_code == 422


def test_what_the_stand_in_cannot_do_is_refused_by_name(server: Server, http: httpx.Client, name: str) -> None:
    """Nothing is silently ignored: sparse vectors, quantization, unknown fields and parameters."""
    embedded_only(server)
    vectors = {"size": 4, "distance": "Cosine"}
    for extra, named in (
        ({"sparse_vectors": {"s": {}}}, "sparse_vectors"),
        ({"quantization_config": {"scalar": {"type": "int8"}}}, "quantization_config"),
        ({"shard_number": 2}, "shard_number"),
        ({"vektors": 1}, "vektors"),
    ):
        status, text = error_of(http.put("/collections/x_refused", json={"vectors": vectors, **extra}))
        assert status == 400
        assert named in text
    path = f"/collections/{name}/points"
    sparse = {"points": [{"id": 1, "vector": {"s": {"indices": [1], "values": [1.0]}}}]}
    assert "dense" in error_of(http.put(path, json=sparse))[1]
    assert "recommend" in error_of(http.post(f"{path}/query", json={"query": {"recommend": {"positive": [1]}}}))[1]
    assert "prefetch" in error_of(http.post(f"{path}/query", json={"prefetch": [{"query": [1.0]}]}))[1]
    assert error_of(http.post(f"{path}/count", json={"exakt": True}))[0] == 400
    assert error_of(http.post(f"{path}/count?weit=true", json={}))[0] == 400
    assert "not served" in error_of(http.post(f"{path}/search", json={}))[1]


def test_named_dense_vectors(client: QdrantClient) -> None:
    """Each name has its own dimension; a query says which one it uses."""
    fresh = f"contract_{uuid.uuid4().hex}"
    both = {name: models.VectorParams(size=size, distance=models.Distance.DOT) for name, size in (("a", 2), ("b", 3))}
    client.create_collection(fresh, both)
    client.upsert(fresh, [models.PointStruct(id=1, vector={"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]})])
    assert client.retrieve(fresh, [1], with_vectors=["b"])[0].vector == {"b": [1.0, 2.0, 3.0]}
    assert client.query_points(fresh, [1.0, 1.0], using="a").points[0].score == pytest.approx(3.0)
    with pytest.raises(UnexpectedResponse, match="Not existing vector name error: c"):
        client.query_points(fresh, [1.0], using="c")
    client.delete_collection(fresh)


# --- aliases ---------------------------------------------------------------------------------------------------------


def test_an_alias_stands_for_its_collection_and_moves_in_one_call(client: QdrantClient, name: str) -> None:
    """Points, info, indexes and changes go through an alias; a deletion does not."""
    other, alias = f"{name}_other", f"{name}_alias"
    client.create_collection(other, models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE))
    create = models.CreateAlias(collection_name=name, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
    client.upsert(alias, points_of(3))
    assert client.count(name).count == client.count(alias).count == 3
    assert client.collection_exists(alias)
    assert client.get_collection(alias).points_count == 3
    client.delete_collection(alias)
    assert client.count(alias).count == 3
    swap = models.CreateAlias(collection_name=other, alias_name=alias)
    client.update_collection_aliases(
        [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)),
            models.CreateAliasOperation(create_alias=swap),
        ],
    )
    assert client.count(alias).count == 0
    assert [item.alias_name for item in client.get_collection_aliases(other).aliases] == [alias]
    assert (alias, other) in [(item.alias_name, item.collection_name) for item in client.get_aliases().aliases]
    client.delete_collection(other)
    assert alias not in [item.alias_name for item in client.get_aliases().aliases]


def test_errors_about_aliases(http: httpx.Client, name: str) -> None:
    """To no collection 404, over a collection 409, renaming none 404; deleting none is fine."""

    def change(action: dict[str, Any]) -> httpx.Response:
        return http.post("/collections/aliases", json={"actions": [action]})

    missing = change({"create_alias": {"collection_name": "nope", "alias_name": "x"}})
    assert error_of(missing) == (404, "Not found: Collection `nope` doesn't exist!")
    taken = change({"create_alias": {"collection_name": name, "alias_name": name}})
    assert error_of(taken) == (409, f"Wrong input: Collection `{name}` already exists!")
    renamed = change({"rename_alias": {"old_alias_name": "no_alias", "new_alias_name": "x"}})
    assert error_of(renamed) == (404, "Not found: Alias no_alias does not exists!")
    assert change({"delete_alias": {"alias_name": "no_alias"}}).status_code == 200
    assert change({"create_alias": {"collection_name": name, "alias_name": f"{name}_a"}}).status_code == 200
    body = {"vectors": {"size": 4, "distance": "Dot"}}
    assert error_of(http.put(f"/collections/{name}_a", json=body)) == (
        400,
        f"Wrong input: Can't create collection with name {name}_a. Alias with the same name already exists",
    )


# --- points ----------------------------------------------------------------------------------------------------------


def test_points_come_back_as_they_went_in(client: QdrantClient, name: str) -> None:
    """Payload of every JSON type, both kinds of id, vectors to float32 precision; the same id again replaces."""
    payload = {"t": "ü\n", "i": -3, "f": 1.5, "b": True, "n": None, "l": [1, "a", {"x": []}], "big": 2**53 + 1}
    ident = str(uuid.uuid4())
    points = [models.PointStruct(id=point, vector=vector_of(1), payload=payload) for point in (7, ident)]
    result = client.upsert(name, points, wait=True)
    assert result.status == models.UpdateStatus.COMPLETED
    records = {record.id: record for record in client.retrieve(name, [7, ident, 8], with_vectors=True)}
    assert set(records) == {7, ident}
    for record in records.values():
        assert record.payload == payload
        assert isinstance(record.payload["b"], bool)
        np.testing.assert_allclose(record.vector, vector_of(1), atol=1e-6)
    client.upsert(name, [models.PointStruct(id=7, vector=vector_of(2), payload={"only": 1})])
    assert client.retrieve(name, [7])[0].payload == {"only": 1}


def test_cosine_vectors_are_stored_normalised(client: QdrantClient, name: str) -> None:
    """What comes back has length one."""
    client.upsert(name, [models.PointStruct(id=1, vector=[3.0, 4.0] + [0.0] * 6)])
    vector = client.retrieve(name, [1], with_vectors=True)[0].vector
    np.testing.assert_allclose(vector, [0.6, 0.8] + [0.0] * 6, atol=1e-6)


def test_wait_decides_between_completed_and_acknowledged(http: httpx.Client, name: str) -> None:
    """The default is not to wait."""
    path, body = f"/collections/{name}/points", {"points": [{"id": 1, "vector": vector_of(1)}]}
    assert http.put(path, json=body).json()["result"]["status"] == "acknowledged"
    answer = http.put(path, params={"wait": "true"}, json=body).json()
    assert answer["result"]["status"] == "completed"
    assert isinstance(answer["result"]["operation_id"], int)
    assert answer["status"] == "ok"
    assert error_of(http.put(path, params={"wait": "maybe"}, json=body))[0] == 400


def test_a_column_batch_and_the_modes_of_an_upsert(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """insert_only keeps what is there, update_only adds nothing, update_filter guards only existing points."""
    batch = models.Batch(ids=[1, 2], vectors=[vector_of(1), vector_of(2)], payloads=[{"v": 1}, {"v": 1}])
    client.upsert(name, batch)
    path = f"/collections/{name}/points"

    def upsert(extra: dict[str, Any], value: int, *ids: int) -> None:
        points = [{"id": point, "vector": vector_of(point), "payload": {"v": value}} for point in ids]
        response = http.put(path, params={"wait": "true"}, json={"points": points, **extra})
        assert response.status_code == 200, response.text

    upsert({"update_mode": "insert_only"}, 2, 2, 3)
    upsert({"update_mode": "update_only"}, 3, 3, 4)
    upsert({"update_filter": {"must": [{"key": "v", "match": {"value": 99}}]}}, 4, 1, 5)
    values = {record.id: record.payload["v"] for record in client.scroll(name)[0]}
    assert values == {1: 1, 2: 1, 3: 3, 5: 4}
    wrong = {"batch": {"ids": [1, 2], "vectors": [vector_of(1)]}}
    assert error_of(http.put(path, json=wrong)) == (
        422,
        "Validation error in JSON body: [batch.batch: number of ids and vectors must be equal (2 != 1)]",
    )


@pytest.mark.parametrize("wait", ["true", "false"])
def test_a_vector_of_another_dimension_refuses_the_whole_request(http: httpx.Client, name: str, wait: str) -> None:
    """Also when nobody waits, and also for the good points beside it."""
    points = [{"id": 1, "vector": vector_of(1)}, {"id": 2, "vector": [1.0, 2.0]}]
    refused = http.put(f"/collections/{name}/points", params={"wait": wait}, json={"points": points})
    assert error_of(refused) == (400, "Wrong input: Vector dimension error: expected dim: 8, got 2")
    assert http.post(f"/collections/{name}/points/count", json={}).json()["result"] == {"count": 0}
    query = http.post(f"/collections/{name}/points/query", json={"query": [1.0]})
    assert error_of(query) == (400, "Wrong input: Vector dimension error: expected dim: 8, got 1")


def test_malformed_bodies(http: httpx.Client, name: str) -> None:
    """400 for what cannot be read, 422 for values out of range; nothing is applied."""
    path = f"/collections/{name}/points"
    good = {"id": 1, "vector": vector_of(1)}
    for body in (b"{", b"[]", b'{"points": [{"id": 1}]}'):
        status, text = error_of(http.put(path, content=body, headers={"content-type": "application/json"}))
        assert status == 400
        assert text.startswith("Format error in JSON body: ")
    for point_id in (-1, "x", 1.5, True):
        status, text = error_of(http.put(path, json={"points": [good, {**good, "id": point_id}]}))
        assert status == 400
        assert text.startswith("Format error in JSON body: ")
        assert "is not a valid point ID, valid values are either an unsigned integer or a UUID" in text
    for body in ({"vector": "abc"}, {"vector": ["a"] * DIMENSION}, {"payload": [1]}):
        assert error_of(http.put(path, json={"points": [{**good, **body}]}))[0] == 400
    assert error_of(http.put(path, json={"points": [{**good, "vector": []}]}))[0] == 422
    assert error_of(http.post(f"{path}/scroll", json={"limit": 0})) == (
        422,
        "Validation error in JSON body: [scroll_request.limit: value 0 invalid, must be 1 or larger]",
    )
    assert error_of(http.put(path, json={"points": []})) == (400, "Bad request: Empty update request")
    assert error_of(http.post(f"{path}/delete", json={"points": []})) == (400, "Bad request: Empty update request")
    assert http.post(f"{path}/count", json={}).json()["result"]["count"] == 0


def test_a_body_over_32_mb_is_refused(http: httpx.Client, name: str) -> None:
    """With 400, not 413; the text names both sizes."""
    point = {"id": 1, "vector": vector_of(1), "payload": {"text": "x" * (32 * 1024 * 1024)}}
    try:
        refused = http.put(f"/collections/{name}/points", json={"points": [point]})
    except httpx.TransportError:
        assert os.environ.get("INGEST_QDRANT__URL"), "only the real server may hang up while the body is being sent"
        return
    status, text = error_of(refused)
    assert status == 400
    assert text.startswith("JSON payload (")
    assert text.endswith(" bytes) is larger than allowed (limit: 33554432 bytes).")


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


def test_one_point_by_its_path(http: httpx.Client, name: str) -> None:
    """Whole, with its vector; none is 404; no id is 400."""
    path = f"/collections/{name}/points"
    http.put(path, params={"wait": "true"}, json={"points": [{"id": 4, "vector": vector_of(4), "payload": {"a": 1}}]})
    point = http.get(f"{path}/4").json()["result"]
    assert (point["id"], point["payload"], len(point["vector"])) == (4, {"a": 1}, DIMENSION)
    assert error_of(http.get(f"{path}/5")) == (404, "Not found: Point with id 5 does not exists!")
    assert error_of(http.get(f"{path}/xyz")) == (400, 'Wrong input: Can not recognize "xyz" as point id')


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


def test_points_are_deleted_by_id_and_by_filter(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """Missing ids are no error; neither ids nor filter is."""
    client.upsert(name, points_of(10))
    client.delete(name, [0, 1, 777])
    even = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(gte=5))])
    client.delete(name, models.FilterSelector(filter=even))
    assert [record.id for record in client.scroll(name)[0]] == [2, 3, 4]
    assert error_of(http.post(f"/collections/{name}/points/delete", json={}))[0] == 400


def test_payloads_are_set_overwritten_and_removed(client: QdrantClient, name: str) -> None:
    """By ids, by filter and under a key."""
    client.upsert(name, points_of(3))

    def payload(point: int) -> dict[str, Any] | None:
        return client.retrieve(name, [point])[0].payload

    client.set_payload(name, {"extra": "x"}, points=[1])
    assert payload(1) == {"number": 1, "even": False, "extra": "x"}
    client.set_payload(name, {"deep": 1}, points=[1], key="nested.here")
    assert payload(1)["nested"] == {"here": {"deep": 1}}
    client.overwrite_payload(name, {"new": True}, points=[1])
    assert payload(1) == {"new": True}
    second = models.Filter(must=[models.HasIdCondition(has_id=[2])])
    client.delete_payload(name, ["even"], points=models.FilterSelector(filter=second))
    assert payload(2) == {"number": 2}
    client.clear_payload(name, [2])
    assert payload(2) == {}


def test_an_update_of_a_missing_point_is_404_if_one_waits(http: httpx.Client, name: str) -> None:
    """Points named beside it are updated all the same."""
    path = f"/collections/{name}/points"
    http.put(path, params={"wait": "true"}, json={"points": [{"id": 1, "vector": vector_of(1)}]})
    body = {"payload": {"a": 1}, "points": [1, 99]}
    refused = http.post(f"{path}/payload", params={"wait": "true"}, json=body)
    assert error_of(refused) == (404, "Not found: No point with id 99 found")
    assert http.get(f"{path}/1").json()["result"]["payload"] == {"a": 1}
    assert http.post(f"{path}/payload", json=body).json()["result"]["status"] == "acknowledged"
    vectors = {"points": [{"id": 99, "vector": vector_of(1)}]}
    refused = http.put(f"{path}/vectors", params={"wait": "true"}, json=vectors)
    assert error_of(refused) == (404, "Not found: No point with id 99 found")
    assert error_of(http.post(f"{path}/payload", json={"payload": {}})) == (
        400,
        "Format error in JSON body: Either list of point ids or filter must be provided",
    )


def test_vectors_are_updated_alone(client: QdrantClient, name: str) -> None:
    """The payload stays."""
    client.upsert(name, points_of(2))
    client.update_vectors(name, [models.PointVectors(id=1, vector=vector_of(50))])
    record = client.retrieve(name, [1], with_vectors=True)[0]
    np.testing.assert_allclose(record.vector, vector_of(50), atol=1e-6)
    assert record.payload == {"number": 1, "even": False}


def test_a_batch_of_updates_is_applied_in_order(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """Each sees what the one before did; one that cannot be read refuses them all."""
    results = client.batch_update_points(
        name,
        [
            models.UpsertOperation(upsert=models.PointsList(points=points_of(4))),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"set": 1}, points=[1])),
            models.DeleteOperation(delete=models.PointIdsList(points=[0])),
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"o": 1}, points=[2])),
            models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[3])),
        ],
    )
    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 5
    payloads = {record.id: record.payload for record in client.scroll(name)[0]}
    assert payloads == {1: {"number": 1, "even": False, "set": 1}, 2: {"o": 1}, 3: {}}
    operations = [{"delete": {"points": [1]}}, {"delete": {"points": [-1]}}]
    assert http.post(f"/collections/{name}/points/batch", json={"operations": operations}).status_code == 400
    assert client.count(name).count == 3


def test_payload_indexes_are_made_shown_and_dropped(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """By type and with parameters; the same again is fine; filters use them and give the same answers."""
    client.upsert(name, points_of(6))
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    client.create_payload_index(name, "object_id", keyword)
    schema = client.get_collection(name).payload_schema
    assert {field: index.data_type.value for field, index in schema.items()} == {
        "number": "integer",
        "object_id": "keyword",
    }
    assert schema["number"].points == 6
    assert schema["object_id"].params.is_tenant
    low = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(lt=2))])
    assert client.count(name, low).count == 2
    client.delete_payload_index(name, "number")
    assert set(client.get_collection(name).payload_schema) == {"object_id"}
    path = f"/collections/{name}/index"
    assert error_of(http.put(path, json={"field_name": "x"})) == (
        400,
        "Bad request: Can't auto-detect field type, please specify `field_schema` in the request",
    )
    assert error_of(http.put(path, json={"field_name": "x", "field_schema": "strange"}))[0] == 400


def test_every_path_of_a_missing_collection_is_404(http: httpx.Client) -> None:
    """With the same text, whatever is asked."""
    expected = (404, "Not found: Collection `nope` doesn't exist!")
    path = "/collections/nope/points"
    one = {"points": [{"id": 1, "vector": [1.0]}]}
    assert error_of(http.put(path, json=one)) == expected
    assert error_of(http.post(path, json={"ids": [1]})) == expected
    assert error_of(http.post(f"{path}/scroll", json={})) == expected
    assert error_of(http.post(f"{path}/count", json={})) == expected
    assert error_of(http.post(f"{path}/query", json={"query": [1.0]})) == expected
    assert error_of(http.post(f"{path}/delete", json={"points": [1]})) == expected
    assert error_of(http.post(f"{path}/payload", json={"payload": {}, "points": [1]})) == expected
    index = {"field_name": "a", "field_schema": "keyword"}
    assert error_of(http.put("/collections/nope/index", json=index)) == expected
    assert error_of(http.patch("/collections/nope", json={})) == expected
    assert http.get("/collections/nope/exists").json()["result"] == {"exists": False}


def test_many_writers_at_once_lose_nothing(server: Server, client: QdrantClient, name: str) -> None:
    """Eight threads, disjoint ids, one collection."""

    def write(writer: int) -> None:
        with server.http() as session:
            for batch in range(5):
                ids = range(writer * 1000 + batch * 20, writer * 1000 + batch * 20 + 20)
                points = [{"id": point, "vector": vector_of(point), "payload": {"w": writer}} for point in ids]
                answer = session.put(f"/collections/{name}/points?wait=true", json={"points": points})
                assert answer.json()["result"]["status"] == "completed"

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.count(name).count == 8 * 100


# --- the stand-in's own promises -------------------------------------------------------------------------------------


def fill(server: Server) -> None:
    """Make one of everything that must outlive the process."""
    with server.http() as session:
        vectors = {"size": DIMENSION, "distance": "Cosine"}
        session.put("/collections/kept", json={"vectors": vectors, "metadata": {"m": 1}}).raise_for_status()
        session.put("/collections/gone", json={"vectors": vectors}).raise_for_status()
        keyword = {"type": "keyword", "is_tenant": True}
        for field, schema in (("word", keyword), ("number", "integer"), ("dropped", "integer")):
            body = {"field_name": field, "field_schema": schema}
            session.put("/collections/kept/index?wait=true", json=body).raise_for_status()
        points = [{"id": n, "vector": vector_of(n), "payload": {"number": n, "word": f"w{n}"}} for n in range(300)]
        session.put("/collections/kept/points?wait=true", json={"points": points}).raise_for_status()
        under = {"filter": {"must": [{"key": "number", "range": {"lt": 100}}]}}
        session.post("/collections/kept/points/delete?wait=true", json=under).raise_for_status()
        session.post("/collections/kept/points/payload?wait=true", json={"payload": {"s": 1}, "points": [200]})
        session.delete("/collections/kept/index/dropped?wait=true").raise_for_status()
        alias = {"create_alias": {"collection_name": "kept", "alias_name": "other"}}
        session.post("/collections/aliases", json={"actions": [alias]}).raise_for_status()
        session.delete("/collections/gone").raise_for_status()


def check_kept(server: Server) -> None:
    client = server.client()
    assert [item.name for item in client.get_collections().collections] == ["kept"]
    assert client.count("other").count == 200
    info = client.get_collection("other")
    assert info.config.metadata == {"m": 1}
    assert set(info.payload_schema) == {"word", "number"}
    assert info.payload_schema["word"].params.is_tenant
    record = client.retrieve("kept", [200], with_vectors=True)[0]
    assert record.payload == {"number": 200, "word": "w200", "s": 1}
    np.testing.assert_allclose(record.vector, vector_of(200), atol=1e-6)
    assert client.query_points("kept", vector_of(150), limit=1).points[0].id == 150
    word = models.Filter(must=[models.FieldCondition(key="word", match=models.MatchValue(value="w150"))])
    assert [point.id for point in client.scroll("kept", word)[0]] == [150]
    client.close()


def test_everything_answered_survives_the_process(tmp_path: Path) -> None:
    """Killed after the last answer, then ended by each signal (and exit code 0): the next one finds all of it."""
    server = start_stand_in(tmp_path)
    fill(server)
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGINT, 0)):
        assert end_stand_in(server, number) == code
        server = start_stand_in(tmp_path)
        check_kept(server)
    assert end_stand_in(server, signal.SIGTERM) == 0


def test_a_data_directory_has_one_process(tmp_path: Path) -> None:
    """A second one on the same directory says so and does not start."""
    first = start_stand_in(tmp_path)
    with pytest.raises(AssertionError, match="in use by another process"):
        start_stand_in(tmp_path)
    assert end_stand_in(first, signal.SIGTERM) == 0
